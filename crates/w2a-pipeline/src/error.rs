//! What can end a run.

use std::io;
use std::path::PathBuf;

use w2a_nn::NnError;

/// An error of a run; says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A configuration value that cannot be.
    #[error("{key}: expected {expected}, got {got}")]
    Config {
        /// The field, dotted.
        key: String,
        /// What would do.
        expected: String,
        /// What is there.
        got: String,
    },
    /// The folder already holds a run.
    #[error("{path} already holds a run; add --resume to continue it, or choose another --out")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A run is continued with another configuration.
    #[error("{path} was started with another configuration: {difference}; restore it, or choose another --out")]
    Changed {
        /// The folder.
        path: PathBuf,
        /// The first difference.
        difference: String,
    },
    /// A model, a training or a checkpoint.
    #[error(transparent)]
    Model(#[from] NnError),
    /// A dataset.
    #[error(transparent)]
    Data(#[from] w2a_data::DatasetError),
    /// The simulator.
    #[error(transparent)]
    Simulator(#[from] w2a_sim::SimError),
    /// The log of metrics.
    #[error(transparent)]
    Metrics(#[from] w2a_report::MetricsError),
    /// The evaluation's summary.
    #[error(transparent)]
    Eval(#[from] w2a_report::EvalError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] w2a_report::ManifestError),
    /// A picture of the report.
    #[error(transparent)]
    Image(#[from] w2a_report::ImageError),
    /// A file of the run that should be there and is not, or is not readable.
    #[error(
        "{path}: {reason}; it belongs to the {stage} stage: delete the file and run that stage again with --resume"
    )]
    Artifact {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// Which stage writes it.
        stage: &'static str,
    },
    /// A file could not be read or written.
    #[error("{action} failed: {source}{}", if source.kind() == io::ErrorKind::StorageFull { "; the disk is full: free space and run again with --resume, nothing computed is lost" } else { "" })]
    Io {
        /// What was being done.
        action: &'static str,
        /// The cause; names the path.
        source: io::Error,
    },
}

impl PipelineError {
    pub(crate) fn io(action: &'static str, source: io::Error) -> Self {
        Self::Io { action, source }
    }

    /// Whether the user can mend it (exit code 2) or it is ours or the machine's (exit code 1).
    pub fn is_users_mistake(&self) -> bool {
        match self {
            Self::Config { .. }
            | Self::Exists { .. }
            | Self::Changed { .. }
            | Self::Artifact { .. }
            | Self::Data(_) => true,
            Self::Model(error) => {
                !matches!(error, NnError::Diverged { .. } | NnError::Device { .. } | NnError::Io { .. })
            }
            _ => false,
        }
    }
}
