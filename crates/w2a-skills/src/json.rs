//! JSON files.

use std::path::Path;

use serde::Serialize;
use w2a_report::{WriteError, write_atomic};

/// Writes `value` as indented JSON, replacing an older file at once.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), WriteError> {
    let text =
        serde_json::to_vec_pretty(value).map_err(|error| WriteError { source: error.into(), path: path.to_owned() })?;
    write_atomic(path, &text)
}
