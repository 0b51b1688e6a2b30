//! What a message says.

use std::borrow::Cow;

use super::NdArray;

/// A msgpack value in which numpy arrays are values of their own; text, bytes and arrays borrow from the message.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Python's `None`.
    Nil,
    /// A boolean.
    Bool(bool),
    /// A whole number of 64 bits with sign.
    Int(i64),
    /// A number with a fraction; written with 64 bits.
    Float(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
    /// A list or a tuple.
    List(Vec<Value<'a>>),
    /// A dictionary with keys of text, in the order of the message.
    Map(Vec<(Cow<'a, str>, Value<'a>)>),
    /// A numpy array.
    Array(NdArray<'a>),
}

impl<'a> Value<'a> {
    /// Text, borrowed.
    pub fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// A dictionary with these entries.
    pub fn map(entries: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (Cow::Borrowed(key), value)).collect())
    }

    /// The entry of a dictionary; `None` if there is none, or this is no dictionary.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// As [`Self::get`], to take something out of it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match self {
            Self::Map(entries) => entries.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, for messages: the kind, and of an array its type and shape.
    pub fn describe(&self) -> String {
        match self {
            Self::Nil => "nil".into(),
            Self::Bool(_) => "a boolean".into(),
            Self::Int(_) => "a whole number".into(),
            Self::Float(_) => "a number".into(),
            Self::Text(_) => "text".into(),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::List(entries) => format!("a list of {}", entries.len()),
            Self::Map(entries) => format!("a map of {}", entries.len()),
            Self::Array(array) => array.describe(),
        }
    }
}
