//! A folder of Cosmos-Predict2 of which one file is arbitrary: the DiT, the video autoencoder, the tokenizer, the text encoder's
//! settings, the settings of the model, or an embedded prompt.
#![no_main]

use libfuzzer_sys::fuzz_target;
use w2a_world::cosmos::{Cosmos, CosmosConfig, CosmosFolder, PromptEncoder, PromptStore, tiny};

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    let folder = tempfile::tempdir().expect("a temporary folder");
    tiny::write(folder.path(), 0).expect("a temporary folder");
    let store = PromptStore::new(folder.path().join("prompts"));
    store.put("lift", "test", &tiny::embedding("lift")).expect("a temporary folder");
    let files = [
        folder.path().join("model-tiny.safetensors"),
        folder.path().join("tokenizer/tokenizer.pth"),
        folder.path().join("tokenizer/tokenizer.json"),
        folder.path().join("text_encoder/config.json"),
        folder.path().join("cosmos.json"),
        store.path("lift"),
    ];
    std::fs::write(&files[usize::from(which) % files.len()], bytes).expect("a temporary folder");
    let device = w2a_nn::device("cpu").expect("the device that every build has");
    let _ = store.get("lift");
    if let Ok(encoder) = CosmosFolder::open(folder.path()).and_then(|folder| PromptEncoder::open(&folder, &device)) {
        let _ = encoder.embed(&["put it down"], |_, _| {});
    }
    let Ok(config) = CosmosConfig::of_folder(folder.path()) else { return };
    if let Ok(world) = Cosmos::open(folder.path(), config, &device) {
        let _ = world.read_dit(|_, _| {});
    }
});
