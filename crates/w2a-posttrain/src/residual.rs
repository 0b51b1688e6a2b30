//! The residual policy: three tokens through a small attention stack (paper, section 3.3 and table of sizes).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use w2a_data::{Normaliser, Observation};
use w2a_nn::{
    Activation, Block, BlockConfig, Conv2d, Init, LayerNorm, Linear, NnError, Prepared, PreparedBlock, Stage,
    perceptron, stack, tensor, values,
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

/// [`ResidualNet`] for single observations.
#[derive(Debug)]
pub struct PreparedResidual {
    pub(crate) state: Prepared,
    state_norm: [Vec<f32>; 2],
    pub(crate) image: Prepared,
    image_norm: [Vec<f32>; 2],
    action: Prepared,
    kind: Vec<f32>,
    blocks: Vec<PreparedBlock>,
    head: Prepared,
}

impl PreparedResidual {
    /// `dz`, `[D]`, of an image `[3, rows, columns]`, normalised proprioception and `z_base`.
    ///
    /// # Panics
    /// If an input has another size than the network's.
    pub fn run(&self, image: &[f32], proprio: &[f32], z_base: &[f32]) -> Vec<f32> {
        let mut tokens = self.state.run(proprio);
        LayerNorm::of_row(&self.state_norm, &mut tokens);
        let mut of_image = self.image.run(image);
        LayerNorm::of_row(&self.image_norm, &mut of_image);
        tokens.extend(of_image);
        tokens.extend(self.action.run(z_base));
        tokens.iter_mut().zip(&self.kind).for_each(|(token, kind)| *token += kind);
        let width = tokens.len() / 3;
        for block in &self.blocks {
            tokens = block.run(&tokens);
        }
        self.head.run(&tokens[2 * width..])
    }
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
        let state = perceptron(batch.proprio.clone(), &self.state_layers(), Activation::Relu);
        let state = self.state_norm.forward(state);
        let image = stack(batch.image.clone(), &self.image_stages(), false).reshape([n, width]);
        let image = self.image_norm.forward(image);
        let action = self.action.forward(batch.z_base.clone());
        let mut tokens: Tensor<3> = Tensor::stack(vec![state, image, action], 1) + self.kind.val();
        for block in &self.blocks {
            tokens = block.forward(tokens, None);
        }
        let action = tokens.narrow(1, 2, 1).reshape([n, width]);
        perceptron(action, &self.head_layers(), Activation::Gelu)
    }

    fn state_layers(&self) -> [(Tensor<2>, Tensor<1>); 2] {
        [&self.state1, &self.state2].map(Linear::parameters)
    }

    fn head_layers(&self) -> [(Tensor<2>, Tensor<1>); 2] {
        [&self.hidden, &self.out].map(Linear::parameters)
    }

    /// From the image to its token. The linear layer behind the flattening is a convolution that sees the whole image.
    fn image_stages(&self) -> [Stage; 4] {
        let [conv1, conv2, conv3] =
            [&self.conv1, &self.conv2, &self.conv3].map(|conv| conv.stage().activation(Activation::Relu));
        let (weight, bias) = self.image.parameters();
        let weight = weight.reshape([bias.dims()[0], 32, self.cells.0, self.cells.1]);
        [conv1, conv2, conv3, Stage::new(weight, bias, [1; 2], [0; 2])]
    }

    /// The network for single observations with images of `size`, without tensors.
    ///
    /// # Errors
    /// A token width that is no multiple of 16, images that the network was not made for, or a device that does not hand
    /// its values over.
    pub fn prepare(&self, (rows, columns): (usize, usize)) -> Result<PreparedResidual, NnError> {
        let norm = |norm: &LayerNorm| Ok([values(norm.weight.val())?, values(norm.bias.val())?]);
        let image = Prepared::stack([3, rows, columns], &self.image_stages(), false)?;
        if image.output_len() != self.image.bias.val().dims()[0] {
            return Err(NnError::Input {
                what: "image of the residual policy".into(),
                expected: format!("a size that leaves {}x{} cells", self.cells.0, self.cells.1),
                got: format!("{rows}x{columns} pixels"),
            });
        }
        Ok(PreparedResidual {
            state: Prepared::perceptron(&self.state_layers(), Activation::Relu)?,
            state_norm: norm(&self.state_norm)?,
            image,
            image_norm: norm(&self.image_norm)?,
            action: Prepared::perceptron(&[self.action.parameters()], Activation::Identity)?,
            kind: values(self.kind.val())?,
            blocks: self.blocks.iter().map(|block| block.prepare(3)).collect::<Result<_, _>>()?,
            head: Prepared::perceptron(&self.head_layers(), Activation::Gelu)?,
        })
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
        observations.iter().for_each(|observation| push_image(observation, &mut image));
        Ok(Self {
            image: tensor(image, [n, 3, height, width], device),
            proprio: tensor(state, [n, proprio.width()], device),
            z_base: tensor(z_base.to_vec(), [n, z_base.len() / n.max(1)], device),
        })
    }
}

/// Appends the cameras side by side, `[3, height, width]` in `[-1, 1]`.
pub(crate) fn push_image(observation: &Observation, out: &mut Vec<f32>) {
    let height = observation.cameras.first().map_or(0, |camera| camera.height);
    for channel in 0..3 {
        for row in 0..height {
            for camera in &observation.cameras {
                let start = row * camera.width * 3;
                let pixels = camera.rgb[start..start + camera.width * 3].iter().skip(channel).step_by(3);
                out.extend(pixels.map(|&byte| f32::from(byte) / 127.5 - 1.0));
            }
        }
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
