//! Why an HDF5 file of demonstrations could not be read.

use std::path::{Path, PathBuf};

use crate::EpisodeError;

/// An HDF5 file that cannot be read; every message names the file, the object inside of it and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Hdf5Error {
    /// The file system refused.
    #[error("{operation} {}: {source}; check that the path exists and is readable", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A folder without any HDF5 file.
    #[error("opening {}: there is no file that ends in .hdf5 or .h5 below it; give the folder of the demonstrations", path.display())]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// Not HDF5 at all, or cut off in its first bytes.
    #[error("opening {}: it does not begin as an HDF5 file does; the copy is damaged or it is another format", file.display())]
    NotHdf5 {
        /// The file.
        file: PathBuf,
    },
    /// Written with a newer layout than this crate reads.
    #[error(
        "reading {}: {object} was written with libver='latest' (data layout version {version}); copy the file with h5py \
         without `libver`, whose files have layout version 3 or 4",
        file.display()
    )]
    TooNew {
        /// The file.
        file: PathBuf,
        /// Which object in it.
        object: String,
        /// Version of the data layout.
        version: u8,
    },
    /// The HDF5 library cannot make sense of it.
    #[error("reading {}: {object}: {reason}; the file is truncated, damaged or not closed by its writer", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Which object in it.
        object: String,
        /// The library's reason.
        reason: String,
    },
    /// Something that every such file has is not there.
    #[error("reading {}: {object} is missing; {next_step}", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// Which object.
        object: String,
        /// What to do.
        next_step: &'static str,
    },
    /// A part of the file is not of the form its source has.
    #[error("reading {}: {what} is {got}, expected {expected}; {next_step}", file.display())]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// Which part.
        what: String,
        /// What was found.
        got: String,
        /// What was expected.
        expected: String,
        /// What to do.
        next_step: &'static str,
    },
    /// The parts of a demonstration do not fit together, or a value is not finite.
    #[error("reading {}: {source}", file.display())]
    Episode {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: EpisodeError,
    },
    /// No such demonstration.
    #[error("reading {}: demonstration {index} does not exist, there are {demos}", path.display())]
    NoSuchDemo {
        /// What was opened.
        path: PathBuf,
        /// The index asked for.
        index: usize,
        /// Number of demonstrations.
        demos: usize,
    },
}

impl Hdf5Error {
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }

    pub(super) fn mismatch(
        file: &Path,
        what: impl Into<String>,
        got: impl std::fmt::Display,
        expected: impl std::fmt::Display,
        next_step: &'static str,
    ) -> Self {
        Self::Mismatch {
            file: file.to_owned(),
            what: what.into(),
            got: got.to_string(),
            expected: expected.to_string(),
            next_step,
        }
    }

    /// The file that the error is about.
    pub fn file(&self) -> &Path {
        match self {
            Self::Io { path, .. } | Self::NoFiles { path } | Self::NoSuchDemo { path, .. } => path,
            Self::NotHdf5 { file }
            | Self::TooNew { file, .. }
            | Self::Damaged { file, .. }
            | Self::Missing { file, .. }
            | Self::Mismatch { file, .. }
            | Self::Episode { file, .. } => file,
        }
    }
}
