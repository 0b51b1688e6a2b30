//! Weights that others wrote: safetensors files and archives of `torch.save`, listed first and read tensor by tensor.
//!
//! [`WeightsFile::open`] reads names, shapes and types; [`WeightsFile::read`] then reads one tensor as `f32`, so that a
//! checkpoint of many gigabytes needs memory for one tensor at a time. The kind of file is told by its content, never by
//! its name. Rules and limits are in `docs/formats.md`.

mod convert;
mod dtype;
mod names;
mod pickle;
mod problem;
#[cfg(test)]
mod tests;
mod torch;
mod zip;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;

pub use convert::{Converted, convert};
pub use dtype::Dtype;
pub use problem::WeightsProblem;

use crate::{Array, NnError, StateDict};

/// Headers of safetensors files beyond this are refused, as by the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes that are converted at a time.
const BLOCK: usize = 1 << 20;

/// What a file says about a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its dimensions; none for a number.
    pub shape: Vec<usize>,
}

/// Which format a weights file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsFormat {
    /// <https://github.com/huggingface/safetensors>.
    Safetensors,
    /// A ZIP archive written by `torch.save`.
    Torch,
}

impl std::fmt::Display for WeightsFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Torch => "torch.save",
        })
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// First byte of its storage in the file.
    start: u64,
    /// Bytes of its storage, all of which are in the file.
    bytes: u64,
    /// First element, counted in elements from the start of the storage.
    offset: u64,
    /// In elements; within the storage by construction.
    stride: Vec<usize>,
    /// CRC-32 of the storage, where the file has one.
    crc: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    info: TensorInfo,
    place: Place,
}

/// An open weights file.
#[derive(Debug)]
pub struct WeightsFile {
    path: PathBuf,
    file: File,
    len: u64,
    format: WeightsFormat,
    tensors: BTreeMap<String, Stored>,
    left_out: Vec<String>,
}

impl WeightsFile {
    /// Opens a file and reads what it says about its tensors, not the tensors.
    ///
    /// # Errors
    /// [`NnError::Io`] for a file that cannot be read, [`NnError::Format`] for a damaged safetensors file, and
    /// [`NnError::Weights`] for everything that can be wrong with an archive of `torch.save`.
    pub fn open(path: &Path) -> Result<Self, NnError> {
        let io = |source| NnError::Io { action: "opening weights", source };
        let file = fs_err::File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            let (expected, got) = ("a file".into(), "a folder or a device".into());
            return Err(NnError::Input { what: format!("weights {}", path.display()), expected, got });
        }
        let (file, len) = (file.into_parts().0, meta.len());
        let weights = |problem| NnError::Weights { path: path.to_owned(), problem };
        let mut start = [0; 16];
        let read = file.read_at(&mut start, 0).map_err(io)?;
        let start = &start[..read];
        let (format, tensors, left_out) = if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            let (tensors, left_out) = torch::open(&file, len).map_err(weights)?;
            (WeightsFormat::Torch, tensors, left_out)
        } else if start.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") {
            return Err(weights(WeightsProblem::Legacy));
        } else if start.get(8) == Some(&b'{') || path.extension().is_some_and(|kind| kind == "safetensors") {
            let damaged = |reason: String| NnError::Format { path: path.to_owned(), reason };
            (WeightsFormat::Safetensors, safetensors_header(&file, len).map_err(damaged)?, Vec::new())
        } else {
            let first = if start.is_empty() { "none".into() } else { start.escape_ascii().to_string() };
            return Err(weights(WeightsProblem::Unknown { first }));
        };
        Ok(Self { path: path.to_owned(), file, len, format, tensors, left_out })
    }

    /// Which format it has.
    pub fn format(&self) -> WeightsFormat {
        self.format
    }

    /// Names and descriptions of its tensors, in the order of names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, stored)| (name.as_str(), &stored.info))
    }

    /// The description of one tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|stored| &stored.info)
    }

    /// Names of tensors that belong to a training and not to a model, such as those of an optimiser; they are not read.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Reads one tensor, row-major, as `f32`. Values are as stored, NaN included.
    ///
    /// # Errors
    /// An unknown name, an element type that cannot be read, or a file that was changed or fails while it is read.
    pub fn read(&self, name: &str) -> Result<Array, NnError> {
        let weights = |problem| NnError::Weights { path: self.path.clone(), problem };
        let Some(stored) = self.tensors.get(name) else {
            let nearest = match self.tensors.keys().next() {
                Some(first) => format!("it has {}, the first is {first:?}", self.tensors.len()),
                None => "it has none".into(),
            };
            return Err(weights(WeightsProblem::NoTensor { name: name.into(), nearest }));
        };
        let data = self.elements(name, stored).map_err(weights)?;
        Ok(Array { shape: stored.info.shape.clone(), data })
    }

    /// Reads `count` rows of a tensor, along its first dimension, from row `from` on: of a table of embeddings, or of weights
    /// that are stacked, a few are often enough.
    ///
    /// # Errors
    /// As [`WeightsFile::read`], and rows beyond the end.
    pub fn read_rows(&self, name: &str, from: usize, count: usize) -> Result<Array, NnError> {
        let Some((Stored { info, place }, rows)) =
            self.tensors.get(name).and_then(|stored| Some((stored, *stored.info.shape.first()?)))
        else {
            return self.read(name);
        };
        let end = from.checked_add(count).filter(|end| *end <= rows).ok_or_else(|| NnError::Input {
            what: format!("rows of tensor {name:?}"),
            expected: format!("a range within {rows}"),
            got: format!("{count} from {from} on"),
        })?;
        let each: usize = info.shape[1..].iter().product();
        let mut shape = info.shape.clone();
        shape[0] = count;
        if info.dtype.size() == 0 || !contiguous(&info.shape, &place.stride) {
            let whole = self.read(name)?.data;
            return Ok(Array { shape, data: whole[from * each..end * each].to_vec() });
        }
        let size = info.dtype.size();
        let mut data = Vec::with_capacity(count * each);
        let first = place.start + (place.offset + (from * each) as u64) * size as u64;
        self.blocks(name, first, count * each * size, |bytes| info.dtype.append(bytes, &mut data))
            .map_err(|problem| NnError::Weights { path: self.path.clone(), problem })?;
        Ok(Array { shape, data })
    }

    /// Reads all tensors.
    ///
    /// # Errors
    /// As [`WeightsFile::read`]; also if the tensors together are many times larger than the file, which a small hostile
    /// file can claim by referring to one storage again and again.
    pub fn read_all(&self) -> Result<StateDict, NnError> {
        let bytes = |stored: &Stored| (stored.info.shape.iter().product::<usize>() as u64).saturating_mul(4);
        let total = self.tensors.values().map(bytes).fold(0_u64, u64::saturating_add);
        if total > (64 << 20) + self.len.saturating_mul(16) {
            let problem = WeightsProblem::too_large(format!("the total of {total} bytes"), "16 times the file's size");
            return Err(NnError::Weights { path: self.path.clone(), problem });
        }
        self.tensors.keys().map(|name| Ok((name.clone(), self.read(name)?))).collect()
    }

    fn elements(&self, name: &str, stored: &Stored) -> Result<Vec<f32>, WeightsProblem> {
        let Stored { info: TensorInfo { dtype, shape }, place } = stored;
        let size = dtype.size();
        if size == 0 {
            return Err(WeightsProblem::NotRead { what: format!("tensor {name:?} has elements of type {dtype}") });
        }
        let count: usize = shape.iter().product();
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut out = Vec::with_capacity(count);
        if contiguous(shape, &place.stride) {
            // The checksum is that of the whole storage.
            let whole = place.offset == 0 && (count * size) as u64 == place.bytes;
            let mut checksum = crc32fast::Hasher::new();
            self.blocks(name, place.start + place.offset * size as u64, count * size, |bytes| {
                if whole {
                    checksum.update(bytes);
                }
                dtype.append(bytes, &mut out);
            })?;
            if whole && place.crc.is_some_and(|crc| crc != checksum.finalize()) {
                let what = format!("the checksum of tensor {name:?} does not match its content");
                return Err(WeightsProblem::damaged(what));
            }
            return Ok(out);
        }
        let span: usize = 1 + shape.iter().zip(&place.stride).map(|(n, stride)| (n - 1) * stride).sum::<usize>();
        let first = place.start + place.offset * size as u64;
        // A view that is scattered over a storage much larger than itself is read element by element.
        let sparse = span > (4 * count).max(BLOCK);
        let mut elements = Vec::new();
        if !sparse {
            elements.reserve_exact(span);
            self.blocks(name, first, span * size, |bytes| dtype.append(bytes, &mut elements))?;
        }
        let mut index = vec![0; shape.len()];
        for _ in 0..count {
            let at: usize = index.iter().zip(&place.stride).map(|(i, stride)| i * stride).sum();
            if sparse {
                self.blocks(name, first + (at * size) as u64, size, |bytes| dtype.append(bytes, &mut out))?;
            } else {
                out.push(elements[at]);
            }
            for (i, n) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < *n {
                    break;
                }
                *i = 0;
            }
        }
        Ok(out)
    }

    /// Hands over `len` bytes from `start` on, in blocks of whole elements.
    fn blocks(
        &self,
        name: &str,
        mut start: u64,
        mut len: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), WeightsProblem> {
        let mut block = vec![0; len.min(BLOCK)];
        while len > 0 {
            let part = &mut block[..len.min(BLOCK)];
            self.file
                .read_exact_at(part, start)
                .map_err(|_| WeightsProblem::truncated(format!("the values of tensor {name:?}")))?;
            take(part);
            start += part.len() as u64;
            len -= part.len();
        }
        Ok(())
    }
}

/// Row-major without gaps. Where a dimension has one element, its stride means nothing.
fn contiguous(shape: &[usize], stride: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(stride).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == expected;
        expected *= n;
        fits
    })
}

fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut stride = vec![1_usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        // Beside a dimension of 0 the others may be anything.
        stride[axis - 1] = stride[axis].saturating_mul(shape[axis]);
    }
    stride
}

/// The tensors of a safetensors file. Rules are checked by the reference implementation; the sum of sizes here.
fn safetensors_header(file: &File, len: u64) -> Result<BTreeMap<String, Stored>, String> {
    let mut size = [0; 8];
    file.read_exact_at(&mut size, 0).map_err(|_| String::from("it is shorter than the length of its header"))?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER || size > len - 8 {
        return Err(format!("its header of {size} bytes does not fit into the file of {len}"));
    }
    let mut header = vec![0; size as usize];
    file.read_exact_at(&mut header, 8).map_err(|error| error.to_string())?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| error.to_string())?;
    let data = len - 8 - size;
    if metadata.data_len() as u64 != data {
        return Err(format!("its header describes {} bytes of values, the file has {data}", metadata.data_len()));
    }
    let stored = |info: &safetensors::tensor::TensorInfo| {
        let (start, end) = info.data_offsets;
        let place = Place {
            start: 8 + size + start as u64,
            bytes: (end - start) as u64,
            offset: 0,
            stride: row_major(&info.shape),
            crc: None,
        };
        Stored { info: TensorInfo { dtype: Dtype::of_safetensors(info.dtype), shape: info.shape.clone() }, place }
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, stored(info))).collect())
}
