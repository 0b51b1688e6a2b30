//! LIBERO in worker processes as an environment like any other: scenes by name, actions in, observations out.

use std::collections::BTreeMap;

use w2a_data::{Camera, Observation};
use w2a_sim::{ACTION_NAMES, CameraSpec, Environment, EnvironmentSpec, Scene, SimError, StepOutcome};

use super::evaluate::{MAX_ATTEMPTS, order};
use super::process::{Command, Worker};
use super::{Settings, SimulatorError};
use crate::codec::{Dialect, Value, decode};

/// Actions of the simulator a second.
const SIMULATOR_HZ: u32 = 20;

/// How episodes run in workers.
#[derive(Clone, Debug)]
pub struct WorkerSetup {
    /// How to start workers.
    pub command: Command,
    /// Processes, each with one environment: the most that run side by side.
    pub workers: usize,
    /// How the simulator is set up; `resize` and the protocol's `replan` and `max_steps` count for nothing here.
    pub settings: Settings,
    /// Actions of the simulator that are one action here: written one after the other, never averaged.
    pub stride: usize,
    /// Side of the images in pixels; a divisor of the rendered ones, whose pixels are averaged.
    pub side: usize,
}

/// Environments in worker processes, one in each.
///
/// A worker that dies, hangs or raises is replaced, and its episode is run again from its scene with the actions that
/// were carried out before: nobody above notices. An episode whose worker is lost three times ends the run with an
/// error, for a policy must not be blamed for it.
pub struct WorkerEnvironment {
    setup: WorkerSetup,
    spec: EnvironmentSpec,
    lanes: Vec<Lane>,
    /// Environments of the batch: the first ones.
    batch: usize,
    versions: BTreeMap<String, String>,
}

/// A worker and the episode in it.
#[derive(Default)]
struct Lane {
    worker: Option<Worker>,
    scene: Option<Scene>,
    /// What the episode's environment was told to do so far, in its own actions.
    done: Vec<f32>,
    last: Option<StepOutcome>,
    /// The images that were drawn last: what one that is dismissed goes on to show.
    drawn: Vec<Camera>,
    is_dismissed: bool,
    attempts: u32,
}

impl WorkerEnvironment {
    /// Workers are started when they are first needed.
    ///
    /// # Errors
    /// [`SimulatorError::Answer`] if the rendered images cannot be brought to the side of the shown ones.
    pub fn new(setup: WorkerSetup) -> Result<Self, SimulatorError> {
        let render = setup.settings.render as usize;
        if setup.side == 0 || !render.is_multiple_of(setup.side) || setup.stride == 0 || setup.workers == 0 {
            return Err(SimulatorError::Answer {
                expected: "a rendered side that is a multiple of the shown one, a stride and workers",
                got: format!("{render}, {}, {} and {}", setup.side, setup.stride, setup.workers),
            });
        }
        let camera = |name: &str| CameraSpec { name: name.to_owned(), height: setup.side, width: setup.side };
        let state = ["x", "y", "z", "roll", "pitch", "yaw", "gripper_left", "gripper_right"];
        let action = (0..setup.stride).flat_map(|step| ACTION_NAMES.iter().map(move |name| format!("{name}_{step}")));
        let spec = EnvironmentSpec {
            cameras: ["image", "wrist_image"].map(camera).to_vec(),
            proprio: state.map(str::to_owned).to_vec(),
            action: action.collect(),
            control_hz: SIMULATOR_HZ / setup.stride as u32,
        };
        let lanes = (0..setup.workers).map(|_| Lane::default()).collect();
        Ok(Self { setup, spec, lanes, batch: 0, versions: BTreeMap::new() })
    }

    /// Versions of the simulator's packages, and what its assets say of themselves; empty before the first reset.
    pub fn versions(&self) -> &BTreeMap<String, String> {
        &self.versions
    }

    fn advance(&mut self, actions: &[f32], seeing: bool) -> Result<Vec<StepOutcome>, SimError> {
        let (batch, width) = (self.batch, self.spec.action.len());
        if actions.len() != batch * width {
            let expected = batch * width;
            return Err(SimError::ActionWidth { batch, got: actions.len(), expected, width });
        }
        let lanes = || self.lanes.iter().zip(actions.chunks_exact(width)).enumerate();
        for (environment, (lane, row)) in lanes() {
            let bad = row.iter().zip(ACTION_NAMES.iter().cycle()).find(|(value, _)| !value.is_finite());
            if let Some((&value, &entry)) = bad {
                let scene = lane.scene.map(|scene| scene.to_string()).unwrap_or_default();
                return Err(SimError::ActionNotFinite { environment, scene, entry, value });
            }
        }
        // All are told before the first is heard, so that they work at the same time.
        for (lane, row) in self.lanes.iter_mut().zip(actions.chunks_exact(width)) {
            if !lane.is_dismissed {
                lane.done.extend_from_slice(row);
                lane.tell(&step(row, seeing));
            }
        }
        let mut outcomes = Vec::with_capacity(batch);
        for lane in self.lanes.iter_mut().take(batch) {
            if !lane.is_dismissed {
                let heard = lane.hear(seeing, self.setup.side);
                lane.last = Some(match heard {
                    Ok(outcome) => outcome,
                    Err(error) => lane.again(&self.setup, &error, seeing)?,
                });
            }
            let mut outcome = lane.last.clone();
            if let Some(outcome) = outcome.as_mut().filter(|_| lane.is_dismissed && seeing) {
                outcome.observation.cameras.clone_from(&lane.drawn);
            }
            outcomes.extend(outcome);
        }
        Ok(outcomes)
    }
}

impl Environment for WorkerEnvironment {
    fn spec(&self) -> &EnvironmentSpec {
        &self.spec
    }

    fn reset(&mut self, scenes: &[Scene]) -> Result<Vec<Observation>, SimError> {
        if scenes.len() > self.lanes.len() {
            let (environment, batch) = (scenes.len() - 1, self.lanes.len());
            return Err(SimError::NoEnvironment { environment, batch });
        }
        for scene in scenes {
            begin(scene)?;
        }
        self.batch = scenes.len();
        for (lane, scene) in self.lanes.iter_mut().zip(scenes) {
            *lane = Lane { worker: lane.worker.take(), scene: Some(*scene), ..Lane::default() };
        }
        // Starting takes as long for one as for all.
        let setup = &self.setup;
        std::thread::scope(|scope| {
            for lane in self.lanes.iter_mut().take(scenes.len()).filter(|lane| lane.worker.is_none()) {
                scope.spawn(|| lane.start(setup));
            }
        });
        for (lane, scene) in self.lanes.iter_mut().zip(scenes) {
            lane.tell(&begin(scene)?);
        }
        let mut observations = Vec::with_capacity(scenes.len());
        for lane in self.lanes.iter_mut().take(scenes.len()) {
            let outcome = match lane.hear(true, setup.side) {
                Ok(outcome) => outcome,
                Err(error) => lane.again(setup, &error, true)?,
            };
            observations.push(outcome.observation.clone());
            lane.last = Some(outcome);
            if let Some(worker) = &lane.worker {
                self.versions.clone_from(&worker.spec.versions);
            }
        }
        Ok(observations)
    }

    fn step(&mut self, actions: &[f32]) -> Result<Vec<StepOutcome>, SimError> {
        self.advance(actions, true)
    }

    fn step_unseen(&mut self, actions: &[f32]) -> Result<Vec<StepOutcome>, SimError> {
        self.advance(actions, false)
    }

    fn capacity(&self) -> usize {
        self.lanes.len()
    }

    fn dismiss(&mut self, index: usize) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.is_dismissed = true;
        }
    }
}

impl Lane {
    fn start(&mut self, setup: &WorkerSetup) {
        // Without one nothing is heard, and the next attempt says why.
        self.worker = Worker::start(&setup.command, 1, &setup.settings.message()).ok();
    }

    fn tell(&mut self, order: &Value<'static>) {
        let asked = Value::map([("orders", Value::List(vec![order.clone()]))]);
        if self.worker.as_mut().is_some_and(|worker| worker.tell(&asked).is_err()) {
            self.worker = None;
        }
    }

    /// What came of the last order.
    fn hear(&mut self, seen: bool, side: usize) -> Result<StepOutcome, SimulatorError> {
        let worker = self.worker.as_mut().ok_or_else(|| SimulatorError::lost("it is gone"))?;
        let wrong = |expected, got: &Value| SimulatorError::Answer { expected, got: got.describe() };
        let bytes = worker.hear()?;
        let answer = decode(&bytes, Dialect::Openpi).map_err(SimulatorError::lost)?;
        let one = match answer.get("answers") {
            Some(Value::List(answers)) => answers.first(),
            _ => None,
        };
        let one = one.ok_or_else(|| wrong("an answer", &answer))?;
        if let Some(Value::Text(reason)) = one.get("error") {
            return Err(SimulatorError::lost(reason));
        }
        let success = match (one.get("success"), one.get("instruction"), &self.scene) {
            (Some(Value::Bool(success)), None, _) => *success,
            (None, Some(Value::Text(words)), Some(scene)) if words == scene.task_info().instruction => false,
            _ => return Err(wrong("a success, or the scene's instruction", one)),
        };
        let state = worker.state(one)?;
        if !seen {
            return Ok(StepOutcome { observation: Observation { cameras: Vec::new(), proprio: state }, success });
        }
        let mut observation = worker.observation(0, state)?;
        let reduce = |camera: &Camera| camera.reduced(camera.height / side).filter(|small| small.height == side);
        let cameras: Option<Vec<Camera>> = observation.cameras.iter().map(reduce).collect();
        observation.cameras = cameras.ok_or_else(|| wrong("images of the rendered side", one))?;
        self.drawn.clone_from(&observation.cameras);
        Ok(StepOutcome { observation, success })
    }

    /// Runs the episode again up to here in a worker of its own, after `error`.
    fn again(&mut self, setup: &WorkerSetup, error: &SimulatorError, seeing: bool) -> Result<StepOutcome, SimError> {
        let mut reason = error.to_string();
        while self.attempts + 1 < MAX_ATTEMPTS {
            self.attempts += 1;
            // One that raised may be in any state.
            self.worker = None;
            match self.replay(setup, seeing) {
                Ok(outcome) => return Ok(outcome),
                Err(error) => reason = error.to_string(),
            }
        }
        self.worker = None;
        let scene = self.scene.map(|scene| scene.to_string()).unwrap_or_default();
        let log = setup.command.log.display();
        Err(SimError::Remote(format!(
            "the episode of scene {scene} could not be run, in {MAX_ATTEMPTS} attempts: {reason}; see {log}, and run \
             again with --resume"
        )))
    }

    fn replay(&mut self, setup: &WorkerSetup, seeing: bool) -> Result<StepOutcome, SimulatorError> {
        self.worker = Some(Worker::start(&setup.command, 1, &setup.settings.message())?);
        let scene = self.scene.ok_or_else(|| SimulatorError::lost("there is no episode"))?;
        self.tell(&begin(&scene).map_err(SimulatorError::lost)?);
        let mut outcome = self.hear(true, setup.side)?;
        let rows = self.done.chunks(ACTION_NAMES.len() * setup.stride).map(<[f32]>::to_vec);
        for row in rows.collect::<Vec<_>>() {
            self.tell(&step(&row, seeing));
            outcome = self.hear(seeing, setup.side)?;
        }
        Ok(outcome)
    }
}

/// The order to begin a scene.
fn begin(scene: &Scene) -> Result<Value<'static>, SimError> {
    let number = |number: usize| Value::Int(number as i64);
    let fixed = scene.range() == w2a_sim::Range::Init;
    if !fixed && scene.seed().is_none() {
        let (here, instead) = ("simulator behind the workers", "env.kind = \"tabletop\", or a scene of init or seed");
        return Err(SimError::Foreign { scene: scene.to_string(), here, instead });
    }
    let mut entries = vec![
        ("suite", Value::Text(scene.suite().name().into())),
        ("task", number(scene.task())),
        ("trial", number(scene.index() as usize)),
    ];
    entries.extend(scene.seed().map(|seed| ("seed", Value::Int(i64::from(seed)))));
    Ok(order(0, entries))
}

/// The order to carry out a row of actions.
fn step(row: &[f32], seeing: bool) -> Value<'static> {
    let action = |values: &[f32]| Value::List(values.iter().map(|value| Value::Float(f64::from(*value))).collect());
    let actions = row.chunks(ACTION_NAMES.len()).map(action).collect();
    order(0, [("actions", Value::List(actions)), ("seeing", Value::Bool(seeing))])
}
