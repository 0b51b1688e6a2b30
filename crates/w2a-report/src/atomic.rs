//! What a file that could not be written means for whoever waits for it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file that could not be written. The previous file of that name, if any, is untouched.
#[derive(Debug)]
pub struct WriteError {
    /// The system's reason.
    pub source: io::Error,
    /// The file that was to be written.
    pub path: PathBuf,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write the file: ")?;
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

/// [`w2a_data::write_atomic`], with errors that say what to do.
///
/// # Errors
/// [`WriteError`].
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), WriteError> {
    let path = path.as_ref();
    w2a_data::write_atomic(path, bytes).map_err(|source| WriteError { source, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_error_keeps_its_kind_and_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("occupied");
        std::fs::create_dir_all(path.join("child")).unwrap();
        let error = write_atomic(&path, b"x").unwrap_err();
        assert_ne!(error.source.kind(), io::ErrorKind::Other);
        assert!(error.to_string().ends_with("occupied"), "{error}");
    }

    #[test]
    fn a_full_disk_says_so_and_what_to_do() {
        let source = io::Error::from_raw_os_error(28); // ENOSPC
        let error = WriteError { source, path: "runs/demo/x".into() }.to_string();
        assert!(
            error.contains("disk is full") && error.contains("--resume") && error.ends_with("runs/demo/x"),
            "{error}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_reports_a_full_disk_as_storage_full() {
        let mut full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(full.write_all(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
