//! Prompts as numbers of words and parts of words: the tokenizer of T5, from its `tokenizer.json`.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;
use w2a_nn::NnError;

use super::prompts::{MOST_WORDS, shortened};
use crate::digest::json;

const BROKEN: &str = "a file that contradicts itself; download it again";

/// What `work` comes to; `None` if it panics, which the library does on files whose parts do not fit together, such as a
/// template of words that are not there. It keeps nothing that a panic leaves half done but a cache.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

/// A tokenizer.
#[derive(Debug)]
pub(crate) struct Words {
    tokenizer: Tokenizer,
    path: PathBuf,
}

impl Words {
    /// From the text of the file `path`.
    ///
    /// # Errors
    /// What is no tokenizer.
    pub fn read(text: &[u8], path: &Path) -> Result<Self, NnError> {
        let unreadable = |got: String| NnError::Input {
            what: format!("tokenizer {}", path.display()),
            expected: "the tokenizer.json of T5, as transformers saves it".into(),
            got,
        };
        let mut parts: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(text).map_err(|error| unreadable(error.to_string()))?;
        // Nothing is decoded here, and the library panics on a decoder that it cannot read.
        parts.insert("decoder".into(), serde_json::Value::Null);
        let bytes = json(&parts)?;
        let read = guarded(|| Tokenizer::from_bytes(bytes)).ok_or_else(|| unreadable(BROKEN.into()))?;
        let mut tokenizer = read.map_err(|error| unreadable(error.to_string()))?;
        // A prompt is never cut silently, and padding comes later.
        tokenizer.with_truncation(None).map_err(|error| unreadable(error.to_string()))?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer, path: path.to_owned() })
    }

    /// The numbers of a prompt's words, the end of the sentence included.
    ///
    /// # Errors
    /// A prompt without words, or with more than the network takes.
    pub fn of(&self, prompt: &str) -> Result<Vec<u32>, NnError> {
        let wrong = |got: String| NnError::Input {
            what: format!("prompt {:?}", shortened(prompt)),
            expected: format!("1 to {MOST_WORDS} words and parts of words of the tokenizer {}", self.path.display()),
            got,
        };
        let encoded = guarded(|| self.tokenizer.encode(prompt, true)).ok_or_else(|| wrong(BROKEN.into()))?;
        let encoded = encoded.map_err(|error| wrong(error.to_string()))?;
        let words = encoded.get_ids();
        if !(1..=MOST_WORDS).contains(&words.len()) {
            return Err(wrong(format!("{}; shorten it", words.len())));
        }
        Ok(words.to_vec())
    }
}
