//! Comparing a network of ours with numbers that a reference implementation left in a folder.
//!
//! A fixture has `config.json` (sizes), `weights.safetensors`, and further safetensors files with inputs and expected
//! outputs. A component reads what it needs with [`Fixture::input`], computes, and hands every result to
//! [`Fixture::compare`]; whatever nobody asked for is listed in the report as not compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Array, NnError, StateDict, WeightsFile};

/// How far a result may be from what is expected: for each element, with the largest `|want|` of its tensor,
/// `|got - want| <= absolute * max(1, largest) + relative * largest`.
///
/// Both are shares of the largest value and not of the element, because rounding in a sum goes with what is summed: where
/// large terms cancel, the reference itself is off by as much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Share of the largest expected value, or of 1 if that is smaller.
    pub absolute: f32,
    /// Share of the largest expected value, however small that is.
    pub relative: f32,
    /// One element in a hundred (of fewer, one) may be off by up to this; 0 for none.
    pub outliers: f32,
}

impl Tolerance {
    /// For activations and losses in f32.
    pub const ACTIVATION: Self = Self { absolute: 1e-5, relative: 0.0, outliers: 0.0 };
    /// For gradients in f32.
    pub const GRADIENT: Self = Self { absolute: 1e-6, relative: 5e-5, outliers: 0.0 };
    /// For values that must agree in every bit.
    pub const EXACT: Self = Self { absolute: 0.0, relative: 0.0, outliers: 0.0 };

    /// For parameters after `steps` updates of Adam at learning rate `lr`. Where a gradient is nearly zero its sign is
    /// chance, and so is the direction of Adam's first steps, which are as long as the learning rate.
    pub fn parameters(lr: f32, steps: usize) -> Self {
        Self { absolute: 1e-6, relative: 0.0, outliers: lr * steps as f32 }
    }
}

impl std::fmt::Display for Tolerance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0e}", self.absolute)?;
        if self.relative > 0.0 {
            write!(f, " + {:.0e} rel", self.relative)?;
        }
        if self.outliers > 0.0 {
            write!(f, ", 1% to {:.0e}", self.outliers)?;
        }
        Ok(())
    }
}

/// How one tensor compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// File (without ending) and tensor.
    pub name: String,
    /// Largest `|got - want|`; NaN if either holds one.
    pub max_abs: f32,
    /// The above as a share of the largest `|want|`.
    pub max_rel: f32,
    /// What was allowed.
    pub tolerance: Tolerance,
    /// Whether it holds.
    pub ok: bool,
    /// What is wrong with the shape, if that is it.
    pub note: String,
}

/// Compares values with what is expected. A NaN on either side never holds; equal infinities do.
pub fn compare(name: impl Into<String>, got: &[f32], want: &[f32], tolerance: Tolerance) -> Comparison {
    let name = name.into();
    if got.len() != want.len() {
        let note = format!("computed {} values, expected {}", got.len(), want.len());
        return Comparison { name, max_abs: f32::NAN, max_rel: f32::NAN, tolerance, ok: false, note };
    }
    let finite = want.iter().map(|value| value.abs()).filter(|value| value.is_finite());
    let largest = finite.fold(0.0, f32::max);
    let scale = largest.max(1.0);
    let allowed = tolerance.absolute * scale + tolerance.relative * largest;
    let (mut max_abs, mut beyond, mut hopeless) = (0.0_f32, 0_usize, false);
    for (got, want) in got.iter().zip(want) {
        let error = if got == want { 0.0 } else { (got - want).abs() };
        // `max` would drop a NaN.
        max_abs = if error.is_nan() || max_abs.is_nan() { f32::NAN } else { max_abs.max(error) };
        // A NaN is within nothing, and an infinity within itself only.
        let within = error == 0.0 || error.is_finite() && error <= allowed;
        if !within {
            let is_outlier = error <= tolerance.outliers * scale;
            beyond += 1;
            hopeless |= !is_outlier;
        }
    }
    let max_rel = if max_abs == 0.0 { 0.0 } else { max_abs / largest };
    let few = tolerance.outliers > 0.0 && beyond <= (got.len() / 100).max(1);
    let ok = !max_abs.is_nan() && !hopeless && (beyond == 0 || few);
    Comparison { name, max_abs, max_rel, tolerance, ok, note: String::new() }
}

/// What happened to a tensor of the fixture.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// It was compared.
    Compared(Comparison),
    /// It went into the network: an input or a weight.
    Input(String),
    /// Nothing computed it.
    NotCompared(String),
}

/// All tensors of a fixture and how they compared.
#[derive(Clone, Debug)]
pub struct ParityReport {
    /// One line a tensor, in the order of files and names.
    pub lines: Vec<Line>,
}

impl ParityReport {
    /// Number of tensors that were compared, and of those that did not hold.
    pub fn counts(&self) -> (usize, usize) {
        let compared = self.lines.iter().filter_map(|line| match line {
            Line::Compared(comparison) => Some(comparison.ok),
            _ => None,
        });
        compared.fold((0, 0), |(all, failed), ok| (all + 1, failed + usize::from(!ok)))
    }

    /// Whether anything was compared, and all of it holds.
    pub fn holds(&self) -> bool {
        matches!(self.counts(), (1.., 0))
    }
}

impl std::fmt::Display for ParityReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |line: &Line| match line {
            Line::Compared(comparison) => comparison.name.len(),
            Line::Input(name) | Line::NotCompared(name) => name.len(),
        };
        let width = self.lines.iter().map(name).max().unwrap_or(0).max(6);
        writeln!(f, "{:<width$}  {:>9}  {:>9}  {:<20}  result", "tensor", "max abs", "max rel", "tolerance")?;
        for line in &self.lines {
            match line {
                Line::Compared(Comparison { name, max_abs, max_rel, tolerance, ok, note }) => {
                    let mut result = String::from(if *ok { "ok" } else { "FAILED" });
                    if !note.is_empty() {
                        write!(result, ": {note}")?;
                    }
                    let tolerance = tolerance.to_string();
                    writeln!(f, "{name:<width$}  {max_abs:>9.2e}  {max_rel:>9.2e}  {tolerance:<20}  {result}")?;
                }
                Line::Input(name) => writeln!(f, "{name:<width$}  {:>9}  {:>9}  {:<20}  input", "", "", "")?,
                Line::NotCompared(name) => {
                    writeln!(f, "{name:<width$}  {:>9}  {:>9}  {:<20}  NOT COMPARED", "", "", "")?;
                }
            }
        }
        let (compared, failed) = self.counts();
        let count = |wanted: fn(&Line) -> bool| self.lines.iter().filter(|line| wanted(line)).count();
        let inputs = count(|line| matches!(line, Line::Input(_)));
        let rest = count(|line| matches!(line, Line::NotCompared(_)));
        writeln!(
            f,
            "{compared} compared: {} ok, {failed} failed; {inputs} inputs; {rest} not compared",
            compared - failed
        )
    }
}

/// A folder of reference numbers.
#[derive(Debug)]
pub struct Fixture {
    dir: PathBuf,
    config: Value,
    files: BTreeMap<String, WeightsFile>,
    lines: BTreeMap<(String, String), Line>,
}

impl Fixture {
    /// Opens a folder: `config.json` and every safetensors file and `torch.save` archive (`.pt`) in it.
    ///
    /// # Errors
    /// A folder, configuration or `weights.safetensors` that is missing or damaged.
    pub fn open(dir: &Path) -> Result<Self, NnError> {
        let io = |source| NnError::Io { action: "reading a parity fixture", source };
        let path = dir.join("config.json");
        let text = fs_err::read(&path).map_err(io)?;
        let config: Value = serde_json::from_slice(&text).map_err(|error| NnError::Input {
            what: path.display().to_string(),
            expected: "the sizes of a fixture as JSON".into(),
            got: error.to_string(),
        })?;
        let mut files = BTreeMap::new();
        for entry in fs_err::read_dir(dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let kind = path.extension().and_then(|kind| kind.to_str());
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if let (Some("safetensors" | "pt"), Some(stem)) = (kind, stem) {
                files.insert(stem.to_owned(), WeightsFile::open(&path)?);
            }
        }
        Ok(Self { dir: dir.to_owned(), config, files, lines: BTreeMap::new() })
    }

    /// What the fixture calls its component: `component` in its configuration, else the folder's name.
    pub fn component(&self) -> String {
        let folder = || self.dir.canonicalize().ok()?.file_name().map(|name| name.to_string_lossy().into_owned());
        match self.config.get("component").and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None => folder().unwrap_or_default(),
        }
    }

    /// The whole configuration.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Reads another JSON file of the folder.
    ///
    /// # Errors
    /// A file that is missing, or something else than a `T`.
    pub fn json<T: serde::de::DeserializeOwned>(&self, file: &str) -> Result<T, NnError> {
        let path = self.dir.join(file);
        let text = fs_err::read(&path).map_err(|source| NnError::Io { action: "reading a parity fixture", source })?;
        serde_json::from_slice(&text).map_err(|error| NnError::Input {
            what: path.display().to_string(),
            expected: "JSON as the fixture's README describes it".into(),
            got: error.to_string(),
        })
    }

    /// A value of the configuration, by its keys (and places in lists) joined with dots; `None` if it is not there.
    pub fn setting(&self, key: &str) -> Option<&Value> {
        key.split('.').try_fold(&self.config, |value, part| match part.parse::<usize>() {
            Ok(index) if value.is_array() => value.get(index),
            _ => value.get(part),
        })
    }

    fn required<'a, T>(&'a self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<T, NnError> {
        let value = self.setting(key);
        value.and_then(read).ok_or_else(|| NnError::Input {
            what: format!("{key} in {}", self.dir.join("config.json").display()),
            expected: what.into(),
            got: value.map_or_else(|| "nothing".into(), Value::to_string),
        })
    }

    /// A size of the configuration: a whole number from 1 to 2^20.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn size(&self, key: &str) -> Result<usize, NnError> {
        let size = |value: &Value| value.as_u64().filter(|n| (1..=1 << 20).contains(n)).map(|n| n as usize);
        self.required(key, "a whole number from 1 to 1048576", size)
    }

    /// A number of the configuration.
    ///
    /// # Errors
    /// If it is missing or no number.
    pub fn number(&self, key: &str) -> Result<f32, NnError> {
        self.required(key, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    /// Refuses a fixture whose setting is not the one that this program has built in; a missing setting passes.
    ///
    /// # Errors
    /// Another value.
    pub fn only(&self, key: &str, built_in: &Value) -> Result<(), NnError> {
        match self.setting(key) {
            Some(value) if value != built_in => Err(NnError::Input {
                what: format!("{key} in {}", self.dir.join("config.json").display()),
                expected: format!("{built_in}, the only form in this program"),
                got: value.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Names of the tensors in a file (without ending), in order; none if there is no such file.
    pub fn names(&self, file: &str) -> Vec<String> {
        self.files.get(file).map_or_else(Vec::new, |file| file.tensors().map(|(name, _)| name.to_owned()).collect())
    }

    /// Whether a file has a tensor.
    pub fn has(&self, file: &str, name: &str) -> bool {
        self.files.get(file).is_some_and(|file| file.info(name).is_some())
    }

    /// The shape of a tensor, if a file has it.
    pub fn shape(&self, file: &str, name: &str) -> Option<&[usize]> {
        Some(&self.files.get(file)?.info(name)?.shape)
    }

    /// Files (without ending), in order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    fn file(&self, file: &str) -> Result<&WeightsFile, NnError> {
        self.files.get(file).ok_or_else(|| NnError::Input {
            what: format!("parity fixture {}", self.dir.display()),
            expected: format!("a file {file}.safetensors"),
            got: "none; is it the folder of one component, and complete?".into(),
        })
    }

    /// Reads a tensor that goes into the network.
    ///
    /// # Errors
    /// If it is missing or has another shape.
    pub fn input(&mut self, file: &str, name: &str, shape: &[usize]) -> Result<Vec<f32>, NnError> {
        let array = self.file(file)?.read(name)?;
        if array.shape != shape {
            return Err(NnError::Shape { name: name.into(), got: array.shape, expected: shape.to_vec() });
        }
        let key = (file.to_owned(), name.to_owned());
        self.lines.insert(key, Line::Input(format!("{file}/{name}")));
        Ok(array.data)
    }

    /// Reads all weights.
    ///
    /// # Errors
    /// If there is no `weights.safetensors`.
    pub fn weights(&mut self) -> Result<StateDict, NnError> {
        let state = self.file("weights")?.read_all()?;
        for name in state.keys() {
            let key = ("weights".to_owned(), name.clone());
            self.lines.insert(key, Line::Input(format!("weights/{name}")));
        }
        Ok(state)
    }

    /// Compares a result with the tensor of that name; a fixture that lacks it is not asked for it.
    ///
    /// # Errors
    /// If the tensor cannot be read.
    pub fn compare(&mut self, file: &str, name: &str, got: &[f32], tolerance: Tolerance) -> Result<(), NnError> {
        if self.has(file, name) {
            let Array { data, .. } = self.file(file)?.read(name)?;
            let line = Line::Compared(compare(format!("{file}/{name}"), got, &data, tolerance));
            self.lines.insert((file.to_owned(), name.to_owned()), line);
        }
        Ok(())
    }

    /// The report. Tensors that were neither read nor compared are in it as such.
    pub fn finish(mut self) -> ParityReport {
        for (file, weights) in &self.files {
            for (name, _) in weights.tensors() {
                let line = || Line::NotCompared(format!("{file}/{name}"));
                self.lines.entry((file.clone(), name.to_owned())).or_insert_with(line);
            }
        }
        ParityReport { lines: self.lines.into_values().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fixture, Tolerance, compare};
    use crate::{Array, StateDict, write_state};

    #[test]
    fn nan_on_either_side_fails_and_equal_infinities_hold() {
        let ok = |got: f32, want: f32| compare("x", &[got, 1.0], &[want, 1.0], Tolerance::ACTIVATION).ok;
        assert!(ok(0.5, 0.5 + 9e-6) && !ok(0.5, 0.5 + 2e-5));
        assert!(!ok(f32::NAN, 0.0) && !ok(0.0, f32::NAN) && !ok(f32::NAN, f32::NAN));
        let gradient = compare("x", &[5.0], &[f32::INFINITY], Tolerance::GRADIENT);
        assert!(!gradient.ok, "{gradient:?}");
        assert!(compare("x", &[f32::NEG_INFINITY, 0.1], &[f32::NEG_INFINITY, 0.1 + 1e-6], Tolerance::ACTIVATION).ok);
        assert!(ok(f32::INFINITY, f32::INFINITY) && !ok(f32::INFINITY, 1.0) && !ok(f32::INFINITY, f32::NEG_INFINITY));
        assert!(!compare("x", &[1.0], &[1.0, 1.0], Tolerance::ACTIVATION).ok);
        assert!(!compare("x", &[1.0 + 1e-7], &[1.0], Tolerance::EXACT).ok);
    }

    #[test]
    fn one_in_a_hundred_may_be_off_by_a_few_steps_and_no_more() {
        let tolerance = Tolerance::parameters(1e-4, 3);
        let off = |errors: &[f32]| {
            let mut got = vec![0.5; 200];
            got.iter_mut().zip(errors).for_each(|(value, error)| *value += error);
            compare("x", &got, &[0.5; 200], tolerance).ok
        };
        assert!(off(&[2e-4, -2e-4]) && !off(&[2e-4; 3]) && !off(&[4e-4]) && !off(&[f32::NAN]));
    }

    #[test]
    fn what_is_not_compared_is_listed_and_nothing_compared_does_not_hold() {
        let dir = tempfile::tempdir().unwrap();
        let one = |value: f32| Array { shape: vec![1], data: vec![value] };
        let state = StateDict::from([("a".into(), one(1.0)), ("b".into(), one(2.0)), ("c".into(), one(f32::NAN))]);
        write_state(&state, &dir.path().join("io.safetensors")).unwrap();
        std::fs::write(dir.path().join("config.json"), "{\"component\": \"toy\", \"n\": 3, \"o\": {\"p\": 0.5}}")
            .unwrap();
        let open = || Fixture::open(dir.path()).unwrap();
        let mut fixture = open();
        assert_eq!(
            (fixture.component(), fixture.size("n").unwrap(), fixture.number("o.p").unwrap()),
            ("toy".into(), 3, 0.5)
        );
        assert!(fixture.size("o.q").unwrap_err().to_string().contains("o.q"));
        fixture.input("io", "a", &[1]).unwrap();
        assert!(
            fixture.input("io", "a", &[2]).is_err() && fixture.weights().unwrap_err().to_string().contains("weights")
        );
        fixture.compare("io", "b", &[2.0], Tolerance::ACTIVATION).unwrap();
        let report = fixture.finish();
        assert!(report.holds() && report.to_string().contains("io/c") && report.to_string().contains("NOT COMPARED"));
        assert!(report.to_string().contains("1 compared: 1 ok, 0 failed; 1 inputs; 1 not compared"), "{report}");
        let mut fixture = open();
        fixture.compare("io", "c", &[0.0], Tolerance::ACTIVATION).unwrap();
        let report = fixture.finish();
        assert!(!report.holds() && report.to_string().contains("FAILED"));
        assert!(!open().finish().holds());
    }
}
