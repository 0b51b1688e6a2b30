//! How LIBERO is set up and how long an episode may last, by the names of published evaluations.

use serde::{Deserialize, Serialize};

use crate::codec::Value;

/// The suites, each with ten tasks, but for `libero_90`.
pub const SUITES: [&str; 5] = ["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"];

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

/// Everything about the simulator that results depend on.
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
    /// Without sensors: corners of meshes that are only looked at lie on a grid of so many millimetres; 0 for as they are.
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

fn mujoco_samples() -> u32 {
    4
}

/// A published way to evaluate on LIBERO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalProtocol {
    /// openpi's `examples/libero/main.py`.
    LiberoOpenpi,
    /// GR00T N1.6's `rollout_policy.py` with `libero_sim`.
    LiberoGroot,
}

impl EvalProtocol {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::LiberoOpenpi, Self::LiberoGroot];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LiberoOpenpi => "libero-openpi",
            Self::LiberoGroot => "libero-groot",
        }
    }

    /// Trials of each task.
    pub fn trials(self) -> u32 {
        match self {
            Self::LiberoOpenpi => 50,
            // The README's example.
            Self::LiberoGroot => 10,
        }
    }

    /// Its settings.
    pub fn settings(self) -> Settings {
        let steps = |steps: [u32; 5]| SUITES.iter().zip(steps).map(|(suite, steps)| ((*suite).into(), steps)).collect();
        let settings = Settings {
            render: 256,
            resize: 224,
            flip: Flip::Rotate180,
            initial_states: InitialStates::Fixed,
            settle_steps: 10,
            controller: "OSC_POSE".into(),
            gripper: Gripper::AsIs,
            seed: 7,
            sensors: true,
            rebuild: true,
            mesh_cell_mm: 0,
            samples: mujoco_samples(),
            arm_noise: false,
            replan: 5,
            // openpi: the longest demonstration of each suite and a little more.
            max_steps: steps([220, 280, 300, 520, 400]),
        };
        match self {
            Self::LiberoOpenpi => settings,
            Self::LiberoGroot => Settings {
                resize: 0,
                initial_states: InitialStates::Random,
                settle_steps: 0,
                gripper: Gripper::Groot,
                replan: 8,
                max_steps: steps([720; 5]),
                ..settings
            },
        }
    }
}

impl Settings {
    /// Control steps of an episode of a suite, if it is known.
    pub fn steps(&self, suite: &str) -> Option<u32> {
        self.max_steps.iter().find(|(name, _)| name == suite).map(|(_, steps)| *steps)
    }

    /// What a worker has to know of them.
    pub(super) fn message(&self) -> Value<'static> {
        let json = serde_json::to_value(self).unwrap_or_default();
        let part = |name: &'static str| {
            let value = match json.get(name) {
                Some(serde_json::Value::String(text)) => Value::Text(text.clone().into()),
                Some(serde_json::Value::Bool(is)) => Value::Int(i64::from(*is)),
                other => Value::Int(other.and_then(serde_json::Value::as_i64).unwrap_or_default()),
            };
            (name, value)
        };
        let names = [
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
        ];
        Value::map([("settings", Value::map(names.map(part)))])
    }
}
