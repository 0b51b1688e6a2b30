//! The gradient of a loss, block by block: memory then holds the graph of one block and not of all.
//!
//! A block is differentiated in two parts, before and after its tokens attend to each other, each with burn's autodiff. Between
//! them the attention is differentiated for some queries at a time: burn keeps the scores of all pairs of tokens, which for
//! the 37,440 tokens of a clip would be 90 GB. Whether activations are kept or computed again makes no difference to any
//! bit, since the parts and the order of their sums are the same.

use burn::tensor::{DType, Gradients, Tensor};
use w2a_nn::NnError;

use super::block::{Before, Block, Time, attend, attend_in_steps};
use super::{Dit, DitInput};
use crate::cosmos::rope::Rope;

/// Scores between queries and keys that are differentiated at a time: 64 MiB, of which burn keeps a few.
pub(crate) const MOST_SCORES: usize = 1 << 24;

/// What a backward pass does for the activations of the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activations {
    /// Computes those of a block again from the block's input (gradient checkpointing).
    #[default]
    Recompute,
    /// Keeps all of them: faster by a forward pass.
    Keep,
}

/// A network whose gradients are wanted.
#[derive(Debug)]
pub struct Differentiated<'a> {
    /// Without a graph of gradients.
    pub plain: &'a Dit,
    /// The same with what is trained in a graph.
    pub tracked: &'a Dit,
    /// What happens to activations.
    pub activations: Activations,
    /// Whether anything is trained that the blocks share: the embedding of time and of patches, or a modulation.
    pub through_time: bool,
}

/// A tensor that gradients are asked of.
fn leaf<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().autodiff().detach().require_grad()
}

/// Without a graph.
fn plain<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { x.clone().inner() } else { x.clone() }
}

/// The gradient of a leaf; zeros if the result does not depend on it.
fn gradient<const D: usize>(x: &Tensor<D>, gradients: &Gradients) -> Tensor<D> {
    x.grad(gradients).unwrap_or_else(|| plain(x).zeros_like())
}

/// The scalar whose gradient is that of `x`, given the gradient of the result.
fn pulled<const D: usize>(x: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    // In f32 whatever they are, so that several can be added.
    (x * gradient).sum().cast(DType::F32)
}

/// Takes the gradients of parameters.
type Collect<'a> = &'a mut dyn FnMut(&Gradients) -> Result<(), NnError>;

/// Sums of the gradients of what all blocks share.
struct Shared(Option<Time>);

impl Shared {
    fn add(&mut self, leaf: Option<&Time>, gradients: &Gradients) {
        let Some(Time { embedded, shared }) = leaf else { return };
        let new = Time { embedded: gradient(embedded, gradients), shared: gradient(shared, gradients) };
        self.0 = Some(match self.0.take() {
            None => new,
            Some(sum) => Time { embedded: sum.embedded + new.embedded, shared: sum.shared + new.shared },
        });
    }
}

/// A block in two graphs.
struct Recorded {
    /// Leaves of the first, its results, and their values.
    first: (Tensor<4>, Option<Time>, Before),
    heads: [Tensor<4>; 3],
    /// Leaves of the second: tokens, mixed values, gate, time.
    second: (Tensor<4>, Tensor<4>, Tensor<4>, Option<Time>),
    out: Tensor<4>,
}

impl Recorded {
    /// From the gradient of the result to that of the input.
    fn backward(self, out: Tensor<4>, shared: &mut Shared, collect: Collect) -> Result<Tensor<4>, NnError> {
        let Self { first: (x, time, before), heads, second, out: value } = self;
        let (x_after, mixed, gate, time_after) = second;
        let gradients = pulled(value, out).backward();
        collect(&gradients)?;
        shared.add(time_after.as_ref(), &gradients);
        let sum = gradient(&x_after, &gradients);
        let of_heads = attention_gradients(&heads, gradient(&mixed, &gradients));
        let of_gate = time.is_some().then(|| gradient(&gate, &gradients));
        drop((gradients, x_after, mixed, gate, time_after, heads));

        let Before { heads: [query, key, value], gate } = before;
        let [of_query, of_key, of_value] = of_heads;
        let mut total = pulled(query, of_query) + pulled(key, of_key) + pulled(value, of_value);
        if let Some(of_gate) = of_gate {
            total = total + pulled(gate, of_gate);
        }
        let gradients = total.backward();
        collect(&gradients)?;
        shared.add(time.as_ref(), &gradients);
        Ok(sum + gradient(&x, &gradients))
    }
}

/// Gradients of queries, keys and values from that of what attention made of them.
fn attention_gradients([query, key, value]: &[Tensor<4>; 3], out: Tensor<4>) -> [Tensor<4>; 3] {
    let [batch, heads, tokens, _] = query.dims();
    let rows = (MOST_SCORES / (batch * heads * key.dims()[2]).max(1)).clamp(1, tokens.max(1));
    let (mut of_query, mut of_key, mut of_value) = (Vec::new(), key.zeros_like(), value.zeros_like());
    for start in (0..tokens).step_by(rows) {
        let count = rows.min(tokens - start);
        let part = [leaf(&query.clone().narrow(2, start, count)), leaf(key), leaf(value)];
        let gradients = pulled(attend_in_steps(part.clone()), out.clone().narrow(2, start, count)).backward();
        let [of_part, more_key, more_value] = part.map(|leaf| gradient(&leaf, &gradients));
        of_query.push(of_part);
        of_key = of_key + more_key;
        of_value = of_value + more_value;
    }
    [Tensor::cat(of_query, 2), of_key, of_value]
}

impl Differentiated<'_> {
    /// The value of a `loss` of the network's output. `collect` is handed the gradients of parameters part by part; each
    /// parameter is in one part only. A loss that is not finite has no gradients.
    ///
    /// # Errors
    /// Shapes that do not fit, a device that fails, or what `collect` fails with.
    pub fn gradients(
        &self,
        input: DitInput,
        loss: impl FnOnce(Tensor<5>) -> Tensor<1>,
        collect: Collect,
    ) -> Result<f32, NnError> {
        let grid = self.plain.check(&input)?;
        let (shape, prompt, device) = (input.x.dims(), self.plain.words(&input), input.x.device());
        let (mut x, time) = self.plain.begin(input.clone(), grid, &mut |_, _| {});
        let rope = self.plain.rope(grid, &device, &mut |_, _| {});
        let (mut inputs, mut kept) = (Vec::new(), Vec::new());
        for (index, block) in self.plain.blocks.iter().enumerate() {
            match self.activations {
                // Without a graph: burn frees what a graph holds no earlier than at the next backward pass.
                Activations::Recompute => {
                    let Before { heads, gate } = block.before(&x, &time, &rope);
                    inputs.push(x.clone());
                    x = block.after(x, attend(heads), gate, &time, &prompt, attend_in_steps, "", &mut |_, _| {});
                }
                Activations::Keep => {
                    let recorded = self.record(index, &x, &time, &prompt, &rope)?;
                    x = plain(&recorded.out);
                    kept.push(recorded);
                }
            }
        }

        let (mut shared, leaves) = (Shared(None), (leaf(&x), self.time_leaf(&time)));
        drop(x);
        let seen = leaves.1.clone().unwrap_or_else(|| time.clone());
        let total = loss(self.tracked.end(leaves.0.clone(), &seen, shape, &mut |_, _| {}));
        let value = w2a_nn::values(plain(&total))?.first().copied().unwrap_or(f32::NAN);
        if !value.is_finite() {
            return Ok(value);
        }
        let gradients = total.backward();
        collect(&gradients)?;
        shared.add(leaves.1.as_ref(), &gradients);
        let mut of_x = gradient(&leaves.0, &gradients);
        drop((gradients, leaves));
        for index in (0..self.plain.blocks.len()).rev() {
            let recorded = match (kept.pop(), inputs.pop()) {
                (Some(recorded), _) => recorded,
                (None, Some(x)) => self.record(index, &x, &time, &prompt, &rope)?,
                (None, None) => break,
            };
            of_x = recorded.backward(of_x, &mut shared, &mut *collect)?;
        }
        if let Some(of_time) = shared.0 {
            let (x, time) = self.tracked.begin(input, grid, &mut |_, _| {});
            let total = pulled(x, of_x) + pulled(time.embedded, of_time.embedded) + pulled(time.shared, of_time.shared);
            collect(&total.backward())?;
        }
        Ok(value)
    }

    fn time_leaf(&self, time: &Time) -> Option<Time> {
        self.through_time.then(|| Time { embedded: leaf(&time.embedded), shared: leaf(&time.shared) })
    }

    /// The graphs of a block from its input, which has none.
    fn record(
        &self,
        index: usize,
        x: &Tensor<4>,
        time: &Time,
        prompt: &Tensor<3>,
        rope: &Rope,
    ) -> Result<Recorded, NnError> {
        let block: &Block = self.tracked.blocks.get(index).ok_or_else(|| NnError::Input {
            what: "network to differentiate".into(),
            expected: format!("{} blocks", self.plain.blocks.len()),
            got: self.tracked.blocks.len().to_string(),
        })?;
        let (first_x, first_time) = (leaf(x), self.time_leaf(time));
        let before = block.before(&first_x, first_time.as_ref().unwrap_or(time), rope);
        let heads = before.heads.each_ref().map(plain);
        let gate = if self.through_time { leaf(&plain(&before.gate)) } else { plain(&before.gate) };
        let (second_x, second_time) = (leaf(x), self.time_leaf(time));
        let mixed = leaf(&attend(heads.clone()));
        let seen = second_time.as_ref().unwrap_or(time);
        let leaves = (second_x.clone(), mixed.clone(), gate.clone());
        let out = block.after(leaves.0, leaves.1, leaves.2, seen, prompt, attend_in_steps, "", &mut |_, _| {});
        Ok(Recorded { first: (first_x, first_time, before), heads, second: (second_x, mixed, gate, second_time), out })
    }
}
