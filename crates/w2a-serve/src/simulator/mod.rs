//! Simulators that speak Python: worker processes with environments, watched and started again, and evaluation in them.

mod environment;
mod evaluate;
mod process;
mod protocol;
mod settings;

pub use environment::{WorkerEnvironment, WorkerSetup};
pub use evaluate::{Episode, EpisodeOutcome, Evaluation, MAX_ATTEMPTS, evaluate};
pub use process::{Command, WorkerSpec};
pub use protocol::{EvalProtocol, SimulatorKind};
pub use settings::{EvalSettings, Flip, Gripper, GymSettings, InitialStates, Settings};

use std::io;

use crate::ServeError;

/// What can go wrong around a simulator. None of it is the policy's doing, but for [`Self::Policy`].
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// A worker does not start.
    #[error("starting a simulator worker ({command}): {reason}; see {log}, and {install}")]
    Start {
        /// What was started.
        command: String,
        /// Why it does not run.
        reason: String,
        /// Where its own words are.
        log: String,
        /// Where it is said how to install it.
        install: &'static str,
    },
    /// A worker is gone, or says nothing any more.
    #[error("a simulator worker was lost: {reason}")]
    Lost {
        /// How.
        reason: String,
    },
    /// A worker that answers something else than was asked for.
    #[error(
        "a simulator worker answered {got}, expected {expected}; its package has another version than this program"
    )]
    Answer {
        /// What was asked for.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// The policy, or its server.
    #[error(transparent)]
    Policy(#[from] ServeError),
    /// Files of workers.
    #[error("{action} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl SimulatorError {
    pub(crate) fn io(action: &'static str, source: io::Error) -> Self {
        Self::Io { action, source }
    }

    pub(crate) fn lost(reason: impl std::fmt::Display) -> Self {
        Self::Lost { reason: reason.to_string() }
    }

    /// Whether the user can mend it (exit code 2), or it is ours or the machine's (exit code 1).
    pub fn is_users_mistake(&self) -> bool {
        match self {
            Self::Start { .. } | Self::Answer { .. } => true,
            Self::Policy(error) => error.is_users_mistake(),
            Self::Lost { .. } | Self::Io { .. } => false,
        }
    }
}
