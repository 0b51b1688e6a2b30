//! From prompts to what the DiT reads of them: the tokenizer of T5 and its encoder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::Device;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;
use w2a_nn::NnError;

use super::folder::CosmosFolder;
use super::prompts::{Embedding, MOST_WORDS, shortened};
use super::source::Tensors;
use super::t5::{T5Config, T5Encoder, Tokens, rename};
use crate::store::{hex, json, update};

/// The text encoder of a checkpoint with its tokenizer.
#[derive(Debug)]
pub struct PromptEncoder {
    tensors: Tensors,
    config: T5Config,
    /// Of `config.json` and `tokenizer.json`.
    texts: [Vec<u8>; 2],
    tokenizer: Tokenizer,
    device: Device,
    path: PathBuf,
}

impl PromptEncoder {
    /// The text encoder of a folder; reads its tokenizer and none of its weights.
    ///
    /// # Errors
    /// A part that is missing or cannot be read.
    pub fn open(folder: &CosmosFolder, device: &Device) -> Result<Self, NnError> {
        let (weights, config_path) = folder.text_encoder()?;
        let path = folder.tokenizer()?;
        let read = |path: &PathBuf| {
            fs_err::read(path).map_err(|source| NnError::Io { action: "reading the text encoder's settings", source })
        };
        let texts = [read(&config_path)?, read(&path)?];
        let config: T5Config = serde_json::from_slice(&texts[0]).map_err(|error| NnError::Input {
            what: format!("configuration {}", config_path.display()),
            expected: "that of a T5 encoder, with feed_forward_proj relu or gated-gelu".into(),
            got: error.to_string(),
        })?;
        config.validate()?;
        let unreadable = |got: String| NnError::Input {
            what: format!("tokenizer {}", path.display()),
            expected: "the tokenizer.json of T5, as transformers saves it".into(),
            got,
        };
        let mut parts: serde_json::Map<String, Value> =
            serde_json::from_slice(&texts[1]).map_err(|error| unreadable(error.to_string()))?;
        // Here, because the library panics when it gets there.
        if let Some(part) = parts.get("post_processor").and_then(missing_part) {
            return Err(unreadable(format!(
                "a post_processor whose template for one text has {part:?}, which is not defined"
            )));
        }
        // Nothing is decoded here, and the library panics on a decoder that it cannot read.
        parts.insert("decoder".into(), Value::Null);
        let mut tokenizer = Tokenizer::from_bytes(json(&parts)?).map_err(|error| unreadable(error.to_string()))?;
        // A prompt is never cut silently, and padding comes later.
        tokenizer.with_truncation(None).map_err(|error| unreadable(error.to_string()))?;
        tokenizer.with_padding(None);
        let tensors = Tensors::open(&weights, "the encoder of T5", |name, _| rename(name))?;
        Ok(Self { tensors, config, texts, tokenizer, device: device.clone(), path })
    }

    /// SHA-256 of what tells this encoder from another: its settings, its tokenizer, the shapes of its tensors and the values
    /// of its norms, which no training leaves as they are. The rest of the weights is too large to be read for that.
    ///
    /// # Errors
    /// A tensor that cannot be read.
    pub fn digest(&self) -> Result<String, NnError> {
        let mut hash = Sha256::new();
        for text in &self.texts {
            update(&mut hash, text);
        }
        let shapes: BTreeMap<&str, Option<&[usize]>> =
            self.tensors.names().map(|name| (name, self.tensors.find(name))).collect();
        update(&mut hash, &json(&shapes)?);
        for (name, shape) in shapes {
            if let Some(&[width]) = shape {
                for value in w2a_nn::values(self.tensors.float(name, [width], &self.device)?)? {
                    hash.update(value.to_le_bytes());
                }
            }
        }
        Ok(hex(hash))
    }

    /// The numbers of a prompt's words, the end of the sentence included.
    ///
    /// # Errors
    /// A prompt without words, or with more than the network takes.
    pub fn words(&self, prompt: &str) -> Result<Vec<u32>, NnError> {
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

    /// Embeds prompts, all of them with one reading of the weights; `each` is told how many of how many blocks are done.
    ///
    /// # Errors
    /// As [`PromptEncoder::words`], and tensors that are missing or of another size.
    pub fn embed(&self, prompts: &[&str], each: impl FnMut(usize, usize)) -> Result<Vec<Embedding>, NnError> {
        let words = prompts.iter().map(|prompt| self.words(prompt)).collect::<Result<Vec<_>, NnError>>()?;
        // Each alone and in its own length: words then need no mask, and short prompts little time.
        let tokens: Vec<Tokens> = words.into_iter().map(|ids| Tokens { words: ids.len(), ids, mask: None }).collect();
        let encoder = T5Encoder::new(&self.tensors, self.config.clone(), &self.device)?;
        let width = self.config.d_model;
        let embedded = encoder.encode(&tokens, each, &mut |_, _, _| {})?;
        embedded
            .into_iter()
            .zip(&tokens)
            .map(|(state, tokens)| {
                let data = w2a_nn::values(state)?;
                match data.iter().find(|value| !value.is_finite()) {
                    Some(bad) => Err(NnError::Device {
                        what: "embedding a prompt",
                        message: format!("{bad} among its values; are the weights intact?"),
                    }),
                    None => Ok(Embedding { words: tokens.words, width, data }),
                }
            })
            .collect()
    }
}

/// What a template of a post-processor puts around a prompt and nobody defines: a special token, or a second text.
fn missing_part(processor: &Value) -> Option<&str> {
    let known = processor.get("special_tokens").and_then(Value::as_object);
    let pieces = processor.get("single").and_then(Value::as_array).into_iter().flatten();
    let mut used = pieces.filter_map(|piece| {
        let token = piece.get("SpecialToken").and_then(|token| token.get("id")?.as_str());
        let token = token.filter(|token| !known.is_some_and(|known| known.contains_key(*token)));
        token.or_else(|| piece.get("Sequence")?.get("id")?.as_str().filter(|id| *id == "B"))
    });
    used.next().or_else(|| processor.get("processors")?.as_array()?.iter().find_map(missing_part))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::PromptEncoder;
    use crate::cosmos::{CosmosFolder, tiny};

    fn encoder() -> (tempfile::TempDir, PromptEncoder) {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path(), 3).unwrap();
        let encoder = open(folder.path()).unwrap();
        (folder, encoder)
    }

    fn open(dir: &std::path::Path) -> Result<PromptEncoder, w2a_nn::NnError> {
        PromptEncoder::open(&CosmosFolder::open(dir)?, &Device::flex())
    }

    #[test]
    fn prompts_embed_alike_alone_and_with_others() {
        let (_folder, encoder) = encoder();
        // Every word begins with a piece of its own, and the sentence has an end.
        assert_eq!(encoder.words("ab a").unwrap().len(), 4);
        assert_eq!(encoder.words("ab a").unwrap().last(), Some(&1));
        let both = encoder.embed(&["lift it", "put the red block in the bowl"], |_, _| {}).unwrap();
        let mut blocks = Vec::new();
        let alone = encoder.embed(&["lift it"], |done, total| blocks.push((done, total))).unwrap();
        assert_eq!((blocks, &both[0]), (vec![(1, 2), (2, 2)], &alone[0]));
        assert_eq!((both[0].words, both[0].width), (7, 8));
        assert!(both[1].words > both[0].words);
    }

    #[test]
    fn a_prompt_of_more_than_512_words_is_refused() {
        let (_folder, encoder) = encoder();
        let error = encoder.words(&["a"; 600].join(" ")).unwrap_err().to_string();
        assert!(error.contains("1 to 512 words") && error.contains("601; shorten it"), "{error}");
        assert!(encoder.words(&["a"; 511].join(" ")).is_ok());
    }

    #[test]
    fn the_digest_follows_weights_settings_and_tokenizer() {
        let (folder, encoder) = encoder();
        let digest = encoder.digest().unwrap();
        assert_eq!(open(folder.path()).unwrap().digest().unwrap(), digest);
        let change = |file: &str, from: &str, to: &str| {
            let path = folder.path().join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let changed = open(folder.path()).unwrap().digest().unwrap();
            std::fs::write(&path, text).unwrap();
            changed
        };
        assert_ne!(change("text_encoder/config.json", "}", ",\"note\":1}"), digest);
        assert_ne!(change("tokenizer/tokenizer.json", "-4.0", "-4.5"), digest);
        tiny::write(folder.path(), 4).unwrap();
        assert_ne!(open(folder.path()).unwrap().digest().unwrap(), digest);
    }

    #[test]
    fn another_form_of_the_perceptron_and_a_damaged_tokenizer_are_named() {
        let (folder, _) = encoder();
        let config = folder.path().join("text_encoder/config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("\"relu\"", "\"gated-gelu\"")).unwrap();
        let error = open(folder.path()).unwrap().embed(&["a"], |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("feed_forward_proj") && error.contains("wi.weight"), "{error}");
        std::fs::write(&config, text.replace("\"relu\"", "\"gated-silu\"")).unwrap();
        assert!(open(folder.path()).unwrap_err().to_string().contains("gated-gelu"));
        std::fs::write(&config, &text).unwrap();
        let path = folder.path().join("tokenizer/tokenizer.json");
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 1, bytes.len() / 2] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(open(folder.path()).unwrap_err().to_string().contains("the tokenizer.json of T5"));
        }
    }

    #[test]
    fn a_template_with_a_token_that_nobody_defines_is_refused() {
        let (folder, _) = encoder();
        let path = folder.path().join("tokenizer/tokenizer.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (place, new, named) in [("SpecialToken", "[/s>", "[/s>"), ("Sequence", "B", "\"B\"")] {
            let mut changed = whole.clone();
            let pieces = changed["post_processor"]["single"].as_array_mut().unwrap();
            pieces.iter_mut().filter_map(|piece| piece.get_mut(place)).for_each(|piece| piece["id"] = new.into());
            std::fs::write(&path, serde_json::to_vec(&changed).unwrap()).unwrap();
            let error = open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("not defined"), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn no_tokenizer_panics(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{}\",:0-9a-z\\-]"), 1..4),
            prompt in "\\PC{0,20}",
        ) {
            let (folder, _) = encoder();
            let path = folder.path().join("tokenizer/tokenizer.json");
            let mut text = std::fs::read_to_string(&path).unwrap();
            for (at, new) in edits {
                let at = text.char_indices().nth(at.index(text.chars().count())).map_or(0, |(at, _)| at);
                let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
                text.replace_range(at..end, &new);
            }
            std::fs::write(&path, text).unwrap();
            if let Ok(encoder) = open(folder.path()) {
                if let Ok(words) = encoder.words(&prompt) {
                    prop_assert!((1..=512).contains(&words.len()));
                }
                // Numbers that the encoder does not know are an error of its own.
                let _ = encoder.embed(&[&prompt], |_, _| {});
            }
        }
    }
}
