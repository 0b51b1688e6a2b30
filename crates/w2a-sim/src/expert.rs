//! The scripted expert, whose phases take the same control steps in every episode of a task.
//!
//! Chunk `t` of imagination is compared with chunk `t` of execution, so demonstrations must be synchronous: approach,
//! descend, close and so on begin at fixed steps, whatever the distances. The step budget is what bounds the speed.

use rand_chacha::ChaCha8Rng;
use rapier3d::math::Vector;
use w2a_data::stream;

use crate::rng::normal;
use crate::shapes::BLOCK_HALF;
use crate::tasks::Goal;
use crate::world::{METRES_PER_STEP, PrivilegedState, RADIANS_PER_STEP};
use crate::{ACTION_WIDTH, Scene};

/// Height of the tool centre while something is carried, metres.
const CARRY: f32 = 0.115;
/// Height of the tool centre above a thing to be grasped, and after letting go.
const HOVER: f32 = 0.12;

/// Standard deviations of the motion noise.
const WAYPOINT_METRES: f32 = 0.0025;
const WAYPOINT_RADIANS: f32 = 0.03;
const ACTION: f32 = 0.025;

/// Yaw at which the fingers slide along y.
const ACROSS: f32 = std::f32::consts::FRAC_PI_2;

/// Where the tool centre goes in a phase; evaluated when the phase begins.
#[derive(Clone, Copy, Debug)]
enum Aim {
    Stay,
    /// Over or onto a thing: offset from it in x and y, height above the table.
    At(&'static str, [f32; 2], f32),
    /// Straight up or down to a height.
    Height(f32),
    /// Along x.
    Along(f32),
    /// Along x until the drawer in front of the fingers is shut.
    Shut,
}

/// How the hand turns in a phase.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Keep,
    /// Along a thing.
    Along(&'static str),
    /// To a yaw.
    To(f32),
    By(f32),
}

#[derive(Clone, Copy, Debug)]
struct Phase {
    steps: usize,
    aim: Aim,
    turn: Turn,
    /// Gripper entry of the action.
    grip: f32,
}

fn phase(steps: usize, aim: Aim, turn: Turn, grip: f32) -> Phase {
    Phase { steps, aim, turn, grip }
}

/// Takes a thing from above and holds it: 24 steps.
fn grasp(name: &'static str, height: f32) -> [Phase; 3] {
    [
        phase(12, Aim::At(name, [0.0; 2], HOVER), Turn::Along(name), -1.0),
        phase(8, Aim::At(name, [0.0; 2], height), Turn::Along(name), -1.0),
        phase(4, Aim::Stay, Turn::Keep, 1.0),
    ]
}

/// Takes a block from the table and lets it go over a thing: 64 steps.
fn pick_and_place(block: &'static str, thing: &'static str, offset: [f32; 2], release: f32, yaw: f32) -> Vec<Phase> {
    let mut phases = grasp(block, BLOCK_HALF).to_vec();
    phases.extend([
        phase(4, Aim::Height(CARRY), Turn::Keep, 1.0),
        phase(16, Aim::At(thing, offset, CARRY), Turn::To(yaw), 1.0),
        phase(8, Aim::At(thing, offset, release), Turn::Keep, 1.0),
        phase(4, Aim::Stay, Turn::Keep, -1.0),
        phase(8, Aim::Height(HOVER + 0.02), Turn::Keep, -1.0),
    ]);
    phases
}

/// Pulls the drawer open by its handle: 64 steps.
fn open_drawer() -> [Phase; 7] {
    let height = 0.052;
    [
        // Beside the front panel there is no room for a finger: the hand turns to grasp the handle from its sides.
        phase(16, Aim::At("drawer", [0.0; 2], HOVER), Turn::To(ACROSS), -1.0),
        phase(8, Aim::At("drawer", [0.0; 2], height), Turn::To(ACROSS), -1.0),
        phase(4, Aim::Stay, Turn::Keep, 1.0),
        phase(16, Aim::Along(0.088), Turn::Keep, 1.0),
        phase(4, Aim::Stay, Turn::Keep, 1.0),
        phase(4, Aim::Stay, Turn::Keep, -1.0),
        phase(12, Aim::Height(HOVER + 0.02), Turn::Keep, -1.0),
    ]
}

/// Turns the knob: 64 steps.
fn turn_knob() -> Vec<Phase> {
    let mut phases = grasp("knob", 0.044).to_vec();
    phases.extend([
        phase(20, Aim::Stay, Turn::By(1.2), 1.0),
        phase(4, Aim::Stay, Turn::Keep, 1.0),
        phase(4, Aim::Stay, Turn::Keep, -1.0),
        phase(12, Aim::Height(HOVER + 0.02), Turn::Keep, -1.0),
    ]);
    phases
}

/// Shuts the drawer with closed fingers: 64 steps.
fn shut_drawer() -> [Phase; 6] {
    let before = [0.045, 0.0];
    [
        phase(16, Aim::At("drawer", before, HOVER), Turn::To(0.0), 1.0),
        phase(8, Aim::At("drawer", before, 0.050), Turn::Keep, 1.0),
        phase(20, Aim::Shut, Turn::Keep, 1.0),
        phase(4, Aim::Stay, Turn::Keep, 1.0),
        phase(4, Aim::Along(0.03), Turn::Keep, 1.0),
        phase(12, Aim::Height(HOVER + 0.02), Turn::Keep, -1.0),
    ]
}

fn program(goal: Goal) -> Vec<Phase> {
    match goal {
        Goal::Place(pairs) => {
            let basket = pairs.iter().filter(|(_, thing)| *thing == "basket").count();
            let mut phases = Vec::new();
            for (index, &(block, thing)) in pairs.iter().enumerate() {
                // Two blocks in one basket go to opposite corners: a dropped block may slide two centimetres.
                let side = 2.0 * index as f32 - 1.0;
                let offset = if basket > 1 { [0.026 * side, 0.034 * side] } else { [0.0; 2] };
                phases.extend(pick_and_place(block, thing, offset, release_height(thing), 0.0));
            }
            phases
        }
        Goal::OpenDrawer => open_drawer().to_vec(),
        Goal::TurnKnob => turn_knob(),
        Goal::StoreInDrawer(block) => {
            // The middle of the part of the tray that the cabinet does not cover, seen from the handle.
            let mut phases = pick_and_place(block, "drawer", [-0.076, 0.0], 0.066, ACROSS);
            phases.extend(shut_drawer());
            phases
        }
    }
}

/// Height at which a block is let go so that the opening fingers clear the rim, metres.
fn release_height(thing: &str) -> f32 {
    match thing {
        "plate" => 0.036,
        "bowl" => 0.058,
        _ => 0.072,
    }
}

/// A scripted expert for one episode.
pub struct Expert {
    phases: Vec<Phase>,
    rng: ChaCha8Rng,
    /// The running phase with its motion: index, step at which the motion starts and its ends.
    motion: Option<Motion>,
}

struct Motion {
    phase: usize,
    begin: usize,
    end: usize,
    from: (Vector, f32),
    to: (Vector, f32),
}

impl Expert {
    /// The expert for a scene; its motion noise is drawn from a stream named by the scene and `noise_seed`.
    pub fn new(scene: &Scene, noise_seed: u64) -> Self {
        let rng = stream(noise_seed, &format!("sim/expert/{scene}"));
        Self { phases: program(scene.definition().goal), rng, motion: None }
    }

    /// Control steps of the whole motion; equals [`crate::TaskInfo::demo_steps`].
    pub fn steps(&self) -> usize {
        self.phases.iter().map(|phase| phase.steps).sum()
    }

    /// The action at control step `step`, well within `[-1, 1]`.
    ///
    /// Steps are meant to be asked for in order; taking over in the middle of an episode is possible, the motion of
    /// the running phase then starts where the hand is. After the last step the hand stays and is open.
    pub fn action(&mut self, state: &PrivilegedState, step: usize) -> [f32; ACTION_WIDTH] {
        let Some((index, begin)) = self.phase_at(step) else {
            return [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0];
        };
        let phase = self.phases[index];
        if self.motion.as_ref().is_none_or(|motion| motion.phase != index) {
            self.motion = Some(self.plan(index, step, begin + phase.steps, state));
        }
        let (target, angles) = (Vector::from(state.target.0), state.target.1);
        let (wanted, yaw) = match &self.motion {
            Some(motion) => motion.at(step + 1),
            None => (target, angles[2]),
        };
        // The error of the target is what is corrected, so action noise does not add up.
        let shift = (wanted - target) / METRES_PER_STEP;
        let turn = [-angles[0], -angles[1], yaw - angles[2]].map(|angle| angle / RADIANS_PER_STEP);
        let mut noise = || ACTION * normal(&mut self.rng);
        let entries = [shift.x, shift.y, shift.z, turn[0], turn[1], turn[2]];
        let [x, y, z, roll, pitch, yaw] = entries.map(|value| (value + noise()).clamp(-1.0, 1.0));
        [x, y, z, roll, pitch, yaw, phase.grip]
    }

    /// Index and first step of the phase that `step` belongs to.
    fn phase_at(&self, step: usize) -> Option<(usize, usize)> {
        let mut begin = 0;
        for (index, phase) in self.phases.iter().enumerate() {
            if step < begin + phase.steps {
                return Some((index, begin));
            }
            begin += phase.steps;
        }
        None
    }

    fn plan(&mut self, index: usize, begin: usize, end: usize, state: &PrivilegedState) -> Motion {
        let phase = self.phases[index];
        let from = (Vector::from(state.target.0), state.target.1[2]);
        let thing = |name: &str| state.object(name).map(|(at, yaw)| (Vector::from(at), yaw));
        let mut point = match phase.aim {
            Aim::Stay => from.0,
            Aim::At(name, [x, y], height) => {
                thing(name).map_or(from.0, |(at, _)| Vector::new(at.x + x, at.y + y, height))
            }
            Aim::Height(height) => from.0.with_z(height),
            Aim::Along(x) => from.0 + Vector::X * x,
            Aim::Shut => {
                let open = state.drawer.unwrap_or(0.0);
                // Half the handle and half the finger lie between their centres; a little more, to meet the stop.
                thing("drawer").map_or(from.0, |(handle, _)| from.0.with_x(handle.x - open + 0.019 - 0.005))
            }
        };
        let mut yaw = match phase.turn {
            Turn::Keep => from.1,
            Turn::Along(name) => thing(name).map_or(from.1, |(_, yaw)| nearest_quarter(yaw)),
            Turn::To(yaw) => yaw,
            Turn::By(angle) => from.1 + angle,
        };
        if !matches!(phase.aim, Aim::Stay) {
            let mut jitter = || WAYPOINT_METRES * normal(&mut self.rng);
            // Height only upwards: a jitter must not press anything into the table.
            point += Vector::new(jitter(), jitter(), jitter().abs());
            yaw += WAYPOINT_RADIANS * normal(&mut self.rng);
        }
        Motion { phase: index, begin, end, from, to: (point, yaw) }
    }
}

impl Motion {
    /// Tool centre and yaw at a step, along a minimum-jerk course.
    fn at(&self, step: usize) -> (Vector, f32) {
        let t = (step - self.begin) as f32 / (self.end - self.begin) as f32;
        let share = t * t * t * (10.0 - 15.0 * t + 6.0 * t * t);
        (self.from.0.lerp(self.to.0, share), self.from.1 + (self.to.1 - self.from.1) * share)
    }
}

/// Blocks look the same after a quarter turn: the nearest to zero is the shortest way.
fn nearest_quarter(yaw: f32) -> f32 {
    let quarter = std::f32::consts::FRAC_PI_2;
    yaw - quarter * (yaw / quarter).round()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::suite_tasks;
    use crate::{Range, Split, Suite};

    #[test]
    fn programs_take_the_demonstrations_steps_in_whole_chunks() {
        for suite in Suite::TABLETOP {
            for (index, task) in suite_tasks(suite).iter().enumerate() {
                let scene = Scene::new(suite, index, Split::Train, Range::Full, 0).unwrap();
                let expert = Expert::new(&scene, 0);
                assert_eq!(expert.steps(), task.info.demo_steps, "{}", task.info.name);
                assert!(expert.phases.iter().all(|phase| phase.steps % 4 == 0), "{}", task.info.name);
            }
        }
    }
}
