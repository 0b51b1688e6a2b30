//! Videos of another size, as the authors' loader makes them: linear interpolation, and where a picture shrinks the mean over
//! what a pixel covers (torchvision's `resize` with `antialias`).

use w2a_nn::NnError;

use crate::GridVideo;

/// First source and weights of each destination.
fn weights(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    let of = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        let first = ((centre - support + 0.5).max(0.0)) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let raw: Vec<f64> =
            (first..end).map(|at| (1.0 - ((at as f64 - centre + 0.5) / support).abs()).max(0.0)).collect();
        let total: f64 = raw.iter().sum();
        (first, raw.iter().map(|weight| (weight / total) as f32).collect())
    };
    (0..to).map(of).collect()
}

impl GridVideo {
    /// The video with pictures of `height` x `width`; the shape of things in them changes with that of the picture.
    ///
    /// # Errors
    /// Pictures without pixels.
    pub fn resized(&self, height: usize, width: usize) -> Result<Self, NnError> {
        if (self.height, self.width) == (height, width) {
            return Ok(self.clone());
        }
        if [self.height, self.width, height, width].contains(&0) {
            return Err(NnError::Input {
                what: "video to resize".into(),
                expected: "sides above 0".into(),
                got: format!("{}x{} to {height}x{width}", self.height, self.width),
            });
        }
        let (rows, columns) = (weights(self.height, height), weights(self.width, width));
        let mut rgb = Vec::with_capacity(self.frames() * height * width * 3);
        for frame in self.rgb.chunks_exact(self.height * self.width * 3) {
            // Columns first, without rounding in between.
            let mut across = Vec::with_capacity(self.height * width * 3);
            for row in frame.chunks_exact(self.width * 3) {
                for (first, weights) in &columns {
                    let mut sums = [0.0_f32; 3];
                    for (weight, pixel) in weights.iter().zip(row.chunks_exact(3).skip(*first)) {
                        sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += weight * f32::from(*value));
                    }
                    across.extend(sums);
                }
            }
            for (first, weights) in &rows {
                let mut sums = vec![0.0_f32; width * 3];
                for (weight, row) in weights.iter().zip(across.chunks_exact(width * 3).skip(*first)) {
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
                }
                rgb.extend(sums.into_iter().map(|value| value.round().clamp(0.0, 255.0) as u8));
            }
        }
        Ok(Self { height, width, rgb })
    }
}

#[cfg(test)]
mod tests {
    use crate::GridVideo;

    fn video(height: usize, width: usize, value: impl Fn(usize, usize) -> u8) -> GridVideo {
        let pixels = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
        GridVideo { height, width, rgb: pixels.flat_map(|(row, column)| [value(row, column), 7, 0]).collect() }
    }

    #[test]
    fn halving_takes_means_and_doubling_interpolates() {
        // torch 2.7.1, interpolate(mode="bilinear", antialias=True): a ramp of 8 columns to 4, and of 2 to 4.
        let ramp = video(1, 8, |_, column| (column * 20) as u8).resized(1, 4).unwrap();
        let reds: Vec<u8> = ramp.rgb.iter().step_by(3).copied().collect();
        assert_eq!(reds, [14, 50, 90, 126]);
        let step = video(1, 2, |_, column| (column * 100) as u8).resized(1, 4).unwrap();
        assert_eq!(step.rgb.iter().step_by(3).copied().collect::<Vec<u8>>(), [0, 25, 75, 100]);
        assert!(step.rgb.iter().skip(1).step_by(3).all(|green| *green == 7));
    }

    #[test]
    fn every_frame_is_resized_and_a_picture_of_the_size_stays() {
        let one = video(6, 4, |row, column| (row * 16 + column) as u8);
        assert_eq!(one.resized(6, 4).unwrap(), one);
        let two = GridVideo { rgb: [one.rgb.clone(), one.rgb.clone()].concat(), ..one };
        let small = two.resized(3, 8).unwrap();
        assert_eq!((small.frames(), small.frame(0)), (2, small.frame(1)));
        assert!(two.resized(0, 8).unwrap_err().to_string().contains("above 0"));
    }
}
