//! What can end a run.

use std::io;
use std::path::PathBuf;

use w2a_data::ConvertError;
use w2a_nn::NnError;
use w2a_report::{EvalError, ManifestError, MetricsError};

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
    /// The folder holds something else.
    #[error("{path} is not empty and holds no run of this program (it has no config.toml); choose another --out")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be made or written to.
    #[error("{path} cannot hold a run: {source}; {}", folder_hint(.source))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause; names the path.
        source: io::Error,
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
    /// Demonstrations of any format.
    #[error(transparent)]
    Source(Box<w2a_data::SourceError>),
    /// Videos with their prompts.
    #[error(transparent)]
    Layout(Box<w2a_data::LayoutError>),
    /// A conversion.
    #[error(transparent)]
    Convert(Box<ConvertError>),
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
    /// A video file.
    #[error(transparent)]
    Video(#[from] w2a_data::video::VideoError),
    /// A policy server, or a client of one.
    #[error(transparent)]
    Serve(Box<w2a_serve::ServeError>),
    /// A simulator in worker processes.
    #[error(transparent)]
    Workers(Box<w2a_serve::simulator::SimulatorError>),
    /// An input of an imagination.
    #[error(transparent)]
    Imagine(#[from] crate::ImagineError),
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
            | Self::Occupied { .. }
            | Self::Changed { .. }
            | Self::Artifact { .. }
            | Self::Data(_)
            | Self::Imagine(_)
            | Self::Source(_)
            | Self::Layout(_)
            | Self::Video(_)
            | Self::Manifest(ManifestError::Parse { .. })
            | Self::Metrics(MetricsError::Parse { .. } | MetricsError::Exists { .. })
            | Self::Eval(EvalError::Parse { .. }) => true,
            Self::Convert(error) => !matches!(**error, ConvertError::Io { .. }),
            Self::Serve(error) => error.is_users_mistake(),
            Self::Workers(error) => error.is_users_mistake(),
            Self::Folder { source, .. } => source.kind() != io::ErrorKind::StorageFull,
            Self::Model(error) => match error {
                NnError::Io { source, .. } => matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
                ),
                NnError::Diverged { .. } | NnError::Device { .. } => false,
                _ => true,
            },
            _ => false,
        }
    }
}

// Boxed: they name several paths, and every result of this crate would be as large.
impl From<w2a_data::SourceError> for PipelineError {
    fn from(error: w2a_data::SourceError) -> Self {
        Self::Source(Box::new(error))
    }
}

impl From<w2a_data::LayoutError> for PipelineError {
    fn from(error: w2a_data::LayoutError) -> Self {
        Self::Layout(Box::new(error))
    }
}

impl From<ConvertError> for PipelineError {
    fn from(error: ConvertError) -> Self {
        Self::Convert(Box::new(error))
    }
}

fn folder_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "the disk is full: free space, or choose another --out",
        _ => "choose another --out",
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use w2a_nn::NnError;

    use super::PipelineError;

    fn missing_or_denied(kind: io::ErrorKind) -> PipelineError {
        NnError::Io { action: "loading weights", source: kind.into() }.into()
    }

    #[test]
    fn a_missing_file_is_the_users_and_says_what_to_do_but_a_failing_disk_is_not() {
        let missing = missing_or_denied(io::ErrorKind::NotFound);
        assert!(missing.is_users_mistake() && missing.to_string().contains("--resume"), "{missing}");
        assert!(!missing_or_denied(io::ErrorKind::Other).is_users_mistake());
        let full = |kind: io::ErrorKind| PipelineError::Folder { path: "run".into(), source: kind.into() };
        assert!(full(io::ErrorKind::PermissionDenied).is_users_mistake());
        assert!(!full(io::ErrorKind::StorageFull).is_users_mistake());
    }

    #[test]
    fn damaged_files_of_a_run_are_the_users() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        std::fs::write(&path, "{\"version\":").unwrap();
        let manifest: PipelineError = w2a_report::Manifest::load(&path).unwrap_err().into();
        assert!(manifest.is_users_mistake() && manifest.to_string().contains("delete it"), "{manifest}");
        std::fs::write(folder.path().join("metrics.jsonl"), "{}\n").unwrap();
        let metrics: PipelineError = w2a_report::read_metrics(folder.path()).unwrap_err().into();
        assert!(metrics.is_users_mistake(), "{metrics}");
    }
}
