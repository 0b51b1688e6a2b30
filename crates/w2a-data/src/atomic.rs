//! Files that appear whole or not at all.

use std::io::{self, Write};
use std::path::Path;

/// Writes `bytes` to a temporary sibling of `path`, flushes it to the disk, and renames it into place.
///
/// A kill or a full disk at any moment leaves the old file, or none.
///
/// # Errors
/// The underlying error, naming the path.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let result = (|| {
        let mut file = fs_err::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs_err::rename(&partial, path)
    })();
    if result.is_err() {
        let _ = fs_err::remove_file(&partial);
    }
    result
}
