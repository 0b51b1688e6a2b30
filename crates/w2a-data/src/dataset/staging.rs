//! A folder that is filled beside its destination and takes its place in one step.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::error::DatasetError;

const LOCK: &str = ".lock";

/// The hidden folder `.NAME.partial` beside the destination `NAME`; removed when dropped before [`Staging::commit`].
pub(super) struct Staging {
    destination: PathBuf,
    partial: PathBuf,
    /// Held while writing; the system releases it when the process ends, however it ends.
    lock: Option<File>,
}

impl Staging {
    /// Claims `destination`, which must not exist, and removes what an interrupted writer left.
    pub fn create(destination: &Path) -> Result<Self, DatasetError> {
        let name = destination.file_name().ok_or_else(|| DatasetError::Specification {
            what: format!("the path {:?} has no folder name; give one such as data/demonstrations", destination),
        })?;
        let exists = || DatasetError::Exists { path: destination.to_owned() };
        // Not `exists()`: a dangling link would be overwritten.
        if destination.symlink_metadata().is_ok() {
            return Err(exists());
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        let partial = destination.with_file_name(hidden);
        std::fs::create_dir_all(&partial).map_err(DatasetError::io("creating", &partial))?;
        let lock_path = partial.join(LOCK);
        let lock = File::create(&lock_path).map_err(DatasetError::io("creating", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DatasetError::Busy { path: destination.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(DatasetError::io("locking", lock_path)(source)),
        }
        let staging = Self { destination: destination.to_owned(), partial, lock: Some(lock) };
        // Only the folders a writer makes: anything else here is not ours to remove.
        for stale in ["data", "meta", "videos"] {
            let stale = staging.partial.join(stale);
            if stale.symlink_metadata().is_ok() {
                std::fs::remove_dir_all(&stale).map_err(DatasetError::io("removing", &stale))?;
            }
        }
        Ok(staging)
    }

    /// Where the folder will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Where to write the file that will be `relative`; its folder is created.
    pub fn file(&self, relative: &Path) -> Result<PathBuf, DatasetError> {
        let path = self.partial.join(relative);
        let folder = path.parent().unwrap_or(&self.partial);
        std::fs::create_dir_all(folder).map_err(DatasetError::io("creating", folder))?;
        Ok(path)
    }

    /// Syncs the folders and moves the whole to its destination. The files must have been synced.
    pub fn commit(mut self) -> Result<(), DatasetError> {
        let lock_path = self.partial.join(LOCK);
        sync_folders(&self.partial)?;
        if self.destination.symlink_metadata().is_ok() {
            return Err(DatasetError::Exists { path: self.destination.clone() });
        }
        std::fs::remove_file(&lock_path).map_err(DatasetError::io("removing", lock_path))?;
        std::fs::rename(&self.partial, &self.destination)
            .map_err(DatasetError::io("moving the finished dataset to", &self.destination))?;
        self.lock = None;
        let parent = self.destination.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_folder(parent.unwrap_or(Path::new(".")))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.take().is_some() {
            // Nothing can be done about a failure here; the next writer removes what is left.
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}

fn sync_folders(folder: &Path) -> Result<(), DatasetError> {
    for entry in super::plan::children(folder)?.into_iter().filter(|entry| entry.is_dir()) {
        sync_folders(&entry)?;
    }
    sync_folder(folder)
}

/// Makes the names in a folder durable, where the system can (Windows cannot open folders as files).
fn sync_folder(folder: &Path) -> Result<(), DatasetError> {
    if cfg!(unix) {
        let opened = File::open(folder).map_err(DatasetError::io("opening", folder))?;
        opened.sync_all().map_err(DatasetError::io("syncing", folder))?;
    }
    Ok(())
}
