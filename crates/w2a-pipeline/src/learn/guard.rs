//! Whether an update may stay: the label-free measure by which gains are chosen, on episodes that were served after the
//! update was computed.

use w2a_data::Observation;
use w2a_nn::NnError;
use w2a_world::{GridVideo, Latents, Layout};

use crate::run_world::RunWorld;

/// One side of a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Distances {
    /// Episodes.
    pub episodes: usize,
    /// Mean distance of executed to imagined latents.
    pub mean: f32,
    /// Standard error of the mean.
    pub standard_error: f32,
}

impl Distances {
    pub fn of(values: &[f32]) -> Self {
        let n = values.len().max(1) as f32;
        let mean = values.iter().sum::<f32>() / n;
        let squares: f32 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let standard_error = (squares / (n - 1.0).max(1.0) / n).sqrt();
        Self { episodes: values.len(), mean, standard_error }
    }
}

/// The video of an episode as far as a server saw it, `1 + M·chunks` frames: the images between two observations are
/// blended from those, and what follows the last observation is held.
///
/// # Errors
/// No observation, or cameras that do not fit together.
pub(super) fn seen_video(observations: &[Observation], chunks: usize, chunk_len: usize) -> Result<GridVideo, NnError> {
    let frames: Vec<GridVideo> = observations
        .iter()
        .map(|observation| Layout::SideBySide.compose(&observation.cameras))
        .collect::<Result<_, NnError>>()?;
    let Some((first, last)) = frames.first().zip(frames.last()) else {
        return Err(NnError::Input {
            what: "video of a served episode".into(),
            expected: "at least one observation".into(),
            got: "none".into(),
        });
    };
    let mut video = first.clone();
    for chunk in 0..chunks {
        let (from, to) = (frames.get(chunk).unwrap_or(last), frames.get(chunk + 1).unwrap_or(last));
        for step in 1..=chunk_len {
            let blend = |(from, to): (&u8, &u8)| {
                let sum = usize::from(*from) * (chunk_len - step) + usize::from(*to) * step;
                ((sum + chunk_len / 2) / chunk_len).min(255) as u8
            };
            video.rgb.extend(from.rgb.iter().zip(&to.rgb).map(blend));
        }
    }
    Ok(video)
}

/// Distance of a served episode to its imagination, as [`w2a_posttrain::video_distance`] has it.
///
/// # Errors
/// As [`seen_video`] and there.
pub(super) fn distance(
    world: &RunWorld,
    observations: &[Observation],
    imagined: &Latents,
    chunk_len: usize,
) -> Result<f32, NnError> {
    let video = seen_video(observations, imagined.chunks(), chunk_len)?;
    w2a_posttrain::video_distance(&**world, world.statistics(), video, imagined)
}

#[cfg(test)]
mod tests {
    use w2a_posttrain::{Record, video_distance};

    use super::{Distances, seen_video};
    use crate::arms::Arm;
    use crate::context::Context;
    use crate::learn::episode::tests::kept;
    use crate::stage2::Shared;
    use crate::world::{Imaginer, TUNE};

    #[test]
    fn images_between_observations_are_blended_and_the_end_is_held() {
        let video = seen_video(&kept(0, 2).observations, 3, 4).unwrap();
        assert_eq!((video.frames(), video.width), (13, 8));
        let shades: Vec<u8> = (0..13).map(|frame| video.frame(frame)[0]).collect();
        assert_eq!(shades, [0, 10, 20, 30, 40, 40, 40, 40, 40, 40, 40, 40, 40]);
        assert!(seen_video(&[], 3, 4).unwrap_err().to_string().contains("at least one observation"));
    }

    /// The table of `docs/reproduce.md`: what the guard sees of rollouts on tuning scenes at several scales, beside what the
    /// choice of the gain sees. Both have to choose alike. It takes minutes and a run that is trained, hence by hand.
    #[test]
    #[ignore = "takes a trained run of the full profile and minutes: W2A_RUN=runs/full"]
    fn what_a_server_sees_ranks_scales_as_whole_videos_do() {
        let run = std::env::var("W2A_RUN").expect("W2A_RUN names the folder of a run");
        let context = Context::existing(std::path::Path::new(&run)).unwrap();
        let shared = Shared::load(&context).unwrap();
        let config = &context.config;
        let scenes = crate::world::tune_scenes(config).unwrap();
        let imagined = crate::world::latents(&context, &Imaginer::Main.imagined(TUNE)).unwrap();
        let (world, chunk_len, chunks) = (&shared.world, shared.world.chunk_len(), config.chunks());
        let mut table: Vec<[Distances; 3]> = Vec::new();
        eprintln!("gain success | whole | blended | held: mean, standard error");
        for gain in config.posttrain.gains.clone() {
            let actor = Arm::World2Act.actor(&context, &shared, 0, gain).unwrap();
            let rollouts = shared.rollouts(&context, actor, &scenes, chunks, Record::Video, |_| {}).unwrap();
            let mut sides = [const { Vec::new() }; 3];
            for (rollout, imagined) in rollouts.iter().zip(&imagined) {
                let seen = seen_video(&rollout.observations, chunks, chunk_len).unwrap();
                let len = seen.height * seen.width * 3;
                let mut held = seen.clone();
                for frame in 1..seen.frames() {
                    let from = (frame - 1) / chunk_len * chunk_len + chunk_len;
                    held.rgb[frame * len..(frame + 1) * len].copy_from_slice(seen.frame(from));
                }
                for (side, video) in sides.iter_mut().zip([rollout.video.clone().unwrap(), seen, held]) {
                    side.push(video_distance(&**world, world.statistics(), video, imagined).unwrap());
                }
            }
            let sides = sides.map(|side| Distances::of(&side));
            let success = rollouts.iter().filter(|rollout| rollout.success).count();
            let words = sides.map(|side| format!("{:.4} ± {:.4}", side.mean, side.standard_error));
            eprintln!("{gain:.2} {:.3} | {}", success as f32 / rollouts.len() as f32, words.join(" | "));
            table.push(sides);
        }
        let nearest = |side: usize| {
            (0..table.len()).min_by(|a, b| table[*a][side].mean.total_cmp(&table[*b][side].mean)).expect("some scales")
        };
        assert_eq!(nearest(0), nearest(1), "the guard's video and the whole one choose different scales");
    }

    #[test]
    fn a_side_of_a_trial_has_a_mean_and_its_error() {
        let side = Distances::of(&[1.0, 2.0, 3.0, 2.0]);
        assert_eq!((side.episodes, side.mean), (4, 2.0));
        assert!((side.standard_error - 0.408_25).abs() < 1e-4, "{side:?}");
        assert_eq!(Distances::of(&[5.0]).standard_error, 0.0);
    }
}
