//! The video files of a dataset being written: one per episode in version 2.1, many episodes a file in 3.0.

use std::path::Path;

use super::error::DatasetError;
use super::info::{CAMERA_PREFIX, DatasetSpec, INFO, Version, fill_template};
use super::staging::Staging;
use super::writer::CHUNK_FILES;
use crate::Episode;
use crate::video::{Encoding, VideoWriter, ffmpeg};

const VIDEO_V21: &str = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4";
const VIDEO_V30: &str = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4";

/// Where an episode came to lie in a camera's videos.
pub(super) struct VideoSpan {
    /// The camera's feature.
    pub key: String,
    /// Number of the file, over all chunks.
    pub file: u64,
    /// Time of the episode's first frame, in seconds.
    pub from_s: f64,
    /// Time of its end: that of the next episode's first frame.
    pub to_s: f64,
}

/// The videos of all cameras.
pub(super) struct VideoFiles {
    version: Version,
    encoding: Encoding,
    fps: u32,
    file_mib: u64,
    /// The open file of every camera, in their order.
    cameras: Vec<OpenFile>,
}

struct OpenFile {
    key: String,
    name: String,
    /// Number of the file, over all chunks.
    number: u64,
    writer: Option<VideoWriter>,
}

impl VideoFiles {
    /// Checks that cameras of these sizes can be encoded, and that there is a program that does it.
    pub fn new(spec: &DatasetSpec, version: Version, encoding: Encoding, file_mib: u64) -> Result<Self, DatasetError> {
        for camera in &spec.cameras {
            if let Err(expected) = encoding.check_size(camera.height, camera.width) {
                let size = format!("{}x{}", camera.height, camera.width);
                let what = format!("camera {:?} is {size}, and videos have {expected}", camera.name);
                return Err(DatasetError::Specification { what });
            }
        }
        ffmpeg().map_err(|source| DatasetError::Video {
            episode: 0,
            place: "all cameras".into(),
            source: Box::new(source),
        })?;
        let open = |name: &String| OpenFile {
            key: format!("{CAMERA_PREFIX}{name}"),
            name: name.clone(),
            number: 0,
            writer: None,
        };
        let cameras = spec.cameras.iter().map(|camera| open(&camera.name)).collect();
        Ok(Self { version, encoding, fps: spec.fps, file_mib, cameras })
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub fn file_mib(&self) -> u64 {
        self.file_mib
    }

    pub fn template(&self) -> &'static str {
        match self.version {
            Version::V21 => VIDEO_V21,
            Version::V30 => VIDEO_V30,
        }
    }

    /// Encodes the cameras of an episode, side by side.
    pub fn push(&mut self, staging: &Staging, index: u64, episode: &Episode) -> Result<Vec<VideoSpan>, DatasetError> {
        let (version, encoding, template) = (self.version, self.encoding, self.template());
        let (fps, limit) = (self.fps, self.file_mib << 20);
        let push = |open: &mut OpenFile, camera: &crate::Camera| -> Result<VideoSpan, DatasetError> {
            let place = format!("camera {:?}", open.name);
            let attach = DatasetError::video(index as usize, place);
            if version == Version::V30 && open.writer.as_ref().is_some_and(|writer| writer.bytes_written() >= limit) {
                open.number += 1;
                if let Some(full) = open.writer.take()
                    && let Err(error) = full.finish()
                {
                    return Err(attach(error));
                }
            }
            let mut writer = match open.writer.take() {
                Some(writer) => writer,
                None => {
                    let values = match version {
                        Version::V21 => [("episode_chunk", index / CHUNK_FILES), ("episode_index", index)],
                        Version::V30 => {
                            [("chunk_index", open.number / CHUNK_FILES), ("file_index", open.number % CHUNK_FILES)]
                        }
                    };
                    let path = staging.file(&fill_template(Path::new(INFO), template, &values, Some(&open.key))?)?;
                    match VideoWriter::create(&path, encoding, camera.height, camera.width, fps) {
                        Ok(writer) => writer,
                        Err(error) => return Err(attach(error)),
                    }
                }
            };
            let from = writer.frames();
            if let Err(error) = writer.push(&camera.rgb) {
                return Err(attach(error));
            }
            let seconds = |frames: usize| frames as f64 / f64::from(fps);
            let (from_s, to_s) = (seconds(from), seconds(writer.frames()));
            let span = VideoSpan { key: open.key.clone(), file: open.number, from_s, to_s };
            match version {
                Version::V21 => writer.finish().map_err(attach)?,
                Version::V30 => open.writer = Some(writer),
            }
            Ok(span)
        };
        std::thread::scope(|scope| {
            let pairs = self.cameras.iter_mut().zip(&episode.cameras);
            let running: Vec<_> = pairs.map(|(open, camera)| scope.spawn(move || push(open, camera))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            running.into_iter().map(join).collect()
        })
    }

    /// Completes all files, the last of which hold `episode`.
    pub fn close(&mut self, episode: u64) -> Result<(), DatasetError> {
        for open in &mut self.cameras {
            let attach = DatasetError::video(episode as usize, format!("camera {:?}", open.name));
            open.writer.take().map_or(Ok(()), VideoWriter::finish).map_err(attach)?;
        }
        Ok(())
    }
}
