//! Latent videos, their statistics, and the files they are cached in.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use w2a_nn::NnError;

/// Shape of the latent of one chunk, `[channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LatentShape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl LatentShape {
    /// Values of one latent.
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether a latent has no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The latents `V_0..V_T` of one video.
#[derive(Clone, Debug, PartialEq)]
pub struct Latents {
    /// Shape of each.
    pub shape: LatentShape,
    /// `[1 + T, channels, height, width]`.
    pub data: Vec<f32>,
}

impl Latents {
    /// `T`: chunks after the first frame.
    pub fn chunks(&self) -> usize {
        (self.data.len() / self.shape.len()).saturating_sub(1)
    }

    /// `V_index`, `[channels, height, width]`.
    pub fn latent(&self, index: usize) -> &[f32] {
        &self.data[index * self.shape.len()..(index + 1) * self.shape.len()]
    }

    /// `V_1..V_T`, what the chunks of actions pair with.
    pub fn future(&self) -> &[f32] {
        &self.data[self.shape.len()..]
    }

    /// The same values as `[channels, 1 + T, height, width]`, as networks take them.
    pub fn channels_first(&self) -> Vec<f32> {
        turned(&self.data, self.data.len() / self.shape.len().max(1), self.shape.height * self.shape.width)
    }

    /// Latents from `[channels, 1 + T, height, width]`.
    pub fn from_channels_first(shape: LatentShape, data: &[f32]) -> Self {
        Self { shape, data: turned(data, shape.channels, shape.height * shape.width) }
    }

    /// The average of videos of the first one's shape and length; `None` of none.
    pub fn average<'a>(mut videos: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let first = videos.next()?;
        let mut sum: Vec<f64> = first.data.iter().map(|value| f64::from(*value)).collect();
        let mut count = 1.0;
        for video in videos {
            sum.iter_mut().zip(&video.data).for_each(|(sum, value)| *sum += f64::from(*value));
            count += 1.0;
        }
        Some(Self { shape: first.shape, data: sum.into_iter().map(|sum| (sum / count) as f32).collect() })
    }

    /// Mean squared difference per chunk of the futures, over the chunks both have.
    pub fn distance(&self, other: &Self) -> Vec<f32> {
        let len = self.shape.len();
        let pairs = self.future().chunks_exact(len).zip(other.future().chunks_exact(len));
        pairs.map(|(a, b)| mean_squared_difference(a, b)).collect()
    }
}

/// `[outer, inner, len]` → `[inner, outer, len]`.
fn turned(data: &[f32], outer: usize, len: usize) -> Vec<f32> {
    let inner = data.len() / (outer * len).max(1);
    let mut out = Vec::with_capacity(data.len());
    for index in 0..inner {
        for block in data.chunks_exact((inner * len).max(1)) {
            out.extend(block.iter().skip(index * len).take(len));
        }
    }
    out
}

fn mean_squared_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / a.len() as f32
}

/// Mean and spread of every latent position over a corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentStatistics {
    /// `[channels, height, width]`.
    pub mean: Vec<f32>,
    /// `[channels, height, width]`, bounded below so that constant positions are not blown up.
    pub std: Vec<f32>,
}

impl LatentStatistics {
    /// Statistics over all latents of `corpus`; a position's spread is at least `floor` times the mean spread.
    pub fn of(corpus: &[Latents], floor: f32) -> Self {
        let len = corpus.first().map_or(0, |latents| latents.shape.len());
        let (mut sum, mut squares, mut count) = (vec![0.0_f64; len], vec![0.0_f64; len], 0_usize);
        for latent in corpus.iter().flat_map(|latents| latents.data.chunks_exact(len.max(1))) {
            count += 1;
            for ((sum, squares), &value) in sum.iter_mut().zip(&mut squares).zip(latent) {
                *sum += f64::from(value);
                *squares += f64::from(value) * f64::from(value);
            }
        }
        let n = count.max(1) as f64;
        let mean: Vec<f32> = sum.iter().map(|sum| (sum / n) as f32).collect();
        let variance = squares.iter().zip(&sum).map(|(squares, sum)| (squares / n - (sum / n).powi(2)).max(0.0));
        let std: Vec<f32> = variance.map(|variance| variance.sqrt() as f32).collect();
        let lowest = (floor * std.iter().sum::<f32>() / len.max(1) as f32).max(1e-6);
        Self { mean, std: std.into_iter().map(|std| std.max(lowest)).collect() }
    }

    /// Normalises latents in place, `[.., channels, height, width]`.
    pub fn normalise(&self, data: &mut [f32]) {
        for latent in data.chunks_exact_mut(self.mean.len()) {
            for ((value, mean), std) in latent.iter_mut().zip(&self.mean).zip(&self.std) {
                *value = (*value - mean) / std;
            }
        }
    }

    /// The inverse of [`Self::normalise`].
    pub fn denormalise(&self, data: &mut [f32]) {
        for latent in data.chunks_exact_mut(self.mean.len()) {
            for ((value, mean), std) in latent.iter_mut().zip(&self.mean).zip(&self.std) {
                *value = *value * std + mean;
            }
        }
    }
}

/// Writes latents of equal shape and length as one safetensors file: tensor `latents`, `[videos, 1 + T, C, H, W]`.
///
/// # Errors
/// Latents of unequal length, or a failing disk.
pub fn save_latents(path: &Path, videos: &[Latents]) -> Result<(), NnError> {
    write_latents(path, videos, None)
}

/// [`save_latents`] with metadata. Of several entries the order in the file is not fixed.
pub(crate) fn write_latents(
    path: &Path,
    videos: &[Latents],
    metadata: Option<HashMap<String, String>>,
) -> Result<(), NnError> {
    let format = |reason: String| NnError::Format { path: path.to_owned(), reason };
    let first = videos.first().ok_or_else(|| format("no latents to save".into()))?;
    if let Some(bad) = videos.iter().position(|video| video.data.len() != first.data.len()) {
        return Err(format(format!(
            "video {bad} has {} values, the first has {}",
            videos[bad].data.len(),
            first.data.len()
        )));
    }
    let LatentShape { channels, height, width } = first.shape;
    let bytes: Vec<u8> = videos.iter().flat_map(|video| &video.data).flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![videos.len(), first.chunks() + 1, channels, height, width];
    let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(|error| format(error.to_string()))?;
    let bytes = safetensors::serialize([("latents", view)], metadata).map_err(|error| format(error.to_string()))?;
    w2a_data::write_atomic(path, &bytes).map_err(|source| NnError::Io { action: "saving latents", source })
}

/// Reads what [`save_latents`] wrote.
///
/// # Errors
/// A missing, truncated or foreign file.
pub fn load_latents(path: &Path) -> Result<Vec<Latents>, NnError> {
    let bytes = fs_err::read(path).map_err(|source| NnError::Io { action: "loading latents", source })?;
    read_latents(path, &bytes)
}

/// The latents in the bytes of a file; `path` is for messages.
pub(crate) fn read_latents(path: &Path, bytes: &[u8]) -> Result<Vec<Latents>, NnError> {
    let format = |reason: String| NnError::Format { path: path.to_owned(), reason };
    let file = SafeTensors::deserialize(bytes).map_err(|error| format(error.to_string()))?;
    let view = file.tensor("latents").map_err(|error| format(error.to_string()))?;
    let &[_, frames, channels, height, width] = view.shape() else {
        return Err(format(format!("tensor \"latents\" has shape {:?}, expected five dimensions", view.shape())));
    };
    if view.dtype() != Dtype::F32 {
        return Err(format(format!("tensor \"latents\" has type {:?}, expected F32", view.dtype())));
    }
    let shape = LatentShape { channels, height, width };
    // An empty tensor may have sides of any size: their product need not fit.
    let stride = [frames, channels, height, width].into_iter().try_fold(4_usize, usize::checked_mul).unwrap_or(0);
    if stride == 0 || view.data().is_empty() {
        return Err(format("tensor \"latents\" is empty".into()));
    }
    let values = |bytes: &[u8]| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(view.data().chunks_exact(stride).map(|bytes| Latents { shape, data: values(bytes) }).collect())
}

#[cfg(test)]
mod tests {
    use super::{LatentShape, LatentStatistics, Latents, load_latents, save_latents, turned};

    fn latents(scale: f32) -> Latents {
        let shape = LatentShape { channels: 2, height: 1, width: 2 };
        Latents { shape, data: (0..12).map(|value| value as f32 * scale).collect() }
    }

    #[test]
    fn axes_are_turned() {
        assert_eq!(
            turned(&[1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.], 2, 2),
            [1., 2., 7., 8., 3., 4., 9., 10., 5., 6., 11., 12.]
        );
    }

    #[test]
    fn latents_round_trip_through_their_file_and_a_cut_file_is_an_error() {
        let path = std::env::temp_dir().join(format!("w2a-latents-{}.safetensors", std::process::id()));
        let videos = vec![latents(1.0), latents(-0.5)];
        save_latents(&path, &videos).unwrap();
        assert_eq!(load_latents(&path).unwrap(), videos);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(load_latents(&path).is_err());
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn empty_tensors_with_sides_of_any_size_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.safetensors");
        for shape in [[0, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0, usize::MAX, usize::MAX, 1, 1]] {
            let header = format!("{{\"latents\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[0,0]}}}}");
            let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
            std::fs::write(&path, bytes).unwrap();
            assert!(load_latents(&path).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn normalisation_inverts_and_bounds_constant_positions() {
        let mut constant = latents(1.0);
        constant.data.chunks_exact_mut(4).for_each(|latent| latent[0] = 7.0);
        let statistics = LatentStatistics::of(std::slice::from_ref(&constant), 0.1);
        assert!(statistics.std[0] > 0.0);
        let mut data = constant.data.clone();
        statistics.normalise(&mut data);
        assert!(data.iter().all(|value| value.abs() < 2.0));
        statistics.denormalise(&mut data);
        for (a, b) in data.iter().zip(&constant.data) {
            assert!((a - b).abs() < 1e-4);
        }
    }

    #[test]
    fn distance_is_per_chunk() {
        assert_eq!(latents(1.0).distance(&latents(1.0)), [0.0, 0.0]);
        assert!(latents(1.0).distance(&latents(2.0))[1] > 50.0);
    }
}
