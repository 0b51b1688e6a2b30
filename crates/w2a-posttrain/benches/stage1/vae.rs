//! The authors' whole stage-1 step: video bridger, action VAE over positives and negatives, all losses.
//!
//! A composition of our layers with the shapes of the release, so that the benchmark stands on its own. The convolutions
//! over four steps are perceptrons whose matrices are made of the kernels' taps.

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use w2a_nn::{Activation, GroupNorm, Init, Linear, Stage, perceptron, stack, tensor};

/// Steps of a chunk, and its width.
const STEPS: usize = 4;
const ACTIONS: usize = 7;
const DIM: usize = 32;

/// `Conv1d(k3, p1)` or `ConvTranspose1d(k3, p1)` over a few steps as a matrix.
#[derive(Module, Debug)]
struct Taps {
    weight: Param<Tensor<3>>,
    bias: Param<Tensor<1>>,
    stride: usize,
    transposed: bool,
}

impl Taps {
    fn new(shape: [usize; 2], stride: usize, transposed: bool, init: &mut Init) -> Self {
        let [a, b] = shape;
        let (out, fan_in) = if transposed { (b, b * 3) } else { (a, b * 3) };
        Self { weight: init.fan_in([a, b, 3], fan_in), bias: init.fan_in([out], fan_in), stride, transposed }
    }

    /// Matrix `[out · steps', in · steps]` and bias for `steps` steps, channels first.
    fn matrix(&self, steps: usize) -> (Tensor<2>, Tensor<1>) {
        let [a, b, taps] = self.weight.val().dims();
        let stride = self.stride;
        let (out, to) = if self.transposed { (b, steps * stride) } else { (a, steps.div_ceil(stride)) };
        // Steps of the longer side meet those of the shorter where `long + padding = stride short + tap`.
        let (long, short) = if self.transposed { (to, steps) } else { (steps, to) };
        let mut places = vec![0.0; taps * short * long];
        for tap in 0..taps {
            for at in 0..short {
                if let Some(meets) = (stride * at + tap).checked_sub(1).filter(|&meets| meets < long) {
                    places[(tap * short + at) * long + meets] = 1.0;
                }
            }
        }
        let places = tensor(places, [taps, short * long], &self.weight.val().device());
        let placed = self.weight.val().reshape([a * b, taps]).matmul(places).reshape([a, b, short, long]);
        // Weights are [out, in] of the forward convolution, which runs from the long side to the short one.
        let matrix = if self.transposed {
            placed.permute([1, 3, 0, 2]).reshape([b * long, a * short])
        } else {
            placed.permute([0, 2, 1, 3]).reshape([a * short, b * long])
        };
        (matrix, self.bias.val().reshape([out, 1]).expand([out, to]).reshape([out * to]))
    }
}

/// The networks.
#[derive(Module, Debug)]
pub struct ActionVae {
    conv1: Param<Tensor<5>>,
    bias1: Param<Tensor<1>>,
    norm1: GroupNorm,
    conv2: Param<Tensor<5>>,
    bias2: Param<Tensor<1>>,
    norm2: GroupNorm,
    video: Linear,
    encoder1: Taps,
    encoder2: Taps,
    encoder3: Linear,
    decoder1: Linear,
    decoder2: Taps,
    decoder3: Taps,
}

impl ActionVae {
    /// Fresh networks.
    pub fn new(init: &mut Init) -> Self {
        Self {
            conv1: init.fan_in([64, 16, 3, 3, 3], 16 * 27),
            bias1: init.fan_in([64], 16 * 27),
            norm1: GroupNorm::new(8, 64, init),
            conv2: init.fan_in([128, 64, 3, 3, 3], 64 * 27),
            bias2: init.fan_in([128], 64 * 27),
            norm2: GroupNorm::new(16, 128, init),
            video: Linear::new(128, DIM, init),
            encoder1: Taps::new([64, ACTIONS], 1, false, init),
            encoder2: Taps::new([128, 64], 2, false, init),
            encoder3: Linear::new(256, 2 * DIM, init),
            decoder1: Linear::new(DIM, 256, init),
            decoder2: Taps::new([128, 64], 2, true, init),
            decoder3: Taps::new([64, ACTIONS], 1, true, init),
        }
    }

    fn bridge(&self, latents: Tensor<4>) -> Tensor<2> {
        // Single frames meet only the middle slice of the three-dimensional kernels.
        let stage = |weight: &Param<Tensor<5>>, bias: &Param<Tensor<1>>, norm: &GroupNorm| {
            let [out, input, ..] = weight.val().dims();
            let centre = weight.val().narrow(2, 1, 1).reshape([out, input, 3, 3]);
            Stage::new(centre, bias.val(), [2; 2], [1; 2]).norm(norm).activation(Activation::Gelu)
        };
        let stages = [stage(&self.conv1, &self.bias1, &self.norm1), stage(&self.conv2, &self.bias2, &self.norm2)];
        let frames = latents.dims()[0];
        self.video.forward(stack(latents, &stages, true).reshape([frames, 128]))
    }

    /// The loss of one step: `latents` `[T, 16, H, W]`, `chunks` `[1 + N, chunks, A · M]` (channels first; the positive in
    /// front), `noise` `[(1 + N) chunks, D]`.
    pub fn loss(&self, latents: Tensor<4>, chunks: &Tensor<3>, noise: &Tensor<2>) -> Tensor<1> {
        let [sets, count, width] = chunks.dims();
        let frames = latents.dims()[0];
        let z_v = self.bridge(latents);
        let rows = chunks.clone().reshape([sets * count, width]);
        let encoder = [self.encoder1.matrix(STEPS), self.encoder2.matrix(STEPS), self.encoder3.parameters()];
        let both = perceptron(rows.clone(), &encoder, Activation::Gelu);
        let (mean, log_variance) = (both.clone().narrow(1, 0, DIM), both.narrow(1, DIM, DIM));
        let z = mean.clone() + noise.clone() * (log_variance.clone() * 0.5).exp();
        let hidden = perceptron(
            self.decoder1.forward(z),
            &[self.decoder2.matrix(STEPS / 2), self.decoder3.matrix(STEPS)],
            Activation::Gelu,
        );
        let errors = (hidden - rows).square().reshape([sets, count * width]);
        let reconstruction = errors.clone().narrow(0, 0, 1).mean() + errors.narrow(0, 1, sets - 1).mean();
        let (m, v) = (mean.clone().narrow(0, 0, count), log_variance.narrow(0, 0, count));
        let kl = (v.clone() + 1.0 - m.square() - v.exp()).sum_dim(1).mean() * -0.5;
        let unit = |z: Tensor<3>| z.clone() / z.square().sum_dim(2).sqrt().clamp_min(1e-8);
        let keys = unit(mean.reshape([sets, count, DIM]).narrow(1, 0, frames));
        let logits = (keys * unit(z_v.reshape([1, frames, DIM]))).sum_dim(2).reshape([sets, frames]) / 0.07;
        let contrast = -log_softmax(logits, 0).narrow(0, 0, 1).mean();
        reconstruction + contrast * 0.1 + kl * 1e-4
    }
}

/// Inputs of [`ActionVae::loss`] for one demonstration and 16 negatives.
pub fn inputs(device: &Device) -> (Tensor<4>, Tensor<3>, Tensor<2>) {
    let random = |name: &str, n: usize| w2a_nn::normal(&mut w2a_data::stream(0, name), n);
    let latents = tensor(random("latents", 24 * 16 * 60 * 104), [24, 16, 60, 104], device);
    let chunks = tensor(random("chunks", 17 * 32 * STEPS * ACTIONS), [17, 32, STEPS * ACTIONS], device);
    let noise = tensor(random("noise", 17 * 32 * DIM), [17 * 32, DIM], device);
    (latents, chunks, noise)
}
