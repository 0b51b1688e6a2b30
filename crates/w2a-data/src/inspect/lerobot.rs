//! What a LeRobot dataset says of itself, held against what is in it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Inspection;
use crate::convert::{NOTES, Notes};
use crate::{Dataset, DatasetError, Episode, Source, Statistics, StatisticsBuilder, Version};

const STATE: &str = "observation.state";
const ACTION: &str = "action";
const CAMERA_PREFIX: &str = "observation.images.";
const RENEW: &str = "`world2act data convert` writes new ones";
/// Statistics are kept in 32 or 64 bits and gathered in different orders: this share of the spread is rounding.
const TOLERANCE: f64 = 1e-3;

/// Codecs and the names of entries, from `meta/info.json`.
pub fn describe(dataset: &Dataset, report: &mut Inspection) {
    // `Dataset::open` has read the same file; should it have gone since, there are no names.
    let info = read(&dataset.path().join("meta/info.json")).unwrap_or_default();
    let feature = |key: &str| info.get("features").and_then(|features| features.get(key));
    for camera in &mut report.cameras {
        let prefixed = format!("{CAMERA_PREFIX}{}", camera.name);
        let Some(feature) = feature(&prefixed).or_else(|| feature(&camera.name)) else { continue };
        let kind = feature.get("dtype").and_then(Value::as_str).unwrap_or_default();
        let details = feature.get("info").or_else(|| feature.get("video_info"));
        let codec = details.and_then(|details| details.get("video.codec")).and_then(Value::as_str);
        camera.codec = match (kind, codec) {
            ("image", _) => "png".into(),
            (_, Some(codec)) => codec.into(),
            (_, None) => "video".into(),
        };
    }
    for (key, report) in [(STATE, &mut report.state), (ACTION, &mut report.action)] {
        let mut names = Vec::new();
        flatten(feature(key).and_then(|feature| feature.get("names")).unwrap_or(&Value::Null), &mut names);
        // Writers without names number the entries.
        let is_numbered = names.iter().enumerate().all(|(index, name)| *name == index.to_string());
        report.names = if is_numbered { Vec::new() } else { names };
    }
}

/// The file that an error is about, where it is about one.
pub fn file_of(error: &DatasetError) -> Option<&Path> {
    match error {
        DatasetError::Missing { file, .. }
        | DatasetError::Json { file, .. }
        | DatasetError::Template { file, .. }
        | DatasetError::Mismatch { file, .. }
        | DatasetError::Parquet { file, .. }
        | DatasetError::Image { file, .. }
        | DatasetError::NotFinite { file, .. }
        | DatasetError::Version { file, .. } => Some(file),
        DatasetError::Io { path, .. } => Some(path),
        DatasetError::Video { source, .. } => source.path(),
        _ => None,
    }
}

/// `["x", "y"]`, or `{"motors": ["x", "y"]}`.
fn flatten(names: &Value, out: &mut Vec<String>) {
    match names {
        Value::String(name) => out.push(name.clone()),
        Value::Array(items) => items.iter().for_each(|item| flatten(item, out)),
        Value::Object(groups) => groups.values().for_each(|group| flatten(group, out)),
        _ => {}
    }
}

fn read(file: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// The statistics that a dataset carries, compared with those of its rows. Nothing for other formats.
pub struct Recorded {
    /// Of the whole dataset: `meta/stats.json`.
    whole: Option<(PathBuf, Value)>,
    /// Of each episode: `meta/episodes_stats.jsonl` of version 2.1.
    episodes: Option<(PathBuf, Vec<Value>)>,
    builders: Vec<(&'static str, StatisticsBuilder)>,
    stale: usize,
}

impl Recorded {
    pub fn of(source: &Source, report: &mut Inspection) -> Self {
        let mut recorded = Self { whole: None, episodes: None, builders: Vec::new(), stale: 0 };
        let Source::LeRobot(dataset) = source else { return recorded };
        let root = dataset.path();
        let (whole, each) = (root.join("meta/stats.json"), root.join("meta/episodes_stats.jsonl"));
        if each.is_file() {
            recorded.episodes = Some((each.clone(), lines(&each, report)));
        } else if dataset.version() == Version::V21 {
            report.problem(&each, None, missing(&each));
        }
        if whole.is_file() {
            match read(&whole) {
                Some(value) => recorded.whole = Some((whole, value)),
                None => report.problem(&whole, None, format!("{} is no JSON; {RENEW}", whole.display())),
            }
        } else if dataset.version() == Version::V30 || root.join("meta/modality.json").is_file() {
            // GR00T's loader needs it besides the statistics of version 2.1.
            report.problem(&whole, None, missing(&whole));
        }
        let spec = dataset.spec();
        recorded.builders = [(STATE, spec.proprio_dim), (ACTION, spec.action_dim)]
            .into_iter()
            .filter(|(_, width)| *width > 0)
            .map(|(key, width)| (key, StatisticsBuilder::new(key, width)))
            .collect();
        let cameras = spec.cameras.iter().map(|camera| format!("{CAMERA_PREFIX}{}", camera.name));
        if let (Some((file, value)), Version::V30) = (&recorded.whole, dataset.version()) {
            for key in cameras.filter(|key| value.get(key).is_none()) {
                report.problem(file, None, format!("{} has no statistics of {key}; {RENEW}", file.display()));
            }
        }
        check_fingerprint(dataset, report);
        recorded
    }

    /// Adds the rows of an episode and compares its own statistics.
    pub fn add(&mut self, index: usize, episode: &Episode, report: &mut Inspection) {
        for (key, whole) in &mut self.builders {
            let (rows, width) = if *key == STATE {
                (&episode.proprio, episode.proprio_dim)
            } else {
                (&episode.actions, episode.action_dim)
            };
            // An episode that was read is finite and of these widths; if not, there is nothing to compare.
            let mut own = StatisticsBuilder::new(*key, width);
            if whole.push(rows).is_err() || own.push(rows).is_err() {
                continue;
            }
            let Some((file, lines)) = &self.episodes else { continue };
            let number = |line: &&Value| line.get("episode_index").and_then(Value::as_u64) == Some(index as u64);
            let stated = lines.iter().find(number).and_then(|line| line.get("stats")?.get(*key));
            let Ok(own) = own.finish() else { continue };
            if let Some(what) = difference(stated, &own) {
                self.stale += 1;
                // One episode shows what is wrong; thousands would hide everything else.
                if self.stale == 1 {
                    let message = format!("{}: episode {index}: {key}: {what}; {RENEW}", file.display());
                    report.problem(file, Some(index), message);
                }
            }
        }
    }

    /// Compares the statistics of the whole, if all of it was read.
    pub fn finish(self, report: &mut Inspection) {
        if let (Some((file, _)), 2..) = (&self.episodes, self.stale) {
            let message =
                format!("{}: {} more statistics are stale or missing; {RENEW}", file.display(), self.stale - 1);
            report.problem(file, None, message);
        }
        let Some((file, value)) = self.whole.filter(|_| report.good_episodes == report.episodes) else { return };
        for (key, builder) in self.builders {
            let Ok(own) = builder.finish() else { continue };
            if let Some(what) = difference(value.get(key), &own) {
                report.problem(&file, None, format!("{}: {key}: {what}; {RENEW}", file.display()));
            }
        }
    }
}

fn missing(file: &Path) -> String {
    format!("{} is missing, and policies cannot normalise without statistics; {RENEW}", file.display())
}

fn lines(file: &Path, report: &mut Inspection) -> Vec<Value> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            report.problem(file, None, format!("reading {}: {error}; {RENEW}", file.display()));
            return Vec::new();
        }
    };
    let mut values = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(value) => values.push(value),
            Err(error) => {
                let message = format!("{}, line {}: {error}; {RENEW}", file.display(), number + 1);
                report.problem(file, None, message);
            }
        }
    }
    values
}

/// What is wrong with stated statistics, if anything. Quantiles are not compared, as LeRobot estimates them.
fn difference(stated: Option<&Value>, own: &Statistics) -> Option<String> {
    let Some(stated) = stated else { return Some("no statistics".into()) };
    for (name, own_values) in [("min", &own.min), ("max", &own.max), ("mean", &own.mean), ("std", &own.std)] {
        let values: Option<Vec<f64>> = match stated.get(name) {
            Some(Value::Array(values)) => values.iter().map(Value::as_f64).collect(),
            Some(value) => value.as_f64().map(|value| vec![value]),
            None => return Some(format!("no {name}")),
        };
        let Some(values) = values.filter(|values| values.len() == own_values.len()) else {
            return Some(format!("{name} has other widths than the rows, whose width is {}", own.width()));
        };
        for (entry, (stated, own_value)) in values.iter().zip(own_values).enumerate() {
            let spread = own.max.get(entry).zip(own.min.get(entry)).map_or(0.0, |(max, min)| f64::from(max - min));
            let own_value = f64::from(*own_value);
            let allowed = TOLERANCE * spread.max(own_value.abs()).max(TOLERANCE);
            if (stated - own_value).abs() > allowed || !stated.is_finite() {
                return Some(format!(
                    "{name}[{entry}] is {stated}, the rows have {own_value}: the statistics are stale"
                ));
            }
        }
    }
    None
}

/// Statistics that `data convert` wrote carry the fingerprint of the data that they were made of.
fn check_fingerprint(dataset: &Dataset, report: &mut Inspection) {
    let file = dataset.path().join(NOTES);
    let Ok(json) = std::fs::read(&file) else { return };
    let notes: Notes = match serde_json::from_slice(&json) {
        Ok(notes) => notes,
        Err(error) => {
            return report.problem(&file, None, format!("{}: {error}; {RENEW}", file.display()));
        }
    };
    match dataset.fingerprint() {
        Ok(now) if now == notes.fingerprint => {}
        Ok(now) => {
            let then = notes.fingerprint;
            let message = format!(
                "{}: the dataset has changed since its statistics were made (its fingerprint is {now}, was {then}); {RENEW}",
                file.display()
            );
            report.problem(&file, None, message);
        }
        Err(error) => report.problem(&file, None, error.to_string()),
    }
}
