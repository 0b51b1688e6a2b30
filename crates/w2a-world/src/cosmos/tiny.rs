//! A whole checkpoint of toy size with random weights, for tests and for trying the commands out.

use std::path::Path;

use sha2::{Digest, Sha256};
use w2a_nn::{Array, NnError, StateDict};

use super::prompts::Embedding;

/// Width of an embedded word of the tiny text encoder.
const CONTEXT: usize = 8;
/// Words of its vocabulary; every letter is one, with what it begins a word with.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789.,'-_";

/// Collects random tensors.
struct Weights {
    seed: u64,
    state: StateDict,
}

impl Weights {
    /// A tensor around `mean`, with a spread that keeps activations near 1.
    fn add(&mut self, name: &str, shape: &[usize], mean: f32) {
        let count: usize = shape.iter().product();
        let fan_in = count / shape.first().copied().unwrap_or(1).max(1);
        let scale = if shape.len() == 1 { 0.1 } else { (1.0 / fan_in.max(1) as f32).sqrt() };
        let mut rng = w2a_data::stream(self.seed, &format!("tiny/{name}"));
        let data = w2a_nn::normal(&mut rng, count).into_iter().map(|value| mean + scale * value).collect();
        self.state.insert(name.to_owned(), Array { shape: shape.to_vec(), data });
    }

    fn save(self, path: &Path) -> Result<(), NnError> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(|source| NnError::Io { action: "writing weights", source })?;
        }
        w2a_nn::write_state(&self.state, path)
    }
}

/// Writes a DiT, a video autoencoder, a text encoder with its tokenizer, and `cosmos.json`, all of toy size: pictures of
/// 32x48, clips of 4 latent frames, 3 steps of the sampler.
///
/// # Errors
/// A disk that fails.
pub fn write(dir: &Path, seed: u64) -> Result<(), NnError> {
    dit(seed).save(&dir.join("model-tiny.safetensors"))?;
    // The name that NVIDIA gives it; the kind of a file is told by its content.
    vae(seed).save(&dir.join("tokenizer/tokenizer.pth"))?;
    text_encoder(seed).save(&dir.join("text_encoder/model.safetensors"))?;
    let settings = serde_json::json!({
        "frame": [32, 48],
        "latent_frames": 4,
        "rope": { "time": 1.0, "height": 3.0, "width": 3.0 },
        "sampler": { "steps": 3 },
    });
    let config = serde_json::json!({
        "vocab_size": 3 + 2 * LETTERS.len(),
        "d_model": CONTEXT,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "relu",
    });
    for (name, value) in
        [("cosmos.json", settings), ("text_encoder/config.json", config), ("tokenizer/tokenizer.json", tokenizer())]
    {
        w2a_data::write_atomic(&dir.join(name), value.to_string().as_bytes())
            .map_err(|source| NnError::Io { action: "writing settings", source })?;
    }
    Ok(())
}

/// Any embedding of the right width, which differs from prompt to prompt.
pub fn embedding(prompt: &str) -> Embedding {
    let bytes = Sha256::digest(prompt.as_bytes());
    Embedding { words: 4, width: CONTEXT, data: bytes.iter().map(|byte| f32::from(*byte) / 64.0 - 2.0).collect() }
}

fn dit(seed: u64) -> Weights {
    let (width, head, rank, hidden, channels) = (24, 12, 4, 48, 16);
    let mut weights = Weights { seed, state: StateDict::new() };
    let mut add = |name: &str, shape: &[usize]| {
        let mean = if name.contains("norm") { 1.0 } else { 0.0 };
        weights.add(&format!("net.{name}.weight"), shape, mean);
    };
    add("x_embedder.proj.1", &[width, 4 * (channels + 2)]);
    add("t_embedder.1.linear_1", &[width, width]);
    add("t_embedder.1.linear_2", &[3 * width, width]);
    add("t_embedding_norm", &[width]);
    for block in 0..2 {
        for part in ["self_attn", "cross_attn", "mlp"] {
            add(&format!("blocks.{block}.adaln_modulation_{part}.1"), &[rank, width]);
            add(&format!("blocks.{block}.adaln_modulation_{part}.2"), &[3 * width, rank]);
        }
        for (part, context) in [("self_attn", width), ("cross_attn", CONTEXT)] {
            for (name, input) in [("q_proj", width), ("k_proj", context), ("v_proj", context), ("output_proj", width)] {
                add(&format!("blocks.{block}.{part}.{name}"), &[width, input]);
            }
            add(&format!("blocks.{block}.{part}.q_norm"), &[head]);
            add(&format!("blocks.{block}.{part}.k_norm"), &[head]);
        }
        add(&format!("blocks.{block}.mlp.layer1"), &[hidden, width]);
        add(&format!("blocks.{block}.mlp.layer2"), &[width, hidden]);
    }
    add("final_layer.adaln_modulation.1", &[rank, width]);
    add("final_layer.adaln_modulation.2", &[2 * width, rank]);
    add("final_layer.linear", &[4 * channels, width]);
    weights
}

fn vae(seed: u64) -> Weights {
    let (width, channels) = (4, 16);
    let mut weights = Weights { seed, state: StateDict::new() };
    let wide = 4 * width;
    weights.conv("encoder.conv1", &[width, 3, 3, 3, 3]);
    weights.side(
        "encoder.downsamples",
        width,
        &[(width, 2), (2 * width, 2), (wide, 2), (wide, 2)],
        [false, true, true],
    );
    weights.middle("encoder.middle", wide);
    weights.head("encoder.head", wide, 2 * channels);
    weights.conv("conv1", &[2 * channels, 2 * channels, 1, 1, 1]);
    weights.conv("conv2", &[channels, channels, 1, 1, 1]);
    weights.conv("decoder.conv1", &[wide, channels, 3, 3, 3]);
    weights.middle("decoder.middle", wide);
    weights.side("decoder.upsamples", wide, &[(wide, 3), (wide, 3), (2 * width, 3), (width, 3)], [true, true, false]);
    weights.head("decoder.head", width, 3);
    weights
}

impl Weights {
    fn conv(&mut self, name: &str, shape: &[usize]) {
        self.add(&format!("{name}.weight"), shape, 0.0);
        self.add(&format!("{name}.bias"), &shape[..1], 0.0);
    }

    fn residual(&mut self, name: &str, input: usize, output: usize) {
        self.add(&format!("{name}.residual.0.gamma"), &[input, 1, 1, 1], 1.0);
        self.conv(&format!("{name}.residual.2"), &[output, input, 3, 3, 3]);
        self.add(&format!("{name}.residual.3.gamma"), &[output, 1, 1, 1], 1.0);
        self.conv(&format!("{name}.residual.6"), &[output, output, 3, 3, 3]);
        if input != output {
            self.conv(&format!("{name}.shortcut"), &[output, input, 1, 1, 1]);
        }
    }

    /// Stages of output channels and residual blocks; a decoder's list is called `upsamples`.
    fn side(&mut self, name: &str, mut input: usize, stages: &[(usize, usize)], time: [bool; 3]) {
        let doubles = name.ends_with("upsamples");
        let mut index = 0;
        for (stage, &(output, blocks)) in stages.iter().enumerate() {
            for _ in 0..blocks {
                self.residual(&format!("{name}.{index}"), input, output);
                input = output;
                index += 1;
            }
            if let Some(&has_time) = time.get(stage) {
                let after = if doubles { output / 2 } else { output };
                self.conv(&format!("{name}.{index}.resample.1"), &[after, output, 3, 3]);
                if has_time {
                    let frames = if doubles { 2 * output } else { output };
                    self.conv(&format!("{name}.{index}.time_conv"), &[frames, output, 3, 1, 1]);
                }
                input = after;
                index += 1;
            }
        }
    }

    fn middle(&mut self, name: &str, channels: usize) {
        self.residual(&format!("{name}.0"), channels, channels);
        self.add(&format!("{name}.1.norm.gamma"), &[channels, 1, 1], 1.0);
        self.conv(&format!("{name}.1.to_qkv"), &[3 * channels, channels, 1, 1]);
        self.conv(&format!("{name}.1.proj"), &[channels, channels, 1, 1]);
        self.residual(&format!("{name}.2"), channels, channels);
    }

    fn head(&mut self, name: &str, channels: usize, output: usize) {
        self.add(&format!("{name}.0.gamma"), &[channels, 1, 1, 1], 1.0);
        self.conv(&format!("{name}.2"), &[output, channels, 3, 3, 3]);
    }
}

fn text_encoder(seed: u64) -> Weights {
    let (width, inner, hidden) = (CONTEXT, 8, 16);
    let mut weights = Weights { seed, state: StateDict::new() };
    weights.add("shared.weight", &[3 + 2 * LETTERS.len(), width], 0.0);
    weights.add("encoder.final_layer_norm.weight", &[width], 1.0);
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    weights.add(bias, &[32, 2], 0.0);
    for block in 0..2 {
        let name = |part: &str| format!("encoder.block.{block}.layer.{part}.weight");
        for part in ["q", "k", "v"] {
            weights.add(&name(&format!("0.SelfAttention.{part}")), &[inner, width], 0.0);
        }
        weights.add(&name("0.SelfAttention.o"), &[width, inner], 0.0);
        weights.add(&name("0.layer_norm"), &[width], 1.0);
        weights.add(&name("1.DenseReluDense.wi"), &[hidden, width], 0.0);
        weights.add(&name("1.DenseReluDense.wo"), &[width, hidden], 0.0);
        weights.add(&name("1.layer_norm"), &[width], 1.0);
    }
    weights
}

/// A tokenizer in the form of T5's, whose pieces are single letters.
fn tokenizer() -> serde_json::Value {
    let special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)];
    let mut vocabulary: Vec<(String, f64)> = special.map(|(piece, score)| (piece.to_owned(), score)).into();
    vocabulary.extend(LETTERS.chars().map(|letter| (letter.to_string(), -3.0)));
    vocabulary.extend(LETTERS.chars().map(|letter| (format!("\u{2581}{letter}"), -4.0)));
    let added: Vec<serde_json::Value> = special
        .iter()
        .enumerate()
        .map(|(id, (content, _))| {
            serde_json::json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "</s>", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": { "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] } },
        },
        "decoder": { "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true },
        "model": { "type": "Unigram", "unk_id": 2, "vocab": vocabulary, "byte_fallback": false },
    })
}
