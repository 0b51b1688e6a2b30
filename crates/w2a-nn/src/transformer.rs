//! Pre-norm transformer blocks, optionally modulated by a condition (adaLN-zero, as in DiT).

use burn::module::Module;
use burn::tensor::activation::{gelu, silu};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor};

use crate::{Init, LayerNorm, Linear};

/// Sizes of a [`Block`].
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BlockConfig {
    /// Token width.
    pub width: usize,
    /// Attention heads; divides `width`.
    pub heads: usize,
    /// Hidden width of the feed-forward layer.
    pub hidden: usize,
    /// Width of the modulating condition; 0 for none.
    pub condition: usize,
}

/// Self-attention and feed-forward with residual connections.
#[derive(Module, Debug)]
pub struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    modulation: Option<Linear>,
    heads: usize,
}

impl Block {
    /// A block with PyTorch's default initialisation; a modulated one starts as the identity.
    pub fn new(config: &BlockConfig, init: &mut Init) -> Self {
        let BlockConfig { width, heads, hidden, condition } = *config;
        assert!(heads > 0 && width.is_multiple_of(heads), "{heads} heads do not divide a width of {width}");
        Self {
            norm1: LayerNorm::new(width, init),
            qkv: Linear::new(width, 3 * width, init),
            out: Linear::new(width, width, init),
            norm2: LayerNorm::new(width, init),
            up: Linear::new(width, hidden, init),
            down: Linear::new(hidden, width, init),
            modulation: (condition > 0).then(|| Linear::zero(condition, 6 * width, init)),
            heads,
        }
    }

    /// `x` `[batch, tokens, width]`, `condition` `[batch, condition]` if the block has one → the shape of `x`.
    pub fn forward(&self, x: Tensor<3>, condition: Option<&Tensor<2>>) -> Tensor<3> {
        let [batch, _, width] = x.dims();
        let modulation = self.modulation.as_ref().zip(condition).map(|(layer, condition)| {
            let all = layer.forward(silu(condition.clone())).reshape([batch, 6, width]);
            move |index: usize| all.clone().narrow(1, index, 1)
        });
        let modulate = |x: Tensor<3>, at: usize| match &modulation {
            Some(part) => x * (part(at) + 1.0) + part(at + 1),
            None => x,
        };
        let gate = |x: Tensor<3>, at: usize| match &modulation {
            Some(part) => x * part(at),
            None => x,
        };
        let attended = self.attend(modulate(self.norm1.forward(x.clone()), 0));
        let x = x + gate(attended, 2);
        let hidden = gelu(self.up.forward(modulate(self.norm2.forward(x.clone()), 3)));
        x + gate(self.down.forward(hidden), 5)
    }

    fn attend(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let head = width / self.heads;
        let qkv = self.qkv.forward(x).reshape([batch, tokens, 3, self.heads, head]).permute([2, 0, 3, 1, 4]);
        let part = |index: usize| qkv.clone().narrow(0, index, 1).reshape([batch, self.heads, tokens, head]);
        let mixed = attention(part(0), part(1), part(2), None, None, AttentionModuleOptions::default());
        self.out.forward(mixed.permute([0, 2, 1, 3]).reshape([batch, tokens, width]))
    }
}

/// Sinusoidal features of times in `[0, 1]`: `[batch]` values → `[batch, width]`, `width` even.
pub fn timestep_embedding(times: &[f32], width: usize, device: &Device) -> Tensor<2> {
    let half = width / 2;
    let mut out = Vec::with_capacity(times.len() * width);
    for &time in times {
        let angle = |index: usize| time * 1000.0 * (-(index as f32) / half as f32 * 10_000.0_f32.ln()).exp();
        out.extend((0..half).map(|index| angle(index).cos()));
        out.extend((0..half).map(|index| angle(index).sin()));
    }
    crate::tensor(out, [times.len(), width], device)
}
