//! The contract every environment keeps: batched reset to named scenes, and step.

use w2a_data::Observation;

use crate::{Scene, SimError};

/// One camera of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameraSpec {
    /// Name, such as `agent` or `wrist`.
    pub name: String,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// What an environment shows and takes.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentSpec {
    /// Cameras, in the order of [`Observation::cameras`].
    pub cameras: Vec<CameraSpec>,
    /// Names of the proprioception entries.
    pub proprio: Vec<String>,
    /// Names of the action entries.
    pub action: Vec<String>,
    /// Control steps per second.
    pub control_hz: u32,
}

/// What one control step led to.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// The observation after the step.
    pub observation: Observation,
    /// Whether the task's success predicate holds after the step.
    pub success: bool,
}

/// Scenes with their places, in batches of at most `capacity`. Where one is not enough they come task by task, for an
/// environment that is built anew for another task is slow to build.
pub fn batches(scenes: &[Scene], capacity: usize) -> Vec<Vec<(usize, Scene)>> {
    let mut all: Vec<(usize, Scene)> = scenes.iter().copied().enumerate().collect();
    if capacity < all.len() {
        all.sort_by_key(|(place, scene)| (scene.suite(), scene.task(), *place));
    }
    all.chunks(capacity.max(1)).map(<[_]>::to_vec).collect()
}

/// A batch of independent environments that run in lockstep.
pub trait Environment {
    /// What is shown and taken.
    fn spec(&self) -> &EnvironmentSpec;

    /// Starts one episode per scene; the batch size becomes `scenes.len()`.
    ///
    /// # Errors
    /// If a scene cannot be built, naming it.
    fn reset(&mut self, scenes: &[Scene]) -> Result<Vec<Observation>, SimError>;

    /// Executes one action per environment, `actions` being `[batch, action]` row-major.
    ///
    /// # Errors
    /// If the number of values differs from batch times action width, or one is not finite (naming the environment).
    fn step(&mut self, actions: &[f32]) -> Result<Vec<StepOutcome>, SimError>;

    /// As [`Self::step`] where nobody looks: an environment to which images are dear leaves them out of the outcomes.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn step_unseen(&mut self, actions: &[f32]) -> Result<Vec<StepOutcome>, SimError> {
        self.step(actions)
    }

    /// How many environments can run side by side.
    fn capacity(&self) -> usize {
        usize::MAX
    }

    /// Nothing that environment `index` of the batch still does until the next reset matters to anyone: it may stand
    /// still, and whatever it reports will do.
    fn dismiss(&mut self, index: usize) {
        let _ = index;
    }
}
