//! Per-dimension statistics of actions and proprioception, gathered one episode at a time.

use serde::{Deserialize, Serialize};

use crate::Episode;

/// Statistics of one feature, one entry per dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Rows seen.
    pub count: u64,
    /// Smallest value, `[width]`.
    pub min: Vec<f32>,
    /// Largest value, `[width]`.
    pub max: Vec<f32>,
    /// Mean, `[width]`.
    pub mean: Vec<f32>,
    /// Standard deviation of the population (divided by `count`), `[width]`.
    pub std: Vec<f32>,
    /// 1 % quantile, `[width]`; all quantiles are exact and interpolate linearly between neighbours.
    pub q01: Vec<f32>,
    /// 10 % quantile, `[width]`.
    pub q10: Vec<f32>,
    /// Median, `[width]`.
    pub q50: Vec<f32>,
    /// 90 % quantile, `[width]`.
    pub q90: Vec<f32>,
    /// 99 % quantile, `[width]`.
    pub q99: Vec<f32>,
}

impl Statistics {
    /// Number of dimensions.
    pub fn width(&self) -> usize {
        self.mean.len()
    }
}

/// Rows that statistics cannot be made of.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StatisticsError {
    /// The number of values is no multiple of the width.
    #[error(
        "statistics of {feature}: got {got} values, expected a multiple of the width {width}; do the widths of all episodes agree?"
    )]
    Width {
        /// Which feature.
        feature: String,
        /// Expected width.
        width: usize,
        /// Values offered.
        got: usize,
    },
    /// A value is NaN or infinite.
    #[error("statistics of {feature}: dimension {dimension} of row {row} is not finite; drop the episode or repair it")]
    NotFinite {
        /// Which feature.
        feature: String,
        /// Row, counted over all rows seen.
        row: u64,
        /// Dimension of the row.
        dimension: usize,
    },
    /// No row was seen.
    #[error("statistics of {feature}: no rows; at least one episode is needed")]
    Empty {
        /// Which feature.
        feature: String,
    },
}

/// Gathers [`Statistics`] row by row.
///
/// Images never pass through it, so it keeps all values (4 bytes each) and quantiles are exact: a million steps of
/// seven dimensions take 28 MB.
#[derive(Clone, Debug)]
pub struct StatisticsBuilder {
    feature: String,
    columns: Vec<Vec<f32>>,
}

impl StatisticsBuilder {
    /// An empty builder for rows of `width` values; `feature` names it in errors.
    pub fn new(feature: impl Into<String>, width: usize) -> Self {
        Self { feature: feature.into(), columns: vec![Vec::new(); width] }
    }

    /// Adds `rows`, `[n, width]`.
    ///
    /// # Errors
    /// [`StatisticsError`] if the values do not fill whole rows or one is not finite; nothing is added then.
    pub fn push(&mut self, rows: &[f32]) -> Result<(), StatisticsError> {
        let width = self.columns.len();
        let whole = if width == 0 { rows.is_empty() } else { rows.len().is_multiple_of(width) };
        if !whole {
            return Err(StatisticsError::Width { feature: self.feature.clone(), width, got: rows.len() });
        }
        if let Some(bad) = rows.iter().position(|value| !value.is_finite()) {
            let row = self.columns[0].len() as u64 + (bad / width) as u64;
            return Err(StatisticsError::NotFinite { feature: self.feature.clone(), row, dimension: bad % width });
        }
        for (dimension, column) in self.columns.iter_mut().enumerate() {
            column.extend(rows.iter().skip(dimension).step_by(width));
        }
        Ok(())
    }

    /// The statistics of all rows; for width 0 they are empty.
    ///
    /// # Errors
    /// [`StatisticsError::Empty`] if the width is not 0 and no row was added.
    pub fn finish(self) -> Result<Statistics, StatisticsError> {
        let count = self.columns.first().map_or(0, Vec::len);
        if count == 0 && !self.columns.is_empty() {
            return Err(StatisticsError::Empty { feature: self.feature });
        }
        let width = self.columns.len();
        let empty = || Vec::with_capacity(width);
        let mut statistics = Statistics {
            count: count as u64,
            min: empty(),
            max: empty(),
            mean: empty(),
            std: empty(),
            q01: empty(),
            q10: empty(),
            q50: empty(),
            q90: empty(),
            q99: empty(),
        };
        for mut column in self.columns {
            let mean = column.iter().map(|&value| f64::from(value)).sum::<f64>() / count as f64;
            // Two passes: the naive sum of squares loses all digits where the mean is large against the spread.
            let variance = column.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count as f64;
            column.sort_unstable_by(f32::total_cmp);
            statistics.min.push(column[0]);
            statistics.max.push(column[count - 1]);
            statistics.mean.push(mean as f32);
            statistics.std.push(variance.sqrt() as f32);
            statistics.q01.push(quantile(&column, 0.01));
            statistics.q10.push(quantile(&column, 0.10));
            statistics.q50.push(quantile(&column, 0.50));
            statistics.q90.push(quantile(&column, 0.90));
            statistics.q99.push(quantile(&column, 0.99));
        }
        Ok(statistics)
    }
}

/// The `fraction` quantile of ascending values, linear between the two neighbours.
fn quantile(sorted: &[f32], fraction: f64) -> f32 {
    let position = fraction * (sorted.len() - 1) as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    (f64::from(below) + (f64::from(above) - f64::from(below)) * position.fract()) as f32
}

/// Statistics of the numeric features of a set of episodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpisodeStatistics {
    /// Of the actions; width 0 for action-free video.
    pub actions: Statistics,
    /// Of the proprioception.
    pub proprio: Statistics,
}

impl EpisodeStatistics {
    /// Over all steps of `episodes`, which are visited once and not kept.
    ///
    /// # Errors
    /// [`StatisticsError`] if there is no step, widths differ between episodes or a value is not finite.
    pub fn over<'a>(episodes: impl IntoIterator<Item = &'a Episode>) -> Result<Self, StatisticsError> {
        let mut builders: Option<(StatisticsBuilder, StatisticsBuilder)> = None;
        for episode in episodes {
            let (actions, proprio) = builders.get_or_insert_with(|| {
                (
                    StatisticsBuilder::new("actions", episode.action_dim),
                    StatisticsBuilder::new("proprio", episode.proprio_dim),
                )
            });
            for (builder, width, values) in [
                (&mut *actions, episode.action_dim, &episode.actions),
                (&mut *proprio, episode.proprio_dim, &episode.proprio),
            ] {
                if builder.columns.len() != width {
                    return Err(StatisticsError::Width {
                        feature: builder.feature.clone(),
                        width: builder.columns.len(),
                        got: width,
                    });
                }
                builder.push(values)?;
            }
        }
        let Some((actions, proprio)) = builders else {
            return Err(StatisticsError::Empty { feature: "actions and proprio".into() });
        };
        Ok(Self { actions: actions.finish()?, proprio: proprio.finish()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_equal_a_hand_computed_example() {
        let mut builder = StatisticsBuilder::new("x", 2);
        builder.push(&[1.0, 5.0, 2.0, 5.0]).unwrap();
        builder.push(&[3.0, 5.0, 4.0, 5.0, 10.0, 5.0]).unwrap();
        let statistics = builder.finish().unwrap();
        assert_eq!(statistics.count, 5);
        assert_eq!((&statistics.min[..], &statistics.max[..]), (&[1.0, 5.0][..], &[10.0, 5.0][..]));
        assert_eq!(statistics.mean, [4.0, 5.0]);
        assert!((statistics.std[0] - 10.0_f32.sqrt()).abs() < 1e-6 && statistics.std[1] == 0.0);
        assert_eq!(statistics.q50, [3.0, 5.0]);
        assert!((statistics.q01[0] - 1.04).abs() < 1e-6 && (statistics.q99[0] - 9.76).abs() < 1e-5);
    }

    #[test]
    fn a_large_mean_does_not_swallow_the_spread() {
        let mut builder = StatisticsBuilder::new("x", 1);
        builder.push(&[1_000_000.0, 1_000_001.0]).unwrap();
        assert_eq!(builder.finish().unwrap().std, [0.5]);
    }

    #[test]
    fn ragged_rows_nan_and_no_rows_are_errors() {
        let mut builder = StatisticsBuilder::new("x", 2);
        assert!(matches!(builder.push(&[1.0]), Err(StatisticsError::Width { got: 1, .. })));
        builder.push(&[1.0, 2.0]).unwrap();
        let bad = builder.push(&[1.0, 2.0, 3.0, f32::NAN]);
        assert!(matches!(bad, Err(StatisticsError::NotFinite { row: 2, dimension: 1, .. })));
        assert_eq!(builder.finish().unwrap().count, 1);
        assert!(matches!(StatisticsBuilder::new("x", 1).finish(), Err(StatisticsError::Empty { .. })));
    }

    #[test]
    fn width_zero_is_action_free_video_and_no_error() {
        let mut builder = StatisticsBuilder::new("actions", 0);
        builder.push(&[]).unwrap();
        assert_eq!(builder.finish().unwrap().width(), 0);
    }
}
