//! Attention whose scores never leave the cache: keys and values pass tile by tile, and of each query's softmax only the
//! largest score and the sum so far are kept (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao
//! et al., "FlashAttention", 2022).

mod gradient;

use std::ops::Range;

use burn::backend::Flex;
use burn::tensor::Tensor;
use burn::tensor::module::attention as burns;
use burn::tensor::ops::AttentionModuleOptions;
use burn_flex::FlexTensor;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use self::gradient::Learnt;
use super::activation::exp_of_negative;
use super::op::{Operand, flex, run};
use super::product::{LANE_BLOCK, Matrix, Panels, Row, Segment, gather_product, padded};
use super::recycle::Buffer;
use super::shared::Shared;

/// The most keys of a tile: their panels and the scores of a block of queries fit into the second-level cache together.
const TILE: usize = 512;

/// Queries at a time, a multiple of what the tiles of products have.
const BLOCK: usize = 48;

/// Multiplications that are worth a thread of their own.
const PART_WORK: usize = 1 << 20;

/// `softmax(scale · query keyᵀ + bias) value` for each head, as burn's `attention` and PyTorch's
/// `scaled_dot_product_attention`.
///
/// # Shapes
/// `query` `[batch, heads, queries, width]`, `key` `[batch, shared, keys, width]`, `value` `[batch, shared, keys, out]`, each
/// shared head serving `heads / shared` neighbours; `bias` `[batch or 1, heads or 1, queries or 1, keys]` →
/// `[batch, heads, queries, out]`. `scale` is `1/√width` if it is not given.
///
/// On the `flex` backend it is a kernel of our own, of the same bits with and without gradients and for any number of threads:
/// no scores are kept, and a backward pass computes them again. Without gradients, heads are read where they lie (a transposed
/// `[batch, tokens, heads, width]` costs no copy). The result lies in memory as `[batch, queries, heads, out]`. A query whose
/// scores are all `-∞` gets zeros, as from burn. A `bias` that asks for gradients is left to burn.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    bias: Option<Tensor<4>>,
    scale: Option<f64>,
) -> Tensor<4> {
    fast(&query, &key, &value, bias.as_ref(), scale).unwrap_or_else(|| {
        let options = AttentionModuleOptions { scale, ..AttentionModuleOptions::default() };
        burns(query, key, value, None, bias, options)
    })
}

fn fast(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    bias: Option<&Tensor<4>>,
    scale: Option<f64>,
) -> Option<Tensor<4>> {
    let sizes = Sizes::of(query.dims(), key.dims(), value.dims(), bias.map(Tensor::dims))?;
    let scale = scale.unwrap_or_else(|| (sizes.width as f64).sqrt().recip()) as f32;
    // Larger scores have to stay larger ones.
    let scale = (scale > 0.0 && scale.is_finite()).then_some(scale)?;
    let bias = match bias {
        Some(bias) => Some(lying_by_token(Operand::of(bias)?.without_gradient()?)),
        None => None,
    };
    let shape = [sizes.batch, sizes.queries, sizes.heads, sizes.out];
    let out = match [Operand::of(query)?, Operand::of(key)?, Operand::of(value)?] {
        [Operand::Plain(query), Operand::Plain(key), Operand::Plain(value)] => {
            let [query, key, value] = [query, key, value].map(lying_by_token);
            let (arch, bias) = (Arch::new(), View::of_some(bias.as_ref())?);
            let (query, key, value) = (View::of(&query)?, View::of(&key)?, View::of(&value)?);
            let out = Job { arch, sizes, scale, query, key, value, bias }.run();
            Tensor::from_primitive::<Flex>(flex(out, &shape))
        }
        [query, key, value] => {
            View::of_some(bias.as_ref())?;
            run(Learnt { sizes, scale, bias }, query, vec![key, value], shape)?
        }
    };
    Some(out.swap_dims(1, 2))
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    shared: usize,
    queries: usize,
    keys: usize,
    width: usize,
    out: usize,
}

impl Sizes {
    /// `None` for operands that do not fit, for which burn has the words, and for empty ones.
    fn of(query: [usize; 4], key: [usize; 4], value: [usize; 4], bias: Option<[usize; 4]>) -> Option<Self> {
        let ([batch, heads, queries, width], [_, shared, keys, _], [.., out]) = (query, key, value);
        let fits = key == [batch, shared, keys, width]
            && value == [batch, shared, keys, out]
            && query.iter().chain(&key).chain(&value).all(|size| *size > 0)
            && heads.is_multiple_of(shared)
            && bias.is_none_or(|bias| {
                let whole = [batch, heads, queries, keys];
                bias[3] == keys && bias.iter().zip(whole).all(|(size, whole)| *size == whole || *size == 1)
            });
        // Offsets within a block of rows have 32 bits.
        let widest = heads.checked_mul(width.max(out))?.max(padded(keys));
        u32::try_from(widest.checked_mul(2 * BLOCK)?).ok()?;
        fits.then_some(Self { batch, heads, shared, queries, keys, width, out })
    }
}

/// The tensor, its values of a token (the last axis) side by side in memory and each token in a place of its own; copied if
/// it does not lie so.
fn lying_by_token(tensor: FlexTensor) -> FlexTensor {
    let axes = || tensor.layout().shape().iter().zip(tensor.layout().strides()).rev();
    let mut inner = axes().take(2).zip([1..=1, 1..=isize::MAX]);
    let fits = inner.all(|((size, stride), range)| *size == 1 || range.contains(stride))
        && axes().all(|(_, stride)| *stride >= 0);
    if fits { tensor } else { tensor.to_contiguous() }
}

/// A tensor of four axes, of which the last lies side by side.
#[derive(Clone, Copy, Debug)]
struct View<'a> {
    values: &'a [f32],
    /// Values from one index to the next along the first three axes; 0 along an axis of one.
    strides: [usize; 3],
}

impl<'a> View<'a> {
    /// `None` if offsets of a few rows exceed 32 bits.
    fn of(tensor: &'a FlexTensor) -> Option<Self> {
        let (layout, mut strides) = (tensor.layout(), [0; 3]);
        let sizes = layout.shape().iter().zip(layout.strides());
        for (to, (size, stride)) in strides.iter_mut().zip(sizes) {
            *to = if *size == 1 { 0 } else { usize::try_from(*stride).ok()? };
        }
        u32::try_from(strides[2].checked_mul(2 * BLOCK)?).ok()?;
        Some(Self { values: tensor.storage::<f32>().get(layout.start_offset()..)?, strides })
    }

    /// Of a tensor that may not be there; `None` if it is there and too large.
    fn of_some(tensor: Option<&'a FlexTensor>) -> Option<Option<Self>> {
        match tensor {
            Some(tensor) => Self::of(tensor).map(Some),
            None => Some(None),
        }
    }

    /// Of row-major values `[.., heads, tokens, width]`.
    fn row_major(values: &'a [f32], [heads, tokens, width]: [usize; 3]) -> Self {
        Self { values, strides: [heads * tokens * width, tokens * width, width] }
    }

    /// Everything from a place on.
    fn from(&self, index: [usize; 3]) -> &'a [f32] {
        let offset = index.iter().zip(self.strides).map(|(index, stride)| index * stride).sum::<usize>();
        &self.values[offset..]
    }
}

/// Attention of all heads.
#[derive(Clone, Copy, Debug)]
struct Job<'a> {
    arch: Arch,
    sizes: Sizes,
    /// Positive.
    scale: f32,
    query: View<'a>,
    key: View<'a>,
    value: View<'a>,
    bias: Option<View<'a>>,
}

/// Some queries of all heads that share keys and values.
#[derive(Clone, Debug)]
struct Part {
    batch: usize,
    shared: usize,
    queries: Range<usize>,
}

/// What is kept of the softmax of a query.
#[derive(Clone, Copy, Debug)]
struct Running {
    largest: f32,
    sum: f32,
    /// By how much what has been mixed before the present tile counts still.
    correction: f32,
}

impl Running {
    fn start() -> Self {
        Self { largest: f32::NEG_INFINITY, sum: 0.0, correction: 0.0 }
    }

    /// What makes the sum of a query one; a query without any key has a sum of nothing, and zeros.
    fn share(&self) -> f32 {
        if self.sum > 0.0 { self.sum.recip() } else { 1.0 }
    }
}

impl<'a> Job<'a> {
    /// The result, `[batch, queries, heads, out]`.
    fn run(&self) -> Vec<f32> {
        let Sizes { batch, heads, shared, queries, keys, width, out } = self.sizes;
        let groups = batch * shared;
        let work = groups.saturating_mul(heads / shared).saturating_mul(queries).saturating_mul(keys * (width + out));
        let threads = if work < PART_WORK { 1 } else { rayon::current_num_threads() };
        // Where there are too few heads for all threads, each has some of the queries.
        let splits = (2 * threads).div_ceil(groups).clamp(1, queries.div_ceil(4 * BLOCK));
        let height = queries.div_ceil(splits).next_multiple_of(BLOCK);
        let parts: Vec<Part> = (0..groups)
            .flat_map(|group| (0..queries).step_by(height).map(move |start| (group, start)))
            .map(|(group, start)| Part {
                batch: group / shared,
                shared: group % shared,
                queries: start..queries.min(start + height),
            })
            .collect();
        let write = |out: Shared| {
            if threads == 1 {
                parts.iter().for_each(|part| self.compute(part, out));
            } else {
                parts.par_iter().for_each(|part| self.compute(part, out));
            }
        };
        // SAFETY: the parts are all queries of all heads, and no two of them have a query of a head in common.
        unsafe { Shared::collect(batch * queries * heads * out, write) }
    }

    /// Writes the part's rows of the result.
    fn compute(&self, part: &Part, to: Shared) {
        let Sizes { heads, shared, keys, width, out, .. } = self.sizes;
        let (per_shared, rows, wide) = (heads / shared, part.queries.len(), padded(out));
        // Tiles of one size, whole vectors of keys.
        let tile = keys.div_ceil(keys.div_ceil(TILE)).next_multiple_of(LANE_BLOCK);
        let mut scores = Buffer::take(BLOCK * tile);
        let mut mixed = Buffer::take(BLOCK * wide);
        let mut sums = Buffer::take(per_shared * rows * wide);
        let mut running = vec![Running::start(); per_shared * rows];
        let (mut packed_keys, mut packed_values) = (Panels::empty(self.arch), Panels::empty(self.arch));
        for first in (0..keys).step_by(tile) {
            let count = tile.min(keys - first);
            let columns = padded(count);
            let at = [part.batch, part.shared, first];
            let matrix = |view: &View<'a>, width: usize, by_column| Matrix {
                data: view.from(at),
                stride: view.strides[2].max(width),
                by_column,
            };
            packed_keys.pack(&matrix(&self.key, width, true), width, 0..count);
            packed_values.pack(&matrix(&self.value, out, false), count, 0..out);
            for (head, start) in (0..per_shared).flat_map(|head| (0..rows).step_by(BLOCK).map(move |row| (head, row))) {
                let height = BLOCK.min(rows - start);
                let place = [part.batch, part.shared * per_shared + head, part.queries.start + start];
                let block = &mut scores[..height * columns];
                let lines = lines_of(height, self.query.strides[2], columns);
                gather_product(self.arch, self.query.from(place), &lines, &segment(width), &packed_keys, None, block);
                let kept = head * rows + start..head * rows + start + height;
                let running = &mut running[kept.clone()];
                self.arch.dispatch(Soften {
                    job: self,
                    scores: block,
                    columns,
                    keys: first..first + count,
                    place,
                    running,
                });
                let sums = &mut sums[kept.start * wide..kept.end * wide];
                let target = if first == 0 { &mut *sums } else { &mut mixed[..height * wide] };
                let lines = lines_of(height, columns, wide);
                gather_product(self.arch, block, &lines, &segment(count), &packed_values, None, target);
                if first > 0 {
                    self.arch.dispatch(Fold { sums, mixed: &mixed, wide, running });
                }
                if first + count == keys {
                    // SAFETY: these queries of this head are the part's alone.
                    unsafe { self.finish(sums, wide, running, place, to) };
                }
            }
        }
    }
}

impl Job<'_> {
    /// Divides by the sums of the softmax and writes the result from the query `place` on.
    ///
    /// # Safety
    /// Nobody else may write these queries of this head.
    unsafe fn finish(&self, sums: &[f32], wide: usize, running: &[Running], place: [usize; 3], to: Shared) {
        let Sizes { heads, queries, out, .. } = self.sizes;
        let [batch, head, first] = place;
        for ((row, sums), running) in sums.chunks_exact(wide).enumerate().zip(running) {
            let share = running.share();
            let at = ((batch * queries + first + row) * heads + head) * out;
            // SAFETY: the caller's promise.
            let cells = unsafe { to.part(at, out) };
            cells.iter_mut().zip(sums).for_each(|(cell, sum)| _ = cell.write(sum * share));
        }
    }
}

/// Rows of `from` values to rows of `to` values.
fn lines_of(rows: usize, from: usize, to: usize) -> Vec<Row> {
    (0..rows).map(|row| Row { from: (row * from) as u32, to: (row * to) as u32 }).collect()
}

/// All of a row.
fn segment(len: usize) -> [Segment; 1] {
    [Segment { start: 0, len, right: 0 }]
}

/// Turns the scores of a tile into exponentials, relative to the largest score of the query so far.
struct Soften<'a> {
    job: &'a Job<'a>,
    /// Rows of `columns` scores, of which those beyond `keys` mean nothing.
    scores: &'a mut [f32],
    columns: usize,
    keys: Range<usize>,
    place: [usize; 3],
    running: &'a mut [Running],
}

impl WithSimd for Soften<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { job, scores, columns, keys, place: [batch, head, first], running } = self;
        for ((index, row), running) in scores.chunks_exact_mut(columns).enumerate().zip(running) {
            let (valid, rest) = row.split_at_mut(keys.len());
            rest.fill(f32::NEG_INFINITY);
            let factor = match &job.bias {
                None => job.scale,
                Some(bias) => {
                    let bias = &bias.from([batch, head, first + index])[keys.clone()];
                    valid.iter_mut().zip(bias).for_each(|(score, bias)| *score = score.mul_add(job.scale, *bias));
                    1.0
                }
            };
            let mut largest = [f32::NEG_INFINITY; LANE_BLOCK];
            for part in row.chunks_exact(LANE_BLOCK) {
                for (largest, score) in largest.iter_mut().zip(part) {
                    *largest = if *score > *largest { *score } else { *largest };
                }
            }
            let largest = largest.iter().fold(running.largest, |largest, lane| largest.max(*lane));
            if largest == f32::NEG_INFINITY {
                row.fill(0.0);
                running.correction = 1.0;
                continue;
            }
            running.correction = exp_of_negative((running.largest - largest) * factor);
            let mut sums = [0.0_f32; LANE_BLOCK];
            for part in row.chunks_exact_mut(LANE_BLOCK) {
                for (sum, score) in sums.iter_mut().zip(part) {
                    *score = exp_of_negative((*score - largest) * factor);
                    *sum += *score;
                }
            }
            running.sum = running.sum.mul_add(running.correction, sums.iter().sum());
            running.largest = largest;
        }
    }
}

/// Adds what a tile has mixed to what those before it have.
struct Fold<'a> {
    sums: &'a mut [f32],
    mixed: &'a [f32],
    wide: usize,
    running: &'a [Running],
}

impl WithSimd for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { sums, mixed, wide, running } = self;
        for ((sums, mixed), running) in sums.chunks_exact_mut(wide).zip(mixed.chunks_exact(wide)).zip(running) {
            sums.iter_mut().zip(mixed).for_each(|(sum, mixed)| *sum = sum.mul_add(running.correction, *mixed));
        }
    }
}

#[cfg(test)]
mod tests;
