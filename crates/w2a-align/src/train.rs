//! Stage 1 training.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_nn::{Init, NnError, StepReport, TrainConfig, Training, normal, tensor, train};

use crate::losses::{ContrastTerms, info_nce, similarity};
use crate::vae::train_action_vae;
use crate::{AdapterConfig, Adapters, LossConfig, MlpAdapters, Similarity, VaeConfig};

/// Everything stage 1 is configured with.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlignConfig {
    /// Weights to start from: a safetensors file or a `torch.save` archive of the same family and sizes, such as a released
    /// `ckpt_<step>.pt`. Empty to start from scratch.
    pub init: String,
    /// Share of a trajectory's negatives that come from its own task.
    pub hard_negatives: f32,
    /// Whether windows start at every control step (true) or at chunk boundaries only (false, the paper's).
    pub sliding_windows: bool,
    /// Standard deviation of noise added to the normalised latents (0 in the paper): imagined latents are never as clean as
    /// those of real video, and the video adapter should not mind.
    pub latent_noise: f32,
    /// The networks.
    pub adapter: AdapterConfig,
    /// The loss of the paper's adapters.
    pub loss: LossConfig,
    /// Loss and windows of the action VAE, which reads neither `loss`, `hard_negatives` nor `latent_noise`.
    pub vae: VaeConfig,
    /// The training; `batch` counts trajectories.
    pub train: TrainConfig,
}

impl Default for AlignConfig {
    fn default() -> Self {
        let train = TrainConfig { steps: 1500, batch: 16, lr: 1e-3, checkpoint_every: 500, ..TrainConfig::default() };
        Self {
            init: String::new(),
            hard_negatives: 0.25,
            sliding_windows: true,
            latent_noise: 1.0,
            adapter: AdapterConfig::default(),
            loss: LossConfig::default(),
            vae: VaeConfig::default(),
            train,
        }
    }
}

/// A labelled demonstration, encoded: one latent and one action chunk per time step.
#[derive(Clone, Debug)]
pub struct AlignedEpisode {
    /// Which task it shows; demonstrations of one task are each other's hard negatives.
    pub task: usize,
    /// Normalised latents `V_1..V_T`, `[T, C, H, W]`.
    pub latents: Vec<f32>,
    /// Normalised action chunks, `[T, M·A]`.
    pub actions: Vec<f32>,
}

/// Trajectories for the loss of the paper's adapters.
pub(crate) struct AlignBatch {
    /// `[B·T, C, H, W]`.
    pub latents: Tensor<4>,
    /// `[B·T, M·A]`.
    pub actions: Tensor<2>,
    /// For each trajectory its shift in time where negatives are marginal.
    pub shifts: Vec<usize>,
}

/// What the loss of the paper's adapters is made of.
pub(crate) struct AlignTerms {
    /// `[B·T, D]`.
    pub z_video: Tensor<2>,
    /// `[B·T, D]`.
    pub z_action: Tensor<2>,
    /// `D_a(B_a(a))`, `[B·T, M·A]`.
    pub decoded: Tensor<2>,
    /// Video rows, action columns, `[B, B]`.
    pub similarity: Tensor<2>,
    /// The weighted sum.
    pub total: Tensor<1>,
    /// Its terms by name, unweighted: `reconstruction`, `video_to_action`, `action_to_video` and those that are on.
    pub parts: Vec<(&'static str, Tensor<1>)>,
}

/// The stage-1 loss (paper, section 3.2) with the weights and variants of `weights`.
pub(crate) fn align_loss(net: &MlpAdapters, weights: &LossConfig, batch: AlignBatch) -> AlignTerms {
    let AlignBatch { latents, actions, shifts } = batch;
    let rows = actions.dims()[0];
    let (trajectories, dim) = (shifts.len(), net.dim());
    let z_video = net.video(latents);
    let z_action = net.action(actions.clone());
    let decoded = net.decode(z_action.clone());
    let reconstruction = (decoded.clone() - actions.clone()).square().mean();
    let paired = |z: &Tensor<2>| z.clone().reshape([trajectories, rows / trajectories, dim]);
    let ContrastTerms { similarity: s, video_to_action: v2a, action_to_video: a2v } =
        weights.contrast().terms(paired(&z_video), paired(&z_action), &shifts);
    let mut total = reconstruction.clone() * weights.reconstruction
        + v2a.clone() * weights.video_to_action
        + a2v.clone() * weights.action_to_video;
    let mut parts = vec![("reconstruction", reconstruction), ("video_to_action", v2a), ("action_to_video", a2v)];
    if weights.all_chunks > 0.0 {
        let single = |z: &Tensor<2>| z.clone().reshape([rows, 1, dim]);
        let s = similarity(Similarity::Chunk, single(&z_video), single(&z_action));
        let both = info_nce(s.clone(), weights.temperature) + info_nce(s.transpose(), weights.temperature);
        total = total + both.clone() * weights.all_chunks;
        parts.push(("all_chunks", both));
    }
    if weights.distance > 0.0 {
        let square = |z: &Tensor<2>| z.clone().square().sum_dim(1);
        let scale = (square(&z_video) + square(&z_action)) * 0.5 + 1e-6;
        let apart = (square(&(z_video.clone() - z_action.clone())) / scale).mean();
        total = total + apart.clone() * weights.distance;
        parts.push(("distance", apart));
    }
    if weights.cross_reconstruction > 0.0 {
        let cross = (net.decode(z_video.clone()) - actions).square().mean();
        total = total + cross.clone() * weights.cross_reconstruction;
        parts.push(("cross_reconstruction", cross));
    }
    AlignTerms { z_video, z_action, decoded, similarity: s, total, parts }
}

/// Trains the adapters of the family in `config`, from scratch or from `config.init`. `variants[i]` holds the same
/// demonstration at different starting steps (one entry without sliding windows); each update draws one of them. `chunk`
/// is `[M, A]`.
///
/// # Errors
/// Episodes of unequal lengths (latents against actions, or between episodes), fewer than two episodes, weights to start
/// from that do not fit, divergence, or a failing disk.
pub fn train_adapters(
    config: &AlignConfig,
    training: &Training,
    latent: [usize; 3],
    chunk: [usize; 2],
    variants: &[Vec<AlignedEpisode>],
    device: &Device,
    on_step: impl FnMut(&StepReport),
) -> Result<Adapters, NnError> {
    let chunks = check(variants, latent, chunk[0] * chunk[1])?;
    let device = device.clone().autodiff();
    let mut stream = w2a_data::stream(training.seed, &format!("init/{}", training.name));
    let mut net = Adapters::new(&config.adapter, latent, chunk, &mut Init { rng: &mut stream, device: &device })?;
    if !config.init.is_empty() {
        net = net.load_weights(Path::new(&config.init))?;
    }
    Ok(match net {
        Adapters::Mlp(net) => {
            Adapters::Mlp(train_mlp(config, training, net, latent, chunks, variants, &device, on_step)?)
        }
        Adapters::ActionVae(net) => {
            let config = &config.vae;
            Adapters::ActionVae(train_action_vae(config, training, net, latent, chunk, variants, &device, on_step)?)
        }
    })
}

fn train_mlp(
    config: &AlignConfig,
    training: &Training,
    net: MlpAdapters,
    latent: [usize; 3],
    chunks: usize,
    variants: &[Vec<AlignedEpisode>],
    device: &Device,
    on_step: impl FnMut(&StepReport),
) -> Result<MlpAdapters, NnError> {
    let tasks = by_task(variants);
    let batch = training.config.batch;
    let [channels, height, width] = latent;
    let loss = |net: &MlpAdapters, _: usize, rng: &mut ChaCha8Rng| {
        let (mut latents, mut actions) = (Vec::new(), Vec::new());
        for index in draw_batch(&tasks, batch, config.hard_negatives, rng) {
            let episode = &variants[index][rng.random_range(0..variants[index].len())];
            latents.extend_from_slice(&episode.latents);
            actions.extend_from_slice(&episode.actions);
        }
        if config.latent_noise > 0.0 {
            let noise = normal(rng, latents.len());
            latents.iter_mut().zip(noise).for_each(|(value, noise)| *value += config.latent_noise * noise);
        }
        let shifts = config.loss.contrast().shifts(batch, chunks, rng);
        let (rows, width_of_chunk) = (batch * chunks, actions.len() / (batch * chunks));
        let batch = AlignBatch {
            latents: tensor(latents, [rows, channels, height, width], device),
            actions: tensor(actions, [rows, width_of_chunk], device),
            shifts,
        };
        let AlignTerms { total, parts, .. } = align_loss(net, &config.loss, batch);
        Ok((total, parts))
    };
    train(net, training, loss, on_step)
}

fn check(variants: &[Vec<AlignedEpisode>], latent: [usize; 3], chunk: usize) -> Result<usize, NnError> {
    let input =
        |expected: String, got: String| NnError::Input { what: "demonstrations of stage 1".into(), expected, got };
    if variants.len() < 2 {
        return Err(input("at least two (one has no negatives)".into(), variants.len().to_string()));
    }
    let len = latent.iter().product::<usize>();
    let chunks = variants[0].first().map_or(0, |episode| episode.actions.len() / chunk);
    for (index, episode) in variants.iter().enumerate().flat_map(|(index, all)| all.iter().map(move |one| (index, one)))
    {
        let (got_v, got_a) = (episode.latents.len(), episode.actions.len());
        if chunks == 0 || got_v != chunks * len || got_a != chunks * chunk {
            return Err(input(
                format!("{chunks} chunks of {len} latent and {chunk} action values in each"),
                format!("{got_v} latent and {got_a} action values in demonstration {index}"),
            ));
        }
    }
    if variants.iter().any(Vec::is_empty) {
        return Err(input("at least one window per demonstration".into(), "none".into()));
    }
    Ok(chunks)
}

/// The demonstrations of each task.
pub(crate) fn by_task(variants: &[Vec<AlignedEpisode>]) -> Vec<Vec<usize>> {
    let mut tasks: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for (index, all) in variants.iter().enumerate() {
        tasks.entry(all[0].task).or_default().push(index);
    }
    tasks.into_values().collect()
}

/// Draws `batch` demonstrations in groups of one task, sized so that about `hard` of each one's negatives are of its own
/// task. With a single task all negatives are hard; a task with too few demonstrations repeats them only when it must.
fn draw_batch(tasks: &[Vec<usize>], batch: usize, hard: f32, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let group = 1 + (hard * batch.saturating_sub(1) as f32).round() as usize;
    let mut out = Vec::with_capacity(batch);
    let mut order: Vec<usize> = Vec::new();
    while out.len() < batch {
        if order.is_empty() {
            order = (0..tasks.len()).collect();
        }
        let task = &tasks[order.swap_remove(rng.random_range(0..order.len()))];
        let mut left = task.clone();
        for _ in 0..group.min(batch - out.len()) {
            if left.is_empty() {
                left = task.clone();
            }
            out.push(left.swap_remove(rng.random_range(0..left.len())));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{AlignConfig, AlignedEpisode, draw_batch, train_adapters};
    use crate::{FrozenAdapters, diagnose};
    use burn::tensor::Device;
    use w2a_nn::{TrainConfig, Training, normal};

    /// Latents that show the action: two channels of a 4x4 map carry its two values.
    fn episode(index: u64) -> AlignedEpisode {
        let actions = normal(&mut w2a_data::stream(index, "actions"), 3 * 2);
        let latents = actions.iter().flat_map(|&value| [value; 16]).collect();
        AlignedEpisode { task: index as usize % 3, latents, actions }
    }

    #[test]
    fn adapters_align_unseen_pairs() {
        let variants: Vec<Vec<AlignedEpisode>> = (0..60).map(|index| vec![episode(index)]).collect();
        let train = TrainConfig { steps: 150, batch: 12, lr: 3e-3, warmup: 5, ..Default::default() };
        let training = Training { name: "align", dir: None, seed: 0, config: &train, depends: serde_json::Value::Null };
        let net =
            train_adapters(&AlignConfig::default(), &training, [2, 4, 4], [1, 2], &variants, &Device::flex(), |_| {})
                .unwrap();
        let frozen = FrozenAdapters::new(net, [2, 4, 4], [1, 2], &Device::flex());
        let (mut z_v, mut z_a) = (Vec::new(), Vec::new());
        for index in 100..120 {
            let unseen = episode(index);
            z_v.extend(frozen.video(&unseen.latents).unwrap());
            z_a.extend(frozen.action(&unseen.actions).unwrap());
        }
        let found = diagnose(&z_v, &z_a, 3, frozen.dim());
        assert!(found.cosine > 0.7 && found.retrieval > 0.8, "{found:?}");
        assert!(frozen.action(&[0.0; 3]).is_err());
    }

    #[test]
    fn lengths_that_differ_and_a_single_demonstration_are_errors() {
        let train = TrainConfig::default();
        let training = Training { name: "align", dir: None, seed: 0, config: &train, depends: serde_json::Value::Null };
        let run = |variants: &[Vec<AlignedEpisode>]| {
            let config = AlignConfig::default();
            train_adapters(&config, &training, [2, 4, 4], [1, 2], variants, &Device::flex(), |_| {})
                .unwrap_err()
                .to_string()
        };
        assert!(run(&[vec![episode(0)]]).contains("at least two"));
        let mut short = episode(1);
        short.latents.truncate(32);
        assert!(run(&[vec![episode(0)], vec![short]]).contains("demonstration 1"));
    }

    #[test]
    fn batches_have_the_asked_share_of_hard_negatives() {
        let tasks: Vec<Vec<usize>> = (0..8).map(|task| (task * 50..task * 50 + 50).collect()).collect();
        let mut rng = w2a_data::stream(0, "draw");
        let (mut same, mut all) = (0, 0);
        for _ in 0..50 {
            let batch = draw_batch(&tasks, 16, 0.25, &mut rng);
            for (i, a) in batch.iter().enumerate() {
                for (j, b) in batch.iter().enumerate() {
                    all += usize::from(i != j);
                    same += usize::from(i != j && a / 50 == b / 50);
                    assert!(i == j || a != b);
                }
            }
        }
        let share = same as f32 / all as f32;
        assert!((0.18..0.32).contains(&share), "{share}");
    }
}
