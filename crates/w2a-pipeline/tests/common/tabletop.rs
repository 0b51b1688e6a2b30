//! Demonstrations of the embedded simulator as a dataset.

use std::path::Path;

use w2a_data::{DatasetSpec, DatasetWriter, Version};
use w2a_sim::{Scene, record_many};

/// Writes `count` of the expert's demonstrations of one task, with images.
pub fn demonstrations(dataset: &Path, count: usize) {
    let scene = |index: usize| format!("object/0/posttrain/full/{index:06}").parse::<Scene>().unwrap();
    let scenes: Vec<Scene> = (0..count).map(scene).collect();
    let recorded = record_many(&scenes, 0, 2).unwrap();
    let spec = DatasetSpec::of(&recorded[0].episode);
    let mut writer = DatasetWriter::create(dataset, spec, Version::V21).unwrap();
    recorded.iter().for_each(|recording| writer.push(&recording.episode).unwrap());
    writer.finish().unwrap();
}
