//! The whole policy: what a robot sees and is told, to what it should do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use w2a_data::{Normaliser, Observation};
use w2a_nn::{Array, NnError, normal, tensor, values};

use super::action_head::{ActionHead, HeadConfig, Schedule};
use super::backbone::{Backbone, Features, Patches, TokenBatch};
use super::category::{Embodiments, Rows};
use super::checkpoint::Checkpoint;
use super::image::{ImageConfig, Rgb, normalised, patches};
use super::modality::Modalities;
use super::normalise::{Keyed, Normalisation};
use super::prompt::{IMAGE_TOKEN, PADDING, formalised, prompt};
use super::tokenizer::Tokenizer;
use super::wrong;
use crate::Policy;

/// Longest instruction in bytes; the time of attention grows with the square of its words.
const MAX_INSTRUCTION: usize = 4096;

/// Frames of one camera, `[batch, steps, height, width, 3]` row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Video {
    /// The five dimensions.
    pub shape: [usize; 5],
    /// The bytes.
    pub data: Vec<u8>,
}

/// What the policy is given, as NVIDIA's server gets it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrootObservation {
    /// By camera.
    pub video: BTreeMap<String, Video>,
    /// By state key, `[batch, steps, width]`.
    pub state: Keyed,
    /// By language key, for each sample its instructions, of which there is one.
    pub language: BTreeMap<String, Vec<Vec<String>>>,
}

/// How a checkpoint is loaded.
#[derive(Clone, Debug)]
pub struct GrootOptions {
    /// Device of the networks.
    pub device: Device,
    /// Folder of the backbone's files, if they are not with the checkpoint.
    pub backbone: Option<PathBuf>,
    /// Whether frames are padded to squares first; see [`ImageConfig`].
    pub letterbox: bool,
    /// Seed of the noise that actions begin as.
    pub seed: u64,
}

impl GrootOptions {
    /// On `device`, without letterbox, with seed 0.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), backbone: None, letterbox: false, seed: 0 }
    }
}

/// GR00T-N1.6 for one embodiment, frozen. Weights are shared between copies, so that a copy is cheap.
#[derive(Clone, Debug)]
pub struct Groot {
    pub(super) parts: Arc<Parts>,
    pub(super) head: ActionHead,
    /// `None` after the head's weights may have been changed: then it is computed anew for every call.
    pub(super) schedule: Option<Schedule>,
    seed: u64,
    /// Calls since the last reset: each has noise of its own.
    calls: u64,
}

/// What no training changes.
#[derive(Debug)]
pub(super) struct Parts {
    tag: String,
    pub(super) modalities: Modalities,
    pub(super) normalisation: Normalisation,
    /// That of the actions, where it is the same for every state.
    pub(super) affine: Option<Normaliser>,
    image: ImageConfig,
    formalize_language: bool,
    tokenizer: Tokenizer,
    padding: usize,
    backbone: Backbone,
    pub(super) head_config: HeadConfig,
    pub(super) device: Device,
    bytes: u64,
}

impl Groot {
    /// Loads the checkpoint in `dir` for one embodiment, by its tag.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and [`Checkpoint::embodiment`]; weights or statistics that do not fit; tensors in the
    /// checkpoint that GR00T-N1.6 does not have; a tokenizer of another backbone.
    pub fn load(dir: &Path, embodiment: &str, options: &GrootOptions) -> Result<Self, NnError> {
        let checkpoint = Checkpoint::open(dir, options.backbone.as_deref())?;
        let tag = checkpoint.tag(embodiment)?.to_owned();
        let (modalities, statistics, id) = checkpoint.embodiment(&tag)?;
        let normalisation = Normalisation::new(&tag, modalities, statistics, &checkpoint.normalisation)?;
        check_modalities(&tag, modalities, &checkpoint.head)?;
        let tokenizer = Tokenizer::load(&checkpoint.tokenizer)?;
        let image_token = tokenizer.id(IMAGE_TOKEN);
        if image_token != Some(checkpoint.backbone.image_token_index) {
            let expected = format!("{IMAGE_TOKEN} with id {}", checkpoint.backbone.image_token_index);
            return Err(wrong(
                format!("tokenizer in {}", checkpoint.tokenizer.display()),
                expected,
                format!("{image_token:?}"),
            ));
        }
        let padding = tokenizer.id(PADDING).ok_or_else(|| {
            wrong(format!("tokenizer in {}", checkpoint.tokenizer.display()), format!("a token {PADDING}"), "none")
        })?;
        let weights = Arc::new(checkpoint.weights(&options.device)?);
        let head = ActionHead::load(&weights, &checkpoint.head, Embodiments::One(id))?;
        let backbone = Backbone::load(Arc::clone(&weights), &checkpoint.backbone)?;
        let names = checkpoint.strangers(&weights);
        if !names.is_empty() {
            return Err(NnError::ExtraTensors { names });
        }
        let schedule = Some(head.schedule(&checkpoint.head));
        let parts = Parts {
            affine: normalisation.affine_action(),
            modalities: modalities.clone(),
            normalisation,
            image: ImageConfig { letterbox: options.letterbox, ..checkpoint.image },
            formalize_language: checkpoint.formalize_language,
            tokenizer,
            padding,
            backbone,
            head_config: checkpoint.head.clone(),
            device: options.device.clone(),
            bytes: weights.bytes(),
            tag,
        };
        Ok(Self { parts: Arc::new(parts), head, schedule, seed: options.seed, calls: 0 })
    }

    /// Cameras, state and action keys, and the key of the instruction.
    pub fn modality_config(&self) -> &Modalities {
        &self.parts.modalities
    }

    /// The embodiment's tag.
    pub fn tag(&self) -> &str {
        &self.parts.tag
    }

    /// Bytes that the weights take in memory.
    pub fn bytes(&self) -> u64 {
        self.parts.bytes
    }

    /// State keys with the values of one step, in the model's order; unknown for a key without statistics.
    pub fn state_widths(&self) -> impl Iterator<Item = (&str, Option<usize>)> {
        self.parts.normalisation.state_widths()
    }

    /// Action keys with the values of one step, in the model's order.
    pub fn action_widths(&self) -> impl Iterator<Item = (&str, usize)> {
        self.parts.normalisation.action_widths()
    }

    /// Shape of the noise that the actions of `batch` samples begin as.
    pub fn noise_shape(&self, batch: usize) -> [usize; 3] {
        [batch, self.parts.head_config.action_horizon, self.parts.head_config.max_action_dim]
    }

    /// Actions `[batch, steps, width]` by key, in the robot's units. The noise comes from the stream of this call, counted
    /// from the last reset.
    ///
    /// # Errors
    /// An observation that lacks a key or has another shape.
    pub fn act(&mut self, observation: &GrootObservation) -> Result<Keyed, NnError> {
        let noise = self.next_noise(self.parts.batch_of(observation)?);
        self.calls += 1;
        self.act_from(observation, noise)
    }

    /// The noise of the next call.
    pub(super) fn next_noise(&self, batch: usize) -> Vec<f32> {
        self.noise_of(self.calls, batch)
    }

    /// The noise of the call after `calls` others.
    fn noise_of(&self, calls: u64, batch: usize) -> Vec<f32> {
        let mut stream = w2a_data::stream(self.seed, &format!("groot/noise/{calls}"));
        normal(&mut stream, self.noise_shape(batch).iter().product())
    }

    /// [`Policy::act`] for several callers at once, who follow one another: each group is its caller's number of earlier
    /// calls and of observations. Each gets the noise that it would get alone, and up to rounding the same actions.
    ///
    /// # Errors
    /// As [`Policy::act`]; groups that are not as many observations; images that differ in size.
    pub fn act_in_groups(
        &self,
        observations: &[Observation],
        instructions: &[&str],
        groups: &[(u64, usize)],
    ) -> Result<Vec<f32>, NnError> {
        let batch = observations.len();
        if groups.iter().map(|(_, rows)| rows).sum::<usize>() != batch {
            return Err(wrong(
                "groups of a call of GR00T",
                format!("{batch} observations in all"),
                format!("{groups:?}"),
            ));
        }
        let observation = self.parts.gathered(observations, instructions)?;
        let noise = groups.iter().flat_map(|(calls, rows)| self.noise_of(*calls, *rows)).collect();
        let actions = self.act_from(&observation, noise)?;
        let horizon = self.parts.normalisation.horizon();
        let mut out = Vec::with_capacity(batch * horizon * self.parts.normalisation.action_dim());
        for row in 0..batch * horizon {
            for (key, width) in self.action_widths() {
                let values = actions.get(key).and_then(|array| array.data.get(row * width..(row + 1) * width));
                out.extend_from_slice(values.unwrap_or_default());
            }
        }
        Ok(out)
    }

    /// [`Groot::act`] from given noise, of [`Groot::noise_shape`] row-major.
    ///
    /// # Errors
    /// As [`Groot::act`], and noise of another size.
    pub fn act_from(&self, observation: &GrootObservation, noise: Vec<f32>) -> Result<Keyed, NnError> {
        let (action, by_sample) = self.denoised(observation, noise)?;
        let output = Array { shape: action.dims().to_vec(), data: values(action)? };
        let normalisation = &self.parts.normalisation;
        normalisation.decode(&normalisation.split(&output)?, &by_sample)
    }

    /// Normalised actions `[batch, steps, width]`, padding included, and the raw states they are for.
    pub(super) fn denoised(
        &self,
        observation: &GrootObservation,
        noise: Vec<f32>,
    ) -> Result<(Tensor<3>, Keyed), NnError> {
        let parts = &self.parts;
        let batch = parts.batch_of(observation)?;
        let shape = self.noise_shape(batch);
        if noise.len() != shape.iter().product::<usize>() {
            return Err(wrong("noise of GR00T", format!("{shape:?}"), format!("{} values", noise.len())));
        }
        let (states, by_sample) = parts.states(observation, batch)?;
        let features = parts.features(observation, batch)?;
        let context = self.head.context(&self.head.normalised(features));
        let state = self.head.state_tokens(states, &Rows::First);
        let nothing = &mut |_: &'static str, _: usize, _: &Tensor<3>| ();
        let noise = tensor(noise, shape, &parts.device);
        let schedule = match &self.schedule {
            Some(schedule) => schedule.clone(),
            None => self.head.schedule(&parts.head_config),
        };
        Ok((self.head.denoise(noise, state, &schedule, &context, &Rows::First, nothing), by_sample))
    }
}

/// What the model cannot take.
fn check_modalities(tag: &str, modalities: &Modalities, head: &HeadConfig) -> Result<(), NnError> {
    let language = &modalities.language;
    let rules = [
        (language.modality_keys.len() == 1 && language.delta_indices.len() == 1, "one language key of one step"),
        (!modalities.video.delta_indices.is_empty(), "at least one video step"),
        (!modalities.state.modality_keys.is_empty() && !modalities.state.delta_indices.is_empty(), "a state"),
        (
            (1..=head.action_horizon).contains(&modalities.action.delta_indices.len()),
            "as many action steps as the model has",
        ),
        (!modalities.action.modality_keys.is_empty(), "an action"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, rule)) => Err(wrong(format!("modality_configs of {tag}"), *rule, format!("{modalities:?}"))),
    }
}

impl Parts {
    /// Samples in an observation.
    pub(super) fn batch_of(&self, observation: &GrootObservation) -> Result<usize, NnError> {
        let key = &self.modalities.language.modality_keys[0];
        let known: Vec<&str> = observation.language.keys().map(String::as_str).collect();
        let instructions = observation.language.get(key).ok_or_else(|| {
            wrong("language of the observation", format!("key {key:?}"), format!("keys {}", known.join(", ")))
        })?;
        if instructions.is_empty() || instructions.iter().any(|steps| steps.len() != 1) {
            let got = format!("{:?}", instructions.iter().map(Vec::len).collect::<Vec<_>>());
            return Err(wrong(format!("language.{key}"), "at least one sample, with one instruction each", got));
        }
        Ok(instructions.len())
    }

    /// Normalised states `[batch, steps, width]`, and the raw ones.
    pub(super) fn states(&self, observation: &GrootObservation, batch: usize) -> Result<(Tensor<3>, Keyed), NnError> {
        let steps = self.modalities.state.delta_indices.len();
        let mut samples = vec![Keyed::new(); batch];
        let mut raw = Keyed::new();
        for (key, width) in self.normalisation.state_widths() {
            let what = format!("state.{key} of the observation");
            let known = || observation.state.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let array =
                observation.state.get(key).ok_or_else(|| wrong(&what, "values", format!("keys {}", known())))?;
            let expected = || format!("[{batch}, {steps}, {}]", width.map_or("any".into(), |width| width.to_string()));
            let found = match *array.shape.as_slice() {
                [b, t, d] if (b, t) == (batch, steps) && d > 0 && width.is_none_or(|width| width == d) => d,
                _ => return Err(wrong(what, expected(), format!("{:?}", array.shape))),
            };
            if array.data.len() != batch * steps * found {
                return Err(wrong(what, expected(), format!("{} values", array.data.len())));
            }
            if let Some(bad) = array.data.iter().find(|value| !value.is_finite()) {
                return Err(wrong(what, "finite values", bad.to_string()));
            }
            for (sample, data) in samples.iter_mut().zip(array.data.chunks_exact(steps * found)) {
                sample.insert(key.to_owned(), Array { shape: vec![steps, found], data: data.to_vec() });
            }
            raw.insert(key.to_owned(), array.clone());
        }
        let mut data = Vec::new();
        for sample in &samples {
            data.extend(self.normalisation.padded_state(sample)?.data);
        }
        Ok((tensor(data, [batch, steps, self.head_config.max_state_dim], &self.device), raw))
    }

    /// Features of frames and instructions.
    pub(super) fn features(&self, observation: &GrootObservation, batch: usize) -> Result<Features, NnError> {
        let patch = self.backbone.config().vision_config.patch_size;
        let merge = self.backbone.config().merge()?;
        let mut images = Vec::new();
        let mut prompts = Vec::with_capacity(batch);
        let key = &self.modalities.language.modality_keys[0];
        for sample in 0..batch {
            let mut counts = Vec::new();
            for step in 0..self.modalities.video.delta_indices.len() {
                for camera in &self.modalities.video.modality_keys {
                    let frame = self.frame(observation, camera, [batch, sample, step])?;
                    let seen = self.image.steps(&frame)?.resized;
                    let pixel =
                        |y: usize, x: usize, channel: usize| normalised(seen.data[(y * seen.width + x) * 3 + channel]);
                    let grid = [seen.height / patch, seen.width / patch];
                    counts.push(grid[0] / merge * (grid[1] / merge));
                    images.push(Patches { grid, values: patches(seen.height, seen.width, patch, pixel) });
                }
            }
            let words = &observation.language[key][sample][0];
            if words.len() > MAX_INSTRUCTION {
                let expected = format!("at most {MAX_INSTRUCTION} bytes");
                return Err(wrong(format!("instruction of sample {sample}"), expected, words.len().to_string()));
            }
            let words = if self.formalize_language { formalised(words) } else { words.clone() };
            prompts.push(self.tokenizer.encode(&prompt(&words, &counts)));
        }
        let tokens = TokenBatch::left_padded(&prompts, self.padding);
        self.backbone.forward(&tokens, &images, &mut |_, _| ())
    }

    fn frame(
        &self,
        observation: &GrootObservation,
        camera: &str,
        [batch, sample, step]: [usize; 3],
    ) -> Result<Rgb, NnError> {
        let what = format!("camera {camera:?} of the observation");
        let known = || observation.video.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let video = observation.video.get(camera).ok_or_else(|| {
            let expected = format!("frames of {}", self.modalities.video.modality_keys.join(" and "));
            wrong(&what, expected, format!("cameras {}", known()))
        })?;
        let [b, t, height, width, channels] = video.shape;
        let steps = self.modalities.video.delta_indices.len();
        let each = height.saturating_mul(width).saturating_mul(3);
        let whole = each.checked_mul(batch * steps);
        if (b, t, channels) != (batch, steps, 3) || whole != Some(video.data.len()) {
            let expected = format!("[{batch}, {steps}, height, width, 3] and as many bytes");
            return Err(wrong(what, expected, format!("{:?} and {} bytes", video.shape, video.data.len())));
        }
        let first = (sample * steps + step) * each;
        Rgb::new(height, width, video.data[first..first + each].to_vec())
    }
}

impl Policy for Groot {
    fn horizon(&self) -> usize {
        self.parts.normalisation.horizon()
    }

    fn action_dim(&self) -> usize {
        self.parts.normalisation.action_dim()
    }

    /// Cameras in the order of the checkpoint's video keys, proprioception as its state keys side by side; actions likewise.
    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        if observations.is_empty() && instructions.is_empty() {
            return Ok(Vec::new());
        }
        let out = self.act_in_groups(observations, instructions, &[(self.calls, observations.len())])?;
        self.calls += 1;
        Ok(out)
    }

    fn reset(&mut self) {
        self.calls = 0;
    }
}

impl Parts {
    /// Observations of an environment as the model's.
    pub(super) fn gathered(
        &self,
        observations: &[Observation],
        instructions: &[&str],
    ) -> Result<GrootObservation, NnError> {
        let batch = observations.len();
        if instructions.len() != batch
            || self.modalities.state.delta_indices.len() != 1
            || self.modalities.video.delta_indices.len() != 1
        {
            let expected = format!("{batch} instructions, and an embodiment that sees one step");
            return Err(wrong(
                "call of GR00T from an environment",
                expected,
                format!("{} instructions", instructions.len()),
            ));
        }
        let mut out = GrootObservation::default();
        for (index, name) in self.modalities.video.modality_keys.iter().enumerate() {
            let mut data = Vec::new();
            let mut size = None;
            for observation in observations {
                let camera = observation.cameras.get(index).filter(|camera| {
                    *size.get_or_insert((camera.height, camera.width)) == (camera.height, camera.width)
                });
                let camera = camera.ok_or_else(|| {
                    let keys = &self.modalities.video.modality_keys;
                    let expected = format!("{} cameras ({}), each of one size", keys.len(), keys.join(", "));
                    wrong("cameras of the environment", expected, observation.cameras.len().to_string())
                })?;
                data.extend_from_slice(&camera.rgb);
            }
            let (height, width) = size.unwrap_or_default();
            out.video.insert(name.clone(), Video { shape: [batch, 1, height, width, 3], data });
        }
        let widths: Option<Vec<(&str, usize)>> =
            self.normalisation.state_widths().map(|(key, width)| Some((key, width?))).collect();
        let widths = widths
            .ok_or_else(|| wrong("statistics.json", "the width of every state key", "a key without statistics"))?;
        let all: usize = widths.iter().map(|(_, width)| width).sum();
        if let Some(other) = observations.iter().find(|observation| observation.proprio.len() != all) {
            let expected = format!("{all} values, as the state keys of {} together", self.tag);
            return Err(wrong("proprioception of the environment", expected, other.proprio.len().to_string()));
        }
        let mut first = 0;
        for (key, width) in widths {
            let rows = observations.iter().flat_map(|observation| &observation.proprio[first..first + width]);
            out.state.insert(key.to_owned(), Array { shape: vec![batch, 1, width], data: rows.copied().collect() });
            first += width;
        }
        let key = self.modalities.language.modality_keys[0].clone();
        out.language.insert(key, instructions.iter().map(|words| vec![(*words).to_owned()]).collect());
        Ok(out)
    }
}
