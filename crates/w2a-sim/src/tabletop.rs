//! The embedded environment: independent tables in lockstep on explicit threads.

use w2a_data::Observation;

use crate::environment::{CameraSpec, Environment, EnvironmentSpec, StepOutcome};
use crate::view::{self, IMAGE_SIZE, View};
use crate::world::{PrivilegedState, World};
use crate::{Scene, SimError};

/// Width of an action.
pub const ACTION_WIDTH: usize = 7;
/// Width of a proprioception row.
pub const PROPRIO_WIDTH: usize = 11;
/// Control steps per second.
pub const CONTROL_HZ: u32 = 20;

/// Names of the action entries.
///
/// All are normalised to `[-1, 1]`, and values outside are clamped: `x, y, z` move the hand's target by at most
/// [`crate::METRES_PER_STEP`] along the world's axes, `roll, pitch, yaw` turn it by at most
/// [`crate::RADIANS_PER_STEP`] (roll and pitch stay within [`crate::MAX_TILT`]), `gripper` closes at +1 and opens at
/// -1, reaching its full force at half of that.
pub const ACTION_NAMES: [&str; ACTION_WIDTH] = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"];

/// Names of the proprioception entries: tool centre (m), roll and pitch (rad), yaw, velocity (m/s), aperture (m).
pub const PROPRIO_NAMES: [&str; PROPRIO_WIDTH] =
    ["x", "y", "z", "roll", "pitch", "yaw_sin", "yaw_cos", "vx", "vy", "vz", "aperture"];

/// A batch of simulated tables.
///
/// Each table's trajectory depends only on its scene and its actions: neither the number of threads nor the rest of
/// the batch changes a bit of it.
pub struct Tabletop {
    spec: EnvironmentSpec,
    threads: usize,
    worlds: Vec<World>,
}

impl Tabletop {
    /// An empty batch that will run on `threads` threads (0 counts as 1).
    pub fn new(threads: usize) -> Self {
        let camera = |view: View| CameraSpec { name: view.name().to_owned(), height: IMAGE_SIZE, width: IMAGE_SIZE };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let spec = EnvironmentSpec {
            cameras: View::ALL.into_iter().map(camera).collect(),
            proprio: names(&PROPRIO_NAMES),
            action: names(&ACTION_NAMES),
            control_hz: CONTROL_HZ,
        };
        Self { spec, threads: threads.max(1), worlds: Vec::new() }
    }

    /// Number of environments.
    pub fn batch(&self) -> usize {
        self.worlds.len()
    }

    /// What a policy must not see: the exact state of one table, for experts and diagnostics.
    ///
    /// # Errors
    /// [`SimError::NoEnvironment`] if `environment` is past the end of the batch.
    pub fn privileged(&self, environment: usize) -> Result<PrivilegedState, SimError> {
        self.world(environment).map(World::privileged)
    }

    /// Names and positions (metres) of the things on one table.
    ///
    /// # Errors
    /// [`SimError::NoEnvironment`] if `environment` is past the end of the batch.
    pub fn object_positions(&self, environment: usize) -> Result<Vec<(String, [f32; 3])>, SimError> {
        let objects = self.privileged(environment)?.objects;
        Ok(objects.into_iter().map(|(name, position, _)| (name, position)).collect())
    }

    /// Draws one table at any size: RGB bytes, `[size, size, 3]`, top row first.
    ///
    /// # Errors
    /// [`SimError::NoEnvironment`] if `environment` is past the end of the batch.
    pub fn render(&self, environment: usize, view: View, size: usize) -> Result<Vec<u8>, SimError> {
        self.world(environment).map(|world| view::render(world, view, size))
    }

    fn world(&self, environment: usize) -> Result<&World, SimError> {
        self.worlds.get(environment).ok_or(SimError::NoEnvironment { environment, batch: self.worlds.len() })
    }
}

/// Refuses a scene that lies on no tabletop.
pub(crate) fn own(scene: &Scene) -> Result<(), SimError> {
    if scene.suite().is_libero() {
        let (here, instead) = ("embedded tabletop", "env.kind = \"libero\"");
        return Err(SimError::Foreign { scene: scene.to_string(), here, instead });
    }
    Ok(())
}

pub(crate) fn observe(world: &World) -> Observation {
    Observation { cameras: view::cameras(world), proprio: world.proprio().to_vec() }
}

impl Environment for Tabletop {
    fn spec(&self) -> &EnvironmentSpec {
        &self.spec
    }

    fn reset(&mut self, scenes: &[Scene]) -> Result<Vec<Observation>, SimError> {
        scenes.iter().try_for_each(own)?;
        let mut scenes = scenes.to_vec();
        let started = spread(self.threads, &mut scenes, |_, scene| {
            let world = World::new(*scene);
            let observation = observe(&world);
            (world, observation)
        });
        let (worlds, observations) = started.into_iter().unzip();
        self.worlds = worlds;
        Ok(observations)
    }

    fn step(&mut self, actions: &[f32]) -> Result<Vec<StepOutcome>, SimError> {
        let batch = self.worlds.len();
        let (rows, rest) = actions.as_chunks::<ACTION_WIDTH>();
        if rows.len() != batch || !rest.is_empty() {
            let expected = batch * ACTION_WIDTH;
            return Err(SimError::ActionWidth { batch, got: actions.len(), expected, width: ACTION_WIDTH });
        }
        if let Some(bad) = actions.iter().position(|value| !value.is_finite()) {
            let environment = bad / ACTION_WIDTH;
            return Err(SimError::ActionNotFinite {
                environment,
                scene: self.worlds[environment].scene.to_string(),
                entry: ACTION_NAMES[bad % ACTION_WIDTH],
                value: actions[bad],
            });
        }
        Ok(spread(self.threads, &mut self.worlds, |index, world| {
            world.advance(rows[index]);
            StepOutcome { observation: observe(world), success: world.success() }
        }))
    }
}

/// Applies `work` to each item, in contiguous shares on `threads` threads; results in order.
pub(crate) fn spread<T: Send, R: Send>(
    threads: usize,
    items: &mut [T],
    work: impl Fn(usize, &mut T) -> R + Sync,
) -> Vec<R> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    if share >= items.len() {
        return items.iter_mut().enumerate().map(|(index, item)| work(index, item)).collect();
    }
    let work = &work;
    std::thread::scope(|scope| {
        let handles: Vec<_> = items
            .chunks_mut(share)
            .enumerate()
            .map(|(chunk, items)| {
                scope.spawn(move || {
                    let numbered = items.iter_mut().enumerate();
                    numbered.map(|(index, item)| work(chunk * share + index, item)).collect::<Vec<R>>()
                })
            })
            .collect();
        let results = handles.into_iter().flat_map(|handle| match handle.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.collect()
    })
}
