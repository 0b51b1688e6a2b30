//! How long demonstrations and clips are.

use serde::Serialize;

/// Bins of a histogram at most.
const MAX_BINS: usize = 24;

/// A histogram of durations.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// How many there are.
    pub n: usize,
    /// The shortest, seconds.
    pub min_s: f64,
    /// The median, seconds; of an even number the lower of the two in the middle.
    pub median_s: f64,
    /// The mean, seconds.
    pub mean_s: f64,
    /// The longest, seconds.
    pub max_s: f64,
    /// Width of a bin, seconds.
    pub bin_s: f64,
    /// Bin `i` counts durations from `i * bin_s` up to, but without, the next bin's.
    pub counts: Vec<usize>,
}

impl Lengths {
    /// The histogram of `seconds` with bins of `bin_s`.
    pub fn of(seconds: &[f64], bin_s: f64) -> Self {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min_s), Some(&max_s)) = (sorted.first(), sorted.last()) else { return Self::default() };
        let mut counts = vec![0; (max_s / bin_s) as usize + 1];
        for value in &sorted {
            if let Some(count) = counts.get_mut((value / bin_s) as usize) {
                *count += 1;
            }
        }
        let median_s = sorted.get((sorted.len() - 1) / 2).copied().unwrap_or(min_s);
        // To the microsecond: what is below comes from adding up.
        let mean_s = (sorted.iter().sum::<f64>() / sorted.len() as f64 * 1e6).round() / 1e6;
        Self { n: sorted.len(), min_s, median_s, mean_s, max_s, bin_s, counts }
    }

    /// A round width of bins for durations up to `longest_s`, seconds.
    pub fn bin_for(longest_s: f64) -> f64 {
        let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0];
        let fits = |step: &f64| longest_s / step <= MAX_BINS as f64;
        steps.into_iter().find(fits).unwrap_or_else(|| (longest_s / MAX_BINS as f64).max(600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_counted_once() {
        let seconds = [0.0, 0.4, 0.5, 3.2, 6.4];
        let lengths = Lengths::of(&seconds, 0.5);
        assert_eq!(lengths.counts.iter().sum::<usize>(), 5);
        assert_eq!((lengths.counts[0], lengths.counts[1], lengths.counts[6], lengths.counts[12]), (2, 1, 1, 1));
        assert_eq!((lengths.n, lengths.min_s, lengths.median_s, lengths.max_s), (5, 0.0, 0.5, 6.4));
        assert!((lengths.mean_s - 2.1).abs() < 1e-12);
    }

    #[test]
    fn nothing_has_no_histogram_and_long_recordings_no_long_one() {
        assert_eq!(Lengths::of(&[], 1.0), Lengths::default());
        for longest_s in [0.01, 3.2, 6.4, 61.0, 5e3, 1e7] {
            let bin_s = Lengths::bin_for(longest_s);
            assert!(Lengths::of(&[longest_s], bin_s).counts.len() <= MAX_BINS + 1, "{longest_s}");
        }
        assert_eq!(Lengths::bin_for(6.4), 0.5);
    }
}
