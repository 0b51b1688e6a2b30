//! The .npy file inside of GR00T's arrays: a header that is a Python dictionary, then the elements.

use super::{CodecError, DType, NdArray};

const MAGIC: &[u8] = b"\x93NUMPY";
/// numpy's own headers have some hundred bytes; a longer one is an attempt to make us read.
const MAX_HEADER: usize = 4096;
/// The elements begin at a multiple of this.
const ALIGNMENT: usize = 64;
/// Digits for which numpy leaves room, so that the longest side may grow in place.
const SPARE_DIGITS: usize = 21;

fn wrong(what: &'static str, expected: &str, got: impl std::fmt::Display) -> CodecError {
    CodecError::array(what, expected, got)
}

/// Bytes after which it is known where the elements begin.
pub(super) const LONGEST_START: usize = 12;

/// Bytes before the elements, if this is the beginning of a .npy file that can be read; else 0.
pub(super) fn start(file: &[u8]) -> usize {
    match sizes(file) {
        Some((start, length)) if length <= MAX_HEADER => start + length,
        _ => 0,
    }
}

/// Bytes before the header, and those of the header.
fn sizes(file: &[u8]) -> Option<(usize, usize)> {
    let (version, rest) = file.strip_prefix(MAGIC)?.split_first_chunk::<2>()?;
    match version {
        [1, 0] => rest.first_chunk::<2>().map(|bytes| (10, usize::from(u16::from_le_bytes(*bytes)))),
        [2 | 3, 0] => rest.first_chunk::<4>().map(|bytes| (12, u32::from_le_bytes(*bytes) as usize)),
        _ => None,
    }
}

/// Reads a whole .npy file of version 1, 2 or 3; the elements stay where they are.
pub(super) fn read(file: &[u8]) -> Result<NdArray<'_>, CodecError> {
    let (dtype, shape, fortran, data) = described(file)?;
    NdArray::new(dtype, shape, fortran, data)
}

/// Reads a file whose elements lie apart.
pub(super) fn read_parted<'a>(start: &'a [u8], elements: Vec<u8>) -> Result<NdArray<'a>, CodecError> {
    match described(start) {
        Ok((dtype, shape, fortran, [])) => NdArray::new(dtype, shape, fortran, elements),
        // No file, or parted elsewhere: it is read, or refused, as a whole.
        _ => {
            let file = [start, &elements].concat();
            let (dtype, shape, fortran, data) = described(&file)?;
            NdArray::new(dtype, shape, fortran, data.to_vec())
        }
    }
}

/// Type, sides, whether column-major, and elements.
type Described<'a> = (DType, Vec<usize>, bool, &'a [u8]);

fn described(file: &[u8]) -> Result<Described<'_>, CodecError> {
    let expected = "a .npy file of version 1, 2 or 3";
    let cut = || wrong("as_npy", expected, format_args!("{} bytes", file.len()));
    let (start, length) = match (sizes(file), file.strip_prefix(MAGIC)) {
        (Some(sizes), _) => sizes,
        (None, Some([major, minor, ..])) if !matches!((major, minor), (1..=3, 0)) => {
            return Err(wrong("as_npy", expected, format_args!("version {major}.{minor}")));
        }
        (None, _) => return Err(cut()),
    };
    if length > MAX_HEADER {
        return Err(wrong("header of as_npy", "at most 4096 bytes", length));
    }
    let rest = file.get(start..).unwrap_or_default();
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| wrong("header of as_npy", "text", "other bytes"))?;
    let (descr, fortran, shape) = Header(header.trim_end()).parse()?;
    Ok((descr.parse()?, shape, fortran, data))
}

/// The bytes before the elements, exactly as `numpy.save` writes them.
pub(super) fn header(array: &NdArray) -> Vec<u8> {
    let (shape, fortran) = (array.shape(), array.is_fortran());
    let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
    let tuple = match sides.as_slice() {
        [one] => format!("({one},)"),
        sides => format!("({})", sides.join(", ")),
    };
    let order = if fortran { "True" } else { "False" };
    let mut text = format!("{{'descr': '{}', 'fortran_order': {order}, 'shape': {tuple}, }}", array.dtype());
    let grows = if fortran { sides.last() } else { sides.first() };
    let spare = grows.map_or(0, |side| SPARE_DIGITS.saturating_sub(side.len()));
    text.extend(std::iter::repeat_n(' ', spare));
    // The line's end counts; where nothing is left over numpy adds a whole block. At 32 dimensions the header is far
    // below the 65535 bytes that version 1 has room for.
    let used = MAGIC.len() + 4 + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', ALIGNMENT - used % ALIGNMENT));
    text.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

/// What is left to read of a header: numpy evaluates it as Python, we read the one form that numpy writes.
struct Header<'a>(&'a str);

impl<'a> Header<'a> {
    fn parse(mut self) -> Result<(&'a str, bool, Vec<usize>), CodecError> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.symbol('{')?;
        while !self.take('}') {
            let key = self.quoted()?;
            self.symbol(':')?;
            let known = match key {
                "descr" => descr.replace(self.quoted()?).is_none(),
                "fortran_order" => fortran.replace(self.boolean()?).is_none(),
                "shape" => shape.replace(self.sides()?).is_none(),
                _ => false,
            };
            if !known {
                return Err(self.unexpected("descr, fortran_order and shape, each once"));
            }
            if !self.take(',') {
                self.symbol('}')?;
                break;
            }
        }
        if !self.0.trim().is_empty() {
            return Err(self.unexpected("nothing after the dictionary"));
        }
        let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
            return Err(self.unexpected("descr, fortran_order and shape"));
        };
        Ok((descr, fortran, shape))
    }

    fn unexpected(&self, expected: &str) -> CodecError {
        wrong("header of as_npy", expected, format_args!("{:?}", self.0))
    }

    fn take(&mut self, symbol: char) -> bool {
        let rest = self.0.trim_start().strip_prefix(symbol);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn symbol(&mut self, symbol: char) -> Result<(), CodecError> {
        if self.take(symbol) { Ok(()) } else { Err(self.unexpected(&format!("{symbol:?}"))) }
    }

    fn quoted(&mut self) -> Result<&'a str, CodecError> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'));
        let found = quote.and_then(|quote| text.get(1..)?.split_once(quote));
        // A list of fields stands where numpy's own types have text.
        let (inside, rest) = found.ok_or_else(|| self.unexpected("text in quotes"))?;
        self.0 = rest;
        Ok(inside)
    }

    fn boolean(&mut self) -> Result<bool, CodecError> {
        let text = self.0.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = text.strip_prefix(word) {
                self.0 = rest;
                return Ok(value);
            }
        }
        Err(self.unexpected("True or False"))
    }

    fn sides(&mut self) -> Result<Vec<usize>, CodecError> {
        self.symbol('(')?;
        let mut sides = Vec::new();
        while !self.take(')') {
            let text = self.0.trim_start();
            let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
            let (number, rest) = text.split_at(digits);
            sides.push(number.parse().map_err(|_| self.unexpected("whole numbers"))?);
            self.0 = rest;
            if !self.take(',') {
                self.symbol(')')?;
                break;
            }
        }
        Ok(sides)
    }
}
