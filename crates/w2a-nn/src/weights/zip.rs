//! The part of the ZIP format that `torch.save` writes: stored entries, 64-bit sizes, one volume.
//!
//! Follows PKWARE's APPNOTE 6.3 (sections 4.3.6 to 4.3.16 and 4.5.3). Every number in the file is taken for hostile.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::problem::WeightsProblem;

/// Central directories beyond this are refused before they are read: half a million entries.
const MAX_DIRECTORY: u64 = 64 << 20;
/// Length of the end record without its comment.
const END: usize = 22;

/// A stored entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where its local header begins.
    header: u64,
    /// Bytes.
    pub size: u64,
    /// CRC-32 of its content.
    pub crc: u32,
    /// How it is packed; 0 is stored.
    method: u16,
    encrypted: bool,
}

/// The entries of an archive by name.
#[derive(Debug)]
pub(crate) struct Archive {
    entries: BTreeMap<String, Entry>,
    /// Where the entries end.
    directory: u64,
}

/// Reads exactly `len` bytes at `offset`.
pub(crate) fn read_at(file: &File, offset: u64, len: usize, what: &str) -> Result<Vec<u8>, WeightsProblem> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(|_| WeightsProblem::truncated(what))?;
    Ok(bytes)
}

/// Little-endian numbers at fixed places of a record whose length is already checked.
fn number(record: &[u8], at: usize, bytes: usize) -> u64 {
    record[at..at + bytes].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

impl Archive {
    /// Reads the central directory of a file of `len` bytes.
    pub fn open(file: &File, len: u64) -> Result<Self, WeightsProblem> {
        let (count, size, start) = directory(file, len)?;
        if size > MAX_DIRECTORY {
            return Err(WeightsProblem::too_large(format!("a directory of {size} bytes"), "64 MiB"));
        }
        if start.checked_add(size).is_none_or(|end| end > len) {
            return Err(WeightsProblem::damaged(format!("the directory at {start} lies outside of the file")));
        }
        let bytes = read_at(file, start, size as usize, "the directory")?;
        let mut entries = BTreeMap::new();
        let mut rest = &bytes[..];
        for _ in 0..count {
            let (name, entry, tail) = central(rest)?;
            rest = tail;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(WeightsProblem::damaged(format!("two entries are called {name:?}")));
            }
        }
        Ok(Self { entries, directory: start })
    }

    /// Entries by name, in the order of names.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The entry of a name and where its content begins.
    pub fn find(&self, file: &File, name: &str) -> Result<(u64, Entry), WeightsProblem> {
        let Some(&entry) = self.entries.get(name) else {
            return Err(WeightsProblem::damaged(format!("the archive has no entry {name:?}")));
        };
        if entry.encrypted {
            return Err(WeightsProblem::NotRead { what: format!("entry {name:?} is encrypted") });
        }
        if entry.method != 0 {
            let what = format!("entry {name:?} is compressed (method {}), not stored", entry.method);
            return Err(WeightsProblem::NotRead { what });
        }
        let header = read_at(file, entry.header, 30, &format!("the header of entry {name:?}"))?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(WeightsProblem::damaged(format!("entry {name:?} does not begin with its header")));
        }
        let data = entry.header + 30 + number(&header, 26, 2) + number(&header, 28, 2);
        if data.checked_add(entry.size).is_none_or(|end| end > self.directory) {
            let what = format!("entry {name:?} of {} bytes reaches into the directory", entry.size);
            return Err(WeightsProblem::damaged(what));
        }
        Ok((data, entry))
    }
}

/// Number of entries, size and start of the central directory.
fn directory(file: &File, len: u64) -> Result<(u64, u64, u64), WeightsProblem> {
    // The end record is followed by a comment of at most 64 KiB.
    let tail_len = len.min(END as u64 + 0xffff);
    let tail_start = len - tail_len;
    let tail = read_at(file, tail_start, tail_len as usize, "its end")?;
    let found = (0..=tail.len().saturating_sub(END)).rev().find(|&at| {
        tail[at..].starts_with(b"PK\x05\x06")
            && tail.len() >= at + END
            && tail.len() - at - END == number(&tail, at + 20, 2) as usize
    });
    let at = found.ok_or_else(|| WeightsProblem::truncated("the directory of its archive"))?;
    let end = &tail[at..];
    let plain = (number(end, 10, 2), number(end, 12, 4), number(end, 16, 4));
    let saturated = plain.0 == 0xffff || plain.1 == 0xffff_ffff || plain.2 == 0xffff_ffff;
    // A 64-bit record may be present without need; its locator then lies right before the plain one.
    let Some(locator) = (tail_start + at as u64).checked_sub(20) else { return Ok(plain) };
    let locator = read_at(file, locator, 20, "the locator of the 64-bit directory")?;
    if !locator.starts_with(b"PK\x06\x07") {
        if saturated {
            return Err(WeightsProblem::damaged("the 64-bit directory is announced but not there"));
        }
        return Ok(plain);
    }
    let record = read_at(file, number(&locator, 8, 8), 56, "the 64-bit directory")?;
    if !record.starts_with(b"PK\x06\x06") {
        return Err(WeightsProblem::damaged("the locator of the 64-bit directory points elsewhere"));
    }
    Ok((number(&record, 32, 8), number(&record, 40, 8), number(&record, 48, 8)))
}

/// One record of the central directory, and what follows it.
fn central(bytes: &[u8]) -> Result<(String, Entry, &[u8]), WeightsProblem> {
    let short = || WeightsProblem::damaged("the directory ends before its last entry");
    if bytes.len() < 46 || !bytes.starts_with(b"PK\x01\x02") {
        return Err(short());
    }
    let (name_len, extra_len) = (number(bytes, 28, 2) as usize, number(bytes, 30, 2) as usize);
    let comment_len = number(bytes, 32, 2) as usize;
    let rest = bytes.get(46 + name_len + extra_len + comment_len..).ok_or_else(short)?;
    let name = String::from_utf8_lossy(&bytes[46..46 + name_len]).into_owned();
    let (packed, size, header) = (number(bytes, 20, 4), number(bytes, 24, 4), number(bytes, 42, 4));
    let extra = &bytes[46 + name_len..46 + name_len + extra_len];
    let [size, packed, header] = widen([size, packed, header], extra)
        .ok_or_else(|| WeightsProblem::damaged(format!("entry {name:?} lacks its 64-bit sizes")))?;
    let method = number(bytes, 10, 2) as u16;
    if method == 0 && packed != size {
        return Err(WeightsProblem::damaged(format!("entry {name:?} is stored with {packed} of {size} bytes")));
    }
    let entry =
        Entry { header, size, crc: number(bytes, 16, 4) as u32, method, encrypted: number(bytes, 8, 2) & 1 == 1 };
    Ok((name, entry, rest))
}

/// Replaces saturated 32-bit fields by those of the extra field 1, which holds only these, in this order.
fn widen(fields: [u64; 3], extra: &[u8]) -> Option<[u64; 3]> {
    let mut wide: &[u8] = &[];
    let mut rest = extra;
    while rest.len() >= 4 {
        let len = number(rest, 2, 2) as usize;
        let body = rest.get(4..4 + len)?;
        if number(rest, 0, 2) == 1 {
            wide = body;
            break;
        }
        rest = &rest[4 + len..];
    }
    let mut out = fields;
    for field in &mut out {
        if *field == 0xffff_ffff {
            *field = number(wide.get(..8)?, 0, 8);
            wide = &wide[8..];
        }
    }
    Some(out)
}
