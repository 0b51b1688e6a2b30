//! Layers with weights of their own for each embodiment (reference: `embodiment_conditioned_mlp.py`).

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Int, Tensor};
use w2a_nn::{Activation, NnError, activate};

use super::source::Weights;

/// Which embodiments' weights are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Embodiments {
    /// Those of one, by its number: a 32nd of the parameters of these layers.
    One(usize),
    /// All, for batches of several.
    All,
}

/// The row of the loaded weights for each sample of a batch.
#[derive(Clone, Debug)]
pub enum Rows {
    /// The first for all: one embodiment is loaded.
    First,
    /// `[batch]` numbers of embodiments, where all are loaded.
    Each(Box<Tensor<1, Int>>),
}

/// `y = x W[row] + b[row]`; unlike `torch.nn.Linear`, the weight is `[input, output]`.
#[derive(Module, Debug)]
pub struct CategoryLinear {
    /// `[loaded, input, output]`; `W` in the checkpoint.
    pub w: Param<Tensor<3>>,
    /// `[loaded, output]`.
    pub b: Param<Tensor<2>>,
}

impl CategoryLinear {
    fn load(
        weights: &Weights,
        name: &str,
        [input, output]: [usize; 2],
        (which, count): (Embodiments, usize),
    ) -> Result<Self, NnError> {
        let (from, loaded) = match which {
            Embodiments::One(id) => (id, 1),
            Embodiments::All => (0, count),
        };
        Ok(Self {
            w: weights.param_rows(&format!("{name}.W"), [count, input, output], from, loaded)?,
            b: weights.param_rows(&format!("{name}.b"), [count, output], from, loaded)?,
        })
    }

    /// `[batch, steps, input]` → `[batch, steps, output]`.
    fn forward(&self, x: Tensor<3>, rows: &Rows) -> Tensor<3> {
        match rows {
            Rows::First => {
                let [batch, steps, input] = x.dims();
                let [_, _, output] = self.w.dims();
                let w = self.w.val().narrow(0, 0, 1).reshape([input, output]);
                let y = x.reshape([batch * steps, input]).matmul(w) + self.b.val().narrow(0, 0, 1);
                y.reshape([batch, steps, output])
            }
            Rows::Each(index) => {
                let index = Tensor::clone(index);
                let b: Tensor<3> = self.b.val().select(0, index.clone()).unsqueeze_dim(1);
                x.matmul(self.w.val().select(0, index)) + b
            }
        }
    }
}

/// Two layers with a ReLU between them.
#[derive(Module, Debug)]
pub struct CategoryMlp {
    layer1: CategoryLinear,
    layer2: CategoryLinear,
}

impl CategoryMlp {
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        [input, hidden, output]: [usize; 3],
        which: (Embodiments, usize),
    ) -> Result<Self, NnError> {
        let layer1 = CategoryLinear::load(weights, &format!("{name}.layer1"), [input, hidden], which)?;
        Ok(Self { layer1, layer2: CategoryLinear::load(weights, &format!("{name}.layer2"), [hidden, output], which)? })
    }

    /// `[batch, steps, input]` → `[batch, steps, output]`.
    pub(super) fn forward(&self, x: Tensor<3>, rows: &Rows) -> Tensor<3> {
        self.layer2.forward(relu(self.layer1.forward(x, rows)), rows)
    }
}

/// Noisy actions and a time to tokens.
#[derive(Module, Debug)]
pub struct ActionEncoder {
    w1: CategoryLinear,
    w2: CategoryLinear,
    w3: CategoryLinear,
}

impl ActionEncoder {
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        [action, width]: [usize; 2],
        which: (Embodiments, usize),
    ) -> Result<Self, NnError> {
        let layer = |part: &str, input| CategoryLinear::load(weights, &format!("{name}.{part}"), [input, width], which);
        Ok(Self { w1: layer("W1", action)?, w2: layer("W2", 2 * width)?, w3: layer("W3", width)? })
    }

    /// Actions `[batch, steps, action]` and features of their times `[batch or 1, 1, width]` → `[batch, steps, width]`.
    pub(super) fn forward(&self, actions: Tensor<3>, times: Tensor<3>, rows: &Rows) -> Tensor<3> {
        let [batch, steps, _] = actions.dims();
        let actions = self.w1.forward(actions, rows);
        let width = actions.dims()[2];
        let both = Tensor::cat(vec![actions, times.expand([batch, steps, width])], 2);
        self.w3.forward(activate(self.w2.forward(both, rows), Activation::Silu), rows)
    }
}
