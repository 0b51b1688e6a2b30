//! The encoder of T5, which embeds prompts: `T5EncoderModel` of transformers 5.23.0 (Raffel et al., 2020).
//!
//! The encoder of T5-11B has 4.8 billion weights and is needed for seconds. So it is never held in memory: one block is read,
//! all prompts pass through it, and it is dropped before the next one is read.

use burn::tensor::{Device, Int, Tensor, TensorData};
use w2a_nn::{Activation, NnError, activate, attention};

use super::source::{Projection, Tensors};

/// Added to the scores of words that are padding; their weights become exactly zero.
const MASKED: f32 = -1e30;

/// The form of the perceptrons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FeedForward {
    /// `wo(relu(wi(x)))`: the first version, t5-11b among it.
    #[serde(rename = "relu")]
    Relu,
    /// `wo(gelu(wi_0(x)) * wi_1(x))`, gelu by its approximation with tanh: version 1.1.
    #[serde(rename = "gated-gelu")]
    GatedGelu,
}

/// Sizes of the encoder; the names are those of `config.json`, whose other keys are not needed.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct T5Config {
    /// Words the tokenizer knows.
    pub vocab_size: usize,
    /// Width of an embedded word.
    pub d_model: usize,
    /// Width of a head.
    pub d_kv: usize,
    /// Hidden width of the perceptrons.
    pub d_ff: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Kinds of distances between words.
    #[serde(default = "buckets")]
    pub relative_attention_num_buckets: usize,
    /// Longer distances are all alike.
    #[serde(default = "distance")]
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in the norms.
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
    /// The form of the perceptrons.
    #[serde(default = "feed_forward")]
    pub feed_forward_proj: FeedForward,
}

fn buckets() -> usize {
    32
}

fn distance() -> usize {
    128
}

fn epsilon() -> f64 {
    1e-6
}

fn feed_forward() -> FeedForward {
    FeedForward::Relu
}

impl T5Config {
    /// Checks ranges.
    ///
    /// # Errors
    /// Sizes of no model.
    pub fn validate(&self) -> Result<(), NnError> {
        let sizes = [self.vocab_size, self.d_model, self.d_kv, self.d_ff, self.num_heads];
        let ok = sizes.iter().all(|size| (1..=1 << 20).contains(size))
            && (1..=1024).contains(&self.num_layers)
            && (4..=1 << 16).contains(&self.relative_attention_num_buckets)
            && self.relative_attention_max_distance > self.relative_attention_num_buckets / 4
            && self.relative_attention_max_distance <= 1 << 20
            && self.layer_norm_epsilon >= 0.0;
        if ok {
            return Ok(());
        }
        Err(NnError::Input {
            what: "sizes of the text encoder".into(),
            expected: "positive ones, at least 4 buckets, and a largest distance above a quarter of them".into(),
            got: format!("{self:?}"),
        })
    }
}

/// Prompts that pass through the encoder together.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// `[prompts, words]`, row by row.
    pub ids: Vec<u32>,
    /// Words of each, padding included.
    pub words: usize,
    /// Which of `ids` are no padding; `None` if all are none.
    pub mask: Option<Vec<bool>>,
}

/// Names of its tensors are ours already; the decoder's are left aside.
pub(crate) fn rename(name: &str) -> Option<String> {
    match name {
        "encoder.embed_tokens.weight" => Some("shared.weight".into()),
        _ => (name == "shared.weight" || name.starts_with("encoder.")).then(|| name.to_owned()),
    }
}

struct Norm {
    weight: Tensor<1>,
    epsilon: f64,
}

impl Norm {
    fn load(tensors: &Tensors, name: &str, config: &T5Config, device: &Device) -> Result<Self, NnError> {
        Ok(Self { weight: tensors.float(name, [config.d_model], device)?, epsilon: config.layer_norm_epsilon })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let scale = (x.clone().square().mean_dim(2) + self.epsilon).sqrt();
        x / scale * self.weight.clone().unsqueeze()
    }
}

/// One block: attention over words, then a perceptron, each behind a norm and with a shortcut.
struct Block {
    norms: [Norm; 2],
    /// Query, key, value, output.
    attention: [Projection; 4],
    hidden: Vec<Projection>,
    output: Projection,
    config: T5Config,
}

impl Block {
    fn load(tensors: &Tensors, index: usize, config: &T5Config, device: &Device) -> Result<Self, NnError> {
        let T5Config { d_model, d_kv, d_ff, num_heads, .. } = *config;
        let inner = d_kv * num_heads;
        let name = |part: &str| format!("encoder.block.{index}.layer.{part}.weight");
        let load = |part: &str, shape: [usize; 2]| tensors.projection(&name(part), shape, device);
        let (parts, other) = match config.feed_forward_proj {
            FeedForward::Relu => (&["wi"][..], "wi_0"),
            FeedForward::GatedGelu => (&["wi_0", "wi_1"][..], "wi"),
        };
        let dense = |part: &str| format!("1.DenseReluDense.{part}");
        if tensors.find(&name(&dense(other))).is_some() {
            return Err(NnError::Input {
                what: format!("feed_forward_proj of the text encoder {}", tensors.path().display()),
                expected: format!("the form of its tensors, which have {:?}", name(&dense(other))),
                got: format!("{:?}; is config.json that of these weights?", config.feed_forward_proj),
            });
        }
        let hidden = parts.iter().map(|part| load(&dense(part), [d_ff, d_model]));
        Ok(Self {
            norms: [
                Norm::load(tensors, &name("0.layer_norm"), config, device)?,
                Norm::load(tensors, &name("1.layer_norm"), config, device)?,
            ],
            attention: [
                load("0.SelfAttention.q", [inner, d_model])?,
                load("0.SelfAttention.k", [inner, d_model])?,
                load("0.SelfAttention.v", [inner, d_model])?,
                load("0.SelfAttention.o", [d_model, inner])?,
            ],
            hidden: hidden.collect::<Result<_, NnError>>()?,
            output: load(&dense("wo"), [d_model, d_ff])?,
            config: config.clone(),
        })
    }

    /// `x` `[prompts, words, d_model]`, `bias` `[prompts or 1, heads, words, words]` → the shape of `x`.
    fn forward(&self, x: Tensor<3>, bias: &Tensor<4>) -> Tensor<3> {
        let [prompts, words, _] = x.dims();
        let T5Config { d_kv, num_heads, .. } = self.config;
        let [query, key, value, output] = &self.attention;
        let input = self.norms[0].forward(x.clone());
        let split = |layer: &Projection| {
            layer.forward(input.clone()).reshape([prompts, words, num_heads, d_kv]).swap_dims(1, 2)
        };
        // T5 does not scale its scores.
        let mixed = attention(split(query), split(key), split(value), Some(bias.clone()), Some(1.0));
        let x = x + output.forward(mixed.swap_dims(1, 2).reshape([prompts, words, num_heads * d_kv]));

        let input = self.norms[1].forward(x.clone());
        let hidden = match &self.hidden[..] {
            [gate, linear] => activate(gate.forward(input.clone()), Activation::GeluTanh) * linear.forward(input),
            [one] => activate(one.forward(input), Activation::Relu),
            _ => return x,
        };
        x + self.output.forward(hidden)
    }
}

/// Which kind of distance `key - query` is.
fn bucket(distance: i64, config: &T5Config) -> usize {
    let half = config.relative_attention_num_buckets / 2;
    let exact = half / 2;
    let side = if distance > 0 { half } else { 0 };
    let distance = distance.unsigned_abs() as usize;
    if distance < exact {
        return side + distance;
    }
    // In f32, as the reference: where the logarithm is nearly whole, rounding decides.
    let range = (config.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
    let far = (distance as f32 / exact as f32).ln() / range * (half - exact) as f32;
    side + (exact + far as usize).min(half - 1)
}

/// The encoder; its weights stay in their files.
#[derive(Debug)]
pub struct T5Encoder<'a> {
    tensors: &'a Tensors,
    config: T5Config,
    device: Device,
}

impl<'a> T5Encoder<'a> {
    /// The encoder of a checkpoint.
    ///
    /// # Errors
    /// Sizes out of range.
    pub fn new(tensors: &'a Tensors, config: T5Config, device: &Device) -> Result<Self, NnError> {
        config.validate()?;
        Ok(Self { tensors, config, device: device.clone() })
    }

    /// What is added to the scores for the distance of words, `[1, heads, words, words]`.
    ///
    /// # Errors
    /// A tensor that is missing or cannot be read.
    pub(crate) fn position_bias(&self, words: usize) -> Result<Tensor<4>, NnError> {
        let (buckets, heads) = (self.config.relative_attention_num_buckets, self.config.num_heads);
        let name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let table = w2a_nn::values(self.tensors.float(name, [buckets, heads], &self.device)?)?;
        let mut data = Vec::with_capacity(heads * words * words);
        for head in 0..heads {
            for query in 0..words {
                for key in 0..words {
                    let at = bucket(key as i64 - query as i64, &self.config);
                    data.push(table.get(at * heads + head).copied().unwrap_or_default());
                }
            }
        }
        Ok(w2a_nn::tensor(data, [1, heads, words, words], &self.device))
    }

    /// Embeds prompts: for each of `all`, `[prompts, words, d_model]`. `each` is told after every block how many of how many
    /// are done, `tap` sees what goes into each block, and the prompt's number.
    ///
    /// # Errors
    /// Words that the model does not know, tensors that are missing or of another size.
    pub fn encode(
        &self,
        all: &[Tokens],
        mut each: impl FnMut(usize, usize),
        tap: &mut dyn FnMut(usize, &str, Tensor<3>),
    ) -> Result<Vec<Tensor<3>>, NnError> {
        let T5Config { vocab_size, d_model, num_layers, .. } = self.config;
        let embedding: Tensor<2> = self.tensors.float("shared.weight", [vocab_size, d_model], &self.device)?;
        let mut states = Vec::with_capacity(all.len());
        let mut biases = Vec::with_capacity(all.len());
        for tokens in all {
            let prompts = self.check(tokens)?;
            let ids: Vec<i32> = tokens.ids.iter().map(|id| *id as i32).collect();
            let ids: Tensor<1, Int> = Tensor::from_data(TensorData::new(ids, [tokens.ids.len()]), &self.device);
            states.push(embedding.clone().select(0, ids).reshape([prompts, tokens.words, d_model]));
            let bias = self.position_bias(tokens.words)?;
            biases.push(match &tokens.mask {
                None => bias,
                Some(mask) => {
                    let mask = mask.iter().map(|keep| if *keep { 0.0 } else { MASKED }).collect();
                    bias + w2a_nn::tensor(mask, [prompts, 1, 1, tokens.words], &self.device)
                }
            });
        }
        drop(embedding);
        for index in 0..num_layers {
            let block = Block::load(self.tensors, index, &self.config, &self.device)?;
            for (number, (state, bias)) in states.iter_mut().zip(&biases).enumerate() {
                tap(number, &format!("hidden.{index}"), state.clone());
                *state = block.forward(state.clone(), bias);
            }
            each(index + 1, num_layers);
        }
        let norm = Norm::load(self.tensors, "encoder.final_layer_norm.weight", &self.config, &self.device)?;
        Ok(states.into_iter().map(|state| norm.forward(state)).collect())
    }

    /// Number of prompts of a batch.
    fn check(&self, tokens: &Tokens) -> Result<usize, NnError> {
        let count = tokens.ids.len();
        let known = |id: &u32| (*id as usize) < self.config.vocab_size;
        let fits = tokens.words > 0
            && count > 0
            && count.is_multiple_of(tokens.words)
            && tokens.mask.as_ref().is_none_or(|mask| mask.len() == count)
            && tokens.ids.iter().all(known);
        if fits {
            return Ok(count / tokens.words);
        }
        let unknown = tokens.ids.iter().find(|id| !known(id));
        Err(NnError::Input {
            what: "words of a prompt".into(),
            expected: format!("at least one, with numbers below {}", self.config.vocab_size),
            got: match unknown {
                Some(id) => format!("number {id}; is the tokenizer that of this model?"),
                None => format!("{count} numbers for prompts of {} words", tokens.words),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{FeedForward, T5Config, bucket, rename};

    fn config() -> T5Config {
        T5Config {
            vocab_size: 10,
            d_model: 4,
            d_kv: 2,
            d_ff: 8,
            num_layers: 1,
            num_heads: 2,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: FeedForward::Relu,
        }
    }

    #[test]
    fn near_words_have_a_bucket_each_and_far_ones_share() {
        let bucket = |distance| bucket(distance, &config());
        assert_eq!((0..8).map(|distance| bucket(-distance)).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        assert_eq!([bucket(1), bucket(7), bucket(8), bucket(1000)], [17, 23, 24, 31]);
        assert_eq!([bucket(-8), bucket(-15), bucket(-16), bucket(-127), bucket(-128)], [8, 9, 10, 15, 15]);
    }

    #[test]
    fn sizes_that_no_model_has_are_refused() {
        assert!(config().validate().is_ok());
        for broken in [
            T5Config { num_heads: 0, ..config() },
            T5Config { relative_attention_num_buckets: 3, ..config() },
            T5Config { relative_attention_max_distance: 8, ..config() },
            T5Config { layer_norm_epsilon: f64::NAN, ..config() },
        ] {
            assert!(broken.validate().is_err(), "{broken:?}");
        }
    }

    #[test]
    fn the_decoder_is_left_aside() {
        assert_eq!(rename("encoder.embed_tokens.weight").as_deref(), Some("shared.weight"));
        assert_eq!(rename("decoder.block.0.layer.0.layer_norm.weight"), None);
        assert_eq!(rename("lm_head.weight"), None);
    }
}
