//! Activations of whole tensors: burn computes them through the mathematical library, one value after the other.

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, gelu_approximate, relu, silu};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::activation::{self, Activation};
use super::op::{Kernel, Operand, run};

/// Values that are worth a thread of their own.
const BLOCK: usize = 1 << 15;

/// The activation of every value; on the `flex` backend in vector code.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    let shape = x.dims();
    Operand::of(&x).and_then(|input| run(activation, input, Vec::new(), shape)).unwrap_or_else(|| plain(x, activation))
}

/// Through burn's own operations.
pub(super) fn plain<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::Identity => x,
        Activation::Relu => relu(x),
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_approximate(x),
        Activation::Silu => silu(x),
    }
}

impl Kernel for Activation {
    type Saved = ();

    fn forward(&self, x: &[f32], _: &[&[f32]], _: bool) -> (Vec<f32>, Option<()>) {
        let mut out = vec![0.0; x.len()];
        let blocks = out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK));
        blocks.for_each(|(out, x)| dispatch(*self, |out, (value, _)| *out = value, x, out));
        (out, Some(()))
    }

    fn backward(
        &self,
        x: &[f32],
        _: &[&[f32]],
        (): &(),
        gradient: &[f32],
        with_input: bool,
    ) -> (Vec<Vec<f32>>, Option<Vec<f32>>) {
        if !with_input {
            return (Vec::new(), None);
        }
        let mut out = gradient.to_vec();
        let blocks = out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK));
        blocks.for_each(|(out, x)| dispatch(*self, |out, (_, slope)| *out *= slope, x, out));
        (Vec::new(), Some(out))
    }
}

/// Calls `store` with every value of `out`, and activation and slope of its value of `x`.
fn dispatch(activation: Activation, store: impl Fn(&mut f32, (f32, f32)), x: &[f32], out: &mut [f32]) {
    let arch = Arch::new();
    match activation {
        Activation::Identity => arch.dispatch(Map { x, out, function: activation::identity, store }),
        Activation::Relu => arch.dispatch(Map { x, out, function: activation::relu, store }),
        Activation::Gelu => arch.dispatch(Map { x, out, function: activation::gelu, store }),
        Activation::GeluTanh => arch.dispatch(Map { x, out, function: activation::gelu_tanh, store }),
        Activation::Silu => arch.dispatch(Map { x, out, function: activation::silu, store }),
    }
}

struct Map<'a, F, G> {
    x: &'a [f32],
    out: &'a mut [f32],
    function: F,
    store: G,
}

impl<F: Fn(f32) -> (f32, f32), G: Fn(&mut f32, (f32, f32))> WithSimd for Map<'_, F, G> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            (self.store)(out, (self.function)(x));
        }
    }
}
