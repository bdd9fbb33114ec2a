//! What the kernel says about one entity at one moment, before and after defaults.

use springhouse_core::definition::DefaultValue;
use springhouse_core::{Micros, Value, ValueStatus};

/// The raw answer: values and statuses before defaults, TTLs and policy.
#[derive(Clone, Debug, PartialEq)]
pub struct EntityAnswer {
    /// One per feature. Null wherever the status is not `Fresh`.
    pub values: Vec<Value>,
    /// One per feature: `Fresh`, `Null`, `Overflow`, `OverCap`; all `Missing` or all `Expired` for latest views.
    /// (Soft TTLs are the caller's: they depend on the age, which for windows is the source's.)
    pub statuses: Vec<ValueStatus>,
    /// Latest views: the event time of the greatest visible row, also when it is expired.
    pub event_time: Option<Micros>,
}

/// What lies behind an answer, for people (`get --explain`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityExplanation {
    /// One block of lines per feature: (feature name, lines such as
    /// `tile 2013-01-01T10:00:00Z +10m: count=3 sum=12.5` or `event 2013-01-01T10:59:00Z known 2013-01-01T11:00:00Z: 4.5`).
    pub features: Vec<(String, Vec<String>)>,
}

/// Fills in the default where the value is not usable; the same in training sets and online.
pub fn fill_default(value: &mut Value, status: ValueStatus, default: &DefaultValue) {
    if !matches!(status, ValueStatus::Fresh | ValueStatus::Stale) {
        *value = default.value();
    }
}
