//! Base chunks of any policy, bent by a residual: what a server needs of stage 2.

use burn::module::Module;
use burn::tensor::Device;
use w2a_align::{Adapters, FrozenAdapters};
use w2a_data::{Normaliser, Observation};
use w2a_nn::NnError;

use crate::control::{Bend, Decision, Decoding, bad_rows, normalise};
use crate::decision::FastDecision;
use crate::form::Residual;
use crate::residual::push_image;

/// What stays the same whatever the residual has learnt.
#[derive(Clone, Debug)]
pub struct BenderConfig {
    /// The frozen adapters.
    pub adapters: FrozenAdapters,
    /// Normalises actions as in stage 1.
    pub action: Normaliser,
    /// Normalises proprioception as for the policy.
    pub proprio: Normaliser,
    /// Scale of the step at execution.
    pub gain: f32,
    /// How a bent `z` becomes actions.
    pub decoding: Decoding,
    /// Rows and columns of all cameras side by side.
    pub size: (usize, usize),
    /// Where the networks run that [`FastDecision`] does not take.
    pub device: Device,
}

/// A residual with everything that it needs to bend chunks.
///
/// A latent residual on the paper's adapters is run by [`FastDecision`], observation by observation: what comes out for
/// one then does not depend on which others were asked about at the same time. Everything else goes through the networks,
/// as one batch; so do token widths that are no multiple of 16.
#[derive(Debug)]
pub struct Bender {
    config: BenderConfig,
    residual: Residual,
    fast: Option<FastDecision>,
}

impl Bender {
    /// Prepares a residual; gradients are dropped.
    pub fn new(config: BenderConfig, residual: &Residual) -> Self {
        let residual = residual.valid();
        let fast = match (config.adapters.net(), residual.latent()) {
            // What it does not take goes through the networks, which say what is wrong if they do not take it either.
            (Adapters::Mlp(adapters), Some(net)) => FastDecision::new(adapters, net, config.size).ok(),
            _ => None,
        };
        Self { config, residual, fast }
    }

    /// Whether single observations are decided on without tensors.
    pub fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    /// Bends base chunks `[batch, M·A]` in the environment's units.
    ///
    /// # Errors
    /// Observations or chunks of other sizes than the networks'.
    pub fn bend(&self, observations: &[Observation], base: Vec<f32>) -> Result<Decision, NnError> {
        let BenderConfig { adapters, action, proprio, gain, decoding, size, device } = &self.config;
        for observation in observations {
            let mut sides = observation.cameras.iter().map(|camera| (camera.height, camera.width, camera.rgb.len()));
            let fits = sides.all(|(height, width, bytes)| height == size.0 && bytes == height * width * 3);
            let width: usize = observation.cameras.iter().map(|camera| camera.width).sum();
            if !fits || width != size.1 {
                return Err(NnError::Input {
                    what: "cameras of an observation to bend".into(),
                    expected: format!("{}x{} pixels side by side", size.0, size.1),
                    got: format!("{width} columns of {} cameras", observation.cameras.len()),
                });
            }
        }
        let chunk = adapters.chunk();
        if base.len() != observations.len() * chunk {
            return Err(NnError::Input {
                what: "base chunks to bend".into(),
                expected: format!("{} of {chunk} values", observations.len()),
                got: format!("{} values", base.len()),
            });
        }
        let Some(fast) = &self.fast else {
            let residual = Some(&self.residual);
            let bend = Bend { adapters, residual, action, proprio, gain: *gain, decoding: *decoding, device };
            return bend.decide(observations, base);
        };
        let mut out = Decision { base, ..Decision::default() };
        normalise(action, &mut out.base)?;
        for (observation, base) in observations.iter().zip(out.base.chunks_exact(chunk)) {
            let mut image = Vec::with_capacity(3 * size.0 * size.1);
            push_image(observation, &mut image);
            let mut state = observation.proprio.clone();
            normalise(proprio, &mut state)?;
            let mut decided = fast.decide(base, &image, &state, *gain, *decoding)?;
            action.denormalise(&mut decided.actions).map_err(bad_rows)?;
            out.actions.extend(decided.actions);
            out.z_base.extend(decided.z_base);
            out.dz.extend(decided.dz);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use w2a_align::{AdapterConfig, Adapters, FrozenAdapters};
    use w2a_nn::{Init, load_state, normal, state_dict};

    use super::{Bender, BenderConfig};
    use crate::fixtures::{ACTION, PROPRIO, SIDE, normaliser, observations, policy};
    use crate::{Controller, Decoding, Form, Residual, ResidualConfig, ResidualControl};

    fn parts(form: Form, width: usize, decoding: Decoding) -> (BenderConfig, Residual) {
        let device = Device::flex();
        let init = &mut Init { rng: &mut w2a_data::stream(0, "t"), device: &device };
        let net = Adapters::new(&AdapterConfig { dim: 16, ..Default::default() }, [4, 4, 4], [2, ACTION], init);
        let adapters = FrozenAdapters::new(net.unwrap(), [4, 4, 4], [2, ACTION], &device);
        let config = ResidualConfig { depth: 1, heads: 2, width };
        let size = (SIDE, 2 * SIDE);
        let residual = Residual::new(form, &config, size, PROPRIO, &adapters, init).unwrap();
        // Its last layer starts as zero, which would hide everything before it.
        let mut state = state_dict(&residual).unwrap();
        for (index, array) in state.values_mut().enumerate() {
            let noise = normal(&mut w2a_data::stream(index as u64, "noise"), array.data.len());
            array.data.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.1 * noise);
        }
        let (action, proprio) = (normaliser(ACTION), normaliser(PROPRIO));
        let config = BenderConfig { adapters, action, proprio, gain: 0.5, decoding, size, device };
        (config, load_state(residual, state).unwrap())
    }

    #[test]
    fn bending_equals_the_networks_of_stage_2_and_takes_observations_one_by_one_where_it_can() {
        for (form, width, is_fast) in [(Form::Latent, 16, true), (Form::Latent, 8, false), (Form::Action, 16, false)] {
            for decoding in [Decoding::Delta, Decoding::Plain] {
                let (config, residual) = parts(form, width, decoding);
                let (mut own, seen) = (policy(), observations(3));
                let base = crate::control::first_actions(&mut own, 2, &seen, &["a", "b", "c"]).unwrap();
                let mut control = ResidualControl {
                    policy: &mut own,
                    adapters: &config.adapters,
                    residual: Some(&residual),
                    action: &config.action,
                    proprio: &config.proprio,
                    gain: config.gain,
                    decoding,
                    chunk_len: 2,
                    device: Device::flex(),
                };
                let expected = control.decide(&seen, &["a", "b", "c"]).unwrap();
                let bender = Bender::new(config.clone(), &residual);
                assert_eq!(bender.is_fast(), is_fast, "{form:?} {width}");
                let got = bender.bend(&seen, base.clone()).unwrap();
                let pairs = [
                    (&got.actions, &expected.actions),
                    (&got.base, &expected.base),
                    (&got.z_base, &expected.z_base),
                    (&got.dz, &expected.dz),
                ];
                for (got, expected) in pairs {
                    assert_eq!(got.len(), expected.len());
                    let far = got.iter().zip(expected).any(|(got, expected)| (got - expected).abs() > 1e-4);
                    assert!(!far, "{got:?} instead of {expected:?}");
                }
                assert!(got.dz.iter().any(|value| value.abs() > 1e-3), "{:?}", got.dz);
                let alone = bender.bend(&seen[1..2], base[2 * ACTION..4 * ACTION].to_vec()).unwrap();
                if is_fast {
                    assert_eq!(alone.actions, got.actions[2 * ACTION..4 * ACTION]);
                }
            }
        }
    }

    #[test]
    fn images_and_chunks_of_another_size_are_refused() {
        let (config, residual) = parts(Form::Latent, 16, Decoding::Delta);
        let bender = Bender::new(config, &residual);
        let mut seen = observations(1);
        let error = bender.bend(&seen, vec![0.0; 3]).unwrap_err().to_string();
        assert!(error.contains("expected 1 of 14 values, got 3 values"), "{error}");
        seen[0].cameras.pop();
        let error = bender.bend(&seen, vec![0.0; 2 * ACTION]).unwrap_err().to_string();
        assert!(error.contains("expected 40x80 pixels"), "{error}");
    }
}
