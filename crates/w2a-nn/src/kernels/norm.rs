//! Group normalisation and activation of channels-last images in few passes over the cache, forward and backward.

use pulp::{Arch, Simd, WithSimd};

use super::activation::{Activation, gelu, gelu_tanh, identity, relu, silu};
use super::product::padded;

/// PyTorch's epsilon of `GroupNorm`.
const EPS: f64 = 1e-5;

/// Rows that are summed in f32 before the sum goes on in f64: keeps long sums exact without slowing them down.
const BLOCK: usize = 64;

/// A normalisation's learnt values, padded to whole vectors with zeros.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    /// Channels of a group.
    width: usize,
    /// Real channels; a multiple of `width`.
    channels: usize,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Affine {
    pub(crate) fn new(groups: usize, gamma: &[f32], beta: &[f32]) -> Self {
        let pad = |values: &[f32]| {
            let mut out = values.to_vec();
            out.resize(padded(values.len()), 0.0);
            out
        };
        Self { width: gamma.len() / groups, channels: gamma.len(), gamma: pad(gamma), beta: pad(beta) }
    }

    /// Values of a group in an image of `len` values.
    fn count(&self, len: usize) -> f64 {
        (len / self.gamma.len() * self.width) as f64
    }

    /// Replaces each channel's sum by `f` of its group's.
    fn per_group(&self, sums: &mut [f64], f: impl Fn(f64) -> f64) {
        for group in sums[..self.channels].chunks_exact_mut(self.width) {
            let value = f(group.iter().sum());
            group.fill(value);
        }
    }
}

/// Room for a few values per channel, used again and again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    part: Vec<f32>,
    sums: [Vec<f64>; 2],
    factors: [Vec<f32>; 4],
}

impl Scratch {
    fn of(&mut self, channels: usize) -> &mut Self {
        self.part.resize(channels, 0.0);
        self.sums.iter_mut().for_each(|sums| sums.resize(channels, 0.0));
        self.factors.iter_mut().for_each(|factors| factors.resize(channels, 0.0));
        self
    }
}

/// What [`ChannelSums`] adds up.
#[derive(Clone, Copy, Debug)]
enum Term<'a> {
    /// `value - centre`
    Offset,
    /// `(value - centre)^2`
    Square,
    /// `(value - centre) other`
    Product(&'a [f32]),
}

/// Sets `total` to sums over the cells of an image, per channel.
// A struct with `with_simd`, here and below, for closures are not always inlined into the vector code.
struct ChannelSums<'a> {
    image: &'a [f32],
    centre: &'a [f32],
    term: Term<'a>,
    part: &'a mut [f32],
    total: &'a mut [f64],
}

impl WithSimd for ChannelSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { image, centre, term, part, total } = self;
        let channels = centre.len();
        total.fill(0.0);
        let mut start = 0;
        for block in image.chunks(BLOCK * channels) {
            part.fill(0.0);
            let rows = block.chunks_exact(channels);
            match term {
                Term::Offset => {
                    for row in rows {
                        for ((sum, &value), &centre) in part.iter_mut().zip(row).zip(centre) {
                            *sum += value - centre;
                        }
                    }
                }
                Term::Square => {
                    for row in rows {
                        for ((sum, &value), &centre) in part.iter_mut().zip(row).zip(centre) {
                            *sum = (value - centre).mul_add(value - centre, *sum);
                        }
                    }
                }
                Term::Product(other) => {
                    for (row, other) in rows.zip(other[start..].chunks_exact(channels)) {
                        for (((sum, &value), &centre), &other) in part.iter_mut().zip(row).zip(centre).zip(other) {
                            *sum = (value - centre).mul_add(other, *sum);
                        }
                    }
                }
            }
            start += block.len();
            total.iter_mut().zip(&*part).for_each(|(total, &part)| *total += f64::from(part));
        }
    }
}

/// Sets `out` to each channel's mean and inverse deviation, `[2, channels]`, those of its group in one image.
pub(crate) fn moments(arch: Arch, affine: &Affine, image: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    let channels = affine.gamma.len();
    let Scratch { part, sums: [total, _], factors: [pivot, ..] } = scratch.of(channels);
    let count = affine.count(image.len());
    // Sums are taken relative to one value of each group: a constant image has a variance of exactly zero.
    pivot.fill(0.0);
    let groups = pivot[..affine.channels].chunks_exact_mut(affine.width);
    groups.zip(image.chunks_exact(affine.width)).for_each(|(pivot, first)| pivot.fill(first[0]));
    arch.dispatch(ChannelSums { image, centre: pivot, term: Term::Offset, part, total });
    affine.per_group(total, |sum| sum / count);
    let (mean, inverse) = out.split_at_mut(channels);
    for ((mean, &pivot), &offset) in mean.iter_mut().zip(&*pivot).zip(&*total) {
        *mean = (f64::from(pivot) + offset) as f32;
    }
    arch.dispatch(ChannelSums { image, centre: mean, term: Term::Square, part, total });
    affine.per_group(total, |sum| 1.0 / (sum / count + EPS).sqrt());
    inverse.iter_mut().zip(&*total).for_each(|(inverse, &value)| *inverse = value as f32);
}

/// `value` and `slope` of the activation of the image, normalised by its moments if there are any.
///
/// `slope` may be empty if it is not needed.
pub(crate) fn normalise_activate(
    arch: Arch,
    norm: Option<(&Affine, &[f32])>,
    activation: Activation,
    image: &[f32],
    value: &mut [f32],
    slope: &mut [f32],
    scratch: &mut Scratch,
) {
    let channels = norm.map_or(padded(1), |(affine, _)| affine.gamma.len());
    let Scratch { factors: [scale, zeros, ones, _], .. } = scratch.of(channels);
    let (centre, scale, shift) = match norm {
        None => {
            // Any width will do without a normalisation.
            zeros.fill(0.0);
            ones.fill(1.0);
            (&zeros[..], &ones[..], &zeros[..])
        }
        Some((affine, moments)) => {
            let (mean, inverse) = moments.split_at(channels);
            for ((scale, inverse), gamma) in scale.iter_mut().zip(inverse).zip(&affine.gamma) {
                *scale = inverse * gamma;
            }
            (mean, &scale[..], &affine.beta[..])
        }
    };
    let input = Activate { centre, scale, shift, image, value, slope, function: identity };
    match activation {
        Activation::Identity => arch.dispatch(input),
        Activation::Relu => arch.dispatch(input.by(relu)),
        Activation::Gelu => arch.dispatch(input.by(gelu)),
        Activation::GeluTanh => arch.dispatch(input.by(gelu_tanh)),
        Activation::Silu => arch.dispatch(input.by(silu)),
    }
}

struct Activate<'a, F> {
    centre: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    image: &'a [f32],
    value: &'a mut [f32],
    slope: &'a mut [f32],
    function: F,
}

impl<'a, F> Activate<'a, F> {
    /// The same with another function.
    fn by<G>(self, function: G) -> Activate<'a, G> {
        let Self { centre, scale, shift, image, value, slope, .. } = self;
        Activate { centre, scale, shift, image, value, slope, function }
    }
}

impl<F: Fn(f32) -> (f32, f32)> WithSimd for Activate<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { centre, scale, shift, image, value, slope, function } = self;
        let channels = centre.len();
        let (scale, shift) = (&scale[..channels], &shift[..channels]);
        if slope.is_empty() {
            for (value, row) in value.chunks_exact_mut(channels).zip(image.chunks_exact(channels)) {
                for channel in 0..channels {
                    let x = (row[channel] - centre[channel]).mul_add(scale[channel], shift[channel]);
                    value[channel] = function(x).0;
                }
            }
            return;
        }
        let rows = value.chunks_exact_mut(channels).zip(slope.chunks_exact_mut(channels));
        for ((value, slope), row) in rows.zip(image.chunks_exact(channels)) {
            for channel in 0..channels {
                let x = (row[channel] - centre[channel]).mul_add(scale[channel], shift[channel]);
                (value[channel], slope[channel]) = function(x);
            }
        }
    }
}

/// Sums of gradients of the learnt values over images, `[channels]` each.
#[derive(Clone, Debug)]
pub(crate) struct AffineGradient {
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
}

/// Turns the gradient of an image's activated values into that of the image, in place.
///
/// `slope` is the activation's slope; what it adds to the gradient of gamma and beta is added to the third of `norm`.
pub(crate) fn backward(
    arch: Arch,
    norm: Option<(&Affine, &[f32], &mut AffineGradient)>,
    image: &[f32],
    slope: &[f32],
    gradient: &mut [f32],
    scratch: &mut Scratch,
) {
    gradient.iter_mut().zip(slope).for_each(|(gradient, &slope)| *gradient *= slope);
    let Some((affine, moments, sums)) = norm else { return };
    let channels = affine.gamma.len();
    let (centre, inverse) = moments.split_at(channels);
    let Scratch { part, sums: [beta, gamma], factors: [direct, constant, along, zeros] } = scratch.of(channels);
    zeros.fill(0.0);
    arch.dispatch(ChannelSums { image: gradient, centre: zeros, term: Term::Offset, part, total: beta });
    arch.dispatch(ChannelSums { image, centre, term: Term::Product(gradient), part, total: gamma });
    gamma.iter_mut().zip(inverse).for_each(|(sum, &inverse)| *sum *= f64::from(inverse));
    sums.beta.iter_mut().zip(&*beta).for_each(|(sum, more)| *sum += more);
    sums.gamma.iter_mut().zip(&*gamma).for_each(|(sum, more)| *sum += more);
    // dx = inverse (g - mean(g) - xhat mean(g xhat)) with g = gamma dy, means over the group.
    let count = affine.count(image.len());
    for sums in [&mut *beta, &mut *gamma] {
        sums.iter_mut().zip(&affine.gamma).for_each(|(sum, &gamma)| *sum *= f64::from(gamma));
        affine.per_group(sums, |sum| sum / count);
    }
    for channel in 0..channels {
        direct[channel] = inverse[channel] * affine.gamma[channel];
        constant[channel] = -inverse[channel] * beta[channel] as f32;
        along[channel] = -inverse[channel] * inverse[channel] * gamma[channel] as f32;
    }
    arch.dispatch(Combine { centre, direct, constant, along, image, gradient });
}

/// `gradient = direct gradient + along (image - centre) + constant`, each factor per channel.
struct Combine<'a> {
    centre: &'a [f32],
    direct: &'a [f32],
    constant: &'a [f32],
    along: &'a [f32],
    image: &'a [f32],
    gradient: &'a mut [f32],
}

impl WithSimd for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let channels = self.centre.len();
        let (centre, direct) = (self.centre, &self.direct[..channels]);
        let (constant, along) = (&self.constant[..channels], &self.along[..channels]);
        for (gradient, row) in self.gradient.chunks_exact_mut(channels).zip(self.image.chunks_exact(channels)) {
            for channel in 0..channels {
                let offset = row[channel] - centre[channel];
                let linear = along[channel].mul_add(offset, constant[channel]);
                gradient[channel] = direct[channel].mul_add(gradient[channel], linear);
            }
        }
    }
}

/// Adds sums over the cells of images `[cells, channels]` to `sums`, `[channels]`.
pub(crate) fn add_channel_sums(arch: Arch, images: &[f32], sums: &mut [f64], scratch: &mut Scratch) {
    let Scratch { part, sums: [total, _], factors: [zeros, ..] } = scratch.of(sums.len());
    zeros.fill(0.0);
    arch.dispatch(ChannelSums { image: images, centre: zeros, term: Term::Offset, part, total });
    sums.iter_mut().zip(&*total).for_each(|(sum, more)| *sum += more);
}
