//! A checkpoint of random weights in the real layout, small enough for tests: sharded safetensors with their index, the
//! processor's, the statistics' and the embodiments' file, and a folder with the backbone's tokenizer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::{Value, json};
use w2a_data::write_atomic;
use w2a_nn::{NnError, StateDict, write_state};

use super::action_head::{ActionHead, HeadConfig};
use super::backbone::{Backbone, BackboneConfig};
use super::category::Embodiments;
use super::checkpoint::{MODEL_TYPE, PROCESSOR};
use super::prompt::{IMAGE_TOKEN, PADDING};
use super::source::Weights;
use super::tokenizer::byte_name;
use super::wrong;

const FOLDER: &str = "Eagle-Block2A-2B-v2";
/// Merges of the tokenizer, besides the bytes.
const MERGES: [&str; 4] = ["t h", "th e", "c u", "cu p"];
const ADDED: [&str; 6] = [PADDING, "<|im_start|>", "<|im_end|>", IMAGE_TOKEN, "<img>", "</img>"];

/// Writes a tiny GR00T-N1.6 checkpoint with random weights to `dir`, which must not exist. Its embodiments: `libero_panda`
/// (two cameras, absolute actions, as in NVIDIA's LIBERO checkpoint) and `gr1` (one camera, sine and cosine, relative
/// actions).
///
/// # Errors
/// A folder that exists, or a disk that fails.
pub fn write_tiny(dir: &Path, seed: u64) -> Result<(), NnError> {
    let io = |source| NnError::Io { action: "writing a tiny checkpoint", source };
    if dir.exists() {
        return Err(wrong(dir.display().to_string(), "a folder that does not exist yet", "one that does"));
    }
    fs_err::create_dir_all(dir.join(FOLDER)).map_err(io)?;
    let write = |name: &str, value: &Value| {
        let text = serde_json::to_vec_pretty(value).unwrap_or_default();
        write_atomic(&dir.join(name), &text).map_err(io)
    };
    let (model, backbone) = (model(), backbone());
    write("config.json", &model)?;
    write(&format!("{FOLDER}/config.json"), &backbone)?;
    let id = |index: usize| 256 + index;
    let names = (0..=255).map(|byte| byte_name(byte).to_string()).chain(MERGES.map(|merge| merge.replace(' ', "")));
    write(&format!("{FOLDER}/vocab.json"), &names.enumerate().map(|(id, name)| (name, json!(id))).collect::<Value>())?;
    let added: Value =
        ADDED.iter().enumerate().map(|(index, name)| ((*name).to_owned(), json!(id(MERGES.len() + index)))).collect();
    write(&format!("{FOLDER}/added_tokens.json"), &added)?;
    let merges = format!("#version: 0.2\n{}\n", MERGES.join("\n"));
    write_atomic(&dir.join(FOLDER).join("merges.txt"), merges.as_bytes()).map_err(io)?;
    write("embodiment_id.json", &json!({"libero_panda": 2, "gr1": 1}))?;
    write("processor_config.json", &processor())?;
    write("statistics.json", &statistics())?;

    let bad = |error: serde_json::Error| wrong("tiny checkpoint", "a configuration of ours", error.to_string());
    let head: HeadConfig = serde_json::from_value(model.clone()).map_err(bad)?;
    let mut backbone: BackboneConfig = serde_json::from_value(backbone).map_err(bad)?;
    backbone.select_layer = model["select_layer"].as_u64().unwrap_or(0) as usize;
    let weights = Arc::new(Weights::invented(w2a_data::stream(seed, "groot/tiny"), &Device::flex()));
    ActionHead::load(&weights, &head, Embodiments::All)?;
    Backbone::load(Arc::clone(&weights), &backbone)?;
    let Some(weights) = Arc::into_inner(weights) else {
        return Err(wrong("tiny checkpoint", "weights that nobody else holds", "others"));
    };
    let mut state = weights.into_invented();
    // In the published files, and used by nobody.
    let table = state.get("backbone.model.language_model.model.embed_tokens.weight").cloned();
    state.extend(table.map(|table| ("backbone.model.language_model.lm_head.weight".to_owned(), table)));
    let half = state.len() / 2;
    let (mut shards, mut map) = ([StateDict::new(), StateDict::new()], BTreeMap::new());
    for (index, (name, array)) in state.into_iter().enumerate() {
        let shard = usize::from(index >= half);
        map.insert(name.clone(), format!("model-{:05}-of-00002.safetensors", shard + 1));
        shards[shard].insert(name, array);
    }
    for (index, shard) in shards.iter().enumerate() {
        write_state(shard, &dir.join(format!("model-{:05}-of-00002.safetensors", index + 1)))?;
    }
    write("model.safetensors.index.json", &json!({"metadata": {}, "weight_map": map}))
}

fn model() -> Value {
    json!({
        "model_type": MODEL_TYPE, "model_name": format!("nvidia/{FOLDER}"), "select_layer": 2, "hidden_size": 24,
        "input_embedding_dim": 32, "max_seq_len": 64, "backbone_embedding_dim": 32, "max_state_dim": 32,
        "max_action_dim": 20, "action_horizon": 18, "num_inference_timesteps": 4, "num_timestep_buckets": 1000,
        "max_num_embodiments": 3, "add_pos_embed": true, "use_vlln": true, "use_alternate_vl_dit": true,
        "attend_text_every_n_blocks": 2, "state_dropout_prob": 0.0, "state_additive_noise_scale": 0.0,
        "noise_beta_alpha": 1.5, "noise_beta_beta": 1.0, "noise_s": 0.999,
        "diffusion_model_cfg": {
            "positional_embeddings": null, "num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 8,
            "norm_type": "ada_norm", "dropout": 0.2, "final_dropout": true, "output_dim": 24,
            "interleave_self_attention": true
        }
    })
}

fn backbone() -> Value {
    json!({
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_channels": 3, "num_patches": 16, "patch_size": 14, "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6
        },
        "text_config": {
            "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6,
            "rope_theta": 1e6, "attention_bias": false, "hidden_act": "silu", "use_sliding_window": false
        },
        "downsample_ratio": 0.5,
        "image_token_index": 256 + MERGES.len() + 3
    })
}

/// State and action keys with their widths.
const LIBERO_STATE: [(&str, usize); 7] =
    [("x", 1), ("y", 1), ("z", 1), ("roll", 1), ("pitch", 1), ("yaw", 1), ("gripper", 2)];
const LIBERO_ACTION: [(&str, usize); 7] =
    [("x", 1), ("y", 1), ("z", 1), ("roll", 1), ("pitch", 1), ("yaw", 1), ("gripper", 1)];
const GR1: [(&str, usize); 3] = [("left_arm", 7), ("left_hand", 6), ("waist", 3)];

fn names(keys: &[(&str, usize)]) -> Vec<String> {
    keys.iter().map(|(name, _)| (*name).to_owned()).collect()
}

fn modality(steps: usize, keys: Vec<String>, sin_cos: Option<Vec<String>>, actions: Option<Vec<&str>>) -> Value {
    let configs = actions.map(|all| {
        all.into_iter()
            .map(|rep| json!({"rep": rep, "type": "NON_EEF", "format": "DEFAULT", "state_key": null}))
            .collect::<Vec<Value>>()
    });
    json!({
        "delta_indices": (0..steps).collect::<Vec<usize>>(), "modality_keys": keys, "sin_cos_embedding_keys": sin_cos,
        "mean_std_embedding_keys": null, "action_configs": configs
    })
}

fn processor() -> Value {
    let one = |name: &str| vec![name.to_owned()];
    json!({
        "processor_class": PROCESSOR,
        "processor_kwargs": {
            "modality_configs": {
                "libero_panda": {
                    "video": modality(1, vec!["image".into(), "wrist_image".into()], None, None),
                    "state": modality(1, names(&LIBERO_STATE), None, None),
                    "action": modality(16, names(&LIBERO_ACTION), None, Some(vec!["ABSOLUTE"; 7])),
                    "language": modality(1, one("annotation.human.action.task_description"), None, None)
                },
                "gr1": {
                    "video": modality(1, one("ego_view_bg_crop_pad_res256_freq20"), None, None),
                    "state": modality(1, names(&GR1), Some(names(&GR1[..1])), None),
                    "action": modality(16, names(&GR1), None, Some(vec!["RELATIVE", "RELATIVE", "ABSOLUTE"])),
                    "language": modality(1, one("task"), None, None)
                }
            },
            "image_crop_size": null, "image_target_size": null, "use_albumentations": true,
            "random_rotation_angle": null, "color_jitter_params": null, "shortest_image_edge": 64,
            "crop_fraction": 0.95, "model_name": format!("nvidia/{FOLDER}"), "model_type": "eagle",
            "formalize_language": true, "max_state_dim": 32, "max_action_dim": 20, "max_action_horizon": 18,
            "use_percentiles": false, "clip_outliers": true, "apply_sincos_state_encoding": true,
            "use_relative_action": true
        }
    })
}

/// Statistics that any value fits: from -1 to 1, or a little around the state for relative actions.
fn statistics() -> Value {
    let row = |width: usize, value: f64| vec![value; width];
    let of = |keys: &[(&str, usize)]| -> Value {
        let stats = |width: usize| {
            json!({
                "min": row(width, -1.0), "max": row(width, 1.0), "mean": row(width, 0.0), "std": row(width, 0.5),
                "q01": row(width, -0.9), "q99": row(width, 0.9)
            })
        };
        keys.iter().map(|(name, width)| ((*name).to_owned(), stats(*width))).collect()
    };
    let rows = |width: usize, value: f64| vec![row(width, value); 16];
    let relative: Value = GR1[..2]
        .iter()
        .map(|(name, width)| {
            let stats = json!({
                "min": rows(*width, -0.2), "max": rows(*width, 0.2), "mean": rows(*width, 0.0), "std": rows(*width, 0.1)
            });
            ((*name).to_owned(), stats)
        })
        .collect();
    json!({
        "libero_panda": {"state": of(&LIBERO_STATE), "action": of(&LIBERO_ACTION)},
        "gr1": {"state": of(&GR1), "action": of(&GR1), "relative_action": relative}
    })
}
