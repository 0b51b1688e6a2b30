//! Behaviour cloning.

use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_data::{Episode, Normaliser, NormaliserMode, Statistics, StatisticsBuilder};
use w2a_nn::{ImageBatch, Init, NnError, StepReport, TEXT_DIM, Training, embed_text, tensor, train_sharded};

use crate::{MiniPolicyConfig, PolicyNet};

/// Demonstrations with the statistics that normalise them.
#[derive(Debug)]
pub struct DemonstrationSet {
    /// The episodes, with actions.
    pub episodes: Vec<Episode>,
    /// Normalises proprioception.
    pub proprio: Normaliser,
    /// Normalises actions.
    pub action: Normaliser,
}

impl DemonstrationSet {
    /// Demonstrations with their own statistics (mean and standard deviation for proprioception, range for actions).
    ///
    /// # Errors
    /// No episode, or episodes whose widths or values do not fit.
    pub fn new(episodes: Vec<Episode>) -> Result<Self, NnError> {
        let input = |expected: &str, got: String| NnError::Input {
            what: "demonstrations".into(),
            expected: expected.into(),
            got,
        };
        let first = episodes.first().ok_or_else(|| input("at least one episode", "none".into()))?;
        let (state, action) = (first.proprio_dim, first.action_dim);
        for episode in &episodes {
            episode.validate().map_err(|error| input("complete and finite episodes", error.to_string()))?;
            if (episode.proprio_dim, episode.action_dim) != (state, action) || action == 0 || episode.is_empty() {
                let got = format!("{} and {} in {:?}", episode.proprio_dim, episode.action_dim, episode.source);
                return Err(input(&format!("proprioception width {state} and action width {action}"), got));
            }
        }
        let normaliser = |name: &str, width, mode, rows: fn(&Episode) -> &[f32]| {
            let mut builder = StatisticsBuilder::new(name, width);
            for episode in &episodes {
                builder.push(rows(episode)).map_err(|error| input("finite rows", error.to_string()))?;
            }
            let mut statistics = builder.finish().map_err(|error| input("statistics", error.to_string()))?;
            if mode == NormaliserMode::MinMax {
                even_out(&mut statistics);
            }
            Normaliser::new(&statistics, mode).map_err(|error| input("statistics", error.to_string()))
        };
        let proprio = normaliser("observation.state", state, NormaliserMode::MeanStd, |episode| &episode.proprio)?;
        let action = normaliser("action", action, NormaliserMode::MinMax, |episode| &episode.actions)?;
        Ok(Self { episodes, proprio, action })
    }

    /// The same demonstrations normalised as `other`'s: an arm that is compared with another shares its statistics.
    pub fn normalised_as(episodes: Vec<Episode>, other: &Self) -> Self {
        Self { episodes, proprio: other.proprio.clone(), action: other.action.clone() }
    }
}

/// Widens the range of dimensions that hardly move to half of the widest one's: otherwise the noise of an unused rotation
/// would be blown up to the size of a motion, and losses and embeddings would be mostly about it.
fn even_out(statistics: &mut Statistics) {
    let half: Vec<f32> = statistics.min.iter().zip(&statistics.max).map(|(min, max)| (max - min) / 2.0).collect();
    let least = 0.5 * half.iter().copied().fold(0.0, f32::max);
    for (index, half) in half.into_iter().enumerate() {
        let centre = statistics.min[index] + half;
        statistics.min[index] = centre - half.max(least);
        statistics.max[index] = centre + half.max(least);
    }
}

/// Trains the embedded policy on `set`, or from `start` if given.
///
/// Each sample is a step of an episode; its target is the next `horizon` actions, the last one held past the end. The
/// loss is the mean absolute error of the normalised actions.
///
/// # Errors
/// Divergence, or a failing disk.
pub fn train_policy(
    config: &MiniPolicyConfig,
    training: &Training,
    set: &DemonstrationSet,
    start: Option<PolicyNet>,
    device: &Device,
    on_step: impl FnMut(&StepReport),
) -> Result<PolicyNet, NnError> {
    let device = device.clone().autodiff();
    let first = &set.episodes[0];
    let (state, action) = (first.proprio_dim, first.action_dim);
    let net = start.unwrap_or_else(|| {
        let mut stream = w2a_data::stream(training.seed, &format!("init/{}", training.name));
        PolicyNet::new(config, first.cameras.len(), state, action, &mut Init { rng: &mut stream, device: &device })
    });
    let bad = |error: w2a_data::NormaliserError| NnError::Input {
        what: "demonstrations".into(),
        expected: "rows that normalise".into(),
        got: error.to_string(),
    };
    let texts: Vec<Vec<f32>> = set.episodes.iter().map(|episode| embed_text(&episode.instruction)).collect();
    // Uniform over steps, not episodes: long demonstrations are not under-represented.
    let mut starts = Vec::new();
    for (index, episode) in set.episodes.iter().enumerate() {
        starts.extend((0..episode.len()).map(|step| (index, step)));
    }
    let horizon = config.horizon;
    let loss = |net: &PolicyNet, _: usize, batch: usize, rng: &mut ChaCha8Rng| {
        let chosen: Vec<(usize, usize)> = (0..batch).map(|_| starts[rng.random_range(0..starts.len())]).collect();
        let (mut proprio, mut target, mut text) = (Vec::new(), Vec::new(), Vec::new());
        for &(index, step) in &chosen {
            let episode = &set.episodes[index];
            proprio.extend_from_slice(episode.proprio(step));
            text.extend_from_slice(&texts[index]);
            for ahead in 0..horizon {
                target.extend_from_slice(episode.action((step + ahead).min(episode.len() - 1)));
            }
        }
        set.proprio.normalise(&mut proprio).map_err(bad)?;
        set.action.normalise(&mut target).map_err(bad)?;
        let images: Vec<ImageBatch> = (0..first.cameras.len())
            .map(|camera| {
                let frames = chosen.iter().map(|&(index, step)| set.episodes[index].cameras[camera].frame(step));
                let size = &first.cameras[camera];
                ImageBatch::new(frames, size.height, size.width, net.patch(), &device)
            })
            .collect();
        let text = tensor(text, [batch, TEXT_DIM], &device);
        let predicted = net.forward(&images, tensor(proprio, [batch, state], &device), text);
        let error: Tensor<2> = (predicted - tensor(target, [batch, horizon * action], &device)).abs();
        Ok((error.mean(), vec![]))
    };
    train_sharded(net, training, loss, on_step)
}
