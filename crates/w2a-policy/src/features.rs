//! The vision trunk of the embedded policy and inverse dynamics model.
//!
//! A patch embedding, one convolution, language modulation, and a spatial softmax: key-points rather than a flattened map,
//! because where a thing is should carry over to places without labels.

use burn::module::Module;
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::{Device, Tensor};
use w2a_nn::{Conv2d, Init, Linear, tensor};

/// Sizes of the trunk.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VisionConfig {
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Channels of the patch embedding.
    pub channels: usize,
    /// Key-points per camera.
    pub keypoints: usize,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self { patch: 4, channels: 48, keypoints: 64 }
    }
}

/// Images of one camera as patches.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    /// `[batch, rows * columns, patch * patch * channels]`, bytes scaled to `[-1, 1]`.
    pub patches: Tensor<3>,
    /// Rows and columns of patches.
    pub grid: (usize, usize),
}

impl ImageBatch {
    /// Cuts `images`, each `[height, width, 3]` bytes, into square patches; rows and columns that do not fill a patch are
    /// left out.
    pub fn new<'a>(
        images: impl ExactSizeIterator<Item = &'a [u8]>,
        height: usize,
        width: usize,
        patch: usize,
        device: &Device,
    ) -> Self {
        let (rows, columns) = (height / patch, width / patch);
        let batch = images.len();
        let mut out = Vec::with_capacity(batch * rows * columns * patch * patch * 3);
        for image in images {
            for row in 0..rows {
                for column in 0..columns {
                    for y in 0..patch {
                        let start = ((row * patch + y) * width + column * patch) * 3;
                        out.extend(image[start..start + patch * 3].iter().map(|&byte| f32::from(byte) / 127.5 - 1.0));
                    }
                }
            }
        }
        let patches = tensor(out, [batch, rows * columns, patch * patch * 3], device);
        Self { patches, grid: (rows, columns) }
    }
}

/// One camera's trunk.
#[derive(Module, Debug)]
pub struct VisionTrunk {
    embed: Linear,
    conv: Conv2d,
    film: Linear,
    keypoints: Linear,
}

impl VisionTrunk {
    /// A fresh trunk for `frames` images at once (their patches concatenated), whose features are modulated by a condition
    /// of width `condition`.
    pub fn new(config: &VisionConfig, frames: usize, condition: usize, init: &mut Init) -> Self {
        let VisionConfig { patch, channels, keypoints } = *config;
        Self {
            embed: Linear::new(patch * patch * 3 * frames, channels, init),
            conv: Conv2d::new(channels, 64, 3, 2, 1, init),
            film: Linear::new(condition, 128, init),
            keypoints: Linear::new(64, keypoints, init),
        }
    }

    /// Width of the features for `keypoints` key-points: two coordinates and a strength each.
    pub fn width(config: &VisionConfig) -> usize {
        3 * config.keypoints
    }

    /// `condition` `[batch, condition]` → features `[batch, 3 * keypoints]`.
    pub fn forward(&self, images: &ImageBatch, condition: Tensor<2>) -> Tensor<2> {
        let (rows, columns) = images.grid;
        let batch = images.patches.dims()[0];
        let embedded = gelu(self.embed.forward(images.patches.clone()));
        let channels = embedded.dims()[2];
        let map = embedded.reshape([batch, rows, columns, channels]).permute([0, 3, 1, 2]);
        let map = self.conv.forward(map).permute([0, 2, 3, 1]);
        let [_, rows, columns, channels] = map.dims();
        let map = map.reshape([batch, rows * columns, channels]);
        let film = self.film.forward(condition).reshape([batch, 1, 2 * channels]);
        let map = gelu(map * (film.clone().narrow(2, 0, channels) + 1.0) + film.narrow(2, channels, channels));
        let logits = self.keypoints.forward(map).swap_dims(1, 2);
        let points = logits.dims()[1];
        let place = softmax(logits.clone(), 2);
        let coordinates = place.clone().matmul(grid(rows, columns, &place.device()).unsqueeze());
        let strength = (place * logits).sum_dim(2);
        Tensor::cat(vec![coordinates.reshape([batch, 2 * points]), strength.reshape([batch, points])], 1)
    }
}

/// Coordinates in `[-1, 1]` of the cells of a map, `[rows * columns, 2]`.
fn grid(rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    let place = |index: usize, count: usize| (2 * index + 1) as f32 / count as f32 - 1.0;
    let cells = (0..rows * columns).flat_map(|cell| [place(cell / columns, rows), place(cell % columns, columns)]);
    tensor(cells.collect(), [rows * columns, 2], device)
}
