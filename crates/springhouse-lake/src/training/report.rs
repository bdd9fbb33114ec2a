//! What a training set takes: the plan beforehand, and what it took afterwards.

use crate::source::selected::{Pass, PassKind};
use crate::training::stages::StageTime;
use serde::Serialize;
use springhouse_core::Micros;

/// How a training set is made (`springhouse train --explain`).
#[derive(Clone, Debug, Serialize)]
pub struct TrainingReport {
    /// The labels.
    pub labels: LabelReport,
    /// Which way each stored view goes.
    pub views: Vec<ViewReport>,
    /// What is read of each source.
    pub sources: Vec<SourceReport>,
    /// Parts that entities are divided into; one is in memory per thread.
    pub partitions: usize,
    /// Threads at work.
    pub threads: usize,
    /// Memory budget in bytes.
    pub memory_budget: u64,
    /// Columns of the training set.
    pub columns: usize,
    /// Its format.
    pub format: &'static str,
    /// What it took; None before it is made.
    pub made: Option<MadeReport>,
}

/// The labels of a training set.
#[derive(Clone, Debug, Serialize)]
pub struct LabelReport {
    /// What they are called.
    pub name: String,
    /// Files they are in.
    pub files: usize,
    /// Bytes of the files.
    pub bytes: u64,
    /// Rows stored; None when only reading tells.
    pub rows_stored: Option<u64>,
    /// Labels, after query and sample; None when only reading tells.
    pub rows: Option<u64>,
    /// The earliest moment asked for.
    pub first: Option<Micros>,
    /// The latest moment asked for.
    pub last: Option<Micros>,
}

/// Which way a view goes.
#[derive(Clone, Debug, Serialize)]
pub struct ViewReport {
    /// The view.
    pub view: String,
    /// Its source.
    pub source: String,
    /// Its entity.
    pub entity: String,
    /// How many of its features are computed.
    pub features: usize,
    /// How many it has.
    pub features_defined: usize,
    /// The views that go through one pass have one number.
    pub pass: usize,
    /// How its values are found.
    pub way: ViewWay,
}

/// How a view's values are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewWay {
    /// Keys and times are read first; of the other columns only the rows that labels see.
    LatestRow,
    /// Keys, times and inputs are read once and aggregated for all windows.
    Aggregate,
}

/// What is read of a source.
#[derive(Clone, Debug, Serialize)]
pub struct SourceReport {
    /// The source.
    pub source: String,
    /// Its files.
    pub files: usize,
    /// Bytes of its files.
    pub bytes: u64,
    /// Rows in its files; a guess where there is CSV.
    pub rows: u64,
    /// Its reading, in order.
    pub passes: Vec<PassReport>,
}

/// One reading of a source.
#[derive(Clone, Debug, Serialize)]
pub struct PassReport {
    /// What for.
    pub kind: PassKind,
    /// The declared columns read, besides times and keys that every reading has.
    pub columns: Vec<String>,
    /// Row groups (or whole files, where there are none) there are.
    pub parts: u64,
    /// Of them, left out by their statistics or because no label sees a row of them.
    pub parts_pruned: u64,
    /// Stored bytes of the columns in the parts read.
    pub bytes: u64,
    /// Stored bytes of the columns in the parts left out.
    pub bytes_pruned: u64,
    /// Rows in the parts read.
    pub rows: u64,
    /// Of them, those that some label may see; None where it is not known.
    pub rows_kept: Option<u64>,
    /// True when what is left out can only be told while it is made: these are upper bounds.
    pub at_most: bool,
}

/// What a training set took.
#[derive(Clone, Debug, Serialize)]
pub struct MadeReport {
    /// Rows written.
    pub rows: u64,
    /// Time on the clock.
    pub seconds: f64,
    /// Bytes that went to a temporary file because memory was short.
    pub spilled_bytes: u64,
    /// Its stages in the order in which they ended.
    pub stages: Vec<StageReport>,
}

/// A stage and the time it took.
#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    /// What.
    pub stage: &'static str,
    /// Of which source or view; empty for the whole job.
    pub of: String,
    /// Time on the clock.
    pub seconds: f64,
}

impl PassReport {
    pub(crate) fn new(pass: &Pass, at_most: bool) -> Self {
        let selected = &pass.selected;
        Self {
            kind: pass.kind,
            columns: pass.columns.clone(),
            parts: selected.parts,
            parts_pruned: selected.parts_pruned,
            bytes: selected.bytes,
            bytes_pruned: selected.bytes_pruned,
            rows: selected.rows,
            rows_kept: pass.rows_kept,
            at_most,
        }
    }
}

impl From<&StageTime> for StageReport {
    fn from(stage: &StageTime) -> Self {
        Self { stage: stage.stage, of: stage.of.clone(), seconds: stage.took.as_secs_f64() }
    }
}
