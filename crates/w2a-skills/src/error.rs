//! What can end a cut.

use std::path::PathBuf;

use w2a_data::{DatasetError, SourceError};
use w2a_report::{ImageError, WriteError};

use crate::chat::ChatError;

/// Why no skill dataset was made; every message says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum SkillsError {
    /// A setting that cannot be.
    #[error("{key}: expected {expected}, got {got}")]
    Config {
        /// The setting, dotted.
        key: String,
        /// What would do.
        expected: String,
        /// What is there.
        got: String,
    },
    /// The schema of prompts cannot be used.
    #[error("reading the prompts {}: {reason}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// There is a result already.
    #[error("{} already holds a skill dataset; choose another --out, or remove it", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The demonstrations cannot be opened.
    #[error(transparent)]
    Source(Box<SourceError>),
    /// The skills cannot be written.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A demonstration cannot be read.
    #[error("demonstration {episode} cannot be read: {source}; --skip-bad goes on without it and counts it")]
    BadEpisode {
        /// Which one.
        episode: usize,
        /// Why.
        source: Box<SourceError>,
    },
    /// The language model.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// No demonstration was kept.
    #[error(
        "no demonstration of {demonstrations} could be cut into its prompts, most often because {reason}; look at {}, \
         then at the thresholds and the prompts", page.display()
    )]
    NothingKept {
        /// How many there were.
        demonstrations: usize,
        /// The most frequent reason.
        reason: String,
        /// The page that shows them.
        page: PathBuf,
    },
    /// A picture of the page.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file of the result.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl SkillsError {
    /// Whether the user can mend it (exit code 2) or it is ours or the machine's (exit code 1).
    pub fn is_users_mistake(&self) -> bool {
        match self {
            Self::Image(_) => false,
            Self::Write(error) => error.source.kind() == std::io::ErrorKind::PermissionDenied,
            Self::Chat(error) => error.is_users_mistake(),
            _ => true,
        }
    }
}

impl From<SourceError> for SkillsError {
    fn from(error: SourceError) -> Self {
        Self::Source(Box::new(error))
    }
}
