//! The whole path from a checkpoint directory to actions, and what happens to directories and observations that do not fit.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Value, json};
use w2a_data::{Camera, Observation};
use w2a_nn::Array;
use w2a_policy::Policy;
use w2a_policy::groot::{Groot, GrootObservation, GrootOptions, Video, write_tiny};

/// A tiny checkpoint in a folder that goes away.
fn tiny() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    write_tiny(&dir, 7).unwrap();
    (folder, dir)
}

fn load(dir: &Path, tag: &str) -> Result<Groot, String> {
    Groot::load(dir, tag, &GrootOptions::new(&Device::flex())).map_err(|error| error.to_string())
}

fn observation(groot: &Groot, batch: usize, words: &[&str]) -> GrootObservation {
    let modalities = groot.modality_config().clone();
    let mut out = GrootObservation::default();
    for (index, key) in modalities.video.modality_keys.iter().enumerate() {
        let (height, width) = (40 + 8 * index, 60);
        let data = (0..batch * height * width * 3).map(|byte| (byte * 31 % 251) as u8).collect();
        out.video.insert(key.clone(), Video { shape: [batch, 1, height, width, 3], data });
    }
    for (key, width) in groot.state_widths() {
        let width = width.unwrap();
        let data = (0..batch * width).map(|value| (value as f32 * 0.37).sin() * 0.5).collect();
        out.state.insert(key.to_owned(), Array { shape: vec![batch, 1, width], data });
    }
    let key = modalities.language.modality_keys[0].clone();
    out.language.insert(key, words.iter().map(|words| vec![(*words).to_owned()]).collect());
    out
}

#[test]
fn a_checkpoint_directory_acts_for_each_embodiment() {
    let (_folder, dir) = tiny();
    for (tag, keys, width) in [("libero_panda", 7, 7), ("GR1", 3, 16)] {
        let mut groot = load(&dir, tag).unwrap();
        let seen = observation(&groot, 2, &["Pick up the cup!", "go"]);
        let first = groot.act(&seen).unwrap();
        let second = groot.act(&seen).unwrap();
        assert_eq!((first.len(), groot.action_dim(), groot.horizon()), (keys, width, 16));
        assert!(first.values().all(|array| array.shape[..2] == [2, 16] && array.data.iter().all(|v| v.is_finite())));
        assert_ne!(first, second, "each call has noise of its own");
        groot.reset();
        assert_eq!(first, groot.act(&seen).unwrap(), "and after a reset the same again");
    }
}

#[test]
fn a_sample_of_a_batch_gets_what_it_gets_alone() {
    let (_folder, dir) = tiny();
    let groot = load(&dir, "libero_panda").unwrap();
    let (both, noise) = (observation(&groot, 2, &["go", "pick up the cup and the bowl"]), |batch: usize| {
        let mut stream = w2a_data::stream(3, "noise");
        let [_, steps, width] = groot.noise_shape(1);
        w2a_nn::normal(&mut stream, batch * steps * width)
    });
    let together = groot.act_from(&both, noise(2)).unwrap();
    let mut alone = both.clone();
    for video in alone.video.values_mut() {
        video.shape[0] = 1;
        video.data.truncate(video.data.len() / 2);
    }
    for state in alone.state.values_mut() {
        state.shape[0] = 1;
        state.data.truncate(state.data.len() / 2);
    }
    for words in alone.language.values_mut() {
        words.truncate(1);
    }
    for (key, alone) in groot.act_from(&alone, noise(1)).unwrap() {
        for (got, want) in together[&key].data.iter().zip(&alone.data) {
            assert!((got - want).abs() < 1e-4, "{key}: {got} {want}");
        }
    }
}

#[test]
fn relative_actions_start_from_the_state() {
    let (_folder, dir) = tiny();
    let mut groot = load(&dir, "gr1").unwrap();
    let mut seen = observation(&groot, 1, &["wave"]);
    seen.state.get_mut("left_arm").unwrap().data.fill(5.0);
    let action = &groot.act(&seen).unwrap()["left_arm"];
    assert!(action.data.iter().all(|value| (4.79..=5.21).contains(value)), "{:?}", &action.data[..7]);
}

#[test]
fn an_environments_observations_are_the_keys_side_by_side() {
    let (_folder, dir) = tiny();
    let mut groot = load(&dir, "libero_panda").unwrap();
    let camera = |name: &str| Camera { name: name.into(), height: 64, width: 64, rgb: vec![90; 64 * 64 * 3] };
    let seen = Observation { cameras: vec![camera("agent"), camera("wrist")], proprio: vec![0.1; 8] };
    let actions = Policy::act(&mut groot, std::slice::from_ref(&seen), &["go"]).unwrap();
    assert_eq!(actions.len(), 16 * 7);
    let fewer = Observation { proprio: vec![0.1; 7], ..seen.clone() };
    assert!(Policy::act(&mut groot, &[fewer], &["go"]).unwrap_err().to_string().contains('8'));
    let blind = Observation { cameras: vec![], ..seen };
    assert!(Policy::act(&mut groot, &[blind], &["go"]).unwrap_err().to_string().contains("wrist_image"));
}

/// What loading says after a JSON file of the checkpoint has been changed.
fn changed(file: &str, change: impl Fn(&mut Value)) -> String {
    let (_folder, dir) = tiny();
    let path = dir.join(file);
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(&path, serde_json::to_vec(&value).unwrap()).unwrap();
    load(&dir, "libero_panda").unwrap_err()
}

fn removed(file: &str) -> String {
    let (_folder, dir) = tiny();
    std::fs::remove_file(dir.join(file)).unwrap();
    load(&dir, "libero_panda").unwrap_err()
}

#[test]
fn another_version_of_gr00t_is_named() {
    for (theirs, named) in [("gr00t_n1_5", "GR00T-N1.5"), ("Gr00tN1d7", "GR00T-N1.7"), ("llama", "llama")] {
        let error = changed("config.json", |config| config["model_type"] = json!(theirs));
        assert!(error.contains(named) && error.contains("GR00T-N1.6"), "{error}");
    }
    let error = changed("config.json", |config| *config = json!({"steps": 3}));
    assert!(error.contains("no GR00T checkpoint"), "{error}");
}

#[test]
fn an_unknown_embodiment_lists_the_known() {
    let (_folder, dir) = tiny();
    let error = load(&dir, "libero").unwrap_err();
    assert!(error.contains("libero_panda") && error.contains("gr1"), "{error}");
}

#[test]
fn missing_statistics_are_named() {
    let none = changed("statistics.json", |file| drop(file.as_object_mut().unwrap().remove("libero_panda")));
    assert!(none.contains("statistics.json") && none.contains("libero_panda"), "{none}");
    let key = changed("statistics.json", |file| {
        file["libero_panda"]["action"].as_object_mut().unwrap().remove("yaw");
    });
    assert!(key.contains("libero_panda.action") && key.contains("yaw"), "{key}");
    let uneven = changed("statistics.json", |file| file["libero_panda"]["state"]["x"]["max"] = json!([1.0, 2.0]));
    assert!(uneven.contains("max"), "{uneven}");
}

#[test]
fn configurations_that_do_not_fit_together_are_refused() {
    let wide = changed("config.json", |config| config["diffusion_model_cfg"]["attention_head_dim"] = json!(9));
    assert!(wide.contains("input_embedding_dim"), "{wide}");
    let zero = changed("config.json", |config| config["num_inference_timesteps"] = json!(0));
    assert!(zero.contains("sizes from 1"), "{zero}");
    let positions = changed("config.json", |config| {
        config["diffusion_model_cfg"]["positional_embeddings"] = json!("sinusoidal");
    });
    assert!(positions.contains("positional_embeddings"), "{positions}");
    let missing = changed("config.json", |config| drop(config.as_object_mut().unwrap().remove("action_horizon")));
    assert!(missing.contains("action_horizon"), "{missing}");
    let state = changed("processor_config.json", |file| file["processor_kwargs"]["max_state_dim"] = json!(29));
    assert!(state.contains("max_state_dim") && state.contains("32"), "{state}");
    let resize = changed("processor_config.json", |file| file["processor_kwargs"]["use_albumentations"] = json!(false));
    assert!(resize.contains("use_albumentations"), "{resize}");
    let class = changed("processor_config.json", |file| file["processor_class"] = json!("Gr00tN1d7Processor"));
    assert!(class.contains("Gr00tN1d7Processor"), "{class}");
    let token = changed("Eagle-Block2A-2B-v2/config.json", |file| file["image_token_index"] = json!(5));
    assert!(token.contains("<IMG_CONTEXT>"), "{token}");
    let id = changed("embodiment_id.json", |file| file["libero_panda"] = json!(3));
    assert!(id.contains("max_num_embodiments"), "{id}");
}

#[test]
fn files_that_are_missing_or_elsewhere_are_named() {
    for file in ["config.json", "statistics.json", "processor_config.json", "model-00002-of-00002.safetensors"] {
        let error = removed(file);
        assert!(error.contains(file), "{error}");
    }
    let tokenizer = removed("Eagle-Block2A-2B-v2/vocab.json");
    assert!(tokenizer.contains("--backbone") && tokenizer.contains("Eagle-Block2A-2B-v2"), "{tokenizer}");
    let index = "model.safetensors.index.json";
    let outside = changed(index, |file| file["weight_map"]["a"] = json!("../secret.safetensors"));
    assert!(outside.contains("files beside it"), "{outside}");
    let absent = changed(index, |file| file["weight_map"]["ghost"] = json!("model-00001-of-00002.safetensors"));
    assert!(absent.contains("ghost"), "{absent}");
}

#[test]
fn weights_that_the_model_does_not_know_are_refused() {
    let (_folder, dir) = tiny();
    let shard = dir.join("model-00001-of-00002.safetensors");
    let mut state = w2a_nn::read_state(&shard).unwrap();
    state.insert("action_head.vl_self_attention.weight".into(), Array { shape: vec![1], data: vec![0.0] });
    w2a_nn::write_state(&state, &shard).unwrap();
    let error = load(&dir, "gr1").unwrap_err();
    assert!(error.contains("vl_self_attention"), "{error}");
}

#[test]
fn observations_that_do_not_fit_say_what_is_expected() {
    let (_folder, dir) = tiny();
    let mut groot = load(&dir, "libero_panda").unwrap();
    let good = observation(&groot, 1, &["go"]);
    let mut says = |change: &dyn Fn(&mut GrootObservation)| {
        let mut bad = good.clone();
        change(&mut bad);
        groot.act(&bad).unwrap_err().to_string()
    };
    let camera = says(&|seen| {
        let video = seen.video.remove("wrist_image").unwrap();
        seen.video.insert("wrist".into(), video);
    });
    assert!(camera.contains("wrist_image") && camera.contains("image, wrist"), "{camera}");
    let size = says(&|seen| seen.video.get_mut("image").unwrap().shape[3] += 1);
    assert!(size.contains("height, width, 3"), "{size}");
    let grey = says(&|seen| seen.video.get_mut("image").unwrap().shape[4] = 1);
    assert!(grey.contains("height, width, 3"), "{grey}");
    let state = says(&|seen| drop(seen.state.remove("yaw")));
    assert!(state.contains("state.yaw"), "{state}");
    let width = says(&|seen| seen.state.get_mut("gripper").unwrap().shape = vec![1, 1, 1]);
    assert!(width.contains("[1, 1, 2]"), "{width}");
    let nan = says(&|seen| seen.state.get_mut("x").unwrap().data[0] = f32::NAN);
    assert!(nan.contains("finite"), "{nan}");
    let words = says(&|seen| seen.language.clear());
    assert!(words.contains("annotation.human.action.task_description"), "{words}");
    let none = says(&|seen| seen.language.values_mut().for_each(|words| words[0].clear()));
    assert!(none.contains("one instruction"), "{none}");
    // Any script is words to the tokenizer.
    let mut other = good.clone();
    other.language.values_mut().for_each(|words| words[0] = vec!["कप उठाओ 杯子 🤖".into()]);
    assert!(groot.act(&other).is_ok());
}
