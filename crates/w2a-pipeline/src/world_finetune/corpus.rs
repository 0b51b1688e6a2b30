//! Demonstrations as latents of clips, encoded once: the training never needs the video autoencoder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use w2a_nn::NnError;
use w2a_report::Progress;
use w2a_world::cosmos::{Cosmos, Tensors};
use w2a_world::{GridVideo, Latents, Layout, ModelId, Rig, WorldModel, load_latents, save_latents};

use super::footage::Footage;
use crate::PipelineError;
use crate::context::model;
use crate::tuning::config_error;

/// List of the clips in a folder of latents; written last.
const INDEX: &str = "clips.json";

/// How episodes become clips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    /// How several cameras become one picture.
    pub layout: Layout,
    /// Whose views the prompt names.
    pub rig: Option<Rig>,
}

/// A clip, in the order of its latents' file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Clip {
    /// What it shows.
    pub prompt: String,
    /// Number of the episode.
    pub episode: usize,
    /// Its first frame in the episode.
    pub first_frame: usize,
}

/// All clips of a dataset.
pub(super) struct Corpus {
    dir: PathBuf,
    pub clips: Vec<Clip>,
    /// Tells this corpus from any other.
    pub digest: String,
}

impl Corpus {
    /// The clips of `footage` below `cache`, encoded now where they were not.
    ///
    /// # Errors
    /// A video that cannot be read or has cameras that do not fit together, a failing disk.
    pub fn prepare(footage: &Footage, world: &Cosmos, cut: Cut, cache: &Path) -> Result<Self, PipelineError> {
        let settings = json!({
            "dataset": footage.fingerprint()?, "frame": world.config().frame, "layout": cut.layout, "rig": cut.rig,
            "latent_frames": world.config().latent_frames,
        });
        let vae = model(Tensors::files(&model(world.folder().vae())?))?;
        let digest = model(ModelId::of_files("clips", &settings, &vae))?.digest;
        // A folder of its own for each way to cut; the whole digest would only make its name long.
        let dir = cache.join(digest.get(..16).unwrap_or_default());
        let index = dir.join(INDEX);
        if let Ok(text) = fs_err::read(&index) {
            let clips: Vec<Clip> = serde_json::from_slice(&text).map_err(|error| NnError::Format {
                path: index.clone(),
                reason: format!("it is no list of clips: {error}"),
            })?;
            return Ok(Self { dir, clips, digest });
        }
        let progress = Progress::new(&[("encode", 1.0)]);
        progress.start("encode");
        let mut corpus = Self { dir, clips: Vec::new(), digest };
        for (episode, found) in footage.videos(cut).enumerate() {
            let (prompt, video) = found?;
            corpus.add(world, episode, &prompt, &video)?;
            progress.tick(episode as u64 + 1, footage.len() as u64, &format!("{} clips", corpus.clips.len()));
        }
        progress.finish("encode");
        if corpus.clips.is_empty() {
            let expected = "demonstrations with video".into();
            return Err(config_error("--data", expected, format!("none in {}", footage.path().display())));
        }
        let text = serde_json::to_vec_pretty(&corpus.clips).unwrap_or_default();
        w2a_data::write_atomic(&index, &text).map_err(|error| PipelineError::io("writing the list of clips", error))?;
        Ok(corpus)
    }

    /// The clips of an episode.
    fn add(&mut self, world: &Cosmos, episode: usize, prompt: &str, video: &GridVideo) -> Result<(), PipelineError> {
        let frames = 1 + world.chunk_len() * world.max_chunks();
        let (rows, columns) = world.frame_size();
        if video.frames() == 0 {
            return Ok(());
        }
        for first_frame in windows(video.frames(), frames) {
            let path = self.path(self.clips.len());
            self.clips.push(Clip { prompt: prompt.to_owned(), episode, first_frame });
            // A file is there when it is complete, and its folder's name says of what.
            if path.exists() {
                continue;
            }
            // Shorter episodes are held on their last frame.
            let at = |frame: usize| video.frame((first_frame + frame).min(video.frames() - 1));
            let rgb = (0..frames).flat_map(|frame| at(frame).iter().copied()).collect();
            let clip = GridVideo { height: video.height, width: video.width, rgb };
            let latents = model(world.encode(&[model(clip.resized(rows, columns))?]))?;
            fs_err::create_dir_all(&self.dir).map_err(|error| PipelineError::io("making a folder", error))?;
            model(save_latents(&path, &latents))?;
        }
        Ok(())
    }

    fn path(&self, clip: usize) -> PathBuf {
        self.dir.join(format!("{clip:06}.safetensors"))
    }

    /// The latents of a clip.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn latents(&self, clip: usize) -> Result<Latents, NnError> {
        let path = self.path(clip);
        let mut found = load_latents(&path)?;
        found.pop().ok_or_else(|| NnError::Format { path, reason: "it holds no latents".into() })
    }

    /// Its prompts, each once.
    pub fn prompts(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for clip in &self.clips {
            if !all.contains(&clip.prompt) {
                all.push(clip.prompt.clone());
            }
        }
        all
    }
}

/// First frames of the clips of an episode: each begins with the last frame of the one before, as in an imagination, and the
/// last one ends with the episode.
fn windows(frames: usize, clip: usize) -> Vec<usize> {
    let last = frames.saturating_sub(clip);
    let mut starts: Vec<usize> = (0..=last).step_by(clip.saturating_sub(1).max(1)).collect();
    if starts.last() != Some(&last) {
        starts.push(last);
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::windows;

    #[test]
    fn clips_follow_each_other_and_reach_the_end() {
        assert_eq!(windows(13, 13), [0]);
        assert_eq!(windows(1, 13), [0]);
        assert_eq!(windows(25, 13), [0, 12]);
        assert_eq!(windows(30, 13), [0, 12, 17]);
        for frames in 13..60 {
            let starts = windows(frames, 13);
            assert!(starts.iter().all(|start| start + 13 <= frames) && starts.last() == Some(&(frames - 13)));
            assert!(starts.windows(2).all(|pair| pair[0] < pair[1] && pair[1] <= pair[0] + 12), "{starts:?}");
        }
    }
}
