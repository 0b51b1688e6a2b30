//! The kernels as operations of burn, with a backward pass.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::{Autodiff, AutodiffBackend, Flex, TensorMetadata};
use burn::tensor::{DType, Tensor, TensorData};
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;

/// A computation on plain values that knows its own gradient.
pub(crate) trait Kernel: Debug + Send + Sync + 'static {
    /// What the backward pass needs beside input and parameters.
    type Saved: Debug + Send + Sync + 'static;

    /// The result and, if `keep` is set, what [`Kernel::backward`] needs.
    fn forward(&self, x: &[f32], parameters: &[&[f32]], keep: bool) -> (Vec<f32>, Option<Self::Saved>);

    /// Gradients of all parameters in order, and of the input if `with_input`, from that of the result.
    fn backward(
        &self,
        x: &[f32],
        parameters: &[&[f32]],
        saved: &Self::Saved,
        gradient: &[f32],
        with_input: bool,
    ) -> (Vec<Vec<f32>>, Option<Vec<f32>>);
}

type Tracked = <Autodiff<Flex> as burn::backend::BackendTypes>::FloatTensorPrimitive;

/// A tensor of the backend that the kernels serve.
pub(crate) enum Operand {
    /// Without gradients.
    Plain(FlexTensor),
    /// In a graph of gradients.
    Tracked(Tracked),
}

impl Operand {
    /// `None` for other backends and types.
    pub(crate) fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        if tensor.device().is_autodiff() {
            return tensor.clone().try_into_primitive::<Autodiff<Flex>>().ok().map(Self::Tracked);
        }
        tensor.clone().try_into_primitive::<Flex>().ok().map(Self::Plain)
    }

    /// The tensor, unless gradients are asked of it.
    pub(super) fn without_gradient(self) -> Option<FlexTensor> {
        match self {
            Self::Plain(tensor) => Some(tensor),
            Self::Tracked(tensor) => (!tensor.is_tracked()).then(|| tensor.primitive().clone()),
        }
    }

    /// The values, row-major in memory.
    pub(super) fn values(&self) -> FlexTensor {
        match self {
            Self::Plain(tensor) => tensor.to_contiguous(),
            Self::Tracked(tensor) => tensor.primitive().to_contiguous(),
        }
    }

    fn tracked(self) -> Tracked {
        match self {
            Self::Plain(tensor) => <Autodiff<Flex> as AutodiffBackend>::from_inner(tensor),
            Self::Tracked(tensor) => tensor,
        }
    }
}

/// What the backward pass needs.
#[derive(Debug)]
struct State<K: Kernel> {
    kernel: Arc<K>,
    saved: Arc<K::Saved>,
    x: FlexTensor,
    parameters: Vec<FlexTensor>,
}

impl<K: Kernel> Clone for State<K> {
    fn clone(&self) -> Self {
        let (kernel, saved) = (Arc::clone(&self.kernel), Arc::clone(&self.saved));
        Self { kernel, saved, x: self.x.clone(), parameters: self.parameters.clone() }
    }
}

/// Runs `kernel`; `None` if there are more parameters than operations are written for.
pub(crate) fn run<K: Kernel, const D: usize>(
    kernel: K,
    input: Operand,
    parameters: Vec<Operand>,
    shape: [usize; D],
) -> Option<Tensor<D>> {
    let x = input.values();
    let values: Vec<FlexTensor> = parameters.iter().map(Operand::values).collect();
    let is_tracked = |operand: &Operand| matches!(operand, Operand::Tracked(_));
    if !is_tracked(&input) && !parameters.iter().any(is_tracked) {
        let (out, _) = on_values(&x, &values, |x, parameters| kernel.forward(x, parameters, false));
        return Some(Tensor::from_primitive::<Flex>(flex(out, &shape)));
    }
    let nodes: Vec<Tracked> = std::iter::once(input).chain(parameters).map(Operand::tracked).collect();
    let run = match nodes.len() {
        1 => record::<K, 1>,
        2 => record::<K, 2>,
        3 => record::<K, 3>,
        5 => record::<K, 5>,
        7 => record::<K, 7>,
        9 => record::<K, 9>,
        11 => record::<K, 11>,
        13 => record::<K, 13>,
        _ => return None,
    };
    run(kernel, x, values, &nodes, &shape).map(Tensor::from_primitive::<Autodiff<Flex>>)
}

/// `run` for `N` operands: burn counts them at compile time.
fn record<K: Kernel, const N: usize>(
    kernel: K,
    x: FlexTensor,
    parameters: Vec<FlexTensor>,
    nodes: &[Tracked],
    shape: &[usize],
) -> Option<Tracked> {
    let guards: [_; N] = nodes.iter().map(Tracked::node).collect::<Vec<_>>().try_into().ok()?;
    let step = Step(std::marker::PhantomData::<fn() -> K>);
    Some(match <Step<K> as Backward<Flex, N>>::prepare::<NoCheckpointing>(step, guards).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let (out, saved) = on_values(&x, &parameters, |x, parameters| kernel.forward(x, parameters, true));
            let state = State { kernel: Arc::new(kernel), saved: Arc::new(saved?), x, parameters };
            prepared.finish(state, flex(out, shape))
        }
        OpsKind::UnTracked(prepared) => {
            let (out, _) = on_values(&x, &parameters, |x, parameters| kernel.forward(x, parameters, false));
            prepared.finish(flex(out, shape))
        }
    })
}

#[derive(Debug)]
struct Step<K>(std::marker::PhantomData<fn() -> K>);

impl<K: Kernel, const N: usize> Backward<Flex, N> for Step<K> {
    type State = State<K>;

    fn backward(self, ops: Ops<State<K>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let State { kernel, saved, x, parameters } = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        let with_input = ops.parents[0].is_some();
        let (of_parameters, of_input) = on_values(&x, &parameters, |x, parameters| {
            kernel.backward(x, parameters, &saved, &slice(&gradient), with_input)
        });
        let all = std::iter::once(of_input).chain(of_parameters.into_iter().map(Some));
        let tensors = std::iter::once(&x).chain(&parameters);
        for ((parent, tensor), gradient) in ops.parents.iter().zip(tensors).zip(all) {
            if let Some((node, gradient)) = parent.as_ref().zip(gradient) {
                grads.register::<Flex>(node.id, flex(gradient, &tensor.shape()));
            }
        }
    }
}

/// A tensor of the backend from row-major values.
pub(super) fn flex(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}

/// Runs `run` on the values of an input and of parameters.
fn on_values<R>(x: &FlexTensor, parameters: &[FlexTensor], run: impl FnOnce(&[f32], &[&[f32]]) -> R) -> R {
    let parameters: Vec<Cow<[f32]>> = parameters.iter().map(slice).collect();
    let parameters: Vec<&[f32]> = parameters.iter().map(AsRef::as_ref).collect();
    run(&slice(x), &parameters)
}

/// The values of a tensor, row-major: borrowed from one that lies so in memory, as all do that come here, else copied.
pub(super) fn slice(tensor: &FlexTensor) -> Cow<'_, [f32]> {
    match tensor.as_slice::<f32>() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(tensor.clone().into_data().iter::<f32>().collect()),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use burn_flex::FlexTensor;

    use super::slice;

    #[test]
    fn a_tensor_that_is_not_row_major_in_memory_is_read_all_the_same() {
        let tensor = FlexTensor::from_data(TensorData::new(vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]));
        assert_eq!(*slice(&tensor), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(*slice(&tensor.transpose(0, 1)), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
