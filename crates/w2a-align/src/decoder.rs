//! `D_a` on its own, for forms of stage 2 that train a copy of it.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::Adapters;
use crate::action_vae::VaeDecoder;
use crate::mlp::Mlp;

/// A copy of the action decoder of either family.
#[derive(Module, Debug)]
pub struct Decoder {
    net: Family,
}

#[derive(Module, Debug)]
enum Family {
    Mlp(Mlp),
    ActionVae(VaeDecoder),
}

impl Decoder {
    /// The decoder of trained adapters; it shares their values, not their gradients.
    pub fn of(adapters: &Adapters) -> Self {
        let net = match adapters {
            Adapters::Mlp(net) => Family::Mlp(net.decoder()),
            Adapters::ActionVae(net) => Family::ActionVae(net.decoder()),
        };
        Self { net }
    }

    /// `[n, D]` → normalised action chunks `[n, M·A]`.
    pub fn decode(&self, z: Tensor<2>) -> Tensor<2> {
        match &self.net {
            Family::Mlp(net) => net.forward(z),
            Family::ActionVae(net) => net.decode(z),
        }
    }
}
