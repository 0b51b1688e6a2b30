//! LeRobot datasets, versions 2.1 and 3.0, with the images inside the parquet files or in video files.
//!
//! [`DatasetWriter`] streams episodes into a folder that appears only when it is complete; [`Dataset`] reads and checks
//! the metadata when opened and decodes episodes one at a time, or single steps in any order ([`StepReader`]).
//!
//! What is written beyond LeRobot's own fields, which LeRobot leaves alone: per episode a `source` (where it came from)
//! and a `checksum` (of all its contents, verified on reading), in `meta/episodes.jsonl` or the table of episodes.
//! Read are images as PNG in `struct {bytes, path}`, numbers as `float` or `double`, and files that are uncompressed or
//! compressed with snappy, and videos of the codecs of [`crate::video`].

mod checksum;
mod error;
mod image;
mod info;
mod measure;
mod modality;
mod plan;
mod reader;
mod staging;
mod steps;
mod table;
mod video_files;
mod videos;
mod writer;

pub use checksum::Checksum;
pub use error::DatasetError;
pub use image::{PngError, decode_png, encode_png};
pub use info::{CameraSpec, DatasetSpec, Version};
pub use modality::{Modality, ModalityName, ModalitySlice};
pub use plan::{EpisodeRecord, FeatureSpec};
pub use reader::{Dataset, EpisodeReader};
pub use steps::{Step, StepReader};
pub use writer::DatasetWriter;
