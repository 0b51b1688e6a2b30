//! Which cells of an image a convolution connects, sorted into classes that share their taps.
//!
//! A cell at the border misses some taps. Cells are sorted by the taps they have, so that no padding is ever stored or
//! multiplied; on small images that saves a third of the work.

use std::collections::BTreeMap;
use std::ops::Range;

use super::product::{Row, Segment};

/// Kernel, stride and padding of a convolution, rows before columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Kernel size.
    pub kernel: [usize; 2],
    /// Stride.
    pub stride: [usize; 2],
    /// Zero padding on each side.
    pub padding: [usize; 2],
}

impl Window {
    /// A single cell: that of a linear layer.
    pub(crate) const CELL: Self = Self { kernel: [1; 2], stride: [1; 2], padding: [0; 2] };

    /// Rows and columns of the result; `None` if the kernel does not fit.
    pub(crate) fn output(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let side = |axis: usize| {
            Some((size[axis] + 2 * self.padding[axis]).checked_sub(self.kernel[axis])? / self.stride[axis] + 1)
        };
        Some([side(0)?, side(1)?])
    }
}

/// Cells along one axis that one cell is connected with: consecutive ones from `first`, each through its tap.
#[derive(Clone, Debug)]
struct Reach {
    first: usize,
    taps: Vec<usize>,
}

/// For each cell of the result the cells of the input it reads.
fn inputs_of(outputs: Range<usize>, inputs: usize, kernel: usize, stride: usize, padding: usize) -> Vec<Reach> {
    outputs
        .map(|output| {
            let taps: Vec<usize> =
                (0..kernel).filter(|tap| (padding..inputs + padding).contains(&(output * stride + tap))).collect();
            Reach { first: taps.first().map_or(0, |tap| output * stride + tap - padding), taps }
        })
        .collect()
}

/// For each cell of the input the cells of the result that read it.
fn outputs_of(outputs: usize, inputs: usize, kernel: usize, stride: usize, padding: usize) -> Vec<Reach> {
    (0..inputs)
        .map(|input| {
            let reads = |tap: &usize| {
                let shifted = (input + padding).checked_sub(*tap)?;
                (shifted.is_multiple_of(stride) && shifted / stride < outputs).then_some(shifted / stride)
            };
            let taps: Vec<usize> = (0..kernel).rev().filter(|tap| reads(tap).is_some()).collect();
            Reach { first: taps.first().and_then(reads).unwrap_or(0), taps }
        })
        .collect()
}

/// Cells that have the same taps.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    /// The cells of all images of a group, image by image.
    pub rows: Vec<Row>,
    /// What each of them reads.
    pub segments: Vec<Segment>,
}

/// Where the values of images lie: cell by cell, each with `channels` values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub size: [usize; 2],
    pub channels: usize,
}

impl Layout {
    /// Values of one image.
    pub(crate) fn len(&self) -> usize {
        self.size[0] * self.size[1] * self.channels
    }
}

/// Classes of the forward product: rows are cells of `output`, taps are ordered `(ky, kx, channel)`.
pub(crate) fn forward_classes(window: &Window, input: Layout, output: Layout, images: usize) -> Vec<Class> {
    let axes = [0, 1].map(|axis| forward_reaches(window, input, axis, 0..output.size[axis]));
    classes(axes, input, output, images, window.kernel[1], |tap| tap)
}

/// [`forward_classes`] of some lines of one image's result; places in the result count from the first of them.
pub(crate) fn forward_classes_of_lines(
    window: &Window,
    input: Layout,
    output: Layout,
    lines: Range<usize>,
) -> Vec<Class> {
    let axes = [forward_reaches(window, input, 0, lines), forward_reaches(window, input, 1, 0..output.size[1])];
    classes(axes, input, output, 1, window.kernel[1], |tap| tap)
}

fn forward_reaches(window: &Window, input: Layout, axis: usize, outputs: Range<usize>) -> Vec<Reach> {
    let Window { kernel, stride, padding } = window;
    inputs_of(outputs, input.size[axis], kernel[axis], stride[axis], padding[axis])
}

/// Classes of the product that carries gradients back: rows are cells of `input`, taps are ordered
/// `(ky, backward_rank(kx), channel of the output)`.
pub(crate) fn backward_classes(window: &Window, input: Layout, output: Layout, images: usize) -> Vec<Class> {
    let axis = |axis: usize| {
        let Window { kernel, stride, padding } = window;
        outputs_of(output.size[axis], input.size[axis], kernel[axis], stride[axis], padding[axis])
    };
    let rank = |tap| backward_rank(window, tap);
    classes([axis(0), axis(1)], output, input, images, window.kernel[1], rank)
}

/// Place of a horizontal tap in the order in which one input cell meets them: those of one phase of the stride are
/// neighbours, the last first.
pub(crate) fn backward_rank(window: &Window, tap: usize) -> usize {
    let (kernel, stride) = (window.kernel[1], window.stride[1]);
    let of_phase = |phase: usize| (kernel - phase).div_ceil(stride);
    let before: usize = (0..tap % stride).filter(|&phase| phase < kernel).map(of_phase).sum();
    before + of_phase(tap % stride) - 1 - tap / stride
}

fn classes(
    reaches: [Vec<Reach>; 2],
    from: Layout,
    to: Layout,
    images: usize,
    kernel_columns: usize,
    rank: impl Fn(usize) -> usize,
) -> Vec<Class> {
    let mut cells: BTreeMap<(&[usize], &[usize]), Vec<Row>> = BTreeMap::new();
    for (y, rows) in reaches[0].iter().enumerate() {
        for (x, columns) in reaches[1].iter().enumerate() {
            cells.entry((&rows.taps, &columns.taps)).or_default().push(Row {
                from: ((rows.first * from.size[1] + columns.first) * from.channels) as u32,
                to: ((y * to.size[1] + x) * to.channels) as u32,
            });
        }
    }
    let class = |((rows, columns), cells): ((&[usize], &[usize]), Vec<Row>)| {
        let segment = |(index, &tap): (usize, &usize)| Segment {
            start: index * from.size[1] * from.channels,
            len: columns.len() * from.channels,
            right: (tap * kernel_columns + columns.first().map_or(0, |&tap| rank(tap))) * from.channels,
        };
        let segments = if columns.is_empty() { Vec::new() } else { rows.iter().enumerate().map(segment).collect() };
        let of_image = |image: usize| {
            let (skip_from, skip_to) = ((image * from.len()) as u32, (image * to.len()) as u32);
            // Cells that read nothing may stay at the first image's start.
            cells.iter().map(move |row| Row { from: row.from + skip_from, to: row.to + skip_to })
        };
        Class { rows: (0..images).flat_map(of_image).collect(), segments }
    };
    cells.into_iter().map(class).collect()
}

#[cfg(test)]
mod tests {
    use super::{Window, backward_rank, inputs_of, outputs_of};

    fn square(kernel: usize, stride: usize, padding: usize) -> Window {
        Window { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2] }
    }

    #[test]
    fn the_two_directions_name_the_same_pairs() {
        for (inputs, kernel, stride, padding) in [(8, 3, 2, 1), (7, 3, 2, 1), (9, 4, 2, 0), (15, 8, 4, 0), (5, 1, 1, 0)]
        {
            let window = square(kernel, stride, padding);
            let outputs = window.output([inputs; 2]).unwrap()[0];
            let pairs = |reaches: Vec<super::Reach>, forward: bool| {
                let mut all: Vec<(usize, usize, usize)> = Vec::new();
                for (cell, reach) in reaches.iter().enumerate() {
                    for (index, &tap) in reach.taps.iter().enumerate() {
                        let other = reach.first + index;
                        all.push(if forward { (cell, other, tap) } else { (other, cell, tap) });
                    }
                }
                all.sort_unstable();
                all
            };
            let forward = pairs(inputs_of(0..outputs, inputs, kernel, stride, padding), true);
            assert_eq!(forward, pairs(outputs_of(outputs, inputs, kernel, stride, padding), false));
            assert!(forward.iter().all(|&(output, input, tap)| output * stride + tap == input + padding));
            let mut ranks: Vec<usize> = (0..kernel).map(|tap| backward_rank(&window, tap)).collect();
            ranks.sort_unstable();
            assert!(ranks.into_iter().eq(0..kernel));
        }
    }

    #[test]
    fn a_kernel_larger_than_the_image_has_no_result() {
        assert_eq!(square(8, 4, 0).output([7, 20]), None);
        assert_eq!(square(3, 2, 1).output([60, 104]), Some([30, 52]));
    }
}
