//! What `policy open-loop` does: the policy sees recorded frames, and what it would do is compared with what was done.
//!
//! As the reference's `open_loop_eval.py`: the policy is asked every `stride` steps, and its first `stride` steps count. It
//! tells whether a checkpoint, its statistics and a dataset belong together; it does not tell success.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use w2a_data::{Episode, Group, Source};
use w2a_nn::{Array, NnError};
use w2a_policy::groot::{Groot, GrootObservation, GrootOptions, Video};
use w2a_report::svg::{Emphasis, LinePlot};
use w2a_report::{Align, Progress, Report, Table};

use crate::PipelineError;

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

/// Where the dataset has what the policy asks for.
struct Layout {
    /// Place of each of the policy's cameras among the dataset's, by key.
    cameras: Vec<(String, usize)>,
    state: Vec<(String, Group)>,
    action: Vec<(String, Group)>,
    language: String,
    video_steps: Vec<i64>,
    state_steps: Vec<i64>,
    action_steps: Vec<i64>,
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
    let mut groot = Groot::load(&request.checkpoint, &request.embodiment, &options)?;
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
    let progress = Progress::new(&[("open-loop", 1.0)]);
    progress.start("open-loop");
    let mut errors: BTreeMap<String, Errors> = BTreeMap::new();
    let mut pages = Vec::new();
    for (number, episode) in source.episodes().take(total).enumerate() {
        let episode = episode?;
        use w2a_policy::Policy as _;
        groot.reset();
        let mut curves = layout.curves();
        for now in (0..episode.len()).step_by(stride) {
            let done = (number * 1000 + 1000 * now / episode.len()) as u64;
            progress.tick(done, 1000 * total as u64, &format!("episode {} of {total}, step {now}", number + 1));
            let chunk = groot.act(&layout.observation(&episode, now)?)?;
            layout.compare(&episode, (now, stride), &chunk, &mut errors, &mut curves);
        }
        pages.push((format!("Episode {number}: {}", episode.instruction), curves));
    }
    progress.finish("open-loop");
    let errors: BTreeMap<String, Errors> = errors.into_iter().map(|(key, errors)| (key, errors.mean())).collect();
    write(request, &layout, &errors, &pages, stride)
}

fn missing(what: String, expected: String, got: String) -> PipelineError {
    NnError::Input { what, expected, got }.into()
}

impl Layout {
    fn new(groot: &Groot, source: &Source) -> Result<Self, PipelineError> {
        let modalities = groot.modality_config();
        let names: Vec<&str> = source.spec().cameras.iter().map(|camera| source.gr00t_camera(&camera.name)).collect();
        let mut cameras = Vec::new();
        for key in &modalities.video.modality_keys {
            let place = names.iter().position(|name| name == key).ok_or_else(|| {
                let expected = format!("{key:?}, which the checkpoint sees; name it in meta/modality.json");
                missing("cameras of the dataset".into(), expected, names.join(", "))
            })?;
            cameras.push((key.clone(), place));
        }
        let (state, action) = source.groups();
        let state = groot.state_widths().map(|(key, width)| group("state", &state, key, width));
        let action = groot.action_widths().map(|(key, width)| group("action", &action, key, Some(width)));
        Ok(Self {
            cameras,
            state: state.collect::<Result<_, _>>()?,
            action: action.collect::<Result<_, _>>()?,
            language: modalities.language.modality_keys.first().cloned().unwrap_or_default(),
            video_steps: modalities.video.delta_indices.clone(),
            state_steps: modalities.state.delta_indices.clone(),
            action_steps: modalities.action.delta_indices.clone(),
        })
    }

    fn curves(&self) -> Vec<Curve> {
        let dimensions =
            self.action.iter().flat_map(|(key, group)| (0..group.end - group.start).map(move |at| (key, at)));
        dimensions
            .map(|(key, dimension)| Curve { key: key.clone(), dimension, got: Vec::new(), want: Vec::new() })
            .collect()
    }

    /// What the policy sees at a step; before the start and past the end the first and last frame stay.
    fn observation(&self, episode: &Episode, now: usize) -> Result<GrootObservation, PipelineError> {
        let at = |delta: &i64| (now as i64 + delta).clamp(0, episode.len() as i64 - 1) as usize;
        let mut out = GrootObservation::default();
        for (key, place) in &self.cameras {
            let camera = episode.cameras.get(*place).ok_or_else(|| {
                missing(format!("camera {key:?} of {}", episode.source), "frames".into(), "none".into())
            })?;
            let data = self.video_steps.iter().flat_map(|delta| camera.frame(at(delta))).copied().collect();
            let shape = [1, self.video_steps.len(), camera.height, camera.width, 3];
            out.video.insert(key.clone(), Video { shape, data });
        }
        for (key, group) in &self.state {
            let rows = self.state_steps.iter().flat_map(|delta| &episode.proprio(at(delta))[group.start..group.end]);
            let shape = vec![1, self.state_steps.len(), group.end - group.start];
            out.state.insert(key.clone(), Array { shape, data: rows.copied().collect() });
        }
        out.language.insert(self.language.clone(), vec![vec![episode.instruction.clone()]]);
        Ok(out)
    }

    fn compare(
        &self,
        episode: &Episode,
        (now, stride): (usize, usize),
        chunk: &BTreeMap<String, Array>,
        errors: &mut BTreeMap<String, Errors>,
        curves: &mut [Curve],
    ) {
        for (step, delta) in self.action_steps.iter().enumerate().take(stride) {
            let Some(at) = usize::try_from(now as i64 + delta).ok().filter(|at| *at < episode.len()) else { continue };
            let wanted = episode.action(at);
            let mut curve = 0;
            for (key, group) in &self.action {
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
}

/// The part of the dataset that `key` names.
fn group(what: &str, groups: &[Group], key: &str, width: Option<usize>) -> Result<(String, Group), PipelineError> {
    let found = groups.iter().find(|group| group.name == key);
    let found = found.filter(|group| width.is_none_or(|width| group.end - group.start == width));
    let found = found.ok_or_else(|| {
        let width = width.map_or_else(|| "any".into(), |width| width.to_string());
        let names = groups.iter().map(|group| format!("{} {}", group.name, group.end - group.start));
        let expected = format!("{key:?} of width {width}, as the checkpoint; name it in meta/modality.json");
        missing(format!("{what} keys of the dataset"), expected, names.collect::<Vec<_>>().join(", "))
    })?;
    Ok((key.to_owned(), found.clone()))
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
