//! Weights of others: safetensors files and archives of `torch.save`, told apart by their content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use w2a_nn::WeightsFile;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a temporary file");
    if let Ok(weights) = WeightsFile::open(file.path()) {
        let names: Vec<String> = weights.tensors().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let _ = weights.read(&name);
        }
    }
});
