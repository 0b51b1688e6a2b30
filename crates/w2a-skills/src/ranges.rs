//! `video_metadata.json`, the skill ranges of the authors' layout for stage 1.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::survey::Survey;

/// Name of the file.
pub const RANGES_FILE: &str = "video_metadata.json";

/// The frames of one skill; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SkillRange {
    /// First frame.
    pub start: usize,
    /// Last frame.
    pub end: usize,
}

/// `{task: {demo: {skill index: {start, end}}}}`.
pub type Ranges = BTreeMap<String, BTreeMap<String, BTreeMap<String, SkillRange>>>;

/// The ranges of all kept demonstrations. A task is its instruction with `_` for spaces, a demonstration `demo_<n>`
/// with its number in the source dataset, a skill its number from 0.
pub(crate) fn ranges(survey: &Survey) -> Ranges {
    let mut ranges = Ranges::new();
    for demonstration in &survey.demonstrations {
        let Ok(clips) = &demonstration.outcome else { continue };
        let task = demonstration.instruction.split_whitespace().collect::<Vec<_>>().join("_");
        let skills = clips.iter().enumerate().map(|(number, clip)| {
            let range = SkillRange { start: clip.frames.start, end: clip.frames.end.saturating_sub(1) };
            (number.to_string(), range)
        });
        ranges.entry(task).or_default().insert(format!("demo_{}", demonstration.index), skills.collect());
    }
    ranges
}
