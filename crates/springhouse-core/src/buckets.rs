//! Durations counted in buckets: bounds from a millisecond on, two to a doubling, and quantiles as upper bounds.

use crate::Micros;

/// The upper bounds of the first `N` buckets, microseconds; a last bucket has the rest.
pub const fn bounds<const N: usize>() -> [Micros; N] {
    let mut bounds = [0; N];
    let mut n = 0;
    while n < N {
        // 1.4142 is the square root of two, closely enough for a bound.
        bounds[n] = if n % 2 == 0 { 1_000 << (n / 2) } else { (14_142 << (n / 2)) / 10 };
        n += 1;
    }
    bounds
}

/// The bucket of a duration: the first whose bound it does not exceed.
pub fn bucket_of(bounds: &[Micros], duration: Micros) -> usize {
    bounds.partition_point(|bound| *bound < duration)
}

/// A bucket's upper bound in seconds; infinite for the last.
pub fn bound_seconds(bounds: &[Micros], bucket: usize) -> f64 {
    bounds.get(bucket).map_or(f64::INFINITY, |bound| *bound as f64 / 1e6)
}

/// The bound, in seconds, below which this share (0 to 1) of what was counted lies; none when nothing was.
pub fn quantile_seconds(bounds: &[Micros], counts: &[u64], share: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    let wanted = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        seen >= wanted
    });
    bucket.map(|bucket| bound_seconds(bounds, bucket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{DAY, HOUR};

    #[test]
    fn bounds_rise_by_the_root_of_two() {
        let bounds = bounds::<80>();
        assert_eq!((bounds[0], bounds[1], bounds[2]), (1_000, 1_414, 2_000));
        for pair in bounds.windows(2) {
            let ratio = pair[1] as f64 / pair[0] as f64;
            assert!((ratio - 2f64.sqrt()).abs() < 0.002, "{pair:?}");
        }
        assert!(bounds[47] > 3 * HOUR && bounds[79] > 24 * 365 * DAY);
        assert_eq!(
            (bucket_of(&bounds, 1_000), bucket_of(&bounds, 1_001), bucket_of(&bounds, Micros::MAX)),
            (0, 1, 80)
        );
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let bounds = bounds::<2>();
        let of = |counts: [u64; 3], share| quantile_seconds(&bounds, &counts, share);
        assert_eq!(of([0; 3], 0.5), None);
        assert_eq!(of([2, 1, 1], 0.5), Some(0.001));
        assert_eq!(of([2, 1, 1], 0.75), Some(0.001414));
        assert_eq!(of([2, 1, 1], 0.99), Some(f64::INFINITY));
        assert_eq!(of([0, 1, 0], 0.0), Some(0.001414));
    }
}
