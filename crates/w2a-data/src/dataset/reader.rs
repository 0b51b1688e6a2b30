//! Reading episodes, one at a time.

use std::path::{Path, PathBuf};

use super::checksum::{self, Checksum};
use super::error::DatasetError;
use super::image;
use super::info::{ACTION, DatasetSpec, INFO, STATE, Version};
use super::plan::{
    EPISODES_DIR, EPISODES_JSONL, EpisodeRecord, Plan, STATS_JSON, STATS_JSONL, TASKS_JSONL, TASKS_PARQUET,
};
use super::table::Table;
use crate::{Camera, Episode};

const RESTORE: &str = "the data and its metadata disagree; restore the dataset from its source";

/// A LeRobot dataset whose metadata has been read and checked; no frame has been decoded yet.
pub struct Dataset {
    root: PathBuf,
    plan: Plan,
}

impl Dataset {
    /// Opens the dataset whose root folder is `dir`.
    ///
    /// Checked here: the version, features and sizes, that the episodes are numbered without gaps and add up to the
    /// totals, that path templates stay inside `dir`, and that every data file exists. Checked when an episode is read:
    /// everything about its rows and images.
    ///
    /// # Errors
    /// [`DatasetError`] naming the file that is missing, damaged or not of a form this crate reads. Datasets whose
    /// images are video files are refused.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, DatasetError> {
        let root = dir.as_ref().to_owned();
        let plan = Plan::read(&root)?;
        Ok(Self { root, plan })
    }

    /// The dataset's folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The version its `info.json` states.
    pub fn version(&self) -> Version {
        self.plan.layout.version
    }

    /// What its episodes look like.
    pub fn spec(&self) -> &DatasetSpec {
        &self.plan.layout.spec
    }

    /// Features that are present but have no place in an [`Episode`], such as `next.reward`.
    pub fn ignored_features(&self) -> &[String] {
        &self.plan.layout.ignored
    }

    /// Number of episodes.
    pub fn len(&self) -> usize {
        self.plan.episodes.len()
    }

    /// Whether there is no episode.
    pub fn is_empty(&self) -> bool {
        self.plan.episodes.is_empty()
    }

    /// Number of frames of all episodes.
    pub fn frames(&self) -> usize {
        self.plan.episodes.iter().map(|episode| episode.length).sum()
    }

    /// What the metadata says of every episode, in order: enough to choose some without reading them.
    pub fn records(&self) -> &[EpisodeRecord] {
        &self.plan.episodes
    }

    /// Reads episode `index`. To read many, [`Dataset::episodes`] and [`Dataset::reader`] keep the file open.
    ///
    /// # Errors
    /// [`DatasetError`] if there is no such episode, or its rows are damaged, incomplete, not finite or not the ones
    /// the metadata speaks of.
    pub fn episode(&self, index: usize) -> Result<Episode, DatasetError> {
        self.reader().read(index)
    }

    /// A reader for many episodes in any order.
    pub fn reader(&self) -> EpisodeReader<'_> {
        EpisodeReader { dataset: self, open: None }
    }

    /// All episodes in order, one in memory at a time. An episode that fails does not end the iteration.
    pub fn episodes(&self) -> impl ExactSizeIterator<Item = Result<Episode, DatasetError>> + '_ {
        let mut reader = self.reader();
        (0..self.len()).map(move |index| reader.read(index))
    }

    /// Sixteen hexadecimal digits that change when the dataset does.
    ///
    /// Hashed are the version, the metadata files in full, and the name and size of every data file. Datasets written by
    /// [`super::DatasetWriter`] keep a checksum of every episode's contents in the metadata, so any changed pixel or
    /// action counts; of foreign datasets an edit that keeps all sizes and statistics goes unnoticed. Frames are not
    /// read: this takes milliseconds.
    ///
    /// # Errors
    /// [`DatasetError::Io`] if a file cannot be read.
    pub fn fingerprint(&self) -> Result<String, DatasetError> {
        let mut hash = Checksum::new();
        hash.part(self.version().name().as_bytes());
        let mut metadata: Vec<PathBuf> =
            [INFO, STATS_JSON, TASKS_JSONL, EPISODES_JSONL, STATS_JSONL, TASKS_PARQUET].map(PathBuf::from).into();
        for chunk in super::plan::children(&self.root.join(EPISODES_DIR))? {
            for file in super::plan::children(&chunk)? {
                metadata.extend(file.strip_prefix(&self.root).map(Path::to_owned));
            }
        }
        for relative in metadata.iter().filter(|relative| self.root.join(relative).is_file()) {
            let file = self.root.join(relative);
            hash.part(relative.to_string_lossy().as_bytes());
            hash.part(&std::fs::read(&file).map_err(DatasetError::io("reading", file))?);
        }
        for same_file in self.plan.episodes.chunk_by(|one, next| one.file == next.file) {
            let file = self.root.join(&same_file[0].file);
            let size = std::fs::metadata(&file).map_err(DatasetError::io("reading the size of", file))?.len();
            hash.part(same_file[0].file.to_string_lossy().as_bytes());
            hash.part(&size.to_le_bytes());
        }
        Ok(hash.hex())
    }
}

/// Reads episodes of a [`Dataset`] and keeps the last data file open, since neighbours share it in version 3.0.
pub struct EpisodeReader<'a> {
    dataset: &'a Dataset,
    open: Option<(PathBuf, Table)>,
}

impl EpisodeReader<'_> {
    /// Reads episode `index`.
    ///
    /// # Errors
    /// As [`Dataset::episode`].
    pub fn read(&mut self, index: usize) -> Result<Episode, DatasetError> {
        let (root, plan) = (&self.dataset.root, &self.dataset.plan);
        let Some(record) = plan.episodes.get(index) else {
            return Err(DatasetError::NoSuchEpisode { path: root.clone(), index, episodes: plan.episodes.len() });
        };
        let path = root.join(&record.file);
        let table = match &mut self.open {
            Some((file, table)) if *file == record.file => table,
            slot => {
                let table = Table::open(&path)?;
                if table.rows() != record.file_rows {
                    let expected = record.file_rows;
                    return Err(DatasetError::mismatch(&path, "number of rows", table.rows(), expected, RESTORE));
                }
                &mut slot.insert((record.file.clone(), table)).1
            }
        };
        let rows = record.first_row..record.first_row + record.length;
        check_rows(table, &path, record, &plan.tasks)?;
        let spec = &plan.layout.spec;
        let numbers = |feature: &str, width: usize| {
            if width == 0 {
                return Ok(Vec::new());
            }
            let values = table.floats(feature, rows.clone(), width)?;
            match values.iter().position(|value| !value.is_finite()) {
                None => Ok(values),
                Some(bad) => Err(DatasetError::NotFinite {
                    file: path.clone(),
                    episode: index,
                    frame: bad / width,
                    feature: feature.into(),
                }),
            }
        };
        let (proprio, actions) = (numbers(STATE, spec.proprio_dim)?, numbers(ACTION, spec.action_dim)?);
        let mut cameras = Vec::with_capacity(spec.cameras.len());
        for (camera, key) in spec.cameras.iter().zip(&plan.layout.camera_keys) {
            let mut rgb = Vec::new();
            table.images(key, rows.clone(), |row, png| {
                let attach = |reason| DatasetError::Image {
                    file: path.clone(),
                    episode: index,
                    frame: row - rows.start,
                    camera: camera.name.clone(),
                    reason,
                };
                image::decode_into(png, camera.height, camera.width, &mut rgb).map_err(attach)
            })?;
            cameras.push(Camera { name: camera.name.clone(), height: camera.height, width: camera.width, rgb });
        }
        let episode = Episode {
            instruction: record.instruction.clone(),
            source: record.source.clone(),
            fps: spec.fps,
            cameras,
            proprio_dim: spec.proprio_dim,
            proprio,
            action_dim: spec.action_dim,
            actions,
        };
        if let Some(expected) = &record.checksum {
            let got = checksum::of_episode(&episode);
            if got != *expected {
                let what = format!("checksum of episode {index}");
                return Err(DatasetError::mismatch(&path, what, got, expected, RESTORE));
            }
        }
        Ok(episode)
    }
}

/// Checks that the rows are those of the episode: its number, its frames in order, one task throughout.
fn check_rows(table: &Table, path: &Path, record: &EpisodeRecord, tasks: &[String]) -> Result<(), DatasetError> {
    let rows = record.first_row..record.first_row + record.length;
    let wrong = |column: &str, frame: usize, got: i64, expected: String| {
        let what = format!("{column} of episode {}, frame {frame}", record.index);
        Err(DatasetError::mismatch(path, what, got, expected, RESTORE))
    };
    let numbers = table.integers("episode_index", rows.clone())?;
    if let Some(frame) = numbers.iter().position(|&number| number != record.index as i64) {
        return wrong("episode_index", frame, numbers[frame], record.index.to_string());
    }
    let frames = table.integers("frame_index", rows.clone())?;
    if let Some((frame, &got)) = frames.iter().enumerate().find(|(frame, got)| **got != *frame as i64) {
        return wrong("frame_index", frame, got, frame.to_string());
    }
    let indices = table.integers("task_index", rows)?;
    for (frame, &got) in indices.iter().enumerate() {
        let task = usize::try_from(got).ok().and_then(|got| tasks.get(got));
        if task != Some(&record.instruction) {
            return wrong("task_index", frame, got, format!("the index of {:?}", record.instruction));
        }
    }
    Ok(())
}
