//! Training of the action VAE, as the authors released it: windows of 128 steps, negatives drawn per window, InfoNCE per
//! chunk in one direction, reconstruction of positives and negatives, divergence of the positives.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_nn::{NnError, StepReport, Training, normal, tensor, train};

use crate::action_vae::{kl_divergence, reparameterise};
use crate::losses::unit;
use crate::train::by_task;
use crate::{ActionVae, AlignedEpisode};

/// What fills a window beyond the end of a demonstration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// The last action, as released for RoboCasa.
    #[default]
    HoldLast,
    /// Zeros (of normalised actions), as released for the other sources.
    Zero,
    /// Nothing: windows are as long as the demonstrations.
    None,
}

/// Loss and windows of the action VAE. The defaults are those of the release.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeConfig {
    /// Softmax temperature.
    pub temperature: f32,
    /// Weight of the reconstruction error, of positives and of negatives alike.
    pub reconstruction: f32,
    /// Weight of InfoNCE.
    pub contrast: f32,
    /// Weight of the divergence from the standard normal.
    pub kl: f32,
    /// Windows drawn as negatives for each positive one.
    pub negatives: usize,
    /// Share of these that come from the positive's task (another demonstration).
    pub hard_negatives: f32,
    /// Chunks of a window; of longer demonstrations each update cuts one out.
    pub window: usize,
    /// Chunks of a window, the first ones, that are compared with latents.
    pub paired: usize,
    /// What fills a window beyond the end of a demonstration.
    pub padding: Padding,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            temperature: 0.07,
            reconstruction: 1.0,
            contrast: 0.1,
            kl: 1e-4,
            negatives: 16,
            hard_negatives: 0.75,
            window: 32,
            paired: 24,
            padding: Padding::HoldLast,
        }
    }
}

/// Inputs of the loss for `B` windows of `W` chunks, of which the first `P` have latents, with `N` negatives each.
#[derive(Clone, Debug)]
pub struct VaeBatch {
    /// `B_v` of the latents, `[B·P, D]`.
    pub z_video: Tensor<2>,
    /// `[B·W, M·A]`.
    pub actions: Tensor<2>,
    /// `[B·N·W, M·A]`.
    pub negatives: Tensor<2>,
    /// `[B·W, D]`.
    pub noise: Tensor<2>,
    /// `[B·N·W, D]`.
    pub negative_noise: Tensor<2>,
    /// `B`.
    pub windows: usize,
}

/// Chunks through the VAE.
#[derive(Clone, Debug)]
pub struct Coded {
    /// `[n, D]`.
    pub mean: Tensor<2>,
    /// `[n, D]`.
    pub log_variance: Tensor<2>,
    /// `[n, D]`.
    pub z: Tensor<2>,
    /// `[n, M·A]`.
    pub decoded: Tensor<2>,
    /// Mean squared error of the above.
    pub error: Tensor<1>,
}

/// What the loss is made of.
#[derive(Clone, Debug)]
pub struct VaeTerms {
    /// The chunks that belong to the latents.
    pub positives: Coded,
    /// The chunks of other demonstrations.
    pub negatives: Coded,
    /// Of each latent with its own chunk and the same chunk of its negatives, `[B, P, 1 + N]`.
    pub cosines: Tensor<3>,
    /// One-directional InfoNCE per chunk.
    pub contrast: Tensor<1>,
    /// Divergence of the positives' codes from the standard normal.
    pub kl: Tensor<1>,
    /// `positives.error + negatives.error`.
    pub reconstruction: Tensor<1>,
    /// The weighted sum.
    pub total: Tensor<1>,
}

/// The loss of the released training step: reconstruction of positives and negatives, per-chunk InfoNCE on the means, and the
/// divergence of the positives' codes.
pub fn vae_loss(net: &ActionVae, weights: &VaeConfig, batch: VaeBatch) -> VaeTerms {
    let VaeBatch { z_video, actions, negatives, noise, negative_noise, windows } = batch;
    let dim = net.dim();
    let (paired, chunks) = (z_video.dims()[0] / windows, actions.dims()[0] / windows);
    let code = |chunks: Tensor<2>, noise: Tensor<2>| {
        let (mean, log_variance) = net.encode(chunks.clone());
        let z = reparameterise(mean.clone(), log_variance.clone(), noise);
        let decoded = net.decode(z.clone());
        let error = (decoded.clone() - chunks).square().mean();
        Coded { mean, log_variance, z, decoded, error }
    };
    let positives = code(actions, noise);
    let negatives = code(negatives, negative_noise);
    // The mean is what stands for a chunk everywhere outside of the reconstruction.
    let candidates = |coded: &Coded| {
        let count = coded.mean.dims()[0] / (windows * chunks);
        let all = unit(coded.mean.clone()).reshape([windows, count, chunks, dim]);
        all.slice([0..windows, 0..count, 0..paired, 0..dim]).swap_dims(1, 2)
    };
    let all = Tensor::cat(vec![candidates(&positives), candidates(&negatives)], 2);
    let count = all.dims()[2];
    let rows = unit(z_video).reshape([windows, paired, 1, dim]);
    let cosines = (rows * all).sum_dim(3).reshape([windows, paired, count]);
    let own = log_softmax(cosines.clone() / weights.temperature, 2).slice([0..windows, 0..paired, 0..1]);
    let contrast = -own.mean();
    let kl = kl_divergence(positives.mean.clone(), positives.log_variance.clone());
    let reconstruction = positives.error.clone() + negatives.error.clone();
    let total =
        reconstruction.clone() * weights.reconstruction + contrast.clone() * weights.contrast + kl.clone() * weights.kl;
    VaeTerms { positives, negatives, cosines, contrast, kl, reconstruction, total }
}

/// Trains the action VAE. The arguments are those of [`crate::train_adapters`], which has checked the episodes.
pub(crate) fn train_action_vae(
    config: &VaeConfig,
    training: &Training,
    net: ActionVae,
    latent: [usize; 3],
    chunk: [usize; 2],
    variants: &[Vec<AlignedEpisode>],
    device: &Device,
    on_step: impl FnMut(&StepReport),
) -> Result<ActionVae, NnError> {
    let tasks = by_task(variants);
    let (batch, width) = (training.config.batch, chunk[0] * chunk[1]);
    let [channels, height, columns] = latent;
    let loss = |net: &ActionVae, _: usize, rng: &mut ChaCha8Rng| {
        let (mut actions, mut negatives, mut latents) = (Vec::new(), Vec::new(), Vec::new());
        let mut hard = 0;
        for _ in 0..batch {
            let index = rng.random_range(0..variants.len());
            let episode = &variants[index][rng.random_range(0..variants[index].len())];
            let start = append_window(config, episode, chunk, &mut actions, rng);
            let chunks = episode.actions.len() / width;
            let frame = episode.latents.len() / chunks;
            let paired = paired(config, chunks);
            latents.extend_from_slice(&episode.latents[start * frame..(start + paired) * frame]);
            let drawn = draw_negatives(&tasks, variants[index][0].task, index, variants, config, rng);
            for other in drawn {
                hard += usize::from(variants[other][0].task == variants[index][0].task);
                let episode = &variants[other][rng.random_range(0..variants[other].len())];
                append_window(config, episode, chunk, &mut negatives, rng);
            }
        }
        let dim = net.dim();
        let (rows, negative_rows) = (actions.len() / width, negatives.len() / width);
        let frames = latents.len() / (channels * height * columns);
        let inputs = VaeBatch {
            z_video: net.video(tensor(latents, [frames, channels, height, columns], device)),
            actions: tensor(actions, [rows, width], device),
            negatives: tensor(negatives, [negative_rows, width], device),
            noise: tensor(normal(rng, rows * dim), [rows, dim], device),
            negative_noise: tensor(normal(rng, negative_rows * dim), [negative_rows, dim], device),
            windows: batch,
        };
        let terms = vae_loss(net, config, inputs);
        let share = hard as f32 / (batch * config.negatives).max(1) as f32;
        let parts = vec![
            ("reconstruction", terms.reconstruction),
            ("contrast", terms.contrast),
            ("kl", terms.kl),
            ("hard_share", tensor(vec![share], [1], device)),
        ];
        Ok((terms.total, parts))
    };
    train(net, training, loss, on_step)
}

/// Chunks of a window that have latents, for demonstrations of `chunks` chunks.
fn paired(config: &VaeConfig, chunks: usize) -> usize {
    config.paired.min(config.window).min(chunks)
}

/// Appends the actions of one window and says at which chunk it starts. A demonstration that is longer is cut at random,
/// a shorter one is padded.
fn append_window(
    config: &VaeConfig,
    episode: &AlignedEpisode,
    [steps, width]: [usize; 2],
    out: &mut Vec<f32>,
    rng: &mut ChaCha8Rng,
) -> usize {
    let chunk = steps * width;
    let chunks = episode.actions.len() / chunk;
    let start = if chunks > config.window { rng.random_range(0..=chunks - config.window) } else { 0 };
    let end = chunks.min(start + config.window);
    out.extend_from_slice(&episode.actions[start * chunk..end * chunk]);
    let missing = (config.window - (end - start)) * steps;
    let last = &episode.actions[end * chunk - width..end * chunk];
    match config.padding {
        Padding::HoldLast => (0..missing).for_each(|_| out.extend_from_slice(last)),
        Padding::Zero => out.extend(std::iter::repeat_n(0.0, missing * width)),
        Padding::None => {}
    }
    start
}

/// The negatives of demonstration `index`: the asked share of its own task, never itself, the others of other tasks.
///
/// Where one kind is missing (a single task, or a task with a single demonstration) the other kind takes its place, never
/// a copy of the positive; the logged `hard_share` tells.
fn draw_negatives(
    tasks: &[Vec<usize>],
    task: usize,
    index: usize,
    variants: &[Vec<AlignedEpisode>],
    config: &VaeConfig,
    rng: &mut ChaCha8Rng,
) -> Vec<usize> {
    let (own, others): (Vec<&Vec<usize>>, Vec<&Vec<usize>>) =
        tasks.iter().partition(|all| variants[all[0]][0].task == task);
    let own: Vec<usize> = own.into_iter().flatten().copied().filter(|&other| other != index).collect();
    let others: Vec<usize> = others.into_iter().flatten().copied().collect();
    let hard = (config.hard_negatives * config.negatives as f32).round() as usize;
    (0..config.negatives)
        .map(|number| {
            let pool = if (number < hard && !own.is_empty()) || others.is_empty() { &own } else { &others };
            pool[rng.random_range(0..pool.len())]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Padding, VaeBatch, VaeConfig, append_window, draw_negatives, vae_loss};
    use crate::action_vae::empty;
    use crate::train::by_task;
    use crate::{AdapterConfig, AdapterKind, AlignConfig, AlignedEpisode, FrozenAdapters, diagnose, train_adapters};
    use burn::tensor::Device;
    use w2a_nn::{TrainConfig, Training, normal, tensor, values};

    /// Latents that show the action: the channels of a 4x4 map carry the four values of its chunk (two steps of two).
    fn episode(index: u64, chunks: usize) -> AlignedEpisode {
        let actions = normal(&mut w2a_data::stream(index, "actions"), chunks * 4);
        let latents = actions.iter().flat_map(|&value| [value; 16]).collect();
        AlignedEpisode { task: index as usize % 3, latents, actions }
    }

    #[test]
    fn windows_are_cut_or_padded_to_their_length() {
        let mut rng = w2a_data::stream(0, "window");
        let mut window = |chunks, window, padding| {
            let mut out = Vec::new();
            let config = VaeConfig { window, padding, ..VaeConfig::default() };
            let start = append_window(&config, &episode(1, chunks), [2, 2], &mut out, &mut rng);
            (start, out)
        };
        let whole = episode(1, 3).actions;
        let (start, held) = window(3, 4, Padding::HoldLast);
        assert_eq!((start, &held[..12], &held[12..]), (0, &whole[..], &[whole[10], whole[11]].repeat(2)[..]));
        assert_eq!(window(3, 4, Padding::Zero).1[12..], [0.0; 4]);
        assert_eq!(window(3, 4, Padding::None).1, whole);
        let mut starts = [false; 3];
        for _ in 0..50 {
            let (start, cut) = window(3, 1, Padding::HoldLast);
            assert_eq!(cut, whole[4 * start..4 * start + 4]);
            starts[start] = true;
        }
        assert_eq!(starts, [true; 3]);
    }

    #[test]
    fn negatives_are_hard_in_the_asked_share_and_never_the_positive() {
        let mut rng = w2a_data::stream(0, "negatives");
        let config = VaeConfig::default();
        let mut draw = |tasks: &[usize], index: usize| {
            let variants: Vec<_> =
                tasks.iter().map(|&task| vec![AlignedEpisode { task, latents: vec![], actions: vec![] }]).collect();
            let drawn = draw_negatives(&by_task(&variants), tasks[index], index, &variants, &config, &mut rng);
            assert!(drawn.len() == 16 && drawn.iter().all(|&other| other != index));
            drawn.iter().filter(|&&other| tasks[other] == tasks[index]).count()
        };
        assert_eq!(draw(&[0, 0, 0, 1, 1, 2], 1), 12);
        // A task with one demonstration has no hard negatives, a single task no easy ones.
        assert_eq!(draw(&[0, 0, 0, 1], 3), 0);
        assert_eq!(draw(&[5, 5, 5], 0), 16);
    }

    #[test]
    fn zero_embeddings_are_defined() {
        let device = Device::flex();
        let net = empty(8, 2, [2, 2], &device).unwrap();
        let zeros = |rows: usize, width: usize| tensor(vec![0.0; rows * width], [rows, width], &device);
        // One window of two chunks, whose latents embed as zeros, and one negative.
        let batch = VaeBatch {
            z_video: zeros(2, 8),
            actions: zeros(2, 4),
            negatives: zeros(2, 4),
            noise: zeros(2, 8),
            negative_noise: zeros(2, 8),
            windows: 1,
        };
        let terms = vae_loss(&net, &VaeConfig::default(), batch);
        assert_eq!(values(terms.cosines).unwrap(), [0.0; 4]);
        let contrast = values(terms.contrast).unwrap()[0];
        assert!((contrast - 2_f32.ln()).abs() < 1e-6, "{contrast}");
        assert!(values(terms.total).unwrap()[0].is_finite());
    }

    #[test]
    fn the_vae_aligns_unseen_pairs_and_starts_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let variants: Vec<Vec<AlignedEpisode>> = (0..40).map(|index| vec![episode(index, 3)]).collect();
        let train = TrainConfig { steps: 150, batch: 4, lr: 3e-3, warmup: 5, ..Default::default() };
        let mut config = AlignConfig { train: train.clone(), ..AlignConfig::default() };
        config.adapter = AdapterConfig { kind: AdapterKind::ActionVae, dim: 16, ..AdapterConfig::default() };
        config.vae = VaeConfig { window: 3, contrast: 1.0, negatives: 8, ..VaeConfig::default() };
        let run = |config: &AlignConfig, steps: usize| {
            let train = TrainConfig { steps, ..train.clone() };
            let training =
                Training { name: "align", dir: None, seed: 0, config: &train, depends: serde_json::Value::Null };
            let mut first = f32::NAN;
            let net = train_adapters(config, &training, [4, 4, 4], [2, 2], &variants, &Device::flex(), |report| {
                if report.step == 1 {
                    first = report.losses[0].1;
                }
            });
            (net, first)
        };
        let (net, from_scratch) = run(&config, 150);
        let net = net.unwrap();
        let path = folder.path().join("vae.safetensors");
        net.save_weights(&path).unwrap();
        let frozen = FrozenAdapters::new(net, [4, 4, 4], [2, 2], &Device::flex());
        let (mut z_v, mut z_a, mut decoded, mut truth) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for index in 100..120 {
            let unseen = episode(index, 3);
            z_v.extend(frozen.video(&unseen.latents).unwrap());
            let z = frozen.action(&unseen.actions).unwrap();
            decoded.extend(frozen.decode(&z).unwrap());
            z_a.extend(z);
            truth.extend(unseen.actions);
        }
        let found = diagnose(&z_v, &z_a, 3, frozen.dim());
        let error = decoded.iter().zip(&truth).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / truth.len() as f32;
        assert!(found.retrieval > 0.8 && error < 0.3, "{found:?} {error}");
        config.init = path.to_string_lossy().into_owned();
        let (_, continued) = run(&config, 1);
        assert!(continued < 0.5 * from_scratch, "{continued} {from_scratch}");
        config.adapter.dim = 8;
        let error = run(&config, 1).0.unwrap_err().to_string();
        assert!(
            error.contains("video_bridger.8.") || error.contains("encoder.5.") || error.contains("decoder"),
            "{error}"
        );
        config.init = "absent.pt".into();
        assert!(run(&config, 1).0.unwrap_err().to_string().contains("absent.pt"));
    }
}
