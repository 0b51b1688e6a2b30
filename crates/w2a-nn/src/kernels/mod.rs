//! Kernels of our own for the CPU, where burn's are slow: convolutions with what surrounds them, and perceptrons.
//!
//! [`stack`] and [`perceptron`] use them for f32 tensors of the `flex` backend, tracked or not; everything else falls back
//! to burn's operations, which compute the same. The kernels are deterministic: the same bits for any number of threads.

mod activation;
mod block;
mod geometry;
mod layer;
mod norm;
mod op;
mod pack;
mod prepared;
mod product;
mod recycle;
mod stack;
#[cfg(test)]
mod tests;

pub use activation::Activation;
pub(crate) use block::BlockPlan;
pub use layer::{Stage, perceptron, stack};
pub(crate) use op::{Operand, run};
pub use prepared::{Prepared, PreparedBlock};
