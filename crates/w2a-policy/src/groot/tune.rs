//! Training the whole action head, and the checkpoint that comes out.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use w2a_nn::{Array, NnError, Unwritten, values, write_tensors};

use super::action_head::ActionHead;
use super::category::Embodiments;
use super::checkpoint::Checkpoint;
use super::policy::{Groot, GrootOptions};
use super::source::{Place, Weights};

/// The one file of the weights.
const WEIGHTS: &str = "model.safetensors";

/// An action head that is trained, and the checkpoint it is of.
#[derive(Debug)]
pub struct HeadTuning {
    checkpoint: Checkpoint,
    weights: Weights,
    places: BTreeMap<ParamId, Place>,
}

impl HeadTuning {
    /// The action head of the checkpoint in `dir` with a gradient for every parameter: norm of the features, projector of one
    /// embodiment, positions and transformer.
    ///
    /// # Errors
    /// As [`Groot::load`].
    pub fn open(dir: &Path, embodiment: &str, options: &GrootOptions) -> Result<(ActionHead, Self), NnError> {
        let checkpoint = Checkpoint::open(dir, options.backbone.as_deref())?;
        let (_, _, id) = checkpoint.embodiment(embodiment)?;
        let weights = checkpoint.weights(&options.device.clone().autodiff())?;
        let head = ActionHead::load(&weights, &checkpoint.head, Embodiments::One(id))?;
        let places = weights.places();
        Ok((head, Self { checkpoint, weights, places }))
    }

    /// Writes a checkpoint with `head` to the folder `to`, which must not exist: everything else is as it was. What was
    /// trained is written as f32, so that small changes are kept; of layers with weights for each embodiment, those of the
    /// one.
    ///
    /// # Errors
    /// A head of another checkpoint, a folder that exists, a file that cannot be read, or a disk that fails.
    pub fn export(&self, head: &ActionHead, to: &Path) -> Result<(), NnError> {
        let io = |source| NnError::Io { action: "writing a fine-tuned checkpoint", source };
        if to.exists() {
            return Err(super::wrong(to.display().to_string(), "a folder that does not exist yet", "one that does"));
        }
        let mut trained = Trained { places: &self.places, found: BTreeMap::new(), failed: None };
        head.visit(&mut trained);
        if let Some(error) = trained.failed {
            return Err(error);
        }
        let found = trained.found;
        if found.len() != self.places.len() {
            let expected = format!("the {} parameters that were read", self.places.len());
            return Err(super::wrong("action head to be written", expected, format!("{} of them", found.len())));
        }
        fs_err::create_dir_all(to).map_err(io)?;
        self.checkpoint.copy_settings(to)?;
        let found = &found;
        let tensors = self.weights.stored().map(|(name, shape, is_half)| {
            let new = found.get(&name);
            let of = name.clone();
            let values = move || match new {
                Some((place, rows)) => Ok(patched(&self.weights, &of, place, rows)?.into()),
                None => Ok(self.weights.read(&of)?.data.into()),
            };
            (name, Unwritten { is_half: is_half && new.is_none(), shape, values: Box::new(values) })
        });
        // The folder is complete when this file is there.
        write_tensors(tensors, &to.join(WEIGHTS))
    }
}

impl Groot {
    /// The same with another action head.
    pub fn with_head(&self, head: ActionHead) -> Self {
        let mut this = self.clone();
        (this.head, this.schedule) = (head, None);
        this
    }
}

/// The tensor with new values in the rows that were trained.
fn patched(weights: &Weights, name: &str, place: &Place, rows: &[f32]) -> Result<Vec<f32>, NnError> {
    let mut array: Array = weights.read(name)?;
    let each = array.data.len() / array.shape.first().copied().unwrap_or(1).max(1);
    let all = array.data.len();
    match array.data.get_mut(place.from * each..(place.from + place.count) * each) {
        Some(old) if old.len() == rows.len() => old.copy_from_slice(rows),
        _ => {
            let expected = format!("at most {all} values from row {}", place.from);
            return Err(super::wrong(format!("trained weights {name:?}"), expected, rows.len().to_string()));
        }
    }
    Ok(array.data)
}

/// Collects parameters by their names in the checkpoint.
struct Trained<'a> {
    places: &'a BTreeMap<ParamId, Place>,
    found: BTreeMap<String, (&'a Place, Vec<f32>)>,
    failed: Option<NnError>,
}

impl ModuleVisitor for Trained<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(place) = self.places.get(&param.id) else { return };
        match values(param.val()) {
            Ok(values) => drop(self.found.insert(place.name.clone(), (place, values))),
            Err(error) => self.failed = Some(error),
        }
    }
}
