//! The index of a dataset: which episode lies where, read from the metadata without touching any frame.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::DatasetError;
use super::info::{INFO, Info, Layout, Version, fill_template};
use super::modality::Modality;
use super::table::Table;

pub(super) const TASKS_JSONL: &str = "meta/tasks.jsonl";
pub(super) const EPISODES_JSONL: &str = "meta/episodes.jsonl";
pub(super) const STATS_JSONL: &str = "meta/episodes_stats.jsonl";
pub(super) const TASKS_PARQUET: &str = "meta/tasks.parquet";
pub(super) const EPISODES_DIR: &str = "meta/episodes";
pub(super) const STATS_JSON: &str = "meta/stats.json";

/// Largest `info.json`, and largest line of a JSON lines file.
const MAX_JSON_BYTES: u64 = 16 << 20;
const MEND: &str = "the metadata is damaged; restore it or convert the dataset with LeRobot";

/// What the metadata says of one episode.
#[derive(Clone, Debug, PartialEq)]
pub struct EpisodeRecord {
    /// Position in the dataset.
    pub index: usize,
    /// Number of frames; an episode of 0 cannot be read.
    pub length: usize,
    /// The instruction: the first of the episode's tasks. Its rows say which one counts.
    pub instruction: String,
    /// Where it came from; empty if the dataset does not say (LeRobot has no such field, ours is an extra column).
    pub source: String,
    /// The checksum that [`super::DatasetWriter`] left, verified on reading.
    pub(super) checksum: Option<String>,
    /// The data file, relative to the dataset.
    pub(super) file: PathBuf,
    /// All tasks that the metadata gives the episode.
    pub(super) tasks: Vec<String>,
    /// First row within that file.
    pub(super) first_row: usize,
    /// Where the episode is in the videos of every camera that is a video, in their order.
    pub(super) videos: Vec<VideoPlace>,
    /// Rows that file has by the metadata: all its episodes together.
    pub(super) file_rows: usize,
}

/// Where an episode is in a video.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct VideoPlace {
    /// The video file, relative to the dataset.
    pub file: PathBuf,
    /// Time of the episode's first frame in it, in seconds.
    pub from_s: f64,
}

/// A line of `meta/episodes.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EpisodeLine {
    pub episode_index: u64,
    pub tasks: Vec<String>,
    pub length: u64,
    #[serde(default)]
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// A line of `meta/tasks.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TaskLine {
    pub task_index: u64,
    pub task: String,
}

/// A feature as `meta/info.json` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureSpec {
    /// Its name, such as `observation.images.top`.
    pub key: String,
    /// Its type, such as `float32`, `video` or `string`.
    pub dtype: String,
    /// Its shape; of an image rows, columns, channels.
    pub shape: Vec<u64>,
}

/// Everything the metadata says.
pub(super) struct Plan {
    pub layout: Layout,
    pub episodes: Vec<EpisodeRecord>,
    /// Instructions by `task_index`.
    pub tasks: Vec<String>,
    /// All features, in the order of the file.
    pub features: Vec<FeatureSpec>,
    pub modality: Option<Modality>,
}

/// An episode before its place is known.
struct Entry {
    index: u64,
    tasks: Vec<String>,
    length: u64,
    source: String,
    checksum: Option<String>,
    /// `(chunk, file, first global row, end)` in version 3.0.
    place: Option<(u64, u64, u64, u64)>,
    /// `(chunk, file, from_timestamp)` of every video in version 3.0.
    videos: Vec<(u64, u64, f64)>,
}

impl Plan {
    /// Reads and checks the metadata below `root`.
    ///
    /// `strict` refuses what would make a single episode unreadable: no frames, or a file that is not there.
    pub fn read(root: &Path, strict: bool) -> Result<Self, DatasetError> {
        let file = root.join(INFO);
        if !file.is_file() {
            return Err(DatasetError::NotADataset { path: root.to_owned() });
        }
        let (info, layout) = Info::parse(&file, &read_small(&file)?)?;
        let tasks = read_tasks(root, layout.version)?;
        let mut entries = match layout.version {
            Version::V21 => read_lines(root, EPISODES_JSONL, "its list of episodes")?
                .into_iter()
                .map(|line: EpisodeLine| Entry {
                    index: line.episode_index,
                    tasks: line.tasks,
                    length: line.length,
                    source: line.source,
                    checksum: line.checksum,
                    place: None,
                    videos: Vec::new(),
                })
                .collect(),
            Version::V30 => read_episode_tables(root, &layout)?,
        };
        entries.sort_by_key(|entry| entry.index);
        let wrong = |what: &str, got: u64, expected: u64| Err(DatasetError::mismatch(&file, what, got, expected, MEND));
        if info.total_episodes != entries.len() as u64 {
            return wrong("total_episodes", info.total_episodes, entries.len() as u64);
        }
        if let Some((position, entry)) = entries.iter().enumerate().find(|(at, entry)| entry.index != *at as u64) {
            return wrong("the list of episodes", entry.index, position as u64);
        }
        let frames = entries.iter().try_fold(0_u64, |sum, entry| sum.checked_add(entry.length));
        if frames != Some(info.total_frames) {
            return wrong("total_frames", info.total_frames, frames.unwrap_or(u64::MAX));
        }
        let episodes = locate(root, &info, &layout, entries, strict)?;
        let modality = Modality::read(root, &info.features)?;
        let features = info.features.0.iter().map(|(key, feature)| FeatureSpec {
            key: key.clone(),
            dtype: feature.dtype.clone(),
            shape: feature.shape.clone(),
        });
        Ok(Self { features: features.collect(), modality, layout, episodes, tasks })
    }
}

/// Finds the file and rows of every episode and checks that the files exist.
fn locate(
    root: &Path,
    info: &Info,
    layout: &Layout,
    entries: Vec<Entry>,
    strict: bool,
) -> Result<Vec<EpisodeRecord>, DatasetError> {
    let file = root.join(INFO);
    let mut episodes: Vec<EpisodeRecord> = Vec::new();
    let mut next_row = 0_u64;
    let mut file_start = 0;
    let present = |path: &Path, needed_by: &str| {
        let file = root.join(path);
        let is_there = !strict || file.is_file();
        if is_there { Ok(()) } else { Err(DatasetError::Missing { file, needed_by: needed_by.into() }) }
    };
    for entry in entries {
        let wrong = |what: &str, got: String, expected: String| {
            DatasetError::mismatch(&file, format!("{what} of episode {}", entry.index), got, expected, MEND)
        };
        let length = usize::try_from(entry.length).ok().filter(|&length| length > 0 || !strict);
        let length = length.ok_or_else(|| wrong("length", entry.length.to_string(), "at least 1".into()))?;
        let instruction = entry.tasks.first().cloned();
        let instruction = instruction.ok_or_else(|| wrong("number of tasks", "0".into(), "at least 1".into()))?;
        let values = match entry.place {
            None => vec![
                ("episode_chunk", entry.index / info.chunks_size.filter(|&size| size > 0).unwrap_or(1000)),
                ("episode_index", entry.index),
            ],
            Some((chunk, number, from, to)) => {
                if from != next_row || to != from + entry.length {
                    let expected = format!("{next_row}..{}", next_row + entry.length);
                    return Err(wrong("rows", format!("{from}..{to}"), expected));
                }
                vec![("chunk_index", chunk), ("file_index", number)]
            }
        };
        let path = fill_template(&file, &info.data_path, &values, None)?;
        if episodes.last().is_none_or(|last| last.file != path) {
            present(&path, &format!("episode {}", entry.index))?;
            file_start = next_row;
        } else if entry.place.is_none() {
            return Err(wrong("data file", path.display().to_string(), "a file of its own".into()));
        }
        let mut videos = Vec::new();
        for (number, camera) in layout.cameras.iter().filter(|camera| camera.is_video).enumerate() {
            let template = info.video_path.as_deref().unwrap_or_default();
            let (values, from_s) = match entry.videos.get(number) {
                Some(&(chunk, number, from_s)) => (vec![("chunk_index", chunk), ("file_index", number)], from_s),
                None => (values.clone(), 0.0),
            };
            let video = fill_template(&file, template, &values, Some(&camera.key))?;
            if episodes.last().is_none_or(|last: &EpisodeRecord| last.videos[number].file != video) {
                present(&video, &format!("episode {}, camera {:?}", entry.index, camera.key))?;
            }
            videos.push(VideoPlace { file: video, from_s });
        }
        episodes.push(EpisodeRecord {
            index: episodes.len(),
            length,
            instruction,
            tasks: entry.tasks,
            videos,
            source: entry.source,
            checksum: entry.checksum,
            file: path,
            first_row: (next_row - file_start) as usize,
            file_rows: 0,
        });
        next_row += entry.length;
    }
    for same_file in episodes.chunk_by_mut(|one, next| one.file == next.file) {
        let rows = same_file.iter().map(|episode| episode.length).sum();
        same_file.iter_mut().for_each(|episode| episode.file_rows = rows);
    }
    Ok(episodes)
}

pub(super) fn read_small(file: &Path) -> Result<Vec<u8>, DatasetError> {
    let opened = std::fs::File::open(file).map_err(DatasetError::io("opening", file))?;
    let mut bytes = Vec::new();
    opened.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes).map_err(DatasetError::io("reading", file))?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        let expected = format!("at most {MAX_JSON_BYTES} bytes");
        return Err(DatasetError::mismatch(file, "size", "more", expected, MEND));
    }
    Ok(bytes)
}

/// The values of a JSON lines file, empty lines skipped.
fn read_lines<T: serde::de::DeserializeOwned>(
    root: &Path,
    relative: &str,
    needed_by: &str,
) -> Result<Vec<T>, DatasetError> {
    let file = root.join(relative);
    if !file.is_file() {
        return Err(DatasetError::Missing { file, needed_by: needed_by.into() });
    }
    let mut reader = BufReader::new(std::fs::File::open(&file).map_err(DatasetError::io("opening", &file))?);
    let (mut values, mut line, mut number) = (Vec::new(), Vec::new(), 0);
    loop {
        line.clear();
        number += 1;
        let limited = (&mut reader).take(MAX_JSON_BYTES + 1).read_until(b'\n', &mut line);
        if limited.map_err(DatasetError::io("reading", &file))? == 0 {
            return Ok(values);
        }
        if line.len() as u64 > MAX_JSON_BYTES {
            let expected = format!("at most {MAX_JSON_BYTES} bytes");
            return Err(DatasetError::mismatch(&file, format!("length of line {number}"), "more", expected, MEND));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value = serde_json::from_slice(&line);
        values.push(value.map_err(|source| DatasetError::Json { file: file.clone(), line: number, source })?);
    }
}

/// Instructions by `task_index`, which must be 0, 1, 2 ... in any order.
fn read_tasks(root: &Path, version: Version) -> Result<Vec<String>, DatasetError> {
    let (file, mut lines) = match version {
        Version::V21 => (root.join(TASKS_JSONL), read_lines(root, TASKS_JSONL, "its list of tasks")?),
        Version::V30 => {
            let file = root.join(TASKS_PARQUET);
            if !file.is_file() {
                return Err(DatasetError::Missing { file, needed_by: "its list of tasks".into() });
            }
            let table = Table::open(&file)?;
            // pandas named the text column after the unnamed index in older releases of LeRobot.
            let column = if table.has("task") { "task" } else { "__index_level_0__" };
            let indices = naturals(&file, &table, "task_index")?;
            let texts = table.texts(column, 0..table.rows())?;
            let lines =
                indices.into_iter().zip(texts).map(|(task_index, texts)| TaskLine { task_index, task: texts.concat() });
            (file, lines.collect())
        }
    };
    lines.sort_by_key(|line| line.task_index);
    if let Some((position, line)) = lines.iter().enumerate().find(|(at, line)| line.task_index != *at as u64) {
        return Err(DatasetError::mismatch(&file, "task_index", line.task_index, position, MEND));
    }
    Ok(lines.into_iter().map(|line| line.task).collect())
}

/// A whole-number column that must not be negative.
fn naturals(file: &Path, table: &Table, column: &str) -> Result<Vec<u64>, DatasetError> {
    let values = table.integers(column, 0..table.rows())?;
    let convert = |value: i64| {
        let bad = || DatasetError::mismatch(file, format!("a value of column {column:?}"), value, "at least 0", MEND);
        u64::try_from(value).map_err(|_| bad())
    };
    values.into_iter().map(convert).collect()
}

/// The rows of all `meta/episodes/chunk-*/file-*.parquet`, in the order of their names.
fn read_episode_tables(root: &Path, layout: &Layout) -> Result<Vec<Entry>, DatasetError> {
    let mut entries = Vec::new();
    let folder = root.join(EPISODES_DIR);
    let mut found = false;
    for chunk in children(&folder)? {
        for file in children(&chunk)?.into_iter().filter(|file| file.extension().is_some_and(|ext| ext == "parquet")) {
            found = true;
            let table = Table::open(&file)?;
            let rows = 0..table.rows();
            let column = |name: &str| naturals(&file, &table, name);
            let (indices, lengths) = (column("episode_index")?, column("length")?);
            let (chunks, files) = (column("data/chunk_index")?, column("data/file_index")?);
            let (from, to) = (column("dataset_from_index")?, column("dataset_to_index")?);
            let tasks = table.texts("tasks", rows.clone())?;
            let extra = |name: &str| table.has(name).then(|| table.texts(name, rows.clone())).transpose();
            let (sources, checksums) = (extra("source")?, extra("checksum")?);
            let mut videos = Vec::new();
            for camera in layout.cameras.iter().filter(|camera| camera.is_video) {
                let name = |what: &str| format!("videos/{}/{what}", camera.key);
                let times = (name("from_timestamp"), name("to_timestamp"));
                let (starts, ends) = (table.doubles(&times.0, rows.clone())?, table.doubles(&times.1, rows.clone())?);
                if let Some(row) = starts.iter().zip(&ends).position(|(from, to)| !(*from >= 0.0 && from <= to)) {
                    let got = format!("{}..{}", starts[row], ends[row]);
                    let what = format!("row {row} of {:?} and {:?}", times.0, times.1);
                    return Err(DatasetError::mismatch(&file, what, got, "a span of time, in seconds", MEND));
                }
                videos.push((column(&name("chunk_index"))?, column(&name("file_index"))?, starts));
            }
            for (row, tasks) in tasks.into_iter().enumerate() {
                entries.push(Entry {
                    index: indices[row],
                    tasks,
                    length: lengths[row],
                    source: sources.as_ref().map(|sources| sources[row].concat()).unwrap_or_default(),
                    checksum: checksums.as_ref().map(|checksums| checksums[row].concat()),
                    place: Some((chunks[row], files[row], from[row], to[row])),
                    videos: videos
                        .iter()
                        .map(|(chunks, files, starts)| (chunks[row], files[row], starts[row]))
                        .collect(),
                });
            }
        }
    }
    if !found {
        let file = folder.join("chunk-000/file-000.parquet");
        return Err(DatasetError::Missing { file, needed_by: "its list of episodes".into() });
    }
    Ok(entries)
}

/// The entries of a folder by name; none if it does not exist.
pub(super) fn children(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).map_err(DatasetError::io("listing", folder))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(DatasetError::io("listing", folder))?;
    paths.sort();
    Ok(paths)
}
