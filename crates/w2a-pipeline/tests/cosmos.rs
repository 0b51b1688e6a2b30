//! Cosmos-Predict2 from prompts to latents and to a picture, with a checkpoint of toy size and random weights.

use std::path::Path;

use w2a_pipeline::{
    CosmosCompute, EmbedRequest, ImagineRequest, Imagined, PipelineError, PreviewRequest, Rig, Shard, WorldSource,
    cosmos_settings, embed_prompts, preview,
};
use w2a_world::cosmos::tiny;
use w2a_world::{LatentShape, load_imagination};

/// What is said of memory is of no interest.
fn imagine(request: &ImagineRequest) -> Result<Imagined, PipelineError> {
    w2a_pipeline::imagine(request, &mut |_| {})
}

fn episode(folder: &Path, value: u8, prompts: &[(&str, &str)]) {
    fs_err::create_dir_all(folder).unwrap();
    let rgb: Vec<u8> = (0..32 * 48 * 3).map(|at| (at as u8).wrapping_mul(value)).collect();
    fs_err::write(folder.join("first_frame.png"), w2a_data::encode_png(&rgb, 32, 48).unwrap()).unwrap();
    for (name, prompt) in prompts {
        fs_err::write(folder.join(name), prompt).unwrap();
    }
}

#[test]
fn a_folder_of_episodes_is_embedded_imagined_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny::write(&at("model"), 1).unwrap();
    episode(&at("in/a"), 3, &[("prompt.txt", "put the block in the bowl")]);
    episode(&at("in/b"), 5, &[("aa_0.txt", "reach"), ("aa_1.txt", "lift it")]);
    let config = cosmos_settings(&at("model")).unwrap();
    let world = WorldSource::Cosmos { path: at("model"), config: Box::new(config.clone()) };
    let request = ImagineRequest {
        input: at("in"),
        world: world.clone(),
        out: at("out"),
        cache: None,
        chunks: None,
        rig: None,
        shard: Shard { index: 0, count: 1 },
        seed: 0,
        skip_bad: false,
        memory: None,
    };
    let error = imagine(&request).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("3 prompts are not embedded"), "{error}");

    let mut negative = config;
    negative.negative_prompt = "blurred".into();
    let embed = EmbedRequest { input: at("in"), path: at("model"), config: negative, rig: None };
    assert!(embed_prompts(&embed).unwrap().starts_with("4 prompts embedded, 0 known before"));
    // With all prompts known, nothing of the text encoder is needed.
    fs_err::remove_dir_all(at("model/text_encoder")).unwrap();
    assert!(embed_prompts(&embed).unwrap().starts_with("0 prompts embedded, 4 known before"));
    let other = EmbedRequest { rig: Some(Rig::Libero), ..embed };
    assert!(embed_prompts(&other).unwrap_err().to_string().contains("text_encoder/"));

    let done = imagine(&request).unwrap();
    assert_eq!((done.made, done.reused, done.chunks), (2, 0, 3 + 6));
    let (source, latents) = load_imagination(&at("out/b/latents.safetensors")).unwrap();
    assert_eq!((source.model.name.as_str(), source.prompts.len(), latents.chunks()), ("cosmos", 2, 6));
    assert_eq!(latents.shape, LatentShape { channels: 16, height: 4, width: 6 });
    assert_eq!(imagine(&request).unwrap().reused, 2);
    // What is said, and what does not fit, before anything is computed.
    let mut said = Vec::new();
    w2a_pipeline::imagine(&request, &mut |line| said.push(line.to_owned())).unwrap();
    assert!(said.len() == 1 && said[0].starts_with("memory: about ") && said[0].contains("autoencoder"), "{said:?}");
    let error = imagine(&ImagineRequest { memory: Some(1000), out: at("none"), ..request.clone() }).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("memory for imagining"), "{error}");
    assert!(!at("none").exists());
    // Other settings are another model.
    let mut config = cosmos_settings(&at("model")).unwrap();
    config.dtype = CosmosCompute::Bf16;
    let half = WorldSource::Cosmos { path: at("model"), config: Box::new(config) };
    assert_eq!(imagine(&ImagineRequest { world: half, out: at("half"), ..request.clone() }).unwrap().made, 2);
    let one = |out: &str| load_imagination(&at(out).join("a/latents.safetensors")).unwrap().1.data;
    let (whole, rounded) = (one("out"), one("half"));
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    let size = squares(&mut whole.iter().copied());
    let error = squares(&mut whole.iter().zip(&rounded).map(|(a, b)| a - b)) / size;
    // Guidance takes the difference of two evaluations eight times.
    assert!(error > 0.0 && error < 0.15, "{error}");
    let mut config = cosmos_settings(&at("model")).unwrap();
    config.sampler.guidance = 0.0;
    let world = WorldSource::Cosmos { path: at("model"), config: Box::new(config) };
    assert_eq!(imagine(&ImagineRequest { world: world.clone(), ..request }).unwrap().made, 2);

    let latents = vec![at("out/a/latents.safetensors")];
    let line = preview(&PreviewRequest { latents, world, out: at("a.gif"), count: 1 }).unwrap();
    assert!(line.starts_with("1 of 1 videos, 13 frames each"), "{line}");
}

#[test]
fn lists_of_prompts_are_read_and_folders_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny::write(&at("model"), 1).unwrap();
    let config = cosmos_settings(&at("model")).unwrap();
    let embed = |input: &str| {
        embed_prompts(&EmbedRequest { input: at(input), path: at("model"), config: config.clone(), rig: None })
    };
    fs_err::write(at("list.txt"), "reach\n\n lift it \nreach\n").unwrap();
    assert!(embed("list.txt").unwrap().starts_with("2 prompts embedded, 0 known"));
    for (name, bytes, words) in [("empty.txt", &b"\n"[..], "got none"), ("bytes.txt", b"\xff", "text in UTF-8")] {
        fs_err::write(at(name), bytes).unwrap();
        let error = embed(name).unwrap_err();
        assert!(error.is_users_mistake() && error.to_string().contains(words), "{error}");
    }
    fs_err::write(at("model/cosmos.json"), "{\"frame\": [32]}").unwrap();
    assert!(cosmos_settings(&at("model")).unwrap_err().to_string().contains("cosmos.json"));
    assert!(cosmos_settings(&at("absent")).unwrap_err().to_string().contains("check the path"));
}
