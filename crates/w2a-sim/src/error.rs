//! What can go wrong in a simulator.

/// A request the simulator cannot carry out.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SimError {
    /// Text is not a scene id.
    #[error(
        "parse scene id {text:?}: {what}; expected suite/task/split/range/index such as object/0/eval/full/000012 \
         or libero_object/0/eval/init/000012 (suites object, spatial, goal, long, libero_spatial, libero_object, \
         libero_goal, libero_10; splits train, posttrain, tune, eval; ranges narrow, full, init, seed, demo)"
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
    /// A suite has no scenes of that name.
    #[error(
        "scene {suite}/…/{split}/{range}/{index:06} does not exist; expected a range of narrow or full for the tabletop, \
         eval/init below 000050, seed below 1000000 or train/demo for LIBERO"
    )]
    Range {
        /// Name of the suite.
        suite: &'static str,
        /// Name of the split.
        split: &'static str,
        /// Name of the range.
        range: &'static str,
        /// Number of the scene.
        index: u32,
    },
    /// A scene of another simulator.
    #[error("building scene {scene}: the {here} cannot; a run of its suite needs {instead}")]
    Foreign {
        /// Id of the scene.
        scene: String,
        /// The simulator that was asked.
        here: &'static str,
        /// What to set.
        instead: &'static str,
    },
    /// A simulator in another process that does not do what it is asked to.
    #[error("{0}")]
    Remote(String),
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
