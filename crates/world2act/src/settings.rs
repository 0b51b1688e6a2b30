//! Configuration in layers: each overrides the one before, and every complaint names the layer it is about.
//!
//! Generic over the configuration, which needs serde and `deny_unknown_fields` only.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

/// Values from one place.
#[derive(Clone, Debug)]
pub struct Layer {
    origin: Origin,
    values: Table,
}

/// Where a layer comes from.
#[derive(Clone, Debug)]
enum Origin {
    Defaults,
    /// With its text, from which the line of a complaint is found.
    File {
        path: PathBuf,
        text: String,
    },
    Flag(String),
}

/// A configuration that cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("reading the configuration: {source}; check the path after --config")]
    Read {
        /// The system's reason, with the path.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error(
        "reading the configuration {}: {reason}; it has to be TOML, as `world2act config` prints it", path.display()
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{place}: there is no setting `{key}`; {next_step}")]
    UnknownKey {
        /// The flag, or the file and line.
        place: String,
        /// The key in full.
        key: String,
        /// What may have been meant.
        next_step: String,
    },
    /// A value of the wrong kind.
    #[error("{place}: `{key}` {reason}")]
    Value {
        /// The flag, or the file and line.
        place: String,
        /// The key in full.
        key: String,
        /// What was expected and what was given.
        reason: String,
    },
    /// The defaults cannot be written as TOML.
    #[error("writing the configuration as TOML: {0}; this is a bug")]
    Unwritable(#[from] toml::ser::Error),
    /// The defaults cannot be read back.
    #[error("reading the defaults back: {0}; this is a bug")]
    Unreadable(#[from] toml::de::Error),
}

impl SettingsError {
    /// Whether the user can mend it.
    pub fn is_users_mistake(&self) -> bool {
        !matches!(self, Self::Unwritable(_) | Self::Unreadable(_))
    }
}

impl Layer {
    /// All settings of `config`: the layer at the bottom, which also defines the known keys.
    ///
    /// They go through text, as those of a file do: 0.1 read from a file and a default of 0.1 are the same value.
    ///
    /// # Errors
    /// [`SettingsError::Unwritable`] or [`SettingsError::Unreadable`].
    pub fn defaults(config: &impl Serialize) -> Result<Self, SettingsError> {
        Ok(Self { origin: Origin::Defaults, values: toml::to_string(config)?.parse()? })
    }

    /// The settings in a TOML file.
    ///
    /// # Errors
    /// [`SettingsError::Read`] or [`SettingsError::Syntax`].
    pub fn file(path: &Path) -> Result<Self, SettingsError> {
        let text = fs_err::read_to_string(path).map_err(|source| SettingsError::Read { source })?;
        Self::text(path, text)
    }

    /// The settings in `text`, which was read from `path`.
    ///
    /// # Errors
    /// [`SettingsError::Syntax`].
    pub fn text(path: &Path, text: String) -> Result<Self, SettingsError> {
        match text.parse() {
            Ok(values) => Ok(Self { origin: Origin::File { path: path.to_owned(), text }, values }),
            Err(error) => {
                let line = error.span().map_or(String::new(), |span| format!("line {}: ", line_at(&text, span.start)));
                let reason = format!("{line}{}", error.message());
                Err(SettingsError::Syntax { path: path.to_owned(), reason })
            }
        }
    }

    /// One value given as `flag`.
    pub fn flag(key: &[String], value: Value, flag: &str) -> Self {
        let mut values = Table::new();
        if let Some((last, parents)) = key.split_last() {
            let nest = |inner, part: &String| Value::Table(Table::from_iter([(part.clone(), inner)]));
            let top = parents.iter().rev().fold(Value::Table(Table::from_iter([(last.clone(), value)])), nest);
            values = if let Value::Table(table) = top { table } else { values };
        }
        Self { origin: Origin::Flag(flag.to_owned()), values }
    }

    /// Its values.
    pub fn values(&self) -> &Table {
        &self.values
    }

    fn has(&self, key: &[String]) -> bool {
        find(&self.values, key).is_some()
    }

    /// The place of `key` in words.
    fn place(&self, key: &[String]) -> String {
        match &self.origin {
            Origin::Defaults => "the defaults".into(),
            Origin::Flag(flag) => flag.clone(),
            Origin::File { path, text } => match line_of(text, key) {
                Some(line) => format!("{}, line {line}", path.display()),
                None => path.display().to_string(),
            },
        }
    }
}

/// The configuration that `layers` amount to; later ones win, tables are merged key by key.
///
/// # Errors
/// [`SettingsError::UnknownKey`] or [`SettingsError::Value`], naming the layer.
pub fn merge<C: DeserializeOwned>(layers: &[Layer]) -> Result<C, SettingsError> {
    let mut merged = Table::new();
    let mut layers = layers.to_vec();
    for layer in &mut layers {
        expand_kinds(&merged, &mut layer.values);
        overlay(&mut merged, &layer.values);
    }
    serde_path_to_error::deserialize(Value::Table(merged)).map_err(|error| explain(&layers, &error))
}

/// A section that has a `kind` may be given by that alone: `--align.adapter=mlp` is `--align.adapter.kind=mlp`.
fn expand_kinds(known: &Table, values: &mut Table) {
    for (name, value) in values {
        match (known.get(name), &mut *value) {
            (Some(Value::Table(known)), Value::Table(inner)) => expand_kinds(known, inner),
            (Some(Value::Table(known)), Value::String(kind)) if known.contains_key("kind") => {
                let kind = std::mem::take(kind);
                *value = Value::Table(Table::from_iter([("kind".to_owned(), Value::String(kind))]));
            }
            _ => {}
        }
    }
}

/// The keys whose values differ between two configurations, in full, in the order of the alphabet.
pub fn differences(one: &Table, other: &Table) -> Vec<String> {
    let (one, other) = (leaves(one), leaves(other));
    let differs = |key: &&Vec<String>, here: &Vec<_>, there: &Vec<(Vec<String>, &Value)>| {
        let value = |side: &[(Vec<String>, &Value)]| side.iter().find(|(k, _)| k == *key).map(|(_, v)| (*v).clone());
        value(here) != value(there)
    };
    let mut keys: Vec<String> = one
        .iter()
        .chain(&other)
        .map(|(key, _)| key)
        .filter(|key| differs(key, &one, &other))
        .map(|key| key.join("."))
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

fn overlay(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

fn explain(layers: &[Layer], error: &serde_path_to_error::Error<toml::de::Error>) -> SettingsError {
    let mut key = Vec::new();
    for segment in error.path() {
        match segment {
            Segment::Map { key: part } => key.push(part.clone()),
            Segment::Enum { variant } => key.push(variant.clone()),
            // Inside of a list the setting itself is the place.
            Segment::Seq { .. } | Segment::Unknown => break,
        }
    }
    let message = error.inner().message().trim();
    if let Some(unknown) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        if key.last().is_none_or(|last| last != unknown) {
            key.push(unknown.to_owned());
        }
        extend(layers, &mut key);
        let next_step = layers.first().map_or_else(String::new, |known| near_miss(&known.values, &key));
        return SettingsError::UnknownKey { place: place(layers, &key), key: key.join("."), next_step };
    }
    SettingsError::Value { place: place(layers, &key), key: key.join("."), reason: plain_words(message) }
}

/// Lengthens an unknown section to the one setting that was given in it, so that the suggestion is one for that.
fn extend(layers: &[Layer], key: &mut Vec<String>) {
    let mut inside = layers.iter().rev().find_map(|layer| find(&layer.values, key));
    while let Some(Value::Table(table)) = inside {
        let (1, Some((name, value))) = (table.len(), table.iter().next()) else { return };
        key.push(name.clone());
        inside = Some(value);
    }
}

/// The uppermost layer that sets `key`, or the part of it that a layer sets.
fn place(layers: &[Layer], key: &[String]) -> String {
    let setter = (1..=key.len()).rev().find_map(|length| {
        let key = &key[..length];
        layers.iter().rev().find(|layer| layer.has(key)).map(|layer| layer.place(key))
    });
    setter.unwrap_or_else(|| "the configuration".into())
}

/// serde's complaint with the names of Rust's types replaced by what they mean.
fn plain_words(message: &str) -> String {
    let (got, expected) = match message.rsplit_once(", expected ") {
        Some((got, expected)) => (got, expected),
        None => return format!("is not usable: {message}"),
    };
    let expected = match expected {
        "f32" | "f64" => "a number",
        "usize" | "u8" | "u16" | "u32" | "u64" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "a boolean" | "bool" => "true or false",
        struct_name if struct_name.starts_with("struct ") => "a section with settings of its own",
        other => other,
    };
    let got = ["invalid type: ", "invalid value: ", "invalid length "].iter().find_map(|lead| got.strip_prefix(lead));
    match got {
        Some(got) => format!("has to be {expected}, got {got}"),
        None => format!("is not usable: {message}"),
    }
}

/// What may have been meant by an unknown `key`.
fn near_miss(known: &Table, key: &[String]) -> String {
    let typed = key.join(".");
    let last = key.last().map_or("", String::as_str);
    // Two slips, or one in five letters, still point at one name; of a very short name nothing would be left.
    let limit = |name: &str| match name.chars().count() {
        0..5 => 1,
        letters => (letters / 5).max(2),
    };
    let candidates = all_keys(known);
    let distance = |candidate: &Vec<String>| strsim::damerau_levenshtein(&candidate.join("."), &typed);
    let nearest = |of: &dyn Fn(&Vec<String>) -> bool| {
        candidates.iter().filter(|candidate| of(candidate)).min_by_key(|candidate| distance(candidate))
    };
    let meant = nearest(&|candidate| distance(candidate) <= limit(&typed))
        .or_else(|| nearest(&|candidate| candidate.last().is_some_and(|name| name == last)))
        .or_else(|| {
            nearest(&|candidate| {
                let name = candidate.last().map_or("", String::as_str);
                candidate.len() == key.len() && strsim::damerau_levenshtein(name, last) <= limit(last)
            })
        });
    if let Some(meant) = meant {
        return format!("did you mean `{}`?", meant.join("."));
    }
    let section = &key[..key.len().saturating_sub(1)];
    match (section.is_empty(), find(known, section)) {
        (false, Some(Value::Table(table))) => {
            let names: Vec<&str> = table.keys().map(String::as_str).collect();
            format!("`{}` has {}", section.join("."), names.join(", "))
        }
        _ => format!("the configuration has {}", known.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
    }
}

fn find<'a>(table: &'a Table, key: &[String]) -> Option<&'a Value> {
    let (first, rest) = key.split_first()?;
    let value = table.get(first)?;
    match (rest.is_empty(), value) {
        (true, _) => Some(value),
        (false, Value::Table(inner)) => find(inner, rest),
        (false, _) => None,
    }
}

/// Every value that is no table, with its key.
fn leaves(table: &Table) -> Vec<(Vec<String>, &Value)> {
    let mut out = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => out.extend(leaves(inner).into_iter().map(|(mut key, value)| {
                key.insert(0, name.clone());
                (key, value)
            })),
            _ => out.push((vec![name.clone()], value)),
        }
    }
    out
}

/// Every key, those of sections included.
fn all_keys(table: &Table) -> Vec<Vec<String>> {
    let mut keys: Vec<Vec<String>> = leaves(table).into_iter().map(|(key, _)| key).collect();
    let sections: Vec<Vec<String>> = keys.iter().flat_map(|key| (1..key.len()).map(|n| key[..n].to_vec())).collect();
    keys.extend(sections);
    keys.sort();
    keys.dedup();
    keys
}

/// Line of `key` in a TOML text, counted from 1.
fn line_of(text: &str, key: &[String]) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut start = None;
    for part in key {
        let (name, value) = table.iter().find(|(name, _)| name.get_ref().as_ref() == part)?;
        start = Some(name.span().start);
        match value.get_ref() {
            toml::de::DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    Some(line_at(text, start?))
}

fn line_at(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests;
