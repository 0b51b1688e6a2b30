//! What a checkpoint expects and gives: cameras, state and action keys, instruction; and the statistics of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use w2a_nn::NnError;

use super::wrong;

/// One modality of an embodiment, as `processor_config.json` stores it and the policy server sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModalityConfig {
    /// Steps relative to now: frames that are seen, or actions that are given.
    pub delta_indices: Vec<i64>,
    /// Names of the cameras, of the parts of state or action, or of the instruction, in the model's order.
    pub modality_keys: Vec<String>,
    /// State keys that are encoded as sine and cosine.
    pub sin_cos_embedding_keys: Option<Vec<String>>,
    /// Keys that are normalised by mean and standard deviation instead of by their range.
    pub mean_std_embedding_keys: Option<Vec<String>>,
    /// How each action key is to be read, in the order of `modality_keys`; `None` if all are absolute.
    pub action_configs: Option<Vec<ActionConfig>>,
}

impl ModalityConfig {
    /// Whether `key` is encoded as sine and cosine.
    pub(super) fn is_sin_cos(&self, key: &str) -> bool {
        self.sin_cos_embedding_keys.iter().flatten().any(|name| name == key)
    }

    /// Whether `key` is normalised by mean and standard deviation.
    pub(super) fn is_mean_std(&self, key: &str) -> bool {
        self.mean_std_embedding_keys.iter().flatten().any(|name| name == key)
    }
}

/// How an action key is to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionConfig {
    /// What the values are relative to.
    pub rep: Representation,
    /// Joints or a pose.
    #[serde(rename = "type")]
    pub kind: ActionKind,
    /// How a pose is written.
    pub format: ActionFormat,
    /// State key of the reference; the action's own key if absent.
    pub state_key: Option<String>,
}

/// What an action is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Representation {
    /// The last observed state.
    Relative,
    /// The step before; stored and executed as it is.
    Delta,
    /// Nothing.
    Absolute,
}

/// What an action moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionKind {
    /// The end effector: relative actions compose as rigid motions.
    #[serde(rename = "EEF")]
    EndEffector,
    /// Anything else: relative actions add.
    #[serde(rename = "NON_EEF")]
    Joints,
}

/// How the pose of an end effector is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionFormat {
    /// Joints as they are; a pose as a homogeneous matrix, 16 values by rows.
    #[serde(rename = "DEFAULT")]
    Default,
    /// Position and the first two rows of the rotation matrix: 9 values.
    #[serde(rename = "XYZ_ROT6D")]
    XyzRot6d,
    /// Position and rotation vector: 6 values.
    #[serde(rename = "XYZ_ROTVEC")]
    XyzRotvec,
}

/// The modalities of one embodiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modalities {
    /// Cameras.
    pub video: ModalityConfig,
    /// Proprioception.
    pub state: ModalityConfig,
    /// Actions; as many steps as it has `delta_indices`.
    pub action: ModalityConfig,
    /// The instruction.
    pub language: ModalityConfig,
}

/// One statistic: a row, or a row for each step of the horizon.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Numbers {
    Row(Vec<f64>),
    Rows(Vec<Vec<f64>>),
}

#[derive(Clone, Debug, Deserialize)]
struct RawStatistics {
    min: Numbers,
    max: Numbers,
    mean: Numbers,
    std: Numbers,
    q01: Option<Numbers>,
    q99: Option<Numbers>,
}

/// Statistics of one key, each `[rows, width]` row-major.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawStatistics")]
pub struct KeyStatistics {
    /// 1, or the horizon where each step has its own.
    pub rows: usize,
    /// Values per step.
    pub width: usize,
    /// Smallest values.
    pub min: Vec<f64>,
    /// Largest values.
    pub max: Vec<f64>,
    /// Means.
    pub mean: Vec<f64>,
    /// Standard deviations.
    pub std: Vec<f64>,
    /// First and 99th percentile, where the file has them.
    pub percentiles: Option<[Vec<f64>; 2]>,
}

impl TryFrom<RawStatistics> for KeyStatistics {
    type Error = String;

    fn try_from(raw: RawStatistics) -> Result<Self, String> {
        let (rows, width) = match &raw.min {
            Numbers::Row(row) => (1, row.len()),
            Numbers::Rows(rows) => (rows.len(), rows.first().map_or(0, Vec::len)),
        };
        let flat = |name: &str, numbers: Numbers| {
            let rows_of = match numbers {
                Numbers::Row(row) => vec![row],
                Numbers::Rows(rows) => rows,
            };
            if rows_of.len() != rows || width == 0 || rows_of.iter().any(|row| row.len() != width) {
                return Err(format!("statistic {name} is not {rows} x {width} as min"));
            }
            Ok(rows_of.concat())
        };
        let percentiles = match (raw.q01, raw.q99) {
            (Some(low), Some(high)) => Some([flat("q01", low)?, flat("q99", high)?]),
            _ => None,
        };
        Ok(Self {
            rows,
            width,
            min: flat("min", raw.min)?,
            max: flat("max", raw.max)?,
            mean: flat("mean", raw.mean)?,
            std: flat("std", raw.std)?,
            percentiles,
        })
    }
}

/// Statistics of one embodiment, by modality and key, as in `statistics.json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EmbodimentStatistics {
    /// Of the states.
    #[serde(default)]
    pub state: BTreeMap<String, KeyStatistics>,
    /// Of the actions as recorded.
    #[serde(default)]
    pub action: BTreeMap<String, KeyStatistics>,
    /// Of the actions relative to the state before them, a row for each step.
    #[serde(default)]
    pub relative_action: BTreeMap<String, KeyStatistics>,
}

/// How states and actions are normalised; from `processor_kwargs` of `processor_config.json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NormalisationConfig {
    /// Percentiles instead of minimum and maximum; never for relative actions.
    pub use_percentiles: bool,
    /// Whether normalised values are clipped to `[-1, 1]`.
    pub clip_outliers: bool,
    /// Whether the keys that ask for it are encoded as sine and cosine.
    pub apply_sincos_state_encoding: bool,
    /// Whether the keys that ask for it are relative to the state.
    pub use_relative_action: bool,
    /// Width of the model's state.
    pub max_state_dim: usize,
    /// Width of the model's action.
    pub max_action_dim: usize,
    /// Steps of the model's action.
    pub max_action_horizon: usize,
}

/// The statistics of `key`, or an error that says which file lacks them.
pub(super) fn statistics_of<'a>(
    tag: &str,
    modality: &str,
    all: &'a BTreeMap<String, KeyStatistics>,
    key: &str,
) -> Result<&'a KeyStatistics, NnError> {
    all.get(key).ok_or_else(|| {
        let known: Vec<&str> = all.keys().map(String::as_str).collect();
        wrong(
            format!("statistics.json, {tag}.{modality}"),
            format!("statistics of {key:?}; write them with the tool that fine-tuned the checkpoint"),
            if known.is_empty() { "none at all".into() } else { format!("only {}", known.join(", ")) },
        )
    })
}
