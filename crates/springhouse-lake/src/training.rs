//! Training sets.

use crate::error::Result;
use crate::lake::Lake;
use crate::progress::Progress;
use springhouse_core::definition::FeatureView;
use springhouse_core::{Definitions, Micros};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Availability mode of a training set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Both times count (default).
    Known,
    /// Only the event time counts.
    Event,
}

/// Which part of a source's history a recomputation sees.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Stream rows with an offset below this; None = all.
    pub stream_end: Option<i64>,
    /// Table rows as of this materialisation cursor (JSON from [`crate::MaterializeOutcome::cursor`]); None = all there is.
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

impl Lake {
    /// Makes a training set.
    pub async fn training_set(
        &self,
        request: &TrainingRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<TrainingOutcome> {
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
    ) -> Result<Vec<springhouse_kernel::EntityAnswer>> {
        let _ = (definitions, view, keys, at, cut);
        unimplemented!()
    }
}
