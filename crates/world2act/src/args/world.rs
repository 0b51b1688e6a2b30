//! The subcommands of `world`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use toml::Value;
use w2a_pipeline::{Rig, Scene, ScenesRequest, Shard};

pub use super::world_finetune::{FINETUNE_HELP, WorldFinetuneArgs};
use super::{ArgsError, Override, RunArgs, no_settings};

/// What to do with a world model.
#[derive(Clone, Debug)]
pub enum WorldAction {
    /// Imagine a folder of episodes.
    Imagine(ImagineArgs, WorldChoice),
    /// Decode latents for people.
    Preview(PreviewArgs, WorldChoice),
    /// Embed prompts for Cosmos-Predict2: with the folder of its checkpoint, and values from flags.
    EmbedPrompts(EmbedArgs, PathBuf, Vec<Override>),
    /// Write first frames and instructions of the embedded simulator.
    Scenes(ScenesRequest),
    /// Fine-tune Cosmos-Predict2: with the folder of its checkpoint, and values from flags.
    Finetune(Box<WorldFinetuneArgs>, PathBuf, Vec<Override>),
    /// Write a tiny checkpoint of Cosmos-Predict2.
    Tiny {
        /// The folder to write.
        dir: PathBuf,
        /// Seed of the weights.
        seed: u64,
    },
}

/// Which world model was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum WorldChoice {
    /// That of a run.
    Run(PathBuf),
    /// Cosmos-Predict2.
    Cosmos {
        /// The folder of its checkpoint.
        path: PathBuf,
        /// Values from flags, in their order.
        overrides: Vec<Override>,
    },
}

impl WorldChoice {
    /// From `--world RUN` or from settings with `world.kind` and `world.path`.
    fn new(run: Option<PathBuf>, overrides: Vec<Override>) -> Result<Self, ArgsError> {
        if let (Some(_), Some(first)) = (&run, overrides.first()) {
            return Err(ArgsError::World { what: format!("--world RUN takes no settings, got {}", first.flag) });
        }
        if let Some(run) = run {
            return Ok(Self::Run(run));
        }
        let (path, overrides) = checkpoint(overrides)?;
        Ok(Self::Cosmos { path, overrides })
    }
}

/// Takes `world.kind`, which has to be `cosmos`, and `world.path` out of settings.
fn checkpoint(mut overrides: Vec<Override>) -> Result<(PathBuf, Vec<Override>), ArgsError> {
    // The last one wins, as among all flags.
    let mut take = |key: &str| {
        let is_it = |flag: &Override| flag.key == ["world", key];
        let found = overrides.iter().rev().find(|flag| is_it(flag)).map(|flag| flag.value.clone());
        overrides.retain(|flag| !is_it(flag));
        found
    };
    match (take("kind"), take("path")) {
        (Some(Value::String(kind)), Some(Value::String(path))) if kind == "cosmos" => {
            Ok((PathBuf::from(path), overrides))
        }
        (Some(kind), Some(_)) => Err(ArgsError::World { what: format!("world.kind is {kind}") }),
        (Some(_), None) => Err(ArgsError::World { what: "world.path is missing".into() }),
        (None, _) => Err(ArgsError::World { what: "neither is given".into() }),
    }
}

/// `world`: a stage like the others, or one of its own commands.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct WorldArgs {
    #[command(subcommand)]
    pub command: Option<WorldCommand>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum WorldCommand {
    /// Imagine the latents of a folder of first frames and prompts, without decoding them
    #[command(after_long_help = IMAGINE_HELP)]
    Imagine(ImagineArgs),
    /// Decode latents to a moving picture
    Preview(PreviewArgs),
    /// Embed the prompts of a task set with T5, once, for Cosmos-Predict2
    #[command(after_long_help = EMBED_HELP)]
    EmbedPrompts(EmbedArgs),
    /// Write first frames and instructions of the embedded simulator's scenes, for `world imagine`
    Scenes(ScenesArgs),
    /// Fine-tune Cosmos-Predict2 on demonstrations, in full or with LoRA
    #[command(after_long_help = FINETUNE_HELP)]
    Finetune(Box<WorldFinetuneArgs>),
    /// Write a tiny checkpoint of Cosmos-Predict2 with random weights, in the real layout, for trying the tools
    Tiny {
        /// The folder to write; must not exist
        dir: PathBuf,
        /// Seed of the weights
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
    },
}

pub const IMAGINE_HELP: &str = "\
INPUT holds a folder per episode, at any depth: first_frame.png with aa_0.txt, aa_1.txt, ... (the prompts of its skills) or
with prompt.txt (one for all). Skills are imagined one after the other, each from the last frame of the one before.

The world model is that of a run (--world), or Cosmos-Predict2: --world.kind=cosmos --world.path=DIR with the folder of its
checkpoint, which `world embed-prompts` has to have seen the prompts for. Its settings are --world.frame=[rows,columns],
--world.latent_frames, --world.sampler.steps, --world.sampler.guidance, --world.negative_prompt, --world.noise_seed,
--world.checkpoint, --world.weights, --world.dtype, --world.tiles, --world.prompts and --world.rope; cosmos.json in DIR may hold
them too. The memory that is needed is said before anything is computed. --world.dtype=bf16 computes as the authors do, on devices
that have it; the processor's results differ a little from those in f32, and come later.

Guidance leads away from the prediction for --world.negative_prompt, a text that `world embed-prompts` has to embed with T5 as it
does the others; without one, from that for no prompt at all, for which T5 is not needed. NVIDIA's own runs have a text:
_DEFAULT_NEGATIVE_PROMPT in examples/video2world.py of cosmos-predict2 belongs into cosmos.json to come near them.

--out gets the same folders with latents.safetensors and prompt.txt. Episodes that are done are not imagined again, so the
same command continues after a kill; the latents are the same however the work is divided.

Examples:
  world2act world scenes object/0/posttrain/full/000000 --count 8 --out frames
  world2act world imagine frames --world runs/demo --out imagined
  world2act world imagine frames --world runs/demo --out imagined --shard 0/4 --skip-bad
  world2act world preview imagined/object/0/posttrain/full/000000/latents.safetensors --world runs/demo --out one.gif
  world2act world imagine frames --world.kind=cosmos --world.path=Cosmos-Predict2-2B-Video2World --out imagined --views robocasa";

pub const EMBED_HELP: &str = "\
INPUT is a folder as for `world imagine`, or a text file with a prompt in each line. Prompts are kept below DIR/prompts, or in
--world.prompts; those that are there are not embedded again, and T5 is read only if any is missing.

Examples:
  world2act world embed-prompts frames --world.kind=cosmos --world.path=Cosmos-Predict2-2B-Video2World --views robocasa
  world2act world embed-prompts prompts.txt --world.kind=cosmos --world.path=Cosmos-Predict2-2B-Video2World";

/// `world imagine`.
#[derive(Clone, Debug, Args)]
pub struct ImagineArgs {
    /// Folder of the episodes
    pub input: PathBuf,
    /// Folder of the run with the trained world model
    #[arg(long, value_name = "RUN")]
    world: Option<PathBuf>,
    /// Folder for the results; outside of INPUT
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Look here for what was imagined before by any call, and keep it here
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Chunks of every skill [default: as many as a clip of the model has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub chunks: Option<u16>,
    /// Name the views of this robot's 2x2 grid image in every prompt; for models that were trained so
    #[arg(long, value_name = "ROBOT", value_parser = rigs())]
    pub views: Option<Rig>,
    /// Do the i-th of n parts of the work, from 0
    #[arg(long, value_name = "i/n", default_value = "0/1")]
    pub shard: Shard,
    /// Seed of every episode's random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Go on without episodes whose files cannot be used; they are counted and named
    #[arg(long)]
    pub skip_bad: bool,
    /// Memory for Cosmos-Predict2 to stay within, in GiB [default: that of the machine]
    #[arg(long, value_name = "GIB")]
    pub memory: Option<f64>,
}

/// `world preview`.
#[derive(Clone, Debug, Args)]
pub struct PreviewArgs {
    /// Files of latents, of `world imagine` or of a run
    #[arg(required = true)]
    pub latents: Vec<PathBuf>,
    /// Folder of the run with the world model they are of
    #[arg(long, value_name = "RUN")]
    world: Option<PathBuf>,
    /// The picture: .gif, .png (animated), or .mp4 with the help of ffmpeg; must not exist
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Most videos to show
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=400))]
    pub count: u16,
}

/// `world embed-prompts`.
#[derive(Clone, Debug, Args)]
pub struct EmbedArgs {
    /// Folder of episodes, or a text file with a prompt in each line
    pub input: PathBuf,
    /// Name the views of this robot's 2x2 grid image in every prompt, as in `world imagine`
    #[arg(long, value_name = "ROBOT", value_parser = rigs())]
    pub views: Option<Rig>,
}

#[derive(Debug, Args)]
pub(super) struct ScenesArgs {
    /// Names of scenes: suite/task/split/range/number
    #[arg(required = true)]
    scenes: Vec<Scene>,
    /// So many scenes from each of them on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Folder for the episodes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn rigs() -> impl TypedValueParser<Value = Rig> {
    // Names come from the list of rigs, so one of them is found.
    PossibleValuesParser::new(Rig::ALL.map(Rig::name))
        .try_map(|name| Rig::ALL.into_iter().find(|rig| rig.name() == name).ok_or("no such robot"))
}

impl WorldCommand {
    /// What is to be done, `dotted` being its settings.
    ///
    /// # Errors
    /// Settings where there are none, no world model, or two.
    pub fn action(self, dotted: Vec<Override>) -> Result<WorldAction, ArgsError> {
        Ok(match self {
            Self::Imagine(mut args) => {
                let world = WorldChoice::new(args.world.take(), dotted)?;
                WorldAction::Imagine(args, world)
            }
            Self::Preview(mut args) => {
                let world = WorldChoice::new(args.world.take(), dotted)?;
                WorldAction::Preview(args, world)
            }
            Self::EmbedPrompts(args) => {
                let (path, overrides) = checkpoint(dotted)?;
                WorldAction::EmbedPrompts(args, path, overrides)
            }
            Self::Finetune(args) => {
                let (path, overrides) = checkpoint(dotted)?;
                WorldAction::Finetune(args, path, overrides)
            }
            Self::Tiny { dir, seed } => {
                no_settings("world tiny", dotted)?;
                WorldAction::Tiny { dir, seed }
            }
            Self::Scenes(args) => {
                no_settings("world scenes", dotted)?;
                WorldAction::Scenes(ScenesRequest { scenes: args.scenes, count: args.count, out: args.out })
            }
        })
    }
}
