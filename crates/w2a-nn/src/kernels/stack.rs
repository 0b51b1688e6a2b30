//! A stack of convolutions with normalisations and activations, image by image through the cache.
//!
//! PyTorch and burn run one operation over the whole batch, then the next: at 60x104 every one of them reads and writes
//! hundreds of megabytes. Here a group of few images passes through all layers while its values are in the cache, and only
//! what the backward pass needs is kept: the convolutions' results, from which activations are computed again. A linear
//! layer is a convolution of a single cell, so multi-layer perceptrons are stacks too.
//!
//! The batch is split into parts whose number depends on nothing but the batch, and what the parts add up is added in their
//! order: the result has the same bits for any number of threads.

use std::sync::OnceLock;

use pulp::Arch;
use rayon::prelude::*;

use super::activation::Activation;
use super::geometry::{Class, Layout, Window, backward_classes, forward_classes};
use super::norm::{self, Affine, Scratch};
use super::pack::{self, Sums, transpose};
use super::product::{Panels, SLACK, gather_outer, gather_product, padded};
use super::recycle::Buffer;

/// Parts of a batch that run side by side, at most.
const PARTS: usize = 8;

/// Multiplications of the forward pass that are worth a part of their own: waking a thread and adding up its gradients
/// costs as much as a million.
const PART_WORK: usize = 2_000_000;

/// Bytes of activations that a group of images may fill.
const GROUP_BYTES: usize = 512 << 10;

/// Cells whose products with their gradients are summed before the sums go back to the cache.
const OUTER_BLOCK: usize = 128;

/// One layer of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Kernel, stride and padding.
    pub window: Window,
    /// Groups of a group normalisation before the activation.
    pub groups: Option<usize>,
    /// What follows.
    pub activation: Activation,
}

/// The parameters of a layer, row-major.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters<'a> {
    /// `[out, in, rows, columns]`.
    pub weight: &'a [f32],
    /// `[out]`.
    pub bias: &'a [f32],
    /// Gamma and beta, `[out]` each, if the layer normalises.
    pub affine: Option<(&'a [f32], &'a [f32])>,
}

/// Gradients of a layer's parameters, as [`Parameters`].
#[derive(Clone, Debug)]
pub(crate) struct Gradients {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub affine: Option<(Vec<f32>, Vec<f32>)>,
}

/// A layer's shapes.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) layer: Layer,
    /// Channels without padding.
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) from: Layout,
    pub(super) to: Layout,
    forward: Vec<Class>,
    /// Made when the first backward pass asks for them.
    backward: OnceLock<Vec<Class>>,
}

impl Shape {
    /// Rows of the weights as a matrix, in the order of the forward product.
    pub(super) fn depth(&self) -> usize {
        let [rows, columns] = self.layer.window.kernel;
        rows * columns * self.from.channels
    }
}

/// Everything about a stack that follows from shapes alone.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    arch: Arch,
    shapes: Vec<Shape>,
    images: usize,
    /// Images of a part, and of a group inside it.
    part: usize,
    group: usize,
    /// Whether the result is the mean over cells.
    pool: bool,
}

/// What the backward pass needs of one part: every convolution's result and its moments, image by image.
#[derive(Debug, Default)]
struct Kept {
    images: Vec<Buffer>,
    moments: Vec<Buffer>,
}

/// What the backward pass needs of a batch.
#[derive(Debug)]
pub(crate) struct Saved {
    parts: Vec<Kept>,
}

/// Weights ready for the products of one direction, and what goes with them.
#[derive(Debug)]
pub(crate) struct Packed {
    weights: Vec<Panels>,
    biases: Vec<Vec<f32>>,
    affine: Vec<Option<Affine>>,
}

impl Plan {
    /// The plan for `images` images `[channels, rows, columns]`; `outputs` are the layers' channels.
    ///
    /// `None` if a kernel does not fit its image, a normalisation's groups do not divide its channels, or there is nothing to
    /// do.
    pub(crate) fn new(
        images: usize,
        channels: usize,
        size: [usize; 2],
        layers: &[Layer],
        outputs: &[usize],
        pool: bool,
    ) -> Option<Self> {
        let (mut input, mut from) = (channels, Layout { size, channels });
        let mut steps = Vec::new();
        for (layer, &output) in layers.iter().zip(outputs) {
            let to = Layout { size: layer.window.output(from.size)?, channels: padded(output) };
            if layer.groups.is_some_and(|groups| groups == 0 || !output.is_multiple_of(groups)) || output == 0 {
                return None;
            }
            steps.push((*layer, input, output, from, to));
            (input, from) = (output, to);
        }
        if images == 0 || channels == 0 || steps.is_empty() {
            return None;
        }
        let work: usize = steps
            .iter()
            .map(|(layer, _, _, from, to)| layer.window.kernel.iter().product::<usize>() * from.channels * to.len())
            .sum();
        let part = images.div_ceil((images * work / PART_WORK).clamp(1, PARTS));
        let bytes = size_of::<f32>() * steps.iter().map(|(.., from, to)| from.len().max(to.len())).sum::<usize>();
        let group = (GROUP_BYTES / bytes).clamp(1, part);
        let shape = |(layer, input, output, from, to): (Layer, usize, usize, Layout, Layout)| Shape {
            layer,
            input,
            output,
            from,
            to,
            forward: forward_classes(&layer.window, from, to, group),
            backward: OnceLock::new(),
        };
        Some(Self { arch: Arch::new(), shapes: steps.into_iter().map(shape).collect(), images, part, group, pool })
    }

    /// Values of one input image.
    pub(crate) fn input_len(&self) -> usize {
        let first = &self.shapes[0];
        first.input * first.from.size[0] * first.from.size[1]
    }

    /// The layers it was made for.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.shapes.iter().map(|shape| &shape.layer)
    }

    fn last(&self) -> &Shape {
        &self.shapes[self.shapes.len() - 1]
    }

    /// Channels, rows and columns of the result; one cell if it is pooled.
    pub(crate) fn output(&self) -> [usize; 3] {
        let last = self.last();
        let [rows, columns] = if self.pool { [1, 1] } else { last.to.size };
        [last.output, rows, columns]
    }

    /// Weights in the order of one direction.
    pub(crate) fn pack(&self, parameters: &[Parameters], backward: bool) -> Packed {
        let weights = self.shapes.iter().zip(parameters).map(|(shape, parameters)| {
            if backward {
                pack::backward(self.arch, shape, parameters.weight)
            } else {
                pack::forward(self.arch, shape, parameters.weight)
            }
        });
        let bias = |(shape, parameters): (&Shape, &Parameters)| {
            let mut bias = parameters.bias.to_vec();
            bias.resize(shape.to.channels, 0.0);
            bias
        };
        let affine = |(shape, parameters): (&Shape, &Parameters)| {
            let (groups, (gamma, beta)) = shape.layer.groups.zip(parameters.affine)?;
            Some(Affine::new(groups, gamma, beta))
        };
        Packed {
            weights: weights.collect(),
            biases: self.shapes.iter().zip(parameters).map(bias).collect(),
            affine: self.shapes.iter().zip(parameters).map(affine).collect(),
        }
    }

    /// The result `[images, channels, rows, columns]` and, if `keep` is set, what [`Plan::backward`] needs.
    pub(crate) fn forward(&self, x: &[f32], packed: &Packed, keep: bool) -> (Vec<f32>, Option<Saved>) {
        assert_eq!(x.len(), self.images * self.input_len());
        let out_len = self.output().iter().product::<usize>();
        let mut out = vec![0.0; self.images * out_len];
        let parts = out.chunks_mut(self.part * out_len).zip(x.chunks(self.part * self.input_len())).collect();
        let parts = side_by_side(parts, |(out, x)| self.forward_part(x, packed, keep, out));
        (out, keep.then_some(Saved { parts }))
    }

    fn forward_part(&self, x: &[f32], packed: &Packed, keep: bool, out: &mut [f32]) -> Kept {
        let images = x.len() / self.input_len();
        let mut kept = Kept::default();
        for shape in &self.shapes {
            kept.images.push(Buffer::take(shape.to.len() * if keep { images } else { self.group }));
            kept.moments.push(Buffer::take(images * 2 * shape.to.channels));
        }
        let mut scratch = Scratch::default();
        let mut inputs = self.inputs();
        let last = self.shapes.len() - 1;
        let mut result = Buffer::take(self.group * self.last().to.len());
        for (index, group) in x.chunks(self.group * self.input_len()).enumerate() {
            let count = group.len() / self.input_len();
            let first = if keep { index * self.group } else { 0 };
            self.read_input(group, &mut inputs[0]);
            for (at, shape) in self.shapes.iter().enumerate() {
                let image = &mut kept.images[at][first * shape.to.len()..(first + count) * shape.to.len()];
                let bias = Some(&packed.biases[at][..]);
                for class in &shape.forward {
                    let rows = &class.rows[..class.rows.len() / self.group * count];
                    gather_product(self.arch, &inputs[at], rows, &class.segments, &packed.weights[at], bias, image);
                }
                let target = if at == last { &mut result } else { &mut inputs[at + 1] };
                let affine = packed.affine[at].as_ref();
                for (number, image) in image.chunks_exact(shape.to.len()).enumerate() {
                    let at_image = (index * self.group + number) * 2 * shape.to.channels;
                    let moments = &mut kept.moments[at][at_image..at_image + 2 * shape.to.channels];
                    if let Some(affine) = affine {
                        norm::moments(self.arch, affine, image, moments, &mut scratch);
                    }
                    let target = &mut target[number * image.len()..(number + 1) * image.len()];
                    let norm = affine.map(|affine| (affine, &*moments));
                    let activation = shape.layer.activation;
                    norm::normalise_activate(self.arch, norm, activation, image, target, &mut [], &mut scratch);
                }
            }
            let out_len = out.len() / images;
            let out = &mut out[index * self.group * out_len..][..count * out_len];
            self.write_output(&result, out, &mut scratch);
        }
        kept
    }

    /// Buffers for the inputs of all layers of a group.
    fn inputs(&self) -> Vec<Buffer> {
        self.shapes.iter().map(|shape| Buffer::take(self.group * shape.from.len() + SLACK)).collect()
    }

    /// `[images, channels, cells]` → `[images, cells, channels]`.
    fn read_input(&self, group: &[f32], to: &mut [f32]) {
        let shape = &self.shapes[0];
        let cells = shape.from.size[0] * shape.from.size[1];
        for (from, to) in group.chunks_exact(shape.input * cells).zip(to.chunks_exact_mut(shape.input * cells)) {
            transpose(from, shape.input, cells, cells, shape.input, to);
        }
    }

    fn write_output(&self, result: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        let shape = self.last();
        let cells = shape.to.size[0] * shape.to.size[1];
        let images = result.chunks_exact(shape.to.len());
        if self.pool {
            let mut sums = vec![0.0; shape.to.channels];
            for (out, image) in out.chunks_exact_mut(shape.output).zip(images) {
                sums.fill(0.0);
                norm::add_channel_sums(self.arch, image, &mut sums, scratch);
                out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = (sum / cells as f64) as f32);
            }
            return;
        }
        for (out, image) in out.chunks_exact_mut(shape.output * cells).zip(images) {
            transpose(image, cells, shape.output, shape.to.channels, cells, out);
        }
    }

    /// Gradients of the parameters, and of the input if `with_input`, from the gradient of the result.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        packed: &Packed,
        saved: &Saved,
        gradient: &[f32],
        with_input: bool,
    ) -> (Vec<Gradients>, Option<Vec<f32>>) {
        let out_len = self.output().iter().product::<usize>();
        assert_eq!(gradient.len(), self.images * out_len);
        let mut dx = vec![0.0; if with_input { x.len() } else { 0 }];
        let dx_parts: Vec<&mut [f32]> = if with_input {
            dx.chunks_mut(self.part * self.input_len()).collect()
        } else {
            saved.parts.iter().map(|_| &mut [][..]).collect()
        };
        let parts = dx_parts.into_iter().zip(&saved.parts).enumerate().collect();
        let sums: Vec<Vec<Sums>> = side_by_side(parts, |(index, (dx, kept)): (usize, (&mut [f32], &Kept))| {
            let first = index * self.part;
            let count = self.part.min(self.images - first);
            let x = &x[first * self.input_len()..(first + count) * self.input_len()];
            let gradient = &gradient[first * out_len..(first + count) * out_len];
            self.backward_part(x, packed, kept, gradient, dx)
        });
        let mut sums = sums.into_iter();
        let mut total = sums.next().unwrap_or_default();
        for part in sums {
            total.iter_mut().zip(&part).for_each(|(total, part)| total.add(part));
        }
        let gradients = self.shapes.iter().zip(&total).map(|(shape, sums)| sums.unpack(shape)).collect();
        (gradients, with_input.then_some(dx))
    }

    fn backward_part(&self, x: &[f32], packed: &Packed, kept: &Kept, gradient: &[f32], dx: &mut [f32]) -> Vec<Sums> {
        let arch = self.arch;
        let mut sums: Vec<Sums> = self.shapes.iter().map(|shape| Sums::new(arch, shape)).collect();
        let mut inputs = self.inputs();
        let mut slopes: Vec<Buffer> =
            self.shapes.iter().map(|shape| Buffer::take(self.group * shape.to.len())).collect();
        let mut gradients: Vec<Buffer> =
            self.shapes.iter().map(|shape| Buffer::take(self.group * shape.to.len() + SLACK)).collect();
        let mut scratch = Scratch::default();
        let mut unused = Buffer::take(self.group * self.last().to.len());
        let mut of_input =
            Buffer::take(if dx.is_empty() { 0 } else { self.group * padded_input(&self.shapes[0]).len() });
        let out_len = self.output().iter().product::<usize>();
        let groups = x.chunks(self.group * self.input_len()).zip(gradient.chunks(self.group * out_len));
        for (index, (x, gradient)) in groups.enumerate() {
            let count = x.len() / self.input_len();
            let images = |shape: &Shape| {
                let len = shape.to.len();
                index * self.group * len..(index * self.group + count) * len
            };
            let moments = |at: usize, number: usize| {
                let channels = self.shapes[at].to.channels;
                &kept.moments[at][(index * self.group + number) * 2 * channels..][..2 * channels]
            };
            // What the layers read, and the slopes of what they passed on.
            self.read_input(x, &mut inputs[0]);
            for (at, shape) in self.shapes.iter().enumerate() {
                let len = shape.to.len();
                let target = inputs.get_mut(at + 1).unwrap_or(&mut unused);
                for (number, image) in kept.images[at][images(shape)].chunks_exact(len).enumerate() {
                    let norm = packed.affine[at].as_ref().map(|affine| (affine, moments(at, number)));
                    let (target, slope) = (&mut target[number * len..][..len], &mut slopes[at][number * len..][..len]);
                    let activation = shape.layer.activation;
                    norm::normalise_activate(arch, norm, activation, image, target, slope, &mut scratch);
                }
            }
            let last = self.shapes.len() - 1;
            self.read_gradient(gradient, &mut gradients[last]);
            for (at, shape) in self.shapes.iter().enumerate().rev() {
                let len = shape.to.len();
                let sums = &mut sums[at];
                for (number, image) in kept.images[at][images(shape)].chunks_exact(len).enumerate() {
                    let norm = packed.affine[at].as_ref().map(|affine| (affine, moments(at, number), &mut sums.affine));
                    let slope = &slopes[at][number * len..][..len];
                    norm::backward(arch, norm, image, slope, &mut gradients[at][number * len..][..len], &mut scratch);
                }
                norm::add_channel_sums(arch, &gradients[at][..count * len], &mut sums.bias, &mut scratch);
                for class in &shape.forward {
                    let rows = &class.rows[..class.rows.len() / self.group * count];
                    for pairs in rows.chunks(OUTER_BLOCK) {
                        for segment in &class.segments {
                            let lines = segment.start..segment.start + segment.len;
                            let (left, right) = (&inputs[at], &gradients[at]);
                            gather_outer(arch, left, right, pairs, segment.right, lines, &mut sums.weight);
                        }
                    }
                }
                let (before, here) = gradients.split_at_mut(at);
                let target = match before.last_mut() {
                    Some(before) => &mut before[..],
                    None if dx.is_empty() => continue,
                    None => &mut of_input[..],
                };
                for class in shape
                    .backward
                    .get_or_init(|| backward_classes(&shape.layer.window, padded_input(shape), shape.to, self.group))
                {
                    let rows = &class.rows[..class.rows.len() / self.group * count];
                    gather_product(arch, &here[0], rows, &class.segments, &packed.weights[at], None, target);
                }
            }
            if !dx.is_empty() {
                let shape = &self.shapes[0];
                let cells = shape.from.size[0] * shape.from.size[1];
                let dx = &mut dx[index * self.group * self.input_len()..][..x.len()];
                let from = padded_input(shape);
                for (dx, image) in dx.chunks_exact_mut(self.input_len()).zip(of_input.chunks_exact(from.len())) {
                    transpose(image, cells, shape.input, from.channels, cells, dx);
                }
            }
        }
        sums
    }

    /// The gradient of the result of a group, channels last and padded.
    fn read_gradient(&self, gradient: &[f32], to: &mut [f32]) {
        let shape = self.last();
        let (cells, channels) = (shape.to.size[0] * shape.to.size[1], shape.to.channels);
        let per_image = gradient.chunks_exact(if self.pool { shape.output } else { shape.output * cells });
        for (gradient, to) in per_image.zip(to.chunks_exact_mut(shape.to.len())) {
            if self.pool {
                for cell in to.chunks_exact_mut(channels) {
                    cell.iter_mut().zip(gradient).for_each(|(to, gradient)| *to = gradient / cells as f32);
                    cell[shape.output..].fill(0.0);
                }
            } else {
                transpose(gradient, shape.output, cells, cells, channels, to);
                if channels > shape.output {
                    to.chunks_exact_mut(channels).for_each(|cell| cell[shape.output..].fill(0.0));
                }
            }
        }
    }
}

/// Runs `work` on every part, on several threads if there are several of both.
pub(crate) fn side_by_side<I: Send, T: Send>(parts: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    if parts.len() == 1 || rayon::current_num_threads() == 1 {
        return parts.into_iter().map(work).collect();
    }
    parts.into_par_iter().map(&work).collect()
}

/// The first layer's input with its channels padded, as its gradient is computed.
fn padded_input(shape: &Shape) -> Layout {
    Layout { channels: padded(shape.input), ..shape.from }
}
