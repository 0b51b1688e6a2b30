//! Kernels of our own for the CPU, where burn's are slow: convolutions with what surrounds them, perceptrons, linear layers,
//! attention, activations.
//!
//! [`stack`], [`perceptron`], [`linear`], [`attention`] and [`activate`] use them for f32 tensors of the `flex` backend, tracked
//! or not; everything else falls back to burn's operations, which compute the same. The kernels are deterministic: the same
//! bits for any number of threads.

mod activation;
mod attention;
mod block;
mod elementwise;
mod geometry;
mod layer;
mod linear;
mod norm;
mod op;
mod pack;
mod packed;
mod prepared;
mod product;
mod recycle;
mod shared;
mod stack;
#[cfg(test)]
mod tests;

pub use activation::Activation;
pub use attention::attention;
pub(crate) use block::BlockPlan;
pub use elementwise::activate;
pub use layer::{Stage, perceptron, stack};
pub use linear::linear;
pub(crate) use op::{Operand, run};
pub use packed::PackedLinear;
pub use prepared::{Prepared, PreparedBlock};
