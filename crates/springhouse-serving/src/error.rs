//! Why there is no answer.

use springhouse_core::diagnostic::did_you_mean;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ServingError {
    /// Stable code: `unknown_service`, `unknown_feature`, `unknown_view`, `missing_entity_key`, `unknown_entity_key`,
    /// `invalid_entity_key`, `wrong_type`, `missing_request_field`, `unknown_request_field`, `row_count_mismatch`,
    /// `too_many_rows`, `too_many_features`, `denied`, `stale_refused`, `expired_refused`, `missing_refused`,
    /// `store_unavailable`, `store_corrupt`, `shed`, `deadline_exceeded`, `invalid_definitions`.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ServingError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Suggests the known name that was probably meant.
    pub(crate) fn meant(mut self, found: &str, known: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.hint = did_you_mean(found, known);
        self
    }
}
