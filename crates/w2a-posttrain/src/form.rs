//! The forms of stage 2: what is trained, and where it enters.

use burn::module::Module;
use burn::tensor::Tensor;
use w2a_align::{Adapters, Decoder, FrozenAdapters};
use w2a_nn::{Init, NnError, tensor, trainable};

use crate::objective::Bent;
use crate::residual::{ResidualBatch, ResidualConfig, ResidualNet};

/// What stage 2 trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A residual `f` that bends `z`: `z_final = z_base + f(s, z_base)` (the paper's v2).
    #[default]
    Latent,
    /// A residual that corrects actions: `a_final = a_base + D'(z_base + f(s, z_base)) - D_a(z_base)`, compared as
    /// `z_final = B_a(a_final)`; `D'` starts as `D_a` and is trained with `f` (the paper's v1).
    Action,
    /// Low-rank adapters in the policy's own linear layers: `z_final = B_a(policy with LoRA(s))`.
    Lora,
}

impl Form {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latent => "latent",
            Self::Action => "action",
            Self::Lora => "lora",
        }
    }
}

/// The trained part of the residual forms: `f`, and `D'` where actions are corrected.
#[derive(Module, Debug)]
pub struct Residual {
    /// `f`.
    pub net: ResidualNet,
    /// `D'`; `None` in the latent form.
    decoder: Option<Decoder>,
}

impl Residual {
    /// A fresh residual for images of `size` (rows, columns of all cameras side by side) and `proprio` values of
    /// proprioception; it starts as the identity.
    ///
    /// # Errors
    /// [`Form::Lora`], which has no residual, or images too small for the network.
    pub fn new(
        form: Form,
        config: &ResidualConfig,
        size: (usize, usize),
        proprio: usize,
        adapters: &FrozenAdapters,
        init: &mut Init,
    ) -> Result<Self, NnError> {
        let decoder = match form {
            Form::Latent => None,
            Form::Action if init.device.is_autodiff() => Some(trainable(Decoder::of(adapters.net()))),
            Form::Action => Some(Decoder::of(adapters.net())),
            Form::Lora => {
                return Err(NnError::Input {
                    what: "form of a residual".into(),
                    expected: "latent or action".into(),
                    got: form.name().into(),
                });
            }
        };
        Ok(Self { net: ResidualNet::new(config, size, proprio, adapters.dim(), init)?, decoder })
    }

    /// `f`, if it is all there is: not where actions are corrected.
    pub(crate) fn latent(&self) -> Option<&ResidualNet> {
        self.decoder.is_none().then_some(&self.net)
    }

    /// What becomes of base chunks at the full scale; `base` holds them normalised, `[rows, M·A]`.
    pub(crate) fn bend(&self, adapters: &Adapters, inputs: &ResidualBatch, base: &[f32]) -> Bent {
        let z_base = inputs.z_base.clone();
        let dz = self.net.forward(inputs);
        let Some(decoder) = &self.decoder else {
            return Bent { z: z_base + dz.clone(), step: dz, actions: None };
        };
        let rows = z_base.dims()[0];
        let base: Tensor<2> = tensor(base.to_vec(), [rows, base.len() / rows.max(1)], &z_base.device());
        // The difference of the decoders first: where they agree, the base action comes out to the last bit.
        let correction = decoder.decode(z_base.clone() + dz) - adapters.decode(z_base.clone());
        let actions = base + correction;
        let z = adapters.action(actions.clone());
        Bent { step: z.clone() - z_base, z, actions: Some(actions) }
    }
}
