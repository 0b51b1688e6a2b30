//! One-dimensional convolutions over very short sequences, as layers of a perceptron.
//!
//! A chunk has a handful of steps, so almost every weight of the equivalent matrix is used, and one large product is far
//! cheaper than a convolution over four positions. The parameters keep PyTorch's names and shapes; the matrix is made
//! from them by a constant 0/1 matrix, through which gradients flow back to the taps.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use w2a_nn::{Init, tensor};

/// Taps of every kernel here.
const TAPS: usize = 3;
const PADDING: usize = 1;

/// How the rows or columns of a flattened sequence are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[channels, steps]`, as PyTorch flattens.
    ChannelsFirst,
    /// `[steps, channels]`, as actions are stored.
    StepsFirst,
}

/// `torch.nn.Conv1d` with three taps and padding 1.
#[derive(Module, Debug)]
pub(crate) struct Conv1d {
    /// `[out, in, 3]`.
    pub weight: Param<Tensor<3>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
    stride: usize,
}

impl Conv1d {
    pub fn new(input: usize, output: usize, stride: usize, init: &mut Init) -> Self {
        let fan_in = input * TAPS;
        Self { weight: init.fan_in([output, input, TAPS], fan_in), bias: init.fan_in([output], fan_in), stride }
    }

    /// As a linear layer, weights and bias: `[n, in · steps]` in `order` → `[n, out · steps']`, channels first, with
    /// `steps' = ceil(steps / stride)`.
    pub fn linear(&self, steps: usize, order: Order) -> (Tensor<2>, Tensor<1>) {
        let [output, input, _] = self.weight.val().dims();
        let out_steps = steps.div_ceil(self.stride);
        // The input at step i meets tap k in the output at step j where i = stride j + k - padding.
        let placed = place(self.weight.val(), steps, out_steps, |i, j, k| i + PADDING == self.stride * j + k);
        let weight = match order {
            Order::ChannelsFirst => placed.permute([0, 3, 1, 2]),
            Order::StepsFirst => placed.permute([0, 3, 2, 1]),
        };
        let bias = self.bias.val().reshape([output, 1]).expand([output, out_steps]).reshape([output * out_steps]);
        (weight.reshape([output * out_steps, input * steps]), bias)
    }
}

/// `torch.nn.ConvTranspose1d` with three taps, padding 1 and output padding `stride - 1`.
#[derive(Module, Debug)]
pub(crate) struct ConvTranspose1d {
    /// `[in, out, 3]`.
    pub weight: Param<Tensor<3>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
    stride: usize,
}

impl ConvTranspose1d {
    pub fn new(input: usize, output: usize, stride: usize, init: &mut Init) -> Self {
        // PyTorch counts the fan-in of a transposed convolution over its outputs.
        let fan_in = output * TAPS;
        Self { weight: init.fan_in([input, output, TAPS], fan_in), bias: init.fan_in([output], fan_in), stride }
    }

    /// As a linear layer, weights and bias: `[n, in · steps]`, channels first → `[n, out · stride · steps]` in `order`.
    pub fn linear(&self, steps: usize, order: Order) -> (Tensor<2>, Tensor<1>) {
        let [input, output, _] = self.weight.val().dims();
        let out_steps = steps * self.stride;
        let placed = place(self.weight.val(), steps, out_steps, |j, i, k| i + PADDING == self.stride * j + k);
        let bias = self.bias.val();
        let (weight, bias) = match order {
            Order::ChannelsFirst => {
                (placed.permute([1, 3, 0, 2]), bias.reshape([output, 1]).expand([output, out_steps]))
            }
            Order::StepsFirst => (placed.permute([3, 1, 0, 2]), bias.reshape([1, output]).expand([out_steps, output])),
        };
        (weight.reshape([output * out_steps, input * steps]), bias.reshape([output * out_steps]))
    }
}

/// `[a, b, 3]` → `[a, b, from, to]`: the tap that connects two steps, 0 where none does.
fn place(weight: Tensor<3>, from: usize, to: usize, meets: impl Fn(usize, usize, usize) -> bool) -> Tensor<4> {
    let [a, b, _] = weight.dims();
    let mut places = vec![0.0; TAPS * from * to];
    for tap in 0..TAPS {
        for source in 0..from {
            for target in 0..to {
                if meets(source, target, tap) {
                    places[(tap * from + source) * to + target] = 1.0;
                }
            }
        }
    }
    let device: Device = weight.device();
    weight.reshape([a * b, TAPS]).matmul(tensor(places, [TAPS, from * to], &device)).reshape([a, b, from, to])
}

#[cfg(test)]
mod tests {
    use super::{Conv1d, ConvTranspose1d, Order};
    use burn::tensor::module::{conv_transpose1d, conv1d};
    use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
    use burn::tensor::{Device, Tensor};
    use w2a_nn::{Activation, Init, normal, perceptron, tensor, values};

    fn assert_close(got: Tensor<2>, want: Tensor<2>) {
        assert_eq!(got.dims(), want.dims());
        let (got, want) = (values(got).unwrap(), values(want).unwrap());
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?}\n{want:?}");
    }

    #[test]
    fn the_products_equal_the_convolutions_in_both_orders() {
        let device = Device::flex();
        let mut rng = w2a_data::stream(1, "taps");
        let x: Tensor<3> = tensor(normal(&mut rng, 5 * 7 * 6), [5, 7, 6], &device);
        let steps_first = x.clone().swap_dims(1, 2).reshape([5, 42]);
        let channels_first = x.clone().reshape([5, 42]);
        let run = |x: &Tensor<2>, layer| perceptron(x.clone(), &[layer], Activation::Identity);
        for stride in [1, 2] {
            let conv = Conv1d::new(7, 3, stride, &mut Init { rng: &mut rng, device: &device });
            let options = ConvOptions::new([stride], [1], [1], 1);
            let want = conv1d(x.clone(), conv.weight.val(), Some(conv.bias.val()), options);
            let want = want.reshape([5, 3 * 6 / stride]);
            assert_close(run(&steps_first, conv.linear(6, Order::StepsFirst)), want.clone());
            assert_close(run(&channels_first, conv.linear(6, Order::ChannelsFirst)), want);

            let conv = ConvTranspose1d::new(7, 3, stride, &mut Init { rng: &mut rng, device: &device });
            let options = ConvTransposeOptions::new([stride], [1], [stride - 1], [1], 1);
            let want = conv_transpose1d(x.clone(), conv.weight.val(), Some(conv.bias.val()), options);
            let flat = |x: Tensor<3>| x.reshape([5, 3 * 6 * stride]);
            assert_close(run(&channels_first, conv.linear(6, Order::ChannelsFirst)), flat(want.clone()));
            assert_close(run(&channels_first, conv.linear(6, Order::StepsFirst)), flat(want.swap_dims(1, 2)));
        }
    }
}
