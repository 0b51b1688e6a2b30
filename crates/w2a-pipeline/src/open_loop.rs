//! What `policy open-loop` does: the policy sees recorded frames, and what it would do is compared with what was done.
//!
//! As the reference's `open_loop_eval.py`: the policy is asked every `stride` steps, and its first `stride` steps count. It
//! tells whether a checkpoint, its statistics and a dataset belong together; it does not tell success.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use w2a_data::{Episode, Source};
use w2a_nn::Array;
use w2a_policy::Policy as _;
use w2a_policy::groot::GrootOptions;
use w2a_report::svg::{Emphasis, LinePlot};
use w2a_report::{Align, Progress, Report, Table};

use crate::PipelineError;
use crate::groot_data::{Layout, load};

/// What to replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenLoopRequest {
    /// Directory of the checkpoint.
    pub checkpoint: PathBuf,
    /// The demonstrations.
    pub dataset: PathBuf,
    /// Tag of the embodiment.
    pub embodiment: String,
    /// Folder for `open_loop.html` and `open_loop.json`; must not exist.
    pub out: PathBuf,
    /// Folder of the backbone's files, if they are not with the checkpoint.
    pub backbone: Option<PathBuf>,
    /// Folder of a LoRA adapter in PEFT's form, added to the weights.
    pub adapter: Option<PathBuf>,
    /// Whether frames are padded to squares first.
    pub letterbox: bool,
    /// The first episodes are replayed.
    pub episodes: usize,
    /// Steps between two calls of the policy; its horizon without one.
    pub stride: Option<usize>,
    /// Seed of the policy's noise.
    pub seed: u64,
    /// Name of the device.
    pub device: String,
}

/// How far actions are from those that were recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Errors {
    /// Mean squared error, in the units of the dataset.
    pub mse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Values compared.
    pub values: usize,
}

impl Errors {
    fn add(&mut self, got: f32, want: f32) {
        let error = f64::from(got) - f64::from(want);
        self.mse += error * error;
        self.mae += error.abs();
        self.values += 1;
    }

    fn mean(&self) -> Self {
        let count = self.values.max(1) as f64;
        Self { mse: self.mse / count, mae: self.mae / count, values: self.values }
    }
}

/// Both curves of one dimension of an action over an episode.
struct Curve {
    key: String,
    dimension: usize,
    got: Vec<(f64, f64)>,
    want: Vec<(f64, f64)>,
}

/// Replays the first episodes of a dataset and writes how far the policy's actions are from the recorded ones, by key.
///
/// # Errors
/// A checkpoint or dataset that cannot be read, or that do not belong together: a camera, state or action key that the
/// dataset does not name, or of another width.
pub fn open_loop(request: &OpenLoopRequest) -> Result<String, PipelineError> {
    if request.out.exists() {
        return Err(PipelineError::Config {
            key: "--out".into(),
            expected: "a folder that does not exist yet".into(),
            got: request.out.display().to_string(),
        });
    }
    let source = Source::open_in_part(&request.dataset)?;
    let device = w2a_nn::device(&request.device)?;
    let options = GrootOptions {
        backbone: request.backbone.clone(),
        letterbox: request.letterbox,
        seed: request.seed,
        ..GrootOptions::new(&device)
    };
    let mut groot = load(&request.checkpoint, &request.embodiment, &options, request.adapter.as_deref())?;
    let layout = Layout::new(&groot, &source)?;
    let horizon = layout.action_steps.len();
    let stride = request.stride.unwrap_or(horizon);
    if stride == 0 || stride > horizon {
        return Err(PipelineError::Config {
            key: "--stride".into(),
            expected: format!("from 1 to the policy's horizon of {horizon}"),
            got: stride.to_string(),
        });
    }
    let total = source.len().min(request.episodes);
    if total == 0 {
        return Err(PipelineError::Config {
            key: "--episodes".into(),
            expected: "at least one, and a dataset that has one".into(),
            got: format!("{}, of {}", request.episodes, source.len()),
        });
    }
    let progress = Progress::new(&[("open-loop", 1.0)]);
    progress.start("open-loop");
    let mut errors: BTreeMap<String, Errors> = BTreeMap::new();
    let mut pages = Vec::new();
    for (number, episode) in source.episodes().take(total).enumerate() {
        let episode = episode?;
        groot.reset();
        let mut curves = empty_curves(&layout);
        for now in (0..episode.len()).step_by(stride) {
            let done = (number * 1000 + 1000 * now / episode.len()) as u64;
            progress.tick(done, 1000 * total as u64, &format!("episode {} of {total}, step {now}", number + 1));
            let chunk = groot.act(&layout.observation(&[layout.sample(&episode, now)])?)?;
            compare(&layout, &episode, (now, stride), &chunk, &mut errors, &mut curves);
        }
        pages.push((format!("Episode {number}: {}", episode.instruction), curves));
    }
    progress.finish("open-loop");
    let errors: BTreeMap<String, Errors> = errors.into_iter().map(|(key, errors)| (key, errors.mean())).collect();
    write(request, &layout, &errors, &pages, stride)
}

/// Empty curves for every dimension of an action.
fn empty_curves(layout: &Layout) -> Vec<Curve> {
    let dimensions =
        layout.action.iter().flat_map(|(key, group)| (0..group.end - group.start).map(move |at| (key, at)));
    dimensions
        .map(|(key, dimension)| Curve { key: key.clone(), dimension, got: Vec::new(), want: Vec::new() })
        .collect()
}

/// Adds what one chunk did to the errors and curves.
fn compare(
    layout: &Layout,
    episode: &Episode,
    (now, stride): (usize, usize),
    chunk: &BTreeMap<String, Array>,
    errors: &mut BTreeMap<String, Errors>,
    curves: &mut [Curve],
) {
    for (step, delta) in layout.action_steps.iter().enumerate().take(stride) {
        let Some(at) = usize::try_from(now as i64 + delta).ok().filter(|at| *at < episode.len()) else { continue };
        let wanted = episode.action(at);
        let mut curve = 0;
        for (key, group) in &layout.action {
            let width = group.end - group.start;
            let got = chunk.get(key).map_or(&[][..], |array| &array.data[step * width..(step + 1) * width]);
            let entry = errors.entry(key.clone()).or_default();
            for (index, (got, want)) in got.iter().zip(&wanted[group.start..group.end]).enumerate() {
                entry.add(*got, *want);
                curves[curve + index].got.push((at as f64, f64::from(*got)));
                curves[curve + index].want.push((at as f64, f64::from(*want)));
            }
            curve += width;
        }
    }
}

/// Writes the page and the numbers, and gives the lines for the terminal.
fn write(
    request: &OpenLoopRequest,
    layout: &Layout,
    errors: &BTreeMap<String, Errors>,
    pages: &[(String, Vec<Curve>)],
    stride: usize,
) -> Result<String, PipelineError> {
    let columns = [("Action", Align::Text), ("MSE", Align::Number), ("MAE", Align::Number), ("Values", Align::Number)];
    let mut text = format!("{:<24} {:>12} {:>12} {:>9}\n", "action", "MSE", "MAE", "values");
    let mut table = Table::new(&columns);
    // Means over keys would weigh a gripper as a whole arm.
    let mut all = Errors::default();
    for errors in errors.values() {
        let count = errors.values as f64;
        all.mse += errors.mse * count;
        all.mae += errors.mae * count;
        all.values += errors.values;
    }
    let all = all.mean();
    let ordered = layout.action.iter().filter_map(|(key, _)| Some((key.as_str(), errors.get(key)?)));
    for (key, Errors { mse, mae, values }) in ordered.chain([("all", &all)]) {
        let _ = writeln!(text, "{key:<24} {mse:>12.6} {mae:>12.6} {values:>9}");
        let emphasis = if key == "all" { Emphasis::Headline } else { Emphasis::Normal };
        let cells = [key.to_owned(), format!("{mse:.6}"), format!("{mae:.6}"), values.to_string()];
        table = table.row(emphasis, cells.map(Into::into));
    }
    let outcome = format!("Mean squared error {:.6}, mean absolute error {:.6}.", all.mse, all.mae);
    let caption = format!(
        "In the dataset's units. The policy is asked every {stride} steps and its first {stride} steps count; {} episodes.",
        pages.len()
    );
    let mut report = Report::new("Open loop: what the policy would have done", &outcome)
        .kicker(&format!("Checkpoint `{}` as `{}`.", request.checkpoint.display(), request.embodiment))
        .section("Errors by key")
        .table(&table, &caption);
    for (title, curves) in pages {
        let plots: Vec<_> = curves
            .iter()
            .map(|curve| {
                let plot = LinePlot::new(&format!("{} {}", curve.key, curve.dimension), "step", "value");
                (plot.series("policy", &curve.got).series("recorded", &curve.want).dashed().render(), "")
            })
            .collect();
        report = report.section(title).plots(&plots);
    }
    fs_err::create_dir_all(&request.out).map_err(|error| PipelineError::io("writing the open-loop page", error))?;
    let page = request.out.join("open_loop.html");
    report.save(&page)?;
    #[derive(Serialize)]
    struct File<'a> {
        embodiment: &'a str,
        episodes: usize,
        stride: usize,
        seed: u64,
        all: Errors,
        keys: &'a BTreeMap<String, Errors>,
    }
    let file =
        File { embodiment: &request.embodiment, episodes: pages.len(), stride, seed: request.seed, all, keys: errors };
    let json = serde_json::to_vec_pretty(&file).map_err(|error| PipelineError::io("writing numbers", error.into()))?;
    w2a_data::write_atomic(&request.out.join("open_loop.json"), &json)
        .map_err(|error| PipelineError::io("writing the open-loop numbers", error))?;
    let _ = writeln!(text, "\nPage: {}", page.display());
    Ok(text)
}
