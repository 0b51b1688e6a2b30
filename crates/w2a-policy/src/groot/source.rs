//! Where the weights of a model come from: a state dict in memory, or the files of a checkpoint, read tensor by tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use w2a_nn::{Array, Dtype, Linear, NnError, PackedLinear, StateDict, WeightsFile, normal, tensor};

use super::layers::Affine;

/// Rows of a matrix that are turned together.
const BLOCK: usize = 32;

/// Where a parameter was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The tensor's name.
    pub name: String,
    /// Its first row that the parameter has.
    pub from: usize,
    /// Rows of the parameter.
    pub count: usize,
}

/// Weights by name. Remembers which were asked for, so that what nobody knows can be reported.
#[derive(Debug)]
pub struct Weights {
    memory: StateDict,
    files: Vec<WeightsFile>,
    /// Number of the file of each tensor.
    place: BTreeMap<String, usize>,
    device: Device,
    used: Mutex<BTreeSet<String>>,
    /// Where each parameter came from.
    places: Mutex<BTreeMap<ParamId, Place>>,
    /// Bytes of the parameters that were made.
    bytes: AtomicU64,
    /// Makes up whatever is asked for, and keeps it.
    invented: Option<Mutex<(ChaCha8Rng, StateDict)>>,
}

impl Weights {
    /// Weights in memory, for networks on `device`.
    pub fn of_state(state: StateDict, device: &Device) -> Self {
        Self {
            memory: state,
            files: Vec::new(),
            place: BTreeMap::new(),
            device: device.clone(),
            used: Mutex::default(),
            places: Mutex::default(),
            bytes: AtomicU64::new(0),
            invented: None,
        }
    }

    /// Weights that are drawn from `rng` when they are asked for: small normal values, around 1 for the scales of norms. So
    /// the names and shapes of a checkpoint are written down once, in the code that loads it.
    pub(super) fn invented(rng: ChaCha8Rng, device: &Device) -> Self {
        let mut this = Self::of_state(StateDict::new(), device);
        this.invented = Some(Mutex::new((rng, StateDict::new())));
        this
    }

    /// What was made up.
    pub(super) fn into_invented(self) -> StateDict {
        let invented = self.invented.map(|cell| cell.into_inner().unwrap_or_else(PoisonError::into_inner));
        invented.map(|(_, state)| state).unwrap_or_default()
    }

    fn invent(&self, name: &str, shape: &[usize]) -> Option<Array> {
        let mut guard = self.invented.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let (rng, state) = &mut *guard;
        let array = state.entry(name.to_owned()).or_insert_with(|| {
            let scale =
                name.ends_with(".weight") && (name.contains("norm") && shape.len() == 1 || name.contains("mlp1.0"));
            let scale = scale || name.ends_with("vlln.weight");
            // What comes out of a layer is then about as large as what goes in, at any width.
            let (mean, deviation) = match shape {
                _ if scale => (1.0, 0.1),
                [_, input, ..] => (0.0, 1.0 / (*input as f32).sqrt()),
                _ => (0.0, 0.1),
            };
            let values = normal(rng, shape.iter().product()).into_iter().map(|value| mean + deviation * value);
            Array { shape: shape.to_vec(), data: values.collect() }
        });
        Some(array.clone())
    }

    /// Weights in the shards of a checkpoint; nothing is read yet.
    ///
    /// # Errors
    /// A tensor that is in two files.
    pub fn of_files(files: Vec<WeightsFile>, device: &Device) -> Result<Self, NnError> {
        let mut place = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for (name, _) in file.tensors() {
                if place.insert(name.to_owned(), number).is_some() {
                    return Err(NnError::Input {
                        what: "shards of the checkpoint".into(),
                        expected: "every tensor once; download the checkpoint again".into(),
                        got: format!("{name:?} twice"),
                    });
                }
            }
        }
        let mut this = Self::of_state(StateDict::new(), device);
        (this.files, this.place) = (files, place);
        Ok(this)
    }

    /// The shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        if let Some(array) = self.memory.get(name) {
            return Some(array.shape.clone());
        }
        let file = &self.files[*self.place.get(name)?];
        file.info(name).map(|info| info.shape.clone())
    }

    /// Whether a tensor is stored as bf16.
    fn is_half(&self, name: &str) -> bool {
        let info = self.place.get(name).and_then(|place| self.files[*place].info(name));
        !self.memory.contains_key(name) && info.is_some_and(|info| info.dtype == Dtype::BF16)
    }

    /// Names that nobody has asked for.
    pub fn unused(&self) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.memory.keys().chain(self.place.keys()).filter(|name| !used.contains(*name)).cloned().collect()
    }

    /// The device of the networks.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Reads `count` rows (along the first dimension) of a tensor of shape `shape`, from row `from` on.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, or not finite; rows beyond its end; a file that cannot be read.
    pub fn rows(&self, name: &str, shape: &[usize], from: usize, count: usize) -> Result<Array, NnError> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        if let Some(array) = self.invent(name, shape) {
            return rows_of(&array, from, count);
        }
        let found = self.shape(name);
        let found = found.ok_or_else(|| NnError::MissingTensor { name: name.into(), shape: shape.to_vec() })?;
        if found != shape {
            return Err(NnError::Shape { name: name.into(), got: found, expected: shape.to_vec() });
        }
        let array = match self.memory.get(name) {
            Some(array) => rows_of(array, from, count)?,
            None => self.files[self.place[name]].read_rows(name, from, count)?,
        };
        match array.data.iter().find(|value| !value.is_finite()) {
            None => Ok(array),
            Some(bad) => Err(NnError::Input {
                what: format!("weights {name:?}"),
                expected: "finite values; download the checkpoint again".into(),
                got: bad.to_string(),
            }),
        }
    }

    /// A parameter of shape `shape`; it gets gradients where the device records them.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub fn param<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Param<Tensor<D>>, NnError> {
        let count = shape.first().copied().unwrap_or(1);
        self.param_rows(name, shape, 0, count)
    }

    /// Rows of a tensor of shape `shape` as a parameter.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub fn param_rows<const D: usize>(
        &self,
        name: &str,
        mut shape: [usize; D],
        from: usize,
        count: usize,
    ) -> Result<Param<Tensor<D>>, NnError> {
        let data = self.rows(name, &shape, from, count)?.data;
        shape.first_mut().into_iter().for_each(|rows| *rows = count);
        let tensor = tensor(data, shape, &self.device);
        Ok(self.placed(tensor, Place { name: name.into(), from, count }))
    }

    /// A parameter whose place is remembered.
    fn placed<const D: usize>(&self, tensor: Tensor<D>, place: Place) -> Param<Tensor<D>> {
        let size = (tensor.dims().iter().product::<usize>() * tensor.dtype().size()) as u64;
        self.bytes.fetch_add(size, Ordering::Relaxed);
        let param = Param::from_tensor(tensor.set_require_grad(self.device.is_autodiff()));
        self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(param.id, place);
        param
    }

    /// Bytes of the parameters that were asked for so far, as they lie in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Where the parameters that were asked for came from.
    pub(super) fn places(&self) -> BTreeMap<ParamId, Place> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names and shapes of the tensors in files, and whether they are stored as bf16.
    pub(super) fn stored(&self) -> impl Iterator<Item = (String, Vec<usize>, bool)> {
        let tensors = self.files.iter().flat_map(|file| file.tensors());
        tensors.map(|(name, info)| (name.to_owned(), info.shape.clone(), info.dtype == Dtype::BF16))
    }

    /// Reads a tensor of the files.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub(super) fn read(&self, name: &str) -> Result<Array, NnError> {
        let shape = self.shape(name).unwrap_or_default();
        let count = shape.first().copied().unwrap_or(1);
        self.rows(name, &shape, 0, count)
    }

    /// The weight `[output, input]` of a linear layer. In memory it lies input by input: a product of few tokens then packs
    /// it row by row, which is most of such a product's time.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub fn matrix(&self, name: &str, output: usize, input: usize) -> Result<Param<Tensor<2>>, NnError> {
        let data = self.rows(name, &[output, input], 0, output)?.data;
        let mut columns = vec![0.0; data.len()];
        // A block of rows at a time: what is read and written then lies close together.
        for (block, rows) in data.chunks((BLOCK * input).max(1)).enumerate() {
            for (column, written) in columns.chunks_exact_mut(output.max(1)).enumerate() {
                let values = rows.iter().skip(column).step_by(input.max(1));
                written.iter_mut().skip(block * BLOCK).zip(values).for_each(|(to, from)| *to = *from);
            }
        }
        let weight = tensor(columns, [input, output], &self.device).transpose();
        Ok(self.placed(weight.detach(), Place { name: name.into(), from: 0, count: output }))
    }

    /// A linear layer with weight `[output, input]` and bias.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub fn linear(&self, name: &str, input: usize, output: usize) -> Result<Affine, NnError> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        if let Some(packed) = self.packed(&weight, Some(&bias), [output, input])? {
            return Ok(Affine::Packed(packed));
        }
        Ok(Affine::Loose(Linear { weight: self.matrix(&weight, output, input)?, bias: self.param(&bias, [output])? }))
    }

    /// A linear layer packed for products, where these are the CPU's and nothing asks for gradients of weights: a product of
    /// few tokens would spend half of its time on packing. bf16 stays bf16, which is half the memory for the same numbers.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    pub(super) fn packed(
        &self,
        weight: &str,
        bias: Option<&str>,
        size @ [output, _]: [usize; 2],
    ) -> Result<Option<PackedLinear>, NnError> {
        // Devices are equal whether or not they record gradients.
        if self.device.is_autodiff() || self.device != Device::flex() {
            return Ok(None);
        }
        let data = self.rows(weight, &size, 0, output)?.data;
        let bias = bias.map(|bias| self.rows(bias, &[output], 0, output)).transpose()?;
        let bias = bias.map(|bias| tensor(bias.data, [output], &self.device));
        let packed = PackedLinear::new(&data, size, self.is_half(weight), bias)?;
        self.bytes.fetch_add(packed.bytes() as u64, Ordering::Relaxed);
        Ok(Some(packed))
    }
}

/// `count` rows of an array from row `from` on.
fn rows_of(array: &Array, from: usize, count: usize) -> Result<Array, NnError> {
    let all = array.shape.first().copied().unwrap_or(1);
    if from.checked_add(count).is_none_or(|end| end > all) {
        return Err(super::wrong(
            "rows of a tensor",
            format!("a range within {all}"),
            format!("{count} from {from} on"),
        ));
    }
    let each = array.data.len() / all.max(1);
    let mut shape = array.shape.clone();
    shape.first_mut().into_iter().for_each(|rows| *rows = count);
    Ok(Array { shape, data: array.data[from * each..(from + count) * each].to_vec() })
}
