//! Plain draws, written out so that a scene never changes with a version of `rand`'s distributions.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Uniform in `[low, high)`.
pub(crate) fn uniform(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    let unit = (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
    low + (high - low) * unit
}

/// Standard normal (Box-Muller), cut at three standard deviations so that noise has a known bound.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - uniform(rng, 0.0, 1.0)).ln()).sqrt();
    (radius * (std::f32::consts::TAU * uniform(rng, 0.0, 1.0)).cos()).clamp(-3.0, 3.0)
}

/// Uniform in `0..n`.
pub(crate) fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u64::from(rng.next_u32()) * n as u64) >> 32) as usize
}
