//! Everything a run is configured with, and the three profiles.

use w2a_align::AlignConfig;
use w2a_nn::TrainConfig;
use w2a_policy::MiniPolicyConfig;
use w2a_posttrain::{IdmConfig, PosttrainConfig};
use w2a_sim::{IMAGE_SIZE, Range, Suite, tasks};
use w2a_world::{Layout, MiniWorldConfig, Rig};

use crate::PipelineError;
use crate::arms::Arm;
use crate::environment::EnvSection;
use crate::run_world::WorldKind;
use crate::world::CAMERAS;

/// How much to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Everything at toy size, under three minutes: shows that it works, not how well.
    Smoke,
    /// One task, one seed, at most twelve minutes on two cores.
    Quick,
    /// One task with several seeds and many scenes, an hour and a half on two cores.
    Full,
    /// One task of two goals, a world model that imagines skill by skill against one that does not, at most ten minutes
    /// on two cores.
    Long,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 4] = [Self::Smoke, Self::Quick, Self::Full, Self::Long];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Quick => "quick",
            Self::Full => "full",
            Self::Long => "long",
        }
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Profile {
    type Err = PipelineError;

    fn from_str(text: &str) -> Result<Self, PipelineError> {
        Self::ALL.into_iter().find(|profile| profile.name() == text).ok_or_else(|| PipelineError::Config {
            key: "--profile".into(),
            expected: "smoke, quick, full or long".into(),
            got: format!("{text:?}"),
        })
    }
}

/// The stages of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Demonstrations and videos.
    Data,
    /// World model, latents, imagination.
    World,
    /// Base policies.
    Policy,
    /// Stage 1.
    Align,
    /// Stage 2 and the baselines.
    Posttrain,
    /// Evaluation.
    Eval,
    /// The report.
    Report,
    /// The ablation: its trainings, evaluation and page. It follows [`Stage::Align`], not the report.
    Ablation,
}

impl Stage {
    /// The stages up to the report, in order.
    pub const ALL: [Self; 7] =
        [Self::Data, Self::World, Self::Policy, Self::Align, Self::Posttrain, Self::Eval, Self::Report];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::World => "world",
            Self::Policy => "policy",
            Self::Align => "align",
            Self::Posttrain => "posttrain",
            Self::Eval => "eval",
            Self::Report => "report",
            Self::Ablation => "ablation",
        }
    }

    /// The stages of a run that ends with this one, in order.
    pub fn plan(self) -> Vec<Self> {
        match self {
            Self::Ablation => vec![Self::Data, Self::World, Self::Policy, Self::Align, Self::Ablation],
            last => Self::ALL.into_iter().filter(|stage| *stage <= last).collect(),
        }
    }
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Drives every random stream of the run.
    pub seed: u64,
    /// Worker threads of the simulator and the CPU backend.
    pub threads: usize,
    /// Where models train and run: `cpu`.
    pub device: String,
    /// Where the run acts.
    pub env: EnvSection,
    /// Demonstrations and videos.
    pub data: DataSection,
    /// The world model.
    pub world: WorldSection,
    /// The base policies.
    pub policy: PolicySection,
    /// Stage 1.
    pub align: AlignSection,
    /// Stage 2 and the baselines.
    pub posttrain: PosttrainSection,
    /// Evaluation.
    pub eval: EvalSection,
}

/// Demonstrations and videos. All counts are per task.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Suites that take part: some of `object`, `spatial` and `goal`, or `long` alone: its episodes have another
    /// length. In LIBERO some of `libero_spatial`, `libero_object`, `libero_goal` and `libero_10`.
    pub suites: Vec<String>,
    /// How many tasks of each suite take part, the first ones; 0 for all.
    pub tasks_per_suite: usize,
    /// Demonstrations with actions, from the narrow range of scenes.
    pub labelled: usize,
    /// Action-free videos, from the full range of scenes.
    pub videos: usize,
    /// Post-training scenes, full range.
    pub posttrain_scenes: usize,
    /// Held-out post-training scenes on which gains are chosen, full range.
    pub tune_scenes: usize,
    /// Format of the datasets on disk: `v2.1` or `v3.0`.
    pub lerobot_version: String,
}

/// The world model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldSection {
    /// The embedded model, which the run trains, or a frozen checkpoint of Cosmos-Predict2.
    pub kind: WorldKind,
    /// Folder of the checkpoint where `kind` is `cosmos`; its settings are those of the folder. Empty otherwise.
    pub path: String,
    /// Where the checkpoint has its cameras; it counts for nothing with the embedded model, as `views`.
    pub layout: Layout,
    /// The robot whose views prompts name: `robocasa`, `franka` or `libero`. Empty for instructions as they are.
    pub views: String,
    /// Sizes. `model.flow.chunks` are those of a clip; an episode of more is imagined clip by clip.
    pub model: MiniWorldConfig,
    /// Whether the world model is trained on clips of single skills under their atomic prompts and imagines prompt by
    /// prompt, instead of windows of the videos under the whole instruction. Only with the suite `long`.
    pub skills: bool,
    /// Videos that the autoencoder is trained on (a subset bounds the memory).
    pub autoencoder_videos: usize,
    /// Training of the autoencoder.
    pub autoencoder_train: TrainConfig,
    /// Training of the latent video model.
    pub flow_train: TrainConfig,
}

/// The base policies.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySection {
    /// Sizes.
    pub model: MiniPolicyConfig,
    /// Training; the base on narrow labels and the ceiling on wide labels alike.
    pub train: TrainConfig,
    /// Fine-tuning of the `base_extra` and `dreamgen` arms.
    pub fine_tune: TrainConfig,
    /// How many times slower than its demonstrations every policy acts, as to measure what alignment in time is worth.
    pub slowdown: f32,
    /// A policy server that takes the place of the trained base policy, frozen, such as `groot://127.0.0.1:5555` or
    /// `openpi://robot:8000`; empty for none.
    pub remote: String,
    /// Environment variable with the token of that server; empty for none. The token itself is written nowhere.
    pub remote_token_env: String,
    /// A checkpoint of GR00T-N1.6 that takes its place.
    pub groot: GrootSection,
}

/// A checkpoint of GR00T-N1.6 as the frozen base policy of a run.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrootSection {
    /// Its folder; empty for none.
    pub path: String,
    /// Tag of the embodiment, whose names of cameras, states and actions have to be those of the run's simulator.
    pub embodiment: String,
    /// Folder of the backbone's files, if they are not with the checkpoint; empty if they are.
    pub backbone: String,
    /// A LoRA adapter of `policy finetune`; empty for none.
    pub adapter: String,
}

/// Stage 1.
pub type AlignSection = AlignConfig;

/// Stage 2 and the baselines.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PosttrainSection {
    /// The methods that are trained and evaluated, `base` and `w2a` always among them.
    pub methods: Vec<String>,
    /// Stage 2 of the headline arm; the other residual arms differ in their objective or targets only.
    pub stage2: PosttrainConfig,
    /// Scales among which the label-free rule chooses for every arm of stage 2: of the residual's step in the form `latent`,
    /// and, together with `shares`, of the whole change in the forms `action` and `lora`.
    pub gains: Vec<f32>,
    /// Shares of the way from the base policy to the fine-tuned one among which the same rule chooses, for `base_extra` and
    /// `dreamgen`; see also `gains`.
    pub shares: Vec<f32>,
    /// Stage-2 seeds of the arms `w2a`, `w2a_infonce`, `regression`, `dreamgen` and `base_extra`, and of the ablation's rows.
    pub seeds: usize,
    /// Stage-2 seeds of the controls `w2a_shuffled` and `w2a_oracle`.
    pub control_seeds: usize,
    /// The inverse dynamics model.
    pub idm: IdmConfig,
    /// Its training.
    pub idm_train: TrainConfig,
    /// Imagined videos that DreamGen imitates (all post-training scenes if fewer).
    pub dreamgen_videos: usize,
}

/// Evaluation.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSection {
    /// Scenes per task, full range.
    pub scenes: usize,
    /// Scenes per task of the narrow range, on which only the base policies are evaluated (their score without shift).
    pub narrow_scenes: usize,
    /// Environments that run side by side.
    pub batch: usize,
}

impl WorldSection {
    /// The robot of `views`, if it is one.
    pub(crate) fn rig(&self) -> Option<Rig> {
        Rig::ALL.into_iter().find(|rig| rig.name() == self.views)
    }
}

impl PolicySection {
    /// Whether the base policy is a checkpoint of GR00T.
    pub(crate) fn is_groot(&self) -> bool {
        !self.groot.path.is_empty()
    }

    /// Whether the base policy is one that the run does not train.
    pub(crate) fn is_foreign(&self) -> bool {
        self.is_groot() || !self.remote.is_empty()
    }
}

impl Default for DataSection {
    fn default() -> Self {
        Config::profile(Profile::Quick).data
    }
}

impl Default for WorldSection {
    fn default() -> Self {
        Config::profile(Profile::Quick).world
    }
}

impl Default for PolicySection {
    fn default() -> Self {
        Config::profile(Profile::Quick).policy
    }
}

impl Default for PosttrainSection {
    fn default() -> Self {
        Config::profile(Profile::Quick).posttrain
    }
}

impl Default for EvalSection {
    fn default() -> Self {
        Config::profile(Profile::Quick).eval
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::profile(Profile::Quick)
    }
}

impl Config {
    /// The configuration of a profile.
    pub fn profile(profile: Profile) -> Self {
        let pick = |smoke: usize, quick: usize, full: usize| match profile {
            Profile::Smoke => smoke,
            Profile::Quick | Profile::Long => quick,
            Profile::Full => full,
        };
        let train = |steps: usize, batch: usize, lr: f32| TrainConfig {
            steps,
            batch,
            lr,
            warmup: (steps / 20).clamp(5, 100),
            checkpoint_every: (steps / 8).max(25),
            ..TrainConfig::default()
        };
        let mut model = MiniWorldConfig::default();
        let mut policy = MiniPolicyConfig::default();
        if profile == Profile::Smoke {
            model.autoencoder.hidden = 64;
            model.flow = w2a_world::FlowConfig { width: 96, hidden: 192, sampling_steps: 2, ..model.flow };
            policy.hidden = 96;
        }
        let config = Self {
            seed: 0,
            threads: 2,
            device: "cpu".into(),
            env: EnvSection::default(),
            data: DataSection {
                suites: vec!["object".into()],
                tasks_per_suite: pick(0, 1, 1),
                labelled: pick(6, 320, 400),
                videos: pick(12, 1200, 1600),
                posttrain_scenes: pick(8, 256, 512),
                tune_scenes: pick(2, 24, 48),
                lerobot_version: "v3.0".into(),
            },
            world: WorldSection {
                kind: WorldKind::Mini,
                path: String::new(),
                layout: Layout::Grid2x2,
                views: String::new(),
                model,
                skills: false,
                autoencoder_videos: pick(16, 200, 200),
                autoencoder_train: train(pick(40, 250, 300), 48, 3e-3),
                flow_train: TrainConfig { ema: 0.998, ..train(pick(40, 1100, 1600), pick(8, 48, 48), 3e-3) },
            },
            policy: PolicySection {
                model: policy,
                // 1,600 updates with the full profile's labels leave the base far from its plateau: anything helps such a base.
                train: TrainConfig { ema: 0.998, warmup: pick(5, 60, 80), ..train(pick(40, 1200, 2400), 64, 2e-3) },
                fine_tune: TrainConfig { ema: 0.99, ..train(pick(20, 300, 400), 64, 3e-4) },
                slowdown: 1.0,
                remote: String::new(),
                remote_token_env: String::new(),
                groot: GrootSection::default(),
            },
            align: AlignConfig { train: train(pick(40, 800, 800), 16, 1e-3), ..AlignConfig::default() },
            posttrain: PosttrainSection {
                methods: Arm::ALL
                    .into_iter()
                    .filter(|arm| *arm != Arm::BaseWorld)
                    .map(|arm| arm.name().into())
                    .collect(),
                stage2: PosttrainConfig {
                    rounds: pick(2, 3, 3),
                    scenes_per_round: pick(8, 96, 192),
                    updates_per_round: pick(10, 40, 80),
                    ..PosttrainConfig::default()
                },
                gains: vec![0.0, 0.05, 0.1, 0.15, 0.25],
                shares: vec![0.0, 0.25, 0.5, 0.75, 1.0],
                seeds: pick(1, 1, 5),
                control_seeds: pick(1, 1, 2),
                idm: IdmConfig::default(),
                idm_train: train(pick(30, 300, 500), 64, 1e-3),
                dreamgen_videos: pick(8, 128, 256),
            },
            eval: EvalSection { scenes: pick(4, 120, 2000), narrow_scenes: pick(2, 60, 100), batch: 50 },
        };
        if profile == Profile::Long { config.of_long_tasks() } else { config }
    }

    /// The same for the suite `long`, whose episodes are twice as long: fewer of them, and only the methods that tell a
    /// world model with skills from one without.
    fn of_long_tasks(self) -> Self {
        let mut config = self;
        config.data.suites = vec![Suite::Long.name().into()];
        // Two goals want more labels and updates than one: 240 and 1,200 left a base policy that solved nothing.
        config.data.labelled = 600;
        config.policy.train.steps = 5000;
        config.data.videos = 600;
        config.data.posttrain_scenes = 192;
        config.world.skills = true;
        // The longest skill takes 18 to 19 chunks from where the hand let go before to the end.
        config.world.model.flow.chunks = 20;
        config.world.autoencoder_videos = 100;
        config.world.flow_train.steps = 900;
        let methods = [Arm::Base, Arm::BaseWorld, Arm::World2Act, Arm::Oracle];
        config.posttrain.methods = methods.map(|arm| arm.name().into()).to_vec();
        config
    }

    /// Control steps of a demonstration; validation sees to it that all tasks agree.
    pub(crate) fn episode_steps(&self) -> usize {
        if self.is_libero() {
            return self.env.libero.demo_steps / self.stride();
        }
        let tasks = self.tasks().unwrap_or_default().into_iter();
        tasks.map(|(suite, task)| w2a_sim::tasks(suite)[task].demo_steps).max().unwrap_or(0)
    }

    /// Control steps after which an episode of a task has failed.
    pub(crate) fn horizon_steps(&self, task: &w2a_sim::TaskInfo) -> usize {
        if self.is_libero() { self.env.libero.max_steps.div_ceil(self.stride()) } else { task.horizon }
    }

    /// The ranges of scenes that post-training and evaluation know.
    pub(crate) fn ranges(&self) -> [Range; 2] {
        if self.is_libero() { [Range::Seed, Range::Init] } else { [Range::Full; 2] }
    }

    /// Chunks of an episode: what is imagined of it, and decided in it while post-training.
    pub(crate) fn chunks(&self) -> usize {
        self.episode_steps() / self.chunk_len().max(1)
    }

    /// Rows and columns of a camera's image.
    pub(crate) fn side(&self) -> usize {
        if self.is_libero() { self.env.libero.side } else { IMAGE_SIZE }
    }

    /// Rows and columns of the grid image: both cameras side by side.
    pub(crate) fn grid(&self) -> (usize, usize) {
        (self.side(), CAMERAS * self.side())
    }

    /// Control steps of a chunk: frames of a latent.
    pub(crate) fn chunk_len(&self) -> usize {
        match self.world.kind {
            WorldKind::Mini => self.world.model.autoencoder.frames,
            WorldKind::Cosmos => w2a_world::cosmos::CHUNK,
        }
    }

    /// The tasks that take part: suite and number in it.
    pub(crate) fn tasks(&self) -> Result<Vec<(Suite, usize)>, PipelineError> {
        let most = if self.data.tasks_per_suite == 0 { usize::MAX } else { self.data.tasks_per_suite };
        let suites = self.suites()?.into_iter();
        let chosen = &self.env.libero.tasks;
        if self.is_libero() && !chosen.is_empty() {
            return Ok(suites.flat_map(|suite| chosen.iter().map(move |task| (suite, *task))).collect());
        }
        Ok(suites.flat_map(|suite| (0..tasks(suite).len().min(most)).map(move |task| (suite, task))).collect())
    }

    /// The suites that take part.
    pub(crate) fn suites(&self) -> Result<Vec<Suite>, PipelineError> {
        let known = self.known_suites();
        let find = |name: &String| {
            known.iter().copied().find(|suite| suite.name() == name).ok_or_else(|| PipelineError::Config {
                key: "data.suites".into(),
                expected: format!(
                    "some of {:?} where env.kind is {}",
                    known.iter().map(|suite| suite.name()).collect::<Vec<_>>(),
                    if self.is_libero() { "libero" } else { "tabletop" }
                ),
                got: format!("{name:?}"),
            })
        };
        self.data.suites.iter().map(find).collect()
    }
}
