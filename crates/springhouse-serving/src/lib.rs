//! Requests: planned once per shape, read in one batched store call per view, assembled with the freshness policy.
//! Knows nothing of HTTP, protobuf or JSON.
//!
//! Contract for callers (signatures may gain fields, not lose them).

use springhouse_core::{Definitions, Micros, Value, ValueStatus, ValueType};
use springhouse_online::{OnlineStore, ViewHandle};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the server knows of a view's progress when it answers: for ages and cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewFrontier {
    /// Everything visible before this moment has been applied.
    pub frontier: Micros,
    /// Log offset applied below (streams), else -1.
    pub cut: i64,
}

/// Gives the present frontier of each view, cheaply, per request.
pub trait Frontiers: std::fmt::Debug + Send + Sync + 'static {
    /// Of `view` (its id, `name@version`).
    fn of(&self, view_id: &str) -> ViewFrontier;
    /// The moment to answer for (not before anything applied).
    fn now(&self) -> Micros;
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Selection {
    /// A feature service.
    Service(String),
    /// Features by `view:feature` (or `view`, all of it).
    Features(Vec<String>),
}

/// One request, for one or many entity rows.
#[derive(Clone, Debug)]
pub struct FeatureRequest {
    /// What.
    pub selection: Selection,
    /// Entity key columns by key name, all of the same length; typed.
    pub entities: BTreeMap<String, Vec<Value>>,
    /// Request fields by name, of the same length (or one value for all rows).
    pub request: BTreeMap<String, Vec<Value>>,
    /// The moment to answer for; None = now. The seam for tests; the wire does not offer it.
    pub at: Option<Micros>,
    /// Values older than this are treated as stale.
    pub max_age: Option<Micros>,
    /// Who asks (for `readers`).
    pub roles: Vec<String>,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Read from the store for this request.
    Store,
    /// The default stands in.
    Default,
    /// Computed for this request.
    Computed,
}

/// One feature for all rows of the request.
#[derive(Clone, Debug)]
pub struct FeatureColumn {
    /// `feature`, or `view:feature` where the request asked for two of one name.
    pub name: Arc<str>,
    /// The name of its view, for metrics.
    pub view: Arc<str>,
    /// Its type.
    pub value_type: ValueType,
    /// Per row.
    pub values: Vec<Value>,
    /// Per row.
    pub statuses: Vec<ValueStatus>,
    /// Per row, microseconds; None = no age (missing, or computed from the request alone).
    pub ages: Vec<Option<Micros>>,
    /// Per row: event time of a latest value.
    pub event_times: Vec<Option<Micros>>,
    /// Per row.
    pub origins: Vec<Origin>,
}

/// How degraded an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DegradationLevel {
    /// Every value fresh, or honestly missing or null.
    Healthy,
    /// Some value is stale.
    Stale,
    /// Some value is a default because it expired or the store did not answer.
    Degraded,
    /// No value came from the store although all should have.
    Critical,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct FeatureAnswer {
    /// The moment answered for.
    pub at: Micros,
    /// Rows.
    pub row_count: usize,
    /// In the order asked for.
    pub columns: Vec<FeatureColumn>,
    /// How degraded.
    pub level: DegradationLevel,
    /// Per stored view: its id and the log offset it had applied when read.
    pub cuts: Vec<(Arc<str>, i64)>,
    /// Hash of the definitions it was answered with.
    pub definition_hash: Arc<str>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ServingError {
    /// Stable code: `unknown_service`, `unknown_feature`, `missing_entity_key`, `unknown_entity_key`, `wrong_type`,
    /// `missing_request_field`, `unknown_request_field`, `row_count_mismatch`, `too_many_rows`, `too_many_features`,
    /// `denied`, `stale_refused`, `expired_refused`, `missing_refused`, `store_unavailable`, `store_corrupt`.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Limits of one request.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServingSettings {
    /// Most entity rows in one request.
    pub rows_max: usize,
    /// Most features in one request.
    pub features_max: usize,
    /// Longest wait for the store, milliseconds.
    pub store_timeout_ms: u64,
}

impl Default for ServingSettings {
    fn default() -> Self {
        Self { rows_max: 10_000, features_max: 2_000, store_timeout_ms: 50 }
    }
}

/// Answers feature requests from one online store.
#[derive(Debug)]
pub struct FeatureServer {}

impl FeatureServer {
    /// A server for these definitions; `views` maps view names to the handles of their active generations.
    pub fn new(
        definitions: Arc<Definitions>,
        definition_hash: Arc<str>,
        views: BTreeMap<String, ViewHandle>,
        store: Arc<dyn OnlineStore>,
        frontiers: Arc<dyn Frontiers>,
        settings: ServingSettings,
    ) -> Result<Self, ServingError> {
        let _ = (definitions, definition_hash, views, store, frontiers, settings);
        unimplemented!()
    }

    /// Swaps definitions and views without dropping a request.
    pub fn reload(
        &self,
        definitions: Arc<Definitions>,
        definition_hash: Arc<str>,
        views: BTreeMap<String, ViewHandle>,
    ) -> Result<(), ServingError> {
        let _ = (definitions, definition_hash, views);
        unimplemented!()
    }

    /// The types that a request for `selection` needs: entity keys and request fields by name, so that the wire can parse
    /// values into their exact types.
    pub fn signature(&self, selection: &Selection) -> Result<Arc<Signature>, ServingError> {
        let _ = selection;
        unimplemented!()
    }

    /// Answers.
    pub async fn features(&self, request: &FeatureRequest) -> Result<FeatureAnswer, ServingError> {
        let _ = request;
        unimplemented!()
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
