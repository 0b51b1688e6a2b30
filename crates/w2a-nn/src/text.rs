//! A fixed language embedding for the embedded models: no vocabulary, no download, any language.

/// Width of [`embed_text`].
pub const TEXT_DIM: usize = 128;

/// Hashed bag of words and word pairs of an instruction, unit length.
///
/// Words are lower-cased and split at anything that is not a letter or digit; each word and each pair of neighbours adds
/// one to a bucket chosen by its FNV-1a hash, with a hashed sign. Pairs keep "bowl on the plate" apart from "plate on the
/// bowl". An empty instruction gives zeros.
///
/// # Shapes
/// Returns `[TEXT_DIM]`.
pub fn embed_text(instruction: &str) -> Vec<f32> {
    let lower = instruction.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut out = vec![0.0_f32; TEXT_DIM];
    let mut add = |parts: &[&str]| {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in parts.join(" ").bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // FNV's low bits are weak for short strings: fold the high half in.
        let hash = hash ^ (hash >> 32);
        let sign = if hash & (1 << 20) == 0 { 1.0 } else { -1.0 };
        out[hash as usize % TEXT_DIM] += sign;
    };
    for word in &words {
        add(&[word]);
    }
    for pair in words.windows(2) {
        add(pair);
    }
    let norm = out.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        out.iter_mut().for_each(|value| *value /= norm);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::embed_text;

    #[test]
    fn order_and_words_matter_but_case_and_punctuation_do_not() {
        let same = embed_text("Put the bowl on the plate.");
        assert_eq!(same, embed_text("put the bowl on the plate"));
        assert_ne!(same, embed_text("put the plate on the bowl"));
        assert!((same.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(embed_text(" ... ").iter().all(|&value| value == 0.0));
    }
}
