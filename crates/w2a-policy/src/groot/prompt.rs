//! From an instruction to token ids.

use unicode_general_category::{GeneralCategory as Category, get_general_category};

/// Whether a character is of category L.
pub(super) fn is_letter(c: char) -> bool {
    use Category::{LowercaseLetter, ModifierLetter, OtherLetter, TitlecaseLetter, UppercaseLetter};
    let category = get_general_category(c);
    matches!(category, LowercaseLetter | ModifierLetter | OtherLetter | TitlecaseLetter | UppercaseLetter)
}

/// Whether a character is of category N.
pub(super) fn is_number(c: char) -> bool {
    matches!(get_general_category(c), Category::DecimalNumber | Category::LetterNumber | Category::OtherNumber)
}

/// The instruction in lower case without punctuation: the checkpoint's `formalize_language`, in Python `text.lower()` without
/// what `[^\w\s]` matches. Marks such as the vowel signs of Hindi are punctuation to Python.
pub fn formalised(text: &str) -> String {
    let lower = text.to_lowercase();
    // Python also counts the four separators of ASCII as white space.
    let stays = |c: &char| {
        is_letter(*c) || is_number(*c) || *c == '_' || c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(c)
    };
    lower.chars().filter(stays).collect()
}

/// The conversation that the backbone reads: the instruction, then each image with as many places as it has tokens.
pub fn prompt(instruction: &str, image_tokens: &[usize]) -> String {
    let mut text =
        format!("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{instruction}");
    for (index, count) in image_tokens.iter().enumerate() {
        text.push_str(&format!("<image {}><img>{}</img>", index + 1, IMAGE_TOKEN.repeat(*count)));
    }
    text.push_str("<|im_end|>\n");
    text
}

/// Stands for one token of an image.
pub(super) const IMAGE_TOKEN: &str = "<IMG_CONTEXT>";
/// Fills prompts up to the longest of a batch.
pub(super) const PADDING: &str = "<|endoftext|>";

#[cfg(test)]
mod tests {
    use super::{formalised, prompt};

    #[test]
    fn punctuation_goes_and_letters_of_any_script_stay() {
        assert_eq!(formalised("Open_the TOP-drawer (2x)!"), "open_the topdrawer 2x");
        assert_eq!(formalised("ÉTÉ ½ 杯子を取る Ⅷ"), "été ½ 杯子を取る ⅷ");
        assert_eq!(formalised("कि\u{1c}!"), "क\u{1c}");
        assert_eq!(formalised(""), "");
    }

    #[test]
    fn images_follow_the_instruction_and_are_numbered_from_one() {
        assert_eq!(
            prompt("go", &[1, 2]),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\ngo<image 1><img><IMG_CONTEXT></img>\
             <image 2><img><IMG_CONTEXT><IMG_CONTEXT></img><|im_end|>\n"
        );
    }
}
