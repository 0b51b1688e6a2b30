//! How much memory fine-tuning and imagining take, before they start.

use super::dit::{Activations, DitConfig, MOST_SCORES};
use super::prompts::MOST_WORDS;
use super::vae::Tiling;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trained {
    /// All weights, in f32.
    Full,
    /// Changes of low rank of the layers of [`super::Dit::adaptable`]; the weights stay as they are stored.
    Lora {
        /// Their rank.
        rank: usize,
    },
}

/// What the memory depends on.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// Sizes of the network.
    pub dit: DitConfig,
    /// Values of its weights, and the bytes that they take as they are stored: [`super::Tensors::totals`].
    pub weights: (u64, u64),
    /// What is trained.
    pub trained: Trained,
    /// What happens to activations.
    pub activations: Activations,
    /// Whether the moving average of what is trained is kept.
    pub averages: bool,
    /// Frames, rows and columns of the latents of a clip.
    pub latents: [usize; 3],
}

/// Bytes that fine-tuning takes; measured peaks have been 0.7 to 1.0 of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Of the network.
    pub weights: u64,
    /// Of what is trained, where that is not the network itself.
    pub parameters: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// Two moments of what is trained.
    pub optimiser: u64,
    /// The moving average, and the copy of the parameters that it is updated from.
    pub average: u64,
    /// What a forward and a backward pass keep.
    pub activations: u64,
}

/// Values that burn's autodiff keeps for each token and each unit of width in a block: norms, modulations, rotations and the
/// inputs of products, counted in `block.rs` and held against measured peaks.
const KEPT_OF_WIDTH: u64 = 24;
/// The same for each unit of the perceptron's hidden width.
const KEPT_OF_HIDDEN: u64 = 4;
/// Copies of the scores of an attention.
const KEPT_OF_SCORES: u64 = 5;

impl MemoryPlan {
    /// Values that are trained.
    pub fn trained_values(&self) -> u64 {
        let DitConfig { width, hidden, context, blocks, .. } = self.dit;
        match self.trained {
            Trained::Full => self.weights.0,
            Trained::Lora { rank } => {
                // Four layers of the attention to tokens, four of that to words, two of the perceptron: inputs and outputs.
                let own = 8 * width;
                let words = 2 * width + 2 * (context + width) + 2 * width;
                (blocks * rank * (own + words + 2 * (width + hidden))) as u64
            }
        }
    }

    /// The bytes.
    pub fn estimate(&self) -> MemoryEstimate {
        let DitConfig { width, hidden, blocks, heads, options, .. } = self.dit;
        let trained = 4 * self.trained_values();
        let is_full = self.trained == Trained::Full;
        let [frames, rows, columns] = self.latents;
        let patch = (options.patch * options.patch * options.patch_frames).max(1);
        let tokens = (frames * rows * columns / patch) as u64;
        let block = 4 * tokens * (KEPT_OF_WIDTH * width as u64 + KEPT_OF_HIDDEN * hidden as u64)
            + 4 * KEPT_OF_SCORES * tokens * (heads * MOST_WORDS) as u64;
        let scores = (heads as u64 * tokens * tokens).min(MOST_SCORES as u64);
        // Casting a weight that is stored as bf16 makes a copy for its product.
        let cast =
            if is_full || self.weights.1 == 4 * self.weights.0 { 0 } else { 4 * self.weights.0 / blocks.max(1) as u64 };
        let kept = match self.activations {
            Activations::Recompute => block + cast + 4 * tokens * (blocks * width) as u64,
            Activations::Keep => blocks as u64 * (block + cast),
        };
        MemoryEstimate {
            weights: if is_full { trained } else { self.weights.1 },
            parameters: if is_full { 0 } else { trained },
            gradients: trained,
            optimiser: 2 * trained,
            average: if self.averages { 2 * trained } else { 0 },
            activations: kept + 4 * KEPT_OF_SCORES * scores,
        }
    }
}

impl MemoryEstimate {
    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { weights, parameters, gradients, optimiser, average, activations } = *self;
        [weights, parameters, gradients, optimiser, average, activations].into_iter().fold(0, u64::saturating_add)
    }
}

impl std::fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("weights", self.weights),
            ("adapters", self.parameters),
            ("gradients", self.gradients),
            ("optimiser", self.optimiser),
            ("moving average", self.average),
            ("activations", self.activations),
        ];
        write!(f, "{}", gib(self.total()))?;
        let mut separator = " = ";
        for (name, bytes) in parts.into_iter().filter(|(_, bytes)| *bytes > 0) {
            write!(f, "{separator}{name} {}", gib(bytes))?;
            separator = " + ";
        }
        Ok(())
    }
}

/// What the memory of imagining depends on.
#[derive(Clone, Debug)]
pub struct SamplingPlan {
    /// Sizes of the network.
    pub dit: DitConfig,
    /// Bytes of its weights as they are stored: [`super::Tensors::totals`].
    pub weights: u64,
    /// Values of the weights of the autoencoder, and channels behind its first convolution.
    pub autoencoder: (u64, usize),
    /// Frames, rows and columns of the latents of a clip.
    pub latents: [usize; 3],
    /// Tiles of the autoencoder.
    pub tiles: Option<Tiling>,
    /// Whether clips follow each other, each from the last frame of the one before, for which that one is decoded.
    pub is_chained: bool,
}

/// Bytes that imagining takes; measured peaks have been 0.7 to 1.0 of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplingEstimate {
    /// Of both networks, and of reading them.
    pub weights: u64,
    /// What a pass through the DiT holds at most.
    pub dit: u64,
    /// What encoding the first frame holds, or decoding where clips follow each other.
    pub autoencoder: u64,
}

/// Values that a pass holds for each token and each unit of width.
const HELD_OF_WIDTH: u64 = 10;
/// The same for each unit of the perceptron's hidden width.
const HELD_OF_HIDDEN: u64 = 4;
/// Bytes beside: the program, and what reading a tensor leaves with the allocator.
const BESIDE: u64 = 160 << 20;
/// Pictures of the first convolution's channels that the autoencoder holds, and remembers of earlier frames in all layers, when
/// it encodes one frame.
const HELD_ENCODING: u64 = 12;
/// The same when it decodes a latent to four frames.
const HELD_DECODING: u64 = 44;

impl SamplingPlan {
    /// The bytes.
    pub fn estimate(&self) -> SamplingEstimate {
        let DitConfig { width, hidden, options, .. } = self.dit;
        let [frames, rows, columns] = self.latents;
        let patch = (options.patch * options.patch * options.patch_frames).max(1);
        let tokens = (frames * rows * columns / patch) as u64;
        let (values, channels) = self.autoencoder;
        let picture = [8 * rows, 8 * columns];
        let tile = self.tiles.map_or(picture, |tiles| [0, 1].map(|axis| picture[axis].min(tiles.size[axis])));
        let plane = 4 * (channels * tile[0] * tile[1]) as u64;
        // In tiles, the whole video waits in f32 until the last of them.
        let video = 4 * 3 * (4 * frames * picture[0] * picture[1]) as u64;
        let decoding = HELD_DECODING * plane + if self.tiles.is_some() { 2 * video } else { video / 4 };
        SamplingEstimate {
            weights: self.weights + 4 * values + BESIDE,
            dit: 4 * tokens * (HELD_OF_WIDTH * width as u64 + HELD_OF_HIDDEN * hidden as u64),
            autoencoder: if self.is_chained { decoding } else { HELD_ENCODING * plane },
        }
    }
}

impl SamplingEstimate {
    /// All of it: the networks do not work at the same time.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.dit.max(self.autoencoder))
    }
}

impl std::fmt::Display for SamplingEstimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { weights, dit, autoencoder } = *self;
        let [total, weights, dit, autoencoder] = [self.total(), weights, dit, autoencoder].map(gib);
        write!(f, "{total} = weights {weights} + the larger of DiT {dit} and autoencoder {autoencoder}")
    }
}

/// Bytes for people.
pub fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib >= 0.1 { format!("{gib:.1} GiB") } else { format!("{:.1} MiB", gib * 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::{MemoryPlan, SamplingPlan, Trained};
    use crate::cosmos::tiny::{DitSizes, random_dit};
    use crate::cosmos::{Activations, Dit, DitConfig, DitOptions, RopeRatios, Tensors, Tiling};
    use burn::tensor::Device;

    /// The released 2B model at the paper's size, stored as bf16.
    fn released(trained: Trained, activations: Activations) -> MemoryPlan {
        let rope = RopeRatios { time: 1.0, height: 3.0, width: 3.0 };
        let options = DitOptions { rope, patch: 2, patch_frames: 1, has_padding_mask: true };
        let dit = DitConfig {
            channels: 16,
            width: 2048,
            blocks: 28,
            heads: 16,
            hidden: 8192,
            context: 1024,
            rank: 256,
            options,
        };
        let values = 1_956_413_440;
        let latents = [24, 60, 104];
        MemoryPlan { dit, weights: (values, 2 * values), trained, activations, averages: true, latents }
    }

    #[test]
    fn each_option_that_is_to_save_memory_does() {
        let total = |trained, activations| released(trained, activations).estimate().total() >> 30;
        let lora = Trained::Lora { rank: 16 };
        let least = total(lora, Activations::Recompute);
        assert!(least < total(Trained::Full, Activations::Recompute));
        assert!(10 * least < total(lora, Activations::Keep));
        let mut without = released(Trained::Full, Activations::Recompute);
        without.averages = false;
        let kept = released(Trained::Full, Activations::Recompute).estimate();
        assert_eq!(kept.total() - without.estimate().total(), kept.average);
        // 12 bytes a weight for Adam, 4 for itself.
        assert_eq!(kept.weights + kept.gradients + kept.optimiser, 16 * 1_956_413_440);
        let text = released(lora, Activations::Recompute).estimate().to_string();
        assert!(text.contains("weights 3.6 GiB") && text.contains("adapters"), "{text}");
    }

    #[test]
    fn a_clip_of_the_released_model_fits_a_workstation_and_tiles_make_chains_smaller() {
        let MemoryPlan { dit, weights, latents, .. } = released(Trained::Full, Activations::Keep);
        let plan = SamplingPlan {
            dit,
            weights: weights.1,
            autoencoder: (126_892_531, 96),
            latents,
            tiles: None,
            is_chained: false,
        };
        let total = |plan: &SamplingPlan| plan.estimate().total() >> 30;
        assert!((8..16).contains(&total(&plan)), "{}", plan.estimate());
        let chained = SamplingPlan { is_chained: true, ..plan.clone() };
        let tiled = SamplingPlan { tiles: Some(Tiling::default()), ..chained.clone() };
        assert!(chained.estimate().autoencoder > plan.estimate().autoencoder);
        assert!(tiled.estimate().autoencoder < chained.estimate().autoencoder);
    }

    #[test]
    fn trained_values_are_counted_as_the_network_has_them() {
        let sizes = DitSizes { width: 24, head: 12, rank: 4, hidden: 48, context: 8, blocks: 3 };
        let tensors = Tensors::of_state(random_dit(&sizes, 1), |name| name.strip_prefix("net.").map(str::to_owned));
        let options = released(Trained::Full, Activations::Keep).dit.options;
        let dit = Dit::load(&tensors, options, &Device::flex(), |_, _| {}).unwrap();
        let plan = MemoryPlan {
            dit: *dit.config(),
            weights: tensors.totals(),
            trained: Trained::Lora { rank: 5 },
            ..released(Trained::Full, Activations::Keep)
        };
        let counted: usize = dit.adaptable().iter().map(|(_, [output, input])| 5 * (output + input)).sum();
        assert_eq!(plan.trained_values(), counted as u64);
        let mut dit = dit;
        let all: usize = dit.layers().iter().map(|(_, layer)| layer.size().iter().product::<usize>()).sum();
        let norms: usize = dit.norms().iter().map(|(_, norm)| norm.dims()[0]).sum();
        assert_eq!(tensors.totals(), ((all + norms) as u64, 4 * (all + norms) as u64));
    }
}
