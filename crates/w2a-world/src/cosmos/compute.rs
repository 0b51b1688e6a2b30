//! What the DiT computes in: f32, or bf16 as its authors, on a device that has it.
//!
//! In bf16 are tokens, the inputs and results of products, and attention. Statistics of norms, rotations, the embedding of
//! time with the modulations made from it, and all of the sampler stay f32, and so do weights that are trained.

use burn::tensor::{DType, Device, FloatDType};
use w2a_nn::NnError;

/// What activations are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// f32; weights that are stored as bf16 are used as the f32 values that they are.
    #[default]
    F32,
    /// bf16.
    Bf16,
}

impl Compute {
    /// Whether it is the default.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Of activations.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Checks that a device has it.
    ///
    /// # Errors
    /// bf16 on a device without.
    pub fn check(self, device: &Device) -> Result<(), NnError> {
        self.check_on(&format!("{device:?}"), has_bf16(device))
    }

    fn check_on(self, device: &str, has_bf16: bool) -> Result<(), NnError> {
        if self == Self::F32 || has_bf16 {
            return Ok(());
        }
        Err(NnError::Input {
            what: "setting dtype of Cosmos-Predict2".into(),
            expected: format!("f32 on the device {device}, which does not compute in bf16: leave --world.dtype out"),
            got: "bf16".into(),
        })
    }
}

/// Whether a device holds bf16 values and computes with them.
pub(super) fn has_bf16(device: &Device) -> bool {
    device.supports_dtype(FloatDType::BF16)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor};

    use super::Compute;
    use crate::cosmos::tiny::{DitSizes, random_dit};
    use crate::cosmos::{Dit, DitInput, DitOptions, RopeRatios, Tensors};

    fn dit(compute: Compute) -> Dit {
        let sizes = DitSizes { width: 24, head: 12, rank: 4, hidden: 48, context: 8, blocks: 2 };
        let tensors = Tensors::of_state(random_dit(&sizes, 1), |name| name.strip_prefix("net.").map(str::to_owned));
        let rope = RopeRatios { time: 1.0, height: 3.0, width: 3.0 };
        let options = DitOptions { rope, patch: 2, patch_frames: 1, has_padding_mask: true };
        Dit::load(&tensors, options, &Device::flex(), |_, _| {}).unwrap().computing(compute)
    }

    #[test]
    fn bf16_differs_from_f32_by_its_rounding() {
        let device = Device::flex();
        let random = |name: &str, count| w2a_nn::normal(&mut w2a_data::stream(0, name), count);
        let input = || DitInput {
            x: w2a_nn::tensor(random("x", 16 * 3 * 24), [1, 16, 3, 4, 6], &device),
            times: Tensor::full([1, 3], 0.4, &device),
            prompt: w2a_nn::tensor(random("prompt", 5 * 8), [1, 5, 8], &device),
            known: Tensor::zeros([1, 1, 3, 4, 6], &device),
            padding: Tensor::zeros([1, 1, 4, 6], &device),
        };
        let run = |compute| {
            let out = dit(compute).forward(input(), &mut |_, _| {}).unwrap();
            assert_eq!(out.dtype(), DType::F32);
            w2a_nn::values(out).unwrap()
        };
        let (full, half) = (run(Compute::F32), run(Compute::Bf16));
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
        let size = squares(&mut full.iter().copied());
        let error = squares(&mut full.iter().zip(&half).map(|(a, b)| a - b)) / size;
        // A bf16 value has a relative error of up to 2^-9, and there are two dozen roundings in a row.
        assert!((1e-4..2e-2).contains(&error), "{error}");
    }

    #[test]
    fn a_device_without_bf16_is_named() {
        let error = Compute::Bf16.check_on("Wgpu(DefaultDevice)", false).unwrap_err().to_string();
        assert!(error.contains("--world.dtype") && error.contains("Wgpu(DefaultDevice)"), "{error}");
        assert!(Compute::F32.check_on("any", false).is_ok() && Compute::Bf16.check(&Device::flex()).is_ok());
    }
}
