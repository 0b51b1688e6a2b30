//! How videos become the clips that a latent video model is trained on: windows under the whole instruction, or one
//! clip per skill under its atomic prompt (paper, section 3.1, "skill-compositional world model").
//!
//! Everything is counted in whole chunks, so that a clip's latents are some of its video's.

use std::collections::BTreeMap;
use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_data::Episode;
use w2a_sim::{Scene, Suite, tasks};
use w2a_skills::{Analysis, SignalChoice};
use w2a_world::Skill;

use crate::PipelineError;
use crate::data::task_name;

/// Our simulator's hand, by the name that `w2a-skills` has for it.
const HAND: &str = "tabletop";

/// Part of a video.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Clip {
    /// The task of the video, as tables name it.
    pub task: String,
    /// Its chunks: chunk `t` has latent `V_{t+1}`.
    pub chunks: Range<usize>,
    /// Which of the task's skills it shows; 0 for a window.
    pub skill: usize,
    /// What the model is told.
    pub prompt: String,
}

/// The clips of a corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ClipList {
    /// Videos that were looked at.
    pub videos: usize,
    /// Scenes of those that did not show as many grasp cycles as their task has skills.
    pub dropped: Vec<String>,
    /// The clips of the others, in their order.
    pub clips: Vec<Clip>,
}

/// How videos are cut.
pub(crate) enum Cutter {
    /// Windows of at most so many chunks.
    Windows(usize),
    /// Grasp cycles, found by these settings.
    Skills(Box<w2a_skills::Config>),
}

impl Cutter {
    /// By grasp cycles of the simulator's hand.
    ///
    /// # Errors
    /// If nothing is known of that hand.
    pub fn by_skills() -> Result<Self, PipelineError> {
        let mut config = w2a_skills::Config::preset(HAND).ok_or_else(|| PipelineError::Config {
            key: "world.skills".into(),
            expected: "false: there are no settings to find grasp cycles with".into(),
            got: "true".into(),
        })?;
        // Every task of the simulator has one grasp cycle per skill: motion would only make up others.
        config.segment.signal = SignalChoice::Aperture;
        Ok(Self::Skills(Box::new(config)))
    }

    /// The clips of a video of `chunks` chunks of `chunk_len` frames; none if it does not show the skills of its task.
    pub fn cut(&self, episode: &Episode, chunk_len: usize, chunks: usize, rng: &mut ChaCha8Rng) -> Vec<Clip> {
        let Ok(scene) = episode.source.parse::<Scene>() else { return Vec::new() };
        let clip = |skill: usize, chunks: Range<usize>, prompt: &str| Clip {
            task: task_name(&scene),
            chunks,
            skill,
            prompt: prompt.to_owned(),
        };
        let prompts = scene.task_info().skills();
        match self {
            Self::Windows(most) if *most >= chunks => vec![clip(0, 0..chunks, &episode.instruction)],
            // As many windows of a video as there would be clips of skills: the same updates see each as often.
            Self::Windows(most) => {
                let mut window = || rng.random_range(0..=chunks - most);
                let begins: Vec<usize> = prompts.iter().map(|_| window()).collect();
                begins.into_iter().map(|begin| clip(0, begin..begin + most, &episode.instruction)).collect()
            }
            Self::Skills(config) => {
                let cycles: Vec<usize> = Analysis::of(episode, config).segments.iter().map(|s| s.frames.end).collect();
                let Some(parts) = in_chunks(&cycles, prompts.len(), chunk_len, chunks) else { return Vec::new() };
                parts
                    .into_iter()
                    .zip(prompts)
                    .enumerate()
                    .map(|(skill, (part, prompt))| clip(skill, part, prompt))
                    .collect()
            }
        }
    }
}

/// Grasp cycles that end at these frames as chunks, the last one to the end of the episode; `None` if they are not
/// `count`, or one is too short to be a chunk.
fn in_chunks(ends: &[usize], count: usize, chunk_len: usize, chunks: usize) -> Option<Vec<Range<usize>>> {
    if ends.len() != count {
        return None;
    }
    let mut begin = 0;
    let mut parts = Vec::with_capacity(count);
    for (index, end) in ends.iter().enumerate() {
        let nearest = (end + chunk_len / 2) / chunk_len;
        let end = if index + 1 == count { chunks } else { nearest.min(chunks) };
        parts.push(begin..end);
        begin = end;
    }
    parts.iter().all(|part| !part.is_empty()).then_some(parts)
}

impl ClipList {
    /// How the episode of a scene is imagined: its skills in order, each until the median of the chunks at which it
    /// ended in the clips of this corpus.
    ///
    /// # Errors
    /// A task of which no video showed its skills.
    pub fn plan(&self, scene: &Scene, chunks: usize) -> Result<Vec<Skill<'static>>, PipelineError> {
        self.plan_of(&task_name(scene), scene.task_info().skills(), chunks)
    }

    /// The same for an episode of which only the instruction is known; an instruction of no task of this corpus is one
    /// skill.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn plan_told<'w>(&self, instruction: &'w str, chunks: usize) -> Result<Vec<Skill<'w>>, PipelineError> {
        let mut known = Suite::ALL.iter().flat_map(|&suite| tasks(suite).into_iter().map(move |task| (suite, task)));
        let matches = |task: &str| self.clips.iter().any(|clip| clip.task == task);
        let found = known.find_map(|(suite, task)| {
            let name = format!("{suite}/{}", task.name);
            (task.instruction == instruction && matches(&name)).then_some((name, task))
        });
        match found {
            Some((name, task)) => self.plan_of(&name, task.skills(), chunks),
            None => Ok(vec![Skill { prompt: instruction, chunks }]),
        }
    }

    fn plan_of(
        &self,
        task: &str,
        prompts: &[&'static str],
        chunks: usize,
    ) -> Result<Vec<Skill<'static>>, PipelineError> {
        let mut ends: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for clip in self.clips.iter().filter(|clip| clip.task == task) {
            ends.entry(clip.skill).or_default().push(clip.chunks.end);
        }
        let ends: Vec<usize> = ends.into_values().filter_map(median).collect();
        let parts = in_chunks(&ends, prompts.len(), 1, chunks).ok_or_else(|| PipelineError::Config {
            key: "world.skills".into(),
            expected: format!("videos that show the {} grasp cycles of {task}; set it to false", prompts.len()),
            got: format!("{} of {} videos without them", self.dropped.len(), self.videos),
        })?;
        Ok(parts.into_iter().zip(prompts).map(|(part, &prompt)| Skill { prompt, chunks: part.len() }).collect())
    }
}

/// The middle of some numbers, the upper one of two.
fn median(mut values: Vec<usize>) -> Option<usize> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use w2a_sim::{Range as Corner, Split, Suite, record_many, tasks};

    use super::*;

    fn demonstrations(suite: Suite, task: usize) -> Vec<Episode> {
        let scene = |index| Scene::new(suite, task, Split::Train, Corner::Full, index).unwrap();
        let scenes: Vec<Scene> = (0..6).map(scene).collect();
        let recordings = record_many(&scenes, 0, 2).unwrap().into_iter();
        recordings.filter(|recording| recording.success).map(|recording| recording.episode).collect()
    }

    #[test]
    fn the_skills_of_a_long_task_are_found_in_the_aperture() {
        let mut rng = w2a_data::stream(0, "t");
        for (task, info) in tasks(Suite::Long).into_iter().enumerate() {
            let mut list = ClipList::default();
            for episode in demonstrations(Suite::Long, task) {
                let clips = Cutter::by_skills().unwrap().cut(&episode, 4, 32, &mut rng);
                list.videos += 1;
                assert_eq!(clips.len(), 2, "{}", episode.source);
                assert_eq!([&clips[0].prompt, &clips[1].prompt], info.skills().iter().collect::<Vec<_>>()[..]);
                assert_eq!((clips[0].chunks.start, clips[1].chunks.end), (0, 32));
                assert_eq!(clips[0].chunks.end, clips[1].chunks.start);
                // The hand lets go in the last third of the first 64 steps.
                assert!((12..=15).contains(&clips[0].chunks.end), "{}: {:?}", episode.source, clips[0]);
                list.clips.extend(clips);
            }
            assert!(list.videos >= 4);
            let scene = Scene::new(Suite::Long, task, Split::Eval, Corner::Full, 9).unwrap();
            let plan = list.plan(&scene, 32).unwrap();
            assert_eq!(plan.iter().map(|skill| skill.chunks).sum::<usize>(), 32);
            assert_eq!(plan[1].prompt, info.skills()[1]);
        }
    }

    #[test]
    fn windows_lie_within_the_video_and_a_short_video_is_one() {
        let mut rng = w2a_data::stream(0, "t");
        let episode = demonstrations(Suite::Long, 0).remove(0);
        let mut begins = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let clips = Cutter::Windows(20).cut(&episode, 4, 32, &mut rng);
            assert!(clips.len() == 2 && clips.iter().all(|clip| clip.chunks.len() == 20 && clip.chunks.end <= 32));
            assert!(clips.iter().all(|clip| clip.prompt == episode.instruction));
            begins.extend(clips.iter().map(|clip| clip.chunks.start));
        }
        assert!(begins.contains(&0) && begins.contains(&12) && begins.len() == 13, "{begins:?}");
        let whole = Cutter::Windows(32).cut(&episode, 4, 32, &mut rng);
        assert!(whole.len() == 1 && whole[0].chunks == (0..32), "{whole:?}");
    }

    #[test]
    fn a_video_that_shows_another_number_of_cycles_gives_no_clip() {
        let mut rng = w2a_data::stream(0, "t");
        let cutter = Cutter::by_skills().unwrap();
        let mut once = demonstrations(Suite::Object, 0).remove(0);
        assert_eq!(cutter.cut(&once, 4, 16, &mut rng).len(), 1);
        // The same motion under the name of a task of two cycles.
        once.source = Scene::new(Suite::Long, 0, Split::Train, Corner::Full, 0).unwrap().to_string();
        assert!(cutter.cut(&once, 4, 16, &mut rng).is_empty());
        once.source = "somewhere else".into();
        assert!(cutter.cut(&once, 4, 16, &mut rng).is_empty());
        let error = ClipList { videos: 3, dropped: vec!["a".into(); 3], clips: Vec::new() }
            .plan(&Scene::new(Suite::Long, 0, Split::Eval, Corner::Full, 0).unwrap(), 32)
            .unwrap_err();
        assert!(error.to_string().contains("3 of 3 videos"), "{error}");
    }

    #[test]
    fn cuts_are_rounded_to_chunks_and_none_may_vanish() {
        assert_eq!(in_chunks(&[54, 128], 2, 4, 32), Some(vec![0..14, 14..32]));
        assert_eq!(in_chunks(&[53, 120], 2, 4, 32), Some(vec![0..13, 13..32]));
        assert_eq!(in_chunks(&[1, 128], 2, 4, 32), None);
        assert_eq!(in_chunks(&[128, 128], 2, 4, 32), None);
        assert_eq!(in_chunks(&[128], 2, 4, 32), None);
        assert_eq!(in_chunks(&[], 0, 4, 32), Some(vec![]));
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![14, 13, 14]), Some(14));
    }
}
