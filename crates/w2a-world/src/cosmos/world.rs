//! Cosmos-Predict2 behind [`WorldModel`].

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_nn::NnError;

use super::compute::Compute;
use super::dit::{Dit, DitConfig, DitOptions};
use super::folder::CosmosFolder;
use super::memory::SamplingPlan;
use super::names::{self, Weighting};
use super::prompts::{PromptStore, shortened};
use super::rope::RopeRatios;
use super::sampler::{Conditions, SamplerConfig, noise, sample};
use super::source::Tensors;
use super::vae::{Tiling, Vae, VaeConfig, WAN_BLOCKS};
use crate::{GridVideo, LatentShape, Latents, ModelId, WorldModel};

/// Frames of a latent after the first one.
pub const CHUNK: usize = 4;

/// Pixels of a token's side: 8 of the autoencoder, 2 latents of a patch.
const TOKEN: usize = 16;

/// Settings of Cosmos-Predict2; the defaults are the released model's at 16 frames a second, with pictures as in the paper.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CosmosConfig {
    /// File of the DiT, where the folder has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Which of its two sets of weights.
    pub weights: Weighting,
    /// Rows and columns of a picture.
    pub frame: [usize; 2],
    /// Latent frames of a clip, the first one included: 24 at 16 frames a second, 16 at 10.
    pub latent_frames: usize,
    /// What the model is to keep away from; without a text, its prediction for no prompt at all, an embedding of zeros. NVIDIA's
    /// own runs have the text `_DEFAULT_NEGATIVE_PROMPT` of `examples/video2world.py`.
    pub negative_prompt: String,
    /// Seed of the noise of every clip, as in the authors' release, which has 0; without one, each clip has noise of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_seed: Option<u32>,
    /// Folder of embedded prompts; `prompts` beside the weights without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PathBuf>,
    /// How positions are stretched, where the size of the model does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope: Option<RopeRatios>,
    /// What the DiT computes in. A model in bf16 is another one for caches.
    #[serde(skip_serializing_if = "Compute::is_default")]
    pub dtype: Compute,
    /// Encode and decode in tiles, which takes less memory and changes the result a little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiling>,
    /// The sampler.
    pub sampler: SamplerConfig,
}

impl Default for CosmosConfig {
    fn default() -> Self {
        Self {
            checkpoint: None,
            weights: Weighting::default(),
            frame: [480, 832],
            latent_frames: 24,
            rope: None,
            negative_prompt: String::new(),
            noise_seed: None,
            prompts: None,
            dtype: Compute::F32,
            tiles: None,
            sampler: SamplerConfig::default(),
        }
    }
}

impl CosmosConfig {
    /// The settings file of a folder, or the defaults.
    ///
    /// # Errors
    /// A folder or a file that cannot be used.
    pub fn of_folder(dir: &Path) -> Result<Self, NnError> {
        let Some(path) = CosmosFolder::open(dir)?.settings() else { return Ok(Self::default()) };
        let text = fs_err::read(&path).map_err(|source| NnError::Io { action: "reading settings", source })?;
        serde_json::from_slice(&text).map_err(|error| NnError::Input {
            what: format!("settings {}", path.display()),
            expected: "settings of Cosmos-Predict2 as JSON".into(),
            got: error.to_string(),
        })
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<(), NnError> {
        let wrong = |what: &str, expected: String, got: String| {
            Err(NnError::Input { what: format!("setting {what} of Cosmos-Predict2"), expected, got })
        };
        if self.frame.iter().any(|side| !(TOKEN..=8192).contains(side) || !side.is_multiple_of(TOKEN)) {
            let expected = format!("rows and columns that are multiples of {TOKEN}, at most 8192");
            return wrong("frame", expected, format!("{:?}", self.frame));
        }
        if !(2..=1024).contains(&self.latent_frames) {
            return wrong("latent_frames", "2 to 1024".into(), self.latent_frames.to_string());
        }
        if let Some(tiles) = self.tiles {
            tiles.check(TOKEN / 2)?;
        }
        self.sampler.validate()
    }
}

/// The model of a folder. Networks are read when they are first needed: encoding and decoding never read the DiT.
pub struct Cosmos {
    folder: CosmosFolder,
    config: CosmosConfig,
    prompts: PromptStore,
    dit: OnceLock<Dit>,
    vae: OnceLock<Vae>,
    device: Device,
    /// Called after every evaluation of the sampler.
    watch: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Cosmos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cosmos").field("folder", &self.folder).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Cosmos {
    /// The model in `dir`; finds its files and reads none of its weights.
    ///
    /// # Errors
    /// Settings out of range or bf16 on a device without, or a folder without a DiT or an autoencoder.
    pub fn open(dir: &Path, config: CosmosConfig, device: &Device) -> Result<Self, NnError> {
        config.validate()?;
        config.dtype.check(device)?;
        let folder = CosmosFolder::open(dir)?;
        folder.dit(config.checkpoint.as_deref())?;
        folder.vae()?;
        let prompts = PromptStore::new(config.prompts.clone().unwrap_or_else(|| folder.prompts()));
        let (dit, vae, device) = (OnceLock::new(), OnceLock::new(), device.clone());
        Ok(Self { folder, config, prompts, dit, vae, device, watch: Box::new(|| {}) })
    }

    /// Calls `each` after every evaluation of the sampler, of which a clip has [`Self::evaluations`].
    pub fn on_evaluation(&mut self, each: impl Fn() + Send + Sync + 'static) {
        self.watch = Box::new(each);
    }

    /// Evaluations of the sampler for a clip.
    pub fn evaluations(&self) -> usize {
        self.config.sampler.steps + 1
    }

    /// Those of the prompts, the negative one included, that are not embedded yet.
    ///
    /// # Errors
    /// A file of an embedded prompt that is damaged.
    pub fn missing<'a>(&'a self, prompts: impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>, NnError> {
        let mut missing = Vec::new();
        for prompt in std::iter::once(self.config.negative_prompt.as_str()).chain(prompts) {
            if !prompt.is_empty() && self.prompts.get(prompt)?.is_none() {
                missing.push(prompt);
            }
        }
        Ok(missing)
    }

    /// Name and digest of the model: of its weights and settings. Reads the weights once from beginning to end.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn identify(&self) -> Result<ModelId, NnError> {
        let dit = Tensors::files(&self.folder.dit(self.config.checkpoint.as_deref())?)?;
        let vae = Tensors::files(&self.folder.vae()?)?;
        let files: Vec<PathBuf> = dit.into_iter().chain(vae).collect();
        // Where the prompts lie makes no difference.
        ModelId::of_files("cosmos", &CosmosConfig { prompts: None, ..self.config.clone() }, &files)
    }

    /// Where its files are.
    pub fn folder(&self) -> &CosmosFolder {
        &self.folder
    }

    /// Its settings.
    pub fn config(&self) -> &CosmosConfig {
        &self.config
    }

    /// Its folder of embedded prompts.
    pub fn prompts(&self) -> &PromptStore {
        &self.prompts
    }

    /// The file of the DiT, and what its tensors do not say; reads none of its weights.
    ///
    /// # Errors
    /// A file that is missing or of another model, or of a size that no released model has without the setting `rope`.
    pub fn dit_tensors(&self) -> Result<(Tensors, DitOptions), NnError> {
        let path = self.folder.dit(self.config.checkpoint.as_deref())?;
        let weighting = self.config.weights;
        let what = "a DiT of Cosmos-Predict2 Video2World, by the names of its authors or of diffusers";
        let tensors = Tensors::open(&path, what, |name, has| names::dit(name, weighting, has("net.")))?;
        let options = DitOptions::released(&tensors, self.config.rope)?;
        let (channels, expected) = (DitConfig::of(&tensors, options)?.channels, self.latent_shape().channels);
        if channels != expected {
            return Err(NnError::Input {
                what: format!("channels of the DiT in {}", path.display()),
                expected: format!("{expected}, those of the autoencoder's latents"),
                got: channels.to_string(),
            });
        }
        Ok((tensors, options))
    }

    /// What imagining clips of `chunks` chunks takes; reads no weights. `is_chained` as in [`SamplingPlan`].
    ///
    /// # Errors
    /// As [`Self::dit_tensors`], and those of the file of the autoencoder.
    pub fn sampling_plan(&self, chunks: usize, is_chained: bool) -> Result<SamplingPlan, NnError> {
        let (tensors, options) = self.dit_tensors()?;
        let vae = self.vae_tensors()?;
        let shape = self.latent_shape();
        Ok(SamplingPlan {
            dit: DitConfig::of(&tensors, options)?,
            weights: tensors.totals().1,
            autoencoder: (vae.totals().0, VaeConfig::wan(&vae)?.width),
            latents: [1 + chunks.min(self.max_chunks()), shape.height, shape.width],
            tiles: self.config.tiles,
            is_chained,
        })
    }

    /// Reads the DiT, which is not kept; `each` is told how many of how many blocks are read.
    ///
    /// # Errors
    /// As [`Self::dit_tensors`], and tensors that are missing or of another size.
    pub fn read_dit(&self, each: impl FnMut(usize, usize)) -> Result<Dit, NnError> {
        let (tensors, options) = self.dit_tensors()?;
        Ok(Dit::load(&tensors, options, &self.device, each)?.computing(self.config.dtype))
    }

    fn dit(&self) -> Result<&Dit, NnError> {
        if let Some(dit) = self.dit.get() {
            return Ok(dit);
        }
        let dit = self.read_dit(|_, _| {})?;
        Ok(self.dit.get_or_init(|| dit))
    }

    fn vae_tensors(&self) -> Result<Tensors, NnError> {
        let what = "the video autoencoder of Wan 2.1, by the names of its authors or of diffusers";
        Tensors::open(&self.folder.vae()?, what, |name, _| names::vae(name, WAN_BLOCKS))
    }

    fn vae(&self) -> Result<&Vae, NnError> {
        if let Some(vae) = self.vae.get() {
            return Ok(vae);
        }
        let tensors = self.vae_tensors()?;
        let vae = Vae::load(&tensors, VaeConfig::wan(&tensors)?, &self.device)?.with_tiling(self.config.tiles)?;
        Ok(self.vae.get_or_init(|| vae))
    }

    /// An embedded prompt, `[1, 512, width]`; zeros for no prompt.
    ///
    /// # Errors
    /// A prompt that is not embedded, or embedded for another model.
    pub fn prompt(&self, prompt: &str, width: usize) -> Result<Tensor<3>, NnError> {
        if prompt.is_empty() {
            return Ok(Tensor::zeros([1, super::prompts::MOST_WORDS, width], &self.device));
        }
        let wrong = |expected: String, got: String| NnError::Input {
            what: format!("embedded prompt {:?} in {}", shortened(prompt), self.prompts.dir().display()),
            expected,
            got,
        };
        match self.prompts.get(prompt)? {
            Some((embedding, _)) if embedding.width == width => {
                Ok(w2a_nn::tensor(embedding.padded(), [1, super::prompts::MOST_WORDS, width], &self.device))
            }
            Some((embedding, _)) => {
                Err(wrong(format!("words of width {width}, as the DiT wants them"), embedding.width.to_string()))
            }
            None => {
                Err(wrong("one that `world2act world embed-prompts` has embedded".into(), "none; run it first".into()))
            }
        }
    }

    /// Imagines `chunks` chunks with any DiT from the first latent of `begin`, with the noise of NumPy's `RandomState(seed)`.
    ///
    /// # Errors
    /// Latents of another size, a prompt that is not embedded, and those of the sampler.
    pub fn imagine_from(
        &self,
        dit: &Dit,
        begin: &Latents,
        prompt: &str,
        chunks: usize,
        seed: u32,
    ) -> Result<Latents, NnError> {
        let shape = self.latent_shape();
        let Some(first) = begin.data.get(..shape.len()).filter(|_| begin.shape == shape) else {
            return Err(NnError::Input {
                what: "latents to imagine from".into(),
                expected: format!("one or more of {shape:?}"),
                got: format!("{} values of {:?}", begin.data.len(), begin.shape),
            });
        };
        let mut known = first.to_vec();
        known.resize((1 + chunks) * shape.len(), 0.0);
        let known = Latents { shape, data: known }.channels_first();
        let whole = [shape.channels, 1 + chunks, shape.height, shape.width];
        let width = dit.config().context;
        let (prompt, negative) = (self.prompt(prompt, width)?, self.prompt(&self.config.negative_prompt, width)?);
        let conditions = Conditions { shape: whole, known: &known, frames_known: 1, prompt, negative };
        let noise = noise(seed, whole);
        let data = sample(dit, &self.config.sampler, &conditions, &noise, &self.device, |_| (self.watch)())?;
        Ok(Latents::from_channels_first(shape, &data))
    }

    /// The frames of a video as the autoencoder wants them, `[3, n, rows, columns]` in `[-1, 1]`.
    fn pixels(video: &GridVideo, range: Range<usize>) -> Vec<f32> {
        let frames: Vec<&[u8]> = range.map(|index| video.frame(index)).collect();
        let colour = |colour: usize| frames.iter().flat_map(move |frame| frame.iter().skip(colour).step_by(3));
        (0..3).flat_map(colour).map(|value| f32::from(*value) / 127.5 - 1.0).collect()
    }

    fn check(&self, video: &GridVideo, frames: impl Fn(usize) -> bool, expected: &str) -> Result<(), NnError> {
        let [height, width] = self.config.frame;
        if (video.height, video.width) == (height, width) && frames(video.frames()) {
            return Ok(());
        }
        Err(NnError::Input {
            what: "video of the world model".into(),
            expected: format!("{height}x{width} and {expected}; --world.frame=[rows,columns] sets another size"),
            got: format!("{}x{} and {} frames", video.height, video.width, video.frames()),
        })
    }

    /// Latents of the first `count` frames of a video, frame by frame: `[frames, channels, rows, columns]`.
    fn encode_frames(&self, video: &GridVideo, count: usize) -> Result<Latents, NnError> {
        let data = self.vae()?.encode(count, self.config.frame, |range| Self::pixels(video, range))?;
        Ok(Latents::from_channels_first(self.latent_shape(), &data))
    }
}

impl WorldModel for Cosmos {
    fn chunk_len(&self) -> usize {
        CHUNK
    }

    fn max_chunks(&self) -> usize {
        self.config.latent_frames - 1
    }

    fn latent_shape(&self) -> LatentShape {
        let [height, width] = self.config.frame;
        LatentShape { channels: 16, height: height / 8, width: width / 8 }
    }

    fn frame_size(&self) -> (usize, usize) {
        let [height, width] = self.config.frame;
        (height, width)
    }

    fn encode(&self, videos: &[GridVideo]) -> Result<Vec<Latents>, NnError> {
        let fits = |count: usize| count > 0 && (count - 1).is_multiple_of(self.chunk_len());
        let encode = |video: &GridVideo| {
            self.check(video, fits, &format!("1 + a multiple of {} frames", self.chunk_len()))?;
            self.encode_frames(video, video.frames())
        };
        videos.iter().map(encode).collect()
    }

    /// Each clip's noise is that of NumPy's `RandomState`, of the seed in the settings or of one drawn from `rng`.
    fn imagine(
        &self,
        first: &[GridVideo],
        instructions: &[&str],
        chunks: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Latents>, NnError> {
        if first.len() != instructions.len() || chunks == 0 || chunks > self.max_chunks() {
            return Err(NnError::Input {
                what: "request to imagine".into(),
                expected: format!("one instruction per first frame and 1 to {} chunks", self.max_chunks()),
                got: format!("{} first frames, {} instructions, {chunks} chunks", first.len(), instructions.len()),
            });
        }
        let mut out = Vec::with_capacity(first.len());
        for (video, prompt) in first.iter().zip(instructions) {
            self.check(video, |count| count > 0, "at least one frame")?;
            let dit = self.dit()?;
            let begin = self.encode_frames(video, 1)?;
            let seed = self.config.noise_seed.unwrap_or_else(|| rng.random());
            out.push(self.imagine_from(dit, &begin, prompt, chunks, seed)?);
        }
        Ok(out)
    }

    fn decode(&self, latents: &[Latents]) -> Result<Vec<GridVideo>, NnError> {
        let shape = self.latent_shape();
        let [height, width] = self.config.frame;
        let decode = |latents: &Latents| {
            let count = latents.data.len() / shape.len();
            if latents.shape != shape || count == 0 || count * shape.len() != latents.data.len() {
                return Err(NnError::Input {
                    what: "latents to decode".into(),
                    expected: format!("one or more of {shape:?}"),
                    got: format!("{} values of {:?}", latents.data.len(), latents.shape),
                });
            }
            let channels_first = latents.channels_first();
            let mut rgb = Vec::with_capacity((1 + self.chunk_len() * (count - 1)) * height * width * 3);
            self.vae()?.decode(&channels_first, [count, shape.height, shape.width], |frames| {
                let pixel = |value: &f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
                // Colours last.
                let colours: Vec<&[f32]> = frames.chunks_exact((frames.len() / 3).max(1)).collect();
                if let [red, green, blue] = colours[..] {
                    let values = red.iter().zip(green).zip(blue);
                    rgb.extend(values.flat_map(|((red, green), blue)| [pixel(red), pixel(green), pixel(blue)]));
                }
                Ok(())
            })?;
            Ok(GridVideo { height, width, rgb })
        };
        latents.iter().map(decode).collect()
    }
}

#[cfg(test)]
mod tests;
