//! From any weights file to a safetensors file, one tensor at a time.

use std::io::Write;
use std::path::Path;

use super::WeightsFile;
use crate::NnError;

/// What a conversion did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Number of tensors.
    pub tensors: usize,
    /// Their elements.
    pub elements: usize,
    /// Names of tensors that belong to a training and were left out.
    pub left_out: Vec<String>,
}

/// Writes the tensors of `input` to `output` as a safetensors file of F32 values with the same names, then reads both
/// again and compares every value bit for bit. Memory is needed for two tensors at a time.
///
/// # Errors
/// An `output` that exists, an `input` that cannot be read, a disk that is full, or a difference found at the end. The
/// output appears under its name only when it is complete and compared.
pub fn convert(input: &Path, output: &Path) -> Result<Converted, NnError> {
    let io = |source| NnError::Io { action: "converting weights", source };
    let weights = WeightsFile::open(input)?;
    if output.exists() {
        return Err(NnError::Input {
            what: format!("output {}", output.display()),
            expected: "a path where nothing is yet".into(),
            got: "an existing file; remove it or choose another".into(),
        });
    }
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let partial = output.with_file_name(format!(".{name}.partial"));
    let result = write(&weights, &partial)
        .and_then(|elements| compare(&weights, &partial).map(|()| elements))
        .and_then(|elements| fs_err::rename(&partial, output).map(|()| elements).map_err(io));
    if result.is_err() {
        let _ = fs_err::remove_file(&partial);
    }
    Ok(Converted { tensors: weights.tensors().count(), elements: result?, left_out: weights.left_out().to_vec() })
}

fn write(weights: &WeightsFile, path: &Path) -> Result<usize, NnError> {
    let io = |source| NnError::Io { action: "converting weights", source };
    let mut header = serde_json::Map::new();
    let mut elements = 0;
    for (name, info) in weights.tensors() {
        let count: usize = info.shape.iter().product();
        let offsets = [4 * elements, 4 * (elements + count)];
        let entry = serde_json::json!({ "dtype": "F32", "shape": info.shape, "data_offsets": offsets });
        header.insert(name.to_owned(), entry);
        elements += count;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    // Values are to begin at a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = fs_err::File::create(path).map_err(io)?;
    let mut block = Vec::with_capacity(4 << 16);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    for (name, _) in weights.tensors() {
        // In blocks: a call for each value would take longer than the disk.
        for part in weights.read(name)?.data.chunks(1 << 16) {
            block.clear();
            block.extend(part.iter().flat_map(|value| value.to_le_bytes()));
            file.write_all(&block).map_err(io)?;
        }
    }
    file.sync_all().map_err(io)?;
    Ok(elements)
}

fn compare(weights: &WeightsFile, path: &Path) -> Result<(), NnError> {
    let written = WeightsFile::open(path)?;
    for (name, _) in weights.tensors() {
        let (before, after) = (weights.read(name)?, written.read(name)?);
        let equal = before.shape == after.shape
            && before.data.len() == after.data.len()
            && before.data.iter().zip(&after.data).all(|(a, b)| a.to_bits() == b.to_bits());
        if !equal {
            return Err(NnError::Device { what: "converting weights", message: format!("{name:?} came back changed") });
        }
    }
    Ok(())
}
