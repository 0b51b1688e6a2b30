//! The embedded video autoencoder: 4 frames of an 8x8 patch become one latent vector.
//!
//! Same compression as Wan2.1's (4 in time, 8 in space, 16 channels), written as matrix products over patches, which is
//! what a CPU is good at. Single frames are encoded as four equal ones.

use burn::module::Module;
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_nn::{Conv2d, Init, Linear, NnError, StepReport, Training, in_shards, tensor, train_sharded, values};

use crate::{GridVideo, LatentShape};

/// Sizes of the autoencoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderConfig {
    /// Side of a square patch in pixels.
    pub patch: usize,
    /// Frames per latent (`M`).
    pub frames: usize,
    /// Channels of a latent.
    pub channels: usize,
    /// Hidden width per patch.
    pub hidden: usize,
    /// Standard deviation of the noise on the latents while training: keeps the latent space smooth.
    pub noise: f32,
    /// Weight of the latents' mean square in the loss: keeps their scale bounded.
    pub penalty: f32,
    /// How much more a pixel counts that differs from the mean image than one that does not.
    pub foreground: f32,
}

impl Default for AutoencoderConfig {
    fn default() -> Self {
        Self { patch: 8, frames: 4, channels: 16, hidden: 192, noise: 0.05, penalty: 1e-4, foreground: 10.0 }
    }
}

/// The network. Works on chunks of frames, `[batch, frames, height, width, 3]` in `[-1, 1]`.
#[derive(Module, Debug)]
pub struct VideoAutoencoder {
    enc1: Linear,
    enc2: Linear,
    enc3: Conv2d,
    dec1: Conv2d,
    dec2: Linear,
    dec3: Linear,
    patch: usize,
    frames: usize,
    noise: f32,
}

impl VideoAutoencoder {
    /// A fresh network.
    pub fn new(config: &AutoencoderConfig, init: &mut Init) -> Self {
        let pixels = config.frames * config.patch * config.patch * 3;
        let AutoencoderConfig { hidden, channels, patch, frames, noise, .. } = *config;
        Self {
            enc1: Linear::new(pixels, hidden, init),
            enc2: Linear::new(hidden, hidden / 2, init),
            enc3: Conv2d::new(hidden / 2, channels, 3, 1, 1, init),
            dec1: Conv2d::new(channels, hidden / 2, 3, 1, 1, init),
            dec2: Linear::new(hidden / 2, hidden, init),
            dec3: Linear::new(hidden, pixels, init),
            patch,
            frames,
            noise,
        }
    }

    /// Patches `[batch, rows * columns, pixels]` → latents `[batch, channels, rows, columns]`.
    pub fn encode(&self, patches: Tensor<3>, rows: usize, columns: usize) -> Tensor<4> {
        let batch = patches.dims()[0];
        let hidden = gelu(self.enc2.forward(gelu(self.enc1.forward(patches))));
        let width = hidden.dims()[2];
        self.enc3.forward(hidden.reshape([batch, rows, columns, width]).permute([0, 3, 1, 2]))
    }

    /// Latents `[batch, channels, rows, columns]` → patches `[batch, rows * columns, pixels]`.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<3> {
        let [batch, _, rows, columns] = latents.dims();
        let hidden = gelu(self.dec1.forward(latents)).permute([0, 2, 3, 1]);
        let width = hidden.dims()[3];
        self.dec3.forward(gelu(self.dec2.forward(hidden.reshape([batch, rows * columns, width]))))
    }

    /// Shape of one latent for frames of `height` x `width`.
    ///
    /// # Errors
    /// A frame that does not divide into patches.
    pub fn latent_shape(&self, height: usize, width: usize, channels: usize) -> Result<LatentShape, NnError> {
        if height == 0 || width == 0 || !height.is_multiple_of(self.patch) || !width.is_multiple_of(self.patch) {
            return Err(NnError::Input {
                what: "frame size of the video autoencoder".into(),
                expected: format!("multiples of {}", self.patch),
                got: format!("{height}x{width}"),
            });
        }
        Ok(LatentShape { channels, height: height / self.patch, width: width / self.patch })
    }

    /// Encodes chunks of frames, each `[frames, height, width, 3]` bytes → `[batch, C, H, W]` values, row-major.
    ///
    /// # Errors
    /// If the device fails.
    pub fn encode_chunks(
        &self,
        chunks: &[&[u8]],
        height: usize,
        width: usize,
        device: &Device,
    ) -> Result<Vec<f32>, NnError> {
        in_shards(chunks, |chunks| {
            let mut out = Vec::new();
            // Batches of 64 keep the intermediate tensors in tens of megabytes.
            for part in chunks.chunks(64) {
                let patches = self.patches(part, height, width, device);
                out.extend(values(self.encode(patches, height / self.patch, width / self.patch))?);
            }
            Ok(out)
        })
    }

    /// Decodes latents `[batch, C, H, W]` to frames, `[batch, frames, height, width, 3]` bytes.
    ///
    /// # Errors
    /// If the device fails.
    pub fn decode_chunks(&self, latents: &[f32], shape: LatentShape, device: &Device) -> Result<Vec<u8>, NnError> {
        let (height, width) = (shape.height * self.patch, shape.width * self.patch);
        let each: Vec<&[f32]> = latents.chunks(shape.len()).collect();
        in_shards(&each, |latents| {
            let mut out = Vec::new();
            for part in latents.chunks(64) {
                let latents = tensor(part.concat(), [part.len(), shape.channels, shape.height, shape.width], device);
                let patches = values(self.decode(latents))?;
                let mut frames = vec![0_u8; part.len() * self.frames * height * width * 3];
                self.each_row(part.len(), height, width, |at, from, len| {
                    for (byte, value) in frames[from..from + len].iter_mut().zip(&patches[at..at + len]) {
                        *byte = ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
                    }
                });
                out.extend(frames);
            }
            Ok(out)
        })
    }

    fn patches(&self, chunks: &[&[u8]], height: usize, width: usize, device: &Device) -> Tensor<3> {
        let (rows, columns) = (height / self.patch, width / self.patch);
        let pixels = self.frames * self.patch * self.patch * 3;
        let len = self.frames * height * width * 3;
        let mut out = vec![0.0_f32; chunks.len() * len];
        self.each_row(chunks.len(), height, width, |at, from, count| {
            let bytes = &chunks[from / len][from % len..from % len + count];
            for (value, &byte) in out[at..at + count].iter_mut().zip(bytes) {
                *value = f32::from(byte) / 127.5 - 1.0;
            }
        });
        tensor(out, [chunks.len(), rows * columns, pixels], device)
    }

    /// Calls `visit(index in [batch, patch, pixel], index in [batch, frame, row, column, 3], values)` for every row of every
    /// patch: values that lie together in both.
    fn each_row(&self, batch: usize, height: usize, width: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let (p, rows, columns) = (self.patch, height / self.patch, width / self.patch);
        let mut at = 0;
        for item in 0..batch {
            for patch in 0..rows * columns {
                for frame in 0..self.frames {
                    for y in 0..p {
                        let row = (item * self.frames + frame) * height + patch / columns * p + y;
                        let from = (row * width + patch % columns * p) * 3;
                        visit(at, from, p * 3);
                        at += p * 3;
                    }
                }
            }
        }
    }
}

/// Trains an autoencoder on chunks of frames cut from `videos` at any offset.
///
/// The loss is a mean squared error in which pixels that differ from the corpus' mean image count more: the objects are
/// small, the table is not.
///
/// # Errors
/// No video, frames of unequal or odd size, divergence, or a failing disk.
pub fn train_autoencoder(
    config: &AutoencoderConfig,
    training: &Training,
    videos: &[GridVideo],
    device: &Device,
    on_step: impl FnMut(&StepReport),
) -> Result<VideoAutoencoder, NnError> {
    let device = device.clone().autodiff();
    let mut stream = w2a_data::stream(training.seed, &format!("init/{}", training.name));
    let model = VideoAutoencoder::new(config, &mut Init { rng: &mut stream, device: &device });
    let (height, width) = check_corpus(videos, config.frames)?;
    let shape = model.latent_shape(height, width, config.channels)?;
    let frame = height * width * 3;
    let chunk = config.frames * frame;
    let mean = mean_image(videos, frame);
    let mean_chunk: Vec<u8> = (0..config.frames).flat_map(|_| mean.iter().copied()).collect();
    let mean_patches = model.patches(&[&mean_chunk], height, width, &device);
    let steps = training.config.steps;
    let loss = |model: &VideoAutoencoder, step: usize, batch: usize, rng: &mut ChaCha8Rng| {
        let chunks: Vec<Vec<u8>> = (0..batch)
            .map(|index| {
                let video = &videos[rng.random_range(0..videos.len())];
                // One sample in eight is a still frame, so that first observations are well coded.
                if index % 8 == 0 {
                    let still = video.frame(rng.random_range(0..video.frames()));
                    (0..config.frames).flat_map(|_| still.iter().copied()).collect()
                } else {
                    let start = rng.random_range(0..=video.frames() - config.frames) * frame;
                    video.rgb[start..start + chunk].to_vec()
                }
            })
            .collect();
        let parts: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let patches = model.patches(&parts, height, width, &device);
        let latents = model.encode(patches.clone(), shape.height, shape.width);
        let penalty = latents.clone().square().mean();
        // The noise fades out, so that the end of the training is spent on sharpness.
        let scale = model.noise * (1.0 - step as f32 / steps as f32);
        let noise = w2a_nn::normal(rng, parts.len() * shape.len()).into_iter().map(|value| value * scale).collect();
        let noise = tensor(noise, [parts.len(), shape.channels, shape.height, shape.width], &device);
        let decoded = model.decode(latents + noise);
        let weight = (patches.clone() - mean_patches.clone()).abs().clamp_max(0.5) * (2.0 * config.foreground) + 1.0;
        let error = (decoded - patches).square();
        let plain = error.clone().mean();
        let weighted = (error * weight).mean();
        Ok((weighted + penalty.clone() * config.penalty, vec![("pixel_mse", plain), ("latent_square", penalty)]))
    };
    train_sharded(model, training, loss, on_step)
}

fn check_corpus(videos: &[GridVideo], frames: usize) -> Result<(usize, usize), NnError> {
    let input =
        |expected: String, got: String| NnError::Input { what: "videos of the autoencoder".into(), expected, got };
    let first = videos.first().ok_or_else(|| input("at least one".into(), "none".into()))?;
    for (index, video) in videos.iter().enumerate() {
        if (video.height, video.width) != (first.height, first.width) || video.frames() < frames {
            return Err(input(
                format!("{}x{} and at least {frames} frames", first.height, first.width),
                format!("video {index} of {}x{} and {} frames", video.height, video.width, video.frames()),
            ));
        }
    }
    Ok((first.height, first.width))
}

fn mean_image(videos: &[GridVideo], frame: usize) -> Vec<u8> {
    let mut sum = vec![0_u64; frame];
    let mut count = 0;
    for image in videos.iter().flat_map(|video| video.rgb.chunks_exact(frame)) {
        count += 1;
        sum.iter_mut().zip(image).for_each(|(sum, &value)| *sum += u64::from(value));
    }
    sum.into_iter().map(|sum| (sum / count.max(1)) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::{AutoencoderConfig, VideoAutoencoder, train_autoencoder};
    use crate::GridVideo;
    use burn::tensor::Device;
    use w2a_nn::{Init, TrainConfig, Training};

    fn moving_square(offset: usize) -> GridVideo {
        let rgb = (0..9)
            .flat_map(|frame| {
                (0..16 * 16).flat_map(move |pixel| {
                    let inside = pixel % 16 / 4 == (frame + offset) % 4 && pixel / 64 == offset % 4;
                    if inside { [250, 20, 20] } else { [90, 90, 90] }
                })
            })
            .collect();
        GridVideo { height: 16, width: 16, rgb }
    }

    #[test]
    fn patches_invert_through_their_index_map() {
        let device = Device::flex();
        let config = AutoencoderConfig { hidden: 8, ..Default::default() };
        let model = VideoAutoencoder::new(&config, &mut Init { rng: &mut w2a_data::stream(0, "t"), device: &device });
        let video = moving_square(1);
        let chunk = &video.rgb[..4 * 16 * 16 * 3];
        let patches = w2a_nn::values(model.patches(&[chunk], 16, 16, &device)).unwrap();
        let mut back = vec![0_u8; chunk.len()];
        model.each_row(1, 16, 16, |at, from, len| {
            for offset in 0..len {
                back[from + offset] = ((patches[at + offset] + 1.0) * 127.5).round() as u8;
            }
        });
        assert_eq!(back, chunk);
    }

    #[test]
    fn it_learns_to_code_a_moving_square() {
        let videos: Vec<GridVideo> = (0..4).map(moving_square).collect();
        let config = AutoencoderConfig { hidden: 32, ..Default::default() };
        let train = TrainConfig { steps: 300, batch: 8, lr: 5e-3, warmup: 5, ..Default::default() };
        let training = Training { name: "ae", dir: None, seed: 0, config: &train, depends: serde_json::Value::Null };
        let mut errors = Vec::new();
        train_autoencoder(&config, &training, &videos, &Device::flex(), |report| errors.push(report.losses[1].1))
            .unwrap();
        let (first, last) = (errors[0], errors[errors.len() - 1]);
        assert!(last < 0.2 * first, "{first} -> {last}");
    }
}
