//! Definitions over the wire: the files as texts in, the plan out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Definition files to plan or apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefinitionsBody {
    /// Text of each file by its name; all are read as one.
    pub files: BTreeMap<String, String>,
    /// `apply`: why, for the history.
    #[serde(default)]
    pub message: String,
    /// `apply`: who, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// `apply`: also changes that break callers. What is stored must survive all the same.
    #[serde(default)]
    pub allow_breaking: bool,
}

/// What applying would change, or has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanBody {
    /// The snapshot that is applied; none before the first.
    pub against: Option<u64>,
    /// Hash of the definitions.
    pub definition_hash: String,
    /// How many changes are breaking.
    pub breaking: usize,
    /// The changes, each with its path, what it does and whether it is compatible.
    pub changes: Vec<serde_json::Value>,
    /// The same for people.
    pub text: String,
    /// True when nothing changes.
    pub is_empty: bool,
    /// The new snapshot, when one was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
}
