//! The subcommands of `world`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use w2a_pipeline::{ImagineRequest, PreviewRequest, Rig, Scene, ScenesRequest, Shard};

use super::RunArgs;

/// What to do with a world model.
#[derive(Clone, Debug)]
pub enum WorldAction {
    /// Imagine a folder of episodes.
    Imagine(ImagineRequest),
    /// Decode latents for people.
    Preview(PreviewRequest),
    /// Write first frames and instructions of the embedded simulator.
    Scenes(ScenesRequest),
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
    /// Write first frames and instructions of the embedded simulator's scenes, for `world imagine`
    Scenes(ScenesArgs),
}

pub const IMAGINE_HELP: &str = "\
INPUT holds a folder per episode, at any depth: first_frame.png with aa_0.txt, aa_1.txt, ... (the prompts of its skills) or
with prompt.txt (one for all). Skills are imagined one after the other, each from the last frame of the one before.

--out gets the same folders with latents.safetensors and prompt.txt. Episodes that are done are not imagined again, so the
same command continues after a kill; the latents are the same however the work is divided.

Examples:
  world2act world scenes object/0/posttrain/full/000000 --count 8 --out frames
  world2act world imagine frames --world runs/demo --out imagined
  world2act world imagine frames --world runs/demo --out imagined --shard 0/4 --skip-bad
  world2act world preview imagined/object/0/posttrain/full/000000/latents.safetensors --world runs/demo --out one.gif";

#[derive(Debug, Args)]
pub(super) struct ImagineArgs {
    /// Folder of the episodes
    input: PathBuf,
    /// Folder of the run with the trained world model
    #[arg(long, value_name = "RUN")]
    world: PathBuf,
    /// Folder for the results; outside of INPUT
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Look here for what was imagined before by any call, and keep it here
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Chunks of every skill [default: as many as a clip of the model has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    chunks: Option<u16>,
    /// Name the views of this robot's 2x2 grid image in every prompt; for models that were trained so
    #[arg(long, value_name = "ROBOT", value_parser = rigs())]
    views: Option<Rig>,
    /// Do the i-th of n parts of the work, from 0
    #[arg(long, value_name = "i/n", default_value = "0/1")]
    shard: Shard,
    /// Seed of every episode's random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Go on without episodes whose files cannot be used; they are counted and named
    #[arg(long)]
    skip_bad: bool,
}

#[derive(Debug, Args)]
pub(super) struct PreviewArgs {
    /// Files of latents, of `world imagine` or of a run
    #[arg(required = true)]
    latents: Vec<PathBuf>,
    /// Folder of the run with the world model they are of
    #[arg(long, value_name = "RUN")]
    world: PathBuf,
    /// The picture: .gif, .png (animated), or .mp4 with the help of ffmpeg; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Most videos to show
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=400))]
    count: u16,
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

fn rigs() -> impl TypedValueParser<Value = Rig> {
    // Names come from the list of rigs, so one of them is found.
    PossibleValuesParser::new(Rig::ALL.map(Rig::name))
        .try_map(|name| Rig::ALL.into_iter().find(|rig| rig.name() == name).ok_or("no such robot"))
}

impl WorldCommand {
    /// The command's name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Imagine(_) => "world imagine",
            Self::Preview(_) => "world preview",
            Self::Scenes(_) => "world scenes",
        }
    }

    /// The request to the library.
    pub fn action(self) -> WorldAction {
        match self {
            Self::Imagine(args) => WorldAction::Imagine(ImagineRequest {
                input: args.input,
                world: args.world,
                out: args.out,
                cache: args.cache,
                chunks: args.chunks.map(usize::from),
                rig: args.views,
                shard: args.shard,
                seed: args.seed,
                skip_bad: args.skip_bad,
            }),
            Self::Preview(args) => WorldAction::Preview(PreviewRequest {
                latents: args.latents,
                world: args.world,
                out: args.out,
                count: usize::from(args.count),
            }),
            Self::Scenes(args) => {
                WorldAction::Scenes(ScenesRequest { scenes: args.scenes, count: args.count, out: args.out })
            }
        }
    }
}
