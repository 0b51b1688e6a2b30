//! Archives of `torch.save` (PyTorch 1.6 and later): which tensors they hold, and where in the file each one lies.
//!
//! The layout is that of `torch/serialization.py` and `torch/_utils.py`: a ZIP archive with `<folder>/data.pkl` and one
//! entry `<folder>/data/<key>` per storage; a tensor is a storage with an offset, sizes and strides.

use std::collections::BTreeMap;
use std::fs::File;

use super::dtype::Dtype;
use super::names::flatten;
use super::pickle::{MAX_PICKLE, Pickle, Value, parse};
use super::problem::WeightsProblem;
use super::zip::{Archive, read_at};
use super::{Place, Stored, TensorInfo};

/// No tensor of a model has more dimensions.
const MAX_RANK: usize = 16;
/// Repeating elements (stride 0) may make a tensor larger than its storage up to this many elements.
const MAX_REPEATED: u64 = 1 << 20;

/// What a pickle may call or name. Everything else is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    /// `torch.Size(tuple)`: the tuple.
    Size,
    /// `torch.device(..)` means nothing here.
    Device,
    Dtype(Dtype),
    Storage(Dtype),
}

impl Callable {
    pub fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::RebuildParameter,
            ("torch", "Size") => Self::Size,
            ("torch", "device") => Self::Device,
            ("torch" | "torch.storage", name) => match Dtype::of_storage(name) {
                Some(dtype) => Self::Storage(dtype),
                None => Self::Dtype(Dtype::of_torch(name).filter(|_| module == "torch")?),
            },
            _ => return None,
        })
    }

    /// The result of calling it with a tuple of arguments.
    pub fn call(self, pickle: &mut Pickle, arguments: Value) -> Result<Value, WeightsProblem> {
        let wrong = || WeightsProblem::damaged(format!("its pickle calls {self:?} with arguments that do not fit"));
        let arguments: Vec<Value> =
            pickle.sequence(arguments).ok_or_else(wrong)?.iter().take(MAX_RANK).copied().collect();
        match (self, &arguments[..]) {
            (Self::Size, &[sizes]) => Ok(sizes),
            (Self::Device, _) => Ok(Value::Nothing),
            (Self::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => Ok(tensor),
            (
                Self::RebuildTensor | Self::RebuildTensorV2,
                &[Value::Storage(storage), Value::Int(offset), shape, stride, ..],
            ) => {
                let dtype = pickle.storages[storage as usize].dtype;
                let record = TensorRecord::new(pickle, storage, dtype, offset, shape, stride).ok_or_else(wrong)?;
                pickle.add_tensor(record)
            }
            (
                Self::RebuildTensorV3,
                &[
                    Value::Storage(storage),
                    Value::Int(offset),
                    shape,
                    stride,
                    _,
                    _,
                    Value::Callable(Self::Dtype(dtype)),
                    ..,
                ],
            ) => {
                let record = TensorRecord::new(pickle, storage, dtype, offset, shape, stride).ok_or_else(wrong)?;
                pickle.add_tensor(record)
            }
            _ => Err(wrong()),
        }
    }
}

/// A storage as the pickle describes it.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    dtype: Dtype,
    key: String,
    /// Elements of `dtype`.
    len: u64,
}

impl Storage {
    /// From `("storage", class, key, device, number of elements)`.
    pub fn of_persistent_id(pickle: &Pickle, id: Value) -> Result<Self, WeightsProblem> {
        match pickle.sequence(id) {
            Some(
                &[
                    Value::Text(tag),
                    Value::Callable(Callable::Storage(dtype)),
                    Value::Text(key),
                    _,
                    Value::Int(len),
                    ..,
                ],
            ) if pickle.text(tag) == "storage" => {
                let key = pickle.text(key);
                if key.len() > 64 || len < 0 {
                    return Err(WeightsProblem::damaged("a storage has a key or a length that cannot be"));
                }
                Ok(Self { dtype, key: key.to_owned(), len: len as u64 })
            }
            _ => Err(WeightsProblem::damaged("its pickle refers to something outside that is no storage")),
        }
    }
}

/// A tensor as the pickle describes it; nothing about it is checked yet.
#[derive(Clone, Debug)]
pub(crate) struct TensorRecord {
    storage: u32,
    dtype: Dtype,
    /// In elements, as the strides.
    offset: i64,
    shape: Vec<i64>,
    stride: Vec<i64>,
}

impl TensorRecord {
    fn new(pickle: &Pickle, storage: u32, dtype: Dtype, offset: i64, shape: Value, stride: Value) -> Option<Self> {
        let numbers = |value| {
            let items = pickle.sequence(value).filter(|items| items.len() <= MAX_RANK)?;
            let number = |item: &Value| if let Value::Int(number) = item { Some(*number) } else { None };
            items.iter().map(number).collect::<Option<Vec<i64>>>()
        };
        Some(Self { storage, dtype, offset, shape: numbers(shape)?, stride: numbers(stride)? })
    }
}

/// The tensors of an archive by name, and the names that were left out.
pub(crate) fn open(file: &File, len: u64) -> Result<(BTreeMap<String, Stored>, Vec<String>), WeightsProblem> {
    let archive = Archive::open(file, len)?;
    let mut pickles = archive.entries().filter(|(name, _)| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let Some(name) = pickles.next().map(|(name, _)| name.to_owned()) else {
        return Err(WeightsProblem::NotRead {
            what: "the archive has no data.pkl, so torch.save did not write it".into(),
        });
    };
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();
    if let Ok((start, entry)) = archive.find(file, &format!("{folder}byteorder")) {
        let order = read_at(file, start, entry.size.min(16) as usize, "its byte order")?;
        if order != b"little" {
            let what = format!("its numbers have byte order {:?}, not \"little\"", String::from_utf8_lossy(&order));
            return Err(WeightsProblem::NotRead { what });
        }
    }
    let (start, entry) = archive.find(file, &name)?;
    if entry.size > MAX_PICKLE {
        return Err(WeightsProblem::too_large(format!("its pickle of {} bytes", entry.size), "64 MiB"));
    }
    let bytes = read_at(file, start, entry.size as usize, "its pickle")?;
    if crc32fast::hash(&bytes) != entry.crc {
        return Err(WeightsProblem::damaged("the checksum of its pickle does not match"));
    }
    let pickle = parse(&bytes)?;
    let flat = flatten(&pickle)?;
    let mut places = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, index) in flat.tensors {
        let record = &pickle.tensors[index as usize];
        let storage = &pickle.storages[record.storage as usize];
        if !places.contains_key(&storage.key) {
            let found = archive.find(file, &format!("{folder}data/{}", storage.key))?;
            places.insert(storage.key.clone(), found);
        }
        let (start, entry) = places[&storage.key];
        let named = |reason: String| WeightsProblem::damaged(format!("tensor {name:?} {reason}"));
        let claimed = storage.len.checked_mul(storage.dtype.size() as u64);
        if claimed.is_none_or(|bytes| bytes > entry.size) {
            return Err(named(format!("has a storage of {} elements in {} bytes", storage.len, entry.size)));
        }
        let stored = stored(record, start, entry.size, entry.crc).map_err(named)?;
        tensors.insert(name, stored);
    }
    Ok((tensors, flat.left_out))
}

/// Checks that a tensor lies inside of its storage of `bytes` bytes at `start`.
fn stored(record: &TensorRecord, start: u64, bytes: u64, crc: u32) -> Result<Stored, String> {
    let TensorRecord { dtype, offset, shape, stride, .. } = record;
    let size = |value: i64| u64::try_from(value).ok();
    let (shape_u, stride_u): (Option<Vec<u64>>, Option<Vec<u64>>) =
        (shape.iter().map(|&n| size(n)).collect(), stride.iter().map(|&n| size(n)).collect());
    let (Some(shape), Some(stride), Some(offset)) = (shape_u, stride_u, size(*offset)) else {
        return Err(format!("has a negative size, stride or offset: {shape:?}, {stride:?}, {offset}"));
    };
    if shape.len() != stride.len() {
        return Err(format!("has {} sizes and {} strides", shape.len(), stride.len()));
    }
    let elements = bytes / dtype.size().max(1) as u64;
    let count = shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
    let last = shape
        .iter()
        .zip(&stride)
        .try_fold(offset, |at, (&n, &stride)| at.checked_add(n.saturating_sub(1).checked_mul(stride)?));
    let fits = match (count, last) {
        (Some(0), _) => true,
        (Some(count), Some(last)) => {
            // Complex and 8-bit types are only listed, so their extent does not matter.
            dtype.size() == 0 || last < elements && (count <= elements || count <= MAX_REPEATED)
        }
        _ => false,
    };
    if !fits {
        return Err(format!(
            "of shape {shape:?}, strides {stride:?} and offset {offset} does not fit into its storage of {elements} \
             elements"
        ));
    }
    let narrow = |values: Vec<u64>| values.into_iter().map(|n| n as usize).collect::<Vec<_>>();
    let place = Place { start, bytes, offset, stride: narrow(stride), crc: Some(crc) };
    Ok(Stored { info: TensorInfo { dtype: *dtype, shape: narrow(shape) }, place })
}
