//! Products of frozen linear layers: weights are packed for the cache while they are used, and never kept twice.

use std::ops::Range;

use burn::backend::Flex;
use burn::tensor::{DType, Element, Tensor, bf16};
use burn_flex::FlexTensor;
use pulp::Arch;
use pulp::bytemuck::Pod;
use rayon::prelude::*;

use super::op::{Operand, flex};
use super::product::{Matrix, Panels, Row, Segment, Stored, columns_at_once, gather_product, padded};
use super::recycle::Buffer;

/// Rows below which packing the weights costs more than it saves.
const FEWEST: usize = 8;

/// Values that are worth a thread of their own when results are put together.
const BLOCK: usize = 1 << 17;

/// `x W^T + b` for `x` `[rows, in]`, `W` `[out, in]` and `b` `[out]`.
///
/// On the `flex` backend, without gradients and with more than a few rows, it is a product of our own; the weights may lie
/// in memory output by output or, which is faster, input by input. Weights in bf16 are used as the f32 values that they
/// are.
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
    // burn has the words for operands that do not fit; offsets of rows have 32 bits.
    let fits = input == inner && bias.is_none_or(|bias| bias.dims() == [output]);
    let longest = rows.checked_mul(input.max(padded(output)))?;
    if !fits || rows < FEWEST || input == 0 || output == 0 || u32::try_from(longest).is_err() {
        return None;
    }
    let (x, weight) = (frozen(x)?, stored(weight)?);
    let bias = match bias {
        Some(bias) => Some(frozen(bias)?),
        None => None,
    };
    let (x, turned) = (x.to_contiguous(), weight.transpose(0, 1));
    let bias = match &bias {
        Some(bias) => Some(bias.as_slice()?),
        None => None,
    };
    let sizes = [rows, input, output];
    let out = match weight.dtype() {
        DType::F32 => product(x.as_slice()?, &matrix::<f32>(&weight, &turned)?, bias, sizes),
        DType::BF16 => product(x.as_slice()?, &matrix::<bf16>(&weight, &turned)?, bias, sizes),
        _ => return None,
    };
    Some(Tensor::from_primitive::<Flex>(flex(out, &[rows, output])))
}

/// Weights `[out, in]`, in whichever order they lie in memory.
fn matrix<'a, T: Element + Pod>(weight: &'a FlexTensor, turned: &'a FlexTensor) -> Option<Matrix<'a, T>> {
    let stride = |tensor: &FlexTensor| tensor.layout().shape()[1];
    match turned.as_slice() {
        Some(data) => Some(Matrix { data, stride: stride(turned), by_column: false }),
        None => Some(Matrix { data: weight.as_slice()?, stride: stride(weight), by_column: true }),
    }
}

/// Weights without gradients, of whatever type.
fn stored(weight: &Tensor<2>) -> Option<FlexTensor> {
    match weight.dtype() {
        DType::BF16 => weight.clone().try_into_primitive::<Flex>().ok(),
        _ => frozen(weight),
    }
}

/// A tensor without gradients.
fn frozen<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    match Operand::of(tensor)? {
        Operand::Plain(tensor) => Some(tensor),
        Operand::Tracked(_) => None,
    }
}

/// The product as plain values. Every value of the result is complete on its own: any number of threads gives the same bits.
fn product<T: Stored>(
    x: &[f32],
    weight: &Matrix<T>,
    bias: Option<&[f32]>,
    [rows, input, output]: [usize; 3],
) -> Vec<f32> {
    let arch = Arch::new();
    let segments = [Segment { start: 0, len: input, right: 0 }];
    let step = columns_at_once(arch, input);
    let groups: Vec<Range<usize>> = (0..output).step_by(step).map(|start| start..output.min(start + step)).collect();
    let of_group = |panels: &mut Panels, columns: &Range<usize>| {
        panels.pack(weight, columns.clone());
        let width = padded(columns.len());
        let bias = bias.map(|bias| {
            let mut bias = bias[columns.clone()].to_vec();
            bias.resize(width, 0.0);
            bias
        });
        let offset = |row: usize, width: usize| (row * width) as u32;
        let lines: Vec<Row> = (0..rows).map(|row| Row { from: offset(row, input), to: offset(row, width) }).collect();
        let mut out = Buffer::take(rows * width);
        gather_product(arch, x, &lines, &segments, panels, bias.as_deref(), &mut out);
        out
    };
    let fresh = || Panels::zeros(arch, input, padded(step.min(output)));
    let parts: Vec<Buffer> = groups.par_iter().map_init(fresh, of_group).collect();
    let mut out = vec![0.0; rows * output];
    let lines = BLOCK.div_ceil(output);
    out.par_chunks_mut(lines * output).enumerate().for_each(|(block, out)| {
        for (index, out) in out.chunks_exact_mut(output).enumerate() {
            let row = block * lines + index;
            for (part, columns) in parts.iter().zip(&groups) {
                let width = padded(columns.len());
                out[columns.clone()].copy_from_slice(&part[row * width..][..columns.len()]);
            }
        }
    });
    out
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

    #[test]
    fn with_gradients_it_is_burns_own() {
        let device = Device::flex().autodiff();
        let x: Tensor<2> = Tensor::ones([16, 4], &device);
        let weight: Tensor<2> = Tensor::ones([3, 4], &device).require_grad();
        let gradients = linear(x, weight.clone(), None).sum().backward();
        assert_eq!(values(weight.grad(&gradients).unwrap()).unwrap(), [16.0; 12]);
    }
}
