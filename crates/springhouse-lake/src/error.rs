//! Errors of the lake: a stable code, what failed and where, and what to do.

use std::path::Path;

/// What went wrong, for whom, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LakeError {
    /// A stable code such as `labels_missing_key`.
    pub code: &'static str,
    /// What failed, where and why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Shorthand of this crate.
pub(crate) type Result<T, E = LakeError> = std::result::Result<T, E>;

impl LakeError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file that can't be opened or read.
    pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "check the path",
            std::io::ErrorKind::PermissionDenied => "give this user read permission on it",
            _ => "check the disk and the file, then run the command again",
        };
        Self::new("file_unreadable", format!("`{}` can't be read: {error}", path.display())).hint(hint)
    }

    /// A file whose bytes are not what its format says.
    pub(crate) fn corrupt(name: &str, format: &str, error: &dyn std::fmt::Display) -> Self {
        Self::new("file_corrupt", format!("`{name}` is not a sound {format} file: {error}"))
            .hint("write the file again, or leave it out")
    }

    /// A temporary file that failed.
    pub(crate) fn spill(error: &dyn std::fmt::Display) -> Self {
        Self::new("spill_failed", format!("a temporary file can't be written or read: {error}"))
            .hint("free some disk space, or raise the memory budget so that less is spilled")
    }

    /// An output file that can't be written.
    pub(crate) fn unwritable(path: &Path, error: &dyn std::fmt::Display) -> Self {
        Self::new("file_unwritable", format!("`{}` can't be written: {error}", path.display()))
            .hint("check that the directory exists, is writable, and has space")
    }

    /// A Delta table that can't be opened, read or committed to.
    pub(crate) fn delta(table: &str, action: &str, error: &dyn std::fmt::Display) -> Self {
        Self::new("delta_failed", format!("{action} the Delta table `{table}` failed: {error}"))
    }

    /// Something that can't happen unless this program is wrong.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::new("internal", what).hint("this is a defect in Springhouse; please report it")
    }
}

impl From<arrow::error::ArrowError> for LakeError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::internal(format!("an Arrow operation failed: {error}"))
    }
}

impl From<springhouse_online::StoreError> for LakeError {
    fn from(error: springhouse_online::StoreError) -> Self {
        Self { code: error.kind.code(), message: error.to_string(), hint: Some(error.kind.hint().to_owned()) }
    }
}

impl From<springhouse_expr::ExprError> for LakeError {
    fn from(error: springhouse_expr::ExprError) -> Self {
        Self { code: "expression_failed", message: error.message, hint: error.hint }
    }
}

impl From<springhouse_kernel::PlanError> for LakeError {
    fn from(error: springhouse_kernel::PlanError) -> Self {
        Self::new("plan_failed", error.to_string())
    }
}

/// A "did you mean" for a name that is not among `known`.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let same_but_case = known.iter().find(|k| k.eq_ignore_ascii_case(name));
    let near = known
        .iter()
        .map(|k| (strsim::jaro_winkler(name, k), *k))
        .filter(|(score, _)| *score > 0.82)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    same_but_case.copied().or(near.map(|n| n.1)).map(|k| format!("did you mean `{k}`?"))
}
