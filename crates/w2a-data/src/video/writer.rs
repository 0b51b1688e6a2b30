//! Writing a video, frame by frame.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};

use super::error::VideoError;
use super::ffmpeg::Running;
use super::index::Codec;

/// How a video is encoded: LeRobot's settings, a key frame every second frame, so that single frames are cheap to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// AV1 by `libsvtav1`, constant rate factor 30, preset 12: LeRobot's default. Sides of at least 64.
    Av1,
    /// H.264 by `libx264`, constant rate factor 23: larger, and readable by everything.
    H264,
}

impl Encoding {
    /// The codec of what is written.
    pub fn codec(self) -> Codec {
        match self {
            Self::Av1 => Codec::Av1,
            Self::H264 => Codec::H264,
        }
    }

    /// Checks that frames of `height` x `width` can be encoded.
    ///
    /// # Errors
    /// Which sizes can.
    pub fn check_size(self, height: usize, width: usize) -> Result<(), &'static str> {
        // The colours of four pixels are one sample; SVT-AV1 knows no smaller picture than its block.
        if ![height, width].iter().all(|&side| side > 0 && side <= 8192 && side.is_multiple_of(2)) {
            return Err("even sides of 2 to 8192");
        }
        if self == Self::Av1 && height.min(width) < 64 {
            return Err("sides of at least 64 for AV1 (H.264 has no such limit)");
        }
        Ok(())
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Av1 => &["-c:v", "libsvtav1", "-preset", "12", "-crf", "30"],
            Self::H264 => &["-c:v", "libx264", "-crf", "23"],
        }
    }
}

/// Encodes frames to an mp4 file, which appears under its name only when it is complete.
pub struct VideoWriter {
    path: PathBuf,
    partial: PathBuf,
    frame_len: usize,
    frames: usize,
    running: Running,
    /// Closed by [`VideoWriter::finish`].
    stdin: Option<BufWriter<ChildStdin>>,
}

impl VideoWriter {
    /// Starts `path` with frames of `height` x `width` (both even) at `fps` frames per second.
    ///
    /// # Errors
    /// [`VideoError`] if the sizes cannot be encoded, the path has no file name, or ffmpeg is missing.
    pub fn create(
        path: impl AsRef<Path>,
        encoding: Encoding,
        height: usize,
        width: usize,
        fps: u32,
    ) -> Result<Self, VideoError> {
        let path = path.as_ref().to_owned();
        let wrong = |what, got: String, expected: &str| {
            Err(VideoError::Specification { path: path.clone(), what, got, expected: expected.into() })
        };
        if let Err(expected) = encoding.check_size(height, width) {
            return wrong("the size of a frame", format!("{height}x{width}"), expected);
        }
        if fps == 0 {
            return wrong("the frame rate", "0".into(), "at least 1 frame per second");
        }
        let Some(name) = path.file_name() else {
            return wrong("the path", path.display().to_string(), "one that ends in a file name");
        };
        let partial = path.with_file_name(format!(".{}.partial", name.to_string_lossy()));
        let (size, rate) = (format!("{width}x{height}"), fps.to_string());
        let input = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", &size, "-framerate", &rate, "-i", "pipe:0"];
        let output = ["-g", "2", "-pix_fmt", "yuv420p", "-f", "mp4", "-y"];
        let arguments = [&input[..], encoding.arguments(), &output].concat();
        let mut running = Running::start(&arguments, Some(&partial), Stdio::null())?;
        let stdin = running.pipes().0.map(|stdin| BufWriter::with_capacity(1 << 16, stdin));
        Ok(Self { path, partial, frame_len: height * width * 3, frames: 0, running, stdin })
    }

    /// Number of frames so far.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes on the disk so far; the encoder holds some frames back.
    pub fn bytes_written(&self) -> u64 {
        std::fs::metadata(&self.partial).map_or(0, |file| file.len())
    }

    /// Appends one or more frames, `[frames, height, width, 3]`.
    ///
    /// # Errors
    /// [`VideoError`] if these are no whole frames, or the encoder has failed.
    pub fn push(&mut self, rgb: &[u8]) -> Result<(), VideoError> {
        if rgb.is_empty() || !rgb.len().is_multiple_of(self.frame_len) {
            return Err(VideoError::Specification {
                path: self.path.clone(),
                what: "the length of frames",
                got: format!("{} bytes", rgb.len()),
                expected: format!("a multiple of {}", self.frame_len),
            });
        }
        if self.stdin.as_mut().is_none_or(|stdin| stdin.write_all(rgb).is_err()) {
            return Err(self.failure());
        }
        self.frames += rgb.len() / self.frame_len;
        Ok(())
    }

    /// Completes the file, waits until it is on the disk, and gives it its name.
    ///
    /// # Errors
    /// [`VideoError`] if the encoder fails, no frame was written, or the file system refuses.
    pub fn finish(mut self) -> Result<(), VideoError> {
        if self.stdin.take().is_none_or(|mut stdin| stdin.flush().is_err()) {
            return Err(self.failure());
        }
        let (status, complaints) = self.running.wait();
        if self.frames == 0 || !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            let what = format!("ffmpeg ended with {status} after {} frames: {complaints}", self.frames);
            return Err(VideoError::Encode { path: self.path.clone(), what });
        }
        let sync = std::fs::File::open(&self.partial).and_then(|file| file.sync_all());
        sync.and_then(|()| std::fs::rename(&self.partial, &self.path)).map_err(VideoError::io("finishing", &self.path))
    }

    fn failure(&mut self) -> VideoError {
        self.stdin = None;
        let complaints = self.running.kill();
        let what = format!("ffmpeg ended after {} frames: {complaints}", self.frames);
        VideoError::Encode { path: self.path.clone(), what }
    }
}

impl Drop for VideoWriter {
    fn drop(&mut self) {
        self.stdin = None;
        self.running.kill();
        // After a finished file there is nothing to remove.
        let _ = std::fs::remove_file(&self.partial);
    }
}
