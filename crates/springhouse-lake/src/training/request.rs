//! What may be asked of a training set: which features, for which labels, to where.

use crate::error::{LakeError, Result};
use crate::frames::{plain, plain_schema};
use crate::training::again::{LabelInputs, SourceInputs};
use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use springhouse_core::Definitions;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// Availability mode of a training set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Both times count (default).
    #[default]
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

/// Where labels are.
#[derive(Clone, Debug)]
pub enum LabelSource {
    /// A Parquet, CSV or Arrow IPC file, a glob or folder of them, or a Delta table.
    Path(PathBuf),
    /// `SELECT ... FROM 'path' WHERE ...` over one such table, row by row.
    Query(String),
    /// Rows in memory.
    Rows(LabelRows),
}

/// Label rows in memory, called `table` in errors and in the manifest. What the frame library keeps in a layout of its own (views, dictionaries, large offsets) becomes
/// plain; every other column is taken as it is, without a copy.
#[derive(Clone, Debug)]
pub struct LabelRows {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Arc<Vec<RecordBatch>>,
}

/// Which of the labels are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// How many.
    pub size: SampleSize,
    /// Another seed takes other rows.
    pub seed: u64,
}

/// How many labels are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SampleSize {
    /// So many rows, or all when there are fewer.
    Rows(u64),
    /// About this share of the rows, above 0 and at most 1.
    Share(f64),
}

/// The format of a training set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// Parquet.
    Parquet,
    /// An Arrow IPC file (Feather).
    ArrowFile,
    /// An Arrow IPC stream.
    ArrowStream,
    /// CSV with a header line; nested values as JSON.
    Csv,
}

/// Takes a training set as batches, in the labels' order.
pub trait TrainingSink: Send + Sync {
    /// The next rows.
    ///
    /// # Errors
    /// Whatever ends the job.
    fn batch(&self, batch: RecordBatch) -> Result<(), LakeError>;
}

/// A training set in memory.
#[derive(Debug, Default)]
pub struct CollectedBatches(Mutex<Vec<RecordBatch>>);

impl CollectedBatches {
    /// The batches, in the labels' order; at least one, since there is at least one label.
    pub fn into_batches(self) -> Vec<RecordBatch> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrainingSink for CollectedBatches {
    fn batch(&self, batch: RecordBatch) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
        Ok(())
    }
}

/// Where a training set goes.
#[derive(Clone, Copy)]
pub enum TrainingOutput<'a> {
    /// A file, written beside its place and moved there when it is complete; the manifest goes beside it.
    File(&'a Path, OutputFormat),
    /// A writer such as standard output; not Parquet.
    Writer(&'a Mutex<dyn Write + Send>, OutputFormat),
    /// Batches in memory.
    Batches(&'a dyn TrainingSink),
}

/// A training set to make.
#[derive(Clone, Debug)]
pub struct TrainingRequest<'a> {
    /// The definitions applied.
    pub definitions: &'a Definitions,
    /// Their hash, for the manifest.
    pub definition_hash: String,
    /// The feature services; may be empty when `features` is not.
    pub services: Vec<String>,
    /// `feature`, `view` or `view:feature`: only these of the services, in this order. Empty = all of them.
    pub features: Vec<String>,
    /// Where the labels are.
    pub labels: LabelSource,
    /// The label table's column with the moment asked for; default `event_timestamp`, else the only timestamp column.
    pub at_column: Option<String>,
    /// The zone of label timestamps that carry none.
    pub time_zone: Option<String>,
    /// Which of the labels; None = all.
    pub sample: Option<Sample>,
    /// Where the training set goes.
    pub out: TrainingOutput<'a>,
    /// Which times count.
    pub availability: Availability,
    /// Memory budget in bytes; over it partitions are spilled to disk.
    pub memory_budget: u64,
    /// Cuts by source; sources not named see all.
    pub cuts: BTreeMap<String, Cut>,
    /// Only the labels with these numbers, counted in what is left of them by query and sample; None = all.
    pub rows: Option<Range<u64>>,
    /// Labels of a part, where finished parts are kept beside the output, a file, until it is complete, so that a run that was
    /// killed is taken up; None: they are not kept.
    pub part_rows: Option<u64>,
    /// Sources as they were, by name; those not named are read as they are.
    pub inputs: BTreeMap<String, SourceInputs>,
    /// Labels as they were; None: as they are.
    pub label_inputs: Option<LabelInputs>,
}

impl<'a> TrainingRequest<'a> {
    /// A request with nothing but what must be said; the rest are fields.
    pub fn new(
        definitions: &'a Definitions,
        definition_hash: impl Into<String>,
        service: &str,
        labels: impl Into<LabelSource>,
        out: TrainingOutput<'a>,
        memory_budget: u64,
    ) -> Self {
        Self {
            definitions,
            definition_hash: definition_hash.into(),
            services: vec![service.to_owned()],
            features: Vec::new(),
            labels: labels.into(),
            at_column: None,
            time_zone: None,
            sample: None,
            out,
            availability: Availability::Known,
            memory_budget,
            cuts: BTreeMap::new(),
            rows: None,
            part_rows: None,
            inputs: BTreeMap::new(),
            label_inputs: None,
        }
    }
}

impl LabelSource {
    /// The query, if it is one.
    pub(crate) fn query(&self) -> Option<&str> {
        match self {
            Self::Query(sql) => Some(sql),
            Self::Path(_) | Self::Rows(_) => None,
        }
    }
}

impl From<PathBuf> for LabelSource {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&Path> for LabelSource {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<LabelRows> for LabelSource {
    fn from(rows: LabelRows) -> Self {
        Self::Rows(rows)
    }
}

impl LabelRows {
    /// Takes all rows of a reader.
    ///
    /// # Errors
    /// `labels_unreadable` when the reader fails.
    pub fn read(rows: &mut dyn RecordBatchReader) -> Result<Self> {
        let unreadable = |error: &dyn std::fmt::Display| {
            LakeError::new("labels_unreadable", format!("the label rows can't be read: {error}"))
                .hint("give a table with plain columns: numbers, texts, timestamps")
        };
        let schema = plain_schema(&rows.schema());
        let mut batches = Vec::new();
        for batch in rows {
            let batch = batch
                .and_then(|batch| plain(batch.columns().to_vec(), &schema))
                .map_err(|error| unreadable(&error))?;
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
        }
        Ok(Self { schema, batches: Arc::new(batches) })
    }

    /// How many rows.
    pub fn row_count(&self) -> u64 {
        self.batches.iter().map(|batch| batch.num_rows() as u64).sum()
    }
}

impl FromStr for SampleSize {
    type Err = String;

    /// `1000`, `1%` or `0.5%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither a number of rows such as 1000 nor a share such as 1%");
        let size = match text.strip_suffix('%') {
            Some(percent) => Self::Share(percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0),
            None => Self::Rows(text.parse().map_err(|_| wrong())?),
        };
        match size {
            Self::Rows(0) => Err("a sample has at least one row".to_owned()),
            Self::Share(share) if !(share > 0.0 && share <= 1.0) => {
                Err(format!("`{text}` is no share: write more than 0% and at most 100%"))
            }
            size => Ok(size),
        }
    }
}

impl std::fmt::Display for SampleSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "{rows}"),
            Self::Share(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

impl OutputFormat {
    /// Every name, as `--output-format` takes it.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("parquet", Self::Parquet),
        ("arrow", Self::ArrowFile),
        ("arrow-stream", Self::ArrowStream),
        ("csv", Self::Csv),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, format)| *format == self).map_or("parquet", |(name, _)| name)
    }

    /// The format that a file's extension says; Parquet without one.
    ///
    /// # Errors
    /// `unknown_format`.
    pub fn of(path: &Path) -> Result<Self> {
        let Some(extension) = path.extension() else { return Ok(Self::Parquet) };
        match extension.to_string_lossy().to_lowercase().as_str() {
            "parquet" | "pq" => Ok(Self::Parquet),
            "arrow" | "feather" | "ipc" => Ok(Self::ArrowFile),
            "arrows" => Ok(Self::ArrowStream),
            "csv" => Ok(Self::Csv),
            other => Err(LakeError::new(
                "unknown_format",
                format!("`.{other}` of `{}` says no format of a training set", path.display()),
            )
            .hint("end the name in .parquet, .arrow, .arrows or .csv, or name the format (`--output-format parquet`)")),
        }
    }
}

impl FromStr for OutputFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::NAMES.map(|(name, _)| name).join(", ");
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, format)| *format).ok_or_else(|| format!("`{text}` is none of {}", names()))
    }
}

impl TrainingOutput<'_> {
    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path, _) => Some(path),
            Self::Writer(..) | Self::Batches(_) => None,
        }
    }

    /// What the manifest says of the format.
    pub(crate) fn format_name(&self) -> &'static str {
        match self {
            Self::File(_, format) | Self::Writer(_, format) => format.name(),
            Self::Batches(_) => "batches",
        }
    }
}

impl std::fmt::Debug for TrainingOutput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path, format) => f.debug_tuple("File").field(path).field(format).finish(),
            Self::Writer(_, format) => f.debug_tuple("Writer").field(format).finish_non_exhaustive(),
            Self::Batches(_) => f.write_str("Batches"),
        }
    }
}
