//! What the models are made of, and what `burn` lacks for our purposes.
//!
//! Layers keep PyTorch's parameter names, shapes and default initialisation, so that checkpoints cross over without a
//! table; every random number comes from a named ChaCha stream; and a training loop that is killed at any moment resumes
//! to the same bits on the CPU.

mod checkpoint;
mod device;
mod error;
mod init;
mod kernels;
mod layers;
mod optim;
mod parity;
mod state;
mod text;
mod train;
mod transformer;
mod vision;
mod weights;

pub use checkpoint::{Checkpoint, Unwritten, load_weights, read_state, save_weights, write_state, write_tensors};
pub use device::{DEVICES, device};
pub use error::NnError;
pub use init::{Init, normal, uniform};
pub use kernels::{
    Activation, Grid, PackedLinear, Prepared, PreparedBlock, Stage, VideoConv, activate, attention, linear, perceptron,
    stack, unit_norm,
};
pub use layers::{Conv2d, GroupNorm, LayerNorm, Linear};
pub use optim::{AdamW, AdamWConfig, NamedGradients, named_gradients};
pub use parity::{Comparison, Fixture, Line, ParityReport, Tolerance, compare};
pub use state::{Array, StateDict, load_state, state_dict};
pub use text::{TEXT_DIM, embed_text};
pub use train::{
    Losses, SHARDS, StepReport, TrainConfig, Training, in_shards, train, train_by_gradients, train_sharded, trainable,
};
pub use transformer::{Block, BlockConfig, timestep_embedding};
pub use vision::{ImageBatch, VisionConfig, VisionTrunk};
pub use weights::{Converted, Dtype, TensorInfo, WeightsFile, WeightsFormat, WeightsProblem, convert};

use burn::tensor::{Device, Tensor, TensorData};

/// A float tensor from row-major values.
///
/// # Panics
/// If `values` does not fill `shape`: that is a bug of the caller, who checks its inputs at the border.
pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The values of a float tensor, row-major.
///
/// # Errors
/// If the device fails to hand the data over.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, NnError> {
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|source| NnError::Device { what: "reading a tensor", message: source.to_string() })
}
