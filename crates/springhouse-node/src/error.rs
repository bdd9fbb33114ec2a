//! Why a node can't open or a job failed.

use springhouse_ingest::PushError;
use springhouse_lake::LakeError;
use springhouse_online::StoreError;
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
        Self { code: error.kind.code(), message: error.to_string(), hint: Some(error.kind.hint().to_owned()) }
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
