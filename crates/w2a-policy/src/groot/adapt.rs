//! GR00T as a policy whose transformer can be adapted, and its training loss on demonstrations.

use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};
use w2a_data::{Normaliser, Observation};
use w2a_nn::{Linear, NnError, normal, tensor};

use super::action_head::FlowTarget;
use super::category::Rows;
use super::normalise::Keyed;
use super::policy::{Groot, GrootObservation};
use super::wrong;
use crate::AdaptablePolicy;

impl AdaptablePolicy for Groot {
    /// Those of the action head's transformer, by their names in the checkpoint.
    fn linear_layers(&mut self) -> Vec<(String, &mut Linear)> {
        // It depends on some of these layers.
        self.schedule = None;
        let layers = self.head.linear_layers().into_iter();
        layers.map(|(name, layer)| (format!("action_head.model.{name}"), layer)).collect()
    }

    fn forward(&self, observations: &[Observation], instructions: &[&str]) -> Result<Tensor<2>, NnError> {
        let observation = self.parts.gathered(observations, instructions)?;
        let batch = observations.len();
        let (action, _) = self.denoised(&observation, self.next_noise(batch))?;
        let (steps, width) = (self.parts.normalisation.horizon(), self.parts.normalisation.action_dim());
        Ok(action.narrow(1, 0, steps).narrow(2, 0, width).reshape([batch, steps * width]))
    }

    fn action_normaliser(&self) -> Option<&Normaliser> {
        self.parts.affine.as_ref()
    }
}

impl Groot {
    /// The flow-matching loss on demonstrations, with noise and times from `rng`: times are `(1 - Beta(alpha, beta)) s` with
    /// the checkpoint's numbers. `actions` are raw, for each sample by key `[steps, width]`. Gradients reach what the action
    /// head's weights were made of; the backbone gets none. There is no dropout, as in NVIDIA's inference.
    ///
    /// # Errors
    /// Observations or actions that do not fit; a checkpoint that hides states in training, which is not done here.
    pub fn flow_loss(
        &self,
        observation: &GrootObservation,
        actions: &[Keyed],
        rng: &mut ChaCha8Rng,
    ) -> Result<Tensor<1>, NnError> {
        let parts = &self.parts;
        let config = &parts.head_config;
        if config.state_dropout_prob > 0.0 || config.state_additive_noise_scale > 0.0 {
            let got = format!("{} and {}", config.state_dropout_prob, config.state_additive_noise_scale);
            return Err(wrong("state_dropout_prob and state_additive_noise_scale in config.json", "0 and 0", got));
        }
        let batch = parts.batch_of(observation)?;
        if actions.len() != batch {
            return Err(wrong("actions of a training batch", format!("{batch} samples"), actions.len().to_string()));
        }
        let (states, raw) = parts.states(observation, batch)?;
        let (mut action, mut mask) = (Vec::new(), Vec::new());
        let mut steps = 0;
        for (sample, actions) in actions.iter().enumerate() {
            let state = raw.iter().map(|(key, array)| {
                let each = array.data.len() / batch;
                let data = array.data[sample * each..(sample + 1) * each].to_vec();
                (key.clone(), w2a_nn::Array { shape: array.shape[1..].to_vec(), data })
            });
            let (values, real) = parts.normalisation.padded_action(actions, &state.collect())?;
            steps = values.shape[0];
            action.extend(values.data);
            mask.extend(real.data);
        }
        if config.add_pos_embed && steps > config.max_seq_len {
            return Err(wrong("max_action_horizon", format!("at most {}", config.max_seq_len), steps.to_string()));
        }
        let shape = [batch, steps, config.max_action_dim];
        let beta = Beta::new(config.noise_beta_alpha, config.noise_beta_beta).map_err(|error| {
            wrong("noise_beta_alpha and noise_beta_beta in config.json", "positive numbers", error.to_string())
        })?;
        let times = (0..batch).map(|_| ((1.0 - beta.sample(rng)) * config.noise_s) as f32).collect();
        let noise = normal(rng, shape.iter().product());
        let device = &parts.device;
        let target = FlowTarget {
            action: tensor(action, shape, device),
            mask: tensor(mask, shape, device),
            noise: tensor(noise, shape, device),
            times,
        };
        let features = parts.features(observation, batch)?;
        let context = self.head.context(&self.head.normalised(features));
        let state = self.head.state_tokens(states, &Rows::First);
        Ok(self.head.loss(state, &target, &context, &Rows::First, config)?.0)
    }
}
