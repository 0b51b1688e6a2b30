//! Weights of one network, wherever they lie: one file, shards with an index, or memory; under the authors' names or those
//! of diffusers.
//!
//! Opening reads names and shapes; a tensor is read when it is asked for, and only then. Weights that are stored as bf16 stay
//! so in memory where the device has bf16, which loses nothing and takes half of it; products are computed in what their
//! other operand is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData, bf16};
use w2a_nn::{Array, Dtype, NnError, StateDict, WeightsFile, linear};

use super::compute::has_bf16;
use super::shards::shards;

#[derive(Debug)]
enum Store {
    File(WeightsFile),
    Memory(StateDict),
}

/// Tensors of a network by the authors' names.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    stores: Vec<Store>,
    /// Our name to the store and the name in it.
    places: BTreeMap<String, (usize, String)>,
}

impl Tensors {
    /// Opens a file, or all shards of an index (`*.safetensors.index.json`); `rename` gives our name of a stored tensor, or
    /// `None` for one that no network of ours has; it may ask whether any name begins with some letters. `what` says in messages which network is expected.
    ///
    /// # Errors
    /// A file that cannot be read, a shard that is missing, or weights none of which has a name that is known.
    pub fn open(
        path: &Path,
        what: &str,
        rename: impl Fn(&str, &dyn Fn(&str) -> bool) -> Option<String>,
    ) -> Result<Self, NnError> {
        let files = Self::files(path)?;
        let files = files.iter().map(|file| WeightsFile::open(file)).collect::<Result<Vec<_>, NnError>>()?;
        let has = |prefix: &str| files.iter().any(|file| file.tensors().any(|(name, _)| name.starts_with(prefix)));
        let rename = |name: &str| rename(name, &has);
        let mut places = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for (name, _) in file.tensors() {
                if let Some(ours) = rename(name) {
                    places.insert(ours, (index, name.to_owned()));
                }
            }
        }
        if places.is_empty() {
            let mut names = files.iter().flat_map(|file| file.tensors().map(|(name, _)| name));
            return Err(NnError::Input {
                what: format!("weights {}", path.display()),
                expected: format!("the tensors of {what}"),
                got: names
                    .next()
                    .map_or("no tensor".into(), |name| format!("another model: its first tensor is {name:?}")),
            });
        }
        Ok(Self { path: path.to_owned(), stores: files.into_iter().map(Store::File).collect(), places })
    }

    /// The files that hold the weights: the file itself, or the shards of an index.
    ///
    /// # Errors
    /// An index that cannot be read, or a shard that is missing.
    pub fn files(path: &Path) -> Result<Vec<PathBuf>, NnError> {
        if path.extension().is_some_and(|ending| ending == "json") { shards(path) } else { Ok(vec![path.to_owned()]) }
    }

    /// Tensors in memory; `rename` gives our name of each.
    pub fn of_state(state: StateDict, rename: impl Fn(&str) -> Option<String>) -> Self {
        let places = state.keys().filter_map(|name| Some((rename(name)?, (0, name.clone())))).collect();
        Self { path: PathBuf::from("weights in memory"), stores: vec![Store::Memory(state)], places }
    }

    /// Where they come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The shape of a tensor, if there is one of that name.
    pub fn find(&self, name: &str) -> Option<&[usize]> {
        let (store, stored) = self.places.get(name)?;
        match self.stores.get(*store)? {
            Store::File(file) => Some(&file.info(stored)?.shape),
            Store::Memory(state) => Some(&state.get(stored)?.shape),
        }
    }

    /// Values of all tensors, and the bytes that they take in memory: bf16 stays bf16 in matrices.
    pub fn totals(&self) -> (u64, u64) {
        let (mut values, mut bytes) = (0, 0);
        for (name, (store, stored)) in &self.places {
            let shape = self.find(name).unwrap_or_default();
            let count = shape.iter().product::<usize>() as u64;
            let is_half = match self.stores.get(*store) {
                Some(Store::File(file)) => file.info(stored).is_some_and(|info| info.dtype == Dtype::BF16),
                _ => false,
            };
            values += count;
            bytes += if is_half && shape.len() > 1 { 2 * count } else { 4 * count };
        }
        (values, bytes)
    }

    /// The shape of a tensor with `D` dimensions.
    ///
    /// # Errors
    /// No such tensor, or one with another number of dimensions.
    pub fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D], NnError> {
        let found = self.find(name).ok_or_else(|| self.lacks(name, &[]))?;
        found.try_into().map_err(|_| NnError::Input {
            what: format!("tensor {name:?} of {}", self.path.display()),
            expected: format!("{D} dimensions"),
            got: format!("shape {found:?}"),
        })
    }

    fn lacks(&self, name: &str, shape: &[usize]) -> NnError {
        let expected =
            if shape.is_empty() { format!("a tensor {name:?}") } else { format!("{name:?} of shape {shape:?}") };
        NnError::Input {
            what: format!("weights {}", self.path.display()),
            expected,
            got: "none; the checkpoint belongs to another model or size, or a shard is missing".into(),
        }
    }

    /// Reads a tensor; bf16 stays bf16 on a device that has it, everything else becomes f32.
    ///
    /// # Errors
    /// No such tensor, another shape, or a file that fails while it is read.
    pub fn stored<const D: usize>(&self, name: &str, shape: [usize; D], device: &Device) -> Result<Tensor<D>, NnError> {
        let (store, stored) = self.places.get(name).ok_or_else(|| self.lacks(name, &shape))?;
        let (array, is_half) = match self.stores.get(*store) {
            Some(Store::File(file)) => {
                (file.read(stored)?, file.info(stored).is_some_and(|info| info.dtype == Dtype::BF16))
            }
            Some(Store::Memory(state)) => (state.get(stored).cloned().ok_or_else(|| self.lacks(name, &shape))?, false),
            None => return Err(self.lacks(name, &shape)),
        };
        let Array { shape: got, data } = array;
        // Vectors are stored as [n], [n, 1, 1] or [n, 1, 1, 1], by taste.
        let squeezed = |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
        let fits = got == shape || D == 1 && squeezed(&got) == squeezed(&shape);
        if !fits {
            return Err(NnError::Input {
                what: format!("tensor {name:?} of {}", self.path.display()),
                expected: format!("shape {shape:?}"),
                got: format!("{got:?}; the checkpoint belongs to a model of another size"),
            });
        }
        if is_half && has_bf16(device) {
            // Exact: these values were bf16 before they were read.
            let halves: Vec<bf16> = data.into_iter().map(bf16::from_f32).collect();
            return Ok(Tensor::from_data(TensorData::new(halves, shape), (device, DType::BF16)));
        }
        Ok(w2a_nn::tensor(data, shape, device))
    }

    /// Reads a tensor as f32.
    ///
    /// # Errors
    /// As [`Tensors::stored`].
    pub fn float<const D: usize>(&self, name: &str, shape: [usize; D], device: &Device) -> Result<Tensor<D>, NnError> {
        Ok(self.stored(name, shape, device)?.cast(DType::F32))
    }

    /// Reads a projection `[out, in]`.
    ///
    /// # Errors
    /// As [`Tensors::stored`].
    pub fn projection(&self, name: &str, shape: [usize; 2], device: &Device) -> Result<Projection, NnError> {
        Ok(Projection { weight: self.stored(name, shape, device)?, change: None })
    }
}

/// `y = x W^T` without a bias, as `torch.nn.Linear(bias=False)`, and with a change of low rank where one is trained.
#[derive(Clone, Debug)]
pub struct Projection {
    /// `[out, in]`, bf16 or f32.
    weight: Tensor<2>,
    change: Option<LowRank>,
}

/// The change of a layer's weight by LoRA, `scale · B A`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `A`, `[rank, in]`.
    pub a: Tensor<2>,
    /// `B`, `[out, rank]`.
    pub b: Tensor<2>,
    /// `alpha / rank`.
    pub scale: f32,
}

impl Projection {
    /// `[out, in]`.
    pub fn size(&self) -> [usize; 2] {
        self.weight.dims()
    }

    /// How the weight is held, which is how it was stored.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// The weight with its change, `[out, in]`, in f32.
    pub fn merged(&self) -> Tensor<2> {
        let weight = self.weight.clone().cast(DType::F32);
        match &self.change {
            None => weight,
            Some(LowRank { a, b, scale }) => weight + b.clone().matmul(a.clone()) * *scale,
        }
    }

    /// Takes another weight of the same size.
    ///
    /// # Errors
    /// Another size.
    pub fn replace(&mut self, weight: Tensor<2>) -> Result<(), NnError> {
        self.fits("weight", weight.dims())?;
        self.weight = weight;
        Ok(())
    }

    /// Changes the layer by low rank. The change is added to the layer's result and not to its weight: a frozen weight then
    /// stays as it is stored, and needs no gradient.
    ///
    /// # Errors
    /// A change of another size.
    pub fn adapt(&mut self, change: LowRank) -> Result<(), NnError> {
        let ([output, rank], [same, input]) = (change.b.dims(), change.a.dims());
        if rank != same {
            return Err(NnError::Shape {
                name: "B of a change of low rank".into(),
                got: vec![output, rank],
                expected: vec![output, same],
            });
        }
        self.fits("change", [output, input])?;
        self.change = Some(change);
        Ok(())
    }

    fn fits(&self, name: &str, got: [usize; 2]) -> Result<(), NnError> {
        if got == self.size() {
            return Ok(());
        }
        Err(NnError::Shape { name: format!("{name} of a layer"), got: got.to_vec(), expected: self.size().to_vec() })
    }

    /// `[.., in]` → `[.., out]`, in f32 or bf16, as the input is.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let [output, input] = self.weight.dims();
        shape[D - 1] = output;
        let dtype = x.dtype();
        let x = x.reshape([-1, input as isize]);
        let product = |x: Tensor<2>| match dtype {
            // Gradients of a weight that is trained in f32 pass the cast.
            DType::BF16 => x.matmul(self.weight.clone().cast(dtype).transpose()),
            _ => linear(x, self.weight.clone(), None),
        };
        let y = match &self.change {
            None => product(x),
            Some(LowRank { a, b, scale }) => {
                let factor = |factor: &Tensor<2>| factor.clone().cast(dtype).transpose();
                let change = x.clone().matmul(factor(a)).matmul(factor(b)) * *scale;
                product(x) + change
            }
        };
        y.reshape(shape)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use w2a_nn::{Array, StateDict, write_state};

    use super::Tensors;

    fn known(name: &str, _: &dyn Fn(&str) -> bool) -> Option<String> {
        name.strip_prefix("net.").map(str::to_owned)
    }

    fn file(folder: &std::path::Path, name: &str, tensor: &str) {
        let state = StateDict::from([(tensor.to_owned(), Array { shape: vec![2], data: vec![1.0, -2.0] })]);
        write_state(&state, &folder.join(name)).unwrap();
    }

    #[test]
    fn shards_are_found_through_their_index_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        let map =
            |second: &str| format!("{{\"weight_map\": {{\"net.a\": \"1.safetensors\", \"net.b\": \"{second}\"}}}}");
        std::fs::write(&index, map("2.safetensors")).unwrap();
        file(folder.path(), "1.safetensors", "net.a");
        let error = Tensors::open(&index, "a toy", known).unwrap_err().to_string();
        assert!(error.contains("2.safetensors") && error.contains("1 of 2 shards"), "{error}");
        file(folder.path(), "2.safetensors", "net.b");
        let tensors = Tensors::open(&index, "a toy", known).unwrap();
        assert_eq!(tensors.names().collect::<Vec<_>>(), ["a", "b"]);
        let read = tensors.float("b", [2], &Device::flex()).unwrap();
        assert_eq!(w2a_nn::values(read).unwrap(), [1.0, -2.0]);
        for hostile in ["../2.safetensors", "/etc/passwd", ""] {
            std::fs::write(&index, map(hostile)).unwrap();
            let error = Tensors::open(&index, "a toy", known).unwrap_err().to_string();
            assert!(error.contains("which is no file name"), "{error}");
        }
        std::fs::write(&index, "{}").unwrap();
        assert!(Tensors::open(&index, "a toy", known).unwrap_err().to_string().contains("weight_map"));
    }

    #[test]
    fn another_model_another_size_and_a_missing_tensor_are_named_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        file(folder.path(), "other.safetensors", "resnet.conv1");
        let path = folder.path().join("other.safetensors");
        let error = Tensors::open(&path, "a toy", known).unwrap_err().to_string();
        assert!(error.contains("a toy") && error.contains("resnet.conv1"), "{error}");
        file(folder.path(), "net.safetensors", "net.a");
        let tensors = Tensors::open(&folder.path().join("net.safetensors"), "a toy", known).unwrap();
        let size = tensors.float("a", [3], &Device::flex()).unwrap_err().to_string();
        assert!(size.contains("net.safetensors") && size.contains("[3]") && size.contains("another size"), "{size}");
        let missing = tensors.float("b", [3], &Device::flex()).unwrap_err().to_string();
        assert!(missing.contains("net.safetensors") && missing.contains("\"b\" of shape [3]"), "{missing}");
    }

    #[test]
    fn half_precision_stays_and_computes_as_f32() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half.safetensors");
        let header = r#"{"net.w":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0xc0, 0x3f, 0x00, 0xc0]].concat();
        std::fs::write(&path, bytes).unwrap();
        let device = Device::flex();
        let tensors = Tensors::open(&path, "a toy", known).unwrap();
        assert_eq!(tensors.stored("w", [1, 2], &device).unwrap().dtype(), DType::BF16);
        let weight = tensors.projection("w", [1, 2], &device).unwrap();
        let y = weight.forward(w2a_nn::tensor(vec![2.0, 1.0], [1, 2], &device));
        assert_eq!(w2a_nn::values(y).unwrap(), [1.5 * 2.0 - 2.0]);
    }
}
