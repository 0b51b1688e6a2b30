//! The diffusion transformer of Cosmos-Predict2 Video2World: `MinimalV1LVGDiT` over `MiniTrainDIT` in
//! `models/{video2world_dit,text2image_dit}.py` of cosmos-predict2 1.0.9.
//!
//! Sizes follow from the tensors of a checkpoint; what they do not say is in [`DitOptions`]. Tensors have the authors' names,
//! and every one of them is read exactly once.

mod backward;
mod block;
mod parts;

use burn::tensor::{DType, Device, Tensor};
use w2a_nn::{Activation, NnError, activate};

pub(crate) use backward::MOST_SCORES;
pub use backward::{Activations, Differentiated};
use block::{Block, Modulation, RmsNorm, Time, modulate};

use super::compute::Compute;
use super::rope::{Rope, RopeRatios, SMALLEST_HEAD, angles};
use super::source::{Projection, Tensors};

/// Sees named intermediate results, flattened.
pub(crate) type Tap<'a> = &'a mut dyn FnMut(&str, Tensor<1>);

/// What the tensors of a checkpoint do not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DitOptions {
    /// Stretching of positions.
    pub rope: RopeRatios,
    /// Side of a patch in latent pixels.
    pub patch: usize,
    /// Frames of a patch.
    pub patch_frames: usize,
    /// Whether a channel of the input says what is padding.
    pub has_padding_mask: bool,
}

impl DitOptions {
    /// Those of the released models, whose stretching depends on the size.
    ///
    /// # Errors
    /// A checkpoint without a time embedding, or of a size that was not released and for which `rope` is not given.
    pub fn released(tensors: &Tensors, rope: Option<RopeRatios>) -> Result<Self, NnError> {
        let [width] = tensors.shape("t_embedding_norm.weight")?;
        let rope = match (rope, width) {
            (Some(rope), _) => rope,
            (None, 2048) => RopeRatios { time: 1.0, height: 3.0, width: 3.0 },
            (None, 5120) => RopeRatios { time: 5.0 / 6.0, height: 2.0, width: 2.0 },
            (None, _) => {
                return Err(NnError::Input {
                    what: format!("size of the DiT in {}", tensors.path().display()),
                    expected: "a width of 2048 (2B) or 5120 (14B), or the setting rope with time, height and width"
                        .into(),
                    got: format!("a width of {width}"),
                });
            }
        };
        Ok(Self { rope, patch: 2, patch_frames: 1, has_padding_mask: true })
    }
}

/// Sizes of a [`Dit`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DitConfig {
    /// Channels of the latents.
    pub channels: usize,
    /// Width of a token.
    pub width: usize,
    /// Transformer blocks.
    pub blocks: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the perceptrons.
    pub hidden: usize,
    /// Width of an embedded word.
    pub context: usize,
    /// Rank of the modulation.
    pub rank: usize,
    /// The rest.
    pub options: DitOptions,
}

impl DitConfig {
    /// The sizes that the tensors of a checkpoint have.
    ///
    /// # Errors
    /// Tensors that are missing or contradict each other.
    pub fn of(tensors: &Tensors, options: DitOptions) -> Result<Self, NnError> {
        let [width, patch_in] = tensors.shape("x_embedder.proj.1.weight")?;
        let [patch_out, _] = tensors.shape("final_layer.linear.weight")?;
        let [head] = tensors.shape("blocks.0.self_attn.q_norm.weight")?;
        let [hidden, _] = tensors.shape("blocks.0.mlp.layer1.weight")?;
        let [_, context] = tensors.shape("blocks.0.cross_attn.k_proj.weight")?;
        let [rank, _] = tensors.shape("blocks.0.adaln_modulation_mlp.1.weight")?;
        let blocks = (0..).take_while(|index| tensors.find(&block_name(*index, "mlp.layer1")).is_some()).count();
        let patch = options.patch * options.patch * options.patch_frames;
        let channels = patch_out / patch.max(1);
        // One channel says which frames are known, and one what is padding.
        let inputs = (channels + 1 + usize::from(options.has_padding_mask)) * patch;
        let fits = channels > 0
            && patch_out == channels * patch
            && patch_in == inputs
            && head >= SMALLEST_HEAD
            && head.is_multiple_of(2)
            && width.is_multiple_of(head)
            && width.is_multiple_of(2)
            && options.rope.time > 0.0
            && options.rope.height > 0.0
            && options.rope.width > 0.0;
        if !fits {
            return Err(NnError::Input {
                what: format!("sizes of the DiT in {}", tensors.path().display()),
                expected: format!(
                    "{inputs} values of an input patch for {channels} channels, an even head of at least {SMALLEST_HEAD} \
                     that divides the width, positive rope ratios: is it a Video2World model?"
                ),
                got: format!(
                    "{patch_in} values in, {patch_out} out, heads of {head}, width {width}, {:?}",
                    options.rope
                ),
            });
        }
        Ok(Self { channels, width, blocks, heads: width / head, hidden, context, rank, options })
    }
}

fn block_name(index: usize, part: &str) -> String {
    format!("blocks.{index}.{part}.weight")
}

/// Inputs of [`Dit::forward`].
#[derive(Clone, Debug)]
pub struct DitInput {
    /// Latents, `[batch, channels, frames, height, width]`.
    pub x: Tensor<5>,
    /// Time of every frame, or of all of them, in `[0, 1]`: `[batch, frames]` or `[batch, 1]`.
    pub times: Tensor<2>,
    /// Embedded words, `[batch, tokens, context]`.
    pub prompt: Tensor<3>,
    /// 1 where latents are known, `[batch, 1, frames, height, width]`.
    pub known: Tensor<5>,
    /// 1 where the picture is padding, `[batch, 1, height, width]`; not used by a model without that channel.
    pub padding: Tensor<4>,
}

/// The network, its weights in memory.
#[derive(Clone, Debug)]
pub struct Dit {
    config: DitConfig,
    patch: Projection,
    time: (Projection, Projection, RmsNorm),
    blocks: Vec<Block>,
    last: (Modulation, Projection),
    compute: Compute,
}

impl Dit {
    /// Reads the weights; `each` is told how many of how many blocks are read.
    ///
    /// # Errors
    /// Tensors that are missing, of another size, or cannot be read.
    pub fn load(
        tensors: &Tensors,
        options: DitOptions,
        device: &Device,
        mut each: impl FnMut(usize, usize),
    ) -> Result<Self, NnError> {
        let config = DitConfig::of(tensors, options)?;
        let DitConfig { channels, width, .. } = config;
        let patch = options.patch * options.patch * options.patch_frames;
        let inputs = (channels + 1 + usize::from(options.has_padding_mask)) * patch;
        let mut blocks = Vec::with_capacity(config.blocks);
        for index in 0..config.blocks {
            blocks.push(Block::load(tensors, index, &config, device)?);
            each(index + 1, config.blocks);
        }
        Ok(Self {
            config,
            patch: tensors.projection("x_embedder.proj.1.weight", [width, inputs], device)?,
            time: (
                tensors.projection("t_embedder.1.linear_1.weight", [width, width], device)?,
                tensors.projection("t_embedder.1.linear_2.weight", [3 * width, width], device)?,
                RmsNorm(tensors.float("t_embedding_norm.weight", [width], device)?),
            ),
            blocks,
            last: (
                Modulation::load(tensors, "final_layer.adaln_modulation", &config, 2, device)?,
                tensors.projection("final_layer.linear.weight", [channels * patch, width], device)?,
            ),
            compute: Compute::F32,
        })
    }

    /// The same network with activations in `compute`, which its device has to have.
    pub fn computing(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// Its sizes.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// The network's output in f32, of the shape of the latents; `tap` sees what is between.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, input: DitInput, tap: Tap) -> Result<Tensor<5>, NnError> {
        let grid = self.check(&input)?;
        let (shape, prompt, device) = (input.x.dims(), self.words(&input), input.x.device());
        let (mut x, time) = self.begin(input, grid, &mut *tap);
        let rope = self.rope(grid, &device, &mut *tap);
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, &time, &prompt, &rope, &format!("block.{index}"), &mut *tap);
        }
        Ok(self.end(x, &time, shape, tap))
    }

    /// The embedded words, as they are computed with.
    fn words(&self, input: &DitInput) -> Tensor<3> {
        input.prompt.clone().cast(self.compute.dtype())
    }

    /// Tokens `[batch, frames, places, width]` and what is known of the time.
    fn begin(&self, input: DitInput, [frames, rows, columns]: [usize; 3], tap: Tap) -> (Tensor<4>, Time) {
        let DitConfig { width, options, .. } = self.config;
        let DitInput { x, times, known, padding, .. } = input;
        let [batch, _, latent_frames, height, latent_width] = x.dims();
        let mut parts = vec![x, known];
        if options.has_padding_mask {
            parts.push(padding.unsqueeze_dim::<5>(2).expand([batch, 1, latent_frames, height, latent_width]));
        }
        let inputs = parts.iter().map(|part| part.dims()[1]).sum::<usize>();
        let (p, r) = (options.patch, options.patch_frames);
        // Patches of [channels, frames, rows, columns].
        let patches: Tensor<8> = Tensor::cat(parts, 1).reshape([batch, inputs, frames, r, rows, p, columns, p]);
        let patches =
            patches.permute([0, 2, 4, 6, 1, 3, 5, 7]).reshape([batch, frames, rows * columns, inputs * r * p * p]);
        let x = self.patch.forward(patches.cast(self.compute.dtype()));
        tap("x_embedder", x.clone().flatten(0, -1));

        let (first, second, norm) = &self.time;
        let raw = sinusoid(times, width);
        let time = Time {
            embedded: norm.forward(raw.clone()),
            shared: second.forward(activate(first.forward(raw), Activation::Silu)),
        };
        tap("t_emb", time.embedded.clone().flatten(0, -1));
        tap("adaln_lora", time.shared.clone().flatten(0, -1));
        (x, time)
    }

    /// Positions of all tokens.
    fn rope(&self, grid: [usize; 3], device: &Device, tap: Tap) -> Rope {
        let head = self.config.width / self.config.heads;
        let angles = angles(grid, head, self.config.options.rope);
        tap("rope_angles", w2a_nn::tensor(angles.clone(), [angles.len()], device));
        Rope::new(&angles, head, device)
    }

    /// From the tokens to latents of `shape`.
    fn end(&self, x: Tensor<4>, time: &Time, shape: [usize; 5], tap: Tap) -> Tensor<5> {
        let DitConfig { channels, options, .. } = self.config;
        let [batch, _, latent_frames, height, latent_width] = shape;
        let (p, r) = (options.patch, options.patch_frames);
        let (frames, rows, columns) = (latent_frames / r, height / p, latent_width / p);
        let (modulation, linear) = &self.last;
        let [shift, scale] = modulation.forward(time);
        let x = linear.forward(modulate(x, shift, scale)).cast(DType::F32);
        tap("final_layer", x.clone().flatten(0, -1));
        // Patches of [rows, columns, frames, channels].
        let x: Tensor<8> = x.reshape([batch, frames, rows, columns, p, p, r, channels]);
        x.permute([0, 7, 1, 6, 2, 4, 3, 5]).reshape([batch, channels, latent_frames, height, latent_width])
    }

    /// Patches of the input in time, rows and columns.
    fn check(&self, input: &DitInput) -> Result<[usize; 3], NnError> {
        let DitConfig { channels, context, options, .. } = self.config;
        let [batch, found, frames, height, width] = input.x.dims();
        let [times_of, times] = input.times.dims();
        let [prompts, words, wide] = input.prompt.dims();
        let fits = found == channels
            && frames > 0
            && frames.is_multiple_of(options.patch_frames)
            && height > 0
            && height.is_multiple_of(options.patch)
            && width > 0
            && width.is_multiple_of(options.patch)
            && times_of == batch
            && (times == 1 || times * options.patch_frames == frames)
            && prompts == batch
            && words > 0
            && wide == context
            && input.known.dims() == [batch, 1, frames, height, width]
            && input.padding.dims() == [batch, 1, height, width];
        if fits {
            return Ok([frames / options.patch_frames, height / options.patch, width / options.patch]);
        }
        Err(NnError::Input {
            what: "input of the DiT".into(),
            expected: format!(
                "latents of {channels} channels whose frames divide into patches of {} and whose sides into {}, a time for \
                 each frame, words of width {context}",
                options.patch_frames, options.patch
            ),
            got: format!(
                "latents {:?}, times {:?}, words {:?}, known {:?}, padding {:?}",
                input.x.dims(),
                input.times.dims(),
                input.prompt.dims(),
                input.known.dims(),
                input.padding.dims()
            ),
        })
    }
}

/// Cosines, then sines of times: `[batch, times]` → `[batch, times, width]`.
fn sinusoid(times: Tensor<2>, width: usize) -> Tensor<3> {
    let half = width / 2;
    let frequency = |index: usize| (-10_000.0_f32.ln() * index as f32 / half as f32).exp();
    let frequencies = w2a_nn::tensor((0..half).map(frequency).collect(), [1, 1, half], &times.device());
    let angles: Tensor<3> = times.unsqueeze_dim::<3>(2) * frequencies;
    Tensor::cat(vec![angles.clone().cos(), angles.sin()], 2)
}
