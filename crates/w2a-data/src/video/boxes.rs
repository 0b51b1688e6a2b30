//! A first look at the boxes of an mp4 file, before the parser allocates what they promise.

use std::io::{Read, Seek, SeekFrom};

/// Boxes that hold boxes, and the bytes before these: all that the parser looks into. It trusts what it finds there so far
/// that a box of no length would keep it forever.
const CONTAINERS: [(&[u8; 4], u64); 21] = [
    (b"moov", 0),
    (b"trak", 0),
    (b"mdia", 0),
    (b"minf", 0),
    (b"stbl", 0),
    (b"moof", 0),
    (b"traf", 0),
    (b"dinf", 0),
    (b"edts", 0),
    (b"mvex", 0),
    (b"udta", 0),
    (b"ilst", 0),
    (b"dref", 8),
    (b"stsd", 8),
    (b"avc1", 78),
    (b"hvc1", 78),
    (b"hev1", 78),
    (b"av01", 78),
    (b"vp08", 78),
    (b"vp09", 78),
    (b"mp4a", 28),
];
/// More boxes than any camera's file has; walking a hostile file stays short.
const MAX_BOXES: usize = 200_000;

/// Checks that all boxes lie inside of their parents and that no count promises more samples than the file has bytes.
///
/// # Errors
/// What is wrong, in words; or an I/O error of the reader.
pub(super) fn check(reader: &mut (impl Read + Seek), size: u64) -> std::io::Result<Result<(), String>> {
    if size == 0 {
        return Ok(Err("it is empty (0 bytes)".into()));
    }
    let mut found = Found { file_bytes: size, boxes: 0, frames: 0, has_index: false };
    let walked = walk(reader, b"file", 0, size, &mut found)?;
    Ok(walked.and_then(|()| match found.has_index {
        true => Ok(()),
        false => Err("it has no index (box moov), which is written last".into()),
    }))
}

struct Found {
    file_bytes: u64,
    boxes: usize,
    /// Promised by all tables together.
    frames: u64,
    has_index: bool,
}

impl Found {
    fn promise(&mut self, count: Option<u64>) -> Result<(), String> {
        self.frames += count.unwrap_or(0);
        match self.frames > self.file_bytes {
            true => Err(format!("its index promises {} frames, more than it has bytes", self.frames)),
            false => Ok(()),
        }
    }
}

fn walk(
    reader: &mut (impl Read + Seek),
    parent: &[u8; 4],
    mut position: u64,
    end: u64,
    found: &mut Found,
) -> std::io::Result<Result<(), String>> {
    while position < end {
        found.boxes += 1;
        if found.boxes > MAX_BOXES {
            return Ok(Err(format!("it has more than {MAX_BOXES} boxes")));
        }
        let mut header = [0; 8];
        if end - position < 8 {
            // QuickTime ends some lists with four zeros.
            if end < found.file_bytes {
                break;
            }
            return Ok(Err(format!("{} stray bytes at byte {position} are no box", end - position)));
        }
        reader.seek(SeekFrom::Start(position))?;
        reader.read_exact(&mut header)?;
        let [a, b, c, d, kind @ ..] = header;
        let name = String::from_utf8_lossy(&kind).into_owned();
        let (mut header_bytes, mut bytes) = (8, u64::from(u32::from_be_bytes([a, b, c, d])));
        if bytes == 1 && end - position >= 16 {
            let mut large = [0; 8];
            reader.read_exact(&mut large)?;
            (header_bytes, bytes) = (16, u64::from_be_bytes(large));
        } else if bytes == 0 && parent == b"file" {
            // Until the end of the file. Inside of another box the parser would read such a box again and again.
            bytes = end - position;
        }
        let box_end = position.checked_add(bytes).filter(|&box_end| bytes >= header_bytes && box_end <= end);
        let Some(box_end) = box_end else {
            let room = end - position;
            return Ok(Err(format!("box {name:?} at byte {position} claims {bytes} bytes, of which {room} are there")));
        };
        let contents = position + header_bytes;
        let before = match &kind {
            // Version and flags, then the size of all samples or 0, then their number.
            b"stsz" => {
                if let Err(what) = found.promise(read_u32(reader, contents + 8, box_end)?) {
                    return Ok(Err(what));
                }
                None
            }
            b"trun" => {
                if let Err(what) = found.promise(read_u32(reader, contents + 4, box_end)?) {
                    return Ok(Err(what));
                }
                None
            }
            // With version and flags, which are 0, or as QuickTime has it without.
            b"meta" => Some(if read_u32(reader, contents, box_end)? == Some(0) { 4 } else { 0 }),
            // The entries of a list of titles and dates.
            _ if parent == b"ilst" => Some(0),
            kind => CONTAINERS.iter().find(|(container, _)| *container == kind).map(|(_, before)| *before),
        };
        found.has_index |= kind == *b"moov";
        if let Some(before) = before
            && let Err(what) = walk(reader, &kind, (contents + before).min(box_end), box_end, found)?
        {
            return Ok(Err(what));
        }
        position = box_end;
    }
    Ok(Ok(()))
}

fn read_u32(reader: &mut (impl Read + Seek), at: u64, end: u64) -> std::io::Result<Option<u64>> {
    if at + 4 > end {
        return Ok(None);
    }
    let mut bytes = [0; 4];
    reader.seek(SeekFrom::Start(at))?;
    reader.read_exact(&mut bytes)?;
    Ok(Some(u64::from(u32::from_be_bytes(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_bytes(bytes: &[u8]) -> Result<(), String> {
        check(&mut std::io::Cursor::new(bytes), bytes.len() as u64).unwrap()
    }

    fn boxed(kind: &[u8; 4], contents: &[u8]) -> Vec<u8> {
        [&(8 + contents.len() as u32).to_be_bytes()[..], kind, contents].concat()
    }

    #[test]
    fn a_count_larger_than_the_file_is_refused_wherever_it_lies() {
        let counted = |kind, count: u32| {
            let place = [&[0; 4][..], &[0, 0, 1, 0], &count.to_be_bytes()].concat();
            let inner = if kind == b"stsz" { boxed(kind, &place) } else { boxed(kind, &place[4..]) };
            [b"stbl", b"minf", b"mdia", b"trak", b"moov"].iter().fold(inner, |inner, outer| boxed(outer, &inner))
        };
        assert_eq!(check_bytes(&counted(b"stsz", 3)), Ok(()));
        assert!(check_bytes(&counted(b"stsz", u32::MAX)).unwrap_err().contains("promises 4294967295 frames"));
        let trun = [&[0; 4][..], &u32::MAX.to_be_bytes()].concat();
        let fragment = boxed(b"moof", &boxed(b"traf", &boxed(b"trun", &trun)));
        assert!(check_bytes(&fragment).unwrap_err().contains("promises 4294967295 frames"));
    }

    #[test]
    fn empty_cut_and_indexless_files_are_named() {
        assert!(check_bytes(b"").unwrap_err().contains("0 bytes"));
        assert!(check_bytes(&boxed(b"mdat", b"xy")).unwrap_err().contains("moov"));
        let whole = boxed(b"moov", &boxed(b"mvhd", &[0; 40]));
        assert_eq!(check_bytes(&whole), Ok(()));
        for end in 1..whole.len() {
            assert!(check_bytes(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn nested_boxes_without_end_are_refused() {
        let many = boxed(b"free", b"").repeat(MAX_BOXES + 1);
        assert!(check_bytes(&many).unwrap_err().contains("more than"));
        // Until the end of the file, but found by fuzzing inside of a box that ends there too.
        let last = [0, 0, 0, 0, b'h', b'd', b'l', b'r', 1, 2];
        assert!(check_bytes(&[boxed(b"moov", b""), last.to_vec()].concat()).is_ok());
        assert!(check_bytes(&boxed(b"moov", &last)).unwrap_err().contains("claims 0 bytes"));
        // A box of a large size of 0 would never advance.
        assert!(check_bytes(&[&[0, 0, 0, 1][..], b"free", &[0; 8]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_bytes(&bytes);
        }
    }
}
