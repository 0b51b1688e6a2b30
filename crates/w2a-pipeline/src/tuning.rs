//! What fine-tuning of every model does alike: its first checks and its log.

use std::path::Path;

use w2a_nn::{NnError, StepReport};
use w2a_posttrain::LoraConfig;
use w2a_report::{Metrics, MetricsError, Progress};

use crate::PipelineError;

/// What is trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// All weights: of a world model its DiT, of GR00T its action head.
    Full,
    /// Changes of low rank: of a world model of its attention's and perceptrons' layers, of GR00T of the linear layers of its
    /// action head's transformer.
    Lora(LoraConfig),
}

pub(crate) fn config_error(key: &str, expected: String, got: String) -> PipelineError {
    PipelineError::Config { key: key.into(), expected, got }
}

/// What can be refused before anything is read; `counts` are steps and batch.
///
/// # Errors
/// A folder that exists without `resume` or does not with it, numbers that are not above 0.
pub(crate) fn check_training(out: &Path, resume: bool, counts: [usize; 2], lr: f32) -> Result<(), PipelineError> {
    let exists = out.exists();
    if exists && !resume {
        let expected = "a folder that does not exist yet, or --resume".into();
        return Err(config_error("--out", expected, out.display().to_string()));
    }
    if !exists && resume {
        let expected = "the folder of a training, because of --resume".into();
        return Err(config_error("--out", expected, format!("{}, which does not exist", out.display())));
    }
    let [steps, batch] = counts;
    if steps == 0 || batch == 0 || !(lr.is_finite() && lr > 0.0) {
        let got = format!("{steps}, {batch} and {lr}");
        return Err(config_error("--steps, --batch and --lr", "numbers above 0".into(), got));
    }
    Ok(())
}

/// An error inside of a training, whose loss can only fail as a model does.
pub(crate) fn as_input(error: PipelineError) -> NnError {
    match error {
        PipelineError::Model(error) => error,
        other => NnError::Input {
            what: "a batch of the training".into(),
            expected: "data that can be read".into(),
            got: other.to_string(),
        },
    }
}

/// The log of the updates. An error of the disk is kept until the training is over: losing its result would be worse.
pub(crate) struct TrainingLog {
    name: &'static str,
    metrics: Metrics,
    progress: Progress,
    failed: Option<MetricsError>,
    last: Option<f32>,
}

impl TrainingLog {
    /// The log in `out`, of a training of which `done` steps are done.
    ///
    /// # Errors
    /// A log that exists without `resume`, or that cannot be read or written.
    pub fn open(name: &'static str, out: &Path, resume: bool, done: usize) -> Result<Self, PipelineError> {
        let metrics = if resume { Metrics::resume(out, name, done as u64)? } else { Metrics::create(out)? };
        let progress = Progress::new(&[(name, 1.0)]);
        progress.start(name);
        Ok(Self { name, metrics, progress, failed: None, last: None })
    }

    /// An update.
    pub fn step(&mut self, report: &StepReport) {
        let loss = report.losses.first().map_or(f32::NAN, |(_, loss)| *loss);
        self.numbers(report.step - 1, &[("loss", loss), ("grad_norm", report.grad_norm), ("lr", report.lr)]);
        self.progress.tick(report.step as u64, report.steps as u64, &format!("step {}, loss {loss:.4}", report.step));
        self.last = Some(loss);
    }

    /// Numbers of update `step`, counted from 0.
    pub fn numbers(&mut self, step: usize, numbers: &[(&str, f32)]) {
        let numbers: Vec<(&str, f64)> = numbers.iter().map(|(name, value)| (*name, f64::from(*value))).collect();
        if let Err(error) = self.metrics.log(self.name, step as u64, &numbers) {
            self.failed.get_or_insert(error);
        }
    }

    /// Ends the training and gives words on its last loss.
    ///
    /// # Errors
    /// What the log could not be written for.
    pub fn finish(self) -> Result<String, PipelineError> {
        self.progress.finish(self.name);
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        Ok(self.last.map_or_else(|| "it was done already".into(), |loss| format!("last loss {loss:.5}")))
    }
}
