//! Large pictures in tiles that overlap: memory then depends on the size of a tile. Where tiles overlap, each fades into the next
//! (`tiled_encode` and `tiled_decode` of diffusers' `AutoencoderKLWan`, whose sizes are the defaults).
//!
//! The result is not that of the whole picture: convolutions and the attention in the middle end at the edge of a tile.

use w2a_nn::NnError;

use super::Vae;

/// Sizes of tiles, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tiling {
    /// Rows and columns of a tile.
    pub size: [usize; 2],
    /// Rows and columns from one tile to the next; the rest of a tile fades into the next one.
    pub stride: [usize; 2],
}

impl Default for Tiling {
    fn default() -> Self {
        Self { size: [256, 256], stride: [192, 192] }
    }
}

impl Tiling {
    /// Checks the sizes for an autoencoder whose latents have `scale` pixels each way.
    ///
    /// # Errors
    /// Sizes that do not divide into latents, or tiles that leave gaps.
    pub fn check(&self, scale: usize) -> Result<(), NnError> {
        let fits = |(&size, &stride): (&usize, &usize)| {
            stride > 0 && stride <= size && size <= 1 << 16 && [size, stride].iter().all(|n| n.is_multiple_of(scale))
        };
        if self.size.iter().zip(&self.stride).all(fits) {
            return Ok(());
        }
        Err(NnError::Input {
            what: "setting tiles of Cosmos-Predict2".into(),
            expected: format!("size and stride in multiples of {scale}, strides from {scale} to the size"),
            got: format!("size {:?} and stride {:?}", self.size, self.stride),
        })
    }

    /// Whether a picture of these rows and columns is more than a tile.
    pub fn divides(&self, picture: [usize; 2]) -> bool {
        picture.iter().zip(&self.size).any(|(picture, tile)| picture > tile)
    }

    /// The same in latents.
    fn scaled(&self, scale: usize) -> Self {
        Self { size: self.size.map(|n| n / scale), stride: self.stride.map(|n| n / scale) }
    }
}

/// Pictures of several channels and frames, `[planes, rows, columns]`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Planes {
    rows: usize,
    columns: usize,
    data: Vec<f32>,
}

impl Planes {
    /// Part of every plane, from `from` on and of `size` or less.
    fn part(&self, from: [usize; 2], size: [usize; 2]) -> Self {
        let [top, left] = from;
        let (rows, columns) = (size[0].min(self.rows - top), size[1].min(self.columns - left));
        let mut data = Vec::new();
        for plane in self.data.chunks_exact((self.rows * self.columns).max(1)) {
            for row in plane.chunks_exact(self.columns.max(1)).skip(top).take(rows) {
                data.extend(row.iter().skip(left).take(columns));
            }
        }
        Self { rows, columns, data }
    }

    /// Fades the last `extent` rows (`axis` 0) or columns (1) of `before` into the first of this tile.
    fn fade(&mut self, before: &Self, axis: usize, extent: usize) {
        let own = [self.rows, self.columns];
        let theirs = [before.rows, before.columns];
        let extent = extent.min(own[axis]).min(theirs[axis]);
        // The other side is of one length: both tiles are in one row, or in one column.
        let planes = self.data.chunks_exact_mut((own[0] * own[1]).max(1));
        for (plane, old) in planes.zip(before.data.chunks_exact((theirs[0] * theirs[1]).max(1))) {
            for (index, value) in plane.iter_mut().enumerate() {
                let mut place = [index / own[1], index % own[1]];
                let step = place[axis];
                if step >= extent {
                    continue;
                }
                place[axis] = theirs[axis] - extent + step;
                let share = step as f32 / extent as f32;
                if let Some(old) = old.get(place[0] * theirs[1] + place[1]) {
                    *value = old * (1.0 - share) + *value * share;
                }
            }
        }
    }
}

/// Puts tiles together that `tile` makes for their places: `picture` and `tiling` are in the units of the result, and so is what
/// `tile` is given: the first row and column of a tile.
fn tiled(
    tiling: Tiling,
    picture: [usize; 2],
    mut tile: impl FnMut([usize; 2]) -> Result<Planes, NnError>,
) -> Result<Planes, NnError> {
    let [high, wide] = tiling.stride;
    let overlap = [tiling.size[0] - high, tiling.size[1] - wide];
    let mut above: Vec<Planes> = Vec::new();
    let mut out = Planes { rows: picture[0], columns: picture[1], data: Vec::new() };
    for top in (0..picture[0]).step_by(high) {
        let mut row: Vec<Planes> = Vec::new();
        for (column, left) in (0..picture[1]).step_by(wide).enumerate() {
            let mut next = tile([top, left])?;
            if let Some(above) = above.get(column) {
                next.fade(above, 0, overlap[0]);
            }
            if let Some(before) = row.last() {
                next.fade(before, 1, overlap[1]);
            }
            let kept = next.part([0, 0], tiling.stride);
            let planes = kept.data.len() / (kept.rows * kept.columns).max(1);
            out.data.resize(planes * picture[0] * picture[1], 0.0);
            for (line, values) in kept.data.chunks_exact(kept.columns.max(1)).enumerate() {
                let at = (line / kept.rows * picture[0] + top + line % kept.rows) * picture[1] + left;
                if let Some(place) = out.data.get_mut(at..at + values.len()) {
                    place.copy_from_slice(values);
                }
            }
            row.push(next);
        }
        above = row;
    }
    Ok(out)
}

impl Vae {
    /// [`Vae::encode`] in tiles, before latents are normalised.
    pub(super) fn encode_tiles(
        &self,
        tiling: Tiling,
        count: usize,
        [rows, columns]: [usize; 2],
        frames: &mut dyn FnMut(std::ops::Range<usize>) -> Vec<f32>,
    ) -> Result<Vec<f32>, NnError> {
        let scale = self.config.scale();
        let done = tiled(tiling.scaled(scale), [rows / scale, columns / scale], |place| {
            let [top, left] = place.map(|n| n * scale);
            let size = [tiling.size[0].min(rows - top), tiling.size[1].min(columns - left)];
            let mut part = |range: std::ops::Range<usize>| {
                Planes { rows, columns, data: frames(range) }.part([top, left], size).data
            };
            let data = self.encode_means(count, size, &mut part)?;
            Ok(Planes { rows: size[0] / scale, columns: size[1] / scale, data })
        })?;
        Ok(done.data)
    }

    /// [`Vae::decode`] in tiles; the whole video is in memory, in f32.
    pub(super) fn decode_tiles(
        &self,
        tiling: Tiling,
        latents: &[f32],
        [count, rows, columns]: [usize; 3],
        mut each: impl FnMut(Vec<f32>) -> Result<(), NnError>,
    ) -> Result<(), NnError> {
        let scale = self.config.scale();
        let whole = Planes { rows, columns, data: latents.to_vec() };
        let picture = [rows * scale, columns * scale];
        let mut pieces = Vec::new();
        let done = tiled(tiling, picture, |place| {
            let part = whole.part(place.map(|n| n / scale), tiling.size.map(|n| n / scale));
            let mut found = Vec::new();
            self.decode_tapped(&part.data, [count, part.rows, part.columns], None, |piece| {
                found.push(piece);
                Ok(())
            })?;
            let (rows, columns) = (part.rows * scale, part.columns * scale);
            // Frames of a piece, of which every tile has the same.
            pieces = found.iter().map(|piece| piece.len() / (3 * rows * columns).max(1)).collect();
            Ok(Planes { rows, columns, data: found.concat() })
        })?;
        let mut rest = &done.data[..];
        for frames in pieces {
            let Some((piece, after)) = rest.split_at_checked(3 * frames * picture[0] * picture[1]) else { break };
            each(piece.to_vec())?;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Planes, Tiling, tiled};

    #[test]
    fn tiles_that_agree_make_the_whole_picture() {
        let picture = Planes { rows: 7, columns: 9, data: (0..2 * 63).map(|value| value as f32).collect() };
        for (size, stride) in [([4, 4], [3, 2]), ([7, 3], [7, 3]), ([16, 5], [8, 4]), ([2, 2], [1, 1])] {
            let tiling = Tiling { size, stride };
            let mut places = Vec::new();
            let done = tiled(tiling, [7, 9], |place| {
                places.push(place);
                Ok(picture.part(place, size))
            });
            let done = done.unwrap();
            let largest = done.data.iter().zip(&picture.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(done.data.len() == 126 && largest < 1e-4, "{tiling:?}: {largest}");
            assert_eq!(places[0], [0, 0]);
        }
    }

    #[test]
    fn tiles_fade_into_each_other() {
        // The first tile is 0, the second 1: over two columns that overlap, half of each in the second of them.
        let tiling = Tiling { size: [1, 4], stride: [1, 2] };
        let done = tiled(tiling, [1, 4], |[_, left]| {
            let columns = 4 - left;
            Ok(Planes { rows: 1, columns, data: vec![(left / 2) as f32; columns] })
        });
        assert_eq!(done.unwrap().data, [0.0, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn sizes_that_leave_gaps_or_cut_latents_are_refused() {
        assert!(Tiling::default().check(8).is_ok());
        for (size, stride) in [([256, 256], [257, 192]), ([250, 256], [192, 192]), ([256, 256], [0, 192])] {
            let error = Tiling { size, stride }.check(8).unwrap_err().to_string();
            assert!(error.contains("multiples of 8"), "{error}");
        }
        assert!(Tiling::default().divides([256, 264]) && !Tiling::default().divides([256, 256]));
    }
}
