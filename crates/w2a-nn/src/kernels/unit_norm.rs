//! Vectors brought to one length, and what follows, in one pass.

use burn::backend::Flex;
use burn::tensor::Tensor;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::activation::{self, Activation};
use super::elementwise::plain;
use super::op::{Operand, flex, slice};

/// Values that are worth a thread of their own.
const BLOCK: usize = 1 << 15;

/// Sums of squares that are added up side by side.
const SUMS: usize = 16;

/// The least length that a vector is divided by, as of `torch.nn.functional.normalize`.
const LEAST: f32 = 1e-12;

/// The activation of `x / |x| * sqrt(n) * gamma` over the last axis of `n` values; on the `flex` backend, where no gradient
/// is asked for, in vector code.
///
/// # Shapes
/// `x` `[.., n]` and `gamma` `[n]` → the shape of `x`.
pub fn unit_norm<const D: usize>(x: Tensor<D>, gamma: &Tensor<1>, activation: Activation) -> Tensor<D> {
    let shape = x.dims();
    let width = shape[D - 1];
    let ([factors], is_empty) = (gamma.dims(), shape.contains(&0));
    let operands = (Operand::of(&x), Operand::of(gamma));
    // burn has the words for operands that do not fit.
    if let (Some(x @ Operand::Plain(_)), Some(gamma @ Operand::Plain(_))) = operands
        && factors == width
        && !is_empty
    {
        let (x, gamma) = (x.values(), gamma.values());
        let (x, gamma) = (slice(&x), slice(&gamma));
        let mut out = vec![0.0; x.len()];
        let block = BLOCK.div_ceil(width) * width;
        out.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(out, x)| dispatch(activation, x, &gamma, out));
        return Tensor::from_primitive::<Flex>(flex(out, &shape));
    }
    let length = x.clone().square().sum_dim(D - 1).sqrt().clamp_min(LEAST);
    plain(x / length * (gamma.clone() * (width as f32).sqrt()).unsqueeze(), activation)
}

fn dispatch(activation: Activation, x: &[f32], gamma: &[f32], out: &mut [f32]) {
    let arch = Arch::new();
    match activation {
        Activation::Identity => arch.dispatch(Lines { x, gamma, out, function: activation::identity }),
        Activation::Relu => arch.dispatch(Lines { x, gamma, out, function: activation::relu }),
        Activation::Gelu => arch.dispatch(Lines { x, gamma, out, function: activation::gelu }),
        Activation::GeluTanh => arch.dispatch(Lines { x, gamma, out, function: activation::gelu_tanh }),
        Activation::Silu => arch.dispatch(Lines { x, gamma, out, function: activation::silu }),
    }
}

struct Lines<'a, F> {
    x: &'a [f32],
    gamma: &'a [f32],
    out: &'a mut [f32],
    function: F,
}

impl<F: Fn(f32) -> (f32, f32)> WithSimd for Lines<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.gamma.len();
        for (out, x) in self.out.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            let mut sums = [0.0_f32; SUMS];
            let (whole, rest) = x.as_chunks::<SUMS>();
            for values in whole {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = value.mul_add(*value, *sum);
                }
            }
            let squares = sums.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>();
            let scale = (width as f32).sqrt() / squares.sqrt().max(LEAST);
            for ((out, x), gamma) in out.iter_mut().zip(x).zip(self.gamma) {
                *out = (self.function)(x * scale * gamma).0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::unit_norm;
    use crate::{Activation, normal, tensor, values};

    #[test]
    fn it_agrees_with_burn_with_and_without_gradients() {
        let random = |name: &str, shape: [usize; 2], device: &Device| -> Tensor<2> {
            tensor(normal(&mut w2a_data::stream(0, name), shape.iter().product()), shape, device)
        };
        for width in [1, 8, 16, 37, 96] {
            for activation in [Activation::Identity, Activation::Silu, Activation::GeluTanh] {
                let run = |device: &Device| {
                    let (x, gamma) = (random("x", [70, width], device), random("gamma", [1, width], device));
                    values(unit_norm(x, &gamma.squeeze_dim::<1>(0), activation)).unwrap()
                };
                let (ours, burns) = (run(&Device::flex()), run(&Device::flex().autodiff()));
                for (ours, burns) in ours.iter().zip(&burns) {
                    assert!(
                        (ours - burns).abs() < 5e-6 * burns.abs().max(1.0),
                        "{width} {activation:?}: {ours}, {burns}"
                    );
                }
            }
        }
        // A vector without a direction stays one.
        let zeros = Tensor::<2>::zeros([2, 3], &Device::flex());
        let ones = Tensor::<1>::ones([3], &Device::flex());
        assert_eq!(values(unit_norm(zeros, &ones, Activation::Silu)).unwrap(), [0.0; 6]);
    }
}
