//! The three networks of stage 1, sizes and order as in the paper.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use w2a_nn::{
    Activation, Checkpoint, Conv2d, GroupNorm, Init, Linear, NnError, Prepared, perceptron, stack, tensor, values,
};

/// What follows the convolutions of the video adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Global average pooling, as in the paper.
    Average,
    /// Flattening: keeps where things happen; aligns unseen scenes better on the embedded benchmark.
    #[default]
    Flatten,
}

/// Sizes of the adapters.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterConfig {
    /// Width of the shared space (`D`).
    pub dim: usize,
    /// What follows the convolutions of the video adapter.
    pub pooling: Pooling,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self { dim: 32, pooling: Pooling::default() }
    }
}

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
struct Mlp {
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

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        perceptron(x, &self.parameters(), Activation::Gelu)
    }

    fn parameters(&self) -> [(Tensor<2>, Tensor<1>); 3] {
        [&self.layer1, &self.layer2, &self.layer3].map(Linear::parameters)
    }

    fn prepare(&self) -> Result<Prepared, NnError> {
        Prepared::perceptron(&self.parameters(), Activation::Gelu)
    }
}

/// The three networks of stage 1.
#[derive(Module, Debug)]
pub struct Adapters {
    video: VideoAdapter,
    encoder: Mlp,
    decoder: Mlp,
    dim: usize,
}

impl Adapters {
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
        let x = x.reshape([n, channels * height * width]);
        adapter.out.forward(x)
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

    /// `D_a`: `[n, D]` → normalised action chunks `[n, M·A]`.
    pub fn decode(&self, z: Tensor<2>) -> Tensor<2> {
        self.decoder.forward(z)
    }
}

/// Adapters for inference, on host values.
#[derive(Debug)]
pub struct FrozenAdapters {
    net: Adapters,
    latent: [usize; 3],
    chunk: usize,
    device: Device,
}

impl FrozenAdapters {
    /// Freezes trained adapters.
    pub fn new(net: Adapters, latent: [usize; 3], chunk: usize, device: &Device) -> Self {
        Self { net: net.valid(), latent, chunk, device: device.clone() }
    }

    /// Loads what a training left in `dir`.
    ///
    /// # Errors
    /// A missing or foreign checkpoint, such as one for another action width.
    pub fn load(
        config: &AdapterConfig,
        latent: [usize; 3],
        chunk: usize,
        dir: &Path,
        device: &Device,
    ) -> Result<Self, NnError> {
        let mut rng = w2a_data::stream(0, "load");
        let net = Adapters::new(config, latent, chunk, &mut Init { rng: &mut rng, device });
        Ok(Self::new(Checkpoint::new(dir).load(net)?, latent, chunk, device))
    }

    /// Width of the shared space.
    pub fn dim(&self) -> usize {
        self.net.dim
    }

    /// Values of one action chunk.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// The networks, without gradients of their own.
    pub fn net(&self) -> &Adapters {
        &self.net
    }

    /// `B_v` of normalised latents `[n, C, H, W]` → `[n, D]`.
    ///
    /// # Errors
    /// A number of values that is no multiple of a latent's.
    pub fn video(&self, latents: &[f32]) -> Result<Vec<f32>, NnError> {
        let [channels, height, width] = self.latent;
        let len = channels * height * width;
        check("latents for the video adapter", latents.len(), len)?;
        let mut out = Vec::with_capacity(latents.len() / len * self.net.dim);
        for part in latents.chunks(512 * len) {
            let x = tensor(part.to_vec(), [part.len() / len, channels, height, width], &self.device);
            out.extend(values(self.net.video(x))?);
        }
        Ok(out)
    }

    /// `B_a` of normalised action chunks `[n, M·A]` → `[n, D]`.
    ///
    /// # Errors
    /// A number of values that is no multiple of a chunk's: another action width than the adapters were trained for.
    pub fn action(&self, chunks: &[f32]) -> Result<Vec<f32>, NnError> {
        check("action chunks for the action adapter", chunks.len(), self.chunk)?;
        values(self.net.action(tensor(chunks.to_vec(), [chunks.len() / self.chunk, self.chunk], &self.device)))
    }

    /// `D_a` of `[n, D]` → normalised action chunks `[n, M·A]`.
    ///
    /// # Errors
    /// A number of values that is no multiple of `D`.
    pub fn decode(&self, z: &[f32]) -> Result<Vec<f32>, NnError> {
        check("vectors for the action decoder", z.len(), self.net.dim)?;
        values(self.net.decode(tensor(z.to_vec(), [z.len() / self.net.dim, self.net.dim], &self.device)))
    }
}

fn check(what: &str, got: usize, width: usize) -> Result<(), NnError> {
    if got.is_multiple_of(width) {
        return Ok(());
    }
    Err(NnError::Input { what: what.into(), expected: format!("rows of {width} values"), got: format!("{got} values") })
}
