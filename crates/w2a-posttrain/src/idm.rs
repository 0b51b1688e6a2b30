//! The inverse dynamics model of the DreamGen and regression baselines: two frames to the action between them.

use burn::module::Module;
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use w2a_data::{Camera, Normaliser};
use w2a_nn::{
    ImageBatch, Init, Linear, NnError, StepReport, TEXT_DIM, Training, VisionConfig, VisionTrunk, embed_text, tensor,
    train_sharded, values,
};
use w2a_policy::DemonstrationSet;
use w2a_world::GridVideo;

use crate::control::normalise;

/// Sizes of the inverse dynamics model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdmConfig {
    /// The vision trunks, one per camera; each sees both frames.
    pub vision: VisionConfig,
    /// Width of the hidden layers.
    pub hidden: usize,
}

impl Default for IdmConfig {
    fn default() -> Self {
        Self { vision: VisionConfig::default(), hidden: 256 }
    }
}

/// The network: frames `k` and `k + 1` of every camera and the instruction to the action of step `k` and the
/// proprioception at step `k`.
#[derive(Module, Debug)]
pub struct IdmNet {
    trunks: Vec<VisionTrunk>,
    hidden1: Linear,
    hidden2: Linear,
    out: Linear,
    patch: usize,
}

impl IdmNet {
    /// A fresh network.
    pub fn new(config: &IdmConfig, cameras: usize, proprio: usize, action: usize, init: &mut Init) -> Self {
        let features = cameras * VisionTrunk::width(&config.vision);
        Self {
            trunks: (0..cameras).map(|_| VisionTrunk::new(&config.vision, 2, TEXT_DIM, init)).collect(),
            hidden1: Linear::new(features, config.hidden, init),
            hidden2: Linear::new(config.hidden, config.hidden, init),
            out: Linear::new(config.hidden, action + proprio, init),
            patch: config.vision.patch,
        }
    }

    /// Both frames per camera → `[batch, action + proprio]`, normalised.
    fn forward(&self, images: &[ImageBatch], text: Tensor<2>) -> Tensor<2> {
        let features =
            self.trunks.iter().zip(images).map(|(trunk, images)| trunk.forward(images, text.clone())).collect();
        let x = gelu(self.hidden1.forward(Tensor::cat(features, 1)));
        self.out.forward(gelu(self.hidden2.forward(x.clone())) + x)
    }
}

/// Two consecutive frames of one camera as one batch of windows.
fn pair<'a>(
    frames: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone,
    camera: &Camera,
    patch: usize,
    device: &Device,
) -> ImageBatch {
    let first = ImageBatch::new(frames.clone().map(|pair| pair.0), camera.height, camera.width, patch, device);
    let second = ImageBatch::new(frames.map(|pair| pair.1), camera.height, camera.width, patch, device);
    ImageBatch { windows: Tensor::cat(vec![first.windows, second.windows], 2), grid: first.grid }
}

/// Trains on the labelled demonstrations.
///
/// # Errors
/// Divergence, or a failing disk.
pub fn train_idm(
    config: &IdmConfig,
    training: &Training,
    set: &DemonstrationSet,
    device: &Device,
    on_step: impl FnMut(&StepReport),
) -> Result<IdmNet, NnError> {
    let device = device.clone().autodiff();
    let first = &set.episodes[0];
    let (state, action) = (first.proprio_dim, first.action_dim);
    let mut stream = w2a_data::stream(training.seed, &format!("init/{}", training.name));
    let mut init = Init { rng: &mut stream, device: &device };
    let net = IdmNet::new(config, first.cameras.len(), state, action, &mut init);
    let texts: Vec<Vec<f32>> = set.episodes.iter().map(|episode| embed_text(&episode.instruction)).collect();
    let loss = |net: &IdmNet, _: usize, batch: usize, rng: &mut ChaCha8Rng| {
        let (mut target, mut text) = (Vec::new(), Vec::new());
        let chosen: Vec<(usize, usize)> = (0..batch)
            .map(|_| {
                let index = rng.random_range(0..set.episodes.len());
                (index, rng.random_range(0..set.episodes[index].len() - 1))
            })
            .collect();
        for &(index, step) in &chosen {
            let (mut actions, mut proprio) =
                (set.episodes[index].action(step).to_vec(), set.episodes[index].proprio(step).to_vec());
            normalise(&set.action, &mut actions)?;
            normalise(&set.proprio, &mut proprio)?;
            target.extend(actions);
            target.extend(proprio);
            text.extend_from_slice(&texts[index]);
        }
        let images: Vec<ImageBatch> = (0..first.cameras.len())
            .map(|camera| {
                let frames = chosen.iter().map(|&(index, step)| {
                    let camera = &set.episodes[index].cameras[camera];
                    (camera.frame(step), camera.frame(step + 1))
                });
                pair(frames, &first.cameras[camera], net.patch, &device)
            })
            .collect();
        let predicted = net.forward(&images, tensor(text, [batch, TEXT_DIM], &device));
        let error: Tensor<2> = (predicted - tensor(target, [batch, action + state], &device)).abs();
        let of_action = error.clone().narrow(1, 0, action).mean();
        Ok((error.mean(), vec![("action_error", of_action)]))
    };
    train_sharded(net, training, loss, on_step)
}

/// The inverse dynamics model, frozen.
#[derive(Debug)]
pub struct Idm {
    net: IdmNet,
    action: Normaliser,
    proprio: Normaliser,
    device: Device,
}

impl Idm {
    /// Freezes a trained network with the statistics it was trained with.
    pub fn new(net: IdmNet, set: &DemonstrationSet, device: &Device) -> Self {
        Self { net: net.valid(), action: set.action.clone(), proprio: set.proprio.clone(), device: device.clone() }
    }

    /// Labels the steps of a video of `1 + N` frames: (actions `[N, A]`, proprioception `[N, P]`) in the environment's
    /// units.
    ///
    /// # Errors
    /// A device that fails.
    pub fn label(&self, video: &GridVideo, instruction: &str) -> Result<(Vec<f32>, Vec<f32>), NnError> {
        let cameras = self.net.trunks.len();
        let steps = video.frames().saturating_sub(1);
        let images: Vec<ImageBatch> = (0..cameras)
            .map(|index| {
                let camera = video.camera(index, cameras, "");
                let frames = (0..steps).map(|step| (camera.frame(step), camera.frame(step + 1)));
                pair(frames, &camera, self.net.patch, &self.device)
            })
            .collect();
        let text = embed_text(instruction);
        let text = tensor(text, [1, TEXT_DIM], &self.device).repeat_dim(0, steps);
        let out = values(self.net.forward(&images, text))?;
        let (a, p) = (self.action.width(), self.proprio.width());
        let (mut actions, mut proprio) = (Vec::with_capacity(steps * a), Vec::with_capacity(steps * p));
        for row in out.chunks_exact(a + p) {
            actions.extend_from_slice(&row[..a]);
            proprio.extend_from_slice(&row[a..]);
        }
        let bad = |error: w2a_data::NormaliserError| NnError::Input {
            what: "labels of the inverse dynamics model".into(),
            expected: "finite rows".into(),
            got: error.to_string(),
        };
        self.action.denormalise(&mut actions).map_err(bad)?;
        self.proprio.denormalise(&mut proprio).map_err(bad)?;
        Ok((actions, proprio))
    }

    /// Mean absolute error of the normalised actions against the true ones, `[N, A]` each, in the environment's units.
    ///
    /// # Errors
    /// Rows that do not fit.
    pub fn action_error(&self, labels: &[f32], truth: &[f32]) -> Result<f32, NnError> {
        let (mut a, mut b) = (labels.to_vec(), truth.to_vec());
        normalise(&self.action, &mut a)?;
        normalise(&self.action, &mut b)?;
        Ok(a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len().max(1) as f32)
    }
}
