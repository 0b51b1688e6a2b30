//! `skills.json`: what was cut, what was dropped and why.

use std::collections::BTreeMap;

use serde::Serialize;
use w2a_report::stats::wilson95;

use crate::chat::ChatCounts;
use crate::config::Config;
use crate::lengths::Lengths;
use crate::matching::Dropped;
use crate::signal::{Signal, calibration_note, seconds};
use crate::survey::Survey;

/// Everything that `skills.json` holds. Indices of demonstrations are those of the source dataset.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What was cut.
    pub source: SourceFacts,
    /// Demonstrations that were read.
    pub demonstrations: usize,
    /// Those that became clips.
    pub kept: usize,
    /// The synchronisation rate: `kept` of `demonstrations`, percent.
    pub pc_kept: f64,
    /// Its Wilson 95 % interval, percent.
    pub ci95: Option<[f64; 2]>,
    /// Number of clips.
    pub clips: usize,
    /// Durations of the demonstrations that were read.
    pub lengths_before: Lengths,
    /// Durations of the clips.
    pub lengths_after: Lengths,
    /// How many demonstrations were cut by which signal.
    pub signals: BTreeMap<&'static str, usize>,
    /// Why demonstrations were dropped, the most frequent reason first.
    pub dropped: Vec<DroppedFor>,
    /// Demonstrations that could not be read; they are no part of the rate.
    pub unreadable: Vec<Unreadable>,
    /// By instruction, in the order of the alphabet.
    pub tasks: Vec<Task>,
    /// By demonstration.
    pub outcomes: Vec<DemonstrationOutcome>,
    /// How the language model's answers were come by; `null` if none was asked.
    pub language_model: Option<ChatCounts>,
    /// What the reader should check.
    pub notes: Vec<String>,
    /// The settings.
    pub settings: Config,
}

/// The dataset that was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceFacts {
    /// Name of its folder.
    pub name: String,
    /// Changes when it does.
    pub fingerprint: String,
    /// Its demonstrations, unreadable ones included.
    pub episodes: usize,
    /// Its frames.
    pub frames: usize,
    /// Frames a second.
    pub fps: u32,
}

/// Demonstrations dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DroppedFor {
    /// The reason as a key.
    pub reason: &'static str,
    /// In words.
    pub words: &'static str,
    /// How many.
    pub count: usize,
    /// Which.
    pub episodes: Vec<usize>,
}

/// A demonstration that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Which.
    pub episode: usize,
    /// Why.
    pub error: String,
}

/// The demonstrations of one instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// The instruction.
    pub instruction: String,
    /// Its prompts, in order; empty if no demonstration was kept.
    pub prompts: Vec<String>,
    /// Demonstrations that were read.
    pub demonstrations: usize,
    /// Those that were kept.
    pub kept: usize,
    /// Their clips.
    pub clips: usize,
}

/// What became of one demonstration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DemonstrationOutcome {
    /// Which.
    pub episode: usize,
    /// Its frames.
    pub frames: usize,
    /// The signal that its segments come from; `null` if there are none.
    pub signal: Option<Signal>,
    /// First frame of every segment that was found.
    pub segments: Vec<usize>,
    /// First frame of every clip, the frame after the last one of it, and the segment it was matched with.
    pub clips: Vec<[usize; 3]>,
    /// Why it was dropped.
    pub dropped: Option<String>,
}

impl Summary {
    /// What a decided survey comes to.
    pub(crate) fn of(survey: &Survey, source: SourceFacts, chat: Option<ChatCounts>, settings: &Config) -> Self {
        let demonstrations = &survey.demonstrations;
        let read = demonstrations.len();
        let clips = || demonstrations.iter().filter_map(|one| one.outcome.as_ref().ok());
        let kept = clips().count();
        let percent = |share: f64| 100.0 * share;
        let before: Vec<f64> = demonstrations.iter().map(|one| seconds(one.frames, survey.fps)).collect();
        let after: Vec<f64> = clips().flatten().map(|clip| seconds(clip.frames.len(), survey.fps)).collect();
        let bin_s = Lengths::bin_for(before.iter().copied().fold(0.0, f64::max));
        let mut signals = BTreeMap::new();
        for signal in demonstrations.iter().filter_map(|one| one.analysis.signal) {
            *signals.entry(signal.name()).or_default() += 1;
        }
        let widest_m = demonstrations.iter().filter_map(|one| one.analysis.widest_m).max_by(f32::total_cmp);
        let note = widest_m.and_then(|widest_m| calibration_note(widest_m, settings));
        Self {
            source,
            demonstrations: read,
            kept,
            pc_kept: percent(kept as f64 / read.max(1) as f64),
            ci95: wilson95(kept as u64, read as u64).map(|interval| [percent(interval.lo), percent(interval.hi)]),
            clips: after.len(),
            lengths_before: Lengths::of(&before, bin_s),
            lengths_after: Lengths::of(&after, bin_s),
            signals,
            dropped: dropped(survey),
            unreadable: survey
                .unreadable
                .iter()
                .map(|(episode, error)| Unreadable { episode: *episode, error: error.clone() })
                .collect(),
            tasks: tasks(survey),
            outcomes: outcomes(survey),
            language_model: chat,
            notes: note.into_iter().collect(),
            settings: settings.clone(),
        }
    }

    /// A few lines for the terminal.
    pub fn text(&self) -> String {
        let interval = self.ci95.map_or(String::new(), |[lo, hi]| format!(" [{lo:.1}, {hi:.1}]"));
        let mut lines = vec![format!(
            "{} of {} demonstrations kept: synchronisation rate {:.1} %{interval}; {} clips, \
             median {:.1} s (demonstrations {:.1} s)",
            self.kept,
            self.demonstrations,
            self.pc_kept,
            self.clips,
            self.lengths_after.median_s,
            self.lengths_before.median_s
        )];
        if let Some(count) = self.signals.get(Signal::Motion.name()) {
            lines.push(format!("{count} without a cycle of the gripper, cut by motion"));
        }
        lines.extend(self.dropped.iter().map(|dropped| format!("{} dropped: {}", dropped.count, dropped.words)));
        if !self.unreadable.is_empty() {
            lines.push(format!("{} could not be read and are no part of the rate", self.unreadable.len()));
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines.join("\n")
    }
}

fn dropped(survey: &Survey) -> Vec<DroppedFor> {
    let mut by_reason: BTreeMap<&'static str, Vec<usize>> = BTreeMap::new();
    for one in &survey.demonstrations {
        if let Err(reason) = &one.outcome {
            by_reason.entry(reason.key()).or_default().push(one.index);
        }
    }
    let dropped = |(reason, episodes): (&'static str, Vec<usize>)| DroppedFor {
        reason,
        words: Dropped::words(reason),
        count: episodes.len(),
        episodes,
    };
    let mut dropped: Vec<DroppedFor> = by_reason.into_iter().map(dropped).collect();
    dropped.sort_by_key(|dropped| std::cmp::Reverse(dropped.count));
    dropped
}

fn tasks(survey: &Survey) -> Vec<Task> {
    let mut tasks: BTreeMap<&str, Task> = BTreeMap::new();
    for one in &survey.demonstrations {
        let task = tasks.entry(&one.instruction).or_insert_with(|| Task {
            instruction: one.instruction.clone(),
            prompts: Vec::new(),
            demonstrations: 0,
            kept: 0,
            clips: 0,
        });
        task.demonstrations += 1;
        if let Ok(clips) = &one.outcome {
            task.kept += 1;
            task.clips += clips.len();
            task.prompts = clips.iter().map(|clip| clip.prompt.clone()).collect();
        }
    }
    tasks.into_values().collect()
}

fn outcomes(survey: &Survey) -> Vec<DemonstrationOutcome> {
    let of = |one: &crate::survey::Demonstration| DemonstrationOutcome {
        episode: one.index,
        frames: one.frames,
        signal: one.analysis.signal,
        segments: one.analysis.segments.iter().map(|segment| segment.frames.start).collect(),
        clips: one.outcome.as_ref().map_or_else(
            |_| Vec::new(),
            |clips| clips.iter().map(|clip| [clip.frames.start, clip.frames.end, clip.segment]).collect(),
        ),
        dropped: one.outcome.as_ref().err().map(ToString::to_string),
    };
    survey.demonstrations.iter().map(of).collect()
}
