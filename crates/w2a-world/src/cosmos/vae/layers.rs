//! Layers of the causal video autoencoder, which see a video piece by piece: what a convolution needs of earlier frames is
//! kept in a [`Past`]. Values lie channels-last, `[frames, rows, columns, channels]`, of one video.

use burn::tensor::{Device, Tensor};
use w2a_nn::{Activation, Grid, NnError, VideoConv, attention, unit_norm};

use crate::cosmos::source::Tensors;

/// What the layers of one network remember of a video, in the order in which they ask.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    places: Vec<Option<Vec<Tensor<4>>>>,
    next: usize,
}

impl Past {
    /// Begins the next piece.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// The frames that the layer whose turn it is remembers, the last one last; `None` at its first turn.
    fn turn(&mut self) -> &mut Option<Vec<Tensor<4>>> {
        if self.next == self.places.len() {
            self.places.push(None);
        }
        self.next += 1;
        &mut self.places[self.next - 1]
    }
}

/// The last `count` frames of `before` and `x`, or as many as there are, in memory of their own: they outlive `x`.
fn last_frames(before: &[Tensor<4>], x: &Tensor<4>, count: usize) -> Vec<Tensor<4>> {
    let frames = x.dims()[0];
    let older = before.len().min(count.saturating_sub(frames));
    let mut last = before.iter().skip(before.len() - older).cloned().collect::<Vec<_>>();
    for index in frames.saturating_sub(count)..frames {
        let frame = x.clone().narrow(0, index, 1);
        // A sum is no view of all of `x`.
        last.push(frame.zeros_like() + frame);
    }
    last
}

/// `torch.nn.Conv3d` of kernel `[time, side, side]` that looks at earlier frames only (`CausalConv3d`).
///
/// Before the first frame there are zeros.
#[derive(Clone, Debug)]
pub(super) struct CausalConv(VideoConv);

impl CausalConv {
    /// `shape` is that of the weight, `[out, in, time, side, side]`.
    pub fn load(tensors: &Tensors, name: &str, shape: [usize; 5], device: &Device) -> Result<Self, NnError> {
        Self::strided(tensors, name, shape, 1, device)
    }

    /// Computes every `stride`-th frame.
    fn strided(
        tensors: &Tensors,
        name: &str,
        shape: [usize; 5],
        stride: usize,
        device: &Device,
    ) -> Result<Self, NnError> {
        let weight = tensors.float(&format!("{name}.weight"), shape, device)?;
        let bias = tensors.float(&format!("{name}.bias"), [shape[0]], device)?;
        Ok(Self(VideoConv::new(weight, bias, stride, Grid::Same)?))
    }

    /// `[frames, rows, columns, in]` → `[frames, rows, columns, out]`.
    pub fn forward(&self, x: Tensor<4>, past: &mut Past) -> Result<Tensor<4>, NnError> {
        if self.0.frames_before() == 0 { self.0.forward(x, &[]) } else { self.after(x, past.turn()) }
    }

    /// After the frames that are remembered, which are replaced by the last ones of these.
    fn after(&self, x: Tensor<4>, past: &mut Option<Vec<Tensor<4>>>) -> Result<Tensor<4>, NnError> {
        let before = past.take().unwrap_or_default();
        *past = Some(last_frames(&before, &x, self.0.frames_before()));
        self.0.forward(x, &before)
    }
}

/// Divides by the length of the vector of channels (`RMS_norm`): `x / |x| * sqrt(channels) * gamma`.
#[derive(Clone, Debug)]
pub(super) struct Norm(Tensor<1>);

impl Norm {
    pub fn load(tensors: &Tensors, name: &str, channels: usize, device: &Device) -> Result<Self, NnError> {
        Ok(Self(tensors.float(&format!("{name}.gamma"), [channels], device)?))
    }

    /// `[.., channels]` → the same shape.
    pub fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        unit_norm(x, &self.0, activation)
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

    pub fn forward(&self, x: Tensor<4>, past: &mut Past) -> Result<Tensor<4>, NnError> {
        let short = match &self.shortcut {
            Some(conv) => conv.forward(x.clone(), past)?,
            None => x.clone(),
        };
        let mut layers = self.norms.iter().zip(&self.convs);
        let long = layers.try_fold(x, |x, (norm, conv)| conv.forward(norm.forward(x, Activation::Silu), past))?;
        Ok(long + short)
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

    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [frames, rows, columns, channels] = x.dims();
        let places = rows * columns;
        let linear = |x: Tensor<4>, (weight, bias): &(Tensor<2>, Tensor<1>)| {
            let [output, input] = weight.dims();
            let flat = x.reshape([frames * places, input]);
            w2a_nn::linear(flat, weight.clone(), Some(bias.clone())).reshape([frames, places, output])
        };
        let all: Tensor<3> = linear(self.norm.forward(x.clone(), Activation::Identity), &self.inputs);
        let part = |index: usize| all.clone().narrow(2, index * channels, channels).unsqueeze_dim::<4>(1);
        let mixed = attention(part(0), part(1), part(2), None, None);
        linear(mixed, &self.output).reshape([frames, rows, columns, channels]) + x
    }
}

/// Halves rows and columns, and frames if it has a convolution over time.
#[derive(Clone, Debug)]
pub(super) struct Downsample {
    conv: VideoConv,
    time: Option<CausalConv>,
}

/// A convolution `[out, in, 3, 3]` over frames.
fn frame_conv(
    tensors: &Tensors,
    name: &str,
    [output, input]: [usize; 2],
    grid: Grid,
    device: &Device,
) -> Result<VideoConv, NnError> {
    let weight: Tensor<4> = tensors.float(&format!("{name}.resample.1.weight"), [output, input, 3, 3], device)?;
    let bias = tensors.float(&format!("{name}.resample.1.bias"), [output], device)?;
    VideoConv::new(weight.unsqueeze_dim(2), bias, 1, grid)
}

impl Downsample {
    pub fn load(
        tensors: &Tensors,
        name: &str,
        channels: usize,
        has_time: bool,
        device: &Device,
    ) -> Result<Self, NnError> {
        let shape = [channels, channels, 3, 1, 1];
        let time = || CausalConv::strided(tensors, &format!("{name}.time_conv"), shape, 2, device);
        let time = if has_time { Some(time()?) } else { None };
        Ok(Self { conv: frame_conv(tensors, name, [channels; 2], Grid::Halved, device)?, time })
    }

    pub fn forward(&self, x: Tensor<4>, past: &mut Past) -> Result<Tensor<4>, NnError> {
        let x = self.conv.forward(x, &[])?;
        let Some(time) = &self.time else { return Ok(x) };
        let past = past.turn();
        if past.is_none() {
            // The first piece, a single frame, is only remembered.
            *past = Some(last_frames(&[], &x, 1));
            return Ok(x);
        }
        time.after(x, past)
    }
}

/// Doubles rows and columns and halves the channels; doubles frames if it has a convolution over time.
#[derive(Clone, Debug)]
pub(super) struct Upsample {
    conv: VideoConv,
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
        Ok(Self { conv: frame_conv(tensors, name, [channels / 2, channels], Grid::Doubled, device)?, time })
    }

    pub fn forward(&self, x: Tensor<4>, past: &mut Past) -> Result<Tensor<4>, NnError> {
        let x = match &self.time {
            Some(time) => in_time(x, time, past.turn())?,
            None => x,
        };
        self.conv.forward(x, &[])
    }
}

/// Two frames from each, except for the first of a video, which stays one and which later frames do not see.
fn in_time(x: Tensor<4>, time: &CausalConv, past: &mut Option<Vec<Tensor<4>>>) -> Result<Tensor<4>, NnError> {
    if past.is_none() {
        *past = Some(Vec::new());
        return Ok(x);
    }
    let [frames, rows, columns, channels] = x.dims();
    let doubled = time.after(x, past)?;
    // The channels are those of the first, then those of the second frame.
    let doubled: Tensor<5> = doubled.reshape([frames, rows, columns, 2, channels]).permute([0, 3, 1, 2, 4]);
    Ok(doubled.reshape([2 * frames, rows, columns, channels]))
}
