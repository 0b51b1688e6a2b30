//! Embedded prompts on disk: embedded once by the text encoder, which is then not needed any more.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};
use w2a_nn::NnError;

use crate::digest::{hex, json, update};

/// The only key of the files' metadata.
const METADATA: &str = "world2act.prompt";

/// Words of an embedded prompt, the last of them zeros: what the network was trained with.
pub const MOST_WORDS: usize = 512;

/// An embedded prompt without what pads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Words, at most [`MOST_WORDS`].
    pub words: usize,
    /// Values of each.
    pub width: usize,
    /// `[words, width]`.
    pub data: Vec<f32>,
}

impl Embedding {
    /// As the network sees it: `[512, width]`, zeros behind the words.
    pub fn padded(&self) -> Vec<f32> {
        let mut data = self.data.clone();
        data.resize(MOST_WORDS * self.width, 0.0);
        data
    }
}

/// The metadata of a file.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    prompt: String,
    /// Digest of the text encoder that made it.
    encoder: String,
    /// Digest of the two and of the values.
    checksum: String,
}

/// A folder of embedded prompts, one file each, named by the SHA-256 of the prompt.
#[derive(Clone, Debug)]
pub struct PromptStore {
    dir: PathBuf,
}

impl PromptStore {
    /// The store in `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a prompt is or would be.
    pub fn path(&self, prompt: &str) -> PathBuf {
        let mut hash = Sha256::new();
        update(&mut hash, prompt.as_bytes());
        self.dir.join(format!("{}.safetensors", hex(hash)))
    }

    /// An embedded prompt with the digest of the encoder that made it, if it was embedded before.
    ///
    /// # Errors
    /// A file that is damaged or of something else.
    pub fn get(&self, prompt: &str) -> Result<Option<(Embedding, String)>, NnError> {
        let path = self.path(prompt);
        if !path.exists() {
            return Ok(None);
        }
        let format = |reason: String| NnError::Format { path: path.clone(), reason };
        let bytes = fs_err::read(&path).map_err(|source| NnError::Io { action: "loading a prompt", source })?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| format(error.to_string()))?;
        let label = header.metadata().as_ref().and_then(|entries| entries.get(METADATA));
        let label = label.ok_or_else(|| format(format!("it has no metadata {METADATA:?}: it is no prompt of ours")))?;
        let label: Label =
            serde_json::from_str(label).map_err(|error| format(format!("its metadata {METADATA:?}: {error}")))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| format(error.to_string()))?;
        let view = file.tensor("embedding").map_err(|error| format(error.to_string()))?;
        let &[words, width] = view.shape() else {
            return Err(format(format!("tensor \"embedding\" has shape {:?}, expected two dimensions", view.shape())));
        };
        if view.dtype() != Dtype::F32 || !(1..=MOST_WORDS).contains(&words) || width == 0 {
            let got = format!("{:?} of shape {:?}", view.dtype(), view.shape());
            return Err(format(format!("tensor \"embedding\" is {got}, expected F32 and 1 to {MOST_WORDS} words")));
        }
        let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let embedding = Embedding { words, width, data };
        if label.prompt != prompt || checksum(prompt, &label.encoder, &embedding)? != label.checksum {
            return Err(format("its checksum does not match its contents, or it holds another prompt".into()));
        }
        Ok(Some((embedding, label.encoder)))
    }

    /// Keeps an embedded prompt.
    ///
    /// # Errors
    /// More words than the network takes, values that do not fill them, a failing disk.
    pub fn put(&self, prompt: &str, encoder: &str, embedding: &Embedding) -> Result<(), NnError> {
        let Embedding { words, width, data } = embedding;
        if !(1..=MOST_WORDS).contains(words) || data.len() != words * width {
            return Err(NnError::Input {
                what: format!("embedded prompt {:?}", shortened(prompt)),
                expected: format!("1 to {MOST_WORDS} words, all of their values"),
                got: format!("{words} words of width {width} and {} values", data.len()),
            });
        }
        let path = self.path(prompt);
        let checksum = checksum(prompt, encoder, embedding)?;
        let label = Label { prompt: prompt.to_owned(), encoder: encoder.to_owned(), checksum };
        let label = String::from_utf8_lossy(&json(&label)?).into_owned();
        let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        let format = |reason: String| NnError::Format { path: path.clone(), reason };
        let view =
            TensorView::new(Dtype::F32, vec![*words, *width], &bytes).map_err(|error| format(error.to_string()))?;
        let bytes = safetensors::serialize([("embedding", view)], Some(HashMap::from([(METADATA.to_owned(), label)])))
            .map_err(|error| format(error.to_string()))?;
        let io = |source| NnError::Io { action: "saving a prompt", source };
        fs_err::create_dir_all(&self.dir).map_err(io)?;
        w2a_data::write_atomic(&path, &bytes).map_err(io)
    }
}

fn checksum(prompt: &str, encoder: &str, embedding: &Embedding) -> Result<String, NnError> {
    let mut hash = Sha256::new();
    update(&mut hash, prompt.as_bytes());
    update(&mut hash, encoder.as_bytes());
    update(&mut hash, &json(&[embedding.words, embedding.width])?);
    for value in &embedding.data {
        hash.update(value.to_le_bytes());
    }
    Ok(hex(hash))
}

/// A prompt as messages show it.
pub(crate) fn shortened(prompt: &str) -> String {
    match prompt.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", prompt.get(..end).unwrap_or(prompt)),
        None => prompt.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Embedding, MOST_WORDS, PromptStore, shortened};

    fn embedding() -> Embedding {
        Embedding { words: 2, width: 3, data: vec![1.0, -2.0, 0.5, 3.0, f32::MIN_POSITIVE, -0.0] }
    }

    #[test]
    fn a_prompt_comes_back_to_the_bit_and_is_padded_with_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let store = PromptStore::new(folder.path().join("new"));
        assert_eq!(store.get("lift it").unwrap(), None);
        store.put("lift it", "t5", &embedding()).unwrap();
        assert_eq!(store.get("lift it").unwrap(), Some((embedding(), "t5".into())));
        assert_eq!(store.get("lift it ").unwrap(), None);
        let padded = embedding().padded();
        assert_eq!(padded.len(), MOST_WORDS * 3);
        assert!(padded[..6] == embedding().data && padded[6..].iter().all(|value| *value == 0.0));
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = PromptStore::new(folder.path());
        store.put("lift it", "t5", &embedding()).unwrap();
        let path = store.path("lift it");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(store.get("lift it").is_err(), "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            // White space that fills the header up may change.
            let found = store.get("lift it");
            assert!(found.is_err() || found.unwrap() == Some((embedding(), "t5".into())), "flipped at {at}");
        }
        std::fs::write(&path, &whole).unwrap();
        std::fs::copy(&path, store.path("drop it")).unwrap();
        assert!(store.get("drop it").unwrap_err().to_string().contains("another prompt"));
    }

    #[test]
    fn too_many_words_and_missing_values_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = PromptStore::new(folder.path());
        let long = Embedding { words: 513, width: 1, data: vec![0.0; 513] };
        assert!(store.put("x", "t5", &long).unwrap_err().to_string().contains("1 to 512 words"));
        assert!(store.put("x", "t5", &Embedding { words: 3, ..embedding() }).is_err());
        assert_eq!(shortened(&"ä".repeat(70)).chars().count(), 63);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_file_panics_and_what_is_read_is_what_was_kept(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut: prop::sample::Index,
            header in "[\\[\\]{}\",:0-9a-zA-Z_.]{0,80}", form in 0..3,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let store = PromptStore::new(folder.path());
            store.put("lift it", "t5", &embedding()).unwrap();
            let path = store.path("lift it");
            let mut bytes = std::fs::read(&path).unwrap();
            match form {
                0 => edits.iter().for_each(|(at, byte)| {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }),
                1 => bytes.truncate(cut.index(bytes.len())),
                _ => bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat(),
            }
            std::fs::write(&path, bytes).unwrap();
            if let Ok(Some((found, _))) = store.get("lift it") {
                prop_assert_eq!(found, embedding());
            }
        }
    }
}
