//! Training sets from tables in memory. The job runs on the runtime; the calling thread watches for Ctrl-C and shows how
//! far it is.

use crate::error::{error, from_lake, from_node};
use crate::project::NativeProject;
use arrow::array::RecordBatch;
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatchReader, PyTable};
use springhouse_lake::{
    Availability, CollectedBatches, LabelRows, LabelSource, Manifest, OutputFormat, Progress, Sample,
    SampleSize, TrainingOutput, read_training_set,
};
use springhouse_node::TrainingOrder;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the calling thread looks for Ctrl-C and tells how far the job is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How far the job is, for the thread that waits.
#[derive(Default)]
struct Watch {
    cancelled: AtomicBool,
    latest: Mutex<Option<(&'static str, u64, u64)>>,
}

impl Progress for Watch {
    fn report(&self, stage: &'static str, done: u64, total: u64) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((stage, done, total));
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// The arguments of `Store.training_set`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Asked {
    services: Vec<String>,
    features: Vec<String>,
    /// The path of the labels, where they are in files.
    labels: Option<PathBuf>,
    labels_sql: Option<String>,
    at_column: Option<String>,
    time_zone: Option<String>,
    sample: Option<String>,
    seed: u64,
    availability: String,
    memory_mb: Option<u64>,
    output_format: Option<String>,
    /// The manifest of a training set to be made again; then nothing else is asked.
    manifest: Option<PathBuf>,
    part_rows: Option<u64>,
}

fn invalid(message: impl Into<String>) -> PyErr {
    error("invalid_argument", message.into(), None)
}

/// Which of an event's two times count, by its name in Python.
pub(crate) fn availability_of(name: &str) -> PyResult<Availability> {
    match name {
        "known" => Ok(Availability::Known),
        "event" => Ok(Availability::Event),
        other => Err(invalid(format!("availability is `known` or `event`, not `{other}`"))),
    }
}

/// A training set from what is asked, or again from a manifest.
enum Job {
    Order(TrainingOrder),
    Again { manifest: Manifest, memory_budget: Option<u64>, part_rows: Option<u64> },
}

impl Asked {
    fn job(self, rows: Option<LabelRows>) -> PyResult<Job> {
        let Some(path) = &self.manifest else { return self.order(rows).map(Job::Order) };
        let manifest = Manifest::read(path).map_err(from_lake)?;
        let memory_budget = self.memory_mb.map(|mb| mb << 20);
        Ok(Job::Again { manifest, memory_budget, part_rows: self.part_rows })
    }

    fn order(self, rows: Option<LabelRows>) -> PyResult<TrainingOrder> {
        let labels: LabelSource = match (rows, self.labels, self.labels_sql) {
            (Some(rows), None, None) => rows.into(),
            (None, Some(path), None) => path.into(),
            (None, None, Some(sql)) => LabelSource::Query(sql),
            _ => return Err(invalid("give `labels` or `labels_sql`, one of them")),
        };
        let size = self.sample.map(|text| text.parse::<SampleSize>()).transpose();
        let size = size.map_err(|why| invalid(format!("sample: {why}")))?;
        Ok(TrainingOrder {
            services: self.services,
            features: self.features,
            at_column: self.at_column,
            time_zone: self.time_zone,
            sample: size.map(|size| Sample { size, seed: self.seed }),
            availability: availability_of(&self.availability)?,
            memory_budget: self.memory_mb.map(|mb| mb << 20),
            part_rows: self.part_rows,
            ..TrainingOrder::new("", labels)
        })
    }

    fn format(&self, out: Option<&Path>) -> PyResult<Option<OutputFormat>> {
        match (out, &self.output_format) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(invalid("`output_format` needs `out`")),
            (Some(_), Some(name)) => {
                name.parse().map(Some).map_err(|why: String| invalid(format!("output_format: {why}")))
            }
            (Some(out), None) => OutputFormat::of(out).map(Some).map_err(from_lake),
        }
    }
}

fn label_rows(py: Python<'_>, labels: Option<PyRecordBatchReader>) -> PyResult<Option<LabelRows>> {
    let Some(labels) = labels else { return Ok(None) };
    let mut reader = labels.into_reader()?;
    py.detach(|| LabelRows::read(&mut reader)).map(Some).map_err(from_lake)
}

/// What was made: manifest and report as JSON, and the table where it went to no file.
type Made = (String, String, Option<PyTable>);

/// Makes a training set from labels in memory or from files, in memory or at `out`.
#[pyfunction]
#[pyo3(signature = (project, asked, labels, out, on_progress))]
pub(crate) fn training_set(
    py: Python<'_>,
    project: &NativeProject,
    asked: Asked,
    labels: Option<PyRecordBatchReader>,
    out: Option<PathBuf>,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<Made> {
    let format = asked.format(out.as_deref())?;
    let job = asked.job(label_rows(py, labels)?)?;
    let node = py.detach(|| project.opened())?.node().clone();
    let watch = Arc::new(Watch::default());
    let (done, result) = std::sync::mpsc::sync_channel(1);
    let seen = watch.clone();
    project.runtime().spawn(async move {
        let collected = CollectedBatches::default();
        let place = match (&out, format) {
            (Some(out), Some(format)) => TrainingOutput::File(out, format),
            _ => TrainingOutput::Batches(&collected),
        };
        let made = match job {
            Job::Order(order) => node.training_set(order, place, seen.as_ref()).await,
            Job::Again { manifest, memory_budget, part_rows } => {
                node.training_set_again(&manifest, place, memory_budget, part_rows, seen.as_ref()).await
            }
        };
        // The waiting thread is gone only when it has panicked.
        let _ = done.send(made.map(|made| (made, collected.into_batches())));
    });
    // A receiver is for one thread at a time; this one moves in and out of the wait below.
    let result = Mutex::new(result);
    let mut interrupted = None;
    loop {
        match py.detach(|| result.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LOOK_EVERY)) {
            Ok(made) => {
                if let Some(interrupt) = interrupted {
                    return Err(interrupt);
                }
                let (made, batches) = made.map_err(from_node)?;
                let report = serde_json::to_string(&made.report)
                    .map_err(|failed| error("internal", failed.to_string(), None))?;
                let schema = batches.first().map(RecordBatch::schema);
                let table = schema.map(|schema| PyTable::try_new(batches, schema)).transpose()?;
                return Ok((made.manifest.to_string(), report, table));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(error("internal", "the training set's job broke off", None));
            }
            Err(RecvTimeoutError::Timeout) if interrupted.is_none() => {
                let told = tell(py, &watch, on_progress.as_ref());
                if let Err(interrupt) = py.check_signals().and(told) {
                    watch.cancelled.store(true, Ordering::Relaxed);
                    interrupted = Some(interrupt);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// How a training set would be made, as JSON.
#[pyfunction]
pub(crate) fn training_plan(
    py: Python<'_>,
    project: &NativeProject,
    asked: Asked,
    labels: Option<PyRecordBatchReader>,
) -> PyResult<String> {
    let order = asked.order(label_rows(py, labels)?)?;
    py.detach(|| {
        let node = project.opened()?.node().clone();
        let collected = CollectedBatches::default();
        let planned = node.training_plan(order, TrainingOutput::Batches(&collected));
        let report = project.runtime().block_on(planned).map_err(from_node)?;
        serde_json::to_string(&report).map_err(|failed| error("internal", failed.to_string(), None))
    })
}

/// Reads a training set back as an Arrow table; `format` is what its manifest says.
#[pyfunction(name = "read_training_set")]
pub(crate) fn training_file(py: Python<'_>, path: PathBuf, format: &str) -> PyResult<PyTable> {
    let format: OutputFormat = format.parse().map_err(|why: String| invalid(why))?;
    let (schema, batches) = py.detach(|| read_training_set(&path, format)).map_err(from_lake)?;
    PyTable::try_new(batches, schema)
}

fn tell(py: Python<'_>, watch: &Watch, on_progress: Option<&Py<PyAny>>) -> PyResult<()> {
    let latest = watch.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some(progress), Some(latest)) = (on_progress, latest) {
        progress.call1(py, latest)?;
    }
    Ok(())
}
