//! Why a video could not be read or written.

use std::path::{Path, PathBuf};

/// A video that cannot be read or written; every message names the file and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    /// The file system refused.
    #[error("{operation} {}: {source}; check that the path exists, is readable and the disk is not full", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The program that decodes and encodes is not there.
    #[error(
        "looking for ffmpeg: {what}; install ffmpeg 5.1 or newer (with libsvtav1 and libx264 for writing) or set \
         WORLD2ACT_FFMPEG to the program"
    )]
    NoFfmpeg {
        /// Where it was looked for, and what was found.
        what: String,
    },
    /// The file is no whole mp4 file.
    #[error("reading {}: {what}; the file is truncated or damaged: copy or download it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file is whole, and of a kind that is not read.
    #[error("reading {}: {what} is {got}, expected {expected}; convert the video with ffmpeg", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
        /// What was found.
        got: String,
        /// What is read.
        expected: String,
    },
    /// There is no such frame.
    #[error("reading {}: frame {frame} does not exist, the video has {frames}; its end is missing or the index is wrong", path.display())]
    NoFrame {
        /// The file.
        path: PathBuf,
        /// The frame asked for, counted from 0.
        frame: usize,
        /// Number of frames.
        frames: usize,
    },
    /// There is no frame at that time.
    #[error(
        "reading {}: no frame lies within {tolerance_s} s of {wanted_s:.6} s, the nearest is at {nearest_s:.6} s and the \
         last at {last_s:.6} s; rows and video do not belong together, or the video is cut short",
        path.display()
    )]
    NoTimestamp {
        /// The file.
        path: PathBuf,
        /// The time asked for, in seconds.
        wanted_s: f64,
        /// The nearest frame's time, in seconds.
        nearest_s: f64,
        /// The last frame's time, in seconds.
        last_s: f64,
        /// Largest difference allowed, in seconds.
        tolerance_s: f64,
    },
    /// The program could not decode what the index promised.
    #[error(
        "decoding {}: {what}; the file is damaged (copy or download it again) or this ffmpeg lacks the decoder",
        path.display()
    )]
    Decode {
        /// The file; of several that were decoded together, the first.
        path: PathBuf,
        /// What happened, with the words of ffmpeg.
        what: String,
    },
    /// The program could not encode.
    #[error("encoding {}: {what}; see `ffmpeg -encoders` for what this ffmpeg can write", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// What happened, with the words of ffmpeg.
        what: String,
    },
    /// A frame or a video that cannot be written.
    #[error("writing {}: {what} is {got}, expected {expected}", path.display())]
    Specification {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
        /// What was given.
        got: String,
        /// What can be written.
        expected: String,
    },
}

impl VideoError {
    /// The video that it is about, if it is about one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::NoFfmpeg { .. } => None,
            Self::Io { path, .. }
            | Self::Damaged { path, .. }
            | Self::Unsupported { path, .. }
            | Self::NoFrame { path, .. }
            | Self::NoTimestamp { path, .. }
            | Self::Decode { path, .. }
            | Self::Encode { path, .. }
            | Self::Specification { path, .. } => Some(path),
        }
    }

    /// Attaches operation and path to an I/O error.
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
