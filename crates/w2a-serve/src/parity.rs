//! Golden frames: messages that the original code wrote, with what is in them (`frames.json`).

use std::path::Path;

use serde_json::Value as Json;
use w2a_nn::{Comparison, Line, NnError, ParityReport, Tolerance};

use crate::codec::{Dialect, NdArray, Value, decode, encode};

/// What lists the frames of a folder.
pub const INDEX: &str = "frames.json";
/// What stands in for the values of an array in `frames.json`.
const ARRAY: &str = "ndarray";
const MODALITY: &str = "ModalityConfig";

/// Reads every frame of a folder, compares its content with `frames.json`, and writes it again, which has to give the same
/// bytes. A frame that is no message has `null` for its content and has to be refused.
///
/// # Errors
/// An index or a frame that cannot be read.
pub fn frames(dir: &Path) -> Result<ParityReport, NnError> {
    let io = |source| NnError::Io { action: "reading golden frames", source };
    let path = dir.join(INDEX);
    let wrong = |got: String| NnError::Input {
        what: path.display().to_string(),
        expected: "a list of frames with file and content".into(),
        got,
    };
    let index: Json = serde_json::from_slice(&fs_err::read(&path).map_err(io)?).map_err(|e| wrong(e.to_string()))?;
    let entries = index.as_array().ok_or_else(|| wrong("something else".into()))?;
    let mut lines = Vec::new();
    for entry in entries {
        let name = entry.get("file").and_then(Json::as_str).filter(|name| !name.contains(['/', '\\']));
        let name = name.ok_or_else(|| wrong(format!("a frame without a file: {entry:.60}")))?;
        let bytes = fs_err::read(dir.join(name)).map_err(io)?;
        lines.push(line(name, check(&bytes, entry.get("content").unwrap_or(&Json::Null))));
    }
    Ok(ParityReport { lines })
}

fn line(name: &str, checked: Result<(), String>) -> Line {
    let (ok, note) = (checked.is_ok(), checked.err().unwrap_or_default());
    let max_abs = if ok { 0.0 } else { f32::NAN };
    Line::Compared(Comparison {
        name: name.to_owned(),
        max_abs,
        max_rel: max_abs,
        tolerance: Tolerance::EXACT,
        ok,
        note,
    })
}

fn check(bytes: &[u8], content: &Json) -> Result<(), String> {
    let value = match decode(bytes, Dialect::Groot) {
        Ok(value) => value,
        Err(_) if content.is_null() => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    // A content in words says how the frame was made; its bytes are compared all the same.
    let described = content.is_string() && !matches!(value, Value::Text(_));
    if !described {
        same(&value, content, "")?;
    }
    let mut again = Vec::new();
    encode(&value, Dialect::Groot, &mut again).map_err(|error| error.to_string())?;
    match again.iter().zip(bytes).position(|(ours, theirs)| ours != theirs) {
        Some(place) => Err(format!("written again it differs at byte {place}")),
        None if again.len() != bytes.len() => {
            Err(format!("written again it has {} bytes of {}", again.len(), bytes.len()))
        }
        None => Ok(()),
    }
}

fn same(value: &Value, content: &Json, place: &str) -> Result<(), String> {
    let differs = || Err(format!("{place}: expected {content:.60}, got {}", value.describe()));
    match (value, content) {
        (Value::Nil, Json::Null) => Ok(()),
        (Value::Bool(value), Json::Bool(content)) if value == content => Ok(()),
        (Value::Text(value), Json::String(content)) if value == content => Ok(()),
        (Value::Int(value), Json::Number(content)) if content.as_i64() == Some(*value) => Ok(()),
        (Value::Float(value), Json::Number(content)) if content.is_f64() && content.as_f64() == Some(*value) => Ok(()),
        (Value::List(values), Json::Array(contents)) if values.len() == contents.len() => {
            let mut pairs = values.iter().zip(contents).enumerate();
            pairs.try_for_each(|(index, (value, content))| same(value, content, &format!("{place}.{index}")))
        }
        (Value::Array(array), Json::Object(content)) => match content.get(ARRAY) {
            Some(content) => same_array(array, content).map_err(|what| format!("{place}: {what}")),
            None => differs(),
        },
        (Value::Map(_), Json::Object(content)) if content.contains_key(MODALITY) => {
            let inside = value.get("as_json").unwrap_or(&Value::Nil);
            same(inside, content.get(MODALITY).unwrap_or(&Json::Null), place)
        }
        (Value::Map(values), Json::Object(content)) if values.len() == content.len() => {
            let mut entries = values.iter();
            entries.try_for_each(|(key, value)| {
                let content = content.get(key.as_ref()).ok_or_else(|| format!("{place}: {key:?} as well"))?;
                same(value, content, &format!("{place}.{key}"))
            })
        }
        _ => differs(),
    }
}

fn same_array(array: &NdArray, content: &Json) -> Result<(), String> {
    let told = |key: &str| content.get(key).cloned().unwrap_or_default();
    let shape: Vec<Json> = array.shape().iter().map(|side| Json::from(*side)).collect();
    let ours = [
        ("dtype", Json::from(array.dtype().to_string())),
        ("shape", Json::from(shape)),
        ("fortran", Json::from(array.is_fortran())),
    ];
    for (key, ours) in ours {
        if told(key) != ours {
            return Err(format!("{key}: expected {}, got {ours}", told(key)));
        }
    }
    let mut expected = Vec::new();
    flatten(&told("data"), &mut expected);
    let got: Vec<Json> = match array.texts() {
        Ok(texts) => texts.into_iter().map(Json::from).collect(),
        Err(_) => array.numbers().map_err(|error| error.to_string())?.into_iter().map(Json::from).collect(),
    };
    // JSON has one kind of number, so that a whole one in an array of f32 may be written either way.
    let number = |value: &Json| value.as_f64().or_else(|| value.as_bool().map(|value| f64::from(u8::from(value))));
    let equal =
        |(got, expected): (&Json, &Json)| got == expected || number(got).is_some() && number(got) == number(expected);
    if got.len() != expected.len() || !got.iter().zip(&expected).all(equal) {
        return Err("other values".into());
    }
    Ok(())
}

fn flatten(value: &Json, out: &mut Vec<Json>) {
    match value {
        Json::Array(entries) => entries.iter().for_each(|entry| flatten(entry, out)),
        other => out.push(other.clone()),
    }
}
