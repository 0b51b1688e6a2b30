//! What can be trained in a DiT.

use burn::module::Module;
use w2a_nn::NnError;
use w2a_posttrain::Lora;
use w2a_world::cosmos::{Dit, DitWeights, LowRank};

/// Parameters that stand in for, or change, the weights of a DiT.
pub(super) trait Trainable: Module {
    /// Whether anything is trained that all blocks share.
    const THROUGH_TIME: bool;

    /// `dit` with these parameters, in a graph of gradients if `tracked`.
    fn attach(&self, dit: &Dit, tracked: bool) -> Result<Dit, NnError>;
}

impl Trainable for DitWeights {
    const THROUGH_TIME: bool = true;

    fn attach(&self, dit: &Dit, tracked: bool) -> Result<Dit, NnError> {
        DitWeights::attach(self, dit, tracked)
    }
}

impl Trainable for Lora {
    const THROUGH_TIME: bool = false;

    fn attach(&self, dit: &Dit, tracked: bool) -> Result<Dit, NnError> {
        let mut dit = dit.clone();
        let scale = self.config().scale();
        let mut factors: std::collections::BTreeMap<_, _> =
            self.factors().map(|(name, a, b)| (name.to_owned(), (a, b))).collect();
        for (name, layer) in dit.layers() {
            let Some((a, b)) = factors.remove(&name) else { continue };
            let [a, b] = [a, b].map(|factor| if tracked || !factor.is_autodiff() { factor } else { factor.inner() });
            layer.adapt(LowRank { a, b, scale })?;
        }
        match factors.into_keys().next() {
            None => Ok(dit),
            Some(name) => Err(NnError::Input {
                what: "layers that LoRA adapts".into(),
                expected: "linear layers of the DiT".into(),
                got: format!("{name:?}, which it does not have"),
            }),
        }
    }
}
