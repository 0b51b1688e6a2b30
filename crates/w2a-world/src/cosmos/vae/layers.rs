//! Layers of the causal video autoencoder, which see a video piece by piece: what a convolution needs of earlier frames is
//! kept in a [`Past`].

use burn::tensor::module::{conv2d, conv3d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use w2a_nn::{Activation, NnError, activate, attention};

use crate::cosmos::source::Tensors;

/// What the layers of one network remember of a video, in the order in which they ask.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    frames: Vec<Option<Tensor<5>>>,
    next: usize,
}

impl Past {
    /// Begins the next piece.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// The place of the layer whose turn it is.
    fn turn(&mut self) -> &mut Option<Tensor<5>> {
        if self.next == self.frames.len() {
            self.frames.push(None);
        }
        self.next += 1;
        &mut self.frames[self.next - 1]
    }
}

/// `torch.nn.Conv3d` of kernel `[time, side, side]` that looks at earlier frames only (`CausalConv3d`).
///
/// Before the first frame there are zeros.
#[derive(Clone, Debug)]
pub(super) struct CausalConv {
    weight: Tensor<5>,
    bias: Tensor<1>,
}

impl CausalConv {
    /// `shape` is that of the weight, `[out, in, time, side, side]`.
    pub fn load(tensors: &Tensors, name: &str, shape: [usize; 5], device: &Device) -> Result<Self, NnError> {
        let weight = tensors.float(&format!("{name}.weight"), shape, device)?;
        Ok(Self { weight, bias: tensors.float(&format!("{name}.bias"), [shape[0]], device)? })
    }

    /// `[1, in, frames, rows, columns]` → `[1, out, frames, rows, columns]`.
    pub fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let [_, _, time, ..] = self.weight.dims();
        if time == 1 {
            return self.on_whole(x);
        }
        let x = with_past(x, time - 1, past.turn());
        self.on_whole(x)
    }

    /// Without a past: the result is shorter by all but one frame of the kernel.
    fn on_whole(&self, x: Tensor<5>) -> Tensor<5> {
        self.strided(x, 1)
    }

    fn strided(&self, x: Tensor<5>, stride: usize) -> Tensor<5> {
        let [.., rows, columns] = self.weight.dims();
        let options = ConvOptions::new([stride, 1, 1], [0, rows / 2, columns / 2], [1, 1, 1], 1);
        conv3d(x, self.weight.clone(), Some(self.bias.clone()), options)
    }
}

/// `x` after the last `count` frames before it, zeros where there are none; they are replaced by the last ones of the result.
fn with_past(x: Tensor<5>, count: usize, past: &mut Option<Tensor<5>>) -> Tensor<5> {
    let [batch, channels, _, rows, columns] = x.dims();
    let before = past.take().unwrap_or_else(|| Tensor::zeros([batch, channels, count, rows, columns], &x.device()));
    let joined = Tensor::cat(vec![before, x], 2);
    let frames = joined.dims()[2];
    *past = Some(joined.clone().narrow(2, frames - count, count));
    joined
}

/// Divides by the length of the vector of channels (`RMS_norm`): `x / |x| * sqrt(channels) * gamma`.
#[derive(Clone, Debug)]
pub(super) struct Norm(Tensor<1>);

impl Norm {
    pub fn load(tensors: &Tensors, name: &str, channels: usize, device: &Device) -> Result<Self, NnError> {
        Ok(Self(tensors.float(&format!("{name}.gamma"), [channels], device)?))
    }

    /// `[1, channels, ..]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let channels = x.dims()[1];
        let mut shape = [1; D];
        shape[1] = channels;
        let length = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
        x / length * (self.0.clone() * (channels as f32).sqrt()).reshape(shape)
    }
}

/// Norm, SiLU and convolution, twice, around a shortcut.
#[derive(Clone, Debug)]
pub(super) struct Residual {
    norms: [Norm; 2],
    convs: [CausalConv; 2],
    shortcut: Option<CausalConv>,
}

impl Residual {
    pub fn load(tensors: &Tensors, name: &str, input: usize, output: usize, device: &Device) -> Result<Self, NnError> {
        let norm = |place: usize, channels| Norm::load(tensors, &format!("{name}.residual.{place}"), channels, device);
        let conv = |place: usize, channels| {
            CausalConv::load(tensors, &format!("{name}.residual.{place}"), [output, channels, 3, 3, 3], device)
        };
        let shortcut = || CausalConv::load(tensors, &format!("{name}.shortcut"), [output, input, 1, 1, 1], device);
        Ok(Self {
            norms: [norm(0, input)?, norm(3, output)?],
            convs: [conv(2, input)?, conv(6, output)?],
            shortcut: if input == output { None } else { Some(shortcut()?) },
        })
    }

    pub fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let short = match &self.shortcut {
            Some(conv) => conv.forward(x.clone(), past),
            None => x.clone(),
        };
        let layers = self.norms.iter().zip(&self.convs);
        layers.fold(x, |x, (norm, conv)| conv.forward(activate(norm.forward(x), Activation::Silu), past)) + short
    }
}

/// Attention with one head over the places of a frame, frame by frame.
#[derive(Clone, Debug)]
pub(super) struct FrameAttention {
    norm: Norm,
    /// `[3 · channels, channels]` and `[3 · channels]`.
    inputs: (Tensor<2>, Tensor<1>),
    /// `[channels, channels]` and `[channels]`.
    output: (Tensor<2>, Tensor<1>),
}

impl FrameAttention {
    pub fn load(tensors: &Tensors, name: &str, channels: usize, device: &Device) -> Result<Self, NnError> {
        let linear = |part: &str, output: usize| -> Result<(Tensor<2>, Tensor<1>), NnError> {
            let weight = tensors.float(&format!("{name}.{part}.weight"), [output, channels, 1, 1], device)?;
            let bias = tensors.float(&format!("{name}.{part}.bias"), [output], device)?;
            Ok((weight.reshape([output, channels]), bias))
        };
        Ok(Self {
            norm: Norm::load(tensors, &format!("{name}.norm"), channels, device)?,
            inputs: linear("to_qkv", 3 * channels)?,
            output: linear("proj", channels)?,
        })
    }

    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let [batch, channels, frames, rows, columns] = x.dims();
        let places = rows * columns;
        let linear = |x: Tensor<3>, (weight, bias): &(Tensor<2>, Tensor<1>)| {
            let [output, input] = weight.dims();
            let flat = x.reshape([frames * places, input]);
            w2a_nn::linear(flat, weight.clone(), Some(bias.clone())).reshape([frames, places, output])
        };
        // [frames, places, channels]; there is one video.
        let tokens = self.norm.forward(x.clone()).reshape([channels, frames, places]).permute([1, 2, 0]);
        let all = linear(tokens, &self.inputs);
        let part = |index: usize| all.clone().narrow(2, index * channels, channels).unsqueeze_dim::<4>(1);
        let mixed = attention(part(0), part(1), part(2), None, None);
        let out = linear(mixed.reshape([frames, places, channels]), &self.output);
        out.permute([2, 0, 1]).reshape([batch, channels, frames, rows, columns]) + x
    }
}

/// Halves rows and columns, and frames if it has a convolution over time.
#[derive(Clone, Debug)]
pub(super) struct Downsample {
    conv: (Tensor<4>, Tensor<1>),
    time: Option<CausalConv>,
}

/// A convolution `[out, in, 3, 3]` over frames.
fn frame_conv(
    tensors: &Tensors,
    name: &str,
    output: usize,
    input: usize,
    device: &Device,
) -> Result<(Tensor<4>, Tensor<1>), NnError> {
    let weight = tensors.float(&format!("{name}.resample.1.weight"), [output, input, 3, 3], device)?;
    Ok((weight, tensors.float(&format!("{name}.resample.1.bias"), [output], device)?))
}

/// `[1, channels, frames, rows, columns]` → `[frames, channels, rows, columns]`.
fn frames_first(x: Tensor<5>) -> Tensor<4> {
    let [_, channels, frames, rows, columns] = x.dims();
    x.swap_dims(1, 2).reshape([frames, channels, rows, columns])
}

/// The inverse of [`frames_first`].
fn channels_first(x: Tensor<4>) -> Tensor<5> {
    x.unsqueeze_dim::<5>(0).swap_dims(1, 2)
}

impl Downsample {
    pub fn load(
        tensors: &Tensors,
        name: &str,
        channels: usize,
        has_time: bool,
        device: &Device,
    ) -> Result<Self, NnError> {
        let time = || CausalConv::load(tensors, &format!("{name}.time_conv"), [channels, channels, 3, 1, 1], device);
        let time = if has_time { Some(time()?) } else { None };
        Ok(Self { conv: frame_conv(tensors, name, channels, channels, device)?, time })
    }

    pub fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        // Zeros below and to the right, none above and to the left.
        let padded = frames_first(x).pad((0, 1, 0, 1), 0.0);
        let (weight, bias) = &self.conv;
        let options = ConvOptions::new([2, 2], [0, 0], [1, 1], 1);
        let x = channels_first(conv2d(padded, weight.clone(), Some(bias.clone()), options));
        let Some(time) = &self.time else { return x };
        let before = past.turn();
        let last = x.clone().narrow(2, x.dims()[2] - 1, 1);
        // The first piece, a single frame, is only remembered.
        match before.replace(last) {
            None => x,
            Some(before) => time.strided(Tensor::cat(vec![before, x], 2), 2),
        }
    }
}

/// Doubles rows and columns and halves the channels; doubles frames if it has a convolution over time.
#[derive(Clone, Debug)]
pub(super) struct Upsample {
    conv: (Tensor<4>, Tensor<1>),
    time: Option<CausalConv>,
}

impl Upsample {
    pub fn load(
        tensors: &Tensors,
        name: &str,
        channels: usize,
        has_time: bool,
        device: &Device,
    ) -> Result<Self, NnError> {
        let shape = [2 * channels, channels, 3, 1, 1];
        let time = || CausalConv::load(tensors, &format!("{name}.time_conv"), shape, device);
        let time = if has_time { Some(time()?) } else { None };
        Ok(Self { conv: frame_conv(tensors, name, channels / 2, channels, device)?, time })
    }

    pub fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let x = match &self.time {
            Some(time) => in_time(x, time, past.turn()),
            None => x,
        };
        let [_, channels, frames, rows, columns] = x.dims();
        // Every pixel becomes four of itself.
        let pixels = frames_first(x).reshape([frames * channels, rows, 1, columns, 1]);
        let doubled = pixels.expand([frames * channels, rows, 2, columns, 2]);
        let doubled = doubled.reshape([frames, channels, 2 * rows, 2 * columns]);
        let (weight, bias) = &self.conv;
        let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
        channels_first(conv2d(doubled, weight.clone(), Some(bias.clone()), options))
    }
}

/// Two frames from each, except for the first of a video, which stays one and which later frames do not see.
fn in_time(x: Tensor<5>, time: &CausalConv, past: &mut Option<Tensor<5>>) -> Tensor<5> {
    let [_, channels, frames, rows, columns] = x.dims();
    if past.is_none() {
        *past = Some(Tensor::zeros([1, channels, 2, rows, columns], &x.device()));
        return x;
    }
    let doubled = time.on_whole(with_past(x, 2, past));
    // The channels are those of the first, then those of the second frame.
    let doubled: Tensor<5> = doubled.reshape([2, channels, frames, rows, columns]).permute([1, 2, 0, 3, 4]);
    doubled.reshape([1, channels, 2 * frames, rows, columns])
}
