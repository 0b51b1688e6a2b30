//! The subcommands of `policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use w2a_pipeline::{FinetuneRequest, LoraConfig, Method, OpenLoopRequest, PolicyInfoRequest};

use super::{RunArgs, Tuned, bytes};

/// What to do with a policy of others.
#[derive(Clone, Debug)]
pub enum PolicyAction {
    /// Say what a checkpoint expects and gives.
    Info(PolicyInfoRequest),
    /// Train its action head, or a LoRA adapter for it.
    Finetune(FinetuneRequest),
    /// Compare its actions with recorded ones.
    OpenLoop(OpenLoopRequest),
    /// Make one up.
    Tiny {
        /// The directory to write.
        dir: PathBuf,
        /// Seed of the weights.
        seed: u64,
    },
}

/// `policy`: a stage like the others, or one of its own commands.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    pub command: Option<PolicyCommand>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say what a GR00T-N1.6 checkpoint expects and gives: cameras, state and action keys, horizon, normalisation
    Info {
        /// Directory of the checkpoint
        dir: PathBuf,
        /// Folder with the tokenizer, if it is not with the checkpoint: Eagle-Block2A-2B-v2 of NVIDIA/Isaac-GR00T
        #[arg(long, value_name = "DIR")]
        backbone: Option<PathBuf>,
        /// Only this embodiment
        #[arg(long, value_name = "TAG")]
        embodiment: Option<String>,
    },
    /// Train the action head of a GR00T-N1.6 checkpoint, or a LoRA adapter for it, on demonstrations
    Finetune(FinetuneArgs),
    /// Show a GR00T-N1.6 checkpoint recorded frames, and compare what it would do with what was done
    OpenLoop(OpenLoopArgs),
    /// Write a tiny GR00T-N1.6 checkpoint of random weights, in the real layout, for trying the tools
    Tiny {
        /// The directory to write; must not exist
        dir: PathBuf,
        /// Seed of the weights
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
    },
}

/// What all commands that run a checkpoint on demonstrations take.
#[derive(Debug, Args)]
struct OnDemonstrations {
    /// Directory of the checkpoint
    checkpoint: PathBuf,
    /// A LeRobot dataset with meta/modality.json; for open-loop also HDF5 demonstrations
    dataset: PathBuf,
    /// Tag of the embodiment, such as libero_panda
    #[arg(long, value_name = "TAG")]
    embodiment: String,
    /// Folder with the tokenizer, if it is not with the checkpoint: Eagle-Block2A-2B-v2 of NVIDIA/Isaac-GR00T
    #[arg(long, value_name = "DIR")]
    backbone: Option<PathBuf>,
    /// Pad frames to squares, as later versions of the reference do; the release does not
    #[arg(long)]
    letterbox: bool,
    /// Seed of all random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Device of the networks
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
}

#[derive(Debug, Args)]
pub(super) struct OpenLoopArgs {
    #[command(flatten)]
    on: OnDemonstrations,
    /// Folder for open_loop.html and open_loop.json; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder of a LoRA adapter, such as one of `policy finetune`
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Replay the first N episodes
    #[arg(long, value_name = "N", default_value_t = 1)]
    episodes: usize,
    /// Ask the policy every N steps [default: its horizon]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct FinetuneArgs {
    #[command(flatten)]
    on: OnDemonstrations,
    /// Folder for the adapter or model, the log and the training's checkpoints
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Continue the training in --out
    #[arg(long)]
    resume: bool,
    /// What is trained: changes of low rank of the transformer, or the whole action head (projector, transformer, norm)
    #[arg(long, value_enum, default_value_t = Tuned::Lora)]
    method: Tuned,
    /// With LoRA: rank of the change of each layer
    #[arg(long, value_name = "N", default_value_t = 16)]
    rank: usize,
    /// With LoRA: the change is scaled by alpha / rank
    #[arg(long, value_name = "X", default_value_t = 32.0)]
    alpha: f32,
    /// Updates
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    steps: usize,
    /// Samples an update
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
    /// Peak learning rate
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    lr: f32,
    /// Memory to stay within, in GiB [default: that of the machine]
    #[arg(long, value_name = "GIB")]
    memory: Option<f64>,
}

impl PolicyCommand {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Info { .. } => "policy info",
            Self::Finetune(_) => "policy finetune",
            Self::OpenLoop(_) => "policy open-loop",
            Self::Tiny { .. } => "policy tiny",
        }
    }

    pub fn action(self) -> PolicyAction {
        match self {
            Self::Info { dir, backbone, embodiment } => {
                PolicyAction::Info(PolicyInfoRequest { dir, backbone, embodiment })
            }
            Self::Finetune(args) => PolicyAction::Finetune(FinetuneRequest {
                checkpoint: args.on.checkpoint,
                dataset: args.on.dataset,
                embodiment: args.on.embodiment,
                out: args.out,
                resume: args.resume,
                backbone: args.on.backbone,
                letterbox: args.on.letterbox,
                method: match args.method {
                    Tuned::Full => Method::Full,
                    Tuned::Lora => Method::Lora(LoraConfig { rank: args.rank, alpha: args.alpha }),
                },
                steps: args.steps,
                batch: args.batch,
                lr: args.lr,
                memory: args.memory.map(bytes),
                seed: args.on.seed,
                device: args.on.device,
            }),
            Self::OpenLoop(args) => PolicyAction::OpenLoop(OpenLoopRequest {
                checkpoint: args.on.checkpoint,
                dataset: args.on.dataset,
                embodiment: args.on.embodiment,
                out: args.out,
                backbone: args.on.backbone,
                adapter: args.adapter,
                letterbox: args.on.letterbox,
                episodes: args.episodes,
                stride: args.stride,
                seed: args.on.seed,
                device: args.on.device,
            }),
            Self::Tiny { dir, seed } => PolicyAction::Tiny { dir, seed },
        }
    }
}
