//! From the values of a message to what a policy takes, with every name, type and shape checked.

use std::borrow::Cow;

use w2a_data::{Camera, Observation};

use crate::ServeError;
use crate::codec::{DType, Kind, NdArray, Value};
use crate::layout::{CameraLayout, Layout, OPENPI_PROMPT, OPENPI_STATE};

/// More observations in one request than any simulator has environments; a slip would only fill the memory.
const MAX_BATCH: usize = 1024;
/// Longest side of an image.
const MAX_SIDE: usize = 8192;

/// What a policy is asked about: one observation and its instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The observation, cameras and proprioception in the layout's order.
    pub observation: Observation,
    /// The instruction.
    pub instruction: String,
}

/// How GR00T names the parts of an observation and of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `{"video": {"agent": ..}}`, as `Gr00tPolicy`.
    Nested,
    /// `{"video.agent": ..}`, as `Gr00tSimPolicyWrapper`.
    Flat,
}

/// Takes an observation of GR00T apart: images `u8 (B, 1, H, W, 3)`, parts of the state `f32 (B, 1, D)`, and `B`
/// instructions.
///
/// # Errors
/// A part that is missing, unknown, of another type or shape, or of another batch than the rest.
pub fn groot(observation: &mut Value, layout: &Layout) -> Result<(Naming, Vec<Asked>), ServeError> {
    let Value::Map(entries) = observation else {
        return Err(ServeError::message("observation", "a map", observation.describe()));
    };
    let is_nested = |key: &str| matches!(key, "video" | "state" | "language");
    let naming = if entries.iter().any(|(key, _)| is_nested(key)) { Naming::Nested } else { Naming::Flat };
    let known = groot_names(layout, naming);
    refuse_unknown(observation, naming, &known)?;
    let mut batch = None;
    let mut images = Vec::new();
    for camera in &layout.cameras {
        let (name, array) = take_image(observation, naming, &camera.name, &known)?;
        images.push(groot_images(&name, array, camera, &mut batch)?);
    }
    let mut states = Vec::new();
    for part in &layout.state {
        let (name, array) = array(observation, naming, "state", &part.name, &known)?;
        let expected = format!("float32 of shape (B, 1, {})", part.width);
        let &[rows, 1, width] = array.shape() else {
            return Err(ServeError::message(name, expected, array.describe()));
        };
        if array.dtype() != DType::F32 || width != part.width {
            return Err(ServeError::message(name, expected, array.describe()));
        }
        same_batch(&mut batch, rows, &name)?;
        states.push((part.width, finite(&name, array.f32s()?)?));
    }
    let words = instructions(observation, naming, layout, &known)?;
    same_batch(&mut batch, words.len(), &layout.language)?;
    let mut images: Vec<_> = images.into_iter().map(Vec::into_iter).collect();
    let asked = words.into_iter().enumerate().map(|(row, instruction)| {
        let cameras = images.iter_mut().filter_map(Iterator::next).collect();
        let proprio = states.iter().flat_map(|(width, values)| values.iter().skip(row * width).take(*width));
        Asked { observation: Observation { cameras, proprio: proprio.copied().collect() }, instruction }
    });
    Ok((naming, asked.collect()))
}

/// Reads an observation of openpi: images `u8 (H, W, 3)`, the state as one row of numbers, and the instruction.
///
/// # Errors
/// A part that is missing, unknown, or of another type or shape.
pub fn openpi(message: &Value, layout: &Layout) -> Result<Asked, ServeError> {
    let cameras = layout.cameras.iter().map(|camera| camera.openpi.as_str());
    let known: Vec<String> = cameras.chain([OPENPI_STATE, OPENPI_PROMPT]).map(str::to_owned).collect();
    let Value::Map(entries) = message else {
        return Err(ServeError::message("observation", format!("a map with {}", known.join(", ")), message.describe()));
    };
    unknown(entries.iter().map(|(key, _)| key.as_ref()), &known)?;
    let find = |name: &str| message.get(name).ok_or_else(|| missing(name, &known));
    let mut cameras = Vec::new();
    for camera in &layout.cameras {
        let array = as_array(&camera.openpi, find(&camera.openpi)?)?;
        let &[height, width, 3] = array.shape() else {
            return Err(ServeError::message(&camera.openpi, image_words(camera, ""), array.describe()));
        };
        check_image(&camera.openpi, array, camera, (height, width), "")?;
        cameras.push(image(camera, (height, width), array.row_major().into_owned()));
    }
    let state = as_array(OPENPI_STATE, find(OPENPI_STATE)?)?;
    let wide = state.shape().iter().product::<usize>();
    if state.dtype().kind() != Kind::Float || wide != layout.state_width() || state.shape().len() != 1 {
        let expected = format!("floating point of shape ({},)", layout.state_width());
        return Err(ServeError::message(OPENPI_STATE, expected, state.describe()));
    }
    let proprio = finite(OPENPI_STATE, state.f32s()?)?;
    let prompt = find(OPENPI_PROMPT)?;
    let text = |value: &Value| value.as_text().map(str::to_owned);
    let instruction = text(prompt).ok_or_else(|| ServeError::message(OPENPI_PROMPT, "text", prompt.describe()))?;
    Ok(Asked { observation: Observation { cameras, proprio }, instruction })
}

fn groot_names(layout: &Layout, naming: Naming) -> Vec<String> {
    let cameras = layout.cameras.iter().map(|camera| full("video", &camera.name));
    let state = layout.state.iter().map(|part| full("state", &part.name));
    let language = match naming {
        Naming::Nested => full("language", &layout.language),
        Naming::Flat => layout.language.clone(),
    };
    cameras.chain(state).chain([language]).collect()
}

fn full(group: &str, name: &str) -> String {
    format!("{group}.{name}")
}

fn missing(name: &str, known: &[String]) -> ServeError {
    ServeError::message("observation", known.join(", "), format!("nothing under {name}"))
}

fn unknown<'a>(names: impl Iterator<Item = &'a str>, known: &[String]) -> Result<(), ServeError> {
    for name in names {
        if !known.iter().any(|known| known == name) {
            return Err(ServeError::message("observation", known.join(", "), format!("{name} as well")));
        }
    }
    Ok(())
}

fn refuse_unknown(observation: &Value, naming: Naming, known: &[String]) -> Result<(), ServeError> {
    let Value::Map(entries) = observation else { return Ok(()) };
    if naming == Naming::Flat {
        return unknown(entries.iter().map(|(key, _)| key.as_ref()), known);
    }
    for (group, value) in entries {
        let Value::Map(inside) = value else {
            return Err(ServeError::message(group.as_ref(), "a map", value.describe()));
        };
        let names: Vec<String> = inside.iter().map(|(key, _)| full(group, key)).collect();
        unknown(names.iter().map(String::as_str), known)?;
    }
    Ok(())
}

fn find<'m, 'v>(
    observation: &'m Value<'v>,
    naming: Naming,
    group: &str,
    name: &str,
    known: &[String],
) -> Result<&'m Value<'v>, ServeError> {
    let found = match naming {
        Naming::Nested => observation.get(group).and_then(|group| group.get(name)),
        Naming::Flat if group == "language" => observation.get(name),
        Naming::Flat => observation.get(&full(group, name)),
    };
    found.ok_or_else(|| missing(&full(group, name), known))
}

fn array<'m, 'v>(
    observation: &'m Value<'v>,
    naming: Naming,
    group: &str,
    name: &str,
    known: &[String],
) -> Result<(String, &'m NdArray<'v>), ServeError> {
    let label = full(group, name);
    let array = as_array(&label, find(observation, naming, group, name, known)?)?;
    Ok((label, array))
}

/// An image out of an observation, so that its pixels need not be copied.
fn take_image<'v>(
    observation: &mut Value<'v>,
    naming: Naming,
    name: &str,
    known: &[String],
) -> Result<(String, NdArray<'v>), ServeError> {
    let (label, _) = array(observation, naming, "video", name, known)?;
    let place = match naming {
        Naming::Nested => observation.get_mut("video").and_then(|group| group.get_mut(name)),
        Naming::Flat => observation.get_mut(&label),
    };
    match place.map(|place| std::mem::replace(place, Value::Nil)) {
        Some(Value::Array(array)) => Ok((label, array)),
        _ => Err(missing(&label, known)),
    }
}

fn as_array<'m, 'v>(name: &str, value: &'m Value<'v>) -> Result<&'m NdArray<'v>, ServeError> {
    match value {
        Value::Array(array) => Ok(array),
        other => Err(ServeError::message(name, "a numpy array", other.describe())),
    }
}

fn same_batch(batch: &mut Option<usize>, rows: usize, name: &str) -> Result<(), ServeError> {
    if !(1..=MAX_BATCH).contains(&rows) {
        return Err(ServeError::message(name, format!("a batch of 1 to {MAX_BATCH}"), rows.to_string()));
    }
    match batch.replace(rows) {
        Some(before) if before != rows => {
            Err(ServeError::message(name, format!("a batch of {before} as before it"), format!("one of {rows}")))
        }
        _ => Ok(()),
    }
}

fn image_words(camera: &CameraLayout, batch: &str) -> String {
    match camera.size {
        Some((height, width)) => format!("uint8 of shape ({batch}{height}, {width}, 3)"),
        None => format!("uint8 of shape ({batch}H, W, 3)"),
    }
}

fn check_image(
    name: &str,
    array: &NdArray,
    camera: &CameraLayout,
    size: (usize, usize),
    batch: &str,
) -> Result<(), ServeError> {
    let possible = (1..=MAX_SIDE).contains(&size.0) && (1..=MAX_SIDE).contains(&size.1);
    if array.dtype() != DType::U8 || !possible || camera.size.is_some_and(|expected| expected != size) {
        return Err(ServeError::message(name, image_words(camera, batch), array.describe()));
    }
    Ok(())
}

fn image(camera: &CameraLayout, (height, width): (usize, usize), rgb: Vec<u8>) -> Camera {
    Camera { name: camera.name.clone(), height, width, rgb }
}

fn groot_images(
    name: &str,
    array: NdArray,
    camera: &CameraLayout,
    batch: &mut Option<usize>,
) -> Result<Vec<Camera>, ServeError> {
    let &[rows, 1, height, width, 3] = array.shape() else {
        return Err(ServeError::message(name, image_words(camera, "B, 1, "), array.describe()));
    };
    check_image(name, &array, camera, (height, width), "B, 1, ")?;
    same_batch(batch, rows, name)?;
    if rows == 1 {
        return Ok(vec![image(camera, (height, width), array.into_row_major())]);
    }
    let pixels: Cow<[u8]> = array.row_major();
    Ok(pixels.chunks_exact(height * width * 3).map(|frame| image(camera, (height, width), frame.to_vec())).collect())
}

fn finite(name: &str, values: Vec<f32>) -> Result<Vec<f32>, ServeError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(place) => Err(ServeError::message(name, "finite values", format!("another one at position {place}"))),
        None => Ok(values),
    }
}

/// `B` lists of one text each, nested; a list or an array of `B` texts, flat.
fn instructions(
    observation: &Value,
    naming: Naming,
    layout: &Layout,
    known: &[String],
) -> Result<Vec<String>, ServeError> {
    let value = find(observation, naming, "language", &layout.language, known)?;
    let expected = match naming {
        Naming::Nested => "a list of B lists of one text each",
        Naming::Flat => "a list of B texts",
    };
    let wrong = |got: String| ServeError::message(layout.language.as_str(), expected, got);
    let texts = match (naming, value) {
        (Naming::Flat, Value::Array(array)) if array.shape().len() == 1 => return Ok(array.texts()?),
        (_, Value::List(entries)) => entries,
        (_, other) => return Err(wrong(other.describe())),
    };
    let text = |entry: &Value| {
        let inside = match (naming, entry) {
            (Naming::Nested, Value::List(one)) => match one.as_slice() {
                [one] => one,
                _ => return Err(wrong(entry.describe())),
            },
            (Naming::Nested, other) => return Err(wrong(format!("a list with {}", other.describe()))),
            (Naming::Flat, entry) => entry,
        };
        inside.as_text().map(str::to_owned).ok_or_else(|| wrong(format!("a list with {}", inside.describe())))
    };
    texts.iter().map(text).collect()
}
