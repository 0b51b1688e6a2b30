//! Episodes, the observations they are made of, their statistics, and the datasets they are kept in.
//!
//! Everything above this crate speaks in these types: a simulator produces [`Observation`]s, a demonstration is an
//! [`Episode`], and what is on disk is an ordinary LeRobot dataset.

mod atomic;
mod chunks;
mod convert;
mod dataset;
mod episode;
mod hdf5;
mod inspect;
mod layouts;
mod normaliser;
mod rng;
mod source;
mod statistics;
pub mod video;

pub use atomic::{write_atomic, write_atomic_with};
pub use chunks::{ActionChunks, ChunkError, Remainder};
pub use convert::{ConvertError, ConvertOptions, Converted, Skipped, convert};
pub use dataset::{
    CameraSpec, Checksum, Dataset, DatasetError, DatasetSpec, DatasetWriter, EpisodeReader, EpisodeRecord, FeatureSpec,
    Modality, ModalityName, ModalitySlice, PngError, Step, StepReader, Version, decode_png, encode_png,
};
pub use episode::{Camera, Episode, EpisodeError, Observation};
pub use hdf5::{DemoRecord, Group, Hdf5Dataset, Hdf5Error, Hdf5Reader, Profile, libero_instruction};
pub use inspect::{CameraReport, FeatureReport, Inspection, Problem, inspect};
pub use layouts::{
    CaptionedVideo, CaptionedVideos, Clip, ClipLayout, ClipName, Clips, LayoutError, SkillRange, SkillRanges,
    WINDOW_STEPS, Window,
};
pub use normaliser::{Normaliser, NormaliserError, NormaliserMode};
pub use rng::stream;
pub use source::{Source, SourceError, SourceReader};
pub use statistics::{EpisodeStatistics, Statistics, StatisticsBuilder, StatisticsError};
