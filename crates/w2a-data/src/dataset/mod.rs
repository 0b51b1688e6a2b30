//! LeRobot datasets, versions 2.1 and 3.0, with the images inside the parquet files (no video codec needed).
//!
//! [`DatasetWriter`] streams episodes into a folder that appears only when it is complete; [`Dataset`] reads and checks
//! the metadata when opened and decodes episodes one at a time. `docs/formats.md` describes both layouts.

mod checksum;
mod error;
mod image;
mod info;
mod measure;
mod plan;
mod reader;
mod staging;
mod table;
mod writer;

pub use error::DatasetError;
pub use info::{CameraSpec, DatasetSpec, Version};
pub use plan::EpisodeRecord;
pub use reader::{Dataset, EpisodeReader};
pub use writer::DatasetWriter;
