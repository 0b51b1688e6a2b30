//! The folder that `--world.path` loads: the fine-tuned DiT in the authors' layout beside the parts that were not trained.

use std::path::Path;

use w2a_nn::{NnError, Unwritten, values, write_tensors};
use w2a_world::cosmos::{Cosmos, CosmosConfig, Dit, Tensors, Weighting};

use crate::PipelineError;
use crate::context::model;

/// The DiT's file.
const DIT: &str = "model-finetuned.safetensors";

/// Writes the folder `to`: `dit` with changes of low rank merged, the video autoencoder of `world`, the embedded `prompts`, and
/// its settings.
///
/// # Errors
/// A disk that fails.
pub(super) fn export(
    dit: &Dit,
    world: &Cosmos,
    prompts: &[String],
    is_half: bool,
    to: &Path,
) -> Result<(), PipelineError> {
    let io = |error| PipelineError::io("writing the fine-tuned world model", error);
    fs_err::create_dir_all(to).map_err(io)?;
    for file in model(Tensors::files(&model(world.folder().vae())?))? {
        place(&file, world.folder().dir(), to)?;
    }
    // With an index, that is one file more.
    place(&model(world.folder().vae())?, world.folder().dir(), to)?;
    let store = to.join("prompts");
    fs_err::create_dir_all(&store).map_err(io)?;
    for prompt in prompts.iter().filter(|prompt| !prompt.is_empty()) {
        let path = world.prompts().path(prompt);
        copied(&path, &store.join(path.file_name().unwrap_or_default()))?;
    }
    let config = CosmosConfig { checkpoint: None, weights: Weighting::Plain, prompts: None, ..world.config().clone() };
    let text = serde_json::to_vec_pretty(&config).unwrap_or_default();
    w2a_data::write_atomic(&to.join("cosmos.json"), &text).map_err(io)?;
    // The folder is complete when this file is there.
    Ok(save(dit, is_half, &to.join(DIT))?)
}

/// Writes the weights by the names in the authors' checkpoints, one in memory at a time.
fn save(dit: &Dit, is_half: bool, path: &Path) -> Result<(), NnError> {
    let (mut layers, mut norms) = (dit.clone(), dit.clone());
    let layers = layers.layers().into_iter().map(|(name, layer)| {
        let (shape, layer) = (layer.size().to_vec(), &*layer);
        (name, Unwritten { is_half, shape, values: Box::new(move || Ok(values(layer.merged())?.into())) })
    });
    let norms = norms.norms().into_iter().map(|(name, norm)| {
        let (shape, norm) = (norm.dims().to_vec(), &*norm);
        // As in the released files, which are bf16 throughout.
        (name, Unwritten { is_half, shape, values: Box::new(move || Ok(values(norm.clone())?.into())) })
    });
    write_tensors(layers.chain(norms).map(|(name, tensor)| (format!("net.{name}.weight"), tensor)), path)
}

/// Puts a file of `from` into the same place below `to`.
fn place(file: &Path, from: &Path, to: &Path) -> Result<(), PipelineError> {
    let inside = file.strip_prefix(from).unwrap_or(file);
    copied(file, &to.join(inside))
}

/// A copy of a file, which takes no space where the file system allows that.
fn copied(from: &Path, to: &Path) -> Result<(), PipelineError> {
    let io = |error| PipelineError::io("copying a part of the world model", error);
    if let Some(folder) = to.parent() {
        fs_err::create_dir_all(folder).map_err(io)?;
    }
    if to.exists() {
        return Ok(());
    }
    if fs_err::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs_err::copy(from, to).map(|_| ()).map_err(io)
}
