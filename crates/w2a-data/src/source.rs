//! Demonstrations of any kind that this crate reads, opened by what is inside.

use std::path::{Path, PathBuf};

use crate::{Dataset, DatasetError, DatasetSpec, Episode, Group, Hdf5Dataset, Hdf5Error, Profile};

/// A set of demonstrations: its structure has been read, no frame has been decoded.
pub enum Source {
    /// A LeRobot dataset; its version is in its `meta/info.json`.
    LeRobot(Dataset),
    /// HDF5 files; which source they come from is told by their keys.
    Hdf5(Hdf5Dataset),
}

/// Demonstrations that cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing that is known.
    #[error(
        "opening {}: this is no dataset; expected a folder with meta/info.json (LeRobot), an HDF5 file, or a folder \
         with .hdf5 files",
        path.display()
    )]
    Unknown {
        /// What was opened.
        path: PathBuf,
    },
    /// A LeRobot dataset.
    #[error(transparent)]
    LeRobot(#[from] DatasetError),
    /// HDF5 files.
    #[error(transparent)]
    Hdf5(#[from] Hdf5Error),
}

impl Source {
    /// Opens `path`: a folder with `meta/info.json` is a LeRobot dataset, any other folder is searched for HDF5 files, and
    /// a file must be HDF5. Names count for nothing but the endings `.hdf5` and `.h5` in a folder.
    ///
    /// # Errors
    /// [`SourceError`] if it is none of these, or not readable.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let path = path.as_ref();
        let unknown = || SourceError::Unknown { path: path.to_owned() };
        if path.join("meta/info.json").is_file() {
            return Ok(Self::LeRobot(Dataset::open(path)?));
        }
        match Hdf5Dataset::open(path) {
            Ok(dataset) => Ok(Self::Hdf5(dataset)),
            Err(Hdf5Error::NoFiles { .. } | Hdf5Error::NotHdf5 { .. }) => Err(unknown()),
            Err(error) => Err(error.into()),
        }
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        match self {
            Self::LeRobot(dataset) => dataset.path(),
            Self::Hdf5(dataset) => dataset.path(),
        }
    }

    /// What it is, such as `LeRobot` or `HDF5 (libero)`.
    pub fn format(&self) -> String {
        match self {
            Self::LeRobot(_) => "LeRobot".into(),
            Self::Hdf5(dataset) => format!("HDF5 ({})", dataset.profile()),
        }
    }

    /// What its episodes look like.
    pub fn spec(&self) -> &DatasetSpec {
        match self {
            Self::LeRobot(dataset) => dataset.spec(),
            Self::Hdf5(dataset) => dataset.spec(),
        }
    }

    /// Number of episodes.
    pub fn len(&self) -> usize {
        match self {
            Self::LeRobot(dataset) => dataset.len(),
            Self::Hdf5(dataset) => dataset.len(),
        }
    }

    /// Whether there is no episode.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All episodes in order, one in memory at a time. One that fails does not end the iteration.
    pub fn episodes(&self) -> Box<dyn ExactSizeIterator<Item = Result<Episode, SourceError>> + '_> {
        match self {
            Self::LeRobot(dataset) => Box::new(dataset.episodes().map(|episode| Ok(episode?))),
            Self::Hdf5(dataset) => Box::new(dataset.episodes().map(|episode| Ok(episode?))),
        }
    }

    /// The profile of HDF5 files.
    pub fn profile(&self) -> Option<Profile> {
        match self {
            Self::LeRobot(_) => None,
            Self::Hdf5(dataset) => Some(dataset.profile()),
        }
    }

    /// The named parts of the proprioception and of the actions; one part each where the source names none.
    pub fn groups(&self) -> (Vec<Group>, Vec<Group>) {
        let spec = self.spec();
        let whole = |name: &str, end: usize| match end {
            0 => Vec::new(),
            end => vec![Group { name: name.into(), start: 0, end }],
        };
        match self.profile() {
            Some(profile) => (profile.state_groups(), profile.action_groups(spec.action_dim)),
            None => (whole("state", spec.proprio_dim), whole("action", spec.action_dim)),
        }
    }
}
