//! The vision-language backbone: token ids and image patches to features for the action head.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use serde::Deserialize;
use w2a_nn::{NnError, tensor};

use super::language::{LanguageModel, TextConfig};
use super::source::Weights;
use super::vision::{VisionConfig, VisionTower};
use super::wrong;

/// What the backbone is made of.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BackboneConfig {
    /// The vision tower.
    pub vision_config: VisionConfig,
    /// The language model.
    pub text_config: TextConfig,
    /// Layers of the language model that are kept; in GR00T's own `config.json`, and not here, in a checkpoint.
    #[serde(skip)]
    pub select_layer: usize,
    /// The inverse of the side of the square of patches that becomes one token.
    pub downsample_ratio: f64,
    /// Token that stands for a piece of an image.
    pub image_token_index: usize,
}

impl BackboneConfig {
    /// Eagle-Block2A-2B-v2, the backbone of GR00T-N1.6; its configuration is no part of a checkpoint.
    pub fn eagle_block2a() -> Self {
        Self {
            vision_config: VisionConfig::eagle_block2a(),
            text_config: TextConfig::eagle_block2a(),
            select_layer: 16,
            downsample_ratio: 0.5,
            image_token_index: 151_669,
        }
    }

    /// Side of the square of patches that becomes one token.
    ///
    /// # Errors
    /// A ratio that is not the inverse of a small whole number.
    pub fn merge(&self) -> Result<usize, NnError> {
        let inverse = 1.0 / self.downsample_ratio;
        let merge = inverse.round();
        match (1.0..=16.0).contains(&merge) && (inverse - merge).abs() < 1e-6 {
            true => Ok(merge as usize),
            false => {
                Err(wrong("downsample_ratio of the backbone", "1, 1/2, 1/3 .. 1/16", self.downsample_ratio.to_string()))
            }
        }
    }
}

/// An image cut into patches, normalised.
#[derive(Clone, Debug)]
pub struct Patches {
    /// Patches down and across.
    pub grid: [usize; 2],
    /// `[rows * columns, patch * patch * 3]`.
    pub values: Vec<f32>,
}

/// Token ids of a batch, padded on the left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// Rows.
    pub batch: usize,
    /// `[batch, tokens]` row-major.
    pub ids: Vec<usize>,
    /// False for padding.
    pub is_token: Vec<bool>,
}

impl TokenBatch {
    /// Pads prompts on the left to the longest.
    pub fn left_padded(prompts: &[Vec<usize>], padding: usize) -> Self {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let (mut ids, mut is_token) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let before = longest - prompt.len();
            ids.extend(std::iter::repeat_n(padding, before).chain(prompt.iter().copied()));
            is_token.extend((0..longest).map(|index| index >= before));
        }
        Self { batch: prompts.len(), ids, is_token }
    }
}

/// What the action head attends to.
#[derive(Clone, Debug)]
pub struct Features {
    /// `[batch, tokens, width]`; those of padding mean nothing.
    pub values: Tensor<3>,
    /// Which are no padding, `[batch, tokens]`.
    pub is_token: Vec<bool>,
    /// Which stand for pieces of images, `[batch, tokens]`.
    pub is_image: Vec<bool>,
}

/// Gets `[tokens, width]` values of the whole batch or of an image by name, image and layer.
pub type BackboneTap<'a> = &'a mut dyn FnMut(BackboneValue, &Tensor<3>);

/// Which value a [`BackboneTap`] gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackboneValue {
    /// Of the vision tower: number of the image in the batch, name, layer; one image `[1, patches, width]`.
    Image(usize, &'static str, usize),
    /// Embeddings with the images in place.
    InputEmbeds,
    /// Output of a layer of the language model.
    Layer(usize),
}

/// The backbone, frozen.
#[derive(Clone, Debug)]
pub struct Backbone {
    tower: VisionTower,
    language: LanguageModel,
    config: BackboneConfig,
    merge: usize,
    /// Embeddings are read row by row as they are needed: a prompt has dozens of tokens, the table 150 thousand.
    weights: Arc<Weights>,
}

const EMBEDDING: &str = "backbone.model.language_model.model.embed_tokens.weight";

impl Backbone {
    /// Reads tower, projector and the language model's first layers.
    ///
    /// # Errors
    /// A configuration that this program does not have, or weights that do not fit it.
    pub fn load(weights: Arc<Weights>, config: &BackboneConfig) -> Result<Self, NnError> {
        let merge = config.merge()?;
        let text = &config.text_config;
        let keep = config.select_layer.min(text.num_hidden_layers);
        let tower = VisionTower::load(&weights, &config.vision_config, merge, text.hidden_size)?;
        let language = LanguageModel::load(&weights, text, keep)?;
        // Only to find a table of another size now and not at the first observation.
        weights.rows(EMBEDDING, &[text.vocab_size, text.hidden_size], 0, 1)?;
        Ok(Self { tower, language, config: config.clone(), merge, weights })
    }

    /// The configuration it was loaded with.
    pub fn config(&self) -> &BackboneConfig {
        &self.config
    }

    /// Features of a batch; `images` are those of all rows, in their order.
    ///
    /// # Errors
    /// Images that do not fill the places which the tokens leave for them, of another patch size or with sides that squares
    /// of patches do not fill; ids that are not in the vocabulary.
    pub fn forward(&self, tokens: &TokenBatch, images: &[Patches], tap: BackboneTap) -> Result<Features, NnError> {
        let count = tokens.ids.len() / tokens.batch.max(1);
        if count == 0 || tokens.ids.len() != tokens.batch * count || tokens.is_token.len() != tokens.ids.len() {
            let got = format!("{} ids and {} marks for {} rows", tokens.ids.len(), tokens.is_token.len(), tokens.batch);
            return Err(wrong("tokens of the backbone", "at least one id in each row, and as many marks", got));
        }
        let is_image: Vec<bool> = tokens.ids.iter().map(|id| *id == self.config.image_token_index).collect();
        let mut rows = Vec::new();
        let mut first = 0;
        // Neighbours of one size go through the tower together.
        for group in images.chunk_by(|a, b| a.grid == b.grid) {
            rows.push(self.tokens_of(group, first, tap)?);
            first += group.len();
        }
        let width = self.config.text_config.hidden_size;
        let pieces: usize = rows.iter().map(|rows| rows.dims()[0]).sum();
        let places = is_image.iter().filter(|is_image| **is_image).count();
        if pieces != places {
            let expected = format!("{places} tokens of images, as the prompts have places for");
            return Err(wrong("images of the backbone", expected, pieces.to_string()));
        }
        let device = self.weights.device();
        let mut table = Vec::new();
        let mut row_of = BTreeMap::new();
        let vocabulary = self.config.text_config.vocab_size;
        for id in tokens.ids.iter().zip(&is_image).filter(|(_, is_image)| !**is_image).map(|(id, _)| *id) {
            if id >= vocabulary {
                return Err(wrong("token id", format!("below {vocabulary}"), id.to_string()));
            }
            if let std::collections::btree_map::Entry::Vacant(entry) = row_of.entry(id) {
                entry.insert(table.len() / width);
                table.extend(self.weights.rows(EMBEDDING, &[vocabulary, width], id, 1)?.data);
            }
        }
        let words = table.len() / width;
        if words > 0 {
            rows.insert(0, tensor(table, [words, width], device));
        }
        let mut piece = words;
        let mut index = Vec::with_capacity(tokens.ids.len());
        for (id, is_image) in tokens.ids.iter().zip(&is_image) {
            index.push(match row_of.get(id).filter(|_| !is_image) {
                Some(row) => *row as i64,
                None => {
                    piece += 1;
                    piece as i64 - 1
                }
            });
        }
        let index: Tensor<1, Int> = Tensor::from_data(TensorData::new(index, [tokens.ids.len()]), device);
        let embeddings = Tensor::cat(rows, 0).select(0, index).reshape([tokens.batch, count, width]);
        tap(BackboneValue::InputEmbeds, &embeddings);
        let mut layer = |_: &'static str, index: usize, x: &Tensor<3>| tap(BackboneValue::Layer(index), x);
        let values = self.language.forward(embeddings, &tokens.is_token, &mut layer);
        Ok(Features { values, is_token: tokens.is_token.clone(), is_image })
    }

    /// Tokens of images of one size, `[images * tokens, width]`; `first` is the number of the first one.
    fn tokens_of(&self, images: &[Patches], first: usize, tap: BackboneTap) -> Result<Tensor<2>, NnError> {
        let [rows, columns] = images.first().map_or([0; 2], |image| image.grid);
        let vision = &self.config.vision_config;
        let pixels = vision.patch_size * vision.patch_size * vision.num_channels;
        let each = rows * columns * pixels;
        let fits = each > 0 && rows % self.merge == 0 && columns % self.merge == 0;
        if !fits || images.iter().any(|image| image.values.len() != each) {
            let expected = format!("a multiple of {} patches each way, of {pixels} values each", self.merge);
            let got = images.first().map_or(0, |image| image.values.len());
            return Err(wrong("patches of an image", expected, format!("{rows} x {columns} with {got} values")));
        }
        let values = images.iter().flat_map(|image| image.values.iter().copied()).collect();
        let patches = tensor(values, [images.len(), rows * columns, pixels], self.weights.device());
        let mut each = |name: &'static str, layer: usize, x: &Tensor<3>| {
            for image in 0..images.len() {
                tap(BackboneValue::Image(first + image, name, layer), &x.clone().narrow(0, image, 1));
            }
        };
        let tokens = self.tower.forward(patches, [rows, columns], &mut each);
        let [images, count, width] = tokens.dims();
        Ok(tokens.reshape([images * count, width]))
    }
}
