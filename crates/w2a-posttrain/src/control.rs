//! How a chunk of actions comes about: the policy alone, or bent by the residual in the shared space.

use burn::tensor::Device;
use w2a_align::FrozenAdapters;
use w2a_data::{Normaliser, Observation};
use w2a_nn::{NnError, values};
use w2a_policy::Policy;

use crate::decision::decoding_delta;
use crate::form::Residual;
use crate::objective::Bent;
use crate::residual::ResidualBatch;

/// What one call of a controller decided, and what stage 2 needs to know about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Actions to execute, `[batch, M, A]` in the environment's units.
    pub actions: Vec<f32>,
    /// The base policy's normalised chunk, `[batch, M·A]`; empty without adapters.
    pub base: Vec<f32>,
    /// The same in the shared space, `[batch, D]`; empty without adapters.
    pub z_base: Vec<f32>,
    /// The step from there at full scale, before the gain, `[batch, D]`; empty without adapters.
    pub dz: Vec<f32>,
}

/// Decides the next `M` actions of a batch of environments.
pub trait Controller {
    /// `M`: actions executed per decision.
    fn chunk_len(&self) -> usize;

    /// The next chunk for each environment.
    ///
    /// # Errors
    /// Observations that do not fit, or a device that fails.
    fn decide(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Decision, NnError>;

    /// Forgets everything; called before every batch of episodes.
    fn reset(&mut self);
}

/// The policy alone; the first `M` actions of each chunk are executed.
pub struct PolicyControl<'a> {
    /// The policy.
    pub policy: &'a mut dyn Policy,
    /// `M`.
    pub chunk_len: usize,
}

impl Controller for PolicyControl<'_> {
    fn chunk_len(&self) -> usize {
        self.chunk_len
    }

    fn decide(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Decision, NnError> {
        let actions = first_actions(self.policy, self.chunk_len, observations, instructions)?;
        Ok(Decision { actions, ..Decision::default() })
    }

    fn reset(&mut self) {
        self.policy.reset();
    }
}

/// How `z` becomes actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decoding {
    /// `a = D_a(z_base + g dz)`, the paper's v2.
    Plain,
    /// `a = a_base + D_a(z_base + g dz) - D_a(z_base)`: the decoder's own error cancels, and no step means no change.
    #[default]
    Delta,
}

/// The frozen policy, bent by a residual step in the shared space.
pub struct ResidualControl<'a> {
    /// The frozen policy.
    pub policy: &'a mut dyn Policy,
    /// The frozen adapters.
    pub adapters: &'a FrozenAdapters,
    /// The residual, without gradients; `None` is a step of zero (the base through the decoder, if decoding is plain).
    pub residual: Option<&'a Residual>,
    /// Normalises actions as in stage 1.
    pub action: &'a Normaliser,
    /// Normalises proprioception as for the policy.
    pub proprio: &'a Normaliser,
    /// Scale of the step at execution: of `dz` where `z` is bent, of the correction where actions are.
    pub gain: f32,
    /// How a bent `z` becomes actions; a residual that corrects actions does not look at it.
    pub decoding: Decoding,
    /// `M`.
    pub chunk_len: usize,
    /// Where the residual runs.
    pub device: Device,
}

impl Controller for ResidualControl<'_> {
    fn chunk_len(&self) -> usize {
        self.chunk_len
    }

    fn decide(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Decision, NnError> {
        let base = first_actions(self.policy, self.chunk_len, observations, instructions)?;
        let bend = Bend {
            adapters: self.adapters,
            residual: self.residual,
            action: self.action,
            proprio: self.proprio,
            gain: self.gain,
            decoding: self.decoding,
            device: &self.device,
        };
        bend.decide(observations, base)
    }

    fn reset(&mut self) {
        self.policy.reset();
    }
}

/// What becomes of base chunks, by the networks; see [`ResidualControl`] for the fields.
pub(crate) struct Bend<'a> {
    pub adapters: &'a FrozenAdapters,
    pub residual: Option<&'a Residual>,
    pub action: &'a Normaliser,
    pub proprio: &'a Normaliser,
    pub gain: f32,
    pub decoding: Decoding,
    pub device: &'a Device,
}

impl Bend<'_> {
    /// Bends `base`, `[batch, M·A]` in the environment's units.
    pub fn decide(&self, observations: &[Observation], mut base: Vec<f32>) -> Result<Decision, NnError> {
        normalise(self.action, &mut base)?;
        let z_base = self.adapters.action(&base)?;
        let (dz, bent) = match self.residual {
            None => (vec![0.0; z_base.len()], None),
            Some(residual) => {
                let batch = ResidualBatch::of_observations(observations, &z_base, self.proprio, self.device)?;
                let Bent { step, actions, .. } = residual.bend(self.adapters.net(), &batch, &base);
                (values(step)?, actions.map(values).transpose()?)
            }
        };
        let mut actions = match bent {
            Some(bent) => base.iter().zip(&bent).map(|(base, bent)| base + self.gain * (bent - base)).collect(),
            None => self.decode(&base, &z_base, &dz)?,
        };
        self.action.denormalise(&mut actions).map_err(bad_rows)?;
        Ok(Decision { actions, base, z_base, dz })
    }

    /// Normalised actions of `z_base + g dz`.
    fn decode(&self, base: &[f32], z_base: &[f32], dz: &[f32]) -> Result<Vec<f32>, NnError> {
        let z: Vec<f32> = z_base.iter().zip(dz).map(|(z, dz)| z + self.gain * dz).collect();
        let mut actions = self.adapters.decode(&z)?;
        if self.decoding == Decoding::Delta {
            decoding_delta(&mut actions, &self.adapters.decode(z_base)?, base);
        }
        Ok(actions)
    }
}

/// The first `chunk_len` actions of each of the policy's chunks, `[batch, M·A]` in the environment's units.
pub(crate) fn first_actions(
    policy: &mut dyn Policy,
    chunk_len: usize,
    observations: &[Observation],
    instructions: &[&str],
) -> Result<Vec<f32>, NnError> {
    let (horizon, width) = (policy.horizon(), policy.action_dim());
    if horizon < chunk_len {
        return Err(NnError::Input {
            what: "horizon of the policy".into(),
            expected: format!("at least the chunk length {chunk_len}"),
            got: horizon.to_string(),
        });
    }
    let chunks = policy.act(observations, instructions)?;
    Ok(chunks.chunks_exact(horizon * width).flat_map(|chunk| &chunk[..chunk_len * width]).copied().collect())
}

/// Normalises rows in place, as a model error.
///
/// # Errors
/// Rows of another width than the statistics.
pub fn normalise(normaliser: &Normaliser, rows: &mut [f32]) -> Result<(), NnError> {
    normaliser.normalise(rows).map_err(bad_rows)
}

pub(crate) fn bad_rows(error: w2a_data::NormaliserError) -> NnError {
    NnError::Input {
        what: "rows to normalise".into(),
        expected: "the width of the statistics".into(),
        got: error.to_string(),
    }
}
