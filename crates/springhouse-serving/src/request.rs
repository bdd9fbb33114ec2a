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
        }
    }
}

impl ServingSettings {
    /// How long a request may wait for the store: the least of what the server, the store and the caller allow.
    pub(crate) fn wait(&self, caller: Option<Duration>) -> Duration {
        let own = Duration::from_millis(self.request_timeout_ms.min(self.store_timeout_ms));
        caller.map_or(own, |caller| caller.min(own))
    }
}
