//! Writing episodes, one at a time, into a folder that appears only when it is complete.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use parquet::data_type::ByteArray;
use serde::Serialize;
use serde_json::{Value, json};

use super::checksum;
use super::error::DatasetError;
use super::image;
use super::info::{ACTION, CAMERA_PREFIX, DatasetSpec, Features, INFO, STATE, Version, fill_template};
use super::measure::{Measured, Measurer, STATISTICS, json_of};
use super::plan::{EPISODES_JSONL, EpisodeLine, STATS_JSON, STATS_JSONL, TASKS_JSONL, TASKS_PARQUET, TaskLine};
use super::staging::Staging;
use super::table::{Cells, Field, Layout, TableWriter};
use super::video_files::{VideoFiles, VideoSpan};
use crate::Episode;
use crate::video::Encoding;

const DATA_V21: &str = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet";
const DATA_V30: &str = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet";
const EPISODES_V30: &str = "meta/episodes/chunk-000/file-000.parquet";
/// Files per chunk folder, LeRobot's default.
pub(super) const CHUNK_FILES: u64 = 1000;
/// LeRobot's default for the size of a data file of version 3.0, in MiB.
const DATA_FILE_MIB: u64 = 100;
/// LeRobot's default for the size of a video file of version 3.0, in MiB.
const VIDEO_FILE_MIB: u64 = 200;
/// Rows of the table of episodes kept in memory before they are written as one row group.
const EPISODE_ROWS: usize = 256;

/// Writes a dataset episode by episode; memory does not grow with the number of frames, except for 4 bytes per
/// number of proprioception and action (their quantiles are exact).
///
/// Everything goes to a hidden folder beside the destination, which [`DatasetWriter::finish`] renames. Dropping the
/// writer before removes that folder; what a killed process left is removed by the next writer of the same dataset.
pub struct DatasetWriter {
    staging: Staging,
    spec: DatasetSpec,
    version: Version,
    measurer: Measurer,
    tasks: Vec<String>,
    task_of: HashMap<String, usize>,
    episodes: u64,
    frames: u64,
    data_file_mib: u64,
    /// The cameras' videos; `None` where images are in the rows.
    videos: Option<VideoFiles>,
    sink: Sink,
    failed: bool,
}

/// What is open while writing, by version.
#[expect(clippy::large_enum_variant, reason = "there is one per writer")]
enum Sink {
    V21 { episodes: JsonLines, stats: JsonLines },
    V30 { data: Option<TableWriter>, next_file: u64, table: Option<TableWriter>, rows: Vec<EpisodeRow> },
}

/// A row of the table of episodes of version 3.0.
struct EpisodeRow {
    line: EpisodeLine,
    chunk: u64,
    file: u64,
    from: u64,
    videos: Vec<VideoSpan>,
    measured: Vec<Measured>,
}

impl DatasetWriter {
    /// Starts a dataset at `dir`, which must not exist; missing parents are created.
    ///
    /// # Errors
    /// [`DatasetError`] if `spec` cannot be written, `dir` exists, another process is writing it, or the file system
    /// refuses.
    pub fn create(dir: impl AsRef<Path>, spec: DatasetSpec, version: Version) -> Result<Self, DatasetError> {
        spec.validate()?;
        let staging = Staging::create(dir.as_ref())?;
        let sink = match version {
            Version::V21 => Sink::V21 {
                episodes: JsonLines::create(staging.file(Path::new(EPISODES_JSONL))?)?,
                stats: JsonLines::create(staging.file(Path::new(STATS_JSONL))?)?,
            },
            Version::V30 => Sink::V30 { data: None, next_file: 0, table: None, rows: Vec::new() },
        };
        Ok(Self {
            measurer: Measurer::new(&spec),
            staging,
            spec,
            version,
            tasks: Vec::new(),
            task_of: HashMap::new(),
            episodes: 0,
            frames: 0,
            data_file_mib: DATA_FILE_MIB,
            videos: None,
            sink,
            failed: false,
        })
    }

    /// Closes a data file of version 3.0 once it holds `mib` MiB (at least 1; 100 unless said); version 2.1 has a file
    /// per episode.
    pub fn with_data_file_mib(mut self, mib: u64) -> Self {
        self.data_file_mib = mib.clamp(1, 1 << 20);
        self
    }

    /// Keeps the cameras as video files, which are a hundredth of the size and not exactly what was pushed.
    ///
    /// A file of version 3.0 is closed once it holds `mib` MiB (at least 1; LeRobot's default is 200).
    ///
    /// # Errors
    /// [`DatasetError::Specification`] if the cameras' sizes cannot be encoded or episodes were pushed before;
    /// [`DatasetError::Video`] if ffmpeg is missing.
    pub fn with_video(mut self, encoding: Encoding, mib: u64) -> Result<Self, DatasetError> {
        if self.episodes > 0 {
            let what = "videos were asked for after the first episode; ask before".into();
            return Err(DatasetError::Specification { what });
        }
        self.videos = Some(VideoFiles::new(&self.spec, self.version, encoding, mib.clamp(1, 1 << 20))?);
        Ok(self)
    }

    /// Number of episodes so far.
    pub fn len(&self) -> usize {
        self.episodes as usize
    }

    /// Whether no episode has been pushed.
    pub fn is_empty(&self) -> bool {
        self.episodes == 0
    }

    /// Appends an episode.
    ///
    /// # Errors
    /// [`DatasetError`] if the episode is empty, inconsistent, not finite or not of the dataset's specification (the
    /// dataset is unchanged and can go on), or if the file system refuses (every later call fails).
    pub fn push(&mut self, episode: &Episode) -> Result<(), DatasetError> {
        if self.failed {
            return Err(DatasetError::Poisoned { path: self.staging.destination().to_owned() });
        }
        self.check(episode)?;
        self.failed = true;
        self.write(episode)?;
        self.failed = false;
        Ok(())
    }

    /// Completes the metadata, waits until everything is on disk and moves the dataset to its place.
    ///
    /// # Errors
    /// [`DatasetError`] if an earlier write failed, there is no episode, or the file system refuses.
    pub fn finish(mut self) -> Result<(), DatasetError> {
        if self.failed {
            return Err(DatasetError::Poisoned { path: self.staging.destination().to_owned() });
        }
        if self.episodes == 0 {
            let what = "no episode was written, and LeRobot cannot open an empty dataset; push at least one".into();
            return Err(DatasetError::Specification { what });
        }
        let info = self.info();
        if let Some(videos) = &mut self.videos {
            videos.close(self.episodes - 1)?;
        }
        let stats = json_of(&self.measurer.finish()?);
        match self.sink {
            Sink::V21 { episodes, stats } => {
                episodes.finish()?;
                stats.finish()?;
                let mut tasks = JsonLines::create(self.staging.file(Path::new(TASKS_JSONL))?)?;
                for (task_index, task) in (0..).zip(self.tasks) {
                    tasks.push(&TaskLine { task_index, task })?;
                }
                tasks.finish()?;
            }
            Sink::V30 { data, mut table, mut rows, .. } => {
                data.map_or(Ok(()), TableWriter::finish)?;
                flush_rows(&self.staging, &mut table, &mut rows)?;
                table.map_or(Ok(()), TableWriter::finish)?;
                write_tasks(&self.staging.file(Path::new(TASKS_PARQUET))?, &self.tasks)?;
                write_json(&self.staging.file(Path::new(STATS_JSON))?, &stats)?;
            }
        }
        // Last, since a folder without it is no dataset.
        write_json(&self.staging.file(Path::new(INFO))?, &info)?;
        self.staging.commit()
    }

    /// Compares an episode with the specification, before anything is written.
    fn check(&self, episode: &Episode) -> Result<(), DatasetError> {
        episode.validate()?;
        let differ = |what: &str, got: String, expected: String| {
            let source_name = episode.source.clone();
            Err(DatasetError::Episode { source_name, what: what.into(), got, expected })
        };
        if episode.is_empty() {
            return differ("number of frames", "0".into(), "episodes of at least 1".into());
        }
        let got = DatasetSpec { robot_type: self.spec.robot_type.clone(), ..DatasetSpec::of(episode) };
        if got.cameras != self.spec.cameras {
            return differ("list of cameras", format!("{:?}", got.cameras), format!("{:?}", self.spec.cameras));
        }
        for (what, got, expected) in [
            ("fps", got.fps as usize, self.spec.fps as usize),
            ("width of the proprioception", got.proprio_dim, self.spec.proprio_dim),
            ("width of the actions", got.action_dim, self.spec.action_dim),
        ] {
            if got != expected {
                return differ(what, got.to_string(), expected.to_string());
            }
        }
        Ok(())
    }

    fn write(&mut self, episode: &Episode) -> Result<(), DatasetError> {
        let task = *self.task_of.entry(episode.instruction.clone()).or_insert_with(|| {
            self.tasks.push(episode.instruction.clone());
            self.tasks.len() - 1
        });
        let videos = match &mut self.videos {
            Some(videos) => videos.push(&self.staging, self.episodes, episode)?,
            None => Vec::new(),
        };
        let columns = self.columns(episode, task)?;
        let (fields, cells): (Vec<Field>, Vec<Cells>) = columns.into_iter().unzip();
        let measured = self.measurer.add(episode)?;
        let index = self.episodes;
        let encoding = self.videos.as_ref().map(VideoFiles::encoding);
        let line = EpisodeLine {
            episode_index: index,
            tasks: vec![episode.instruction.clone()],
            length: episode.len() as u64,
            source: episode.source.clone(),
            checksum: Some(checksum::of_episode(episode, episode.cameras.iter().filter(|_| self.videos.is_none()))),
        };
        match &mut self.sink {
            Sink::V21 { episodes, stats } => {
                let values = [("episode_chunk", index / CHUNK_FILES), ("episode_index", index)];
                let path = self.staging.file(&fill_template(Path::new(INFO), DATA_V21, &values, None)?)?;
                let mut file = TableWriter::create(&path, fields, vec![hugging_face_types(&self.spec, encoding)])?;
                file.write(episode.len(), &cells)?;
                file.finish()?;
                episodes.push(&line)?;
                stats.push(&json!({ "episode_index": index, "stats": json_of(&measured) }))?;
            }
            Sink::V30 { data, next_file, table, rows } => {
                if data.as_ref().is_some_and(|data| data.bytes_written() >= self.data_file_mib << 20) {
                    data.take().map_or(Ok(()), TableWriter::finish)?;
                }
                let open = match data {
                    Some(open) => open,
                    None => {
                        let values =
                            [("chunk_index", *next_file / CHUNK_FILES), ("file_index", *next_file % CHUNK_FILES)];
                        let path = self.staging.file(&fill_template(Path::new(INFO), DATA_V30, &values, None)?)?;
                        *next_file += 1;
                        data.insert(TableWriter::create(&path, fields, vec![hugging_face_types(&self.spec, encoding)])?)
                    }
                };
                // One row group per episode, so that reading one episode touches no other.
                open.write(episode.len(), &cells)?;
                let number = *next_file - 1;
                let (chunk, file) = (number / CHUNK_FILES, number % CHUNK_FILES);
                rows.push(EpisodeRow { line, chunk, file, from: self.frames, videos, measured });
                if rows.len() >= EPISODE_ROWS {
                    flush_rows(&self.staging, table, rows)?;
                }
            }
        }
        self.episodes += 1;
        self.frames += episode.len() as u64;
        Ok(())
    }

    /// The columns of an episode's rows, in the order of the features.
    fn columns(&self, episode: &Episode, task: usize) -> Result<Vec<(Field, Cells)>, DatasetError> {
        let frames = episode.len();
        let mut columns = Vec::new();
        let mut add = |name: &str, layout, cells: Cells| columns.push((Field::new(name, layout, &cells), cells));
        for camera in episode.cameras.iter().filter(|_| self.videos.is_none()) {
            let (mut png, mut path) = (Vec::with_capacity(frames), Vec::with_capacity(frames));
            for frame in 0..frames {
                let bytes = image::encode(camera.frame(frame), camera.height, camera.width);
                png.push(ByteArray::from(bytes.map_err(|reason| DatasetError::Image {
                    file: self.staging.destination().to_owned(),
                    episode: self.episodes as usize,
                    frame,
                    camera: camera.name.clone(),
                    reason,
                })?));
                path.push(ByteArray::from(format!("frame-{frame:06}.png").into_bytes()));
            }
            add(&format!("{CAMERA_PREFIX}{}", camera.name), Layout::Image, Cells::Image { png, path });
        }
        for (key, width, values) in
            [(STATE, episode.proprio_dim, &episode.proprio), (ACTION, episode.action_dim, &episode.actions)]
        {
            // LeRobot keeps features of shape [1] as plain numbers.
            let layout = if width == 1 { Layout::Scalar } else { Layout::List { depth: 1 } };
            if width > 0 {
                add(key, layout, Cells::F32(values.clone()));
            }
        }
        let fps = f64::from(episode.fps);
        add("timestamp", Layout::Scalar, Cells::F32((0..frames).map(|frame| (frame as f64 / fps) as f32).collect()));
        let (episodes, first) = (self.episodes as i64, self.frames as i64);
        add("frame_index", Layout::Scalar, Cells::I64((0..frames as i64).collect()));
        add("episode_index", Layout::Scalar, Cells::I64(vec![episodes; frames]));
        add("index", Layout::Scalar, Cells::I64((0..frames as i64).map(|frame| first + frame).collect()));
        add("task_index", Layout::Scalar, Cells::I64(vec![task as i64; frames]));
        Ok(columns)
    }

    fn info(&self) -> InfoFile {
        let mut info = json!({
            "codebase_version": self.version.name(),
            "robot_type": self.spec.robot_type,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": self.tasks.len(),
            "chunks_size": CHUNK_FILES,
            "fps": self.spec.fps,
            "splits": { "train": format!("0:{}", self.episodes) },
            "video_path": self.videos.as_ref().map(VideoFiles::template),
        });
        match self.version {
            Version::V21 => {
                let cameras = if self.videos.is_some() { self.spec.cameras.len() as u64 } else { 0 };
                info["total_videos"] = json!(cameras * self.episodes);
                info["total_chunks"] = json!(self.episodes.div_ceil(CHUNK_FILES));
                info["data_path"] = json!(DATA_V21);
            }
            Version::V30 => {
                info["data_files_size_in_mb"] = json!(self.data_file_mib);
                info["video_files_size_in_mb"] =
                    json!(self.videos.as_ref().map_or(VIDEO_FILE_MIB, VideoFiles::file_mib));
                info["data_path"] = json!(DATA_V30);
            }
        }
        InfoFile { rest: info, features: self.spec.features(self.videos.as_ref().map(VideoFiles::encoding)) }
    }
}

/// `meta/info.json`; the features keep their order, which is the order of the cameras.
#[derive(Serialize)]
struct InfoFile {
    #[serde(flatten)]
    rest: Value,
    features: Features,
}

/// Writes the gathered rows of the table of episodes as one row group.
fn flush_rows(
    staging: &Staging,
    table: &mut Option<TableWriter>,
    rows: &mut Vec<EpisodeRow>,
) -> Result<(), DatasetError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut columns: Vec<(Field, Cells)> = Vec::new();
    let mut add = |name: String, layout, cells: Cells| columns.push((Field::new(name, layout, &cells), cells));
    let integers = |of: &dyn Fn(&EpisodeRow) -> u64| Cells::I64(rows.iter().map(|row| of(row) as i64).collect());
    add("episode_index".into(), Layout::Scalar, integers(&|row| row.line.episode_index));
    let tasks = rows.iter().flat_map(|row| row.line.tasks.iter().map(String::as_str));
    add("tasks".into(), Layout::List { depth: 1 }, Cells::text(tasks));
    add("length".into(), Layout::Scalar, integers(&|row| row.line.length));
    add("data/chunk_index".into(), Layout::Scalar, integers(&|row| row.chunk));
    add("data/file_index".into(), Layout::Scalar, integers(&|row| row.file));
    add("dataset_from_index".into(), Layout::Scalar, integers(&|row| row.from));
    add("dataset_to_index".into(), Layout::Scalar, integers(&|row| row.from + row.line.length));
    for (position, first) in rows[0].videos.iter().enumerate() {
        let name = |what: &str| format!("videos/{}/{what}", first.key);
        add(name("chunk_index"), Layout::Scalar, integers(&|row| row.videos[position].file / CHUNK_FILES));
        add(name("file_index"), Layout::Scalar, integers(&|row| row.videos[position].file % CHUNK_FILES));
        let seconds =
            |of: &dyn Fn(&VideoSpan) -> f64| Cells::F64(rows.iter().map(|row| of(&row.videos[position])).collect());
        add(name("from_timestamp"), Layout::Scalar, seconds(&|span| span.from_s));
        add(name("to_timestamp"), Layout::Scalar, seconds(&|span| span.to_s));
    }
    for (position, first) in rows[0].measured.iter().enumerate() {
        let depth = if first.is_image { 3 } else { 1 };
        for (kind, name) in STATISTICS.iter().enumerate() {
            let values = rows.iter().flat_map(|row| row.measured[position].values[kind].iter().copied());
            let name = format!("stats/{}/{name}", first.feature);
            add(name, Layout::List { depth }, Cells::F64(values.collect()));
        }
        let counts = integers(&|row| row.measured[position].count);
        add(format!("stats/{}/count", first.feature), Layout::List { depth: 1 }, counts);
    }
    add("meta/episodes/chunk_index".into(), Layout::Scalar, integers(&|_| 0));
    add("meta/episodes/file_index".into(), Layout::Scalar, integers(&|_| 0));
    add("source".into(), Layout::Scalar, Cells::text(rows.iter().map(|row| row.line.source.as_str())));
    let checksums = rows.iter().map(|row| row.line.checksum.as_deref().unwrap_or_default());
    add("checksum".into(), Layout::Scalar, Cells::text(checksums));
    let (fields, cells): (Vec<Field>, Vec<Cells>) = columns.into_iter().unzip();
    let table = match table {
        Some(table) => table,
        None => table.insert(TableWriter::create(&staging.file(Path::new(EPISODES_V30))?, fields, Vec::new())?),
    };
    table.write(rows.len(), &cells)?;
    rows.clear();
    Ok(())
}

/// The footer entry from which Hugging Face's `datasets` takes the columns' types.
///
/// LeRobot 0.3 opens data files without naming the types itself: without this entry its images would stay bytes.
fn hugging_face_types(spec: &DatasetSpec, video: Option<Encoding>) -> (String, String) {
    let mut types = serde_json::Map::new();
    for (key, feature) in spec.features(video).0.into_iter().filter(|(_, feature)| feature.dtype != "video") {
        let value = json!({ "dtype": feature.dtype, "_type": "Value" });
        let kind = match (feature.dtype.as_str(), &feature.shape[..]) {
            ("image", _) => json!({ "_type": "Image" }),
            (_, [1]) => value,
            (_, shape) => json!({ "feature": value, "length": shape[0], "_type": "Sequence" }),
        };
        types.insert(key, kind);
    }
    ("huggingface".into(), json!({ "info": { "features": types } }).to_string())
}

/// Writes `meta/tasks.parquet`. LeRobot looks tasks up by the row labels of a pandas frame: without the `pandas` entry
/// in the footer, the text would be an ordinary column and every task's name a number.
fn write_tasks(path: &Path, tasks: &[String]) -> Result<(), DatasetError> {
    let column = |name: &str, kind: &str, numpy: &str| json!({ "name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": null });
    let pandas = json!({
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": { "library": "pyarrow", "version": "21.0.0" },
        "pandas_version": "2.3.0",
    });
    let cells = [Cells::I64((0..tasks.len() as i64).collect()), Cells::text(tasks.iter().map(String::as_str))];
    let fields =
        vec![Field::new("task_index", Layout::Scalar, &cells[0]), Field::new("task", Layout::Scalar, &cells[1])];
    let mut table = TableWriter::create(path, fields, vec![("pandas".into(), pandas.to_string())])?;
    table.write(tasks.len(), &cells)?;
    table.finish()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DatasetError> {
    let mut file = File::create(path).map_err(DatasetError::io("creating", path))?;
    let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
    text.and_then(|text| file.write_all(&text)).map_err(DatasetError::io("writing", path))?;
    file.sync_all().map_err(DatasetError::io("syncing", path))
}

/// A file of one JSON value per line.
struct JsonLines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl JsonLines {
    fn create(path: PathBuf) -> Result<Self, DatasetError> {
        let file = File::create(&path).map_err(DatasetError::io("creating", &path))?;
        Ok(Self { path, file: BufWriter::new(file) })
    }

    fn push(&mut self, value: &impl serde::Serialize) -> Result<(), DatasetError> {
        let written = serde_json::to_writer(&mut self.file, value).map_err(std::io::Error::from);
        written.and_then(|()| self.file.write_all(b"\n")).map_err(DatasetError::io("writing", &self.path))
    }

    fn finish(self) -> Result<(), DatasetError> {
        let path = self.path;
        let file = self.file.into_inner().map_err(|error| DatasetError::io("writing", &path)(error.into_error()))?;
        file.sync_all().map_err(DatasetError::io("syncing", path))
    }
}
