//! An HDF5 file with every size checked before anything is allocated.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hdf5_pure::{AttrValue, DType, Dataset, File, FormatError, Group};

use super::error::Hdf5Error;

/// Largest number of rows of an array: two weeks at 20 steps a second.
const MAX_ROWS: u64 = 1 << 24;
/// Largest array of one demonstration.
const MAX_BYTES: u64 = 8 << 30;
/// No filter expands data more than this: deflate's limit is 1032.
const MAX_EXPANSION: u64 = 1100;

const RESTORE: &str = "the file is damaged or hostile; restore it from its source";

/// An open file; objects are read on demand.
pub(super) struct Container {
    path: PathBuf,
    size: u64,
    file: File,
}

/// An array whose claims have been checked.
pub(super) struct Array {
    /// Its place in the file, for messages.
    pub name: String,
    /// Its sizes, the rows first.
    pub shape: Vec<usize>,
    /// Type of its elements.
    pub dtype: DType,
    dataset: Dataset,
}

impl Array {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Entries of a row of numbers; `None` if there is more than one axis besides the rows.
    pub fn width(&self) -> Option<usize> {
        match self.shape[..] {
            [_] => Some(1),
            [_, width] => Some(width),
            _ => None,
        }
    }
}

impl Container {
    /// Opens `path` and reads its first bytes.
    pub fn open(path: &Path) -> Result<Self, Hdf5Error> {
        let size = std::fs::metadata(path).map_err(Hdf5Error::io("opening", path))?.len();
        if !hdf5_pure::is_hdf5(path).map_err(Hdf5Error::io("opening", path))? {
            return Err(Hdf5Error::NotHdf5 { file: path.to_owned() });
        }
        let file = guarded(path, "the file's head", || File::open_streaming(path))?;
        let (base, end) = (file.superblock().base_address.get(), file.superblock().eof_address);
        if base.checked_add(end).is_none_or(|end| end > size) {
            let what = "number of bytes";
            return Err(Hdf5Error::mismatch(path, what, size, format!("{end}, as its head says"), RESTORE));
        }
        Ok(Self { path: path.to_owned(), size, file })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The group at `name`; `None` if there is nothing of that name.
    pub fn group(&self, name: &str) -> Result<Option<Group>, Hdf5Error> {
        let found = guarded(&self.path, name, || match self.file.group(name) {
            Err(hdf5_pure::Error::Format(FormatError::PathNotFound(_))) => Ok(None),
            found => found.map(Some),
        })?;
        Ok(found)
    }

    /// Names of the groups in the group `name`.
    pub fn groups(&self, name: &str, group: &Group) -> Result<Vec<String>, Hdf5Error> {
        guarded(&self.path, name, || group.groups())
    }

    /// Names of the arrays in the group `name`.
    pub fn arrays(&self, name: &str, group: &Group) -> Result<Vec<String>, Hdf5Error> {
        guarded(&self.path, name, || group.datasets())
    }

    /// The attribute `key` of the group `name` as text.
    pub fn text(&self, name: &str, group: &Group, key: &str) -> Result<Option<String>, Hdf5Error> {
        Ok(self.attribute(name, group, key)?.and_then(|value| value.as_str().map(str::to_owned)))
    }

    /// The attribute `key` of the group `name` as a number that counts something.
    pub fn count(&self, name: &str, group: &Group, key: &str) -> Result<Option<u64>, Hdf5Error> {
        Ok(self.attribute(name, group, key)?.and_then(|value| value.as_u64()))
    }

    fn attribute(&self, name: &str, group: &Group, key: &str) -> Result<Option<AttrValue>, Hdf5Error> {
        let mut attributes = guarded(&self.path, &format!("attributes of {name}"), || group.attrs())?;
        Ok(attributes.remove(key))
    }

    /// The array at `name`, its sizes checked against the file's; `None` if there is nothing of that name.
    pub fn array(&self, name: &str) -> Result<Option<Array>, Hdf5Error> {
        let found = guarded(&self.path, name, || match self.file.dataset(name) {
            Err(hdf5_pure::Error::Format(FormatError::PathNotFound(_))) => Ok(None),
            Err(error) => Err(error),
            Ok(dataset) => {
                // Asked for only to notice here, and not at the first read, that the layout is too new.
                dataset.layout()?;
                Ok(Some((dataset.shape()?, dataset.dtype()?, dataset.element_size()?, dataset)))
            }
        })?;
        let Some((shape, dtype, element_size, dataset)) = found else { return Ok(None) };
        let refuse = |got: String, expected: String| {
            Err(Hdf5Error::mismatch(&self.path, format!("size of {name}"), got, expected, RESTORE))
        };
        if shape.is_empty() || shape[0] > MAX_ROWS {
            return refuse(format!("{shape:?}"), format!("rows, at most {MAX_ROWS}"));
        }
        let bytes = shape.iter().try_fold(element_size, |bytes, &side| bytes.checked_mul(side));
        let limit = self.size.saturating_mul(MAX_EXPANSION).min(MAX_BYTES);
        // A row of no bytes would let any number of rows pass.
        let row_is_empty = shape.iter().skip(1).any(|&side| side == 0) || element_size == 0;
        match bytes {
            Some(bytes) if bytes <= limit && !row_is_empty => {}
            _ => return refuse(format!("{shape:?}"), format!("at most {limit} bytes in a file of {}", self.size)),
        }
        // None is larger than MAX_BYTES now, as no other is 0.
        let shape = shape.into_iter().map(|side| side as usize).collect();
        Ok(Some(Array { name: name.to_owned(), shape, dtype, dataset }))
    }

    /// All values of an array of numbers, row-major; integers and doubles are converted.
    pub fn floats(&self, array: &Array) -> Result<Vec<f32>, Hdf5Error> {
        use DType::{F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        if !matches!(array.dtype, F32 | F64 | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64) {
            let what = format!("type of {}", array.name);
            return Err(Hdf5Error::mismatch(&self.path, what, &array.dtype, "numbers", "record plain numbers"));
        }
        let values = guarded(&self.path, &array.name, || array.dataset.read_f32())?;
        self.complete(array, values)
    }

    /// All texts of an array.
    pub fn texts(&self, array: &Array) -> Result<Vec<String>, Hdf5Error> {
        let values = guarded(&self.path, &array.name, || array.dataset.read_string())?;
        self.complete(array, values)
    }

    /// All bytes of an array of images.
    pub fn bytes(&self, array: &Array) -> Result<Vec<u8>, Hdf5Error> {
        if array.dtype != DType::U8 {
            let next = "images are read as plain RGB bytes; decode them before, or leave them out";
            let what = format!("type of {}", array.name);
            return Err(Hdf5Error::mismatch(&self.path, what, &array.dtype, "u8", next));
        }
        let values = guarded(&self.path, &array.name, || array.dataset.read_raw())?;
        self.complete(array, values)
    }

    fn complete<T>(&self, array: &Array, values: Vec<T>) -> Result<Vec<T>, Hdf5Error> {
        let expected: usize = array.shape.iter().product();
        if values.len() == expected {
            return Ok(values);
        }
        let what = format!("number of values of {}", array.name);
        Err(Hdf5Error::mismatch(&self.path, what, values.len(), expected, RESTORE))
    }
}

/// Runs a step of the HDF5 library on untrusted bytes; should it assert on damage, that is an error like any other.
fn guarded<T>(path: &Path, object: &str, step: impl FnOnce() -> Result<T, hdf5_pure::Error>) -> Result<T, Hdf5Error> {
    let damaged = |reason: String| Hdf5Error::Damaged { file: path.to_owned(), object: object.to_owned(), reason };
    // Nothing of ours is changed inside, so nothing can be left half done.
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(hdf5_pure::Error::Format(FormatError::InvalidLayoutVersion(version)))) => {
            Err(Hdf5Error::TooNew { file: path.to_owned(), object: object.to_owned(), version })
        }
        Ok(Err(hdf5_pure::Error::Io(source))) => {
            Err(Hdf5Error::Io { operation: "reading", path: path.to_owned(), source })
        }
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(_) => Err(damaged("its structure contradicts itself".into())),
    }
}
