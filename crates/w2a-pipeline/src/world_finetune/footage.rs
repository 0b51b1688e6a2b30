//! What the world model is fine-tuned on: demonstrations, or videos with a prompt each.

use std::path::Path;

use w2a_data::video::{FrameCache, VideoReader};
use w2a_data::{CaptionedVideo, CaptionedVideos, Episode, Source};
use w2a_world::GridVideo;

use super::corpus::Cut;
use crate::PipelineError;
use crate::context::model;

/// Opened, no frame decoded.
#[expect(clippy::large_enum_variant, reason = "there is one per program")]
pub(super) enum Footage {
    Demonstrations(Source),
    Videos(CaptionedVideos),
}

/// A video and what it shows.
type Shown = Result<(String, GridVideo), PipelineError>;

impl Footage {
    /// A folder with `metadata.csv` has videos with prompts; everything else is demonstrations.
    ///
    /// # Errors
    /// What is neither, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, PipelineError> {
        Ok(match CaptionedVideos::is_at(path) {
            true => Self::Videos(CaptionedVideos::open(path)?),
            false => Self::Demonstrations(Source::open(path)?),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Demonstrations(source) => source.path(),
            Self::Videos(videos) => videos.path(),
        }
    }

    /// Changes when the videos or what they show do.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn fingerprint(&self) -> Result<String, PipelineError> {
        Ok(match self {
            Self::Demonstrations(source) => source.fingerprint()?,
            Self::Videos(videos) => videos.fingerprint()?,
        })
    }

    /// Number of videos.
    pub fn len(&self) -> usize {
        match self {
            Self::Demonstrations(source) => source.len(),
            Self::Videos(videos) => videos.videos().len(),
        }
    }

    /// The videos with their prompts in order, one in memory at a time.
    pub fn videos(&self, cut: Cut) -> Box<dyn Iterator<Item = Shown> + '_> {
        let named = move |prompt: &str| cut.rig.map_or_else(|| prompt.to_owned(), |rig| rig.prompt(prompt));
        match self {
            Self::Demonstrations(source) => Box::new(source.episodes().map(move |found| {
                let found = found?;
                Ok((named(&found.instruction), composed(&found, cut)?))
            })),
            Self::Videos(videos) => {
                Box::new(videos.videos().iter().map(move |found| Ok((named(&found.prompt), whole(found)?))))
            }
        }
    }
}

/// The cameras of an episode as one picture.
fn composed(episode: &Episode, cut: Cut) -> Result<GridVideo, PipelineError> {
    model(match episode.cameras.len() {
        1 => GridVideo::side_by_side(&episode.cameras),
        _ => cut.layout.compose(&episode.cameras),
    })
}

/// All frames of a video file.
fn whole(found: &CaptionedVideo) -> Result<GridVideo, PipelineError> {
    let reader = VideoReader::open(&found.video, &FrameCache::with_bytes(0))?;
    let index = reader.index();
    let (height, width, frames) = (index.height(), index.width(), index.len());
    let mut rgb = Vec::with_capacity(frames * index.frame_len());
    for frame in reader.stream(0..frames)? {
        rgb.extend(frame?);
    }
    Ok(GridVideo { height, width, rgb })
}
