//! The diffusion transformer of the action head (reference: `AlternateVLDiT` and `DiT` in `dit.py`).
//!
//! What depends on time alone ([`Moment`]) and what depends on the observation alone ([`Context`]) is computed once; a pass
//! does only the rest.

use burn::module::Module;
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use w2a_nn::{Activation, Linear, NnError, activate, tensor};

use super::backbone::Features;
use super::layers::{Affine, Tap, attend, key_bias, split_heads};
use super::source::Weights;
use super::wrong;

/// Sinusoidal features of a time, before the perceptron.
const TIME_FEATURES: usize = 256;

/// Sizes, with the names of `diffusion_model_cfg`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DitConfig {
    /// Blocks.
    pub num_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Width of what comes out.
    pub output_dim: usize,
    /// Whether every second block attends to the actions themselves.
    #[serde(default)]
    pub interleave_self_attention: bool,
    /// Kind of the norms; only `ada_norm`.
    #[serde(default = "ada_norm")]
    pub norm_type: String,
    /// Positions inside of the blocks; only none, which has to be written: the reference's default is another.
    pub positional_embeddings: Option<String>,
    /// Activation of the perceptrons; only the approximate GELU.
    #[serde(default = "gelu_name")]
    pub activation_fn: String,
    /// Whether attention has biases; only true.
    #[serde(default = "yes")]
    pub attention_bias: bool,
}

fn ada_norm() -> String {
    "ada_norm".into()
}

fn gelu_name() -> String {
    "gelu-approximate".into()
}

fn yes() -> bool {
    true
}

impl DitConfig {
    /// Width of a token.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Checks that the sizes make sense and that this program has what they ask for.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self) -> Result<(), NnError> {
        let sizes = [self.num_attention_heads, self.attention_head_dim, self.output_dim];
        let fits = sizes.iter().all(|size| (1..=1 << 16).contains(size)) && self.num_layers <= 1 << 10;
        let plain = self.norm_type == "ada_norm" && self.positional_embeddings.is_none();
        if fits && plain && self.activation_fn == "gelu-approximate" && self.attention_bias {
            return Ok(());
        }
        let expected = "ada_norm, gelu-approximate, attention biases, no positional_embeddings";
        Err(wrong("diffusion_model_cfg of config.json", expected, format!("{self:?}")))
    }
}

/// Which tokens of the backbone a block attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attends {
    /// The actions' own tokens.
    Itself,
    /// Words.
    Text,
    /// Pieces of images.
    Images,
    /// Everything, padding included: what the reference does without `use_alternate_vl_dit`.
    All,
}

/// Scale and shift of a norm.
#[derive(Clone, Debug)]
enum Modulation {
    /// One time for the whole batch: a norm with these parameters, `[width]` each.
    Shared(Tensor<1>, Tensor<1>),
    /// A time for each sample: `[batch, 1, width]` each.
    Each(Tensor<3>, Tensor<3>),
}

impl Modulation {
    /// From `[times, width]` scales (without the one that is added) and shifts.
    fn new(scale: Tensor<2>, shift: Tensor<2>) -> Self {
        let [times, width] = scale.dims();
        let scale = scale + 1.0;
        match times {
            1 => Self::Shared(scale.reshape([width]), shift.reshape([width])),
            _ => Self::Each(scale.unsqueeze_dim(1), shift.unsqueeze_dim(1)),
        }
    }

    fn apply(&self, x: Tensor<3>, eps: f64) -> Tensor<3> {
        match self {
            Self::Shared(scale, shift) => layer_norm(x, scale.clone(), Some(shift.clone()), eps),
            Self::Each(scale, shift) => plain_norm(x, eps) * scale.clone() + shift.clone(),
        }
    }
}

/// A layer norm without parameters.
fn plain_norm(x: Tensor<3>, eps: f64) -> Tensor<3> {
    let (width, device) = (x.dims()[2], x.device());
    layer_norm(x, Tensor::ones([width], &device), None, eps)
}

/// What depends on times alone: one for a batch, or one for each sample.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The times' features, `[times, width]`.
    pub temb: Tensor<2>,
    blocks: Vec<Modulation>,
    out: Modulation,
}

/// What depends on the observation alone: keys and values of every block that attends to it.
#[derive(Clone, Debug)]
pub struct Context {
    /// `None` for blocks that attend to themselves.
    blocks: Vec<Option<[Tensor<4>; 2]>>,
    text: Mask,
    images: Mask,
}

#[derive(Clone, Debug)]
struct Mask {
    bias: Tensor<4>,
    /// 0 for samples that have nothing to attend to, `[batch, 1, 1]`; `None` if all have something. Such a sample gets zeros,
    /// as from PyTorch's attention.
    alive: Option<Tensor<3>>,
}

impl Mask {
    fn new(may: &[bool], batch: usize, device: &Device) -> Self {
        let keys = (may.len() / batch.max(1)).max(1);
        let alive: Vec<bool> = may.chunks_exact(keys).map(|row| row.contains(&true)).collect();
        let values = || alive.iter().map(|alive| f32::from(u8::from(*alive))).collect();
        let all = alive.iter().all(|alive| *alive);
        Self { bias: key_bias(may, batch, device), alive: (!all).then(|| tensor(values(), [batch, 1, 1], device)) }
    }
}

#[derive(Module, Debug)]
struct AdaNorm {
    linear: Affine,
}

#[derive(Module, Debug)]
struct DitAttention {
    to_q: Affine,
    to_k: Affine,
    to_v: Affine,
    to_out: Affine,
}

#[derive(Module, Debug)]
struct FeedForward {
    proj: Affine,
    out: Affine,
}

#[derive(Module, Debug)]
struct DitBlock {
    norm1: AdaNorm,
    attn1: DitAttention,
    ff: FeedForward,
}

impl DitBlock {
    fn load(weights: &Weights, name: &str, width: usize, context: usize) -> Result<Self, NnError> {
        let linear = |part: &str, input, output| weights.linear(&format!("{name}.{part}"), input, output);
        Ok(Self {
            norm1: AdaNorm { linear: linear("norm1.linear", width, 2 * width)? },
            attn1: DitAttention {
                to_q: linear("attn1.to_q", width, width)?,
                to_k: linear("attn1.to_k", context, width)?,
                to_v: linear("attn1.to_v", context, width)?,
                to_out: linear("attn1.to_out.0", width, width)?,
            },
            ff: FeedForward {
                proj: linear("ff.net.0.proj", width, 4 * width)?,
                out: linear("ff.net.2", 4 * width, width)?,
            },
        })
    }

    fn keys_values(&self, x: Tensor<3>, heads: usize) -> [Tensor<4>; 2] {
        [split_heads(self.attn1.to_k.forward(x.clone()), heads), split_heads(self.attn1.to_v.forward(x), heads)]
    }
}

#[derive(Module, Debug)]
struct TimestepEmbedder {
    linear_1: Affine,
    linear_2: Affine,
}

#[derive(Module, Debug)]
struct TimestepEncoder {
    timestep_embedder: TimestepEmbedder,
}

/// The transformer.
#[derive(Module, Debug)]
pub struct Dit {
    timestep_encoder: TimestepEncoder,
    transformer_blocks: Vec<DitBlock>,
    proj_out_1: Affine,
    proj_out_2: Affine,
    heads: usize,
    interleaved: bool,
    /// Blocks from one that attends to text to the next; 0 if no block tells text from images.
    period: usize,
}

impl Dit {
    /// Reads the transformer; `period` is 0 for the plain form, else blocks whose number is a multiple of it attend to text
    /// and the other even ones to images. `context` is the width of the backbone's features.
    ///
    /// # Errors
    /// A configuration that this program does not have, or weights that do not fit it.
    pub fn load(weights: &Weights, config: &DitConfig, period: usize, context: usize) -> Result<Self, NnError> {
        config.validate()?;
        let (name, width) = ("action_head.model", config.width());
        let linear = |part: &str, input, output| weights.linear(&format!("{name}.{part}"), input, output);
        let mut blocks = Vec::with_capacity(config.num_layers);
        for index in 0..config.num_layers {
            let is_self = index % 2 == 1 && config.interleave_self_attention;
            let block = format!("{name}.transformer_blocks.{index}");
            blocks.push(DitBlock::load(weights, &block, width, if is_self { width } else { context })?);
        }
        let embedder = TimestepEmbedder {
            linear_1: linear("timestep_encoder.timestep_embedder.linear_1", TIME_FEATURES, width)?,
            linear_2: linear("timestep_encoder.timestep_embedder.linear_2", width, width)?,
        };
        Ok(Self {
            timestep_encoder: TimestepEncoder { timestep_embedder: embedder },
            transformer_blocks: blocks,
            proj_out_1: linear("proj_out_1", width, 2 * width)?,
            proj_out_2: linear("proj_out_2", width, config.output_dim)?,
            heads: config.num_attention_heads,
            interleaved: config.interleave_self_attention,
            period,
        })
    }

    /// Every linear layer with its name in the checkpoint, to be changed: packed weights are unpacked for good.
    pub fn linear_layers(&mut self) -> Vec<(String, &mut Linear)> {
        let Self { timestep_encoder, transformer_blocks, proj_out_1, proj_out_2, .. } = self;
        let TimestepEmbedder { linear_1, linear_2 } = &mut timestep_encoder.timestep_embedder;
        let mut layers: Vec<(String, &mut Affine)> = vec![
            ("timestep_encoder.timestep_embedder.linear_1".into(), linear_1),
            ("timestep_encoder.timestep_embedder.linear_2".into(), linear_2),
        ];
        for (index, block) in transformer_blocks.iter_mut().enumerate() {
            let DitBlock { norm1, attn1, ff } = block;
            let parts = [
                ("norm1.linear", &mut norm1.linear),
                ("attn1.to_q", &mut attn1.to_q),
                ("attn1.to_k", &mut attn1.to_k),
                ("attn1.to_v", &mut attn1.to_v),
                ("attn1.to_out.0", &mut attn1.to_out),
                ("ff.net.0.proj", &mut ff.proj),
                ("ff.net.2", &mut ff.out),
            ];
            layers.extend(parts.map(|(part, layer)| (format!("transformer_blocks.{index}.{part}"), layer)));
        }
        layers.extend([("proj_out_1".to_owned(), proj_out_1), ("proj_out_2".to_owned(), proj_out_2)]);
        layers.into_iter().filter_map(|(name, layer)| Some((name, layer.loosened()?))).collect()
    }

    /// The device of the parameters.
    pub(super) fn device(&self) -> Device {
        self.proj_out_1.device()
    }

    fn attends(&self, block: usize) -> Attends {
        match (block % 2 == 1 && self.interleaved, self.period) {
            (true, _) => Attends::Itself,
            (false, 0) => Attends::All,
            (false, period) if block.is_multiple_of(period) => Attends::Text,
            _ => Attends::Images,
        }
    }

    /// What depends on `times` (buckets) alone: one for the whole batch, or one for each sample.
    pub fn moment(&self, times: &[usize]) -> Moment {
        let device = self.device();
        let half = TIME_FEATURES / 2;
        let mut features = Vec::with_capacity(times.len() * TIME_FEATURES);
        for time in times {
            let angle = |index: usize| {
                let exponent = -(10_000.0_f32.ln()) * index as f32 / (half - 1) as f32;
                *time as f32 * exponent.exp()
            };
            features.extend((0..half).map(|index| angle(index).cos()));
            features.extend((0..half).map(|index| angle(index).sin()));
        }
        let TimestepEmbedder { linear_1, linear_2 } = &self.timestep_encoder.timestep_embedder;
        let features = tensor(features, [times.len(), TIME_FEATURES], &device);
        let temb = linear_2.forward(activate(linear_1.forward(features), Activation::Silu));
        let width = temb.dims()[1];
        let active = activate(temb.clone(), Activation::Silu);
        let halves = |layer: &Affine| {
            let both = layer.forward(active.clone());
            (both.clone().narrow(1, 0, width), both.narrow(1, width, width))
        };
        let blocks = self.transformer_blocks.iter().map(|block| {
            let (scale, shift) = halves(&block.norm1.linear);
            Modulation::new(scale, shift)
        });
        let blocks = blocks.collect();
        // The other way round than in the blocks.
        let (shift, scale) = halves(&self.proj_out_1);
        Moment { temb, blocks, out: Modulation::new(scale, shift) }
    }

    /// What depends on the backbone's features (after their norm) alone.
    pub fn context(&self, features: &Features) -> Context {
        let [batch, _, _] = features.values.dims();
        let device = features.values.device();
        let blocks = self.transformer_blocks.iter().enumerate().map(|(index, block)| match self.attends(index) {
            Attends::Itself => None,
            _ => Some(block.keys_values(features.values.clone(), self.heads)),
        });
        let blocks = blocks.collect();
        let mask = |wanted: bool| {
            let marks = features.is_token.iter().zip(&features.is_image);
            let may: Vec<bool> = marks.map(|(is_token, is_image)| *is_token && *is_image == wanted).collect();
            Mask::new(&may, batch, &device)
        };
        Context { blocks, text: mask(false), images: mask(true) }
    }

    /// State and action tokens `[batch, tokens, width]` → `[batch, tokens, output_dim]`. `tap` gets the output of each
    /// `block`, and `dit_output`.
    pub fn forward(&self, mut x: Tensor<3>, moment: &Moment, context: &Context, tap: Tap) -> Tensor<3> {
        let blocks = self.transformer_blocks.iter().zip(&moment.blocks).zip(&context.blocks);
        for (index, ((block, modulation), outside)) in blocks.enumerate() {
            let h = modulation.apply(x.clone(), 1e-5);
            let query = split_heads(block.attn1.to_q.forward(h.clone()), self.heads);
            let [key, value] = match outside {
                Some(keys_values) => keys_values.clone(),
                None => block.keys_values(h, self.heads),
            };
            let mask = match self.attends(index) {
                Attends::Itself | Attends::All => None,
                Attends::Text => Some(&context.text),
                Attends::Images => Some(&context.images),
            };
            let mut mixed = attend(query, key, value, mask.map(|mask| mask.bias.clone()));
            if let Some(alive) = mask.and_then(|mask| mask.alive.clone()) {
                mixed = mixed * alive;
            }
            x = x + block.attn1.to_out.forward(mixed);
            let h = activate(block.ff.proj.forward(plain_norm(x.clone(), 1e-5)), Activation::GeluTanh);
            x = x + block.ff.out.forward(h);
            tap("block", index, &x);
        }
        let out = self.proj_out_2.forward(moment.out.apply(x, 1e-6));
        tap("dit_output", 0, &out);
        out
    }
}
