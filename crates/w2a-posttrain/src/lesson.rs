//! Learning from episodes, whoever acted in them: the loss of stage 2 on what was seen and decided.

use burn::tensor::Device;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_align::FrozenAdapters;
use w2a_data::{Normaliser, Observation};
use w2a_nn::{Losses, NnError, StepReport, TrainConfig, Training, tensor, train, trainable};

use crate::form::{Form, Residual};
use crate::objective::{Batch, Bent, loss};
use crate::residual::ResidualBatch;
use crate::train::PosttrainConfig;

/// An episode of `T` chunks to learn from.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// Observations at chunk boundaries, `T`.
    pub observations: &'a [Observation],
    /// The instruction.
    pub instruction: &'a str,
    /// Normalised base chunks, `[T, M·A]`.
    pub base: &'a [f32],
    /// `[T, D]`.
    pub z_base: &'a [f32],
    /// What it is pulled towards, `[T, D]`; a chunk of zeros pulls nowhere.
    pub z_v: &'a [f32],
    /// Normalised pseudo-actions, `[T, M·A]`; empty unless the objective regresses.
    pub actions: &'a [f32],
}

/// Decisions of a batch of episodes, one row each.
pub(crate) struct Rows<'a> {
    pub observations: Vec<Observation>,
    pub instructions: Vec<&'a str>,
    /// `[rows, D]`.
    pub z_base: Vec<f32>,
    /// Normalised base chunks, `[rows, M·A]`.
    pub base: Vec<f32>,
}

impl Rows<'_> {
    /// What a residual makes of them, with gradients.
    pub fn bend(
        &self,
        model: &Residual,
        adapters: &FrozenAdapters,
        proprio: &Normaliser,
        autodiff: &Device,
    ) -> Result<Bent, NnError> {
        let inputs = ResidualBatch::of_observations(&self.observations, &self.z_base, proprio, autodiff)?;
        Ok(model.bend(adapters.net(), &inputs, &self.base))
    }
}

/// The loss on `batch` lessons of `chunks` chunks each, drawn from all; `bend` is what is trained.
pub(crate) fn lesson_loss(
    config: &PosttrainConfig,
    adapters: &FrozenAdapters,
    lessons: &[Lesson],
    (batch, chunks): (usize, usize),
    autodiff: &Device,
    rng: &mut ChaCha8Rng,
    bend: impl FnOnce(&Rows) -> Result<Bent, NnError>,
) -> Result<Losses, NnError> {
    let batch = batch.min(lessons.len());
    let mut rows = Rows { observations: Vec::new(), instructions: Vec::new(), z_base: vec![], base: vec![] };
    let (mut z_v, mut actions) = (Vec::new(), Vec::new());
    for index in draw(lessons.len(), batch, rng) {
        let lesson = &lessons[index];
        rows.observations.extend_from_slice(lesson.observations);
        rows.instructions.extend(std::iter::repeat_n(lesson.instruction, chunks));
        rows.z_base.extend_from_slice(lesson.z_base);
        rows.base.extend_from_slice(lesson.base);
        z_v.extend_from_slice(lesson.z_v);
        actions.extend_from_slice(lesson.actions);
    }
    let shape = [batch, chunks, adapters.dim()];
    let bent = bend(&rows)?;
    let actions = (!actions.is_empty()).then(|| {
        let width = actions.len() / (batch * chunks);
        tensor(actions, [batch * chunks, width], autodiff)
    });
    let (z_base, z_v) = (tensor(rows.z_base, shape, autodiff), tensor(z_v, shape, autodiff));
    let shifts = config.objective.contrast().shifts(batch, chunks, rng);
    loss(&config.objective, adapters, Batch { z_base, bent, z_v, actions, shifts })
}

/// `count` different indices below `n` (all of them if there are fewer), in drawn order.
pub(crate) fn draw(n: usize, count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut left: Vec<usize> = (0..n).collect();
    (0..count.min(n)).map(|_| left.swap_remove(rng.random_range(0..left.len()))).collect()
}

/// One update of a residual outside of a simulator.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    /// Stage 2, as for [`crate::train_residual`]: its objective, `updates_per_round` and `train` count here.
    pub config: &'a PosttrainConfig,
    /// Names the random streams.
    pub name: &'a str,
    /// Seed.
    pub seed: u64,
    /// The frozen adapters.
    pub adapters: &'a FrozenAdapters,
    /// Normalises proprioception as for the policy.
    pub proprio: &'a Normaliser,
    /// Device of the networks.
    pub device: &'a Device,
    /// Asked before each step: whether the result is still wanted.
    pub go_on: &'a dyn Fn() -> bool,
}

/// A round of stage 2 on lessons that somebody else collected: `updates_per_round` updates of `residual` from a fresh
/// optimiser, at the learning rates of the configuration. It depends on nothing but its arguments.
///
/// # Errors
/// Lessons of unequal or wrong size, a contrast without negatives, LoRA, divergence, or a result that is not wanted.
pub fn update_residual(
    update: &Update,
    residual: Residual,
    lessons: &[Lesson],
    on_step: impl FnMut(&StepReport),
) -> Result<Residual, NnError> {
    let Update { config, name, seed, adapters, proprio, device, go_on } = *update;
    let chunks = lessons.first().map_or(0, |lesson| lesson.observations.len());
    check(config, adapters, lessons, chunks)?;
    let autodiff = device.clone().autodiff();
    let steps = config.updates_per_round;
    let schedule = TrainConfig { steps, checkpoint_every: 0, ..config.train.clone() };
    let training = Training { name, dir: None, seed, config: &schedule, depends: serde_json::Value::Null };
    let sizes = (schedule.batch, chunks);
    let step_loss = |model: &Residual, _: usize, rng: &mut ChaCha8Rng| {
        if !go_on() {
            let source = std::io::ErrorKind::Interrupted.into();
            return Err(NnError::Io { action: "updating a residual", source });
        }
        let bend = |rows: &Rows| rows.bend(model, adapters, proprio, &autodiff);
        lesson_loss(config, adapters, lessons, sizes, &autodiff, rng, bend)
    };
    train(trainable(residual), &training, step_loss, on_step)
}

fn check(
    config: &PosttrainConfig,
    adapters: &FrozenAdapters,
    lessons: &[Lesson],
    chunks: usize,
) -> Result<(), NnError> {
    let input = |expected: String, got: String| NnError::Input { what: "episodes to learn from".into(), expected, got };
    let least = if config.objective.infonce > 0.0 { 2 } else { 1 };
    if lessons.len() < least || config.train.batch < least || chunks == 0 || config.updates_per_round == 0 {
        let expected = format!("updates on at least {least} with chunks (InfoNCE of one has no negatives)");
        let got =
            format!("{} updates on {} in batches of {}", config.updates_per_round, lessons.len(), config.train.batch);
        return Err(input(expected, got));
    }
    if config.form == Form::Lora {
        return Err(input("a residual: form latent or action".into(), config.form.name().into()));
    }
    let (dim, chunk) = (chunks * adapters.dim(), chunks * adapters.chunk());
    let actions = if config.objective.regression > 0.0 { chunk } else { 0 };
    for lesson in lessons {
        let got = [lesson.base.len(), lesson.z_base.len(), lesson.z_v.len(), lesson.actions.len()];
        let expected = [chunk, dim, dim, actions];
        if got != expected || lesson.observations.len() != chunks {
            let words = |sizes: [usize; 4], seen: usize| {
                format!("{seen} observations; base, z_base, z_v, actions of {sizes:?} values")
            };
            return Err(input(words(expected, chunks), words(got, lesson.observations.len())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use w2a_align::{AdapterConfig, Adapters, FrozenAdapters};
    use w2a_nn::{Init, StateDict, TrainConfig, normal, state_dict};

    use super::{Lesson, Update, update_residual};
    use crate::fixtures::{ACTION, PROPRIO, SIDE, normaliser, observations};
    use crate::{Form, Objective, PosttrainConfig, Residual, ResidualConfig};

    const CHUNKS: usize = 3;
    const DIM: usize = 16;

    struct Made {
        cosines: Vec<f32>,
        state: StateDict,
    }

    /// Updates a fresh residual on two episodes after `change` of the second one's targets.
    fn update(config: &PosttrainConfig, change: impl FnOnce(&mut Vec<f32>)) -> Result<Made, String> {
        let device = Device::flex();
        let init = &mut Init { rng: &mut w2a_data::stream(0, "t"), device: &device };
        let net = Adapters::new(&AdapterConfig { dim: DIM, ..Default::default() }, [4, 4, 4], [2, ACTION], init);
        let adapters = FrozenAdapters::new(net.unwrap(), [4, 4, 4], [2, ACTION], &device);
        let size = (SIDE, 2 * SIDE);
        let residual = Residual::new(Form::Latent, &config.residual, size, PROPRIO, &adapters, init).unwrap();
        let random = |name: &str, n: usize| normal(&mut w2a_data::stream(7, name), CHUNKS * n);
        let (seen, base, z_base) = (observations(CHUNKS), random("base", 2 * ACTION), random("z", DIM));
        let mut targets = [random("one", DIM), random("two", DIM)];
        change(&mut targets[1]);
        let lessons = targets.each_ref().map(|z_v| Lesson {
            observations: &seen,
            instruction: "push",
            base: &base,
            z_base: &z_base,
            z_v,
            actions: &[],
        });
        let proprio = normaliser(PROPRIO);
        let adapters = &adapters;
        let (proprio, device) = (&proprio, &device);
        let update = Update { config, name: "t", seed: 1, adapters, proprio, device, go_on: &|| true };
        let mut cosines = Vec::new();
        let on_step = |report: &w2a_nn::StepReport| {
            let cosine = report.losses.iter().find(|(name, _)| *name == "cosine");
            cosines.push(cosine.unwrap().1);
        };
        let residual = update_residual(&update, residual, &lessons, on_step).map_err(|error| error.to_string())?;
        Ok(Made { state: state_dict(&residual).unwrap(), cosines })
    }

    fn config(objective: Objective) -> PosttrainConfig {
        PosttrainConfig {
            residual: ResidualConfig { depth: 1, heads: 2, width: 16 },
            objective: objective.config(),
            updates_per_round: 12,
            train: TrainConfig { batch: 2, lr: 3e-3, warmup: 1, ..TrainConfig::default() },
            ..PosttrainConfig::default()
        }
    }

    #[test]
    fn an_update_pulls_towards_its_targets_and_is_the_same_every_time() {
        let made = update(&config(Objective::Cosine), |_| {}).unwrap();
        assert!(made.cosines.len() == 12 && made.cosines[11] > made.cosines[0] + 0.05, "{:?}", made.cosines);
        assert_eq!(made.state, update(&config(Objective::Cosine), |_| {}).unwrap().state);
    }

    #[test]
    fn chunks_whose_target_is_zero_pull_nowhere() {
        // All of the second episode: what is left is the pull of the first, at half the weight, so Adam's first step agrees.
        let one = PosttrainConfig { updates_per_round: 1, ..config(Objective::Cosine) };
        let moved = |z_v: fn(&mut Vec<f32>)| update(&one, z_v).unwrap().state["net.out.bias"].data.clone();
        let (zeros, same) = (moved(|z_v| z_v.fill(0.0)), moved(|_| {}));
        assert!(zeros.iter().all(|value| value.is_finite()) && zeros != same, "{zeros:?}");
        let none = update(&PosttrainConfig { updates_per_round: 4, ..config(Objective::Cosine) }, |z_v| z_v.fill(0.0));
        let cosines = none.unwrap().cosines;
        assert!(cosines[3] > cosines[0], "{cosines:?}");
    }

    #[test]
    fn episodes_that_do_not_fit_are_refused_by_their_sizes() {
        let error = update(&config(Objective::Cosine), |z_v| z_v.truncate(5)).err().unwrap();
        assert!(error.contains("48, 48, 0") && error.contains("48, 5, 0"), "{error}");
        let mut alone = config(Objective::Infonce);
        alone.train.batch = 1;
        assert!(update(&alone, |_| {}).err().unwrap().contains("no negatives"));
        let lora = PosttrainConfig { form: Form::Lora, ..config(Objective::Cosine) };
        assert!(update(&lora, |_| {}).err().unwrap().contains("form latent or action"));
    }
}
