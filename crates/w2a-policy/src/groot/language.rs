//! Qwen3, cut to its first layers: token embeddings to features. There is no cache and no sampling: one pass, no output
//! words.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use w2a_nn::{Activation, NnError, activate, tensor};

use super::layers::{MASKED, Projection, RmsNorm, Tap, attend, split_heads};
use super::source::Weights;
use super::wrong;

/// Sizes of the model, with the names of its `text_config`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TextConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Width of the hidden layer of a block's perceptron.
    pub intermediate_size: usize,
    /// Layers of the whole model, of which only the first are kept.
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Added to mean squares.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Activation of the perceptrons.
    pub hidden_act: String,
    /// Biases in attention, which this program does not have.
    #[serde(default)]
    pub attention_bias: bool,
    /// Attention to near tokens only, which this program does not have.
    #[serde(default)]
    pub use_sliding_window: bool,
    /// Other rotary frequencies, which this program does not have.
    #[serde(default)]
    pub rope_scaling: Option<serde_json::Value>,
}

impl TextConfig {
    /// That of Qwen3-1.7B in Eagle-Block2A-2B-v2, the backbone of GR00T-N1.6.
    pub fn eagle_block2a() -> Self {
        Self {
            vocab_size: 151_680,
            hidden_size: 2048,
            intermediate_size: 6144,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 128,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            hidden_act: "silu".into(),
            attention_bias: false,
            use_sliding_window: false,
            rope_scaling: None,
        }
    }

    /// Checks that the sizes fit together and that this program has what they ask for.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self) -> Result<(), NnError> {
        let sizes =
            [self.vocab_size, self.hidden_size, self.intermediate_size, self.head_dim, self.num_key_value_heads];
        let fits = sizes.iter().all(|size| (1..=1 << 24).contains(size))
            && self.num_hidden_layers <= 1 << 10
            && self.num_attention_heads > 0
            && self.num_attention_heads.is_multiple_of(self.num_key_value_heads)
            && self.head_dim.is_multiple_of(2);
        let plain = !self.attention_bias && !self.use_sliding_window && self.rope_scaling.is_none();
        if fits && plain && self.hidden_act == "silu" {
            return Ok(());
        }
        let expected = "heads that the key and value heads divide, of even width; silu, no attention biases, no sliding \
                        window, no rope scaling";
        Err(wrong("text_config of the backbone", expected, format!("{self:?}")))
    }
}

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: RmsNorm,
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    gate_proj: Projection,
    up_proj: Projection,
    down_proj: Projection,
    heads: usize,
    shared_heads: usize,
}

impl Layer {
    fn load(weights: &Weights, name: &str, config: &TextConfig) -> Result<Self, NnError> {
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let projection =
            |part: &str, input, output| Projection::load(weights, &format!("{name}.{part}"), input, output);
        let norm = |part: &str, width| RmsNorm::load(weights, &format!("{name}.{part}"), width, config.rms_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm", width)?,
            q_proj: projection("self_attn.q_proj", width, queries)?,
            k_proj: projection("self_attn.k_proj", width, keys)?,
            v_proj: projection("self_attn.v_proj", width, keys)?,
            o_proj: projection("self_attn.o_proj", queries, width)?,
            q_norm: norm("self_attn.q_norm", config.head_dim)?,
            k_norm: norm("self_attn.k_norm", config.head_dim)?,
            post_attention_layernorm: norm("post_attention_layernorm", width)?,
            gate_proj: projection("mlp.gate_proj", width, hidden)?,
            up_proj: projection("mlp.up_proj", width, hidden)?,
            down_proj: projection("mlp.down_proj", hidden, width)?,
            heads: config.num_attention_heads,
            shared_heads: config.num_key_value_heads,
        })
    }

    /// `[batch, tokens, width]` → the same shape; `bias` is added to the scores.
    fn forward(&self, x: Tensor<3>, rotation: &Rotation, bias: &Tensor<4>) -> Tensor<3> {
        let h = self.input_layernorm.forward(x.clone());
        let query = self.q_norm.forward(split_heads(self.q_proj.forward(h.clone()), self.heads));
        let key = self.k_norm.forward(split_heads(self.k_proj.forward(h.clone()), self.shared_heads));
        let value = split_heads(self.v_proj.forward(h), self.shared_heads);
        let mixed = attend(rotation.apply(query), rotation.apply(key), value, Some(bias.clone()));
        let x = x + self.o_proj.forward(mixed);
        let h = self.post_attention_layernorm.forward(x.clone());
        x + self
            .down_proj
            .forward(activate(self.gate_proj.forward(h.clone()), Activation::Silu) * self.up_proj.forward(h))
    }
}

/// Rotary positions `0..tokens`, as Qwen's: the two halves of a head turn against each other.
struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    fn new(tokens: usize, width: usize, theta: f64, device: &Device) -> Self {
        let half = width / 2;
        let angle = |token: usize, index: usize| {
            let inverse = 1.0 / (theta as f32).powf((2 * (index % half)) as f32 / width as f32);
            token as f32 * inverse
        };
        let table = |of: fn(f32) -> f32| {
            let angles = (0..tokens).flat_map(|token| (0..width).map(move |index| of(angle(token, index))));
            tensor(angles.collect(), [1, 1, tokens, width], device)
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }

    /// `[batch, heads, tokens, width]` → the same shape.
    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let turned = Tensor::cat(vec![-x.clone().narrow(3, half, half), x.clone().narrow(3, 0, half)], 3);
        x * self.cos.clone() + turned * self.sin.clone()
    }
}

/// The layers and the norm behind them; embeddings come from outside.
#[derive(Module, Debug)]
pub struct LanguageModel {
    layers: Vec<Layer>,
    norm: RmsNorm,
    head_dim: usize,
    rope_theta: f64,
}

impl LanguageModel {
    /// Reads the first `keep` layers.
    ///
    /// # Errors
    /// A configuration that this program does not have, or weights that do not fit it.
    pub fn load(weights: &Weights, config: &TextConfig, keep: usize) -> Result<Self, NnError> {
        config.validate()?;
        let name = "backbone.model.language_model.model";
        let mut layers = Vec::with_capacity(keep);
        for index in 0..keep {
            layers.push(Layer::load(weights, &format!("{name}.layers.{index}"), config)?);
        }
        let norm = RmsNorm::load(weights, &format!("{name}.norm"), config.hidden_size, config.rms_norm_eps)?;
        Ok(Self { layers, norm, head_dim: config.head_dim, rope_theta: config.rope_theta })
    }

    /// Embeddings `[batch, tokens, width]` → features of the same shape, after the final norm. `is_token` is false for
    /// padding, row-major `[batch, tokens]`; positions are counted from the start of the row, padding included. Features of
    /// padding mean nothing. `tap` gets the output of each `layer`.
    pub fn forward(&self, embeddings: Tensor<3>, is_token: &[bool], tap: Tap) -> Tensor<3> {
        let [batch, tokens, _] = embeddings.dims();
        let device = embeddings.device();
        let rotation = Rotation::new(tokens, self.head_dim, self.rope_theta, &device);
        let mut bias = Vec::with_capacity(batch * tokens * tokens);
        for row in is_token.chunks_exact(tokens.max(1)) {
            for query in 0..tokens {
                bias.extend(row.iter().enumerate().map(|(key, is_token)| match key <= query && *is_token {
                    true => 0.0,
                    false => MASKED,
                }));
            }
        }
        let bias = tensor(bias, [batch, 1, tokens, tokens], &device);
        let mut x = embeddings;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &rotation, &bias);
            tap("layer", index, &x);
        }
        self.norm.forward(x)
    }
}
