//! Work that an operator starts on a running server.

use crate::error::ErrorDetail;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which views a job is for, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobRequestBody {
    /// Names of feature views; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<Vec<String>>,
    /// `materialize`: only rows visible up to this moment, RFC 3339; now when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// `verify`: how many entities of each view; 100 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entities_per_view: Option<usize>,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Loads what is new in the history.
    Materialize,
    /// Builds a new generation from the history and switches to it.
    Rebuild,
    /// Compares online with offline, bit for bit.
    Verify,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// At work.
    Running,
    /// Complete.
    Done,
    /// Stopped by `error`.
    Failed,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobBody {
    /// Its id, for `GET /v1/admin/jobs/{id}`.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// How far it is.
    pub state: JobState,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// The stage it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// `materialize` and `rebuild`, when done: what was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<Vec<ViewOutcome>>,
    /// `verify`, when done: what was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerifiedBody>,
    /// Why it failed. In full, unlike the errors of other paths: who may start jobs may read the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
}

/// A job's progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobProgress {
    /// What is being done.
    pub stage: String,
    /// Units (rows or bytes) done.
    pub done: u64,
    /// Units in all; 0 = unknown.
    pub total: u64,
}

/// What a job did to one view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ViewOutcome {
    /// `name@version`.
    pub view: String,
    /// Source rows loaded.
    pub rows: u64,
    /// Entities written.
    pub entities: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// The generation now served.
    pub generation: u32,
    /// True when the view was built again from nothing.
    pub rebuilt: bool,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifiedBody {
    /// Values compared.
    pub values: u64,
    /// Entities compared.
    pub entities: u64,
    /// Differences in all.
    pub difference_count: u64,
    /// The first of them.
    pub differences: Vec<DifferenceBody>,
    /// Views left out because their history was never loaded.
    pub not_materialized: Vec<String>,
}

/// One value that is not the same online and offline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DifferenceBody {
    /// `name@version`.
    pub view: String,
    /// The feature.
    pub feature: String,
    /// The entity's keys, JSON text.
    pub key: String,
    /// The moment compared, RFC 3339.
    pub at: String,
    /// Value and status online.
    pub online: String,
    /// Value and status recomputed.
    pub offline: String,
}

/// What a short admin command did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdminBody {
    /// `flush`: everything below this offset is in the lake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flushed_end: Option<i64>,
    /// `reload`: the registry snapshot served now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<u64>,
    /// `checkpoint`: true, the online store is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpointed: Option<bool>,
}
