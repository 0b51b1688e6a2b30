//! Decoding a clip: coded frames go into a child process, RGB frames come out, one at a time.

use std::io::{BufReader, BufWriter, Read};
use std::process::{ChildStdout, Stdio};
use std::thread::JoinHandle;

use super::clip::{Clip, Feed};
use super::error::VideoError;
use super::ffmpeg::Running;
use std::sync::Arc;

/// A clip being decoded. Its memory is a few coded frames and one decoded frame, however long the clip.
pub(super) struct Decoder {
    clip: Arc<Clip>,
    running: Running,
    frames: BufReader<ChildStdout>,
    feeder: Option<JoinHandle<Result<(), Feed>>>,
    /// What stands before every frame: it states its size.
    frame_header: Vec<u8>,
    done: usize,
}

impl Decoder {
    /// Starts decoding with `threads` threads of the decoder.
    ///
    /// # Errors
    /// [`VideoError::NoFfmpeg`] if there is no decoder.
    pub fn start(clip: Clip, threads: usize) -> Result<Self, VideoError> {
        let threads = threads.max(1).to_string();
        let mut running = Running::start(
            &[
                // Damage must end the decoding: without these it is papered over with grey.
                &["-xerror", "-err_detect", "explode", "-threads", &threads][..],
                // Times as they are in the clip, where the wanted frames are those of odd times.
                &["-copyts", "-noautorotate", "-protocol_whitelist", "pipe", "-f", "mp4", "-i", "pipe:0"],
                &["-map", "0:v:0", "-fps_mode", "passthrough", "-filter_threads", "1", "-vf", "select=mod(pts\\,2)"],
                // PPM, since its header states the size of each frame.
                &["-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"],
            ]
            .concat(),
            None,
            Stdio::piped(),
        )?;
        let clip = Arc::new(clip);
        let path = clip.kind().path().to_owned();
        let (Some(stdin), Some(stdout)) = running.pipes() else {
            return Err(VideoError::Decode { path, what: "ffmpeg was started without pipes".into() });
        };
        let fed = clip.clone();
        let feeder = std::thread::spawn(move || fed.write(&mut BufWriter::with_capacity(1 << 16, stdin)));
        let frame_header = format!("P6\n{} {}\n255\n", clip.kind().width(), clip.kind().height()).into_bytes();
        let frames = BufReader::with_capacity(1 << 16, stdout);
        Ok(Self { clip, running, frames, feeder: Some(feeder), frame_header, done: 0 })
    }

    /// The frames in the order in which they come.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// Decodes the next wanted frame into `out`, which has its length; `false` after the last one.
    ///
    /// # Errors
    /// [`VideoError`] if the decoder fails or gives other frames than the index promised.
    pub fn next_into(&mut self, out: &mut [u8]) -> Result<bool, VideoError> {
        if self.done == self.clip.wanted().len() {
            return Ok(false);
        }
        let mut header = [0; 32];
        let header = &mut header[..self.frame_header.len()];
        if self.frames.read_exact(header).is_err() {
            return Err(self.failure(String::new()));
        }
        if *header != self.frame_header[..] {
            let got = String::from_utf8_lossy(header).replace('\n', " ");
            let expected = String::from_utf8_lossy(&self.frame_header).replace('\n', " ");
            self.running.kill();
            return Err(self.failure(format!("a frame begins with {got:?}, the index says {expected:?}")));
        }
        if self.frames.read_exact(out).is_err() {
            return Err(self.failure(String::new()));
        }
        self.done += 1;
        if self.done == self.clip.wanted().len() {
            self.finish()?;
        }
        Ok(true)
    }

    /// Checks that the decoder has nothing more to say.
    fn finish(&mut self) -> Result<(), VideoError> {
        let extra = self.frames.read(&mut [0]).unwrap_or(0);
        let (status, complaints) = self.running.wait();
        let fed = self.feeder.take().map(JoinHandle::join);
        if extra > 0 {
            return Err(self.error("it gives more frames than the index promises".into()));
        }
        match (status, fed) {
            (_, Some(Ok(Err(Feed::Source(error))))) => Err(error),
            (Ok(status), Some(Ok(Ok(())))) if status.success() && complaints.is_empty() => Ok(()),
            (Ok(status), _) => Err(self.error(format!("ffmpeg ended with {status}: {complaints}"))),
            (Err(error), _) => Err(self.error(format!("waiting for ffmpeg: {error}"))),
        }
    }

    /// Why the next frame did not come.
    fn failure(&mut self, what: String) -> VideoError {
        // Its output is at the end or of no use: it ends, or has to.
        let (status, complaints) = if what.is_empty() {
            let (status, complaints) = self.running.wait();
            (status.map_or_else(|error| error.to_string(), |status| status.to_string()), complaints)
        } else {
            ("a kill".into(), self.running.kill())
        };
        if let Some(Ok(Err(Feed::Source(error)))) = self.feeder.take().map(JoinHandle::join) {
            return error;
        }
        let what = if what.is_empty() { format!("ffmpeg ended with {status}: {complaints}") } else { what };
        self.error(what)
    }

    fn error(&self, what: String) -> VideoError {
        let total = self.clip.wanted().len();
        let at = self.clip.wanted().nth(self.done.min(total.saturating_sub(1)));
        let (path, frame) = at
            .map_or_else(|| (self.clip.kind().path().to_owned(), 0), |(index, frame)| (index.path().to_owned(), frame));
        VideoError::Decode { path, what: format!("frame {frame} ({} of {total} wanted came): {what}", self.done) }
    }
}
