//! Where a run was trained, and what that means for those it is served to: the names on the wire, images of other
//! sizes, and in LIBERO what lies between its clients' habits and the run's.

use std::sync::Arc;

use w2a_data::{Camera, Observation};
use w2a_nn::NnError;
use w2a_policy::Policy;
use w2a_serve::simulator::{Flip, Gripper, Settings};
use w2a_serve::{Bend, Ending, Layout, Place, Protocol, ServeError};
use w2a_sim::ACTION_NAMES;
use w2a_world::GridVideo;

use crate::{Config, PipelineError};

/// What clients of LIBERO do with its images and grippers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits {
    /// How they turn the simulator's images.
    pub flip: Flip,
    /// What their gripper command means.
    pub gripper: Gripper,
}

impl Habits {
    /// Those of the LIBERO client of openpi, or of GR00T.
    pub fn of(protocol: Protocol) -> Self {
        let Settings { flip, gripper, .. } = match protocol {
            Protocol::Groot => Settings::groot(),
            Protocol::Openpi => Settings::openpi(),
        };
        Self { flip, gripper }
    }
}

/// The same with images of any size: those of a run's own policy are brought to its size.
pub(super) fn with_any_images(mut layout: Layout) -> Layout {
    layout.cameras.iter_mut().for_each(|camera| camera.size = None);
    layout
}

/// Refuses a layout with other cameras, or with another state or action, than the run was trained with.
pub(super) fn check(config: &Config, served: &Layout, what: &str) -> Result<(), PipelineError> {
    let home = config.layout();
    let names = |layout: &Layout| layout.cameras.iter().map(|camera| camera.name.clone()).collect::<Vec<_>>();
    if names(&home) == names(served) && home.state == served.state && home.action == served.action {
        return Ok(());
    }
    Err(PipelineError::Config {
        key: "--env".into(),
        expected: format!("{} with {what}, whose run was trained there and knows no other robot", home.name),
        got: served.name.clone(),
    })
}

/// Refuses habits of clients where nobody asks about them.
pub(super) fn no_habits(got: &str) -> PipelineError {
    let expected = "neither, unless a run that was trained in LIBERO acts or bends";
    PipelineError::Config { key: "--flip or --gripper".into(), expected: expected.into(), got: got.into() }
}

/// Translates between clients and a run that was trained in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// Whether the rows, and the columns, of a client's images are in the other order.
    turned: (bool, bool),
    /// What the command means to a client, and in the run.
    grippers: (Gripper, Gripper),
    /// Side of the run's images.
    side: usize,
    /// Actions of the simulator in one of the run.
    stride: usize,
}

impl Interpreter {
    /// Between the clients of a server and a run. Those of LIBERO have habits of their own, those of the embedded
    /// benchmark its.
    pub fn of(config: &Config, protocol: Protocol, habits: Option<Habits>) -> Result<Self, PipelineError> {
        if !config.is_libero() {
            if habits.is_some() {
                return Err(no_habits("a run of the embedded benchmark"));
            }
            let (turned, grippers) = ((false, false), (Gripper::AsIs, Gripper::AsIs));
            return Ok(Self { turned, grippers, side: config.side(), stride: 1 });
        }
        let habits = habits.unwrap_or(Habits::of(protocol));
        let order = |flip: Flip| match flip {
            Flip::None => (false, false),
            Flip::Vertical => (true, false),
            Flip::Rotate180 => (true, true),
        };
        let (theirs, ours) = (order(habits.flip), order(config.env.libero.flip));
        let turned = (theirs.0 != ours.0, theirs.1 != ours.1);
        let grippers = (habits.gripper, config.env.libero.gripper);
        Ok(Self { turned, grippers, side: config.side(), stride: config.stride() })
    }

    /// What a run would see: square images of its size, standing as its demonstrations do.
    fn observation(self, seen: &Observation) -> Result<Observation, NnError> {
        let cameras = seen.cameras.iter().map(|camera| self.camera(camera)).collect::<Result<_, NnError>>()?;
        Ok(Observation { cameras, proprio: seen.proprio.clone() })
    }

    fn observations(self, seen: &[Observation]) -> Result<Vec<Observation>, NnError> {
        seen.iter().map(|seen| self.observation(seen)).collect()
    }

    fn camera(self, camera: &Camera) -> Result<Camera, NnError> {
        let Camera { name, height, width, rgb } = camera;
        if height != width || rgb.len() != height * width * 3 || rgb.is_empty() {
            return Err(NnError::Input {
                what: format!("image {name}"),
                expected: "one square image, as this run was trained with".into(),
                got: format!("{height}x{width} and {} bytes", rgb.len()),
            });
        }
        // As a run's own images are made, where that can be.
        let side = self.side;
        let small = match camera.reduced(height / side.max(1)).filter(|small| small.height == side) {
            Some(small) => small.rgb,
            None => {
                let video = GridVideo { height: *height, width: *width, rgb: rgb.clone() };
                video.resized(side, side)?.rgb
            }
        };
        Ok(Camera { name: name.clone(), height: side, width: side, rgb: self.turn(&small) })
    }

    fn turn(self, rgb: &[u8]) -> Vec<u8> {
        let row = |row: &[u8]| match self.turned.1 {
            true => row.chunks_exact(3).rev().flatten().copied().collect(),
            false => row.to_vec(),
        };
        let rows = rgb.chunks_exact((self.side * 3).max(1)).map(row);
        if self.turned.0 { rows.rev().flatten().collect() } else { rows.flatten().collect() }
    }

    /// Turns actions of a client into those of the run.
    fn inward(self, actions: &mut [f32]) {
        regrip(actions, self.grippers);
    }

    /// And back.
    fn outward(self, actions: &mut [f32]) {
        regrip(actions, (self.grippers.1, self.grippers.0));
    }
}

/// Turns the grippers of actions: GR00T's is 0 closed and 1 open, LIBERO's -1 opens and 1 closes.
fn regrip(actions: &mut [f32], (from, to): (Gripper, Gripper)) {
    let change = match (from, to) {
        (Gripper::Groot, Gripper::AsIs) => |open: f32| 1.0 - 2.0 * open,
        (Gripper::AsIs, Gripper::Groot) => |closing: f32| (1.0 - closing) / 2.0,
        _ => return,
    };
    let grippers = actions.chunks_exact_mut(ACTION_NAMES.len()).filter_map(<[f32]>::last_mut);
    grippers.for_each(|value| *value = change(*value));
}

/// A run's own policy for its clients.
pub(super) struct Abroad<P> {
    pub policy: P,
    pub interpreter: Interpreter,
}

impl<P: Policy> Policy for Abroad<P> {
    fn horizon(&self) -> usize {
        self.policy.horizon() * self.interpreter.stride
    }

    fn action_dim(&self) -> usize {
        self.policy.action_dim() / self.interpreter.stride
    }

    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        // An action of the run is so many of the simulator, one after the other: the values stay where they are.
        let mut chunks = self.policy.act(&self.interpreter.observations(observations)?, instructions)?;
        self.interpreter.outward(&mut chunks);
        Ok(chunks)
    }

    fn reset(&mut self) {
        self.policy.reset();
    }
}

/// What stage 2 trained, or trains, for clients of its run.
pub(super) struct BentAbroad {
    pub bend: Arc<dyn Bend>,
    pub interpreter: Interpreter,
}

impl Bend for BentAbroad {
    fn horizon(&self) -> usize {
        self.bend.horizon() * self.interpreter.stride
    }

    fn admit(&self, session: u64, instructions: &[&str]) -> Result<(), ServeError> {
        self.bend.admit(session, instructions)
    }

    fn bend(
        &self,
        places: &[Place],
        observations: &[Observation],
        instructions: &[String],
        base: &[f32],
    ) -> Result<Vec<f32>, NnError> {
        let mut base = base.to_vec();
        self.interpreter.inward(&mut base);
        let seen = self.interpreter.observations(observations)?;
        let mut bent = self.bend.bend(places, &seen, instructions, &base)?;
        self.interpreter.outward(&mut bent);
        Ok(bent)
    }

    fn settle(&self, session: u64) {
        self.bend.settle(session);
    }

    fn end(&self, session: u64, ending: Ending) {
        self.bend.end(session, ending);
    }

    fn stop(&self) {
        self.bend.stop();
    }

    fn metrics(&self) -> String {
        self.bend.metrics()
    }

    fn status(&self) -> Option<String> {
        self.bend.status()
    }

    fn roll_back(&self, to: u64) -> Result<String, ServeError> {
        self.bend.roll_back(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EnvKind, Profile};

    fn interpreter(habits: Habits) -> Interpreter {
        let mut config = Config::profile(Profile::Smoke);
        config.env.kind = EnvKind::Libero;
        Interpreter::of(&config, Protocol::Groot, Some(habits)).unwrap()
    }

    /// An image whose pixels say their row and column, on a grid of 64.
    fn image(side: usize) -> Camera {
        let grid = |at: usize| (at * 64 / side) as u8;
        let rgb = (0..side * side).flat_map(|at| [grid(at / side), grid(at % side), 9]).collect();
        Camera { name: "image".into(), height: side, width: side, rgb }
    }

    #[test]
    fn images_are_brought_to_the_runs_size_and_stand_as_its_demonstrations_do() {
        let openpi = interpreter(Habits::of(Protocol::Openpi));
        // Both clients turn by 180 degrees and a run's demonstrations are upside down only: columns change places.
        for side in [64, 128, 256] {
            let seen = openpi.camera(&image(side)).unwrap();
            assert_eq!((seen.height, seen.width), (64, 64));
            assert_eq!(seen.rgb[..6], [0, 63, 9, 0, 62, 9]);
            assert_eq!(seen.rgb[63 * 64 * 3..][..3], [63, 63, 9]);
        }
        let seen = openpi.camera(&image(224)).unwrap();
        assert!(seen.rgb[1] >= 62 && seen.rgb[63 * 3 + 1] <= 1, "{:?}", &seen.rgb[..6]);
        let raw = interpreter(Habits { flip: Flip::None, gripper: Gripper::AsIs });
        assert_eq!(raw.camera(&image(64)).unwrap().rgb[..3], [63, 0, 9]);
        let error = raw.camera(&Camera { width: 128, ..image(64) }).unwrap_err().to_string();
        assert!(error.contains("image image") && error.contains("one square image"), "{error}");
    }

    #[test]
    fn the_embedded_benchmark_speaks_its_own_language() {
        let config = Config::profile(Profile::Smoke);
        let tabletop = Interpreter::of(&config, Protocol::Groot, None).unwrap();
        assert_eq!(tabletop.camera(&image(64)).unwrap(), image(64));
        assert_eq!(tabletop.camera(&image(128)).unwrap(), image(64));
        let mut actions = vec![0.25; 7];
        tabletop.inward(&mut actions);
        assert_eq!(actions, [0.25; 7]);
        let error = Interpreter::of(&config, Protocol::Groot, Some(Habits::of(Protocol::Openpi))).unwrap_err();
        assert!(error.is_users_mistake() && error.to_string().contains("--flip or --gripper"), "{error}");
    }

    #[test]
    fn grippers_are_translated_there_and_back() {
        let mut actions = vec![0.25; 14];
        (actions[6], actions[13]) = (0.0, 1.0);
        let groot = interpreter(Habits::of(Protocol::Groot));
        groot.inward(&mut actions);
        assert_eq!((actions[6], actions[13], actions[5]), (1.0, -1.0, 0.25));
        groot.outward(&mut actions);
        assert_eq!((actions[6], actions[13]), (0.0, 1.0));
        interpreter(Habits::of(Protocol::Openpi)).inward(&mut actions);
        assert_eq!((actions[6], actions[13]), (0.0, 1.0));
    }

    #[test]
    fn a_run_is_served_where_it_was_trained_and_nowhere_else() {
        let tabletop = Config::profile(Profile::Smoke);
        let libero =
            Config { env: crate::EnvSection { kind: EnvKind::Libero, ..tabletop.env.clone() }, ..tabletop.clone() };
        check(&tabletop, &Layout::tabletop(), "--learn").unwrap();
        check(&libero, &Layout::libero(), "--learn").unwrap();
        // A checkpoint's layout has the embodiment's name, and is the same otherwise.
        check(&libero, &Layout { name: "libero_panda".into(), ..Layout::libero() }, "--learn").unwrap();
        for (config, layout, home) in [
            (&tabletop, Layout::libero(), "tabletop"),
            (&libero, Layout::tabletop(), "libero"),
            (&libero, Layout::robocasa(), "libero"),
        ] {
            let error = check(config, &layout, "--learn").unwrap_err().to_string();
            assert!(error.contains(&format!("{home} with --learn")) && error.contains(&layout.name), "{error}");
        }
    }
}
