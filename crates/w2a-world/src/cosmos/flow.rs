//! The loss that Cosmos-Predict2's Video2World is trained with (`models/video2world_model.py` and `pipelines/video2world.py` of
//! cosmos-predict2 1.0.9): flow matching, the first latent frames known.

use burn::tensor::{Device, Gradients, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_nn::NnError;

use super::dit::Differentiated;
use super::sampler::{Conditions, network_input};

/// By what the authors multiply the loss (`loss_scale`).
const SCALE: f32 = 10.0;

/// How errors at different noise levels count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossWeight {
    /// `(1 + sigma)^2 / sigma^2` on the clean latents, which is 1 on the velocity: plain flow matching, the weight that belongs
    /// to the authors' scaling (`RectifiedFlowScaling.sigma_loss_weights`).
    #[default]
    Flow,
    /// `(1 + sigma^2) / sigma^2`, which the post-training code of cosmos-predict2 1.0.9 uses (`get_per_sigma_loss_weights`).
    Release,
}

impl LossWeight {
    /// What the squared error of the velocity counts at a noise level.
    fn on_velocity(self, sigma: f32) -> f32 {
        match self {
            Self::Flow => 1.0,
            // The error of the clean latents is that of the velocity times the time.
            Self::Release => (1.0 + sigma * sigma) / ((1.0 + sigma) * (1.0 + sigma)),
        }
    }
}

/// Settings of the loss.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowLoss {
    /// How noise levels count.
    pub weight: LossWeight,
    /// Share of clips that are shown without their prompt, so that guidance has something to lean away from.
    pub prompt_dropout: f32,
    /// Most latent frames that are known; from 1 to so many are, with equal chance.
    pub most_known: usize,
    /// The noise level that known frames are said to have.
    pub sigma_conditional: f32,
}

impl Default for FlowLoss {
    fn default() -> Self {
        Self { weight: LossWeight::Flow, prompt_dropout: 0.2, most_known: 2, sigma_conditional: 1e-4 }
    }
}

impl FlowLoss {
    /// Checks ranges.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<(), NnError> {
        let wrong = |what: &str, expected: &str, got: String| {
            Err(NnError::Input { what: format!("setting {what} of the loss"), expected: expected.into(), got })
        };
        if !(0.0..=1.0).contains(&self.prompt_dropout) {
            return wrong("prompt_dropout", "a share from 0 to 1", self.prompt_dropout.to_string());
        }
        if self.most_known == 0 {
            return wrong("most_known", "at least 1", "0".into());
        }
        if !(0.0..1.0).contains(&self.sigma_conditional) {
            return wrong("sigma_conditional", "0 to 1", self.sigma_conditional.to_string());
        }
        Ok(())
    }
}

/// A clip with noise on it.
#[derive(Clone, Debug)]
pub struct NoisyClip<'a> {
    /// Its shape, its latents in `known`, how many of its frames are known, and its prompt, which is `negative` too.
    pub conditions: Conditions<'a>,
    /// Unit noise, as many values as latents.
    pub noise: Vec<f32>,
    /// The noise level.
    pub sigma: f32,
}

impl<'a> NoisyClip<'a> {
    /// Noise for latents `clean` `[channels, frames, height, width]`: `sigma` is `exp` of a normal number, times the root of
    /// the number of frames (`video_noise_multiplier`), since neighbouring frames tell of each other.
    pub fn draw(
        clean: &'a [f32],
        shape: [usize; 4],
        prompt: Tensor<3>,
        config: &FlowLoss,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let frames = shape[1];
        let sigma = w2a_nn::normal(rng, 1).first().copied().unwrap_or_default().exp() * (frames as f32).sqrt();
        let most = config.most_known.min(frames.saturating_sub(1)).max(1);
        let frames_known = rng.random_range(1..=most);
        let is_shown = rng.random::<f32>() >= config.prompt_dropout;
        let prompt = if is_shown { prompt } else { prompt.zeros_like() };
        let noise = w2a_nn::normal(rng, clean.len());
        let conditions = Conditions { shape, known: clean, frames_known, negative: prompt.clone(), prompt };
        Self { conditions, noise, sigma }
    }

    /// The loss, its gradients handed to `collect` as in [`Differentiated::gradients`].
    ///
    /// # Errors
    /// Latents, noise or known frames that do not fit, and those of the network.
    pub fn loss(
        &self,
        network: &Differentiated,
        config: &FlowLoss,
        device: &Device,
        collect: &mut dyn FnMut(&Gradients) -> Result<(), NnError>,
    ) -> Result<f32, NnError> {
        let Conditions { shape, known: clean, frames_known, .. } = self.conditions;
        let [channels, frames, height, width] = shape;
        let count: usize = shape.iter().product();
        if clean.len() != count || self.noise.len() != count || count == 0 || frames_known >= frames {
            return Err(NnError::Input {
                what: "clip to train on".into(),
                expected: format!("latents and noise of shape {shape:?}, fewer than {frames} frames known"),
                got: format!("{} and {} values, {frames_known} frames known", clean.len(), self.noise.len()),
            });
        }
        let noisy: Vec<f32> = clean.iter().zip(&self.noise).map(|(clean, noise)| clean + noise * self.sigma).collect();
        let Conditions { prompt, .. } = &self.conditions;
        let input = network_input(&self.conditions, config.sigma_conditional, prompt, &noisy, self.sigma, device);
        let velocity = self.noise.iter().zip(clean).map(|(noise, clean)| noise - clean).collect();
        let velocity = w2a_nn::tensor(velocity, [1, channels, frames, height, width], device);
        // Known frames are right by definition, but they count in the mean.
        let unknown = |x: Tensor<5>| x.narrow(2, frames_known, frames - frames_known);
        let factor = SCALE * config.weight.on_velocity(self.sigma) / count as f32;
        let loss = |out: Tensor<5>| (unknown(out) - unknown(velocity)).square().sum() * factor;
        network.gradients(input, loss, collect)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::{FlowLoss, LossWeight, NoisyClip};

    #[test]
    fn noise_levels_known_frames_and_hidden_prompts_have_the_authors_shares() {
        let (shape, config) = ([1, 4, 2, 2], FlowLoss::default());
        let clean = vec![0.5; 16];
        let mut rng = w2a_data::stream(0, "draw");
        let prompt: Tensor<3> = Tensor::ones([1, 2, 3], &Device::flex());
        let drawn: Vec<NoisyClip> =
            (0..2000).map(|_| NoisyClip::draw(&clean, shape, prompt.clone(), &config, &mut rng)).collect();
        let mean = |value: &dyn Fn(&NoisyClip) -> f32| drawn.iter().map(value).sum::<f32>() / drawn.len() as f32;
        let log = mean(&|clip| clip.sigma.ln());
        // exp(N(0, 1)) times the root of four frames.
        assert!((log - 2.0_f32.ln()).abs() < 0.1, "{log}");
        let spread = mean(&|clip| (clip.sigma.ln() - log).powi(2));
        assert!((spread - 1.0).abs() < 0.1, "{spread}");
        let two = mean(&|clip| if clip.conditions.frames_known == 2 { 1.0 } else { 0.0 });
        assert!((two - 0.5).abs() < 0.05 && drawn.iter().all(|clip| [1, 2].contains(&clip.conditions.frames_known)));
        let hidden = mean(&|clip| {
            let values = w2a_nn::values(clip.conditions.prompt.clone()).unwrap();
            if values.iter().all(|value| *value == 0.0) { 1.0 } else { 0.0 }
        });
        assert!((hidden - 0.2).abs() < 0.04, "{hidden}");
        // A clip of two latent frames has one to predict.
        let short = NoisyClip::draw(&clean[..8], [1, 2, 2, 2], prompt, &FlowLoss { most_known: 9, ..config }, &mut rng);
        assert_eq!(short.conditions.frames_known, 1);
    }

    #[test]
    fn both_weights_agree_where_there_is_no_noise() {
        assert!((LossWeight::Release.on_velocity(1e-6) - LossWeight::Flow.on_velocity(1e-6)).abs() < 1e-5);
        assert!((LossWeight::Release.on_velocity(1.0) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (config, name) in [
            (FlowLoss { prompt_dropout: 1.5, ..FlowLoss::default() }, "prompt_dropout"),
            (FlowLoss { prompt_dropout: f32::NAN, ..FlowLoss::default() }, "prompt_dropout"),
            (FlowLoss { most_known: 0, ..FlowLoss::default() }, "most_known"),
            (FlowLoss { sigma_conditional: -1.0, ..FlowLoss::default() }, "sigma_conditional"),
        ] {
            assert!(config.validate().unwrap_err().to_string().contains(name), "{config:?}");
        }
        assert!(FlowLoss::default().validate().is_ok());
    }
}
