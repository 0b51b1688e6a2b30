//! Evaluation of every arm on the same held-out scenes.

use std::collections::BTreeMap;
use std::time::Instant;

use w2a_posttrain::{Record, Rollout};
use w2a_report::{EpisodeResult, EvalInfo};
use w2a_sim::{Range, Scene};

use crate::PipelineError;
use crate::arms::Arm;
use crate::context::{Context, load_json, save_json};
use crate::data::task_name;
use crate::posttrain::{Shared, eval_scenes};

/// The arm the report is about.
pub(crate) const HEADLINE: &str = "w2a";

pub(crate) fn run(context: &mut Context) -> Result<(), PipelineError> {
    let shared = Shared::load(context)?;
    let start = Instant::now();
    let mut all = Vec::new();
    let (full, narrow) = (eval_scenes(context, Range::Full)?, eval_scenes(context, Range::Narrow)?);
    context.folder("eval")?;
    let runs: usize = Arm::ALL.iter().map(|arm| arm.seeds(&context.config)).sum();
    let mut done = 0;
    for arm in Arm::ALL {
        for seed in 0..arm.seeds(&context.config) {
            all.extend(evaluate(context, &shared, arm, seed, &full, "full")?);
            done += 1;
            context.progress.tick(done as u64, runs as u64, arm.name());
        }
    }
    let mut without_shift = Vec::new();
    for arm in [Arm::Base, Arm::World2Act, Arm::WideLabels] {
        without_shift.extend(evaluate(context, &shared, arm, 0, &narrow, "narrow")?);
    }
    let seconds = start.elapsed().as_secs_f64();
    let base = Arm::Base.name();
    EvalInfo::build(&all, HEADLINE, base, seconds, &BTreeMap::new())?.save(context.path("eval_info.json"))?;
    EvalInfo::build(&without_shift, HEADLINE, base, seconds, &BTreeMap::new())?
        .save(context.path("eval_info_narrow.json"))?;
    Ok(())
}

/// Episodes of one arm and seed; loaded if they were run before.
fn evaluate(
    context: &Context,
    shared: &Shared,
    arm: Arm,
    seed: usize,
    scenes: &[Scene],
    range: &str,
) -> Result<Vec<EpisodeResult>, PipelineError> {
    let path = context.path(&format!("eval/{}_seed{seed}_{range}.json", arm.name()));
    if path.exists() {
        return load_json(&path, "eval");
    }
    let chunk_len = context.config.world.model.autoencoder.frames;
    let horizon = scenes.iter().map(|scene| scene.task_info().horizon).max().unwrap_or(0);
    let gain = arm.gain(context, seed)?;
    let rollouts =
        shared.rollouts(context, (arm, seed, gain), scenes, horizon.div_ceil(chunk_len), Record::Outcome, |_| {})?;
    let results: Vec<EpisodeResult> = rollouts.iter().map(|rollout| result(arm, seed, rollout)).collect();
    save_json(&path, &results)?;
    Ok(results)
}

fn result(arm: Arm, seed: usize, rollout: &Rollout) -> EpisodeResult {
    EpisodeResult {
        method: arm.name().to_owned(),
        task: task_name(&rollout.scene),
        suite: rollout.scene.suite().to_string(),
        scene: rollout.scene.to_string(),
        seed: seed as u64,
        in_support: rollout.scene.in_support(),
        success: rollout.success,
        steps: rollout.steps,
        failure: None,
    }
}
