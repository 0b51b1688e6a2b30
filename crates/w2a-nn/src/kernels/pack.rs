//! How the kernels lay out images, weights and gradients of weights.

use pulp::Arch;

use super::geometry::backward_rank;
use super::norm::AffineGradient;
use super::product::{Panels, Stored, padded};
use super::stack::{Gradients, Shape};

/// Rows `(ky, kx, input channel)`, columns output channels.
pub(super) fn forward(arch: Arch, shape: &Shape, weight: &[f32]) -> Panels {
    let [rows, columns] = shape.layer.window.kernel;
    let mut panels = Panels::zeros(arch, shape.depth(), shape.to.channels);
    let taps = rows * columns;
    for channel in 0..shape.input {
        for tap in 0..taps {
            let from = weight[channel * taps + tap..].iter().step_by(shape.input * taps);
            panels.fill_row(tap * shape.from.channels + channel, from.take(shape.output));
        }
    }
    panels
}

/// Rows `(ky, rank of kx, output channel)`, columns input channels.
pub(super) fn backward(arch: Arch, shape: &Shape, weight: &[f32]) -> Panels {
    let [rows, columns] = shape.layer.window.kernel;
    let taps = rows * columns;
    let mut panels = Panels::zeros(arch, taps * shape.to.channels, padded(shape.input));
    for output in 0..shape.output {
        for ky in 0..rows {
            for kx in 0..columns {
                let row = (ky * columns + backward_rank(&shape.layer.window, kx)) * shape.to.channels + output;
                let start = output * shape.input * taps + ky * columns + kx;
                panels.fill_row(row, weight[start..].iter().step_by(taps).take(shape.input));
            }
        }
    }
    panels
}

/// `to[column * to_stride + row] = from[row * from_stride + column]`.
pub(super) fn transpose<T: Stored>(
    from: &[T],
    rows: usize,
    columns: usize,
    from_stride: usize,
    to_stride: usize,
    to: &mut [f32],
) {
    if rows == 1 && to_stride == 1 || columns == 1 && from_stride == 1 {
        let len = rows * columns;
        to[..len].iter_mut().zip(&from[..len]).for_each(|(to, from)| *to = from.wide());
        return;
    }
    const TILE: usize = 16;
    if rows == 3 && to_stride == 3 {
        // The colours of an image.
        let (red, rest) = from.split_at(from_stride);
        let (green, blue) = rest.split_at(from_stride);
        let colours = red[..columns].iter().zip(&green[..columns]).zip(&blue[..columns]);
        for (to, ((&red, &green), &blue)) in to.chunks_exact_mut(3).zip(colours) {
            to.copy_from_slice(&[red, green, blue].map(T::wide));
        }
        return;
    }
    for row0 in (0..rows).step_by(TILE) {
        for column0 in (0..columns).step_by(TILE) {
            let (height, width) = ((rows - row0).min(TILE), (columns - column0).min(TILE));
            if height == TILE && width == TILE {
                transpose_tile(
                    &from[row0 * from_stride + column0..],
                    from_stride,
                    &mut to[column0 * to_stride + row0..],
                    to_stride,
                );
                continue;
            }
            for row in row0..row0 + height {
                let from = &from[row * from_stride + column0..][..width];
                let to = to[column0 * to_stride + row..].iter_mut().step_by(to_stride);
                to.zip(from).for_each(|(to, from)| *to = from.wide());
            }
        }
    }
}

/// A full tile: of fixed size, so that the compiler unrolls it.
fn transpose_tile<T: Stored>(from: &[T], from_stride: usize, to: &mut [f32], to_stride: usize) {
    let mut tile = [[0.0_f32; 16]; 16];
    for (row, tile) in tile.iter_mut().enumerate() {
        let from = &from[row * from_stride..row * from_stride + 16];
        tile.iter_mut().zip(from).for_each(|(to, from)| *to = from.wide());
    }
    for column in 0..16 {
        let to = &mut to[column * to_stride..column * to_stride + 16];
        for row in 0..16 {
            to[row] = tile[row][column];
        }
    }
}

/// Gradients of a layer's parameters as they are added up.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    pub weight: Panels,
    pub bias: Vec<f64>,
    pub affine: AffineGradient,
}

impl Sums {
    pub(super) fn new(arch: Arch, shape: &Shape) -> Self {
        let weight = Panels::zeros(arch, shape.depth(), shape.to.channels);
        let zeros = vec![0.0; shape.to.channels];
        let affine = AffineGradient { gamma: zeros.clone(), beta: zeros.clone() };
        Self { weight, bias: zeros, affine }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.weight.add(&other.weight);
        let add = |sums: &mut [f64], more: &[f64]| sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        add(&mut self.bias, &other.bias);
        add(&mut self.affine.gamma, &other.affine.gamma);
        add(&mut self.affine.beta, &other.affine.beta);
    }

    pub(super) fn unpack(&self, shape: &Shape) -> Gradients {
        let taps: usize = shape.layer.window.kernel.iter().product();
        let mut weight = vec![0.0; shape.output * shape.input * taps];
        for channel in 0..shape.input {
            for tap in 0..taps {
                let to = weight[channel * taps + tap..].iter_mut().step_by(shape.input * taps);
                self.weight.read_row(tap * shape.from.channels + channel, to);
            }
        }
        let narrow = |sums: &[f64]| sums[..shape.output].iter().map(|&sum| sum as f32).collect::<Vec<f32>>();
        let affine = shape.layer.groups.map(|_| (narrow(&self.affine.gamma), narrow(&self.affine.beta)));
        Gradients { weight, bias: narrow(&self.bias), affine }
    }
}
