//! Stage 1: adapters that put world-model latents and action chunks into one small shared space (paper, section 3.2).
//!
//! [`Adapters`] holds the three networks: `B_v` (latents → z), `B_a` (action chunks → z) and `D_a` (z → action chunks).
//! [`train_adapters`] fits them on labelled demonstrations; afterwards they are frozen.

mod adapters;
mod diagnostics;
mod losses;
mod train;

pub use adapters::{AdapterConfig, Adapters, FrozenAdapters, Pooling};
pub use diagnostics::{Diagnostics, diagnose};
pub use losses::{LossConfig, Similarity, cosine, info_nce, similarity, unit};
pub use train::{AlignConfig, AlignedEpisode, train_adapters};
