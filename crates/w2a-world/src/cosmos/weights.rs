//! All weights of a DiT as parameters to train, in f32 however the checkpoint stores them.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use w2a_nn::NnError;

use super::dit::Dit;

/// The weights of a [`Dit`], in the order of [`Dit::layers`] and [`Dit::norms`].
#[derive(Module, Debug)]
pub struct DitWeights {
    layers: Vec<Param<Tensor<2>>>,
    norms: Vec<Param<Tensor<1>>>,
}

impl DitWeights {
    /// The weights of `dit`, moved out of it: what is left in its place has the sizes and takes no memory.
    ///
    /// # Errors
    /// None in practice: a layer's weight is replaced by one of its size.
    pub fn take(dit: &mut Dit) -> Result<Self, NnError> {
        let (mut layers, mut norms) = (Vec::new(), Vec::new());
        for (_, layer) in dit.layers() {
            let weight = layer.merged();
            let (size, device) = (layer.size(), weight.device());
            layers.push(parameter(weight));
            // A view of one number.
            layer.replace(Tensor::<2>::zeros([1, 1], &device).expand(size))?;
        }
        for (_, norm) in dit.norms() {
            norms.push(parameter(norm.clone().cast(DType::F32)));
        }
        Ok(Self { layers, norms })
    }

    /// `dit` with these weights, in a graph of gradients if `tracked`.
    ///
    /// # Errors
    /// A network of other sizes.
    pub fn attach(&self, dit: &Dit, tracked: bool) -> Result<Dit, NnError> {
        let mut dit = dit.clone();
        for ((_, layer), weight) in dit.layers().into_iter().zip(&self.layers) {
            layer.replace(seen(weight, tracked))?;
        }
        for ((_, norm), factors) in dit.norms().into_iter().zip(&self.norms) {
            *norm = seen(factors, tracked);
        }
        Ok(dit)
    }
}

fn parameter<const D: usize>(values: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(values.autodiff().detach().require_grad())
}

fn seen<const D: usize>(parameter: &Param<Tensor<D>>, tracked: bool) -> Tensor<D> {
    let value = parameter.val();
    if tracked || !value.is_autodiff() { value } else { value.inner() }
}
