//! History: sources read in place, Delta tables of what was pushed, training sets, materialisation.
//!
//! Contract for callers (signatures may gain fields, not lose them).

use arrow::array::RecordBatch;
use springhouse_core::definition::{FeatureView, Source};
use springhouse_core::{Definitions, Micros};
use springhouse_online::{OnlineStore, ViewHandle};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The history of one project: where relative source paths start, and where its Delta tables are.
#[derive(Clone, Debug)]
pub struct Lake {}

/// What went wrong, for whom, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LakeError {
    /// A stable code such as `labels_missing_key`.
    pub code: &'static str,
    /// What failed, where and why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Told of progress; a command line shows a bar.
pub trait Progress: Send + Sync {
    /// `done` of `total` units (rows or bytes) of the named stage; `total` 0 = unknown.
    fn report(&self, stage: &'static str, done: u64, total: u64);
}

/// Availability mode of a training set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Both times count (default).
    Known,
    /// Only the event time counts.
    Event,
}

/// Rows of a stream to be kept, in log order. Columns: the source's declared columns.
#[derive(Debug)]
pub struct StreamAppend {
    /// Declared columns, then nothing else.
    pub rows: RecordBatch,
    /// Per row: clamped event time.
    pub event_time: Vec<Micros>,
    /// Per row.
    pub known_at: Vec<Micros>,
    /// Per row: its log offset.
    pub offset: Vec<i64>,
    /// Per row: hash of its idempotency key or event id, if it has one.
    pub event_id: Vec<Option<u128>>,
}

/// Which part of a source's history a recomputation sees.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Stream rows with an offset below this; None = all.
    pub stream_end: Option<i64>,
    /// Table rows as of this materialisation cursor (JSON from [`MaterializeOutcome::cursor`]); None = all there is.
    pub table_cursor: Option<String>,
}

/// A training set to make.
#[derive(Debug)]
pub struct TrainingRequest<'a> {
    /// The definitions applied.
    pub definitions: &'a Definitions,
    /// Their hash, for the manifest.
    pub definition_hash: String,
    /// The feature service.
    pub service: String,
    /// Label file (Parquet, CSV) or Delta table.
    pub labels: PathBuf,
    /// The label table's column with the moment asked for; default `event_timestamp`, else the only timestamp column.
    pub at_column: Option<String>,
    /// The zone of label timestamps that carry none.
    pub time_zone: Option<String>,
    /// Output Parquet file.
    pub out: PathBuf,
    /// Which times count.
    pub availability: Availability,
    /// Memory budget in bytes; over it partitions are spilled to disk.
    pub memory_budget: u64,
    /// Cuts by source; sources not named see all.
    pub cuts: BTreeMap<String, Cut>,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct TrainingOutcome {
    /// The manifest that was written beside the output (`OUT.manifest.json`).
    pub manifest: serde_json::Value,
    /// Rows written.
    pub rows: u64,
}

/// Loading history of one view into the online store.
#[derive(Debug)]
pub struct MaterializeRequest<'a> {
    /// The definitions applied.
    pub definitions: &'a Definitions,
    /// View and generation to fill.
    pub view: ViewHandle,
    /// Only rows with `visible_at <= until`.
    pub until: Micros,
    /// For streams: only stream rows with an offset below this (the live stream brings the others).
    pub stream_end: Option<i64>,
    /// The note of the last run (from [`OnlineStore::view_status`]), if any.
    pub previous: Option<String>,
    /// Memory budget in bytes.
    pub memory_budget: u64,
}

/// What a materialisation did.
#[derive(Clone, Debug)]
pub struct MaterializeOutcome {
    /// Source rows that were new.
    pub rows: u64,
    /// Entities written.
    pub entities: u64,
    /// Seconds.
    pub seconds: f64,
    /// The new note.
    pub cursor: String,
    /// True when files that had been read are gone or changed: the caller must rebuild into a new generation.
    pub must_rebuild: bool,
}

impl Lake {
    /// A lake whose relative source paths start at `project` and whose own tables are below `tables`.
    pub fn open(project: &Path, tables: &Path) -> Result<Self, LakeError> {
        let _ = (project, tables);
        unimplemented!()
    }

    /// Appends stream rows exactly once: rows at or below the table's last appended offset are skipped (Delta application
    /// transaction `springhouse/<source>`, version = last offset). Returns the last offset in the table.
    pub async fn append_stream(&self, source: &Source, append: StreamAppend) -> Result<i64, LakeError> {
        let _ = (source, append);
        unimplemented!()
    }

    /// The last offset in the stream's table; -1 when there is none.
    pub async fn stream_position(&self, source: &Source) -> Result<i64, LakeError> {
        let _ = source;
        unimplemented!()
    }

    /// Appends rows to the dead-letter table of a source (exactly once, same scheme). Text columns only.
    pub async fn append_dead_letters(
        &self,
        source: &str,
        letters: RecordBatch,
        last_offset: i64,
    ) -> Result<(), LakeError> {
        let _ = (source, letters, last_offset);
        unimplemented!()
    }

    /// Makes a training set.
    pub async fn training_set(
        &self,
        request: &TrainingRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<TrainingOutcome, LakeError> {
        let _ = (request, progress);
        unimplemented!()
    }

    /// Raw answers (before TTL policy, after nothing) for a few keys of one view, recomputed from history: what `verify`
    /// compares with. `known` availability.
    pub async fn recompute(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
        keys: &[springhouse_core::EntityKey],
        at: &[Micros],
        cut: &Cut,
    ) -> Result<Vec<springhouse_kernel::EntityAnswer>, LakeError> {
        let _ = (definitions, view, keys, at, cut);
        unimplemented!()
    }

    /// Loads what is new in the history of one view. Resumable: work is cut into buckets, each a lane of the store.
    pub async fn materialize(
        &self,
        request: &MaterializeRequest<'_>,
        store: &Arc<dyn OnlineStore>,
        progress: &dyn Progress,
    ) -> Result<MaterializeOutcome, LakeError> {
        let _ = (request, store, progress);
        unimplemented!()
    }
}
