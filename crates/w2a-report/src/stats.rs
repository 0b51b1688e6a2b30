//! The few statistics that an honest success table needs.
//!
//! Rates are fractions in `[0, 1]` here; percent only appears where a number is shown or saved.

use std::collections::BTreeMap;

/// The two-sided 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A closed interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

/// The Wilson 95 % interval of a success rate, as fractions; `None` if `n` is 0.
///
/// Unlike the normal approximation it stays inside `[0, 1]` and keeps its coverage near 0 and 1.
pub fn wilson95(successes: u64, n: u64) -> Option<Interval> {
    (n > 0 && successes <= n).then(|| wilson(successes as f64 / n as f64, n as f64))
}

/// Wilson's interval for a rate and a (possibly fractional, effective) number of episodes.
fn wilson(rate: f64, n: f64) -> Interval {
    let scale = 1.0 + Z * Z / n;
    let centre = (rate + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    // The ends are exact at rates 0 and 1, where rounding would otherwise leave ±1e-17.
    Interval {
        lo: if rate <= 0.0 { 0.0 } else { (centre - half).max(0.0) },
        hi: if rate >= 1.0 { 1.0 } else { (centre + half).min(1.0) },
    }
}

/// One counted episode of one method, for [`clustered_wilson95`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which scene; equal numbers are the same scene.
    pub scene: usize,
    /// Which training seed produced the method's weights.
    pub seed: u64,
    /// Whether the episode succeeded.
    pub success: bool,
}

/// A rate, the number of independent episodes it is worth, and its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClusteredRate {
    /// Successes over episodes.
    pub rate: f64,
    /// How many independent episodes would carry the same information; the number of episodes if each has its own
    /// scene.
    pub n_effective: f64,
    /// 95 % interval.
    pub interval: Interval,
}

/// The Wilson 95 % interval when several seeds were evaluated on the same scenes.
///
/// Pooling seeds × scenes as if every episode were new would be too sure of itself: one hard scene fails under every
/// seed, and one bad seed fails on every scene. The variance of the pooled rate is therefore estimated with clusters
/// both ways (by scene plus by seed minus the independent part, each with the `G / (G - 1)` correction), turned into
/// an effective number of episodes, and that number is given to Wilson's formula. It is never more than the number of
/// episodes. If every episode succeeds or every one fails, nothing can be estimated and the number of distinct scenes
/// is used. With one seed the result is the plain interval. With few seeds the seed part is itself uncertain: read
/// the spread over seeds beside it.
///
/// Returns `None` if there is no outcome.
pub fn clustered_wilson95(outcomes: &[Outcome]) -> Option<ClusteredRate> {
    let n = outcomes.len() as f64;
    if outcomes.is_empty() {
        return None;
    }
    let rate = outcomes.iter().filter(|outcome| outcome.success).count() as f64 / n;
    let mut scenes = BTreeMap::<usize, f64>::new();
    let mut seeds = BTreeMap::<u64, f64>::new();
    for outcome in outcomes {
        let residual = f64::from(u8::from(outcome.success)) - rate;
        *scenes.entry(outcome.scene).or_default() += residual;
        *seeds.entry(outcome.seed).or_default() += residual;
    }
    let independent = rate * (1.0 - rate);
    let n_effective = if seeds.len() == 1 && scenes.len() == outcomes.len() {
        n
    } else if independent == 0.0 {
        scenes.len() as f64
    } else {
        let by_scene = cluster_variance(scenes.values(), n);
        let by_seed = cluster_variance(seeds.values(), n);
        let by_episode = independent / (n - 1.0);
        let variance = by_scene.max(by_scene + by_seed - by_episode);
        (independent / variance).clamp(1.0, n)
    };
    Some(ClusteredRate { rate, n_effective, interval: wilson(rate, n_effective) })
}

/// Variance of a mean of `n` values from the sums of residuals of its clusters; 0 for one cluster.
fn cluster_variance<'a>(sums: impl ExactSizeIterator<Item = &'a f64>, n: f64) -> f64 {
    let clusters = sums.len() as f64;
    if clusters < 2.0 {
        return 0.0;
    }
    clusters / (clusters - 1.0) * sums.map(|sum| sum * sum).sum::<f64>() / (n * n)
}

/// The exact two-sided McNemar test: the probability, if winning and losing were equally likely, of counts at least
/// as uneven as `won` against `lost`. 1 if both are 0.
pub fn mcnemar_exact(won: u64, lost: u64) -> f64 {
    let n = won + lost;
    let tail = won.min(lost);
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2; // ln of C(n, 0) / 2^n
    let mut sum = ln_term.exp();
    for k in 1..=tail {
        ln_term += ((n - k + 1) as f64 / k as f64).ln();
        sum += ln_term.exp();
    }
    (2.0 * sum).min(1.0)
}

/// How values spread, such as success over seeds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spread {
    /// Number of values.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation (`n - 1`); 0 for one value.
    pub std: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

/// Mean, standard deviation and range; `None` if there is no value or one is not finite.
pub fn spread(values: &[f64]) -> Option<Spread> {
    if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    Some(Spread {
        n,
        mean,
        std: if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 },
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
}

/// Spearman's rank correlation; ties share their mean rank, pairs with a value that is not finite are left out.
///
/// Returns `None` if the lengths differ, fewer than two pairs remain, or one side is constant.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() {
        return None;
    }
    let pairs = || x.iter().zip(y).filter(|(x, y)| x.is_finite() && y.is_finite());
    let x = ranks(&pairs().map(|(x, _)| *x).collect::<Vec<_>>());
    let y = ranks(&pairs().map(|(_, y)| *y).collect::<Vec<_>>());
    let centre = (x.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - centre) * (b - centre)).sum::<f64>();
    let scale = (product(&x, &x) * product(&y, &y)).sqrt();
    (scale > 0.0).then(|| product(&x, &y) / scale)
}

/// Ranks from 1; equal values share the mean of the ranks they cover.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order = (0..values.len()).collect::<Vec<_>>();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = order[start..].iter().take_while(|&&index| values[index] == values[order[start]]).count();
        for &index in &order[start..start + same] {
            ranks[index] = start as f64 + (same as f64 + 1.0) / 2.0;
        }
        start += same;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, expected: f64, tolerance: f64) {
        assert!((got - expected).abs() <= tolerance, "got {got}, expected {expected}");
    }

    #[test]
    fn wilson_equals_published_values() {
        // Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
        for (successes, n, lo, hi) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let interval = wilson95(successes, n).unwrap();
            close(interval.lo, lo, 5e-5);
            close(interval.hi, hi, 5e-5);
        }
        assert_eq!(wilson95(20, 20).unwrap().hi, 1.0);
        assert_eq!(wilson95(0, 0), None);
        assert_eq!(wilson95(3, 2), None);
    }

    #[test]
    fn mcnemar_equals_hand_values() {
        close(mcnemar_exact(0, 0), 1.0, 0.0);
        close(mcnemar_exact(3, 3), 1.0, 0.0);
        close(mcnemar_exact(5, 0), 2.0 / 32.0, 1e-12);
        close(mcnemar_exact(1, 9), 2.0 * 11.0 / 1024.0, 1e-12);
        close(mcnemar_exact(9, 1), mcnemar_exact(1, 9), 0.0);
        let strong = mcnemar_exact(238, 20);
        assert!(strong > 0.0 && strong < 1e-40, "{strong}");
        assert!(mcnemar_exact(10_050, 9_950) > 0.4);
    }

    #[test]
    fn spearman_equals_hand_values() {
        close(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 400.0]).unwrap(), 1.0, 1e-12);
        close(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]).unwrap(), -1.0, 1e-12);
        // Ranks 1 2.5 2.5 4 against 1 2 3 4: 4.5 / sqrt(4.5 * 5).
        close(spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]).unwrap(), 4.5 / 22.5_f64.sqrt(), 1e-12);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[1.0, f64::NAN], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[1.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn spread_uses_the_sample_deviation() {
        let spread_of = spread(&[2.0, 4.0, 6.0]).unwrap();
        assert_eq!((spread_of.mean, spread_of.std, spread_of.min, spread_of.max), (4.0, 2.0, 2.0, 6.0));
        assert_eq!(spread(&[5.0]).unwrap().std, 0.0);
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[f64::NAN]), None);
    }

    fn outcomes(seeds: u64, scenes: usize, success: impl Fn(u64, usize) -> bool) -> Vec<Outcome> {
        (0..seeds)
            .flat_map(|seed| (0..scenes).map(move |scene| (seed, scene)))
            .map(|(seed, scene)| Outcome { scene, seed, success: success(seed, scene) })
            .collect()
    }

    #[test]
    fn one_seed_is_the_plain_interval() {
        let rate = clustered_wilson95(&outcomes(1, 200, |_, scene| scene % 4 == 0)).unwrap();
        assert_eq!(rate.n_effective, 200.0);
        assert_eq!(Some(rate.interval), wilson95(50, 200));
    }

    #[test]
    fn seeds_that_repeat_each_other_add_no_information() {
        let rate = clustered_wilson95(&outcomes(5, 200, |_, scene| scene % 4 == 0)).unwrap();
        close(rate.n_effective, 199.0, 1e-6);
    }

    #[test]
    fn seeds_that_differ_as_a_whole_widen_the_interval() {
        // Three seeds at 25, 50 and 75 %: three numbers, however many scenes.
        let rate = clustered_wilson95(&outcomes(3, 400, |seed, scene| (scene * 7) % 4 <= seed as usize)).unwrap();
        assert!(rate.n_effective < 20.0, "{rate:?}");
    }

    #[test]
    fn all_successes_count_scenes_not_episodes() {
        let rate = clustered_wilson95(&outcomes(5, 30, |_, _| true)).unwrap();
        assert_eq!(rate.n_effective, 30.0);
        assert_eq!(Some(rate.interval), wilson95(30, 30));
        assert_eq!(clustered_wilson95(&[]), None);
    }
}
