//! Stage 2 training: rounds of rollouts with the current policy, then updates on them.

use burn::module::Module;
use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use w2a_align::{Diagnostics, FrozenAdapters, diagnose};
use w2a_data::Normaliser;
use w2a_nn::{Init, NnError, StepReport, TrainConfig, Training, train};
use w2a_policy::Policy;
use w2a_sim::{Environment, Scene};

use crate::control::{Controller, Decoding, ResidualControl};
use crate::form::{Form, Residual};
use crate::lesson::{Lesson, Rows, draw, lesson_loss};
use crate::lora::LoraConfig;
use crate::objective::{Bent, ObjectiveConfig};
use crate::residual::{ResidualConfig, image_size};
use crate::rollout::{Record, Rollout, rollout};

/// Everything stage 2 is configured with.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PosttrainConfig {
    /// What is trained: `latent` (the paper's v2), `action` (its v1) or `lora`.
    pub form: Form,
    /// The residual policy of the forms `latent` and `action`.
    pub residual: ResidualConfig,
    /// The adapters of the form `lora`.
    pub lora: LoraConfig,
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
    /// How `z` becomes actions in the form `latent`.
    pub decoding: Decoding,
    /// The training; `batch` counts rollouts, `steps` is set to rounds times updates.
    pub train: TrainConfig,
}

impl Default for PosttrainConfig {
    fn default() -> Self {
        let train = TrainConfig { batch: 16, lr: 1e-3, warmup: 10, ..TrainConfig::default() };
        Self {
            form: Form::default(),
            residual: ResidualConfig::default(),
            lora: LoraConfig::default(),
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
pub struct Frozen<'a, P> {
    /// The base policy.
    pub policy: &'a mut P,
    /// The adapters.
    pub adapters: &'a FrozenAdapters,
    /// Normalises actions as in stage 1.
    pub action: &'a Normaliser,
    /// Normalises proprioception as for the policy.
    pub proprio: &'a Normaliser,
    /// `M`.
    pub chunk_len: usize,
}

/// How a form of stage 2 acts, and what it makes of the decisions it took.
pub(crate) trait Trained {
    /// The trained part.
    type Model: Module;

    /// Acts with a model that has no gradients.
    fn controller<'a>(&'a mut self, model: &'a Self::Model) -> Result<Box<dyn Controller + 'a>, NnError>;

    /// `z_final` of every row at the full scale, with gradients.
    fn bend(&self, model: &Self::Model, rows: &Rows) -> Result<Bent, NnError>;
}

/// Trains a residual policy towards `targets`, in the form of the configuration: latent or action.
///
/// Each round rolls out a random subset of the scenes with the current residual, then updates it on them. A round starts at
/// a multiple of `updates_per_round` and checkpoints are written there, so a killed run resumes by rolling out again.
///
/// `on_round` gets the diagnostics of each round's rollouts: (round, rollouts, diagnostics of `z_final` against `z_v`, mean
/// size of the step relative to `z_base` at execution).
///
/// # Errors
/// Targets of unequal length, a contrast without negatives, divergence, or a failing simulator or disk.
pub fn train_residual<P: Policy>(
    config: &PosttrainConfig,
    training: &Training,
    frozen: &mut Frozen<P>,
    environment: &mut dyn Environment,
    targets: &[Target],
    device: &Device,
    on_step: impl FnMut(&StepReport),
    on_round: impl FnMut(usize, &[Rollout], &Diagnostics, f32),
) -> Result<Residual, NnError> {
    let adapters = frozen.adapters;
    check(config, targets, adapters)?;
    let autodiff = device.clone().autodiff();
    let first = environment.reset(&[targets[0].scene]).map_err(|error| input("a scene", error.to_string()))?;
    let mut stream = w2a_data::stream(training.seed, &format!("init/{}", training.name));
    let mut init = Init { rng: &mut stream, device: &autodiff };
    let proprio = frozen.proprio.width();
    let model = Residual::new(config.form, &config.residual, image_size(&first), proprio, adapters, &mut init)?;
    let mut form = ResidualForm { frozen, config, device, autodiff: &autodiff };
    train_rounds(&mut form, model, config, training, adapters, environment, targets, &autodiff, on_step, on_round)
}

struct ResidualForm<'a, 'b, P> {
    frozen: &'a mut Frozen<'b, P>,
    config: &'a PosttrainConfig,
    device: &'a Device,
    autodiff: &'a Device,
}

impl<P: Policy> Trained for ResidualForm<'_, '_, P> {
    type Model = Residual;

    fn controller<'a>(&'a mut self, model: &'a Residual) -> Result<Box<dyn Controller + 'a>, NnError> {
        Ok(Box::new(ResidualControl {
            policy: &mut *self.frozen.policy,
            adapters: self.frozen.adapters,
            residual: Some(model),
            action: self.frozen.action,
            proprio: self.frozen.proprio,
            gain: self.config.rollout_gain,
            decoding: self.config.decoding,
            chunk_len: self.frozen.chunk_len,
            device: self.device.clone(),
        }))
    }

    fn bend(&self, model: &Residual, rows: &Rows) -> Result<Bent, NnError> {
        rows.bend(model, self.frozen.adapters, self.frozen.proprio, self.autodiff)
    }
}

/// The rounds of stage 2, whatever is trained; see [`train_residual`]. `targets` have passed [`check`].
pub(crate) fn train_rounds<F: Trained>(
    form: &mut F,
    model: F::Model,
    config: &PosttrainConfig,
    training: &Training,
    adapters: &FrozenAdapters,
    environment: &mut dyn Environment,
    targets: &[Target],
    autodiff: &Device,
    on_step: impl FnMut(&StepReport),
    mut on_round: impl FnMut(usize, &[Rollout], &Diagnostics, f32),
) -> Result<F::Model, NnError> {
    let dim = adapters.dim();
    let chunks = targets.first().map_or(0, |target| target.z_v.len() / dim);
    let schedule = TrainConfig {
        steps: config.rounds * config.updates_per_round,
        checkpoint_every: config.updates_per_round,
        ..training.config.clone()
    };
    let training = Training { config: &schedule, depends: training.depends.clone(), ..*training };
    let mut episodes: Vec<Rollout> = Vec::new();
    let mut chosen: Vec<usize> = Vec::new();
    let step_loss = |model: &F::Model, step: usize, rng: &mut ChaCha8Rng| {
        if step.is_multiple_of(config.updates_per_round) {
            chosen = draw(targets.len(), config.scenes_per_round, rng);
            let scenes: Vec<Scene> = chosen.iter().map(|&index| targets[index].scene).collect();
            let plain = model.valid();
            let mut controller = form.controller(&plain)?;
            episodes.clear();
            for part in scenes.chunks(64) {
                episodes.extend(rollout(environment, controller.as_mut(), part, chunks, Record::Decisions)?);
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
        let lessons: Vec<Lesson> = episodes
            .iter()
            .zip(&chosen)
            .map(|(episode, &index)| Lesson {
                observations: &episode.observations,
                instruction: episode.scene.task_info().instruction,
                base: &episode.base,
                z_base: &episode.z_base,
                z_v: &targets[index].z_v,
                actions: &targets[index].actions,
            })
            .collect();
        let sizes = (training.config.batch, chunks);
        lesson_loss(config, adapters, &lessons, sizes, autodiff, rng, |rows| form.bend(model, rows))
    };
    train(model, &training, step_loss, on_step)
}

/// Mean of `|g dz| / |z_base|` over an episode's chunks.
fn relative_step(episode: &Rollout, dim: usize, gain: f32) -> f32 {
    let length = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>().sqrt();
    let rows = episode.z_base.chunks_exact(dim).zip(episode.dz.chunks_exact(dim));
    let count = rows.len().max(1) as f32;
    rows.map(|(z, dz)| gain * length(dz) / length(z).max(1e-6)).sum::<f32>() / count
}

/// Refuses what no form can train on, before the first rollout.
///
/// # Errors
/// Fewer than two targets, targets of unequal length, rounds without scenes, or a contrast without negatives.
pub(crate) fn check(config: &PosttrainConfig, targets: &[Target], adapters: &FrozenAdapters) -> Result<(), NnError> {
    let (dim, chunk) = (adapters.dim(), adapters.chunk());
    let regress = config.objective.regression > 0.0;
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
    let rollouts = config.train.batch.min(config.scenes_per_round);
    let least = if config.objective.infonce > 0.0 { 2 } else { 1 };
    if rollouts < least || config.updates_per_round == 0 {
        return Err(NnError::Input {
            what: "batch of stage 2".into(),
            expected: format!("updates in every round, on at least {least} rollouts (InfoNCE of one has no negatives)"),
            got: format!("{} updates on {rollouts}", config.updates_per_round),
        });
    }
    Ok(())
}

fn input(expected: &str, got: String) -> NnError {
    NnError::Input { what: "targets of stage 2".into(), expected: expected.into(), got }
}

#[cfg(test)]
mod tests;
