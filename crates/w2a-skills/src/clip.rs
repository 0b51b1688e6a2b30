//! A skill as an episode of its own.

use std::ops::Range;

use w2a_data::{Camera, Episode};

use crate::matching::Clip;

/// The episode of clip `number` of `clips`, with its prompt as the instruction and its origin as the source.
///
/// Row `i` of it is row `clip.frames.start + i` of the demonstration. Frames past the demonstration's end are left out.
pub(crate) fn episode_of(demonstration: &Episode, index: usize, number: usize, clips: usize, clip: &Clip) -> Episode {
    let frames = clip.frames.start..clip.frames.end.min(demonstration.len());
    let camera = |camera: &Camera| Camera {
        name: camera.name.clone(),
        height: camera.height,
        width: camera.width,
        rgb: rows(&camera.rgb, camera.frame_len(), &frames),
    };
    Episode {
        instruction: clip.prompt.clone(),
        source: source_of(&demonstration.source, index, number, clips, &frames),
        fps: demonstration.fps,
        cameras: demonstration.cameras.iter().map(camera).collect(),
        proprio_dim: demonstration.proprio_dim,
        proprio: rows(&demonstration.proprio, demonstration.proprio_dim, &frames),
        action_dim: demonstration.action_dim,
        actions: rows(&demonstration.actions, demonstration.action_dim, &frames),
    }
}

/// Where a clip comes from: `episode=3 frames=0..37 skill=1/2 object/0/train/full/000003`; frames are half-open, the
/// demonstration's own source comes last because it may be any text.
fn source_of(source: &str, index: usize, number: usize, clips: usize, frames: &Range<usize>) -> String {
    let place = format!("episode={index} frames={}..{} skill={}/{clips}", frames.start, frames.end, number + 1);
    if source.is_empty() { place } else { format!("{place} {source}") }
}

fn rows<T: Clone>(values: &[T], width: usize, frames: &Range<usize>) -> Vec<T> {
    values.get(frames.start * width..frames.end * width).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_put_together_are_the_demonstration() {
        let rgb: Vec<u8> = (0..10 * 2 * 3).collect();
        let demonstration = Episode {
            instruction: "all".into(),
            source: "scene 4".into(),
            fps: 20,
            cameras: vec![Camera { name: "agent".into(), height: 1, width: 2, rgb: rgb.clone() }],
            proprio_dim: 2,
            proprio: (0..20_u8).map(f32::from).collect(),
            action_dim: 1,
            actions: (0..10_u8).map(f32::from).collect(),
        };
        let clip = |frames| Clip { prompt: "part".into(), frames, segment: 0 };
        let one = episode_of(&demonstration, 7, 0, 2, &clip(0..4));
        let two = episode_of(&demonstration, 7, 1, 2, &clip(4..10));
        one.validate().unwrap();
        two.validate().unwrap();
        assert_eq!([one.cameras[0].rgb.clone(), two.cameras[0].rgb.clone()].concat(), rgb);
        assert_eq!([one.proprio, two.proprio].concat(), demonstration.proprio);
        assert_eq!([one.actions, two.actions.clone()].concat(), demonstration.actions);
        assert_eq!(two.actions[0], 4.0);
        assert_eq!(
            (two.instruction.as_str(), two.source.as_str()),
            ("part", "episode=7 frames=4..10 skill=2/2 scene 4")
        );
    }

    #[test]
    fn frames_that_do_not_exist_are_left_out() {
        let demonstration = Episode {
            instruction: String::new(),
            source: String::new(),
            fps: 1,
            cameras: Vec::new(),
            proprio_dim: 0,
            proprio: Vec::new(),
            action_dim: 1,
            actions: vec![1.0, 2.0],
        };
        let clip = Clip { prompt: "part".into(), frames: 1..9, segment: 0 };
        assert_eq!(episode_of(&demonstration, 0, 0, 1, &clip).actions, [2.0]);
    }
}
