//! Matrix products that gather one operand: what convolutions are when nobody copies patches.
//!
//! A *row* of the left operand is made of segments of consecutive values at an offset of the row's own, so that a patch of
//! a channels-last image needs no copy. The right operand is packed into panels of two vectors' width. Register tiles of
//! 12x2 vectors (AVX-512, NEON) or 6x2 (AVX2) keep the multipliers busy; the design follows what every fast matrix product
//! does (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008), without its packing of the
//! left operand.

#![expect(clippy::needless_range_loop, reason = "constant indices keep the sums of a tile in registers")]

use std::ops::Range;

use burn::tensor::bf16;
use pulp::{Arch, Simd, WithSimd};

use super::pack::transpose;
use super::recycle::Buffer;
use super::shared::Shared;

/// Channels are padded to multiples of this in all buffers, so that no vector is ever partial.
pub(crate) const LANE_BLOCK: usize = 16;

/// Values that buffers need behind their last one: tiles read whole registers' worth of rows.
pub(crate) const SLACK: usize = 16;

/// Values of packed panels (384 KiB) that are used for all rows before the next ones: most of a second-level cache.
const CACHED: usize = 96 << 10;

/// `n` rounded up to whole vectors.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANE_BLOCK)
}

/// Width in values of a full panel on this processor.
pub(super) fn panel_width(arch: Arch) -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    (2 * arch.dispatch(Lanes)).min(2 * LANE_BLOCK)
}

/// Columns of a matrix `[depth, columns]` that are best packed at a time: they stay in the second-level cache, and `parts` or
/// a multiple of it have equal shares.
pub(crate) fn columns_at_once(arch: Arch, depth: usize, columns: usize, parts: usize) -> usize {
    let width = panel_width(arch);
    let panels = columns.div_ceil(width).max(1);
    let most = (CACHED / (depth * width).max(1)).max(1);
    panels.div_ceil(panels.div_ceil(most).next_multiple_of(parts.max(1))) * width
}

/// What weights are stored as.
pub(crate) trait Stored: Copy + Sync {
    /// The same value.
    fn wide(self) -> f32;

    /// The values themselves, if they are what products take.
    fn as_f32(values: &[Self]) -> Option<&[f32]>;
}

impl Stored for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

/// A matrix whose columns are packed: line `i` of `data` starts at `i * stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a, T> {
    pub data: &'a [T],
    /// Values from one line to the next.
    pub stride: usize,
    /// Whether a line is a column of the matrix, or else a row.
    pub by_column: bool,
}

/// A matrix `[depth, columns]` in panels of columns, each row-major; columns are a multiple of [`LANE_BLOCK`].
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    values: Buffer,
    depth: usize,
    columns: usize,
    width: usize,
}

impl Panels {
    /// Zeros.
    pub(crate) fn zeros(arch: Arch, depth: usize, columns: usize) -> Self {
        debug_assert!(columns.is_multiple_of(LANE_BLOCK));
        Self { values: Buffer::zeros(depth * columns), depth, columns, width: panel_width(arch) }
    }

    /// Nothing yet, to be packed.
    pub(crate) fn empty(arch: Arch) -> Self {
        Self::zeros(arch, 0, 0)
    }

    /// Becomes the first `depth` rows of some columns of a matrix, padded with columns of zeros.
    pub(crate) fn pack<T: Stored>(&mut self, matrix: &Matrix<T>, depth: usize, columns: Range<usize>) {
        (self.depth, self.columns) = (depth, padded(columns.len()));
        self.values.resize(self.depth * self.columns);
        if matrix.by_column {
            for (index, panel) in self.values.chunks_mut((self.width * depth).max(1)).enumerate() {
                let (start, width) = (index * self.width, panel.len() / depth);
                let valid = width.min(columns.len() - start);
                let from = &matrix.data[(columns.start + start) * matrix.stride..];
                transpose(from, valid, depth, matrix.stride, width, panel);
                if valid < width {
                    panel.chunks_exact_mut(width).for_each(|cells| cells[valid..].fill(0.0));
                }
            }
            return;
        }
        // Row by row through all panels: long runs of memory are read, which the processor sees coming.
        for (row, line) in matrix.data.chunks(matrix.stride).take(depth).enumerate() {
            let mut line = &line[columns.clone()];
            for panel in self.values.chunks_mut(self.width * depth) {
                let width = panel.len() / depth;
                let (now, later) = line.split_at(line.len().min(width));
                let cells = &mut panel[row * width..][..width];
                copy(now, cells);
                cells[now.len()..].fill(0.0);
                line = later;
            }
        }
    }

    /// Becomes `depth` rows in panels of full width whose values are given, of weights in any type.
    pub(super) fn widen<T: Stored>(&mut self, values: &[T], depth: usize) {
        (self.depth, self.columns) = (depth, values.len() / depth.max(1));
        self.values.resize(values.len());
        self.values.iter_mut().zip(values).for_each(|(to, from)| *to = from.wide());
    }

    /// The same, borrowed.
    pub(super) fn view(&self) -> PanelsView<'_> {
        PanelsView { values: &self.values, depth: self.depth, columns: self.columns, width: self.width }
    }

    /// Sets the first values of a row.
    pub(crate) fn fill_row<'a>(&mut self, row: usize, mut values: impl Iterator<Item = &'a f32>) {
        for start in (0..self.columns).step_by(self.width) {
            let width = self.width.min(self.columns - start);
            let cells = &mut self.values[start * self.depth + row * width..][..width];
            cells.iter_mut().zip(&mut values).for_each(|(cell, &value)| *cell = value);
        }
    }

    /// Copies the first values of a row to `to`.
    pub(crate) fn read_row<'a>(&self, row: usize, mut to: impl Iterator<Item = &'a mut f32>) {
        for start in (0..self.columns).step_by(self.width) {
            let width = self.width.min(self.columns - start);
            let cells = &self.values[start * self.depth + row * width..][..width];
            cells.iter().zip(&mut to).for_each(|(&cell, to)| *to = cell);
        }
    }

    /// Adds another matrix of the same shape.
    pub(crate) fn add(&mut self, other: &Self) {
        self.values.iter_mut().zip(other.values.iter()).for_each(|(sum, value)| *sum += value);
    }
}

/// [`Panels`] that lie somewhere else.
#[derive(Clone, Copy, Debug)]
pub(super) struct PanelsView<'a> {
    values: &'a [f32],
    depth: usize,
    pub(super) columns: usize,
    width: usize,
}

impl<'a> PanelsView<'a> {
    /// Values in panels of full width.
    pub(super) fn of_full(arch: Arch, values: &'a [f32], depth: usize) -> Self {
        Self { values, depth, columns: values.len() / depth.max(1), width: panel_width(arch) }
    }
}

/// Copies `from` to the start of `to`; a full panel's row without a loop.
#[inline(always)]
fn copy<T: Stored>(from: &[T], to: &mut [f32]) {
    match (from.first_chunk::<{ 2 * LANE_BLOCK }>(), to.first_chunk_mut::<{ 2 * LANE_BLOCK }>()) {
        (Some(from), Some(to)) => *to = from.map(T::wide),
        _ => to.iter_mut().zip(from).for_each(|(to, from)| *to = from.wide()),
    }
}

/// Consecutive values of each row of the left operand, and the rows of the right operand that they multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where they start, relative to the row.
    pub start: usize,
    /// How many.
    pub len: usize,
    /// The first row of the right operand.
    pub right: usize,
}

/// One row of a product: where its left operand and its result start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub from: u32,
    pub to: u32,
}

/// `out[row.to + j] = bias[j] + sum left[row.from + start + k] right[right + k, j]` for every row, the sum over all segments
/// in order and `k` inside each.
///
/// Every row is complete on its own, so any split of the rows over calls gives the same bits.
pub(crate) fn gather_product(
    arch: Arch,
    left: &[f32],
    rows: &[Row],
    segments: &[Segment],
    right: &Panels,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let start = bias.map_or(Start::Zeros, Start::Bias);
    // SAFETY: `out` is borrowed for this call alone.
    unsafe { gather(arch, left, rows, segments, right.view(), start, Shared::new(out)) }
}

/// [`gather_product`] added to what `out` holds, so that a product can be computed in parts.
pub(crate) fn gather_product_onto(
    arch: Arch,
    left: &[f32],
    rows: &[Row],
    segments: &[Segment],
    right: &Panels,
    out: &mut [f32],
) {
    // SAFETY: `out` is borrowed for this call alone.
    unsafe { gather(arch, left, rows, segments, right.view(), Start::Result, Shared::new(out)) }
}

/// [`gather_product`] to a result that other threads write as well.
///
/// # Safety
/// No other thread may read or write the columns of `right` from each row's `to` on.
pub(super) unsafe fn gather_product_into(
    arch: Arch,
    left: &[f32],
    rows: &[Row],
    segments: &[Segment],
    right: PanelsView,
    bias: Option<&[f32]>,
    out: Shared,
) {
    // SAFETY: the caller's promise.
    unsafe { gather(arch, left, rows, segments, right, bias.map_or(Start::Zeros, Start::Bias), out) }
}

/// What a sum begins with.
#[derive(Clone, Copy)]
enum Start<'a> {
    Zeros,
    Bias(&'a [f32]),
    /// What is there.
    Result,
}

/// # Safety
/// As [`gather_product_into`]; what a sum begins with has to be there.
unsafe fn gather(
    arch: Arch,
    left: &[f32],
    rows: &[Row],
    segments: &[Segment],
    right: PanelsView,
    start: Start,
    out: Shared,
) {
    let reach = segments.iter().map(|segment| segment.start + segment.len).max().unwrap_or(0);
    // The tiles below read and write without checks; these are the checks.
    assert!(segments.iter().all(|segment| segment.right + segment.len <= right.depth), "a segment is too deep");
    assert!(rows.iter().all(|row| row.from as usize + reach <= left.len()), "a row reaches beyond the left operand");
    assert!(rows.iter().all(|row| row.to as usize + right.columns <= out.len()), "a row reaches beyond the result");
    assert!(!matches!(start, Start::Bias(bias) if bias.len() < right.columns), "the bias is too short");
    arch.dispatch(GatherProduct { left, rows, segments, right, start, out });
}

struct GatherProduct<'a> {
    left: &'a [f32],
    rows: &'a [Row],
    segments: &'a [Segment],
    right: PanelsView<'a>,
    start: Start<'a>,
    out: Shared<'a>,
}

impl WithSimd for GatherProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Tiles that fill the registers: 32 of them with 16 lanes (and on NEON with 4), 16 with 8.
        if S::F32_LANES == 8 { self.tiles::<S, 6>(simd) } else { self.tiles::<S, 12>(simd) }
    }
}

impl GatherProduct<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const MR: usize>(self, simd: S) {
        // As many panels at a time as stay in the second-level cache while all rows pass.
        let panel = self.right.depth * self.right.width;
        let step = (CACHED / panel.max(1)).max(1) * self.right.width;
        for start in (0..self.right.columns).step_by(step) {
            let columns = start..self.right.columns.min(start + step);
            let mut rows = self.rows;
            while rows.len() >= MR {
                let (now, later) = rows.split_at(MR);
                self.line::<S, MR>(simd, now, columns.clone());
                rows = later;
            }
            // What remains, with little waste.
            while !rows.is_empty() {
                let (now, later) = rows.split_at(rows.len().min(4));
                self.line::<S, 4>(simd, now, columns.clone());
                rows = later;
            }
        }
    }

    /// Some columns of at most `MR` rows.
    #[inline(always)]
    fn line<S: Simd, const MR: usize>(&self, simd: S, rows: &[Row], columns: Range<usize>) {
        let mut from = [0; MR];
        for (index, from) in from.iter_mut().enumerate() {
            // A short tile repeats its last row, and stores it once.
            *from = rows[index.min(rows.len() - 1)].from as usize;
        }
        let mut column = columns.start;
        while column < columns.end {
            if columns.end - column >= 2 * S::F32_LANES {
                self.tile::<S, MR, 2>(simd, &from, rows, column);
                column += 2 * S::F32_LANES;
            } else {
                self.tile::<S, MR, 1>(simd, &from, rows, column);
                column += S::F32_LANES;
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const MR: usize, const NR: usize>(
        &self,
        simd: S,
        from: &[usize; MR],
        rows: &[Row],
        column: usize,
    ) {
        let mut sums = [[simd.splat_f32s(0.0); NR]; MR];
        match self.start {
            Start::Zeros => {}
            Start::Bias(bias) => sums = [load(&bias[column..]); MR],
            Start::Result => {
                for m in 0..MR {
                    if let Some(row) = rows.get(m) {
                        // SAFETY: as where the sums are stored; `gather`'s caller has promised that they are there.
                        sums[m] = unsafe { load_from(self.out.as_mut_ptr().add(row.to as usize + column)) };
                    }
                }
            }
        }
        let panel = &self.right.values[column * self.right.depth..];
        assert!(panel.len() >= self.right.depth * NR * S::F32_LANES);
        for segment in self.segments {
            let mut right = panel[segment.right * NR * S::F32_LANES..].as_ptr();
            // SAFETY: `gather_product` has checked that each row's segments lie inside `left`.
            let left: [*const f32; MR] = from.map(|from| unsafe { self.left.as_ptr().add(from + segment.start) });
            for k in 0..segment.len {
                // SAFETY: no segment is deeper than the panel, which holds depth x NR vectors.
                let b: [S::f32s; NR] = unsafe { load_from(right) };
                // SAFETY: as above; behind the last row it points one past the panel at most.
                right = unsafe { right.add(NR * S::F32_LANES) };
                for m in 0..MR {
                    // SAFETY: `k` is inside the segment, and the segment inside `left`.
                    let a = simd.splat_f32s(unsafe { *left[m].add(k) });
                    for n in 0..NR {
                        sums[m][n] = simd.mul_add_f32s(a, b[n], sums[m][n]);
                    }
                }
            }
        }
        // Constant indices: with others, the sums would live in memory instead of registers.
        for m in 0..MR {
            if let Some(row) = rows.get(m) {
                // SAFETY: `gather_product_into` has checked that all columns of each row lie inside of `out`, and its caller
                // that nobody else has them.
                unsafe { store_to(self.out.as_mut_ptr().add(row.to as usize + column), &sums[m]) };
            }
        }
    }
}

/// `sums[i, j] += sum_p left[pairs[p].from + i] right[pairs[p].to + j]` for `i` in `lines`, `j` in the columns of `sums`:
/// the gradient of the right operand of a gathered product. `lines` counts rows of `sums` from `first`.
///
/// The sum runs in the order of `pairs`. `left` needs [`SLACK`] values behind what it uses.
pub(crate) fn gather_outer(
    arch: Arch,
    left: &[f32],
    right: &[f32],
    pairs: &[Row],
    first: usize,
    lines: Range<usize>,
    sums: &mut Panels,
) {
    let reach = lines.end + SLACK;
    assert!(first + lines.len() <= sums.depth);
    assert!(
        pairs.iter().all(|pair| pair.from as usize + reach <= left.len()),
        "a pair reaches beyond the left operand"
    );
    assert!(pairs.iter().all(|pair| pair.to as usize + sums.columns <= right.len()), "a pair reaches beyond the right");
    arch.dispatch(GatherOuter { left, right, pairs, first, lines, sums });
}

struct GatherOuter<'a> {
    left: &'a [f32],
    right: &'a [f32],
    pairs: &'a [Row],
    first: usize,
    lines: Range<usize>,
    sums: &'a mut Panels,
}

/// Rows of a tile of [`GatherOuter`]; divides the 48 and 192 rows that 3x3 kernels of 16 and 64 channels have per line.
const OUTER_ROWS: usize = 12;

impl WithSimd for GatherOuter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::F32_LANES == 8 { self.tiles::<S, 6>(simd) } else { self.tiles::<S, OUTER_ROWS>(simd) }
    }
}

impl GatherOuter<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const MR: usize>(mut self, simd: S) {
        const { assert!(MR <= SLACK) };
        let mut column = 0;
        while column < self.sums.columns {
            let vectors = if self.sums.columns - column >= 2 * S::F32_LANES { 2 } else { 1 };
            for line in (0..self.lines.len()).step_by(MR) {
                if vectors == 2 {
                    self.tile::<S, MR, 2>(simd, line, column);
                } else {
                    self.tile::<S, MR, 1>(simd, line, column);
                }
            }
            column += vectors * S::F32_LANES;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const MR: usize, const NR: usize>(&mut self, simd: S, line: usize, column: usize) {
        let width = NR * S::F32_LANES;
        let valid = MR.min(self.lines.len() - line);
        let start = column * self.sums.depth + (self.first + line) * width;
        let cells = &mut self.sums.values[start..start + valid * width];
        let mut sums = [[simd.splat_f32s(0.0); NR]; MR];
        let left = self.left[self.lines.start + line..].as_ptr();
        let right = self.right[column..].as_ptr();
        for pair in self.pairs {
            // SAFETY: `gather_outer` has checked that every pair leaves room for all columns on the right, and for all lines
            // plus SLACK >= MR on the left.
            unsafe {
                let b: [S::f32s; NR] = load_from(right.add(pair.to as usize));
                let a = left.add(pair.from as usize);
                for m in 0..MR {
                    let a = simd.splat_f32s(*a.add(m));
                    for n in 0..NR {
                        sums[m][n] = simd.mul_add_f32s(a, b[n], sums[m][n]);
                    }
                }
            }
        }
        for m in 0..MR {
            if let Some(cells) = cells.get_mut(m * width..(m + 1) * width) {
                let old: [S::f32s; NR] = load(cells);
                let mut new = old;
                for n in 0..NR {
                    new[n] = simd.add_f32s(old[n], sums[m][n]);
                }
                store(cells, &new);
            }
        }
    }
}

#[inline(always)]
fn load<V: pulp::bytemuck::Pod, const NR: usize>(from: &[f32]) -> [V; NR] {
    assert!(size_of_val(from) >= NR * size_of::<V>());
    // SAFETY: just checked.
    unsafe { load_from(from.as_ptr()) }
}

/// # Safety
/// `NR` vectors must be readable at `from`.
#[inline(always)]
unsafe fn load_from<V: pulp::bytemuck::Pod, const NR: usize>(from: *const f32) -> [V; NR] {
    // SAFETY: the caller's promise; `V` is plain data of any bit pattern.
    unsafe { std::array::from_fn(|n| from.cast::<V>().add(n).read_unaligned()) }
}

#[inline(always)]
fn store<V: pulp::bytemuck::Pod, const NR: usize>(to: &mut [f32], values: &[V; NR]) {
    assert!(size_of_val(to) >= size_of_val(values));
    // SAFETY: just checked that all of `values` fit.
    unsafe { store_to(to.as_mut_ptr(), values) };
}

/// # Safety
/// All of `values` must fit at `to`.
#[inline(always)]
unsafe fn store_to<V: pulp::bytemuck::Pod, const NR: usize>(to: *mut f32, values: &[V; NR]) {
    for (n, value) in values.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<V>().add(n).write_unaligned(*value) };
    }
}
