//! DDSketch: counts in logarithmic buckets, so that a quantile has a relative error of at most alpha.
//!
//! Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch", 2019, arXiv 1908.10693, with their cubic
//! interpolation of the logarithm: sums and products only, which IEEE 754 rounds the same on every machine (a `ln` of
//! the platform's maths library may not).

use std::collections::BTreeMap;

/// The most buckets that a sketch holds; past it the aggregate is over its cap. At alpha = 1% these would span more
/// than the whole range of float64, so only a tiny alpha and wildly scattered values get here.
pub(crate) const SKETCH_BUCKETS_MAX: usize = 1 << 16;

/// The bucket of the infinities.
const INFINITE: i32 = i32::MAX;

/// Maps magnitudes to bucket numbers for one alpha.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QuantileScale {
    /// About how many buckets a doubling has.
    multiplier: f64,
}

impl QuantileScale {
    /// `alpha` is in 0.001..=0.1.
    pub(crate) fn new(alpha: f64) -> Self {
        // ln(gamma) = ln((1 + alpha) / (1 - alpha)) = 2 atanh(alpha), by its series: below alpha^41 nothing is left.
        let square = alpha * alpha;
        let (mut power, mut sum) = (alpha, 0.0);
        for odd in (1..=41).step_by(2) {
            sum += power / f64::from(odd);
            power *= square;
        }
        // The interpolation rises by at least 10/7 per unit of the natural logarithm. The last factor keeps the
        // rounding of the logarithm and of the product inside the declared error.
        let multiplier = 7.0 / 10.0 / (2.0 * sum) * (1.0 + 1e-9);
        Self { multiplier }
    }

    /// Equal for equal buckets.
    pub(crate) fn identity(self) -> u64 {
        self.multiplier.to_bits()
    }

    /// The bucket of a magnitude above zero; rises with it.
    fn bucket(self, magnitude: f64) -> i32 {
        if magnitude.is_infinite() {
            return INFINITE;
        }
        (cubic_log2(magnitude) * self.multiplier).floor() as i32
    }

    /// The value that stands for a bucket: within alpha of everything in it.
    fn middle(self, bucket: i32) -> f64 {
        if bucket == INFINITE {
            return f64::INFINITY;
        }
        let low = self.least(bucket);
        let high = self.least(bucket.saturating_add(1));
        // The harmonic mean of the two ends has the same relative distance to both.
        low * (2.0 / (1.0 + low / high))
    }

    /// The least magnitude in this bucket or above, by bisection over the bits: the inverse without a cube root.
    fn least(self, bucket: i32) -> f64 {
        let (mut low, mut high) = (1u64, f64::MAX.to_bits());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.bucket(f64::from_bits(middle)) < bucket {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        f64::from_bits(low)
    }
}

/// About log2: monotone, exact at powers of two.
fn cubic_log2(magnitude: f64) -> f64 {
    // Subnormals are scaled up first.
    let (magnitude, offset) = if magnitude < f64::MIN_POSITIVE {
        (magnitude * f64::from_bits((1023 + 64) << 52), -64.0)
    } else {
        (magnitude, 0.0)
    };
    let bits = magnitude.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let part = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52) - 1.0;
    let cubic = ((6.0 / 35.0 * part - 3.0 / 5.0) * part + 10.0 / 7.0) * part;
    cubic + (f64::from(exponent) + offset)
}

/// Exact counts per bucket: below zero, zero, above zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct QuantileSketch {
    /// By the bucket of the magnitude.
    pub(crate) negative: BTreeMap<i32, u64>,
    /// Values that are zero.
    pub(crate) zero: u64,
    /// By the bucket of the magnitude.
    pub(crate) positive: BTreeMap<i32, u64>,
}

impl QuantileSketch {
    /// Adds a value that is not NaN.
    pub(crate) fn insert(&mut self, value: f64, scale: QuantileScale) {
        *self.slot(value, scale) += 1;
    }

    /// Takes away a value that was added.
    pub(crate) fn remove(&mut self, value: f64, scale: QuantileScale) {
        let slot = self.slot(value, scale);
        *slot -= 1;
        if *slot == 0 && value != 0.0 {
            let buckets = if value < 0.0 { &mut self.negative } else { &mut self.positive };
            buckets.remove(&scale.bucket(value.abs()));
        }
    }

    fn slot(&mut self, value: f64, scale: QuantileScale) -> &mut u64 {
        if value == 0.0 {
            return &mut self.zero;
        }
        let buckets = if value < 0.0 { &mut self.negative } else { &mut self.positive };
        buckets.entry(scale.bucket(value.abs())).or_default()
    }

    /// Adds all that another has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.zero += other.zero;
        other.negative.iter().for_each(|(bucket, count)| *self.negative.entry(*bucket).or_default() += count);
        other.positive.iter().for_each(|(bucket, count)| *self.positive.entry(*bucket).or_default() += count);
    }

    /// How many buckets are held.
    pub(crate) fn buckets(&self) -> usize {
        self.negative.len() + self.positive.len()
    }

    /// How many values were counted.
    pub(crate) fn count(&self) -> u64 {
        self.zero + self.negative.values().sum::<u64>() + self.positive.values().sum::<u64>()
    }

    /// The value at rank `q * (count - 1)`, within alpha; None without values.
    pub(crate) fn quantile(&self, q: f64, scale: QuantileScale) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (q * (count - 1) as f64) as u64;
        let below = self.negative.iter().rev().map(|(bucket, count)| (-scale.middle(*bucket), *count));
        let above = self.positive.iter().map(|(bucket, count)| (scale.middle(*bucket), *count));
        let mut seen = 0;
        let mut last = 0.0;
        for (value, count) in below.chain(std::iter::once((0.0, self.zero))).chain(above) {
            seen += count;
            last = value;
            if seen > rank {
                break;
            }
        }
        Some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn magnitude() -> impl Strategy<Value = f64> {
        prop_oneof![
            (f64::MIN_POSITIVE.to_bits()..f64::MAX.to_bits()).prop_map(f64::from_bits),
            (1u32..100_000).prop_map(|v| f64::from(v) / 100.0),
            (-1000i32..1000).prop_map(|e| 2f64.powi(e)),
        ]
    }

    proptest! {
        #[test]
        fn a_bucket_stands_for_its_values_within_alpha(value in magnitude(), alpha in 0.001f64..0.1) {
            let scale = QuantileScale::new(alpha);
            let middle = scale.middle(scale.bucket(value));
            prop_assert!((middle - value).abs() <= alpha * value, "{} for {}", middle, value);
        }

        #[test]
        fn buckets_rise_with_the_value(a in magnitude(), b in magnitude(), alpha in 0.001f64..0.1) {
            let scale = QuantileScale::new(alpha);
            prop_assert!((a <= b) <= (scale.bucket(a) <= scale.bucket(b)));
            let next = f64::from_bits(a.to_bits() + 1);
            prop_assert!(scale.bucket(a) <= scale.bucket(next));
        }

        #[test]
        fn a_quantile_is_within_alpha_of_the_exact_one(
            mut values in prop::collection::vec(prop_oneof![
                magnitude(), magnitude().prop_map(|v| -v), Just(0.0), Just(-0.0), Just(f64::INFINITY)], 1..60),
            q in prop_oneof![0.0f64..=1.0, Just(0.0), Just(0.5), Just(1.0)],
        ) {
            let (alpha, mut sketch) = (0.01, QuantileSketch::default());
            let scale = QuantileScale::new(alpha);
            values.iter().for_each(|v| sketch.insert(*v, scale));
            values.sort_by(f64::total_cmp);
            let exact = values[(q * (values.len() - 1) as f64) as usize];
            let got = sketch.quantile(q, scale).unwrap();
            prop_assert!(got == exact || (got - exact).abs() <= alpha * exact.abs(), "{} is not {}", got, exact);
            // Half taken away again leaves the sketch of the other half.
            let (kept, gone) = values.split_at(values.len() / 2);
            gone.iter().for_each(|v| sketch.remove(*v, scale));
            let mut half = QuantileSketch::default();
            kept.iter().for_each(|v| half.insert(*v, scale));
            prop_assert_eq!(&sketch, &half);
            prop_assert_eq!(half.count(), kept.len() as u64);
        }
    }

    #[test]
    fn subnormal_values_have_buckets() {
        let scale = QuantileScale::new(0.01);
        let mut sketch = QuantileSketch::default();
        sketch.insert(f64::from_bits(1), scale);
        assert_eq!(sketch.quantile(0.5, scale), Some(f64::from_bits(1)));
    }
}
