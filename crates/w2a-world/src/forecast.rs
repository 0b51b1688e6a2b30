//! Damped persistence: what can be said of a video from its first latent alone, value by value.

use std::path::Path;

use w2a_nn::{Array, NnError};

use crate::LatentShape;

/// Share of a normalised value's variance, 1, that is added to that of the first latents: a value that hardly varies
/// there says nothing of later ones.
const RIDGE: f64 = 0.01;

/// The linear forecast of every value of every chunk from the same value of the first latent, fitted to a corpus:
/// `mean_t + slope_t (v_0 - mean_0)`.
///
/// It is the usual reference of weather forecasting, between "as on average" (slope 0) and "as it is now" (slope 1): what
/// varies between first frames for no reason is not carried on.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// `[chunks, C, H, W]`.
    slope: Vec<f32>,
    /// `mean_t - slope_t mean_0`, as `slope`.
    offset: Vec<f32>,
}

impl Forecast {
    /// Fitted to normalised videos `V_0..V_T` of equal length, `[1 + T, C, H, W]` each.
    pub fn fit<'a>(videos: impl Iterator<Item = &'a [f32]> + Clone, shape: LatentShape) -> Self {
        let (len, count) = (shape.len(), videos.clone().count().max(1) as f64);
        let values = videos.clone().map(<[f32]>::len).min().unwrap_or(0);
        let mut mean = vec![0.0_f64; values];
        for video in videos.clone() {
            mean.iter_mut().zip(video).for_each(|(mean, &value)| *mean += f64::from(value) / count);
        }
        let (mut together, mut alone) = (vec![0.0_f64; values], vec![0.0_f64; len.min(values)]);
        for video in videos {
            let away = |at: usize| f64::from(video[at]) - mean[at];
            together.iter_mut().enumerate().for_each(|(at, sum)| *sum += away(at) * away(at % len) / count);
            alone.iter_mut().enumerate().for_each(|(at, sum)| *sum += away(at).powi(2) / count);
        }
        let slope = |at: usize| together[at] / (alone[at % len] + RIDGE);
        let future = len.min(values)..values;
        Self {
            slope: future.clone().map(|at| slope(at) as f32).collect(),
            offset: future.map(|at| (mean[at] - slope(at) * mean[at % len]) as f32).collect(),
        }
    }

    /// The forecast from normalised first latents, `[batch, C, H, W]` → `[batch, chunks, C, H, W]`.
    pub fn of(&self, first: &[f32], shape: LatentShape) -> Vec<f32> {
        let len = shape.len();
        let mut out = Vec::with_capacity(first.len() / len.max(1) * self.slope.len());
        for first in first.chunks_exact(len.max(1)) {
            let pairs = self.slope.iter().zip(&self.offset).enumerate();
            out.extend(pairs.map(|(at, (slope, offset))| offset + slope * first[at % len]));
        }
        out
    }

    /// Writes `slope` and `offset`, `[T, C, H, W]`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn save(&self, path: &Path, shape: LatentShape) -> Result<(), NnError> {
        let dims = vec![self.slope.len() / shape.len().max(1), shape.channels, shape.height, shape.width];
        let array = |data: &[f32]| Array { shape: dims.clone(), data: data.to_vec() };
        w2a_nn::write_state(
            &[("slope".into(), array(&self.slope)), ("offset".into(), array(&self.offset))].into(),
            path,
        )
    }

    /// Reads what [`Self::save`] wrote, for videos of `chunks` chunks.
    ///
    /// # Errors
    /// A missing or unreadable file, tensors that are missing or of another shape.
    pub fn load(path: &Path, chunks: usize, shape: LatentShape) -> Result<Self, NnError> {
        let mut state = w2a_nn::read_state(path)?;
        let expected = [chunks, shape.channels, shape.height, shape.width];
        Ok(Self {
            slope: crate::mini::take(&mut state, "slope", &expected)?,
            offset: crate::mini::take(&mut state, "offset", &expected)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Forecast;
    use crate::LatentShape;

    const SHAPE: LatentShape = LatentShape { channels: 1, height: 1, width: 3 };

    #[test]
    fn what_persists_what_fades_and_what_is_noise_are_told_apart() {
        // The first value stays, the second halves with every chunk, the third begins anywhere and is 5 ever after.
        let video = |seed: u64| {
            let v = w2a_nn::normal(&mut w2a_data::stream(seed, "video"), 3);
            [v[0], v[1], v[2], v[0], v[1] / 2.0, 5.0, v[0], v[1] / 4.0, 5.0]
        };
        let videos: Vec<[f32; 9]> = (0..400).map(video).collect();
        let forecast = Forecast::fit(videos.iter().map(|video| video.as_slice()), SHAPE);
        let found = forecast.of(&[1.0, 1.0, 1.0, -1.0, 0.0, 2.0], SHAPE);
        let expected = [1.0, 0.5, 5.0, 1.0, 0.25, 5.0, -1.0, 0.0, 5.0, -1.0, 0.0, 5.0];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.03), "{found:?}");
    }

    #[test]
    fn it_comes_back_from_its_file_and_only_for_its_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forecast.safetensors");
        let forecast = Forecast::fit([[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0].as_slice()].into_iter(), SHAPE);
        forecast.save(&path, SHAPE).unwrap();
        assert_eq!(Forecast::load(&path, 1, SHAPE).unwrap(), forecast);
        let error = Forecast::load(&path, 2, SHAPE).unwrap_err().to_string();
        assert!(error.contains("slope") && error.contains("[2, 1, 1, 3]"), "{error}");
    }
}
