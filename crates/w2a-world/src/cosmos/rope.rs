//! Rotary positions in three dimensions (`VideoRopePosition3DEmb` of cosmos-predict2 1.0.9, without its scaling by frame
//! rate, which the Video2World configurations switch off).

use burn::tensor::{Device, Tensor};

/// By how much positions are stretched beyond those of the pre-training: 1, 3, 3 for 2B and 5/6, 2, 2 for 14B.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeRatios {
    /// In time.
    pub time: f64,
    /// Over rows.
    pub height: f64,
    /// Over columns.
    pub width: f64,
}

/// Cosines and sines of all tokens.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    /// `[1, 1, tokens, head]`; both halves are equal.
    pub cos: Tensor<4>,
    /// As `cos`.
    pub sin: Tensor<4>,
}

/// How many of the `head / 2` angles belong to time, rows and columns.
fn split(head: usize) -> [usize; 3] {
    let plane = head / 6;
    [head / 2 - 2 * plane, plane, plane]
}

/// The smallest width of a head that leaves each of the three dimensions more than one angle.
pub(crate) const SMALLEST_HEAD: usize = 12;

/// Angles of all tokens of a video of `[frames, rows, columns]` patches: `[tokens, head]`, the second half of each row a
/// repetition of the first.
pub(crate) fn angles([frames, rows, columns]: [usize; 3], head: usize, ratios: RopeRatios) -> Vec<f32> {
    let frequencies: Vec<Vec<f32>> = split(head)
        .into_iter()
        .zip([ratios.time, ratios.height, ratios.width])
        .map(|(count, ratio)| {
            let dim = 2.0 * count as f64;
            let theta = 10_000.0 * ratio.powf(dim / (dim - 2.0));
            (0..count).map(|index| theta.powf(-2.0 * index as f64 / dim) as f32).collect()
        })
        .collect();
    let mut out = Vec::with_capacity(frames * rows * columns * head);
    for frame in 0..frames {
        for row in 0..rows {
            for column in 0..columns {
                for _ in 0..2 {
                    for (place, frequencies) in [frame, row, column].into_iter().zip(&frequencies) {
                        out.extend(frequencies.iter().map(|frequency| place as f32 * frequency));
                    }
                }
            }
        }
    }
    out
}

impl Rope {
    /// Of angles `[tokens, head]`.
    pub fn new(angles: &[f32], head: usize, device: &Device) -> Self {
        let shape = [1, 1, angles.len() / head, head];
        let of = |function: fn(f32) -> f32| {
            w2a_nn::tensor(angles.iter().map(|angle| function(*angle)).collect(), shape, device)
        };
        Self { cos: of(f32::cos), sin: of(f32::sin) }
    }

    /// Rotates heads `[batch, heads, tokens, head]`.
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let head = x.dims()[3];
        let (low, high) = (x.clone().narrow(3, 0, head / 2), x.clone().narrow(3, head / 2, head / 2));
        x * self.cos.clone() + Tensor::cat(vec![-high, low], 3) * self.sin.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::{RopeRatios, angles, split};

    #[test]
    fn a_head_of_128_has_44_42_and_42_values_for_the_three_dimensions() {
        assert_eq!(split(128).map(|count| 2 * count), [44, 42, 42]);
        assert_eq!(split(24).map(|count| 2 * count), [8, 8, 8]);
    }

    #[test]
    fn the_first_angle_of_each_dimension_counts_its_places() {
        let ratios = RopeRatios { time: 1.0, height: 3.0, width: 3.0 };
        let all = angles([2, 3, 4], 24, ratios);
        let token = |frame: usize, row: usize, column: usize| &all[((frame * 3 + row) * 4 + column) * 24..][..24];
        let last = token(1, 2, 3);
        assert_eq!([last[0], last[4], last[8]], [1.0, 2.0, 3.0]);
        assert_eq!(last[..12], last[12..]);
        assert!(token(0, 0, 0).iter().all(|angle| *angle == 0.0));
        // The stretched dimension turns more slowly.
        assert!(token(0, 1, 0)[5] < token(1, 0, 0)[1]);
    }
}
