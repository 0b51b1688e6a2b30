//! AdamW in one pass over memory, with state that is saved by parameter name.
//!
//! Follows `torch.optim.AdamW`: decay is applied to the weights before the update, and `eps` is added to the root of the
//! bias-corrected second moment.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Gradients, Tensor, TensorData};
use rayon::prelude::*;

use crate::{Array, NnError, StateDict};

/// Hyper-parameters; all explicit, since frameworks differ in their defaults.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, applied to every parameter as PyTorch does.
    pub weight_decay: f32,
    /// Gradients are scaled down to this global L2 norm; 0 switches clipping off.
    pub clip_norm: f32,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 1e-2, clip_norm: 1.0 }
    }
}

/// The optimiser: configuration and moments.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    first: StateDict,
    second: StateDict,
}

impl AdamW {
    /// A fresh optimiser.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, step: 0, first: StateDict::new(), second: StateDict::new() }
    }

    /// Continues from saved moments after `step` updates.
    pub fn resume(config: AdamWConfig, step: u64, first: StateDict, second: StateDict) -> Self {
        Self { config, step, first, second }
    }

    /// First and second moments by parameter name.
    pub fn moments(&self) -> (&StateDict, &StateDict) {
        (&self.first, &self.second)
    }

    /// One update of `module` at learning rate `lr`, with gradients by parameter name; returns it with the global gradient
    /// norm before clipping.
    ///
    /// Parameters without a gradient are left as they are; so is everything if the norm is not finite.
    ///
    /// # Errors
    /// If the device fails to hand data over.
    pub fn step<M: Module>(&mut self, module: M, grads: NamedGradients, lr: f32) -> Result<(M, f32), NnError> {
        // Sequential in name order and in f64: the norm must not depend on the number of threads.
        let norm = grads.values().map(|grad| sum_of_squares(grad)).sum::<f64>().sqrt() as f32;
        if !norm.is_finite() {
            // The weights stay untouched, so that the caller can report the step and keep its last good state.
            return Ok((module, norm));
        }
        self.step += 1;
        let clip = self.config.clip_norm;
        let scale = if clip > 0.0 && norm > clip { clip / (norm + 1e-6) } else { 1.0 };
        let mut update = Update { optimiser: self, grads, lr, scale, path: Vec::new(), failed: None };
        let module = module.map(&mut update);
        update.failed.map_or(Ok((module, norm)), Err)
    }

    fn update(&mut self, name: String, shape: &[usize], weights: &mut [f32], grad: &[f32], lr: f32, scale: f32) {
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let zeros = || Array { shape: shape.to_vec(), data: vec![0.0; weights.len()] };
        let first = self.first.entry(name.clone()).or_insert_with(zeros);
        let second = self.second.entry(name).or_insert_with(zeros);
        let correction1 = 1.0 - f64::from(beta1).powi(self.step as i32);
        let correction2 = (1.0 - f64::from(beta2).powi(self.step as i32)).sqrt();
        let step_size = (f64::from(lr) / correction1) as f32;
        let inverse_root = (1.0 / correction2) as f32;
        let keep = 1.0 - lr * weight_decay;
        let step = |((weights, grads), (first, second)): Block| {
            for (((weight, &grad), m), v) in weights.iter_mut().zip(grads).zip(first).zip(second) {
                let grad = grad * scale;
                *m = beta1 * *m + (1.0 - beta1) * grad;
                *v = beta2 * *v + (1.0 - beta2) * grad * grad;
                *weight = *weight * keep - step_size * *m / (v.sqrt() * inverse_root + eps);
            }
        };
        const BLOCK: usize = 1 << 15;
        let (first, second) = (&mut first.data[..], &mut second.data[..]);
        if weights.len() <= 2 * BLOCK {
            // Waking another thread takes longer.
            step(((weights, grad), (first, second)));
            return;
        }
        weights
            .par_chunks_mut(BLOCK)
            .zip(grad.par_chunks(BLOCK))
            .zip(first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK)))
            .for_each(step);
    }
}

/// Weights and gradients, first and second moments.
type Block<'a> = ((&'a mut [f32], &'a [f32]), (&'a mut [f32], &'a mut [f32]));

/// In f64 and in a fixed order: eight sums side by side, so that the processor need not wait for each addition.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    let blocks = values.chunks_exact(8);
    let rest: f64 = blocks.remainder().iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    for block in blocks {
        for (sum, &value) in sums.iter_mut().zip(block) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Gradients by parameter name, row-major.
pub type NamedGradients = BTreeMap<String, Vec<f32>>;

/// The gradients of `module`'s parameters by name; parameters without one are left out.
///
/// # Errors
/// If the device fails to hand data over.
pub fn named_gradients<M: Module>(module: &M, grads: &Gradients) -> Result<NamedGradients, NnError> {
    let mut collect = CollectGrads { grads, path: Vec::new(), out: NamedGradients::new(), failed: None };
    module.visit(&mut collect);
    collect.failed.map_or(Ok(collect.out), Err)
}

struct CollectGrads<'a> {
    grads: &'a Gradients,
    path: Vec<String>,
    out: NamedGradients,
    failed: Option<NnError>,
}

impl burn::module::ModuleVisitor for CollectGrads<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = param.val().grad(self.grads) {
            match crate::values(grad) {
                Ok(grad) => {
                    self.out.insert(self.path.join("."), grad);
                }
                Err(error) => self.failed = Some(error),
            }
        }
    }
}

struct Update<'a> {
    optimiser: &'a mut AdamW,
    grads: NamedGradients,
    lr: f32,
    scale: f32,
    path: Vec<String>,
    failed: Option<NnError>,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let Some(grad) = self.grads.remove(&name) else { return param };
        param.map(|old| {
            let (device, shape) = (old.device(), old.dims());
            let mut weights = match crate::values(old.clone()) {
                Ok(weights) => weights,
                Err(error) => {
                    self.failed = Some(error);
                    return old;
                }
            };
            self.optimiser.update(name, &shape, &mut weights, &grad, self.lr, self.scale);
            Tensor::from_data(TensorData::new(weights, shape), &device).require_grad()
        })
    }
}
