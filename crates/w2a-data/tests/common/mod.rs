//! Small episodes and datasets shared by the tests.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use w2a_data::{Camera, Dataset, DatasetError, DatasetSpec, DatasetWriter, Episode, Version};

pub const VERSIONS: [Version; 2] = [Version::V21, Version::V30];

/// A value that occurs once in every episode's actions, at frame 2, so that a test can find it in a file.
pub const MARK: f32 = 12_345.678;

/// Two cameras whose order is not alphabetical, 9-d proprioception, 7-d actions.
pub fn episode(index: usize) -> Episode {
    let frames = 4 + index % 3;
    let camera = |name: &str, height: usize, width: usize| Camera {
        name: name.into(),
        height,
        width,
        rgb: (0..frames * height * width * 3).map(|i| (i * 7 + i * i / 11 + index * 31) as u8).collect(),
    };
    let mut actions: Vec<f32> = (0..frames * 7).map(|i| (i + index) as f32 / 3.0).collect();
    actions[2 * 7 + 3] = MARK;
    Episode {
        instruction: ["open the drawer", "put the red block in the bowl", "öffne die Schublade"][index % 3].into(),
        source: format!("object/2/train/{index}"),
        fps: 20,
        cameras: vec![camera("wrist", 8, 6), camera("agent", 5, 9)],
        proprio_dim: 9,
        proprio: (0..frames * 9).map(|i| (i * index) as f32 * -0.1).collect(),
        action_dim: 7,
        actions,
    }
}

pub fn write(dir: &Path, version: Version, episodes: &[Episode]) -> Result<(), DatasetError> {
    let mut writer = DatasetWriter::create(dir, DatasetSpec::of(&episodes[0]), version)?;
    for episode in episodes {
        writer.push(episode)?;
    }
    writer.finish()
}

/// A dataset of `count` episodes in a temporary folder that lives as long as the first value.
pub fn dataset(version: Version, count: usize) -> (tempfile::TempDir, PathBuf) {
    cached("images", version, count, |dir| write(dir, version, &(0..count).map(episode).collect::<Vec<_>>()).unwrap())
}

/// A dataset in a temporary folder that lives as long as the first value.
///
/// Each kind is made once and kept in memory: syncing hundreds of datasets to the disk would take most of the time.
pub fn cached(
    kind: &'static str,
    version: Version,
    count: usize,
    make: impl FnOnce(&Path),
) -> (tempfile::TempDir, PathBuf) {
    type Files = Vec<(PathBuf, Vec<u8>)>;
    static MADE: Mutex<BTreeMap<(&str, &str, usize), Files>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    let contents = made.entry((kind, version.name(), count)).or_insert_with(|| {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("set");
        make(&dir);
        files(&dir).into_iter().map(|file| (file.clone(), std::fs::read(dir.join(file)).unwrap())).collect()
    });
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("set");
    for (file, bytes) in contents {
        let path = dir.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    (folder, dir)
}

/// Opens a dataset and reads every episode.
pub fn read_all(dir: &Path) -> Result<Vec<Episode>, DatasetError> {
    Dataset::open(dir)?.episodes().collect()
}

/// All files below `dir`, relative to it, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Replaces `from` by `to` in a text file, which must hold it.
pub fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{} holds no {from:?}: {text}", file.display());
    std::fs::write(file, text.replace(from, to)).unwrap();
}
