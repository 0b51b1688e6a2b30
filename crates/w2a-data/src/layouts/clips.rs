//! Which actions belong to which clip.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;

use super::error::LayoutError;
use super::name::{ClipLayout, ClipName};
use super::ranges::{SkillRange, SkillRanges};
use super::window::Window;
use crate::{Dataset, Hdf5Dataset};

/// Name that the release gives to the file of skill ranges.
const METADATA: &str = "video_metadata.json";

/// What the recordings of the release's Franka arm are called, and the task in the names of their clips.
const FRANKA_TASKS: [(&str, &str); 6] = [
    ("closedoor", "close_the_cabinet_door"),
    ("pickbowl", "pick_the_bowl"),
    ("pickcup", "pick_the_cup"),
    ("placecup", "place_the_cup_on_the_cabinet"),
    ("placebowl", "place_the_bowl_on_the_plate"),
    ("placeonplate", "place_the_bowl_on_the_plate"),
];

/// A video clip and the demonstration that it shows; neither has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// The video file.
    pub video: PathBuf,
    /// What its name says.
    pub name: ClipName,
    /// Position of the demonstration in the set of actions.
    demo: usize,
    /// The steps of a RoboCasa skill.
    skill: Option<SkillRange>,
}

/// The clips of a folder, each paired with a demonstration.
pub struct Clips {
    clips: Vec<Clip>,
    actions: Actions,
    ranges: Option<SkillRanges>,
}

/// Where the actions are.
#[expect(clippy::large_enum_variant, reason = "there is one per set of clips")]
enum Actions {
    Hdf5(Hdf5Dataset),
    LeRobot(Dataset),
}

impl Clips {
    /// Pairs every `.mp4` file of the folder `videos` with a demonstration below `actions`.
    ///
    /// `ranges` is the file of skill ranges that RoboCasa's layout needs; `video_metadata.json` in `actions` unless given.
    ///
    /// # Errors
    /// [`LayoutError`] if a name does not parse, a clip's demonstration or skill is missing or ambiguous, or the actions
    /// cannot be opened.
    pub fn open(layout: ClipLayout, videos: &Path, actions: &Path, ranges: Option<&Path>) -> Result<Self, LayoutError> {
        let named = names(layout, videos)?;
        let ranges = match layout {
            ClipLayout::RoboCasa => {
                Some(SkillRanges::open(ranges.map_or_else(|| actions.join(METADATA), Path::to_owned))?)
            }
            ClipLayout::Libero | ClipLayout::Franka | ClipLayout::Bridge => None,
        };
        let (actions, index) = match layout {
            ClipLayout::Bridge => (Actions::LeRobot(Dataset::open(actions)?), None),
            ClipLayout::RoboCasa | ClipLayout::Libero | ClipLayout::Franka => {
                let dataset = Hdf5Dataset::open(actions)?;
                let index = Index::of(layout, &dataset);
                (Actions::Hdf5(dataset), Some(index))
            }
        };
        let mut clips = Vec::with_capacity(named.len());
        for (video, name) in named {
            let unpaired = |what: String, place: &Path, next_step| LayoutError::Unpaired {
                clip: name.to_string(),
                what,
                place: place.to_owned(),
                next_step,
            };
            let demo = match (&actions, &index) {
                (Actions::Hdf5(dataset), Some(index)) => index.find(dataset, &name)?,
                (Actions::LeRobot(dataset), _) => usize::try_from(name.demo()).ok().filter(|&at| at < dataset.len()),
                (Actions::Hdf5(_), None) => None,
            };
            let path = match &actions {
                Actions::Hdf5(dataset) => dataset.path(),
                Actions::LeRobot(dataset) => dataset.path(),
            };
            let demo = demo.ok_or_else(|| {
                let what = format!("demonstration {} of its task", name.demo());
                unpaired(what, path, "give the folder of the actions it was recorded with")
            })?;
            let skill = match (&name, &ranges) {
                (ClipName::RoboCasa { task, demo, index }, Some(ranges)) => {
                    Some(ranges.get(task, *demo, *index).ok_or_else(|| {
                        let what = format!("skill {index} of demonstration {demo} of {task:?}");
                        unpaired(what, ranges.file(), "give the file that the clips were cut by")
                    })?)
                }
                _ => None,
            };
            clips.push(Clip { video, name, demo, skill });
        }
        Ok(Self { clips, actions, ranges })
    }

    /// The clips, by name.
    pub fn clips(&self) -> &[Clip] {
        &self.clips
    }

    /// The window of actions that goes with `clip`, `[WINDOW_STEPS, width]`, and the width.
    ///
    /// # Errors
    /// [`LayoutError`] if the actions cannot be read or the skill reaches past their end.
    pub fn window(&self, clip: &Clip, rng: &mut ChaCha8Rng) -> Result<(Vec<f32>, usize), LayoutError> {
        let (actions, width) = match &self.actions {
            Actions::Hdf5(dataset) => dataset.actions(clip.demo)?,
            Actions::LeRobot(dataset) => {
                let episode = dataset.reader().read_without_images(clip.demo)?;
                (episode.actions, episode.action_dim)
            }
        };
        let window = match (&clip.name, clip.skill, &self.ranges) {
            (ClipName::RoboCasa { task, demo, index }, Some(skill), Some(ranges)) => {
                let steps = actions.len().checked_div(width).unwrap_or(0);
                Window::Skill(ranges.within((task, *demo, *index), skill, steps)?)
            }
            (ClipName::Libero { order, .. }, ..) => Window::Nth { order: *order },
            _ => Window::Whole,
        };
        Ok((window.cut(&actions, width, rng)?, width))
    }
}

/// Demonstrations by task and number.
struct Index(HashMap<(String, u64), Vec<usize>>);

impl Index {
    fn of(layout: ClipLayout, dataset: &Hdf5Dataset) -> Self {
        let mut index: HashMap<_, Vec<usize>> = HashMap::new();
        for record in dataset.records() {
            if let Some(task) = tasks(layout, &record.file) {
                index.entry((task, record.demo)).or_default().push(record.index);
            }
        }
        Self(index)
    }

    /// The demonstration of a clip. Two files may hold the same task, as the scenes of LIBERO do; only a clip that could
    /// be of either is an error.
    fn find(&self, dataset: &Hdf5Dataset, name: &ClipName) -> Result<Option<usize>, LayoutError> {
        let task = match name {
            ClipName::RoboCasa { task, .. } | ClipName::Libero { task, .. } | ClipName::Franka { task, .. } => task,
            ClipName::Bridge { .. } => return Ok(None),
        };
        let file = |index: usize| dataset.records().get(index).map(|record| record.file.clone()).unwrap_or_default();
        match self.0.get(&(task.clone(), name.demo())).map(Vec::as_slice) {
            None | Some([]) => Ok(None),
            Some([only]) => Ok(Some(*only)),
            Some([one, other, ..]) => {
                Err(LayoutError::Ambiguous { task: task.clone(), demo: name.demo(), files: (file(*one), file(*other)) })
            }
        }
    }
}

/// The task that a file of actions is of, as the names of clips write it.
fn tasks(layout: ClipLayout, file: &Path) -> Option<String> {
    let stem = file.file_stem()?.to_string_lossy();
    match layout {
        // Generated demonstrations lie in `<task>/mg/<date>/`; those of people beside them belong to no clip.
        ClipLayout::RoboCasa => {
            let mut before = None;
            for part in file.components() {
                if part.as_os_str() == "mg" {
                    return before;
                }
                before = Some(part.as_os_str().to_string_lossy().into_owned());
            }
            None
        }
        ClipLayout::Libero => Some(crate::hdf5::libero_instruction(&stem)?.replace(' ', "_")),
        ClipLayout::Franka => {
            let stem = stem.to_lowercase();
            let known = FRANKA_TASKS.iter().find(|(recorded, _)| *recorded == stem);
            Some(known.map_or(stem, |(_, task)| (*task).to_owned()))
        }
        ClipLayout::Bridge => None,
    }
}

/// The clips of a folder by name; anything but `.mp4` is left aside.
fn names(layout: ClipLayout, videos: &Path) -> Result<Vec<(PathBuf, ClipName)>, LayoutError> {
    let attach = |source| LayoutError::Io { operation: "listing", path: videos.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(videos).map_err(attach)? {
        let path = entry.map_err(attach)?.path();
        if path.extension().is_some_and(|ending| ending == "mp4") {
            files.push(path);
        }
    }
    files.sort();
    let parse = |path: PathBuf| {
        let name = ClipName::parse(layout, &path.file_name().unwrap_or_default().to_string_lossy())?;
        Ok((path, name))
    };
    files.into_iter().map(parse).collect()
}
