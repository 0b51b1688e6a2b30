//! Weights and training state on disk.
//!
//! A checkpoint is a folder `checkpoints/<step>/` with `model.safetensors`, `config.json` and
//! `training_state/{optimizer.safetensors, step.json}`; `checkpoints/last` is a relative link to the newest. A folder
//! appears under its name only when it is complete, so a kill at any moment leaves the previous one valid.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use safetensors::tensor::Dtype;
use w2a_data::write_atomic;

use crate::{AdamW, AdamWConfig, Array, NnError, StateDict, WeightsFile, load_state, state_dict};

/// Writes `module`'s parameters to a safetensors file, atomically.
///
/// # Errors
/// If the device or the disk fails.
pub fn save_weights<M: Module>(module: &M, path: &Path) -> Result<(), NnError> {
    write_state(&state_dict(module)?, path)
}

/// `module` with the parameters of a safetensors file, which must match it exactly.
///
/// # Errors
/// If the file is missing, truncated, or belongs to another model.
pub fn load_weights<M: Module>(module: M, path: &Path) -> Result<M, NnError> {
    load_state(module, read_state(path)?)
}

/// Writes named tensors to a safetensors file, atomically.
///
/// # Errors
/// If the disk fails.
pub fn write_state(state: &StateDict, path: &Path) -> Result<(), NnError> {
    write_arrays(state.iter().map(|(name, array)| (name.clone(), array)), path)
}

/// [`write_state`] of arrays that lie anywhere.
fn write_arrays<'a>(arrays: impl Iterator<Item = (String, &'a Array)>, path: &Path) -> Result<(), NnError> {
    write_tensors(
        arrays.map(|(name, array)| {
            let values = || Ok(std::borrow::Cow::Borrowed(&array.data[..]));
            (name, Unwritten { is_half: false, shape: array.shape.clone(), values: Box::new(values) })
        }),
        path,
    )
}

/// A tensor to be written, whose values are asked for when its turn comes.
pub struct Unwritten<'a> {
    /// Whether values are rounded to the nearest bf16; else they are f32.
    pub is_half: bool,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Box<dyn Fn() -> Result<std::borrow::Cow<'a, [f32]>, NnError> + 'a>,
}

/// Writes named tensors to a safetensors file, atomically, with the values of one of them in memory at a time.
///
/// # Errors
/// If the disk fails, if the values of a tensor cannot be had, or do not fill its shape.
pub fn write_tensors<'a>(tensors: impl Iterator<Item = (String, Unwritten<'a>)>, path: &Path) -> Result<(), NnError> {
    let failed = RefCell::new(None);
    let views: Vec<(String, View)> =
        tensors.map(|(name, tensor)| (name.clone(), View { name, tensor, failed: &failed })).collect();
    let mut problem = None;
    let written =
        w2a_data::write_atomic_with(path, |partial| match safetensors::serialize_to_file(views, None, partial) {
            Err(safetensors::SafeTensorError::IoError(error)) => Err(error),
            Err(error) => {
                problem = Some(NnError::Format { path: path.to_owned(), reason: error.to_string() });
                Err(std::io::ErrorKind::InvalidData.into())
            }
            Ok(()) => {
                problem = failed.take();
                if problem.is_some() { Err(std::io::ErrorKind::InvalidData.into()) } else { Ok(()) }
            }
        });
    match (problem, written) {
        (Some(problem), _) => Err(problem),
        (None, written) => written.map_err(|source| NnError::Io { action: "saving weights", source }),
    }
}

struct View<'a, 'b> {
    name: String,
    tensor: Unwritten<'a>,
    /// The trait cannot fail, so the first failure waits here.
    failed: &'b RefCell<Option<NnError>>,
}

impl View<'_, '_> {
    fn bytes(&self) -> Result<Vec<u8>, NnError> {
        let values = (self.tensor.values)()?;
        let bytes: Vec<u8> = if self.tensor.is_half {
            values.iter().flat_map(|value| burn::tensor::bf16::from_f32(*value).to_le_bytes()).collect()
        } else {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        if bytes.len() == safetensors::View::data_len(self) {
            return Ok(bytes);
        }
        Err(NnError::Input {
            what: format!("tensor {:?} to be written", self.name),
            expected: format!("values that fill {:?}", self.tensor.shape),
            got: format!("{} of them", values.len()),
        })
    }
}

impl safetensors::View for View<'_, '_> {
    fn dtype(&self) -> Dtype {
        if self.tensor.is_half { Dtype::BF16 } else { Dtype::F32 }
    }
    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes()
            .unwrap_or_else(|error| {
                self.failed.borrow_mut().get_or_insert(error);
                vec![0; self.data_len()]
            })
            .into()
    }
    fn data_len(&self) -> usize {
        let size = if self.tensor.is_half { 2 } else { 4 };
        self.tensor.shape.iter().product::<usize>() * size
    }
}

/// Reads all tensors of a weights file as F32: a safetensors file of ours or of others, or an archive of `torch.save`.
///
/// # Errors
/// A missing or damaged file, or a value that is not finite (named).
pub fn read_state(path: &Path) -> Result<StateDict, NnError> {
    let file = WeightsFile::open(path).map_err(|error| match error {
        NnError::Io { source, .. } => NnError::Io { action: "loading weights", source },
        other => other,
    })?;
    let state = file.read_all()?;
    for (name, Array { data, .. }) in &state {
        if let Some(bad) = data.iter().position(|value| !value.is_finite()) {
            let reason = format!("tensor {name:?} has {} at position {bad}, expected finite values", data[bad]);
            return Err(NnError::Format { path: path.to_owned(), reason });
        }
    }
    Ok(state)
}

/// The checkpoints of one training, in `dir`.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    dir: PathBuf,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Step {
    step: usize,
}

impl Checkpoint {
    /// The checkpoints in `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn root(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// The newest complete checkpoint folder, if any.
    pub fn last(&self) -> Option<PathBuf> {
        let last = self.root().join("last");
        last.join("training_state").join("step.json").exists().then_some(last)
    }

    /// Steps done in the newest checkpoint, 0 without one.
    ///
    /// # Errors
    /// If the step file is unreadable.
    pub fn step(&self) -> Result<usize, NnError> {
        let Some(last) = self.last() else { return Ok(0) };
        let path = last.join("training_state").join("step.json");
        let bytes = fs_err::read(&path).map_err(|source| NnError::Io { action: "reading a checkpoint", source })?;
        let step: Step =
            serde_json::from_slice(&bytes).map_err(|error| NnError::Format { path, reason: error.to_string() })?;
        Ok(step.step)
    }

    /// `module` with the newest checkpoint's inference weights.
    ///
    /// # Errors
    /// If there is none, or it does not fit.
    pub fn load<M: Module>(&self, module: M) -> Result<M, NnError> {
        load_weights(module, &self.root().join("last").join("model.safetensors"))
    }

    /// Checks that the newest checkpoint was trained with `config`.
    ///
    /// # Errors
    /// [`NnError::Config`] naming the first difference.
    pub(crate) fn check_config(&self, config: &serde_json::Value) -> Result<(), NnError> {
        let Some(last) = self.last() else { return Ok(()) };
        let path = last.join("config.json");
        let bytes = fs_err::read(&path).map_err(|source| NnError::Io { action: "reading a checkpoint", source })?;
        let saved: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| NnError::Format { path: path.clone(), reason: error.to_string() })?;
        match first_difference("", &saved, config) {
            None => Ok(()),
            Some(difference) => Err(NnError::Config { path: self.dir.clone(), difference }),
        }
    }

    /// Saves inference weights and the whole training state, then points `last` at it and drops older ones.
    ///
    /// # Errors
    /// If the device or the disk fails; the previous checkpoint is then still valid.
    pub(crate) fn save(
        &self,
        step: usize,
        weights: &StateDict,
        raw: &StateDict,
        optimiser: &AdamW,
        config: &serde_json::Value,
    ) -> Result<(), NnError> {
        let io = |source| NnError::Io { action: "saving a checkpoint", source };
        let name = format!("{step:06}");
        let (root, partial) = (self.root(), self.root().join(format!("{name}.partial")));
        let _ = fs_err::remove_dir_all(&partial);
        fs_err::create_dir_all(partial.join("training_state")).map_err(io)?;
        write_state(weights, &partial.join("model.safetensors"))?;
        let (first, second) = optimiser.moments();
        let state = [("param", raw), ("exp_avg", first), ("exp_avg_sq", second)];
        let state = state
            .into_iter()
            .flat_map(|(prefix, part)| part.iter().map(move |(name, array)| (format!("{prefix}.{name}"), array)));
        write_arrays(state, &partial.join("training_state").join("optimizer.safetensors"))?;
        let config_text = serde_json::to_vec_pretty(config).unwrap_or_default();
        write_atomic(&partial.join("config.json"), &config_text).map_err(io)?;
        let step_text = serde_json::to_vec(&Step { step }).unwrap_or_default();
        write_atomic(&partial.join("training_state").join("step.json"), &step_text).map_err(io)?;
        let done = root.join(&name);
        let _ = fs_err::remove_dir_all(&done);
        fs_err::rename(&partial, &done).map_err(io)?;
        let link = root.join("last.partial");
        let _ = fs_err::remove_file(&link);
        fs_err::os::unix::fs::symlink(&name, &link).map_err(io)?;
        fs_err::rename(&link, root.join("last")).map_err(io)?;
        for entry in fs_err::read_dir(&root).map_err(io)? {
            let entry = entry.map_err(io)?;
            let stale = entry.file_name().to_str().is_some_and(|other| other != name && other != "last");
            if stale {
                // Disk space only: a stale folder that stays is harmless.
                let _ = fs_err::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// Raw weights, inference weights and optimiser of the newest checkpoint.
    pub(crate) fn resume(&self, adamw: &AdamWConfig) -> Result<Option<Resumed>, NnError> {
        let Some(last) = self.last() else { return Ok(None) };
        let step = self.step()?;
        let mut parts: BTreeMap<&str, StateDict> = BTreeMap::new();
        for (name, array) in read_state(&last.join("training_state").join("optimizer.safetensors"))? {
            for prefix in ["param", "exp_avg", "exp_avg_sq"] {
                if let Some(rest) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')) {
                    parts.entry(prefix).or_default().insert(rest.to_owned(), array);
                    break;
                }
            }
        }
        let mut part = |name| parts.remove(name).unwrap_or_default();
        let optimiser = AdamW::resume(adamw.clone(), step as u64, part("exp_avg"), part("exp_avg_sq"));
        let weights = read_state(&last.join("model.safetensors"))?;
        Ok(Some(Resumed { step, raw: part("param"), weights, optimiser }))
    }
}

pub(crate) struct Resumed {
    pub step: usize,
    pub raw: StateDict,
    pub weights: StateDict,
    pub optimiser: AdamW,
}

fn first_difference(at: &str, saved: &serde_json::Value, given: &serde_json::Value) -> Option<String> {
    use serde_json::Value::Object;
    match (saved, given) {
        (Object(a), Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| {
                let null = serde_json::Value::Null;
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                first_difference(&path, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null))
            })
        }
        (a, b) if a == b => None,
        (a, b) => Some(format!("{at} was {a} and is now {b}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{load_weights, read_state, save_weights};
    use crate::{Init, Linear, NnError};
    use burn::tensor::Device;

    fn linear(input: usize) -> Linear {
        Linear::new(input, 3, &mut Init { rng: &mut w2a_data::stream(0, "t"), device: &Device::flex() })
    }

    #[test]
    fn weights_round_trip_and_misfits_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        save_weights(&linear(4), &path).unwrap();
        load_weights(linear(4), &path).unwrap();
        let error = load_weights(linear(5), &path).unwrap_err();
        assert!(matches!(&error, NnError::Shape { name, .. } if name == "weight"), "{error}");
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        save_weights(&linear(4), &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = read_state(&path).unwrap_err().to_string();
            assert!(error.contains("w.safetensors"), "{error}");
        }
    }

    #[test]
    fn a_nan_weight_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let mut state = crate::state_dict(&linear(4)).unwrap();
        state.get_mut("bias").unwrap().data[1] = f32::NAN;
        super::write_state(&state, &path).unwrap();
        assert!(read_state(&path).unwrap_err().to_string().contains("bias"));
    }
}
