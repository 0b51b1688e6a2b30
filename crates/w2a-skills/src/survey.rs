//! The first pass: every demonstration is read once, and only what its signals say is kept.

use std::collections::BTreeMap;

use w2a_data::Source;
use w2a_report::Progress;

use crate::config::Config;
use crate::error::SkillsError;
use crate::matching::{Clip, Dropped, Prompter};
use crate::signal::Analysis;

/// A demonstration and what becomes of it.
pub(crate) struct Demonstration {
    /// Its number in the dataset.
    pub index: usize,
    pub instruction: String,
    pub frames: usize,
    pub analysis: Analysis,
    /// Its clips, or why there are none.
    pub outcome: Result<Vec<Clip>, Dropped>,
}

/// What the first pass found.
pub(crate) struct Survey {
    pub demonstrations: Vec<Demonstration>,
    /// Number of a demonstration that could not be read, and why.
    pub unreadable: Vec<(usize, String)>,
    /// Frames a second.
    pub fps: u32,
}

impl Survey {
    /// Reads every demonstration; none has an outcome yet but [`Dropped::NoSignal`].
    ///
    /// # Errors
    /// The first demonstration that cannot be read, unless `skip_bad`.
    pub fn read(source: &Source, config: &Config, skip_bad: bool, progress: &Progress) -> Result<Self, SkillsError> {
        let (mut demonstrations, mut unreadable) = (Vec::with_capacity(source.len()), Vec::new());
        let mut reader = source.reader();
        for index in 0..source.len() {
            match reader.read(index) {
                Ok(episode) => demonstrations.push(Demonstration {
                    index,
                    frames: episode.len(),
                    analysis: Analysis::of(&episode, config),
                    instruction: episode.instruction,
                    outcome: Err(Dropped::NoSignal),
                }),
                Err(source) if skip_bad => unreadable.push((index, source.to_string())),
                Err(source) => return Err(SkillsError::BadEpisode { episode: index, source: Box::new(source) }),
            }
            progress.tick(index as u64 + 1, source.len() as u64, "demonstrations");
        }
        Ok(Self { demonstrations, unreadable, fps: source.spec().fps })
    }

    /// Number of frames of the demonstrations that could be read.
    pub fn frames(&self) -> usize {
        self.demonstrations.iter().map(|one| one.frames).sum()
    }

    /// For each instruction, how many of its demonstrations have how many segments.
    pub fn segments_seen(&self) -> BTreeMap<String, BTreeMap<usize, usize>> {
        let mut seen: BTreeMap<String, BTreeMap<usize, usize>> = BTreeMap::new();
        for demonstration in &self.demonstrations {
            let counts = seen.entry(demonstration.instruction.clone()).or_default();
            *counts.entry(demonstration.analysis.segments.len()).or_default() += 1;
        }
        seen
    }

    /// Decides what becomes of every demonstration.
    ///
    /// # Errors
    /// A language model that cannot be asked.
    pub fn decide(&mut self, prompter: &mut Prompter<'_>, progress: &Progress) -> Result<(), SkillsError> {
        let seen = self.segments_seen();
        let total = self.demonstrations.len() as u64;
        for (done, demonstration) in self.demonstrations.iter_mut().enumerate() {
            let Demonstration { instruction, analysis, .. } = demonstration;
            let none = BTreeMap::new();
            let prompts = prompter.prompts(instruction, seen.get(instruction).unwrap_or(&none))?;
            demonstration.outcome = match prompts {
                Ok(prompts) => prompter.clips(instruction, &prompts, analysis, self.fps)?,
                Err(reason) => Err(reason),
            };
            progress.tick(done as u64 + 1, total, "demonstrations");
        }
        Ok(())
    }
}
