//! Attention whose scores never leave the cache: keys and values pass tile by tile, and of each query's softmax only the
//! largest score and the sum so far are kept (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao
//! et al., "FlashAttention", 2022).

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::module::attention as burns;
use burn::tensor::ops::AttentionModuleOptions;
use burn_flex::FlexTensor;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::activation::exp_of_negative;
use super::op::{Operand, flex};
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
/// On the `flex` backend and without gradients it is a kernel of our own: no scores are kept, heads are read where they lie (a
/// transposed `[batch, tokens, heads, width]` costs no copy), and the result lies in memory as `[batch, queries, heads, out]`.
/// The same bits for any number of threads. A query whose scores are all `-∞` gets zeros, as from burn.
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
    let plain = |tensor: &Tensor<4>| match Operand::of(tensor)? {
        Operand::Plain(tensor) => Some(lying_by_token(tensor)),
        Operand::Tracked(_) => None,
    };
    let (query, key, value) = (plain(query)?, plain(key)?, plain(value)?);
    let bias = match bias {
        Some(bias) => Some(plain(bias)?),
        None => None,
    };
    let job = Job {
        arch: Arch::new(),
        sizes,
        // Larger scores have to stay larger ones.
        scale: (scale > 0.0 && scale.is_finite()).then_some(scale)?,
        query: View::of(&query)?,
        key: View::of(&key)?,
        value: View::of(&value)?,
        bias: match &bias {
            Some(bias) => Some(View::of(bias)?),
            None => None,
        },
    };
    let Sizes { batch, heads, queries, out, .. } = sizes;
    let out = flex(job.run()?, &[batch, queries, heads, out]);
    Some(Tensor::from_primitive::<burn::backend::Flex>(out.transpose(1, 2)))
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

impl<'a> Job<'a> {
    /// The result, `[batch, queries, heads, out]`; `None` if it is too large to be addressed.
    fn run(&self) -> Option<Vec<f32>> {
        let Sizes { batch, heads, shared, queries, keys, width, out } = self.sizes;
        let len = [batch, heads, queries, out].iter().try_fold(1_usize, |len, size| len.checked_mul(*size))?;
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
        Some(unsafe { Shared::collect(len, write) })
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
        let mut running = vec![Running { largest: f32::NEG_INFINITY, sum: 0.0, correction: 0.0 }; per_shared * rows];
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
            // A query without any key has a sum of nothing, and zeros.
            let share = if running.sum > 0.0 { running.sum.recip() } else { 1.0 };
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
mod tests {
    use burn::tensor::module::attention as burns;
    use burn::tensor::ops::AttentionModuleOptions;
    use burn::tensor::{Device, Tensor};
    use proptest::prelude::*;

    use super::attention;
    use crate::{normal, tensor, values};

    fn random(name: &str, shape: [usize; 4]) -> Tensor<4> {
        tensor(normal(&mut w2a_data::stream(0, name), shape.iter().product()), shape, &Device::flex())
    }

    fn host(tensor: Tensor<4>) -> Vec<f32> {
        values(tensor).unwrap()
    }

    /// In f64, from plain values.
    fn reference(
        query: &Tensor<4>,
        key: &Tensor<4>,
        value: &Tensor<4>,
        bias: Option<&Tensor<4>>,
        scale: Option<f64>,
    ) -> Vec<f64> {
        let ([batch, heads, queries, width], [_, shared, keys, _], [.., out]) =
            (query.dims(), key.dims(), value.dims());
        let (q, k, v) = (host(query.clone()), host(key.clone()), host(value.clone()));
        let bias = bias.map(|bias| host(bias.clone().expand([batch, heads, queries, keys])));
        let scale = scale.unwrap_or(1.0 / (width as f64).sqrt());
        let mut all = Vec::new();
        for (row, query) in q.chunks_exact(width).enumerate() {
            let head = row / queries;
            let place = (head / heads * shared + head % heads / (heads / shared)) * keys;
            let score = |key: usize| {
                let products =
                    query.iter().zip(&k[(place + key) * width..]).map(|(a, b)| f64::from(*a) * f64::from(*b));
                products.sum::<f64>() * scale + bias.as_ref().map_or(0.0, |bias| f64::from(bias[row * keys + key]))
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let shares: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = shares.iter().sum();
            let mixed = |column: usize| {
                let of = |key: usize| shares[key] * f64::from(v[(place + key) * out + column]);
                if total > 0.0 { (0..keys).map(of).sum::<f64>() / total } else { 0.0 }
            };
            all.extend((0..out).map(mixed));
        }
        all
    }

    /// The largest difference to f64.
    fn error(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, bias: Option<Tensor<4>>, scale: Option<f64>) -> f64 {
        let want = reference(&query, &key, &value, bias.as_ref(), scale);
        let got = super::fast(&query, &key, &value, bias.as_ref(), scale).expect("it is on the CPU, without gradients");
        assert_eq!(got.dims(), [query.dims()[0], query.dims()[1], query.dims()[2], value.dims()[3]]);
        let got = host(got);
        assert_eq!(got.len(), want.len());
        got.iter().zip(&want).map(|(got, want)| (f64::from(*got) - want).abs()).fold(0.0, f64::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_sizes_agree_with_f64(
            batch in 1_usize..3, shared in 1_usize..3, per_shared in 1_usize..4, queries in 1_usize..120,
            keys in 1_usize..700, width in 1_usize..40, out in 1_usize..40, ones in 0_usize..8, has_bias: bool,
        ) {
            let heads = shared * per_shared;
            let one = |bit: usize, size: usize| if ones >> bit & 1 == 1 { 1 } else { size };
            let bias = has_bias.then(|| random("b", [one(0, batch), one(1, heads), one(2, queries), keys]));
            let (query, key) = (random("q", [batch, heads, queries, width]), random("k", [batch, shared, keys, width]));
            let error = error(query, key, random("v", [batch, shared, keys, out]), bias, None);
            prop_assert!(error < 3e-6, "{error:e}");
        }
    }

    #[test]
    fn heads_are_read_where_they_lie() {
        let by_token = |name: &str, shape: [usize; 4]| random(name, shape).swap_dims(1, 2);
        // Of one tensor with queries, keys and values side by side, too.
        let all = random("all", [2, 70, 3 * 4, 20]).swap_dims(1, 2);
        let part = |index: usize| all.clone().narrow(1, 4 * index, 4);
        assert!(error(part(0), part(1), part(2), None, None) < 2e-6);
        // What is not side by side is copied, and a repeated key counts as often as it is there.
        let turned = random("q", [2, 4, 20, 50]).swap_dims(2, 3);
        assert!(error(turned, by_token("k", [2, 9, 2, 20]), by_token("v", [2, 9, 2, 16]), None, Some(0.3)) < 2e-6);
        let repeated = random("one", [2, 2, 1, 20]).expand([2, 2, 9, 20]);
        assert!(error(part(0), repeated.clone(), repeated, None, None) < 2e-6);
    }

    #[test]
    fn scores_of_any_size_lose_nothing() {
        let (query, key, value) =
            (random("q", [1, 2, 60, 16]), random("k", [1, 2, 1300, 16]), random("v", [1, 2, 1300, 16]));
        // Nearly one key a query, in tiles of which later ones often have the largest score.
        assert!(error(query.clone() * 5.0, key.clone() * 5.0, value.clone(), None, None) < 2e-4);
        assert!(error(query * 1e-3, key, value, None, Some(1.0)) < 2e-6);
    }

    #[test]
    fn masked_keys_count_nothing_and_queries_without_keys_get_what_burn_gives() {
        let (query, key, value) =
            (random("q", [2, 2, 50, 8]), random("k", [2, 2, 600, 8]), random("v", [2, 2, 600, 8]));
        for masked in [f32::NEG_INFINITY, -1e30] {
            // Query 7 has no key, query 8 none of the first tile, the others every third.
            let mask = (0..50 * 600).map(|place| match (place / 600, place % 600) {
                (7, _) => masked,
                (8, key) if key < 400 => masked,
                (query, key) if query != 8 && key % 3 > 0 => masked,
                _ => 0.0,
            });
            let bias = tensor(mask.collect(), [1, 1, 50, 600], &Device::flex());
            let ours = host(attention(query.clone(), key.clone(), value.clone(), Some(bias.clone()), None));
            let options = AttentionModuleOptions::default();
            let burns = host(burns(query.clone(), key.clone(), value.clone(), None, Some(bias), options));
            for (place, (ours, burns)) in ours.iter().zip(&burns).enumerate() {
                assert!((ours - burns).abs() < 2e-6, "{masked}, {place}: {ours}, {burns}");
            }
            let empty = &ours[7 * 8..8 * 8];
            assert_eq!(empty.iter().all(|value| *value == 0.0), masked.is_infinite(), "{empty:?}");
        }
    }

    #[test]
    fn a_nan_stays_in_its_query() {
        let mut data = host(random("q", [1, 1, 3, 8]));
        data[8] = f32::NAN;
        let query = tensor(data, [1, 1, 3, 8], &Device::flex());
        let got = host(attention(query, random("k", [1, 1, 40, 8]), random("v", [1, 1, 40, 8]), None, None));
        assert!(got[..8].iter().chain(&got[16..]).all(|value| value.is_finite()), "{got:?}");
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (query, key) = (random("q", [1, 1, 900, 32]), random("k", [1, 1, 1200, 32]));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| host(attention(query.clone(), key.clone(), key.clone(), None, None)))
        };
        assert_eq!(run(1), run(5));
    }
}
