//! DreamGen: imagined video, decoded to pixels, labelled by an inverse dynamics model, imitated.

use burn::module::Module;
use w2a_data::Episode;
use w2a_nn::{NnError, load_state, state_dict};
use w2a_world::GridVideo;

use crate::idm::Idm;

/// Episodes of imagined videos with the inverse dynamics model's actions and proprioception.
///
/// `cameras` are the names of the cameras side by side in the videos.
///
/// # Errors
/// A device that fails.
pub fn pseudo_episodes(
    idm: &Idm,
    videos: &[GridVideo],
    instructions: &[&str],
    cameras: &[&str],
    fps: u32,
) -> Result<Vec<Episode>, NnError> {
    let mut out = Vec::with_capacity(videos.len());
    for (index, (video, instruction)) in videos.iter().zip(instructions).enumerate() {
        let (actions, proprio) = idm.label(video, instruction)?;
        let steps = video.frames().saturating_sub(1).max(1);
        out.push(Episode {
            instruction: (*instruction).to_owned(),
            source: format!("imagined/{index}"),
            fps,
            cameras: cameras
                .iter()
                .enumerate()
                .map(|(at, name)| {
                    let mut camera = video.camera(at, cameras.len(), name);
                    camera.rgb.truncate(steps * camera.frame_len());
                    camera
                })
                .collect(),
            proprio_dim: proprio.len() / steps,
            proprio,
            action_dim: actions.len() / steps,
            actions,
        });
    }
    Ok(out)
}

/// Weights on the line from `base` to `tuned`: `base + gain (tuned - base)`. Gives fine-tuned baselines the same knob, and
/// the same label-free choice, as the residual's gain.
///
/// # Errors
/// Modules of different shape.
pub fn interpolate<M: Module>(base: &M, tuned: &M, gain: f32) -> Result<M, NnError> {
    let mut state = state_dict(base)?;
    for (name, array) in state_dict(tuned)? {
        let expected = array.shape;
        let Some(mixed) = state.get_mut(&name) else {
            return Err(NnError::MissingTensor { name, shape: expected });
        };
        if mixed.shape != expected {
            return Err(NnError::Shape { name, got: mixed.shape.clone(), expected });
        }
        for (value, tuned) in mixed.data.iter_mut().zip(array.data) {
            *value += gain * (tuned - *value);
        }
    }
    load_state(base.clone(), state)
}
