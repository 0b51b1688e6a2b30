//! Stacks of convolutions and perceptrons as functions of tensors.

use burn::tensor::Tensor;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;

use super::activation::Activation;
use super::elementwise::plain;
use super::geometry::Window;
use super::op::{Kernel, Operand, run};
use super::stack::{Layer, Parameters, Plan, Saved};
use crate::layers::group_norm;
use crate::{GroupNorm, NnError, values};

/// One layer of [`stack`]: a convolution, a group normalisation if it has one, an activation.
#[derive(Clone, Debug)]
pub struct Stage {
    weight: Tensor<4>,
    bias: Tensor<1>,
    window: Window,
    norm: Option<(Tensor<1>, Tensor<1>, usize)>,
    activation: Activation,
}

impl Stage {
    /// A convolution of weights `[out, in, rows, columns]` and bias `[out]`.
    ///
    /// A linear layer behind a flattening is one too: its weights reshaped to `[out, channels, rows, columns]`.
    pub fn new(weight: Tensor<4>, bias: Tensor<1>, stride: [usize; 2], padding: [usize; 2]) -> Self {
        let [.., rows, columns] = weight.dims();
        let window = Window { kernel: [rows, columns], stride, padding };
        Self { weight, bias, window, norm: None, activation: Activation::Identity }
    }

    /// Followed by a normalisation.
    pub fn norm(self, norm: &GroupNorm) -> Self {
        Self { norm: Some((norm.weight.val(), norm.bias.val(), norm.groups())), ..self }
    }

    /// Followed by an activation.
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    fn layer(&self) -> Layer {
        let groups = self.norm.as_ref().map(|(.., groups)| *groups);
        Layer { window: self.window, groups, activation: self.activation }
    }

    /// Weight and bias, gamma and beta.
    pub(super) fn values(&self) -> Result<Vec<Vec<f32>>, NnError> {
        let mut out = vec![values(self.weight.clone())?, values(self.bias.clone())?];
        if let Some((gamma, beta, _)) = &self.norm {
            out.extend([values(gamma.clone())?, values(beta.clone())?]);
        }
        Ok(out)
    }

    fn parameters(&self) -> Option<Vec<Operand>> {
        let mut out = vec![Operand::of(&self.weight)?, Operand::of(&self.bias)?];
        if let Some((gamma, beta, _)) = &self.norm {
            out.extend([Operand::of(gamma)?, Operand::of(beta)?]);
        }
        Some(out)
    }

    /// Through burn's own operations.
    pub(crate) fn plain(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new(self.window.stride, self.window.padding, [1, 1], 1);
        let x = conv2d(x, self.weight.clone(), Some(self.bias.clone()), options);
        let x = match &self.norm {
            Some((gamma, beta, groups)) => group_norm(x, gamma.clone(), beta.clone(), *groups),
            None => x,
        };
        plain(x, self.activation)
    }
}

pub(super) fn plan(images: usize, size: [usize; 3], stages: &[Stage], pool: bool) -> Option<Arc<Plan>> {
    let mut channels = size[0];
    for stage in stages {
        let [out, input, ..] = stage.weight.dims();
        // burn has the words for weights that do not fit.
        if input != channels || stage.bias.dims() != [out] {
            return None;
        }
        channels = out;
    }
    let layers = stages.iter().map(Stage::layer).collect();
    let outputs: Vec<usize> = stages.iter().map(|stage| stage.weight.dims()[0]).collect();
    known_plan(PlanKey { images, size, layers, outputs, pool })
}

/// What a plan follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PlanKey {
    images: usize,
    size: [usize; 3],
    layers: Vec<Layer>,
    outputs: Vec<usize>,
    pool: bool,
}

/// Plans that were used lately: a training asks for the same few at every step.
static PLANS: Mutex<VecDeque<(PlanKey, Arc<Plan>)>> = Mutex::new(VecDeque::new());

/// Plans that are remembered.
const MOST_PLANS: usize = 32;

fn known_plan(key: PlanKey) -> Option<Arc<Plan>> {
    let lock = || PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, plan)) = lock().iter().find(|(known, _)| *known == key) {
        return Some(Arc::clone(plan));
    }
    let [channels, rows, columns] = key.size;
    let plan = Arc::new(Plan::new(key.images, channels, [rows, columns], &key.layers, &key.outputs, key.pool)?);
    let mut plans = lock();
    plans.truncate(MOST_PLANS - 1);
    plans.push_front((key, Arc::clone(&plan)));
    Some(plan)
}

/// Convolution, normalisation and activation of every stage in turn, then the mean over all positions if `pool` is set.
///
/// On the `flex` backend a group of few images passes through all stages while its values are in the cache.
///
/// # Shapes
/// `[batch, in, rows, columns]` → `[batch, out, rows', columns']`; the last two are 1 if it is pooled.
pub fn stack(x: Tensor<4>, stages: &[Stage], pool: bool) -> Tensor<4> {
    let [images, channels, rows, columns] = x.dims();
    if let Some(plan) = plan(images, [channels, rows, columns], stages, pool)
        && let Some(input) = Operand::of(&x)
        && let Some(parameters) = stages.iter().map(Stage::parameters).collect::<Option<Vec<_>>>()
    {
        let [out, rows, columns] = plan.output();
        if let Some(result) = run(plan, input, parameters.into_iter().flatten().collect(), [images, out, rows, columns])
        {
            return result;
        }
    }
    let x = stages.iter().fold(x, |x, stage| stage.plain(x));
    if pool { x.mean_dim(3).mean_dim(2) } else { x }
}

/// Linear layers (weights `[out, in]`, bias `[out]`) with an activation between them: `[batch, in]` → `[batch, out]`.
pub fn perceptron(x: Tensor<2>, layers: &[(Tensor<2>, Tensor<1>)], between: Activation) -> Tensor<2> {
    let [rows, width] = x.dims();
    let last = layers.len().saturating_sub(1);
    let activation = |index: usize| if index == last { Activation::Identity } else { between };
    let shapes = (0..layers.len())
        .map(|index| Layer { window: Window::CELL, groups: None, activation: activation(index) })
        .collect();
    let outputs: Vec<usize> = layers.iter().map(|(weight, _)| weight.dims()[0]).collect();
    let key = PlanKey { images: rows, size: [width, 1, 1], layers: shapes, outputs, pool: false };
    let widths = std::iter::once(width).chain(key.outputs.iter().copied());
    // burn has the words for weights that do not fit.
    let fits = layers.iter().zip(widths).all(|((weight, bias), width)| weight.dims() == [bias.dims()[0], width]);
    if fits
        && let Some(plan) = known_plan(key)
        && let Some(input) = Operand::of(&x)
        && let Some(parameters) = layers
            .iter()
            .flat_map(|(weight, bias)| [Operand::of(weight), Operand::of(bias)])
            .collect::<Option<Vec<_>>>()
    {
        let [out, ..] = plan.output();
        if let Some(result) = run(plan, input, parameters, [rows, out]) {
            return result;
        }
    }
    layers.iter().enumerate().fold(x, |x, (index, (weight, bias))| {
        plain(x.matmul(weight.clone().transpose()) + bias.clone().unsqueeze(), activation(index))
    })
}

impl Kernel for Arc<Plan> {
    type Saved = Saved;

    fn forward(&self, x: &[f32], parameters: &[&[f32]], keep: bool) -> (Vec<f32>, Option<Saved>) {
        Plan::forward(self, x, &self.pack(&split(self, parameters), false), keep)
    }

    fn backward(
        &self,
        x: &[f32],
        parameters: &[&[f32]],
        saved: &Saved,
        gradient: &[f32],
        with_input: bool,
    ) -> (Vec<Vec<f32>>, Option<Vec<f32>>) {
        let packed = self.pack(&split(self, parameters), true);
        let (layers, of_input) = Plan::backward(self, x, &packed, saved, gradient, with_input);
        let flat = layers.into_iter().flat_map(|layer| {
            let (gamma, beta) = layer.affine.unzip();
            [Some(layer.weight), Some(layer.bias), gamma, beta].into_iter().flatten()
        });
        (flat.collect(), of_input)
    }
}

/// The parameters of each layer, in the order of [`Stage::parameters`].
pub(super) fn split<'a>(plan: &Plan, values: &[&'a [f32]]) -> Vec<Parameters<'a>> {
    let mut values = values.iter().copied();
    let mut next = || values.next().unwrap_or_default();
    plan.layers()
        .map(|layer| Parameters { weight: next(), bias: next(), affine: layer.groups.map(|_| (next(), next())) })
        .collect()
}
