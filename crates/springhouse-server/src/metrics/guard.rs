//! What serving does to keep answering, as it counts it itself.

use super::{Metric, Word, metric, register, word};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use springhouse_serving::{BreakerState, GuardStatistics, Priority, ServingStatistics};
use std::sync::atomic::Ordering;

const UNDER_WAY: Metric = metric("springhouse_serving_requests_under_way", "Feature requests under way");
const SHED: Metric = metric(
    "springhouse_serving_shed",
    "Requests refused because there was too much to do, by priority; the least important go first",
);
const FALLBACKS: Metric = metric(
    "springhouse_serving_fallback_rows",
    "Entity rows of views that the store did not answer for, by what stood in: `last_known`, `default`",
);
const EVENTS: Metric = metric(
    "springhouse_serving_guard_events",
    "What the guard before the store did. Hit rate of the cache: the sum of `cache_hit`, `cache_negative_hit`, \
     `cache_stale_hit` over that and `cache_miss`; keys read with another request: `coalesced`; calls of the store: `call`, \
     `call_failed`, `call_refused` (by breaker or limit), `retry`, `hedge`",
);
const CACHE_ENTRIES: Metric = metric("springhouse_serving_cache_entries", "States in the hot cache");
const CACHE_BYTES: Metric = metric("springhouse_serving_cache_bytes", "Bytes of those, about");
const READS: Metric = metric("springhouse_serving_store_reads_under_way", "Keys being read from the store");
const BREAKER: Metric = metric(
    "springhouse_serving_store_breaker",
    "Circuit breaker of each node of the store: 0 closed, 1 half-open, 2 open (the node is not asked)",
);
const OPENED: Metric =
    metric("springhouse_serving_store_breaker_opened", "How often the breaker of a node has opened");
const LIMIT: Metric =
    metric("springhouse_serving_store_calls_limit", "Most calls of a node under way, as adapted");
const CALLS: Metric = metric("springhouse_serving_store_calls_under_way", "Calls of a node under way");

pub(super) const GUARD_METRICS: [Metric; 11] =
    [UNDER_WAY, SHED, FALLBACKS, EVENTS, CACHE_ENTRIES, CACHE_BYTES, READS, BREAKER, OPENED, LIMIT, CALLS];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PriorityLabels {
    priority: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    event: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    node: u32,
}

/// The metrics of the guard; serving keeps the counts, a scrape copies them.
#[derive(Debug)]
pub(super) struct GuardMetrics {
    under_way: Gauge,
    shed: Family<PriorityLabels, Counter>,
    fallbacks: Family<KindLabels, Counter>,
    events: Family<EventLabels, Counter>,
    cache_entries: Gauge,
    cache_bytes: Gauge,
    reads: Gauge,
    breaker: Family<NodeLabels, Gauge>,
    opened: Family<NodeLabels, Counter>,
    limit: Family<NodeLabels, Gauge>,
    calls: Family<NodeLabels, Gauge>,
}

/// Counts are kept elsewhere and only grow: the counter is set, not added to.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

fn gauge(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

impl GuardMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        macro_rules! new {
            ($about:expr) => {{
                let metric = Default::default();
                register(registry, $about, &metric);
                metric
            }};
        }
        Self {
            under_way: new!(UNDER_WAY),
            shed: new!(SHED),
            fallbacks: new!(FALLBACKS),
            events: new!(EVENTS),
            cache_entries: new!(CACHE_ENTRIES),
            cache_bytes: new!(CACHE_BYTES),
            reads: new!(READS),
            breaker: new!(BREAKER),
            opened: new!(OPENED),
            limit: new!(LIMIT),
            calls: new!(CALLS),
        }
    }

    pub(super) fn refresh(&self, statistics: &ServingStatistics) {
        self.under_way.set(gauge(statistics.requests_under_way));
        for (priority, count) in Priority::ALL.into_iter().zip(statistics.shed) {
            set(&self.shed.get_or_create(&PriorityLabels { priority: word(priority.label()) }), count);
        }
        let fallbacks = statistics.fallbacks;
        for (kind, count) in [("last_known", fallbacks.last_known), ("default", fallbacks.defaults)] {
            set(&self.fallbacks.get_or_create(&KindLabels { kind: word(kind) }), count);
        }
        let Some(guard) = &statistics.guard else { return };
        for (event, count) in GuardStatistics::LABELS.into_iter().zip(guard.counts) {
            set(&self.events.get_or_create(&EventLabels { event: word(event) }), count);
        }
        self.cache_entries.set(gauge(guard.cache_entries));
        self.cache_bytes.set(gauge(guard.cache_bytes));
        self.reads.set(gauge(guard.reads_under_way));
        for (number, node) in guard.nodes.iter().enumerate() {
            let labels = NodeLabels { node: u32::try_from(number).unwrap_or(u32::MAX) };
            self.breaker.get_or_create(&labels).set(match node.breaker {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 2,
            });
            set(&self.opened.get_or_create(&labels), node.opened);
            self.limit.get_or_create(&labels).set(gauge(node.limit));
            self.calls.get_or_create(&labels).set(gauge(node.under_way));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use springhouse_serving::{Fallbacks, NodeStatistics};

    #[test]
    fn what_serving_counts_is_scraped() {
        let mut registry = Registry::default();
        let metrics = GuardMetrics::new(&mut registry);
        let node = NodeStatistics { breaker: BreakerState::Open, opened: 3, limit: 8, under_way: 2 };
        let statistics = ServingStatistics {
            requests_under_way: 4,
            shed: [5, 6, 7],
            fallbacks: Fallbacks { last_known: 8, defaults: 9 },
            guard: Some(GuardStatistics {
                counts: std::array::from_fn(|which| which as u64),
                cache_entries: 10,
                cache_bytes: 11,
                reads_under_way: 12,
                nodes: vec![node],
            }),
        };
        metrics.refresh(&statistics);
        metrics.refresh(&statistics);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "springhouse_serving_requests_under_way 4",
            "springhouse_serving_shed_total{priority=\"background\"} 5",
            "springhouse_serving_fallback_rows_total{kind=\"default\"} 9",
            "springhouse_serving_guard_events_total{event=\"cache_miss\"} 3",
            "springhouse_serving_cache_bytes 11",
            "springhouse_serving_store_breaker{node=\"0\"} 2",
            "springhouse_serving_store_breaker_opened_total{node=\"0\"} 3",
            "springhouse_serving_store_calls_limit{node=\"0\"} 8",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
