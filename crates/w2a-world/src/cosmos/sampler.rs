//! From noise to latents: the sampler of Cosmos-Predict2's Video2World (`schedulers/rectified_flow_scheduler.py`,
//! `functional/runge_kutta.py` and `pipelines/video2world.py` of cosmos-predict2 1.0.9).
//!
//! Karras' noise levels, a first exponential Euler step, then the two-step Adams-Bashforth method in f64, and a last
//! evaluation at the lowest level. Frames that are known replace those of the network's input and of its result.

use burn::tensor::{Device, Tensor};
use w2a_nn::NnError;

use super::dit::{Dit, DitInput};
use super::numpy::RandomState;

/// How a video is sampled.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// Steps of the solver; the network is evaluated once more than that.
    pub steps: usize,
    /// The noise level of the start.
    pub sigma_max: f64,
    /// The noise level of the last evaluation.
    pub sigma_min: f64,
    /// Curvature of the noise levels.
    pub rho: f64,
    /// Weight of the difference between the prompt and the negative prompt; at 0 the latter is not evaluated.
    pub guidance: f32,
    /// The noise level that known frames are said to have.
    pub sigma_conditional: f32,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self { steps: 35, sigma_max: 80.0, sigma_min: 0.002, rho: 7.0, guidance: 7.0, sigma_conditional: 1e-4 }
    }
}

impl SamplerConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<(), NnError> {
        let wrong = |what: &str, expected: &str, got: String| {
            Err(NnError::Input { what: format!("sampler setting {what}"), expected: expected.into(), got })
        };
        if !(1..=1000).contains(&self.steps) {
            return wrong("steps", "1 to 1000", self.steps.to_string());
        }
        if !(self.sigma_min > 0.0 && self.sigma_max > self.sigma_min && self.sigma_max.is_finite()) {
            let got = format!("sigma_min {} and sigma_max {}", self.sigma_min, self.sigma_max);
            return wrong("sigma_min", "above 0 and below sigma_max", got);
        }
        if !(0.1..=100.0).contains(&self.rho) {
            return wrong("rho", "0.1 to 100", self.rho.to_string());
        }
        if !(0.0..=100.0).contains(&self.guidance) {
            return wrong("guidance", "0 to 100", self.guidance.to_string());
        }
        if !(0.0..1.0).contains(&self.sigma_conditional) {
            return wrong("sigma_conditional", "0 to 1", self.sigma_conditional.to_string());
        }
        Ok(())
    }

    /// Noise levels, one more than steps, falling (Karras et al. 2022, equation 5).
    pub fn sigmas(&self) -> Vec<f64> {
        let (high, low) = (self.sigma_max.powf(1.0 / self.rho), self.sigma_min.powf(1.0 / self.rho));
        let level = |index: usize| (high + index as f64 / self.steps as f64 * (low - high)).powf(self.rho);
        (0..=self.steps).map(level).collect()
    }
}

/// What one video is sampled from.
#[derive(Clone, Debug)]
pub struct Conditions<'a> {
    /// `[channels, frames, height, width]` of the latents.
    pub shape: [usize; 4],
    /// Latents whose first `frames_known` frames are known, `shape`; the others are not looked at.
    pub known: &'a [f32],
    /// Known latent frames.
    pub frames_known: usize,
    /// Embedded prompt, `[1, tokens, width]`.
    pub prompt: Tensor<3>,
    /// Embedded negative prompt, the same shape.
    pub negative: Tensor<3>,
}

/// One evaluation: step, noisy latents, and the clean ones predicted with the prompt, without it, and guided.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a> {
    /// From 0; the last one is after all steps.
    pub step: usize,
    /// The network's input, before it is scaled.
    pub x: &'a [f32],
    /// With the prompt.
    pub conditional: &'a [f32],
    /// With the negative prompt; empty without guidance.
    pub unconditional: &'a [f32],
    /// Guided.
    pub x0: &'a [f32],
}

/// Unit noise of a seed, in the order of the authors: `RandomState(seed).standard_normal(shape)`.
pub fn noise(seed: u32, shape: [usize; 4]) -> Vec<f32> {
    RandomState::new(seed).standard_normals(shape.iter().product())
}

/// Samples a video from unit `noise` of the latents' shape; `each` sees every evaluation.
///
/// # Errors
/// Shapes that do not fit, a device that fails, or a result that is not finite.
pub fn sample(
    dit: &Dit,
    config: &SamplerConfig,
    conditions: &Conditions,
    noise: &[f32],
    device: &Device,
    mut each: impl FnMut(Evaluation),
) -> Result<Vec<f32>, NnError> {
    config.validate()?;
    let [_, frames, ..] = conditions.shape;
    let count: usize = conditions.shape.iter().product();
    if noise.len() != count || conditions.known.len() != count || conditions.frames_known > frames {
        return Err(NnError::Input {
            what: "conditions of a video to sample".into(),
            expected: format!("noise and known latents of shape {:?}, at most {frames} frames known", conditions.shape),
            got: format!(
                "{} and {} values, {} frames known",
                noise.len(),
                conditions.known.len(),
                conditions.frames_known
            ),
        });
    }
    let sigmas = config.sigmas();
    let mut x: Vec<f32> = noise.iter().map(|value| value * config.sigma_max as f32).collect();
    let mut previous: Option<Vec<f32>> = None;
    for (step, &sigma) in sigmas.iter().enumerate() {
        let guided = evaluate(dit, config, conditions, &x, sigma as f32, device, |conditional, unconditional, x0| {
            each(Evaluation { step, x: &x, conditional, unconditional, x0 });
        })?;
        if let Some(bad) = guided.iter().find(|value| !value.is_finite()) {
            return Err(NnError::Device {
                what: "sampling a video",
                message: format!("{bad} in the latents at step {step}; are the weights intact?"),
            });
        }
        let Some(&next) = sigmas.get(step + 1) else { return Ok(guided) };
        x = match previous.as_deref().zip(step.checked_sub(1).and_then(|before| sigmas.get(before))) {
            None => euler(&x, &guided, sigma, next),
            Some((before, &sigma_before)) => adams_bashforth(&x, &guided, before, [sigma_before, sigma, next]),
        };
        previous = Some(guided);
    }
    // There is at least one noise level.
    Ok(x)
}

/// The first step: Euler's, in terms of the clean latents.
fn euler(x: &[f32], x0: &[f32], sigma: f64, next: f64) -> Vec<f32> {
    let (of_x0, of_x) = ((sigma - next) / sigma, next / sigma);
    x.iter().zip(x0).map(|(&x, &x0)| (of_x0 * f64::from(x0) + of_x * f64::from(x)) as f32).collect()
}

/// A step of second order, from the clean latents of this and the previous noise level.
fn adams_bashforth(x: &[f32], x0: &[f32], before: &[f32], [sigma_before, sigma, next]: [f64; 3]) -> Vec<f32> {
    let [before_log, log, next_log] = [sigma_before, sigma, next].map(|sigma| -sigma.ln());
    let step = next_log - log;
    let ratio = (before_log - log) / step;
    let phi1 = (-step).exp_m1() / -step;
    let phi2 = (phi1 - 1.0) / -step;
    let (of_x0, of_before, of_x) = (step * (phi1 - phi2 / ratio), step * phi2 / ratio, (-step).exp());
    let values = x.iter().zip(x0).zip(before);
    values
        .map(|((&x, &x0), &before)| {
            (of_x * f64::from(x) + (of_x0 * f64::from(x0) + of_before * f64::from(before))) as f32
        })
        .collect()
}

/// The clean latents that the network sees in `x` at noise level `sigma`, guided.
fn evaluate(
    dit: &Dit,
    config: &SamplerConfig,
    conditions: &Conditions,
    x: &[f32],
    sigma: f32,
    device: &Device,
    each: impl FnOnce(&[f32], &[f32], &[f32]),
) -> Result<Vec<f32>, NnError> {
    let conditional = denoise(dit, config, conditions, &conditions.prompt, x, sigma, device)?;
    if config.guidance == 0.0 {
        each(&conditional, &[], &conditional);
        return Ok(conditional);
    }
    let unconditional = denoise(dit, config, conditions, &conditions.negative, x, sigma, device)?;
    let pairs = conditional.iter().zip(&unconditional);
    let guided: Vec<f32> = pairs.map(|(with, without)| with + config.guidance * (with - without)).collect();
    each(&conditional, &unconditional, &guided);
    Ok(guided)
}

/// What the network is given for noisy latents `x` at noise level `sigma`: scaled, known frames replaced.
pub(crate) fn network_input(
    conditions: &Conditions,
    sigma_conditional: f32,
    prompt: &Tensor<3>,
    x: &[f32],
    sigma: f32,
    device: &Device,
) -> DitInput {
    let [channels, frames, height, width] = conditions.shape;
    let frame = height * width;
    let (time, time_known) = (time_of(sigma), time_of(sigma_conditional));
    let is_known = |index: usize| index / frame % frames < conditions.frames_known;
    let mut input: Vec<f32> = x.iter().map(|value| value * (1.0 - time)).collect();
    for (index, (value, known)) in input.iter_mut().zip(conditions.known).enumerate() {
        if is_known(index) {
            *value = *known;
        }
    }
    let mask = (0..frames * frame).map(|index| f32::from(u8::from(is_known(index)))).collect();
    let times = (0..frames).map(|index| if index < conditions.frames_known { time_known } else { time }).collect();
    DitInput {
        x: w2a_nn::tensor(input, [1, channels, frames, height, width], device),
        times: w2a_nn::tensor(times, [1, frames], device),
        prompt: prompt.clone(),
        known: w2a_nn::tensor(mask, [1, 1, frames, height, width], device),
        padding: Tensor::zeros([1, 1, height, width], device),
    }
}

/// The time of a noise level, in `[0, 1)`.
fn time_of(sigma: f32) -> f32 {
    sigma / (sigma + 1.0)
}

/// One evaluation of the network, between the scalings of a rectified flow.
fn denoise(
    dit: &Dit,
    config: &SamplerConfig,
    conditions: &Conditions,
    prompt: &Tensor<3>,
    x: &[f32],
    sigma: f32,
    device: &Device,
) -> Result<Vec<f32>, NnError> {
    let [_, frames, height, width] = conditions.shape;
    let is_known = |index: usize| index / (height * width) % frames < conditions.frames_known;
    let time = time_of(sigma);
    let input = network_input(conditions, config.sigma_conditional, prompt, x, sigma, device);
    let output = dit.forward(input, &mut |_, _| {})?;
    let mut out = w2a_nn::values(output)?;
    for (index, ((value, x), known)) in out.iter_mut().zip(x).zip(conditions.known).enumerate() {
        *value = if is_known(index) { *known } else { (1.0 - time) * x - time * *value };
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::{SamplerConfig, adams_bashforth, euler};

    #[test]
    fn noise_levels_fall_from_the_highest_to_the_lowest() {
        let sigmas = SamplerConfig::default().sigmas();
        assert_eq!(sigmas.len(), 36);
        assert!((sigmas[0] - 80.0).abs() < 1e-12 && (sigmas[35] - 0.002).abs() < 1e-15);
        assert!(sigmas.windows(2).all(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn steps_towards_a_constant_end_on_the_straight_line_to_it() {
        // With the same clean value everywhere, x - x0 shrinks with sigma: an exact solution both methods must find.
        let (x0, sigmas) = (0.25_f32, [8.0, 3.0, 0.5]);
        let at = |sigma: f64| [x0 + 2.0 * sigma as f32];
        let second = euler(&at(sigmas[0]), &[x0], sigmas[0], sigmas[1]);
        assert!((second[0] - at(sigmas[1])[0]).abs() < 1e-6);
        let third = adams_bashforth(&second, &[x0], &[x0], sigmas);
        assert!((third[0] - at(sigmas[2])[0]).abs() < 1e-6, "{third:?}");
        // A clean value that changes with log sigma is followed by the second method alone.
        let straight = |sigma: f64| (-sigma.ln()) as f32;
        let bent = adams_bashforth(&[0.0], &[straight(3.0)], &[straight(8.0)], sigmas);
        let flat = euler(&[0.0], &[straight(3.0)], 3.0, 0.5);
        assert!((bent[0] - flat[0]).abs() > 1e-2);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let default = SamplerConfig::default();
        assert!(default.validate().is_ok());
        for (config, name) in [
            (SamplerConfig { steps: 0, ..default.clone() }, "steps"),
            (SamplerConfig { sigma_min: 80.0, ..default.clone() }, "sigma_min"),
            (SamplerConfig { sigma_max: f64::NAN, ..default.clone() }, "sigma_min"),
            (SamplerConfig { rho: 0.0, ..default.clone() }, "rho"),
            (SamplerConfig { guidance: -1.0, ..default.clone() }, "guidance"),
            (SamplerConfig { sigma_conditional: f32::NAN, ..default }, "sigma_conditional"),
        ] {
            assert!(config.validate().unwrap_err().to_string().contains(name), "{config:?}");
        }
    }
}
