//! From values to bytes: the same that Python's msgpack 1.x writes for them.

use rmp::encode::{
    write_array_len, write_bin_len, write_bool, write_f64, write_map_len, write_nil, write_sint, write_str_len,
    write_uint,
};

use super::value::Value;
use super::{CodecError, Dialect, GROOT_DATA, GROOT_MARK, NdArray, OPENPI_MARK, npy};

/// Appends one value to `out`.
///
/// # Errors
/// Text, bytes, lists or maps of 2^32 entries or more.
pub fn encode(value: &Value, dialect: Dialect, out: &mut Vec<u8>) -> Result<(), CodecError> {
    match value {
        Value::Nil => written(write_nil(out)),
        Value::Bool(value) => written(write_bool(out, *value)),
        Value::Int(value) => written(write_sint(out, *value)),
        Value::Float(value) => written(write_f64(out, *value)),
        Value::Text(value) => text(value, out)?,
        Value::Bytes(value) => bytes(&[value], out)?,
        Value::List(entries) => {
            written(write_array_len(out, length("a list", entries.len())?));
            for entry in entries {
                encode(entry, dialect, out)?;
            }
        }
        Value::Map(entries) => {
            written(write_map_len(out, length("a map", entries.len())?));
            for (key, entry) in entries {
                text(key, out)?;
                encode(entry, dialect, out)?;
            }
        }
        Value::Array(array) => match dialect {
            Dialect::Groot => groot(array, out)?,
            Dialect::Openpi => openpi(array, out)?,
        },
    }
    Ok(())
}

fn groot(array: &NdArray, out: &mut Vec<u8>) -> Result<(), CodecError> {
    written(write_map_len(out, 2));
    text(GROOT_MARK, out)?;
    written(write_bool(out, true));
    text(GROOT_DATA, out)?;
    bytes(&[&npy::header(array), array.bytes()], out)
}

fn openpi(array: &NdArray, out: &mut Vec<u8>) -> Result<(), CodecError> {
    written(write_map_len(out, 4));
    bytes(&[OPENPI_MARK.as_bytes()], out)?;
    written(write_bool(out, true));
    bytes(&[b"data"], out)?;
    bytes(&[&array.row_major()], out)?;
    bytes(&[b"dtype"], out)?;
    text(&array.dtype().to_string(), out)?;
    bytes(&[b"shape"], out)?;
    written(write_array_len(out, length("a shape", array.shape().len())?));
    array.shape().iter().for_each(|side| written(write_uint(out, *side as u64)));
    Ok(())
}

fn length(what: &'static str, length: usize) -> Result<u32, CodecError> {
    u32::try_from(length).map_err(|_| CodecError::TooLong { what, got: length })
}

fn text(text: &str, out: &mut Vec<u8>) -> Result<(), CodecError> {
    written(write_str_len(out, length("text", text.len())?));
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn bytes(parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), CodecError> {
    let total = parts.iter().map(|part| part.len()).sum();
    written(write_bin_len(out, length("bytes", total)?));
    out.reserve(total);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

/// Writing to a vector does not fail, and the marker that was chosen is of no use.
fn written<T, E>(_: Result<T, E>) {}
