//! The embedded latent video model: a transformer trained by flow matching that imagines all chunks at once.
//!
//! The network predicts the clean latents (x-prediction) and is trained on the velocity they imply: at small widths that
//! is sharper than predicting the velocity itself, because a token is wider than the network.

use burn::module::{Module, Param};
use burn::tensor::activation::{gelu, silu};
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_nn::{
    Block, BlockConfig, ImageBatch, Init, LayerNorm, Linear, NnError, StepReport, TEXT_DIM, Training, VisionConfig,
    VisionTrunk, embed_text, normal, tensor, timestep_embedding, train_sharded, values,
};

use crate::{Forecast, GridVideo, LatentShape};

/// Sizes of the latent video model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// Token width.
    pub width: usize,
    /// Transformer blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the feed-forward layers.
    pub hidden: usize,
    /// Rows and columns of latents in one token of the imagined chunks.
    pub patch: [usize; 2],
    /// Rows and columns of latents in one token of the first observation.
    pub first_patch: [usize; 2],
    /// How queries made from the instruction look at the pixels of the first observation.
    pub vision: VisionConfig,
    /// Chunks a video has (`T`).
    pub chunks: usize,
    /// Euler steps of one imagination.
    pub sampling_steps: usize,
    /// Timestep shift `s`: a noise level `n = 1 - t` becomes `s n / (1 + (s - 1) n)`, in training and in sampling. A video
    /// has so many values that a little signal in each gives everything away; what has to be learnt, where things will
    /// go, is learnt near pure noise.
    pub shift: f32,
    /// What is imagined is this and what changes.
    pub anchor: Anchor,
    /// Lower bound of `1 - t` in the velocity loss; small values spend a short training on the last, easy steps of the
    /// denoising rather than on where things will be.
    pub min_noise: f32,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            // One token per chunk and a small network: on a CPU, many videos seen count for more than many weights.
            width: 128,
            depth: 2,
            heads: 4,
            hidden: 256,
            patch: [8, 16],
            first_patch: [8, 16],
            vision: VisionConfig::default(),
            chunks: 16,
            sampling_steps: 4,
            shift: 20.0,
            anchor: Anchor::First,
            min_noise: 0.5,
        }
    }
}

/// What a latent video model adds its changes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anchor {
    /// The first latent: nothing changes.
    #[default]
    First,
    /// The linear [`Forecast`] from it. With the 92 videos of a run in LIBERO it took two thirds off the error
    /// (docs/reproduce.md).
    Forecast,
}

/// The network.
#[derive(Module, Debug)]
pub struct Flow {
    token_in: Linear,
    first_in: Linear,
    position: Param<Tensor<3>>,
    first_position: Param<Tensor<3>>,
    time1: Linear,
    time2: Linear,
    text: Linear,
    trunk: VisionTrunk,
    seen1: Linear,
    seen2: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    token_out: Linear,
    width: usize,
    chunks: usize,
    patch: [usize; 2],
    first_patch: [usize; 2],
    window: usize,
    sampling_steps: usize,
    shift: f32,
}

/// What a video is imagined from.
#[derive(Clone, Debug)]
pub struct Start {
    /// Normalised latent of the first frame, `[batch, 1, C, H, W]`.
    pub latent: Tensor<5>,
    /// What changes are added to, the first latent or its forecast, `[batch, 1 or chunks, C, H, W]`.
    pub anchor: Tensor<5>,
    /// The first frame's pixels.
    pub image: ImageBatch,
    /// The instruction, `[batch, TEXT_DIM]`.
    pub text: Tensor<2>,
}

impl Flow {
    /// A fresh network for latents of `shape`.
    ///
    /// # Errors
    /// Patches that do not divide the latents.
    pub fn new(config: &FlowConfig, shape: LatentShape, init: &mut Init) -> Result<Self, NnError> {
        let size = |what: &str, patch: [usize; 2]| {
            let fits = patch.iter().all(|&side| side > 0)
                && shape.height.is_multiple_of(patch[0])
                && shape.width.is_multiple_of(patch[1]);
            if !fits {
                return Err(NnError::Input {
                    what: format!("world.flow.{what}"),
                    expected: format!("divisors of the latent size {}x{}", shape.height, shape.width),
                    got: format!("{patch:?}"),
                });
            }
            Ok((shape.height / patch[0] * (shape.width / patch[1]), patch[0] * patch[1] * shape.channels))
        };
        let (per_chunk, token) = size("patch", config.patch)?;
        let (first_tokens, first_token) = size("first_patch", config.first_patch)?;
        let width = config.width;
        let block = BlockConfig { width, heads: config.heads, hidden: config.hidden, condition: width };
        Ok(Self {
            token_in: Linear::new(token, width, init),
            first_in: Linear::new(first_token, width, init),
            position: init.normal([1, config.chunks * per_chunk, width], 0.1),
            first_position: init.normal([1, first_tokens, width], 0.1),
            time1: Linear::new(64, width, init),
            time2: Linear::new(width, width, init),
            text: Linear::new(TEXT_DIM, width, init),
            trunk: VisionTrunk::new(&config.vision, 1, TEXT_DIM, init),
            seen1: Linear::new(VisionTrunk::width(&config.vision), 2 * width, init),
            seen2: Linear::new(2 * width, width, init),
            blocks: (0..config.depth).map(|_| Block::new(&block, init)).collect(),
            norm: LayerNorm::new(width, init),
            token_out: Linear::zero(width, token, init),
            width,
            chunks: config.chunks,
            patch: config.patch,
            first_patch: config.first_patch,
            window: config.vision.patch,
            sampling_steps: config.sampling_steps,
            shift: config.shift,
        })
    }

    /// Chunks a video has.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Predicts the clean latents: their anchor plus what changes.
    ///
    /// # Shapes
    /// `noisy` `[batch, chunks, C, H, W]`, one time in `[0, 1]` (0 is noise) per video → the shape of `noisy`.
    pub fn forward(&self, noisy: Tensor<5>, start: &Start, times: &[f32]) -> Tensor<5> {
        let shape = noisy.dims();
        let device = noisy.device();
        let tokens = self.token_in.forward(patchify(noisy, self.patch)) + self.position.val();
        let count = tokens.dims()[1];
        let first = self.first_in.forward(patchify(start.latent.clone(), self.first_patch)) + self.first_position.val();
        let time = self.time1.forward(timestep_embedding(times, 64, &device));
        let seen = self.seen1.forward(self.trunk.forward(&start.image, start.text.clone()));
        let condition =
            self.time2.forward(silu(time)) + self.text.forward(start.text.clone()) + self.seen2.forward(gelu(seen));
        let mut x = Tensor::cat(vec![tokens, first], 1);
        for block in &self.blocks {
            x = block.forward(x, Some(&condition));
        }
        let x = self.token_out.forward(self.norm.forward(x.narrow(1, 0, count)));
        unpatchify(x, self.patch, shape) + start.anchor.clone()
    }

    /// Imagines normalised latents from normalised first latents.
    ///
    /// # Shapes
    /// `latents` `[batch, C, H, W]` row-major, one frame and instruction each → `[batch, chunks, C, H, W]` row-major. The
    /// forecast is that of the training.
    ///
    /// # Errors
    /// If the device fails.
    pub fn sample(
        &self,
        latents: Vec<f32>,
        forecast: Option<&Forecast>,
        frames: &[GridVideo],
        instructions: &[&str],
        shape: LatentShape,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<Vec<f32>, NnError> {
        let batch = frames.len();
        let LatentShape { channels, height, width } = shape;
        let dims = [batch, self.chunks, channels, height, width];
        let (latent, anchor) = begin(latents, forecast, dims, shape, device);
        let start = Start {
            latent,
            anchor,
            image: windows(frames, self.window, device),
            text: tensor(instructions.iter().flat_map(|words| embed_text(words)).collect(), [batch, TEXT_DIM], device),
        };
        let mut x = tensor(normal(rng, dims.iter().product()), dims, device);
        for step in 0..self.sampling_steps {
            let noise = |step: usize| shifted(1.0 - step as f32 / self.sampling_steps as f32, self.shift);
            let (now, next) = (noise(step), noise(step + 1));
            let clean = self.forward(x.clone(), &start, &vec![1.0 - now; batch]);
            // v = (x1 - x) / (1 - t), one Euler step; the last lands on the prediction itself.
            let share = (now - next) / now;
            x = x.clone() + (clean - x) * share;
        }
        values(x)
    }
}

/// First latents `[batch, C, H, W]`, and what changes are added to.
fn begin(
    first: Vec<f32>,
    forecast: Option<&Forecast>,
    [batch, chunks, channels, height, width]: [usize; 5],
    shape: LatentShape,
    device: &Device,
) -> (Tensor<5>, Tensor<5>) {
    let anchor =
        forecast.map(|forecast| tensor(forecast.of(&first, shape), [batch, chunks, channels, height, width], device));
    let latent = tensor(first, [batch, 1, channels, height, width], device);
    let anchor = anchor.unwrap_or_else(|| latent.clone());
    (latent, anchor)
}

/// A noise level in `[0, 1]`, moved towards 1 by a shift above 1.
fn shifted(noise: f32, shift: f32) -> f32 {
    shift * noise / (1.0 + (shift - 1.0) * noise)
}

/// The first frame of each video as windows of pixels.
fn windows<'a>(frames: impl IntoIterator<Item = &'a GridVideo>, patch: usize, device: &Device) -> ImageBatch {
    let frames: Vec<&GridVideo> = frames.into_iter().collect();
    let (height, width) = frames.first().map_or((0, 0), |video| (video.height, video.width));
    ImageBatch::new(frames.iter().map(|video| video.frame(0)), height, width, patch, device)
}

/// `[batch, n, C, H, W]` → `[batch, n * tokens, C * ph * pw]`.
fn patchify(x: Tensor<5>, [ph, pw]: [usize; 2]) -> Tensor<3> {
    let [batch, n, channels, height, width] = x.dims();
    let (rows, columns) = (height / ph, width / pw);
    let x: Tensor<7> = x.reshape([batch * n, 1, channels, rows, ph, columns, pw]);
    x.permute([0, 1, 3, 5, 2, 4, 6]).reshape([batch, n * rows * columns, channels * ph * pw])
}

/// The inverse of [`patchify`].
fn unpatchify(x: Tensor<3>, [ph, pw]: [usize; 2], shape: [usize; 5]) -> Tensor<5> {
    let [batch, n, channels, height, width] = shape;
    let x: Tensor<7> = x.reshape([batch * n, 1, height / ph, width / pw, channels, ph, pw]);
    x.permute([0, 1, 4, 2, 5, 3, 6]).reshape(shape)
}

/// One training video: normalised latents `V_0..V_T` and its instruction.
#[derive(Debug)]
pub struct FlowSample<'a> {
    /// The first frame.
    pub first: &'a GridVideo,
    /// `[1 + T, C, H, W]`, normalised.
    pub latents: &'a [f32],
    /// The instruction.
    pub instruction: &'a str,
}

/// Trains the latent video model.
///
/// Times follow a shifted logit-normal distribution; the loss is the mean squared error of the velocity, that is of the predicted
/// clean latents over `max(1 - t, min_noise)`. What changes are added to is a forecast, or the first latent without one.
///
/// # Errors
/// No sample, samples of the wrong length, divergence, or a failing disk.
pub fn train_flow(
    config: &FlowConfig,
    training: &Training,
    shape: LatentShape,
    samples: &[FlowSample],
    forecast: Option<&Forecast>,
    device: &Device,
    on_step: impl FnMut(&StepReport),
) -> Result<Flow, NnError> {
    let device = device.clone().autodiff();
    let mut stream = w2a_data::stream(training.seed, &format!("init/{}", training.name));
    let model = Flow::new(config, shape, &mut Init { rng: &mut stream, device: &device })?;
    let len = shape.len();
    for (index, sample) in samples.iter().enumerate() {
        if sample.latents.len() != (1 + config.chunks) * len {
            return Err(NnError::Input {
                what: format!("latents of training video {index}"),
                expected: format!("1 + {} chunks of {len} values", config.chunks),
                got: format!("{} values", sample.latents.len()),
            });
        }
    }
    if samples.is_empty() {
        return Err(NnError::Input {
            what: "videos of the world model".into(),
            expected: "at least one".into(),
            got: "none".into(),
        });
    }
    let texts: Vec<Vec<f32>> = samples.iter().map(|sample| embed_text(sample.instruction)).collect();
    let LatentShape { channels, height, width } = shape;
    let loss = |model: &Flow, _: usize, batch: usize, rng: &mut ChaCha8Rng| {
        let dims = [batch, config.chunks, channels, height, width];
        let (mut clean, mut first, mut text, mut frames) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..batch {
            let index = rng.random_range(0..samples.len());
            first.extend_from_slice(&samples[index].latents[..len]);
            clean.extend_from_slice(&samples[index].latents[len..]);
            text.extend_from_slice(&texts[index]);
            frames.push(samples[index].first);
        }
        let times: Vec<f32> = normal(rng, batch)
            .into_iter()
            .map(|value| 1.0 - shifted(1.0 / (1.0 + (-value).exp()), config.shift))
            .collect();
        let time = tensor(times.clone(), [batch, 1, 1, 1, 1], &device);
        let noise = tensor(normal(rng, dims.iter().product()), dims, &device);
        let clean = tensor(clean, dims, &device);
        let noisy = clean.clone() * time.clone() + noise * (-time.clone() + 1.0);
        let (latent, anchor) = begin(first, forecast, dims, shape, &device);
        let start = Start {
            latent,
            anchor,
            image: windows(frames, config.vision.patch, &device),
            text: tensor(text, [batch, TEXT_DIM], &device),
        };
        let predicted = model.forward(noisy, &start, &times);
        let error = (predicted - clean).square();
        let plain = error.clone().mean();
        let weight = (-time + 1.0).clamp_min(config.min_noise).square().recip();
        Ok(((error * weight).mean(), vec![("latent_mse", plain)]))
    };
    train_sharded(model, training, loss, on_step)
}

#[cfg(test)]
mod tests {
    use super::{Flow, FlowConfig, FlowSample, Forecast, patchify, train_flow, unpatchify};
    use crate::{GridVideo, LatentShape};
    use burn::tensor::Device;
    use w2a_nn::{Init, TrainConfig, Training, VisionConfig, normal, tensor, values};

    const SHAPE: LatentShape = LatentShape { channels: 2, height: 2, width: 4 };

    fn config() -> FlowConfig {
        FlowConfig {
            width: 32,
            depth: 2,
            heads: 2,
            hidden: 64,
            patch: [2, 4],
            first_patch: [2, 2],
            vision: VisionConfig { patch: 4, channels: 8, keypoints: 2 },
            chunks: 3,
            ..Default::default()
        }
    }

    fn frame() -> GridVideo {
        GridVideo { height: 8, width: 16, rgb: vec![100; 8 * 16 * 3] }
    }

    #[test]
    fn patches_invert() {
        let device = Device::flex();
        let data = normal(&mut w2a_data::stream(0, "x"), 2 * 3 * SHAPE.len());
        let dims = [2, 3, 2, 2, 4];
        let x = tensor(data.clone(), dims, &device);
        assert_eq!(values(unpatchify(patchify(x, [1, 2]), [1, 2], dims)).unwrap(), data);
    }

    #[test]
    fn it_learns_what_an_instruction_does_to_the_first_frame() {
        // "up" adds one per chunk to the first latent, "down" subtracts it.
        let videos: Vec<(Vec<f32>, &str)> = (0..64)
            .map(|index| {
                let first = normal(&mut w2a_data::stream(index, "first"), SHAPE.len());
                let (sign, word) = if index % 2 == 0 { (1.0, "up") } else { (-1.0, "down") };
                let frames = (0..4).flat_map(|t| first.iter().map(move |value| value * 0.5 + sign * t as f32 * 0.5));
                (frames.collect(), word)
            })
            .collect();
        let frame = frame();
        let samples: Vec<FlowSample> =
            videos.iter().map(|(latents, instruction)| FlowSample { first: &frame, latents, instruction }).collect();
        let train = TrainConfig { steps: 250, batch: 32, lr: 3e-3, warmup: 10, ..Default::default() };
        let training = Training { name: "flow", dir: None, seed: 0, config: &train, depends: serde_json::Value::Null };
        let flow = train_flow(&config(), &training, SHAPE, &samples, None, &Device::flex(), |_| {}).unwrap();
        let (latents, _) = &videos[0];
        let first = latents[..SHAPE.len()].to_vec();
        let mean_at_end = |word: &str| {
            let mut rng = w2a_data::stream(9, "sample");
            let device = Device::flex().autodiff();
            let out = flow
                .sample(first.clone(), None, std::slice::from_ref(&frame), &[word], SHAPE, &mut rng, &device)
                .unwrap();
            out[2 * SHAPE.len()..].iter().sum::<f32>() / SHAPE.len() as f32
        };
        let base = first.iter().sum::<f32>() / SHAPE.len() as f32;
        assert!((mean_at_end("up") - base - 1.5).abs() < 0.5, "{} {base}", mean_at_end("up"));
        assert!((mean_at_end("down") - base + 1.5).abs() < 0.5, "{} {base}", mean_at_end("down"));
    }

    #[test]
    fn a_fresh_network_imagines_its_anchor() {
        let device = Device::flex();
        let flow =
            Flow::new(&config(), SHAPE, &mut Init { rng: &mut w2a_data::stream(0, "i"), device: &device }).unwrap();
        let video: Vec<f32> = (0..4 * SHAPE.len()).map(|value| value as f32).collect();
        let forecast = Forecast::fit([video.as_slice()].into_iter(), SHAPE);
        let first = vec![0.5; SHAPE.len()];
        let imagined = |forecast| {
            let mut rng = w2a_data::stream(1, "s");
            flow.sample(first.clone(), forecast, &[frame()], &["go"], SHAPE, &mut rng, &device).unwrap()
        };
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(near(&imagined(None), &first.repeat(3)));
        assert!(near(&imagined(Some(&forecast)), &video[SHAPE.len()..]));
    }

    #[test]
    fn imagination_depends_on_the_stream_alone() {
        let device = Device::flex();
        let flow =
            Flow::new(&config(), SHAPE, &mut Init { rng: &mut w2a_data::stream(0, "i"), device: &device }).unwrap();
        let sample = |seed| {
            let first = vec![0.5; SHAPE.len()];
            flow.sample(first, None, &[frame()], &["go"], SHAPE, &mut w2a_data::stream(seed, "s"), &device).unwrap()
        };
        assert_eq!(sample(1), sample(1));
        assert_ne!(sample(1), sample(2));
    }
}
