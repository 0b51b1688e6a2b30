//! The adapters of the authors' released stage-1 code: a variational autoencoder over action chunks, and a video bridger
//! written for clips of one frame.
//!
//! Tuples stand for PyTorch's `nn.Sequential`, so that the names of parameters are those of the released checkpoints:
//! `video_bridger.{0,1,3,4,8}.*`, `encoder.{0,2,5}.*`, `decoder_input.*`, `decoder.{0,2}.*`.

use burn::module::{Module, Param};
use burn::tensor::activation::gelu;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use w2a_nn::{Activation, GroupNorm, Init, Linear, NnError, Stage, perceptron, stack};

use crate::taps::{Conv1d, ConvTranspose1d, Order};

/// A place in a sequence without parameters: an activation, a pooling, a flattening.
#[derive(Module, Debug)]
struct Plain;

/// `torch.nn.Conv3d` with kernel 3, stride (1, 2, 2) and padding 1, over clips of one frame: the outer two slices of its
/// kernel see padding only, get no gradient, and decay.
#[derive(Module, Debug)]
struct FrameConv {
    /// `[out, in, 3, 3, 3]`.
    weight: Param<Tensor<5>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

impl FrameConv {
    fn new(input: usize, output: usize, init: &mut Init) -> Self {
        let fan_in = input * 27;
        Self { weight: init.fan_in([output, input, 3, 3, 3], fan_in), bias: init.fan_in([output], fan_in) }
    }

    /// The middle slice of the kernel, `[out, in, 3, 3]`.
    fn centre(&self) -> Tensor<4> {
        let [output, input, ..] = self.weight.val().dims();
        self.weight.val().slice([0..output, 0..input, 1..2, 0..3, 0..3]).reshape([output, input, 3, 3])
    }

    /// `[n, in, h, w]` → `[n, out, ceil(h/2), ceil(w/2)]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(x, self.centre(), Some(self.bias.val()), ConvOptions::new([2; 2], [1; 2], [1, 1], 1))
    }

    /// The same with what follows it, for [`stack`].
    fn stage(&self, norm: &GroupNorm) -> Stage {
        Stage::new(self.centre(), self.bias.val(), [2; 2], [1; 2]).norm(norm).activation(Activation::Gelu)
    }
}

/// `D_a` of the action VAE.
#[derive(Module, Debug)]
pub(crate) struct VaeDecoder {
    decoder_input: Linear,
    decoder: (ConvTranspose1d, Plain, ConvTranspose1d),
    steps: usize,
}

impl VaeDecoder {
    /// `[n, D]` → normalised chunks `[n, M·A]`.
    pub fn decode(&self, z: Tensor<2>) -> Tensor<2> {
        let layers = [
            self.decoder.0.linear(self.steps / 2, Order::ChannelsFirst),
            self.decoder.2.linear(self.steps, Order::StepsFirst),
        ];
        perceptron(self.decoder_input.forward(z), &layers, Activation::Gelu)
    }
}

/// The authors' action VAE and video bridger.
#[derive(Module, Debug)]
pub struct ActionVae {
    video_bridger: (FrameConv, GroupNorm, Plain, FrameConv, GroupNorm, Plain, Plain, Plain, Linear),
    encoder: (Conv1d, Plain, Conv1d, Plain, Plain, Linear),
    decoder_input: Linear,
    decoder: (ConvTranspose1d, Plain, ConvTranspose1d),
    steps: usize,
    dim: usize,
}

impl ActionVae {
    /// Fresh networks of width `dim` for latents of `channels` and chunks of `[M, A]` (steps, action width).
    ///
    /// # Errors
    /// An odd `M`: the encoder halves a chunk and the decoder doubles it again.
    pub fn new(dim: usize, channels: usize, [steps, width]: [usize; 2], init: &mut Init) -> Result<Self, NnError> {
        if steps == 0 || !steps.is_multiple_of(2) {
            return Err(NnError::Input {
                what: "steps of an action chunk for the action VAE".into(),
                expected: "an even number (its encoder halves a chunk); use adapter mlp for others".into(),
                got: steps.to_string(),
            });
        }
        let half = 128 * steps / 2;
        Ok(Self {
            video_bridger: (
                FrameConv::new(channels, 64, init),
                GroupNorm::new(8, 64, init),
                Plain,
                FrameConv::new(64, 128, init),
                GroupNorm::new(16, 128, init),
                Plain,
                Plain,
                Plain,
                Linear::new(128, dim, init),
            ),
            encoder: (
                Conv1d::new(width, 64, 1, init),
                Plain,
                Conv1d::new(64, 128, 2, init),
                Plain,
                Plain,
                Linear::new(half, 2 * dim, init),
            ),
            decoder_input: Linear::new(dim, half, init),
            decoder: (ConvTranspose1d::new(128, 64, 2, init), Plain, ConvTranspose1d::new(64, width, 1, init)),
            steps,
            dim,
        })
    }

    /// Width of the shared space.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Mean and logarithm of the variance of each normalised chunk: `[n, M·A]` (step by step) → `[n, D]` twice.
    pub fn encode(&self, chunks: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let n = chunks.dims()[0];
        let layers = [
            self.encoder.0.linear(self.steps, Order::StepsFirst),
            self.encoder.2.linear(self.steps, Order::ChannelsFirst),
            self.encoder.5.parameters(),
        ];
        let both = perceptron(chunks, &layers, Activation::Gelu);
        (both.clone().slice([0..n, 0..self.dim]), both.slice([0..n, self.dim..2 * self.dim]))
    }

    /// `B_a`: the mean, `[n, M·A]` → `[n, D]`.
    pub fn action(&self, chunks: Tensor<2>) -> Tensor<2> {
        self.encode(chunks).0
    }

    /// `D_a`: `[n, D]` → normalised chunks `[n, M·A]`.
    pub fn decode(&self, z: Tensor<2>) -> Tensor<2> {
        self.decoder().decode(z)
    }

    /// A copy of `D_a`.
    pub(crate) fn decoder(&self) -> VaeDecoder {
        let (decoder_input, decoder) = (self.decoder_input.clone(), self.decoder.clone());
        VaeDecoder { decoder_input, decoder, steps: self.steps }
    }

    /// `B_v`: normalised latents `[n, C, H, W]` → `[n, D]`.
    pub fn video(&self, latents: Tensor<4>) -> Tensor<2> {
        let bridger = &self.video_bridger;
        let pooled = stack(latents, &[bridger.0.stage(&bridger.1), bridger.3.stage(&bridger.4)], true);
        let [n, channels, ..] = pooled.dims();
        bridger.8.forward(pooled.reshape([n, channels]))
    }

    /// As [`ActionVae::video`], layer by layer; `seen` gets the output of each of the first seven under its number.
    pub(crate) fn video_layers(&self, latents: Tensor<4>, mut seen: impl FnMut(usize, &Tensor<4>)) -> Tensor<2> {
        let bridger = &self.video_bridger;
        let mut x = latents;
        for layer in 0..6 {
            x = match layer {
                0 => bridger.0.forward(x),
                1 => bridger.1.forward(x),
                3 => bridger.3.forward(x),
                4 => bridger.4.forward(x),
                _ => gelu(x),
            };
            seen(layer, &x);
        }
        let [n, channels, height, width] = x.dims();
        let x = x.reshape([n, channels, height * width]).mean_dim(2).reshape([n, channels, 1, 1]);
        seen(6, &x);
        bridger.8.forward(x.reshape([n, channels]))
    }
}

/// `z = mean + noise · exp(log-variance / 2)`, all `[n, D]`, with standard normal noise.
pub fn reparameterise(mean: Tensor<2>, log_variance: Tensor<2>, noise: Tensor<2>) -> Tensor<2> {
    mean + noise * (log_variance * 0.5).exp()
}

/// Mean over rows of the divergence of `N(mean, exp(log-variance))` from the standard normal, `[n, D]` twice → scalar.
pub fn kl_divergence(mean: Tensor<2>, log_variance: Tensor<2>) -> Tensor<1> {
    let inside = log_variance.clone() + 1.0 - mean.square() - log_variance.exp();
    inside.sum_dim(1).mean() * -0.5
}

/// A network for a file's weights, before they are loaded into it.
pub(crate) fn empty(dim: usize, channels: usize, chunk: [usize; 2], device: &Device) -> Result<ActionVae, NnError> {
    let mut rng = w2a_data::stream(0, "load");
    ActionVae::new(dim, channels, chunk, &mut Init { rng: &mut rng, device })
}

#[cfg(test)]
mod tests {
    use super::{empty, kl_divergence, reparameterise};
    use burn::tensor::Device;
    use w2a_nn::{state_dict, tensor, values};

    #[test]
    fn parameters_have_the_names_and_shapes_of_the_released_checkpoints() {
        let state = state_dict(&empty(32, 16, [4, 7], &Device::flex()).unwrap()).unwrap();
        let found: Vec<(&str, &[usize])> =
            state.iter().map(|(name, array)| (name.as_str(), &array.shape[..])).collect();
        let expected: [(&str, &[usize]); 22] = [
            ("decoder.0.bias", &[64]),
            ("decoder.0.weight", &[128, 64, 3]),
            ("decoder.2.bias", &[7]),
            ("decoder.2.weight", &[64, 7, 3]),
            ("decoder_input.bias", &[256]),
            ("decoder_input.weight", &[256, 32]),
            ("encoder.0.bias", &[64]),
            ("encoder.0.weight", &[64, 7, 3]),
            ("encoder.2.bias", &[128]),
            ("encoder.2.weight", &[128, 64, 3]),
            ("encoder.5.bias", &[64]),
            ("encoder.5.weight", &[64, 256]),
            ("video_bridger.0.bias", &[64]),
            ("video_bridger.0.weight", &[64, 16, 3, 3, 3]),
            ("video_bridger.1.bias", &[64]),
            ("video_bridger.1.weight", &[64]),
            ("video_bridger.3.bias", &[128]),
            ("video_bridger.3.weight", &[128, 64, 3, 3, 3]),
            ("video_bridger.4.bias", &[128]),
            ("video_bridger.4.weight", &[128]),
            ("video_bridger.8.bias", &[32]),
            ("video_bridger.8.weight", &[32, 128]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn odd_chunks_are_refused() {
        let error = empty(8, 2, [3, 7], &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("even") && error.contains('3'), "{error}");
    }

    #[test]
    fn the_standard_normal_has_no_divergence_and_no_noise_gives_the_mean() {
        let device = Device::flex();
        let zero = || tensor(vec![0.0; 6], [2, 3], &device);
        assert_eq!(values(kl_divergence(zero(), zero())).unwrap(), [0.0]);
        let mean = tensor(vec![1.0; 6], [2, 3], &device);
        assert!((values(kl_divergence(mean.clone(), zero())).unwrap()[0] - 1.5).abs() < 1e-6);
        assert_eq!(values(reparameterise(mean.clone(), zero(), zero())).unwrap(), [1.0; 6]);
        // Twice the deviation at a log-variance of ln 4.
        let wide = tensor(vec![4_f32.ln(); 6], [2, 3], &device);
        let z = values(reparameterise(mean.clone(), wide, mean)).unwrap();
        assert!(z.iter().all(|value| (value - 3.0).abs() < 1e-6), "{z:?}");
    }
}
