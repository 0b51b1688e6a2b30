//! OpenCV's `INTER_AREA` for 8-bit RGB, bit for bit: it is four algorithms, chosen by the two scale factors.

use super::Rgb;

/// Fixed-point unit of the coefficients of an upscale.
const UNIT: f32 = 2048.0;

/// Resizes as `cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)` of OpenCV 4.10.
pub(super) fn resize(image: &Rgb, height: usize, width: usize) -> Rgb {
    // OpenCV divides twice; the quotient of the sizes may differ from this in the last bit.
    let scale = |from: usize, to: usize| 1.0 / (to as f64 / from as f64);
    let (down_y, down_x) = (scale(image.height, height), scale(image.width, width));
    let data = if down_y < 1.0 || down_x < 1.0 {
        upscale(image, height, width)
    } else {
        let whole = |factor: f64| (factor - factor.round()).abs() < f64::EPSILON;
        match whole(down_y) && whole(down_x) {
            true => boxes(image, height, width, down_y.round() as usize, down_x.round() as usize),
            false => weighted(image, height, width, down_y, down_x),
        }
    };
    Rgb { height, width, data }
}

/// A source column (or row), its neighbour, and their weights in units of 1/2048.
struct Tap {
    at: usize,
    next: usize,
    weights: [i32; 2],
}

fn taps(from: usize, to: usize) -> Vec<Tap> {
    let inverse = to as f64 / from as f64;
    let scale = 1.0 / inverse;
    (0..to)
        .map(|index| {
            let at = (index as f64 * scale).floor();
            let share = ((index + 1) as f64 - (at + 1.0) * inverse) as f32;
            let share = if share <= 0.0 { 0.0 } else { share - share.floor() };
            let at = (at as usize).min(from - 1);
            let round = |share: f32| (share * UNIT).round_ties_even() as i32;
            Tap { at, next: (at + 1).min(from - 1), weights: [round(1.0 - share), round(share)] }
        })
        .collect()
}

/// Linear interpolation between box centres, in integers.
fn upscale(image: &Rgb, height: usize, width: usize) -> Vec<u8> {
    let columns = taps(image.width, width);
    let stretched = |y: usize| -> Vec<i32> {
        let row = image.row(y);
        let mut out = Vec::with_capacity(width * 3);
        for Tap { at, next, weights: [a0, a1] } in &columns {
            out.extend((0..3).map(|c| i32::from(row[at * 3 + c]) * a0 + i32::from(row[next * 3 + c]) * a1));
        }
        out
    };
    let rows: Vec<Vec<i32>> = (0..image.height).map(stretched).collect();
    let mut data = Vec::with_capacity(height * width * 3);
    for Tap { at, next, weights: [b0, b1] } in taps(image.height, height) {
        data.extend(rows[at].iter().zip(&rows[next]).map(|(upper, lower)| {
            let sum = ((b0 * (upper >> 4)) >> 16) + ((b1 * (lower >> 4)) >> 16);
            ((sum + 2) >> 2).clamp(0, 255) as u8
        }));
    }
    data
}

/// Averages of whole boxes.
fn boxes(image: &Rgb, height: usize, width: usize, down_y: usize, down_x: usize) -> Vec<u8> {
    let share = 1.0 / (down_y * down_x) as f32;
    let mut data = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let column = |row: usize| {
                    let row = image.row(row);
                    (x * down_x..(x + 1) * down_x).map(|x| u32::from(row[x * 3 + channel])).sum::<u32>()
                };
                let sum: u32 = (y * down_y..(y + 1) * down_y).map(column).sum();
                data.push(match (down_y, down_x) {
                    (2, 2) => ((sum + 2) >> 2) as u8,
                    _ => (sum as f32 * share).round_ties_even() as u8,
                });
            }
        }
    }
    data
}

/// Sources of one destination column (or row) and their shares of it.
fn shares(from: usize, to: usize, scale: f64) -> Vec<Vec<(usize, f32)>> {
    (0..to)
        .map(|index| {
            let start = index as f64 * scale;
            let end = start + scale;
            let cell = scale.min(from as f64 - start);
            let last = (end.floor() as usize).min(from - 1);
            let first = (start.ceil() as usize).min(last);
            let mut out = Vec::new();
            if first as f64 - start > 1e-3 {
                out.push((first - 1, ((first as f64 - start) / cell) as f32));
            }
            out.extend((first..last).map(|at| (at, (1.0 / cell) as f32)));
            if end - last as f64 > 1e-3 {
                out.push((last, ((end - last as f64).min(1.0).min(cell) / cell) as f32));
            }
            out
        })
        .collect()
}

/// Averages of boxes with parts of pixels. Sums are in f32, in OpenCV's order and without fused multiply-add: one in ten
/// thousand values falls on the other side of a half otherwise.
fn weighted(image: &Rgb, height: usize, width: usize, down_y: f64, down_x: f64) -> Vec<u8> {
    let columns = shares(image.width, width, down_x);
    let squeezed = |y: usize| -> Vec<f32> {
        let row = image.row(y);
        let mut out = Vec::with_capacity(width * 3);
        for sources in &columns {
            let mut sums = [0.0_f32; 3];
            for &(x, share) in sources {
                for (sum, byte) in sums.iter_mut().zip(&row[x * 3..x * 3 + 3]) {
                    *sum += f32::from(*byte) * share;
                }
            }
            out.extend(sums);
        }
        out
    };
    let mut data = Vec::with_capacity(height * width * 3);
    let mut kept: (usize, Vec<f32>) = (usize::MAX, Vec::new());
    for sources in shares(image.height, height, down_y) {
        let mut sums = vec![0.0_f32; width * 3];
        for (y, share) in sources {
            // Neighbouring boxes share a row.
            if kept.0 != y {
                kept = (y, squeezed(y));
            }
            for (sum, value) in sums.iter_mut().zip(&kept.1) {
                *sum += share * value;
            }
        }
        data.extend(sums.into_iter().map(|sum| sum.round_ties_even().clamp(0.0, 255.0) as u8));
    }
    data
}
