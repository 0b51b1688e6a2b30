//! GR00T on a dataset: open loop, and LoRA by the flow-matching loss. The checkpoint is tiny and random.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use w2a_data::{Camera, DatasetSpec, DatasetWriter, Episode, Version};
use w2a_pipeline::{
    FinetuneRequest, LoraConfig, Method, OpenLoopRequest, finetune, open_loop, policy_info, write_tiny_policy,
};
use w2a_pipeline::{PipelineError, PolicyInfoRequest};

fn camera(name: &str, frames: usize, shade: usize) -> Camera {
    let data = (0..frames * 32 * 40 * 3).map(|byte| ((byte * 7 + shade) % 251) as u8).collect();
    Camera { name: name.into(), height: 32, width: 40, rgb: data }
}

/// A dataset of two episodes as the tiny checkpoint's `libero_panda` wants it, and the checkpoint.
fn prepared() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (checkpoint, dataset) = (folder.path().join("checkpoint"), folder.path().join("dataset"));
    write_tiny_policy(&checkpoint, 1).unwrap();
    let episode = |index: usize| {
        let frames = 20 + index;
        let wave = |count: usize, speed: f32| (0..count).map(|i| 0.8 * ((i + index) as f32 * speed).sin()).collect();
        Episode {
            instruction: "Put the cup away!".into(),
            source: format!("made/{index}"),
            fps: 10,
            cameras: vec![camera("agent", frames, index), camera("hand", frames, 90 + index)],
            proprio_dim: 8,
            proprio: wave(frames * 8, 0.1),
            action_dim: 7,
            actions: wave(frames * 7, 0.3),
        }
    };
    let mut writer = DatasetWriter::create(&dataset, DatasetSpec::of(&episode(0)), Version::V21).unwrap();
    (0..2).for_each(|index| writer.push(&episode(index)).unwrap());
    writer.finish().unwrap();
    write_modality(&dataset, "wrist_image");
    (folder, checkpoint, dataset)
}

fn write_modality(dataset: &Path, wrist: &str) {
    let keys = ["x", "y", "z", "roll", "pitch", "yaw"];
    let slices = |last: usize| -> Value {
        let each = keys.iter().enumerate().map(|(at, key)| (*key, at, at + 1)).chain([("gripper", 6, last)]);
        each.map(|(key, start, end)| (key.to_owned(), json!({"start": start, "end": end}))).collect()
    };
    let modality = json!({
        "state": slices(8), "action": slices(7), "annotation": {},
        "video": {
            "image": {"original_key": "observation.images.agent"},
            wrist: {"original_key": "observation.images.hand"}
        }
    });
    std::fs::write(dataset.join("meta/modality.json"), serde_json::to_vec(&modality).unwrap()).unwrap();
}

fn replay(checkpoint: &Path, dataset: &Path, out: PathBuf) -> OpenLoopRequest {
    OpenLoopRequest {
        checkpoint: checkpoint.into(),
        dataset: dataset.into(),
        embodiment: "libero_panda".into(),
        out,
        backbone: None,
        adapter: None,
        letterbox: false,
        episodes: 2,
        stride: Some(8),
        seed: 0,
        device: "cpu".into(),
    }
}

fn says<T: std::fmt::Debug>(result: Result<T, PipelineError>) -> String {
    let error = result.unwrap_err();
    assert!(error.is_users_mistake(), "{error}");
    error.to_string()
}

#[test]
fn open_loop_measures_every_key_and_draws_it() {
    let (folder, checkpoint, dataset) = prepared();
    let request = replay(&checkpoint, &dataset, folder.path().join("page"));
    let text = open_loop(&request).unwrap();
    let json: Value = serde_json::from_slice(&std::fs::read(request.out.join("open_loop.json")).unwrap()).unwrap();
    // Every step of both episodes is compared once.
    assert_eq!(json["all"]["values"], (20 + 21) * 7);
    assert_eq!(json["keys"].as_object().unwrap().len(), 7);
    assert!(json["keys"]["gripper"]["mse"].as_f64().is_some_and(|mse| mse > 0.0 && mse < 4.0), "{json}");
    assert!(text.contains("gripper") && text.lines().nth(8).unwrap().starts_with("all"), "{text}");
    let page = std::fs::read_to_string(request.out.join("open_loop.html")).unwrap();
    assert!(page.contains("yaw 0") && page.contains("Put the cup away!"));
    assert!(says(open_loop(&request)).contains("does not exist yet"));
    let again = OpenLoopRequest { out: folder.path().join("again"), ..request.clone() };
    assert_eq!(open_loop(&again).unwrap().lines().nth(1), text.lines().nth(1), "the same noise, the same numbers");
    let stride = OpenLoopRequest { out: folder.path().join("never"), stride: Some(17), ..request };
    assert!(says(open_loop(&stride)).contains("16"));
}

#[test]
fn a_dataset_that_names_a_camera_otherwise_is_refused() {
    let (folder, checkpoint, dataset) = prepared();
    write_modality(&dataset, "wrist");
    let error = says(open_loop(&replay(&checkpoint, &dataset, folder.path().join("page"))));
    assert!(error.contains("wrist_image") && error.contains("meta/modality.json"), "{error}");
    assert!(!folder.path().join("page").exists());
}

fn training(checkpoint: &Path, dataset: &Path, out: PathBuf, method: Method) -> FinetuneRequest {
    FinetuneRequest {
        checkpoint: checkpoint.to_owned(),
        dataset: dataset.to_owned(),
        embodiment: "libero_panda".into(),
        out,
        resume: false,
        backbone: None,
        letterbox: false,
        method,
        steps: 120,
        batch: 8,
        lr: 1e-2,
        memory: None,
        seed: 3,
        device: "cpu".into(),
    }
}

fn run(request: &FinetuneRequest) -> Result<String, PipelineError> {
    finetune(request, &mut |_| ())
}

#[test]
fn an_adapter_learns_resumes_and_changes_the_policy() {
    let (folder, checkpoint, dataset) = prepared();
    let method = Method::Lora(LoraConfig { rank: 8, alpha: 16.0 });
    let request = training(&checkpoint, &dataset, folder.path().join("lora"), method);
    run(&request).unwrap();
    let log = w2a_report::read_metrics(&request.out).unwrap();
    let losses: Vec<f64> = w2a_report::curve(&log, "policy/finetune", "loss").iter().map(|point| point.1).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert_eq!(losses.len(), 120);
    // Most of the loss is the noise that no policy can know.
    assert!(mean(&losses[90..]) < 0.96 * mean(&losses[..20]), "{losses:?}");
    let file = request.out.join("adapter/adapter_model.safetensors");
    let first = std::fs::read(&file).unwrap();
    assert!(says(run(&request)).contains("--resume"));
    std::fs::remove_file(&file).unwrap();
    run(&FinetuneRequest { resume: true, ..request.clone() }).unwrap();
    assert!(first == std::fs::read(&file).unwrap(), "a finished training is loaded, not repeated");
    let method = Method::Lora(LoraConfig { rank: 5, alpha: 16.0 });
    let other = FinetuneRequest { resume: true, method, ..request.clone() };
    assert!(says(run(&other)).contains("rank"));

    let numbers = |adapter: Option<PathBuf>, name: &str| {
        let request = OpenLoopRequest { adapter, ..replay(&checkpoint, &dataset, folder.path().join(name)) };
        open_loop(&request).unwrap().lines().nth(8).unwrap().to_owned()
    };
    let base = numbers(None, "base");
    assert_ne!(base, numbers(Some(request.out.join("adapter")), "adapted"));
}

#[test]
fn the_whole_action_head_learns_and_becomes_a_checkpoint() {
    let (folder, checkpoint, dataset) = prepared();
    let out = folder.path().join("full");
    let request = FinetuneRequest { lr: 2e-3, ..training(&checkpoint, &dataset, out.clone(), Method::Full) };
    let mut said = Vec::new();
    finetune(&request, &mut |line| said.push(line.to_owned())).unwrap();
    assert!(said.concat().contains("optimiser"), "{said:?}");
    let log = w2a_report::read_metrics(&out).unwrap();
    let losses: Vec<f64> = w2a_report::curve(&log, "policy/finetune", "loss").iter().map(|point| point.1).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[90..]) < 0.9 * mean(&losses[..20]), "{losses:?}");

    let numbers = |checkpoint: &Path, embodiment: &str, name: &str| {
        let request = PolicyInfoRequest { dir: checkpoint.into(), backbone: None, embodiment: Some(embodiment.into()) };
        policy_info(&request).unwrap();
        let replay = replay(checkpoint, &dataset, folder.path().join(name));
        open_loop(&replay).unwrap().lines().nth(8).unwrap().to_owned()
    };
    let model = out.join("model");
    assert_ne!(numbers(&checkpoint, "gr1", "base"), numbers(&model, "gr1", "tuned"));

    // What was not trained is as it was: the backbone, and the projector of the other embodiment.
    let read = |path: &Path, name: &str| w2a_nn::WeightsFile::open(path).unwrap().read(name).unwrap();
    let index: Value =
        serde_json::from_slice(&std::fs::read(checkpoint.join("model.safetensors.index.json")).unwrap()).unwrap();
    let old = |name: &str| read(&checkpoint.join(index["weight_map"][name].as_str().unwrap()), name);
    let new = |name: &str| read(&model.join("model.safetensors"), name);
    let name = index["weight_map"].as_object().unwrap().keys().find(|name| name.starts_with("backbone")).unwrap();
    assert_eq!(old(name), new(name), "{name}");
    let projector = "action_head.state_encoder.layer1.W";
    let (old, new) = (old(projector), new(projector));
    let each = old.data.len() / old.shape[0];
    for row in 0..old.shape[0] {
        let range = row * each..(row + 1) * each;
        assert_eq!(old.data[range.clone()] != new.data[range], row == 2, "embodiment {row}");
    }

    let little = FinetuneRequest { memory: Some(1 << 16), out: folder.path().join("never"), ..request };
    let error = says(run(&little));
    assert!(error.contains("--method lora") && !folder.path().join("never").exists(), "{error}");
}

#[test]
fn information_is_about_one_embodiment_or_all() {
    let (_folder, dir, _) = prepared();
    let request = PolicyInfoRequest { dir, backbone: None, embodiment: None };
    let all = policy_info(&request).unwrap();
    assert!(all.contains("libero_panda (weights 2)") && all.contains("relative to left_arm"), "{all}");
    let one = policy_info(&PolicyInfoRequest { embodiment: Some("GR1".into()), ..request.clone() }).unwrap();
    assert!(!one.contains("libero_panda") && one.contains("sine and cosine"), "{one}");
    let unknown = says(policy_info(&PolicyInfoRequest { embodiment: Some("gr2".into()), ..request }));
    assert!(unknown.contains("gr1, libero_panda"), "{unknown}");
}
