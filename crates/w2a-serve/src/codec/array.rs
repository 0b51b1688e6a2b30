//! numpy arrays: type, shape and bytes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::CodecError;

/// numpy allows as many.
const MAX_DIMENSIONS: usize = 32;

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One byte, 0 or 1.
    Bool,
    /// Signed whole numbers of 1, 2, 4 or 8 bytes.
    Signed,
    /// Unsigned ones.
    Unsigned,
    /// IEEE numbers of 2, 4 or 8 bytes.
    Float,
    /// Text of a fixed number of UCS-4 characters, filled up with zeros.
    Text,
}

impl Kind {
    const ALL: [(Self, char); 5] =
        [(Self::Bool, 'b'), (Self::Signed, 'i'), (Self::Unsigned, 'u'), (Self::Float, 'f'), (Self::Text, 'U')];
}

/// The type of an array's elements; its text is numpy's, such as `<f4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DType {
    order: char,
    kind: Kind,
    /// Bytes, or characters of text.
    count: usize,
}

impl DType {
    /// 32-bit floating point, little-endian.
    pub const F32: Self = Self { order: '<', kind: Kind::Float, count: 4 };
    /// 64-bit floating point, little-endian.
    pub const F64: Self = Self { order: '<', kind: Kind::Float, count: 8 };
    /// Bytes.
    pub const U8: Self = Self { order: '|', kind: Kind::Unsigned, count: 1 };

    /// What an element is.
    pub fn kind(self) -> Kind {
        self.kind
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        if self.kind == Kind::Text { 4 * self.count } else { self.count }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = Kind::ALL.iter().find(|(kind, _)| *kind == self.kind).map_or('?', |(_, letter)| *letter);
        write!(f, "{}{letter}{}", self.order, self.count)
    }
}

impl FromStr for DType {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Self, CodecError> {
        let wrong = || {
            let expected = "booleans, whole numbers, floating point up to 64 bits, or U text, such as <f4 or |u1";
            CodecError::array("dtype", expected, format_args!("{text:?}"))
        };
        let mut letters = text.chars();
        let order = letters.next().filter(|order| "<>|".contains(*order)).ok_or_else(wrong)?;
        let letter = letters.next().ok_or_else(wrong)?;
        let kind = Kind::ALL.iter().find(|(_, known)| *known == letter).map(|(kind, _)| *kind).ok_or_else(wrong)?;
        let digits = letters.as_str();
        // `parse` would take a sign; and no text of a message has a million characters.
        let plain = !digits.is_empty() && digits.len() <= 6 && digits.bytes().all(|digit| digit.is_ascii_digit());
        let count: usize = if plain { digits.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
        let exists = match kind {
            Kind::Bool => count == 1,
            Kind::Signed | Kind::Unsigned => matches!(count, 1 | 2 | 4 | 8),
            Kind::Float => matches!(count, 2 | 4 | 8),
            Kind::Text => true,
        };
        let dtype = Self { order, kind, count };
        let orderless = order == '|' && dtype.size() > 1;
        if !exists || orderless || dtype.to_string() != text { Err(wrong()) } else { Ok(dtype) }
    }
}

/// A numpy array whose bytes may be borrowed from a message.
#[derive(Clone, Debug, PartialEq)]
pub struct NdArray<'a> {
    dtype: DType,
    shape: Vec<usize>,
    fortran: bool,
    data: Cow<'a, [u8]>,
}

impl<'a> NdArray<'a> {
    /// An array of these bytes, in row-major order, or column-major if `fortran`.
    ///
    /// # Errors
    /// More than 32 dimensions, or another number of bytes than type and shape ask for.
    pub fn new(
        dtype: DType,
        shape: Vec<usize>,
        fortran: bool,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Result<Self, CodecError> {
        let data = data.into();
        if shape.len() > MAX_DIMENSIONS {
            return Err(CodecError::array("shape", format!("at most {MAX_DIMENSIONS} dimensions"), shape.len()));
        }
        let bytes = shape.iter().try_fold(dtype.size(), |bytes, side| bytes.checked_mul(*side));
        if bytes != Some(data.len()) {
            let expected = bytes.map_or_else(
                || "a shape that fits into memory".into(),
                |bytes| format!("{bytes} for {dtype} of shape {shape:?}"),
            );
            return Err(CodecError::array("number of bytes", expected, data.len()));
        }
        Ok(Self { dtype, shape, fortran, data })
    }

    /// 32-bit numbers, row-major.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_f32(shape: Vec<usize>, values: &[f32]) -> Result<Self, CodecError> {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(DType::F32, shape, false, data)
    }

    /// Bytes, row-major.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_u8(shape: Vec<usize>, values: impl Into<Cow<'a, [u8]>>) -> Result<Self, CodecError> {
        Self::new(DType::U8, shape, false, values)
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sides.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Whether the bytes are in column-major order.
    pub fn is_fortran(&self) -> bool {
        self.fortran
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Type and shape, for messages.
    pub fn describe(&self) -> String {
        format!("an array {} of shape {:?}", self.dtype, self.shape)
    }

    /// The bytes in row-major order, in memory of their own: that which they lay apart in, if they did.
    pub fn into_row_major(self) -> Vec<u8> {
        match self.row_major() {
            Cow::Owned(turned) => turned,
            Cow::Borrowed(_) => self.data.into_owned(),
        }
    }

    /// The bytes in row-major order; only a column-major array is copied.
    pub fn row_major(&self) -> Cow<'_, [u8]> {
        let size = self.dtype.size();
        if !self.fortran || self.shape.len() < 2 || size == 0 {
            return Cow::Borrowed(&self.data);
        }
        let strides: Vec<usize> = self
            .shape
            .iter()
            .scan(size, |stride, side| {
                let own = *stride;
                *stride *= side;
                Some(own)
            })
            .collect();
        let mut out = Vec::with_capacity(self.data.len());
        let mut index = vec![0; self.shape.len()];
        while out.len() < self.data.len() {
            let at: usize = index.iter().zip(&strides).map(|(index, stride)| index * stride).sum();
            let Some(element) = self.data.get(at..at + size) else { break };
            out.extend_from_slice(element);
            for (index, side) in index.iter_mut().zip(&self.shape).rev() {
                *index += 1;
                if *index < *side {
                    break;
                }
                *index = 0;
            }
        }
        Cow::Owned(out)
    }

    /// The elements as 64-bit numbers, row-major; booleans are 0 and 1.
    ///
    /// # Errors
    /// Text.
    pub fn numbers(&self) -> Result<Vec<f64>, CodecError> {
        if self.dtype.kind == Kind::Text {
            return Err(CodecError::array("dtype", "numbers", self.dtype));
        }
        let size = self.dtype.size();
        let bytes = self.row_major();
        Ok(bytes.chunks_exact(size.max(1)).map(|element| self.number(element)).collect())
    }

    /// The elements as 32-bit numbers, row-major.
    ///
    /// # Errors
    /// Text.
    pub fn f32s(&self) -> Result<Vec<f32>, CodecError> {
        if self.dtype != DType::F32 {
            return Ok(self.numbers()?.into_iter().map(|value| value as f32).collect());
        }
        let bytes = self.row_major();
        Ok(bytes.as_chunks::<4>().0.iter().map(|element| f32::from_le_bytes(*element)).collect())
    }

    /// The elements as text, row-major, without the zeros at their ends.
    ///
    /// # Errors
    /// Numbers, or characters that do not exist.
    pub fn texts(&self) -> Result<Vec<String>, CodecError> {
        if self.dtype.kind != Kind::Text {
            return Err(CodecError::array("dtype", "text", self.dtype));
        }
        let count = self.shape.iter().product();
        if self.dtype.size() == 0 {
            return Ok(vec![String::new(); count]);
        }
        let bytes = self.row_major();
        let text = |element: &[u8]| {
            let codes = element.as_chunks::<4>().0.iter().map(|code| match self.dtype.order {
                '>' => u32::from_be_bytes(*code),
                _ => u32::from_le_bytes(*code),
            });
            let text: Option<String> = codes.map(char::from_u32).collect();
            let text = text.ok_or_else(|| CodecError::array("text", "characters of Unicode", "other codes"))?;
            Ok(text.trim_end_matches('\0').to_owned())
        };
        bytes.chunks_exact(self.dtype.size()).map(text).collect()
    }

    fn number(&self, element: &[u8]) -> f64 {
        // As a whole number of 64 bits, so that one expression serves every size and order.
        let mut bits = 0_u64;
        let mut push = |byte: &u8| bits = bits << 8 | u64::from(*byte);
        match self.dtype.order {
            '>' => element.iter().for_each(&mut push),
            _ => element.iter().rev().for_each(&mut push),
        }
        let unused = 64 - 8 * self.dtype.count.min(8) as u32;
        match (self.dtype.kind, self.dtype.count) {
            (Kind::Float, 8) => f64::from_bits(bits),
            (Kind::Float, 4) => f64::from(f32::from_bits(bits as u32)),
            (Kind::Float, _) => half(bits as u16),
            (Kind::Signed, _) => ((bits << unused) as i64 >> unused) as f64,
            (Kind::Bool, _) => f64::from(u8::from(bits != 0)),
            _ => bits as f64,
        }
    }
}

/// A 16-bit IEEE number.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2.0_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2.0_f64.powi(exponent - 15),
    };
    sign * size
}
