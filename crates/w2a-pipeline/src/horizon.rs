//! How far imagination and real video lie apart, chunk by chunk.

use w2a_world::{LatentStatistics, Latents};

/// Distances over the horizon of a run's latent video models; see docs/metrics.md.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Horizon {
    /// Post-training scenes compared.
    pub scenes: usize,
    /// Error per chunk if every latent were the first one.
    pub still_error: Vec<f64>,
    /// Error per chunk if every video were the average training video of its task; empty where those are no whole episodes,
    /// and in runs from before there was this.
    #[serde(default)]
    pub average_error: Vec<f64>,
    /// The models, the one that the method uses first.
    pub models: Vec<ModelHorizon>,
}

/// Distances of one model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ModelHorizon {
    /// What a reader calls it.
    pub name: String,
    /// Mean squared difference of normalised latents, imagined against the expert's real ones of the same scene, per
    /// chunk.
    pub latent_error: Vec<f64>,
    /// Squared Fréchet distance of Gaussian fits of imagined and real normalised latents over the scenes, per chunk and
    /// value.
    pub frechet: Vec<f64>,
}

impl Horizon {
    /// Compares imaginations, and average training videos if there are such, with the real videos of the same scenes in the
    /// same order.
    pub fn of(
        statistics: &LatentStatistics,
        real: &[Latents],
        imagined: &[(&str, Vec<Latents>)],
        average: &[Latents],
    ) -> Self {
        let normal = |videos: &[Latents]| -> Vec<Latents> {
            let mut videos = videos.to_vec();
            videos.iter_mut().for_each(|video| statistics.normalise(&mut video.data));
            videos
        };
        let real = normal(real);
        let mut still = real.clone();
        for video in &mut still {
            let first = video.latent(0).to_vec();
            video.data.chunks_exact_mut(first.len()).for_each(|latent| latent.copy_from_slice(&first));
        }
        let models = imagined.iter().map(|(name, videos)| {
            let videos = normal(videos);
            ModelHorizon {
                name: (*name).to_owned(),
                latent_error: errors(&videos, &real),
                frechet: frechet(&videos, &real),
            }
        });
        Self {
            scenes: real.len(),
            still_error: errors(&still, &real),
            average_error: errors(&normal(average), &real),
            models: models.collect(),
        }
    }
}

/// Mean squared difference per chunk over all pairs of videos.
fn errors(videos: &[Latents], real: &[Latents]) -> Vec<f64> {
    let mut sums: Vec<f64> = Vec::new();
    for (video, real) in videos.iter().zip(real) {
        let distances = video.distance(real);
        sums.resize(sums.len().max(distances.len()), 0.0);
        sums.iter_mut().zip(distances).for_each(|(sum, distance)| *sum += f64::from(distance));
    }
    let count = videos.len().min(real.len()).max(1) as f64;
    sums.into_iter().map(|sum| sum / count).collect()
}

/// `(m_1 - m_2)² + (s_1 - s_2)²` of Gaussians fitted to every value of a latent over the videos, averaged over the
/// values, per chunk.
///
/// The Gaussians' entries are independent: a covariance of thousands of values cannot be estimated from hundreds of
/// videos, and the root of a product of such estimates is no number to rely on.
fn frechet(videos: &[Latents], real: &[Latents]) -> Vec<f64> {
    let chunks = videos.iter().chain(real).map(Latents::chunks).min().unwrap_or(0);
    let distance = |chunk: usize| {
        let (fit, of_real) = (fit(videos, chunk), fit(real, chunk));
        let count = fit.len().max(1) as f64;
        let pairs = fit.iter().zip(&of_real);
        pairs.map(|((mean, std), (m, s))| (mean - m).powi(2) + (std - s).powi(2)).sum::<f64>() / count
    };
    (1..=chunks).map(distance).collect()
}

/// Mean and spread of every value of latent `index` over the videos.
fn fit(videos: &[Latents], index: usize) -> Vec<(f64, f64)> {
    let len = videos.first().map_or(0, |video| video.shape.len());
    let count = videos.len().max(1) as f64;
    let mut fitted = vec![(0.0, 0.0); len];
    for video in videos {
        fitted.iter_mut().zip(video.latent(index)).for_each(|(fit, value)| fit.0 += f64::from(*value) / count);
    }
    // In a second pass: a difference of large squares would lose the small spreads.
    for video in videos {
        let values = fitted.iter_mut().zip(video.latent(index));
        values.for_each(|(fit, value)| fit.1 += (f64::from(*value) - fit.0).powi(2) / count);
    }
    fitted.iter_mut().for_each(|fit| fit.1 = fit.1.sqrt());
    fitted
}

#[cfg(test)]
mod tests {
    use w2a_world::LatentShape;

    use super::*;

    /// A video of single values.
    fn video(values: &[f32]) -> Latents {
        Latents { shape: LatentShape { channels: 1, height: 1, width: 1 }, data: values.to_vec() }
    }

    fn plain() -> LatentStatistics {
        LatentStatistics { mean: vec![0.0], std: vec![1.0] }
    }

    #[test]
    fn the_error_is_per_chunk_and_nothing_moving_is_the_first_latent() {
        let real = [video(&[0.0, 1.0, 2.0]), video(&[1.0, 1.0, 3.0])];
        let imagined = vec![video(&[0.0, 1.0, 4.0]), video(&[1.0, 2.0, 3.0])];
        let horizon = Horizon::of(&plain(), &real, &[("ours", imagined)], &[]);
        assert_eq!((horizon.scenes, &horizon.still_error[..]), (2, &[0.5, 4.0][..]));
        assert_eq!(horizon.models[0].latent_error, [0.5, 2.0]);
        assert_eq!(horizon.average_error, [0.0; 0]);
        let average = [video(&[9.0, 1.0, 2.0]), video(&[9.0, 1.0, 2.0])];
        assert_eq!(Horizon::of(&plain(), &real, &[], &average).average_error, [0.0, 0.5]);
    }

    #[test]
    fn the_frechet_distance_sees_what_is_shifted_and_what_is_blurred_but_not_who_is_who() {
        let real = [video(&[0.0, -1.0]), video(&[0.0, 1.0])];
        let distance = |videos: [f32; 2]| {
            let videos: Vec<Latents> = videos.iter().map(|value| video(&[0.0, *value])).collect();
            frechet(&videos, &real)
        };
        assert_eq!(distance([1.0, -1.0]), [0.0]);
        assert_eq!(distance([2.0, 4.0]), [9.0]);
        // Everything imagined as the mean: the error of each is 1, and so is the lost spread.
        assert_eq!(distance([0.0, 0.0]), [1.0]);
    }

    #[test]
    fn values_are_normalised_and_no_video_is_no_panic() {
        let statistics = LatentStatistics { mean: vec![5.0], std: vec![2.0] };
        let horizon = Horizon::of(&statistics, &[video(&[0.0, 4.0])], &[("ours", vec![video(&[0.0, 8.0])])], &[]);
        assert_eq!((horizon.models[0].latent_error[0], horizon.models[0].frechet[0]), (4.0, 4.0));
        let horizon = Horizon::of(&statistics, &[], &[("ours", Vec::new())], &[]);
        assert_eq!(horizon.models[0].latent_error, [0.0; 0]);
    }
}
