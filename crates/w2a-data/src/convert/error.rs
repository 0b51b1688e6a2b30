//! Why a conversion failed.

use std::path::PathBuf;

use crate::{DatasetError, SourceError, StatisticsError};

/// A conversion that did not happen; the output does not exist then.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// Options that do not fit together.
    #[error("converting: {what}")]
    Options {
        /// What is wrong and what would do.
        what: &'static str,
    },
    /// The output exists.
    #[error("converting to {}: the path already exists; choose another one or remove it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Not one episode could be read.
    #[error("converting {}: no episode can be read; the first says: {first}", input.display())]
    NothingLeft {
        /// The input.
        input: PathBuf,
        /// Why the first episode cannot be read.
        first: String,
    },
    /// The input.
    #[error("{0}; add --skip-bad to leave such episodes out")]
    Episode(Box<SourceError>),
    /// The input could not be opened.
    #[error(transparent)]
    Source(Box<SourceError>),
    /// The output.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Statistics of the output.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// The file system refused.
    #[error("{operation} {}: {source}; check that the path is writable and the disk is not full", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}
