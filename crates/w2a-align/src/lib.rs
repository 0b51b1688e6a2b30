//! Stage 1: adapters that put world-model latents and action chunks into one small shared space (paper, section 3.2).
//!
//! [`Adapters`] holds the three networks: `B_v` (latents → z), `B_a` (action chunks → z) and `D_a` (z → action chunks), in
//! the paper's form ([`MlpAdapters`]) or in that of the authors' released code ([`ActionVae`]). [`train_adapters`] fits
//! them on labelled demonstrations; afterwards they are frozen. [`parity`] compares both with reference numbers.

mod action_vae;
mod adapters;
mod decoder;
mod diagnostics;
mod losses;
mod mlp;
pub mod parity;
mod taps;
mod train;
mod vae;

pub use action_vae::{ActionVae, kl_divergence, reparameterise};
pub use adapters::{AdapterConfig, AdapterKind, Adapters, FrozenAdapters, Pooling};
pub use decoder::Decoder;
pub use diagnostics::{Diagnostics, diagnose};
pub use losses::{
    Contrast, ContrastTerms, LossConfig, LossVariant, Negatives, Similarity, cosine, info_nce, marginal_similarity,
    similarity, unit,
};
pub use mlp::MlpAdapters;
pub use train::{AlignConfig, AlignedEpisode, train_adapters};
pub use vae::{Coded, Padding, VaeBatch, VaeConfig, VaeTerms, vae_loss};
