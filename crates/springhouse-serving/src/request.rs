//! What is asked for, and what a request must bring.

use springhouse_core::{Micros, Value, ValueType};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the server knows of a view's progress when it answers: for ages and cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewFrontier {
    /// Everything visible before this moment has been applied; `Micros::MIN` = nothing was ever loaded.
    pub frontier: Micros,
    /// Log offset applied below (streams), else -1.
    pub cut: i64,
}

impl ViewFrontier {
    /// How far the frontier is behind `at`: the age of a windowed value. None when nothing was ever loaded.
    pub(crate) fn age(&self, at: Micros) -> Option<Micros> {
        (self.frontier != Micros::MIN).then(|| at.saturating_sub(self.frontier).max(0))
    }
}

/// Gives the present frontier of each view, cheaply, per request.
pub trait Frontiers: std::fmt::Debug + Send + Sync + 'static {
    /// Of `view` (its id, `name@version`).
    fn of(&self, view_id: &str) -> ViewFrontier;
    /// The moment to answer for (not before anything applied).
    fn now(&self) -> Micros;
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    /// A feature service.
    Service(String),
    /// Features by `view:feature` (or `view` or `view:*`, all of it). A feature named twice is answered once.
    Features(Vec<String>),
}

/// One request, for one or many entity rows.
#[derive(Clone, Debug)]
pub struct FeatureRequest {
    /// What.
    pub selection: Selection,
    /// Entity key columns by key name, all of the same length; typed.
    pub entities: BTreeMap<String, Vec<Value>>,
    /// Request fields by name, of the same length (or one value for all rows). A field that is not here but has the name
    /// of an entity key takes the key's values, as it does in a training set.
    pub request: BTreeMap<String, Vec<Value>>,
    /// The moment to answer for; None = now. The seam for tests; the wire does not offer it.
    pub at: Option<Micros>,
    /// Values older than this are treated as stale.
    pub max_age: Option<Micros>,
    /// Who asks (for `readers`).
    pub roles: Vec<String>,
    /// How to treat it.
    pub options: CallOptions,
}

/// Which requests go first when there are more than can be answered in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Work that can wait, such as scoring a batch: shed first.
    Background,
    /// Most requests.
    #[default]
    Normal,
    /// Shed last.
    Critical,
}

impl Priority {
    /// All, the first to be shed first.
    pub const ALL: [Self; 3] = [Self::Background, Self::Normal, Self::Critical];

    /// Its word on the wire and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Background => "background",
            Self::Normal => "normal",
            Self::Critical => "critical",
        }
    }
}

/// How a caller wants one request to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallOptions {
    /// Who goes first.
    pub priority: Priority,
    /// The caller waits no longer than this, counted from when serving takes the request up. `None` = the server's own limit
    /// (`serving.request_timeout_ms`), which is never exceeded either way.
    pub timeout: Option<Duration>,
    /// Stale values are replaced by their defaults, whatever the service's `on_stale` says (short of `fail`).
    pub drop_stale: bool,
    /// False reads the store itself.
    pub use_cache: bool,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { priority: Priority::Normal, timeout: None, drop_stale: false, use_cache: true }
    }
}

/// What a request must and may bring.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// Entity keys: name and type.
    pub keys: Vec<(String, ValueType)>,
    /// Request fields: name, type, required.
    pub fields: Vec<(String, ValueType, bool)>,
    /// Features: name and type, in order.
    pub features: Vec<(String, ValueType)>,
}

/// Limits of one request.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServingSettings {
    /// Most entity rows in one request.
    pub rows_max: usize,
    /// Most features in one request.
    pub features_max: usize,
    /// Longest that one request waits for its values, milliseconds; then the service's `on_unavailable`.
    pub request_timeout_ms: u64,
    /// Longest that one call of the store may take, milliseconds.
    pub store_timeout_ms: u64,
    /// Most requests under way at once; further ones are shed. 0 = no limit.
    pub requests_max: usize,
    /// How much of a limit (this one and that of calls to the store) background requests may fill, percent.
    pub background_share_percent: usize,
    /// How much of a limit background and normal requests may fill, percent.
    pub normal_share_percent: usize,
    /// Most bytes of states remembered for services with `on_unavailable: last_known`. 0 = none.
    pub last_known_bytes_max: usize,
    /// Most bytes in the cache of states read a moment ago; a store in this process has none before it. 0 = off.
    pub hot_cache_bytes_max: usize,
    /// After this long a cached state is read again, milliseconds. More = fewer reads, older values.
    pub hot_cache_soft_ms: u64,
    /// For this long, at most, it is served while it is read again, milliseconds.
    pub hot_cache_hard_ms: u64,
    /// By how much, at most, both are shortened at random, percent.
    pub hot_cache_jitter_percent: u64,
    /// For how long it is remembered that an entity has no state, milliseconds; a write through this server ends it. 0 = off.
    pub negative_cache_ms: u64,
    /// Requests that need the same state at the same time share one read.
    pub coalesce: bool,
    /// A request for more states than this (entities times views) reads those that the cache lacks for itself alone: they
    /// are neither kept nor shared. Among so many few are wanted again soon, and keeping them costs more than reading them.
    pub shared_rows_max: usize,
    /// Stop asking a node of the store that fails, for a while.
    pub breaker: bool,
    /// Over which time failures are counted, milliseconds.
    pub breaker_window_ms: u64,
    /// Fewest calls in that time for the breaker to open.
    pub breaker_calls_min: u64,
    /// It opens when this share of them failed, percent ...
    pub breaker_failure_percent: u64,
    /// ... or this share failed or was slow, percent.
    pub breaker_slow_percent: u64,
    /// A call is slow from here on, milliseconds.
    pub breaker_slow_ms: u64,
    /// How long it stays open, milliseconds. More = fewer requests wait for a dead node, and it comes back later.
    pub breaker_open_ms: u64,
    /// How many calls then find out whether the node is well; all must succeed.
    pub breaker_probes: u32,
    /// Adapt the limit of calls under way per node to how fast it answers; else the limit is `store_calls_max`.
    pub store_calls_adaptive: bool,
    /// The limit never goes below.
    pub store_calls_min: usize,
    /// The limit never goes above.
    pub store_calls_max: usize,
    /// The limit shrinks when calls take longer than this, milliseconds. More = longer queues at the store under load.
    pub store_calls_target_ms: u64,
    /// Second calls (after a failure, and hedges) are at most this share of the first ones, percent. 0 = none.
    pub retry_budget_percent: u64,
    /// A second call is made when the first has not been answered for this long, milliseconds. 0 = off.
    pub hedge_after_ms: u64,
}

impl Default for ServingSettings {
    fn default() -> Self {
        Self {
            rows_max: 10_000,
            features_max: 2_000,
            request_timeout_ms: 50,
            store_timeout_ms: 50,
            requests_max: 4_096,
            background_share_percent: 50,
            normal_share_percent: 90,
            last_known_bytes_max: 64 << 20,
            hot_cache_bytes_max: 64 << 20,
            hot_cache_soft_ms: 1_000,
            hot_cache_hard_ms: 5_000,
            hot_cache_jitter_percent: 20,
            negative_cache_ms: 60_000,
            coalesce: true,
            shared_rows_max: 128,
            breaker: true,
            breaker_window_ms: 10_000,
            breaker_calls_min: 20,
            breaker_failure_percent: 50,
            breaker_slow_percent: 80,
            breaker_slow_ms: 40,
            breaker_open_ms: 1_000,
            breaker_probes: 3,
            store_calls_adaptive: true,
            store_calls_min: 128,
            store_calls_max: 512,
            store_calls_target_ms: 25,
            retry_budget_percent: 10,
            hedge_after_ms: 0,
        }
    }
}

impl ServingSettings {
    /// All complaints at once; empty when the settings make sense.
    pub fn validate(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let percents = [
            ("background_share_percent", self.background_share_percent as u64),
            ("normal_share_percent", self.normal_share_percent as u64),
            ("hot_cache_jitter_percent", self.hot_cache_jitter_percent),
            ("breaker_failure_percent", self.breaker_failure_percent),
            ("breaker_slow_percent", self.breaker_slow_percent),
            ("retry_budget_percent", self.retry_budget_percent),
        ];
        for (name, _) in percents.iter().filter(|(_, percent)| *percent > 100) {
            complaints.push(format!("`serving.{name}` must be at most 100"));
        }
        let positive = [
            ("rows_max", self.rows_max as u64),
            ("features_max", self.features_max as u64),
            ("request_timeout_ms", self.request_timeout_ms),
            ("store_timeout_ms", self.store_timeout_ms),
            ("store_calls_min", self.store_calls_min as u64),
        ];
        for (name, _) in positive.iter().filter(|(_, value)| *value == 0) {
            complaints.push(format!("`serving.{name}` must not be 0"));
        }
        let ordered = [
            (
                "background_share_percent",
                self.background_share_percent,
                "normal_share_percent",
                self.normal_share_percent,
            ),
            ("store_calls_min", self.store_calls_min, "store_calls_max", self.store_calls_max),
        ];
        for (less, _, more, _) in ordered.iter().filter(|(_, less, _, more)| less > more) {
            complaints.push(format!("`serving.{less}` must be at most `serving.{more}`"));
        }
        if self.hot_cache_soft_ms > self.hot_cache_hard_ms {
            complaints
                .push("`serving.hot_cache_soft_ms` must be at most `serving.hot_cache_hard_ms`".to_owned());
        }
        complaints
    }

    /// How long a request may wait for the store: the least of what the server, the store and the caller allow.
    pub(crate) fn wait(&self, caller: Option<Duration>) -> Duration {
        let own = Duration::from_millis(self.request_timeout_ms.min(self.store_timeout_ms));
        caller.map_or(own, |caller| caller.min(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense_and_every_complaint_comes_at_once() {
        assert_eq!(ServingSettings::default().validate(), Vec::<String>::new());
        let wrong = ServingSettings {
            store_timeout_ms: 0,
            store_calls_max: 1,
            hot_cache_soft_ms: 6_000,
            normal_share_percent: 101,
            ..Default::default()
        };
        assert_eq!(wrong.validate().len(), 4);
    }
}
