//! What `policy info` and `policy tiny` do: GR00T checkpoints, looked at and made up.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use w2a_nn::{Dtype, WeightsFile};
use w2a_policy::groot::checkpoint::Checkpoint;
use w2a_policy::groot::modality::{ModalityConfig, Representation};

use crate::PipelineError;

/// A checkpoint to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyInfoRequest {
    /// Its directory.
    pub dir: PathBuf,
    /// Folder of the backbone's files, if they are not with it.
    pub backbone: Option<PathBuf>,
    /// Only this embodiment; all without one.
    pub embodiment: Option<String>,
}

/// Says what a GR00T checkpoint expects and gives: cameras, state and action keys, horizon, normalisation, sizes.
///
/// # Errors
/// A directory that is no GR00T-N1.6 checkpoint, or an unknown embodiment.
pub fn policy_info(request: &PolicyInfoRequest) -> Result<String, PipelineError> {
    let checkpoint = Checkpoint::open(&request.dir, request.backbone.as_deref())?;
    let (head, backbone) = (&checkpoint.head, &checkpoint.backbone);
    let (vision, text, dit) = (&backbone.vision_config, &backbone.text_config, &head.diffusion_model_cfg);
    let mut out = format!("GR00T-N1.6 checkpoint {}\n", request.dir.display());
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<14} {value}");
    };
    row(
        "vision",
        format!(
            "{} layers of width {}, patches of {}",
            vision.num_hidden_layers, vision.hidden_size, vision.patch_size
        ),
    );
    let kept = backbone.select_layer.min(text.num_hidden_layers);
    row("language", format!("{kept} of {} layers of width {}", text.num_hidden_layers, text.hidden_size));
    row(
        "action head",
        format!("{} layers of width {}, {} Euler steps", dit.num_layers, dit.width(), head.num_inference_timesteps),
    );
    row(
        "model takes",
        format!("a state of {}, gives {} steps of {}", head.max_state_dim, head.action_horizon, head.max_action_dim),
    );
    row("weights", weights(&checkpoint)?);
    let image = &checkpoint.image;
    row("frames", format!("shorter side {}, centre {}, no letterbox", image.shortest_edge, image.crop_fraction));
    let words = if checkpoint.formalize_language { "lower case, without punctuation" } else { "as they are" };
    row("instructions", words.into());
    let normalisation = &checkpoint.normalisation;
    let range = if normalisation.use_percentiles { "1st to 99th percentile" } else { "minimum to maximum" };
    let clipped = if normalisation.clip_outliers { ", clipped" } else { "" };
    row("normalisation", format!("{range} to -1..1{clipped}"));
    row("tokenizer", checkpoint.tokenizer.display().to_string());
    let chosen = match &request.embodiment {
        Some(name) => vec![checkpoint.tag(name)?],
        None => checkpoint.modalities.keys().map(String::as_str).collect(),
    };
    for tag in chosen {
        embodiment(&mut out, &checkpoint, tag);
    }
    Ok(out)
}

/// Parameters and memory: what is stored, and what one embodiment needs.
fn weights(checkpoint: &Checkpoint) -> Result<String, PipelineError> {
    let mut parameters = 0_u64;
    let mut bytes = 0_u64;
    let mut spare = 0_u64;
    for entry in fs_err::read_dir(&checkpoint.dir).map_err(|error| PipelineError::io("reading a checkpoint", error))? {
        let path = entry.map_err(|error| PipelineError::io("reading a checkpoint", error))?.path();
        if path.extension().is_none_or(|kind| kind != "safetensors") {
            continue;
        }
        for (name, info) in WeightsFile::open(&path)?.tensors() {
            let count = info.shape.iter().product::<usize>() as u64;
            parameters += count;
            bytes += count * Dtype::size(info.dtype) as u64;
            let is_table =
                name.contains("embed_tokens") || name.contains("lm_head") || name.contains("vision_model.head.");
            let is_embodiments = info.shape.first() == Some(&checkpoint.head.max_num_embodiments)
                && [".W", ".b"].iter().any(|end| name.ends_with(end));
            spare += match (is_table, is_embodiments) {
                (true, _) => count,
                (false, true) => count - count / checkpoint.head.max_num_embodiments as u64,
                (false, false) => 0,
            };
        }
    }
    let size = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
    let needed = parameters - spare;
    Ok(format!(
        "{parameters} parameters in {}; one embodiment needs {needed}, {} in f32",
        size(bytes),
        size(4 * needed)
    ))
}

fn embodiment(out: &mut String, checkpoint: &Checkpoint, tag: &str) {
    let Ok((modalities, statistics, id)) = checkpoint.embodiment(tag) else {
        let _ = writeln!(out, "\n{tag}: named, but without statistics or number; it cannot be used");
        return;
    };
    let _ = writeln!(out, "\n{tag} (weights {id})");
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<14} {value}");
    };
    let steps = |config: &ModalityConfig| format!("steps {:?}", config.delta_indices);
    row("cameras", format!("{}; {}", modalities.video.modality_keys.join(", "), steps(&modalities.video)));
    let state = modalities.state.modality_keys.iter().map(|key| {
        let width = statistics.state.get(key).map_or("?".into(), |stats| stats.width.to_string());
        let is_angle = checkpoint.normalisation.apply_sincos_state_encoding
            && modalities.state.sin_cos_embedding_keys.iter().flatten().any(|name| name == key);
        format!("{key} {width}{}", if is_angle { " (sine and cosine)" } else { "" })
    });
    row("state", format!("{}; {}", state.collect::<Vec<_>>().join(", "), steps(&modalities.state)));
    let mut deviation = Vec::new();
    let action = modalities.action.modality_keys.iter().enumerate().map(|(index, key)| {
        let width = statistics.action.get(key).map_or("?".into(), |stats| stats.width.to_string());
        let how = modalities.action.action_configs.as_ref().and_then(|configs| configs.get(index));
        let relative =
            how.filter(|how| how.rep == Representation::Relative && checkpoint.normalisation.use_relative_action);
        let reference = relative.map(|how| format!(" (relative to {})", how.state_key.as_ref().unwrap_or(key)));
        if modalities.action.mean_std_embedding_keys.iter().flatten().any(|name| name == key) {
            deviation.push(key.as_str());
        }
        format!("{key} {width}{}", reference.unwrap_or_default())
    });
    let action = action.collect::<Vec<_>>().join(", ");
    row("actions", format!("{action}; {} steps", modalities.action.delta_indices.len()));
    if !deviation.is_empty() {
        row("by deviation", deviation.join(", "));
    }
    row("instruction", modalities.language.modality_keys.join(", "));
}

/// Writes a tiny checkpoint of random weights in the layout of the real one to `dir`, and says what it is for.
///
/// # Errors
/// A folder that exists, or a disk that fails.
pub fn write_tiny_policy(dir: &Path, seed: u64) -> Result<String, PipelineError> {
    w2a_policy::groot::write_tiny(dir, seed)?;
    Ok(format!(
        "{}: random weights in the layout of GR00T-N1.6, for trying the tools; embodiments libero_panda and gr1\n",
        dir.display()
    ))
}
