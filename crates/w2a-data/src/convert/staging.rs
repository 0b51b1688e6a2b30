//! Where a dataset is finished before it takes its place.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::ConvertError;

/// A hidden folder `.NAME.convert` beside the destination `NAME`.
///
/// [`crate::DatasetWriter`] moves its files into place at once; what comes on top of them is written in here between
/// that and the move to the destination.
pub struct Staging {
    folder: PathBuf,
    dataset: PathBuf,
    destination: PathBuf,
    /// Held while converting; the system releases it when the process ends, however it ends.
    _lock: File,
}

impl Staging {
    /// Claims `destination`, which must not exist, and removes what an interrupted conversion left.
    pub fn create(destination: &Path) -> Result<Self, ConvertError> {
        let what = "the output has no folder name; give one such as data/converted";
        let name = destination.file_name().ok_or(ConvertError::Options { what })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".convert");
        let folder = destination.with_file_name(hidden);
        std::fs::create_dir_all(&folder).map_err(ConvertError::io("creating", &folder))?;
        let lock_path = folder.join(".lock");
        let lock = File::create(&lock_path).map_err(ConvertError::io("creating", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ConvertError::Busy { path: destination.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(ConvertError::io("locking", &lock_path)(source)),
        }
        let dataset = folder.join(name);
        if dataset.is_dir() {
            std::fs::remove_dir_all(&dataset).map_err(ConvertError::io("removing", &dataset))?;
        }
        Ok(Self { folder, dataset, destination: destination.to_owned(), _lock: lock })
    }

    /// Where the dataset is written; does not exist yet.
    pub fn dataset(&self) -> &Path {
        &self.dataset
    }

    /// Moves the dataset to its destination. Its files must have been synced.
    pub fn commit(self) -> Result<(), ConvertError> {
        if self.destination.symlink_metadata().is_ok() {
            return Err(ConvertError::Exists { path: self.destination.clone() });
        }
        std::fs::rename(&self.dataset, &self.destination)
            .map_err(ConvertError::io("moving the finished dataset to", &self.destination))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Empty after a success, of no use after a failure; what cannot be removed now, the next conversion removes.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
