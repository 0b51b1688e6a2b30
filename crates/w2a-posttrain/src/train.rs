//! Stage 2 training: rounds of rollouts with the current policy, then updates of the residual on them.

use burn::module::Module;
use burn::tensor::Device;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_align::{FrozenAdapters, diagnose};
use w2a_data::Normaliser;
use w2a_nn::{Init, NnError, StepReport, TrainConfig, Training, tensor, train};
use w2a_policy::Policy;
use w2a_sim::{Environment, Scene};

use crate::control::{Decoding, ResidualControl};
use crate::objective::{Batch, ObjectiveConfig, loss};
use crate::residual::{ResidualBatch, ResidualConfig, ResidualNet, image_size};
use crate::rollout::{Record, Rollout, rollout};

/// Everything stage 2 is configured with.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PosttrainConfig {
    /// The residual policy.
    pub residual: ResidualConfig,
    /// The loss.
    pub objective: ObjectiveConfig,
    /// Rounds of rollouts.
    pub rounds: usize,
    /// Scenes rolled out per round.
    pub scenes_per_round: usize,
    /// Updates after each round.
    pub updates_per_round: usize,
    /// Scale of the step while rolling out.
    pub rollout_gain: f32,
    /// How `z` becomes actions.
    pub decoding: Decoding,
    /// The training; `batch` counts rollouts, `steps` is set to rounds times updates.
    pub train: TrainConfig,
}

impl Default for PosttrainConfig {
    fn default() -> Self {
        let train = TrainConfig { batch: 16, lr: 1e-3, warmup: 10, ..TrainConfig::default() };
        Self {
            residual: ResidualConfig::default(),
            objective: ObjectiveConfig::default(),
            rounds: 4,
            scenes_per_round: 128,
            updates_per_round: 100,
            rollout_gain: 0.1,
            decoding: Decoding::Delta,
            train,
        }
    }
}

/// What a post-training scene is pulled towards.
#[derive(Clone, Debug)]
pub struct Target {
    /// The scene.
    pub scene: Scene,
    /// Imagined `z_v`, `[T, D]`.
    pub z_v: Vec<f32>,
    /// Normalised pseudo-actions, `[T, M·A]`; empty unless the objective regresses.
    pub actions: Vec<f32>,
}

/// The frozen parts that stage 2 works with.
pub struct Frozen<'a> {
    /// The base policy.
    pub policy: &'a mut dyn Policy,
    /// The adapters.
    pub adapters: &'a FrozenAdapters,
    /// Normalises actions as in stage 1.
    pub action: &'a Normaliser,
    /// Normalises proprioception as for the policy.
    pub proprio: &'a Normaliser,
    /// `M`.
    pub chunk_len: usize,
}

/// Trains a residual policy towards `targets`.
///
/// Each round rolls out a random subset of the scenes with the current residual, then updates it on them. A round starts at
/// a multiple of `updates_per_round` and checkpoints are written there, so a killed run resumes by rolling out again.
///
/// `on_round` gets the diagnostics of each round's rollouts: (round, rollouts, diagnostics of `z_final` against `z_v`, mean
/// size of the step relative to `z_base` at execution).
///
/// # Errors
/// Targets of unequal length, divergence, or a failing simulator or disk.
pub fn train_residual(
    config: &PosttrainConfig,
    training: &Training,
    frozen: &mut Frozen,
    environment: &mut dyn Environment,
    targets: &[Target],
    device: &Device,
    on_step: impl FnMut(&StepReport),
    mut on_round: impl FnMut(usize, &[Rollout], &w2a_align::Diagnostics, f32),
) -> Result<ResidualNet, NnError> {
    let dim = frozen.adapters.dim();
    let chunks = check(targets, dim, frozen.adapters.chunk(), config.objective.regression > 0.0)?;
    let autodiff = device.clone().autodiff();
    let first = environment.reset(&[targets[0].scene]).map_err(|error| input("a scene", error.to_string()))?;
    let mut stream = w2a_data::stream(training.seed, &format!("init/{}", training.name));
    let mut init = Init { rng: &mut stream, device: &autodiff };
    let net = ResidualNet::new(&config.residual, image_size(&first), frozen.proprio.width(), dim, &mut init)?;
    let schedule = TrainConfig {
        steps: config.rounds * config.updates_per_round,
        checkpoint_every: config.updates_per_round,
        ..training.config.clone()
    };
    let training = Training { config: &schedule, depends: training.depends.clone(), ..*training };
    let mut episodes: Vec<Rollout> = Vec::new();
    let mut chosen: Vec<usize> = Vec::new();
    let step_loss = |net: &ResidualNet, step: usize, rng: &mut ChaCha8Rng| {
        if step.is_multiple_of(config.updates_per_round) {
            chosen = draw(targets.len(), config.scenes_per_round, rng);
            let scenes: Vec<Scene> = chosen.iter().map(|&index| targets[index].scene).collect();
            let plain = net.valid();
            let mut controller = ResidualControl {
                policy: &mut *frozen.policy,
                adapters: frozen.adapters,
                residual: Some(&plain),
                action: frozen.action,
                proprio: frozen.proprio,
                gain: config.rollout_gain,
                decoding: config.decoding,
                chunk_len: frozen.chunk_len,
                device: device.clone(),
            };
            episodes.clear();
            for part in scenes.chunks(64) {
                episodes.extend(rollout(environment, &mut controller, part, chunks, Record::Decisions)?);
            }
            let (mut z, mut z_v, mut steps) = (Vec::new(), Vec::new(), 0.0);
            for (episode, &index) in episodes.iter().zip(&chosen) {
                z.extend(episode.z_base.iter().zip(&episode.dz).map(|(z, dz)| z + dz));
                z_v.extend_from_slice(&targets[index].z_v);
                steps += relative_step(episode, dim, config.rollout_gain);
            }
            let found = diagnose(&z, &z_v, chunks, dim);
            on_round(step / config.updates_per_round, &episodes, &found, steps / episodes.len() as f32);
        }
        let batch = training.config.batch.min(episodes.len());
        let mut observations = Vec::with_capacity(batch * chunks);
        let (mut z_base, mut z_v, mut actions) = (Vec::new(), Vec::new(), Vec::new());
        for index in draw(episodes.len(), batch, rng) {
            observations.extend(episodes[index].observations.iter().cloned());
            z_base.extend_from_slice(&episodes[index].z_base);
            let target = &targets[chosen[index]];
            z_v.extend_from_slice(&target.z_v);
            actions.extend_from_slice(&target.actions);
        }
        let inputs = ResidualBatch::of_observations(&observations, &z_base, frozen.proprio, &autodiff)?;
        let shape = [batch, chunks, dim];
        let rows = batch * chunks;
        let dz = net.forward(&inputs).reshape(shape);
        let actions = (!actions.is_empty()).then(|| {
            let width = actions.len() / rows;
            tensor(actions, [rows, width], &autodiff)
        });
        let (z_base, z_v) = (tensor(z_base, shape, &autodiff), tensor(z_v, shape, &autodiff));
        loss(&config.objective, frozen.adapters, Batch { z_base, dz, z_v, actions })
    };
    train(net, &training, step_loss, on_step)
}

/// Mean of `|g dz| / |z_base|` over an episode's chunks.
fn relative_step(episode: &Rollout, dim: usize, gain: f32) -> f32 {
    let length = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>().sqrt();
    let rows = episode.z_base.chunks_exact(dim).zip(episode.dz.chunks_exact(dim));
    let count = rows.len().max(1) as f32;
    rows.map(|(z, dz)| gain * length(dz) / length(z).max(1e-6)).sum::<f32>() / count
}

/// `count` different indices below `n` (all of them if there are fewer), in drawn order.
fn draw(n: usize, count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut left: Vec<usize> = (0..n).collect();
    (0..count.min(n)).map(|_| left.swap_remove(rng.random_range(0..left.len()))).collect()
}

fn check(targets: &[Target], dim: usize, chunk: usize, regress: bool) -> Result<usize, NnError> {
    let chunks = targets.first().map_or(0, |target| target.z_v.len() / dim);
    if targets.len() < 2 || chunks == 0 {
        let got = format!("{} targets of {chunks} chunks", targets.len());
        return Err(input("at least two post-training scenes with imagined chunks", got));
    }
    for target in targets {
        let actions_fit = if regress { target.actions.len() == chunks * chunk } else { target.actions.is_empty() };
        if target.z_v.len() != chunks * dim || !actions_fit {
            let got = format!("{} and {} values for {}", target.z_v.len(), target.actions.len(), target.scene);
            let actions = if regress { chunks * chunk } else { 0 };
            return Err(input(&format!("{} values of z_v and {actions} of pseudo-actions", chunks * dim), got));
        }
    }
    Ok(chunks)
}

fn input(expected: &str, got: String) -> NnError {
    NnError::Input { what: "targets of stage 2".into(), expected: expected.into(), got }
}
