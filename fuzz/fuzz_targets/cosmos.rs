//! What surrounds the weights of Cosmos-Predict2: the tokenizer, the index of shards, an embedded prompt, the list of videos to
//! fine-tune on. The weights themselves are the target `weights`.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

// The parsers' own sources, in a crate root that stands in for theirs: their crates would build burn.
extern crate self as w2a_nn;
#[allow(dead_code)]
#[path = "../../crates/w2a-world/src/digest.rs"]
mod digest;
#[allow(dead_code)]
#[path = "../../crates/w2a-nn/src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../crates/w2a-world/src/cosmos/prompts.rs"]
mod prompts;
#[path = "../../crates/w2a-world/src/cosmos/shards.rs"]
mod shards;
#[allow(dead_code, unused_imports)]
#[path = "../../crates/w2a-nn/src/weights/mod.rs"]
mod weights;
#[path = "../../crates/w2a-world/src/cosmos/words.rs"]
mod words;

pub use error::NnError;
use prompts::PromptStore;
use weights::WeightsProblem;
use words::Words;

/// As in `w2a-nn`.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// As in `w2a-nn`.
pub type StateDict = BTreeMap<String, Array>;

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    if which % 4 == 0 {
        if let Ok(words) = Words::read(bytes, Path::new("tokenizer.json")) {
            let _ = words.of("put the red block in the bowl, then lift it");
        }
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &Path| std::fs::write(path, bytes).expect("a temporary folder");
    match which % 4 {
        1 => {
            let index = folder.path().join("model.safetensors.index.json");
            write(&index);
            let _ = shards::shards(&index);
        }
        2 => {
            let store = PromptStore::new(folder.path());
            write(&store.path("lift"));
            let _ = store.get("lift");
        }
        _ => {
            write(&folder.path().join("metadata.csv"));
            let _ = w2a_data::CaptionedVideos::open(folder.path());
        }
    }
});
