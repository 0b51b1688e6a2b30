//! Statistics in the form LeRobot keeps them in: per episode and for the whole dataset, images included.

use serde_json::{Value, json};

use super::error::DatasetError;
use super::info::{ACTION, CAMERA_PREFIX, DatasetSpec, STATE};
use crate::{Camera, Episode, Statistics, StatisticsBuilder};

/// Frames of one camera that are looked at per episode, evenly spaced; LeRobot samples as many.
const IMAGES_PER_EPISODE: usize = 100;

/// The names of the statistics in LeRobot's files, besides `count`.
pub(super) const STATISTICS: [&str; 9] = ["min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99"];

/// One feature's statistics; of an image, per channel and scaled to 0..1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    pub feature: String,
    pub is_image: bool,
    pub count: u64,
    /// `[9][width]`, in the order of [`STATISTICS`].
    pub values: [Vec<f64>; 9],
}

impl Measured {
    fn numeric(feature: &str, statistics: &Statistics) -> Self {
        let of = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect();
        let s = statistics;
        Self {
            feature: feature.into(),
            is_image: false,
            count: s.count,
            values: [&s.min, &s.max, &s.mean, &s.std, &s.q01, &s.q10, &s.q50, &s.q90, &s.q99].map(|v| of(v)),
        }
    }

    /// `{"min": [...], ..., "count": [n]}`; the entries of images have shape `[3, 1, 1]`.
    pub fn json(&self) -> Value {
        let entry = |values: &[f64]| match self.is_image {
            true => json!(values.iter().map(|value| json!([[value]])).collect::<Vec<_>>()),
            false => json!(values),
        };
        let mut map: serde_json::Map<_, _> =
            STATISTICS.iter().zip(&self.values).map(|(name, values)| (name.to_string(), entry(values))).collect();
        map.insert("count".into(), json!([self.count]));
        Value::Object(map)
    }
}

/// `{feature: statistics}` of several features.
pub(super) fn json_of(measured: &[Measured]) -> Value {
    Value::Object(measured.iter().map(|one| (one.feature.clone(), one.json())).collect())
}

/// How often each of the 256 values occurs per channel: exact statistics of 8-bit images in constant memory.
#[derive(Clone)]
struct Histogram {
    counts: Box<[[u64; 256]; 3]>,
    frames: u64,
}

impl Histogram {
    fn new() -> Self {
        Self { counts: Box::new([[0; 256]; 3]), frames: 0 }
    }

    fn add_camera(&mut self, camera: &Camera) {
        let frames = camera.frames();
        for frame in (0..frames).step_by(frames.div_ceil(IMAGES_PER_EPISODE).max(1)) {
            self.frames += 1;
            for [red, green, blue] in camera.frame(frame).as_chunks::<3>().0 {
                self.counts[0][usize::from(*red)] += 1;
                self.counts[1][usize::from(*green)] += 1;
                self.counts[2][usize::from(*blue)] += 1;
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.frames += other.frames;
        for (mine, theirs) in self.counts.iter_mut().flatten().zip(other.counts.iter().flatten()) {
            *mine += theirs;
        }
    }

    fn finish(&self, feature: String) -> Measured {
        let mut values: [Vec<f64>; 9] = Default::default();
        for counts in self.counts.iter() {
            let total = counts.iter().sum::<u64>().max(1) as f64;
            let mean_of = |value: &dyn Fn(f64) -> f64| {
                counts.iter().enumerate().map(|(level, &n)| value(level as f64 / 255.0) * n as f64).sum::<f64>() / total
            };
            let mean = mean_of(&|value| value);
            let std = mean_of(&|value| (value - mean).powi(2)).sqrt();
            let quantile = |fraction: f64| {
                let mut below = 0.0;
                let at_or_above = counts.iter().position(|&n| {
                    below += n as f64;
                    below > fraction * (total - 1.0)
                });
                at_or_above.unwrap_or(255) as f64 / 255.0
            };
            let edges = (quantile(0.0), quantile(1.0));
            let row =
                [edges.0, edges.1, mean, std].into_iter().chain([0.01, 0.1, 0.5, 0.9, 0.99].into_iter().map(quantile));
            values.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        }
        Measured { feature, is_image: true, count: self.frames, values }
    }
}

/// Gathers the statistics of a dataset while it is written.
pub(super) struct Measurer {
    images: Vec<(String, Histogram)>,
    numeric: Vec<(&'static str, StatisticsBuilder)>,
}

impl Measurer {
    pub fn new(spec: &DatasetSpec) -> Self {
        let images = spec.cameras.iter().map(|camera| (format!("{CAMERA_PREFIX}{}", camera.name), Histogram::new()));
        let numeric = [(STATE, spec.proprio_dim), (ACTION, spec.action_dim)]
            .into_iter()
            .filter(|(_, width)| *width > 0)
            .map(|(key, width)| (key, StatisticsBuilder::new(key, width)));
        Self { images: images.collect(), numeric: numeric.collect() }
    }

    /// Adds an episode and returns its own statistics.
    pub fn add(&mut self, episode: &Episode) -> Result<Vec<Measured>, DatasetError> {
        let mut measured = Vec::new();
        for ((key, whole), camera) in self.images.iter_mut().zip(&episode.cameras) {
            let mut own = Histogram::new();
            own.add_camera(camera);
            whole.merge(&own);
            measured.push(own.finish(key.clone()));
        }
        for (key, whole) in &mut self.numeric {
            let (rows, width) = match *key {
                STATE => (&episode.proprio, episode.proprio_dim),
                _ => (&episode.actions, episode.action_dim),
            };
            whole.push(rows)?;
            let mut own = StatisticsBuilder::new(*key, width);
            own.push(rows)?;
            measured.push(Measured::numeric(key, &own.finish()?));
        }
        Ok(measured)
    }

    /// The statistics of all episodes.
    pub fn finish(self) -> Result<Vec<Measured>, DatasetError> {
        let mut measured: Vec<Measured> =
            self.images.into_iter().map(|(key, histogram)| histogram.finish(key)).collect();
        for (key, builder) in self.numeric {
            measured.push(Measured::numeric(key, &builder.finish()?));
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_statistics_are_per_channel_in_0_to_1() {
        let mut histogram = Histogram::new();
        let rgb = [[0, 51, 255], [255, 51, 255]].concat();
        histogram.add_camera(&Camera { name: "a".into(), height: 1, width: 2, rgb });
        let measured = histogram.finish("observation.images.a".into());
        let expected = [vec![0.0, 0.2, 1.0], vec![1.0, 0.2, 1.0], vec![0.5, 0.2, 1.0], vec![0.5, 0.0, 0.0]];
        for (values, expected) in measured.values.iter().zip(expected) {
            assert!(values.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{values:?} {expected:?}");
        }
        assert_eq!(measured.json()["mean"].to_string(), json!([[[0.5]], [[0.2]], [[1.0]]]).to_string());
        assert_eq!(measured.json()["count"], json!([1]));
    }

    #[test]
    fn long_episodes_are_sampled_evenly() {
        let mut histogram = Histogram::new();
        let rgb = (0..250_u32).flat_map(|i| [i as u8; 3]).collect();
        histogram.add_camera(&Camera { name: "a".into(), height: 1, width: 1, rgb });
        assert_eq!(histogram.frames, 84);
        assert!((histogram.finish(String::new()).values[2][0] * 255.0 - 124.5).abs() < 0.5);
    }
}
