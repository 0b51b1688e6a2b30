//! The backward pass of attention: scores are computed again, for a block of queries at a time.

use burn_flex::FlexTensor;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{BLOCK, Job, Running, Sizes, Soften, View, lines_of, segment};
use crate::kernels::op::Kernel;
use crate::kernels::product::{LANE_BLOCK, Matrix, Panels, SLACK, gather_outer, gather_product, padded};
use crate::kernels::recycle::Buffer;

/// Attention whose queries `[batch, heads, queries, width]`, keys and values get gradients.
#[derive(Debug)]
pub(super) struct Learnt {
    pub sizes: Sizes,
    pub scale: f32,
    pub bias: Option<FlexTensor>,
}

impl Learnt {
    fn job<'a>(&'a self, query: &'a [f32], parameters: &[&'a [f32]]) -> Job<'a> {
        let Sizes { heads, shared, queries, keys, width, out, .. } = self.sizes;
        Job {
            arch: Arch::new(),
            sizes: self.sizes,
            scale: self.scale,
            query: View::row_major(query, [heads, queries, width]),
            key: View::row_major(parameters[0], [shared, keys, width]),
            value: View::row_major(parameters[1], [shared, keys, out]),
            bias: self.bias.as_ref().and_then(View::of),
        }
    }
}

impl Kernel for Learnt {
    type Saved = ();

    fn forward(&self, query: &[f32], parameters: &[&[f32]], _: bool) -> (Vec<f32>, Option<()>) {
        (self.job(query, parameters).run(), Some(()))
    }

    fn backward(
        &self,
        query: &[f32],
        parameters: &[&[f32]],
        (): &(),
        gradient: &[f32],
        _: bool,
    ) -> (Vec<Vec<f32>>, Option<Vec<f32>>) {
        let job = self.job(query, parameters);
        let Sizes { heads, shared, queries, keys, width, out, .. } = self.sizes;
        let zeros = |like: &[f32]| vec![0.0; like.len()];
        let (mut of_query, mut of_key, mut of_value) = (zeros(query), zeros(parameters[0]), zeros(parameters[1]));
        // Heads that share keys and values are one thread's: what reaches those is summed in one order.
        let parts = of_query.par_chunks_mut(heads / shared * queries * width);
        let groups = parts.zip(of_key.par_chunks_mut(keys * width)).zip(of_value.par_chunks_mut(keys * out));
        groups.enumerate().for_each(|(group, ((of_query, of_key), of_value))| {
            job.differentiate([group / shared, group % shared], gradient, [of_query, of_key, of_value]);
        });
        (vec![of_key, of_value], Some(of_query))
    }
}

impl<'a> Job<'a> {
    /// Gradients of the queries of the heads of a shared head, `[heads, queries, width]`, and of its keys and values,
    /// `[keys, ..]`, from that of the result, `[batch, queries, heads, out]`.
    fn differentiate(
        &self,
        [batch, shared]: [usize; 2],
        gradient: &[f32],
        [of_query, of_key, of_value]: [&mut [f32]; 3],
    ) {
        let Self { arch, sizes, scale, .. } = *self;
        let Sizes { heads, queries, keys, width, out, .. } = sizes;
        let (per_shared, columns) = (heads / sizes.shared, padded(keys));
        let packed = |view: &View<'a>, size: usize, by_column: bool| {
            let matrix = Matrix { data: view.from([batch, shared, 0]), stride: size, by_column };
            let [depth, columns] = if by_column { [size, keys] } else { [keys, size] };
            let mut panels = Panels::empty(arch);
            panels.pack(&matrix, depth, 0..columns);
            panels
        };
        let (keys_across, values_across) = (packed(&self.key, width, true), packed(&self.value, out, true));
        let keys_down = packed(&self.key, width, false);
        let [mut key_sums, mut value_sums] = [width, out].map(|size| Panels::zeros(arch, keys, padded(size)));
        let [mut shares, mut slopes] = [(); 2].map(|()| Buffer::take(BLOCK * columns + SLACK));
        let [mut query_rows, mut of_rows, mut above_rows] =
            [width, width, out].map(|size| Buffer::take(BLOCK * padded(size)));
        for (head, start) in (0..per_shared).flat_map(|head| (0..queries).step_by(BLOCK).map(move |row| (head, row))) {
            let height = BLOCK.min(queries - start);
            let place = [batch, shared * per_shared + head, start];
            let query = self.query.from(place);
            let above = &gradient[((batch * queries + start) * heads + place[1]) * out..];
            widen(query, width, width, height, &mut query_rows);
            widen(above, heads * out, out, height, &mut above_rows);

            let scores = &mut shares[..height * columns];
            gather_product(arch, query, &lines_of(height, width, columns), &segment(width), &keys_across, None, scores);
            let mut running = vec![Running::start(); height];
            arch.dispatch(Soften { job: self, scores, columns, keys: 0..keys, place, running: &mut running });
            let lines = lines_of(height, padded(out), columns);
            let pulled = &mut slopes[..height * columns];
            gather_product(arch, &above_rows, &lines, &segment(out), &values_across, None, pulled);
            let scores = &mut shares[..height * columns];
            arch.dispatch(Pull { shares: scores, slopes: pulled, columns, running: &running, scale });

            let pairs = |size: usize| lines_of(height, columns, padded(size));
            gather_outer(arch, &shares, &above_rows, &pairs(out), 0, 0..keys, &mut value_sums);
            gather_outer(arch, &slopes, &query_rows, &pairs(width), 0, 0..keys, &mut key_sums);
            gather_product(arch, &slopes, &pairs(width), &segment(keys), &keys_down, None, &mut of_rows);
            let rows = of_query[(head * queries + start) * width..].chunks_exact_mut(width);
            for (to, from) in rows.zip(of_rows.chunks_exact(padded(width))).take(height) {
                to.copy_from_slice(&from[..width]);
            }
        }
        for (sums, to, size) in [(&key_sums, of_key, width), (&value_sums, of_value, out)] {
            to.chunks_exact_mut(size).enumerate().for_each(|(key, to)| sums.read_row(key, to.iter_mut()));
        }
    }
}

/// Rows of `width` values, `stride` apart, to rows of whole vectors with zeros behind.
fn widen(from: &[f32], stride: usize, width: usize, rows: usize, to: &mut [f32]) {
    for (to, from) in to.chunks_exact_mut(padded(width)).zip(from.chunks(stride)).take(rows) {
        let (cells, rest) = to.split_at_mut(width);
        cells.copy_from_slice(&from[..width]);
        rest.fill(0.0);
    }
}

/// Exponentials to shares, and gradients of the shares to those of the products of queries and keys.
struct Pull<'a> {
    shares: &'a mut [f32],
    slopes: &'a mut [f32],
    columns: usize,
    running: &'a [Running],
    scale: f32,
}

impl WithSimd for Pull<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { shares, slopes, columns, running, scale } = self;
        let rows = shares.chunks_exact_mut(columns).zip(slopes.chunks_exact_mut(columns));
        for ((shares, slopes), running) in rows.zip(running) {
            let share = running.share();
            let mut sums = [0.0_f32; LANE_BLOCK];
            for (shares, slopes) in shares.chunks_exact_mut(LANE_BLOCK).zip(slopes.chunks_exact(LANE_BLOCK)) {
                for ((sum, value), slope) in sums.iter_mut().zip(shares).zip(slopes) {
                    *value *= share;
                    *sum = value.mul_add(*slope, *sum);
                }
            }
            let mean: f32 = sums.iter().sum();
            slopes.iter_mut().zip(&*shares).for_each(|(slope, share)| *slope = (*slope - mean) * share * scale);
        }
    }
}
