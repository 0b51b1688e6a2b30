//! The contrastive losses of stages 1 and 2.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};

/// How two trajectories of embeddings are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Similarity {
    /// Mean over time of the cosine of equal time steps (the paper's).
    #[default]
    Chunk,
    /// Cosine of the two time means.
    Global,
}

/// Weights of the stage-1 loss. The paper's form is [`LossConfig::paper`].
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Softmax temperature.
    pub temperature: f32,
    /// How trajectories are compared.
    pub similarity: Similarity,
    /// Weight of the reconstruction `D_a(B_a(a)) ≈ a`.
    pub reconstruction: f32,
    /// Weight of InfoNCE with video rows and action columns, over trajectories.
    pub video_to_action: f32,
    /// Weight of InfoNCE with action rows and video columns, over trajectories.
    pub action_to_video: f32,
    /// Weight of InfoNCE (both directions) over all chunks of all trajectories of the batch.
    pub all_chunks: f32,
    /// Weight of the cross-reconstruction `D_a(B_v(V)) ≈ a`.
    pub cross_reconstruction: f32,
    /// Weight of `|z_v - z_a|² / mean(|z_v|², |z_a|²)` of equal chunks: brings lengths together, which the cosine ignores
    /// and the decoder does not.
    pub distance: f32,
}

impl LossConfig {
    /// The paper's loss: both directions summed, reconstruction, nothing else.
    pub fn paper() -> Self {
        Self {
            temperature: 0.1,
            similarity: Similarity::Chunk,
            reconstruction: 1.0,
            video_to_action: 1.0,
            action_to_video: 1.0,
            all_chunks: 0.0,
            cross_reconstruction: 0.0,
            distance: 0.0,
        }
    }
}

impl Default for LossConfig {
    /// The paper's loss with the additions that aligned single chunks of unseen scenes (all-chunk InfoNCE,
    /// cross-reconstruction, a larger reconstruction weight, and equal lengths).
    fn default() -> Self {
        Self { reconstruction: 5.0, all_chunks: 1.0, cross_reconstruction: 5.0, distance: 2.0, ..Self::paper() }
    }
}

/// Rows of unit length: `[.., D]`. A zero row stays zero, so its cosine with anything is 0.
pub fn unit<const N: usize>(z: Tensor<N>) -> Tensor<N> {
    // Added under the root rather than clamped after it: the gradient of a zero row is then 0 and not NaN.
    let norm = (z.clone().square().sum_dim(N - 1) + 1e-16).sqrt();
    z / norm
}

/// Cosine of equal rows, `[.., D]` twice → `[.., 1]`.
pub fn cosine<const N: usize>(a: Tensor<N>, b: Tensor<N>) -> Tensor<N> {
    (unit(a) * unit(b)).sum_dim(N - 1)
}

/// Similarity of every trajectory of `a` with every one of `b`: `[A, T, D]`, `[B, T, D]` → `[A, B]`, in `[-1, 1]`.
pub fn similarity(kind: Similarity, a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    let [rows, steps, dim] = a.dims();
    let columns = b.dims()[0];
    match kind {
        Similarity::Chunk => {
            let a = unit(a).reshape([rows, steps * dim]);
            let b = unit(b).reshape([columns, steps * dim]);
            a.matmul(b.transpose()) / steps as f32
        }
        Similarity::Global => {
            let mean = |z: Tensor<3>, n| unit(z.mean_dim(1).reshape([n, dim]));
            mean(a, rows).matmul(mean(b, columns).transpose())
        }
    }
}

/// InfoNCE of one direction: `-mean_i log softmax_j(s_ij / temperature)[i]`, `[B, B]` → scalar.
///
/// A batch of one has no negatives: the loss is 0 and so is its gradient.
pub fn info_nce(similarity: Tensor<2>, temperature: f32) -> Tensor<1> {
    let n = similarity.dims()[0];
    let device = similarity.device();
    let diagonal: Vec<i64> = (0..n as i64).collect();
    let diagonal = Tensor::<2, Int>::from_data(TensorData::new(diagonal, [n, 1]), &device);
    -log_softmax(similarity / temperature, 1).gather(1, diagonal).mean()
}

#[cfg(test)]
mod tests {
    use super::{Similarity, cosine, info_nce, similarity};
    use burn::tensor::Device;
    use w2a_nn::{tensor, values};

    #[test]
    fn cosine_of_a_zero_chunk_is_zero_not_nan() {
        let device = Device::flex();
        let zero = tensor(vec![0.0; 4], [1, 4], &device);
        let one = tensor(vec![1.0; 4], [1, 4], &device);
        assert_eq!(values(cosine(zero, one.clone())).unwrap(), [0.0]);
        assert!((values(cosine(one.clone(), one)).unwrap()[0] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_batch_of_one_has_no_loss_and_equal_rows_cost_log_n() {
        let device = Device::flex();
        assert_eq!(values(info_nce(tensor(vec![0.3], [1, 1], &device), 0.1)).unwrap(), [0.0]);
        let equal = values(info_nce(tensor(vec![0.5; 16], [4, 4], &device), 0.1)).unwrap()[0];
        assert!((equal - 4.0_f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn chunk_similarity_sees_order_and_global_does_not() {
        let device = Device::flex();
        let forward = tensor(vec![1., 0., 0., 1.], [1, 2, 2], &device);
        let backward = tensor(vec![0., 1., 1., 0.], [1, 2, 2], &device);
        let chunk = values(similarity(Similarity::Chunk, forward.clone(), backward.clone())).unwrap()[0];
        let global = values(similarity(Similarity::Global, forward, backward)).unwrap()[0];
        assert!(chunk.abs() < 1e-6 && (global - 1.0).abs() < 1e-6);
    }
}
