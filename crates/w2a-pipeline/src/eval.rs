//! Evaluation of every arm on the same held-out scenes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use w2a_posttrain::{Record, Rollout};
use w2a_report::{ControlSteps, EpisodeResult, EvalInfo};
use w2a_sim::{Range, Scene};

use crate::arms::Arm;
use crate::context::{Context, load_json, save_json};
use crate::data::task_name;
use crate::posttrain::eval_scenes;
use crate::progress::eval_part;
use crate::stage2::{Actor, Batch, Shared, plan};
use crate::{Config, PipelineError};

/// The arm the report is about.
pub(crate) const HEADLINE: &str = "w2a";

/// The same numbers with every method paired with the one whose world model knows no skills.
pub(crate) const AGAINST_BASE_WORLD: &str = "eval_info_vs_base_wm.json";

/// The numbers without a shift, where scenes know one.
pub(crate) const NARROW_INFO: &str = "eval_info_narrow.json";

/// The ranges of scenes, as file names call them.
pub(crate) const FULL: &str = "full";
const NARROW: &str = "narrow";

pub(crate) fn run(context: &mut Context) -> Result<(), PipelineError> {
    let shared = Shared::load(context)?;
    let start = Instant::now();
    let (mut all, mut without_shift) = (Vec::new(), Vec::new());
    let full = eval_scenes(context, context.config.ranges()[1])?;
    let narrow = if context.config.is_libero() { Vec::new() } else { eval_scenes(context, Range::Narrow)? };
    context.folder("eval")?;
    for (arm, seed, range) in runs(&context.config) {
        let (scenes, results) = if range == FULL { (&full, &mut all) } else { (&narrow, &mut without_shift) };
        results.extend(evaluate(context, &shared, arm, seed, scenes, range)?);
    }
    let seconds = start.elapsed().as_secs_f64();
    let base = Arm::Base.name();
    let mut files = vec![(&all, base, "eval_info.json")];
    if !without_shift.is_empty() {
        files.push((&without_shift, base, NARROW_INFO));
    }
    if Arm::BaseWorld.takes_part(&context.config) {
        files.push((&all, Arm::BaseWorld.name(), AGAINST_BASE_WORLD));
    }
    let steps = control_steps(&context.config);
    for (results, base, file) in files {
        EvalInfo::build(results, HEADLINE, base, seconds, &BTreeMap::new(), steps)?.save(context.path(file))?;
    }
    Ok(())
}

/// How long the demonstrations of the run's tasks and its imagination are.
pub(crate) fn control_steps(config: &Config) -> ControlSteps {
    let imagined = config.chunk_len() * config.chunks();
    // In steps of the simulator, as those of the episodes.
    let steps = |steps: usize| (steps * config.stride()) as u32;
    ControlSteps { demonstration: steps(config.episode_steps()), imagination: steps(imagined) }
}

/// What is evaluated, in order: every arm and seed on scenes of the full range, and on the narrow one the arms that show
/// what the shift costs.
pub(crate) fn runs(config: &Config) -> Vec<(Arm, usize, &'static str)> {
    let full = Arm::taking_part(config).flat_map(|arm| (0..arm.seeds(config)).map(move |seed| (arm, seed, FULL)));
    let shown = [Arm::Base, Arm::World2Act, Arm::WideLabels].into_iter();
    let shown = shown.filter(|arm| arm.takes_part(config) && !config.is_libero());
    full.chain(shown.map(|arm| (arm, 0, NARROW))).collect()
}

/// Episodes of one arm and seed; loaded if they were run before.
pub(crate) fn evaluate(
    context: &Context,
    shared: &Shared,
    arm: Arm,
    seed: usize,
    scenes: &[Scene],
    range: &str,
) -> Result<Vec<EpisodeResult>, PipelineError> {
    let part = eval_part(arm, seed, range);
    if let Some(same) = unchanged(context, arm, seed, range)? {
        let path = context.path(&format!("{part}.json"));
        if !path.exists() {
            let mut results: Vec<EpisodeResult> = load_json(&same, "eval")?;
            for result in &mut results {
                (result.method, result.seed) = (arm.name().to_owned(), seed as u64);
            }
            save_json(&path, &results)?;
        }
    }
    let actor = || arm.actor(context, shared, seed, arm.gain(context, seed)?);
    evaluate_as(context, shared, (arm.name(), seed), &part, scenes, actor)
}

/// Episodes of another arm or seed that are also those of this one: at a scale of 0 all residual arms act alike, so that
/// one of them is enough.
fn unchanged(context: &Context, arm: Arm, seed: usize, range: &str) -> Result<Option<PathBuf>, PipelineError> {
    let config = &context.config;
    if arm.residual(config).is_none() || arm.gain(context, seed)? != 0.0 {
        return Ok(None);
    }
    for (other, number, of) in runs(config) {
        let path = context.path(&format!("{}.json", eval_part(other, number, of)));
        let alike = (other, number) != (arm, seed) && of == range && other.residual(config).is_some();
        if alike && path.exists() && other.gain(context, number)? == 0.0 {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Episodes of what `actor` makes, under a method's name and a seed; loaded if they were run before, and gone on with
/// where an earlier process was killed. `part` names the file and the part of the run.
pub(crate) fn evaluate_as<'a>(
    context: &Context,
    shared: &Shared,
    (method, seed): (&str, usize),
    part: &str,
    scenes: &[Scene],
    actor: impl FnOnce() -> Result<Actor<'a>, PipelineError>,
) -> Result<Vec<EpisodeResult>, PipelineError> {
    let path = context.path(&format!("{part}.json"));
    if path.exists() {
        return load_json(&path, "eval");
    }
    let begun = context.path(&format!("{part}.begun.json"));
    let mut known = known(&begun, scenes)?;
    let batches = plan(context, scenes)?;
    // Batches are kept whole, so that one that is run again has the same neighbours, and so comes to the same bits.
    let is_waiting = |batch: &Batch| batch.iter().any(|(place, _)| !known.contains_key(place));
    let waiting: Vec<Batch> = batches.into_iter().filter(is_waiting).collect();
    context.progress.part(part);
    context.progress.credit(known.len(), scenes.len());
    if !waiting.is_empty() {
        let chunk_len = context.config.chunk_len();
        let horizon = scenes.iter().map(|scene| context.config.horizon_steps(scene.task_info())).max().unwrap_or(0);
        let how = (horizon.div_ceil(chunk_len), Record::Outcome);
        shared.act(context, actor()?, &waiting, how, |rollouts| {
            known.extend(rollouts.iter().map(|(place, rollout)| (*place, result(context, method, seed, rollout))));
            context.progress.tick(known.len(), scenes.len(), part);
            // What ends here is written under its own name next.
            if known.len() < scenes.len() { save_json(&begun, &known) } else { Ok(()) }
        })?;
    }
    let results: Vec<EpisodeResult> = known.into_values().collect();
    save_json(&path, &results)?;
    match fs_err::remove_file(&begun) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PipelineError::io("removing a list of episodes that is complete", error))
        }
        _ => Ok(results),
    }
}

/// What a process that was killed had evaluated, by the places of its scenes.
fn known(path: &Path, scenes: &[Scene]) -> Result<BTreeMap<usize, EpisodeResult>, PipelineError> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let known: BTreeMap<usize, EpisodeResult> = load_json(path, "eval")?;
    let is_of = |(place, found): (&usize, &EpisodeResult)| {
        scenes.get(*place).is_some_and(|scene| scene.to_string() == found.scene)
    };
    match known.iter().all(is_of) {
        true => Ok(known),
        false => Err(PipelineError::Artifact {
            path: path.to_owned(),
            reason: "its scenes are not those of this run".into(),
            stage: "eval",
        }),
    }
}

fn result(context: &Context, method: &str, seed: usize, rollout: &Rollout) -> EpisodeResult {
    EpisodeResult {
        method: method.to_owned(),
        task: task_name(&rollout.scene),
        suite: rollout.scene.suite().to_string(),
        scene: rollout.scene.to_string(),
        seed: seed as u64,
        in_support: rollout.scene.in_support(),
        success: rollout.success,
        steps: rollout.steps * context.config.stride() as u32,
        failure: None,
    }
}
