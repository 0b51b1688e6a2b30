//! A message whose large bytes lie apart, so that an image can be read from the wire into the memory in which it stays.

use std::io;

use super::npy;

/// Bytes from which on a value lies apart; copying less costs less than memory of its own.
const LARGE: usize = 1 << 16;
/// What is read at once between large values.
const PIECE: u64 = 4096;

/// A message of msgpack: everything but its large values, and those, each with the place at which it is missing. Of a
/// .npy file only the elements lie apart.
#[derive(Debug, Default)]
pub(crate) struct Parted {
    pub(super) rest: Vec<u8>,
    pub(super) apart: Vec<(usize, Vec<u8>)>,
    /// The longest value so far: what is claimed up to this size is believed, and memory kept for it before it arrives.
    longest: usize,
}

impl Parted {
    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.rest.len() + self.apart.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    /// Reads a message of `length` bytes; `source` appends as many bytes as it is asked for, or fails. Whatever is
    /// wrong with the message is left for the decoder to say.
    ///
    /// # Errors
    /// Those of `source`.
    pub fn read(&mut self, length: u64, mut source: impl FnMut(u64, &mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        self.rest.clear();
        self.apart.clear();
        let (mut left, mut at) = (length, 0);
        while let Some(value) = self.next(at, &mut left, &mut source)? {
            let start = at + value.header;
            let present = self.rest.len().saturating_sub(start);
            // More than is left is a lie, or a cut message: nothing lies apart then.
            let is_apart = value.is_bytes && value.length >= LARGE && value.length as u64 <= left + present as u64;
            if !is_apart {
                at = start.saturating_add(value.length);
                let missing = at.saturating_sub(self.rest.len()) as u64;
                take(&mut left, missing, &mut self.rest, &mut source)?;
                continue;
            }
            take(&mut left, (npy::LONGEST_START.saturating_sub(present)) as u64, &mut self.rest, &mut source)?;
            let begin = start + npy::start(self.rest.get(start..).unwrap_or_default()).min(value.length);
            take(&mut left, begin.saturating_sub(self.rest.len()) as u64, &mut self.rest, &mut source)?;
            let wanted = value.length - (begin - start);
            let mut bytes = Vec::with_capacity(wanted.min(self.longest));
            let have = self.rest.len().min(begin.saturating_add(wanted));
            bytes.extend(self.rest.drain(begin.min(have)..have));
            let missing = (wanted - bytes.len()) as u64;
            take(&mut left, missing, &mut bytes, &mut source)?;
            self.longest = self.longest.max(bytes.len());
            self.apart.push((begin, bytes));
            at = begin;
        }
        take(&mut left, u64::MAX, &mut self.rest, &mut source)
    }

    /// The value at a place; `None` if nothing follows, or what no decoder takes.
    fn next(
        &mut self,
        at: usize,
        left: &mut u64,
        source: &mut impl FnMut(u64, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<Option<Token>> {
        // The longest header: a marker and eight bytes.
        if self.rest.len() < at.saturating_add(9) {
            take(left, PIECE, &mut self.rest, source)?;
        }
        Ok(token(self.rest.get(at..).unwrap_or_default()))
    }
}

/// Appends what is left, but no more than `most`.
fn take(
    left: &mut u64,
    most: u64,
    out: &mut Vec<u8>,
    source: &mut impl FnMut(u64, &mut Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let count = most.min(*left);
    if count > 0 {
        source(count, out)?;
        *left -= count;
    }
    Ok(())
}

/// A value, or the beginning of a list or a map, whose entries are values that follow.
struct Token {
    header: usize,
    length: usize,
    is_bytes: bool,
}

fn token(bytes: &[u8]) -> Option<Token> {
    let (&marker, after) = bytes.split_first()?;
    let plain = |header: usize| Some(Token { header, length: 0, is_bytes: false });
    let sized = |width: usize, is_bytes: bool| {
        let number = after.get(..width)?.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        Some(Token { header: 1 + width, length: number, is_bytes })
    };
    match marker {
        0x00..=0x9f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => plain(1),
        0xa0..=0xbf => Some(Token { header: 1, length: usize::from(marker & 0x1f), is_bytes: false }),
        0xc4 => sized(1, true),
        0xc5 => sized(2, true),
        0xc6 => sized(4, true),
        0xd9 => sized(1, false),
        0xda => sized(2, false),
        0xdb => sized(4, false),
        0xcc | 0xd0 => plain(2),
        0xcd | 0xd1 | 0xdc | 0xde => plain(3),
        0xca | 0xce | 0xd2 | 0xdd | 0xdf => plain(5),
        0xcb | 0xcf | 0xd3 => plain(9),
        // Extension types, and the one that msgpack leaves free.
        0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LARGE, Parted};
    use crate::codec::{CodecError, Dialect, NdArray, Value, decode, decode_parted, encode};

    fn parted(message: &[u8]) -> Parted {
        let (mut parted, mut at) = (Parted::default(), 0);
        for _ in 0..2 {
            at = 0;
            let source = |count: u64, out: &mut Vec<u8>| {
                out.extend_from_slice(&message[at..at + count as usize]);
                at += count as usize;
                Ok(())
            };
            parted.read(message.len() as u64, source).unwrap();
        }
        assert_eq!((at, parted.len()), (message.len(), message.len()));
        parted
    }

    fn joined(parted: &Parted) -> Vec<u8> {
        let mut out = parted.rest.clone();
        for (place, bytes) in parted.apart.iter().rev() {
            out.splice(place..place, bytes.iter().copied());
        }
        out
    }

    fn message(side: usize, dialect: Dialect) -> Vec<u8> {
        let pixels: Vec<u8> = (0..side * side * 3).map(|at| (at % 251) as u8).collect();
        let image = Value::Array(NdArray::of_u8(vec![1, 1, side, side, 3], pixels).unwrap());
        let file = Value::Bytes(vec![7; LARGE].into());
        let inside = Value::map([("a", image.clone()), ("b", Value::Int(70_000)), ("c", image), ("as_npy", file)]);
        let mut out = Vec::new();
        encode(&Value::List(vec![inside, Value::text("end")]), dialect, &mut out).unwrap();
        out
    }

    #[test]
    fn images_lie_apart_and_come_to_the_same_values() {
        for (dialect, side, apart) in [(Dialect::Groot, 200, 3), (Dialect::Openpi, 200, 3), (Dialect::Groot, 20, 1)] {
            let message = message(side, dialect);
            let mut parted = parted(&message);
            assert_eq!((parted.apart.len(), joined(&parted)), (apart, message.clone()));
            assert!(parted.rest.len() < LARGE, "{}", parted.rest.len());
            assert_eq!(decode_parted(&mut parted, dialect).unwrap(), decode(&message, dialect).unwrap());
        }
    }

    #[test]
    fn a_message_that_is_cut_or_lies_is_refused_as_ever() {
        let whole = message(160, Dialect::Groot);
        for cut in (0..whole.len()).step_by(997).chain([5, 60, 200, 300]) {
            let mut parted = parted(&whole[..cut]);
            let said = decode_parted(&mut parted, Dialect::Groot).unwrap_err().to_string();
            assert_eq!(said, decode(&whole[..cut], Dialect::Groot).unwrap_err().to_string(), "{cut}");
        }
        // Four gigabytes, of which there are ten bytes.
        let lie = [&[0xc6, 0xff, 0xff, 0xff, 0xff][..], &[1; 10]].concat();
        assert!(decode_parted(&mut parted(&lie), Dialect::Groot).is_err());
    }

    proptest! {
        #[test]
        fn whatever_arrives_says_the_same_in_parts_and_whole(
            head in proptest::collection::vec(0_u8.., 0..40),
            length in LARGE - 2..LARGE + 3,
            start in prop_oneof![
                Just(&b""[..]),
                Just(&b"\x93NUMPY\x01\x00\x04\x00{}\n "[..]),
                Just(&b"\x93NUMPY\x02\x00\xff\xff\xff\xff"[..]),
            ],
            tail in proptest::collection::vec(0_u8.., 0..40),
            cut in 0_usize..200,
        ) {
            let mut message = head;
            message.push(0xc6);
            message.extend((length as u32).to_be_bytes());
            message.extend(start.iter().copied().chain(std::iter::repeat(9)).take(length));
            message.extend(tail);
            message.truncate(message.len().saturating_sub(cut.saturating_sub(100)));
            for dialect in [Dialect::Groot, Dialect::Openpi] {
                let mut parts = parted(&message);
                prop_assert_eq!(joined(&parts), message.clone());
                // As bytes: a NaN is not equal to itself.
                let said = |value: Result<Value, CodecError>| -> Result<Vec<u8>, String> {
                    let mut out = Vec::new();
                    let value = value.map_err(|error| error.to_string())?;
                    encode(&value, dialect, &mut out).map_err(|error| error.to_string())?;
                    Ok(out)
                };
                prop_assert_eq!(said(decode_parted(&mut parts, dialect)), said(decode(&message, dialect)));
            }
        }
    }
}
