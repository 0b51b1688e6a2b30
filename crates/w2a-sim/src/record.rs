//! Demonstrations: the expert's episodes, recorded.

use std::sync::atomic::{AtomicUsize, Ordering};

use w2a_data::{Camera, Episode, Observation};

use crate::expert::Expert;
use crate::tabletop::{ACTION_WIDTH, CONTROL_HZ, PROPRIO_WIDTH, observe, own, spread};
use crate::world::World;
use crate::{Scene, SimError};

/// A recorded demonstration.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// [`crate::TaskInfo::demo_steps`] control steps; `source` is the scene id.
    pub episode: Episode,
    /// The observation after the last action.
    pub last: Observation,
    /// Whether the task's goal held after the last action.
    pub success: bool,
}

/// Records the expert on one scene.
///
/// # Errors
/// [`SimError::Episode`] if the simulation left the finite numbers, [`SimError::Foreign`] for a scene of LIBERO.
pub fn record(scene: Scene, noise_seed: u64) -> Result<Recording, SimError> {
    own(&scene)?;
    let info = scene.task_info();
    let mut world = World::new(scene);
    let mut expert = Expert::new(&scene, noise_seed);
    let mut now = observe(&world);
    let cameras = now.cameras.iter().map(|camera| {
        let rgb = Vec::with_capacity(camera.rgb.len() * info.demo_steps);
        Camera { name: camera.name.clone(), rgb, ..*camera }
    });
    let mut episode = Episode {
        instruction: info.instruction.to_owned(),
        source: scene.to_string(),
        fps: CONTROL_HZ,
        cameras: cameras.collect(),
        proprio_dim: PROPRIO_WIDTH,
        proprio: Vec::new(),
        action_dim: ACTION_WIDTH,
        actions: Vec::new(),
    };
    for step in 0..info.demo_steps {
        let action = expert.action(&world.privileged(), step);
        for (all, camera) in episode.cameras.iter_mut().zip(&now.cameras) {
            all.rgb.extend_from_slice(&camera.rgb);
        }
        episode.proprio.extend_from_slice(&now.proprio);
        episode.actions.extend_from_slice(&action);
        world.advance(action);
        now = observe(&world);
    }
    episode.validate().map_err(|error| SimError::Episode { error })?;
    Ok(Recording { episode, last: now, success: world.success() })
}

/// Records the expert on many scenes, on `threads` threads (0 counts as 1); results in the order of `scenes`.
///
/// # Errors
/// The first error of [`record`] in the order of `scenes`.
pub fn record_many(scenes: &[Scene], noise_seed: u64, threads: usize) -> Result<Vec<Recording>, SimError> {
    // Episodes of a task take equally long but tasks do not: threads draw the next scene instead of fixed shares.
    let next = AtomicUsize::new(0);
    let mut workers = vec![(); threads.clamp(1, scenes.len().max(1))];
    let done = spread(workers.len(), &mut workers, |_, ()| {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(&scene) = scenes.get(index) else { return done };
            done.push((index, record(scene, noise_seed)));
        }
    });
    let mut all: Vec<_> = done.into_iter().flatten().collect();
    all.sort_by_key(|&(index, _)| index);
    all.into_iter().map(|(_, recording)| recording).collect()
}
