//! Choosing a scale without labels: does the executed video look like the imagined one?
//!
//! The world model encodes what was executed on held-out post-training scenes; the candidate whose latents are nearest to
//! the imagination wins. Cosine of the executed `z` would not do: it rises while success falls.

use w2a_nn::NnError;
use w2a_world::{GridVideo, LatentStatistics, Latents, WorldModel};

use crate::alignment::{PathEnd, TimeWarp};
use crate::rollout::Rollout;

/// What each candidate scored.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct GainChoice {
    /// The chosen scale.
    pub gain: f32,
    /// (scale, mean distance of executed to imagined latents, success rate on the tuning scenes). Success is recorded for
    /// the report and never used to choose.
    pub candidates: Vec<(f32, f32, f32)>,
}

/// Distance of each rollout's executed video to its imagination: mean squared difference of normalised latents over the
/// second half of the executed chunks (the end tells success apart; the start is the same for all).
///
/// A chunk is compared with the imagined one of the same step or, with `warp`, with the mean of those on the cheapest path
/// that ends at the end of both, whatever `warp` says of softness and end: a number that is only compared needs no
/// gradient, and with an open end an execution that stands still would be near the first chunks of any imagination.
///
/// # Errors
/// Rollouts without video, of another length than the imagination if aligned, or a world model that fails.
pub fn executed_distance(
    world: &dyn WorldModel,
    statistics: &LatentStatistics,
    rollouts: &[Rollout],
    imagined: &[Latents],
    warp: Option<TimeWarp>,
) -> Result<Vec<f32>, NnError> {
    let mut out = Vec::with_capacity(rollouts.len());
    for (rollout, imagined) in rollouts.iter().zip(imagined) {
        let video = rollout.video.clone().ok_or_else(|| NnError::Input {
            what: format!("rollout of {}", rollout.scene),
            expected: "a recorded video".into(),
            got: "none".into(),
        })?;
        out.push(video_distance(world, statistics, video, imagined, warp)?);
    }
    Ok(out)
}

/// [`executed_distance`] of one video, `1 + M·T` frames.
///
/// # Errors
/// As there.
pub fn video_distance(
    world: &dyn WorldModel,
    statistics: &LatentStatistics,
    video: GridVideo,
    imagined: &Latents,
    warp: Option<TimeWarp>,
) -> Result<f32, NnError> {
    let mut executed = world.encode(&[video])?.remove(0);
    let mut imagined = imagined.clone();
    statistics.normalise(&mut executed.data);
    statistics.normalise(&mut imagined.data);
    let distances = match warp {
        None => executed.distance(&imagined),
        Some(warp) => aligned_distance(&warp, &executed, &imagined)?,
    };
    let end = &distances[distances.len() / 2..];
    Ok(end.iter().sum::<f32>() / end.len().max(1) as f32)
}

/// Distance of every executed chunk to the imagined ones that the cheapest path pairs it with.
fn aligned_distance(warp: &TimeWarp, executed: &Latents, imagined: &Latents) -> Result<Vec<f32>, NnError> {
    let (rows, columns) = (executed.chunks(), imagined.chunks());
    if rows != columns || executed.shape != imagined.shape {
        return Err(NnError::Input {
            what: "latents to align in time".into(),
            expected: format!("{columns} chunks of {:?}, as imagined", imagined.shape),
            got: format!("{rows} of {:?}", executed.shape),
        });
    }
    let costs = executed.distances(imagined);
    let path = TimeWarp { gamma: 0.0, end: PathEnd::Closed, ..*warp }.align(&costs)?.weights;
    let mean = |(costs, path): (&[f32], &[f64])| {
        let (sum, count) = costs.iter().zip(path).fold((0.0, 0.0), |(sum, count), (cost, weight)| {
            let weight = *weight as f32;
            (sum + weight * cost, count + weight)
        });
        sum / count
    };
    Ok(costs.chunks_exact(columns).zip(path.chunks_exact(columns)).map(mean).collect())
}

/// Rolls out every candidate scale with `run` and picks the one whose execution is nearest to the imagination; of equal
/// ones the smaller. `warp` aligns them in time, as in [`executed_distance`].
///
/// # Errors
/// No candidate, or whatever `run` or the world model fails with.
pub fn choose_gain(
    gains: &[f32],
    mut run: impl FnMut(f32) -> Result<Vec<Rollout>, NnError>,
    world: &dyn WorldModel,
    statistics: &LatentStatistics,
    imagined: &[Latents],
    warp: Option<TimeWarp>,
) -> Result<GainChoice, NnError> {
    let mut candidates = Vec::with_capacity(gains.len());
    for &gain in gains {
        let rollouts = run(gain)?;
        let distances = executed_distance(world, statistics, &rollouts, imagined, warp)?;
        let n = rollouts.len().max(1) as f32;
        let success = rollouts.iter().filter(|rollout| rollout.success).count() as f32 / n;
        candidates.push((gain, distances.iter().sum::<f32>() / n, success));
    }
    let best = candidates.iter().min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.total_cmp(&b.0)));
    let gain = best.map(|best| best.0).ok_or_else(|| NnError::Input {
        what: "posttrain.gains".into(),
        expected: "at least one candidate".into(),
        got: "none".into(),
    })?;
    Ok(GainChoice { gain, candidates })
}

#[cfg(test)]
mod tests {
    use w2a_world::{LatentShape, Latents};

    use super::aligned_distance;
    use crate::alignment::{PathEnd, TimeWarp};

    fn latents(values: &[f32]) -> Latents {
        Latents { shape: LatentShape { channels: 1, height: 1, width: 1 }, data: [&[0.0], values].concat() }
    }

    #[test]
    fn a_delay_is_forgiven_along_the_path_and_standing_still_is_not() {
        let warp = TimeWarp { gamma: 0.5, band: 2, end: PathEnd::Open };
        let imagined = latents(&[1.0, 2.0, 3.0, 4.0, 4.0]);
        let late = aligned_distance(&warp, &latents(&[1.0, 2.0, 2.0, 3.0, 4.0]), &imagined).unwrap();
        assert_eq!(late, [0.0; 5]);
        let still = aligned_distance(&warp, &latents(&[1.0; 5]), &imagined).unwrap();
        assert!(still[4] > 4.0, "{still:?}");
        let error = aligned_distance(&warp, &latents(&[1.0; 4]), &imagined).unwrap_err().to_string();
        assert!(error.contains("expected 5 chunks"), "{error}");
    }
}
