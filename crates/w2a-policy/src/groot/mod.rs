//! GR00T-N1.6: NVIDIA's vision-language-action model, from the checkpoint directory that its Python code loads.
//!
//! Every dimension comes from the checkpoint. Shapes, names and quirks follow Isaac-GR00T at commit 92f523db, compared
//! number by number with `doctor --parity`; see `docs/formats.md`.

pub mod action_head;
mod adapt;
pub mod backbone;
pub mod category;
pub mod checkpoint;
pub mod dit;
pub mod image;
pub mod language;
pub mod layers;
pub mod modality;
pub mod normalise;
pub mod parity;
mod policy;
mod pose;
pub mod prompt;
mod random;
pub mod source;
pub mod tokenizer;
mod tune;
pub mod vision;

pub use modality::Modalities;
pub use policy::{Groot, GrootObservation, GrootOptions, Video};
pub use random::{RandomSize, write_random};
pub use tune::HeadTuning;

use w2a_nn::NnError;

/// An input that does not fit.
pub(crate) fn wrong(what: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> NnError {
    NnError::Input { what: what.into(), expected: expected.into(), got: got.into() }
}
