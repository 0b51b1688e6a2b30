//! Convolutions over rows and columns of videos and over the frames before: those of causal video autoencoders.
//!
//! Values lie channels-last, so that a cell's neighbours are consecutive and a product gathers them without a copy. Frames
//! are operands of their own: earlier ones are neither joined to a piece of a video nor, before its beginning, multiplied as
//! the zeros that they stand for. Weights are packed once, when the layer is made, and held in no other form.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::module::conv3d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::geometry::{Class, Layout, Window, forward_classes_of_lines};
use super::op::{Operand, flex, slice};
use super::product::{Matrix, Panels, Segment, gather_product, gather_product_onto, padded};
use crate::NnError;

/// Cells of the result that are computed at a time: enough to read the packed weights for, few enough for many threads.
const BLOCK_CELLS: usize = 256;

/// The cells of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// One for every cell; there are zeros around the picture.
    Same,
    /// One for every second cell of every second row; there are zeros below the picture and to its right.
    Halved,
    /// Those of the picture in which every cell is four of itself, with zeros around it.
    Doubled,
}

/// What a layer is, apart from its weights.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    output: usize,
    input: usize,
    /// Frames, rows and columns.
    kernel: [usize; 3],
    /// From a frame that is computed to the next.
    stride: usize,
    grid: Grid,
}

/// Weights for some cells of the result: all of them, or one in each two by two.
#[derive(Debug)]
struct Phase {
    window: Window,
    /// Row and column of its first cell.
    at: [usize; 2],
    /// Rows `(frame, row, column, input channel)`.
    panels: Panels,
}

/// A part of the grid that has weights of its own.
struct Part {
    at: [usize; 2],
    window: Window,
    /// The rows and the columns of the kernel that each row and column of the part's weights is the sum of.
    sums: [Vec<Range<usize>>; 2],
}

#[derive(Debug)]
enum Weights {
    Packed { phases: Vec<Phase>, bias: Vec<f32> },
    Plain(Box<(Tensor<5>, Tensor<1>)>),
}

/// A convolution of a piece of a video after the frames before it. No gradient passes it.
#[derive(Clone, Debug)]
pub struct VideoConv {
    sizes: Sizes,
    weights: Arc<Weights>,
}

impl VideoConv {
    /// A layer with the weights of `torch.nn.Conv3d`, `[out, in, frames, rows, columns]` and `[out]`, which computes every
    /// `stride`-th frame.
    ///
    /// # Errors
    /// Sizes that do not go together, or a device that fails.
    pub fn new(weight: Tensor<5>, bias: Tensor<1>, stride: usize, grid: Grid) -> Result<Self, NnError> {
        let sizes = Sizes::of(&weight, &bias, stride, grid)?;
        let weights = match (Operand::of(&weight), Operand::of(&bias)) {
            (Some(Operand::Plain(_)), Some(Operand::Plain(_))) => {
                sizes.pack(&crate::values(weight)?, crate::values(bias)?)
            }
            _ => Weights::Plain(Box::new((weight, bias))),
        };
        Ok(Self { sizes, weights: Arc::new(weights) })
    }

    /// Frames that the first one computed sees before those of its piece.
    pub fn frames_before(&self) -> usize {
        self.sizes.lead()
    }

    /// The layer's result for the frames `x`, of which `before` are the ones just before, the last of them last; where there
    /// are fewer than [`VideoConv::frames_before`], the others are zeros.
    ///
    /// # Shapes
    /// `x` `[frames, rows, columns, in]` and each of `before` `[1, rows, columns, in]` → `[frames / stride, rows', columns',
    /// out]`, with the rows and columns of the grid.
    ///
    /// # Errors
    /// Shapes that do not fit, or a device that fails.
    pub fn forward(&self, x: Tensor<4>, before: &[Tensor<4>]) -> Result<Tensor<4>, NnError> {
        self.sizes.check(x.dims(), before)?;
        match self.weights.as_ref() {
            Weights::Plain(parameters) => Ok(self.sizes.plain(x, before, parameters)),
            Weights::Packed { phases, bias } => {
                let device = x.device();
                let plain = |tensor: &Tensor<4>| match Operand::of(tensor) {
                    Some(operand @ Operand::Plain(_)) => Ok(operand.values()),
                    _ => Err(elsewhere(&device)),
                };
                let (input, earlier) = (plain(&x)?, before.iter().map(plain).collect::<Result<Vec<_>, _>>()?);
                let (whole, earlier) = (slice(&input), earlier.iter().map(slice).collect::<Vec<_>>());
                let frame = whole.len() / x.dims()[0].max(1);
                let mut frames: Vec<&[f32]> = earlier.iter().map(AsRef::as_ref).collect();
                frames.extend(whole.chunks_exact(frame.max(1)));
                let (values, shape) = self.sizes.product(&frames, before.len(), x.dims(), phases, bias);
                Ok(Tensor::from_primitive::<Flex>(flex(values, &shape)))
            }
        }
    }
}

fn elsewhere(device: &Device) -> NnError {
    NnError::Input {
        what: "operand of a convolution of videos".into(),
        expected: "f32 values without gradients on the device of the weights".into(),
        got: format!("others, on {device:?}"),
    }
}

impl Sizes {
    fn of(weight: &Tensor<5>, bias: &Tensor<1>, stride: usize, grid: Grid) -> Result<Self, NnError> {
        let [output, input, frames, rows, columns] = weight.dims();
        let is_resized = grid != Grid::Same;
        let fits = bias.dims() == [output]
            && [output, input, frames, rows, columns].iter().all(|side| *side > 0)
            && (1..=frames).contains(&stride)
            && rows % 2 == 1
            && columns % 2 == 1
            && (!is_resized || [frames, rows, columns] == [1, 3, 3]);
        if fits {
            return Ok(Self { output, input, kernel: [frames, rows, columns], stride, grid });
        }
        Err(NnError::Input {
            what: "weights of a convolution of videos".into(),
            expected: "[out, in, frames, rows, columns] with odd rows and columns, a bias for each output, a stride of at most \
                       the frames; 1, 3, 3 where the picture is resized"
                .into(),
            got: format!("{:?}, bias {:?}, stride {stride}, {grid:?}", weight.dims(), bias.dims()),
        })
    }

    /// Frames before those of a piece that its first result sees.
    fn lead(&self) -> usize {
        self.kernel[0] - self.stride
    }

    /// Rows and columns of the result.
    fn resized(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|side| match self.grid {
            Grid::Same => side,
            Grid::Halved => side / 2,
            Grid::Doubled => 2 * side,
        })
    }

    fn check(&self, x: [usize; 4], before: &[Tensor<4>]) -> Result<(), NnError> {
        let [frames, rows, columns, channels] = x;
        let [out_rows, out_columns] = self.resized([rows, columns]);
        // Offsets inside a frame have 32 bits.
        let in_reach = |rows: usize, columns: usize, channels: usize| {
            let values = rows.checked_mul(columns).and_then(|cells| cells.checked_mul(channels));
            values.is_some_and(|values| u32::try_from(values).is_ok())
        };
        let fits = channels == self.input
            && frames > 0
            && frames.is_multiple_of(self.stride)
            && rows > 0
            && columns > 0
            && (self.grid != Grid::Halved || rows.is_multiple_of(2) && columns.is_multiple_of(2))
            && in_reach(rows, columns, channels)
            && in_reach(out_rows, out_columns, padded(self.output))
            && before.len() <= self.lead()
            && before.iter().all(|earlier| earlier.dims() == [1, rows, columns, channels]);
        if fits {
            return Ok(());
        }
        Err(NnError::Input {
            what: "input of a convolution of videos".into(),
            expected: format!(
                "[frames, rows, columns, {}] with frames a multiple of {}, and at most {} earlier frames of the same size; \
                 a frame of less than 2^32 values",
                self.input,
                self.stride,
                self.lead()
            ),
            got: format!("{x:?} after {:?}", before.iter().map(Tensor::dims).collect::<Vec<_>>()),
        })
    }

    fn parts(&self) -> Vec<Part> {
        let [_, rows, columns] = self.kernel;
        let each = |len: usize| (0..len).map(|tap| tap..tap + 1).collect::<Vec<_>>();
        let whole = |stride: usize, padding: [usize; 2]| {
            let window = Window { kernel: [rows, columns], stride: [stride; 2], padding };
            vec![Part { at: [0; 2], window, sums: [each(rows), each(columns)] }]
        };
        match self.grid {
            Grid::Same => whole(1, [rows / 2, columns / 2]),
            Grid::Halved => whole(2, [0; 2]),
            // Of three neighbours in a doubled picture two are the same cell.
            Grid::Doubled => [[0, 0], [0, 1], [1, 0], [1, 1]]
                .map(|at| {
                    let window = Window { kernel: [2; 2], stride: [1; 2], padding: at.map(|odd| 1 - odd) };
                    Part { at, window, sums: at.map(|odd| if odd == 0 { vec![0..1, 1..3] } else { vec![0..2, 2..3] }) }
                })
                .into(),
        }
    }

    fn pack(&self, weight: &[f32], mut bias: Vec<f32>) -> Weights {
        let arch = Arch::new();
        let [frames, rows, columns] = self.kernel;
        let taps = frames * rows * columns;
        let pack = |Part { at, window, sums: [of_rows, of_columns] }: Part| {
            let depth = frames * window.kernel.iter().product::<usize>() * self.input;
            let mut lines = Vec::with_capacity(self.output * depth);
            for of_output in weight.chunks_exact(self.input * taps) {
                for frame in 0..frames {
                    for (rows, columns) in
                        of_rows.iter().flat_map(|row| of_columns.iter().map(move |column| (row, column)))
                    {
                        lines.extend(of_output.chunks_exact(taps).map(|kernel| {
                            let cells = rows.clone().flat_map(|row| columns.clone().map(move |column| (row, column)));
                            let at = |(row, column)| kernel[(frame * self.kernel[1] + row) * self.kernel[2] + column];
                            cells.map(at).sum::<f32>()
                        }));
                    }
                }
            }
            let mut panels = Panels::empty(arch);
            panels.pack(&Matrix { data: &lines, stride: depth, by_column: true }, depth, 0..self.output);
            Phase { window, at, panels }
        };
        let phases = self.parts().into_iter().map(pack).collect();
        bias.resize(padded(self.output), 0.0);
        Weights::Packed { phases, bias }
    }

    /// The result and its shape; the first `earlier` of `frames` are those before the input `x`.
    fn product(
        &self,
        frames: &[&[f32]],
        earlier: usize,
        x: [usize; 4],
        phases: &[Phase],
        bias: &[f32],
    ) -> (Vec<f32>, [usize; 4]) {
        let arch = Arch::new();
        let [count, rows, columns, _] = x;
        let [out_rows, out_columns] = self.resized([rows, columns]);
        let width = padded(self.output);
        let from = Layout { size: [rows, columns], channels: self.input };
        // Of a doubled picture a line is computed with the one below it, and every part has the cells of the input.
        let factor = if self.grid == Grid::Doubled { 2 } else { 1 };
        let to = Layout { size: [out_rows / factor, out_columns / factor], channels: width };
        let lines = BLOCK_CELLS.div_ceil(to.size[1]);
        let of_block = |frame: usize, block: usize, out: &mut [f32]| {
            let lines = block * lines..to.size[0].min((block + 1) * lines);
            for phase in phases {
                let mut classes = forward_classes_of_lines(&phase.window, from, to, lines.clone());
                if factor == 2 {
                    classes.iter_mut().for_each(|class| spread(class, to, phase.at));
                }
                let depth = phase.window.kernel.iter().product::<usize>() * self.input;
                let mut is_begun = false;
                for tap in 0..self.kernel[0] {
                    // Frames before the first one are zeros, which add nothing.
                    let Some(index) = (earlier + frame * self.stride + tap).checked_sub(self.lead()) else { continue };
                    let Some(left) = frames.get(index) else { continue };
                    for class in &classes {
                        let deeper = |segment: &Segment| Segment { right: segment.right + tap * depth, ..*segment };
                        let segments: Vec<Segment> = class.segments.iter().map(deeper).collect();
                        if is_begun {
                            gather_product_onto(arch, left, &class.rows, &segments, &phase.panels, out);
                        } else {
                            gather_product(arch, left, &class.rows, &segments, &phase.panels, Some(bias), out);
                        }
                    }
                    is_begun = true;
                }
            }
        };
        let frames_out = count / self.stride;
        let mut out = vec![0.0; frames_out * out_rows * out_columns * width];
        out.par_chunks_mut(out_rows * out_columns * width).enumerate().for_each(|(frame, out)| {
            let blocks = out.par_chunks_mut(factor * lines * out_columns * width);
            blocks.enumerate().for_each(|(block, out)| of_block(frame, block, out));
        });
        if width != self.output {
            // In place: each cell moves to or before where it was.
            for cell in 0..out.len() / width {
                out.copy_within(cell * width..cell * width + self.output, cell * self.output);
            }
            out.truncate(frames_out * out_rows * out_columns * self.output);
        }
        (out, [frames_out, out_rows, out_columns, self.output])
    }

    /// Through burn's operations.
    fn plain(&self, x: Tensor<4>, before: &[Tensor<4>], (weight, bias): &(Tensor<5>, Tensor<1>)) -> Tensor<4> {
        let [_, rows, columns, channels] = x.dims();
        let missing = self.lead() - before.len();
        let zeros = (missing > 0).then(|| Tensor::zeros([missing, rows, columns, channels], &x.device()));
        let x = Tensor::cat(zeros.into_iter().chain(before.iter().cloned()).chain([x]).collect(), 0);
        // [1, channels, frames, rows, columns].
        let mut x: Tensor<5> = x.permute([3, 0, 1, 2]).unsqueeze_dim(0);
        let [_, _, frames, ..] = x.dims();
        let [_, high, wide] = self.kernel;
        let (mut stride, mut padding) = (1, [high / 2, wide / 2]);
        match self.grid {
            Grid::Same => {}
            Grid::Halved => {
                x = x.pad((0, 1, 0, 1), 0.0);
                (stride, padding) = (2, [0; 2]);
            }
            Grid::Doubled => {
                let pixels: Tensor<5> = x.reshape([channels * frames, rows, 1, columns, 1]);
                let doubled = pixels.expand([channels * frames, rows, 2, columns, 2]);
                x = doubled.reshape([1, channels, frames, 2 * rows, 2 * columns]);
            }
        }
        let options = ConvOptions::new([self.stride, stride, stride], [0, padding[0], padding[1]], [1; 3], 1);
        conv3d(x, weight.clone(), Some(bias.clone()), options).squeeze_dim::<4>(0).permute([1, 2, 3, 0])
    }
}

/// Moves the rows of a class from the cells of `from` to every second one of a picture of twice the size, beginning at `at`.
fn spread(class: &mut Class, from: Layout, at: [usize; 2]) {
    let columns = from.size[1];
    for row in &mut class.rows {
        let cell = row.to as usize / from.channels;
        let (line, column) = (2 * (cell / columns) + at[0], 2 * (cell % columns) + at[1]);
        row.to = ((line * 2 * columns + column) * from.channels) as u32;
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use proptest::prelude::*;

    use super::{Grid, Sizes, VideoConv, Weights};
    use crate::{NnError, normal, tensor, values};

    fn random<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
        tensor(normal(&mut w2a_data::stream(0, name), shape.iter().product()), shape, &Device::flex())
    }

    /// A layer and the same through burn's operations.
    fn pair(sizes: [usize; 5], stride: usize, grid: Grid) -> [VideoConv; 2] {
        let (weight, bias) = (random("w", sizes), random("b", [sizes[0]]));
        let packed = VideoConv::new(weight.clone(), bias.clone(), stride, grid).unwrap();
        assert!(matches!(*packed.weights, Weights::Packed { .. }), "it is on the CPU");
        let plain = VideoConv { sizes: packed.sizes, weights: Weights::Plain(Box::new((weight, bias))).into() };
        [packed, plain]
    }

    fn agree(sizes: [usize; 5], stride: usize, grid: Grid, x: [usize; 3], earlier: usize) {
        let [frames, rows, columns] = x;
        let [ours, burns] = pair(sizes, stride, grid);
        let x = random("x", [frames, rows, columns, sizes[1]]);
        let before: Vec<Tensor<4>> =
            (0..earlier).map(|frame| random(&format!("before/{frame}"), [1, rows, columns, sizes[1]])).collect();
        let [got, want] = [ours, burns].map(|layer| layer.forward(x.clone(), &before).unwrap());
        assert_eq!(got.dims(), want.dims());
        let scale = ((sizes[1] * sizes[2] * sizes[3] * sizes[4]) as f32).sqrt();
        for (got, want) in values(got).unwrap().into_iter().zip(values(want).unwrap()) {
            assert!((got - want).abs() < 5e-6 * scale, "{sizes:?} {grid:?} {x:?} after {earlier}: {got}, {want}");
        }
    }

    #[test]
    fn every_grid_agrees_with_burn_with_and_without_earlier_frames() {
        for earlier in 0..3 {
            agree([20, 5, 3, 3, 3], 1, Grid::Same, [4, 7, 9], earlier);
            agree([32, 16, 3, 1, 1], 1, Grid::Same, [1, 4, 6], earlier);
        }
        for earlier in 0..2 {
            agree([6, 6, 3, 1, 1], 2, Grid::Same, [4, 3, 5], earlier);
        }
        agree([48, 33, 1, 1, 1], 1, Grid::Same, [2, 4, 3], 0);
        agree([10, 7, 1, 3, 3], 1, Grid::Halved, [3, 8, 6], 0);
        agree([9, 18, 1, 3, 3], 1, Grid::Doubled, [2, 5, 4], 0);
        // More lines than one block has, and a picture of a single cell.
        agree([3, 4, 3, 3, 3], 1, Grid::Same, [2, 40, 30], 1);
        agree([16, 3, 1, 3, 3], 1, Grid::Doubled, [1, 30, 40], 0);
        agree([4, 4, 3, 3, 3], 1, Grid::Same, [1, 1, 1], 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_size_agrees_with_burn(
            channels in (1_usize..40, 1_usize..40), frames in 1_usize..4, rows in 1_usize..9, columns in 1_usize..9, earlier in 0_usize..3,
        ) {
            agree([channels.0, channels.1, 3, 3, 3], 1, Grid::Same, [frames, rows, columns], earlier);
            agree([channels.0, channels.1, 1, 3, 3], 1, Grid::Doubled, [frames, rows, columns], 0);
            agree([channels.0, channels.1, 1, 3, 3], 1, Grid::Halved, [frames, 2 * rows, 2 * columns], 0);
        }
    }

    #[test]
    fn pieces_give_the_same_bits_as_the_whole_and_so_does_any_number_of_threads() {
        let [layer, _] = pair([24, 8, 3, 3, 3], 1, Grid::Same);
        let x = random("x", [5, 9, 20, 8]);
        let whole = values(layer.forward(x.clone(), &[]).unwrap()).unwrap();
        let first = layer.forward(x.clone().narrow(0, 0, 2), &[]).unwrap();
        let before = [x.clone().narrow(0, 0, 1), x.clone().narrow(0, 1, 1)];
        let second = layer.forward(x.clone().narrow(0, 2, 3), &before).unwrap();
        assert_eq!(values(Tensor::cat(vec![first, second], 0)).unwrap(), whole);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| values(layer.forward(x.clone(), &[]).unwrap()).unwrap()), whole);
        }
    }

    #[test]
    fn weights_and_inputs_that_do_not_fit_are_refused() {
        let [layer, _] = pair([4, 3, 3, 3, 3], 1, Grid::Same);
        let refused = |x: [usize; 4], before: &[Tensor<4>]| match layer.forward(random("x", x), before) {
            Err(NnError::Input { expected, .. }) => {
                assert!(expected.contains("[frames, rows, columns, 3]"), "{expected}")
            }
            other => panic!("{other:?}"),
        };
        refused([2, 4, 4, 5], &[]);
        refused([2, 4, 4, 3], &[random("x", [1, 4, 5, 3])]);
        refused([2, 4, 4, 3], &[0, 1, 2].map(|_| random("x", [1, 4, 4, 3])));
        let [halving, _] = pair([4, 3, 1, 3, 3], 1, Grid::Halved);
        assert!(halving.forward(random("x", [1, 5, 4, 3]), &[]).is_err());
        for (sizes, bias, stride, grid) in [
            ([4, 3, 3, 3, 3], 5, 1, Grid::Same),
            ([4, 3, 3, 2, 3], 4, 1, Grid::Same),
            ([4, 3, 3, 3, 3], 4, 4, Grid::Same),
            ([4, 3, 3, 3, 3], 4, 0, Grid::Same),
            ([4, 3, 3, 3, 3], 4, 1, Grid::Doubled),
        ] {
            assert!(Sizes::of(&random("w", sizes), &random("b", [bias]), stride, grid).is_err(), "{sizes:?}");
        }
    }
}
