use burn::tensor::Device;

use super::{Cosmos, CosmosConfig};
use crate::cosmos::tiny;
use crate::{GridVideo, Skill, WorldModel, imagine_chain};

fn frame(value: u8) -> GridVideo {
    let rgb = (0..32 * 48 * 3).map(|at| (at as u8).wrapping_mul(7).wrapping_add(value)).collect();
    GridVideo { height: 32, width: 48, rgb }
}

/// A tiny model with two embedded prompts.
fn world(change: impl FnOnce(&mut CosmosConfig)) -> (tempfile::TempDir, Cosmos) {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path(), 3).unwrap();
    let mut config = CosmosConfig::of_folder(folder.path()).unwrap();
    change(&mut config);
    let world = Cosmos::open(folder.path(), config, &Device::flex()).unwrap();
    for prompt in ["lift", "place"] {
        world.prompts().put(prompt, "test", &tiny::embedding(prompt)).unwrap();
    }
    (folder, world)
}

#[test]
fn the_tiny_model_encodes_imagines_and_decodes() {
    let (_folder, world) = world(|_| {});
    let video =
        GridVideo { rgb: [frame(0), frame(1), frame(2), frame(3), frame(4)].map(|f| f.rgb).concat(), ..frame(0) };
    let encoded = world.encode(std::slice::from_ref(&video)).unwrap().remove(0);
    assert_eq!((encoded.chunks(), encoded.shape), (1, world.latent_shape()));
    let imagine =
        |prompt, seed| world.imagine(&[frame(0)], &[prompt], 3, &mut w2a_data::stream(seed, "t")).unwrap().remove(0);
    let one = imagine("lift", 0);
    assert_eq!(one.chunks(), 3);
    // The first latent is the first frame's, to the bit, alone or before others.
    assert_eq!(one.latent(0), encoded.latent(0));
    assert_eq!(one, imagine("lift", 0));
    assert_ne!(one.data, imagine("lift", 1).data, "noise");
    assert_ne!(one.data, imagine("place", 0).data, "prompt");
    let decoded = world.decode(std::slice::from_ref(&one)).unwrap().remove(0);
    assert_eq!((decoded.frames(), decoded.height), (13, 32));
    assert_eq!(world.last_frame(&one).unwrap().rgb, decoded.frame(12));
    let skills = [Skill { prompt: "lift", chunks: 4 }, Skill { prompt: "place", chunks: 1 }];
    let chain = imagine_chain(&world, &frame(0), &skills, &mut w2a_data::stream(0, "t")).unwrap();
    assert_eq!(chain.chunks(), 5);
}

#[test]
fn the_authors_seed_gives_every_clip_the_same_noise() {
    let (_folder, world) = world(|config| config.noise_seed = Some(0));
    let imagine = |seed| world.imagine(&[frame(0)], &["lift"], 1, &mut w2a_data::stream(seed, "t")).unwrap();
    assert_eq!(imagine(0), imagine(1));
}

#[test]
fn requests_that_do_not_fit_are_named() {
    let (folder, world) = world(|_| {});
    let mut rng = w2a_data::stream(0, "t");
    let mut imagine = |first: GridVideo, prompt: &str, chunks| {
        world.imagine(&[first], &[prompt], chunks, &mut rng).unwrap_err().to_string()
    };
    let small = GridVideo { height: 16, width: 48, rgb: vec![0; 16 * 48 * 3] };
    assert!(imagine(small.clone(), "lift", 1).contains("expected 32x48"));
    assert!(imagine(frame(0), "lift", 4).contains("1 to 3 chunks"));
    assert!(imagine(frame(0), "drop", 1).contains("world embed-prompts"));
    assert!(world.encode(&[small]).unwrap_err().to_string().contains("--world.frame"));
    let even = GridVideo { rgb: [frame(0).rgb, frame(1).rgb].concat(), ..frame(0) };
    assert!(world.encode(&[even]).unwrap_err().to_string().contains("multiple of 4 frames"));
    let mut latents = world.encode(&[frame(0)]).unwrap();
    latents[0].data.pop();
    assert!(world.decode(&latents).unwrap_err().to_string().contains("latents to decode"));
    for (change, words) in [
        (CosmosConfig { frame: [33, 48], ..CosmosConfig::default() }, "frame"),
        (CosmosConfig { latent_frames: 1, ..CosmosConfig::default() }, "latent_frames"),
        (CosmosConfig { checkpoint: Some("x.pt".into()), ..CosmosConfig::default() }, "x.pt"),
    ] {
        let error = Cosmos::open(folder.path(), change, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_checkpoint_of_another_model_or_size_and_a_cut_one_are_named() {
    let fails = |change: &dyn Fn(&std::path::Path)| {
        let (folder, world) = world(|_| {});
        change(folder.path());
        world.imagine(&[frame(0)], &["lift"], 1, &mut w2a_data::stream(0, "t")).unwrap_err().to_string()
    };
    let dit = |dir: &std::path::Path| dir.join("model-tiny.safetensors");
    let swapped = fails(&|dir| std::fs::copy(dir.join("tokenizer/tokenizer.pth"), dit(dir)).map(|_| ()).unwrap());
    assert!(swapped.contains("a DiT of Cosmos-Predict2") && swapped.contains("another model"), "{swapped}");
    let cut = fails(&|dir| {
        let bytes = std::fs::read(dit(dir)).unwrap();
        std::fs::write(dit(dir), &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(cut.contains("model-tiny.safetensors"), "{cut}");
    let changed = fails(&|dir| {
        let mut state = w2a_nn::read_state(&dit(dir)).unwrap();
        state.remove("net.blocks.1.mlp.layer2.weight");
        w2a_nn::write_state(&state, &dit(dir)).unwrap();
    });
    assert!(changed.contains("blocks.1.mlp.layer2.weight"), "{changed}");
    let of_two_sizes = fails(&|dir| {
        let mut state = w2a_nn::read_state(&dit(dir)).unwrap();
        let norm = state.get_mut("net.blocks.1.self_attn.q_norm.weight").unwrap();
        norm.data.pop();
        norm.shape = vec![norm.data.len()];
        w2a_nn::write_state(&state, &dit(dir)).unwrap();
    });
    assert!(of_two_sizes.contains("another size"), "{of_two_sizes}");
}

#[test]
fn a_model_of_no_released_size_needs_its_ratios() {
    let (_folder, world) = world(|config| config.rope = None);
    let error = world.imagine(&[frame(0)], &["lift"], 1, &mut w2a_data::stream(0, "t")).unwrap_err().to_string();
    assert!(error.contains("2048 (2B)") && error.contains("setting rope"), "{error}");
}

#[test]
fn the_identity_follows_weights_and_settings_and_not_the_place_of_prompts() {
    let (folder, world) = world(|_| {});
    let id = world.identify().unwrap();
    let other = |change: &dyn Fn(&mut CosmosConfig)| {
        let mut config = CosmosConfig::of_folder(folder.path()).unwrap();
        change(&mut config);
        Cosmos::open(folder.path(), config, &Device::flex()).unwrap().identify().unwrap()
    };
    assert_eq!(other(&|config| config.prompts = Some("elsewhere".into())), id);
    assert_ne!(other(&|config| config.sampler.guidance = 3.0), id);
    tiny::write(folder.path(), 4).unwrap();
    assert_ne!(other(&|_| {}), id);
}
