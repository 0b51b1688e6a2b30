//! The SigLIP2 vision tower and the projector behind it: image patches to tokens of the language model.
//!
//! Weight names are the checkpoint's below `backbone.model.`; the attention pooling `head.*` in the file is not used.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::Deserialize;
use w2a_nn::{Activation, NnError, activate, tensor};

use super::layers::{Affine, Norm, Tap, attend, split_heads};
use super::source::Weights;
use super::wrong;

/// Sizes of the tower, with the names of its `vision_config`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VisionConfig {
    /// Width of a patch's features.
    pub hidden_size: usize,
    /// Width of the hidden layer of a block's perceptron.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Colours.
    pub num_channels: usize,
    /// Learned positions: the square of their grid's side.
    pub num_patches: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// Activation of the perceptrons.
    pub hidden_act: String,
    /// Rotary positions, which this program does not have.
    #[serde(default)]
    pub use_rope: bool,
}

impl VisionConfig {
    /// That of Eagle-Block2A-2B-v2, the backbone of GR00T-N1.6.
    pub fn eagle_block2a() -> Self {
        Self {
            hidden_size: 1152,
            intermediate_size: 4304,
            num_hidden_layers: 27,
            num_attention_heads: 16,
            num_channels: 3,
            num_patches: 256,
            patch_size: 14,
            layer_norm_eps: 1e-6,
            hidden_act: "gelu_pytorch_tanh".into(),
            use_rope: false,
        }
    }

    /// Side of the grid of learned positions.
    pub fn grid(&self) -> usize {
        self.num_patches.isqrt()
    }

    /// Checks that the sizes fit together and that this program has what they ask for.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self) -> Result<(), NnError> {
        let sizes =
            [self.hidden_size, self.intermediate_size, self.num_attention_heads, self.patch_size, self.num_patches];
        let fits = sizes.iter().all(|size| (1..=1 << 20).contains(size))
            && self.num_hidden_layers <= 1 << 10
            && self.hidden_size.is_multiple_of(self.num_attention_heads)
            && self.grid().pow(2) == self.num_patches
            && self.num_channels == 3;
        if fits && self.hidden_act == "gelu_pytorch_tanh" && !self.use_rope {
            return Ok(());
        }
        let expected = "RGB, a width that the heads divide, a square number of positions, gelu_pytorch_tanh and no rotary \
                        positions";
        Err(wrong("vision_config of the backbone", expected, format!("{self:?}")))
    }
}

#[derive(Module, Debug)]
struct Layer {
    layer_norm1: Norm,
    q_proj: Affine,
    k_proj: Affine,
    v_proj: Affine,
    out_proj: Affine,
    layer_norm2: Norm,
    fc1: Affine,
    fc2: Affine,
    heads: usize,
}

impl Layer {
    fn load(weights: &Weights, name: &str, config: &VisionConfig) -> Result<Self, NnError> {
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let projection = |part: &str| weights.linear(&format!("{name}.self_attn.{part}"), width, width);
        let norm = |part: &str| Norm::load(weights, &format!("{name}.{part}"), width, config.layer_norm_eps);
        Ok(Self {
            layer_norm1: norm("layer_norm1")?,
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            layer_norm2: norm("layer_norm2")?,
            fc1: weights.linear(&format!("{name}.mlp.fc1"), width, hidden)?,
            fc2: weights.linear(&format!("{name}.mlp.fc2"), hidden, width)?,
            heads: config.num_attention_heads,
        })
    }

    /// `[images, patches, width]` → the same shape.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let h = self.layer_norm1.forward(x.clone());
        let heads = |layer: &Affine| split_heads(layer.forward(h.clone()), self.heads);
        let mixed = attend(heads(&self.q_proj), heads(&self.k_proj), heads(&self.v_proj), None);
        let x = x + self.out_proj.forward(mixed);
        let h = activate(self.fc1.forward(self.layer_norm2.forward(x.clone())), Activation::GeluTanh);
        x + self.fc2.forward(h)
    }
}

/// The tower and the projector.
#[derive(Module, Debug)]
pub struct VisionTower {
    patch_embedding: Affine,
    /// `[grid * grid, width]`.
    position_embedding: burn::module::Param<Tensor<2>>,
    layers: Vec<Layer>,
    post_layernorm: Norm,
    projector_norm: Norm,
    projector1: Affine,
    projector2: Affine,
    grid: usize,
    /// Side of the square of patches that becomes one token.
    merge: usize,
}

impl VisionTower {
    /// Reads the tower and a projector from `merge * merge` patches to a token of width `output`.
    ///
    /// # Errors
    /// A configuration that this program does not have, or weights that do not fit it.
    pub fn load(weights: &Weights, config: &VisionConfig, merge: usize, output: usize) -> Result<Self, NnError> {
        config.validate()?;
        let tower = "backbone.model.vision_model.vision_model";
        let width = config.hidden_size;
        let merged = width * merge * merge;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            layers.push(Layer::load(weights, &format!("{tower}.encoder.layers.{index}"), config)?);
        }
        let pixels = config.patch_size * config.patch_size * config.num_channels;
        let positions = format!("{tower}.embeddings.position_embedding.weight");
        Ok(Self {
            patch_embedding: weights.linear(&format!("{tower}.embeddings.patch_embedding"), pixels, width)?,
            position_embedding: weights.param(&positions, [config.num_patches, width])?,
            layers,
            post_layernorm: Norm::load(weights, &format!("{tower}.post_layernorm"), width, config.layer_norm_eps)?,
            projector_norm: Norm::load(weights, "backbone.model.mlp1.0", merged, 1e-5)?,
            projector1: weights.linear("backbone.model.mlp1.1", merged, output)?,
            projector2: weights.linear("backbone.model.mlp1.3", output, output)?,
            grid: config.grid(),
            merge,
        })
    }

    /// Patches `[images, rows * columns, pixels]` → tokens `[images, rows * columns / merge^2, output]`, for images of one
    /// size. `tap` gets `embeddings`, each `layer`, `vision_out`, `unshuffled` and `projected`.
    pub fn forward(&self, patches: Tensor<3>, [rows, columns]: [usize; 2], tap: Tap) -> Tensor<3> {
        let positions = self.positions(rows, columns);
        let mut x = self.patch_embedding.forward(patches) + positions.unsqueeze();
        tap("embeddings", 0, &x);
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            tap("layer", index, &x);
        }
        let x = self.post_layernorm.forward(x);
        tap("vision_out", 0, &x);
        let x = unshuffle(x, [rows, columns], self.merge);
        tap("unshuffled", 0, &x);
        let x = activate(self.projector1.forward(self.projector_norm.forward(x)), Activation::Gelu);
        let x = self.projector2.forward(x);
        tap("projected", 0, &x);
        x
    }

    /// The learned positions, resized to the image's grid: `[rows * columns, width]`.
    fn positions(&self, rows: usize, columns: usize) -> Tensor<2> {
        let table = self.position_embedding.val();
        if (rows, columns) == (self.grid, self.grid) {
            return table;
        }
        let (down, across) = (resample(self.grid, rows), resample(self.grid, columns));
        let mut mixing = Vec::with_capacity(rows * columns * self.grid * self.grid);
        for row in &down {
            for column in &across {
                mixing.extend(row.iter().flat_map(|y| column.iter().map(move |x| y * x)));
            }
        }
        tensor(mixing, [rows * columns, self.grid * self.grid], &table.device()).matmul(table)
    }
}

/// Weights of each of `to` places over `from` places: linear interpolation that averages where it shrinks, as
/// `interpolate(mode="bilinear", antialias=True, align_corners=False)` of PyTorch.
fn resample(from: usize, to: usize) -> Vec<Vec<f32>> {
    let scale = from as f32 / to as f32;
    let support = scale.max(1.0);
    (0..to)
        .map(|index| {
            let centre = scale * (index as f32 + 0.5);
            let first = ((centre - support + 0.5) as isize).max(0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let mut weights = vec![0.0_f32; from];
            for (at, weight) in weights.iter_mut().enumerate().take(end).skip(first) {
                *weight = (1.0 - ((at as f32 - centre + 0.5) / support).abs()).max(0.0);
            }
            let total: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= total);
            weights
        })
        .collect()
}

/// Squares of `merge * merge` neighbours side by side, `[images, rows * columns, width]` → `[images, tokens, width *
/// merge^2]`; channel `c`, row `dy` and column `dx` of a square come to `(c * merge + dy) * merge + dx`.
fn unshuffle(x: Tensor<3>, [rows, columns]: [usize; 2], merge: usize) -> Tensor<3> {
    let [images, _, width] = x.dims();
    let (down, across) = (rows / merge, columns / merge);
    let x: Tensor<6> = x.reshape([images, down, merge, across, merge, width]);
    x.permute([0, 1, 3, 5, 2, 4]).reshape([images, down * across, width * merge * merge])
}
