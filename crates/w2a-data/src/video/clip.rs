//! Which coded frames have to be decoded for the frames that are wanted, and the mp4 file that holds just these.
//!
//! A clip is made on the fly and never lies on a disk: a header of a few kilobytes, then the coded frames as they are in
//! their files. Frames of several files can share a clip where their decoders start alike, so that a batch of random
//! frames takes one decoder and not one a frame.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use super::error::VideoError;
use super::index::{Codec, Mp4Index, Sample};

/// Time units per second of a clip; its times only put its frames in order.
const CLIP_TIMESCALE: u32 = 1000;

/// One coded frame of a clip.
struct Part {
    source: usize,
    sample: Sample,
    /// Position in the order of display of the whole clip.
    rank: u32,
    is_wanted: bool,
}

/// Coded frames that one decoder turns into the wanted frames.
pub(super) struct Clip {
    sources: Vec<Arc<Mp4Index>>,
    parts: Vec<Part>,
    /// The wanted frames as `(position in sources, frame)`, in the order in which they are decoded.
    wanted: Vec<(usize, usize)>,
    /// Whether frames of other places may follow: all that it holds begins with a frame that resets the decoder.
    can_grow: bool,
}

impl Clip {
    /// Plans the clips for `wanted` frames; none is empty.
    ///
    /// # Errors
    /// [`VideoError::NoFrame`] for a frame past the end, [`VideoError::Io`] if a file cannot be read.
    pub fn plan(wanted: &[(Arc<Mp4Index>, usize)]) -> Result<Vec<Self>, VideoError> {
        let mut requests: Vec<(&Arc<Mp4Index>, usize, usize)> = wanted
            .iter()
            .map(|(index, frame)| Ok((index, index.sample_of(*frame)?, *frame)))
            .collect::<Result<_, _>>()?;
        // In the order of decoding, file by file, so that neighbours share their way from the key frame.
        requests.sort_by_key(|(index, sample, _)| (index.id(), *sample));
        requests.dedup_by_key(|(index, sample, _)| (index.id(), *sample));
        let mut clips: Vec<Self> = Vec::new();
        for of_one_file in requests.chunk_by(|one, next| one.0.id() == next.0.id()) {
            let index = of_one_file[0].0;
            let mut rest = of_one_file;
            while let Some(&(_, first, frame)) = rest.first() {
                let (mut start, mut end, mut count) = (index.start_for(frame)?, first, 1);
                for &(_, sample, frame) in &rest[1..] {
                    // A gap in the decoding order is worth a new start only if a key frame lies in it.
                    let own = index.start_for(frame)?;
                    if own > end + 1 {
                        break;
                    }
                    (start, end, count) = (start.min(own), sample, count + 1);
                }
                let frames: HashSet<usize> = rest[..count].iter().map(|request| request.2).collect();
                let resets = resets_decoder(index, start)?;
                let open = clips.iter_mut().find(|clip| resets && clip.can_grow && clip.kind().starts_like(index));
                let clip = match open {
                    Some(clip) => clip,
                    None => {
                        clips.push(Self {
                            sources: vec![index.clone()],
                            parts: vec![],
                            wanted: vec![],
                            can_grow: resets,
                        });
                        clips.last_mut().unwrap_or_else(|| unreachable!("pushed above"))
                    }
                };
                clip.append(index, start..end + 1, &frames);
                rest = &rest[count..];
            }
        }
        Ok(clips)
    }

    /// The clip of ascending `frames`, decoded in one go from the first to the last; `None` of none.
    ///
    /// # Errors
    /// As [`Clip::plan`].
    pub fn of_ascending(index: &Arc<Mp4Index>, frames: &[usize]) -> Result<Option<Self>, VideoError> {
        let (mut start, mut end) = (usize::MAX, 0);
        for &frame in frames {
            (start, end) = (start.min(index.start_for(frame)?), end.max(index.sample_of(frame)?));
        }
        if frames.is_empty() {
            return Ok(None);
        }
        let mut clip = Self { sources: vec![index.clone()], parts: vec![], wanted: vec![], can_grow: false };
        clip.append(index, start..end + 1, &frames.iter().copied().collect());
        Ok(Some(clip))
    }

    fn append(&mut self, index: &Arc<Mp4Index>, span: std::ops::Range<usize>, frames: &HashSet<usize>) {
        if self.sources.last().is_none_or(|last| last.id() != index.id()) {
            self.sources.push(index.clone());
        }
        let source = self.sources.len() - 1;
        let samples = &index.samples()[span];
        // What is decoded after the first key frame but shown before it needs frames that are not here.
        let first = samples[0].frame;
        let mut shown: Vec<u32> = samples.iter().map(|sample| sample.frame).filter(|&frame| frame >= first).collect();
        shown.sort_unstable();
        let base = self.parts.len() as u32;
        for sample in samples.iter().filter(|sample| sample.frame >= first) {
            let rank = base + shown.partition_point(|&frame| frame < sample.frame) as u32;
            self.parts.push(Part {
                source,
                sample: *sample,
                rank,
                is_wanted: frames.contains(&(sample.frame as usize)),
            });
        }
        let wanted = shown.into_iter().map(|frame| frame as usize).filter(|frame| frames.contains(frame));
        self.wanted.extend(wanted.map(|frame| (source, frame)));
    }

    /// The index that all frames of the clip agree with in codec and size.
    pub fn kind(&self) -> &Mp4Index {
        &self.sources[0]
    }

    /// The wanted frames, in the order in which they are decoded.
    pub fn wanted(&self) -> impl ExactSizeIterator<Item = (&Arc<Mp4Index>, usize)> {
        self.wanted.iter().map(|&(source, frame)| (&self.sources[source], frame))
    }

    /// Writes the clip as an mp4 file. Wanted frames have odd times, all others even ones.
    ///
    /// # Errors
    /// [`Feed`], which tells a file that cannot be read from a decoder that has gone.
    pub fn write(&self, out: &mut impl Write) -> Result<(), Feed> {
        out.write_all(&self.header()).map_err(|_| Feed::Sink)?;
        let mut open: Option<(usize, File)> = None;
        let mut buffer = Vec::new();
        for part in &self.parts {
            let path = self.sources[part.source].path();
            let file = match &mut open {
                Some((source, file)) if *source == part.source => file,
                slot => {
                    let file =
                        File::open(path).map_err(|error| Feed::Source(VideoError::io("opening", path)(error)))?;
                    &mut slot.insert((part.source, file)).1
                }
            };
            // The index has compared the size with the file's: at most a file's length is allocated.
            buffer.resize(part.sample.bytes as usize, 0);
            let read = file.seek(SeekFrom::Start(part.sample.offset)).and_then(|_| file.read_exact(&mut buffer));
            read.map_err(|error| Feed::Source(VideoError::io("reading a frame of", path)(error)))?;
            out.write_all(&buffer).map_err(|_| Feed::Sink)?;
        }
        out.flush().map_err(|_| Feed::Sink)
    }

    fn header(&self) -> Vec<u8> {
        let count = self.parts.len() as u32;
        let delay = (0..).zip(&self.parts).map(|(at, part)| u32::saturating_sub(at, part.rank)).max().unwrap_or(0);
        let (width, height) = (self.kind().width() as u16, self.kind().height() as u16);
        let (entry_kind, config_kind, config) = &self.kind().entry;
        let entry = boxed(
            entry_kind,
            &[
                &[0, 0, 0, 0, 0, 0, 0, 1][..],
                &[0; 16],
                &width.to_be_bytes(),
                &height.to_be_bytes(),
                // 72 dots per inch, one frame per sample, no name, 24 bits, no palette.
                &words(&[0x0048_0000, 0x0048_0000, 0]),
                &[0, 1],
                &[0; 32],
                &[0, 24, 0xff, 0xff],
                &boxed(config_kind, config),
            ]
            .concat(),
        );
        let identity = words(&[0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000]);
        let offsets = (0..).zip(&self.parts).flat_map(|(at, part)| {
            let shown = 2 * (part.rank + delay) + u32::from(part.is_wanted);
            [1, shown - 2 * at]
        });
        let keys: Vec<u32> = (1..).zip(&self.parts).filter(|(_, part)| part.sample.is_key).map(|(at, _)| at).collect();
        let sizes: Vec<u32> = self.parts.iter().map(|part| part.sample.bytes).collect();
        let table = |kind, entries: u32, values: &[u32]| boxed(kind, &[words(&[0, entries]), words(values)].concat());
        let samples = [
            boxed(b"stsd", &[words(&[0, 1]), entry].concat()),
            table(b"stts", 1, &[count, 2]),
            table(b"ctts", count, &offsets.collect::<Vec<u32>>()),
            table(b"stss", keys.len() as u32, &keys),
            table(b"stsc", 1, &[1, count, 1]),
            boxed(b"stsz", &[words(&[0, 0, count]), words(&sizes)].concat()),
        ]
        .concat();
        let start = boxed(b"ftyp", b"isom\0\0\x02\0isomiso2mp41");
        let head = |first_byte: u64| {
            let place = boxed(b"co64", &[words(&[0, 1]), first_byte.to_be_bytes().to_vec()].concat());
            let reference = boxed(b"dref", &[words(&[0, 1]), boxed(b"url ", &words(&[1]))].concat());
            let media = [
                boxed(b"vmhd", &[words(&[1]), vec![0; 8]].concat()),
                boxed(b"dinf", &reference),
                boxed(b"stbl", &[&samples[..], &place].concat()),
            ];
            let duration = 2 * count;
            let track = [
                boxed(b"mdhd", &words(&[0, 0, 0, CLIP_TIMESCALE, duration, 0x55c4_0000])),
                boxed(b"hdlr", &[words(&[0, 0]), b"vide".to_vec(), vec![0; 13]].concat()),
                boxed(b"minf", &media.concat()),
            ];
            let size = [u32::from(width) << 16, u32::from(height) << 16];
            let track_header =
                [words(&[3, 0, 0, 1, 0, duration]), vec![0; 16], identity.clone(), words(&size)].concat();
            let movie_header =
                [words(&[0, 0, 0, CLIP_TIMESCALE, duration, 0x1_0000]), vec![1, 0], vec![0; 10], identity.clone()];
            let movie = [
                boxed(b"mvhd", &[movie_header.concat(), vec![0; 24], words(&[2])].concat()),
                boxed(b"trak", &[boxed(b"tkhd", &track_header), boxed(b"mdia", &track.concat())].concat()),
            ];
            [start.clone(), boxed(b"moov", &movie.concat())].concat()
        };
        let bytes = self.parts.iter().map(|part| u64::from(part.sample.bytes)).sum::<u64>();
        let mdat = [&words(&[1])[..], b"mdat", &(bytes + 16).to_be_bytes()].concat();
        // The length does not depend on the position that it holds.
        let first_byte = (head(0).len() + mdat.len()) as u64;
        [head(first_byte), mdat].concat()
    }
}

/// Why a clip could not be written.
pub(super) enum Feed {
    /// A file of the clip cannot be read.
    Source(VideoError),
    /// The decoder has closed its end.
    Sink,
}

fn boxed(kind: &[u8; 4], contents: &[u8]) -> Vec<u8> {
    [&(8 + contents.len() as u32).to_be_bytes()[..], kind, contents].concat()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// Whether the key frame at `start` makes the decoder forget all that was before it.
///
/// Key frames of AV1 always do. Those of H.264 and HEVC may as well be pictures that only *can* be decoded alone; after
/// a jump they would be taken as a continuation of what came before, so such a start needs a decoder of its own.
fn resets_decoder(index: &Mp4Index, start: usize) -> Result<bool, VideoError> {
    if index.codec() == Codec::Av1 {
        return Ok(true);
    }
    // The last two bits are the width of a unit's length, less one; `hvcC` and `avcC` keep them in different places.
    let at = if index.codec() == Codec::H264 { 4 } else { 21 };
    let width = index.entry.2.get(at).map_or(4, |byte| usize::from(byte & 3) + 1);
    let sample = index.samples()[start];
    let path = index.path();
    let mut bytes = vec![0; sample.bytes as usize];
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(sample.offset))?;
        file.read_exact(&mut bytes)
    });
    read.map_err(VideoError::io("reading a key frame of", path))?;
    Ok(first_picture_resets(index.codec(), &bytes, width))
}

/// The same for the coded frame `bytes`, whose units each have a length of `width` bytes before them.
fn first_picture_resets(codec: Codec, mut bytes: &[u8], width: usize) -> bool {
    while let Some((length, rest)) = bytes.split_at_checked(width) {
        let length = length.iter().fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte));
        let (Some(&first), true) = (rest.first(), length <= rest.len()) else { return false };
        // Types 1 to 5 (H.264) and 0 to 31 (HEVC) are pictures; 5, 19 and 20 are those that reset.
        match codec {
            Codec::H264 if (1..=5).contains(&(first & 31)) => return first & 31 == 5,
            Codec::Hevc if first >> 1 & 63 < 32 => return matches!(first >> 1 & 63, 19 | 20),
            _ => bytes = &rest[length..],
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kind_of_the_first_picture_decides() {
        let unit = |first: u8| [&[0, 0, 0, 2][..], &[first, 9]].concat();
        // Parameter sets (7, 8) before an instantaneous refresh (5), or before an ordinary picture (1).
        assert!(first_picture_resets(Codec::H264, &[unit(7), unit(8), unit(0x65)].concat(), 4));
        assert!(!first_picture_resets(Codec::H264, &[unit(7), unit(0x41)].concat(), 4));
        assert!(first_picture_resets(Codec::Hevc, &[unit(32 << 1), unit(19 << 1)].concat(), 4));
        assert!(!first_picture_resets(Codec::Hevc, &unit(21 << 1), 4));
    }

    proptest! {
        #[test]
        fn arbitrary_frames_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), width in 1_usize..5) {
            for codec in [Codec::H264, Codec::Hevc] {
                let _ = first_picture_resets(codec, &bytes, width);
            }
        }
    }
}
