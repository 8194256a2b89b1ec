//! Samples in figures: quantiles, and whether two lists of samples differ by more than chance.

use serde::{Deserialize, Serialize};

/// Samples from which a 99th percentile is given: of fewer it would be the maximum under another name.
const P99_SAMPLES: usize = 100;

/// Samples in three figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The smallest.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile, by nearest rank; nothing for fewer than 100 samples.
    pub p99: Option<f64>,
}

impl Quantiles {
    /// Of at least one sample.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Quantiles> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let p99 = (count >= P99_SAMPLES).then(|| sorted[(count * 99).div_ceil(100) - 1]);
        let (low, high) = (*sorted.get(count.wrapping_sub(1) / 2)?, *sorted.get(count / 2)?);
        Some(Quantiles { min: sorted[0], p50: (low + high) / 2.0, p99 })
    }
}

/// The median of at least one sample.
pub fn median(samples: impl IntoIterator<Item = f64>) -> Option<f64> {
    Quantiles::of(samples).map(|quantiles| quantiles.p50)
}

/// Samples of both lists together up to which the distribution of ranks is counted out.
const EXACT_SAMPLES: usize = 40;

/// The two-sided p-value of the Wilcoxon-Mann-Whitney rank sum test: how probable a difference of ranks at least this
/// large is where both lists come from the same distribution. Ties share their ranks. Exact for up to 40 samples in all,
/// by the normal approximation with a correction for ties above.
///
/// Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the other", 1947.
pub fn rank_sum_p(a: &[f64], b: &[f64]) -> f64 {
    let count = a.len() + b.len();
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let ranks = double_ranks(a, b);
    let of_a: u64 = ranks[..a.len()].iter().sum();
    // twice the rank sum that is expected, and how far it is away
    let expected = (a.len() * (count + 1)) as u64;
    let distance = of_a.abs_diff(expected);
    if count <= EXACT_SAMPLES {
        return exact(&ranks, a.len(), expected, distance);
    }
    let (m, n, total) = (a.len() as f64, b.len() as f64, count as f64);
    let ties: f64 = tie_sizes(&ranks).map(|size| size * size * size - size).sum();
    let variance = m * n / 12.0 * ((total + 1.0) - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    // half a rank for the step from whole numbers to the normal distribution
    let z = (distance as f64 / 2.0 - 0.5).max(0.0) / variance.sqrt();
    erfc(z / std::f64::consts::SQRT_2)
}

/// Twice the rank of each sample, of `a` first: ties have the mean of their ranks, which may end in a half.
fn double_ranks(a: &[f64], b: &[f64]) -> Vec<u64> {
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|x, y| all[*x].total_cmp(&all[*y]));
    let mut ranks = vec![0; all.len()];
    let mut at = 0;
    for tied in order.chunk_by(|x, y| all[*x] == all[*y]) {
        // ranks at + 1 to at + length
        tied.iter().for_each(|index| ranks[*index] = (2 * at + tied.len() + 1) as u64);
        at += tied.len();
    }
    ranks
}

fn tie_sizes(ranks: &[u64]) -> impl Iterator<Item = f64> {
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    let sizes: Vec<f64> = sorted.chunk_by(|x, y| x == y).map(|tied| tied.len() as f64).collect();
    sizes.into_iter()
}

/// The share of all choices of `chosen` ranks whose sum is at least `distance` from `expected`.
fn exact(ranks: &[u64], chosen: usize, expected: u64, distance: u64) -> f64 {
    let most = ranks.iter().sum::<u64>() as usize;
    // ways[k][sum]: choices of k ranks with this sum
    let mut ways = vec![vec![0.0_f64; most + 1]; chosen + 1];
    ways[0][0] = 1.0;
    for (seen, rank) in ranks.iter().enumerate() {
        for k in (1..=chosen.min(seen + 1)).rev() {
            let (fewer, more) = ways.split_at_mut(k);
            let (fewer, more) = (&fewer[k - 1], &mut more[0]);
            for sum in *rank as usize..=most {
                more[sum] += fewer[sum - *rank as usize];
            }
        }
    }
    let ways = &ways[chosen];
    let far = |sum: usize| (sum as u64).abs_diff(expected) >= distance;
    let extreme: f64 = ways.iter().enumerate().filter(|(sum, _)| far(*sum)).map(|(_, ways)| ways).sum();
    extreme / ways.iter().sum::<f64>()
}

/// The complementary error function of a number that is not negative: the power series of the error function below 3, the
/// continued fraction above (Abramowitz and Stegun, 7.1.6 and 7.1.14).
fn erfc(x: f64) -> f64 {
    let density = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - 2.0 * density * sum;
    }
    density / (1..60).rev().fold(x, |rest, n| x + f64::from(n) / 2.0 / rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_samples() {
        let of = |samples: &[f64]| Quantiles::of(samples.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0]), Some(Quantiles { min: 3.0, p50: 3.0, p99: None }));
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]), Some(Quantiles { min: 1.0, p50: 2.5, p99: None }));
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(of(&hundred), Some(Quantiles { min: 1.0, p50: 50.5, p99: Some(99.0) }));
    }

    /// From scipy.stats.mannwhitneyu, `method="exact"` without ties and a count of all choices with them.
    #[test]
    fn small_lists_are_counted_out() {
        let p = |a: &[f64], b: &[f64]| rank_sum_p(a, b);
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        close(p(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]), 2.0 / 252.0);
        close(p(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.1);
        close(p(&[1.0, 3.0, 5.0], &[2.0, 4.0, 6.0]), 0.7);
        close(p(&[1.0, 1.0], &[1.0, 1.0]), 1.0);
        // 3 of the 10 choices of two ranks from 1.5, 1.5, 3, 4, 5 are as far from 6 as 1.5 + 1.5
        close(p(&[1.0, 1.0], &[2.0, 3.0, 4.0]), 0.2);
        assert_eq!(p(&[], &[1.0]), 1.0);
    }

    #[test]
    fn the_error_function_is_that_of_tables() {
        for (x, value) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (2.0, 0.004_677_734_981_047_266),
            (3.5, 7.430_983_723_414_128e-7),
        ] {
            assert!((erfc(x) / value - 1.0).abs() < 1e-9, "{x}: {}", erfc(x));
        }
    }

    #[test]
    fn long_lists_agree_with_the_count() {
        // no ties: beside the exact distribution at the limit
        let sample = |seed: u64, count: usize, shift: f64| -> Vec<f64> {
            (0..count as u64).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f64 / 1009.0 + shift).collect()
        };
        for shift in [0.0, 0.1, 0.3, 0.6] {
            let (a, b) = (sample(1, 20, 0.0), sample(2, 20, shift));
            let counted = rank_sum_p(&a, &b);
            let ranks = double_ranks(&a, &b);
            let distance = ranks[..20].iter().sum::<u64>().abs_diff(20 * 41) as f64 / 2.0;
            let z = (distance - 0.5).max(0.0) / (20.0 * 20.0 * 41.0 / 12.0_f64).sqrt();
            let normal = erfc(z / std::f64::consts::SQRT_2);
            assert!((counted - normal).abs() < 0.01, "{shift}: {counted} {normal}");
        }
        let (a, b) = (sample(1, 200, 0.0), sample(2, 200, 0.0));
        assert!(rank_sum_p(&a, &b) > 0.01);
        assert!(rank_sum_p(&a, &sample(2, 200, 0.3)) < 1e-6);
    }
}
