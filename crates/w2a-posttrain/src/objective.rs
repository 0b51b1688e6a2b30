//! What the residual is pulled towards.

use burn::tensor::Tensor;
use w2a_align::{FrozenAdapters, Similarity, cosine, info_nce, similarity};
use w2a_nn::{Losses, NnError};

use crate::alignment::{Alignment, PathEnd, TimeWarp, misfit};

/// Weights of the stage-2 loss; the terms add up.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// Weight of `1 - cos(z_final, z_v)`, averaged over chunks and rollouts.
    pub cosine: f32,
    /// Which chunks the cosine compares; all other terms compare the same step.
    pub alignment: Alignment,
    /// Softness of `soft-dtw`, in units of `1 - cos`.
    pub alignment_gamma: f32,
    /// Most chunks by which execution and imagination may be apart on an aligned path.
    pub alignment_band: usize,
    /// Whether an aligned path has to reach the end of the imagination.
    pub alignment_end: PathEnd,
    /// Weight of the stage-1 InfoNCE, both directions, between `z_v` and `z_final` over the rollouts of a batch.
    pub infonce: f32,
    /// Weight of the squared error between `D_a(z_final)` and an inverse dynamics model's pseudo-actions.
    pub regression: f32,
    /// Weight of the squared length of the step, relative to that of `z_base`: a soft trust region.
    pub step_penalty: f32,
    /// Temperature of InfoNCE.
    pub temperature: f32,
    /// How InfoNCE compares trajectories.
    pub similarity: Similarity,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            cosine: 1.0,
            alignment: Alignment::SameStep,
            alignment_gamma: 0.1,
            alignment_band: 4,
            alignment_end: PathEnd::Closed,
            infonce: 0.0,
            regression: 0.0,
            step_penalty: 0.0,
            temperature: 0.1,
            similarity: Similarity::Chunk,
        }
    }
}

impl ObjectiveConfig {
    /// How chunks are aligned in time; `None` compares the same step.
    pub fn warp(&self) -> Option<TimeWarp> {
        let gamma = match self.alignment {
            Alignment::SameStep => return None,
            Alignment::Monotone => 0.0,
            Alignment::SoftDtw => self.alignment_gamma,
        };
        Some(TimeWarp { gamma, band: self.alignment_band, end: self.alignment_end })
    }
}

/// The named forms of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The paper's InfoNCE alone.
    Infonce,
    /// Positive cosine.
    Cosine,
    /// Regression on pseudo-actions.
    Regression,
}

impl Objective {
    /// The weights of this form.
    pub fn config(self) -> ObjectiveConfig {
        let none = ObjectiveConfig { cosine: 0.0, ..ObjectiveConfig::default() };
        match self {
            Self::Infonce => ObjectiveConfig { infonce: 1.0, ..none },
            Self::Cosine => ObjectiveConfig::default(),
            Self::Regression => ObjectiveConfig { regression: 1.0, ..none },
        }
    }
}

/// A batch of rollouts for the loss.
pub(crate) struct Batch {
    /// `[B, T, D]`.
    pub z_base: Tensor<3>,
    /// `[B, T, D]`, from the residual.
    pub dz: Tensor<3>,
    /// `[B, T, D]`.
    pub z_v: Tensor<3>,
    /// Normalised pseudo-actions, `[B · T, M·A]`; only for the regression term.
    pub actions: Option<Tensor<2>>,
}

/// The loss and its named parts.
///
/// # Errors
/// If the device fails, or what is to be aligned in time is not finite.
pub(crate) fn loss(config: &ObjectiveConfig, adapters: &FrozenAdapters, batch: Batch) -> Result<Losses, NnError> {
    let [rollouts, chunks, dim] = batch.z_base.dims();
    let z = batch.z_base.clone() + batch.dz.clone();
    let pull = cosine(z.clone(), batch.z_v.clone()).mean();
    let ratio = batch.dz.square().sum_dim(2) / (batch.z_base.square().sum_dim(2) + 1e-6);
    let mut parts = vec![("cosine", pull.clone()), ("step_squared", ratio.clone().mean())];
    let misfit = match config.warp() {
        None => -pull + 1.0,
        Some(warp) => {
            let aligned = misfit(&warp, z.clone(), batch.z_v.clone())?;
            parts.extend(aligned.parts);
            aligned.loss
        }
    };
    let mut total = misfit * config.cosine + ratio.mean() * config.step_penalty;
    if config.infonce > 0.0 {
        let s = similarity(config.similarity, batch.z_v, z.clone());
        let both = info_nce(s.clone(), config.temperature) + info_nce(s.transpose(), config.temperature);
        total = total + both.clone() * config.infonce;
        parts.push(("infonce", both));
    }
    if let Some(actions) = batch.actions.filter(|_| config.regression > 0.0) {
        let decoded = adapters.net().decode(z.reshape([rollouts * chunks, dim]));
        let error = (decoded - actions).square().mean();
        total = total + error.clone() * config.regression;
        parts.push(("regression", error));
    }
    Ok((total, parts))
}
