//! The kernels as operations of burn, with a backward pass.

use std::sync::Arc;

use burn::backend::{Autodiff, AutodiffBackend, Flex, TensorMetadata};
use burn::tensor::activation::{gelu, relu};
use burn::tensor::{DType, Tensor, TensorData};
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;

use super::activation::Activation;
use super::geometry::Window;
use super::stack::{Layer, Parameters, Plan, Saved};
use crate::{Conv2d, GroupNorm, Linear};

/// One layer of [`stack`].
#[derive(Clone, Copy, Debug)]
pub struct Stage<'a> {
    /// The convolution.
    pub conv: &'a Conv2d,
    /// The normalisation behind it.
    pub norm: Option<&'a GroupNorm>,
    /// What follows.
    pub activation: Activation,
}

/// Convolution, normalisation and activation of every stage in turn, then the mean over all positions if `pool` is set.
///
/// # Shapes
/// `[batch, in, rows, columns]` → `[batch, out, rows', columns']`; the last two are 1 if it is pooled.
pub fn stack(x: Tensor<4>, stages: &[Stage], pool: bool) -> Tensor<4> {
    let [images, channels, rows, columns] = x.dims();
    let layers: Vec<Layer> = stages
        .iter()
        .map(|stage| Layer {
            window: stage.conv.window(),
            groups: stage.norm.map(GroupNorm::groups),
            activation: stage.activation,
        })
        .collect();
    let outputs: Vec<usize> = stages.iter().map(|stage| stage.conv.weight.val().dims()[0]).collect();
    let plan = Plan::new(images, channels, [rows, columns], &layers, &outputs, pool);
    if let Some(plan) = plan
        && let Some(input) = Operand::of(&x)
        && let Some(parameters) = stages.iter().map(operands).collect::<Option<Vec<_>>>()
    {
        let [out, rows, columns] = plan.output();
        let parameters = parameters.into_iter().flatten().collect();
        if let Some(result) = run(plan, input, parameters, [images, out, rows, columns]) {
            return result;
        }
    }
    let each = |x: Tensor<4>, stage: &Stage| {
        let x = stage.conv.plain_forward(x);
        activate(stage.norm.map_or(x.clone(), |norm| norm.forward(x)), stage.activation)
    };
    let x = stages.iter().fold(x, each);
    if pool { x.mean_dim(3).mean_dim(2) } else { x }
}

/// Linear layers with GELU between them: `[batch, in]` → `[batch, out]`.
pub fn perceptron(x: Tensor<2>, layers: &[&Linear]) -> Tensor<2> {
    let [rows, width] = x.dims();
    let last = layers.len().saturating_sub(1);
    let activation = |index: usize| if index == last { Activation::Identity } else { Activation::Gelu };
    let shapes: Vec<Layer> = (0..layers.len())
        .map(|index| Layer { window: Window::square(1, 1, 0), groups: None, activation: activation(index) })
        .collect();
    let outputs: Vec<usize> = layers.iter().map(|layer| layer.weight.val().dims()[0]).collect();
    if let Some(plan) = Plan::new(rows, width, [1, 1], &shapes, &outputs, false)
        && let Some(input) = Operand::of(&x)
        && let Some(parameters) = layers
            .iter()
            .flat_map(|layer| [Operand::of(&layer.weight.val()), Operand::of(&layer.bias.val())])
            .collect::<Option<Vec<_>>>()
    {
        let [out, ..] = plan.output();
        if let Some(result) = run(plan, input, parameters, [rows, out]) {
            return result;
        }
    }
    layers.iter().enumerate().fold(x, |x, (index, layer)| activate(layer.forward(x), activation(index)))
}

fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::Identity => x,
        Activation::Relu => relu(x),
        Activation::Gelu => gelu(x),
    }
}

/// Weight, bias and, with a normalisation, gamma and beta.
fn operands(stage: &Stage) -> Option<Vec<Operand>> {
    let mut out = vec![Operand::of(&stage.conv.weight.val())?, Operand::of(&stage.conv.bias.val())?];
    if let Some(norm) = stage.norm {
        out.extend([Operand::of(&norm.weight.val())?, Operand::of(&norm.bias.val())?]);
    }
    Some(out)
}

type Tracked = <Autodiff<Flex> as burn::backend::BackendTypes>::FloatTensorPrimitive;

/// A tensor of the backend that the kernels serve.
enum Operand {
    Plain(FlexTensor),
    Tracked(Tracked),
}

impl Operand {
    /// `None` for other backends and types.
    fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        if tensor.device().is_autodiff() {
            return tensor.clone().try_into_primitive::<Autodiff<Flex>>().ok().map(Self::Tracked);
        }
        tensor.clone().try_into_primitive::<Flex>().ok().map(Self::Plain)
    }

    /// The values, row-major in memory.
    fn values(&self) -> FlexTensor {
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
#[derive(Clone, Debug)]
struct State {
    plan: Arc<Plan>,
    saved: Arc<Saved>,
    x: FlexTensor,
    parameters: Vec<FlexTensor>,
}

/// Runs `plan`; `None` if there are more parameters than operations are written for.
fn run<const D: usize>(plan: Plan, input: Operand, parameters: Vec<Operand>, shape: [usize; D]) -> Option<Tensor<D>> {
    let x = input.values();
    let values: Vec<FlexTensor> = parameters.iter().map(Operand::values).collect();
    let is_tracked = |operand: &Operand| matches!(operand, Operand::Tracked(_));
    if !is_tracked(&input) && !parameters.iter().any(is_tracked) {
        let (out, _) = plan.forward(slice(&x), &views(&plan, &values), false);
        return Some(Tensor::from_primitive::<Flex>(flex(out, &shape)));
    }
    let state = (plan, x, values);
    let nodes: Vec<Tracked> = std::iter::once(input).chain(parameters).map(Operand::tracked).collect();
    let out = match nodes.len() {
        3 => record::<3>(state, nodes, &shape),
        5 => record::<5>(state, nodes, &shape),
        7 => record::<7>(state, nodes, &shape),
        9 => record::<9>(state, nodes, &shape),
        11 => record::<11>(state, nodes, &shape),
        13 => record::<13>(state, nodes, &shape),
        _ => return None,
    };
    out.map(Tensor::from_primitive::<Autodiff<Flex>>)
}

#[derive(Debug)]
struct RunStack;

fn record<const N: usize>(
    (plan, x, values): (Plan, FlexTensor, Vec<FlexTensor>),
    nodes: Vec<Tracked>,
    shape: &[usize],
) -> Option<Tracked> {
    let guards: [_; N] = nodes.iter().map(Tracked::node).collect::<Vec<_>>().try_into().ok()?;
    let prepared = <RunStack as Backward<Flex, N>>::prepare::<NoCheckpointing>(RunStack, guards);
    Some(match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let (out, saved) = plan.forward(slice(&x), &views(&plan, &values), true);
            let saved = Arc::new(saved?);
            prepared.finish(State { plan: Arc::new(plan), saved, x, parameters: values }, flex(out, shape))
        }
        OpsKind::UnTracked(prepared) => {
            let (out, _) = plan.forward(slice(&x), &views(&plan, &values), false);
            prepared.finish(flex(out, shape))
        }
    })
}

impl<const N: usize> Backward<Flex, N> for RunStack {
    type State = State;

    fn backward(self, ops: Ops<State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let State { plan, saved, x, parameters } = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        let views = views(&plan, &parameters);
        let with_input = ops.parents[0].is_some();
        let (of_parameters, of_input) = plan.backward(slice(&x), &views, &saved, slice(&gradient), with_input);
        let of_parameters = of_parameters.into_iter().flat_map(|layer| {
            let (gamma, beta) = layer.affine.unzip();
            [Some(layer.weight), Some(layer.bias), gamma, beta].into_iter().flatten()
        });
        let tensors = std::iter::once(&x).chain(&parameters);
        let all = std::iter::once(of_input).chain(of_parameters.map(Some));
        for ((parent, tensor), gradient) in ops.parents.iter().zip(tensors).zip(all) {
            if let Some((node, gradient)) = parent.as_ref().zip(gradient) {
                grads.register::<Flex>(node.id, flex(gradient, &tensor.shape()));
            }
        }
    }
}

fn flex(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}

/// The values of a tensor that [`Operand::values`] has made contiguous.
fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().unwrap_or_default()
}

/// The layers' parameters in the order of [`operands`].
fn views<'a>(plan: &Plan, tensors: &'a [FlexTensor]) -> Vec<Parameters<'a>> {
    let mut values = tensors.iter().map(slice);
    let mut next = || values.next().unwrap_or_default();
    plan.layers()
        .map(|layer| Parameters { weight: next(), bias: next(), affine: layer.groups.map(|_| (next(), next())) })
        .collect()
}
