//! What can go wrong in a simulator.

/// A request the simulator cannot carry out.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SimError {
    /// Text is not a scene id.
    #[error(
        "parse scene id {text:?}: {what}; expected suite/task/split/range/index such as object/0/eval/full/000012 \
         (suites object, spatial, goal, long; splits train, posttrain, tune, eval; ranges narrow, full)"
    )]
    SceneId {
        /// The text, cut after 80 characters.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// A suite has fewer tasks than the index asks for.
    #[error("scene of suite {suite}: task {task} does not exist, expected 0..{tasks}; list the tasks of the suite")]
    Task {
        /// Name of the suite.
        suite: &'static str,
        /// Index asked for.
        task: usize,
        /// Tasks the suite has.
        tasks: usize,
    },
    /// The action block has the wrong number of values.
    #[error(
        "step {batch} environments: got {got} action values, expected {expected} ({width} per environment); \
         reset to the scenes you mean to step, and pass one action per scene"
    )]
    ActionWidth {
        /// Environments in the batch.
        batch: usize,
        /// Values passed.
        got: usize,
        /// Values expected.
        expected: usize,
        /// Width of one action.
        width: usize,
    },
    /// An action value is NaN or infinite.
    #[error(
        "step environment {environment} (scene {scene}): action entry {entry} is {value}; check the policy's output"
    )]
    ActionNotFinite {
        /// Index in the batch.
        environment: usize,
        /// Id of the scene it runs.
        scene: String,
        /// Name of the action entry.
        entry: &'static str,
        /// The value.
        value: f32,
    },
    /// An index past the end of the batch.
    #[error("read environment {environment}: the batch has {batch}; reset to more scenes or use a smaller index")]
    NoEnvironment {
        /// Index asked for.
        environment: usize,
        /// Environments in the batch.
        batch: usize,
    },
    /// A recording does not hold together.
    #[error("record a demonstration: {error}")]
    Episode {
        /// What does not fit, and where.
        error: w2a_data::EpisodeError,
    },
}
