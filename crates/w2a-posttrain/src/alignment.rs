//! Which chunk of the imagination belongs to which chunk of the execution.
//!
//! The paper compares chunk `t` with chunk `t`, so a policy that is slower than the imagination is pulled towards what
//! it will only do later. Dynamic time warping compares along a path instead, which starts at the first pair of chunks
//! and from pair to pair moves on in the execution, in the imagination, or in both. `soft-dtw` (Cuturi and Blondel 2017,
//! arXiv 1703.01541) replaces the minimum over all paths by a soft one, whose gradient exists everywhere and is computed
//! exactly here; `monotone` takes the one cheapest path and then holds it fixed.

use burn::tensor::Tensor;
use w2a_align::unit;
use w2a_nn::{NnError, tensor, values};

/// Which chunk of the imagination a chunk of the execution is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alignment {
    /// The same one (the paper's).
    #[default]
    SameStep,
    /// Those on the cheapest path, found without gradient; the loss is the mean over its pairs.
    Monotone,
    /// All, weighed by the paths through them; the loss is soft-DTW over the number of chunks.
    SoftDtw,
}

/// Where a path may end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathEnd {
    /// At the last chunk of both: what was imagined has to be executed in full.
    #[default]
    Closed,
    /// At the last chunk of the execution and any one of the imagination within the band: a slow execution may break off.
    Open,
}

/// How chunks of an execution and of an imagination of the same length are aligned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeWarp {
    /// Softness of the minimum over paths in units of the cost; 0 takes the cheapest path.
    pub gamma: f32,
    /// Most chunks by which the two may be apart.
    pub band: usize,
    /// Where a path may end.
    pub end: PathEnd,
}

/// An alignment of two sequences of `T` chunks.
#[derive(Clone, Debug, PartialEq)]
pub struct Aligned {
    /// The minimum, soft or not, over all paths of the sum of their pairs' costs.
    pub cost: f64,
    /// Derivative of `cost` by the cost of each pair, `[T, T]`: with `gamma` 0 it is 1 on the cheapest path and 0 elsewhere,
    /// else the expected number of visits of a random path.
    pub weights: Vec<f64>,
}

/// The three pairs from which a path may come, as steps back in execution and imagination; of equal costs the first wins.
const STEPS: [(usize, usize); 3] = [(1, 1), (1, 0), (0, 1)];

impl TimeWarp {
    /// Aligns by the costs of all pairs, `[T, T]`: rows are chunks of the execution, columns those of the imagination.
    ///
    /// # Errors
    /// A number of costs that is no square of at least 1, or a cost that is not finite.
    pub fn align(&self, costs: &[f32]) -> Result<Aligned, NnError> {
        let chunks = costs.len().isqrt();
        let finite = costs.iter().all(|cost| cost.is_finite());
        if chunks == 0 || chunks * chunks != costs.len() || !finite {
            return Err(NnError::Input {
                what: "costs of an alignment in time".into(),
                expected: "finite numbers, as many chunks of the execution as of the imagination".into(),
                got: format!("{} values{}", costs.len(), if finite { "" } else { ", some not finite" }),
            });
        }
        let reached = self.reach(costs, chunks);
        let last = &reached[(chunks - 1) * chunks..];
        let (cost, weights) = match self.end {
            PathEnd::Closed => (last[chunks - 1], None),
            PathEnd::Open => (self.minimum(last), Some(self.shares(last))),
        };
        let mut visits = vec![0.0; costs.len()];
        match weights {
            None => visits[costs.len() - 1] = 1.0,
            Some(shares) => visits[(chunks - 1) * chunks..].copy_from_slice(&shares),
        }
        // Backwards, every pair hands its visits on to the pairs it may have come from.
        for (row, column) in (0..chunks).rev().flat_map(|row| (0..chunks).rev().map(move |column| (row, column))) {
            let here = visits[row * chunks + column];
            if here == 0.0 || (row, column) == (0, 0) {
                continue;
            }
            let before = self.before(&reached, chunks, row, column);
            for ((rows, columns), share) in STEPS.into_iter().zip(self.shares(&before)) {
                if share > 0.0 {
                    visits[(row - rows) * chunks + column - columns] += here * share;
                }
            }
        }
        Ok(Aligned { cost, weights: visits })
    }

    /// Cost of the cheapest way to every pair, `[T, T]`; infinite outside of the band.
    fn reach(&self, costs: &[f32], chunks: usize) -> Vec<f64> {
        let mut reached = vec![f64::INFINITY; costs.len()];
        for (row, column) in (0..chunks).flat_map(|row| (0..chunks).map(move |column| (row, column))) {
            if row.abs_diff(column) > self.band {
                continue;
            }
            let before = match (row, column) {
                (0, 0) => 0.0,
                _ => self.minimum(&self.before(&reached, chunks, row, column)),
            };
            reached[row * chunks + column] = f64::from(costs[row * chunks + column]) + before;
        }
        reached
    }

    fn before(&self, reached: &[f64], chunks: usize, row: usize, column: usize) -> [f64; 3] {
        STEPS.map(|(rows, columns)| match (row.checked_sub(rows), column.checked_sub(columns)) {
            (Some(row), Some(column)) => reached[row * chunks + column],
            _ => f64::INFINITY,
        })
    }

    /// `-gamma log sum exp(-x / gamma)`, or the minimum; infinite if all are.
    fn minimum(&self, values: &[f64]) -> f64 {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        if self.gamma == 0.0 || least == f64::INFINITY {
            return least;
        }
        let gamma = f64::from(self.gamma);
        least - gamma * values.iter().map(|value| ((least - value) / gamma).exp()).sum::<f64>().ln()
    }

    /// Derivative of [`Self::minimum`] by each value: they add up to 1.
    fn shares(&self, values: &[f64]) -> Vec<f64> {
        let least = self.minimum(values);
        if self.gamma == 0.0 {
            let first = values.iter().position(|value| *value == least);
            return (0..values.len()).map(|index| f64::from(u8::from(Some(index) == first))).collect();
        }
        values.iter().map(|value| ((least - value) / f64::from(self.gamma)).exp()).collect()
    }
}

/// The aligned part of the stage-2 loss.
pub(crate) struct Misfit {
    /// To be descended; 0 if all chunks on the path have their target's direction and `gamma` is 0.
    pub loss: Tensor<1>,
    /// Named numbers for the log.
    pub parts: Vec<(&'static str, Tensor<1>)>,
}

/// Cost of the alignment of `z` with `z_v`, `[B, T, D]` both, where a pair costs 1 minus its cosine; mean over rollouts.
///
/// With `gamma` 0 the mean over the path's pairs; else soft-DTW over `T`, which is the same for a path that is the diagonal
/// as `gamma` goes to 0. The gradient is exact: the derivative by the costs is a constant factor of the costs' own.
///
/// # Errors
/// If the device fails, or an embedding is not finite.
pub(crate) fn misfit(warp: &TimeWarp, z: Tensor<3>, z_v: Tensor<3>) -> Result<Misfit, NnError> {
    let [rollouts, chunks, _] = z.dims();
    let device = z.device();
    let costs: Tensor<3> = -unit(z).matmul(unit(z_v).swap_dims(1, 2)) + 1.0;
    let known = values(costs.clone().detach())?;
    let (mut weights, mut entropy, mut lag) = (Vec::with_capacity(known.len()), 0.0, 0.0);
    for costs in known.chunks_exact(chunks * chunks) {
        let aligned = warp.align(costs)?;
        let visits = aligned.weights.iter().sum::<f64>();
        let paid: f64 = aligned.weights.iter().zip(costs).map(|(weight, cost)| weight * f64::from(*cost)).sum();
        let ahead = |index: usize| (index / chunks) as f64 - (index % chunks) as f64;
        let late: f64 = aligned.weights.iter().enumerate().map(|(index, weight)| weight * ahead(index)).sum();
        let scale = if warp.gamma == 0.0 { visits } else { chunks as f64 };
        entropy += (aligned.cost - paid) / scale / rollouts as f64;
        lag += late / visits / rollouts as f64;
        weights.extend(aligned.weights.iter().map(|weight| (weight / scale / rollouts as f64) as f32));
    }
    let visits: f32 = weights.iter().sum();
    let weights = tensor(weights, [rollouts, chunks, chunks], &device);
    let paid = (costs * weights).sum();
    let constant = |value: f64| tensor(vec![value as f32], [1], &device);
    let cosine = -paid.clone() / visits + 1.0;
    Ok(Misfit { loss: paid + constant(entropy), parts: vec![("aligned_cosine", cosine), ("lag", constant(lag))] })
}

#[cfg(test)]
mod tests;
