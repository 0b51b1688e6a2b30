//! The subcommands of `policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use w2a_pipeline::{FinetuneRequest, LoraConfig, OpenLoopRequest, PolicyInfoRequest};

use super::RunArgs;

/// What to do with a policy of others.
#[derive(Clone, Debug)]
pub enum PolicyAction {
    /// Say what a checkpoint expects and gives.
    Info(PolicyInfoRequest),
    /// Train a LoRA adapter for it.
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
    /// Train a LoRA adapter for the action head of a GR00T-N1.6 checkpoint on demonstrations
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

#[derive(Debug, Args)]
pub(super) struct OpenLoopArgs {
    /// Directory of the checkpoint
    checkpoint: PathBuf,
    /// A LeRobot dataset with meta/modality.json, or HDF5 demonstrations
    dataset: PathBuf,
    /// Tag of the embodiment, such as libero_panda
    #[arg(long, value_name = "TAG")]
    embodiment: String,
    /// Folder for open_loop.html and open_loop.json; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder with the tokenizer, if it is not with the checkpoint: Eagle-Block2A-2B-v2 of NVIDIA/Isaac-GR00T
    #[arg(long, value_name = "DIR")]
    backbone: Option<PathBuf>,
    /// Folder of a LoRA adapter, such as one of `policy finetune`
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Pad frames to squares, as later versions of the reference do; the release does not
    #[arg(long)]
    letterbox: bool,
    /// Replay the first N episodes
    #[arg(long, value_name = "N", default_value_t = 1)]
    episodes: usize,
    /// Ask the policy every N steps [default: its horizon]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Seed of the policy's noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Device of the networks
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
}

#[derive(Debug, Args)]
pub(super) struct FinetuneArgs {
    /// Directory of the checkpoint
    checkpoint: PathBuf,
    /// A LeRobot dataset with meta/modality.json
    dataset: PathBuf,
    /// Tag of the embodiment, such as libero_panda
    #[arg(long, value_name = "TAG")]
    embodiment: String,
    /// Folder for the adapter, the log and the training's checkpoints
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Continue the training in --out
    #[arg(long)]
    resume: bool,
    /// Folder with the tokenizer, if it is not with the checkpoint: Eagle-Block2A-2B-v2 of NVIDIA/Isaac-GR00T
    #[arg(long, value_name = "DIR")]
    backbone: Option<PathBuf>,
    /// Pad frames to squares, as later versions of the reference do; the release does not
    #[arg(long)]
    letterbox: bool,
    /// Rank of the change of each layer
    #[arg(long, value_name = "N", default_value_t = 16)]
    rank: usize,
    /// The change is scaled by alpha / rank
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
    /// Seed of the adapter, the samples, the noise and the times
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Device of the networks
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
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
                checkpoint: args.checkpoint,
                dataset: args.dataset,
                embodiment: args.embodiment,
                out: args.out,
                resume: args.resume,
                backbone: args.backbone,
                letterbox: args.letterbox,
                lora: LoraConfig { rank: args.rank, alpha: args.alpha },
                steps: args.steps,
                batch: args.batch,
                lr: args.lr,
                seed: args.seed,
                device: args.device,
            }),
            Self::OpenLoop(args) => PolicyAction::OpenLoop(OpenLoopRequest {
                checkpoint: args.checkpoint,
                dataset: args.dataset,
                embodiment: args.embodiment,
                out: args.out,
                backbone: args.backbone,
                adapter: args.adapter,
                letterbox: args.letterbox,
                episodes: args.episodes,
                stride: args.stride,
                seed: args.seed,
                device: args.device,
            }),
            Self::Tiny { dir, seed } => PolicyAction::Tiny { dir, seed },
        }
    }
}
