//! `world finetune`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use w2a_pipeline::{Activations, CameraLayout, LossWeight, Rig};

use super::world::rigs;

pub const FINETUNE_HELP: &str = "\
Needs --world.kind=cosmos --world.path=DIR with the folder of a checkpoint; its settings are those of `world imagine`, of which
--world.frame and --world.latent_frames also say what is trained on. --data is a LeRobot dataset, such as `world2act skills`
writes, or HDF5 demonstrations, whose instructions are the prompts; or a folder with metadata.csv (video,prompt) beside videos/
with the mp4 files, as in the release of the method. Prompts are embedded with T5 unless they were before. Episodes longer than a
clip are several clips, shorter ones are held on their last frame. Videos are encoded once, and prompts embedded once.
--world.dtype=bf16 computes in bf16 on devices that have it; what is trained stays f32.

--out gets the log, checkpoints, samples (what happened beside what was imagined), with LoRA the adapter in PEFT's form, and
model, a folder for --world.path with the tuned network. The memory that is needed is said before anything is computed.

Examples:
  world2act world finetune --world.kind=cosmos --world.path=Cosmos-Predict2-2B-Video2World --data skills --out runs/wm --views libero
  world2act world finetune --world.kind=cosmos --world.path=Cosmos-Predict2-2B-Video2World --data skills --out runs/wm --resume
  world2act world imagine frames --world.kind=cosmos --world.path=runs/wm/model --out imagined --views libero";

/// Bytes of so many GiB.
pub fn bytes(gib: f64) -> u64 {
    (gib * f64::from(1 << 30)) as u64
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tuned {
    /// Changes of low rank, a few per cent of the weights
    Lora,
    /// All weights
    Full,
}

/// `world finetune`.
#[derive(Clone, Debug, Args)]
pub struct WorldFinetuneArgs {
    /// Demonstrations with video: a LeRobot dataset, an HDF5 file, a folder of HDF5 files, or one with metadata.csv and videos
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Folder for the model, the log, samples and the training's checkpoints
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Continue the training in --out
    #[arg(long)]
    pub resume: bool,
    /// Keep encoded clips here, to be shared with other trainings [default: latents in --out]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// How several cameras become one picture: grid-2x2 or side-by-side
    #[arg(long, value_name = "NAME", default_value = "grid-2x2", value_parser = layouts())]
    pub layout: CameraLayout,
    /// Name the views of this robot's 2x2 grid image in every prompt, as in `world imagine`
    #[arg(long, value_name = "ROBOT", value_parser = rigs())]
    pub views: Option<Rig>,
    /// What is trained
    #[arg(long, value_enum, default_value_t = Tuned::Lora)]
    pub method: Tuned,
    /// With LoRA: rank of the change of each layer
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub rank: u16,
    /// With LoRA: the change is scaled by alpha / rank
    #[arg(long, value_name = "X", default_value_t = 16.0)]
    pub alpha: f32,
    /// Activations of a backward pass: recompute (gradient checkpointing) or keep (faster, more memory, the same bits)
    #[arg(long, value_name = "HOW", default_value = "recompute", value_parser = activations())]
    pub activations: Activations,
    /// How noise levels count: flow (evenly on the velocity) or release (as in the code of cosmos-predict2 1.0.9)
    #[arg(long, value_name = "NAME", default_value = "flow", value_parser = loss_weights())]
    pub loss_weight: LossWeight,
    /// Share of clips that are shown without their prompt
    #[arg(long, value_name = "X", default_value_t = 0.2)]
    pub prompt_dropout: f32,
    /// Updates
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub steps: usize,
    /// Clips an update, one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: usize,
    /// Peak learning rate [default: 2^-14.5]
    #[arg(long, value_name = "X")]
    pub lr: Option<f32>,
    /// Updates of linear warm-up, before half a cosine [default: a tenth of --steps, at most 1000]
    #[arg(long, value_name = "N")]
    pub warmup: Option<usize>,
    /// Decay of the moving average of what is trained, which is what comes out: it looks back over 1 / (1 - X) updates; 0 for
    /// none
    #[arg(long, value_name = "X", default_value_t = 0.999)]
    pub ema: f32,
    /// Imagine and decode a few clips after every N updates and at the end; 0 for never
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub sample_every: usize,
    /// Clips of such a sample
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub samples: u16,
    /// Write the model as bf16, as the released ones are; small changes are lost in rounding [default: f32]
    #[arg(long)]
    pub bf16: bool,
    /// Memory to stay within, in GiB [default: that of the machine]
    #[arg(long, value_name = "GIB")]
    pub memory: Option<f64>,
    /// Seed of all random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Device of the networks
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: String,
}

fn layouts() -> impl TypedValueParser<Value = CameraLayout> {
    named(CameraLayout::ALL.map(|layout| (layout.name(), layout)).into())
}

fn activations() -> impl TypedValueParser<Value = Activations> {
    named(vec![("recompute", Activations::Recompute), ("keep", Activations::Keep)])
}

fn loss_weights() -> impl TypedValueParser<Value = LossWeight> {
    named(vec![("flow", LossWeight::Flow), ("release", LossWeight::Release)])
}

/// Values by name.
fn named<T: Clone + Send + Sync + 'static>(all: Vec<(&'static str, T)>) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(|(name, _)| *name).collect::<Vec<_>>()).try_map(move |name| {
        // Names come from the list, so one of them is found.
        all.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()).ok_or("no such value")
    })
}
