//! Stage 2: a residual policy in the shared space, trained towards what the world model imagined (paper, section 3.3); and
//! the baselines it is compared with.

mod alignment;
mod bender;
mod control;
mod decision;
mod dreamgen;
#[cfg(test)]
mod fixtures;
mod form;
mod gain;
mod idm;
mod lesson;
mod lora;
mod objective;
pub mod peft;
mod residual;
mod rollout;
mod train;

pub use alignment::{Aligned, Alignment, PathEnd, TimeWarp};
pub use bender::{Bender, BenderConfig};
pub use control::{Controller, Decision, Decoding, PolicyControl, ResidualControl, normalise};
pub use decision::{FastChunk, FastDecision};
pub use dreamgen::{interpolate, pseudo_episodes};
pub use form::{Form, Residual};
pub use gain::{GainChoice, choose_gain, executed_distance, video_distance};
pub use idm::{Idm, IdmConfig, IdmNet, train_idm};
pub use lesson::{Lesson, Update, update_residual};
pub use lora::{Lora, LoraConfig, train_lora};
pub use objective::{Objective, ObjectiveConfig};
pub use residual::{PreparedResidual, ResidualBatch, ResidualConfig, ResidualNet};
pub use rollout::{Record, Rollout, rollout};
pub use train::{Frozen, PosttrainConfig, Target, train_residual};
