//! Why a node can't open or a job failed.

use springhouse_ingest::PushError;
use springhouse_lake::LakeError;
use springhouse_online::{StoreError, StoreErrorKind};
use springhouse_registry::{RegistryError, RegistryErrorKind};
use springhouse_serving::ServingError;

/// Why the node can't open or a job failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    /// Stable code, such as `nothing_applied`, `store_locked`, `unknown_view`, or that of the part that failed.
    pub code: &'static str,
    /// What failed and why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl NodeError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: Some(hint.into()) }
    }
}

impl From<StoreError> for NodeError {
    fn from(error: StoreError) -> Self {
        let (code, hint) = match error.kind {
            StoreErrorKind::Unavailable => (
                "store_unavailable",
                "check the online store (its disk, or its servers and the way to them), then try again",
            ),
            StoreErrorKind::Invalid => {
                ("store_refused", "see the message; if it says nothing of a setting, please report it")
            }
            StoreErrorKind::Locked => {
                ("store_locked", "another process has this project open; stop it, or talk to its server")
            }
            StoreErrorKind::Corrupt => (
                "store_corrupt",
                "stop, keep a copy, delete the online store's folder and run `springhouse rebuild`",
            ),
            StoreErrorKind::Lost => {
                ("store_lost", "a running server fills the store again from history by itself; see /ready")
            }
            _ => ("store_failed", "see the message"),
        };
        Self { code, message: error.to_string(), hint: Some(hint.to_owned()) }
    }
}

impl From<LakeError> for NodeError {
    fn from(error: LakeError) -> Self {
        Self { code: error.code, message: error.message, hint: error.hint }
    }
}

impl From<PushError> for NodeError {
    fn from(error: PushError) -> Self {
        Self { code: error.code, message: error.message, hint: error.hint }
    }
}

impl From<ServingError> for NodeError {
    fn from(error: ServingError) -> Self {
        Self { code: error.code, message: error.message, hint: error.hint }
    }
}

impl From<RegistryError> for NodeError {
    fn from(error: RegistryError) -> Self {
        let hint = error.hint().map(str::to_owned);
        let code = match error.kind() {
            RegistryErrorKind::Conflict => "registry_conflict",
            _ => "registry_failed",
        };
        Self { code, message: error.to_string(), hint }
    }
}
