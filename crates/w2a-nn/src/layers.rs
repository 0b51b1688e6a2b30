//! Linear, convolution and normalisation layers with PyTorch's names, shapes, defaults and epsilon.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::Init;
use crate::kernels::{Stage, linear, stack};

/// `y = x W^T + b`, as `torch.nn.Linear`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// A layer with PyTorch's default initialisation.
    pub fn new(input: usize, output: usize, init: &mut Init) -> Self {
        Self { weight: init.fan_in([output, input], input), bias: init.fan_in([output], input) }
    }

    /// A layer that starts as zero.
    pub fn zero(input: usize, output: usize, init: &mut Init) -> Self {
        Self { weight: init.constant([output, input], 0.0), bias: init.constant([output], 0.0) }
    }

    /// Weight `[out, in]` and bias `[out]`, for a [`perceptron`](crate::perceptron).
    pub fn parameters(&self) -> (Tensor<2>, Tensor<1>) {
        (self.weight.val(), self.bias.val())
    }

    /// `[.., in]` → `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let [output, input] = self.weight.val().dims();
        shape[D - 1] = output;
        // One large product instead of a batched one: faster, and the weight gradient is one product too.
        linear(x.reshape([-1, input as isize]), self.weight.val(), Some(self.bias.val())).reshape(shape)
    }
}

/// `torch.nn.Conv2d` without groups or dilation, over `[batch, channels, height, width]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// A layer with PyTorch's default initialisation.
    pub fn new(input: usize, output: usize, kernel: usize, stride: usize, padding: usize, init: &mut Init) -> Self {
        let fan_in = input * kernel * kernel;
        Self {
            weight: init.fan_in([output, input, kernel, kernel], fan_in),
            bias: init.fan_in([output], fan_in),
            stride,
            padding,
        }
    }

    /// `[batch, in, h, w]` → `[batch, out, h', w']` with `h' = (h + 2 padding - kernel) / stride + 1`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        stack(x, &[self.stage()], false)
    }

    /// This convolution as a layer of a [`stack`].
    pub fn stage(&self) -> Stage {
        Stage::new(self.weight.val(), self.bias.val(), [self.stride; 2], [self.padding; 2])
    }
}

/// `torch.nn.LayerNorm` over the last axis, eps 1e-5.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Starts as the plain normalisation.
    pub fn new(width: usize, init: &mut Init) -> Self {
        Self { weight: init.constant([width], 1.0), bias: init.constant([width], 0.0) }
    }

    /// [`LayerNorm::forward`] of one row on the host, in place; `parameters` are gamma and beta.
    pub fn of_row(parameters: &[Vec<f32>; 2], row: &mut [f32]) {
        let width = row.len() as f32;
        let mean = row.iter().sum::<f32>() / width;
        let variance = row.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / width;
        let inverse = 1.0 / (variance + 1e-5).sqrt();
        let [gamma, beta] = parameters;
        for ((value, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
            *value = (*value - mean) * inverse * gamma + beta;
        }
    }

    /// `[.., width]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        burn::tensor::module::layer_norm(x, self.weight.val(), Some(self.bias.val()), 1e-5)
    }
}

/// `torch.nn.GroupNorm` over `[batch, channels, height, width]`, eps 1e-5.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    groups: usize,
}

impl GroupNorm {
    /// Starts as the plain normalisation; `groups` must divide `channels`.
    pub fn new(groups: usize, channels: usize, init: &mut Init) -> Self {
        assert!(channels.is_multiple_of(groups), "{groups} groups do not divide {channels} channels");
        Self { weight: init.constant([channels], 1.0), bias: init.constant([channels], 0.0), groups }
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// `[batch, channels, h, w]` → the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        group_norm(x, self.weight.val(), self.bias.val(), self.groups)
    }
}

/// Group normalisation of `[batch, channels, h, w]` through burn's own operations.
pub(crate) fn group_norm(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, groups: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let x = x.reshape([batch, groups, channels / groups * height * width]);
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    let normal = (centred / (variance + 1e-5).sqrt()).reshape([batch, channels, height, width]);
    normal * gamma.reshape([1, channels, 1, 1]) + beta.reshape([1, channels, 1, 1])
}

#[cfg(test)]
mod tests {
    use super::{GroupNorm, LayerNorm, Linear};
    use crate::{Init, tensor, values};
    use burn::tensor::Device;

    #[test]
    fn linear_multiplies_by_the_transposed_weight() {
        let device = Device::flex();
        let mut init = Init { rng: &mut w2a_data::stream(0, "t"), device: &device };
        let mut layer = Linear::zero(2, 3, &mut init);
        layer.weight = layer.weight.map(|_| tensor(vec![1., 2., 3., 4., 5., 6.], [3, 2], &device));
        layer.bias = layer.bias.map(|_| tensor(vec![0., 0., 1.], [3], &device));
        let y = values(layer.forward(tensor(vec![1., 10.], [1, 1, 2], &device))).unwrap();
        assert_eq!(y, [21., 43., 66.]);
    }

    #[test]
    fn norms_centre_and_scale_their_groups() {
        let device = Device::flex();
        let mut init = Init { rng: &mut w2a_data::stream(0, "t"), device: &device };
        let x = vec![1., 3., 10., 30.];
        let group = values(GroupNorm::new(2, 4, &mut init).forward(tensor(x.clone(), [1, 4, 1, 1], &device))).unwrap();
        for (got, want) in group.iter().zip([-1., 1., -1., 1.]) {
            assert!((got - want).abs() < 1e-4, "{group:?}");
        }
        let layer = values(LayerNorm::new(2, &mut init).forward(tensor(x, [2, 2], &device))).unwrap();
        assert!((layer[0] + 1.0).abs() < 1e-4 && (layer[3] - 1.0).abs() < 1e-4, "{layer:?}");
    }
}
