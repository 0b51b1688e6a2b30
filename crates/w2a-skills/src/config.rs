//! The settings of a cut, and the presets that name the hands we know.

use serde::{Deserialize, Serialize};

/// All settings; every key is a flag `--skills.<key>` and a line below `[skills]` of a TOML file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the preset that the other values started from; see [`Config::EMBODIMENTS`].
    pub embodiment: String,
    /// A TOML or JSON file with the ordered atomic prompts of each instruction; empty for none. See [`crate::Schema`].
    pub schema: String,
    /// Where the gripper's opening is found, and when it counts as contact.
    pub gripper: GripperConfig,
    /// How contacts become segments.
    pub segment: SegmentConfig,
    /// The second signal, for demonstrations in which the gripper does nothing.
    pub motion: MotionConfig,
    /// The language model.
    pub llm: LlmConfig,
    /// What `skills.html` shows.
    pub page: PageConfig,
}

/// The aperture `w_t = sum_k weights[k] * proprio_t[entries[k]]` in metres, and the thresholds on
/// `delta_t = open_m - w_t` (arXiv 2603.10422, the skill-compositional world model).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GripperConfig {
    /// Entries of the proprioception that make up the aperture.
    pub entries: Vec<usize>,
    /// Their weights, which also turn them into metres.
    pub weights: Vec<f32>,
    /// Calibrated width of the open hand, metres.
    pub open_m: f32,
    /// Contact begins when `delta` reaches this, metres; the paper's 0.05.
    pub contact_m: f32,
    /// Contact ends when `delta` falls below this, metres; at most `contact_m`. The difference is the hysteresis.
    pub release_m: f32,
}

/// Which signal cuts a demonstration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalChoice {
    /// The aperture, and motion where the aperture shows no full cycle.
    Auto,
    /// The aperture only.
    Aperture,
    /// Motion only.
    Motion,
}

/// Where contacts cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Where a contact ends: one segment is reaching, grasping, moving and letting go.
    Cycle,
    /// Where a contact begins too: reaching and grasping is one segment, moving and letting go the next.
    Phase,
}

/// How contacts become segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentConfig {
    /// Which signal is used.
    pub signal: SignalChoice,
    /// Where contacts cut.
    pub cut: Cut,
    /// A hand that opens for less than this between two contacts has re-grasped: they are one contact. Seconds.
    pub min_open_s: f32,
    /// A contact shorter than this is none. Seconds.
    pub min_contact_s: f32,
}

/// Cuts from the motion of the end effector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotionConfig {
    /// Entries of the proprioception that hold the end effector's position, metres.
    pub position: Vec<usize>,
    /// Whether pauses cut, or only reversals do.
    pub pauses: bool,
    /// A pause is where the speed falls below this share of the demonstration's fast motion (its 90th percentile).
    pub slow_share: f32,
    /// A reversal is where the cosine of the motion before and after is below this.
    pub reversal_cosine: f32,
    /// Velocities are averaged over this time. Seconds.
    pub window_s: f32,
    /// Of two cuts that are closer than this the weaker one goes; so do cuts this close to either end. Seconds.
    pub min_segment_s: f32,
    /// A demonstration whose fast motion is slower than this does not move. Metres per second.
    pub min_speed: f32,
}

/// An OpenAI-compatible chat endpoint. Off unless `enabled`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmConfig {
    /// Whether anything is sent at all.
    pub enabled: bool,
    /// What comes before `/chat/completions`, such as `https://api.example.org/v1`.
    pub base_url: String,
    /// Name of the model.
    pub model: String,
    /// NAME of the environment variable that holds the key; empty to send none. Never the key itself.
    pub key_variable: String,
    /// Sampling temperature.
    pub temperature: f32,
    /// Time for one request, seconds.
    pub timeout_s: f64,
    /// Requests made for one answer before the run gives up: the first one, and retries.
    pub attempts: u32,
    /// Wait before the first retry, seconds; doubled for each further one.
    pub backoff_s: f64,
    /// Largest answer that is read, KiB.
    pub max_answer_kib: u64,
}

/// What `skills.html` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageConfig {
    /// Camera of the filmstrips; empty for the first.
    pub camera: String,
    /// Filmstrips for each instruction: this many kept demonstrations, and as many dropped ones.
    pub rows_per_task: usize,
    /// Filmstrips at most.
    pub rows: usize,
    /// Frames of a filmstrip.
    pub frames_per_row: usize,
}

impl Config {
    /// The presets.
    pub const EMBODIMENTS: [&'static str; 4] = ["tabletop", "libero_panda", "robocasa_panda", "bridge_widowx"];

    /// The settings for a hand we know; `None` for an unknown name.
    ///
    /// - `tabletop`: the embedded benchmark. A held block closes the hand of 90 mm by 46 mm, a knob by 74 mm and the
    ///   drawer's handle by 62 mm (`docs/reproduce.md`), so that the paper's 0.05 m would miss the blocks.
    /// - `libero_panda`: the 8 entries that LIBERO's LeRobot datasets have (position, axis-angle, the two fingers,
    ///   of which the second is negative). The paper's threshold.
    /// - `robocasa_panda`: the 53 entries of RoboCasa's states in the order of their names, so that the fingers are 21
    ///   and 22 and the absolute position is 14 to 16. The paper's threshold.
    /// - `bridge_widowx`: 8 entries whose last one is the opening as a share, of 74 mm. Held things leave it far open:
    ///   0.015 m.
    pub fn preset(embodiment: &str) -> Option<Self> {
        let gripper = |entries: &[usize], weights: &[f32], open_m, contact_m, release_m| GripperConfig {
            entries: entries.to_vec(),
            weights: weights.to_vec(),
            open_m,
            contact_m,
            release_m,
        };
        let (gripper, position) = match embodiment {
            "tabletop" => (gripper(&[10], &[1.0], 0.09, 0.03, 0.02), vec![0, 1, 2]),
            "libero_panda" => (gripper(&[6, 7], &[1.0, -1.0], 0.08, 0.05, 0.045), vec![0, 1, 2]),
            "robocasa_panda" => (gripper(&[21, 22], &[1.0, -1.0], 0.08, 0.05, 0.045), vec![14, 15, 16]),
            "bridge_widowx" => (gripper(&[7], &[0.074], 0.074, 0.015, 0.01), vec![0, 1, 2]),
            _ => return None,
        };
        Some(Self {
            embodiment: embodiment.to_owned(),
            schema: String::new(),
            gripper,
            segment: SegmentConfig { signal: SignalChoice::Auto, cut: Cut::Cycle, min_open_s: 0.3, min_contact_s: 0.2 },
            motion: MotionConfig {
                position,
                pauses: true,
                slow_share: 0.25,
                reversal_cosine: -0.5,
                window_s: 0.25,
                min_segment_s: 0.5,
                min_speed: 0.01,
            },
            llm: LlmConfig {
                enabled: false,
                base_url: String::new(),
                model: String::new(),
                key_variable: String::new(),
                temperature: 0.0,
                timeout_s: 60.0,
                attempts: 4,
                backoff_s: 1.0,
                max_answer_kib: 64,
            },
            page: PageConfig { camera: String::new(), rows_per_task: 4, rows: 80, frames_per_row: 12 },
        })
    }
}
