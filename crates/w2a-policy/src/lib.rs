//! Policies: what turns an observation and an instruction into a chunk of actions.
//!
//! [`Policy`] is all that the rest of the tool knows; [`MiniPolicy`] is the embedded benchmark's, trained by behaviour
//! cloning and frozen afterwards; [`groot::Groot`] is NVIDIA's, from its checkpoints; [`ZeroPolicy`], [`RandomPolicy`] and
//! [`ReplayPolicy`] are for checking an environment, [`SlowPolicy`] for asking what a difference in pace does;
//! [`Strided`] is for environments that carry several actions out at once.

pub mod groot;
mod mini;
mod sanity;
mod slow;
mod strided;
mod train;

pub use mini::{MiniPolicy, MiniPolicyConfig, PolicyNet};
pub use sanity::{RandomPolicy, ReplayPolicy, ZeroPolicy};
pub use slow::SlowPolicy;
pub use strided::Strided;
pub use train::{DemonstrationSet, train_policy};

use burn::tensor::Tensor;
use w2a_data::{Normaliser, Observation};
use w2a_nn::{Linear, NnError};

/// A policy, frozen: batched observations to action chunks.
pub trait Policy {
    /// Actions per chunk.
    fn horizon(&self) -> usize;

    /// Width of one action.
    fn action_dim(&self) -> usize;

    /// The next chunk for each environment of the batch, in environment order.
    ///
    /// # Shapes
    /// Returns `[batch, horizon, action_dim]` row-major, in the environment's units.
    ///
    /// # Errors
    /// Observations that do not fit, or a device that fails.
    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError>;

    /// Forgets everything about all environments; called before every batch of episodes.
    fn reset(&mut self);
}

/// A policy whose linear layers can be adapted by name, and whose actions have gradients in their weights.
///
/// Adapting is done on a clone: a layer's weight may be replaced by any tensor of its shape, also by one that is computed
/// from parameters of others.
pub trait AdaptablePolicy: Policy + Clone {
    /// Every linear layer with its name, in a fixed order. Names are unique and those of the policy's checkpoint, such as
    /// `trunks.0.embed`.
    fn linear_layers(&mut self) -> Vec<(String, &mut Linear)>;

    /// What [`Policy::act`] returns before it is denormalised, as a tensor: `[batch, horizon * action_dim]`.
    ///
    /// # Errors
    /// Observations that do not fit.
    fn forward(&self, observations: &[Observation], instructions: &[&str]) -> Result<Tensor<2>, NnError>;

    /// Normalises its actions; `None` if what an action means depends on the state before it.
    fn action_normaliser(&self) -> Option<&Normaliser>;
}
