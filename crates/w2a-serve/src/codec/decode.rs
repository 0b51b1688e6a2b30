//! From bytes to values. Every length is checked against what is there before anything is kept for it.

use std::borrow::Cow;
use std::iter::Peekable;
use std::vec::IntoIter;

use rmp::Marker;

use super::parted::Parted;
use super::value::Value;
use super::{CodecError, DType, Dialect, GROOT_DATA, GROOT_MARK, NdArray, OPENPI_MARK, OPENPI_SCALAR, npy};

/// Lists and maps within one another.
pub const MAX_DEPTH: usize = 32;
/// Values in a message. Each takes more memory here than on the wire, and what has so many belongs into an array.
pub const MAX_VALUES: usize = 1 << 18;

/// Reads one message.
///
/// # Errors
/// Anything but one whole msgpack value with keys of text, each once, within [`MAX_DEPTH`] and [`MAX_VALUES`]; arrays
/// that do not hold together, or hold objects.
pub fn decode(message: &[u8], dialect: Dialect) -> Result<Value<'_>, CodecError> {
    read(message, Vec::new(), dialect)
}

/// The same of a message whose large bytes lie apart: they become those of its arrays, and are not copied.
pub(crate) fn decode_parted(message: &mut Parted, dialect: Dialect) -> Result<Value<'_>, CodecError> {
    let apart = std::mem::take(&mut message.apart);
    read(&message.rest, apart, dialect)
}

fn read(message: &[u8], apart: Vec<(usize, Vec<u8>)>, dialect: Dialect) -> Result<Value<'_>, CodecError> {
    let later = apart.iter().map(|(_, bytes)| bytes.len()).sum();
    let apart = apart.into_iter().peekable();
    let mut reader = Reader { message, at: 0, apart, later, gone: 0, end: None, values: 0, dialect };
    let value = reader.value(0)?;
    match reader.left() {
        0 => Ok(value),
        more => Err(reader.unexpected("the end of the message", format!("{more} more bytes"))),
    }
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
    /// What lies apart of what is still to come, with the places where it is missing, and its bytes.
    apart: Peekable<IntoIter<(usize, Vec<u8>)>>,
    later: usize,
    /// Bytes that lay apart before here.
    gone: usize,
    /// The end of the bytes that were read last, if it lay apart.
    end: Option<Vec<u8>>,
    values: usize,
    dialect: Dialect,
}

/// A map whose keys may still be the bytes of openpi's arrays.
type Entries<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

impl<'a> Reader<'a> {
    fn unexpected(&self, expected: &'static str, got: impl Into<String>) -> CodecError {
        CodecError::Unexpected { at: self.at + self.gone, expected, got: got.into() }
    }

    /// Bytes of the message that are still to come.
    fn left(&self) -> usize {
        self.message.len() - self.at + self.later
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let rest = self.message.get(self.at..).unwrap_or_default();
        let Some(bytes) = rest.get(..count) else {
            return Err(CodecError::Truncated { at: self.at + self.gone, expected: count, got: self.left() });
        };
        self.at += count;
        Ok(bytes)
    }

    /// A big-endian number of so many bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, CodecError> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn signed(&mut self, bytes: usize) -> Result<Value<'a>, CodecError> {
        let unused = 64 - 8 * bytes as u32;
        let number = self.number(bytes)?;
        Ok(Value::Int((number << unused) as i64 >> unused))
    }

    fn unsigned(&mut self, bytes: usize) -> Result<Value<'a>, CodecError> {
        let number = self.number(bytes)?;
        let value =
            i64::try_from(number).map_err(|_| self.unexpected("a whole number below 2^63", number.to_string()))?;
        Ok(Value::Int(value))
    }

    fn length(&mut self, bytes: usize) -> Result<usize, CodecError> {
        let length = self.number(bytes)?;
        // Lengths have 32 bits at most.
        Ok(length as usize)
    }

    fn text(&mut self, length: usize) -> Result<Cow<'a, str>, CodecError> {
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.unexpected("text in UTF-8", "other bytes"))?;
        Ok(Cow::Borrowed(text))
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, CodecError> {
        let value = self.beginning(depth)?;
        Ok(match self.end.take() {
            Some(end) => whole(value, end),
            None => value,
        })
    }

    /// A value; where it is bytes with an end that lies apart, that is in [`Self::end`].
    fn beginning(&mut self, depth: usize) -> Result<Value<'a>, CodecError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.unexpected("at most 262144 values", "more"));
        }
        let marker = Marker::from_u8(self.number(1)? as u8);
        Ok(match marker {
            Marker::Null => Value::Nil,
            Marker::True => Value::Bool(true),
            Marker::False => Value::Bool(false),
            Marker::FixPos(number) => Value::Int(i64::from(number)),
            Marker::FixNeg(number) => Value::Int(i64::from(number)),
            Marker::U8 => self.unsigned(1)?,
            Marker::U16 => self.unsigned(2)?,
            Marker::U32 => self.unsigned(4)?,
            Marker::U64 => self.unsigned(8)?,
            Marker::I8 => self.signed(1)?,
            Marker::I16 => self.signed(2)?,
            Marker::I32 => self.signed(4)?,
            Marker::I64 => self.signed(8)?,
            Marker::F32 => Value::Float(f64::from(f32::from_bits(self.number(4)? as u32))),
            Marker::F64 => Value::Float(f64::from_bits(self.number(8)?)),
            Marker::Bin8 => self.bytes(1)?,
            Marker::Bin16 => self.bytes(2)?,
            Marker::Bin32 => self.bytes(4)?,
            Marker::FixArray(length) => self.list(usize::from(length), depth)?,
            Marker::Array16 => {
                let length = self.length(2)?;
                self.list(length, depth)?
            }
            Marker::Array32 => {
                let length = self.length(4)?;
                self.list(length, depth)?
            }
            Marker::FixMap(length) => self.map(usize::from(length), depth)?,
            Marker::Map16 => {
                let length = self.length(2)?;
                self.map(length, depth)?
            }
            Marker::Map32 => {
                let length = self.length(4)?;
                self.map(length, depth)?
            }
            marker => match self.text_length(marker)? {
                Some(length) => Value::Text(self.text(length)?),
                None => return Err(self.unexpected("a value without extension types", format!("{marker:?}"))),
            },
        })
    }

    fn text_length(&mut self, marker: Marker) -> Result<Option<usize>, CodecError> {
        Ok(match marker {
            Marker::FixStr(length) => Some(usize::from(length)),
            Marker::Str8 => Some(self.length(1)?),
            Marker::Str16 => Some(self.length(2)?),
            Marker::Str32 => Some(self.length(4)?),
            _ => None,
        })
    }

    fn bytes(&mut self, width: usize) -> Result<Value<'a>, CodecError> {
        let length = self.length(width)?;
        let at = self.at;
        let here =
            |(place, end): &(usize, Vec<u8>)| place.checked_sub(at).is_some_and(|near| near + end.len() == length);
        let Some((place, end)) = self.apart.next_if(here) else {
            return Ok(Value::Bytes(Cow::Borrowed(self.take(length)?)));
        };
        let near = self.take(place - at)?;
        self.later -= end.len();
        self.gone += end.len();
        self.end = Some(end);
        Ok(Value::Bytes(Cow::Borrowed(near)))
    }

    /// Refuses lists and maps that are too deep, or cannot be there: every entry has a byte at least.
    fn check(&self, length: usize, depth: usize) -> Result<(), CodecError> {
        if depth >= MAX_DEPTH {
            return Err(self.unexpected("at most 32 lists or maps within one another", "more"));
        }
        let rest = self.left();
        if length > rest {
            return Err(CodecError::Truncated { at: self.at + self.gone, expected: length, got: rest });
        }
        Ok(())
    }

    fn list(&mut self, length: usize, depth: usize) -> Result<Value<'a>, CodecError> {
        self.check(length, depth)?;
        // Not reserved: the bytes may be the entries of something else.
        (0..length).map(|_| self.value(depth + 1)).collect::<Result<_, _>>().map(Value::List)
    }

    fn key(&mut self) -> Result<(Cow<'a, str>, bool), CodecError> {
        let marker = Marker::from_u8(self.number(1)? as u8);
        let (length, is_text) = match (self.text_length(marker)?, marker) {
            (Some(length), _) => (length, true),
            (None, Marker::Bin8) if self.dialect == Dialect::Openpi => (self.length(1)?, false),
            (None, marker) => return Err(self.unexpected("a key of text", format!("{marker:?}"))),
        };
        Ok((self.text(length)?, is_text))
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Value<'a>, CodecError> {
        self.check(length, depth)?;
        let mut entries: Entries<'a> = Vec::new();
        let mut texts = 0;
        let mut known = std::collections::HashSet::new();
        let mut elements = None;
        for _ in 0..length {
            let (key, is_text) = self.key()?;
            texts += usize::from(is_text);
            if !known.insert(key.clone()) {
                return Err(self.unexpected("each key once", format!("{:?} again", shorten(&key))));
            }
            let value = if self.dialect == Dialect::Groot && key == GROOT_DATA {
                let value = self.beginning(depth + 1)?;
                elements = self.end.take();
                value
            } else {
                self.value(depth + 1)?
            };
            entries.push((key, value));
        }
        if self.dialect == Dialect::Groot && known.contains(GROOT_MARK) {
            return groot(entries, elements).map(Value::Array);
        }
        if let Some(elements) = elements
            && let Some((_, value)) = entries.iter_mut().find(|(key, _)| key == GROOT_DATA)
        {
            // No array, for all its name.
            *value = whole(std::mem::replace(value, Value::Nil), elements);
        }
        match self.dialect {
            Dialect::Openpi if texts < length => self.openpi(entries, texts),
            _ => Ok(Value::Map(entries)),
        }
    }

    /// An array or a scalar; nothing else of openpi has keys of bytes.
    fn openpi(&self, entries: Entries<'a>, texts: usize) -> Result<Value<'a>, CodecError> {
        let mut parts = Parts::of(entries);
        if texts > 0 {
            return Err(self.unexpected("keys of text", "keys of bytes and of text in one map"));
        }
        if parts.take(OPENPI_SCALAR).is_some() {
            let (value, dtype) = (parts.take("data"), parts.take("dtype"));
            parts.end()?;
            dtype_of(dtype)?;
            return match value {
                Some(value @ (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_))) => Ok(value),
                other => Err(part("data of a scalar", "a number, a boolean or text", other.as_ref())),
            };
        }
        if parts.take(OPENPI_MARK).is_none() {
            return Err(self.unexpected("keys of text, or those of an array", "other keys of bytes"));
        }
        let (data, dtype, shape) = (parts.take("data"), parts.take("dtype"), parts.take("shape"));
        parts.end()?;
        let Some(Value::Bytes(data)) = data else {
            return Err(part("data", "bytes", data.as_ref()));
        };
        let sides = match &shape {
            Some(Value::List(sides)) => sides.iter().map(side).collect::<Option<Vec<usize>>>(),
            _ => None,
        };
        let sides = sides.ok_or_else(|| part("shape", "a list of whole numbers", shape.as_ref()))?;
        NdArray::new(dtype_of(dtype)?, sides, false, data).map(Value::Array)
    }
}

/// Bytes with their end.
fn whole(value: Value<'_>, end: Vec<u8>) -> Value<'_> {
    match value {
        Value::Bytes(near) if near.is_empty() => Value::Bytes(Cow::Owned(end)),
        Value::Bytes(near) => Value::Bytes(Cow::Owned([&near, end.as_slice()].concat())),
        other => other,
    }
}

/// An array; its elements may lie apart from the rest of its file.
fn groot(entries: Entries<'_>, elements: Option<Vec<u8>>) -> Result<NdArray<'_>, CodecError> {
    let mut parts = Parts::of(entries);
    let (mark, file) = (parts.take(GROOT_MARK), parts.take(GROOT_DATA));
    parts.end()?;
    if mark != Some(Value::Bool(true)) {
        return Err(part(GROOT_MARK, "true", mark.as_ref()));
    }
    match (file, elements) {
        (Some(Value::Bytes(Cow::Borrowed(start))), Some(elements)) => npy::read_parted(start, elements),
        (Some(Value::Bytes(Cow::Borrowed(file))), None) => npy::read(file),
        (other, _) => Err(part(GROOT_DATA, "bytes", other.as_ref())),
    }
}

/// The entries of an array's map, taken one by one.
struct Parts<'a>(Entries<'a>);

impl<'a> Parts<'a> {
    fn of(entries: Entries<'a>) -> Self {
        Self(entries)
    }

    fn take(&mut self, key: &str) -> Option<Value<'a>> {
        let place = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.swap_remove(place).1)
    }

    fn end(&self) -> Result<(), CodecError> {
        self.0.first().map_or(Ok(()), |(key, _)| {
            Err(CodecError::array("keys", "those of an array and no others", format_args!("{:?}", shorten(key))))
        })
    }
}

fn part(what: &'static str, expected: &str, got: Option<&Value>) -> CodecError {
    CodecError::array(what, expected, got.map_or_else(|| "nothing".into(), Value::describe))
}

fn dtype_of(value: Option<Value>) -> Result<DType, CodecError> {
    match &value {
        Some(Value::Text(text)) => text.parse(),
        other => Err(part("dtype", "text such as <f4", other.as_ref())),
    }
}

fn side(value: &Value) -> Option<usize> {
    match value {
        Value::Int(side) => usize::try_from(*side).ok(),
        _ => None,
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
