//! Cosmos-Predict2 Video2World: the world model of the paper.
//!
//! The networks are `dit` (what denoises), `vae` (frames to latents and back) and `t5` (what embeds prompts); `sampler` turns
//! noise into latents, starting from NumPy's random numbers (`numpy`). Sizes follow from the tensors of a checkpoint, which
//! `source` finds under the authors' names or those of diffusers (`names`).

mod dit;
mod embed;
mod folder;
mod names;
mod numpy;
pub mod parity;
mod prompts;
mod rope;
mod sampler;
mod source;
mod t5;
pub mod tiny;
mod vae;
mod world;

pub use dit::{Dit, DitConfig, DitInput, DitOptions};
pub use embed::PromptEncoder;
pub use folder::CosmosFolder;
pub use names::Weighting;
pub use numpy::RandomState;
pub use prompts::{Embedding, MOST_WORDS, PromptStore};
pub use rope::RopeRatios;
pub use sampler::{Conditions, Evaluation, SamplerConfig, noise, sample};
pub use source::{Projection, Tensors};
pub use t5::{FeedForward, T5Config, T5Encoder, Tokens};
pub use vae::{Vae, VaeConfig};
pub use world::{Cosmos, CosmosConfig};
