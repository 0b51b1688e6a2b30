//! The one training loop: seeded by step, checkpointed, resumable to the same bits.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::Resumed;
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

/// Trains `model` and returns it with its inference weights (the moving average if there is one).
///
/// `loss` gets the model, the update's index and a random stream of that index alone, and returns the loss to descend and
/// named parts for the log. Because the stream depends on (seed, name, step) only, a training that was killed and resumed
/// from any checkpoint equals one that was not. A finished training is loaded, not repeated.
///
/// # Errors
/// A loss or gradient that is not finite, a checkpoint of another configuration, or a failing disk.
pub fn train<M: Module>(
    mut model: M,
    training: &Training,
    mut loss: impl FnMut(&M, usize, &mut ChaCha8Rng) -> Result<(Tensor<1>, Vec<(&'static str, Tensor<1>)>), NnError>,
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
        let mut rng = w2a_data::stream(*seed, &format!("train/{name}/{step}"));
        let (total, parts) = loss(&model, step, &mut rng)?;
        let value = crate::values(total.clone())?.first().copied().unwrap_or(f32::NAN);
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
        let grads = total.backward();
        let lr = config.lr_at(step);
        let (updated, grad_norm) = optimiser.step(model, &grads, lr)?;
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
        let mut losses = vec![("loss", value)];
        for (part, tensor) in parts {
            losses.push((part, crate::values(tensor)?.first().copied().unwrap_or(f32::NAN)));
        }
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
