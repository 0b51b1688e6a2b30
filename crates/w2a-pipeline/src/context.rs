//! What every stage of a run needs: folders, device, progress, log.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use w2a_nn::{Checkpoint, NnError, StepReport, TrainConfig, Training};
use w2a_report::{GitState, Manifest, Metrics, StageStatus};

use crate::environment::Simulator;
use crate::progress::RunProgress;
use crate::{Config, PipelineError, Request, Stage};

/// The state of a run.
pub(crate) struct Context {
    pub config: Config,
    pub out: PathBuf,
    pub device: Device,
    pub progress: RunProgress,
    pub manifest: Manifest,
    resume: bool,
    metrics: Option<Metrics>,
    /// The simulator while nobody acts in it: workers are slow to start.
    simulator: Cell<Option<Simulator>>,
}

impl Context {
    /// Opens or creates the run's folder and writes its configuration.
    pub fn open(request: &Request) -> Result<Self, PipelineError> {
        let out = request.out.clone();
        let unusable = |source| PipelineError::Folder { path: request.out.clone(), source };
        let device = w2a_nn::device(&request.config.device)?;
        let text = toml::to_string(&request.config).map_err(|error| PipelineError::Config {
            key: "configuration".into(),
            expected: "something TOML can hold".into(),
            got: error.to_string(),
        })?;
        let path = out.join("config.toml");
        let existing = path.exists();
        if existing {
            if !request.resume {
                return Err(PipelineError::Exists { path: out });
            }
            let saved = fs_err::read_to_string(&path).map_err(unusable)?;
            if let Some(difference) = difference(&saved, &text) {
                return Err(PipelineError::Changed { path: out, difference });
            }
        } else {
            if !is_free(&out).map_err(unusable)? {
                return Err(PipelineError::Occupied { path: out });
            }
            fs_err::create_dir_all(&out).map_err(unusable)?;
            w2a_data::write_atomic(&path, text.as_bytes()).map_err(unusable)?;
        }
        let stages: Vec<&str> = Stage::ALL.iter().map(|stage| stage.name()).collect();
        let manifest_path = out.join("manifest.json");
        let mut manifest = match manifest_path.exists() {
            true => Manifest::load(&manifest_path)?,
            false => Manifest::new(env!("CARGO_PKG_VERSION"), request.config.seed, request.config.threads, &stages),
        };
        request.until.plan().iter().for_each(|stage| manifest.add_stage(stage.name()));
        manifest.git = GitState::read(".").or(manifest.git);
        manifest.save(&manifest_path)?;
        // A pool that exists already was sized by an earlier run in this process, as in tests: its size stays.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(request.config.threads).build_global();
        let metrics = if existing { None } else { Some(Metrics::create(&out)?) };
        Ok(Self {
            config: request.config.clone(),
            out,
            device,
            progress: RunProgress::new(&request.config, request.until),
            manifest,
            resume: existing,
            metrics,
            simulator: Cell::new(None),
        })
    }

    /// A run that is only read: whatever it has, and nothing is written.
    pub fn existing(out: &Path) -> Result<Self, PipelineError> {
        let artifact = |reason: String| PipelineError::Artifact {
            path: out.join("config.toml"),
            reason,
            stage: Stage::Data.name(),
        };
        let missing = || PipelineError::Config {
            key: out.display().to_string(),
            expected: "the folder of a run of this program".into(),
            got: "one without config.toml".into(),
        };
        let text = crate::saved_config(out)?.ok_or_else(missing)?;
        let config: Config = toml::from_str(&text).map_err(|error| artifact(error.message().to_owned()))?;
        config.validate()?;
        let _ = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build_global();
        Ok(Self {
            progress: RunProgress::new(&config, Stage::Report),
            manifest: Manifest::new(env!("CARGO_PKG_VERSION"), config.seed, config.threads, &[]),
            config,
            out: out.to_owned(),
            device: Device::flex(),
            resume: true,
            metrics: None,
            simulator: Cell::new(None),
        })
    }

    pub fn begin(&mut self, stage: Stage) -> Result<(), PipelineError> {
        self.progress.start(stage);
        self.save_stage(stage, StageStatus::Running, 0.0)
    }

    pub fn end(&mut self, stage: Stage) -> Result<(), PipelineError> {
        let seconds = self.progress.finish(stage);
        if let Some(metrics) = &mut self.metrics {
            metrics.sync()?;
        }
        self.save_stage(stage, StageStatus::Done, seconds)
    }

    fn save_stage(&mut self, stage: Stage, status: StageStatus, seconds: f64) -> Result<(), PipelineError> {
        self.manifest.update_stage(stage.name(), status, seconds)?;
        Ok(self.manifest.save(self.out.join("manifest.json"))?)
    }

    /// Acts in the run's simulator. What goes wrong leaves none behind, and the next one is a fresh one.
    pub fn acting<T>(
        &self,
        act: impl FnOnce(&mut dyn w2a_sim::Environment) -> Result<T, PipelineError>,
    ) -> Result<T, PipelineError> {
        let kept = self.simulator.take();
        let mut simulator = kept.map_or_else(|| Simulator::new(&self.config, &self.out), Ok)?;
        let result = act(simulator.environment())?;
        simulator.describe(&self.config, &self.out)?;
        self.simulator.set(Some(simulator));
        Ok(result)
    }

    /// A path inside the run's folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.out.join(relative)
    }

    /// A folder inside the run's folder, created.
    pub fn folder(&self, relative: &str) -> Result<PathBuf, PipelineError> {
        let path = self.out.join(relative);
        fs_err::create_dir_all(&path).map_err(|source| PipelineError::io("creating a folder", source))?;
        Ok(path)
    }

    /// Runs one training of the run: `train` gets its description and a callback for its steps. Steps are logged about 200
    /// times under `name`, which is also its folder.
    pub fn training<T>(
        &mut self,
        name: &str,
        config: &TrainConfig,
        depends: serde_json::Value,
        train: impl FnOnce(&mut Context, &Training, &mut Steps) -> Result<T, PipelineError>,
    ) -> Result<T, PipelineError> {
        let dir = self.path(name);
        let done = Checkpoint::new(&dir).step()?;
        if self.resume && self.metrics.is_none() && done < config.steps {
            self.metrics = Some(Metrics::resume(&self.out, name, done as u64)?);
        }
        if done < config.steps {
            self.progress.part(name);
            self.progress.credit(done, config.steps);
        }
        let seed = self.config.seed;
        let training = Training { name, dir: Some(&dir), seed, config, depends };
        // The log moves into the callback and back, so that the training may borrow the rest of the context.
        let mut steps = Steps { name: name.to_owned(), metrics: self.metrics.take(), failed: None };
        let result = train(self, &training, &mut steps);
        self.metrics = steps.metrics.take();
        if let Some(error) = steps.failed {
            return Err(error);
        }
        result
    }
}

/// Where a training's steps go.
pub(crate) struct Steps {
    name: String,
    metrics: Option<Metrics>,
    failed: Option<PipelineError>,
}

impl Steps {
    /// Logs a step and shows it.
    pub fn step(&mut self, progress: &RunProgress, report: &StepReport) {
        let tick = (report.steps / 200).max(1);
        let (_, loss) = report.losses[0];
        progress.tick(report.step, report.steps, &format!("{} · loss {loss:.4}", self.name));
        let step = report.step - 1;
        if step.is_multiple_of(tick) || report.step == report.steps {
            let mut values: Vec<(&str, f64)> =
                report.losses.iter().map(|(name, value)| (*name, f64::from(*value))).collect();
            values.push(("lr", f64::from(report.lr)));
            values.push(("grad_norm", f64::from(report.grad_norm)));
            self.log(step, &values);
        }
    }

    /// Logs values under this training's name.
    pub fn log(&mut self, step: usize, values: &[(&str, f64)]) {
        if let Some(metrics) = &mut self.metrics
            && let Err(error) = metrics.log(&self.name, step as u64, values)
        {
            self.failed.get_or_insert(error.into());
        }
    }
}

/// A JSON artifact of the run.
pub(crate) fn save_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), PipelineError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| PipelineError::io("writing a result", std::io::Error::other(error)))?;
    w2a_data::write_atomic(path, &text).map_err(|source| PipelineError::io("writing a result", source))
}

/// Reads what [`save_json`] wrote.
pub(crate) fn load_json<T: serde::de::DeserializeOwned>(path: &Path, stage: &'static str) -> Result<T, PipelineError> {
    let artifact = |reason: String| PipelineError::Artifact { path: path.to_owned(), reason, stage };
    let bytes = fs_err::read(path).map_err(|error| artifact(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| artifact(error.to_string()))
}

/// Trainings may depend on any configuration; serialising ours cannot fail.
pub(crate) fn depends<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Whether `folder` is missing, empty, or has no more in it than a run that was killed before it had begun.
fn is_free(folder: &Path) -> std::io::Result<bool> {
    let entries = match fs_err::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries {
        if entry?.file_name() != ".config.toml.partial" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first setting in which two configurations differ, other than the number of threads, with both values.
fn difference(saved: &str, given: &str) -> Option<String> {
    // A run that began before there was a setting has its default; what cannot be read so is compared as it is.
    let whole = toml::from_str::<Config>(saved).ok().and_then(|config| toml::to_string(&config).ok());
    let parse = |text: &str| text.parse::<toml::Table>();
    match (parse(whole.as_deref().unwrap_or(saved)), parse(given)) {
        (Ok(saved), Ok(given)) => first_difference("", &saved, &given),
        (Err(error), _) | (_, Err(error)) => Some(format!("it cannot be compared: {}", error.message())),
    }
}

fn first_difference(section: &str, saved: &toml::Table, given: &toml::Table) -> Option<String> {
    use toml::Value::Table;
    let keys: std::collections::BTreeSet<&String> = saved.keys().chain(given.keys()).collect();
    keys.into_iter().find_map(|name| {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        match (saved.get(name), given.get(name)) {
            (saved, given) if saved == given || key == "threads" => None,
            (Some(Table(saved)), Some(Table(given))) => first_difference(&key, saved, given),
            (saved, given) => {
                let words = |value: Option<&toml::Value>| match value {
                    Some(Table(_)) => format!("has a section `{key}`"),
                    Some(value) => format!("has `{key} = {value}`"),
                    None => format!("has no `{key}`"),
                };
                Some(format!("it {}, this command {}", words(saved), words(given)))
            }
        }
    })
}

impl From<w2a_report::WriteError> for PipelineError {
    fn from(error: w2a_report::WriteError) -> Self {
        Self::io("writing a result", std::io::Error::other(error))
    }
}

/// The result of a training function of the model crates, as the pipeline's.
pub(crate) fn model<T>(result: Result<T, NnError>) -> Result<T, PipelineError> {
    result.map_err(PipelineError::from)
}

#[cfg(test)]
mod tests {
    use super::{difference, is_free};
    use crate::{Config, Profile};

    fn text(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::profile(Profile::Smoke);
        change(&mut config);
        toml::to_string(&config).unwrap()
    }

    #[test]
    fn the_first_difference_is_named_with_its_section_and_both_values() {
        let saved = text(|_| {});
        let found = |change: fn(&mut Config)| difference(&saved, &text(change));
        assert_eq!(found(|_| {}), None);
        assert_eq!(found(|config| config.threads += 1), None);
        let words = found(|config| config.world.flow_train.steps = 7).unwrap();
        let before = Config::profile(Profile::Smoke).world.flow_train.steps;
        let expected =
            format!("it has `world.flow_train.steps = {before}`, this command has `world.flow_train.steps = 7`");
        assert_eq!(words, expected);
        let words = found(|config| config.data.suites.push("goal".into())).unwrap();
        assert!(words.contains("`data.suites = [\"object\", \"goal\"]`"), "{words}");
    }

    #[test]
    fn a_run_from_before_there_was_a_setting_has_its_default() {
        let mut before: toml::Table = text(|_| {}).parse().unwrap();
        assert!(before.remove("env").is_some());
        assert!(before["world"].as_table_mut().unwrap().remove("kind").is_some());
        let before = toml::to_string(&before).unwrap();
        assert_eq!(difference(&before, &text(|_| {})), None);
        let words = difference(&before, &text(|config| config.env.kind = crate::EnvKind::Libero)).unwrap();
        assert_eq!(words, "it has `env.kind = \"tabletop\"`, this command has `env.kind = \"libero\"`");
    }

    #[test]
    fn keys_that_only_one_of_them_has_are_differences() {
        let words = difference("[a]\nx = 1\n", "[a]\nx = 1\ny = 2\n").unwrap();
        assert_eq!(words, "it has no `a.y`, this command has `a.y = 2`");
        let words = difference("a = 1\n", "[a]\nx = 1\n").unwrap();
        assert_eq!(words, "it has `a = 1`, this command has a section `a`");
        assert!(difference("a = \n", "a = 1\n").unwrap().contains("cannot be compared"));
    }

    #[test]
    fn a_folder_with_files_of_others_is_not_free() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_free(&folder.path().join("absent")).unwrap());
        std::fs::write(folder.path().join(".config.toml.partial"), "seed").unwrap();
        assert!(is_free(folder.path()).unwrap());
        std::fs::write(folder.path().join("thesis.tex"), "").unwrap();
        assert!(!is_free(folder.path()).unwrap());
        assert!(is_free(&folder.path().join("thesis.tex")).is_err());
    }
}
