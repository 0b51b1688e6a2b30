//! Which prompt belongs to which frames, or why a demonstration is not used.
//!
//! With as many segments as prompts there is one way to pair them in order, and nobody is asked. With fewer there is
//! none. With more, some segments are false contacts, and the language model says which; without one the demonstration
//! is dropped. The frames of a false contact join the clip that follows it (a grasp that failed is part of the way to
//! the next one), or the last clip if none follows, so that clips always cover the demonstration.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::answer::{Refusal, parse_match, parse_split};
use crate::chat::{Chat, ChatError};
use crate::config::Cut;
use crate::question;
use crate::schema::Schema;
use crate::segment::Segment;
use crate::signal::Analysis;

/// One atomic skill of a demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// Its prompt.
    pub prompt: String,
    /// Its frames.
    pub frames: Range<usize>,
    /// Index of the segment that was matched with the prompt.
    pub segment: usize,
}

/// Why a demonstration is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// Neither signal shows a segment.
    #[error("neither the gripper nor the motion shows a segment")]
    NoSignal,
    /// The schema does not have the instruction, and no language model may be asked.
    #[error("the prompts file does not have its instruction, in exactly these words")]
    NoPrompts,
    /// The language model's prompts for the instruction were refused.
    #[error("no prompts: {0}")]
    Split(Refusal),
    /// Fewer segments than prompts.
    #[error("{segments} segments for {prompts} prompts")]
    TooFew {
        /// Segments found.
        segments: usize,
        /// Prompts of the instruction.
        prompts: usize,
    },
    /// More segments than prompts, and no language model may be asked.
    #[error("{segments} segments for {prompts} prompts, and no language model to tell false contacts")]
    TooMany {
        /// Segments found.
        segments: usize,
        /// Prompts of the instruction.
        prompts: usize,
    },
    /// The language model's pairing was refused.
    #[error("no match: {0}")]
    Match(Refusal),
}

impl Dropped {
    /// The reason as a key of `skills.json`, the same for all demonstrations dropped for it.
    pub fn key(&self) -> &'static str {
        match self {
            Self::NoSignal => "no_signal",
            Self::NoPrompts => "no_prompts",
            Self::Split(_) => "prompts_refused",
            Self::TooFew { .. } => "too_few_segments",
            Self::TooMany { .. } => "too_many_segments",
            Self::Match(Refusal::Unmatched(_)) => "prompt_unmatched",
            Self::Match(_) => "match_refused",
        }
    }

    /// The reason in words that hold for all demonstrations dropped for it.
    pub fn words(key: &str) -> &'static str {
        match key {
            "no_signal" => "neither the gripper nor the motion shows a segment",
            "no_prompts" => "the prompts file does not have the instruction in exactly its words",
            "prompts_refused" => "the language model's prompts for the instruction broke a rule",
            "too_few_segments" => "there are fewer segments than prompts",
            "too_many_segments" => "there are more segments than prompts, and no language model to tell false contacts",
            "prompt_unmatched" => "the language model found no segment for a prompt",
            _ => "the language model's pairing broke a rule",
        }
    }
}

/// The prompts and pairings of a run.
pub(crate) struct Prompter<'a> {
    schema: Option<Schema>,
    chat: Option<&'a mut Chat>,
    cut: Cut,
    /// By instruction: each is split once.
    known: BTreeMap<String, Result<Vec<String>, Dropped>>,
}

impl<'a> Prompter<'a> {
    pub fn new(schema: Option<Schema>, chat: Option<&'a mut Chat>, cut: Cut) -> Self {
        Self { schema, chat, cut, known: BTreeMap::new() }
    }

    /// The atomic prompts of an instruction: the schema's, else the language model's.
    pub fn prompts(
        &mut self,
        instruction: &str,
        segments_seen: &BTreeMap<usize, usize>,
    ) -> Result<Result<Vec<String>, Dropped>, ChatError> {
        if let Some(known) = self.known.get(instruction) {
            return Ok(known.clone());
        }
        let found = match (self.schema.as_ref().and_then(|schema| schema.prompts(instruction)), &mut self.chat) {
            (Some(prompts), _) => Ok(prompts.to_vec()),
            (None, Some(chat)) => {
                chat.ask(question::split(instruction, segments_seen, self.cut), parse_split)?.map_err(Dropped::Split)
            }
            (None, None) => Err(Dropped::NoPrompts),
        };
        self.known.insert(instruction.to_owned(), found.clone());
        Ok(found)
    }

    /// The clips of a demonstration whose instruction has `prompts`.
    pub fn clips(
        &mut self,
        instruction: &str,
        prompts: &[String],
        analysis: &Analysis,
        fps: u32,
    ) -> Result<Result<Vec<Clip>, Dropped>, ChatError> {
        let counts = (analysis.segments.len(), prompts.len());
        if let Some(decided) = without_asking(counts.0, counts.1, self.chat.is_some()) {
            return Ok(decided.map(|picked| joined(prompts, &analysis.segments, &picked)));
        }
        let Some(chat) = &mut self.chat else {
            return Ok(Err(Dropped::TooMany { segments: counts.0, prompts: counts.1 }));
        };
        let asked = question::pairing(instruction, prompts, analysis, fps);
        let answer = chat.ask(asked, |text| parse_match(text, counts.1, counts.0))?;
        Ok(answer.map(|picked| joined(prompts, &analysis.segments, &picked)).map_err(Dropped::Match))
    }
}

/// What the counts alone decide: the segment of each prompt, or why there is none; `None` if it has to be asked.
pub(crate) fn without_asking(segments: usize, prompts: usize, can_ask: bool) -> Option<Result<Vec<usize>, Dropped>> {
    match segments.cmp(&prompts) {
        _ if segments == 0 => Some(Err(Dropped::NoSignal)),
        std::cmp::Ordering::Less => Some(Err(Dropped::TooFew { segments, prompts })),
        std::cmp::Ordering::Equal => Some(Ok((0..segments).collect())),
        std::cmp::Ordering::Greater if can_ask => None,
        std::cmp::Ordering::Greater => Some(Err(Dropped::TooMany { segments, prompts })),
    }
}

/// The clips for `picked`, ascending indices of `segments`, one for each prompt.
fn joined(prompts: &[String], segments: &[Segment], picked: &[usize]) -> Vec<Clip> {
    let frames = segments.last().map_or(0, |last| last.frames.end);
    let last = picked.len().saturating_sub(1);
    let mut start = 0;
    let paired = prompts.iter().zip(picked).enumerate().filter_map(|(number, (prompt, &segment))| {
        let end = if number == last { frames } else { segments.get(segment)?.frames.end };
        let clip = Clip { prompt: prompt.clone(), frames: start..end, segment };
        start = end;
        Some(clip)
    });
    paired.collect()
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one segment is a list of one range")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segments(ends: &[usize]) -> Vec<Segment> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, &end)| Segment { frames: start..end, contact: end..end }).collect()
    }

    fn analysis(ends: &[usize]) -> Analysis {
        let signal = (!ends.is_empty()).then_some(crate::Signal::Aperture);
        Analysis { signal, segments: segments(ends), facts: Vec::new(), widest_m: None }
    }

    fn prompts(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("do {number}")).collect()
    }

    fn schema() -> Schema {
        Schema::parse("[tasks]\n\"both\" = [\"do 0\", \"do 1\"]", false).unwrap()
    }

    #[test]
    fn a_false_contact_joins_the_clip_after_it_and_the_last_ones_join_the_last_clip() {
        let frames = |picked: &[usize]| {
            let clips = joined(&prompts(picked.len()), &segments(&[10, 20, 30, 40]), picked);
            clips.into_iter().map(|clip| clip.frames).collect::<Vec<_>>()
        };
        assert_eq!(frames(&[0, 1, 2, 3]), [0..10, 10..20, 20..30, 30..40]);
        assert_eq!(frames(&[1, 3]), [0..20, 20..40]);
        assert_eq!(frames(&[0, 1]), [0..10, 10..40]);
        assert_eq!(frames(&[2]), [0..40]);
    }

    #[test]
    fn with_a_schema_alone_counts_decide() {
        let mut prompter = Prompter::new(Some(schema()), None, Cut::Cycle);
        let known = prompter.prompts("both", &BTreeMap::new()).unwrap().unwrap();
        let mut clips = |ends: &[usize]| prompter.clips("both", &known, &analysis(ends), 20).unwrap();
        assert_eq!(clips(&[5, 9]).unwrap().len(), 2);
        assert_eq!(clips(&[9]), Err(Dropped::TooFew { segments: 1, prompts: 2 }));
        assert_eq!(clips(&[3, 5, 9]), Err(Dropped::TooMany { segments: 3, prompts: 2 }));
        assert_eq!(clips(&[]), Err(Dropped::NoSignal));
    }

    #[test]
    fn an_instruction_that_the_schema_does_not_have_is_no_guess() {
        let mut prompter = Prompter::new(Some(schema()), None, Cut::Cycle);
        assert_eq!(prompter.prompts("Both", &BTreeMap::new()).unwrap(), Err(Dropped::NoPrompts));
    }

    proptest! {
        #[test]
        fn clips_are_ordered_disjoint_and_cover_the_demonstration(
            lengths in prop::collection::vec(1_usize..9, 1..7), keep in prop::collection::vec(any::<bool>(), 7),
        ) {
            let ends: Vec<usize> = lengths.iter().scan(0, |sum, length| { *sum += length; Some(*sum) }).collect();
            let picked: Vec<usize> = (0..ends.len()).filter(|index| keep[*index]).collect();
            prop_assume!(!picked.is_empty());
            let clips = joined(&prompts(picked.len()), &segments(&ends), &picked);
            let mut end = 0;
            for clip in &clips {
                prop_assert_eq!(clip.frames.start, end);
                prop_assert!(!clip.frames.is_empty());
                end = clip.frames.end;
            }
            prop_assert_eq!((clips.len(), end), (picked.len(), ends[ends.len() - 1]));
        }
    }
}
