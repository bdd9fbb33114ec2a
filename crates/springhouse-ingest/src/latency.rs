//! How long events took from their event time until reads saw them, measured on every event that was applied as it came.

use parking_lot::Mutex;
use springhouse_core::{Micros, buckets};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Buckets with an upper bound; one more has the rest.
const BOUNDED: usize = 48;

/// Upper bounds, microseconds: up to more than three hours.
const BOUNDS: [Micros; BOUNDED] = buckets::bounds();

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
            self.counts[buckets::bucket_of(&BOUNDS, took)] += 1;
            self.sum = self.sum.saturating_add(took);
        }
    }

    /// Events counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Events in each bucket, for [`Self::add_counts`].
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All times together, microseconds.
    pub fn sum(&self) -> Micros {
        self.sum
    }

    /// Adds what another process has counted; nothing when its buckets are others.
    pub fn add_counts(&mut self, counts: &[u64], sum: Micros) {
        if counts.len() == self.counts.len() {
            self.counts.iter_mut().zip(counts).for_each(|(own, other)| *own += other);
            self.sum = self.sum.saturating_add(sum);
        }
    }

    /// All times together, seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum as f64 / 1e6
    }

    /// Upper bound in seconds (infinite for the last) and events in each bucket.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        (0..).map(|bucket| buckets::bound_seconds(&BOUNDS, bucket)).zip(self.counts)
    }

    /// The time, in seconds, within which this share (0 to 1) of the events was servable: the upper bound of its bucket.
    /// `None` before the first event.
    pub fn quantile_seconds(&self, share: f64) -> Option<f64> {
        buckets::quantile_seconds(&BOUNDS, &self.counts, share)
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
