//! Layers that the vision tower, the language model and the action head share.

use std::fmt::Debug;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Tensor};
use w2a_nn::{Linear, NnError, PackedLinear, attention};

use super::source::Weights;

/// Added to the scores of what may not be attended to. Finite, so that a row with nothing to attend to has no NaN.
pub(super) const MASKED: f32 = -1e30;

/// Gets layer outputs by name and number, for comparing them with reference numbers.
pub type Tap<'a> = &'a mut dyn FnMut(&'static str, usize, &Tensor<3>);

/// `torch.nn.LayerNorm` with an epsilon of its own.
#[derive(Module, Debug)]
pub struct Norm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
    eps: f64,
}

impl Norm {
    pub(super) fn load(weights: &Weights, name: &str, width: usize, eps: f64) -> Result<Self, NnError> {
        let weight = weights.param(&format!("{name}.weight"), [width])?;
        Ok(Self { weight, bias: weights.param(&format!("{name}.bias"), [width])?, eps })
    }

    /// `[.., width]` → the same shape.
    pub(super) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, self.weight.val(), Some(self.bias.val()), self.eps)
    }
}

/// Root-mean-square normalisation over the last axis, as Qwen3's.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    eps: f64,
}

impl RmsNorm {
    pub(super) fn load(weights: &Weights, name: &str, width: usize, eps: f64) -> Result<Self, NnError> {
        Ok(Self { weight: weights.param(&format!("{name}.weight"), [width])?, eps })
    }

    /// `[.., width]` → the same shape.
    pub(super) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mean = x.clone().square().mean_dim(D - 1);
        x / (mean + self.eps).sqrt() * self.weight.val().unsqueeze()
    }
}

/// `y = x W^T` without bias.
pub type Projection = Held<Matrix>;

/// `y = x W^T + b`.
pub type Affine = Held<Linear>;

/// A weight that may change.
#[derive(Module, Debug)]
pub struct Matrix {
    /// `[output, input]`.
    pub weight: Param<Tensor<2>>,
}

/// How a linear layer is held. In the names of parameters the two forms make no difference, which is why this is no derived
/// module.
#[derive(Clone, Debug)]
pub enum Held<L> {
    /// With weights that may change.
    Loose(L),
    /// With weights that nothing changes, packed for products.
    Packed(PackedLinear),
}

impl<L: Module + Debug> Module for Held<L> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        match self {
            Self::Loose(layer) => layer.collect_devices(devices),
            Self::Packed(layer) => layer.collect_devices(devices),
        }
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|layer| layer.fork(device), |layer| layer.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|layer| layer.to_device(device), |layer| layer.to_device(device))
    }

    fn train(self) -> Self {
        self.each(Module::train, Module::train)
    }

    fn valid(&self) -> Self {
        self.clone().each(|layer| layer.valid(), |layer| layer.valid())
    }

    fn materialize(self) -> Self {
        self.each(Module::materialize, Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        match self {
            Self::Loose(layer) => layer.visit(visitor),
            Self::Packed(layer) => layer.visit(visitor),
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self {
            Self::Loose(layer) => Self::Loose(layer.map(mapper)),
            Self::Packed(layer) => Self::Packed(layer.map(mapper)),
        }
    }
}

impl<L: ModuleDisplay> ModuleDisplayDefault for Held<L> {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Loose(layer) => content.add_single(layer).optional(),
            Self::Packed(layer) => content.add_single(layer).optional(),
        }
    }
}

impl<L: ModuleDisplay> ModuleDisplay for Held<L> {}

impl<L> Held<L> {
    fn each(self, loose: impl FnOnce(L) -> L, packed: impl FnOnce(PackedLinear) -> PackedLinear) -> Self {
        match self {
            Self::Loose(layer) => Self::Loose(loose(layer)),
            Self::Packed(layer) => Self::Packed(packed(layer)),
        }
    }
}

impl Projection {
    pub(super) fn load(weights: &Weights, name: &str, input: usize, output: usize) -> Result<Self, NnError> {
        let name = format!("{name}.weight");
        Ok(match weights.packed(&name, None, [output, input])? {
            Some(packed) => Self::Packed(packed),
            None => Self::Loose(Matrix { weight: weights.matrix(&name, output, input)? }),
        })
    }

    /// `[batch, tokens, input]` → `[batch, tokens, output]`.
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let weight = match self {
            Self::Packed(packed) => return packed.forward(x),
            Self::Loose(matrix) => matrix.weight.val(),
        };
        let ([batch, tokens, input], [output, _]) = (x.dims(), weight.dims());
        w2a_nn::linear(x.reshape([batch * tokens, input]), weight, None).reshape([batch, tokens, output])
    }
}

impl Affine {
    /// `[.., input]` → `[.., output]`.
    pub(super) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Loose(linear) => linear.forward(x),
            Self::Packed(packed) => packed.forward(x),
        }
    }

    /// The layer with weights that can be changed; packed ones are unpacked for good first.
    pub(super) fn loosened(&mut self) -> Option<&mut Linear> {
        if let Self::Packed(packed) = self {
            let [output, _] = packed.size();
            let (weight, bias) = packed.unpacked();
            let bias = bias.unwrap_or_else(|| Tensor::zeros([output], &weight.device()));
            let frozen = Linear { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias) };
            *self = Self::Loose(frozen.no_grad());
        }
        if let Self::Loose(linear) = self { Some(linear) } else { None }
    }

    /// The device of the weights.
    pub(super) fn device(&self) -> Device {
        match self {
            Self::Loose(linear) => linear.weight.val().device(),
            Self::Packed(packed) => packed.device(),
        }
    }
}

/// `[batch, tokens, heads * width]` → `[batch, heads, tokens, width]`.
pub(super) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, all] = x.dims();
    x.reshape([batch, tokens, heads, all / heads]).swap_dims(1, 2)
}

/// Attention of `query` `[batch, heads, queries, width]` to `key` and `value` `[batch, heads, keys, width]` (or fewer
/// heads, each for a run of query heads), with `bias` added to the scores: `[batch, queries, heads * width]`.
pub(super) fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, bias: Option<Tensor<4>>) -> Tensor<3> {
    let [batch, heads, queries, width] = query.dims();
    let mixed = attention(query, key, value, bias, None);
    mixed.swap_dims(1, 2).reshape([batch, queries, heads * width])
}

/// Scores to add for keys that may (true) or may not be attended to: `[batch, 1, 1, keys]`.
pub(super) fn key_bias(may: &[bool], batch: usize, device: &Device) -> Tensor<4> {
    let keys = may.len() / batch.max(1);
    let data = may.iter().map(|may| if *may { 0.0 } else { MASKED }).collect();
    w2a_nn::tensor(data, [batch, 1, 1, keys], device)
}
