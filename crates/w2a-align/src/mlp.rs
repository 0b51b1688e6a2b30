//! The paper's adapters: a small CNN per latent frame, and multilayer perceptrons for action chunks.

use burn::module::Module;
use burn::tensor::Tensor;
use w2a_nn::{Activation, Conv2d, GroupNorm, Init, Linear, NnError, Prepared, perceptron, stack};

use crate::{AdapterConfig, Pooling};

/// `B_v`: Conv(C,64,3,s2) → GroupNorm(8) → GELU → Conv(64,128,3,s2) → GroupNorm(16) → GELU → pool → Linear(D).
#[derive(Module, Debug)]
struct VideoAdapter {
    conv1: Conv2d,
    norm1: GroupNorm,
    conv2: Conv2d,
    norm2: GroupNorm,
    out: Linear,
    flatten: bool,
}

/// `in → hidden1 → hidden2 → out` with GELU between.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    layer1: Linear,
    layer2: Linear,
    layer3: Linear,
}

impl Mlp {
    fn new(sizes: [usize; 4], init: &mut Init) -> Self {
        Self {
            layer1: Linear::new(sizes[0], sizes[1], init),
            layer2: Linear::new(sizes[1], sizes[2], init),
            layer3: Linear::new(sizes[2], sizes[3], init),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        perceptron(x, &self.parameters(), Activation::Gelu)
    }

    fn parameters(&self) -> [(Tensor<2>, Tensor<1>); 3] {
        [&self.layer1, &self.layer2, &self.layer3].map(Linear::parameters)
    }

    fn prepare(&self) -> Result<Prepared, NnError> {
        Prepared::perceptron(&self.parameters(), Activation::Gelu)
    }
}

/// The three networks of stage 1 (paper, section 3.2).
#[derive(Module, Debug)]
pub struct MlpAdapters {
    video: VideoAdapter,
    encoder: Mlp,
    decoder: Mlp,
    dim: usize,
}

impl MlpAdapters {
    /// Fresh adapters for latents `[channels, height, width]` and action chunks of `chunk` values (`M·A`, flattened step
    /// by step: concatenated, never averaged).
    pub fn new(config: &AdapterConfig, latent: [usize; 3], chunk: usize, init: &mut Init) -> Self {
        let [channels, height, width] = latent;
        let flatten = config.pooling == Pooling::Flatten;
        // Two convolutions of stride 2 with padding 1 halve rounding up.
        let cells = height.div_ceil(2).div_ceil(2) * width.div_ceil(2).div_ceil(2);
        let features = if flatten { 128 * cells } else { 128 };
        Self {
            video: VideoAdapter {
                conv1: Conv2d::new(channels, 64, 3, 2, 1, init),
                norm1: GroupNorm::new(8, 64, init),
                conv2: Conv2d::new(64, 128, 3, 2, 1, init),
                norm2: GroupNorm::new(16, 128, init),
                out: Linear::new(features, config.dim, init),
                flatten,
            },
            encoder: Mlp::new([chunk, 128, 64, config.dim], init),
            decoder: Mlp::new([config.dim, 64, 128, chunk], init),
            dim: config.dim,
        }
    }

    /// Width of the shared space.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// `B_v`: normalised latents `[n, C, H, W]` → `[n, D]`.
    pub fn video(&self, latents: Tensor<4>) -> Tensor<2> {
        let adapter = &self.video;
        let stage = |conv: &Conv2d, norm| conv.stage().norm(norm).activation(Activation::Gelu);
        let stages = [stage(&adapter.conv1, &adapter.norm1), stage(&adapter.conv2, &adapter.norm2)];
        let x = stack(latents, &stages, !adapter.flatten);
        let [n, channels, height, width] = x.dims();
        adapter.out.forward(x.reshape([n, channels * height * width]))
    }

    /// `B_a`: normalised action chunks `[n, M·A]` → `[n, D]`.
    pub fn action(&self, chunks: Tensor<2>) -> Tensor<2> {
        self.encoder.forward(chunks)
    }

    /// `B_a` and `D_a` for single chunks, without tensors.
    ///
    /// # Errors
    /// A device that does not hand its values over.
    pub fn prepare(&self) -> Result<(Prepared, Prepared), NnError> {
        Ok((self.encoder.prepare()?, self.decoder.prepare()?))
    }

    /// A copy of `D_a`.
    pub(crate) fn decoder(&self) -> Mlp {
        self.decoder.clone()
    }

    /// `D_a`: `[n, D]` → normalised action chunks `[n, M·A]`.
    pub fn decode(&self, z: Tensor<2>) -> Tensor<2> {
        self.decoder.forward(z)
    }
}
