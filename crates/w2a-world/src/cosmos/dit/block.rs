//! A transformer block of the DiT, in the two parts between which its tokens attend to each other.

use burn::tensor::module::attention_fallback;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Tensor};
use w2a_nn::{Activation, NnError, activate, attention};

use super::{DitConfig, Tap, block_name};
use crate::cosmos::rope::Rope;
use crate::cosmos::source::{Projection, Tensors};

/// `weight * x / rms(x)` over the last axis, eps 1e-6.
#[derive(Clone, Debug)]
pub(super) struct RmsNorm(pub Tensor<1>);

impl RmsNorm {
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let scale = (x.clone().square().mean_dim(D as isize - 1) + 1e-6).sqrt();
        x / scale * self.0.clone().unsqueeze()
    }
}

/// Multi-head attention over tokens or words.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    pub query: Projection,
    pub key: Projection,
    pub value: Projection,
    pub output: Projection,
    pub query_norm: RmsNorm,
    pub key_norm: RmsNorm,
    heads: usize,
}

impl Attention {
    fn load(
        tensors: &Tensors,
        name: &str,
        config: &DitConfig,
        context: usize,
        device: &Device,
    ) -> Result<Self, NnError> {
        let DitConfig { width, heads, .. } = *config;
        let projection =
            |part: &str, input: usize| tensors.projection(&format!("{name}.{part}.weight"), [width, input], device);
        let norm =
            |part: &str| Ok(RmsNorm(tensors.float(&format!("{name}.{part}.weight"), [width / heads], device)?));
        Ok(Self {
            query: projection("q_proj", width)?,
            key: projection("k_proj", context)?,
            value: projection("v_proj", context)?,
            output: projection("output_proj", width)?,
            query_norm: norm("q_norm")?,
            key_norm: norm("k_norm")?,
            heads,
        })
    }

    /// Query, key and value of `x` `[batch, tokens, width]` and `context` `[batch, words, context]`: `[batch, heads, ..,
    /// width / heads]`.
    fn inputs(&self, x: Tensor<3>, context: Tensor<3>, rope: Option<&Rope>) -> [Tensor<4>; 3] {
        let [batch, tokens, width] = x.dims();
        let words = context.dims()[1];
        let split = |x: Tensor<3>, tokens: usize| x.reshape([batch, tokens, self.heads, width / self.heads]);
        let turn = |x: Tensor<4>, norm: &RmsNorm| {
            let dtype = x.dtype();
            let x = norm.forward(x.cast(DType::F32)).swap_dims(1, 2);
            let x = match rope {
                Some(rope) => rope.rotate(x),
                None => x,
            };
            x.cast(dtype)
        };
        let query = turn(split(self.query.forward(x), tokens), &self.query_norm);
        let key = turn(split(self.key.forward(context.clone()), words), &self.key_norm);
        let value = split(self.value.forward(context), words).swap_dims(1, 2);
        [query, key, value]
    }

    /// `[batch, heads, tokens, width / heads]` → `[batch, tokens, width]`.
    fn outputs(&self, mixed: Tensor<4>) -> Tensor<3> {
        let [batch, heads, tokens, head] = mixed.dims();
        self.output.forward(mixed.swap_dims(1, 2).reshape([batch, tokens, heads * head]))
    }
}

/// One of [`attend`] and [`attend_in_steps`].
pub(super) type Attend = fn([Tensor<4>; 3]) -> Tensor<4>;

/// [`attend`] as burn computes it in a graph of gradients: the same operations one by one, with other rounding.
pub(super) fn attend_in_steps([query, key, value]: [Tensor<4>; 3]) -> Tensor<4> {
    attention_fallback(query, key, value, None, None, AttentionModuleOptions::default())
}

/// Mixes the values by how queries and keys agree.
pub(super) fn attend([query, key, value]: [Tensor<4>; 3]) -> Tensor<4> {
    attention(query, key, value, None, None)
}

/// Shifts, scales and gates made from the time, through a low rank.
#[derive(Clone, Debug)]
pub(super) struct Modulation {
    pub down: Projection,
    pub up: Projection,
}

impl Modulation {
    pub fn load(
        tensors: &Tensors,
        name: &str,
        config: &DitConfig,
        parts: usize,
        device: &Device,
    ) -> Result<Self, NnError> {
        let DitConfig { width, rank, .. } = *config;
        Ok(Self {
            down: tensors.projection(&format!("{name}.1.weight"), [rank, width], device)?,
            up: tensors.projection(&format!("{name}.2.weight"), [parts * width, rank], device)?,
        })
    }

    /// `N` parts `[batch, times, 1, width]`, added to what all blocks share.
    pub fn forward<const N: usize>(&self, time: &Time) -> [Tensor<4>; N] {
        let [batch, times, width] = time.embedded.dims();
        let all = self.up.forward(self.down.forward(activate(time.embedded.clone(), Activation::Silu)));
        let all = all + time.shared.clone().narrow(2, 0, N * width);
        std::array::from_fn(|part| all.clone().narrow(2, part * width, width).reshape([batch, times, 1, width]))
    }
}

/// What the network knows of the time.
#[derive(Clone, Debug)]
pub(super) struct Time {
    /// `[batch, times, width]`.
    pub embedded: Tensor<3>,
    /// `[batch, times, 3 · width]`.
    pub shared: Tensor<3>,
}

/// `layer_norm(x) * (1 + scale) + shift`, eps 1e-6, computed in f32: `x` `[batch, frames, places, width]`.
pub(super) fn modulate(x: Tensor<4>, shift: Tensor<4>, scale: Tensor<4>) -> Tensor<4> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let centred = x.clone() - x.mean_dim(3);
    let spread = (centred.clone().square().mean_dim(3) + 1e-6).sqrt();
    (centred / spread * (scale + 1.0) + shift).cast(dtype)
}

/// `x + gate * change`, with the gate rounded to what the others are.
fn gated(x: Tensor<4>, gate: Tensor<4>, change: Tensor<4>) -> Tensor<4> {
    let gate = gate.cast(x.dtype());
    x + gate * change
}

/// A transformer block: attention over tokens, attention to words, perceptron, each modulated and gated by the time.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub own: (Modulation, Attention),
    pub words: (Modulation, Attention),
    pub perceptron: (Modulation, Projection, Projection),
}

/// What comes before the tokens attend to each other.
pub(super) struct Before {
    /// Query, key and value.
    pub heads: [Tensor<4>; 3],
    /// By how much the result counts, `[batch, times, 1, width]`.
    pub gate: Tensor<4>,
}

impl Block {
    pub fn load(tensors: &Tensors, index: usize, config: &DitConfig, device: &Device) -> Result<Self, NnError> {
        let DitConfig { width, hidden, context, .. } = *config;
        let name = |part: &str| format!("blocks.{index}.{part}");
        let modulation =
            |part: &str| Modulation::load(tensors, &name(&format!("adaln_modulation_{part}")), config, 3, device);
        Ok(Self {
            own: (modulation("self_attn")?, Attention::load(tensors, &name("self_attn"), config, width, device)?),
            words: (modulation("cross_attn")?, Attention::load(tensors, &name("cross_attn"), config, context, device)?),
            perceptron: (
                modulation("mlp")?,
                tensors.projection(&block_name(index, "mlp.layer1"), [hidden, width], device)?,
                tensors.projection(&block_name(index, "mlp.layer2"), [width, hidden], device)?,
            ),
        })
    }

    /// `x` `[batch, frames, places, width]` → the same shape.
    pub fn forward(
        &self,
        x: Tensor<4>,
        time: &Time,
        prompt: &Tensor<3>,
        rope: &Rope,
        name: &str,
        tap: Tap,
    ) -> Tensor<4> {
        let Before { heads, gate } = self.before(&x, time, rope);
        self.after(x, attend(heads), gate, time, prompt, attend, name, tap)
    }

    /// Up to the attention among tokens.
    pub fn before(&self, x: &Tensor<4>, time: &Time, rope: &Rope) -> Before {
        let [batch, frames, places, width] = x.dims();
        let [shift, scale, gate] = self.own.0.forward(time);
        let input = modulate(x.clone(), shift, scale).reshape([batch, frames * places, width]);
        Before { heads: self.own.1.inputs(input.clone(), input, Some(rope)), gate }
    }

    /// From there on; `mixed` is `[batch, heads, tokens, head]`, and `to_words` the attention to words.
    pub fn after(
        &self,
        x: Tensor<4>,
        mixed: Tensor<4>,
        gate: Tensor<4>,
        time: &Time,
        prompt: &Tensor<3>,
        to_words: Attend,
        name: &str,
        tap: Tap,
    ) -> Tensor<4> {
        let shape @ [batch, frames, places, width] = x.dims();
        let attended = self.own.1.outputs(mixed);
        tap(&format!("{name}.self_attn"), attended.clone().flatten(0, -1));
        let x = gated(x, gate, attended.reshape(shape));

        let [shift, scale, gate] = self.words.0.forward(time);
        let input = modulate(x.clone(), shift, scale).reshape([batch, frames * places, width]);
        let attended = self.words.1.outputs(to_words(self.words.1.inputs(input, prompt.clone(), None)));
        tap(&format!("{name}.cross_attn"), attended.clone().flatten(0, -1));
        let x = gated(x, gate, attended.reshape(shape));

        let (modulation, up, down) = &self.perceptron;
        let [shift, scale, gate] = modulation.forward(time);
        let hidden = activate(up.forward(modulate(x.clone(), shift, scale)), Activation::Gelu);
        let x = gated(x, gate, down.forward(hidden));
        tap(name, x.clone().flatten(0, -1));
        x
    }
}
