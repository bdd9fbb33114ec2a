//! What was served of each view: its values by status, and how old they were, since the start for scrapers and of the last
//! minutes for people.

use super::STATUSES;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Unit;
use springhouse_core::time::MINUTE;
use springhouse_core::{Micros, buckets};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

/// Buckets with an upper bound; one more has the rest.
const BOUNDED: usize = 80;
/// Of these, every so many is told to scrapers.
const SCRAPED_EVERY: usize = 4;
/// The minutes that quantiles are of.
const MINUTES: usize = 5;

/// Upper bounds, microseconds: up to 24 years.
const BOUNDS: [Micros; BOUNDED] = buckets::bounds();

/// Entity rows in each bucket.
type Counts = [AtomicU64; BOUNDED + 1];

/// The ages of one view's values, an entity row counting once.
#[derive(Debug)]
pub(crate) struct Ages {
    counts: Counts,
    sum: AtomicU64,
    /// One more than are read, so that the oldest can be emptied.
    minutes: [Minute; MINUTES + 1],
}

#[derive(Debug)]
struct Minute {
    number: AtomicI64,
    counts: Counts,
}

fn no_counts() -> Counts {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl Ages {
    fn new() -> Self {
        let minute = |_| Minute { number: AtomicI64::new(-1), counts: no_counts() };
        Self { counts: no_counts(), sum: AtomicU64::new(0), minutes: std::array::from_fn(minute) }
    }

    /// Counts the rows of one answer; a row without an age has no value.
    pub(crate) fn add_rows(&self, ages: &[Option<Micros>], at: Micros) {
        for run in ages.chunk_by(|a, b| a == b) {
            if let Some(age) = run[0] {
                self.add(age, run.len() as u64, at.div_euclid(MINUTE));
            }
        }
    }

    fn add(&self, age: Micros, rows: u64, minute: i64) {
        let age = age.max(0);
        let bucket = buckets::bucket_of(&BOUNDS, age);
        self.counts[bucket].fetch_add(rows, Relaxed);
        self.sum.fetch_add(age.unsigned_abs().saturating_mul(rows), Relaxed);
        let slot = &self.minutes[minute.rem_euclid(self.minutes.len() as i64) as usize];
        let held = slot.number.load(Relaxed);
        // Who comes first in a new minute empties it; what others add meanwhile may be lost, which is a few rows of a minute.
        if held != minute && slot.number.compare_exchange(held, minute, Relaxed, Relaxed).is_ok() {
            slot.counts.iter().for_each(|count| count.store(0, Relaxed));
        }
        slot.counts[bucket].fetch_add(rows, Relaxed);
    }

    /// p50, p95 and p99 of the rows of the last minutes, seconds, as upper bounds.
    fn quantiles(&self, minute: i64) -> Option<[f64; 3]> {
        let mut counts = [0u64; BOUNDED + 1];
        for slot in &self.minutes {
            let age = minute - slot.number.load(Relaxed);
            if (0..MINUTES as i64).contains(&age) {
                counts.iter_mut().zip(&slot.counts).for_each(|(sum, count)| *sum += count.load(Relaxed));
            }
        }
        let quantile = |share| buckets::quantile_seconds(&BOUNDS, &counts, share);
        Some([quantile(0.5)?, quantile(0.95)?, quantile(0.99)?])
    }

    /// Upper bound in seconds and rows of the buckets that are told to scrapers.
    fn scraped(&self) -> Vec<(f64, u64)> {
        let ends = (SCRAPED_EVERY - 1..BOUNDED).step_by(SCRAPED_EVERY).chain([BOUNDED]);
        let mut from = 0;
        ends.map(|end| {
            let rows = self.counts[from..=end].iter().map(|count| count.load(Relaxed)).sum();
            from = end + 1;
            (buckets::bound_seconds(&BOUNDS, end), rows)
        })
        .collect()
    }
}

/// What is counted of the values of one view.
#[derive(Debug)]
pub(crate) struct ServedView {
    pub(crate) ages: Ages,
    /// By status; made when first used.
    pub(crate) values: [OnceLock<Counter>; STATUSES],
}

/// Every view that was served since the start.
#[derive(Debug, Default)]
pub(crate) struct ServedViews(RwLock<BTreeMap<Arc<str>, ServedView>>);

impl ServedViews {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Arc<str>, ServedView>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a view that is served for the first time.
    pub(crate) fn add(&self, view: &Arc<str>) {
        let new = || ServedView { ages: Ages::new(), values: Default::default() };
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(view.clone()).or_insert_with(new);
    }

    /// p50, p95 and p99 of a view's ages over the last minutes, seconds, as upper bounds; none when nothing was served.
    pub(crate) fn quantiles(&self, view: &str, now: Micros) -> Option<[f64; 3]> {
        self.read().get(view)?.ages.quantiles(now.div_euclid(MINUTE))
    }
}

/// Their ages for scrapers.
#[derive(Debug)]
pub(crate) struct AgesCollector {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) served: Arc<ServedViews>,
}

impl Collector for AgesCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = self.name.trim_end_matches("_seconds");
        let mut family =
            encoder.encode_descriptor(name, self.help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (view, ServedView { ages, .. }) in &*self.served.read() {
            let buckets = ages.scraped();
            let rows = buckets.iter().map(|(_, rows)| rows).sum();
            let labels = [("view", &**view)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                ages.sum.load(Relaxed) as f64 / 1e6,
                rows,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use springhouse_core::time::{HOUR, SECOND};

    #[test]
    fn quantiles_are_upper_bounds_of_the_last_minutes() {
        let served = ServedViews::default();
        let now = 1_000 * MINUTE;
        assert_eq!(served.quantiles("v", now), None);
        served.add(&"v".into());
        let count = |ages: &[Option<Micros>], at| served.read()["v"].ages.add_rows(ages, at);
        // 90 of a second, 9 of a minute, one of a day; rows without a value don't count.
        count(&[Some(SECOND); 90], now);
        count(&[None, Some(MINUTE), Some(-5)], now);
        count(&[Some(MINUTE); 8], now);
        count(&[Some(24 * HOUR)], now);
        let [p50, p95, p99] = served.quantiles("v", now).unwrap();
        assert!((1.0..1.5).contains(&p50) && (60.0..90.0).contains(&p95) && p99 <= 90.0, "{p50} {p95} {p99}");
        // They are forgotten after five minutes, by people and not by scrapers.
        count(&[Some(HOUR)], now + 4 * MINUTE);
        assert!(served.quantiles("v", now + 4 * MINUTE).unwrap()[0] < 2.0);
        let [p50, ..] = served.quantiles("v", now + 5 * MINUTE).unwrap();
        assert!((3_600.0..5_200.0).contains(&p50), "{p50}");
        assert_eq!(served.quantiles("v", now + 9 * MINUTE), None);
        count(&[Some(SECOND)], now + 6 * MINUTE);
        let [p50, _, p99] = served.quantiles("v", now + 6 * MINUTE).unwrap();
        assert!(p50 < 2.0 && p99 > 3_000.0, "the slot of the first minute was emptied: {p50} {p99}");
        let rows: u64 = served.read()["v"].ages.scraped().iter().map(|(_, rows)| rows).sum();
        assert_eq!(rows, 103);
    }
}
