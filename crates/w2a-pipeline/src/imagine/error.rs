//! What can be wrong with a folder of first frames and prompts, or with what imagines from it.

use std::path::PathBuf;

/// An input of `world imagine` or `world preview` that cannot be used. All of them are the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ImagineError {
    /// One episode of several.
    #[error("episode input {}: expected {expected}, got {got}; mend it, or go on without it with --skip-bad", path.display())]
    Episode {
        /// The file or folder.
        path: PathBuf,
        /// What would do.
        expected: String,
        /// What is there.
        got: String,
    },
    /// An input or an output as a whole.
    #[error("{}: expected {expected}, got {got}", path.display())]
    Place {
        /// The folder or file.
        path: PathBuf,
        /// What would do.
        expected: String,
        /// What is there.
        got: String,
    },
    /// No world model to imagine with.
    #[error(
        "no trained world model in {}: {reason}; --world takes the folder of a run in which \
         `world2act world --out {} --resume` has finished",
        path.display(),
        path.display()
    )]
    World {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// Prompts that Cosmos-Predict2 cannot read as they are.
    #[error(
        "{count} prompts are not embedded, the first is {first:?}; run `world2act world embed-prompts` with the same \
         input and settings"
    )]
    Prompts {
        /// How many.
        count: usize,
        /// The first.
        first: String,
    },
    /// A result that this program did not write, or not in this form, where one is to be written.
    #[error("{} exists already and {reason}; remove it, or choose another --out", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
}

impl ImagineError {
    /// An episode that cannot be used.
    pub(crate) fn episode(path: impl Into<PathBuf>, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self::Episode { path: path.into(), expected: expected.into(), got: got.into() }
    }
}
