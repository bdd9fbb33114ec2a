//! Everything that is measured: every name here, with its help. Labels are words of this program and names of
//! definitions, never entity keys.

mod ages;
mod guard;

use crate::app::Routed;
use ages::{AgesCollector, ServedViews};
use guard::{GUARD_METRICS, GuardMetrics};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use springhouse_core::{Micros, ValueStatus};
use springhouse_ingest::LatencyHistogram;
use springhouse_node::{Condition, NodeStatus};
use springhouse_serving::{DegradationLevel, FeatureAnswer, ServingStatistics};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// A metric's name (as it is scraped) and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Without the suffixes that OpenMetrics adds (`_total`, `_bucket`, ...).
    pub name: &'static str,
    /// What it says, and how to read it.
    pub help: &'static str,
}

const fn metric(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help }
}

const REQUEST_DURATION: Metric = metric(
    "springhouse_server_request_duration_seconds",
    "Time from a request's header to its response, by route and status class. p99: histogram_quantile(0.99, \
     sum by (le) (rate(springhouse_server_request_duration_seconds_bucket{route=\"features\"}[5m])))",
);
const CONNECTIONS: Metric = metric("springhouse_server_connections", "Open connections");
const PANICS: Metric =
    metric("springhouse_server_panics", "Requests whose handler panicked; each is a defect");
const ANSWERS: Metric = metric("springhouse_serving_answers", "Feature answers by degradation level");
const VALUES: Metric = metric(
    "springhouse_serving_values",
    "Feature values answered, by view and status. Share of fresh values: \
     rate(..{status=\"fresh\"}[5m]) / rate(..[5m])",
);
const PUSH_ROWS: Metric = metric("springhouse_ingest_rows", "Pushed rows by outcome");
const SERVED_LOG_ROWS: Metric = metric(
    "springhouse_served_log_rows",
    "Rows of the log of what was served: written to the lake, or left out because there was no room",
);
const PUSH_REFUSED: Metric =
    metric("springhouse_ingest_pushes_refused", "Whole pushes refused, by error code");
const LOG_END: Metric = metric("springhouse_ingest_log_end_rows", "Rows ever in the push log");
const APPLIED_END: Metric = metric(
    "springhouse_ingest_applied_end_rows",
    "Rows applied to the online store; log_end - this is the backlog",
);
const FLUSHED_END: Metric =
    metric("springhouse_ingest_flushed_end_rows", "Rows in the lake; log_end - this waits for a flush");
const APPLIED_AGE: Metric =
    metric("springhouse_ingest_applied_age_seconds", "How far the applied frontier is behind now");
const LOG_BYTES: Metric = metric("springhouse_ingest_log_bytes", "Bytes of push log on disk");
const INGEST_FAILING: Metric = metric(
    "springhouse_ingest_failing",
    "1 while a part of ingestion fails: `log` (pushes are refused), `flush` (rows wait for the lake)",
);
const VIEW_AGE: Metric = metric(
    "springhouse_view_age_seconds",
    "How far the view's frontier is behind now; absent until its history is loaded",
);
const VIEW_SLO: Metric =
    metric("springhouse_view_slo_p99_seconds", "The age that 99 of 100 values should stay below");
const SERVED_AGE: Metric = metric(
    "springhouse_serving_value_age_seconds",
    "Ages of the values served, by view, an entity row counting once; to be held against springhouse_view_slo_p99_seconds",
);
const STORE_ENTITIES: Metric = metric("springhouse_store_entities", "Entities in the online store's memory");
const STORE_BYTES: Metric = metric("springhouse_store_memory_bytes", "Bytes of those, about");
const STORE_DIRTY: Metric =
    metric("springhouse_store_dirty_entities", "Entities changed since the last checkpoint");
const STORE_WHOLE: Metric = metric(
    "springhouse_store_whole",
    "1 while the online store holds what it confirmed; 0 while it has lost rows or is filled from history",
);
const STORE_CALLS: Metric =
    metric("springhouse_store_calls_in_flight", "Calls to the servers of an online store that is elsewhere");
const STORE_CALLS_MAX: Metric = metric(
    "springhouse_store_calls_in_flight_max",
    "How many of them may be under way at once (`in_flight_max`)",
);
const STORE_CALLS_REFUSED: Metric = metric(
    "springhouse_store_calls_refused",
    "Calls refused because `in_flight_max` were under way, since the start",
);
const STORE_CONNECTIONS: Metric = metric(
    "springhouse_store_connections_opened",
    "Connections opened to the store's servers since the start; a steady rise means that they break",
);
const EVENT_TO_SERVABLE: Metric = metric(
    "springhouse_ingest_event_to_servable_seconds",
    "Time from an event's own time until reads see it, of every event applied since the start, by source",
);
const TOPIC_LAG: Metric =
    metric("springhouse_topic_lag_messages", "Messages that wait to be applied, by partition");
const TOPIC_LAG_SECONDS: Metric = metric(
    "springhouse_topic_lag_seconds",
    "Time until they are applied at the present rate; absent while nothing moves",
);
const TOPIC_AGE: Metric = metric(
    "springhouse_topic_age_seconds",
    "How far the moment up to which everything of the topic is applied is behind now",
);
const TOPIC_MESSAGES: Metric =
    metric("springhouse_topic_messages_read", "Messages read since the start, tombstones among them");
const TOPIC_LOST: Metric = metric(
    "springhouse_topic_messages_lost",
    "Messages that the topic had deleted before they were read, since the start; above 0 its retention is too short",
);
const TOPIC_FAILING: Metric =
    metric("springhouse_topic_failing", "1 while the topic is not read; the server's log says why");
const JOBS_RUNNING: Metric = metric("springhouse_jobs_running", "Jobs at work");

const OWN: [Metric; 33] = [
    REQUEST_DURATION,
    CONNECTIONS,
    PANICS,
    ANSWERS,
    VALUES,
    PUSH_ROWS,
    SERVED_LOG_ROWS,
    PUSH_REFUSED,
    LOG_END,
    APPLIED_END,
    FLUSHED_END,
    APPLIED_AGE,
    LOG_BYTES,
    INGEST_FAILING,
    VIEW_AGE,
    VIEW_SLO,
    SERVED_AGE,
    STORE_ENTITIES,
    STORE_BYTES,
    STORE_DIRTY,
    STORE_WHOLE,
    STORE_CALLS,
    STORE_CALLS_MAX,
    STORE_CALLS_REFUSED,
    STORE_CONNECTIONS,
    EVENT_TO_SERVABLE,
    TOPIC_LAG,
    TOPIC_LAG_SECONDS,
    TOPIC_AGE,
    TOPIC_MESSAGES,
    TOPIC_LOST,
    TOPIC_FAILING,
    JOBS_RUNNING,
];

/// Every metric there is.
pub const METRICS: &[Metric] = &{
    let mut all = [OWN[0]; OWN.len() + GUARD_METRICS.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < OWN.len() { OWN[at] } else { GUARD_METRICS[at - OWN.len()] };
        at += 1;
    }
    all
};

/// From 50 microseconds (a hot answer) to 26 seconds, doubling.
const DURATION_BUCKETS: u16 = 20;
const DURATION_BUCKET_FIRST_S: f64 = 0.000_05;

const STATUSES: usize = 9;
const STATUS_CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

type FloatGauge = Gauge<f64, AtomicU64>;
type Durations = Family<RouteLabels, Histogram, fn() -> Histogram>;

/// A word or name as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(Arc<str>);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&&*self.0, encoder)
    }
}

macro_rules! labels {
    ($($name:ident { $($field:ident),* })*) => {
        $(
            #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
            struct $name { $($field: Word),* }
        )*
    };
}

labels! {
    RouteLabels { route, status }
    ViewLabels { view }
    StatusLabels { view, status }
    LevelLabels { level }
    OutcomeLabels { outcome }
    CodeLabels { code }
    PartLabels { part }
    SourceLabels { source }
    PartitionLabels { source, partition }
}

/// What became of rows that were to be logged.
#[derive(Clone, Debug)]
pub(crate) struct ServedLogRows {
    written: Counter,
    left_out: Counter,
}

impl ServedLogRows {
    pub(crate) fn written(&self, rows: usize) {
        self.written.inc_by(rows as u64);
    }

    pub(crate) fn left_out(&self, rows: usize) {
        self.left_out.inc_by(rows as u64);
    }
}

/// The metrics of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) served_log: ServedLogRows,
    guard: GuardMetrics,
    by_route: Durations,
    /// The same by route (the last is for unknown paths) and status class, found without a hash; made when first used.
    requests: Vec<[OnceLock<Histogram>; STATUS_CLASSES.len()]>,
    pub(crate) connections: Gauge,
    pub(crate) panics: Counter,
    answers: [Counter; 4],
    values: Family<StatusLabels, Counter>,
    rows: [Counter; 3],
    pushes_refused: Family<CodeLabels, Counter>,
    log_end: Gauge,
    applied_end: Gauge,
    flushed_end: Gauge,
    applied_age: FloatGauge,
    log_bytes: Gauge,
    failing: Family<PartLabels, Gauge>,
    view_age: Family<ViewLabels, FloatGauge>,
    view_slo: Family<ViewLabels, FloatGauge>,
    store_entities: Gauge,
    store_bytes: Gauge,
    store_dirty: Gauge,
    store_whole: Gauge,
    store_calls: Gauge,
    store_calls_max: Gauge,
    store_calls_refused: Gauge,
    store_connections: Gauge,
    servable: Arc<Mutex<Servable>>,
    served: Arc<ServedViews>,
    topic_lag: Family<PartitionLabels, Gauge>,
    topic_lag_seconds: Family<SourceLabels, FloatGauge>,
    topic_age: Family<SourceLabels, FloatGauge>,
    topic_messages: Family<SourceLabels, Gauge>,
    topic_lost: Family<SourceLabels, Gauge>,
    topic_failing: Family<SourceLabels, Gauge>,
    pub(crate) jobs_running: Gauge,
}

fn word(text: &str) -> Word {
    Word(text.into())
}

fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}

/// Registers with the name that is scraped: prometheus-client puts the unit behind it itself.
fn register<M: prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    about: Metric,
    metric: &M,
) {
    for (suffix, unit) in [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)] {
        if let Some(name) = about.name.strip_suffix(suffix) {
            registry.register_with_unit(name, about.help, unit, metric.clone());
            return;
        }
    }
    registry.register(about.name, about.help, metric.clone());
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let histogram = || {
            let edges = (0..i32::from(DURATION_BUCKETS)).map(|n| DURATION_BUCKET_FIRST_S * 2f64.powi(n));
            Histogram::new(edges)
        };
        let by_route = Durations::new_with_constructor(histogram);
        let requests = (0..=Routed::COUNT).map(|_| Default::default()).collect();
        register(&mut registry, REQUEST_DURATION, &by_route);
        macro_rules! new {
            ($about:expr) => {{
                let metric = Default::default();
                register(&mut registry, $about, &metric);
                metric
            }};
        }
        let by_level: Family<LevelLabels, Counter> = new!(ANSWERS);
        let answers = ["healthy", "stale", "degraded", "critical"]
            .map(|level| by_level.get_or_create_owned(&LevelLabels { level: word(level) }));
        let by_outcome: Family<OutcomeLabels, Counter> = new!(PUSH_ROWS);
        let rows = ["accepted", "duplicate", "refused"]
            .map(|outcome| by_outcome.get_or_create_owned(&OutcomeLabels { outcome: word(outcome) }));
        let logged: Family<OutcomeLabels, Counter> = new!(SERVED_LOG_ROWS);
        let [written, left_out] = ["written", "left_out"]
            .map(|outcome| logged.get_or_create_owned(&OutcomeLabels { outcome: word(outcome) }));
        Self {
            served_log: ServedLogRows { written, left_out },
            guard: GuardMetrics::new(&mut registry),
            by_route,
            requests,
            answers,
            rows,
            connections: new!(CONNECTIONS),
            panics: new!(PANICS),
            values: new!(VALUES),
            pushes_refused: new!(PUSH_REFUSED),
            log_end: new!(LOG_END),
            applied_end: new!(APPLIED_END),
            flushed_end: new!(FLUSHED_END),
            applied_age: new!(APPLIED_AGE),
            log_bytes: new!(LOG_BYTES),
            failing: new!(INGEST_FAILING),
            view_age: new!(VIEW_AGE),
            view_slo: new!(VIEW_SLO),
            store_entities: new!(STORE_ENTITIES),
            store_bytes: new!(STORE_BYTES),
            store_dirty: new!(STORE_DIRTY),
            store_whole: new!(STORE_WHOLE),
            store_calls: new!(STORE_CALLS),
            store_calls_max: new!(STORE_CALLS_MAX),
            store_calls_refused: new!(STORE_CALLS_REFUSED),
            store_connections: new!(STORE_CONNECTIONS),
            served: {
                let served = Arc::new(ServedViews::default());
                let Metric { name, help, .. } = SERVED_AGE;
                registry.register_collector(Box::new(AgesCollector { name, help, served: served.clone() }));
                served
            },
            servable: {
                let servable = Arc::new(Mutex::new(Servable::default()));
                registry.register_collector(Box::new(ServableCollector(servable.clone())));
                servable
            },
            topic_lag: new!(TOPIC_LAG),
            topic_lag_seconds: new!(TOPIC_LAG_SECONDS),
            topic_age: new!(TOPIC_AGE),
            topic_messages: new!(TOPIC_MESSAGES),
            topic_lost: new!(TOPIC_LOST),
            topic_failing: new!(TOPIC_FAILING),
            jobs_running: new!(JOBS_RUNNING),
            registry,
        }
    }

    /// Notes a request.
    pub(crate) fn request(&self, route: Option<Routed>, status: u16, took: Duration) {
        let index = route.map_or(Routed::COUNT, Routed::index);
        let class = (usize::from(status) / 100).clamp(2, 5) - 2;
        let histogram = self.requests[index][class].get_or_init(|| {
            let name = route.map_or("unknown", Routed::label);
            let labels = RouteLabels { route: word(name), status: word(STATUS_CLASSES[class]) };
            self.by_route.get_or_create_owned(&labels)
        });
        histogram.observe(took.as_secs_f64());
    }

    /// Notes an answer: one addition per view and status, not per value.
    pub(crate) fn answer(&self, answer: &FeatureAnswer) {
        let level = match answer.level {
            DegradationLevel::Healthy => 0,
            DegradationLevel::Stale => 1,
            DegradationLevel::Degraded => 2,
            DegradationLevel::Critical => 3,
        };
        self.answers[level].inc();
        let mut counts = vec![[0u64; STATUSES]; answer.head.views.len()];
        let mut rest = &*answer.statuses;
        // Features of one view mostly stand together. Those that were not asked for come last.
        for features in answer.head.features.chunk_by(|one, other| one.view == other.view) {
            let (statuses, others) = rest.split_at(features.len() * answer.row_count);
            let counts = &mut counts[features[0].view];
            statuses.iter().for_each(|status| counts[*status as usize] += 1);
            rest = others;
        }
        let mut served = self.served.read();
        for (place, (view, counts)) in answer.head.views.iter().zip(&counts).enumerate() {
            if *counts == [0; STATUSES] {
                // It was read for others only.
                continue;
            }
            if !served.contains_key(&view.name) {
                drop(served);
                self.served.add(&view.name);
                served = self.served.read();
            }
            let served = &served[&view.name];
            served.ages.add_rows(answer.ages_of(place), answer.at);
            for (status, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let counter = served.values[status].get_or_init(|| {
                    let labels = StatusLabels { view: Word(view.name.clone()), status: status_word(status) };
                    self.values.get_or_create_owned(&labels)
                });
                counter.inc_by(*count);
            }
        }
    }

    /// p50, p95 and p99 of the ages of the values served of a view over the last minutes, seconds.
    pub(crate) fn served_ages(&self, view: &str, now: Micros) -> Option<[f64; 3]> {
        self.served.quantiles(view, now)
    }

    /// Notes a push that was processed.
    pub(crate) fn pushed(&self, accepted: usize, duplicates: usize, refused: usize) {
        for (counter, rows) in self.rows.iter().zip([accepted, duplicates, refused]) {
            counter.inc_by(rows as u64);
        }
    }

    /// Notes a push that was refused whole.
    pub(crate) fn push_refused(&self, code: &'static str) {
        self.pushes_refused.get_or_create(&CodeLabels { code: word(code) }).inc();
    }

    /// Everything as OpenMetrics text; the gauges as `status` has them.
    pub(crate) fn scrape(
        &self,
        status: Option<&NodeStatus>,
        serving: &ServingStatistics,
    ) -> Result<String, std::fmt::Error> {
        self.guard.refresh(serving);
        if let Some(status) = status {
            self.refresh(status);
        }
        let mut out = String::with_capacity(16 << 10);
        encode(&mut out, &self.registry)?;
        Ok(out)
    }

    fn refresh(&self, status: &NodeStatus) {
        self.log_end.set(status.positions.log_end);
        self.applied_end.set(status.positions.applied_end);
        self.flushed_end.set(status.positions.flushed_end);
        self.applied_age.set(seconds((status.now - status.positions.applied_frontier).max(0)));
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.log_bytes.set(count(status.positions.log_bytes));
        let parts = [("log", &status.positions.log_error), ("flush", &status.positions.flush_error)];
        for (part, error) in parts {
            self.failing.get_or_create(&PartLabels { part: word(part) }).set(i64::from(error.is_some()));
        }
        self.store_entities.set(count(status.store.entities_in_memory));
        self.store_bytes.set(count(status.store.bytes_in_memory));
        self.store_dirty.set(count(status.store.dirty_entities));
        self.store_whole.set(i64::from(status.store_condition == Condition::Whole));
        self.store_calls.set(count(status.store.calls_in_flight));
        self.store_calls_max.set(count(status.store.calls_in_flight_max));
        self.store_calls_refused.set(count(status.store.calls_refused));
        self.store_connections.set(count(status.store.connections_opened));
        // Views that are gone must not keep their last age for ever.
        self.view_age.clear();
        self.view_slo.clear();
        for view in &status.views {
            let labels = ViewLabels { view: word(&view.view) };
            if let Some(age) = view.age {
                self.view_age.get_or_create(&labels).set(seconds(age));
            }
            self.view_slo.get_or_create(&labels).set(seconds(view.slo_p99));
        }
        self.servable.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&status.latencies);
        self.refresh_topics(status);
    }

    fn refresh_topics(&self, status: &NodeStatus) {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.topic_lag.clear();
        self.topic_lag_seconds.clear();
        self.topic_age.clear();
        self.topic_messages.clear();
        self.topic_lost.clear();
        self.topic_failing.clear();
        for topic in &status.topics {
            let labels = SourceLabels { source: word(&topic.source) };
            for partition in &topic.partitions {
                let number = word(&partition.partition.to_string());
                let labels = PartitionLabels { source: word(&topic.source), partition: number };
                self.topic_lag.get_or_create(&labels).set(partition.lag());
            }
            if let Some(lag) = topic.lag_seconds() {
                self.topic_lag_seconds.get_or_create(&labels).set(lag);
            }
            if topic.frontier != Micros::MIN {
                self.topic_age.get_or_create(&labels).set(seconds((status.now - topic.frontier).max(0)));
            }
            self.topic_messages.get_or_create(&labels).set(count(topic.messages));
            self.topic_lost.get_or_create(&labels).set(count(topic.lost));
            self.topic_failing.get_or_create(&labels).set(i64::from(topic.error.is_some()));
        }
    }
}

type Servable = BTreeMap<Arc<str>, LatencyHistogram>;

/// Histograms that are counted where events are applied.
#[derive(Debug)]
struct ServableCollector(Arc<Mutex<Servable>>);

impl Collector for ServableCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = EVENT_TO_SERVABLE.name.trim_end_matches("_seconds");
        let unit = Some(&Unit::Seconds);
        let mut family =
            encoder.encode_descriptor(name, EVENT_TO_SERVABLE.help, unit, MetricType::Histogram)?;
        for (source, latencies) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let labels = SourceLabels { source: Word(source.clone()) };
            let buckets: Vec<_> = latencies.buckets().collect();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                latencies.sum_seconds(),
                latencies.count(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

fn status_word(status: usize) -> Word {
    const ALL: [(ValueStatus, &str); STATUSES] = [
        (ValueStatus::Fresh, "fresh"),
        (ValueStatus::Stale, "stale"),
        (ValueStatus::Expired, "expired"),
        (ValueStatus::Missing, "missing"),
        (ValueStatus::Null, "null"),
        (ValueStatus::Overflow, "overflow"),
        (ValueStatus::OverCap, "over_cap"),
        (ValueStatus::Unavailable, "unavailable"),
        (ValueStatus::Denied, "denied"),
    ];
    static WORDS: OnceLock<[Word; STATUSES]> = OnceLock::new();
    let words = WORDS.get_or_init(|| {
        let mut words = [const { None }; STATUSES];
        for (status, text) in ALL {
            words[status as usize] = Some(word(text));
        }
        words.map(|word| word.expect("each status stands in the table, at its own number"))
    });
    words[status].clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use springhouse_api::{ROUTES, RouteName};
    use springhouse_core::{Value, ValueType};
    use springhouse_ingest::IngestPositions;
    use springhouse_node::{PartitionStatus, TopicStatus, ViewLine};
    use springhouse_online::StoreStatistics;
    use springhouse_serving::{AnswerHead, FeatureHead, Origin, Prepared, ViewHead};
    use springhouse_serving::{BreakerState, GuardStatistics, NodeStatistics};

    fn answer() -> FeatureAnswer {
        let feature =
            FeatureHead { name: "f".into(), view: 0, value_type: ValueType::Bool, type_name: "bool".into() };
        let head = AnswerHead {
            features: vec![feature],
            views: vec![ViewHead { name: "v".into(), id: None }],
            definition_hash: "h".into(),
            prepared: Prepared::default(),
        };
        FeatureAnswer {
            head: Arc::new(head),
            at: 0,
            row_count: 2,
            level: DegradationLevel::Stale,
            values: vec![Value::Null; 2],
            statuses: vec![ValueStatus::OverCap; 2],
            origins: vec![Origin::Default; 2],
            ages: vec![None; 2],
            event_times: vec![None; 2],
            cuts: vec![None],
        }
    }

    fn status() -> NodeStatus {
        NodeStatus {
            now: 7,
            snapshot: 1,
            definition_hash: "h".to_owned(),
            views: vec![ViewLine {
                view: "v@1".to_owned(),
                entity: "e".to_owned(),
                source: "s".to_owned(),
                generation: 0,
                frontier: Some(0),
                age: Some(1_500_000),
                slo_p95: 1,
                slo_p99: 2,
            }],
            positions: IngestPositions {
                log_end: 3,
                applied_end: 2,
                flushed_end: 1,
                applied_frontier: 5,
                log_bytes: 4,
                flush_error: None,
                log_error: Some("disk full".to_owned()),
            },
            store: StoreStatistics::default(),
            store_condition: Condition::Whole,
            store_is_elsewhere: false,
            topics: vec![TopicStatus {
                source: "clicks".to_owned(),
                topic: "t".to_owned(),
                partitions: vec![PartitionStatus {
                    partition: 3,
                    position: 10,
                    end: Some(25),
                    newest: None,
                    caught_up_at: None,
                    frontier: 0,
                }],
                rate: 30.0,
                messages: 9,
                tombstones: 1,
                lost: 4,
                frontier: 2,
                error: Some("no broker answers".to_owned()),
            }],
            latencies: BTreeMap::from([("events".into(), LatencyHistogram::default())]),
        }
    }

    #[test]
    fn names_follow_the_rule_and_are_scraped_as_written() {
        let metrics = Metrics::new();
        metrics.request(Some(Routed::Http(RouteName::Features)), 200, Duration::from_millis(1));
        metrics.request(None, 404, Duration::from_millis(1));
        metrics.pushed(1, 2, 3);
        metrics.push_refused("overloaded");
        metrics.answer(&answer());
        // A store elsewhere, so that the guard before it has something to say.
        let node = NodeStatistics { breaker: BreakerState::Closed, opened: 0, limit: 1, under_way: 0 };
        let guard = GuardStatistics {
            counts: std::array::from_fn(|_| 0),
            cache_entries: 0,
            cache_bytes: 0,
            reads_under_way: 0,
            nodes: vec![node],
        };
        let statistics = ServingStatistics { guard: Some(guard), ..ServingStatistics::default() };
        let text = metrics.scrape(Some(&status()), &statistics).unwrap();
        for metric in METRICS {
            assert!(metric.name.starts_with("springhouse_"), "{}", metric.name);
            assert!(text.contains(&format!("# HELP {} ", metric.name)), "{}:\n{text}", metric.name);
        }
        for line in [
            "springhouse_server_request_duration_seconds_count{route=\"features\",status=\"2xx\"} 1",
            "springhouse_server_request_duration_seconds_count{route=\"unknown\",status=\"4xx\"} 1",
            "springhouse_ingest_rows_total{outcome=\"refused\"} 3",
            "springhouse_ingest_pushes_refused_total{code=\"overloaded\"} 1",
            "springhouse_server_panics_total 0",
            "springhouse_serving_answers_total{level=\"stale\"} 1",
            "springhouse_serving_values_total{view=\"v\",status=\"over_cap\"} 2",
            "springhouse_view_age_seconds{view=\"v@1\"} 1.5",
            "springhouse_ingest_applied_age_seconds 0.000002",
            "springhouse_ingest_failing{part=\"log\"} 1",
            "springhouse_ingest_failing{part=\"flush\"} 0",
            "springhouse_topic_lag_messages{source=\"clicks\",partition=\"3\"} 15",
            "springhouse_topic_lag_seconds{source=\"clicks\"} 0.5",
            "springhouse_topic_age_seconds{source=\"clicks\"} 0.000005",
            "springhouse_topic_messages_lost{source=\"clicks\"} 4",
            "springhouse_topic_failing{source=\"clicks\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn routes_stand_at_their_own_number() {
        for (index, route) in ROUTES.iter().enumerate() {
            assert_eq!(route.name as usize, index);
        }
        assert_eq!(&*status_word(ValueStatus::OverCap as usize).0, "over_cap");
    }

    #[test]
    fn a_view_is_counted_once_wherever_its_features_stand_and_not_at_all_when_it_is_only_read_for_others() {
        let feature = |view| FeatureHead { view, ..answer().head.features[0].clone() };
        let view = |name: &str| ViewHead { name: name.into(), id: None };
        let head = AnswerHead {
            features: vec![feature(0), feature(1), feature(0)],
            views: vec![view("a"), view("b"), view("hidden")],
            definition_hash: "h".into(),
            prepared: Prepared::default(),
        };
        use ValueStatus::{Fresh, Null, Stale};
        let second = Some(1_000_000);
        let answer = FeatureAnswer {
            head: Arc::new(head),
            // Of two rows each; the last two are of a feature that was not asked for.
            values: vec![Value::Null; 8],
            statuses: vec![Fresh, Null, Stale, Stale, Fresh, Fresh, Fresh, Fresh],
            origins: vec![Origin::Store; 8],
            ages: vec![second, second, second, None, second, second],
            event_times: vec![None; 6],
            cuts: vec![None; 3],
            ..answer()
        };
        let metrics = Metrics::new();
        metrics.answer(&answer);
        metrics.answer(&answer);
        let text = metrics.scrape(None, &ServingStatistics::default()).unwrap();
        for line in [
            "springhouse_serving_values_total{view=\"a\",status=\"fresh\"} 6",
            "springhouse_serving_values_total{view=\"a\",status=\"null\"} 2",
            "springhouse_serving_values_total{view=\"b\",status=\"stale\"} 4",
            "springhouse_serving_value_age_seconds_count{view=\"a\"} 4",
            "springhouse_serving_value_age_seconds_count{view=\"b\"} 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("hidden"), "{text}");
    }
}
