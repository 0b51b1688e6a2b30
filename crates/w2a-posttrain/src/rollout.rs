//! Episodes of a controller in a batch of environments.

use w2a_data::{Camera, Observation};
use w2a_nn::NnError;
use w2a_sim::{Environment, Scene, SimError, batches};
use w2a_world::GridVideo;

use crate::control::Controller;

/// What to keep of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The outcome only.
    Outcome,
    /// Also what stage 2 learns from: observations and decisions at chunk boundaries.
    Decisions,
    /// Also every frame.
    Video,
}

/// One episode.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// Where it took place.
    pub scene: Scene,
    /// Whether the success predicate held after any control step.
    pub success: bool,
    /// Control steps until the first success, or all.
    pub steps: u32,
    /// Observations at chunk boundaries, one per decision.
    pub observations: Vec<Observation>,
    /// Normalised base chunks, `[T, M·A]`; empty without adapters.
    pub base: Vec<f32>,
    /// `[T, D]`; empty without adapters.
    pub z_base: Vec<f32>,
    /// `[T, D]`, before the gain; empty without adapters.
    pub dz: Vec<f32>,
    /// Executed actions, `[T, M, A]`.
    pub actions: Vec<f32>,
    /// `1 + M·T` frames, if recorded.
    pub video: Option<GridVideo>,
}

/// Runs one episode per scene, `decisions` chunks each, in lockstep, as many at a time as the environment can hold.
///
/// Every started episode counts: none ends early, so a batch cannot favour the quick ones. Success is latched at the first
/// control step at which the predicate holds, as the benchmarks do; where nothing but the outcome is kept, an environment
/// is dismissed then.
///
/// # Errors
/// An environment that fails, or a controller that does.
pub fn rollout(
    environment: &mut dyn Environment,
    controller: &mut dyn Controller,
    scenes: &[Scene],
    decisions: usize,
    record: Record,
) -> Result<Vec<Rollout>, NnError> {
    let mut done: Vec<(usize, Rollout)> = Vec::with_capacity(scenes.len());
    for batch in batches(scenes, environment.capacity()) {
        let some: Vec<Scene> = batch.iter().map(|(_, scene)| *scene).collect();
        let rollouts = lockstep(environment, controller, &some, decisions, record)?;
        done.extend(batch.into_iter().map(|(place, _)| place).zip(rollouts));
    }
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, rollout)| rollout).collect())
}

fn lockstep(
    environment: &mut dyn Environment,
    controller: &mut dyn Controller,
    scenes: &[Scene],
    decisions: usize,
    record: Record,
) -> Result<Vec<Rollout>, NnError> {
    let mut now = environment.reset(scenes).map_err(simulator)?;
    controller.reset();
    let instructions: Vec<&str> = scenes.iter().map(|scene| scene.task_info().instruction).collect();
    let width = environment.spec().action.len();
    let chunk_len = controller.chunk_len();
    let mut episodes: Vec<Rollout> = scenes
        .iter()
        .map(|&scene| Rollout {
            scene,
            success: false,
            steps: (decisions * chunk_len) as u32,
            observations: Vec::new(),
            base: Vec::new(),
            z_base: Vec::new(),
            dz: Vec::new(),
            actions: Vec::new(),
            video: None,
        })
        .collect();
    let mut frames: Vec<Vec<Camera>> = now.iter().map(|observation| observation.cameras.clone()).collect();
    for chunk in 0..decisions {
        let decision = controller.decide(&now, &instructions)?;
        let dim = decision.z_base.len() / scenes.len();
        if record != Record::Outcome {
            for (index, (episode, observation)) in episodes.iter_mut().zip(&now).enumerate() {
                episode.observations.push(observation.clone());
                episode.z_base.extend_from_slice(&decision.z_base[index * dim..(index + 1) * dim]);
                episode.dz.extend_from_slice(&decision.dz[index * dim..(index + 1) * dim]);
                let wide = decision.base.len() / scenes.len();
                episode.base.extend_from_slice(&decision.base[index * wide..(index + 1) * wide]);
                let stride = chunk_len * width;
                episode.actions.extend_from_slice(&decision.actions[index * stride..(index + 1) * stride]);
            }
        }
        for step in 0..chunk_len {
            let actions: Vec<f32> = decision
                .actions
                .chunks_exact(chunk_len * width)
                .flat_map(|chunk| &chunk[step * width..(step + 1) * width])
                .copied()
                .collect();
            // Seen are the frames of a video, and what the next chunk is decided on.
            let seen = record == Record::Video || (step + 1 == chunk_len && chunk + 1 < decisions);
            let outcomes = if seen { environment.step(&actions) } else { environment.step_unseen(&actions) };
            let outcomes = outcomes.map_err(simulator)?;
            for (index, outcome) in outcomes.into_iter().enumerate() {
                let episode = &mut episodes[index];
                if outcome.success && !episode.success {
                    episode.success = true;
                    episode.steps = (chunk * chunk_len + step + 1) as u32;
                    if record == Record::Outcome {
                        environment.dismiss(index);
                    }
                }
                if record == Record::Video {
                    for (all, camera) in frames[index].iter_mut().zip(&outcome.observation.cameras) {
                        all.rgb.extend_from_slice(&camera.rgb);
                    }
                }
                now[index] = outcome.observation;
            }
        }
    }
    if record == Record::Video {
        for (episode, cameras) in episodes.iter_mut().zip(&frames) {
            episode.video = Some(GridVideo::side_by_side(cameras)?);
        }
    }
    Ok(episodes)
}

fn simulator(error: SimError) -> NnError {
    NnError::Input { what: "the environment".into(), expected: "a step without error".into(), got: error.to_string() }
}
