//! Training sets from tables in memory. The job runs on the runtime; the calling thread watches for Ctrl-C and shows how
//! far it is.

use crate::error::{error, from_lake, from_node};
use crate::project::NativeProject;
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatchReader, PyTable};
use springhouse_lake::{Availability, Progress, read_training_set, write_labels};
use springhouse_node::TrainingOrder;
use std::path::PathBuf;
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

/// Makes the training set at `out` and returns its manifest as JSON.
#[pyfunction]
#[pyo3(signature = (project, service, labels, labels_name, out, at_column, time_zone, availability, memory_mb, on_progress))]
#[expect(clippy::too_many_arguments, reason = "the keyword arguments of `Store.training_set`, by position")]
pub(crate) fn training_set(
    py: Python<'_>,
    project: &NativeProject,
    service: String,
    labels: PathBuf,
    labels_name: Option<String>,
    out: PathBuf,
    at_column: Option<String>,
    time_zone: Option<String>,
    availability: &str,
    memory_mb: Option<u64>,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let order = TrainingOrder {
        service,
        labels,
        labels_name,
        out,
        at_column,
        time_zone,
        availability: match availability {
            "known" => Availability::Known,
            "event" => Availability::Event,
            other => {
                let message = format!("availability is `known` or `event`, not `{other}`");
                return Err(error("invalid_argument", message, None));
            }
        },
        memory_budget: memory_mb.map(|mb| mb << 20),
    };
    let node = py.detach(|| project.opened())?.node().clone();
    let watch = Arc::new(Watch::default());
    let (done, result) = std::sync::mpsc::sync_channel(1);
    let seen = watch.clone();
    project.runtime().spawn(async move {
        let made = node.training_set(order, seen.as_ref()).await;
        // The waiting thread is gone only when it has panicked.
        let _ = done.send(made);
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
                return Ok(made.map_err(from_node)?.manifest.to_string());
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

/// Writes label rows to a file that a training set can be made from; returns the number of rows.
#[pyfunction(name = "write_labels")]
pub(crate) fn labels_file(py: Python<'_>, table: PyRecordBatchReader, path: PathBuf) -> PyResult<u64> {
    let mut reader = table.into_reader()?;
    py.detach(|| write_labels(&path, &mut reader)).map_err(from_lake)
}

/// Reads a training set back as an Arrow table.
#[pyfunction(name = "read_training_set")]
pub(crate) fn training_file(py: Python<'_>, path: PathBuf) -> PyResult<PyTable> {
    let (schema, batches) = py.detach(|| read_training_set(&path)).map_err(from_lake)?;
    PyTable::try_new(batches, schema)
}

fn tell(py: Python<'_>, watch: &Watch, on_progress: Option<&Py<PyAny>>) -> PyResult<()> {
    let latest = watch.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some(progress), Some(latest)) = (on_progress, latest) {
        progress.call1(py, latest)?;
    }
    Ok(())
}
