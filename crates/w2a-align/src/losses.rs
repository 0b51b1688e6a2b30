//! The contrastive losses of stages 1 and 2.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

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

/// Where the negatives of a chunk come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Negatives {
    /// The same time step of the other trajectories (the paper's).
    #[default]
    SameStep,
    /// Chunks from the marginal distribution of chunks: another trajectory at another time step, drawn anew in every
    /// update.
    ///
    /// This is our reading of the "marginal" row of the paper's ablation, which the text does not define. InfoNCE
    /// estimates how much more likely a pair is than its negatives make it. Negatives of the same time step stand for
    /// `p(a | t)`; for the marginal `p(a)` they must not share the time step. Each other trajectory is shifted in time,
    /// cyclically and by at least one step, so that a batch has as many negatives as before and nothing else changes.
    Marginal,
}

/// Rows of the paper's ablation of the stage-1 objective; each is a [`LossConfig::variant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossVariant {
    /// Both directions, chunk against chunk: the paper's method.
    Bidirectional,
    /// Video rows against action columns only.
    OneDirectional,
    /// Both directions, negatives from the marginal: [`Negatives::Marginal`].
    Marginal,
    /// Both directions, one vector per trajectory: [`Similarity::Global`].
    Global,
}

impl LossVariant {
    /// All variants, in the order of the paper's table.
    pub const ALL: [Self; 4] = [Self::Bidirectional, Self::OneDirectional, Self::Marginal, Self::Global];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bidirectional => "bidirectional",
            Self::OneDirectional => "one-directional",
            Self::Marginal => "marginal",
            Self::Global => "global",
        }
    }
}

/// Weights of the stage-1 loss. The paper's form is [`LossConfig::paper`].
///
/// The two directions of InfoNCE have a weight each, because sources differ: the paper adds them (1 and 1, the default),
/// other implementations average them (0.5 and 0.5). A weight of 0 gives the one-directional forms.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Softmax temperature.
    pub temperature: f32,
    /// How trajectories are compared.
    pub similarity: Similarity,
    /// Where negatives come from.
    pub negatives: Negatives,
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
            negatives: Negatives::SameStep,
            reconstruction: 1.0,
            video_to_action: 1.0,
            action_to_video: 1.0,
            all_chunks: 0.0,
            cross_reconstruction: 0.0,
            distance: 0.0,
        }
    }

    /// These weights with the contrast of a row of the paper's ablation.
    pub fn variant(self, variant: LossVariant) -> Self {
        let Contrast { negatives, similarity, action_to_video, .. } = self.contrast().variant(variant);
        Self { negatives, similarity, action_to_video, ..self }
    }

    /// The contrast over trajectories.
    pub fn contrast(&self) -> Contrast {
        Contrast {
            temperature: self.temperature,
            similarity: self.similarity,
            negatives: self.negatives,
            video_to_action: self.video_to_action,
            action_to_video: self.action_to_video,
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

/// The contrast over trajectories, as both stages have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contrast {
    /// Softmax temperature.
    pub temperature: f32,
    /// How trajectories are compared.
    pub similarity: Similarity,
    /// Where negatives come from.
    pub negatives: Negatives,
    /// Weight of the direction with video rows and action columns.
    pub video_to_action: f32,
    /// Weight of the direction with action rows and video columns.
    pub action_to_video: f32,
}

/// What the contrast of a batch came to.
pub struct ContrastTerms {
    /// Video rows, action columns, `[B, B]`.
    pub similarity: Tensor<2>,
    /// InfoNCE of that direction, unweighted.
    pub video_to_action: Tensor<1>,
    /// InfoNCE of the other one, unweighted.
    pub action_to_video: Tensor<1>,
}

impl Contrast {
    /// The same in the form of a row of the paper's ablation.
    pub fn variant(self, variant: LossVariant) -> Self {
        let (negatives, similarity) = match variant {
            LossVariant::Marginal => (Negatives::Marginal, Similarity::Chunk),
            LossVariant::Global => (Negatives::SameStep, Similarity::Global),
            LossVariant::Bidirectional | LossVariant::OneDirectional => (Negatives::SameStep, Similarity::Chunk),
        };
        let action_to_video = if variant == LossVariant::OneDirectional { 0.0 } else { self.action_to_video };
        Self { negatives, similarity, action_to_video, ..self }
    }

    /// For each of `trajectories` of `chunks` its shift in time where it is a negative: drawn from `rng` if negatives are
    /// marginal, else 0. See [`Negatives::Marginal`].
    pub fn shifts(&self, trajectories: usize, chunks: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        match self.negatives {
            Negatives::Marginal if chunks > 1 => (0..trajectories).map(|_| rng.random_range(1..chunks)).collect(),
            _ => vec![0; trajectories],
        }
    }

    /// Both directions of InfoNCE between trajectories of the two sides, `[B, T, D]` twice; equal rows are the positives.
    /// `shifts` are those of [`Contrast::shifts`].
    pub fn terms(&self, z_video: Tensor<3>, z_action: Tensor<3>, shifts: &[usize]) -> ContrastTerms {
        let similarity = match self.negatives {
            Negatives::SameStep => similarity(self.similarity, z_video, z_action),
            Negatives::Marginal => marginal_similarity(z_video, z_action, shifts),
        };
        ContrastTerms {
            video_to_action: info_nce(similarity.clone(), self.temperature),
            action_to_video: info_nce(similarity.clone().transpose(), self.temperature),
            similarity,
        }
    }
}

/// Squared length below which a row counts as zero: that of `torch.nn.functional.normalize`.
const ZERO: f32 = 1e-24;

/// Rows of unit length: `[.., D]`. A row of zeros (shorter than 1e-12) has no direction: it stays zero, its cosine with
/// anything is 0, and it gets no gradient. Dividing by a small number instead would give it one of 10^12.
pub fn unit<const N: usize>(z: Tensor<N>) -> Tensor<N> {
    let square = z.clone().square().sum_dim(N - 1);
    let is_zero = square.clone().detach().lower_elem(ZERO);
    let keep = is_zero.clone().bool_not().float();
    z * (keep / square.mask_fill(is_zero, 1.0).sqrt())
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

/// As [`similarity`] by chunks, but trajectory `j` of `b` is shifted by `shifts[j]` time steps, cyclically, wherever it is
/// a negative: `[B, T, D]` twice → `[B, B]`, whose diagonal is that of the unshifted pairs. See [`Negatives::Marginal`].
pub fn marginal_similarity(a: Tensor<3>, b: Tensor<3>, shifts: &[usize]) -> Tensor<2> {
    let [rows, steps, dim] = b.dims();
    let (a, b) = (unit(a), unit(b));
    let device = b.device();
    let places = shifts
        .iter()
        .enumerate()
        .flat_map(|(row, shift)| (0..steps).map(move |step| (row * steps + (step + shift) % steps) as i64));
    let places = Tensor::<1, Int>::from_data(TensorData::new(places.collect(), [rows * steps]), &device);
    let shifted = b.clone().reshape([rows * steps, dim]).select(0, places).reshape([rows, steps * dim]);
    let negatives = a.clone().reshape([rows, steps * dim]).matmul(shifted.transpose()) / steps as f32;
    let own = (a * b).sum_dim(2).sum_dim(1).reshape([rows, 1]) / steps as f32;
    let diagonal = Tensor::<2>::eye(rows, &device);
    negatives * (diagonal.clone() * -1.0 + 1.0) + own * diagonal
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
    use super::{LossConfig, LossVariant, Negatives, Similarity, cosine, info_nce, marginal_similarity, similarity};
    use burn::tensor::Device;
    use w2a_nn::{tensor, values};

    #[test]
    fn cosine_of_a_zero_chunk_is_zero_and_so_is_its_gradient() {
        let device = Device::flex().autodiff();
        for zero in [vec![0.0; 4], vec![1e-20; 4]] {
            let zero = tensor(zero, [1, 4], &device).require_grad();
            let one = tensor(vec![1.0, 2.0, 3.0, 4.0], [1, 4], &device).require_grad();
            let cosines = cosine(zero.clone(), one.clone());
            assert_eq!(values(cosines.clone()).unwrap(), [0.0]);
            let gradients = cosines.sum().backward();
            for leaf in [zero, one] {
                assert_eq!(values(leaf.grad(&gradients).unwrap()).unwrap(), [0.0; 4]);
            }
        }
        let one = tensor(vec![1.0; 4], [1, 4], &device);
        assert!((values(cosine(one.clone(), one * 1e-6)).unwrap()[0] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn marginal_negatives_come_from_other_time_steps_and_positives_do_not() {
        let device = Device::flex();
        // Two trajectories of three chunks; both go through the same three directions in the same order.
        let path = vec![1., 0., 0., 0., 1., 0., 0., 0., 1.];
        let z = tensor([path.clone(), path].concat(), [2, 3, 3], &device);
        let same = values(similarity(Similarity::Chunk, z.clone(), z.clone())).unwrap();
        assert_eq!(same, [1.0; 4]);
        for shifts in [[1, 2], [2, 2], [1, 1]] {
            let s = values(marginal_similarity(z.clone(), z.clone(), &shifts)).unwrap();
            assert_eq!(s, [1.0, 0.0, 0.0, 1.0]);
        }
        // A trajectory of one chunk has no other step: nothing is shifted.
        let one = z.slice([0..2, 0..1, 0..3]);
        assert_eq!(values(marginal_similarity(one.clone(), one, &[0, 0])).unwrap(), [1.0; 4]);
    }

    #[test]
    fn variants_differ_from_the_papers_form_in_one_thing_each() {
        let paper = LossConfig::paper();
        assert_eq!(paper.clone().variant(LossVariant::Bidirectional), paper);
        let one = paper.clone().variant(LossVariant::OneDirectional);
        assert_eq!(LossConfig { action_to_video: 1.0, ..one.clone() }, paper);
        assert_eq!((one.video_to_action, one.action_to_video), (1.0, 0.0));
        let marginal = paper.clone().variant(LossVariant::Marginal);
        assert_eq!(LossConfig { negatives: Negatives::SameStep, ..marginal.clone() }, paper);
        let global = paper.clone().variant(LossVariant::Global);
        assert_eq!(LossConfig { similarity: Similarity::Chunk, ..global.clone() }, paper);
        assert!(marginal != paper && global != paper);
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
