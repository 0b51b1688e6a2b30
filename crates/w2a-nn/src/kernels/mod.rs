//! Kernels of our own for the CPU, where burn's are slow: convolutions of pictures and videos with what surrounds them,
//! perceptrons, linear layers, attention, norms, activations.
//!
//! [`stack`], [`perceptron`], [`linear`], [`attention`] and [`activate`] use them for f32 tensors of the `flex` backend, tracked
//! or not; [`unit_norm`] and [`VideoConv`] for those without gradients. Everything else falls back to burn's operations, which
//! compute the same. The kernels are deterministic: the same bits for any number of threads.

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
mod unit_norm;
mod video;

pub use activation::Activation;
pub use attention::attention;
pub(crate) use block::BlockPlan;
pub use elementwise::activate;
pub use layer::{Stage, perceptron, stack};
pub use linear::linear;
pub(crate) use op::{Operand, run};
pub use packed::PackedLinear;
pub use prepared::{Prepared, PreparedBlock};
pub use unit_norm::unit_norm;
pub use video::{Grid, VideoConv};
