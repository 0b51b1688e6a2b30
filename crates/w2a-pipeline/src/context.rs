//! What every stage of a run needs: folders, device, progress, log.

use std::path::PathBuf;

use burn::tensor::Device;
use w2a_nn::{Checkpoint, NnError, StepReport, TrainConfig, Training};
use w2a_report::{GitState, Manifest, Metrics, Progress, StageStatus};

use crate::{Config, PipelineError, Request, Stage};

/// The state of a run.
pub(crate) struct Context {
    pub config: Config,
    pub out: PathBuf,
    pub device: Device,
    pub progress: Progress,
    pub manifest: Manifest,
    resume: bool,
    metrics: Option<Metrics>,
}

/// The share of a whole run that each stage takes, measured with the quick profile; the estimate of the remaining time
/// starts from it and is corrected by what is measured on the way.
const SHARES: [(Stage, f64); 7] = [
    (Stage::Data, 0.06),
    (Stage::World, 0.38),
    (Stage::Policy, 0.2),
    (Stage::Align, 0.08),
    (Stage::Posttrain, 0.2),
    (Stage::Eval, 0.07),
    (Stage::Report, 0.01),
];

impl Context {
    /// Opens or creates the run's folder and writes its configuration.
    pub fn open(request: &Request) -> Result<Self, PipelineError> {
        let out = request.out.clone();
        let io = |source| PipelineError::io("preparing the run's folder", source);
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
            let saved = fs_err::read_to_string(&path).map_err(io)?;
            if let Some(difference) = difference(&saved, &text) {
                return Err(PipelineError::Changed { path: out, difference });
            }
        } else {
            fs_err::create_dir_all(&out).map_err(io)?;
            w2a_data::write_atomic(&path, text.as_bytes()).map_err(io)?;
        }
        let stages: Vec<&str> = Stage::ALL.iter().map(|stage| stage.name()).collect();
        let manifest_path = out.join("manifest.json");
        let mut manifest = match manifest_path.exists() {
            true => Manifest::load(&manifest_path)?,
            false => Manifest::new(env!("CARGO_PKG_VERSION"), request.config.seed, request.config.threads, &stages),
        };
        manifest.git = GitState::read(".").or(manifest.git);
        manifest.save(&manifest_path)?;
        let planned: Vec<(&str, f64)> = SHARES
            .iter()
            .filter(|(stage, _)| *stage <= request.until)
            .map(|(stage, share)| (stage.name(), *share))
            .collect();
        // A pool that exists already was sized by an earlier run in this process, as in tests: its size stays.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(request.config.threads).build_global();
        let metrics = if existing { None } else { Some(Metrics::create(&out)?) };
        Ok(Self {
            config: request.config.clone(),
            out,
            device: Device::flex(),
            progress: Progress::new(&planned),
            manifest,
            resume: existing,
            metrics,
        })
    }

    pub fn begin(&mut self, stage: Stage) -> Result<(), PipelineError> {
        self.progress.start(stage.name());
        self.save_stage(stage, StageStatus::Running, 0.0)
    }

    pub fn end(&mut self, stage: Stage) -> Result<(), PipelineError> {
        let seconds = self.progress.finish(stage.name());
        if let Some(metrics) = &mut self.metrics {
            metrics.sync()?;
        }
        self.save_stage(stage, StageStatus::Done, seconds)
    }

    fn save_stage(&mut self, stage: Stage, status: StageStatus, seconds: f64) -> Result<(), PipelineError> {
        let before = self.manifest.stages.iter().find(|record| record.name == stage.name());
        // Seconds add up over resumed runs.
        let seconds = before.map_or(0.0, |record| record.seconds) + seconds;
        self.manifest.update_stage(stage.name(), status, seconds)?;
        Ok(self.manifest.save(self.out.join("manifest.json"))?)
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
    pub fn step(&mut self, progress: &Progress, report: &StepReport) {
        let tick = (report.steps / 200).max(1);
        let (_, loss) = report.losses[0];
        progress.tick(report.step as u64, report.steps as u64, &format!("{} · loss {loss:.4}", self.name));
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
pub(crate) fn save_json<T: serde::Serialize>(path: &std::path::Path, value: &T) -> Result<(), PipelineError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| PipelineError::io("writing a result", std::io::Error::other(error)))?;
    w2a_data::write_atomic(path, &text).map_err(|source| PipelineError::io("writing a result", source))
}

/// Reads what [`save_json`] wrote.
pub(crate) fn load_json<T: serde::de::DeserializeOwned>(
    path: &std::path::Path,
    stage: &'static str,
) -> Result<T, PipelineError> {
    let artifact = |reason: String| PipelineError::Artifact { path: path.to_owned(), reason, stage };
    let bytes = fs_err::read(path).map_err(|error| artifact(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| artifact(error.to_string()))
}

/// Trainings may depend on any configuration; serialising ours cannot fail.
pub(crate) fn depends<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// The first line in which two configurations differ, other than the number of threads.
fn difference(saved: &str, given: &str) -> Option<String> {
    let relevant = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("threads")).map(str::to_owned).collect()
    };
    let (saved, given) = (relevant(saved), relevant(given));
    let pair = saved.iter().zip(&given).find(|(a, b)| a != b);
    match pair {
        Some((a, b)) => Some(format!("it has `{a}`, this command `{b}`")),
        None if saved.len() != given.len() => Some("one has more keys than the other".into()),
        None => None,
    }
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
