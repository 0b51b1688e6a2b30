//! One decision for one robot, without tensors: what runs in the control loop.

use w2a_align::MlpAdapters;
use w2a_nn::{NnError, Prepared};

use crate::control::Decoding;
use crate::residual::{PreparedResidual, ResidualNet};

/// `B_a`, the residual policy and `D_a`, prepared for single observations; computes what the networks do.
#[derive(Debug)]
pub struct FastDecision {
    encoder: Prepared,
    residual: PreparedResidual,
    decoder: Prepared,
}

/// What one decision was.
#[derive(Clone, Debug, PartialEq)]
pub struct FastChunk {
    /// The base chunk in the shared space, `[D]`.
    pub z_base: Vec<f32>,
    /// The residual's step before the gain, `[D]`.
    pub dz: Vec<f32>,
    /// Normalised actions `[M, A]`.
    pub actions: Vec<f32>,
}

impl FastDecision {
    /// From trained networks, for images of `size` (rows, columns of all cameras side by side).
    ///
    /// # Errors
    /// Widths of the residual's tokens that are no multiple of 16, images it was not made for, or a device that does not
    /// hand its values over.
    pub fn new(adapters: &MlpAdapters, residual: &ResidualNet, size: (usize, usize)) -> Result<Self, NnError> {
        let (encoder, decoder) = adapters.prepare()?;
        Ok(Self { encoder, residual: residual.prepare(size)?, decoder })
    }

    /// Decides on one observation: a normalised base chunk `[M, A]`, an image `[3, rows, columns]` in `[-1, 1]` and
    /// normalised proprioception. The step is scaled by `gain` and decoded as `decoding` says.
    ///
    /// # Errors
    /// Inputs of other sizes than the networks'.
    pub fn decide(
        &self,
        chunk: &[f32],
        image: &[f32],
        proprio: &[f32],
        gain: f32,
        decoding: Decoding,
    ) -> Result<FastChunk, NnError> {
        let inputs = [
            ("base chunk of a decision", chunk, &self.encoder),
            ("image of a decision", image, &self.residual.image),
            ("proprioception of a decision", proprio, &self.residual.state),
        ];
        for (what, values, network) in inputs {
            if values.len() != network.input_len() {
                return Err(NnError::Input {
                    what: what.into(),
                    expected: format!("{} values", network.input_len()),
                    got: format!("{} values", values.len()),
                });
            }
        }
        let z_base = self.encoder.run(chunk);
        let dz = self.residual.run(image, proprio, &z_base);
        let z: Vec<f32> = z_base.iter().zip(&dz).map(|(z, dz)| z + gain * dz).collect();
        let mut actions = self.decoder.run(&z);
        if decoding == Decoding::Delta {
            decoding_delta(&mut actions, &self.decoder.run(&z_base), chunk);
        }
        Ok(FastChunk { actions, z_base, dz })
    }
}

/// `D_a(z)` becomes `a_base + D_a(z) - D_a(z_base)`.
pub(crate) fn decoding_delta(actions: &mut [f32], plain: &[f32], base: &[f32]) {
    for ((action, plain), base) in actions.iter_mut().zip(plain).zip(base) {
        *action += base - plain;
    }
}

#[cfg(test)]
mod tests {
    use super::FastDecision;
    use crate::{Decoding, ResidualBatch, ResidualConfig, ResidualNet};
    use burn::module::Module;
    use burn::tensor::Device;
    use w2a_align::{AdapterConfig, MlpAdapters};
    use w2a_nn::{Init, NnError, load_state, normal, state_dict, tensor, values};

    #[test]
    fn a_decision_equals_the_networks_and_other_sizes_are_refused() {
        let device = Device::flex();
        let mut rng = w2a_data::stream(0, "t");
        let mut init = Init { rng: &mut rng, device: &device };
        let adapters = MlpAdapters::new(&AdapterConfig::default(), [4, 4, 4], 28, &mut init);
        let net = ResidualNet::new(&ResidualConfig::default(), (40, 48), 11, 32, &mut init).unwrap();
        // Its last layer starts as zero, which would hide everything before it.
        let mut state = state_dict(&net).unwrap();
        for (index, array) in state.values_mut().enumerate() {
            let noise = normal(&mut w2a_data::stream(index as u64, "noise"), array.data.len());
            array.data.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.1 * noise);
        }
        let net = load_state(net, state).unwrap().valid();
        let random = |name: &str, n: usize| normal(&mut w2a_data::stream(1, name), n);
        let (chunk, image, proprio) = (random("chunk", 28), random("image", 3 * 40 * 48), random("proprio", 11));
        let z_base = adapters.action(tensor(chunk.clone(), [1, 28], &device));
        let dz = net.forward(&ResidualBatch {
            image: tensor(image.clone(), [1, 3, 40, 48], &device),
            proprio: tensor(proprio.clone(), [1, 11], &device),
            z_base: z_base.clone(),
        });
        let actions = values(adapters.decode(z_base + dz.clone() * 0.5)).unwrap();
        let fast = FastDecision::new(&adapters, &net, (40, 48)).unwrap();
        let decision = fast.decide(&chunk, &image, &proprio, 0.5, Decoding::Plain).unwrap();
        let close = |got: &[f32], want: &[f32]| {
            assert_eq!(got.len(), want.len());
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-5), "{got:?} instead of {want:?}");
        };
        close(&decision.dz, &values(dz).unwrap());
        close(&decision.actions, &actions);
        assert!(decision.dz.iter().any(|value| value.abs() > 0.01), "{:?}", decision.dz);
        let error = fast.decide(&chunk, &image[1..], &proprio, 0.5, Decoding::Plain).unwrap_err();
        assert!(matches!(&error, NnError::Input { what, .. } if what.contains("image")), "{error}");
    }
}
