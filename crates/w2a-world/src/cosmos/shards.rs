//! Weights in several files, as `transformers` and `diffusers` write them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use w2a_nn::NnError;

/// Names of shards by tensors.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of an index, each once.
///
/// # Errors
/// An index that cannot be read or names no files, or a shard that is missing.
pub(super) fn shards(index: &Path) -> Result<Vec<PathBuf>, NnError> {
    let text = fs_err::read(index).map_err(|source| NnError::Io { action: "opening weights", source })?;
    let wrong = |got: String| NnError::Input {
        what: format!("index of weights {}", index.display()),
        expected: "weight_map with the shard of every tensor".into(),
        got,
    };
    let map: Index = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let names: BTreeSet<&String> = map.weight_map.values().collect();
    let folder = index.parent().unwrap_or(Path::new("."));
    let mut files = Vec::new();
    for name in &names {
        // A shard lies beside its index; anything else is a mistake or an attempt to read other files.
        if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
            return Err(wrong(format!("a shard called {name:?}, which is no file name")));
        }
        let path = folder.join(name);
        if !path.is_file() {
            let missing = names.iter().filter(|name| !folder.join(name).is_file()).count();
            return Err(NnError::Input {
                what: format!("shard {}", path.display()),
                expected: format!("a file: {} lists it", index.display()),
                got: format!("none; {missing} of {} shards are missing, copy them too", names.len()),
            });
        }
        files.push(path);
    }
    if files.is_empty() {
        return Err(wrong("no tensor".into()));
    }
    Ok(files)
}
