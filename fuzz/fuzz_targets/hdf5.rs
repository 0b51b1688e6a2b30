//! HDF5 demonstrations; whatever is read must be whole. Seeds: crates/w2a-data/tests/fixtures/hdf5.
#![no_main]

use libfuzzer_sys::fuzz_target;
use w2a_data::Hdf5Dataset;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::Builder::new().suffix(".hdf5").tempfile().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a temporary file");
    if let Ok(dataset) = Hdf5Dataset::open(file.path()) {
        let _ = dataset.splits();
        for episode in dataset.episodes().flatten() {
            assert!(!episode.is_empty() && episode.validate().is_ok());
        }
    }
});
