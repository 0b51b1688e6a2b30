//! The residual policy: three tokens through a small attention stack (paper, section 3.3 and table of sizes).

use burn::module::{Module, Param};
use burn::tensor::activation::{gelu, relu};
use burn::tensor::{Device, Tensor};
use w2a_data::{Normaliser, Observation};
use w2a_nn::{
    Block, BlockConfig, Conv2d, ImageBatch, Init, LayerNorm, Linear, NnError, TEXT_DIM, VisionConfig, VisionTrunk,
    embed_text, tensor,
};
use w2a_world::GridVideo;

use crate::control::normalise;

/// What makes the residual's image token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sight {
    /// Three convolutions and a flattened map, as in the paper.
    Convolution,
    /// Queries made from the instruction that attend to windows of pixels, as in the embedded policy: a thing's place comes
    /// out as coordinates, and carries over to scenes that were not rolled out.
    #[default]
    Attention,
}

/// Sizes of the residual policy; its width is that of the shared space.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResidualConfig {
    /// Attention layers.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Token width; the shared space enters and leaves through a linear map if it differs (32 in the paper).
    pub width: usize,
    /// What makes the image token.
    pub sight: Sight,
    /// Sizes of the attending trunk, if that makes it.
    pub vision: VisionConfig,
}

impl Default for ResidualConfig {
    fn default() -> Self {
        Self { depth: 2, heads: 4, width: 32, sight: Sight::default(), vision: VisionConfig::default() }
    }
}

/// The network: `f(s_t, z_base) = dz`.
#[derive(Module, Debug)]
pub struct ResidualNet {
    state1: Linear,
    state2: Linear,
    state_norm: LayerNorm,
    tower: Option<Tower>,
    trunk: Option<VisionTrunk>,
    image: Linear,
    image_norm: LayerNorm,
    action: Linear,
    kind: Param<Tensor<3>>,
    blocks: Vec<Block>,
    hidden: Linear,
    out: Linear,
    window: usize,
}

/// Convolutions 3→16→32→32 of strides 4, 2, 2.
#[derive(Module, Debug)]
struct Tower {
    conv1: Conv2d,
    conv2: Conv2d,
    conv3: Conv2d,
}

/// The images of a batch, in the form that the network's image token is made from.
#[derive(Clone, Debug)]
pub enum Images {
    /// Cameras side by side, `[batch, 3, height, width]` in `[-1, 1]`.
    Pixels(Tensor<4>),
    /// Windows of the cameras side by side.
    Windows(ImageBatch),
}

/// Inputs of the residual for a batch of time steps.
#[derive(Clone, Debug)]
pub struct ResidualBatch {
    /// What the cameras show.
    pub images: Images,
    /// Instructions, `[batch, TEXT_DIM]`.
    pub text: Tensor<2>,
    /// Normalised, `[batch, proprio]`.
    pub proprio: Tensor<2>,
    /// `[batch, D]`.
    pub z_base: Tensor<2>,
}

impl ResidualNet {
    /// A fresh network for images of `size` (rows, columns of all cameras side by side); it starts as the identity
    /// (`dz = 0`).
    ///
    /// # Errors
    /// Images too small for the three convolutions (36 pixels a side at least).
    pub fn new(
        config: &ResidualConfig,
        size: (usize, usize),
        proprio: usize,
        dim: usize,
        init: &mut Init,
    ) -> Result<Self, NnError> {
        let width = config.width;
        let block = BlockConfig { width, heads: config.heads, hidden: 4 * width, condition: 0 };
        let after =
            |side: usize| Some((((side.checked_sub(8)? / 4 + 1).checked_sub(4)? / 2 + 1).checked_sub(3)?) / 2 + 1);
        let (tower, trunk, features) = match (config.sight, after(size.0), after(size.1)) {
            (Sight::Attention, ..) => {
                let features = VisionTrunk::width(&config.vision);
                (None, Some(VisionTrunk::new(&config.vision, 1, TEXT_DIM, init)), features)
            }
            (Sight::Convolution, Some(rows), Some(columns)) => {
                let tower = Tower {
                    conv1: Conv2d::new(3, 16, 8, 4, 0, init),
                    conv2: Conv2d::new(16, 32, 4, 2, 0, init),
                    conv3: Conv2d::new(32, 32, 3, 2, 0, init),
                };
                (Some(tower), None, 32 * rows * columns)
            }
            _ => {
                return Err(NnError::Input {
                    what: "image of the residual policy".into(),
                    expected: "at least 36x36 pixels".into(),
                    got: format!("{}x{}", size.0, size.1),
                });
            }
        };
        Ok(Self {
            state1: Linear::new(proprio, 128, init),
            state2: Linear::new(128, width, init),
            state_norm: LayerNorm::new(width, init),
            tower,
            trunk,
            image: Linear::new(features, width, init),
            image_norm: LayerNorm::new(width, init),
            action: Linear::new(dim, width, init),
            kind: init.normal([1, 3, width], 0.02),
            blocks: (0..config.depth).map(|_| Block::new(&block, init)).collect(),
            hidden: Linear::new(width, 2 * width, init),
            out: Linear::zero(2 * width, dim, init),
            window: config.vision.patch,
        })
    }

    /// `dz`, `[batch, D]`.
    pub fn forward(&self, batch: &ResidualBatch) -> Tensor<2> {
        let n = batch.proprio.dims()[0];
        let state = self.state_norm.forward(self.state2.forward(relu(self.state1.forward(batch.proprio.clone()))));
        let features = match (&self.tower, &self.trunk, &batch.images) {
            (Some(tower), _, Images::Pixels(pixels)) => {
                let x = relu(tower.conv1.forward(pixels.clone()));
                relu(tower.conv3.forward(relu(tower.conv2.forward(x)))).reshape([n as isize, -1])
            }
            (_, Some(trunk), Images::Windows(windows)) => trunk.forward(windows, batch.text.clone()),
            _ => unreachable!("`ResidualNet::batch` makes the images that the network takes"),
        };
        let image = self.image_norm.forward(self.image.forward(features));
        let action = self.action.forward(batch.z_base.clone());
        let mut tokens: Tensor<3> = Tensor::stack(vec![state, image, action], 1) + self.kind.val();
        for block in &self.blocks {
            tokens = block.forward(tokens, None);
        }
        let width = tokens.dims()[2];
        let action = tokens.narrow(1, 2, 1).reshape([n, width]);
        self.out.forward(gelu(self.hidden.forward(action)))
    }

    /// The inputs at these observations, one instruction each; `z_base` is `[observations, D]`.
    ///
    /// # Errors
    /// Proprioception of another width than the statistics, or cameras of unequal height.
    pub fn batch(
        &self,
        observations: &[Observation],
        instructions: &[&str],
        z_base: &[f32],
        proprio: &Normaliser,
        device: &Device,
    ) -> Result<ResidualBatch, NnError> {
        let n = observations.len();
        let mut state: Vec<f32> = observations.iter().flat_map(|observation| &observation.proprio).copied().collect();
        if state.len() != n * proprio.width() {
            return Err(NnError::Input {
                what: "proprioception of the residual policy".into(),
                expected: format!("{n} rows of {}", proprio.width()),
                got: format!("{} values", state.len()),
            });
        }
        normalise(proprio, &mut state)?;
        let images = match &self.tower {
            Some(_) => Images::Pixels(pixels(observations, device)),
            None => Images::Windows(windows(observations, self.window, device)?),
        };
        let text = instructions.iter().flat_map(|words| embed_text(words)).collect();
        Ok(ResidualBatch {
            images,
            text: tensor(text, [n, TEXT_DIM], device),
            proprio: tensor(state, [n, proprio.width()], device),
            z_base: tensor(z_base.to_vec(), [n, z_base.len() / n.max(1)], device),
        })
    }
}

/// Cameras side by side, `[n, 3, height, width]` in `[-1, 1]`.
fn pixels(observations: &[Observation], device: &Device) -> Tensor<4> {
    let (height, width) = image_size(observations);
    let mut image = Vec::with_capacity(observations.len() * 3 * height * width);
    for observation in observations {
        for channel in 0..3 {
            for row in 0..height {
                for camera in &observation.cameras {
                    let start = row * camera.width * 3;
                    let pixels = camera.rgb[start..start + camera.width * 3].iter().skip(channel).step_by(3);
                    image.extend(pixels.map(|&byte| f32::from(byte) / 127.5 - 1.0));
                }
            }
        }
    }
    tensor(image, [observations.len(), 3, height, width], device)
}

/// Windows of the cameras side by side.
fn windows(observations: &[Observation], patch: usize, device: &Device) -> Result<ImageBatch, NnError> {
    let (height, width) = image_size(observations);
    let grids: Vec<GridVideo> = observations
        .iter()
        .map(|observation| GridVideo::side_by_side(&observation.cameras))
        .collect::<Result<_, NnError>>()?;
    Ok(ImageBatch::new(grids.iter().map(|grid| grid.rgb.as_slice()), height, width, patch, device))
}

/// Rows and columns of the cameras side by side.
pub(crate) fn image_size(observations: &[Observation]) -> (usize, usize) {
    observations.first().map_or((0, 0), |observation| {
        let height = observation.cameras.first().map_or(0, |camera| camera.height);
        (height, observation.cameras.iter().map(|camera| camera.width).sum())
    })
}

#[cfg(test)]
mod tests {
    use super::{ResidualConfig, ResidualNet, Sight};
    use burn::tensor::Device;
    use w2a_data::{Camera, Normaliser, NormaliserMode, Observation, StatisticsBuilder};
    use w2a_nn::{Init, Linear, values};

    fn paper() -> ResidualConfig {
        ResidualConfig { sight: Sight::Convolution, ..ResidualConfig::default() }
    }

    fn observations() -> Vec<Observation> {
        let camera = |name: &str, grey: u8| Camera {
            name: name.into(),
            height: 64,
            width: 64,
            rgb: (0..64 * 64 * 3).map(|at| grey.wrapping_add(at as u8)).collect(),
        };
        let one = |grey| Observation { cameras: vec![camera("a", grey), camera("b", 90)], proprio: vec![0.1; 3] };
        vec![one(0), one(200)]
    }

    #[test]
    fn it_starts_as_the_identity_whatever_it_sees_with_and_refuses_tiny_images() {
        let device = Device::flex();
        let mut statistics = StatisticsBuilder::new("proprio", 3);
        statistics.push(&[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).unwrap();
        let proprio = Normaliser::new(&statistics.finish().unwrap(), NormaliserMode::MeanStd).unwrap();
        for config in [paper(), ResidualConfig::default()] {
            let mut rng = w2a_data::stream(0, "t");
            let mut init = Init { rng: &mut rng, device: &device };
            let mut net = ResidualNet::new(&config, (64, 128), 3, 32, &mut init).unwrap();
            let batch = net.batch(&observations(), &["a", "b"], &[2.0; 64], &proprio, &device).unwrap();
            assert!(values(net.forward(&batch)).unwrap().iter().all(|&value| value == 0.0));
            // With another last layer the two observations get different steps.
            net.out = Linear::new(64, 32, &mut init);
            let dz = values(net.forward(&batch)).unwrap();
            assert!(dz[..32].iter().zip(&dz[32..]).any(|(a, b)| (a - b).abs() > 1e-4), "{config:?}");
        }
        let mut rng = w2a_data::stream(0, "t");
        let mut init = Init { rng: &mut rng, device: &device };
        let error = ResidualNet::new(&paper(), (32, 64), 11, 32, &mut init).unwrap_err();
        assert!(error.to_string().contains("36x36"), "{error}");
    }

    #[test]
    fn images_of_256_pixels_give_the_papers_6272_features() {
        let device = Device::flex();
        let mut rng = w2a_data::stream(0, "t");
        let mut init = Init { rng: &mut rng, device: &device };
        let net = ResidualNet::new(&paper(), (256, 256), 53, 32, &mut init).unwrap();
        assert_eq!(net.image.weight.val().dims(), [32, 6272]);
    }
}
