//! Reading episodes, one at a time.

use std::path::{Path, PathBuf};

use super::checksum::{self, Checksum};
use super::error::DatasetError;
use super::image;
use super::info::{CameraSpec, DatasetSpec, INFO, Layout, Version};
use super::modality::{MODALITY, Modality};
use super::plan::{
    EPISODES_DIR, EPISODES_JSONL, EpisodeRecord, FeatureSpec, Plan, STATS_JSON, STATS_JSONL, TASKS_JSONL, TASKS_PARQUET,
};
use super::steps::StepReader;
use super::table::Table;
use super::videos::OpenVideos;
use crate::video::TIMESTAMP_TOLERANCE_S;
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
    /// totals, that path templates stay inside `dir`, and that every data and video file exists. Checked when an
    /// episode is read: everything about its rows and images.
    ///
    /// # Errors
    /// [`DatasetError`] naming the file that is missing, damaged or not of a form this crate reads.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, DatasetError> {
        let root = dir.as_ref().to_owned();
        let plan = Plan::read(&root, true)?;
        Ok(Self { root, plan })
    }

    /// Like [`Dataset::open`], but an episode without frames, or whose files are missing, is an error only when it is
    /// read: the others can be read without it.
    ///
    /// # Errors
    /// As [`Dataset::open`], of what concerns all episodes.
    pub fn open_in_part(dir: impl AsRef<Path>) -> Result<Self, DatasetError> {
        let root = dir.as_ref().to_owned();
        let plan = Plan::read(&root, false)?;
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

    /// All features, in the order of `meta/info.json`.
    pub fn features(&self) -> &[FeatureSpec] {
        &self.plan.features
    }

    /// What GR00T's `meta/modality.json` says, if there is one.
    pub fn modality(&self) -> Option<&Modality> {
        self.plan.modality.as_ref()
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

    /// Instructions by `task_index`, as the metadata lists them.
    pub fn tasks(&self) -> &[String] {
        &self.plan.tasks
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
        EpisodeReader { dataset: self, open: None, videos: OpenVideos::default() }
    }

    /// A reader of single steps in any order, which keeps at most about `cache_bytes` bytes of what it has read.
    pub fn steps(&self, cache_bytes: usize) -> StepReader<'_> {
        StepReader::new(self, cache_bytes)
    }

    /// All episodes in order, one in memory at a time. An episode that fails does not end the iteration.
    pub fn episodes(&self) -> impl ExactSizeIterator<Item = Result<Episode, DatasetError>> + '_ {
        let mut reader = self.reader();
        (0..self.len()).map(move |index| reader.read(index))
    }

    /// What the metadata says of episode `index`.
    pub(super) fn record(&self, index: usize) -> Result<&EpisodeRecord, DatasetError> {
        let (path, episodes) = (&self.root, self.len());
        self.plan.episodes.get(index).ok_or_else(|| DatasetError::NoSuchEpisode { path: path.clone(), index, episodes })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.plan.layout
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
            [INFO, MODALITY, STATS_JSON, TASKS_JSONL, EPISODES_JSONL, STATS_JSONL, TASKS_PARQUET]
                .map(PathBuf::from)
                .into();
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
        let mut sized = |relative: &Path| -> Result<(), DatasetError> {
            let file = self.root.join(relative);
            let size = std::fs::metadata(&file).map_err(DatasetError::io("reading the size of", file))?.len();
            hash.part(relative.to_string_lossy().as_bytes());
            hash.part(&size.to_le_bytes());
            Ok(())
        };
        for same_file in self.plan.episodes.chunk_by(|one, next| one.file == next.file) {
            sized(&same_file[0].file)?;
        }
        for (camera, _) in self.plan.layout.cameras.iter().filter(|camera| camera.is_video).enumerate() {
            let of_camera = |episode: &EpisodeRecord| episode.videos[camera].file.clone();
            for same_file in self.plan.episodes.chunk_by(|one, next| of_camera(one) == of_camera(next)) {
                sized(&of_camera(&same_file[0]))?;
            }
        }
        Ok(hash.hex())
    }
}

/// Reads episodes of a [`Dataset`] and keeps the last files open, since neighbours share them in version 3.0.
pub struct EpisodeReader<'a> {
    dataset: &'a Dataset,
    open: Option<(PathBuf, Table)>,
    videos: OpenVideos,
}

impl<'a> EpisodeReader<'a> {
    /// The dataset it reads.
    pub(super) fn dataset(&self) -> &'a Dataset {
        self.dataset
    }

    /// Reads episode `index`.
    ///
    /// # Errors
    /// As [`Dataset::episode`].
    pub fn read(&mut self, index: usize) -> Result<Episode, DatasetError> {
        let mut episode = self.read_without_images(index)?;
        let plan = &self.dataset.plan;
        let record = self.dataset.record(index)?;
        let mut videos = self.videos.cameras(self.dataset, record)?.into_iter();
        for (camera, source) in plan.layout.spec.cameras.iter().zip(&plan.layout.cameras) {
            if !source.is_video {
                let camera = self.images(record, 0..record.length, &source.key, camera)?;
                episode.cameras.push(camera);
                continue;
            }
            episode.cameras.extend(videos.next());
        }
        if let Some(expected) = &record.checksum {
            let images = episode.cameras.iter().zip(&plan.layout.cameras).filter(|(_, source)| !source.is_video);
            let got = checksum::of_episode(&episode, images.map(|(camera, _)| camera));
            if got != *expected {
                let what = format!("checksum of episode {index}");
                return Err(DatasetError::mismatch(self.dataset.root.join(&record.file), what, got, expected, RESTORE));
            }
        }
        Ok(episode)
    }

    /// Reads episode `index` without its images: `cameras` is empty, and the checksum is not compared.
    ///
    /// # Errors
    /// As [`Dataset::episode`], of the rows alone.
    pub fn read_without_images(&mut self, index: usize) -> Result<Episode, DatasetError> {
        let plan = &self.dataset.plan;
        let record = self.dataset.record(index)?;
        if record.length == 0 {
            let what = format!("length of episode {index}");
            return Err(DatasetError::mismatch(self.dataset.root.join(INFO), what, 0, "at least 1", RESTORE));
        }
        let path = self.dataset.root.join(&record.file);
        let table = self.table(record)?;
        let rows = record.first_row..record.first_row + record.length;
        let instruction = check_rows(table, &path, record, plan.layout.spec.fps, &plan.tasks)?;
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
        Ok(Episode {
            instruction,
            source: record.source.clone(),
            fps: spec.fps,
            cameras: Vec::new(),
            proprio_dim: spec.proprio_dim,
            proprio: numbers(plan.layout.state_key, spec.proprio_dim)?,
            action_dim: spec.action_dim,
            actions: numbers(plan.layout.action_key, spec.action_dim)?,
        })
    }

    /// The data file of an episode, opened unless it is the last one.
    fn table(&mut self, record: &EpisodeRecord) -> Result<&Table, DatasetError> {
        let open = match self.open.take() {
            Some(open) if open.0 == record.file => open,
            _ => {
                let path = self.dataset.root.join(&record.file);
                if !path.is_file() {
                    let needed_by = format!("episode {}", record.index);
                    return Err(DatasetError::Missing { file: path, needed_by });
                }
                let table = Table::open(&path)?;
                if table.rows() != record.file_rows {
                    let expected = record.file_rows;
                    return Err(DatasetError::mismatch(&path, "number of rows", table.rows(), expected, RESTORE));
                }
                (record.file.clone(), table)
            }
        };
        Ok(&self.open.insert(open).1)
    }

    /// The images of some frames of a camera whose images are in the rows.
    pub(super) fn images(
        &mut self,
        record: &EpisodeRecord,
        frames: std::ops::Range<usize>,
        key: &str,
        camera: &CameraSpec,
    ) -> Result<Camera, DatasetError> {
        let file = self.dataset.root.join(&record.file);
        let table = self.table(record)?;
        let mut rgb = Vec::new();
        let rows = record.first_row + frames.start..record.first_row + frames.end;
        table.images(key, rows, |row, png| {
            let attach = |reason| DatasetError::Image {
                file: file.clone(),
                episode: record.index,
                frame: row - record.first_row,
                camera: camera.name.clone(),
                reason,
            };
            image::decode_into(png, camera.height, camera.width, &mut rgb).map_err(attach)
        })?;
        Ok(Camera { name: camera.name.clone(), height: camera.height, width: camera.width, rgb })
    }
}

/// Checks that the rows are those of the episode: its number, its frames in order and on time, one task throughout.
/// Returns the task.
fn check_rows(
    table: &Table,
    path: &Path,
    record: &EpisodeRecord,
    fps: u32,
    tasks: &[String],
) -> Result<String, DatasetError> {
    let rows = record.first_row..record.first_row + record.length;
    let wrong = |column: &str, frame: usize, got: String, expected: String| {
        let what = format!("{column} of episode {}, frame {frame}", record.index);
        Err(DatasetError::mismatch(path, what, got, expected, RESTORE))
    };
    let numbers = table.integers("episode_index", rows.clone())?;
    if let Some(frame) = numbers.iter().position(|&number| number != record.index as i64) {
        return wrong("episode_index", frame, numbers[frame].to_string(), record.index.to_string());
    }
    let frames = table.integers("frame_index", rows.clone())?;
    if let Some((frame, &got)) = frames.iter().enumerate().find(|(frame, got)| **got != *frame as i64) {
        return wrong("frame_index", frame, got.to_string(), frame.to_string());
    }
    for (frame, got) in table.doubles("timestamp", rows.clone())?.into_iter().enumerate() {
        let expected = frame as f64 / f64::from(fps);
        // A `float32` of half an hour is already that coarse.
        let tolerance = TIMESTAMP_TOLERANCE_S + expected * f64::from(f32::EPSILON);
        if got.is_nan() || (got - expected).abs() > tolerance {
            return wrong(
                "timestamp",
                frame,
                format!("{got} s"),
                format!("{expected} s, as there are {fps} frames a second"),
            );
        }
    }
    let indices = table.integers("task_index", rows)?;
    let task_of = |index: i64| usize::try_from(index).ok().and_then(|index| tasks.get(index));
    let Some(task) = indices.first().and_then(|&first| task_of(first)).filter(|task| record.tasks.contains(task))
    else {
        let got = indices.first().copied().unwrap_or(-1);
        return wrong("task_index", 0, got.to_string(), format!("the index of one of {:?}", record.tasks));
    };
    match indices.iter().position(|&index| task_of(index) != Some(task)) {
        None => Ok(task.clone()),
        Some(frame) => {
            wrong("task_index", frame, indices[frame].to_string(), format!("the index of {task:?} throughout"))
        }
    }
}
