//! Demonstrations and videos of the scripted expert, as LeRobot datasets.

use w2a_data::{Dataset, DatasetSpec, DatasetWriter, Episode, Version};
use w2a_report::DatasetRecord;
use w2a_sim::{Range, Scene, Split, Suite, record_many, tasks};

use crate::arms::Arm;
use crate::context::Context;
use crate::{Config, PipelineError, demonstrations};

/// Labelled demonstrations of the narrow range: what the base policy, the adapters and the inverse dynamics model get.
pub(crate) const NARROW: &str = "data/labelled_narrow";
/// Labelled demonstrations of the full range: for the `base_wide_labels` ceiling only.
pub(crate) const WIDE: &str = "data/labelled_wide";
/// Action-free videos of the full range: what the world model gets.
pub(crate) const VIDEO: &str = "data/video";
/// Action-free videos of the post-training scenes: for the `w2a_oracle` control only.
pub(crate) const ORACLE: &str = "data/posttrain_expert_video";

/// Offsets keep the scenes of the three training corpora apart.
const WIDE_OFFSET: u32 = 1_000_000;
const VIDEO_OFFSET: u32 = 2_000_000;

pub(crate) fn run(context: &mut Context) -> Result<(), PipelineError> {
    if context.config.is_libero() {
        demonstrations::import(context)?;
        return [NARROW, VIDEO, ORACLE].into_iter().try_for_each(|name| note(context, name));
    }
    let data = context.config.data.clone();
    let train = |range, offset, count| scenes(&context.config, Split::Train, range, offset, count);
    let corpora = [
        (NARROW, train(Range::Narrow, 0, data.labelled)?, true),
        (WIDE, train(Range::Full, WIDE_OFFSET, data.labelled)?, true),
        (VIDEO, train(Range::Full, VIDEO_OFFSET, data.videos)?, false),
        (ORACLE, scenes(&context.config, Split::Posttrain, Range::Full, 0, data.posttrain_scenes)?, false),
    ];
    for (name, scenes, labelled) in corpora {
        if name == WIDE && !Arm::WideLabels.takes_part(&context.config) || scenes.is_empty() {
            continue;
        }
        if !context.path(name).exists() {
            context.progress.part(name);
            write(context, name, &scenes, labelled)?;
        }
        note(context, name)?;
    }
    Ok(())
}

/// Writes down which dataset a run has under a name, if it has one.
fn note(context: &mut Context, name: &str) -> Result<(), PipelineError> {
    let dir = context.path(name);
    if !dir.exists() {
        return Ok(());
    }
    let dataset = Dataset::open(&dir)?;
    let record = DatasetRecord { name: name.to_owned(), fingerprint: dataset.fingerprint()?, episodes: dataset.len() };
    context.manifest.datasets.retain(|known| known.name != name);
    context.manifest.datasets.push(record);
    Ok(())
}

fn write(context: &Context, name: &str, scenes: &[Scene], labelled: bool) -> Result<(), PipelineError> {
    let version = Version::from_name(&context.config.data.lerobot_version).unwrap_or(Version::V30);
    let mut writer: Option<DatasetWriter> = None;
    let mut done = 0;
    // Batches bound the memory; the expert rarely fails, and a failed demonstration is not one.
    for part in scenes.chunks(32) {
        for recording in record_many(part, context.config.seed, context.config.threads)? {
            done += 1;
            if !recording.success && name != ORACLE {
                continue;
            }
            let mut episode = recording.episode;
            if !labelled {
                episode.action_dim = 0;
                episode.actions.clear();
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                None => {
                    context.folder("data")?;
                    let spec = DatasetSpec::of(&episode);
                    writer.insert(DatasetWriter::create(context.path(name), spec, version)?)
                }
            };
            writer.push(&episode)?;
        }
        context.progress.tick(done, scenes.len(), name);
    }
    match writer {
        Some(writer) => Ok(writer.finish()?),
        None => Err(PipelineError::Config {
            key: "data".into(),
            expected: "at least one successful demonstration".into(),
            got: format!("none in {name}"),
        }),
    }
}

/// `count` scenes of every task that takes part, task by task within each index, so that any prefix is balanced.
pub(crate) fn scenes(
    config: &Config,
    split: Split,
    range: Range,
    offset: u32,
    count: usize,
) -> Result<Vec<Scene>, PipelineError> {
    let mut out = Vec::new();
    for index in 0..count as u32 {
        for (suite, task) in config.tasks()? {
            out.push(Scene::new(suite, task, split, range, offset + index)?);
        }
    }
    Ok(out)
}

/// The number that stands for a task in stage 1, unique over suites.
pub(crate) fn task_number(scene: &Scene) -> usize {
    let before: usize =
        Suite::ALL.iter().take_while(|suite| **suite != scene.suite()).map(|suite| tasks(*suite).len()).sum();
    before + scene.task()
}

/// The task as tables name it: `suite/name`.
pub(crate) fn task_name(scene: &Scene) -> String {
    format!("{}/{}", scene.suite(), scene.task_info().name)
}

/// All episodes of one of the run's datasets.
pub(crate) fn episodes(context: &Context, name: &str) -> Result<Vec<Episode>, PipelineError> {
    let dataset = Dataset::open(context.path(name))?;
    Ok(dataset.episodes().collect::<Result<Vec<_>, _>>()?)
}
