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
    /// Names of the proprioception entries; the last is the gripper aperture in metres.
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
}
