//! Whether two sets of times can be told apart: the rank test of Mann and Whitney.
//!
//! It asks nothing of the distribution, which a latency's long tail would spoil for a test of means.

/// How two samples compare.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// The probability that a value of the first is larger than one of the second; a tie counts half. One half
    /// where they cannot be told apart.
    pub superiority: f64,
    /// By how many standard deviations that differs from one half.
    pub z: f64,
    /// The probability of a difference at least as large where there is none (two-sided).
    pub p: f64,
}

/// Compares two samples; by the normal approximation with ties corrected, so each should have twenty values or more.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub fn compare(first: &[u64], second: &[u64]) -> Comparison {
    let mut all: Vec<(u64, bool)> = first.iter().map(|value| (*value, true)).collect();
    all.extend(second.iter().map(|value| (*value, false)));
    all.sort_unstable();
    let (n, m) = (first.len() as f64, second.len() as f64);
    let (mut rank_sum, mut ties, mut before) = (0.0, 0.0, 0.0);
    for group in all.chunk_by(|one, other| one.0 == other.0) {
        let size = group.len() as f64;
        // Equal values share the middle of their ranks.
        let rank = before + f64::midpoint(size, 1.0);
        rank_sum += rank * group.iter().filter(|(_, is_first)| *is_first).count() as f64;
        ties += size.powi(3) - size;
        before += size;
    }
    let u = rank_sum - n * (n + 1.0) / 2.0;
    let total = n + m;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    let z = if variance > 0.0 { (u - n * m / 2.0) / variance.sqrt() } else { 0.0 };
    Comparison { superiority: u / (n * m), z, p: two_sided(z) }
}

/// The probability of a standard normal value at least as far from zero.
fn two_sided(z: f64) -> f64 {
    complementary_error(z.abs() / std::f64::consts::SQRT_2)
}

/// The complementary error function for `x` of zero or more, to seven digits (Abramowitz and Stegun, 7.1.26).
fn complementary_error(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 5] =
        [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429];
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let polynomial = COEFFICIENTS.iter().rev().fold(0.0, |sum, coefficient| t * (coefficient + sum));
    (polynomial * (-x * x).exp()).clamp(0.0, 1.0)
}

/// The value below which the share `at` of the values lie; 0 of none.
#[must_use]
pub fn quantile(values: &[u64], at: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a slice, from a share between 0 and 1"
    )]
    let index = (sorted.len().saturating_sub(1) as f64 * at.clamp(0.0, 1.0)).round() as usize;
    sorted.get(index).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-4, "{actual} is not {expected}");
    }

    #[test]
    fn equal_samples_cannot_be_told_apart() {
        let values: Vec<u64> = (0..100).collect();
        let same = compare(&values, &values);
        close(same.superiority, 0.5);
        close(same.p, 1.0);
        let constant = compare(&[5; 30], &[5; 30]);
        close(constant.superiority, 0.5);
        close(constant.p, 1.0);
    }

    #[test]
    fn the_larger_sample_is_found() {
        let (low, high): (Vec<u64>, Vec<u64>) = ((0..50).collect(), (100..150).collect());
        let apart = compare(&high, &low);
        close(apart.superiority, 1.0);
        assert!(apart.z > 8.0 && apart.p < 1e-10);
        close(compare(&low, &high).superiority, 0.0);
    }

    #[test]
    fn a_small_case_agrees_with_a_count_by_hand() {
        // Of nine pairs the first is larger in five, and one is a tie.
        close(compare(&[3, 7, 9], &[3, 4, 8]).superiority, 5.5 / 9.0);
        close(two_sided(1.959_964), 0.05);
        close(two_sided(0.0), 1.0);
    }

    #[test]
    fn quantiles_are_values() {
        assert_eq!(quantile(&[], 0.5), 0);
        assert_eq!(quantile(&[3, 1, 2], 0.5), 2);
        assert_eq!(quantile(&[3, 1, 2], 1.0), 3);
    }
}
