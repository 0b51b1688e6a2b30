//! Camera frames to the pixels the vision tower sees, byte for byte as the reference's evaluation transforms.
//!
//! The steps (reference: `image_augmentations.py`, `processing_eagle3_vl.py` at commit 92f523db): optional letterbox, the
//! shorter side to `shortest_edge` by OpenCV's `INTER_AREA`, a centre crop, the shorter side again, then Pillow's bicubic
//! to multiples of 28. Each works on bytes and rounds, so a step that is off by one shows in every later one.

mod area;
mod bicubic;

use w2a_nn::NnError;

/// Sides of the images are multiples of this: a patch of 14 pixels, two of which become one token.
const FACTOR: usize = 28;
/// Fewest pixels after [`smart_resize`].
const MIN_PIXELS: usize = 4 * FACTOR * FACTOR;
/// Most pixels after [`smart_resize`].
const MAX_PIXELS: usize = 4096 * FACTOR * FACTOR;
/// Longest side after [`smart_resize`].
const MAX_RESIZED: usize = 7000;
/// Largest quotient of the sides.
const MAX_RATIO: f64 = 200.0;
/// Longest side that is accepted before.
const MAX_SIDE: usize = 1 << 14;

/// An RGB image, row-major `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

impl Rgb {
    /// An image of the given size.
    ///
    /// # Errors
    /// A size of zero or beyond 16384, or bytes that do not fill it.
    pub fn new(height: usize, width: usize, data: Vec<u8>) -> Result<Self, NnError> {
        let fits = (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width);
        if !fits || data.len() != height * width * 3 {
            return Err(NnError::Input {
                what: "camera frame".into(),
                expected: format!("sides from 1 to {MAX_SIDE} and height x width x 3 bytes"),
                got: format!("{height} x {width} and {} bytes", data.len()),
            });
        }
        Ok(Self { height, width, data })
    }

    /// The bytes of a row.
    fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.width * 3..(y + 1) * self.width * 3]
    }

    fn part(&self, top: usize, left: usize, height: usize, width: usize) -> Self {
        let rows = (top..top + height).flat_map(|y| &self.row(y)[left * 3..(left + width) * 3]);
        Self { height, width, data: rows.copied().collect() }
    }
}

/// How frames are prepared; from the checkpoint's `processor_config.json`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageConfig {
    /// The shorter side after each `SmallestMaxSize`, in pixels.
    pub shortest_edge: usize,
    /// Share of each side that the centre crop keeps, in `(0, 1]`.
    pub crop_fraction: f64,
    /// Whether frames are padded to squares with black bars first. The release of N1.6 does not; its later tip does.
    pub letterbox: bool,
}

/// What each step made of a frame, the last being what the model sees.
#[derive(Clone, Debug)]
pub struct Steps {
    /// Padded to a square; as given without letterbox.
    pub letterbox: Rgb,
    /// The shorter side has `shortest_edge` pixels.
    pub smallest1: Rgb,
    /// The centre.
    pub crop: Rgb,
    /// The shorter side has `shortest_edge` pixels again.
    pub smallest2: Rgb,
    /// Sides are multiples of 28.
    pub resized: Rgb,
}

impl ImageConfig {
    /// Checks that the numbers make sense.
    ///
    /// # Errors
    /// An edge of zero or beyond 16384, or a fraction outside of `(0, 1]`.
    pub fn validate(&self) -> Result<(), NnError> {
        if (1..=MAX_SIDE).contains(&self.shortest_edge) && self.crop_fraction > 0.0 && self.crop_fraction <= 1.0 {
            return Ok(());
        }
        Err(NnError::Input {
            what: "shortest_image_edge and crop_fraction of processor_config.json".into(),
            expected: format!("an edge from 1 to {MAX_SIDE} and a fraction in (0, 1]"),
            got: format!("{} and {}", self.shortest_edge, self.crop_fraction),
        })
    }

    /// All steps.
    ///
    /// # Errors
    /// An image whose sides are so unequal that the model cannot take it.
    pub fn steps(&self, frame: &Rgb) -> Result<Steps, NnError> {
        let letterbox = if self.letterbox { letterboxed(frame) } else { frame.clone() };
        let smallest1 = smallest(&letterbox, self.shortest_edge)?;
        let crop = centre(&smallest1, self.crop_fraction);
        let smallest2 = smallest(&crop, self.shortest_edge)?;
        let (height, width) = smart_resize(smallest2.height, smallest2.width)?;
        let resized = bicubic::resize(&smallest2, height, width);
        Ok(Steps { letterbox, smallest1, crop, smallest2, resized })
    }
}

/// Black bars around an image that is no square.
fn letterboxed(image: &Rgb) -> Rgb {
    let side = image.height.max(image.width);
    let (top, left) = ((side - image.height) / 2, (side - image.width) / 2);
    let mut data = vec![0; side * side * 3];
    for y in 0..image.height {
        let start = ((top + y) * side + left) * 3;
        data[start..start + image.width * 3].copy_from_slice(image.row(y));
    }
    Rgb { height: side, width: side, data }
}

/// albumentations' `SmallestMaxSize` with `INTER_AREA`: the shorter side gets `edge` pixels.
fn smallest(image: &Rgb, edge: usize) -> Result<Rgb, NnError> {
    let shorter = image.height.min(image.width);
    if shorter == edge {
        return Ok(image.clone());
    }
    let scale = edge as f64 / shorter as f64;
    let side = |n: usize| (n as f64 * scale).round_ties_even() as usize;
    let (height, width) = (side(image.height), side(image.width));
    if height.max(width) > MAX_SIDE || height.min(width) == 0 {
        return Err(NnError::Input {
            what: "camera frame".into(),
            expected: format!("sides of at most {MAX_SIDE} when the shorter one has {edge} pixels"),
            got: format!("{} x {}; crop it, or use the letterbox", image.height, image.width),
        });
    }
    Ok(area::resize(image, height, width))
}

/// The middle `fraction` of each side, rounded down.
fn centre(image: &Rgb, fraction: f64) -> Rgb {
    let side = |n: usize| ((n as f64 * fraction) as usize).clamp(1, n);
    let (height, width) = (side(image.height), side(image.width));
    image.part((image.height - height) / 2, (image.width - width) / 2, height, width)
}

/// The nearest size whose sides are multiples of 28 and whose area is within the limits, by the rule of the backbone's
/// processor: sides are rounded first, and a large area is brought down from the rounded sides.
///
/// # Errors
/// Sides of zero, one more than 200 times the other, or a result of no pixels.
pub fn smart_resize(height: usize, width: usize) -> Result<(usize, usize), NnError> {
    let factor = FACTOR as f64;
    let (h, w) = (height as f64, width as f64);
    let wrong = || NnError::Input {
        what: "image for the vision tower".into(),
        expected: format!("sides of which none is more than {MAX_RATIO} times the other"),
        got: format!("{height} x {width}"),
    };
    if height == 0 || width == 0 || h.max(w) / h.min(w) > MAX_RATIO {
        return Err(wrong());
    }
    let round = |n: f64| ((n / factor).round_ties_even() as usize * FACTOR).clamp(FACTOR, MAX_RESIZED);
    let (mut rows, mut columns) = (round(h), round(w));
    if rows * columns > MAX_PIXELS {
        let beta = ((rows * columns) as f64 / MAX_PIXELS as f64).sqrt();
        let floor = |n: usize| (n as f64 / beta / factor).floor() as usize * FACTOR;
        (rows, columns) = (floor(rows), floor(columns));
    } else if rows * columns < MIN_PIXELS {
        let beta = (MIN_PIXELS as f64 / (h * w)).sqrt();
        let ceil = |n: f64| (n * beta / factor).ceil() as usize * FACTOR;
        (rows, columns) = (ceil(h), ceil(w));
    }
    if rows == 0 || columns == 0 { Err(wrong()) } else { Ok((rows, columns)) }
}

/// Squares of `patch` pixels, row by row, each as `(row, column, channel)`: `[(height / patch) * (width / patch), patch *
/// patch * 3]`. What does not fill a square at the right and lower edge is left out.
pub fn patches<T: Copy>(height: usize, width: usize, patch: usize, pixel: impl Fn(usize, usize, usize) -> T) -> Vec<T> {
    let mut out = Vec::with_capacity(height * width * 3);
    for top in (0..height / patch).map(|row| row * patch) {
        for left in (0..width / patch).map(|column| column * patch) {
            for y in top..top + patch {
                for x in left..left + patch {
                    out.extend((0..3).map(|channel| pixel(y, x, channel)));
                }
            }
        }
    }
    out
}

/// A byte as the model sees it, from -1 to 1. The reference multiplies by 1/255: a division rounds otherwise.
pub fn normalised(byte: u8) -> f32 {
    (f32::from(byte) * (1.0 / 255.0) - 0.5) / 0.5
}

#[cfg(test)]
mod tests {
    use super::{ImageConfig, Rgb, smart_resize};
    use proptest::prelude::*;

    #[test]
    fn a_frame_of_the_wrong_size_is_refused() {
        assert!(Rgb::new(0, 4, vec![]).is_err());
        assert!(Rgb::new(2, 2, vec![0; 11]).is_err());
        assert!(Rgb::new(1 << 15, 1, vec![0; 3 << 15]).is_err());
        assert!(smart_resize(0, 28).is_err() && smart_resize(1, 1 << 20).is_err());
    }

    #[test]
    fn a_frame_far_from_square_is_an_error_and_no_huge_image() {
        let config = ImageConfig { shortest_edge: 256, crop_fraction: 0.95, letterbox: false };
        let thin = Rgb::new(1, 16000, vec![7; 48000]).unwrap();
        let error = config.steps(&thin).unwrap_err().to_string();
        assert!(error.contains("1 x 16000") && error.contains("letterbox"), "{error}");
        assert!(ImageConfig { crop_fraction: f64::NAN, ..config }.validate().is_err());
        assert!(ImageConfig { shortest_edge: 0, ..config }.validate().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_size_ends_in_multiples_of_28_and_one_colour_stays(
            height in 1_usize..150, width in 1_usize..150, value: u8, letterbox: bool
        ) {
            let config = ImageConfig { shortest_edge: 40, crop_fraction: 0.95, letterbox };
            let frame = Rgb::new(height, width, vec![value; height * width * 3]).unwrap();
            let steps = config.steps(&frame).unwrap();
            let last = &steps.resized;
            prop_assert!(last.height.is_multiple_of(28) && last.width.is_multiple_of(28));
            prop_assert_eq!(last.data.len(), last.height * last.width * 3);
            if !letterbox || height == width {
                prop_assert!(last.data.iter().all(|&byte| byte == value), "{:?}", &last.data[..9]);
            }
        }
    }
}
