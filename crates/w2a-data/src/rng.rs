//! One seed drives every random number of a run, through streams that are named per purpose.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The ChaCha8 stream for one purpose under one seed.
///
/// Streams of different `purpose`s are independent, so drawing more numbers for one purpose never changes another.
/// `purpose` is a path such as `"sim/scene/train/object/3/17"`; its 64-bit FNV-1a hash selects the ChaCha stream.
pub fn stream(seed: u64, purpose: &str) -> ChaCha8Rng {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in purpose.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(hash);
    rng
}

#[cfg(test)]
mod tests {
    use super::stream;
    use rand::Rng;

    #[test]
    fn streams_depend_on_seed_and_purpose_only() {
        let draw = |seed, purpose| stream(seed, purpose).next_u64();
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
    }
}
