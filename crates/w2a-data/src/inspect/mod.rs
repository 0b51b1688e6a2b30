//! What is in a dataset, and what is wrong with it.

mod lerobot;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Episode, Source, SourceError};

/// Everything that [`inspect`] found out.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// What was inspected.
    pub path: PathBuf,
    /// What it is, such as `LeRobot` or `HDF5 (libero)`; `unreadable` if it could not be opened.
    pub format: String,
    /// The version the dataset states, if its format has versions.
    pub version: Option<String>,
    /// Control steps per second.
    pub fps: Option<u32>,
    /// Number of episodes, readable or not.
    pub episodes: usize,
    /// Number of episodes that were read without an error.
    pub good_episodes: usize,
    /// Frames of the episodes that were read.
    pub frames: usize,
    /// The cameras.
    pub cameras: Vec<CameraReport>,
    /// The proprioception.
    pub state: FeatureReport,
    /// The actions.
    pub action: FeatureReport,
    /// Instructions and the number of readable episodes of each.
    pub tasks: BTreeMap<String, usize>,
    /// Features that have no place in an episode and are left aside.
    pub ignored: Vec<String>,
    /// Whether every episode was looked at: without `skip_bad`, the first that fails is the last.
    pub is_complete: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// A camera of an [`Inspection`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CameraReport {
    /// Its name.
    pub name: String,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// How images are stored: `png`, `raw`, or a video codec such as `av1`.
    pub codec: String,
}

/// A numeric feature of an [`Inspection`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FeatureReport {
    /// Entries of a row; 0 if there is no such feature.
    pub width: usize,
    /// A name for each entry, where the dataset gives them.
    pub names: Vec<String>,
}

/// Something that is wrong; the message ends with what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file it is in, or the dataset.
    pub file: PathBuf,
    /// The episode, where it is about one.
    pub episode: Option<usize>,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// Reads the whole dataset at `path`, one episode in memory at a time, and compares it with its own metadata.
///
/// A dataset that cannot be opened is a problem like any other. Without `skip_bad`, reading ends at the first episode that
/// fails. `progress` is told how many of how many episodes have been read.
///
/// # Errors
/// [`SourceError`] if there is nothing at `path`, or no dataset.
pub fn inspect(path: &Path, skip_bad: bool, progress: &mut dyn FnMut(usize, usize)) -> Result<Inspection, SourceError> {
    let mut report = Inspection {
        path: path.to_owned(),
        format: "unreadable".into(),
        version: None,
        fps: None,
        episodes: 0,
        good_episodes: 0,
        frames: 0,
        cameras: Vec::new(),
        state: FeatureReport::default(),
        action: FeatureReport::default(),
        tasks: BTreeMap::new(),
        ignored: Vec::new(),
        is_complete: false,
        problems: Vec::new(),
    };
    let source = match Source::open_in_part(path) {
        Ok(source) => source,
        Err(error) if matches!(error, SourceError::Unknown { .. }) || !path.exists() => return Err(error),
        Err(error) => {
            report.problem(path, None, error.to_string());
            return Ok(report);
        }
    };
    report.describe(&source);
    let mut recorded = lerobot::Recorded::of(&source, &mut report);
    let total = source.len();
    report.is_complete = true;
    for (index, episode) in source.episodes().enumerate() {
        match episode {
            Ok(episode) => {
                report.good_episodes += 1;
                report.frames += episode.len();
                recorded.add(index, &episode, &mut report);
                count(&mut report.tasks, &episode);
            }
            Err(error) => {
                report.problem(&file_of(&source, &error, index), Some(index), error.to_string());
                if !skip_bad {
                    report.is_complete = index + 1 == total;
                    break;
                }
            }
        }
        progress(index + 1, total);
    }
    recorded.finish(&mut report);
    if let Source::LeRobot(dataset) = &source {
        report.find_repeated_tasks(dataset.tasks());
    }
    report.find_similar_tasks();
    Ok(report)
}

impl Inspection {
    fn problem(&mut self, file: &Path, episode: Option<usize>, message: String) {
        self.problems.push(Problem { file: file.to_owned(), episode, message });
    }

    fn describe(&mut self, source: &Source) {
        let spec = source.spec();
        self.format = source.format();
        self.fps = Some(spec.fps);
        self.episodes = source.len();
        self.state.width = spec.proprio_dim;
        self.action.width = spec.action_dim;
        for camera in &spec.cameras {
            let (height, width) = (camera.height, camera.width);
            self.cameras.push(CameraReport { name: camera.name.clone(), height, width, codec: "raw".into() });
        }
        match source {
            Source::LeRobot(dataset) => {
                self.version = Some(dataset.version().name().into());
                self.ignored = dataset.ignored_features().to_vec();
                lerobot::describe(dataset, self);
            }
            Source::Hdf5(_) => {
                let (state, action) = source.groups();
                self.state.names = entry_names(&state);
                self.action.names = entry_names(&action);
            }
        }
    }

    /// A task that is listed twice has two numbers, and rows of either count as different tasks.
    fn find_repeated_tasks(&mut self, tasks: &[String]) {
        let mut seen = BTreeSet::new();
        let repeated: BTreeSet<&String> = tasks.iter().filter(|task| !seen.insert(*task)).collect();
        for task in repeated {
            let path = self.path.clone();
            let message =
                format!("the list of tasks has {task:?} more than once; `world2act data convert` merges them");
            self.problem(&path, None, message);
        }
    }

    /// Instructions that differ in nothing but capitals, blanks and punctuation are one task under two names.
    fn find_similar_tasks(&mut self) {
        let mut same: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for task in self.tasks.keys() {
            let words: Vec<String> = task
                .split(|character: char| !character.is_alphanumeric())
                .filter(|word| !word.is_empty())
                .map(str::to_lowercase)
                .collect();
            same.entry(words.join(" ")).or_default().push(task.clone());
        }
        for tasks in same.into_values().filter(|tasks| tasks.len() > 1) {
            let path = self.path.clone();
            let message = format!(
                "the tasks {tasks:?} differ in capitals, blanks or punctuation only; give them one spelling, or they \
                 count as different tasks"
            );
            self.problem(&path, None, message);
        }
    }
}

fn count(tasks: &mut BTreeMap<String, usize>, episode: &Episode) {
    *tasks.entry(episode.instruction.clone()).or_default() += 1;
}

/// `gripper_0, gripper_1` for a part of two entries, `x` for one of one.
fn entry_names(groups: &[crate::Group]) -> Vec<String> {
    let mut names = Vec::new();
    for group in groups {
        match group.end - group.start {
            1 => names.push(group.name.clone()),
            width => names.extend((0..width).map(|entry| format!("{}_{entry}", group.name))),
        }
    }
    names
}

/// The file that an episode is in, or the dataset where the error does not say.
fn file_of(source: &Source, error: &SourceError, index: usize) -> PathBuf {
    match (source, error) {
        (Source::Hdf5(dataset), _) => dataset.records().get(index).map(|record| record.file.clone()),
        (Source::LeRobot(_), SourceError::LeRobot(error)) => lerobot::file_of(error).map(Path::to_owned),
        _ => None,
    }
    .unwrap_or_else(|| source.path().to_owned())
}
