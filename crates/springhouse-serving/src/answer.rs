//! What the caller gets.

use smallvec::SmallVec;
use springhouse_core::{Micros, Value, ValueStatus, ValueType};
use std::sync::Arc;

/// What there is one of for every row. Most requests have one row, and fifty features of it need no allocation each.
pub type PerRow<T> = SmallVec<[T; 1]>;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Read from the store, for this request.
    Store,
    /// Read from the store a moment ago, for another request.
    HotCache,
    /// The same, and due to be read again: that is being done while this answer goes out.
    StaleCache,
    /// The store did not answer; this is what it said the last time.
    LastKnown,
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
    /// The type's name.
    pub type_name: Arc<str>,
    /// Per row.
    pub values: PerRow<Value>,
    /// Per row.
    pub statuses: PerRow<ValueStatus>,
    /// Per row, microseconds; None = no age (missing, or computed from the request alone).
    pub ages: PerRow<Option<Micros>>,
    /// Per row: event time of a latest value.
    pub event_times: PerRow<Option<Micros>>,
    /// Per row.
    pub origins: PerRow<Origin>,
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
    /// Per stored view that was read: its id and the log offset it had applied (at least) when read.
    pub cuts: Vec<(Arc<str>, i64)>,
    /// Hash of the definitions it was answered with.
    pub definition_hash: Arc<str>,
}
