//! Policies: what turns an observation and an instruction into a chunk of actions.
//!
//! [`Policy`] is all that the rest of the tool knows; [`MiniPolicy`] is the embedded benchmark's, trained by behaviour
//! cloning and frozen afterwards; [`ZeroPolicy`], [`RandomPolicy`] and [`ReplayPolicy`] are for checking an environment,
//! [`SlowPolicy`] for asking what a difference in pace does.

mod mini;
mod sanity;
mod slow;
mod train;

pub use mini::{MiniPolicy, MiniPolicyConfig, PolicyNet};
pub use sanity::{RandomPolicy, ReplayPolicy, ZeroPolicy};
pub use slow::SlowPolicy;
pub use train::{DemonstrationSet, train_policy};

use w2a_data::Observation;
use w2a_nn::NnError;

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
