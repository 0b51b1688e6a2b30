//! What GR00T's loader wants beside a dataset of version 2.1: `meta/modality.json`, `meta/stats.json` and
//! `meta/relative_stats.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::relative::RelativeStatistics;
use super::{ConvertError, write_json};
use crate::{Episode, Group, Source, Statistics, StatisticsBuilder};

/// Gathers what the three files hold.
pub struct Flavour {
    modality: Value,
    /// Feature and builder; GR00T recomputes all statistics if one floating-point feature has none.
    builders: Vec<(&'static str, StatisticsBuilder)>,
    relative: RelativeStatistics,
}

impl Flavour {
    pub fn new(source: &Source, horizon: usize) -> Self {
        let spec = source.spec();
        let (state, action) = source.groups();
        let widths = [("observation.state", spec.proprio_dim), ("action", spec.action_dim), ("timestamp", 1)];
        let builders = widths.into_iter().filter(|(_, width)| *width > 0);
        let videos: Map<String, Value> = spec
            .cameras
            .iter()
            .map(|one| &one.name)
            .map(|name| {
                (source.gr00t_camera(name).to_owned(), json!({ "original_key": format!("observation.images.{name}") }))
            })
            .collect();
        let modality = json!({
            "state": slices(&state),
            "action": slices(&action),
            "video": videos,
            "annotation": { "human.action.task_description": { "original_key": "task_index" } },
        });
        Self {
            modality,
            builders: builders.map(|(key, width)| (key, StatisticsBuilder::new(key, width))).collect(),
            relative: RelativeStatistics::new(&state, &action, horizon),
        }
    }

    pub fn add(&mut self, episode: &Episode) -> Result<(), ConvertError> {
        let fps = f64::from(episode.fps);
        let seconds: Vec<f32> = (0..episode.len()).map(|frame| (frame as f64 / fps) as f32).collect();
        for (key, builder) in &mut self.builders {
            builder.push(match *key {
                "observation.state" => &episode.proprio,
                "action" => &episode.actions,
                _ => &seconds,
            })?;
        }
        self.relative.add(episode);
        Ok(())
    }

    /// Writes the files below `root`.
    pub fn write(self, root: &Path) -> Result<(), ConvertError> {
        let mut stats = Map::new();
        for (key, builder) in self.builders {
            stats.insert(key.into(), six(builder.finish()?));
        }
        write_json(&root.join("meta/modality.json"), &self.modality)?;
        write_json(&root.join("meta/stats.json"), &stats)?;
        write_json(&root.join("meta/relative_stats.json"), &self.relative.finish()?)
    }
}

fn slices(groups: &[Group]) -> Map<String, Value> {
    let slice = |group: &Group| (group.name.clone(), json!({ "start": group.start, "end": group.end }));
    groups.iter().map(slice).collect()
}

/// The six statistics that GR00T slices by entry; anything else in the file would be sliced too, and fail.
fn six(s: Statistics) -> Value {
    json!({ "mean": s.mean, "std": s.std, "min": s.min, "max": s.max, "q01": s.q01, "q99": s.q99 })
}
