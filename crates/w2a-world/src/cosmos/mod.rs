//! Cosmos-Predict2 Video2World: the world model of the paper.
//!
//! The networks are `dit` (what denoises), `vae` (frames to latents and back) and `t5` (what embeds prompts); `sampler` turns
//! noise into latents, starting from NumPy's random numbers (`numpy`). Sizes follow from the tensors of a checkpoint, which
//! `source` finds under the authors' names or those of diffusers (`names`). `flow` is the loss that a DiT is fine-tuned with, on
//! latents and embedded prompts alone.

mod compute;
mod dit;
mod embed;
mod flow;
mod folder;
pub mod memory;
mod names;
mod numpy;
pub mod parity;
mod prompts;
mod rope;
mod sampler;
mod shards;
mod source;
mod t5;
pub mod tiny;
mod train_parity;
mod vae;
mod weights;
mod words;
mod world;

pub use compute::Compute;
pub use dit::{Activations, Differentiated, Dit, DitConfig, DitInput, DitOptions};
pub use embed::PromptEncoder;
pub use flow::{FlowLoss, LossWeight, NoisyClip};
pub use folder::CosmosFolder;
pub use names::Weighting;
pub use numpy::RandomState;
pub use prompts::{Embedding, MOST_WORDS, PromptStore};
pub use rope::RopeRatios;
pub use sampler::{Conditions, Evaluation, SamplerConfig, noise, sample};
pub use source::{LowRank, Projection, Tensors};
pub use t5::{FeedForward, T5Config, T5Encoder, Tokens};
pub use train_parity::cosmos_train;
pub use vae::{Tiling, Vae, VaeConfig};
pub use weights::DitWeights;
pub use world::{CHUNK, Cosmos, CosmosConfig};
