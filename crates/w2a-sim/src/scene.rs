//! Names of scenes: a suite, a task, a split, a range and an index say everything about an episode's start.

use std::fmt;
use std::str::FromStr;

use crate::SimError;
use crate::layout::{Layout, NARROW_EDGE};
use crate::tasks::{NOTHING, Task, TaskInfo, infos, suite_tasks};

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The lower-case name used in scene ids.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// A group of tasks that share one question, after LIBERO's four suites.
    Suite {
        /// Which object: four coloured blocks, one basket.
        Object = "object",
        /// Which place: two identical blocks told apart by what they lie next to.
        Spatial = "spatial",
        /// Which goal: the same furnished scene, different things to do.
        Goal = "goal",
        /// Two goals in one episode.
        Long = "long",
        /// LIBERO's: the same bowl, told apart by where it stands.
        LiberoSpatial = "libero_spatial",
        /// LIBERO's: which object goes into the basket.
        LiberoObject = "libero_object",
        /// LIBERO's: the same kitchen, different things to do.
        LiberoGoal = "libero_goal",
        /// LIBERO's long tasks.
        Libero10 = "libero_10",
    }
}

named! {
    /// What a scene may be used for; scenes of different splits are different by construction.
    Split {
        /// Demonstrations and videos.
        Train = "train",
        /// Rollouts of stage 2.
        Posttrain = "posttrain",
        /// Choices: gains, stopping, every other hyper-parameter.
        Tune = "tune",
        /// Published numbers only.
        Eval = "eval",
    }
}

named! {
    /// Where the objects that matter for the task may lie.
    Range {
        /// Task-relevant objects and containers only in the near two thirds of the workspace, `y` below 5 cm.
        Narrow = "narrow",
        /// Anywhere in the workspace.
        Full = "full",
        /// LIBERO: the benchmark's fixed initial states, for [`Split::Eval`] alone.
        Init = "init",
        /// LIBERO: the simulator's own draw; see [`Scene::seed`].
        Seed = "seed",
        /// LIBERO: a demonstration of a dataset, for [`Split::Train`] alone. Where it began is only known from its video.
        Demo = "demo",
    }
}

/// Fixed initial states of each task of LIBERO.
const INITIAL_STATES: u32 = 50;
/// Seeds of two splits lie this far apart.
const SEEDS: u32 = 1_000_000;

impl Suite {
    /// The suites of [`crate::Tabletop`].
    pub const TABLETOP: [Self; 4] = [Self::Object, Self::Spatial, Self::Goal, Self::Long];

    /// Whether this is one of LIBERO's, which run in another simulator.
    pub fn is_libero(self) -> bool {
        !Self::TABLETOP.contains(&self)
    }
}

/// The name of one start state; its `Display` form such as `object/0/eval/full/000012` is the scene id.
///
/// The content is drawn from a random stream named by the whole id, so two scenes that differ in any part, the split
/// among them, have independent content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scene {
    suite: Suite,
    task: usize,
    split: Split,
    range: Range,
    index: u32,
}

impl Scene {
    /// Names a scene; `task` is the index of a task in `suite`.
    ///
    /// # Errors
    /// [`SimError::Task`] if the suite has no such task, [`SimError::Range`] if it has no such scenes.
    pub fn new(suite: Suite, task: usize, split: Split, range: Range, index: u32) -> Result<Self, SimError> {
        let tasks = infos(suite).len();
        if task >= tasks {
            return Err(SimError::Task { suite: suite.name(), task, tasks });
        }
        let exists = match range {
            Range::Narrow | Range::Full => !suite.is_libero(),
            Range::Init => suite.is_libero() && split == Split::Eval && index < INITIAL_STATES,
            Range::Seed => suite.is_libero() && index < SEEDS,
            Range::Demo => suite.is_libero() && split == Split::Train,
        };
        if !exists {
            return Err(SimError::Range { suite: suite.name(), split: split.name(), range: range.name(), index });
        }
        Ok(Self { suite, task, split, range, index })
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Index of the task in its suite.
    pub fn task(&self) -> usize {
        self.task
    }

    /// What the scene may be used for.
    pub fn split(&self) -> Split {
        self.split
    }

    /// Where the objects that matter may lie.
    pub fn range(&self) -> Range {
        self.range
    }

    /// Number of the scene within its task, split and range.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Instruction, horizon and demonstration length of the scene's task.
    pub fn task_info(&self) -> &'static TaskInfo {
        // There is one: a scene of a task that does not exist cannot be made.
        infos(self.suite).into_iter().nth(self.task).unwrap_or(&NOTHING.info)
    }

    /// The seed of the simulator's draw, for [`Range::Seed`] alone; those of different splits are different.
    pub fn seed(&self) -> Option<u32> {
        let splits = Split::ALL.iter().zip(1..);
        let offset = splits.filter(|(split, _)| **split == self.split).map(|(_, number)| number * SEEDS).next()?;
        (self.range == Range::Seed).then_some(offset + self.index)
    }

    /// Whether every task-relevant object and container starts in the near half (`y < 0`), the region that
    /// [`Range::Narrow`] scenes are drawn from; true for all of those, and for LIBERO's, which know no shift.
    pub fn in_support(&self) -> bool {
        self.range == Range::Narrow
            || self.suite.is_libero()
            || Layout::sample(self).items.iter().all(|item| !item.relevant || item.y < NARROW_EDGE)
    }

    /// What makes this a task of the tabletop; nothing for a scene of another simulator.
    pub(crate) fn definition(&self) -> &'static Task {
        suite_tasks(self.suite).get(self.task).unwrap_or(&NOTHING)
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}/{:06}", self.suite, self.task, self.split, self.range, self.index)
    }
}

impl FromStr for Scene {
    type Err = SimError;

    /// Reads exactly the `Display` form; any other spelling of the same scene is refused, so ids compare as text.
    fn from_str(text: &str) -> Result<Self, SimError> {
        let fail = |what: String| SimError::SceneId { text: text.chars().take(80).collect(), what };
        let parts: Vec<&str> = text.splitn(6, '/').collect();
        let &[suite, task, split, range, index] = parts.as_slice() else {
            return Err(fail(format!("has {} parts, expected 5", text.split('/').count())));
        };
        let suite = pick(Suite::ALL, suite, Suite::name).ok_or_else(|| fail("unknown suite".to_owned()))?;
        let split = pick(Split::ALL, split, Split::name).ok_or_else(|| fail("unknown split".to_owned()))?;
        let range = pick(Range::ALL, range, Range::name).ok_or_else(|| fail("unknown range".to_owned()))?;
        let task = task.parse::<usize>().map_err(|error| fail(format!("task: {error}")))?;
        let index = index.parse::<u32>().map_err(|error| fail(format!("index: {error}")))?;
        let scene = Self::new(suite, task, split, range, index).map_err(|error| fail(error.to_string()))?;
        if scene.to_string() != text {
            return Err(fail(format!("is not written the canonical way, {scene}")));
        }
        Ok(scene)
    }
}

fn pick<T: Copy>(all: &[T], text: &str, name: fn(T) -> &'static str) -> Option<T> {
    all.iter().copied().find(|value| name(*value) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back() {
        let mut there = 0;
        for &suite in Suite::ALL {
            for task in 0..infos(suite).len() {
                for &split in Split::ALL {
                    for &range in Range::ALL {
                        for index in [0, 12, 999_999, 1_000_000, u32::MAX] {
                            let Ok(scene) = Scene::new(suite, task, split, range, index) else { continue };
                            assert_eq!(scene.to_string().parse::<Scene>(), Ok(scene));
                            there += 1;
                        }
                    }
                }
            }
        }
        // Four splits, two ranges and five numbers of 14 tasks; 2 fixed states, 5 demonstrations and 3 seeds of each split
        // of LIBERO's 40.
        assert_eq!(there, 14 * 4 * 2 * 5 + 40 * (2 + 5 + 4 * 3));
    }

    #[test]
    fn liberos_scenes_know_their_instruction_and_their_seed() {
        let scene: Scene = "libero_object/0/posttrain/seed/000012".parse().unwrap();
        assert_eq!(scene.task_info().instruction, "pick up the alphabet soup and place it in the basket");
        assert_eq!((scene.seed(), scene.task_info().horizon), (Some(2_000_012), 280));
        let fixed: Scene = "libero_10/9/eval/init/000049".parse().unwrap();
        assert_eq!(fixed.task_info().instruction, "put the yellow and white mug in the microwave and close it");
        assert!(fixed.seed().is_none() && fixed.in_support() && !scene.task_info().name.contains(' '));
        let seeds: Vec<Option<u32>> = Split::ALL
            .iter()
            .map(|split| Scene::new(Suite::LiberoGoal, 0, *split, Range::Seed, 3).unwrap().seed())
            .collect();
        assert_eq!(seeds, [1_000_003, 2_000_003, 3_000_003, 4_000_003].map(Some));
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_what_was_written(
            text in "(object|long|libero_10|x)?/[0-9]{0,3}/(train|eval|tune)?/(narrow|full|init|seed)?/[0-9]{0,11}/?|.*",
        ) {
            if let Ok(scene) = text.parse::<Scene>() {
                proptest::prop_assert_eq!(scene.to_string(), text);
            }
        }
    }

    #[test]
    fn hostile_ids_are_refused() {
        let long = "object/".repeat(100_000);
        for text in [
            "",
            "/",
            "////",
            "object",
            "object/0/eval/full",
            "object/0/eval/full/",
            "object/0/eval/full/12",
            "object/0/eval/full/+00012",
            "object/0/eval/full/-00012",
            "object/0/eval/full/000012/",
            "object/0/eval/full/99999999999",
            "object/00/eval/full/000012",
            "object/99/eval/full/000012",
            "object/18446744073709551616/eval/full/000012",
            "Object/0/eval/full/000012",
            " object/0/eval/full/000012",
            "object/0/test/full/000012",
            "object/0/eval/half/000012",
            "object/0/eval/full/0000١2",
            "object/0/eval/init/000012",
            "libero_object/0/eval/full/000012",
            "libero_object/0/eval/init/000050",
            "libero_object/0/posttrain/init/000012",
            "libero_object/0/eval/demo/000012",
            "libero_object/10/eval/init/000012",
            "libero_object/0/eval/seed/1000000",
            long.as_str(),
        ] {
            let error = text.parse::<Scene>().unwrap_err().to_string();
            assert!(error.len() < 1000 && error.contains("expected"), "{error}");
        }
    }
}
