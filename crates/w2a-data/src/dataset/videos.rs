//! The videos of episodes: which of their frames belong to which row.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::DatasetError;
use super::info::CameraSpec;
use super::plan::EpisodeRecord;
use super::reader::Dataset;
use crate::Camera;
use crate::video::{FrameStream, Mp4Index, VideoError};

impl Dataset {
    /// Reads the index of the video of an episode's `number`-th camera that is a video, and compares its size with
    /// what the dataset says.
    pub(super) fn open_video(
        &self,
        record: &EpisodeRecord,
        number: usize,
        camera: &CameraSpec,
    ) -> Result<Arc<Mp4Index>, DatasetError> {
        let file = self.path().join(&record.videos[number].file);
        let needed_by = || format!("episode {}, camera {:?}", record.index, camera.name);
        if !file.is_file() {
            return Err(DatasetError::Missing { file, needed_by: needed_by() });
        }
        let index = Mp4Index::open(&file).map_err(|source| in_camera(record, camera, None, source))?;
        if (index.height(), index.width()) != (camera.height, camera.width) {
            let what = format!("size of the frames of {}", needed_by());
            let (got, expected) = (
                format!("{}x{}", index.height(), index.width()),
                format!("{}x{} (meta/info.json)", camera.height, camera.width),
            );
            return Err(DatasetError::mismatch(file, what, got, expected, "mend the shape in meta/info.json"));
        }
        Ok(Arc::new(index))
    }

    /// The frame of a video that belongs to `frame` of the episode, by its time.
    pub(super) fn video_frame(
        &self,
        record: &EpisodeRecord,
        number: usize,
        camera: &CameraSpec,
        index: &Mp4Index,
        frame: usize,
    ) -> Result<usize, DatasetError> {
        let seconds = record.videos[number].from_s + frame as f64 / f64::from(self.spec().fps);
        index.frame_at(seconds).map_err(|source| in_camera(record, camera, Some(frame), source))
    }
}

/// Says where in the dataset a video failed.
pub(super) fn in_camera(
    record: &EpisodeRecord,
    camera: &CameraSpec,
    frame: Option<usize>,
    source: VideoError,
) -> DatasetError {
    let frame = frame.map(|frame| format!("frame {frame}, ")).unwrap_or_default();
    DatasetError::video(record.index, format!("{frame}camera {:?}", camera.name))(source)
}

/// The video that was read last of every camera, since neighbours share it in version 3.0.
#[derive(Default)]
pub(super) struct OpenVideos(HashMap<usize, (PathBuf, Arc<Mp4Index>)>);

impl OpenVideos {
    /// Decodes the cameras of an episode that are videos, side by side.
    pub fn cameras(&mut self, dataset: &Dataset, record: &EpisodeRecord) -> Result<Vec<Camera>, DatasetError> {
        let mut plans = Vec::new();
        for (number, camera) in dataset.layout().video_cameras().enumerate() {
            let file = &record.videos[number].file;
            let index = match self.0.get(&number) {
                Some((open, index)) if open == file => index.clone(),
                _ => {
                    let index = dataset.open_video(record, number, camera)?;
                    self.0.insert(number, (file.clone(), index.clone()));
                    index
                }
            };
            let frames = (0..record.length).map(|frame| dataset.video_frame(record, number, camera, &index, frame));
            plans.push((camera, frames.collect::<Result<Vec<_>, _>>()?, index));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / plans.len().max(1)).max(1);
        let decode = |(camera, frames, index): &(&CameraSpec, Vec<usize>, Arc<Mp4Index>)| {
            let rgb = decode_all(index, frames, threads).map_err(|source| in_camera(record, camera, None, source))?;
            Ok(Camera { name: camera.name.clone(), height: camera.height, width: camera.width, rgb })
        };
        // Each camera has a decoder of its own, which waits while its frames are not taken.
        std::thread::scope(|scope| {
            let running: Vec<_> = plans.iter().map(|plan| scope.spawn(move || decode(plan))).collect();
            let joined = running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.collect()
        })
    }
}

/// The RGB bytes of ascending `frames`.
fn decode_all(index: &Arc<Mp4Index>, frames: &[usize], threads: usize) -> Result<Vec<u8>, VideoError> {
    let mut rgb = vec![0; frames.len() * index.frame_len()];
    let mut stream = FrameStream::start(index, frames, threads)?;
    for (room, &frame) in rgb.chunks_mut(index.frame_len()).zip(frames) {
        if !stream.next_into(room)? {
            return Err(VideoError::NoFrame { path: index.path().to_owned(), frame, frames: index.len() });
        }
    }
    Ok(rgb)
}
