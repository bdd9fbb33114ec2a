//! Push: strict validation, a durable log with group commit, the applier, the flush to the lake, dead letters.
//!
//! Contract for callers (signatures may gain fields, not lose them).

use arrow::array::RecordBatch;
use springhouse_core::{Clock, Definitions, Micros};
use springhouse_lake::Lake;
use springhouse_online::{OnlineStore, ViewHandle};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Limits and timings of ingestion, all settable in `springhouse.yaml` under `push:`.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushSettings {
    /// Most rows in one push.
    pub batch_rows_max: usize,
    /// Most bytes in one push body.
    pub batch_bytes_max: usize,
    /// Most bytes of accepted batches waiting for the log; beyond it pushes get `overloaded`.
    pub queue_bytes_max: usize,
    /// Longest wait of a group commit for company.
    pub group_commit_delay_ms: u64,
    /// A log segment is closed at this size.
    pub segment_bytes: u64,
    /// Rows are flushed to the lake at least this often.
    pub flush_interval_ms: u64,
    /// ... or at this many rows.
    pub flush_rows: u64,
    /// The online store is checkpointed at least this often.
    pub checkpoint_interval_ms: u64,
    /// How long an idempotency key is remembered.
    pub idempotency_window_s: u64,
    /// Most idempotency keys remembered; the oldest go first.
    pub idempotency_keys_max: usize,
}

impl Default for PushSettings {
    fn default() -> Self {
        Self {
            batch_rows_max: 100_000,
            batch_bytes_max: 64 << 20,
            queue_bytes_max: 256 << 20,
            group_commit_delay_ms: 1,
            segment_bytes: 64 << 20,
            flush_interval_ms: 10_000,
            flush_rows: 500_000,
            checkpoint_interval_ms: 5_000,
            idempotency_window_s: 86_400,
            idempotency_keys_max: 5_000_000,
        }
    }
}

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
        /// Such as `unknown_column`, `wrong_type`, `missing_key`, `event_time_in_future`.
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

/// Why a whole push was refused.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PushError {
    /// Stable code: `unknown_source`, `not_a_stream`, `malformed_body`, `too_large`, `overloaded`, `log_failed`,
    /// `shutting_down`.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
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
}

/// One view, or one build of a view, that a stream's rows are applied to. A generation that is being rebuilt is fed beside
/// the active one: two feeds of one view.
#[derive(Clone, Debug)]
pub struct ViewFeed {
    /// View and generation.
    pub handle: ViewHandle,
    /// Rows with an offset below this are not applied: the view's history brings them. When rows from here on are in
    /// the log already as the feed is first attached, they are applied then. A feed that was taken away must not come
    /// back: make a new generation.
    pub start: i64,
}

/// The ingestion of one node: owns the log, the applier and the flusher.
#[derive(Debug)]
pub struct Ingest {}

impl Ingest {
    /// Opens the log below `directory`, replays what the online store has not applied, and starts the writer, applier
    /// and flusher tasks on the current tokio runtime. `views`: by source name, the feeds of its views.
    pub async fn open(
        directory: &Path,
        settings: PushSettings,
        definitions: Arc<Definitions>,
        views: BTreeMap<String, Vec<ViewFeed>>,
        store: Arc<dyn OnlineStore>,
        lake: Lake,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PushError> {
        let _ = (directory, settings, definitions, views, store, lake, clock);
        unimplemented!()
    }

    /// Validates, logs, applies; returns when the rows are durable *and* applied to the online store.
    pub async fn push(&self, request: PushRequest) -> Result<PushOutcome, PushError> {
        let _ = request;
        unimplemented!()
    }

    /// Swaps definitions and views (after `apply`, or when a generation was switched), without losing a push.
    pub async fn reload(
        &self,
        definitions: Arc<Definitions>,
        views: BTreeMap<String, Vec<ViewFeed>>,
    ) -> Result<(), PushError> {
        let _ = (definitions, views);
        unimplemented!()
    }

    /// Remembers event ids (see [`springhouse_core::event_id`]) that the source's history holds, durably, so that a later
    /// push of one is a duplicate. Bounded as pushed ids are, apart from them.
    pub fn remember_ids(&self, source: &str, ids: &[u128]) -> Result<(), PushError> {
        let _ = (source, ids);
        unimplemented!()
    }

    /// Flushes everything that is in the log now to the lake; returns the flushed end.
    pub async fn flush(&self) -> Result<i64, PushError> {
        unimplemented!()
    }

    /// How far each part is.
    pub fn positions(&self) -> IngestPositions {
        unimplemented!()
    }

    /// A moment that is not before the `known_at` of any applied row: the clock, or that plus one microsecond after the
    /// clock stepped back. Reads use it as `now`.
    pub fn read_now(&self) -> Micros {
        unimplemented!()
    }

    /// The newest dead letters that are not in the lake yet, and those in the lake: (offset, source, code, reason, row JSON).
    pub async fn dead_letters(&self, source: &str, limit: usize) -> Result<Vec<DeadLetter>, PushError> {
        let _ = (source, limit);
        unimplemented!()
    }

    /// Flushes, checkpoints and stops.
    pub async fn shutdown(&self) -> Result<(), PushError> {
        unimplemented!()
    }
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
