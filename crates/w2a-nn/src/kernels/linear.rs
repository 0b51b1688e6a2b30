//! Linear layers: weights are packed for the cache while they are used, and never kept twice.

use std::ops::Range;

use burn::backend::Flex;
use burn::tensor::{DType, Element, Tensor, bf16};
use burn_flex::FlexTensor;
use pulp::Arch;
use pulp::bytemuck::Pod;
use rayon::prelude::*;

use super::op::{Kernel, Operand, run};
use super::pack::transpose;
use super::product::{
    Matrix, Panels, PanelsView, Row, Segment, Stored, columns_at_once, gather_product_into, padded, panel_width,
};
use super::recycle::Buffer;
use super::shared::Shared;

/// Rows below which packing the weights costs more than it saves.
const FEWEST: usize = 8;

/// Rows for which it is worth to pack weights a second time, on another thread.
const FEWEST_SHARED: usize = 128;

/// `x W^T + b` for `x` `[rows, in]`, `W` `[out, in]` and `b` `[out]`.
///
/// On the `flex` backend and with more than a few rows it is a product of our own, of the same bits with and without
/// gradients. Weights that get no gradient may lie in memory output by output or, which is faster, input by input, and be
/// bf16: they are used as the f32 values that they are.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    if let Some(out) = fast(&x, &weight, bias.as_ref()) {
        return out;
    }
    let weight = if weight.dtype() == DType::BF16 { weight.cast(DType::F32) } else { weight };
    let out = x.matmul(weight.transpose());
    match bias {
        Some(bias) => out + bias.unsqueeze(),
        None => out,
    }
}

fn fast(x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
    let ([rows, input], [output, inner]) = (x.dims(), weight.dims());
    // burn has the words for operands that do not fit.
    let fits = input == inner && bias.is_none_or(|bias| bias.dims() == [output]);
    if !fits || rows < FEWEST {
        return None;
    }
    let sizes = Sizes::new(rows, input, output)?;
    let x = Operand::of(x)?;
    let bias = match bias {
        Some(bias) => Some(Operand::of(bias)?),
        None => None,
    };
    let weight = match weight.dtype() {
        // Half as precise as what gradients are computed in: such weights are frozen.
        DType::BF16 => Operand::Plain(weight.clone().try_into_primitive::<Flex>().ok()?),
        _ => Operand::of(weight)?,
    };
    match (weight, bias) {
        (Operand::Plain(weight), None) => run(Frozen { weight, bias: None, sizes }, x, Vec::new(), [rows, output]),
        (Operand::Plain(weight), Some(Operand::Plain(bias))) => {
            let bias = Some(bias.to_contiguous());
            run(Frozen { weight, bias, sizes }, x, Vec::new(), [rows, output])
        }
        (weight, bias) => {
            let parameters = std::iter::once(weight).chain(bias).collect();
            run(Learnt { sizes }, x, parameters, [rows, output])
        }
    }
}

/// Of a product `[rows, in]` by `[in, out]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub rows: usize,
    pub input: usize,
    pub output: usize,
}

impl Sizes {
    /// `None` where offsets of rows need more than 32 bits, or nothing is there.
    pub(super) fn new(rows: usize, input: usize, output: usize) -> Option<Self> {
        let longest = rows.max(output).checked_mul(padded(input).max(padded(output)).max(padded(rows)))?;
        let fits = rows > 0 && input > 0 && output > 0 && u32::try_from(longest).is_ok();
        fits.then_some(Self { rows, input, output })
    }
}

/// A layer whose weights get no gradient.
#[derive(Debug)]
struct Frozen {
    /// `[out, in]`, in whichever order it lies in memory.
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    sizes: Sizes,
}

impl Frozen {
    /// `x W^T + b`, or with `turned` `x W`.
    fn product<T: Element + Pod + Stored>(&self, x: &[f32], is_turned: bool) -> Vec<f32> {
        let (output_first, input_first) = (self.weight.clone(), self.weight.transpose(0, 1));
        let whole;
        let (data, by_output) = match (output_first.as_slice::<T>(), input_first.as_slice::<T>()) {
            (Some(data), _) => (data, true),
            (None, Some(data)) => (data, false),
            (None, None) => {
                whole = self.weight.to_contiguous();
                (whole.storage::<T>(), true)
            }
        };
        let Sizes { rows, input, output } = self.sizes;
        let stride = if by_output { input } else { output };
        let matrix = Right::Loose(Matrix { data, stride, by_column: by_output != is_turned });
        let bias = self.bias.as_ref().filter(|_| !is_turned).and_then(|bias| bias.as_slice());
        let [input, output] = if is_turned { [output, input] } else { [input, output] };
        product(x, &matrix, bias, Sizes { rows, input, output })
    }

    fn of_either_type(&self, x: &[f32], is_turned: bool) -> Vec<f32> {
        match self.weight.dtype() {
            DType::BF16 => self.product::<bf16>(x, is_turned),
            _ => self.product::<f32>(x, is_turned),
        }
    }
}

impl Kernel for Frozen {
    type Saved = ();

    fn forward(&self, x: &[f32], _: &[&[f32]], _: bool) -> (Vec<f32>, Option<()>) {
        (self.of_either_type(x, false), Some(()))
    }

    fn backward(
        &self,
        _: &[f32],
        _: &[&[f32]],
        (): &(),
        gradient: &[f32],
        with_input: bool,
    ) -> (Vec<Vec<f32>>, Option<Vec<f32>>) {
        (Vec::new(), with_input.then(|| self.of_either_type(gradient, true)))
    }
}

/// A layer whose weights `[out, in]`, and bias if it has one, get gradients.
#[derive(Debug)]
struct Learnt {
    sizes: Sizes,
}

impl Kernel for Learnt {
    type Saved = ();

    fn forward(&self, x: &[f32], parameters: &[&[f32]], _: bool) -> (Vec<f32>, Option<()>) {
        let weight = Right::Loose(Matrix { data: parameters[0], stride: self.sizes.input, by_column: true });
        (product(x, &weight, parameters.get(1).copied(), self.sizes), Some(()))
    }

    fn backward(
        &self,
        x: &[f32],
        parameters: &[&[f32]],
        (): &(),
        gradient: &[f32],
        with_input: bool,
    ) -> (Vec<Vec<f32>>, Option<Vec<f32>>) {
        let Sizes { rows, input, output } = self.sizes;
        let mut turned = vec![0.0; gradient.len()];
        transpose(gradient, rows, output, output, rows, &mut turned);
        let lines = Right::Loose(Matrix { data: x, stride: input, by_column: false });
        let mut all = vec![product(&turned, &lines, None, Sizes { rows: output, input: rows, output: input })];
        if parameters.len() > 1 {
            all.push(
                turned
                    .chunks_exact(rows)
                    .map(|row| row.iter().map(|value| f64::from(*value)).sum::<f64>() as f32)
                    .collect(),
            );
        }
        let of_input = with_input.then(|| {
            let weight = Right::Loose(Matrix { data: parameters[0], stride: input, by_column: false });
            product(gradient, &weight, None, Sizes { rows, input: output, output: input })
        });
        (all, of_input)
    }
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub(super) enum Right<'a, T> {
    /// A matrix that is packed while it is used.
    Loose(Matrix<'a, T>),
    /// Panels of full width, those behind the last column zeros.
    Packed(&'a [T]),
}

impl<'a, T: Stored> Right<'a, T> {
    /// Some columns of all `depth` rows; packed in `room` if they are not yet.
    fn columns<'b>(&'b self, arch: Arch, depth: usize, columns: &Range<usize>, room: &'b mut Panels) -> PanelsView<'b> {
        let values = match self {
            Self::Loose(matrix) => {
                room.pack(matrix, depth, columns.clone());
                return room.view();
            }
            Self::Packed(values) => *values,
        };
        let end = columns.end.next_multiple_of(panel_width(arch));
        let values = &values[columns.start * depth..end * depth];
        match T::as_f32(values) {
            Some(values) => PanelsView::of_full(arch, values, depth),
            None => {
                room.widen(values, depth);
                room.view()
            }
        }
    }
}

/// The product as plain values. Every value of the result is complete on its own: any number of threads gives the same bits.
pub(super) fn product<T: Stored>(x: &[f32], right: &Right<T>, bias: Option<&[f32]>, sizes: Sizes) -> Vec<f32> {
    let Sizes { rows, input, output } = sizes;
    let arch = Arch::new();
    let threads = rayon::current_num_threads();
    let step = columns_at_once(arch, input, output, threads);
    // Where there are too few columns for all threads, each packs them for some of the rows.
    let split = (threads / output.div_ceil(step)).clamp(1, rows.div_ceil(FEWEST_SHARED));
    let height = rows.div_ceil(split);
    let starts = (0..output).step_by(step).flat_map(|column| (0..rows).step_by(height).map(move |row| [row, column]));
    let parts: Vec<Part> = starts
        .map(|[row, column]| Part { rows: row..rows.min(row + height), columns: column..output.min(column + step) })
        .collect();
    let write = |out: Shared| {
        parts.par_iter().for_each_init(
            || Panels::empty(arch),
            |room, part| {
                let panels = right.columns(arch, input, &part.columns, room);
                // SAFETY: no two parts have a row and a column in common.
                unsafe { part.compute(arch, x, panels, bias, sizes, out) };
            },
        );
    };
    // SAFETY: the parts are all rows of all columns.
    unsafe { Shared::collect(rows * output, write) }
}

/// What one thread computes at a time.
#[derive(Clone, Debug)]
struct Part {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Part {
    /// # Safety
    /// Nobody else may write these rows and columns of `out`.
    unsafe fn compute(
        &self,
        arch: Arch,
        x: &[f32],
        panels: PanelsView,
        bias: Option<&[f32]>,
        sizes: Sizes,
        out: Shared,
    ) {
        let (Self { rows, columns }, Sizes { input, output, .. }) = (self, sizes);
        let segments = [Segment { start: 0, len: input, right: 0 }];
        let bias = bias.map(|bias| &bias[columns.clone()]);
        let lines = |start: usize, width: usize| {
            let line = move |row: usize| Row { from: (row * input) as u32, to: (start + row * width) as u32 };
            (0..rows.len()).map(line).collect::<Vec<Row>>()
        };
        let left = &x[rows.start * input..rows.end * input];
        let width = panels.columns;
        let first = rows.start * output + columns.start;
        if width == columns.len() {
            // SAFETY: the caller's promise: the rows begin at the part's columns, and are as long as those.
            unsafe { gather_product_into(arch, left, &lines(first, output), &segments, panels, bias, out) };
            return;
        }
        let bias = bias.map(|bias| {
            let mut bias = bias.to_vec();
            bias.resize(width, 0.0);
            bias
        });
        let mut wide = Buffer::take(rows.len() * width);
        // SAFETY: `wide` is this part's alone.
        unsafe {
            let to = Shared::new(&mut wide);
            gather_product_into(arch, left, &lines(0, width), &segments, panels, bias.as_deref(), to);
        }
        for (row, line) in wide.chunks_exact(width).enumerate() {
            // SAFETY: the caller's promise.
            let cells = unsafe { out.part(first + row * output, columns.len()) };
            cells.iter_mut().zip(line).for_each(|(cell, value)| _ = cell.write(*value));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor};

    use super::linear;
    use crate::{normal, tensor, values};

    fn random<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
        tensor(normal(&mut w2a_data::stream(0, name), shape.iter().product()), shape, &Device::flex())
    }

    /// In f64, from plain values.
    fn reference(x: &[f32], weight: &[f32], bias: &[f32], input: usize) -> Vec<f32> {
        let dot =
            |row: &[f32], weight: &[f32]| row.iter().zip(weight).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let line = |row| {
            let products = weight.chunks_exact(input).map(move |weight| -> f64 { dot(row, weight) });
            products.zip(bias).map(|(sum, bias)| (sum + f64::from(*bias)) as f32)
        };
        x.chunks_exact(input).flat_map(line).collect()
    }

    #[test]
    fn any_size_and_either_order_of_the_weights_gives_the_product() {
        for (rows, input, output) in
            [(8, 1, 1), (13, 7, 17), (29, 64, 48), (50, 130, 257), (9, 5000, 40), (70, 33, 3300)]
        {
            let (x, weight, bias) = (random("x", [rows, input]), random("w", [output, input]), random("b", [output]));
            let host = |tensor: Tensor<2>| values(tensor).unwrap();
            let want = reference(&host(x.clone()), &host(weight.clone()), &values(bias.clone()).unwrap(), input);
            // The same values, lying input by input.
            let turned = tensor(host(weight.clone().transpose()), [input, output], &Device::flex()).transpose();
            for (order, weight) in [("output by output", weight), ("input by input", turned)] {
                let got = host(super::fast(&x, &weight, Some(&bias)).expect("it is on the CPU, without gradients"));
                let largest = want.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() < 5e-6 * largest, "{rows} x {input} x {output}, {order}: {got}, {want}");
                }
                let plain = host(linear(x.clone(), weight, None));
                assert!((plain[0] + values(bias.clone()).unwrap()[0] - got[0]).abs() < 5e-6 * largest);
            }
        }
    }

    #[test]
    fn weights_in_bf16_are_the_values_that_they_are() {
        let (x, weight) = (random("x", [20, 70]), random("w", [50, 70]).cast(DType::BF16));
        let wide = weight.clone().cast(DType::F32);
        let turned = weight.clone().transpose().cast(DType::BF16);
        let turned = Tensor::<2>::from_data(turned.into_data(), (&Device::flex(), DType::BF16)).transpose();
        let run = |weight| values(super::fast(&x, weight, None).expect("it is on the CPU")).unwrap();
        assert_eq!(run(&weight), run(&wide));
        assert_eq!(run(&turned), run(&wide));
        // Few rows go through burn, which would not mix the two types.
        let few = linear(x.clone().narrow(0, 0, 2), weight, None);
        assert_eq!(few.dtype(), DType::F32);
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (x, weight) = (random("x", [40, 200]), random("w", [900, 200]));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| values(linear(x.clone(), weight.clone(), None)).unwrap())
        };
        assert_eq!(run(1), run(3));
    }

    /// Values and gradients of `x`, weights and bias, of a sum of products with other random values.
    fn differentiated(
        by: impl Fn(Tensor<2>, Tensor<2>, Option<Tensor<1>>) -> Tensor<2>,
        sizes: [usize; 3],
        is_frozen: bool,
    ) -> Vec<Vec<f32>> {
        let [rows, input, output] = sizes;
        let device = Device::flex().autodiff();
        let tracked = |values: Tensor<2>| Tensor::<2>::from_data(values.into_data(), &device).require_grad();
        let x = tracked(random("x", [rows, input]));
        let weight = random("w", [output, input]);
        let weight = if is_frozen { weight } else { tracked(weight) };
        let bias = Tensor::<1>::from_data(random("b", [output]).into_data(), &device).require_grad();
        let bias = (!is_frozen).then_some(bias);
        let out = by(x.clone(), weight.clone(), bias.clone());
        let factors = Tensor::<2>::from_data(random("f", [rows, output]).into_data(), &device);
        let gradients = (out.clone() * factors).sum().backward();
        let mut all = vec![values(out).unwrap(), values(x.grad(&gradients).unwrap()).unwrap()];
        if !is_frozen {
            all.push(values(weight.grad(&gradients).unwrap()).unwrap());
            all.extend(bias.map(|bias| values(bias.grad(&gradients).unwrap()).unwrap()));
        }
        all
    }

    #[test]
    fn gradients_are_burns_and_values_those_without_gradients() {
        for sizes in [[16, 4, 3], [33, 70, 50], [8, 129, 17]] {
            for is_frozen in [false, true] {
                let burns = |x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>| {
                    let out = x.matmul(weight.transpose());
                    bias.map_or(out.clone(), |bias| out + bias.unsqueeze())
                };
                let (ours, theirs) =
                    (differentiated(linear, sizes, is_frozen), differentiated(burns, sizes, is_frozen));
                assert_eq!(ours.len(), theirs.len());
                for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                    let largest = theirs.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
                    assert_eq!(ours.len(), theirs.len());
                    let far = ours.iter().zip(theirs).find(|(ours, theirs)| (*ours - *theirs).abs() > 5e-6 * largest);
                    assert!(far.is_none(), "{sizes:?}, frozen {is_frozen}, part {index}: {far:?}");
                }
                let [rows, input, output] = sizes;
                let bias = (!is_frozen).then(|| random("b", [output]));
                let plain = linear(random("x", [rows, input]), random("w", [output, input]), bias);
                assert_eq!(ours[0], values(plain).unwrap(), "the same bits with and without gradients");
            }
        }
    }

    #[test]
    fn gradients_pass_through_weights_in_bf16() {
        let device = Device::flex().autodiff();
        let weight = random("w", [20, 30]).cast(DType::BF16);
        let x = Tensor::<2>::from_data(random("x", [9, 30]).into_data(), &device).require_grad();
        let gradients = linear(x.clone(), weight.clone(), None).sum().backward();
        let wide = weight.cast(DType::F32);
        let sums = values(wide.sum_dim(0)).unwrap();
        for (got, want) in values(x.grad(&gradients).unwrap()).unwrap().iter().zip(sums.iter().cycle()) {
            assert!((got - want).abs() < 1e-5, "{got}, {want}");
        }
    }
}
