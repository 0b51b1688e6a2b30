//! Digests of what things are made from.

use sha2::{Digest, Sha256};
use w2a_nn::NnError;

/// Adds a part, its length first, so that no two lists of parts look alike.
pub(crate) fn update(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_le_bytes());
    hash.update(part);
}

/// A value as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, NnError> {
    serde_json::to_vec(value).map_err(|error| NnError::Input {
        what: "what an imagination is made from".into(),
        expected: "something JSON can hold".into(),
        got: error.to_string(),
    })
}

/// The digest, 64 hexadecimal digits.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
