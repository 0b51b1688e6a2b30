//! The embedded policy: two cameras, proprioception and an instruction to a chunk of actions.

use std::path::Path;

use burn::module::Module;
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};
use w2a_data::{Normaliser, Observation};
use w2a_nn::{
    Checkpoint, ImageBatch, Init, Linear, NnError, TEXT_DIM, VisionConfig, VisionTrunk, embed_text, tensor, values,
};

use crate::{AdaptablePolicy, Policy};

/// Sizes of the embedded policy.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MiniPolicyConfig {
    /// The vision trunks, one per camera.
    pub vision: VisionConfig,
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Actions per chunk.
    pub horizon: usize,
}

impl Default for MiniPolicyConfig {
    fn default() -> Self {
        Self { vision: VisionConfig::default(), hidden: 256, horizon: 8 }
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct PolicyNet {
    trunks: Vec<VisionTrunk>,
    text: Linear,
    proprio: Linear,
    hidden1: Linear,
    hidden2: Linear,
    out: Linear,
    horizon: usize,
    patch: usize,
}

impl PolicyNet {
    /// A fresh network.
    pub fn new(config: &MiniPolicyConfig, cameras: usize, proprio: usize, action: usize, init: &mut Init) -> Self {
        let hidden = config.hidden;
        let features = cameras * VisionTrunk::width(&config.vision) + 64 + 64;
        Self {
            trunks: (0..cameras).map(|_| VisionTrunk::new(&config.vision, 1, TEXT_DIM, init)).collect(),
            text: Linear::new(TEXT_DIM, 64, init),
            proprio: Linear::new(proprio, 64, init),
            hidden1: Linear::new(features, hidden, init),
            hidden2: Linear::new(hidden, hidden, init),
            out: Linear::new(hidden, config.horizon * action, init),
            horizon: config.horizon,
            patch: config.vision.patch,
        }
    }

    /// Side of an image patch in pixels.
    pub fn patch(&self) -> usize {
        self.patch
    }

    fn linear_layers(&mut self) -> Vec<(String, &mut Linear)> {
        let mut layers = Vec::new();
        for (index, trunk) in self.trunks.iter_mut().enumerate() {
            layers.extend(trunk.linear_layers().map(|(name, layer)| (format!("trunks.{index}.{name}"), layer)));
        }
        let Self { text, proprio, hidden1, hidden2, out, .. } = self;
        let own = [("text", text), ("proprio", proprio), ("hidden1", hidden1), ("hidden2", hidden2), ("out", out)];
        layers.extend(own.map(|(name, layer)| (name.to_owned(), layer)));
        layers
    }

    /// Images per camera, normalised `proprio` `[batch, proprio]`, `text` `[batch, TEXT_DIM]` →
    /// normalised actions `[batch, horizon * action]`.
    pub fn forward(&self, images: &[ImageBatch], proprio: Tensor<2>, text: Tensor<2>) -> Tensor<2> {
        let mut features: Vec<Tensor<2>> =
            self.trunks.iter().zip(images).map(|(trunk, images)| trunk.forward(images, text.clone())).collect();
        features.push(gelu(self.text.forward(text)));
        features.push(gelu(self.proprio.forward(proprio)));
        let x = gelu(self.hidden1.forward(Tensor::cat(features, 1)));
        let x = gelu(self.hidden2.forward(x.clone())) + x;
        self.out.forward(x)
    }
}

/// The embedded policy, frozen.
#[derive(Clone, Debug)]
pub struct MiniPolicy {
    net: PolicyNet,
    proprio: Normaliser,
    action: Normaliser,
    device: Device,
}

impl MiniPolicy {
    /// Freezes a trained network with the statistics it was trained with.
    pub fn new(net: PolicyNet, proprio: Normaliser, action: Normaliser, device: &Device) -> Self {
        Self { net: net.valid(), proprio, action, device: device.clone() }
    }

    /// Loads what a training left in `dir`.
    ///
    /// # Errors
    /// A missing or foreign checkpoint.
    pub fn load(
        config: &MiniPolicyConfig,
        cameras: usize,
        proprio: Normaliser,
        action: Normaliser,
        dir: &Path,
        device: &Device,
    ) -> Result<Self, NnError> {
        let mut rng = w2a_data::stream(0, "load");
        let init = &mut Init { rng: &mut rng, device };
        let net = Checkpoint::new(dir).load(PolicyNet::new(config, cameras, proprio.width(), action.width(), init))?;
        Ok(Self::new(net, proprio, action, device))
    }
}

impl Policy for MiniPolicy {
    fn horizon(&self) -> usize {
        self.net.horizon
    }

    fn action_dim(&self) -> usize {
        self.action.width()
    }

    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        if observations.is_empty() && instructions.is_empty() {
            return Ok(Vec::new());
        }
        let mut actions = values(self.forward(observations, instructions)?)?;
        self.action.denormalise(&mut actions).map_err(bad_rows)?;
        Ok(actions)
    }

    fn reset(&mut self) {}
}

impl AdaptablePolicy for MiniPolicy {
    fn linear_layers(&mut self) -> Vec<(String, &mut Linear)> {
        self.net.linear_layers()
    }

    fn forward(&self, observations: &[Observation], instructions: &[&str]) -> Result<Tensor<2>, NnError> {
        let input = |what: &str, expected: String, got: String| NnError::Input { what: what.into(), expected, got };
        if observations.len() != instructions.len() {
            let (expected, got) = (observations.len().to_string(), instructions.len().to_string());
            return Err(input("instructions of a policy call", expected, got));
        }
        let Some(first) = observations.first() else {
            return Err(input("observations of a policy call", "at least one".into(), "none".into()));
        };
        let mut proprio = Vec::with_capacity(observations.len() * self.proprio.width());
        for observation in observations {
            if observation.proprio.len() != self.proprio.width() || observation.cameras.len() != self.net.trunks.len() {
                return Err(input(
                    "observation of the policy",
                    format!("{} cameras and {} proprioception values", self.net.trunks.len(), self.proprio.width()),
                    format!("{} cameras and {} values", observation.cameras.len(), observation.proprio.len()),
                ));
            }
            proprio.extend_from_slice(&observation.proprio);
        }
        self.proprio.normalise(&mut proprio).map_err(bad_rows)?;
        let images: Vec<ImageBatch> = first
            .cameras
            .iter()
            .enumerate()
            .map(|(index, camera)| {
                let frames = observations.iter().map(|observation| observation.cameras[index].rgb.as_slice());
                ImageBatch::new(frames, camera.height, camera.width, self.net.patch, &self.device)
            })
            .collect();
        let batch = observations.len();
        let text = instructions.iter().flat_map(|words| embed_text(words)).collect();
        let text = tensor(text, [batch, TEXT_DIM], &self.device);
        let proprio = tensor(proprio, [batch, self.proprio.width()], &self.device);
        Ok(self.net.forward(&images, proprio, text))
    }

    fn action_normaliser(&self) -> Option<&Normaliser> {
        Some(&self.action)
    }
}

fn bad_rows(error: w2a_data::NormaliserError) -> NnError {
    NnError::Input { what: "observation of the policy".into(), expected: "finite rows".into(), got: error.to_string() }
}
