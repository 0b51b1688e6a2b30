//! Choosing a scale without labels: does the executed video look like the imagined one?
//!
//! The world model encodes what was executed on held-out post-training scenes; the candidate whose latents are nearest to
//! the imagination wins. Cosine of the executed `z` would not do: it rises while success falls.

use w2a_nn::NnError;
use w2a_world::{GridVideo, LatentStatistics, Latents, WorldModel};

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
/// A chunk is compared with the imagined one of the same step, whatever alignment in time the objective has: along the
/// cheapest path an execution that lags is as near as one that keeps pace, and the smallest scale wins for every arm.
///
/// # Errors
/// Rollouts without video, or a world model that fails.
pub fn executed_distance(
    world: &dyn WorldModel,
    statistics: &LatentStatistics,
    rollouts: &[Rollout],
    imagined: &[Latents],
) -> Result<Vec<f32>, NnError> {
    let mut out = Vec::with_capacity(rollouts.len());
    for (rollout, imagined) in rollouts.iter().zip(imagined) {
        let video = rollout.video.clone().ok_or_else(|| NnError::Input {
            what: format!("rollout of {}", rollout.scene),
            expected: "a recorded video".into(),
            got: "none".into(),
        })?;
        out.push(video_distance(world, statistics, video, imagined)?);
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
) -> Result<f32, NnError> {
    let mut executed = world.encode(&[video])?.remove(0);
    let mut imagined = imagined.clone();
    statistics.normalise(&mut executed.data);
    statistics.normalise(&mut imagined.data);
    let distances = executed.distance(&imagined);
    let end = &distances[distances.len() / 2..];
    Ok(end.iter().sum::<f32>() / end.len().max(1) as f32)
}

/// Rolls out every candidate scale with `run` and picks the one whose execution is nearest to the imagination; of equal
/// ones the smaller.
///
/// # Errors
/// No candidate, or whatever `run` or the world model fails with.
pub fn choose_gain(
    gains: &[f32],
    mut run: impl FnMut(f32) -> Result<Vec<Rollout>, NnError>,
    world: &dyn WorldModel,
    statistics: &LatentStatistics,
    imagined: &[Latents],
) -> Result<GainChoice, NnError> {
    let mut candidates = Vec::with_capacity(gains.len());
    for &gain in gains {
        let rollouts = run(gain)?;
        let distances = executed_distance(world, statistics, &rollouts, imagined)?;
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
