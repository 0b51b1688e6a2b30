//! Names of scenes: a suite, a task, a split, a range and an index say everything about an episode's start.

use std::fmt;
use std::str::FromStr;

use crate::SimError;
use crate::layout::{Layout, NARROW_EDGE};
use crate::tasks::{Task, TaskInfo, suite_tasks};

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
    /// [`SimError::Task`] if the suite has no such task.
    pub fn new(suite: Suite, task: usize, split: Split, range: Range, index: u32) -> Result<Self, SimError> {
        let tasks = suite_tasks(suite).len();
        if task >= tasks {
            return Err(SimError::Task { suite: suite.name(), task, tasks });
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
        &self.definition().info
    }

    /// Whether every task-relevant object and container starts in the near half (`y < 0`), the region that
    /// [`Range::Narrow`] scenes are drawn from; true for all of those.
    pub fn in_support(&self) -> bool {
        self.range == Range::Narrow
            || Layout::sample(self).items.iter().all(|item| !item.relevant || item.y < NARROW_EDGE)
    }

    pub(crate) fn definition(&self) -> &'static Task {
        &suite_tasks(self.suite)[self.task]
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
        for &suite in Suite::ALL {
            for task in 0..suite_tasks(suite).len() {
                for &split in Split::ALL {
                    for &range in Range::ALL {
                        for index in [0, 12, 999_999, 1_000_000, u32::MAX] {
                            let scene = Scene::new(suite, task, split, range, index).unwrap();
                            assert_eq!(scene.to_string().parse::<Scene>(), Ok(scene));
                        }
                    }
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_what_was_written(
            text in "(object|spatial|goal|long|x)?/[0-9]{0,3}/(train|eval|tune)?/(narrow|full)?/[0-9]{0,11}/?|.*",
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
            long.as_str(),
        ] {
            let error = text.parse::<Scene>().unwrap_err().to_string();
            assert!(error.len() < 1000 && error.contains("expected"), "{error}");
        }
    }
}
