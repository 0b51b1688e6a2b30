//! How simulators are set up and how long an episode may last.

use serde::{Deserialize, Serialize};

use crate::codec::Value;

/// What is done to LIBERO's pictures, which stand on their heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flip {
    /// Nothing.
    None,
    /// Turned by 180 degrees, as openpi and GR00T do; left and right change places.
    #[serde(rename = "rotate_180")]
    Rotate180,
    /// Rows in the other order.
    Vertical,
}

/// Where an episode starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitialStates {
    /// From the benchmark's fixed states, the trial's number saying which.
    Fixed,
    /// From the simulator's own draw, seeded with the trial's number.
    Random,
}

/// What the policy's gripper command means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gripper {
    /// LIBERO's own: -1 opens, 1 closes.
    AsIs,
    /// GR00T's: 0 closes, 1 opens; it becomes a sign.
    Groot,
}

/// Everything about LIBERO that results depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Side of the rendered images in pixels.
    pub render: u32,
    /// Side to which they are brought (bilinear); 0 for none.
    pub resize: u32,
    /// What is done to them.
    pub flip: Flip,
    /// Where episodes start.
    pub initial_states: InitialStates,
    /// Steps with an open gripper before the policy sees anything: objects start in the air.
    pub settle_steps: u32,
    /// robosuite's controller.
    pub controller: String,
    /// What the gripper command means.
    pub gripper: Gripper,
    /// Seed of the simulator.
    pub seed: u32,
    /// Whether images come from the simulator's own sensors, which draw at every step and show how it began; otherwise
    /// they are drawn where somebody looks, and show how the last step ended.
    #[serde(default = "yes")]
    pub sensors: bool,
    /// Whether every episode builds the simulator anew, as LIBERO does, or puts everything back into place.
    #[serde(default = "yes")]
    pub rebuild: bool,
    /// Without sensors: corners of meshes that are only looked at lie on a grid of so many millimetres; 0 for as they
    /// are.
    #[serde(default)]
    pub mesh_cell_mm: u32,
    /// Without sensors: samples of a pixel; 0 for one, 4 is MuJoCo's own choice.
    #[serde(default = "mujoco_samples")]
    pub samples: u32,
    /// Whether the arm starts with robosuite's noise, as in the benchmark's fixed states, where the scene is a draw;
    /// LIBERO's own draws always start it in one pose.
    #[serde(default)]
    pub arm_noise: bool,
    /// Actions of a chunk that are carried out before the policy is asked again.
    pub replan: usize,
    /// Control steps of an episode, by suite.
    pub max_steps: Vec<(String, u32)>,
}

fn yes() -> bool {
    true
}

pub(super) fn mujoco_samples() -> u32 {
    4
}

impl Settings {
    /// Control steps of an episode of a suite, if it is known.
    pub fn steps(&self, suite: &str) -> Option<u32> {
        self.max_steps.iter().find(|(name, _)| name == suite).map(|(_, steps)| *steps)
    }

    /// What a worker has to know of them.
    pub(super) fn message(&self) -> Value<'static> {
        told(
            self,
            &[
                "render",
                "resize",
                "flip",
                "initial_states",
                "settle_steps",
                "controller",
                "gripper",
                "seed",
                "sensors",
                "rebuild",
                "mesh_cell_mm",
                "samples",
                "arm_noise",
            ],
        )
    }
}

/// Everything about RoboCasa or SimplerEnv that results depend on, besides what GR00T's wrappers fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GymSettings {
    /// The suite; of SimplerEnv it says which robot.
    pub suite: String,
    /// Rows of the images.
    pub height: u32,
    /// Columns of the images.
    pub width: u32,
    /// Where episodes start: drawn by the simulator, seeded with [`Self::seed`] and the trial's number.
    pub initial_states: InitialStates,
    /// Steps with an action of zeros before the policy sees anything.
    pub settle_steps: u32,
    /// Seed of the simulator in the first trial.
    pub seed: u32,
    /// Actions of a chunk that are carried out before the policy is asked again.
    pub replan: usize,
    /// Control steps of an episode.
    pub max_steps: u32,
}

/// Settings of one of the simulators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EvalSettings {
    /// LIBERO's.
    Libero(Settings),
    /// RoboCasa's or SimplerEnv's.
    Gym(GymSettings),
}

impl EvalSettings {
    /// Actions of a chunk that are carried out before the policy is asked again.
    pub fn replan(&self) -> usize {
        match self {
            Self::Libero(settings) => settings.replan,
            Self::Gym(settings) => settings.replan,
        }
    }

    /// Control steps of an episode of a suite, if it is known.
    pub fn steps(&self, suite: &str) -> Option<u32> {
        match self {
            Self::Libero(settings) => settings.steps(suite),
            Self::Gym(settings) => (settings.suite == suite).then_some(settings.max_steps),
        }
    }

    /// What a worker has to know of them.
    pub(super) fn message(&self) -> Value<'static> {
        match self {
            Self::Libero(settings) => settings.message(),
            Self::Gym(settings) => told(settings, &["suite", "height", "width", "settle_steps", "seed"]),
        }
    }
}

/// The message with the settings of these names.
fn told(settings: &impl Serialize, names: &[&'static str]) -> Value<'static> {
    let json = serde_json::to_value(settings).unwrap_or_default();
    let part = |name: &&'static str| {
        let value = match json.get(name) {
            Some(serde_json::Value::String(text)) => Value::Text(text.clone().into()),
            Some(serde_json::Value::Bool(is)) => Value::Int(i64::from(*is)),
            other => Value::Int(other.and_then(serde_json::Value::as_i64).unwrap_or_default()),
        };
        (*name, value)
    };
    Value::map([("settings", Value::map(names.iter().map(part)))])
}
