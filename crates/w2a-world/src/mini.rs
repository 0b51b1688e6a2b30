//! The embedded world model: autoencoder, latent statistics and latent video model behind [`WorldModel`].

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use w2a_nn::{Array, Checkpoint, Init, NnError, StateDict};

use crate::autoencoder::{AutoencoderConfig, VideoAutoencoder};
use crate::flow::{Anchor, Flow, FlowConfig};
use crate::{Forecast, GridVideo, LatentShape, LatentStatistics, Latents, ModelId, WorldModel};

/// Name of the file of latent statistics in the folder of the latent video model.
const STATISTICS: &str = "statistics.safetensors";
/// Name of that of the forecast, beside it.
const FORECAST: &str = "forecast.safetensors";

/// Sizes of the embedded world model.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MiniWorldConfig {
    /// The video autoencoder.
    pub autoencoder: AutoencoderConfig,
    /// The latent video model.
    pub flow: FlowConfig,
}

/// The embedded world model, ready to use.
#[derive(Debug)]
pub struct MiniWorld {
    autoencoder: VideoAutoencoder,
    flow: Flow,
    statistics: LatentStatistics,
    forecast: Option<Forecast>,
    frames: usize,
    size: (usize, usize),
    shape: LatentShape,
    device: Device,
}

impl MiniWorld {
    /// Puts trained parts together for inference on `device`; `size` is rows and columns of a grid image.
    ///
    /// # Errors
    /// A frame size that does not divide into patches.
    pub fn new(
        config: &MiniWorldConfig,
        autoencoder: VideoAutoencoder,
        flow: Flow,
        statistics: LatentStatistics,
        forecast: Option<Forecast>,
        size: (usize, usize),
        device: &Device,
    ) -> Result<Self, NnError> {
        let shape = autoencoder.latent_shape(size.0, size.1, config.autoencoder.channels)?;
        Ok(Self {
            autoencoder: autoencoder.valid(),
            flow: flow.valid(),
            statistics,
            forecast,
            frames: config.autoencoder.frames,
            size,
            shape,
            device: device.clone(),
        })
    }

    /// Loads what the trainings left in `autoencoder_dir` and `flow_dir`, and the files of statistics and forecast beside
    /// the flow.
    ///
    /// # Errors
    /// A missing or foreign checkpoint.
    pub fn load(
        config: &MiniWorldConfig,
        size: (usize, usize),
        autoencoder_dir: &Path,
        flow_dir: &Path,
        device: &Device,
    ) -> Result<Self, NnError> {
        // The values are overwritten by the checkpoint; the stream only fills the memory.
        let mut rng = w2a_data::stream(0, "load");
        let init = &mut Init { rng: &mut rng, device };
        let autoencoder = Checkpoint::new(autoencoder_dir).load(VideoAutoencoder::new(&config.autoencoder, init))?;
        let shape = autoencoder.latent_shape(size.0, size.1, config.autoencoder.channels)?;
        let flow = Checkpoint::new(flow_dir).load(Flow::new(&config.flow, shape, init)?)?;
        let statistics = load_statistics(&flow_dir.join(STATISTICS), shape)?;
        let forecast = match config.flow.anchor {
            Anchor::First => None,
            Anchor::Forecast => Some(Forecast::load(&flow_dir.join(FORECAST), config.flow.chunks, shape)?),
        };
        Self::new(config, autoencoder, flow, statistics, forecast, size, device)
    }

    /// Name and digest of the model that [`Self::load`] finds in these folders: of its weights, statistics and settings.
    ///
    /// # Errors
    /// A missing checkpoint.
    pub fn identify(config: &MiniWorldConfig, autoencoder_dir: &Path, flow_dir: &Path) -> Result<ModelId, NnError> {
        let mut files = vec![flow_dir.join(STATISTICS)];
        if config.flow.anchor == Anchor::Forecast {
            files.push(flow_dir.join(FORECAST));
        }
        for dir in [autoencoder_dir, flow_dir] {
            let folder = Checkpoint::new(dir).last().ok_or_else(|| NnError::Io {
                action: "loading weights",
                source: std::io::Error::new(
                    std::io::ErrorKind::NotFound,
                    format!("no checkpoint in {}", dir.display()),
                ),
            })?;
            files.push(folder.join("model.safetensors"));
        }
        ModelId::of_files("mini", config, &files)
    }

    /// The statistics its latents are normalised with.
    pub fn statistics(&self) -> &LatentStatistics {
        &self.statistics
    }

    fn check(&self, video: &GridVideo, frames: impl Fn(usize) -> bool, expected: &str) -> Result<(), NnError> {
        if (video.height, video.width) != self.size || !frames(video.frames()) {
            return Err(NnError::Input {
                what: "video of the world model".into(),
                expected: format!("{}x{} and {expected}", self.size.0, self.size.1),
                got: format!("{}x{} and {} frames", video.height, video.width, video.frames()),
            });
        }
        Ok(())
    }
}

/// Encodes videos of `1 + M·T` frames with an autoencoder alone: what the corpus of the latent video model is made with.
///
/// # Errors
/// If the device fails.
pub fn encode_videos(
    autoencoder: &VideoAutoencoder,
    videos: &[GridVideo],
    frames: usize,
    shape: LatentShape,
    device: &Device,
) -> Result<Vec<Latents>, NnError> {
    let stills: Vec<Vec<u8>> =
        videos.iter().map(|video| (0..frames).flat_map(|_| video.frame(0).iter().copied()).collect()).collect();
    let mut chunks: Vec<&[u8]> = Vec::new();
    for (video, still) in videos.iter().zip(&stills) {
        let len = video.height * video.width * 3;
        chunks.push(still);
        chunks.extend(video.rgb[len..].chunks_exact(frames * len));
    }
    let (height, width) = videos.first().map_or((0, 0), |video| (video.height, video.width));
    let data = autoencoder.encode_chunks(&chunks, height, width, device)?;
    let mut at = 0;
    Ok(videos
        .iter()
        .map(|video| {
            let len = (1 + (video.frames() - 1) / frames) * shape.len();
            at += len;
            Latents { shape, data: data[at - len..at].to_vec() }
        })
        .collect())
}

impl WorldModel for MiniWorld {
    fn chunk_len(&self) -> usize {
        self.frames
    }

    fn max_chunks(&self) -> usize {
        self.flow.chunks()
    }

    fn latent_shape(&self) -> LatentShape {
        self.shape
    }

    fn frame_size(&self) -> (usize, usize) {
        self.size
    }

    fn encode(&self, videos: &[GridVideo]) -> Result<Vec<Latents>, NnError> {
        let fits = |count: usize| count > 0 && (count - 1).is_multiple_of(self.frames);
        for video in videos {
            self.check(video, fits, &format!("1 + a multiple of {} frames", self.frames))?;
        }
        encode_videos(&self.autoencoder, videos, self.frames, self.shape, &self.device)
    }

    fn imagine(
        &self,
        first: &[GridVideo],
        instructions: &[&str],
        chunks: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Latents>, NnError> {
        if first.len() != instructions.len() || chunks == 0 || chunks > self.flow.chunks() {
            return Err(NnError::Input {
                what: "request to imagine".into(),
                expected: format!("one instruction per first frame and 1 to {} chunks", self.flow.chunks()),
                got: format!("{} first frames, {} instructions, {chunks} chunks", first.len(), instructions.len()),
            });
        }
        let mut out = Vec::with_capacity(first.len());
        let len = self.shape.len();
        // Batches of 32 bound the memory; the stream is drawn in order, so the result does not depend on the device.
        for (videos, words) in first.chunks(32).zip(instructions.chunks(32)) {
            let stills: Vec<GridVideo> = videos
                .iter()
                .map(|video| {
                    self.check(video, |count| count > 0, "at least one frame")?;
                    Ok(GridVideo { rgb: video.frame(0).to_vec(), ..*video })
                })
                .collect::<Result<_, NnError>>()?;
            let encoded = self.encode(&stills)?;
            let mut normalised: Vec<f32> = encoded.iter().flat_map(|latents| &latents.data).copied().collect();
            self.statistics.normalise(&mut normalised);
            let mut future = {
                let forecast = self.forecast.as_ref();
                self.flow.sample(normalised, forecast, &stills, words, self.shape, rng, &self.device)?
            };
            self.statistics.denormalise(&mut future);
            for (first, future) in encoded.into_iter().zip(future.chunks_exact(self.flow.chunks() * len)) {
                let mut data = first.data;
                data.extend_from_slice(&future[..chunks * len]);
                out.push(Latents { shape: self.shape, data });
            }
        }
        Ok(out)
    }

    fn decode(&self, latents: &[Latents]) -> Result<Vec<GridVideo>, NnError> {
        let frame = self.size.0 * self.size.1 * 3;
        latents
            .iter()
            .map(|latents| {
                let count = latents.data.len() / self.shape.len();
                if latents.shape != self.shape || count == 0 || count * self.shape.len() != latents.data.len() {
                    return Err(NnError::Input {
                        what: "latents to decode".into(),
                        expected: format!("one or more of {:?}", self.shape),
                        got: format!("{} values of {:?}", latents.data.len(), latents.shape),
                    });
                }
                let rgb = self.autoencoder.decode_chunks(&latents.data, self.shape, &self.device)?;
                // The first latent is one frame held M times.
                Ok(GridVideo {
                    height: self.size.0,
                    width: self.size.1,
                    rgb: rgb[(self.frames - 1) * frame..].to_vec(),
                })
            })
            .collect()
    }

    /// Every latent is decoded for itself, and of the first one of some latents only the last frame is kept.
    fn last_frame(&self, latents: &Latents) -> Result<GridVideo, NnError> {
        let last = latents.data.len().saturating_sub(latents.shape.len());
        let last = Latents { shape: latents.shape, data: latents.data[last..].to_vec() };
        let video = self.decode(&[last])?.remove(0);
        self.check(&video, |count| count == 1, "one frame")?;
        Ok(video)
    }
}

/// Writes latent statistics beside the latent video model.
///
/// # Errors
/// If the disk fails.
pub fn save_statistics(path: &Path, statistics: &LatentStatistics, shape: LatentShape) -> Result<(), NnError> {
    let array = |data: &[f32]| Array { shape: vec![shape.channels, shape.height, shape.width], data: data.to_vec() };
    w2a_nn::write_state(
        &[("mean".into(), array(&statistics.mean)), ("std".into(), array(&statistics.std))].into(),
        path,
    )
}

fn load_statistics(path: &Path, shape: LatentShape) -> Result<LatentStatistics, NnError> {
    let mut state = w2a_nn::read_state(path)?;
    let expected = vec![shape.channels, shape.height, shape.width];
    let mut take = |name: &str| take(&mut state, name, &expected);
    Ok(LatentStatistics { mean: take("mean")?, std: take("std")? })
}

/// The values of a tensor that has to be there in this shape.
pub(crate) fn take(state: &mut StateDict, name: &str, expected: &[usize]) -> Result<Vec<f32>, NnError> {
    match state.remove(name) {
        None => Err(NnError::MissingTensor { name: name.into(), shape: expected.to_vec() }),
        Some(array) if array.shape != expected => {
            Err(NnError::Shape { name: name.into(), got: array.shape, expected: expected.to_vec() })
        }
        Some(array) => Ok(array.data),
    }
}

/// A model of toy size for frames of 16x32 with clips of up to 3 chunks, its weights all drawn at random: fresh ones have
/// an output of zeros, which would hide what goes in.
#[cfg(test)]
pub(crate) fn tiny() -> MiniWorld {
    let vision = w2a_nn::VisionConfig { patch: 8, channels: 4, keypoints: 2 };
    let config = MiniWorldConfig {
        autoencoder: AutoencoderConfig { frames: 2, channels: 3, hidden: 8, ..AutoencoderConfig::default() },
        flow: FlowConfig {
            width: 8,
            depth: 1,
            heads: 2,
            hidden: 8,
            patch: [2, 4],
            first_patch: [2, 4],
            vision,
            chunks: 3,
            sampling_steps: 2,
            ..FlowConfig::default()
        },
    };
    let device = Device::flex();
    let mut rng = w2a_data::stream(0, "tiny");
    let init = &mut Init { rng: &mut rng, device: &device };
    let autoencoder = VideoAutoencoder::new(&config.autoencoder, init);
    let shape = autoencoder.latent_shape(16, 32, config.autoencoder.channels).unwrap();
    let flow = Flow::new(&config.flow, shape, init).unwrap();
    let mut state = w2a_nn::state_dict(&flow).unwrap();
    for array in state.values_mut() {
        array.data = w2a_nn::normal(&mut rng, array.data.len()).into_iter().map(|value| 0.3 * value).collect();
    }
    let flow = w2a_nn::load_state(flow, state).unwrap();
    let statistics = LatentStatistics { mean: vec![0.0; shape.len()], std: vec![1.0; shape.len()] };
    MiniWorld::new(&config, autoencoder, flow, statistics, None, (16, 32), &device).unwrap()
}
