//! Where a run acts: the embedded tabletop, or LIBERO in worker processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use w2a_serve::Layout;
use w2a_serve::simulator::{
    Command, Flip, Gripper, InitialStates, Settings, SimulatorKind, WorkerEnvironment, WorkerSetup,
};
use w2a_sim::{Environment, IMAGE_SIZE, Suite, Tabletop};

use crate::arms::Arm;
use crate::context::save_json;
use crate::{Config, PipelineError};

/// What the simulator is, in a LIBERO run's folder: its settings and the versions of its packages.
pub(crate) const ENVIRONMENT: &str = "environment.json";
/// What its workers say on their standard error.
const LOG: &str = "workers.log";
/// Building a scene takes most of a minute on a busy machine.
const SILENCE: Duration = Duration::from_secs(300);
/// LIBERO's environments end by themselves after 1,000 steps.
const MOST_STEPS: usize = 980;
/// Sides of images: the residual policy's convolutions want 36, the embedded models are made for 64, large ones for 256.
const LEAST_SIDE: usize = 36;
const MOST_SIDE: usize = 512;
/// Tasks of a suite.
const TASKS: usize = 10;
/// Fixed initial states of a task.
const FIXED: usize = 50;
/// Processes of a gigabyte each.
const MOST_WORKERS: usize = 256;

/// The simulators of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvKind {
    /// The embedded one.
    #[default]
    Tabletop,
    /// LIBERO, in Python.
    Libero,
}

/// Where a run acts.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnvSection {
    /// The simulator; `data.suites` names suites of it.
    pub kind: EnvKind,
    /// LIBERO's settings; they count for nothing elsewhere.
    pub libero: LiberoSection,
}

/// How LIBERO runs, and where its demonstrations are.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LiberoSection {
    /// The Python that has LIBERO and the workers; `scripts/setup-libero.sh` makes one.
    pub python: String,
    /// Demonstrations with actions: a folder with LIBERO's HDF5 files, or a LeRobot dataset of them.
    pub dataset: String,
    /// The expert in the post-training scenes, demonstration `i` of a task in its scene `i`, from which the oracle and the
    /// errors of the imagination are computed; empty for none.
    pub expert_dataset: String,
    /// Numbers of the tasks of each suite that take part, from 0; none for the first `data.tasks_per_suite`.
    pub tasks: Vec<usize>,
    /// Worker processes, each with one environment.
    pub workers: usize,
    /// Actions of the simulator (20 a second) in one action of the run, one after the other; images are of every
    /// `stride`-th step.
    pub stride: usize,
    /// Actions of the simulator that count of a demonstration: longer ones are cut, shorter ones rest at their end.
    pub demo_steps: usize,
    /// Actions of the simulator after which an episode has failed.
    pub max_steps: usize,
    /// Side of the images that policies and world models see.
    pub side: usize,
    /// Side of the rendered images, a multiple of `side`, to which they are averaged.
    pub render: usize,
    /// What is done to LIBERO's images, which stand on their heads: `none`, `rotate_180` or `vertical`.
    pub flip: Flip,
    /// What the gripper's command means to demonstrations and policies: `as_is` for LIBERO's own, -1 opens and 1 closes, or
    /// `groot` for 0 closed and 1 open, as in GR00T's data sets.
    pub gripper: Gripper,
    /// Steps with an open gripper before anything is seen: objects start in the air.
    pub settle_steps: usize,
    /// Whether the arm starts with robosuite's noise in scenes that the simulator draws, as it does in the benchmark's
    /// fixed states; without it post-training starts in one pose, and evaluation does not.
    pub arm_noise: bool,
    /// robosuite's controller.
    pub controller: String,
    /// Corners of meshes that are only looked at lie on a grid of so many millimetres; 0 for as they are.
    pub mesh_cell_mm: usize,
    /// Samples of a rendered pixel; 0 for one.
    pub samples: usize,
}

impl Default for LiberoSection {
    fn default() -> Self {
        Self {
            python: "python3".into(),
            dataset: String::new(),
            expert_dataset: String::new(),
            tasks: Vec::new(),
            workers: 2,
            stride: 2,
            demo_steps: 128,
            max_steps: 280,
            side: IMAGE_SIZE,
            render: 128,
            flip: Flip::Vertical,
            gripper: Gripper::AsIs,
            settle_steps: 10,
            arm_noise: true,
            controller: "OSC_POSE".into(),
            mesh_cell_mm: 8,
            samples: 0,
        }
    }
}

impl LiberoSection {
    /// The worker's settings.
    fn settings(&self) -> Settings {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Settings {
            render: number(self.render),
            resize: 0,
            flip: self.flip,
            initial_states: InitialStates::Fixed,
            settle_steps: number(self.settle_steps),
            controller: self.controller.clone(),
            gripper: self.gripper,
            sensors: false,
            rebuild: false,
            mesh_cell_mm: number(self.mesh_cell_mm),
            samples: number(self.samples),
            arm_noise: self.arm_noise,
            replan: self.stride,
            max_steps: Vec::new(),
            ..Settings::openpi()
        }
    }

    fn setup(&self, out: &Path) -> WorkerSetup {
        WorkerSetup {
            command: Command::python(SimulatorKind::Libero, PathBuf::from(&self.python), out.join(LOG), SILENCE),
            workers: self.workers,
            settings: self.settings(),
            stride: self.stride,
            side: self.side,
        }
    }
}

/// A rule of a configuration: its key, whether it holds, what would do, and what is there.
pub(crate) type Rule = (&'static str, bool, String, String);

impl Config {
    /// Whether the run acts in LIBERO.
    pub(crate) fn is_libero(&self) -> bool {
        self.env.kind == EnvKind::Libero
    }

    /// Names and sizes of what the run's simulator shows and takes.
    pub(crate) fn layout(&self) -> Layout {
        if self.is_libero() { Layout::libero() } else { Layout::tabletop() }
    }

    /// Actions of the simulator in one of the run's.
    pub(crate) fn stride(&self) -> usize {
        if self.is_libero() { self.env.libero.stride.max(1) } else { 1 }
    }

    /// What LIBERO asks of a configuration; nothing of one without it.
    pub(crate) fn libero_rules(&self) -> Vec<Rule> {
        if !self.is_libero() {
            return Vec::new();
        }
        let libero = &self.env.libero;
        let within = |key, value: usize, least: usize, most: usize| {
            (key, (least..=most).contains(&value), format!("{least} to {most}"), value.to_string())
        };
        let whole = |key, value: usize, of: usize, name: &str| {
            (
                key,
                value > 0 && value.is_multiple_of(of.max(1)),
                format!("a multiple of {name}, {of}"),
                value.to_string(),
            )
        };
        let given =
            |key, text: &str, expected: &str| (key, !text.is_empty(), expected.to_owned(), "nothing".to_owned());
        let without = |arm: Arm, expected: &str| {
            ("posttrain.methods", !arm.takes_part(self), expected.to_owned(), arm.name().to_owned())
        };
        let mut rules = vec![
            given("env.libero.dataset", &libero.dataset, "a folder with demonstrations where env.kind is libero"),
            given("env.libero.python", &libero.python, "the Python that scripts/setup-libero.sh made"),
            given("env.libero.controller", &libero.controller, "a controller of robosuite, such as OSC_POSE"),
            (
                "env.libero.tasks",
                (1..libero.tasks.len()).all(|place| !libero.tasks[..place].contains(&libero.tasks[place]))
                    && libero.tasks.iter().all(|task| *task < TASKS),
                format!("numbers below {TASKS}, each once"),
                format!("{:?}", libero.tasks),
            ),
            within("env.libero.workers", libero.workers, 1, MOST_WORKERS),
            (
                "env.libero.stride",
                [1, 2, 4, 5, 10, 20].contains(&libero.stride),
                "a divisor of the simulator's 20 actions a second".to_owned(),
                libero.stride.to_string(),
            ),
            whole("env.libero.demo_steps", libero.demo_steps, libero.stride, "env.libero.stride"),
            within("env.libero.max_steps", libero.max_steps, libero.demo_steps, MOST_STEPS),
            within("env.libero.side", libero.side, LEAST_SIDE, MOST_SIDE),
            whole("env.libero.render", libero.render, libero.side, "env.libero.side"),
            within("env.libero.render", libero.render, libero.side, 8 * libero.side),
            within("env.libero.settle_steps", libero.settle_steps, 0, 1000 - MOST_STEPS),
            within("env.libero.mesh_cell_mm", libero.mesh_cell_mm, 0, 50),
            within("env.libero.samples", libero.samples, 0, 16),
            within("eval.scenes", self.eval.scenes, 1, FIXED),
            without(Arm::WideLabels, "no base_wide_labels in LIBERO: its scenes have one range"),
            (
                "policy.slowdown",
                self.policy.slowdown == 1.0,
                "1 in LIBERO".to_owned(),
                self.policy.slowdown.to_string(),
            ),
        ];
        if libero.expert_dataset.is_empty() {
            rules.push(without(Arm::Oracle, "no w2a_oracle without env.libero.expert_dataset"));
        }
        rules
    }

    /// The suites that the run's simulator has.
    pub(crate) fn known_suites(&self) -> Vec<Suite> {
        Suite::ALL.iter().copied().filter(|suite| suite.is_libero() == self.is_libero()).collect()
    }
}

/// The simulator of a run.
pub(crate) enum Simulator {
    Tabletop(Tabletop),
    Libero(Box<WorkerEnvironment>),
}

impl Simulator {
    /// A fresh one; the folder of the run takes the workers' log.
    pub fn new(config: &Config, out: &Path) -> Result<Self, PipelineError> {
        Ok(match config.env.kind {
            EnvKind::Tabletop => Self::Tabletop(Tabletop::new(config.threads)),
            EnvKind::Libero => Self::Libero(Box::new(WorkerEnvironment::new(config.env.libero.setup(out))?)),
        })
    }

    /// As the environment it is.
    pub fn environment(&mut self) -> &mut dyn Environment {
        match self {
            Self::Tabletop(environment) => environment,
            Self::Libero(environment) => environment.as_mut(),
        }
    }

    /// Writes down what the simulator is, once it has said so.
    pub fn describe(&self, config: &Config, out: &Path) -> Result<(), PipelineError> {
        let Self::Libero(environment) = self else { return Ok(()) };
        let path = out.join(ENVIRONMENT);
        if environment.versions().is_empty() || path.exists() {
            return Ok(());
        }
        save_json(
            &path,
            &Described {
                versions: environment.versions().clone(),
                libero: LiberoSection { python: String::new(), ..config.env.libero.clone() },
            },
        )
    }
}

/// The content of [`ENVIRONMENT`].
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Described {
    /// Versions of the simulator's packages; `assets` is what its assets say of themselves.
    pub versions: std::collections::BTreeMap<String, String>,
    /// Its settings.
    pub libero: LiberoSection,
}

#[cfg(test)]
mod tests {
    use super::{EnvKind, LiberoSection};
    use crate::{Config, Profile};

    #[test]
    fn the_file_in_the_documents_lacks_nothing_but_a_dataset() {
        let mut config: Config = toml::from_str(include_str!("../../../docs/libero.toml")).unwrap();
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("env.libero.dataset: expected a folder with demonstrations"), "{error}");
        config.env.libero.dataset = "demonstrations".into();
        config.validate().unwrap();
        assert_eq!((config.episode_steps(), config.chunks(), config.stride()), (64, 16, 2));
        assert_eq!(config.tasks().unwrap().len(), 1);
    }

    #[test]
    fn the_file_for_the_papers_backbones_lacks_nothing_but_the_folders() {
        let mut config: Config = toml::from_str(include_str!("../../../docs/backbones.toml")).unwrap();
        type Folder = fn(&mut Config) -> &mut String;
        let folders: [(&str, Folder); 3] = [
            ("env.libero.dataset", |config| &mut config.env.libero.dataset),
            ("world.path", |config| &mut config.world.path),
            // A tag without a checkpoint.
            ("policy.groot.embodiment", |config| &mut config.policy.groot.path),
        ];
        for (key, folder) in folders {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}: expected ")), "{error}");
            *folder(&mut config) = "somewhere".into();
        }
        config.validate().unwrap();
        // A whole clip of Cosmos-Predict2.
        assert_eq!((config.chunks(), config.chunk_len(), config.grid()), (23, 4, (256, 512)));
    }

    #[test]
    fn liberos_settings_are_checked_for_libero_alone() {
        let mut config = Config::profile(Profile::Smoke);
        config.env.libero = LiberoSection { stride: 3, ..LiberoSection::default() };
        config.validate().unwrap();
        config.env.kind = EnvKind::Libero;
        assert!(config.validate().is_err());
    }
}
