//! Demonstrations one after the other, and what tells one set of files from another.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::container::Container;
use super::dataset::Hdf5Dataset;
use super::error::Hdf5Error;
use crate::{Checksum, Episode};

/// How much of either end of a file counts for its fingerprint, bytes.
const END: u64 = 64 * 1024;

impl Hdf5Dataset {
    /// All demonstrations in order, one in memory at a time. One that fails does not end the iteration.
    pub fn episodes(&self) -> impl ExactSizeIterator<Item = Result<Episode, Hdf5Error>> + '_ {
        let mut reader = self.reader();
        (0..self.len()).map(move |index| reader.read(index))
    }

    /// Reads demonstrations in any order, fastest in their own.
    pub fn reader(&self) -> Hdf5Reader<'_> {
        Hdf5Reader { dataset: self, open: None }
    }

    /// Sixteen hexadecimal digits that change when the demonstrations do.
    ///
    /// Hashed are name, size, beginning and end of every file, which takes milliseconds: an edit in the middle of a file
    /// that keeps its size goes unnoticed.
    ///
    /// # Errors
    /// [`Hdf5Error::Io`] if a file cannot be read.
    pub fn fingerprint(&self) -> Result<String, Hdf5Error> {
        let mut hash = Checksum::new();
        hash.part(self.profile().name().as_bytes());
        for same_file in self.records().chunk_by(|one, next| one.file == next.file) {
            let file = &same_file[0].file;
            let name = file.strip_prefix(self.path()).ok().filter(|name| !name.as_os_str().is_empty());
            let name = name.map(Path::as_os_str).or(file.file_name()).unwrap_or_default();
            hash.part(name.to_string_lossy().as_bytes());
            hash_ends(file, &mut hash).map_err(Hdf5Error::io("reading", file))?;
        }
        Ok(hash.hex())
    }
}

/// Reads demonstrations of an [`Hdf5Dataset`] and keeps the last file open: opening one walks its directory.
pub struct Hdf5Reader<'a> {
    dataset: &'a Hdf5Dataset,
    open: Option<Container>,
}

impl Hdf5Reader<'_> {
    /// Reads demonstration `index`.
    ///
    /// # Errors
    /// As [`Hdf5Dataset::episode`].
    pub fn read(&mut self, index: usize) -> Result<Episode, Hdf5Error> {
        let record = self.dataset.record(index)?;
        let container = match self.open.take().filter(|container| container.path() == record.file) {
            Some(container) => container,
            None => Container::open(&record.file)?,
        };
        let episode = self.dataset.read(&container, record);
        self.open = Some(container);
        episode
    }
}

/// Adds size, beginning and end of `file`.
fn hash_ends(file: &Path, hash: &mut Checksum) -> std::io::Result<()> {
    let mut opened = std::fs::File::open(file)?;
    let size = opened.metadata()?.len();
    hash.part(&size.to_le_bytes());
    for from in [0, size.saturating_sub(END)] {
        opened.seek(SeekFrom::Start(from))?;
        let mut part = Vec::new();
        (&mut opened).take(END).read_to_end(&mut part)?;
        hash.part(&part);
    }
    Ok(())
}
