//! Why a dataset could not be written or read.

use std::path::PathBuf;

use crate::video::VideoError;
use crate::{EpisodeError, StatisticsError};

/// A dataset that cannot be written or read; every message names the file and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file system refused.
    #[error("{operation} {}: {source}; check that the path exists, is writable and the disk is not full", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The folder to write exists.
    #[error("creating dataset {}: the path already exists; choose another one or remove it", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process is writing the same dataset.
    #[error("creating dataset {}: another process is writing it; wait for it or choose another path", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// No `meta/info.json`.
    #[error("opening dataset {}: there is no meta/info.json; is this the root of a LeRobot dataset?", path.display())]
    NotADataset {
        /// The folder.
        path: PathBuf,
    },
    /// A version this crate does not know.
    #[error("opening {}: codebase_version is {got:?}, expected \"v2.1\" or \"v3.0\"; convert the dataset with LeRobot", file.display())]
    Version {
        /// The file that says so.
        file: PathBuf,
        /// The version found.
        got: String,
    },
    /// A file that the metadata speaks of is not there.
    #[error("opening dataset: {} is missing, though {needed_by} needs it; the copy or download is incomplete", file.display())]
    Missing {
        /// The missing file.
        file: PathBuf,
        /// What needs it.
        needed_by: String,
    },
    /// Metadata is no valid JSON, or not of the expected form.
    #[error("reading {}, line {line}: {source}; the file is damaged or not LeRobot's", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A path template is malformed or leaves the dataset's folder.
    #[error("reading {}: path template {template:?} {reason}; the file is damaged or hostile", file.display())]
    Template {
        /// The file that holds the template.
        file: PathBuf,
        /// The template.
        template: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of a file contradicts its metadata or what this crate can read.
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
    /// A parquet file is damaged or uses a feature that is not built in.
    #[error("{operation} {}: {source}; the file is truncated, damaged or compressed with something other than snappy", file.display())]
    Parquet {
        /// What was tried.
        operation: &'static str,
        /// The file.
        file: PathBuf,
        /// The parquet library's reason.
        source: parquet::errors::ParquetError,
    },
    /// An image cannot be decoded or encoded.
    #[error("{}: episode {episode}, frame {frame}, camera {camera:?}: {reason}; drop the episode or restore the file", file.display())]
    Image {
        /// The file.
        file: PathBuf,
        /// Which episode.
        episode: usize,
        /// Which frame of the episode.
        frame: usize,
        /// Which camera.
        camera: String,
        /// What is wrong.
        reason: String,
    },
    /// The video of an episode cannot be read or written.
    #[error("episode {episode}, {place}: {source}")]
    Video {
        /// Which episode.
        episode: usize,
        /// Which camera, and which frame where one is meant.
        place: String,
        /// What is wrong, with the file.
        source: Box<VideoError>,
    },
    /// A value is NaN or infinite.
    #[error("{}: episode {episode}, frame {frame}: {feature:?} is not finite; drop the episode or repair the recording", file.display())]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// Which episode.
        episode: usize,
        /// Which frame of the episode.
        frame: usize,
        /// Which feature.
        feature: String,
    },
    /// The specification of a new dataset is not usable.
    #[error("creating a dataset: {what}")]
    Specification {
        /// What is wrong and what is allowed.
        what: String,
    },
    /// An episode that is no part of the dataset's specification.
    #[error(
        "writing episode {source_name:?}: {what} is {got}, the dataset has {expected}; write it to another dataset"
    )]
    Episode {
        /// Which episode.
        source_name: String,
        /// Which part.
        what: String,
        /// What the episode has.
        got: String,
        /// What the dataset has.
        expected: String,
    },
    /// The parts of an episode do not fit together.
    #[error("writing an episode: {0}")]
    Inconsistent(#[from] EpisodeError),
    /// No statistics can be made.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// No such episode.
    #[error("reading dataset {}: episode {index} does not exist, the dataset has {episodes}", path.display())]
    NoSuchEpisode {
        /// The dataset's folder.
        path: PathBuf,
        /// The index asked for.
        index: usize,
        /// Number of episodes.
        episodes: usize,
    },
    /// No such step.
    #[error("reading dataset {}: episode {episode} has no frame {frame}, it has {frames}", path.display())]
    NoSuchStep {
        /// The dataset's folder.
        path: PathBuf,
        /// Which episode.
        episode: usize,
        /// The frame asked for, counted from 0.
        frame: usize,
        /// Number of frames.
        frames: usize,
    },
    /// A writer that failed before was used again.
    #[error("writing dataset {}: an earlier write failed, so the dataset is incomplete; start it again", path.display())]
    Poisoned {
        /// The dataset's folder.
        path: PathBuf,
    },
}

impl DatasetError {
    /// Attaches operation and path to an I/O error.
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// Attaches operation and file to a parquet error.
    pub(super) fn parquet(
        operation: &'static str,
        file: impl Into<PathBuf>,
    ) -> impl FnOnce(parquet::errors::ParquetError) -> Self {
        let file = file.into();
        move |source| Self::Parquet { operation, file, source }
    }

    /// Attaches the episode and the place in it to the error of a video.
    pub(super) fn video(episode: usize, place: impl Into<String>) -> impl FnOnce(VideoError) -> Self {
        let place = place.into();
        move |source| Self::Video { episode, place, source: Box::new(source) }
    }

    /// A [`DatasetError::Mismatch`].
    pub(super) fn mismatch(
        file: impl Into<PathBuf>,
        what: impl Into<String>,
        got: impl std::fmt::Display,
        expected: impl std::fmt::Display,
        next_step: &'static str,
    ) -> Self {
        Self::Mismatch {
            file: file.into(),
            what: what.into(),
            got: got.to_string(),
            expected: expected.to_string(),
            next_step,
        }
    }
}
