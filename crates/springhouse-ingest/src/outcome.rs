//! What a push is, and what becomes of it.

use crate::log::LogError;
use arrow::array::RecordBatch;
use springhouse_core::Micros;

/// The rows of a push.
#[derive(Clone, Debug)]
pub enum PushRows {
    /// A JSON array of objects (text), each with the source's declared columns by name.
    Json(bytes::Bytes),
    /// Arrow batches with the declared columns.
    Arrow(Vec<RecordBatch>),
}

/// One push.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// The source.
    pub source: String,
    /// Its rows.
    pub rows: PushRows,
    /// Idempotency key of the whole batch: a second push with it changes nothing and gets the first outcome again.
    pub idempotency_key: Option<String>,
    /// Per row idempotency keys (when the source has no `event_id` column).
    pub row_keys: Option<Vec<Option<String>>>,
    /// Old events: `known_at` by the table's rule instead of the moment of the append.
    pub backfill: bool,
}

/// What became of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOutcome {
    /// In the log, durable.
    Accepted,
    /// Its id was seen before; counted once.
    Duplicate,
    /// In the dead-letter table: stable code and reason.
    Refused {
        /// One of [`ROW_CODES`].
        code: &'static str,
        /// Column, what was expected, what came.
        reason: String,
    },
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushOutcome {
    /// Rows accepted.
    pub accepted: usize,
    /// Rows that were duplicates.
    pub duplicates: usize,
    /// Rows refused.
    pub refused: usize,
    /// Per row, only rows that are not `Accepted`: (row number, outcome).
    pub exceptions: Vec<(usize, RowOutcome)>,
    /// The log offset after the push's last row; an answer whose cut is at least this has seen it.
    pub end_offset: i64,
    /// The moment of the durable append.
    pub known_at: Micros,
}

impl PushOutcome {
    /// Of a push without rows.
    pub(crate) fn nothing(end_offset: i64, known_at: Micros) -> Self {
        Self { accepted: 0, duplicates: 0, refused: 0, exceptions: Vec::new(), end_offset, known_at }
    }
}

/// Why a whole push was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PushError {
    /// Stable code. Of a push: `unknown_source`, `not_a_stream`, `malformed_body`, `schema_mismatch`, `invalid_request`,
    /// `too_large`, `overloaded`, `log_failed`, `store_failed`, `shutting_down`. Of opening and reloading:
    /// `invalid_settings`, `invalid_definition`, `log_locked`, `log_corrupt`, `log_io`, `log_gap`, `log_behind`. Of
    /// flushing and reading dead letters: `lake_failed`.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl PushError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<LogError> for PushError {
    fn from(error: LogError) -> Self {
        let (code, hint) = match &error {
            LogError::Io { .. } => ("log_io", None),
            LogError::Corrupt { .. } => (
                "log_corrupt",
                Some(
                    "restore the file from a copy; what is flushed is in the lake, and `springhouse rebuild` makes the online store from it",
                ),
            ),
            LogError::Locked(_) => ("log_locked", Some("one process at a time writes a project")),
            LogError::Failed(_) => ("log_failed", Some("look at the disk, then start the program again")),
        };
        let error = Self::new(code, error.to_string());
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// How far each part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestPositions {
    /// The log's end (offset of the next row).
    pub log_end: i64,
    /// Applied to the online store below this.
    pub applied_end: i64,
    /// In the lake below this.
    pub flushed_end: i64,
    /// `known_at` of the newest applied row, or the moment that everything before it was applied (an idle stream is not
    /// behind): the applied frontier.
    pub applied_frontier: Micros,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// Why the last flush to the lake failed; none while flushing works.
    pub flush_error: Option<String>,
    /// Why the log takes no more rows, if so.
    pub log_error: Option<String>,
}

/// A refused row.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetter {
    /// Its place in the log.
    pub offset: i64,
    /// When it was refused.
    pub refused_at: Micros,
    /// Stable code.
    pub code: String,
    /// Why.
    pub reason: String,
    /// The row as it came, JSON.
    pub row: String,
}

/// The stable codes of a refused row.
pub const ROW_CODES: [&str; 11] = [
    "malformed_row",
    "unknown_column",
    "duplicate_column",
    "missing_column",
    "wrong_type",
    "malformed_value",
    "out_of_range",
    "key_too_long",
    "event_time_out_of_range",
    "event_time_in_future",
    "event_time_too_old",
];

/// The code of that name; `refused` for one that a newer program wrote.
pub(crate) fn known_code(text: &str) -> &'static str {
    ROW_CODES.into_iter().find(|code| *code == text).unwrap_or("refused")
}
