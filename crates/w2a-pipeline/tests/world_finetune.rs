//! Cosmos-Predict2 fine-tuned on the embedded simulator's demonstrations, from the dataset to an imagination. The checkpoint is
//! tiny and random.

#[path = "common/tabletop.rs"]
mod tabletop;

use std::path::{Path, PathBuf};

use w2a_data::video::{Encoding, VideoWriter};
use w2a_pipeline::{
    Activations, CameraLayout, CosmosCompute, CosmosConfig, FlowLoss, ImagineRequest, LoraConfig, Method, Shard,
    WorldFinetuneRequest, WorldSource, cosmos_settings, imagine, world_finetune, write_tiny_world,
};
use w2a_report::{curve, read_metrics};
use w2a_world::load_imagination;

/// A tiny checkpoint with two demonstrations, and what is to be done with them.
fn prepared(method: Method) -> (tempfile::TempDir, WorldFinetuneRequest) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_tiny_world(&at("base"), 1).unwrap();
    tabletop::demonstrations(&at("data"), 2);
    let mut config = cosmos_settings(&at("base")).unwrap();
    config.frame = [32, 64];
    let request = WorldFinetuneRequest {
        path: at("base"),
        config,
        data: at("data"),
        layout: CameraLayout::SideBySide,
        rig: None,
        out: at("out"),
        cache: None,
        resume: false,
        method,
        activations: Activations::Recompute,
        loss: FlowLoss::default(),
        steps: 60,
        batch: 2,
        lr: 1e-2,
        warmup: 5,
        ema: 0.9,
        sample_every: 40,
        samples: 2,
        is_half: false,
        memory: None,
        seed: 3,
        device: "cpu".into(),
    };
    (folder, request)
}

fn run(request: &WorldFinetuneRequest) -> Result<(String, Vec<String>), w2a_pipeline::PipelineError> {
    let mut said = Vec::new();
    let text = world_finetune(request, &mut |line| said.push(line.to_owned()))?;
    Ok((text, said))
}

/// The latents that the model in `path` imagines from one picture.
fn imagined(folder: &Path, path: PathBuf, config: CosmosConfig, out: &str) -> Vec<f32> {
    let episode = folder.join("in/a");
    fs_err::create_dir_all(&episode).unwrap();
    let rgb: Vec<u8> = (0..32 * 64 * 3).map(|at| (at as u8).wrapping_mul(3)).collect();
    fs_err::write(episode.join("first_frame.png"), w2a_data::encode_png(&rgb, 32, 64).unwrap()).unwrap();
    // The instruction of the demonstrations, which the fine-tuning has embedded.
    let tasks = fs_err::read_to_string(folder.join("data/meta/tasks.jsonl")).unwrap();
    let task: serde_json::Value = serde_json::from_str(tasks.lines().next().unwrap()).unwrap();
    fs_err::write(episode.join("prompt.txt"), task["task"].as_str().unwrap()).unwrap();
    let request = ImagineRequest {
        input: folder.join("in"),
        world: WorldSource::Cosmos { path, config: Box::new(config) },
        out: folder.join(out),
        cache: None,
        chunks: None,
        rig: None,
        shard: Shard { index: 0, count: 1 },
        seed: 0,
        skip_bad: false,
        memory: None,
    };
    assert_eq!(imagine(&request, &mut |_| {}).unwrap().made, 1);
    load_imagination(&folder.join(out).join("a/latents.safetensors")).unwrap().1.data
}

#[test]
fn demonstrations_become_a_model_that_imagines_otherwise() {
    for method in [Method::Lora(LoraConfig { rank: 4, alpha: 4.0 }), Method::Full] {
        let (folder, request) = prepared(method.clone());
        let at = |name: &str| folder.path().join(name);
        let (text, said) = run(&request).unwrap();
        assert!(text.contains("60 steps; last loss") && text.contains("clips"), "{text}");
        assert!(
            said.len() == 1 && said[0].starts_with("memory: about ") && said[0].contains("activations"),
            "{said:?}"
        );
        let losses = curve(&read_metrics(at("out")).unwrap(), "world/finetune", "loss");
        let mean = |part: &[(f64, f64)]| part.iter().map(|(_, loss)| loss).sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&losses[..15]), mean(&losses[45..]));
        assert!(losses.len() == 60 && last < 0.8 * first, "{method:?}: from {first} to {last}");
        for step in [40, 60] {
            let picture = fs_err::read(at(&format!("out/samples/step_{step:06}.gif"))).unwrap();
            assert!(picture.starts_with(b"GIF8"));
        }
        assert_eq!(at("out/adapter/adapter_model.safetensors").exists(), method != Method::Full);

        let settings = cosmos_settings(&at("out/model")).unwrap();
        assert_eq!(settings.frame, [32, 64]);
        let tuned = imagined(folder.path(), at("out/model"), settings, "tuned");
        let base = imagined(folder.path(), at("base"), request.config.clone(), "untuned");
        let difference = tuned.iter().zip(&base).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference > 0.1, "{difference}");
        // Neither the videos nor the text encoder are needed any more.
        fs_err::remove_dir_all(at("base/text_encoder")).unwrap();
        let (again, _) = run(&WorldFinetuneRequest { resume: true, ..request }).unwrap();
        assert!(again.contains("it was done already"), "{again}");
    }
}

#[test]
fn activations_make_no_difference_and_the_model_may_be_bf16() {
    let (folder, request) = prepared(Method::Lora(LoraConfig { rank: 2, alpha: 2.0 }));
    let file = |out: &str| {
        let path = folder.path().join(out).join("model/model-finetuned.safetensors");
        w2a_nn::read_state(&path).unwrap()
    };
    let request =
        WorldFinetuneRequest { steps: 3, sample_every: 0, cache: Some(folder.path().join("shared")), ..request };
    run(&request).unwrap();
    for (out, activations, is_half) in [("kept", Activations::Keep, false), ("half", Activations::Recompute, true)] {
        let out = folder.path().join(out);
        run(&WorldFinetuneRequest { out, activations, is_half, ..request.clone() }).unwrap();
    }
    assert!(file("out") == file("kept"));
    let name = "net.blocks.1.mlp.layer2.weight";
    for (whole, half) in file("out")[name].data.iter().zip(&file("half")[name].data) {
        assert!((whole - half).abs() <= whole.abs() / 256.0 && half.to_bits().trailing_zeros() >= 16);
    }
    assert!(file("out").keys().all(|name| name.starts_with("net.")) && file("out").len() == file("half").len());
}

#[test]
fn videos_with_prompts_are_trained_on_in_bf16_too() {
    let (folder, request) = prepared(Method::Full);
    let data = folder.path().join("captioned");
    fs_err::create_dir_all(data.join("videos")).unwrap();
    for (name, frames) in [("long", 20), ("short", 3)] {
        let path = data.join(format!("videos/{name}.mp4"));
        let mut video = VideoWriter::create(&path, Encoding::H264, 48, 80, 16).unwrap();
        (0..frames).for_each(|frame| video.push(&vec![10 * frame; 48 * 80 * 3]).unwrap());
        video.finish().unwrap();
    }
    fs_err::write(data.join("metadata.csv"), "video,prompt\nlong.mp4,\"lift, then put\"\nshort.mp4,push\n").unwrap();
    let request = WorldFinetuneRequest { data: data.clone(), steps: 3, sample_every: 0, ..request };
    let (text, _) = run(&request).unwrap();
    // Of 13 frames each: two of the long video, one of the short one.
    assert!(text.contains("of 3 clips"), "{text}");
    let loss = |out: &str| {
        let lines = read_metrics(folder.path().join(out)).unwrap();
        curve(&lines, "world/finetune", "loss").first().unwrap().1
    };
    let mut half = WorldFinetuneRequest { out: folder.path().join("half"), ..request.clone() };
    half.config.dtype = CosmosCompute::Bf16;
    run(&half).unwrap();
    let (whole, rounded) = (loss("out"), loss("half"));
    assert!(whole != rounded && (whole - rounded).abs() < 0.03 * whole, "{whole} and {rounded} in bf16");
    fs_err::write(data.join("metadata.csv"), "video,prompt\nnone.mp4,push\n").unwrap();
    let error = run(&WorldFinetuneRequest { out: folder.path().join("none"), ..request }).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("line 2: there is no video"), "{error}");
}

#[test]
fn what_does_not_fit_into_memory_is_refused_with_what_would() {
    let (_folder, request) = prepared(Method::Full);
    let refused = |request: &WorldFinetuneRequest, memory: u64| {
        let error = run(&WorldFinetuneRequest { memory: Some(memory), ..request.clone() }).unwrap_err();
        assert!(error.is_users_mistake() && !request.out.exists(), "{error}");
        error.to_string()
    };
    let keep = WorldFinetuneRequest { activations: Activations::Keep, ..request.clone() };
    let nothing = refused(&keep, 1000);
    assert!(nothing.contains("--world.latent_frames"), "{nothing}");
    // Enough for this training, were it to compute its activations again.
    let again = refused(&keep, 2_000_000);
    assert!(again.contains("--activations recompute takes"), "{again}");
}

#[test]
fn requests_that_cannot_be_are_named() {
    let (folder, request) = prepared(Method::Full);
    let fails = |change: &dyn Fn(&mut WorldFinetuneRequest)| {
        let mut request = request.clone();
        change(&mut request);
        let error = run(&request).unwrap_err();
        assert!(error.is_users_mistake(), "{error}");
        error.to_string()
    };
    assert!(fails(&|request| request.steps = 0).contains("--steps"));
    assert!(fails(&|request| request.ema = 1.0).contains("--ema"));
    assert!(fails(&|request| request.resume = true).contains("does not exist"));
    assert!(fails(&|request| request.out = folder.path().join("data")).contains("--resume"));
    assert!(fails(&|request| request.loss.prompt_dropout = 2.0).contains("prompt_dropout"));
    assert!(fails(&|request| request.data = folder.path().join("absent")).contains("there is no dataset"));
    assert!(fails(&|request| request.path = folder.path().join("absent")).contains("check the path"));
    assert!(fails(&|request| request.config.rope = None).contains("setting rope"));
    assert!(fails(&|request| request.device = "abacus".into()).contains("abacus"));
    assert!(
        fails(&|request| request.method = Method::Lora(LoraConfig { rank: 0, alpha: 1.0 }))
            .contains("rank of at least 1")
    );
}
