//! Demonstrations of any kind that this crate reads, opened by what is inside.

use std::path::{Path, PathBuf};

use crate::{
    Dataset, DatasetError, DatasetSpec, Episode, EpisodeReader, Group, Hdf5Dataset, Hdf5Error, Hdf5Reader,
    ModalitySlice,
};

/// A set of demonstrations: its structure has been read, no frame has been decoded.
#[expect(clippy::large_enum_variant, reason = "there is one per program")]
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
        "opening {}: there is no dataset; expected a folder with meta/info.json (LeRobot), an HDF5 file, or a folder \
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
        Self::open_with(path.as_ref(), |path| Dataset::open(path))
    }

    /// Like [`Source::open`], but an episode without frames, or whose files are missing, is an error only when it is read.
    ///
    /// # Errors
    /// As [`Source::open`], of what concerns all episodes.
    pub fn open_in_part(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        Self::open_with(path.as_ref(), |path| Dataset::open_in_part(path))
    }

    fn open_with(path: &Path, open: impl FnOnce(&Path) -> Result<Dataset, DatasetError>) -> Result<Self, SourceError> {
        let unknown = || SourceError::Unknown { path: path.to_owned() };
        if path.join("meta/info.json").is_file() {
            return Ok(Self::LeRobot(open(path)?));
        }
        if !path.exists() {
            return Err(unknown());
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

    /// Reads episodes in any order, fastest in their own.
    pub fn reader(&self) -> SourceReader<'_> {
        match self {
            Self::LeRobot(dataset) => SourceReader::LeRobot(dataset.reader()),
            Self::Hdf5(dataset) => SourceReader::Hdf5(dataset.reader()),
        }
    }

    /// Changes when the demonstrations do; see [`Dataset::fingerprint`] and [`Hdf5Dataset::fingerprint`].
    ///
    /// # Errors
    /// [`SourceError`] if a file cannot be read.
    pub fn fingerprint(&self) -> Result<String, SourceError> {
        match self {
            Self::LeRobot(dataset) => Ok(dataset.fingerprint()?),
            Self::Hdf5(dataset) => Ok(dataset.fingerprint()?),
        }
    }

    /// All episodes in order, one in memory at a time. One that fails does not end the iteration.
    pub fn episodes(&self) -> Box<dyn ExactSizeIterator<Item = Result<Episode, SourceError>> + '_> {
        match self {
            Self::LeRobot(dataset) => Box::new(dataset.episodes().map(|episode| Ok(episode?))),
            Self::Hdf5(dataset) => Box::new(dataset.episodes().map(|episode| Ok(episode?))),
        }
    }

    /// The named parts of the proprioception and of the actions, by their first entry: those of the HDF5 source, or of
    /// `meta/modality.json`; one part each where nothing names any.
    pub fn groups(&self) -> (Vec<Group>, Vec<Group>) {
        let spec = self.spec();
        let dataset = match self {
            Self::Hdf5(dataset) => {
                return (dataset.profile().state_groups(), dataset.profile().action_groups(spec.action_dim));
            }
            Self::LeRobot(dataset) => dataset,
        };
        let groups = |slices: &[ModalitySlice], key: &str, whole: &str, width: usize| {
            let of = |slice: &ModalitySlice| Group { name: slice.name.clone(), start: slice.start, end: slice.end };
            let mut groups: Vec<Group> = slices.iter().filter(|slice| slice.key == key).map(of).collect();
            groups.sort_by_key(|group| group.start);
            if groups.is_empty() && width > 0 {
                groups.push(Group { name: whole.into(), start: 0, end: width });
            }
            groups
        };
        let (state, action) = dataset.modality().map_or((&[][..], &[][..]), |said| (&said.state, &said.action));
        let state = groups(state, "observation.state", "state", spec.proprio_dim);
        (state, groups(action, "action", "action", spec.action_dim))
    }

    /// The name that GR00T's configurations have for the camera `name`.
    pub fn gr00t_camera<'a>(&'a self, name: &'a str) -> &'a str {
        match self {
            Self::Hdf5(dataset) => dataset.profile().gr00t_camera(name),
            Self::LeRobot(dataset) => {
                let is_this = |key: &str| key.strip_prefix("observation.images.").unwrap_or(key) == name;
                let videos = dataset.modality().map_or(&[][..], |said| &said.video);
                videos.iter().find(|video| is_this(&video.key)).map_or(name, |video| &video.name)
            }
        }
    }
}

/// Reads the episodes of a [`Source`].
pub enum SourceReader<'a> {
    /// Of a LeRobot dataset; keeps what it decoded last.
    LeRobot(EpisodeReader<'a>),
    /// Of HDF5 files; keeps the last one open.
    Hdf5(Hdf5Reader<'a>),
}

impl SourceReader<'_> {
    /// Episode `index` with all its frames.
    ///
    /// # Errors
    /// [`SourceError`] if there is no such episode, or it cannot be read.
    pub fn read(&mut self, index: usize) -> Result<Episode, SourceError> {
        match self {
            Self::LeRobot(reader) => Ok(reader.read(index)?),
            Self::Hdf5(reader) => Ok(reader.read(index)?),
        }
    }
}
