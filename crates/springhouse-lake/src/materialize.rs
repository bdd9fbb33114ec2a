//! Loading history into the online store.

use crate::error::Result;
use crate::lake::Lake;
use crate::progress::Progress;
use springhouse_core::{Definitions, Micros};
use springhouse_online::{OnlineStore, ViewHandle};
use std::sync::Arc;

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
    /// Identities of events in the history (newest first, at most [`EVENT_IDS_MAX`]), of sources that declare one: the
    /// live stream must not count them again.
    pub event_ids: Vec<u128>,
}

/// Most event identities that a materialisation hands on.
pub const EVENT_IDS_MAX: usize = 5_000_000;

impl Lake {
    /// Loads what is new in the history of one view. Resumable: work is cut into buckets, each a lane of the store.
    pub async fn materialize(
        &self,
        request: &MaterializeRequest<'_>,
        store: &Arc<dyn OnlineStore>,
        progress: &dyn Progress,
    ) -> Result<MaterializeOutcome> {
        let _ = (request, store, progress);
        unimplemented!()
    }
}
