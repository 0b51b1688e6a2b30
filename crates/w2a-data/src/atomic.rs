//! Files that appear whole or not at all.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Writes `bytes` to a temporary sibling of `path`, flushes it to the disk, and renames it into place; the folder is
/// flushed last, so that the file survives a power cut once this returns. Missing folders above it are created.
///
/// A kill or a full disk at any moment leaves the old file, or none.
///
/// # Errors
/// The underlying error, naming the path.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic_with(path, |partial| fs_err::File::create(partial)?.write_all(bytes))
}

/// [`write_atomic`] for what is too large to be in memory as a whole: `write` makes the file under the name of the temporary
/// sibling.
///
/// # Errors
/// As [`write_atomic`], and what `write` fails with.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        let words = format!("{} has no file name", path.display());
        return Err(io::Error::new(ErrorKind::InvalidInput, words));
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let partial = parent.join(format!(".{}.partial", name.to_string_lossy()));
    let result = (|| {
        write(&partial)?;
        fs_err::File::options().write(true).open(&partial)?.sync_all()?;
        fs_err::rename(&partial, path)
    })();
    if result.is_err() {
        // The first error is the one that matters; a left-over sibling does no harm.
        let _ = fs_err::remove_file(&partial);
        return result;
    }
    // Some file systems cannot sync a folder; the rename itself has already happened.
    if let Ok(folder) = fs_err::File::open(parent) {
        let _ = folder.sync_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::write_atomic;

    #[test]
    fn a_file_is_replaced_and_no_sibling_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/deep/file.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_rename_removes_the_sibling_and_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("occupied");
        std::fs::create_dir_all(path.join("child")).unwrap();
        let error = write_atomic(&path, b"x").unwrap_err().to_string();
        assert!(error.contains("occupied"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_without_a_name_is_an_error() {
        assert!(write_atomic("/".as_ref(), b"x").unwrap_err().to_string().contains("has no file name"));
    }
}
