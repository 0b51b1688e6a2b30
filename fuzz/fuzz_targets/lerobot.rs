//! LeRobot datasets: one file of a small whole dataset is replaced, among them info.json, modality.json, the JSON lines
//! and the parquet tables of metadata and rows. The first byte chooses the file.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use w2a_data::{Dataset, DatasetSpec, DatasetWriter, Episode, Version};

/// The files of a dataset of each version.
fn whole() -> &'static [Vec<(PathBuf, Vec<u8>)>; 2] {
    static WHOLE: OnceLock<[Vec<(PathBuf, Vec<u8>)>; 2]> = OnceLock::new();
    WHOLE.get_or_init(|| [Version::V21, Version::V30].map(files_of))
}

fn files_of(version: Version) -> Vec<(PathBuf, Vec<u8>)> {
    let episode = Episode {
        instruction: "open the drawer".into(),
        source: String::new(),
        fps: 20,
        cameras: Vec::new(),
        proprio_dim: 2,
        proprio: vec![0.5; 6],
        action_dim: 1,
        actions: vec![1.0, 2.0, 3.0],
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("set");
    let mut writer = DatasetWriter::create(&root, DatasetSpec::of(&episode), version).expect("a writer");
    writer.push(&episode).expect("an episode");
    writer.finish().expect("a dataset");
    std::fs::write(root.join("meta/modality.json"), "{\"state\": {\"x\": {\"start\": 0, \"end\": 1}}}").expect("a file");
    let (mut files, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("a file");
                files.push((path.strip_prefix(&root).map(Path::to_owned).expect("a path below"), bytes));
            }
        }
    }
    files.sort();
    files
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let files = &whole()[usize::from(choice % 2)];
    let replaced = usize::from(choice / 2) % files.len();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (index, (path, whole)) in files.iter().enumerate() {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, if index == replaced { bytes } else { whole }).expect("a file");
    }
    for dataset in [Dataset::open(folder.path()), Dataset::open_in_part(folder.path())].into_iter().flatten() {
        for episode in dataset.episodes().flatten() {
            assert!(!episode.is_empty() && episode.validate().is_ok());
        }
    }
});
