//! Pictures for a report: filmstrips, enlargements, PNG and animated PNG.

use std::io;

/// An 8-bit RGBA picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    height: usize,
    width: usize,
    /// `[height, width, 4]`.
    rgba: Vec<u8>,
}

/// Pictures that do not fit together, or could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A buffer of the wrong length.
    #[error("picture: {got} bytes, expected {expected} for {height} x {width} RGB; pass one frame, [height, width, 3]")]
    Length {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Bytes found.
        got: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// Frames of different sizes.
    #[error("picture: frame {frame} is {got:?} (height, width), expected {expected:?} like the first; resize it")]
    Size {
        /// Which frame.
        frame: usize,
        /// Its height and width.
        got: (usize, usize),
        /// Those of the first frame.
        expected: (usize, usize),
    },
    /// No frame at all, or an empty one.
    #[error("picture: there is nothing to draw, expected at least one frame of at least one pixel")]
    Empty,
    /// The encoder's reason.
    #[error("picture: cannot encode {height} x {width}: {source}")]
    Encode {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Reason.
        source: png::EncodingError,
    },
    /// The reason of the encoder of GIFs.
    #[error("picture: cannot encode {height} x {width} as GIF: {source}")]
    EncodeGif {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Reason.
        source: gif::EncodingError,
    },
}

impl Picture {
    /// From RGB bytes `[height, width, 3]`, top row first.
    ///
    /// # Errors
    /// [`ImageError::Length`] or [`ImageError::Empty`].
    pub fn from_rgb(height: usize, width: usize, rgb: &[u8]) -> Result<Self, ImageError> {
        let expected = height.saturating_mul(width).saturating_mul(3);
        if expected == 0 {
            return Err(ImageError::Empty);
        }
        if rgb.len() != expected {
            return Err(ImageError::Length { height, width, got: rgb.len(), expected });
        }
        let rgba = rgb.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect();
        Ok(Self { height, width, rgba })
    }

    /// A transparent picture.
    fn transparent(height: usize, width: usize) -> Self {
        Self { height, width, rgba: vec![0; height * width * 4] }
    }

    /// Height and width in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// The RGBA bytes, `[height, width, 4]`.
    pub fn rgba(&self) -> &[u8] {
        &self.rgba
    }

    /// Each pixel as a square of `factor` x `factor` (0 is taken as 1).
    pub fn upscale(&self, factor: usize) -> Self {
        let factor = factor.max(1);
        let mut out = Self::transparent(self.height * factor, self.width * factor);
        for (row, line) in out.rgba.chunks_exact_mut(self.width * factor * 4).enumerate() {
            for (column, pixel) in line.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let from = (row / factor * self.width + column / factor) * 4;
                pixel.copy_from_slice(&self.rgba[from..from + 4]);
            }
        }
        out
    }

    /// Copies `other` so that its corner lies at row `top`, column `left`; the caller made room.
    fn paste(&mut self, other: &Self, top: usize, left: usize) {
        for row in 0..other.height {
            let to = ((top + row) * self.width + left) * 4;
            let from = row * other.width * 4;
            self.rgba[to..to + other.width * 4].copy_from_slice(&other.rgba[from..from + other.width * 4]);
        }
    }

    /// As PNG.
    ///
    /// # Errors
    /// [`ImageError::Encode`].
    pub fn png(&self) -> Result<Vec<u8>, ImageError> {
        encode(std::slice::from_ref(self), None)
    }
}

/// Frames in rows and columns on a transparent ground, `gap` pixels apart; rows may differ in length.
///
/// Label the rows in the caption of the figure (or use one strip a row, see `Report::filmstrip`): text drawn in
/// 64-pixel frames cannot be read.
///
/// # Errors
/// [`ImageError::Empty`] without a frame, [`ImageError::Size`] if frames differ in size.
pub fn filmstrip(rows: &[Vec<Picture>], gap: usize) -> Result<Picture, ImageError> {
    let (height, width) = same_size(rows.iter().flatten())?;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = Picture::transparent(rows.len() * (height + gap) - gap, columns * (width + gap) - gap);
    for (row, frames) in rows.iter().enumerate() {
        for (column, frame) in frames.iter().enumerate() {
            out.paste(frame, row * (height + gap), column * (width + gap));
        }
    }
    Ok(out)
}

/// Pairs of frames next to each other, `gap` pixels apart; a sequence that is shorter holds its last frame.
///
/// # Errors
/// [`ImageError::Empty`] if a sequence is, [`ImageError::Size`] if frames differ in size.
pub fn side_by_side(left: &[Picture], right: &[Picture], gap: usize) -> Result<Vec<Picture>, ImageError> {
    let (Some(last_left), Some(last_right)) = (left.last(), right.last()) else {
        return Err(ImageError::Empty);
    };
    (0..left.len().max(right.len()))
        .map(|frame| {
            let pair = [left.get(frame).unwrap_or(last_left), right.get(frame).unwrap_or(last_right)];
            filmstrip(&[pair.into_iter().cloned().collect()], gap)
        })
        .collect()
}

/// At most `count` frames at even distances, the first and the last among them.
pub fn spaced(frames: &[Picture], count: usize) -> Vec<Picture> {
    if count < 2 || frames.len() <= count {
        return frames.iter().take(count.max(1)).cloned().collect();
    }
    (0..count).map(|index| frames[(index * (frames.len() - 1) + (count - 1) / 2) / (count - 1)].clone()).collect()
}

/// An endless animated PNG, which every browser shows; the last frame is held for a second.
///
/// # Errors
/// [`ImageError::Empty`] without a frame, [`ImageError::Size`] if frames differ in size, [`ImageError::Encode`].
pub fn apng(frames: &[Picture], frames_per_s: u16) -> Result<Vec<u8>, ImageError> {
    same_size(frames.iter())?;
    encode(frames, Some(frames_per_s.max(1)))
}

pub(crate) fn same_size<'a>(frames: impl Iterator<Item = &'a Picture>) -> Result<(usize, usize), ImageError> {
    let mut expected = None;
    for (frame, picture) in frames.enumerate() {
        let expected = *expected.get_or_insert(picture.size());
        if picture.size() != expected {
            return Err(ImageError::Size { frame, got: picture.size(), expected });
        }
    }
    expected.ok_or(ImageError::Empty)
}

fn encode(frames: &[Picture], frames_per_s: Option<u16>) -> Result<Vec<u8>, ImageError> {
    let (height, width) = frames.first().ok_or(ImageError::Empty)?.size();
    let fail = |source| ImageError::Encode { height, width, source };
    let side = |side: usize| {
        u32::try_from(side).map_err(|_| fail(io::Error::new(io::ErrorKind::InvalidInput, "too large for PNG").into()))
    };
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, side(width)?, side(height)?);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(frames_per_s) = frames_per_s {
        encoder.set_animated(frames.len() as u32, 0).map_err(fail)?;
        encoder.set_frame_delay(1, frames_per_s).map_err(fail)?;
    }
    let mut writer = encoder.write_header().map_err(fail)?;
    for (index, frame) in frames.iter().enumerate() {
        if frames_per_s.is_some() && index + 1 == frames.len() {
            writer.set_frame_delay(1, 1).map_err(fail)?;
        }
        writer.write_image_data(&frame.rgba).map_err(fail)?;
    }
    writer.finish().map_err(fail)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solid(height: usize, width: usize, colour: [u8; 3]) -> Picture {
        Picture::from_rgb(height, width, &colour.repeat(height * width)).unwrap()
    }

    fn decode(bytes: &[u8]) -> (png::OutputInfo, Vec<u8>, Option<u32>) {
        let mut reader = png::Decoder::new(io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let frames = reader.info().animation_control().map(|control| control.num_frames);
        (info, pixels, frames)
    }

    #[test]
    fn a_png_decodes_to_the_same_pixels() {
        let rgb = (0..2 * 3 * 3).map(|value| value * 7).collect::<Vec<u8>>();
        let picture = Picture::from_rgb(2, 3, &rgb).unwrap();
        let (info, pixels, frames) = decode(&picture.png().unwrap());
        assert_eq!((info.height, info.width, frames), (2, 3, None));
        assert_eq!(pixels, picture.rgba());
        assert_eq!(&pixels[4..8], [21, 28, 35, 255]);
    }

    #[test]
    fn a_filmstrip_has_transparent_gaps() {
        let rows = vec![vec![solid(2, 2, [255, 0, 0]); 3], vec![solid(2, 2, [0, 255, 0]); 2]];
        let strip = filmstrip(&rows, 1).unwrap();
        assert_eq!(strip.size(), (5, 8));
        let pixel = |row: usize, column: usize| &strip.rgba()[(row * 8 + column) * 4..][..4];
        assert_eq!(pixel(1, 7), [255, 0, 0, 255]);
        assert_eq!(pixel(2, 0), [0, 0, 0, 0]);
        assert_eq!(pixel(3, 3), [0, 255, 0, 255]);
        assert_eq!(pixel(4, 6), [0, 0, 0, 0]);
    }

    #[test]
    fn upscaling_repeats_pixels() {
        let picture = Picture::from_rgb(1, 2, &[1, 2, 3, 4, 5, 6]).unwrap().upscale(2);
        assert_eq!(picture.size(), (2, 4));
        assert_eq!(&picture.rgba()[16..32], [1, 2, 3, 255, 1, 2, 3, 255, 4, 5, 6, 255, 4, 5, 6, 255]);
    }

    #[test]
    fn an_animation_has_every_frame() {
        let left = (0..4).map(|value| solid(4, 4, [value * 50; 3])).collect::<Vec<_>>();
        let frames = side_by_side(&left, &left[..2], 2).unwrap();
        assert_eq!((frames.len(), frames[0].size()), (4, (4, 10)));
        let (info, _, count) = decode(&apng(&frames, 10).unwrap());
        assert_eq!((info.height, info.width, count), (4, 10, Some(4)));
    }

    #[test]
    fn spaced_frames_keep_both_ends() {
        let frames = (0..10).map(|value| solid(1, 1, [value; 3])).collect::<Vec<_>>();
        let kept = spaced(&frames, 4).iter().map(|frame| frame.rgba()[0]).collect::<Vec<_>>();
        assert_eq!(kept, [0, 3, 6, 9]);
        assert_eq!(spaced(&frames, 1).len(), 1);
        assert_eq!(spaced(&frames, 20).len(), 10);
    }

    #[test]
    fn bad_input_is_named() {
        assert!(matches!(Picture::from_rgb(2, 2, &[0; 11]), Err(ImageError::Length { expected: 12, got: 11, .. })));
        assert!(matches!(Picture::from_rgb(0, 2, &[]), Err(ImageError::Empty)));
        assert!(matches!(filmstrip(&[], 1), Err(ImageError::Empty)));
        assert!(matches!(apng(&[solid(1, 1, [0; 3]), solid(1, 2, [0; 3])], 5), Err(ImageError::Size { frame: 1, .. })));
    }
}
