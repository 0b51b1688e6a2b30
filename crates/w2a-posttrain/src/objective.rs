//! What stage 2 is pulled towards.

use burn::tensor::Tensor;
use w2a_align::{Contrast, ContrastTerms, FrozenAdapters, LossVariant, Negatives, Similarity, cosine};
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
    /// Weight of the stage-1 InfoNCE between `z_v` and `z_final` over the rollouts of a batch.
    pub infonce: f32,
    /// Weight of the squared error between the final action chunk and an inverse dynamics model's pseudo-actions. The
    /// final chunk is `D_a(z_final)` where `z` is bent, else the chunk that `z_final` was made of.
    pub regression: f32,
    /// Weight of the squared length of the step, relative to that of `z_base`: a soft trust region.
    pub step_penalty: f32,
    /// Temperature of InfoNCE.
    pub temperature: f32,
    /// How InfoNCE compares trajectories.
    pub similarity: Similarity,
    /// Where the negatives of InfoNCE come from.
    pub negatives: Negatives,
    /// Weight of InfoNCE with video rows and action columns, within `infonce`.
    pub video_to_action: f32,
    /// Weight of InfoNCE with action rows and video columns, within `infonce`; 0 is the one-directional form.
    pub action_to_video: f32,
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
            negatives: Negatives::SameStep,
            video_to_action: 1.0,
            action_to_video: 1.0,
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

    /// The contrast between imagined and bent trajectories: that of stage 1.
    pub fn contrast(&self) -> Contrast {
        Contrast {
            temperature: self.temperature,
            similarity: self.similarity,
            negatives: self.negatives,
            video_to_action: self.video_to_action,
            action_to_video: self.action_to_video,
        }
    }

    /// These weights with the contrast of a row of the paper's ablation.
    pub fn variant(self, variant: LossVariant) -> Self {
        let Contrast { similarity, negatives, action_to_video, .. } = self.contrast().variant(variant);
        Self { similarity, negatives, action_to_video, ..self }
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

/// What a form of stage 2 makes of the decisions of a batch, at its full scale; with gradients.
pub(crate) struct Bent {
    /// `z_final`, `[rows, D]`.
    pub z: Tensor<2>,
    /// `z_final - z_base`, `[rows, D]`.
    pub step: Tensor<2>,
    /// The normalised actions that `z_final` was made of, `[rows, M·A]`; `None` where `z` is bent and actions follow.
    pub actions: Option<Tensor<2>>,
}

/// A batch of rollouts for the loss: `rows` are `B · T` decisions, rollout by rollout.
pub(crate) struct Batch {
    /// `[B, T, D]`.
    pub z_base: Tensor<3>,
    /// What became of them.
    pub bent: Bent,
    /// `[B, T, D]`.
    pub z_v: Tensor<3>,
    /// Normalised pseudo-actions, `[rows, M·A]`; only for the regression term.
    pub actions: Option<Tensor<2>>,
    /// For each rollout its shift in time where negatives are marginal.
    pub shifts: Vec<usize>,
}

/// The loss and its named parts.
///
/// A chunk of zeros has no direction: its cosine is 0 and it gets no gradient (see [`w2a_align::unit`]). A batch of one
/// rollout has no negatives: its InfoNCE is 0 and so is the gradient.
///
/// # Errors
/// If the device fails, or what is to be aligned in time is not finite.
pub(crate) fn loss(config: &ObjectiveConfig, adapters: &FrozenAdapters, batch: Batch) -> Result<Losses, NnError> {
    let shape = batch.z_base.dims();
    let Bent { z, step, actions: bent_actions } = batch.bent;
    let (trajectories, step) = (z.clone().reshape(shape), step.reshape(shape));
    let pull = cosine(trajectories.clone(), batch.z_v.clone()).mean();
    let ratio = step.square().sum_dim(2) / (batch.z_base.square().sum_dim(2) + 1e-6);
    let mut parts = vec![("cosine", pull.clone()), ("step_squared", ratio.clone().mean())];
    let misfit = match config.warp() {
        None => -pull + 1.0,
        Some(warp) => {
            let aligned = misfit(&warp, trajectories.clone(), batch.z_v.clone())?;
            parts.extend(aligned.parts);
            aligned.loss
        }
    };
    let mut total = misfit * config.cosine + ratio.mean() * config.step_penalty;
    if config.infonce > 0.0 {
        let contrast = config.contrast();
        let ContrastTerms { video_to_action, action_to_video, .. } =
            contrast.terms(batch.z_v, trajectories, &batch.shifts);
        let both = video_to_action * contrast.video_to_action + action_to_video * contrast.action_to_video;
        total = total + both.clone() * config.infonce;
        parts.push(("infonce", both));
    }
    if let Some(actions) = batch.actions.filter(|_| config.regression > 0.0) {
        let reached = bent_actions.unwrap_or_else(|| adapters.net().decode(z));
        let error = (reached - actions).square().mean();
        total = total + error.clone() * config.regression;
        parts.push(("regression", error));
    }
    Ok((total, parts))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use w2a_align::{AdapterConfig, Adapters, FrozenAdapters, LossConfig, LossVariant};
    use w2a_nn::{Init, normal, tensor, values};

    use super::{Batch, Bent, Objective, ObjectiveConfig, loss};

    const SHAPE: [usize; 3] = [4, 3, 8];

    fn adapters() -> FrozenAdapters {
        let device = Device::flex();
        let init = &mut Init { rng: &mut w2a_data::stream(0, "net"), device: &device };
        let config = AdapterConfig { dim: SHAPE[2], ..AdapterConfig::default() };
        FrozenAdapters::new(Adapters::new(&config, [4, 5, 7], [2, 3], init).unwrap(), [4, 5, 7], [2, 3], &device)
    }

    /// The loss of `z` against `z_v` from a base of zeros, its parts, and the gradient of `z`.
    fn run(config: &ObjectiveConfig, z: Vec<f32>, z_v: Vec<f32>) -> (f32, Vec<(&'static str, f32)>, Vec<f32>) {
        let device = Device::flex().autodiff();
        let [rollouts, chunks, dim] = SHAPE;
        let rollouts = rollouts.min(z.len() / (chunks * dim));
        let (shape, rows) = ([rollouts, chunks, dim], rollouts * chunks);
        let leaf: Tensor<2> = tensor(z, [rows, dim], &device).require_grad();
        let batch = Batch {
            z_base: tensor(vec![0.0; rows * dim], shape, &device),
            bent: Bent { z: leaf.clone(), step: leaf.clone(), actions: None },
            z_v: tensor(z_v, shape, &device),
            actions: (config.regression > 0.0).then(|| tensor(vec![0.5; rows * 6], [rows, 6], &device)),
            shifts: config.contrast().shifts(rollouts, chunks, &mut w2a_data::stream(0, "shifts")),
        };
        let (total, parts) = loss(config, &adapters(), batch).unwrap();
        let parts = parts.into_iter().map(|(name, part)| (name, values(part).unwrap()[0])).collect();
        let gradients = total.backward();
        (values(total).unwrap()[0], parts, values(leaf.grad(&gradients).unwrap()).unwrap())
    }

    fn random(name: &str, n: usize) -> Vec<f32> {
        normal(&mut w2a_data::stream(1, name), n)
    }

    #[test]
    fn every_variant_is_the_contrast_of_stage_1() {
        let n = SHAPE.iter().product();
        let (z, z_v) = (random("z", n), random("z_v", n));
        let device = Device::flex();
        let mut seen: Vec<f32> = Vec::new();
        for variant in LossVariant::ALL {
            let config = Objective::Infonce.config().variant(variant);
            let (total, _, gradient) = run(&config, z.clone(), z_v.clone());
            let stage1 = LossConfig::paper().variant(variant).contrast();
            assert_eq!(stage1, config.contrast());
            let shifts = stage1.shifts(SHAPE[0], SHAPE[1], &mut w2a_data::stream(0, "shifts"));
            let terms = stage1.terms(tensor(z_v.clone(), SHAPE, &device), tensor(z.clone(), SHAPE, &device), &shifts);
            let weighted =
                terms.video_to_action * stage1.video_to_action + terms.action_to_video * stage1.action_to_video;
            assert!((total - values(weighted).unwrap()[0]).abs() < 1e-5, "{}", variant.name());
            assert!(gradient.iter().any(|value| value.abs() > 1e-4) && !seen.contains(&total), "{}", variant.name());
            seen.push(total);
        }
    }

    #[test]
    fn a_chunk_of_zeros_has_no_direction_and_gets_no_gradient_in_any_variant() {
        let [_, _, dim] = SHAPE;
        let n: usize = SHAPE.iter().product();
        let mut configs: Vec<ObjectiveConfig> =
            LossVariant::ALL.map(|variant| Objective::Infonce.config().variant(variant)).to_vec();
        configs.push(Objective::Cosine.config());
        for config in configs {
            // The first chunk of the first rollout is zero on one side or on both; the base is zero everywhere.
            for (zero_z, zero_v) in [(true, false), (false, true), (true, true)] {
                let mut z = random("z", n);
                let mut z_v = random("z_v", n);
                z[..dim].iter_mut().for_each(|value| *value *= if zero_z { 0.0 } else { 1.0 });
                z_v[..dim].iter_mut().for_each(|value| *value *= if zero_v { 0.0 } else { 1.0 });
                let (total, _, gradient) = run(&config, z, z_v);
                assert!(total.is_finite() && gradient.iter().all(|value| value.abs() < 100.0), "{config:?}");
                // A time mean has a direction even where one of its chunks has none.
                if zero_z && config.similarity == w2a_align::Similarity::Chunk {
                    assert!(gradient[..dim].iter().all(|value| *value == 0.0), "{config:?}");
                }
            }
            let (total, _, gradient) = run(&config, vec![0.0; n], random("z_v", n));
            assert!(total.is_finite() && gradient.iter().all(|value| *value == 0.0), "{config:?}");
        }
    }

    #[test]
    fn a_batch_of_one_rollout_has_no_negatives_and_no_contrast() {
        let n = SHAPE[1] * SHAPE[2];
        for variant in LossVariant::ALL {
            let config = Objective::Infonce.config().variant(variant);
            let (total, parts, gradient) = run(&config, random("z", n), random("z_v", n));
            assert_eq!(total, 0.0, "{parts:?}");
            assert!(gradient.iter().all(|value| *value == 0.0), "{parts:?}");
        }
        let (total, _, gradient) = run(&Objective::Cosine.config(), random("z", n), random("z_v", n));
        assert!(total > 0.0 && gradient.iter().any(|value| *value != 0.0));
    }

    #[test]
    fn regression_pulls_the_decoded_actions() {
        let n = SHAPE.iter().product();
        let (total, parts, gradient) = run(&Objective::Regression.config(), random("z", n), random("z_v", n));
        assert!(total > 0.0 && parts.last() == Some(&("regression", total)), "{parts:?}");
        assert!(gradient.iter().any(|value| *value != 0.0));
    }
}
