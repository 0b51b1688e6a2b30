//! What `data inspect` and `data convert` do.

use std::fmt::Write as _;
use std::path::Path;

use w2a_data::{ConvertOptions, convert, inspect};
use w2a_report::Progress;

use crate::PipelineError;

/// What an inspection came to.
#[derive(Clone, Debug)]
pub struct DataReport {
    /// For the terminal, or JSON.
    pub text: String,
    /// How much is wrong.
    pub problems: usize,
}

/// Reads the whole dataset at `path` and says what it is and what is wrong with it, as text or as JSON.
///
/// # Errors
/// If there is no dataset at `path`.
pub fn inspect_data(path: &Path, skip_bad: bool, json: bool) -> Result<DataReport, PipelineError> {
    let report = with_progress("inspect", |progress| inspect(path, skip_bad, progress))?;
    let text = match json {
        true => serde_json::to_string_pretty(&report)
            .map(|text| text + "\n")
            .map_err(|error| PipelineError::io("printing the inspection", error.into()))?,
        false => report.to_string(),
    };
    Ok(DataReport { text, problems: report.problems.len() })
}

/// Writes what is at `input` as a LeRobot dataset at `output` and says what was written and left out.
///
/// # Errors
/// An input that cannot be read, an output that exists, options that do not fit together, or a full disk.
pub fn convert_data(input: &Path, output: &Path, options: ConvertOptions) -> Result<String, PipelineError> {
    let done = with_progress("convert", |progress| convert(input, output, options, progress))?;
    let (version, path) = (options.version, output.display());
    let mut text = format!("{path}: LeRobot {version}, {} episodes, {} frames\n", done.episodes, done.frames);
    if !done.skipped.is_empty() {
        let _ = writeln!(text, "left out: {} episodes, listed in meta/world2act.json", done.skipped.len());
    }
    for skipped in &done.skipped {
        let _ = writeln!(text, "  episode {}: {}", skipped.episode, skipped.reason);
    }
    Ok(text)
}

/// Shows how many episodes are done and how long the rest will take.
fn with_progress<T>(name: &str, work: impl FnOnce(&mut dyn FnMut(usize, usize)) -> T) -> T {
    let progress = Progress::new(&[(name, 1.0)]);
    progress.start(name);
    let result =
        work(&mut |done, total| progress.tick(done as u64, total as u64, &format!("{done} of {total} episodes")));
    progress.finish(name);
    result
}
