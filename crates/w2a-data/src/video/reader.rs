//! Frames of videos: any of them, or many in order.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::cache::FrameCache;
use super::clip::Clip;
use super::decode::Decoder;
use super::error::VideoError;
use super::index::Mp4Index;

/// Frames around a single wanted one that are decoded with it: starting a decoder costs about as much as 100 frames of
/// 256x256, and who asks for one frame often asks for its neighbour next.
const NEIGHBOURS: usize = 16;

/// Threads of one decoder.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4))
}

/// Decodes the frames of one video.
pub struct VideoReader {
    index: Arc<Mp4Index>,
    cache: FrameCache,
}

impl VideoReader {
    /// Opens `path`; frames of single requests are kept in `cache`.
    ///
    /// # Errors
    /// As [`Mp4Index::open`].
    pub fn open(path: impl AsRef<Path>, cache: &FrameCache) -> Result<Self, VideoError> {
        Ok(Self::new(Arc::new(Mp4Index::open(path)?), cache))
    }

    /// A reader of the video whose index was read before.
    pub fn new(index: Arc<Mp4Index>, cache: &FrameCache) -> Self {
        Self { index, cache: cache.clone() }
    }

    /// What the video holds.
    pub fn index(&self) -> &Arc<Mp4Index> {
        &self.index
    }

    /// The RGB bytes of `frame`, `[height, width, 3]`. Its neighbours are decoded with it and kept in the cache.
    ///
    /// # Errors
    /// [`VideoError`] if there is no such frame, it is damaged, or ffmpeg is missing.
    pub fn frame(&self, frame: usize) -> Result<Arc<[u8]>, VideoError> {
        if let Some(rgb) = self.cache.get(self.index.id(), frame) {
            return Ok(rgb);
        }
        self.index.sample_of(frame)?;
        // Half of the cache at most, so that one request does not empty it.
        let each_side = (self.cache.limit_bytes() / 4 / self.index.frame_len()).min(NEIGHBOURS);
        let around = frame.saturating_sub(each_side)..(frame + each_side + 1).min(self.index.len());
        let frames: Vec<usize> = around.clone().collect();
        let decoded = self.frames(&frames)?;
        decoded.get(frame - around.start).cloned().ok_or_else(|| VideoError::NoFrame {
            path: self.index.path().to_owned(),
            frame,
            frames: self.index.len(),
        })
    }

    /// The frame shown at `seconds`, within [`super::TIMESTAMP_TOLERANCE_S`].
    ///
    /// # Errors
    /// [`VideoError::NoTimestamp`] if there is none; else as [`VideoReader::frame`].
    pub fn frame_at(&self, seconds: f64) -> Result<Arc<[u8]>, VideoError> {
        self.frame(self.index.frame_at(seconds)?)
    }

    /// The given frames, in any order and with repetitions, by one run of the decoder.
    ///
    /// # Errors
    /// As [`VideoReader::frame`].
    pub fn frames(&self, frames: &[usize]) -> Result<Vec<Arc<[u8]>>, VideoError> {
        let wanted: Vec<_> = frames.iter().map(|&frame| (self.index.clone(), frame)).collect();
        read_frames(&wanted, &self.cache)
    }

    /// The frames of a range, in order and one at a time; nothing is kept in the cache.
    ///
    /// # Errors
    /// [`VideoError`] if the range leaves the video or ffmpeg is missing.
    pub fn stream(&self, frames: Range<usize>) -> Result<FrameStream, VideoError> {
        FrameStream::start(&self.index, &frames.collect::<Vec<_>>(), threads())
    }
}

/// Ascending frames of one video, decoded as they are asked for.
pub struct FrameStream {
    decoder: Option<Decoder>,
    frame_len: usize,
    remaining: usize,
}

impl FrameStream {
    /// Starts decoding the ascending `frames` with that many threads.
    pub(crate) fn start(index: &Arc<Mp4Index>, frames: &[usize], threads: usize) -> Result<Self, VideoError> {
        let remaining = frames.len();
        let clip = Clip::of_ascending(index, frames)?;
        let decoder = clip.map(|clip| Decoder::start(clip, threads)).transpose()?;
        Ok(Self { decoder, frame_len: index.frame_len(), remaining })
    }

    /// Decodes the next frame into `out`, `[height, width, 3]`; `false` after the last one.
    ///
    /// # Errors
    /// [`VideoError`] if the decoder fails, or `out` has not the length of a frame.
    pub fn next_into(&mut self, out: &mut [u8]) -> Result<bool, VideoError> {
        let Some(decoder) = &mut self.decoder else { return Ok(false) };
        if out.len() != self.frame_len {
            return Err(VideoError::Specification {
                path: decoder.clip().kind().path().to_owned(),
                what: "the room for a frame",
                got: format!("{} bytes", out.len()),
                expected: format!("{} bytes", self.frame_len),
            });
        }
        let came = decoder.next_into(out);
        match came {
            Ok(true) => self.remaining -= 1,
            _ => (self.decoder, self.remaining) = (None, 0),
        }
        came
    }
}

impl Iterator for FrameStream {
    type Item = Result<Vec<u8>, VideoError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rgb = vec![0; self.frame_len];
        match self.next_into(&mut rgb) {
            Ok(true) => Some(Ok(rgb)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.remaining))
    }
}

/// Frames of several videos, in the order of `wanted`, each `[height, width, 3]` of its video.
///
/// What the cache lacks is decoded by one run of the decoder for all videos whose streams start alike (as those of one
/// dataset's cameras do), and kept in the cache.
///
/// # Errors
/// [`VideoError`] of the first frame that fails; frames that came before it are kept in the cache.
pub fn read_frames(wanted: &[(Arc<Mp4Index>, usize)], cache: &FrameCache) -> Result<Vec<Arc<[u8]>>, VideoError> {
    let mut found: HashMap<(u64, usize), Arc<[u8]>> = HashMap::new();
    let mut missing = Vec::new();
    for (index, frame) in wanted {
        match cache.get(index.id(), *frame) {
            Some(rgb) => drop(found.insert((index.id(), *frame), rgb)),
            None => missing.push((index.clone(), *frame)),
        }
    }
    for clip in Clip::plan(&missing)? {
        let order: Vec<(u64, usize)> = clip.wanted().map(|(index, frame)| (index.id(), frame)).collect();
        let mut rgb = vec![0; clip.kind().frame_len()];
        let mut decoder = Decoder::start(clip, threads())?;
        for key in order {
            if !decoder.next_into(&mut rgb)? {
                break;
            }
            found.insert(key, Arc::from(&rgb[..]));
        }
    }
    let mut frames = Vec::with_capacity(wanted.len());
    for (index, frame) in wanted {
        let Some(rgb) = found.get(&(index.id(), *frame)) else {
            return Err(VideoError::NoFrame { path: index.path().to_owned(), frame: *frame, frames: index.len() });
        };
        cache.insert(index.id(), *frame, rgb.clone());
        frames.push(rgb.clone());
    }
    Ok(frames)
}
