//! Between datasets and GR00T: which part of a dataset is which key of the policy.

use std::path::Path;

use w2a_data::{Episode, Group, Observation, Source};
use w2a_nn::{Array, Init, NnError};
use w2a_policy::groot::{Groot, GrootObservation, GrootOptions, Video};
use w2a_posttrain::Lora;

use crate::PipelineError;

/// Loads a checkpoint, with a LoRA adapter if one is given.
pub(crate) fn load(
    checkpoint: &Path,
    embodiment: &str,
    options: &GrootOptions,
    adapter: Option<&Path>,
) -> Result<Groot, PipelineError> {
    let groot = Groot::load(checkpoint, embodiment, options)?;
    let Some(adapter) = adapter else { return Ok(groot) };
    let mut rng = w2a_data::stream(0, "load");
    let lora = Lora::load_peft(adapter, &groot, &mut Init { rng: &mut rng, device: &options.device })?;
    Ok(lora.apply(&groot, 1.0)?)
}

/// Where the dataset has what the policy asks for.
pub(crate) struct Layout {
    /// Place of each of the policy's cameras among the dataset's, by key.
    cameras: Vec<(String, usize)>,
    state: Vec<(String, Group)>,
    /// Parts of an action by key, in the policy's order.
    pub action: Vec<(String, Group)>,
    language: String,
    /// Frames that the policy sees, relative to now.
    pub video_steps: Vec<i64>,
    /// States that the policy sees, relative to now.
    pub state_steps: Vec<i64>,
    /// Actions that it gives, relative to now.
    pub action_steps: Vec<i64>,
}

/// What the policy is to see of one step of an episode.
pub(crate) struct Sample {
    /// All cameras, at each of the policy's video steps.
    pub frames: Vec<Observation>,
    /// The whole proprioception, at each of its state steps.
    pub states: Vec<Vec<f32>>,
    /// The instruction.
    pub instruction: String,
}

/// A step of an episode; before the start and past the end the first and last one stay.
pub(crate) fn nearby(now: usize, delta: i64, len: usize) -> usize {
    (now as i64).saturating_add(delta).clamp(0, len as i64 - 1) as usize
}

impl Layout {
    /// Finds every key of the policy in the dataset.
    pub fn new(groot: &Groot, source: &Source) -> Result<Self, PipelineError> {
        let modalities = groot.modality_config();
        let names: Vec<&str> = source.spec().cameras.iter().map(|camera| source.gr00t_camera(&camera.name)).collect();
        let mut cameras = Vec::new();
        for key in &modalities.video.modality_keys {
            let place = names.iter().position(|name| name == key).ok_or_else(|| {
                let expected = format!("{key:?}, which the checkpoint sees; name it in meta/modality.json");
                missing("cameras of the dataset".into(), expected, names.join(", "))
            })?;
            cameras.push((key.clone(), place));
        }
        let (state, action) = source.groups();
        let state = groot.state_widths().map(|(key, width)| group("state", &state, key, width));
        let action = groot.action_widths().map(|(key, width)| group("action", &action, key, Some(width)));
        Ok(Self {
            cameras,
            state: state.collect::<Result<_, _>>()?,
            action: action.collect::<Result<_, _>>()?,
            language: modalities.language.modality_keys.first().cloned().unwrap_or_default(),
            video_steps: modalities.video.delta_indices.clone(),
            state_steps: modalities.state.delta_indices.clone(),
            action_steps: modalities.action.delta_indices.clone(),
        })
    }

    /// A step of an episode in memory.
    pub fn sample(&self, episode: &Episode, now: usize) -> Sample {
        let at = |delta: &i64| nearby(now, *delta, episode.len());
        Sample {
            frames: self.video_steps.iter().map(|delta| episode.observation(at(delta))).collect(),
            states: self.state_steps.iter().map(|delta| episode.proprio(at(delta)).to_vec()).collect(),
            instruction: episode.instruction.clone(),
        }
    }

    /// A batch for the policy.
    ///
    /// # Errors
    /// Cameras of unequal sizes.
    pub fn observation(&self, samples: &[Sample]) -> Result<GrootObservation, PipelineError> {
        let batch = samples.len();
        let mut out = GrootObservation::default();
        for (key, place) in &self.cameras {
            let frames = samples.iter().flat_map(|sample| &sample.frames);
            let (mut data, mut size) = (Vec::new(), None);
            for frame in frames {
                let camera = frame.cameras.get(*place);
                let camera =
                    camera.filter(|one| *size.get_or_insert((one.height, one.width)) == (one.height, one.width));
                let camera = camera.ok_or_else(|| {
                    missing(format!("camera {key:?} of the dataset"), "frames of one size".into(), "others".into())
                })?;
                data.extend_from_slice(&camera.rgb);
            }
            let (height, width) = size.unwrap_or_default();
            out.video.insert(key.clone(), Video { shape: [batch, self.video_steps.len(), height, width, 3], data });
        }
        for (key, group) in &self.state {
            let rows = samples.iter().flat_map(|sample| &sample.states);
            let data = rows.flat_map(|row| &row[group.start..group.end]).copied().collect();
            let shape = vec![batch, self.state_steps.len(), group.end - group.start];
            out.state.insert(key.clone(), Array { shape, data });
        }
        let words = samples.iter().map(|sample| vec![sample.instruction.clone()]);
        out.language.insert(self.language.clone(), words.collect());
        Ok(out)
    }
}

fn missing(what: String, expected: String, got: String) -> PipelineError {
    NnError::Input { what, expected, got }.into()
}

/// The part of the dataset that `key` names.
fn group(what: &str, groups: &[Group], key: &str, width: Option<usize>) -> Result<(String, Group), PipelineError> {
    let found = groups.iter().find(|group| group.name == key);
    let found = found.filter(|group| width.is_none_or(|width| group.end - group.start == width));
    let found = found.ok_or_else(|| {
        let width = width.map_or_else(|| "any".into(), |width| width.to_string());
        let names = groups.iter().map(|group| format!("{} {}", group.name, group.end - group.start));
        let expected = format!("{key:?} of width {width}, as the checkpoint; name it in meta/modality.json");
        missing(format!("{what} keys of the dataset"), expected, names.collect::<Vec<_>>().join(", "))
    })?;
    Ok((key.to_owned(), found.clone()))
}
