//! Weights of others: safetensors files and archives of `torch.save`, told apart by their content.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;

// The parser's own sources, in a crate root that stands in for theirs.
#[allow(dead_code)]
#[path = "../../crates/w2a-nn/src/error.rs"]
mod error;
#[allow(dead_code, unused_imports)]
#[path = "../../crates/w2a-nn/src/weights/mod.rs"]
mod weights;

use error::NnError;
use weights::{WeightsFile, WeightsProblem};

/// As in `w2a-nn`.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// As in `w2a-nn`.
pub type StateDict = BTreeMap<String, Array>;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a temporary file");
    if let Ok(weights) = WeightsFile::open(file.path()) {
        let names: Vec<String> = weights.tensors().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let _ = weights.read(&name);
        }
    }
});
