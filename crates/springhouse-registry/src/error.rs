//! What can go wrong with a registry.

/// A failed registry call. Branch on [`RegistryError::kind`]; the text is for people and may change.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    kind: RegistryErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryErrorKind {
    /// Somebody else applied in between. Read the head, plan again.
    Conflict,
    /// The snapshot asked for was never applied.
    NotFound,
    /// A snapshot is missing from the chain, or its bytes are not what was written. Restore it.
    Damaged,
    /// The storage does not answer, or refuses. Retry, or see to its permissions.
    Unavailable,
}

impl RegistryError {
    pub(crate) fn new(kind: RegistryErrorKind, message: String, hint: &str) -> Self {
        Self { kind, message, hint: Some(hint.to_owned()), source: None }
    }

    pub(crate) fn damaged(path: &str, what: impl std::fmt::Display) -> Self {
        Self::new(
            RegistryErrorKind::Damaged,
            format!("the registry snapshot `{path}` is damaged: {what}"),
            "restore this file from a backup or from a copy of the project; snapshots are never edited",
        )
    }

    pub(crate) fn unavailable(action: &str, source: object_store::Error) -> Self {
        Self {
            kind: RegistryErrorKind::Unavailable,
            message: format!("the registry can't {action}: {source}"),
            hint: Some(
                "check that the registry's storage is reachable and may be read and written".to_owned(),
            ),
            source: Some(Box::new(source)),
        }
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> RegistryErrorKind {
        self.kind
    }

    /// One sentence on what to do.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}
