//! Initial values from named ChaCha streams, so that a seed gives the same model on every device.

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::tensor;

/// `n` values uniform in `[-bound, bound)`.
pub fn uniform(rng: &mut ChaCha8Rng, n: usize, bound: f32) -> Vec<f32> {
    (0..n).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect()
}

/// `n` standard normal values (Box-Muller, both values of each pair used).
pub fn normal(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(n + 1);
    while out.len() < n {
        // 1 - u is in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        out.push((radius * cos) as f32);
        out.push((radius * sin) as f32);
    }
    out.truncate(n);
    out
}

/// Where a model's initial values come from and go to.
#[derive(Debug)]
pub struct Init<'a> {
    /// The stream of this model.
    pub rng: &'a mut ChaCha8Rng,
    /// The device of the parameters.
    pub device: &'a Device,
}

impl Init<'_> {
    /// A parameter of the given values; it gets gradients where the device records them.
    fn param<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(tensor(values, shape, self.device).set_require_grad(self.device.is_autodiff()))
    }

    /// PyTorch's default for linear and convolution parameters: uniform in `±1/sqrt(fan_in)`.
    pub fn fan_in<const D: usize>(&mut self, shape: [usize; D], fan_in: usize) -> Param<Tensor<D>> {
        let values = uniform(self.rng, shape.iter().product(), 1.0 / (fan_in as f32).sqrt());
        self.param(values, shape)
    }

    /// Normal values with the given standard deviation.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f32) -> Param<Tensor<D>> {
        let values = normal(self.rng, shape.iter().product()).into_iter().map(|value| value * std).collect();
        self.param(values, shape)
    }

    /// One value everywhere.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.param(vec![value; shape.iter().product()], shape)
    }
}
