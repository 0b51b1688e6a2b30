//! Videos: which frames an mp4 file holds, any of them as RGB, and writing one.
//!
//! [`Mp4Index`] reads the index of a file and checks it against the file's size without decoding anything. Pictures are
//! decoded and encoded by the program [`ffmpeg`] in a child process: [`VideoReader`] gives any frame (a [`FrameCache`]
//! keeps its neighbours) or a range as a stream, [`read_frames`] a batch out of several files, [`VideoWriter`] writes.
//!
//! What is decoded is found by the index, not by seeking in ffmpeg: the coded frames from the nearest key frame on are
//! put into a small mp4 file of our own that goes through a pipe, and only the wanted frames come back. Every frame is
//! therefore exactly the one asked for, and ffmpeg never opens a file or an address that a hostile video names.

mod boxes;
mod cache;
mod clip;
mod decode;
mod error;
mod ffmpeg;
mod index;
mod reader;
mod writer;

pub use cache::FrameCache;
pub(crate) use cache::Lru;
pub use error::VideoError;
pub use ffmpeg::ffmpeg;
pub use index::{Codec, Mp4Index};
pub use reader::{FrameStream, VideoReader, read_frames};
pub use writer::{Encoding, VideoWriter};

/// Largest difference between the time asked for and a frame's time, in seconds: LeRobot's.
pub const TIMESTAMP_TOLERANCE_S: f64 = 1e-4;
