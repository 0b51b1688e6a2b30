//! The video autoencoder of Wan 2.1, which Cosmos-Predict2 uses: `VAE_` in `tokenizers/tokenizer.py` of cosmos-predict2
//! 1.0.9.
//!
//! A video of `1 + 4 T` frames becomes `1 + T` latents: the first frame alone, then four frames each. Both directions work
//! piece by piece and remember the last frames each convolution needs, so that memory depends on the size of a picture and
//! not on the length of the video. A latent does not depend on frames after its own.

mod layers;
mod tiles;

use burn::tensor::{Device, Tensor};
use w2a_nn::{Activation, NnError};

use super::dit::Tap;
use super::source::Tensors;
use layers::{CausalConv, Downsample, FrameAttention, Norm, Past, Residual, Upsample};
pub use tiles::Tiling;

/// Residual blocks of a stage of Wan 2.1's encoder.
pub(crate) const WAN_BLOCKS: usize = 2;
/// Mean of each channel of the latents of Wan 2.1.
const MEAN: [f32; 16] = [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922,
    -0.9497, 0.2503, -0.2921,
];
/// Their spread.
const STD: [f32; 16] = [
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253,
    2.8251, 1.9160,
];

/// Sizes of a [`Vae`].
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels behind the first convolution.
    pub width: usize,
    /// Channels of the latents.
    pub channels: usize,
    /// By how much the width grows, per stage.
    pub multiples: Vec<usize>,
    /// Residual blocks of a stage of the encoder; the decoder's have one more.
    pub blocks: usize,
    /// Whether frames are halved at the end of a stage, for all stages but the last.
    pub halves_time: Vec<bool>,
    /// Mean of each channel of the latents.
    pub mean: Vec<f32>,
    /// Their spread.
    pub std: Vec<f32>,
    /// Frames that are encoded at a time, after the first.
    pub window: usize,
}

impl VaeConfig {
    /// Wan 2.1's, with the width of the first convolution in a checkpoint.
    ///
    /// # Errors
    /// A checkpoint without it.
    pub fn wan(tensors: &Tensors) -> Result<Self, NnError> {
        let [width, ..] = tensors.shape::<5>("encoder.conv1.weight")?;
        Ok(Self {
            width,
            channels: 16,
            multiples: vec![1, 2, 4, 4],
            blocks: WAN_BLOCKS,
            halves_time: vec![false, true, true],
            mean: MEAN.to_vec(),
            std: STD.to_vec(),
            window: 4,
        })
    }

    fn check(&self) -> Result<(), NnError> {
        let ok = (1..=1 << 14).contains(&self.width)
            && (1..=1 << 10).contains(&self.channels)
            && (1..=8).contains(&self.multiples.len())
            && self.multiples.iter().all(|multiple| (1..=64).contains(multiple))
            && (1..=64).contains(&self.blocks)
            && self.halves_time.len() + 1 == self.multiples.len()
            && self.mean.len() == self.channels
            && self.std.len() == self.channels
            && self.std.iter().all(|std| *std > 0.0)
            && self.window > 0
            && self.window.is_multiple_of(self.frames_per_latent());
        if ok {
            return Ok(());
        }
        Err(NnError::Input {
            what: "sizes of the video autoencoder".into(),
            expected:
                "positive sizes, one flag of halving less than stages, a mean and a positive spread for each channel, \
                       and a window that is a multiple of the frames of a latent"
                    .into(),
            got: format!("{self:?}"),
        })
    }

    /// Frames of a latent after the first.
    pub fn frames_per_latent(&self) -> usize {
        1 << self.halves_time.iter().filter(|halves| **halves).count()
    }

    /// Pixels of a latent's row and column.
    pub fn scale(&self) -> usize {
        1 << (self.multiples.len() - 1)
    }
}

/// One layer of a side.
#[derive(Clone, Debug)]
enum Layer {
    Residual(Box<Residual>),
    Attention(Box<FrameAttention>),
    Down(Downsample),
    Up(Upsample),
}

impl Layer {
    fn forward(&self, x: Tensor<4>, past: &mut Past) -> Result<Tensor<4>, NnError> {
        match self {
            Self::Residual(layer) => layer.forward(x, past),
            Self::Attention(layer) => Ok(layer.forward(x)),
            Self::Down(layer) => layer.forward(x, past),
            Self::Up(layer) => layer.forward(x, past),
        }
    }
}

/// Encoder or decoder: a convolution, named layers in turn, and a head.
#[derive(Clone, Debug)]
struct Side {
    name: &'static str,
    first: CausalConv,
    layers: Vec<(String, Layer)>,
    head: (Norm, CausalConv),
}

impl Side {
    /// `[frames, rows, columns, in]` → the next piece of the result; `tap` sees what is between, channels first.
    fn forward(&self, x: Tensor<4>, past: &mut Past, mut tap: Option<Tap>) -> Result<Tensor<4>, NnError> {
        let mut see = |name: &str, x: &Tensor<4>| {
            if let Some(tap) = &mut tap {
                tap(name, channels_first(x.clone()).flatten(0, -1));
            }
        };
        past.rewind();
        let mut x = self.first.forward(x, past)?;
        see(&format!("{}.conv1", self.name), &x);
        for (name, layer) in &self.layers {
            x = layer.forward(x, past)?;
            see(name, &x);
        }
        let (norm, conv) = &self.head;
        let x = conv.forward(norm.forward(x, Activation::Silu), past)?;
        see(&format!("{}.head", self.name), &x);
        Ok(x)
    }
}

/// `[frames, rows, columns, channels]` → `[1, channels, frames, rows, columns]`.
fn channels_first(x: Tensor<4>) -> Tensor<5> {
    x.permute([3, 0, 1, 2]).unsqueeze_dim(0)
}

/// The inverse of [`channels_first`].
fn channels_last(x: Tensor<5>) -> Tensor<4> {
    x.squeeze_dim::<4>(0).permute([1, 2, 3, 0])
}

/// Adds layers to a list, numbered as in the checkpoint.
struct Builder<'a> {
    tensors: &'a Tensors,
    device: &'a Device,
    list: &'static str,
    layers: Vec<(String, Layer)>,
    next: usize,
}

impl Builder<'_> {
    fn name(&mut self) -> String {
        self.next += 1;
        format!("{}.{}", self.list, self.next - 1)
    }

    /// Residual blocks.
    fn stage(&mut self, mut input: usize, output: usize, blocks: usize) -> Result<(), NnError> {
        for _ in 0..blocks {
            let name = self.name();
            let block = Residual::load(self.tensors, &name, input, output, self.device)?;
            self.layers.push((name, Layer::Residual(Box::new(block))));
            input = output;
        }
        Ok(())
    }

    fn attention(&mut self, channels: usize) -> Result<(), NnError> {
        let name = self.name();
        let layer = FrameAttention::load(self.tensors, &name, channels, self.device)?;
        self.layers.push((name, Layer::Attention(Box::new(layer))));
        Ok(())
    }

    /// The two residual blocks around attention where the picture is smallest.
    fn middle(&mut self, list: &'static str, channels: usize) -> Result<(), NnError> {
        let before = (std::mem::replace(&mut self.list, list), std::mem::take(&mut self.next));
        for part in 0..3 {
            match part {
                1 => self.attention(channels)?,
                _ => {
                    let name = self.name();
                    let block = Residual::load(self.tensors, &name, channels, channels, self.device)?;
                    self.layers.push((name, Layer::Residual(Box::new(block))));
                }
            }
        }
        (self.list, self.next) = before;
        Ok(())
    }
}

/// The autoencoder, its weights in memory.
#[derive(Clone, Debug)]
pub struct Vae {
    config: VaeConfig,
    encoder: Side,
    /// Behind the encoder, a product over channels.
    behind: CausalConv,
    /// Before the decoder.
    before: CausalConv,
    decoder: Side,
    device: Device,
    tiling: Option<Tiling>,
}

impl Vae {
    /// Reads the weights.
    ///
    /// # Errors
    /// Sizes out of range; tensors that are missing, of another size, or cannot be read.
    pub fn load(tensors: &Tensors, config: VaeConfig, device: &Device) -> Result<Self, NnError> {
        config.check()?;
        let channels = config.channels;
        let cell = |name: &str, n: usize| CausalConv::load(tensors, name, [n, n, 1, 1, 1], device);
        Ok(Self {
            encoder: encoder(tensors, &config, device)?,
            behind: cell("conv1", 2 * channels)?,
            before: cell("conv2", channels)?,
            decoder: decoder(tensors, &config, device)?,
            device: device.clone(),
            tiling: None,
            config,
        })
    }

    /// Works on parts of pictures that are larger than a tile.
    ///
    /// # Errors
    /// Tiles that do not fit the sizes of the autoencoder.
    pub fn with_tiling(self, tiling: Option<Tiling>) -> Result<Self, NnError> {
        if let Some(tiling) = tiling {
            tiling.check(self.config.scale())?;
        }
        Ok(Self { tiling, ..self })
    }

    /// Its sizes.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Normalised latents of a video: `frames` hands over `[3, n, rows, columns]` in `[-1, 1]` for a range of frames.
    ///
    /// # Shapes
    /// `1 + 4 T` frames → `[channels, 1 + T, rows / 8, columns / 8]` with Wan's sizes.
    ///
    /// # Errors
    /// A number of frames or a size of the picture that does not fit, or a device that fails.
    pub fn encode(
        &self,
        count: usize,
        [rows, columns]: [usize; 2],
        mut frames: impl FnMut(std::ops::Range<usize>) -> Vec<f32>,
    ) -> Result<Vec<f32>, NnError> {
        let mut means = match self.tiling.filter(|tiling| tiling.divides([rows, columns])) {
            Some(tiling) => self.encode_tiles(tiling, count, [rows, columns], &mut frames)?,
            None => self.encode_means(count, [rows, columns], &mut frames)?,
        };
        self.scale_channels(&mut means, |value, mean, std| (value - mean) * (1.0 / std));
        Ok(means)
    }

    /// Latents before they are normalised.
    fn encode_means(
        &self,
        count: usize,
        size: [usize; 2],
        frames: &mut dyn FnMut(std::ops::Range<usize>) -> Vec<f32>,
    ) -> Result<Vec<f32>, NnError> {
        let raw = self.encode_raw(count, size, frames, None, &mut |_| {})?;
        w2a_nn::values(self.means(raw)?)
    }

    /// The encoder's output before anything is done to it, `[1, 2 · channels, latents, rows, columns]`; `tap` sees the first
    /// two pieces layer by layer, `each` the result of every piece.
    pub(super) fn encode_raw(
        &self,
        count: usize,
        [rows, columns]: [usize; 2],
        frames: &mut dyn FnMut(std::ops::Range<usize>) -> Vec<f32>,
        mut tap: Option<Tap>,
        each: &mut dyn FnMut(&Tensor<5>),
    ) -> Result<Tensor<5>, NnError> {
        let (scale, per_latent) = (self.config.scale(), self.config.frames_per_latent());
        let fits = count > 0
            && (count - 1).is_multiple_of(per_latent)
            && rows > 0
            && columns > 0
            && rows.is_multiple_of(scale)
            && columns.is_multiple_of(scale);
        if !fits {
            return Err(NnError::Input {
                what: "video to encode".into(),
                expected: format!(
                    "1 + a multiple of {per_latent} frames, rows and columns that are multiples of {scale}"
                ),
                got: format!("{count} frames of {rows}x{columns}"),
            });
        }
        let mut past = Past::default();
        let mut pieces = Vec::new();
        let starts = std::iter::once(0).chain((1..count).step_by(self.config.window));
        for (piece, start) in starts.enumerate() {
            let end = if start == 0 { 1 } else { count.min(start + self.config.window) };
            let data = frames(start..end);
            let shape = [1, 3, end - start, rows, columns];
            if data.len() != shape.iter().product::<usize>() {
                return Err(NnError::Input {
                    what: format!("frames {start} to {end} of a video to encode"),
                    expected: format!("{:?} values", shape),
                    got: data.len().to_string(),
                });
            }
            let x = channels_last(w2a_nn::tensor(data, shape, &self.device));
            let out = channels_first(in_piece(&self.encoder, x, &mut past, &mut tap, piece)?);
            each(&out);
            pieces.push(out);
        }
        Ok(Tensor::cat(pieces, 2))
    }

    /// `[1, 2 · channels, ..]` of the encoder → the means, `[1, channels, ..]`.
    ///
    /// # Errors
    /// A device that fails.
    pub(super) fn means(&self, raw: Tensor<5>) -> Result<Tensor<5>, NnError> {
        let all = self.behind.forward(channels_last(raw), &mut Past::default())?;
        Ok(channels_first(all).narrow(1, 0, self.config.channels))
    }

    /// Changes `[channels, ..]` by the mean and spread of each channel.
    pub(super) fn scale_channels(&self, data: &mut [f32], change: impl Fn(f32, f32, f32) -> f32) {
        let len = (data.len() / self.config.channels).max(1);
        let statistics = self.config.mean.iter().zip(&self.config.std);
        for (channel, (mean, std)) in data.chunks_mut(len).zip(statistics) {
            channel.iter_mut().for_each(|value| *value = change(*value, *mean, *std));
        }
    }

    /// Decodes normalised latents `[channels, count, rows, columns]`; `each` gets `[3, n, 8 rows, 8 columns]` of every latent
    /// in turn, one frame for the first and four for the others with Wan's sizes. Values are not clamped.
    ///
    /// # Errors
    /// Latents that do not fit, a device that fails, or what `each` fails with.
    pub fn decode(
        &self,
        latents: &[f32],
        shape: [usize; 3],
        each: impl FnMut(Vec<f32>) -> Result<(), NnError>,
    ) -> Result<(), NnError> {
        let [_, rows, columns] = shape;
        let scale = self.config.scale();
        match self.tiling.filter(|tiling| tiling.divides([rows * scale, columns * scale])) {
            Some(tiling) => self.decode_tiles(tiling, latents, shape, each),
            None => self.decode_tapped(latents, shape, None, each),
        }
    }

    /// [`Vae::decode`]; `tap` sees the first two latents layer by layer.
    pub(super) fn decode_tapped(
        &self,
        latents: &[f32],
        [count, rows, columns]: [usize; 3],
        mut tap: Option<Tap>,
        mut each: impl FnMut(Vec<f32>) -> Result<(), NnError>,
    ) -> Result<(), NnError> {
        let channels = self.config.channels;
        let len = [channels, count, rows, columns].into_iter().try_fold(1_usize, usize::checked_mul);
        if len != Some(latents.len()) || latents.is_empty() {
            return Err(NnError::Input {
                what: "latents to decode".into(),
                expected: format!("one or more of {channels} channels: [{channels}, {count}, {rows}, {columns}]"),
                got: format!("{} values", latents.len()),
            });
        }
        let mut data = latents.to_vec();
        self.scale_channels(&mut data, |value, mean, std| value / (1.0 / std) + mean);
        let x = channels_last(w2a_nn::tensor(data, [1, channels, count, rows, columns], &self.device));
        let x = self.before.forward(x, &mut Past::default())?;
        let mut past = Past::default();
        for piece in 0..count {
            let out = in_piece(&self.decoder, x.clone().narrow(0, piece, 1), &mut past, &mut tap, piece)?;
            each(w2a_nn::values(channels_first(out))?)?;
        }
        Ok(())
    }
}

/// Passes a piece of a video through one side; of the first two, `tap` sees the layers.
fn in_piece(
    side: &Side,
    x: Tensor<4>,
    past: &mut Past,
    tap: &mut Option<Tap>,
    piece: usize,
) -> Result<Tensor<4>, NnError> {
    match tap.as_mut().filter(|_| piece < 2) {
        Some(tap) => side.forward(x, past, Some(&mut |name, value| tap(&format!("{name}.call{piece}"), value))),
        None => side.forward(x, past, None),
    }
}

fn encoder(tensors: &Tensors, config: &VaeConfig, device: &Device) -> Result<Side, NnError> {
    let first = CausalConv::load(tensors, "encoder.conv1", [config.width, 3, 3, 3, 3], device)?;
    let mut builder = Builder { tensors, device, list: "encoder.downsamples", layers: Vec::new(), next: 0 };
    let mut channels = config.width;
    for (stage, multiple) in config.multiples.iter().enumerate() {
        let output = config.width * multiple;
        builder.stage(channels, output, config.blocks)?;
        channels = output;
        if let Some(halves_time) = config.halves_time.get(stage) {
            let name = builder.name();
            let layer = Downsample::load(tensors, &name, channels, *halves_time, device)?;
            builder.layers.push((name, Layer::Down(layer)));
        }
    }
    builder.middle("encoder.middle", channels)?;
    let head = (
        Norm::load(tensors, "encoder.head.0", channels, device)?,
        CausalConv::load(tensors, "encoder.head.2", [2 * config.channels, channels, 3, 3, 3], device)?,
    );
    Ok(Side { name: "encoder", first, layers: builder.layers, head })
}

fn decoder(tensors: &Tensors, config: &VaeConfig, device: &Device) -> Result<Side, NnError> {
    let stages = config.multiples.len();
    let mut channels = config.width * config.multiples.last().copied().unwrap_or(1);
    let first = CausalConv::load(tensors, "decoder.conv1", [channels, config.channels, 3, 3, 3], device)?;
    let mut builder = Builder { tensors, device, list: "decoder.upsamples", layers: Vec::new(), next: 0 };
    builder.middle("decoder.middle", channels)?;
    for (stage, multiple) in config.multiples.iter().rev().enumerate() {
        let output = config.width * multiple;
        builder.stage(channels, output, config.blocks + 1)?;
        channels = output;
        if stage + 1 < stages {
            let doubles_time = config.halves_time.iter().rev().nth(stage).is_some_and(|halves| *halves);
            let name = builder.name();
            let layer = Upsample::load(tensors, &name, channels, doubles_time, device)?;
            builder.layers.push((name, Layer::Up(layer)));
            channels /= 2;
        }
    }
    let head = (
        Norm::load(tensors, "decoder.head.0", channels, device)?,
        CausalConv::load(tensors, "decoder.head.2", [3, channels, 3, 3, 3], device)?,
    );
    Ok(Side { name: "decoder", first, layers: builder.layers, head })
}
