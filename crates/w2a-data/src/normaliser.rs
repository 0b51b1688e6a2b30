//! The affine map between recorded units and the range a network is trained in.

use serde::{Deserialize, Serialize};

use crate::Statistics;

/// Which statistics define the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormaliserMode {
    /// Smallest and largest value to -1 and 1.
    MinMax,
    /// 1 % and 99 % quantile to -1 and 1; outliers go past them and are not clipped, so the map stays invertible.
    Quantile,
    /// Mean to 0 and standard deviation to 1.
    MeanStd,
}

/// Statistics or values that do not fit a [`Normaliser`].
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum NormaliserError {
    /// Values do not fill whole rows.
    #[error(
        "normalising: got {got} values, expected a multiple of the width {width}; is this the feature the statistics were made of?"
    )]
    Width {
        /// Width of the statistics.
        width: usize,
        /// Values offered.
        got: usize,
    },
    /// A stored normaliser or its statistics are unusable.
    #[error("loading a normaliser: {what}; recompute the statistics from the dataset")]
    Invalid {
        /// What is wrong.
        what: String,
    },
}

/// `normalised = (value - offset) / scale`, per dimension, and its exact inverse.
///
/// A constant dimension has scale 1: it normalises to 0 and is restored from 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Normaliser {
    mode: NormaliserMode,
    offset: Vec<f32>,
    scale: Vec<f32>,
}

/// The stored form, before its lengths and scales are checked.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    mode: NormaliserMode,
    offset: Vec<f32>,
    scale: Vec<f32>,
}

impl TryFrom<Unchecked> for Normaliser {
    type Error = NormaliserError;

    fn try_from(raw: Unchecked) -> Result<Self, NormaliserError> {
        if raw.offset.len() != raw.scale.len() {
            let what = format!("{} offsets, but {} scales", raw.offset.len(), raw.scale.len());
            return Err(NormaliserError::Invalid { what });
        }
        if let Some(dimension) = raw.offset.iter().position(|offset| !offset.is_finite()) {
            return Err(NormaliserError::Invalid { what: format!("offset of dimension {dimension} is not finite") });
        }
        if let Some(dimension) = raw.scale.iter().position(|scale| !(scale.is_finite() && *scale > 0.0)) {
            let what =
                format!("scale of dimension {dimension} is {}, expected a positive number", raw.scale[dimension]);
            return Err(NormaliserError::Invalid { what });
        }
        Ok(Self { mode: raw.mode, offset: raw.offset, scale: raw.scale })
    }
}

impl From<Normaliser> for Unchecked {
    fn from(checked: Normaliser) -> Self {
        Self { mode: checked.mode, offset: checked.offset, scale: checked.scale }
    }
}

impl Normaliser {
    /// The map that `statistics` define under `mode`.
    ///
    /// # Errors
    /// [`NormaliserError::Invalid`] if the statistics are not finite or their lengths differ.
    pub fn new(statistics: &Statistics, mode: NormaliserMode) -> Result<Self, NormaliserError> {
        let (low, high) = match mode {
            NormaliserMode::MinMax => (&statistics.min, &statistics.max),
            NormaliserMode::Quantile => (&statistics.q01, &statistics.q99),
            NormaliserMode::MeanStd => (&statistics.mean, &statistics.std),
        };
        if low.len() != high.len() {
            let what = format!("statistics have {} and {} dimensions", low.len(), high.len());
            return Err(NormaliserError::Invalid { what });
        }
        let (offset, scale) = low
            .iter()
            .zip(high)
            .map(|(&low, &high)| match mode {
                NormaliserMode::MeanStd => (low, scale_or_one(low, high)),
                // Halves are taken first: the difference of two large values of opposite sign would overflow.
                _ => {
                    let centre = low / 2.0 + high / 2.0;
                    (centre, scale_or_one(centre, high / 2.0 - low / 2.0))
                }
            })
            .unzip();
        Self::try_from(Unchecked { mode, offset, scale })
    }

    /// Which statistics defined the map.
    pub fn mode(&self) -> NormaliserMode {
        self.mode
    }

    /// Values of one row.
    pub fn width(&self) -> usize {
        self.offset.len()
    }

    /// The same map for rows of `times` such rows.
    #[must_use]
    pub fn repeated(&self, times: usize) -> Self {
        Self { mode: self.mode, offset: self.offset.repeat(times), scale: self.scale.repeat(times) }
    }

    /// Factors and summands that turn a row that this one normalised into the one that `other` makes of the same values.
    ///
    /// # Errors
    /// [`NormaliserError::Width`] if the other's rows are not as wide.
    pub fn renormalised_by(&self, other: &Self) -> Result<(Vec<f32>, Vec<f32>), NormaliserError> {
        if self.width() != other.width() {
            return Err(NormaliserError::Width { width: self.width(), got: other.width() });
        }
        let rows = self.offset.iter().zip(&self.scale).zip(other.offset.iter().zip(&other.scale));
        Ok(rows.map(|((offset, scale), (to, by))| (scale / by, (offset - to) / by)).unzip())
    }

    /// Maps `rows`, `[n, width]`, from recorded units to the training range, in place.
    ///
    /// # Errors
    /// [`NormaliserError::Width`] if the values do not fill whole rows.
    pub fn normalise(&self, rows: &mut [f32]) -> Result<(), NormaliserError> {
        self.apply(rows, |value, offset, scale| (value - offset) / scale)
    }

    /// Maps `rows`, `[n, width]`, from the training range back to recorded units, in place.
    ///
    /// # Errors
    /// [`NormaliserError::Width`] if the values do not fill whole rows.
    pub fn denormalise(&self, rows: &mut [f32]) -> Result<(), NormaliserError> {
        self.apply(rows, |value, offset, scale| value.mul_add(scale, offset))
    }

    fn apply(&self, rows: &mut [f32], map: impl Fn(f32, f32, f32) -> f32) -> Result<(), NormaliserError> {
        let width = self.width();
        let whole = if width == 0 { rows.is_empty() } else { rows.len().is_multiple_of(width) };
        if !whole {
            return Err(NormaliserError::Width { width, got: rows.len() });
        }
        for row in rows.chunks_exact_mut(width.max(1)) {
            for ((value, &offset), &scale) in row.iter_mut().zip(&self.offset).zip(&self.scale) {
                *value = map(*value, offset, scale);
            }
        }
        Ok(())
    }
}

/// `scale`, or 1 where it is within rounding of zero: dividing by it would turn rounding noise into signal.
fn scale_or_one(centre: f32, scale: f32) -> f32 {
    if scale <= (centre.abs() * 4.0 * f32::EPSILON).max(1e-8) { 1.0 } else { scale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StatisticsBuilder;

    fn statistics(rows: &[f32], width: usize) -> Statistics {
        let mut builder = StatisticsBuilder::new("x", width);
        builder.push(rows).unwrap();
        builder.finish().unwrap()
    }

    #[test]
    fn modes_map_to_their_range_and_back() {
        let rows: Vec<f32> = (0..200).map(|i| if i % 2 == 0 { i as f32 } else { -0.3 * i as f32 }).collect();
        let statistics = statistics(&rows, 2);
        for mode in [NormaliserMode::MinMax, NormaliserMode::Quantile, NormaliserMode::MeanStd] {
            let normaliser = Normaliser::new(&statistics, mode).unwrap();
            let mut mapped = rows.clone();
            normaliser.normalise(&mut mapped).unwrap();
            let largest = mapped.iter().copied().fold(0.0_f32, |a, b| a.max(b.abs()));
            match mode {
                NormaliserMode::MinMax => assert!((largest - 1.0).abs() < 1e-6),
                NormaliserMode::Quantile => assert!(largest > 1.0 && largest < 1.05),
                NormaliserMode::MeanStd => assert!((largest - 3.0_f32.sqrt()).abs() < 0.05),
            }
            normaliser.denormalise(&mut mapped).unwrap();
            for (back, value) in mapped.iter().zip(&rows) {
                assert!((back - value).abs() <= 1e-4, "{mode:?}: {back} against {value}");
            }
        }
    }

    #[test]
    fn repeated_rows_and_those_of_another_normaliser() {
        let rows = [0.0, 10.0, 4.0, 30.0, 1.0, 14.0];
        let ours = Normaliser::new(&statistics(&rows, 2), NormaliserMode::MinMax).unwrap();
        let theirs = Normaliser::new(&statistics(&rows, 2), NormaliserMode::MeanStd).unwrap();
        let (mut one, mut other) = (rows, rows);
        ours.normalise(&mut one).unwrap();
        theirs.normalise(&mut other).unwrap();
        let (factors, summands) = ours.renormalised_by(&theirs).unwrap();
        for (at, (one, other)) in one.iter().zip(other).enumerate() {
            assert!((one * factors[at % 2] + summands[at % 2] - other).abs() < 1e-5, "{at}");
        }
        let wide = ours.repeated(3);
        let mut same = rows;
        wide.normalise(&mut same).unwrap();
        assert_eq!((wide.width(), same), (6, one));
        assert!(ours.renormalised_by(&wide).is_err());
    }

    #[test]
    fn constant_dimensions_become_zero_and_come_back() {
        let statistics = statistics(&[0.1, -7.5, 0.1, -7.5, 0.1, -7.5], 2);
        for mode in [NormaliserMode::MinMax, NormaliserMode::Quantile, NormaliserMode::MeanStd] {
            let normaliser = Normaliser::new(&statistics, mode).unwrap();
            let mut row = [0.1, -7.5];
            normaliser.normalise(&mut row).unwrap();
            assert_eq!(row, [0.0, 0.0], "{mode:?}");
            normaliser.denormalise(&mut row).unwrap();
            assert_eq!(row, [0.1, -7.5], "{mode:?}");
        }
    }

    #[test]
    fn a_narrow_but_real_range_is_kept() {
        let statistics = statistics(&[0.0400, 0.0401], 1);
        let normaliser = Normaliser::new(&statistics, NormaliserMode::MinMax).unwrap();
        let mut row = [0.0401];
        normaliser.normalise(&mut row).unwrap();
        assert!((row[0] - 1.0).abs() < 1e-2);
    }

    #[test]
    fn json_round_trips_and_hostile_json_is_refused() {
        let normaliser = Normaliser::new(&statistics(&[0.0, 1.0, 2.0, 5.0], 2), NormaliserMode::Quantile).unwrap();
        let json = serde_json::to_string(&normaliser).unwrap();
        assert_eq!(serde_json::from_str::<Normaliser>(&json).unwrap(), normaliser);
        for hostile in [
            r#"{"mode":"min_max","offset":[0.0],"scale":[0.0]}"#,
            r#"{"mode":"min_max","offset":[0.0],"scale":[1e300]}"#,
            r#"{"mode":"min_max","offset":[0.0],"scale":[1.0,1.0]}"#,
            r#"{"mode":"median","offset":[0.0],"scale":[1.0]}"#,
        ] {
            assert!(serde_json::from_str::<Normaliser>(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn a_row_of_another_width_is_refused() {
        let normaliser = Normaliser::new(&statistics(&[0.0, 1.0], 2), NormaliserMode::MinMax).unwrap();
        assert_eq!(normaliser.normalise(&mut [1.0; 3]), Err(NormaliserError::Width { width: 2, got: 3 }));
    }
}
