//! The byte-level BPE of Qwen2, from `vocab.json`, `merges.txt` and `added_tokens.json`.
//!
//! Written here because the library for it would bring some forty crates and rebuild everything above `regex`.

use std::collections::HashMap;
use std::path::Path;

use unicode_normalization::UnicodeNormalization;
use w2a_nn::NnError;

use super::prompt::{is_letter, is_number};
use super::wrong;

/// Largest file that is read: that of the real vocabulary has 3 MB.
const MAX_FILE: u64 = 64 << 20;

/// Text to token ids.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocabulary: HashMap<String, usize>,
    /// Rank of the merge of two neighbours, and what they become.
    merges: HashMap<(usize, usize), (usize, usize)>,
    /// Tokens that are found in the text before anything else, longest first.
    added: Vec<(String, usize)>,
    bytes: [usize; 256],
}

impl Tokenizer {
    /// Reads the three files in `dir`.
    ///
    /// # Errors
    /// A file that is missing, no JSON, or holds a merge of tokens that are not in the vocabulary.
    pub fn load(dir: &Path) -> Result<Self, NnError> {
        let read = |name: &str| {
            let path = dir.join(name);
            let io = |source| NnError::Io { action: "reading the tokenizer's files", source };
            let size = fs_err::metadata(&path).map_err(io)?.len();
            if size > MAX_FILE {
                return Err(wrong(path.display().to_string(), format!("at most {MAX_FILE} bytes"), size.to_string()));
            }
            fs_err::read_to_string(&path).map_err(io)
        };
        let table = |name: &str| -> Result<HashMap<String, usize>, NnError> {
            let expected = "a JSON object of tokens and their ids";
            serde_json::from_str(&read(name)?)
                .map_err(|error| wrong(dir.join(name).display().to_string(), expected, error.to_string()))
        };
        Self::new(table("vocab.json")?, &read("merges.txt")?, table("added_tokens.json")?)
    }

    /// From the contents of the files.
    ///
    /// # Errors
    /// A line that is no merge, a merge of tokens that are not in the vocabulary, or a byte without a token.
    pub fn new(
        vocabulary: HashMap<String, usize>,
        merges: &str,
        added: HashMap<String, usize>,
    ) -> Result<Self, NnError> {
        let mut bytes = [0; 256];
        for (byte, id) in bytes.iter_mut().enumerate() {
            let name = byte_name(byte as u8);
            *id = *vocabulary
                .get(name.to_string().as_str())
                .ok_or_else(|| wrong("vocab.json", format!("a token {name:?} for byte {byte}"), "none"))?;
        }
        let mut ranks = HashMap::new();
        let lines = merges.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
        for (number, line) in lines {
            let bad = || {
                let expected = "two tokens of vocab.json, a space between them, whose union is one too";
                wrong(format!("merges.txt, line {}", number + 1), expected, format!("{line:?}"))
            };
            let (left, right) = line.split_once(' ').ok_or_else(bad)?;
            let id = |name: &str| vocabulary.get(name).copied();
            let (Some(a), Some(b), Some(both)) = (id(left), id(right), id(&format!("{left}{right}"))) else {
                return Err(bad());
            };
            let rank = ranks.len();
            ranks.entry((a, b)).or_insert((rank, both));
        }
        let mut added: Vec<(String, usize)> = added.into_iter().filter(|(name, _)| !name.is_empty()).collect();
        added.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        Ok(Self { vocabulary, merges: ranks, added, bytes })
    }

    /// The id of a token that stands for itself, such as `<img>`.
    pub fn id(&self, name: &str) -> Option<usize> {
        let added = self.added.iter().find(|(token, _)| token == name).map(|(_, id)| *id);
        added.or_else(|| self.vocabulary.get(name).copied())
    }

    /// The ids of `text`.
    pub fn encode(&self, text: &str) -> Vec<usize> {
        let mut out = Vec::new();
        let mut plain = 0;
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            match self.added.iter().find(|(token, _)| rest.starts_with(token.as_str())) {
                Some((token, id)) => {
                    self.words(&text[plain..at], &mut out);
                    out.push(*id);
                    at += token.len();
                    plain = at;
                }
                None => at += rest.chars().next().map_or(1, char::len_utf8),
            }
        }
        self.words(&text[plain..], &mut out);
        out
    }

    fn words(&self, text: &str, out: &mut Vec<usize>) {
        let chars: Vec<char> = text.nfc().collect();
        let mut start = 0;
        while start < chars.len() {
            let end = start + word_len(&chars[start..]).max(1);
            let word: String = chars[start..end].iter().collect();
            self.merge(word.bytes().map(|byte| self.bytes[usize::from(byte)]).collect(), out);
            start = end;
        }
    }

    /// Merges neighbours, the lowest rank first, until none can be.
    fn merge(&self, mut word: Vec<usize>, out: &mut Vec<usize>) {
        loop {
            let pairs = word.windows(2).enumerate();
            let ranked =
                pairs.filter_map(|(at, pair)| self.merges.get(&(pair[0], pair[1])).map(|(rank, id)| (*rank, at, *id)));
            let Some((_, at, id)) = ranked.min() else { break };
            word[at] = id;
            word.remove(at + 1);
        }
        out.extend(word);
    }
}

/// The character that stands for a byte in the vocabulary: itself where it can be seen, else one from 256 on.
pub(super) fn byte_name(byte: u8) -> char {
    let shown = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if shown(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !shown(*other)).count();
    // 256 + at most 67: all of these are characters.
    char::from_u32(256 + before as u32).unwrap_or('\u{fffd}')
}

/// Characters of the first word of a text that is not empty, by Qwen2's rule:
/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
fn word_len(text: &[char]) -> usize {
    let run = |from: usize, of: &dyn Fn(char) -> bool| text[from..].iter().take_while(|c| of(**c)).count();
    let newline = |c: char| c == '\r' || c == '\n';
    let other = |c: char| !c.is_whitespace() && !is_letter(c) && !is_number(c);
    let first = text[0];
    if first == '\'' {
        let lower: String = text[1..].iter().take(2).map(char::to_ascii_lowercase).collect();
        if let Some(ending) = ["s", "t", "re", "ve", "m", "ll", "d"].iter().find(|ending| lower.starts_with(**ending)) {
            return 1 + ending.len();
        }
    }
    if is_letter(first) {
        return run(0, &is_letter);
    }
    if is_number(first) {
        return 1;
    }
    let letters = run(1, &is_letter);
    if !newline(first) && letters > 0 {
        return 1 + letters;
    }
    let before = usize::from(first == ' ');
    let others = run(before, &other);
    if others > 0 {
        return before + others + run(before + others, &newline);
    }
    let spaces = run(0, &char::is_whitespace);
    match text[..spaces].iter().rposition(|c| newline(*c)) {
        Some(last) => last + 1,
        // The last space belongs to the word behind it.
        None if spaces < text.len() && spaces > 1 => spaces - 1,
        None => spaces,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Tokenizer, byte_name, word_len};
    use proptest::prelude::*;

    fn vocabulary(more: &[&str]) -> HashMap<String, usize> {
        let names = (0..=255).map(|byte| byte_name(byte).to_string()).chain(more.iter().map(|name| (*name).to_owned()));
        names.enumerate().map(|(id, name)| (name, id)).collect()
    }

    fn words(text: &str) -> Vec<String> {
        let chars: Vec<char> = text.chars().collect();
        let (mut out, mut at) = (Vec::new(), 0);
        while at < chars.len() {
            let len = word_len(&chars[at..]);
            out.push(chars[at..at + len].iter().collect());
            at += len;
        }
        out
    }

    #[test]
    fn text_falls_into_qwens_words() {
        assert_eq!(words("don't  stop,it's 12x"), ["don", "'t", " ", " stop", ",it", "'s", " ", "1", "2", "x"]);
        assert_eq!(words("a \n\n b  "), ["a", " \n\n", " b", "  "]);
        assert_eq!(words(" ...\n!"), [" ...\n", "!"]);
        assert_eq!(words("\u{e9}t\u{e9} \u{5143}\u{6c14}"), ["\u{e9}t\u{e9}", " \u{5143}\u{6c14}"]);
        // A vowel sign is no letter: it begins a word of its own, with the letters behind it.
        assert_eq!(words("\u{915}\u{93f}\u{915}"), ["\u{915}", "\u{93f}\u{915}"]);
    }

    #[test]
    fn merges_are_applied_by_rank_and_added_tokens_come_first() {
        let added = HashMap::from([("<x>".to_owned(), 900), ("<x>y".to_owned(), 901)]);
        let tokenizer =
            Tokenizer::new(vocabulary(&["ab", "bc", "abc"]), "#version: 0.2\nb c\na b\na bc\n", added).unwrap();
        let [bc, abc] = ["bc", "abc"].map(|name| tokenizer.id(name).unwrap());
        let byte = |byte: u8| usize::from(byte);
        assert_eq!(tokenizer.encode("abc"), [abc]);
        assert_eq!(tokenizer.encode("xbc<x>yab<x>"), [byte(b'x'), bc, 901, tokenizer.id("ab").unwrap(), 900]);
    }

    #[test]
    fn ids_are_those_of_the_tokenizers_library() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tokenizer");
        let tokenizer = Tokenizer::load(&dir).unwrap();
        let cases = std::fs::read(dir.join("cases.json")).unwrap();
        let cases: Vec<(String, Vec<usize>)> = serde_json::from_slice(&cases).unwrap();
        assert!(cases.len() > 20);
        for (text, ids) in cases {
            assert_eq!(tokenizer.encode(&text), ids, "{text:?}");
        }
    }

    #[test]
    fn files_that_do_not_fit_are_refused_with_the_line() {
        let new = |merges: &str| Tokenizer::new(vocabulary(&["ab"]), merges, HashMap::new());
        assert!(new("a b\n").is_ok());
        for merges in ["a b\nab c\n", "a\n", "a b c d\n"] {
            let error = new(merges).unwrap_err().to_string();
            assert!(error.contains("merges.txt, line"), "{error}");
        }
        let empty = Tokenizer::new(HashMap::new(), "", HashMap::new()).unwrap_err().to_string();
        assert!(empty.contains("vocab.json"), "{empty}");
    }

    proptest! {
        #[test]
        fn any_text_comes_back_from_its_bytes(text in "\\PC*|[ \\n\\r\\t'a-z0-9]*") {
            let tokenizer = Tokenizer::new(vocabulary(&[]), "", HashMap::new()).unwrap();
            let names: HashMap<usize, u8> = (0..=255).map(|byte| (usize::from(byte), byte)).collect();
            let bytes: Vec<u8> = tokenizer.encode(&text).iter().map(|id| names[id]).collect();
            use unicode_normalization::UnicodeNormalization;
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), text.nfc().collect::<String>());
        }
    }
}
