//! Why clips could not be paired with actions.

use std::path::PathBuf;

use crate::{DatasetError, Hdf5Error};

/// Clips, skill ranges or actions that do not fit together; every message says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file system refused.
    #[error("{operation} {}: {source}; check that the path exists and is readable", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file name that is not of the layout.
    #[error("the clip {name:?} is not named {expected}; rename it or move it out of the folder")]
    Name {
        /// The file's name.
        name: String,
        /// The form that names of the layout have.
        expected: &'static str,
    },
    /// `video_metadata.json` is no JSON of the expected form.
    #[error("reading {}, line {line}: {source}; it has to be {{task: {{demo: {{index: {{start, end}}}}}}}}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A list of videos that cannot be used.
    #[error(
        "{}, line {line}: {what}; it has to have the columns video and prompt, and in each row a file below `videos` and \
         what it shows",
        file.display()
    )]
    Captions {
        /// The list.
        file: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A skill that ends before it starts or after its demonstration.
    #[error(
        "{}: skill {index} of demonstration {demo} of {task:?} is steps {start} to {end}, expected {expected}; mend the \
         file or cut the skills again",
        file.display()
    )]
    Range {
        /// The file.
        file: PathBuf,
        /// Name of the task.
        task: String,
        /// Number of the demonstration.
        demo: u64,
        /// Number of the skill.
        index: u64,
        /// First step.
        start: u64,
        /// Last step, inclusive.
        end: u64,
        /// What would be valid.
        expected: String,
    },
    /// A clip without actions.
    #[error("the clip {clip:?} shows {what}, which {} does not have; {next_step}", place.display())]
    Unpaired {
        /// The clip's name.
        clip: String,
        /// What it shows.
        what: String,
        /// Where it was looked for.
        place: PathBuf,
        /// What to do.
        next_step: &'static str,
    },
    /// Two sources of the same demonstration.
    #[error(
        "demonstration {demo} of {task:?} is in both {} and {}; keep one of them",
        files.0.display(),
        files.1.display()
    )]
    Ambiguous {
        /// Name of the task.
        task: String,
        /// Number of the demonstration.
        demo: u64,
        /// The two files.
        files: (PathBuf, PathBuf),
    },
    /// Actions that no window can be cut from.
    #[error("cutting a window: {what} is {got}, expected {expected}; leave the clip out or restore its actions")]
    Window {
        /// Which part.
        what: &'static str,
        /// What was found.
        got: usize,
        /// What was expected.
        expected: String,
    },
    /// The HDF5 files.
    #[error(transparent)]
    Hdf5(#[from] Hdf5Error),
    /// The LeRobot dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}
