//! What the `weights` command does.

use std::fmt::Write as _;
use std::path::Path;

use w2a_nn::{WeightsFile, convert};

use crate::PipelineError;

/// Names, types and shapes of the tensors in a weights file, one a line.
///
/// # Errors
/// A file that cannot be read.
pub fn list_weights(path: &Path) -> Result<String, PipelineError> {
    let file = WeightsFile::open(path)?;
    let width = file.tensors().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    let mut elements = 0_usize;
    for (name, info) in file.tensors() {
        let _ = writeln!(text, "{name:<width$}  {:<5} {:?}", info.dtype.to_string(), info.shape);
        elements = elements.saturating_add(info.shape.iter().product());
    }
    let _ = writeln!(text, "{}: {} tensors, {elements} elements", file.format(), file.tensors().count());
    left_out(&mut text, file.left_out());
    Ok(text)
}

/// Writes the weights of any file that is read here to a safetensors file of F32 values with the same names, and says what
/// was done.
///
/// # Errors
/// An input that cannot be read, an output that exists, or a full disk.
pub fn convert_weights(input: &Path, output: &Path) -> Result<String, PipelineError> {
    let done = convert(input, output)?;
    let mut text = format!(
        "{}: {} tensors, {} elements, written as F32, read again and found equal\n",
        output.display(),
        done.tensors,
        done.elements
    );
    left_out(&mut text, &done.left_out);
    Ok(text)
}

fn left_out(text: &mut String, names: &[String]) {
    if let Some(first) = names.first() {
        let _ = writeln!(text, "left out: {} tensors of a training's state, such as {first}", names.len());
    }
}
