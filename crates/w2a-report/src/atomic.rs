//! Files that are either the old one or the new one, never half of one.
//!
//! This module depends on the standard library only.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that could not be written. The previous file of that name, if any, is untouched.
#[derive(Debug)]
pub struct WriteError {
    /// What was being done: `create`, `write`, `sync` or `rename`.
    pub operation: &'static str,
    /// The system's reason.
    pub source: io::Error,
    /// The file that was to be written.
    pub path: PathBuf,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} the file: ", self.operation)?;
        match self.source.kind() {
            io::ErrorKind::StorageFull => {
                f.write_str(
                    "the disk is full; free some space (or choose another output folder) and run again with --resume",
                )?;
            }
            io::ErrorKind::QuotaExceeded => {
                f.write_str("the disk quota is used up; free some space (or choose another output folder) and run again with --resume")?;
            }
            io::ErrorKind::PermissionDenied => {
                f.write_str("permission denied; choose an output folder you may write to")?;
            }
            _ => write!(f, "{}", self.source)?,
        }
        write!(f, ": {}", self.path.display())
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Replaces the file at `path` by `bytes`, or leaves it as it was.
///
/// The bytes go to a temporary sibling, which is synced and then renamed over `path`; the folder is synced last, so
/// that the file survives a power cut once this returns. Missing parent folders are created.
///
/// # Errors
/// [`WriteError`] with the operation that failed; the temporary sibling is removed.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), WriteError> {
    let path = path.as_ref();
    let fail = |operation| move |source| WriteError { operation, source, path: path.to_owned() };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(name) = path.file_name() else {
        return Err(fail("create")(io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name")));
    };
    fs::create_dir_all(parent).map_err(fail("create"))?;
    // The process id keeps two runs that share a folder from writing into each other's temporary file.
    let mut temporary_name = OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = parent.join(temporary_name);
    let written = write_and_rename(&temporary, path, bytes);
    if let Err((operation, source)) = written {
        // The first error is the one that matters; a left-over sibling does no harm.
        let _ = fs::remove_file(&temporary);
        return Err(fail(operation)(source));
    }
    // Some file systems cannot sync a folder; the rename itself has already happened.
    if let Ok(folder) = File::open(parent) {
        let _ = folder.sync_all();
    }
    Ok(())
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), (&'static str, io::Error)> {
    let mut file = File::create(temporary).map_err(|error| ("create", error))?;
    file.write_all(bytes).map_err(|error| ("write", error))?;
    file.sync_all().map_err(|error| ("sync", error))?;
    drop(file);
    fs::rename(temporary, path).map_err(|error| ("rename", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_no_sibling() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/deep/file.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_rename_removes_the_sibling_and_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("occupied");
        fs::create_dir_all(path.join("child")).unwrap();
        let error = write_atomic(&path, b"x").unwrap_err();
        assert_eq!(error.operation, "rename");
        assert!(error.to_string().ends_with("occupied"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_says_so_and_what_to_do() {
        let source = io::Error::from_raw_os_error(28); // ENOSPC
        let error = WriteError { operation: "write", source, path: "runs/demo/x".into() }.to_string();
        assert!(
            error.contains("disk is full") && error.contains("--resume") && error.ends_with("runs/demo/x"),
            "{error}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_reports_a_full_disk_as_storage_full() {
        let mut full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(full.write_all(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_path_without_a_name_is_an_error() {
        assert!(write_atomic("/", b"x").is_err());
    }
}
