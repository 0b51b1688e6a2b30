//! What an mp4 file holds and where: read from its index, nothing is decoded.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use re_mp4::StsdBoxContent;

use super::TIMESTAMP_TOLERANCE_S;
use super::boxes;
use super::error::VideoError;

/// Largest height or width: one decoded frame stays below 200 MiB whatever a file claims.
const MAX_SIDE: u16 = 8192;

/// The codecs that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// AV1, LeRobot's default.
    Av1,
    /// H.264 (AVC).
    H264,
    /// H.265 (HEVC).
    Hevc,
}

impl Codec {
    /// The name that ffmpeg and LeRobot use: `av1`, `h264` or `hevc`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Av1 => "av1",
            Self::H264 => "h264",
            Self::Hevc => "hevc",
        }
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

/// A coded frame, in the order of decoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Where it begins in the file.
    pub offset: u64,
    pub bytes: u32,
    /// Position in the order of display: the number of the frame.
    pub frame: u32,
    /// Whether decoding can begin here.
    pub is_key: bool,
}

/// The index of an mp4 file: its codec, size and frames. Frames are numbered in the order in which they are shown.
#[derive(Debug)]
pub struct Mp4Index {
    path: PathBuf,
    /// Differs between all indices of this process: the key of cached frames.
    id: u64,
    codec: Codec,
    width: u16,
    height: u16,
    /// Units per second of `times`.
    timescale: u32,
    /// Time of every frame, ascending, the first is 0.
    times: Vec<i64>,
    samples: Vec<Sample>,
    /// Position in `samples` of every frame.
    sample_of: Vec<u32>,
    /// What the decoder has to know beforehand: the kind of sample entry, and the box in it with its contents.
    pub(super) entry: ([u8; 4], [u8; 4], Vec<u8>),
}

impl Mp4Index {
    /// Reads the index of `path` and checks it against the size of the file.
    ///
    /// # Errors
    /// [`VideoError`] if the file cannot be read, is empty, truncated or damaged, has not exactly one video track, or
    /// its codec is none of [`Codec`]. Damage of the pictures themselves shows when they are decoded.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, VideoError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(VideoError::io("opening", path))?;
        let size = file.metadata().map_err(VideoError::io("reading the size of", path))?.len();
        let mut reader = BufReader::new(file);
        let damaged = |what: String| VideoError::Damaged { path: path.to_owned(), what };
        boxes::check(&mut reader, size).map_err(VideoError::io("reading", path))?.map_err(damaged)?;
        let mut file = reader.into_inner();
        std::io::Seek::rewind(&mut file).map_err(VideoError::io("reading", path))?;
        // The parser indexes tables by each other's counts: where they disagree it panics, which a damaged file must
        // not do to us.
        let parse = std::panic::AssertUnwindSafe(|| re_mp4::Mp4::read(BufReader::new(file), size));
        let mp4 = std::panic::catch_unwind(parse)
            .map_err(|_| damaged("the tables of its index contradict each other".into()))?
            .map_err(|error| damaged(format!("its index cannot be read ({error})")))?;
        Self::of(path, size, &mp4)
    }

    fn of(path: &Path, size: u64, mp4: &re_mp4::Mp4) -> Result<Self, VideoError> {
        let damaged = |what: String| VideoError::Damaged { path: path.to_owned(), what };
        let unsupported = |what, got: String, expected: &str| VideoError::Unsupported {
            path: path.to_owned(),
            what,
            got,
            expected: expected.to_owned(),
        };
        let mut videos = mp4.tracks().values().filter(|track| track.kind == Some(re_mp4::TrackKind::Video));
        let (Some(track), None) = (videos.next(), videos.next()) else {
            let kinds: Vec<_> =
                mp4.tracks().values().map(|track| track.codec_string(mp4).unwrap_or_default()).collect();
            return Err(unsupported(
                "the list of tracks",
                format!("{kinds:?}"),
                "one video track of av1, h264 or hevc",
            ));
        };
        let contents = &track.trak(mp4).mdia.minf.stbl.stsd.contents;
        let (codec, width, height, kind, config) = match contents {
            StsdBoxContent::Av01(av01) => (Codec::Av1, av01.width, av01.height, *b"av01", *b"av1C"),
            StsdBoxContent::Avc1(avc1) => (Codec::H264, avc1.width, avc1.height, *b"avc1", *b"avcC"),
            StsdBoxContent::Hvc1(hevc) => (Codec::Hevc, hevc.width, hevc.height, *b"hvc1", *b"hvcC"),
            StsdBoxContent::Hev1(hevc) => (Codec::Hevc, hevc.width, hevc.height, *b"hev1", *b"hvcC"),
            _ => {
                let got = contents.codec_string().unwrap_or_else(|| "unknown".into());
                return Err(unsupported("the codec", got, "av1, h264 or hevc"));
            }
        };
        let config_bytes = track.raw_codec_config(mp4).ok_or_else(|| damaged("it lacks the codec's header".into()))?;
        if ![width, height].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            return Err(unsupported("the size", format!("{height}x{width}"), "sides of 1 to 8192"));
        }
        let timescale = u32::try_from(track.timescale).ok().filter(|&units| units > 0);
        let timescale = timescale.ok_or_else(|| damaged(format!("its time unit is 1/{} s", track.timescale)))?;
        let count = track.samples.len();
        if count == 0 || u32::try_from(count).is_err() {
            return Err(damaged(format!("it has {count} frames")));
        }
        let mut by_time: Vec<u32> = (0..count as u32).collect();
        let time = |sample: u32| track.samples[sample as usize].composition_timestamp;
        by_time.sort_by_key(|&sample| time(sample));
        let first = time(by_time[0]);
        let times: Vec<i64> = by_time.iter().map(|&sample| time(sample).saturating_sub(first)).collect();
        if let Some(frame) = times.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(damaged(format!("frames {frame} and {} are shown at the same time", frame + 1)));
        }
        let mut frame_of = vec![0; count];
        (0..).zip(&by_time).for_each(|(frame, &sample)| frame_of[sample as usize] = frame);
        let mut samples = Vec::with_capacity(count);
        for (position, sample) in track.samples.iter().enumerate() {
            let end = sample.offset.checked_add(sample.size);
            let bytes =
                u32::try_from(sample.size).ok().filter(|&bytes| bytes > 0 && end.is_some_and(|end| end <= size));
            let Some(bytes) = bytes else {
                let (offset, length) = (sample.offset, sample.size);
                let what = format!("frame {} lies at byte {offset} ({length} bytes)", frame_of[position]);
                return Err(damaged(format!("{what}, and the file has {size} bytes")));
            };
            samples.push(Sample { offset: sample.offset, bytes, frame: frame_of[position], is_key: sample.is_sync });
        }
        if !samples[0].is_key {
            return Err(damaged("it does not begin with a key frame".into()));
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let entry = (kind, config, config_bytes);
        Ok(Self {
            path: path.to_owned(),
            id,
            codec,
            width,
            height,
            timescale,
            times,
            samples,
            sample_of: by_time,
            entry,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The codec.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Columns of a frame.
    pub fn width(&self) -> usize {
        usize::from(self.width)
    }

    /// Rows of a frame.
    pub fn height(&self) -> usize {
        usize::from(self.height)
    }

    /// Bytes of a decoded frame, `height x width x 3`.
    pub fn frame_len(&self) -> usize {
        self.height() * self.width() * 3
    }

    /// Number of frames, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a video without frames is refused when it is opened")]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Frames per second: one over the median of the times between frames; 0 for a single frame.
    pub fn fps(&self) -> f64 {
        let mut steps: Vec<i64> = self.times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let middle = steps.len() / 2;
        if steps.is_empty() {
            return 0.0;
        }
        f64::from(self.timescale) / *steps.select_nth_unstable(middle).1 as f64
    }

    /// The time at which `frame` is shown, in seconds after the first; `None` past the end.
    pub fn timestamp(&self, frame: usize) -> Option<f64> {
        self.times.get(frame).map(|&time| time as f64 / f64::from(self.timescale))
    }

    /// The frames at which decoding can begin, ascending.
    pub fn key_frames(&self) -> impl Iterator<Item = usize> + '_ {
        let mut keys: Vec<usize> =
            self.samples.iter().filter(|sample| sample.is_key).map(|sample| sample.frame as usize).collect();
        keys.sort_unstable();
        keys.into_iter()
    }

    /// The frame shown at `seconds`, within [`TIMESTAMP_TOLERANCE_S`].
    ///
    /// # Errors
    /// [`VideoError::NoTimestamp`] if no frame is that near.
    pub fn frame_at(&self, seconds: f64) -> Result<usize, VideoError> {
        let after = self.times.partition_point(|&time| (time as f64) < seconds * f64::from(self.timescale));
        let distance = |frame: usize| (self.timestamp(frame).unwrap_or(f64::INFINITY) - seconds).abs();
        let nearest = match after.checked_sub(1) {
            Some(before) if after == self.len() || distance(before) <= distance(after) => before,
            _ => after,
        };
        if distance(nearest) <= TIMESTAMP_TOLERANCE_S {
            return Ok(nearest);
        }
        Err(VideoError::NoTimestamp {
            path: self.path.clone(),
            wanted_s: seconds,
            nearest_s: self.timestamp(nearest).unwrap_or(f64::NAN),
            last_s: self.timestamp(self.len() - 1).unwrap_or(f64::NAN),
            tolerance_s: TIMESTAMP_TOLERANCE_S,
        })
    }

    /// The key of this index's frames in a cache.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether one decoder can go on from this video to the `other`.
    pub(super) fn starts_like(&self, other: &Self) -> bool {
        (self.width, self.height, &self.entry) == (other.width, other.height, &other.entry)
    }

    /// The coded frames, in the order of decoding.
    pub(super) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The position among [`Mp4Index::samples`] of `frame`.
    ///
    /// # Errors
    /// [`VideoError::NoFrame`] past the end.
    pub(super) fn sample_of(&self, frame: usize) -> Result<usize, VideoError> {
        let missing = || VideoError::NoFrame { path: self.path.clone(), frame, frames: self.len() };
        self.sample_of.get(frame).map(|&sample| sample as usize).ok_or_else(missing)
    }

    /// The position of the last sample from which `frame` can be decoded: a key frame that is neither decoded nor shown
    /// after it. (Frames that are decoded after a key frame and shown before it may need what came before.)
    pub(super) fn start_for(&self, frame: usize) -> Result<usize, VideoError> {
        let sample = self.sample_of(frame)?;
        let starts = self.samples[..=sample].iter().rposition(|key| key.is_key && key.frame as usize <= frame);
        Ok(starts.unwrap_or(0))
    }
}
