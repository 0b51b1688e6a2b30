//! The one training loop: seeded by step, checkpointed, resumable to the same bits.

use std::path::Path;
use std::sync::OnceLock;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::Resumed;
use crate::optim::{NamedGradients, named_gradients};
use crate::{AdamW, AdamWConfig, Checkpoint, NnError, StateDict, load_state, state_dict};

/// How long and how fast to train.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Number of updates.
    pub steps: usize,
    /// Samples per update.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f32,
    /// Updates of linear warm-up.
    pub warmup: usize,
    /// Learning rate at the end as a share of the peak (cosine decay between).
    pub final_lr: f32,
    /// Decay of the exponential moving average of the weights that inference uses; 0 uses the weights themselves.
    pub ema: f32,
    /// Checkpoints are written this often, and at the end.
    pub checkpoint_every: usize,
    /// The optimiser.
    pub adamw: AdamWConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 64,
            lr: 1e-3,
            warmup: 50,
            final_lr: 0.02,
            ema: 0.0,
            checkpoint_every: 500,
            adamw: AdamWConfig::default(),
        }
    }
}

impl TrainConfig {
    /// Learning rate of update `step` (counted from 0): linear warm-up, then half a cosine.
    pub fn lr_at(&self, step: usize) -> f32 {
        if step < self.warmup {
            return self.lr * (step + 1) as f32 / self.warmup as f32;
        }
        let done = (step - self.warmup) as f32 / self.steps.saturating_sub(self.warmup).max(1) as f32;
        let cosine = 0.5 * (1.0 + (std::f32::consts::PI * done.min(1.0)).cos());
        self.lr * (self.final_lr + (1.0 - self.final_lr) * cosine)
    }
}

/// What a training is called, where it lives and what it depends on.
#[derive(Debug)]
pub struct Training<'a> {
    /// Name, as in logs; also names the random streams.
    pub name: &'a str,
    /// Folder of its checkpoints; `None` keeps nothing.
    pub dir: Option<&'a Path>,
    /// The run's seed.
    pub seed: u64,
    /// How to train.
    pub config: &'a TrainConfig,
    /// Everything else the result depends on; a checkpoint with another value is refused.
    pub depends: serde_json::Value,
}

/// What one update did.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Updates done, counting this one.
    pub step: usize,
    /// Updates in all.
    pub steps: usize,
    /// Learning rate.
    pub lr: f32,
    /// Gradient norm before clipping.
    pub grad_norm: f32,
    /// The loss and its named parts; the first is the total.
    pub losses: Vec<(&'static str, f32)>,
}

/// The loss to descend and named parts for the log, all scalars.
pub type Losses = (Tensor<1>, Vec<(&'static str, Tensor<1>)>);

/// Trains `model` and returns it with its inference weights (the moving average if there is one).
///
/// `loss` gets the model, the update's index and a random stream of that index alone. Because the stream depends on (seed,
/// name, step) only, a training that was killed and resumed from any checkpoint equals one that was not. A finished
/// training is loaded, not repeated.
///
/// # Errors
/// A loss or gradient that is not finite, a checkpoint of another configuration, or a failing disk.
pub fn train<M: Module>(
    model: M,
    training: &Training,
    mut loss: impl FnMut(&M, usize, &mut ChaCha8Rng) -> Result<Losses, NnError>,
    on_step: impl FnMut(&StepReport),
) -> Result<M, NnError> {
    let gradients = |model: &M, step: usize| {
        let mut rng = step_stream(training, step);
        backward(model, loss(model, step, &mut rng)?)
    };
    descend(model, training, gradients, on_step)
}

/// [`train`] for models whose gradients are not found by one pass over one graph: `gradients` gets the model, the update's
/// index and its random stream, and gives the value of the loss with the gradients by parameter name.
///
/// # Errors
/// As [`train`].
pub fn train_by_gradients<M: Module>(
    model: M,
    training: &Training,
    mut gradients: impl FnMut(&M, usize, &mut ChaCha8Rng) -> Result<(f32, NamedGradients), NnError>,
    on_step: impl FnMut(&StepReport),
) -> Result<M, NnError> {
    let gradients = |model: &M, step: usize| {
        let mut rng = step_stream(training, step);
        let (loss, gradients) = gradients(model, step, &mut rng)?;
        Ok((vec![("loss", loss)], gradients))
    };
    descend(model, training, gradients, on_step)
}

/// The random stream of an update.
fn step_stream(training: &Training, step: usize) -> ChaCha8Rng {
    w2a_data::stream(training.seed, &format!("train/{}/{step}", training.name))
}

/// [`train`] for losses that are means over independent samples: `loss` also gets how many samples to draw, and is called
/// for `SHARDS` parts of each batch side by side, whose mean is taken.
///
/// The number of parts is fixed, so the result does not depend on the number of threads.
///
/// # Errors
/// As [`train`]; a batch that does not divide into the parts.
pub fn train_sharded<M: Module + Sync>(
    model: M,
    training: &Training,
    loss: impl Fn(&M, usize, usize, &mut ChaCha8Rng) -> Result<Losses, NnError> + Sync,
    on_step: impl FnMut(&StepReport),
) -> Result<M, NnError> {
    let batch = training.config.batch;
    if batch == 0 || !batch.is_multiple_of(SHARDS) {
        return Err(NnError::Input {
            what: format!("batch of training {:?}", training.name),
            expected: format!("a positive multiple of {SHARDS}"),
            got: batch.to_string(),
        });
    }
    let gradients = |model: &M, step: usize| {
        let parts = side_by_side(|shard| {
            let mut rng = w2a_data::stream(training.seed, &format!("train/{}/{step}/{shard}", training.name));
            // Leaves of its own: two passes over the same leaves are one graph, which burn consumes at the first backward.
            let model = trainable(model.clone());
            backward(&model, loss(&model, step, batch / SHARDS, &mut rng)?)
        });
        let parts: Result<Vec<_>, NnError> = parts.into_iter().collect();
        let mut parts = parts?.into_iter();
        let (mut losses, mut gradients) = parts.next().unwrap_or_default();
        for (more_losses, more_gradients) in parts {
            losses.iter_mut().zip(more_losses).for_each(|(sum, more)| sum.1 += more.1);
            for (name, more) in more_gradients {
                if let Some(sum) = gradients.get_mut(&name) {
                    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
                }
            }
        }
        losses.iter_mut().for_each(|loss| loss.1 /= SHARDS as f32);
        gradients.values_mut().flatten().for_each(|value| *value /= SHARDS as f32);
        Ok((losses, gradients))
    };
    descend(model, training, gradients, on_step)
}

/// `module` with every parameter a new leaf of an autodiff graph; the values are shared. Frozen ones become trainable.
pub fn trainable<M: Module>(module: M) -> M {
    module.map(&mut Leaves)
}

struct Leaves;

impl ModuleMapper for Leaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.autodiff().detach().require_grad())
    }
}

/// Parts of a batch in [`train_sharded`].
pub const SHARDS: usize = 2;

/// Runs `work` for every shard, each on a thread of its own if the process may use more than one.
///
/// Each thread has its own one-thread pool: in the shared pool, a thread that waits for a matrix product may pick up the
/// other shard while it holds a lock of the autodiff graph, and both wait for ever.
fn side_by_side<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    static POOLS: OnceLock<Option<Vec<rayon::ThreadPool>>> = OnceLock::new();
    let pools = POOLS.get_or_init(|| {
        let pool = |_| rayon::ThreadPoolBuilder::new().num_threads(1).build().ok();
        (0..SHARDS).map(pool).collect()
    });
    let Some(pools) = pools.as_ref().filter(|_| rayon::current_num_threads() > 1) else {
        return (0..SHARDS).map(work).collect();
    };
    let work = &work;
    std::thread::scope(|scope| {
        let run =
            |(shard, pool): (usize, &'static rayon::ThreadPool)| scope.spawn(move || pool.install(|| work(shard)));
        let handles: Vec<_> = pools.iter().enumerate().map(run).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Runs `work` on [`SHARDS`] runs of neighbouring items side by side and concatenates what it returns.
///
/// The split is fixed, so the result does not depend on the number of threads.
///
/// # Errors
/// The first error of `work`.
pub fn in_shards<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&[T]) -> Result<Vec<R>, NnError> + Sync,
) -> Result<Vec<R>, NnError> {
    let share = items.len().div_ceil(SHARDS);
    let part = |shard: usize| &items[(shard * share).min(items.len())..((shard + 1) * share).min(items.len())];
    let mut out = Vec::new();
    for part in side_by_side(|shard| work(part(shard))) {
        out.extend(part?);
    }
    Ok(out)
}

type LossValues = Vec<(&'static str, f32)>;

/// The values of a loss and its gradients; none if the loss is not finite.
fn backward<M: Module>(model: &M, (total, parts): Losses) -> Result<(LossValues, NamedGradients), NnError> {
    let scalar = |tensor: Tensor<1>| Ok(crate::values(tensor)?.first().copied().unwrap_or(f32::NAN));
    let mut losses = vec![("loss", scalar(total.clone())?)];
    for (name, part) in parts {
        losses.push((name, scalar(part)?));
    }
    if !losses[0].1.is_finite() {
        return Ok((losses, NamedGradients::new()));
    }
    Ok((losses, named_gradients(model, &total.backward())?))
}

fn descend<M: Module>(
    mut model: M,
    training: &Training,
    mut gradients: impl FnMut(&M, usize) -> Result<(LossValues, NamedGradients), NnError>,
    mut on_step: impl FnMut(&StepReport),
) -> Result<M, NnError> {
    let Training { name, dir, seed, config, depends } = training;
    let full_config = serde_json::json!({ "name": name, "seed": seed, "train": config, "depends": depends });
    let checkpoint = dir.map(Checkpoint::new);
    let mut optimiser = AdamW::new(config.adamw.clone());
    let mut average: Option<StateDict> = None;
    let mut start = 0;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.check_config(&full_config)?;
        if let Some(Resumed { step, raw, weights, optimiser: saved }) = checkpoint.resume(&config.adamw)? {
            if step >= config.steps {
                return load_state(model, weights);
            }
            model = load_state(model, raw)?;
            (start, optimiser) = (step, saved);
            average = (config.ema > 0.0).then_some(weights);
        }
    }
    if config.ema > 0.0 && average.is_none() {
        average = Some(state_dict(&model)?);
    }
    let mut last_good =
        if start > 0 { format!("the checkpoint of step {start} is intact") } else { String::from("no checkpoint yet") };
    for step in start..config.steps {
        let (losses, grads) = gradients(&model, step)?;
        let value = losses[0].1;
        let diverged = |what, value, last_good: &str| NnError::Diverged {
            stage: (*name).to_owned(),
            step,
            what,
            value,
            last_good: last_good.to_owned(),
        };
        if !value.is_finite() {
            return Err(diverged("the loss", value, &last_good));
        }
        let lr = config.lr_at(step);
        let (updated, grad_norm) = optimiser.step(model, grads, lr)?;
        model = updated;
        if !grad_norm.is_finite() {
            return Err(diverged("the gradient norm", grad_norm, &last_good));
        }
        if let Some(average) = &mut average {
            // The average may not lag behind a short training: its horizon grows with the steps done.
            let decay = config.ema.min((1.0 + step as f32) / (10.0 + step as f32));
            for (name, array) in state_dict(&model)? {
                if let Some(mean) = average.get_mut(&name) {
                    for (mean, new) in mean.data.iter_mut().zip(array.data) {
                        *mean += (1.0 - decay) * (new - *mean);
                    }
                }
            }
        }
        let done = step + 1;
        on_step(&StepReport { step: done, steps: config.steps, lr, grad_norm, losses });
        let due = config.checkpoint_every > 0 && done.is_multiple_of(config.checkpoint_every);
        if let Some(checkpoint) = &checkpoint
            && (due || done == config.steps)
        {
            let raw = state_dict(&model)?;
            checkpoint.save(done, average.as_ref().unwrap_or(&raw), &raw, &optimiser, &full_config)?;
            last_good = format!("the checkpoint of step {done} is intact");
        }
    }
    match average {
        Some(average) => load_state(model, average),
        None => Ok(model),
    }
}

#[cfg(test)]
mod tests {
    use super::{TrainConfig, Training, train};
    use crate::{Init, Linear, NnError, normal, state_dict, tensor};
    use burn::tensor::{Device, Tensor};

    fn model() -> Linear {
        let device = Device::flex().autodiff();
        Linear::new(8, 4, &mut Init { rng: &mut w2a_data::stream(0, "model"), device: &device })
    }

    fn run(dir: Option<&std::path::Path>, config: &TrainConfig, stop_after: usize) -> Result<Linear, NnError> {
        let device = Device::flex().autodiff();
        let training = Training { name: "toy", dir, seed: 3, config, depends: serde_json::Value::Null };
        train(
            model(),
            &training,
            |model, step, rng| {
                if step == stop_after {
                    return Err(NnError::Device { what: "the test", message: "killed".into() });
                }
                let x = tensor(normal(rng, 16 * 8), [16, 8], &device);
                let loss: Tensor<1> = (model.forward(x) - 1.0).square().mean();
                Ok((loss, vec![]))
            },
            |_| {},
        )
    }

    #[test]
    fn killed_and_resumed_equals_straight_through_bit_for_bit() {
        for ema in [0.0, 0.9] {
            let config = TrainConfig { steps: 20, warmup: 3, checkpoint_every: 4, ema, ..Default::default() };
            let straight = state_dict(&run(None, &config, usize::MAX).unwrap()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            for stop in [6, 7, 15] {
                run(Some(dir.path()), &config, stop).unwrap_err();
            }
            let resumed = state_dict(&run(Some(dir.path()), &config, usize::MAX).unwrap()).unwrap();
            assert_eq!(straight, resumed);
            // A finished training is loaded, never repeated.
            assert_eq!(straight, state_dict(&run(Some(dir.path()), &config, 0).unwrap()).unwrap());
        }
    }

    #[test]
    fn another_configuration_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let config = TrainConfig { steps: 2, ..Default::default() };
        run(Some(dir.path()), &config, usize::MAX).unwrap();
        let other = TrainConfig { lr: 0.5, ..config };
        let error = run(Some(dir.path()), &other, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("train.lr was"), "{error}");
    }

    #[test]
    fn a_nan_names_the_step_and_keeps_the_checkpoint() {
        let device = Device::flex().autodiff();
        let dir = tempfile::tempdir().unwrap();
        let config = TrainConfig { steps: 10, checkpoint_every: 2, ..Default::default() };
        let training =
            Training { name: "toy", dir: Some(dir.path()), seed: 0, config: &config, depends: serde_json::Value::Null };
        let error = train(
            model(),
            &training,
            |model, step, _| {
                let x = tensor(vec![if step == 5 { f32::NAN } else { 1.0 }; 8], [1, 8], &device);
                Ok((model.forward(x).square().mean(), vec![]))
            },
            |_| {},
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("step 5") && error.contains("step 4 is intact"), "{error}");
        assert_eq!(crate::Checkpoint::new(dir.path()).step().unwrap(), 4);
    }
}
