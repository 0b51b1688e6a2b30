//! The residual policy: three tokens through a small attention stack (paper, section 3.3 and table of sizes).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use w2a_data::{Normaliser, Observation};
use w2a_nn::{
    Activation, Block, BlockConfig, Conv2d, Init, LayerNorm, Linear, NnError, Stage, perceptron, stack, tensor,
};

use crate::control::normalise;

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
}

impl Default for ResidualConfig {
    fn default() -> Self {
        Self { depth: 2, heads: 4, width: 32 }
    }
}

/// The network: `f(s_t, z_base) = dz`.
#[derive(Module, Debug)]
pub struct ResidualNet {
    state1: Linear,
    state2: Linear,
    state_norm: LayerNorm,
    conv1: Conv2d,
    conv2: Conv2d,
    conv3: Conv2d,
    image: Linear,
    image_norm: LayerNorm,
    action: Linear,
    kind: Param<Tensor<3>>,
    blocks: Vec<Block>,
    hidden: Linear,
    out: Linear,
    /// Rows and columns of the last convolution's result.
    cells: (usize, usize),
}

/// Inputs of the residual for a batch of time steps.
#[derive(Clone, Debug)]
pub struct ResidualBatch {
    /// Cameras side by side, `[batch, 3, height, width]` in `[-1, 1]`.
    pub image: Tensor<4>,
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
        let after =
            |side: usize| Some((((side.checked_sub(8)? / 4 + 1).checked_sub(4)? / 2 + 1).checked_sub(3)?) / 2 + 1);
        let (Some(rows), Some(columns)) = (after(size.0), after(size.1)) else {
            return Err(NnError::Input {
                what: "image of the residual policy".into(),
                expected: "at least 36x36 pixels".into(),
                got: format!("{}x{}", size.0, size.1),
            });
        };
        let width = config.width;
        let block = BlockConfig { width, heads: config.heads, hidden: 4 * width, condition: 0 };
        Ok(Self {
            state1: Linear::new(proprio, 128, init),
            state2: Linear::new(128, width, init),
            state_norm: LayerNorm::new(width, init),
            conv1: Conv2d::new(3, 16, 8, 4, 0, init),
            conv2: Conv2d::new(16, 32, 4, 2, 0, init),
            conv3: Conv2d::new(32, 32, 3, 2, 0, init),
            image: Linear::new(32 * rows * columns, width, init),
            image_norm: LayerNorm::new(width, init),
            action: Linear::new(dim, width, init),
            kind: init.normal([1, 3, width], 0.02),
            blocks: (0..config.depth).map(|_| Block::new(&block, init)).collect(),
            hidden: Linear::new(width, 2 * width, init),
            out: Linear::zero(2 * width, dim, init),
            cells: (rows, columns),
        })
    }

    /// `dz`, `[batch, D]`.
    pub fn forward(&self, batch: &ResidualBatch) -> Tensor<2> {
        let n = batch.proprio.dims()[0];
        let width = self.kind.val().dims()[2];
        let state = [&self.state1, &self.state2].map(Linear::parameters);
        let state = self.state_norm.forward(perceptron(batch.proprio.clone(), &state, Activation::Relu));
        // The linear layer behind the flattening is a convolution that sees the whole image.
        let (weight, bias) = self.image.parameters();
        let weight = weight.reshape([width, 32, self.cells.0, self.cells.1]);
        let mut stages: Vec<Stage> =
            [&self.conv1, &self.conv2, &self.conv3].map(|conv| conv.stage().activation(Activation::Relu)).into();
        stages.push(Stage::new(weight, bias, [1; 2], [0; 2]));
        let image = self.image_norm.forward(stack(batch.image.clone(), &stages, false).reshape([n, width]));
        let action = self.action.forward(batch.z_base.clone());
        let mut tokens: Tensor<3> = Tensor::stack(vec![state, image, action], 1) + self.kind.val();
        for block in &self.blocks {
            tokens = block.forward(tokens, None);
        }
        let action = tokens.narrow(1, 2, 1).reshape([n, width]);
        perceptron(action, &[&self.hidden, &self.out].map(Linear::parameters), Activation::Gelu)
    }
}

impl ResidualBatch {
    /// The inputs at these observations; `z_base` is `[observations, D]`.
    ///
    /// # Errors
    /// Proprioception of another width than the statistics, or cameras of unequal height.
    pub fn of_observations(
        observations: &[Observation],
        z_base: &[f32],
        proprio: &Normaliser,
        device: &Device,
    ) -> Result<Self, NnError> {
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
        let (height, width) = image_size(observations);
        let mut image = Vec::with_capacity(n * 3 * height * width);
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
        Ok(Self {
            image: tensor(image, [n, 3, height, width], device),
            proprio: tensor(state, [n, proprio.width()], device),
            z_base: tensor(z_base.to_vec(), [n, z_base.len() / n.max(1)], device),
        })
    }
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
    use super::{ResidualBatch, ResidualConfig, ResidualNet};
    use burn::tensor::Device;
    use w2a_nn::{Init, tensor, values};

    #[test]
    fn it_starts_as_the_identity_and_refuses_tiny_images() {
        let device = Device::flex();
        let mut rng = w2a_data::stream(0, "t");
        let mut init = Init { rng: &mut rng, device: &device };
        let net = ResidualNet::new(&ResidualConfig::default(), (64, 128), 11, 32, &mut init).unwrap();
        let batch = ResidualBatch {
            image: tensor(vec![0.5; 2 * 3 * 64 * 128], [2, 3, 64, 128], &device),
            proprio: tensor(vec![1.0; 22], [2, 11], &device),
            z_base: tensor(vec![2.0; 64], [2, 32], &device),
        };
        assert!(values(net.forward(&batch)).unwrap().iter().all(|&value| value == 0.0));
        let error = ResidualNet::new(&ResidualConfig::default(), (32, 64), 11, 32, &mut init).unwrap_err();
        assert!(error.to_string().contains("36x36"), "{error}");
    }

    #[test]
    fn images_of_256_pixels_give_the_papers_6272_features() {
        let device = Device::flex();
        let mut rng = w2a_data::stream(0, "t");
        let mut init = Init { rng: &mut rng, device: &device };
        let net = ResidualNet::new(&ResidualConfig::default(), (256, 256), 53, 32, &mut init).unwrap();
        assert_eq!(net.image.weight.val().dims(), [32, 6272]);
    }
}
