//! Pre-norm transformer blocks, optionally modulated by a condition (adaLN-zero, as in DiT).

use burn::module::Module;
use burn::tensor::activation::{gelu, silu};
use burn::tensor::{Device, Tensor};

use crate::kernels::{BlockPlan, Operand, PreparedBlock, attention, run};
use crate::{Init, LayerNorm, Linear, NnError, values};

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
        if self.modulation.is_none()
            && let Some(out) = self.fused(&x)
        {
            return out;
        }
        self.plain_forward(x, condition)
    }

    /// As one operation, where there is one: few tokens on the CPU.
    fn fused(&self, x: &Tensor<3>) -> Option<Tensor<3>> {
        let [batch, tokens, width] = x.dims();
        let hidden = self.up.weight.val().dims()[0];
        let plan = BlockPlan::new(batch, tokens, width, hidden, self.heads)?;
        let norm = |norm: &LayerNorm| [Operand::of(&norm.weight.val()), Operand::of(&norm.bias.val())];
        let linear = |linear: &Linear| [Operand::of(&linear.weight.val()), Operand::of(&linear.bias.val())];
        let parameters = self.in_order(norm, linear);
        let parameters = parameters.into_iter().flatten().collect::<Option<Vec<_>>>()?;
        run(plan, Operand::of(x)?, parameters, x.dims())
    }

    /// Something of all parameterised parts, in the order of the fields.
    fn in_order<T>(&self, norm: impl Fn(&LayerNorm) -> T, linear: impl Fn(&Linear) -> T) -> [T; 6] {
        let Self { norm1, qkv, out, norm2, up, down, .. } = self;
        [norm(norm1), linear(qkv), linear(out), norm(norm2), linear(up), linear(down)]
    }

    /// The block for a single sequence of `tokens`, without tensors.
    ///
    /// # Errors
    /// A modulated block, widths that are no multiple of 16, more than eight tokens, or a device that does not hand its
    /// values over.
    pub fn prepare(&self, tokens: usize) -> Result<PreparedBlock, NnError> {
        let [hidden, width] = self.up.weight.val().dims();
        let norm = |norm: &LayerNorm| Ok([values(norm.weight.val())?, values(norm.bias.val())?]);
        let linear = |linear: &Linear| Ok([values(linear.weight.val())?, values(linear.bias.val())?]);
        let parameters: Vec<[Vec<f32>; 2]> = self.in_order(norm, linear).into_iter().collect::<Result<_, NnError>>()?;
        let parameters: Vec<Vec<f32>> = parameters.into_iter().flatten().collect();
        BlockPlan::new(1, tokens, width, hidden, self.heads)
            .filter(|_| self.modulation.is_none())
            .and_then(|plan| PreparedBlock::new(plan, &parameters))
            .ok_or_else(|| NnError::Input {
                what: "transformer block prepared for inference".into(),
                expected: "no condition, widths that are multiples of 16, at most 8 tokens".into(),
                got: format!("width {width}, hidden {hidden}, {tokens} tokens"),
            })
    }

    /// [`Block::forward`] through burn's own operations.
    fn plain_forward(&self, x: Tensor<3>, condition: Option<&Tensor<2>>) -> Tensor<3> {
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
        let mixed = attention(part(0), part(1), part(2), None, None);
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

#[cfg(test)]
mod tests {
    use super::{Block, BlockConfig};
    use crate::{Init, normal, tensor, values};
    use burn::module::Module;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn the_fused_block_equals_burns_operations() {
        let device = Device::flex().autodiff();
        let config = BlockConfig { width: 32, heads: 4, hidden: 48, condition: 0 };
        for (batch, tokens) in [(5, 3), (1, 1), (2, 8)] {
            let block = Block::new(&config, &mut Init { rng: &mut w2a_data::stream(1, "block"), device: &device });
            let data = |name: &str| normal(&mut w2a_data::stream(2, name), batch * tokens * 32);
            let weights = tensor(data("loss"), [batch, tokens, 32], &device);
            let run = |forward: &dyn Fn(Tensor<3>) -> Tensor<3>| {
                let x = tensor(data("x"), [batch, tokens, 32], &device).require_grad();
                let y = forward(x.clone());
                let grads = (y.clone() * weights.clone()).sum().backward();
                let mut all = crate::named_gradients(&block, &grads).unwrap();
                all.insert("input".into(), values(x.grad(&grads).unwrap()).unwrap());
                all.insert("output".into(), values(y).unwrap());
                all
            };
            let fused = run(&|x| block.fused(&x).expect("the shapes fit"));
            let plain = run(&|x| block.plain_forward(x, None));
            assert_eq!(fused.len(), 14);
            for ((name, got), (_, want)) in fused.iter().zip(&plain) {
                let largest = want.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                for (got, want) in got.iter().zip(want) {
                    assert!((got - want).abs() < 2e-6 + 1e-5 * largest, "{name}: {got} instead of {want}");
                }
            }
            let frozen = block.valid();
            let x = tensor(data("x"), [batch, tokens, 32], &Device::flex());
            assert_eq!(values(frozen.forward(x, None)).unwrap(), fused["output"]);
            if batch == 1 {
                assert_eq!(block.prepare(tokens).unwrap().run(&data("x")), fused["output"]);
            }
        }
    }
}
