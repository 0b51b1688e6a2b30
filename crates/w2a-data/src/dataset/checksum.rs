//! A 64-bit hash for noticing changed data; it protects against accidents, not against forgery.

use crate::{Camera, Episode};

/// FNV-1a over little-endian 64-bit words with a rotation, so that a changed high bit reaches all bits.
///
/// Each step is a bijection of the state: changing any single word always changes the result.
#[derive(Clone, Debug)]
pub struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

impl Checksum {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// Adds `bytes` and their number, so that neighbouring parts cannot trade bytes.
    pub fn part(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }

    fn floats(&mut self, values: &[f32]) {
        self.word(values.len() as u64);
        for value in values {
            self.word(u64::from(value.to_bits()));
        }
    }

    /// Sixteen hexadecimal digits.
    pub fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// The checksum of what an episode holds: instruction, source, the images of these `cameras`, proprioception and actions.
///
/// Cameras that are kept as video are left out: what is decoded differs from what was encoded.
pub(super) fn of_episode<'a>(episode: &Episode, cameras: impl IntoIterator<Item = &'a Camera>) -> String {
    let mut checksum = Checksum::new();
    checksum.part(episode.instruction.as_bytes());
    checksum.part(episode.source.as_bytes());
    for camera in cameras {
        checksum.part(&camera.rgb);
    }
    checksum.floats(&episode.proprio);
    checksum.floats(&episode.actions);
    checksum.hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_and_every_boundary_counts() {
        let hash = |parts: &[&[u8]]| {
            let mut checksum = Checksum::new();
            parts.iter().for_each(|part| checksum.part(part));
            checksum.hex()
        };
        let bytes = [7_u8; 21];
        let whole = hash(&[&bytes]);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash(&[&changed]), whole, "bit {bit}");
        }
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_ne!(hash(&[b"a"]), hash(&[b"a\0"]));
    }
}
