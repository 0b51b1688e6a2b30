//! From any source to a LeRobot dataset.

mod error;
mod gr00t;
mod relative;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use error::ConvertError;

use crate::video::Encoding;
use crate::{Dataset, DatasetWriter, Source, Version, write_atomic};

/// Where a converted dataset keeps what it was made of; LeRobot leaves the file alone.
pub(crate) const NOTES: &str = "meta/world2act.json";

/// LeRobot's default for the size of a video file of version 3.0, in MiB.
const VIDEO_FILE_MIB: u64 = 200;

/// How to convert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertOptions {
    /// The version to write.
    pub version: Version,
    /// How the cameras are stored: as videos, or as PNG images in the parquet files.
    pub video: Option<Encoding>,
    /// Whether to leave out episodes that cannot be read; otherwise the first ends the conversion.
    pub skip_bad: bool,
    /// Adds what GR00T's loader needs to version 2.1, with relative-action statistics over this many steps.
    pub gr00t_horizon: Option<usize>,
}

/// What was converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Episodes written.
    pub episodes: usize,
    /// Frames written.
    pub frames: usize,
    /// Episodes left out, in order.
    pub skipped: Vec<Skipped>,
}

/// An episode that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its position in the source.
    pub episode: usize,
    /// Why, with the file it is in.
    pub reason: String,
}

/// `meta/world2act.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Notes {
    /// What the source was.
    pub format: String,
    /// [`Dataset::fingerprint`] when the statistics were made.
    pub fingerprint: String,
    /// Steps of the windows of the relative-action statistics.
    pub relative_horizon: Option<usize>,
    /// The episodes that were left out.
    pub skipped: Vec<Skipped>,
}

/// Writes what is at `input` as a LeRobot dataset at `output`, which must not exist and appears only when it is complete.
///
/// One episode is in memory at a time, besides the numbers of all (4 bytes each) for exact quantiles. `progress` is told
/// how many of how many episodes are done.
///
/// # Errors
/// [`ConvertError`] if the options do not fit together, the input cannot be read (with `skip_bad`: no episode of it), or
/// the output cannot be written. Nothing is left at `output` then.
pub fn convert(
    input: &Path,
    output: &Path,
    options: ConvertOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Converted, ConvertError> {
    check(output, options)?;
    let source = if options.skip_bad { Source::open_in_part(input) } else { Source::open(input) };
    let source = source.map_err(|error| ConvertError::Source(Box::new(error)))?;
    if options.gr00t_horizon.is_some() && options.video.is_none() && !source.spec().cameras.is_empty() {
        return Err(ConvertError::Options { what: "GR00T's loader reads video files only; choose --video h264" });
    }
    let staging = Staging::create(output)?;
    let spec = source.spec().clone();
    let mut gr00t = options.gr00t_horizon.map(|horizon| gr00t::Flavour::new(&source, horizon));
    let mut writer = DatasetWriter::create(&staging.dataset, spec, options.version)?;
    if let Some(encoding) = options.video.filter(|_| !source.spec().cameras.is_empty()) {
        writer = writer.with_video(encoding, VIDEO_FILE_MIB)?;
    }
    let mut converted = Converted { episodes: 0, frames: 0, skipped: Vec::new() };
    let total = source.len();
    for (index, episode) in source.episodes().enumerate() {
        match episode {
            Ok(episode) => {
                writer.push(&episode)?;
                if let Some(gr00t) = &mut gr00t {
                    gr00t.add(&episode)?;
                }
                converted.episodes += 1;
                converted.frames += episode.len();
            }
            Err(error) if options.skip_bad => {
                converted.skipped.push(Skipped { episode: index, reason: error.to_string() });
            }
            Err(error) => return Err(ConvertError::Episode(Box::new(error))),
        }
        progress(index + 1, total);
    }
    if converted.episodes == 0 {
        let first = converted.skipped.into_iter().next().map(|skipped| skipped.reason);
        return Err(ConvertError::NothingLeft { input: input.to_owned(), first: first.unwrap_or_default() });
    }
    writer.finish()?;
    if let Some(gr00t) = gr00t {
        gr00t.write(&staging.dataset)?;
    }
    let notes = Notes {
        format: source.format(),
        fingerprint: Dataset::open(&staging.dataset)?.fingerprint()?,
        relative_horizon: options.gr00t_horizon,
        skipped: converted.skipped.clone(),
    };
    write_json(&staging.dataset.join(NOTES), &notes)?;
    staging.commit()?;
    Ok(converted)
}

/// Refuses what cannot be before anything is opened.
fn check(output: &Path, options: ConvertOptions) -> Result<(), ConvertError> {
    match options.gr00t_horizon {
        Some(_) if options.version != Version::V21 => {
            return Err(ConvertError::Options { what: "GR00T's loader reads version v2.1 only; add --to v2.1" });
        }
        Some(0) => {
            return Err(ConvertError::Options { what: "a horizon of 0 steps has no statistics; give at least 1" });
        }
        _ => {}
    }
    if output.symlink_metadata().is_ok() {
        return Err(ConvertError::Exists { path: output.to_owned() });
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ConvertError> {
    let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
    text.and_then(|text| write_atomic(path, &text)).map_err(|source| ConvertError::Io {
        operation: "writing",
        path: path.to_owned(),
        source,
    })
}

/// A hidden folder beside the destination in which the dataset is finished before it is moved.
///
/// [`DatasetWriter`] has a hidden folder and a lock of its own inside of this one; what comes on top of its files is
/// written between its end and the move.
struct Staging {
    folder: PathBuf,
    dataset: PathBuf,
    destination: PathBuf,
}

impl Staging {
    fn create(destination: &Path) -> Result<Self, ConvertError> {
        let name = destination
            .file_name()
            .ok_or(ConvertError::Options { what: "the output has no folder name; give one such as data/converted" })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".convert");
        let folder = destination.with_file_name(hidden);
        let dataset = folder.join(name);
        if dataset.is_dir() {
            // A conversion that was killed between its end and the move; nobody else knows this folder.
            std::fs::remove_dir_all(&dataset).map_err(|source| ConvertError::Io {
                operation: "removing",
                path: dataset.clone(),
                source,
            })?;
        }
        Ok(Self { folder, dataset, destination: destination.to_owned() })
    }

    fn commit(self) -> Result<(), ConvertError> {
        if self.destination.symlink_metadata().is_ok() {
            return Err(ConvertError::Exists { path: self.destination.clone() });
        }
        std::fs::rename(&self.dataset, &self.destination).map_err(|source| ConvertError::Io {
            operation: "moving the finished dataset to",
            path: self.destination.clone(),
            source,
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a success it is empty; after a failure what is in it is of no use. The next conversion removes the rest.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
