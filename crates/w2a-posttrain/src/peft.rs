//! LoRA adapters in PEFT's files: `adapter_model.safetensors` and `adapter_config.json` in one folder.
//!
//! A layer `hidden1` has the tensors `base_model.model.hidden1.lora_A.weight` `[r, in]` and `….lora_B.weight` `[out, r]`.
//! Its weight changes by `lora_alpha / r · B A`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use w2a_nn::{Array, Init, NnError, StateDict, load_state, read_state, state_dict, write_state};
use w2a_policy::AdaptablePolicy;

use crate::lora::{Lora, LoraConfig, layer_sizes};

/// File of the tensors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// File of the settings.
pub const CONFIG_FILE: &str = "adapter_config.json";

const PREFIX: &str = "base_model.model.";

/// Settings under which a change of the weights would be another one than `lora_alpha / r · B A`, and the values that
/// switch them off. Files without one are from before it existed. The first ones are written as well: PEFT has had them
/// for long, and an older PEFT may refuse a setting that it does not know.
const SWITCHED_OFF: [(&str, &str); 15] = [
    ("use_rslora", "false"),
    ("use_dora", "false"),
    ("fan_in_fan_out", "false"),
    ("bias", "\"none\""),
    ("rank_pattern", "{}"),
    ("alpha_pattern", "{}"),
    ("layers_to_transform", "null"),
    ("modules_to_save", "null"),
    ("lora_bias", "false"),
    ("exclude_modules", "null"),
    ("target_parameters", "null"),
    ("layer_replication", "null"),
    ("trainable_token_indices", "null"),
    ("use_qalora", "false"),
    ("use_bdlora", "null"),
];
/// How many of them are written.
const WRITTEN: usize = 8;
/// Ways to initialise adapters that leave the base weights as they are; others, such as PiSSA, change them too.
const PLAIN_STARTS: [&str; 4] = ["true", "false", "\"gaussian\"", "null"];

/// PEFT's names of a layer's `A` and `B`, with the names these have in [`Lora`].
fn tensor_names(index: usize, layer: &str) -> [(String, String); 2] {
    [("a", "lora_A"), ("b", "lora_B")]
        .map(|(ours, theirs)| (format!("layers.{index}.{ours}"), format!("{PREFIX}{layer}.{theirs}.weight")))
}

impl Lora {
    /// Writes both files into `folder`, which is created if missing; each appears under its name when it is complete.
    ///
    /// # Errors
    /// A device or a disk that fails.
    pub fn save_peft(&self, folder: &Path) -> Result<(), NnError> {
        let io = |source| NnError::Io { action: "saving LoRA adapters", source };
        fs_err::create_dir_all(folder).map_err(io)?;
        let mut own = state_dict(self)?;
        let mut state = StateDict::new();
        for (index, layer) in self.names().iter().enumerate() {
            for (ours, theirs) in tensor_names(index, layer) {
                state.extend(own.remove(&ours).map(|array| (theirs, array)));
            }
        }
        write_state(&state, &folder.join(WEIGHTS_FILE))?;
        let LoraConfig { rank, alpha } = self.config();
        let mut config = json!({
            "peft_type": "LORA",
            "task_type": null,
            "base_model_name_or_path": null,
            "inference_mode": true,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "init_lora_weights": true,
            "target_modules": self.names(),
        });
        for &(name, off) in &SWITCHED_OFF[..WRITTEN] {
            config[name] = serde_json::from_str(off).unwrap_or_default();
        }
        let text = serde_json::to_vec_pretty(&config).unwrap_or_default();
        w2a_data::write_atomic(&folder.join(CONFIG_FILE), &text).map_err(io)
    }

    /// Reads both files from `folder` for `policy`, on the device of `init`. `target_modules` names layers in full, by the
    /// end of their name as PEFT allows, or is `"all-linear"`.
    ///
    /// # Errors
    /// A file that is missing or damaged; settings that are not LoRA's plain form; layers that the policy does not have; a
    /// tensor that is missing, unknown, or not of the size that rank and layer ask for. All are named.
    pub fn load_peft<P: AdaptablePolicy>(folder: &Path, policy: &P, init: &mut Init) -> Result<Self, NnError> {
        let path = folder.join(CONFIG_FILE);
        let bytes = fs_err::read(&path).map_err(|source| NnError::Io { action: "reading LoRA adapters", source })?;
        let format = |reason: String| NnError::Format { path: path.clone(), reason };
        let config: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| format(error.to_string()))?;
        let (size, targets) = plain_form(&config).map_err(&format)?;
        let layers = targeted(&targets, layer_sizes(policy)).map_err(&format)?;
        let sizes = layers.iter().map(|(name, size)| (name.as_str(), *size));
        let fresh = Self::of_layers(&size, sizes, init)?;
        let mut theirs = read_state(&folder.join(WEIGHTS_FILE))?;
        let expected: BTreeMap<String, Array> = state_dict(&fresh)?;
        let mut state = StateDict::new();
        for (index, (layer, _)) in layers.iter().enumerate() {
            for (ours, name) in tensor_names(index, layer) {
                let shape = expected.get(&ours).map_or(Vec::new(), |array| array.shape.clone());
                // Checked here as well as on loading, so that errors have the names of the file.
                let Some(array) = theirs.remove(&name) else { return Err(NnError::MissingTensor { name, shape }) };
                if array.shape != shape {
                    return Err(NnError::Shape { name, got: array.shape, expected: shape });
                }
                state.insert(ours, array);
            }
        }
        if !theirs.is_empty() {
            return Err(NnError::ExtraTensors { names: theirs.into_keys().collect() });
        }
        load_state(fresh, state)
    }
}

/// Rank, scale and targets of a configuration.
fn plain_form(config: &Map<String, Value>) -> Result<(LoraConfig, Vec<String>), String> {
    let get = |name: &str| config.get(name).unwrap_or(&Value::Null);
    if get("peft_type") != "LORA" {
        return Err(format!("peft_type is {}, expected \"LORA\"", get("peft_type")));
    }
    for (name, off) in SWITCHED_OFF {
        let value = get(name);
        if !value.is_null() && *value != serde_json::from_str::<Value>(off).unwrap_or_default() {
            return Err(format!("{name} is {value}, expected {off}: other forms of LoRA are not known here"));
        }
    }
    let start = get("init_lora_weights").to_string();
    if !PLAIN_STARTS.contains(&start.as_str()) {
        return Err(format!(
            "init_lora_weights is {start}, expected true: other starts change the base weights as well"
        ));
    }
    let rank = get("r").as_u64().and_then(|rank| usize::try_from(rank).ok()).filter(|rank| *rank > 0);
    let rank = rank.ok_or_else(|| format!("r is {}, expected a whole number above 0", get("r")))?;
    let alpha = get("lora_alpha").as_f64().map(|alpha| alpha as f32).filter(|alpha| alpha.is_finite() && *alpha > 0.0);
    let alpha = alpha.ok_or_else(|| format!("lora_alpha is {}, expected a number above 0", get("lora_alpha")))?;
    let targets = match get("target_modules") {
        Value::String(all) if all == "all-linear" => Vec::new(),
        Value::Array(names) if !names.is_empty() && names.iter().all(Value::is_string) => {
            names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        other => return Err(format!("target_modules is {other}, expected a list of names or \"all-linear\"")),
    };
    Ok((LoraConfig { rank, alpha }, targets))
}

/// The layers that `targets` mean, in the policy's order; without targets all.
fn targeted(targets: &[String], layers: Vec<(String, [usize; 2])>) -> Result<Vec<(String, [usize; 2])>, String> {
    let means = |target: &str, layer: &str| {
        layer.strip_suffix(target).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    for target in targets {
        if !layers.iter().any(|(layer, _)| means(target, layer)) {
            let names: Vec<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!("target_modules has {target:?}, the policy's layers are {}", names.join(", ")));
        }
    }
    Ok(layers
        .into_iter()
        .filter(|(layer, _)| targets.is_empty() || targets.iter().any(|target| means(target, layer)))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use proptest::prelude::*;
    use w2a_nn::{Init, NnError, StateDict, normal, read_state, state_dict, write_state};

    use super::{CONFIG_FILE, WEIGHTS_FILE};
    use crate::fixtures::policy;
    use crate::lora::{Lora, LoraConfig};

    fn load(folder: &Path) -> Result<Lora, NnError> {
        let init = &mut Init { rng: &mut w2a_data::stream(9, "load"), device: &Device::flex() };
        Lora::load_peft(folder, &policy(), init)
    }

    /// Adapters with random values in both factors, saved.
    fn saved() -> (tempfile::TempDir, Lora) {
        let init = &mut Init { rng: &mut w2a_data::stream(3, "lora"), device: &Device::flex() };
        let lora = Lora::new(&LoraConfig { rank: 3, alpha: 6.0 }, &policy(), init).unwrap();
        let mut state = state_dict(&lora).unwrap();
        for (index, array) in state.values_mut().enumerate() {
            array.data = normal(&mut w2a_data::stream(index as u64, "values"), array.data.len());
        }
        let lora = w2a_nn::load_state(lora, state).unwrap();
        let folder = tempfile::tempdir().unwrap();
        lora.save_peft(folder.path()).unwrap();
        (folder, lora)
    }

    fn with_config(change: impl Fn(&mut serde_json::Value)) -> Result<Lora, NnError> {
        let (folder, _) = saved();
        let path = folder.path().join(CONFIG_FILE);
        let mut config: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs_err::write(&path, config.to_string()).unwrap();
        load(folder.path())
    }

    fn with_weights(change: impl Fn(&mut StateDict)) -> NnError {
        let (folder, _) = saved();
        let path = folder.path().join(WEIGHTS_FILE);
        let mut state = read_state(&path).unwrap();
        change(&mut state);
        write_state(&state, &path).unwrap();
        load(folder.path()).unwrap_err()
    }

    #[test]
    fn adapters_go_out_under_pefts_names_and_in_again_unchanged() {
        let (folder, lora) = saved();
        let back = load(folder.path()).unwrap();
        assert_eq!((back.names(), back.config()), (lora.names(), lora.config()));
        assert_eq!(state_dict(&back).unwrap(), state_dict(&lora).unwrap());
        let file = read_state(&folder.path().join(WEIGHTS_FILE)).unwrap();
        assert_eq!(file.len(), 2 * lora.names().len());
        assert_eq!(file["base_model.model.trunks.0.query.lora_A.weight"].shape, [3, 128]);
        assert_eq!(file["base_model.model.hidden2.lora_B.weight"].shape, [32, 3]);
    }

    /// Written by PEFT 0.21.2: `scripts/peft_adapter.py make`.
    #[test]
    fn an_adapter_that_peft_wrote_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/peft");
        let lora = load(&folder).unwrap();
        assert_eq!(
            (lora.names(), lora.config()),
            (&["hidden1".into(), "out".into()][..], LoraConfig { rank: 2, alpha: 4.0 })
        );
        let file = read_state(&folder.join(WEIGHTS_FILE)).unwrap();
        assert_eq!(state_dict(&lora).unwrap()["layers.1.b"], file["base_model.model.out.lora_B.weight"]);
        lora.apply(&policy(), 1.0).unwrap();
    }

    #[test]
    fn a_wrong_rank_is_an_error_that_names_the_tensor() {
        let error = with_config(|config| config["r"] = 4.into()).unwrap_err();
        assert!(matches!(&error, NnError::Shape { name, .. } if name.ends_with("lora_A.weight")), "{error}");
        for rank in [serde_json::json!(0), serde_json::json!(-1), serde_json::json!("3"), serde_json::json!(null)] {
            let error = with_config(|config| config["r"] = rank.clone()).unwrap_err().to_string();
            assert!(error.contains("r is ") && error.contains(CONFIG_FILE), "{error}");
        }
    }

    #[test]
    fn a_missing_misshapen_or_unknown_tensor_is_named() {
        let name = "base_model.model.hidden1.lora_B.weight";
        let error = with_weights(|state| drop(state.remove(name)));
        assert!(matches!(&error, NnError::MissingTensor { name: got, .. } if got == name), "{error}");
        let error = with_weights(|state| state.get_mut(name).unwrap().shape.reverse());
        assert!(matches!(&error, NnError::Shape { name: got, .. } if got == name), "{error}");
        let error = with_weights(|state| {
            let array = state[name].clone();
            state.insert("base_model.model.absent.lora_B.weight".into(), array);
        });
        assert!(error.to_string().contains("absent"), "{error}");
        let error = with_weights(|state| state.get_mut(name).unwrap().data[0] = f32::INFINITY);
        assert!(error.to_string().contains(name), "{error}");
    }

    #[test]
    fn other_kinds_of_adapters_are_refused_by_the_setting() {
        for (key, value) in [
            ("peft_type", serde_json::json!("IA3")),
            ("use_dora", serde_json::json!(true)),
            ("use_rslora", serde_json::json!(true)),
            ("bias", serde_json::json!("all")),
            ("init_lora_weights", serde_json::json!("pissa")),
            ("layer_replication", serde_json::json!([[0, 1]])),
            ("rank_pattern", serde_json::json!({"out": 2})),
            ("lora_alpha", serde_json::json!(0)),
            ("target_modules", serde_json::json!([])),
            ("target_modules", serde_json::json!(".*out")),
        ] {
            let error = with_config(|config| config[key] = value.clone()).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
        let error = with_config(|config| config["target_modules"] = serde_json::json!(["q_proj"])).unwrap_err();
        assert!(error.to_string().contains("q_proj") && error.to_string().contains("hidden1"), "{error}");
    }

    #[test]
    fn targets_may_be_the_ends_of_names_and_layers_may_be_left_out() {
        let (folder, _) = saved();
        let path = folder.path().join(WEIGHTS_FILE);
        let mut state = read_state(&path).unwrap();
        state.retain(|name, _| name.contains(".mix."));
        write_state(&state, &path).unwrap();
        let config = folder.path().join(CONFIG_FILE);
        let mut text: serde_json::Value = serde_json::from_slice(&fs_err::read(&config).unwrap()).unwrap();
        text["target_modules"] = serde_json::json!(["mix"]);
        // Older files lack settings that later versions added.
        text.as_object_mut().unwrap().remove("lora_bias");
        fs_err::write(&config, text.to_string()).unwrap();
        let lora = load(folder.path()).unwrap();
        assert_eq!(lora.names(), ["trunks.0.mix", "trunks.1.mix"]);
        lora.apply(&policy(), 1.0).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let (folder, _) = saved();
        for file in [WEIGHTS_FILE, CONFIG_FILE] {
            fs_err::rename(folder.path().join(file), folder.path().join("away")).unwrap();
            let error = load(folder.path()).unwrap_err().to_string();
            assert!(error.contains(file), "{error}");
            fs_err::rename(folder.path().join("away"), folder.path().join(file)).unwrap();
        }
    }

    proptest! {
        #[test]
        fn no_configuration_panics(text in "\\PC{0,60}", key in "r|lora_alpha|target_modules|peft_type|bias", value in "[-0-9e.\\[\\]{}\"a-z,]{0,12}") {
            let mut config: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(r#"{"peft_type":"LORA","r":3,"lora_alpha":6,"target_modules":"all-linear"}"#).unwrap();
            let value = serde_json::from_str(&value).unwrap_or_else(|_| serde_json::Value::String(text.clone()));
            config.insert(key, value);
            if let Ok((size, targets)) = super::plain_form(&config) {
                prop_assert!(size.rank > 0 && size.alpha > 0.0);
                let _ = super::targeted(&targets, vec![("out".into(), [2, 2])]);
            }
        }
    }
}
