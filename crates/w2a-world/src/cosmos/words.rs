//! Prompts as numbers of words and parts of words: the tokenizer of T5, from its `tokenizer.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;
use w2a_nn::NnError;

use super::prompts::{MOST_WORDS, shortened};
use crate::digest::json;

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
        let mut parts: serde_json::Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| unreadable(error.to_string()))?;
        if let Some(name) = parts.get("post_processor").and_then(unknown_special) {
            return Err(unreadable(format!("a template with {name:?}, which is not among its special_tokens")));
        }
        // Nothing is decoded here, and the library panics on a decoder that it cannot read.
        parts.insert("decoder".into(), Value::Null);
        let mut tokenizer = Tokenizer::from_bytes(json(&parts)?).map_err(|error| unreadable(error.to_string()))?;
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
        let encoded = self.tokenizer.encode(prompt, true).map_err(|error| wrong(error.to_string()))?;
        let words = encoded.get_ids();
        if !(1..=MOST_WORDS).contains(&words.len()) {
            return Err(wrong(format!("{}; shorten it", words.len())));
        }
        Ok(words.to_vec())
    }
}

/// A special token that a template has and whose number it does not say: the library panics on it.
fn unknown_special(processor: &Value) -> Option<&str> {
    if let Some(several) = processor.get("processors").and_then(Value::as_array) {
        return several.iter().find_map(unknown_special);
    }
    let known = processor.get("special_tokens");
    let templates = ["single", "pair"].into_iter().filter_map(|form| processor.get(form)?.as_array());
    let names = templates.flatten().filter_map(|piece| piece.get("SpecialToken")?.get("id")?.as_str());
    names.into_iter().find(|name| known.and_then(|known| known.get(name)).is_none())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Words;
    use crate::cosmos::tiny;

    #[test]
    fn a_template_with_a_token_that_it_does_not_explain_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path(), 0).unwrap();
        let text = std::fs::read_to_string(folder.path().join("tokenizer/tokenizer.json")).unwrap();
        let read = |text: &str| Words::read(text.as_bytes(), Path::new("tokenizer.json"));
        assert_eq!(read(&text).unwrap().of("a").unwrap().last(), Some(&1));
        // The template names a token that is not explained any more.
        let changed = text.replace("\"special_tokens\":{\"</s>\":", "\"special_tokens\":{\"</t>\":");
        assert_ne!(changed, text);
        let error = read(&changed).unwrap_err().to_string();
        assert!(error.contains("a template with \"</s>\""), "{error}");
    }
}
