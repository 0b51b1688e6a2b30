//! Single steps of a dataset in any order, as training wants them.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::DatasetError;
use super::info::CameraSpec;
use super::plan::EpisodeRecord;
use super::reader::{Dataset, EpisodeReader};
use crate::video::{FrameCache, Lru, Mp4Index, read_frames};
use crate::{Camera, Episode, Observation};

/// Indices of videos that are kept, a few hundred kilobytes each for an hour of video.
const OPEN_VIDEOS: usize = 256;

/// One control step: what was seen before the action, and the action.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Images of all cameras and the proprioception.
    pub observation: Observation,
    /// The action, `[action_dim]`.
    pub action: Vec<f32>,
    /// The episode's instruction.
    pub instruction: Arc<str>,
}

/// A camera's position, its video, and the frame in it.
type PlannedFrame = (usize, Arc<Mp4Index>, usize);

/// Reads batches of steps in any order; what batches have in common is read once.
///
/// All video frames of a batch are decoded together: large batches are cheaper a step than small ones, and so are
/// batches whose steps lie in few files.
pub struct StepReader<'a> {
    rows: EpisodeReader<'a>,
    frames: FrameCache,
    /// Episodes without their images.
    episodes: Lru<usize, (Arc<Episode>, Arc<str>)>,
    videos: Lru<PathBuf, Arc<Mp4Index>>,
}

impl<'a> StepReader<'a> {
    pub(super) fn new(dataset: &'a Dataset, cache_bytes: usize) -> Self {
        Self {
            rows: dataset.reader(),
            frames: FrameCache::with_bytes(cache_bytes / 4 * 3),
            episodes: Lru::new(cache_bytes / 4),
            videos: Lru::new(OPEN_VIDEOS),
        }
    }

    /// Reads the steps `(episode, frame)`, in their order.
    ///
    /// # Errors
    /// [`DatasetError`] if there is no such step, or its episode's rows or one of its images are damaged.
    pub fn read(&mut self, wanted: &[(usize, usize)]) -> Result<Vec<Step>, DatasetError> {
        // Episode by episode, so that each data file is opened once.
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_unstable_by_key(|&at| wanted[at]);
        let mut steps: Vec<Option<Step>> = vec![None; wanted.len()];
        let (mut requests, mut owners) = (Vec::new(), Vec::new());
        for at in order {
            let (index, frame) = wanted[at];
            let (step, videos) = self.plan(index, frame)?;
            steps[at] = Some(step);
            for (camera, video, number) in videos {
                requests.push((video, number));
                owners.push((at, camera));
            }
        }
        let decoded = read_frames(&requests, &self.frames).map_err(|source| {
            let owner = requests.iter().position(|(video, _)| Some(video.path()) == source.path());
            let (at, camera) = owner.or(Some(0)).and_then(|owner| owners.get(owner)).copied().unwrap_or((0, 0));
            let place = format!("camera {:?}", self.rows.dataset().spec().cameras[camera].name);
            DatasetError::video(wanted[at].0, place)(source)
        })?;
        for (rgb, (at, camera)) in decoded.into_iter().zip(owners) {
            if let Some(camera) = steps[at].as_mut().and_then(|step| step.observation.cameras.get_mut(camera)) {
                camera.rgb = rgb.to_vec();
            }
        }
        Ok(steps.into_iter().flatten().collect())
    }

    /// A step without the images that are in videos, and for each of these its camera, the video and the frame in it.
    fn plan(&mut self, index: usize, frame: usize) -> Result<(Step, Vec<PlannedFrame>), DatasetError> {
        let dataset = self.rows.dataset();
        let record = dataset.record(index)?;
        if frame >= record.length {
            let path = dataset.path().to_owned();
            return Err(DatasetError::NoSuchStep { path, episode: index, frame, frames: record.length });
        }
        let (episode, instruction) = self.episode(index)?;
        let (mut cameras, mut videos) = (Vec::new(), Vec::new());
        let layout = dataset.layout();
        for (at, (camera, source)) in layout.spec.cameras.iter().zip(&layout.cameras).enumerate() {
            if source.is_video {
                let number = videos.len();
                let video = self.video(record, number, camera)?;
                videos.push((at, video.clone(), dataset.video_frame(record, number, camera, &video, frame)?));
                let (name, height, width) = (camera.name.clone(), camera.height, camera.width);
                cameras.push(Camera { name, height, width, rgb: Vec::new() });
            } else {
                cameras.push(self.rows.images(record, frame..frame + 1, &source.key, camera)?);
            }
        }
        let observation = Observation { cameras, proprio: episode.proprio(frame).to_vec() };
        Ok((Step { observation, action: episode.action(frame).to_vec(), instruction }, videos))
    }

    /// An episode without its images.
    fn episode(&mut self, index: usize) -> Result<(Arc<Episode>, Arc<str>), DatasetError> {
        if let Some(known) = self.episodes.get(&index) {
            return Ok(known);
        }
        let episode = self.rows.read_without_images(index)?;
        let instruction: Arc<str> = episode.instruction.as_str().into();
        let bytes = (episode.proprio.len() + episode.actions.len()) * size_of::<f32>() + instruction.len();
        let known = (Arc::new(episode), instruction);
        self.episodes.insert(index, known.clone(), bytes);
        Ok(known)
    }

    fn video(
        &mut self,
        record: &EpisodeRecord,
        number: usize,
        camera: &CameraSpec,
    ) -> Result<Arc<Mp4Index>, DatasetError> {
        let file = &record.videos[number].file;
        if let Some(index) = self.videos.get(file) {
            return Ok(index);
        }
        let index = self.rows.dataset().open_video(record, number, camera)?;
        self.videos.insert(file.clone(), index.clone(), 1);
        Ok(index)
    }
}
