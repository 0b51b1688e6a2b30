//! A checkpoint directory as NVIDIA publishes it, read without its weights: `config.json`, `processor_config.json`,
//! `statistics.json`, `embodiment_id.json`, the index of the shards, and where the tokenizer is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use w2a_nn::{NnError, WeightsFile};

use super::action_head::HeadConfig;
use super::backbone::BackboneConfig;
use super::image::{ImageConfig, Pillow};
use super::modality::{EmbodimentStatistics, Modalities, NormalisationConfig};
use super::source::Weights;
use super::wrong;

/// `model_type` of GR00T-N1.6.
pub(super) const MODEL_TYPE: &str = "Gr00tN1d6";
/// `processor_class` of GR00T-N1.6.
pub(super) const PROCESSOR: &str = "Gr00tN1d6Processor";
/// Numbers of the embodiments that the reference adds to those of `embodiment_id.json`.
const KNOWN: [(&str, usize); 9] = [
    ("robocasa_panda_omron", 13),
    ("gr1", 20),
    ("behavior_r1_pro", 24),
    ("unitree_g1", 8),
    ("libero_panda", 2),
    ("oxe_google", 0),
    ("oxe_widowx", 1),
    ("oxe_droid", 16),
    ("new_embodiment", 10),
];
/// Files of the tokenizer.
const TOKENIZER: [&str; 3] = ["vocab.json", "merges.txt", "added_tokens.json"];

/// A checkpoint, all but its weights.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The directory.
    pub dir: PathBuf,
    /// The action head.
    pub head: HeadConfig,
    /// The vision-language backbone.
    pub backbone: BackboneConfig,
    /// Modalities by embodiment tag.
    pub modalities: BTreeMap<String, Modalities>,
    /// Statistics by embodiment tag.
    pub statistics: BTreeMap<String, EmbodimentStatistics>,
    /// Number of the weights of each embodiment tag.
    pub embodiments: BTreeMap<String, usize>,
    /// How states and actions are normalised.
    pub normalisation: NormalisationConfig,
    /// How frames are prepared; without letterbox.
    pub image: ImageConfig,
    /// Whether instructions are lowered and freed of punctuation.
    pub formalize_language: bool,
    /// Folder of the tokenizer's files.
    pub tokenizer: PathBuf,
}

#[derive(Deserialize)]
struct ModelFile {
    #[serde(flatten)]
    head: HeadConfig,
    select_layer: usize,
    #[serde(default)]
    model_name: String,
    #[serde(default)]
    reproject_vision: bool,
}

#[derive(Deserialize)]
struct ProcessorFile {
    #[serde(default)]
    processor_class: String,
    processor_kwargs: ProcessorKwargs,
}

#[derive(Deserialize)]
struct ProcessorKwargs {
    modality_configs: BTreeMap<String, Modalities>,
    #[serde(flatten)]
    normalisation: NormalisationConfig,
    image_crop_size: Option<Vec<usize>>,
    image_target_size: Option<Vec<usize>>,
    use_albumentations: bool,
    shortest_image_edge: Option<usize>,
    crop_fraction: Option<f64>,
    formalize_language: bool,
}

impl Checkpoint {
    /// Reads the small files of a checkpoint. The backbone's own files (tokenizer, and `config.json` if it is not the
    /// published one) are no part of a checkpoint: they are looked for in `backbone`, else in the directory itself and in its
    /// subfolder with the backbone's name, which is the folder of Isaac-GR00T's repository.
    ///
    /// # Errors
    /// A file that is missing or damaged; another model, which is named; settings that this program does not have.
    pub fn open(dir: &Path, backbone: Option<&Path>) -> Result<Self, NnError> {
        let config: Value = json(&dir.join("config.json"), "the configuration of a GR00T checkpoint")?;
        refuse_others(dir, &config)?;
        let model: ModelFile = parsed(&dir.join("config.json"), config, "the settings of GR00T-N1.6")?;
        model.head.validate()?;
        if model.reproject_vision {
            return Err(wrong("reproject_vision in config.json", "false, as in every published checkpoint", "true"));
        }
        let path = dir.join("processor_config.json");
        let processor: ProcessorFile = json(&path, "the processor of GR00T-N1.6: class, modalities and settings")?;
        if processor.processor_class != PROCESSOR {
            let got = format!("{:?}", processor.processor_class);
            return Err(wrong(format!("processor_class in {}", path.display()), PROCESSOR, got));
        }
        let kwargs = processor.processor_kwargs;
        let image = image_config(&kwargs)?;
        let statistics = json(&dir.join("statistics.json"), "statistics by embodiment, modality and key")?;
        let ids = dir.join("embodiment_id.json");
        let mut embodiments: BTreeMap<String, usize> = match ids.exists() {
            true => json(&ids, "a JSON object of embodiment tags and their numbers")?,
            false => BTreeMap::new(),
        };
        for (tag, id) in KNOWN {
            embodiments.entry(tag.to_owned()).or_insert(id);
        }
        for (what, theirs, ours) in [
            ("max_state_dim", kwargs.normalisation.max_state_dim, model.head.max_state_dim),
            ("max_action_dim", kwargs.normalisation.max_action_dim, model.head.max_action_dim),
        ] {
            if theirs != ours {
                let expected = format!("{ours}, as in config.json");
                return Err(wrong(format!("{what} in {}", path.display()), expected, theirs.to_string()));
            }
        }
        let (tokenizer, mut backbone) = find_backbone(dir, backbone, &model.model_name)?;
        backbone.select_layer = model.select_layer;
        if backbone.text_config.hidden_size != model.head.backbone_embedding_dim {
            let expected = format!("{}, the width of the backbone", backbone.text_config.hidden_size);
            let got = model.head.backbone_embedding_dim.to_string();
            return Err(wrong("backbone_embedding_dim in config.json", expected, got));
        }
        Ok(Self {
            dir: dir.to_owned(),
            head: model.head,
            backbone,
            modalities: kwargs.modality_configs,
            statistics,
            embodiments,
            normalisation: kwargs.normalisation,
            image,
            formalize_language: kwargs.formalize_language,
            tokenizer,
        })
    }

    /// The tag, in the spelling of the checkpoint, of an embodiment that it was trained for; capitals as in the reference's
    /// command line are understood.
    ///
    /// # Errors
    /// An unknown tag; the message lists those there are.
    pub fn tag(&self, name: &str) -> Result<&str, NnError> {
        let lower = name.to_lowercase();
        let found = self.modalities.keys().find(|tag| *tag == name || tag.to_lowercase() == lower);
        found.map(String::as_str).ok_or_else(|| {
            let known: Vec<&str> = self.modalities.keys().map(String::as_str).collect();
            wrong("embodiment tag", format!("one of this checkpoint's: {}", known.join(", ")), format!("{name:?}"))
        })
    }

    /// Modalities, statistics and number of an embodiment.
    ///
    /// # Errors
    /// An unknown tag, or one without statistics or number.
    pub fn embodiment(&self, tag: &str) -> Result<(&Modalities, &EmbodimentStatistics, usize), NnError> {
        let tag = self.tag(tag)?;
        let lacks = |file: &str, known: Vec<&str>| {
            let expected =
                format!("an entry {tag:?}; fine-tune for it, or take the file that belongs to the checkpoint");
            wrong(file, expected, format!("only {}", known.join(", ")))
        };
        let names = || self.statistics.keys().map(String::as_str).collect();
        let statistics = self.statistics.get(tag).ok_or_else(|| lacks("statistics.json", names()))?;
        let names = || self.embodiments.keys().map(String::as_str).collect();
        let id = self.embodiments.get(tag).ok_or_else(|| lacks("embodiment_id.json", names()))?;
        Ok((&self.modalities[tag], statistics, *id))
    }

    /// Opens the shards; tensors are read when they are asked for.
    ///
    /// # Errors
    /// An index or a shard that is missing or damaged, or that do not belong together.
    pub fn weights(&self, device: &Device) -> Result<Weights, NnError> {
        let index = self.dir.join("model.safetensors.index.json");
        if !index.exists() {
            let file = WeightsFile::open(&self.dir.join("model.safetensors"))?;
            return Weights::of_files(vec![file], device);
        }
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let Index { weight_map } = json(&index, "weight_map: the file of each tensor")?;
        let names: BTreeSet<&String> = weight_map.values().collect();
        let mut files = BTreeMap::new();
        for name in names {
            if Path::new(name).components().count() != 1 || name.contains("..") {
                return Err(wrong(index.display().to_string(), "names of files beside it", format!("{name:?}")));
            }
            files.insert(name.as_str(), WeightsFile::open(&self.dir.join(name))?);
        }
        for (tensor, file) in &weight_map {
            if files.get(file.as_str()).is_none_or(|open| open.info(tensor).is_none()) {
                let expected = format!("tensor {tensor:?}, as the index says; download the shard again");
                return Err(wrong(self.dir.join(file).display().to_string(), expected, "none"));
            }
        }
        Weights::of_files(files.into_values().collect(), device)
    }

    /// Copies everything but weights to `to`: settings, statistics, and the tokenizer if it is in the checkpoint.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub(super) fn copy_settings(&self, to: &Path) -> Result<(), NnError> {
        let io = |source| NnError::Io { action: "copying the settings of a checkpoint", source };
        let inside = self.tokenizer.strip_prefix(&self.dir).ok().filter(|inside| !inside.as_os_str().is_empty());
        for folder in std::iter::once(Path::new("")).chain(inside) {
            fs_err::create_dir_all(to.join(folder)).map_err(io)?;
            for entry in fs_err::read_dir(self.dir.join(folder)).map_err(io)? {
                let path = entry.map_err(io)?.path();
                let Some(name) = path.file_name() else { continue };
                let is_weights = name.to_string_lossy().contains(".safetensors");
                if path.is_file() && !is_weights {
                    fs_err::copy(&path, to.join(folder).join(name)).map_err(io)?;
                }
            }
        }
        Ok(())
    }

    /// Names that the loader did not ask for and that are no known spare parts of a checkpoint: the output words, the
    /// vision tower's pooling, layers behind the last one that is kept, the token for hidden states.
    pub(super) fn strangers(&self, weights: &Weights) -> Vec<String> {
        let layers = "backbone.model.language_model.model.layers.";
        let is_spare = |name: &String| {
            let layer = name.strip_prefix(layers).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            name == "backbone.model.language_model.lm_head.weight"
                || name == "action_head.mask_token"
                || name.starts_with("backbone.model.vision_model.vision_model.head.")
                || layer.is_some_and(|layer| layer >= self.backbone.select_layer)
        };
        weights.unused().into_iter().filter(|name| !is_spare(name)).collect()
    }
}

/// Says which other model a configuration belongs to.
fn refuse_others(dir: &Path, config: &Value) -> Result<(), NnError> {
    let found = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    if found == MODEL_TYPE {
        return Ok(());
    }
    let plain: String = found.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let version =
        ["5", "7"].into_iter().find(|minor| plain == format!("gr00tn1{minor}") || plain == format!("gr00tn1d{minor}"));
    let got = match version {
        Some(minor) => format!("GR00T-N1.{minor} (model_type {found:?}), which is another model"),
        None if found.is_empty() => "no model_type: this is no GR00T checkpoint".into(),
        None => format!("model_type {found:?}"),
    };
    let expected = format!("a GR00T-N1.6 checkpoint (model_type {MODEL_TYPE:?}), such as nvidia/GR00T-N1.6-3B");
    Err(wrong(dir.join("config.json").display().to_string(), expected, got))
}

fn image_config(kwargs: &ProcessorKwargs) -> Result<ImageConfig, NnError> {
    if !kwargs.use_albumentations {
        let expected = "true, as in every published checkpoint: its resizing is the one that is reproduced";
        return Err(wrong("use_albumentations in processor_config.json", expected, "false"));
    }
    let first = |size: &Option<Vec<usize>>| size.as_ref().and_then(|size| size.first().copied());
    let (crop, target) = (first(&kwargs.image_crop_size), first(&kwargs.image_target_size));
    // Without the newer settings the reference derives them from the older ones.
    let fraction = || Some(crop? as f64 / target? as f64);
    let (edge, fraction) = (kwargs.shortest_image_edge.or(target), kwargs.crop_fraction.or_else(fraction));
    let (Some(shortest_edge), Some(crop_fraction)) = (edge, fraction) else {
        let expected = "shortest_image_edge and crop_fraction, or image_target_size and image_crop_size";
        return Err(wrong("processor_config.json", expected, "neither"));
    };
    let config = ImageConfig { shortest_edge, crop_fraction, letterbox: false, pillow: Pillow::Until12 };
    config.validate()?;
    Ok(config)
}

/// The folder of the tokenizer, and the backbone's configuration.
fn find_backbone(dir: &Path, given: Option<&Path>, model: &str) -> Result<(PathBuf, BackboneConfig), NnError> {
    let folder = model.rsplit('/').next().filter(|name| !name.is_empty() && *name != "..");
    let inside = folder.map(|name| dir.join(name));
    let places: Vec<PathBuf> = match given {
        Some(given) => vec![given.to_owned()],
        None => [Some(dir.to_owned()), inside].into_iter().flatten().collect(),
    };
    let found = places.iter().find(|place| TOKENIZER.iter().all(|name| place.join(name).is_file()));
    let Some(found) = found else {
        let shown: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let expected = format!(
            "{} of the backbone: they are not in a checkpoint, but in the folder {} of NVIDIA/Isaac-GR00T; give it with \
             --backbone",
            TOKENIZER.join(", "),
            folder.unwrap_or("Eagle-Block2A-2B-v2")
        );
        return Err(wrong(format!("tokenizer in {}", shown.join(" or ")), expected, "not all of them"));
    };
    let path = found.join("config.json");
    if found == dir || !path.is_file() {
        if folder.is_some_and(|name| name != "Eagle-Block2A-2B-v2") {
            let expected =
                "nvidia/Eagle-Block2A-2B-v2, or a folder with the config.json of another; give it with --backbone";
            return Err(wrong("model_name in config.json", expected, format!("{model:?}")));
        }
        return Ok((found.clone(), BackboneConfig::eagle_block2a()));
    }
    let config: BackboneConfig = json(&path, "vision_config, text_config and image_token_index of the backbone")?;
    Ok((found.clone(), config))
}

/// A JSON file as a `T`.
fn json<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<T, NnError> {
    let text = fs_err::read(path).map_err(|source| NnError::Io { action: "reading a GR00T checkpoint", source })?;
    let value: Value = serde_json::from_slice(&text)
        .map_err(|error| wrong(path.display().to_string(), "a JSON file", error.to_string()))?;
    parsed(path, value, expected)
}

fn parsed<T: DeserializeOwned>(path: &Path, value: Value, expected: &str) -> Result<T, NnError> {
    serde_json::from_value(value).map_err(|error| wrong(path.display().to_string(), expected, error.to_string()))
}
