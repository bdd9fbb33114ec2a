//! Online against offline, bit for bit.

use serde::Serialize;
use springhouse_core::Micros;

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyOutcome {
    /// Values compared.
    pub values: u64,
    /// Entities compared, over all views.
    pub entities: u64,
    /// Every difference, up to a limit.
    pub differences: Vec<Difference>,
    /// Differences in all.
    pub difference_count: u64,
}

/// One value that is not the same online and offline.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// `name@version`.
    pub view: String,
    /// The feature.
    pub feature: String,
    /// The entity's key values, as JSON text.
    pub key: String,
    /// The moment compared.
    pub at: Micros,
    /// Value and status online.
    pub online: String,
    /// Value and status recomputed from history.
    pub offline: String,
}
