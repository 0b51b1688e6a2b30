//! The vision trunk of the embedded policy, inverse dynamics model and world model.
//!
//! Overlapping windows of pixels become features; queries made from the instruction attend to them and return where they
//! looked and what they saw. Where a thing is comes out as coordinates rather than as a position in a flattened map,
//! because it should carry over to places without labels.

use burn::module::Module;
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::{Device, Tensor};

use crate::{Init, LayerNorm, Linear, tensor};

/// Sizes of the trunk.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VisionConfig {
    /// Distance of neighbouring windows in pixels; windows are twice as wide.
    pub patch: usize,
    /// Features per window.
    pub channels: usize,
    /// Queries per camera.
    pub keypoints: usize,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self { patch: 4, channels: 64, keypoints: 24 }
    }
}

/// Features that each query returns besides its place.
const SEEN: usize = 16;

/// Images of one camera as overlapping windows.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    /// `[batch, rows * columns, (2 patch)^2 * 3]`, bytes scaled to `[-1, 1]`.
    pub windows: Tensor<3>,
    /// Rows and columns of windows.
    pub grid: (usize, usize),
}

impl ImageBatch {
    /// Cuts `images`, each `[height, width, 3]` bytes, into windows of `2 patch` pixels every `patch` pixels, centred on the
    /// patches; the border repeats its last pixel. Rows and columns that do not fill a patch are left out.
    pub fn new<'a>(
        images: impl ExactSizeIterator<Item = &'a [u8]>,
        height: usize,
        width: usize,
        patch: usize,
        device: &Device,
    ) -> Self {
        let (rows, columns) = (height / patch, width / patch);
        let (batch, side) = (images.len(), 2 * patch);
        let mut out = Vec::with_capacity(batch * rows * columns * side * side * 3);
        let clamp = |at: usize, limit: usize| at.saturating_sub(patch / 2).min(limit - 1);
        for image in images {
            for row in 0..rows {
                for column in 0..columns {
                    for y in 0..side {
                        let y = clamp(row * patch + y, height) * width;
                        for x in 0..side {
                            let at = (y + clamp(column * patch + x, width)) * 3;
                            out.extend(image[at..at + 3].iter().map(|&byte| f32::from(byte) / 127.5 - 1.0));
                        }
                    }
                }
            }
        }
        let windows = tensor(out, [batch, rows * columns, side * side * 3], device);
        Self { windows, grid: (rows, columns) }
    }
}

/// One camera's trunk.
#[derive(Module, Debug)]
pub struct VisionTrunk {
    embed: Linear,
    mix: Linear,
    norm: LayerNorm,
    query: Linear,
    value: Linear,
    keypoints: usize,
}

impl VisionTrunk {
    /// A fresh trunk for `frames` images at once (their windows concatenated), whose queries come from a condition of width
    /// `condition`.
    pub fn new(config: &VisionConfig, frames: usize, condition: usize, init: &mut Init) -> Self {
        let VisionConfig { patch, channels, keypoints } = *config;
        Self {
            embed: Linear::new(4 * patch * patch * 3 * frames, channels, init),
            mix: Linear::new(channels, channels, init),
            norm: LayerNorm::new(channels, init),
            query: Linear::new(condition, keypoints * channels, init),
            value: Linear::new(channels, SEEN, init),
            keypoints,
        }
    }

    /// Width of the features: two coordinates and [`SEEN`] values per query.
    pub fn width(config: &VisionConfig) -> usize {
        (2 + SEEN) * config.keypoints
    }

    /// Its linear layers by name.
    pub fn linear_layers(&mut self) -> [(&'static str, &mut Linear); 4] {
        let Self { embed, mix, query, value, .. } = self;
        [("embed", embed), ("mix", mix), ("query", query), ("value", value)]
    }

    /// `condition` `[batch, condition]` → features `[batch, width]`.
    pub fn forward(&self, images: &ImageBatch, condition: Tensor<2>) -> Tensor<2> {
        let (rows, columns) = images.grid;
        let batch = images.windows.dims()[0];
        let features = gelu(self.embed.forward(images.windows.clone()));
        let features = self.norm.forward(self.mix.forward(features.clone()) + features);
        let channels = features.dims()[2];
        let query = self.query.forward(condition).reshape([batch, self.keypoints, channels]);
        // Unit-variance features against queries of order one: no division by the root of the width, so that attention can
        // become sharp early.
        let place = softmax(query.matmul(features.clone().swap_dims(1, 2)), 2);
        let device = place.device();
        let coordinates = place.clone().matmul(grid(rows, columns, &device).unsqueeze());
        let seen = place.matmul(self.value.forward(features));
        Tensor::cat(
            vec![coordinates.reshape([batch, 2 * self.keypoints]), seen.reshape([batch, SEEN * self.keypoints])],
            1,
        )
    }
}

/// Coordinates in `[-1, 1]` of the cells of a map, `[rows * columns, 2]`.
fn grid(rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    let place = |index: usize, count: usize| (2 * index + 1) as f32 / count as f32 - 1.0;
    let cells = (0..rows * columns).flat_map(|cell| [place(cell / columns, rows), place(cell % columns, columns)]);
    tensor(cells.collect(), [rows * columns, 2], device)
}

#[cfg(test)]
mod tests {
    use super::ImageBatch;
    use burn::tensor::Device;

    #[test]
    fn windows_are_centred_on_their_patches_and_repeat_the_border() {
        // One row of four pixels with grey levels 0, 85, 170, 255; patches of two pixels, windows of four.
        let image: Vec<u8> = [0, 85, 170, 255].iter().flat_map(|&grey| [grey; 3]).collect::<Vec<_>>().repeat(2);
        let batch = ImageBatch::new([image.as_slice()].into_iter(), 2, 4, 2, &Device::flex());
        assert_eq!((batch.grid, batch.windows.dims()), ((1, 2), [1, 2, 48]));
        let values = crate::values(batch.windows).unwrap();
        let row: Vec<i32> =
            values[..12].iter().step_by(3).map(|value| ((value + 1.0) * 127.5).round() as i32).collect();
        assert_eq!(row, [0, 0, 85, 170]);
    }
}
