//! Pillow's bicubic `Image.resize` for 8-bit RGB, bit for bit: columns first, then rows, each rounded to bytes.

use super::Rgb;

/// Bits after the point of the coefficients.
const PRECISION: u32 = 22;

/// Resizes as `Image.resize((width, height))` of Pillow 9 and later.
pub(super) fn resize(image: &Rgb, height: usize, width: usize) -> Rgb {
    let stretched = if width == image.width { image.clone() } else { horizontal(image, width) };
    if height == image.height { stretched } else { vertical(&stretched, height) }
}

/// First source and the fixed-point weights of each destination.
fn coefficients(from: usize, to: usize) -> Vec<(usize, Vec<i32>)> {
    let scale = from as f64 / to as f64;
    let filter = scale.max(1.0);
    let support = 2.0 * filter;
    (0..to)
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            let first = ((centre - support + 0.5) as isize).max(0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weight = |at: usize| cubic((at as f64 - centre + 0.5) / filter);
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |weight: &f64| {
                let scaled = weight / total * f64::from(1_u32 << PRECISION);
                (scaled + 0.5_f64.copysign(scaled)) as i32
            };
            (first, weights.iter().map(fixed).collect())
        })
        .collect()
}

/// Keys' kernel with `a = -0.5`.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION - 1);

fn horizontal(image: &Rgb, width: usize) -> Rgb {
    let columns = coefficients(image.width, width);
    let mut data = Vec::with_capacity(image.height * width * 3);
    for y in 0..image.height {
        let row = image.row(y);
        for (first, weights) in &columns {
            let mut sums = [HALF; 3];
            for (weight, pixel) in weights.iter().zip(row[first * 3..].chunks_exact(3)) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            data.extend(sums.map(byte));
        }
    }
    Rgb { height: image.height, width, data }
}

fn vertical(image: &Rgb, height: usize) -> Rgb {
    let mut data = Vec::with_capacity(height * image.width * 3);
    for (first, weights) in coefficients(image.height, height) {
        let mut sums = vec![HALF; image.width * 3];
        for (offset, weight) in weights.iter().enumerate() {
            for (sum, value) in sums.iter_mut().zip(image.row(first + offset)) {
                *sum += i32::from(*value) * weight;
            }
        }
        data.extend(sums.into_iter().map(byte));
    }
    Rgb { height, width: image.width, data }
}
