//! How long events took from their event time until reads saw them, measured on every event that was applied as it came.

use parking_lot::Mutex;
use springhouse_core::Micros;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Buckets with an upper bound; one more has the rest.
const BOUNDED: usize = 48;

/// Upper bounds, microseconds: from a millisecond to three hours, two steps a doubling.
const BOUNDS: [Micros; BOUNDED] = {
    let mut bounds = [0; BOUNDED];
    let mut n = 0;
    while n < BOUNDED {
        // 1.4142 is the square root of two, closely enough for a bound.
        let step = if n % 2 == 0 { 10_000 } else { 14_142 };
        bounds[n] = ((1_000 * step) << (n / 2)) / 10_000;
        n += 1;
    }
    bounds
};

/// Times from event to servable, counted in buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyHistogram {
    counts: [u64; BOUNDED + 1],
    sum: Micros,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { counts: [0; BOUNDED + 1], sum: 0 }
    }
}

impl LatencyHistogram {
    /// Counts events that happened then and are servable `now`. An event from the future took no time.
    pub(crate) fn add(&mut self, event_times: &[Micros], now: Micros) {
        for event_time in event_times {
            let took = now.saturating_sub(*event_time).max(0);
            self.counts[BOUNDS.partition_point(|bound| *bound < took)] += 1;
            self.sum = self.sum.saturating_add(took);
        }
    }

    /// Events counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All times together, seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum as f64 / 1e6
    }

    /// Upper bound in seconds (infinite for the last) and events in each bucket.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts)
    }

    /// The time, in seconds, within which this share (0 to 1) of the events was servable: the upper bound of its bucket.
    /// `None` before the first event.
    pub fn quantile_seconds(&self, share: f64) -> Option<f64> {
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.buckets().find_map(|(bound, count)| {
            seen += count;
            (seen >= wanted).then_some(bound)
        })
    }
}

/// The histogram of each source since the start.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Mutex<BTreeMap<Arc<str>, LatencyHistogram>>);

impl Latencies {
    pub(crate) fn add(&self, source: &Arc<str>, event_times: &[Micros], now: Micros) {
        self.0.lock().entry(source.clone()).or_default().add(event_times, now);
    }

    pub(crate) fn all(&self) -> BTreeMap<Arc<str>, LatencyHistogram> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_in_one_bucket_and_quantiles_are_bounds() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b), "{BOUNDS:?}");
        assert_eq!((BOUNDS[0], BOUNDS[1], BOUNDS[2]), (1_000, 1_414, 2_000));
        assert!(*BOUNDS.last().unwrap() > 3 * 3_600_000_000);
        let mut histogram = LatencyHistogram::default();
        assert_eq!(histogram.quantile_seconds(0.5), None);
        let now = 1_000_000_000_000;
        // One just inside, one just outside the first bucket, one from the future, one from long ago.
        histogram.add(&[now - 1_000, now - 1_001, now + 5, 0], now);
        assert_eq!(histogram.count(), 4);
        let filled: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.001, 2), (0.001414, 1), (f64::INFINITY, 1)]);
        assert_eq!(histogram.quantile_seconds(0.5), Some(0.001));
        assert_eq!(histogram.quantile_seconds(0.75), Some(0.001414));
        assert_eq!(histogram.quantile_seconds(0.99), Some(f64::INFINITY));
        assert_eq!(histogram.sum_seconds(), 1_000_000.002_001);
        histogram.add(&[Micros::MIN], Micros::MAX);
        assert_eq!(histogram.count(), 5);
    }
}
