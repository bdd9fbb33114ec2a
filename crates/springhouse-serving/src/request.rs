//! What is asked for, and what a request must bring.

use springhouse_core::{Micros, Value, ValueType};
use std::collections::BTreeMap;

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
    /// Longest wait for the store, milliseconds.
    pub store_timeout_ms: u64,
}

impl Default for ServingSettings {
    fn default() -> Self {
        Self { rows_max: 10_000, features_max: 2_000, store_timeout_ms: 50 }
    }
}
