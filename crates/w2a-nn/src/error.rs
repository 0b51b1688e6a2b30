//! What can go wrong while building, loading, saving and training a model.

use std::path::PathBuf;

/// An error of this crate; each says what was expected, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// A file could not be read or written.
    #[error("{action} failed: {source}{}", disk_hint(.action, .source))]
    Io {
        /// What was being done.
        action: &'static str,
        /// The cause; names the path.
        source: std::io::Error,
    },
    /// A weights file is not readable as safetensors.
    #[error(
        "not a readable safetensors file: {reason}; it may be truncated: copy it again, or delete it and run again with --resume: {path}"
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A weights file that others wrote, such as an archive of `torch.save`, cannot be used.
    #[error("cannot use the weights file {}: {problem}", path.display())]
    Weights {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: crate::WeightsProblem,
    },
    /// A tensor that the model needs is not in the checkpoint.
    #[error("checkpoint lacks tensor {name:?} of shape {shape:?}; it belongs to another model or version")]
    MissingTensor {
        /// Tensor name.
        name: String,
        /// Shape the model expects.
        shape: Vec<usize>,
    },
    /// The checkpoint has tensors the model does not know.
    #[error("checkpoint has {} tensor(s) the model does not know, the first is {:?}; it belongs to another model or version", .names.len(), .names.first())]
    ExtraTensors {
        /// Their names.
        names: Vec<String>,
    },
    /// A tensor has another shape than the model.
    #[error(
        "tensor {name:?} has shape {got:?}, the model expects {expected:?}; the checkpoint was trained with another configuration"
    )]
    Shape {
        /// Tensor name.
        name: String,
        /// Shape found.
        got: Vec<usize>,
        /// Shape expected.
        expected: Vec<usize>,
    },
    /// A checkpoint's configuration is not the one asked for.
    #[error(
        "{path} was trained with another configuration: {difference}; use another output directory, or restore the configuration"
    )]
    Config {
        /// The checkpoint folder.
        path: PathBuf,
        /// The first difference.
        difference: String,
    },
    /// A loss or gradient is NaN or infinite.
    #[error(
        "training {stage:?} diverged at step {step}: {what} is {value}; {last_good}; lower the learning rate or look at the batch of that step"
    )]
    Diverged {
        /// Which training.
        stage: String,
        /// Which step.
        step: usize,
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f32,
        /// Where to resume from.
        last_good: String,
    },
    /// A device operation failed.
    #[error("{what} failed on the device: {message}")]
    Device {
        /// What was being done.
        what: &'static str,
        /// The device's words.
        message: String,
    },
    /// An input that does not fit.
    #[error("{what}: expected {expected}, got {got}")]
    Input {
        /// Which input.
        what: String,
        /// What was expected.
        expected: String,
        /// What was found.
        got: String,
    },
}

fn disk_hint(action: &str, source: &std::io::Error) -> &'static str {
    match (source.kind(), action) {
        (std::io::ErrorKind::StorageFull, _) => {
            "; the disk is full: free space and resume, what was saved before is intact"
        }
        (std::io::ErrorKind::NotFound, "loading weights" | "reading a checkpoint") => {
            "; copy it back, or delete the `checkpoints` folder of that training and run again with --resume"
        }
        (std::io::ErrorKind::NotFound, _) => "; check the path",
        _ => "",
    }
}
