//! What a server that learns says of itself.

use std::fmt::Write as _;

use super::learner::State;
use super::ledger::{Record, Status};

/// What happened to the episodes since the server's start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Kept, to learn from.
    pub kept: u64,
    /// Ended by a reset before there was anything to learn from.
    pub short: u64,
    /// Cut: their client vanished.
    pub cut: u64,
}

/// Episodes whose mean distance and cosine are shown.
const RECENT: usize = 32;

/// Mean distance to the imagination and mean cosine of the newest episodes; `None` before there are any.
fn recent(state: &State) -> Option<(f64, f64)> {
    let found: Vec<_> = state.episodes.values().rev().filter_map(|entry| entry.found.as_ref()).take(RECENT).collect();
    let mean = |values: &mut dyn Iterator<Item = f32>| values.map(f64::from).sum::<f64>() / found.len().max(1) as f64;
    let distance = mean(&mut found.iter().map(|found| found.distance));
    (!found.is_empty()).then(|| (distance, mean(&mut found.iter().map(|found| found.cosine))))
}

/// Counters in Prometheus' text format.
pub(super) fn metrics(state: &State) -> String {
    let mut out = String::new();
    let mut head = |name: &str, kind: &str, help: &str, lines: &[(String, f64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let one = |value: f64| vec![(String::new(), value)];
    let episodes = [("kept", state.counts.kept), ("short", state.counts.short), ("cut", state.counts.cut)];
    let labelled = |(result, count): &(&str, u64)| (format!("{{result=\"{result}\"}}"), *count as f64);
    let help = "Episodes that ended, by what became of them.";
    head("w2a_learn_episodes_total", "counter", help, &episodes.iter().map(labelled).collect::<Vec<_>>());
    let help = "Episodes to learn from.";
    head("w2a_learn_episodes_held", "gauge", help, &one(state.episodes.len() as f64));
    let help = "The update whose weights are in use.";
    head("w2a_learn_update", "gauge", help, &one(state.schedule.current() as f64));
    let count = |status| state.ledger.records().filter(|record| record.number > 0 && record.status == status).count();
    let all = [
        ("computing", Status::Computing),
        ("trial", Status::Trial),
        ("accepted", Status::Accepted),
        ("refused", Status::Refused),
        ("failed", Status::Failed),
        ("abandoned", Status::Abandoned),
        ("rolled_back", Status::RolledBack),
    ];
    let lines = all.map(|(name, status)| (format!("{{status=\"{name}\"}}"), count(status) as f64));
    head("w2a_learn_updates", "gauge", "Updates, by what became of them.", &lines);
    if let Some((distance, cosine)) = recent(state) {
        let help = "Executed against imagined video, the newest 32 episodes.";
        head("w2a_learn_distance", "gauge", help, &one(distance));
        let help = "Cosine of what was executed with what was imagined, the newest 32 episodes.";
        head("w2a_learn_cosine", "gauge", help, &one(cosine));
    }
    out
}

#[derive(serde::Serialize)]
struct Page<'a> {
    phase: &'a str,
    update: u64,
    episodes_held: usize,
    episodes_kept: u64,
    episodes_short: u64,
    episodes_cut: u64,
    recent_distance: Option<f64>,
    recent_cosine: Option<f64>,
    updates: Vec<&'a Record>,
}

/// The page `/learning`, JSON.
pub(super) fn page(state: &State) -> String {
    let recent = recent(state);
    let page = Page {
        phase: state.schedule.phase(),
        update: state.schedule.current(),
        episodes_held: state.episodes.len(),
        episodes_kept: state.counts.kept,
        episodes_short: state.counts.short,
        episodes_cut: state.counts.cut,
        recent_distance: recent.map(|recent| recent.0),
        recent_cosine: recent.map(|recent| recent.1),
        updates: state.ledger.records().collect(),
    };
    // Numbers and texts can always be written; a number that is not finite becomes null.
    serde_json::to_string_pretty(&page).unwrap_or_default() + "\n"
}
