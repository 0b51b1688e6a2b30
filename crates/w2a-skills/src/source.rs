//! Where demonstrations come from: the only place that knows how a dataset is read.

use std::path::Path;

use w2a_data::{Dataset, DatasetSpec, Episode, EpisodeReader};

use crate::error::SkillsError;

/// Demonstrations on disk; their metadata has been read, their frames have not.
pub(crate) struct Source {
    dataset: Dataset,
}

impl Source {
    /// Opens the dataset at `path`.
    pub fn open(path: &Path) -> Result<Self, SkillsError> {
        Ok(Self { dataset: Dataset::open(path)? })
    }

    /// What its episodes look like.
    pub fn spec(&self) -> &DatasetSpec {
        self.dataset.spec()
    }

    /// Number of demonstrations.
    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    /// Number of frames in all of them.
    pub fn frames(&self) -> usize {
        self.dataset.frames()
    }

    /// Changes when the demonstrations do.
    pub fn fingerprint(&self) -> Result<String, SkillsError> {
        Ok(self.dataset.fingerprint()?)
    }

    /// Reads demonstrations in any order, fastest in their own.
    pub fn reader(&self) -> Reader<'_> {
        Reader(self.dataset.reader())
    }
}

/// Reads the demonstrations of a [`Source`].
pub(crate) struct Reader<'a>(EpisodeReader<'a>);

impl Reader<'_> {
    /// Demonstration `index` with all its frames.
    pub fn read(&mut self, index: usize) -> Result<Episode, SkillsError> {
        self.0.read(index).map_err(|source| SkillsError::BadEpisode { episode: index, source })
    }
}
