//! Imaginations on disk, keyed by everything they were made from, so that none is made twice and none is mistaken for
//! another.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::SafeTensors;
use sha2::{Digest, Sha256};
use w2a_nn::NnError;

use crate::GridVideo;
use crate::digest::{hex, json, update};
use crate::latents::{Latents, read_latents, write_latents};

/// The only key of the files' metadata: one, because safetensors writes several in no fixed order.
const METADATA: &str = "world2act.imagination";

/// A frozen world model, to the bit.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModelId {
    /// Its kind, such as `mini`.
    pub name: String,
    /// SHA-256 of its settings and weights, 64 hexadecimal digits.
    pub digest: String,
}

impl ModelId {
    /// The model of these settings and weight files.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of_files(name: &str, settings: &impl serde::Serialize, files: &[PathBuf]) -> Result<Self, NnError> {
        let mut hash = Sha256::new();
        update(&mut hash, &json(settings)?);
        let io = |source| NnError::Io { action: "loading weights", source };
        for file in files {
            // As `update`, but in blocks: weights may be larger than the memory.
            let mut file = fs_err::File::open(file).map_err(io)?;
            hash.update(file.metadata().map_err(io)?.len().to_le_bytes());
            std::io::copy(&mut file, &mut hash).map_err(io)?;
        }
        Ok(Self { name: name.to_owned(), digest: hex(hash) })
    }
}

/// What an imagination was made from. Equal ones have equal latents, on processors with the same features.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imagination {
    /// The world model.
    pub model: ModelId,
    /// [`image_digest`] of the first frame.
    pub first_frame: String,
    /// The prompts, as the model was given them, in order.
    pub prompts: Vec<String>,
    /// Chunks of each prompt's clip.
    pub chunks: Vec<usize>,
    /// Seed of the random stream.
    pub seed: u64,
    /// Name of the random stream.
    pub stream: String,
}

impl Imagination {
    /// SHA-256 over all of it, 64 hexadecimal digits: its name in a [`LatentCache`].
    ///
    /// # Errors
    /// None in practice: texts and numbers can always be written as JSON.
    pub fn key(&self) -> Result<String, NnError> {
        let mut hash = Sha256::new();
        update(&mut hash, &json(self)?);
        Ok(hex(hash))
    }
}

/// SHA-256 of the first frame's size and pixels, 64 hexadecimal digits.
pub fn image_digest(image: &GridVideo) -> String {
    let mut hash = Sha256::new();
    update(&mut hash, &(image.height as u64).to_le_bytes());
    update(&mut hash, &(image.width as u64).to_le_bytes());
    update(&mut hash, &image.rgb[..image.rgb.len().min(image.height * image.width * 3)]);
    hex(hash)
}

/// The metadata of a file.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    source: Imagination,
    /// Digest of `source` and of the values' bytes.
    checksum: String,
}

/// Writes an imagination, atomically: the file of [`crate::save_latents`] with one video, and what it was made from.
///
/// # Errors
/// A failing disk.
pub fn save_imagination(path: &Path, source: &Imagination, latents: &Latents) -> Result<(), NnError> {
    let label = Label { source: source.clone(), checksum: checksum(source, latents)? };
    let label = String::from_utf8_lossy(&json(&label)?).into_owned();
    write_latents(path, std::slice::from_ref(latents), Some(HashMap::from([(METADATA.to_owned(), label)])))
}

/// Reads what [`save_imagination`] wrote and checks that it is what was written.
///
/// # Errors
/// A missing or damaged file, or one of something else.
pub fn load_imagination(path: &Path) -> Result<(Imagination, Latents), NnError> {
    let format = |reason: String| NnError::Format { path: path.to_owned(), reason };
    let bytes = fs_err::read(path).map_err(|source| NnError::Io { action: "loading latents", source })?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| format(error.to_string()))?;
    let label = header.metadata().as_ref().and_then(|entries| entries.get(METADATA));
    let label =
        label.ok_or_else(|| format(format!("it has no metadata {METADATA:?}: it is no imagination of ours")))?;
    let label: Label =
        serde_json::from_str(label).map_err(|error| format(format!("its metadata {METADATA:?}: {error}")))?;
    let mut videos = read_latents(path, &bytes)?;
    let latents = videos.pop().filter(|_| videos.is_empty());
    let latents = latents.ok_or_else(|| format("it holds several videos, expected one".into()))?;
    if checksum(&label.source, &latents)? != label.checksum {
        return Err(format("its checksum does not match its contents".into()));
    }
    Ok((label.source, latents))
}

/// A folder of imaginations, each under its key. May be shared by any number of processes.
#[derive(Clone, Debug)]
pub struct LatentCache {
    dir: PathBuf,
}

impl LatentCache {
    /// The cache in `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where an imagination is or would be.
    ///
    /// # Errors
    /// As [`Imagination::key`].
    pub fn path(&self, source: &Imagination) -> Result<PathBuf, NnError> {
        let key = source.key()?;
        // 256 folders: a single one of millions of files is slow to list.
        let folder = key.get(..2).unwrap_or_default();
        Ok(self.dir.join(folder).join(format!("{key}.safetensors")))
    }

    /// The latents of an imagination that was made before.
    ///
    /// # Errors
    /// A damaged file, or one of something else under its name.
    pub fn get(&self, source: &Imagination) -> Result<Option<Latents>, NnError> {
        let path = self.path(source)?;
        if !path.exists() {
            return Ok(None);
        }
        let (found, latents) = load_imagination(&path)?;
        if found != *source {
            return Err(NnError::Format { path, reason: "it holds another imagination than its name says".into() });
        }
        Ok(Some(latents))
    }

    /// Keeps the latents of an imagination.
    ///
    /// # Errors
    /// A failing disk.
    pub fn put(&self, source: &Imagination, latents: &Latents) -> Result<(), NnError> {
        let path = self.path(source)?;
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(|source| NnError::Io { action: "saving latents", source })?;
        }
        save_imagination(&path, source, latents)
    }
}

fn checksum(source: &Imagination, latents: &Latents) -> Result<String, NnError> {
    let mut hash = Sha256::new();
    update(&mut hash, &json(source)?);
    update(&mut hash, &json(&latents.shape)?);
    for value in &latents.data {
        hash.update(value.to_le_bytes());
    }
    Ok(hex(hash))
}

#[cfg(test)]
mod tests {
    use super::{Imagination, LatentCache, ModelId, image_digest, load_imagination, save_imagination};
    use crate::{GridVideo, LatentShape, Latents, load_latents, save_latents};

    fn source() -> Imagination {
        Imagination {
            model: ModelId { name: "mini".into(), digest: "00".into() },
            first_frame: "11".into(),
            prompts: vec!["lift \"it\"".into(), "place".into()],
            chunks: vec![2, 1],
            seed: 7,
            stream: "imagine/a".into(),
        }
    }

    fn latents() -> Latents {
        let shape = LatentShape { channels: 1, height: 1, width: 2 };
        Latents { shape, data: (0..8).map(|value| value as f32).collect() }
    }

    #[test]
    fn an_imagination_comes_back_and_is_an_ordinary_file_of_latents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        save_imagination(&path, &source(), &latents()).unwrap();
        assert_eq!(load_imagination(&path).unwrap(), (source(), latents()));
        assert_eq!(load_latents(&path).unwrap(), [latents()]);
        let first = std::fs::read(&path).unwrap();
        save_imagination(&path, &source(), &latents()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
    }

    #[test]
    fn a_file_with_any_bit_changed_or_any_end_missing_is_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        save_imagination(&path, &source(), &latents()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            match load_imagination(&path) {
                Err(error) => assert!(error.to_string().contains("a.safetensors"), "{error}"),
                // White space in the header may change without the contents doing so.
                Ok(found) => assert_eq!(found, (source(), latents())),
            }
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            refused(&bytes);
            refused(&whole[..at]);
        }
    }

    #[test]
    fn latents_of_others_are_no_imagination() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        save_latents(&path, &[latents()]).unwrap();
        assert!(load_imagination(&path).unwrap_err().to_string().contains("no imagination of ours"));
    }

    #[test]
    fn every_part_of_what_it_was_made_from_changes_the_key() {
        let changes: [fn(&mut Imagination); 8] = [
            |s| s.model.name.push('x'),
            |s| s.model.digest.push('x'),
            |s| s.first_frame.push('x'),
            |s| s.prompts.swap(0, 1),
            |s| s.prompts = vec!["lift \"it\"place".into()],
            |s| s.chunks = vec![1, 2],
            |s| s.seed += 1,
            |s| s.stream.push('x'),
        ];
        let mut keys: Vec<String> = changes
            .iter()
            .map(|change| {
                let mut source = source();
                change(&mut source);
                source.key().unwrap()
            })
            .collect();
        keys.push(source().key().unwrap());
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), changes.len() + 1);
        assert!(keys.iter().all(|key| key.len() == 64));
    }

    #[test]
    fn the_digest_of_an_image_sees_its_size() {
        let image = |height, width| image_digest(&GridVideo { height, width, rgb: vec![1; 18] });
        assert_ne!(image(2, 3), image(3, 2));
        assert_eq!(image(2, 3), image(2, 3));
    }

    #[test]
    fn a_model_is_its_settings_and_its_weights() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("w");
        let id = |settings: u32, weights: &str| {
            std::fs::write(&file, weights).unwrap();
            ModelId::of_files("mini", &settings, std::slice::from_ref(&file)).unwrap().digest
        };
        assert_eq!(id(1, "a"), id(1, "a"));
        assert!(id(1, "a") != id(2, "a") && id(1, "a") != id(1, "b"));
        assert!(ModelId::of_files("mini", &1, &[folder.path().join("absent")]).is_err());
    }

    #[test]
    fn the_cache_gives_what_it_was_given_and_refuses_what_was_put_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = LatentCache::new(folder.path().join("cache"));
        assert_eq!(cache.get(&source()).unwrap(), None);
        cache.put(&source(), &latents()).unwrap();
        assert_eq!(cache.get(&source()).unwrap(), Some(latents()));
        let other = Imagination { seed: 8, ..source() };
        assert_eq!(cache.get(&other).unwrap(), None);
        let path = cache.path(&other).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(cache.path(&source()).unwrap(), &path).unwrap();
        assert!(cache.get(&other).unwrap_err().to_string().contains("another imagination"));
    }
}
