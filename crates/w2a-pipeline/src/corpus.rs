//! What a latent video model is trained on: clips of the videos as latents, cached.

use burn::module::Module;
use w2a_data::{Dataset, Episode};
use w2a_world::{
    GridVideo, LatentShape, Latents, VideoAutoencoder, encode_videos, grid_video, load_frames, load_latents,
    save_frames, save_latents,
};

use crate::PipelineError;
use crate::clips::{Clip, ClipList};
use crate::context::{Context, load_json, model, save_json};
use crate::data::{NARROW, VIDEO};
use crate::world::Imaginer;

/// Latents, first frames and words of clips, in one order.
pub(crate) struct Corpus {
    /// `V_0..V_T` of every clip, all of the same length.
    pub latents: Vec<Latents>,
    /// The frame each begins with.
    pub first: Vec<GridVideo>,
    /// What they show.
    pub list: ClipList,
}

/// The clips that a model is trained on: of the action-free videos and of those of the labelled demonstrations.
pub(crate) fn corpus(
    context: &Context,
    autoencoder: &VideoAutoencoder,
    imaginer: Imaginer,
) -> Result<Corpus, PipelineError> {
    let name = imaginer.corpus();
    let path = context.path(&format!("{name}.safetensors"));
    let frames_path = context.path(&format!("{name}_first_frames.safetensors"));
    let list_path = context.path(&format!("{name}_clips.json"));
    if path.exists() && frames_path.exists() && list_path.exists() {
        let (latents, first) = (model(load_latents(&path))?, model(load_frames(&frames_path))?);
        return Ok(Corpus { latents, first, list: load_json(&list_path, "world")? });
    }
    context.folder("latents")?;
    context.progress.part(&name);
    let config = &context.config.world.model;
    let (height, width) = context.config.grid();
    let encoder = Encoder {
        autoencoder: autoencoder.valid(),
        shape: model(autoencoder.latent_shape(height, width, config.autoencoder.channels))?,
        frames: config.autoencoder.frames,
        chunks: config.flow.chunks,
    };
    let cutter = imaginer.cutter(&context.config)?;
    let chunks = context.config.chunks();
    let mut rng = w2a_data::stream(context.config.seed, "world/windows");
    let datasets = [Dataset::open(context.path(VIDEO))?, Dataset::open(context.path(NARROW))?];
    let total = datasets.iter().map(Dataset::len).sum();
    let mut corpus = Corpus { latents: Vec::new(), first: Vec::new(), list: ClipList::default() };
    for dataset in datasets {
        for episode in dataset.episodes() {
            let episode: Episode = episode?;
            let clips = cutter.cut(&episode, encoder.frames, chunks, &mut rng);
            corpus.list.videos += 1;
            if clips.is_empty() {
                corpus.list.dropped.push(episode.source.clone());
            } else {
                let video = model(grid_video(&episode, encoder.frames, chunks))?;
                encoder.encode(context, &video, &clips, &mut corpus)?;
                corpus.list.clips.extend(clips);
            }
            context.progress.tick(corpus.list.videos, total, "encoding videos");
        }
    }
    if corpus.latents.is_empty() {
        return Err(PipelineError::Config {
            key: "world.skills".into(),
            expected: "videos that show as many grasp cycles as their task has skills; set it to false".into(),
            got: format!("none of {total}"),
        });
    }
    model(save_frames(&frames_path, &corpus.first))?;
    save_json(&list_path, &corpus.list)?;
    model(save_latents(&path, &corpus.latents))?;
    Ok(corpus)
}

struct Encoder {
    autoencoder: VideoAutoencoder,
    shape: LatentShape,
    /// Frames of a chunk.
    frames: usize,
    /// Chunks of a clip.
    chunks: usize,
}

impl Encoder {
    /// Adds the clips of a video: a clip's chunks have the latents they have in the video; it begins with the latent of
    /// its first frame as a still one, and one that is too short is held on its last frame.
    fn encode(
        &self,
        context: &Context,
        video: &GridVideo,
        clips: &[Clip],
        corpus: &mut Corpus,
    ) -> Result<(), PipelineError> {
        let encode = |videos: &[GridVideo]| {
            model(encode_videos(&self.autoencoder, videos, self.frames, self.shape, &context.device))
        };
        let still = |chunk: usize| GridVideo { rgb: video.frame(chunk * self.frames).to_vec(), ..*video };
        let whole = encode(std::slice::from_ref(video))?.remove(0);
        for clip in clips {
            let end = clip.chunks.end.min(clip.chunks.start + self.chunks);
            let len = self.shape.len();
            let mut data = match clip.chunks.start {
                0 => whole.latent(0).to_vec(),
                begin => encode(&[still(begin)])?.remove(0).data,
            };
            data.extend_from_slice(&whole.data[(clip.chunks.start + 1) * len..(end + 1) * len]);
            let missing = self.chunks - (end - clip.chunks.start);
            if missing > 0 {
                data.extend(encode(&[still(end)])?.remove(0).data.repeat(missing));
            }
            corpus.latents.push(Latents { shape: self.shape, data });
            corpus.first.push(still(clip.chunks.start));
        }
        Ok(())
    }
}
