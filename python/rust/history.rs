//! Training sets from a project's lake alone: what Spark's executors call. Nothing is locked, so any number of processes may.

use crate::error::{error, from_lake, from_node, from_project};
use crate::training::availability_of;
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatchReader, PySchema, PyTable};
use springhouse_lake::{CollectedBatches, LabelRows, Silent, TrainingOutput};
use springhouse_node::{History, Project, TrainingOrder};
use std::path::PathBuf;
use tokio::runtime::Runtime;

/// A project's history under the definitions applied, or under those that another process shared.
#[pyclass(frozen)]
pub(crate) struct NativeHistory {
    history: History,
    runtime: Runtime,
}

#[pymethods]
impl NativeHistory {
    #[new]
    #[pyo3(signature = (path, shared))]
    fn new(py: Python<'_>, path: PathBuf, shared: Option<&str>) -> PyResult<Self> {
        py.detach(|| {
            let root = std::path::absolute(path).map_err(|e| error("file_unreadable", e, None))?;
            let project = Project::open(&root).map_err(from_project)?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .worker_threads(2)
                .thread_name("springhouse")
                .build()
                .map_err(|e| error("internal", format!("the runtime can't start: {e}"), None))?;
            let history = match shared {
                Some(shared) => History::from_shared(&project, shared),
                None => runtime.block_on(History::open(&project)),
            };
            Ok(Self { history: history.map_err(from_node)?, runtime })
        })
    }

    /// The definitions, for another process.
    fn shared(&self) -> String {
        self.history.shared()
    }

    /// What a training set of such labels would look like: its schema, the files and versions it would be made from (JSON),
    /// and the label columns to divide labels by.
    #[pyo3(signature = (labels, service, at_column, time_zone, availability))]
    fn training_shape(
        &self,
        py: Python<'_>,
        labels: PyRecordBatchReader,
        service: &str,
        at_column: Option<String>,
        time_zone: Option<String>,
        availability: &str,
    ) -> PyResult<(PySchema, String, Vec<String>)> {
        let order = order(labels, service, at_column, time_zone, availability, None)?;
        let batches = CollectedBatches::default();
        let shape = py.detach(|| {
            self.runtime.block_on(self.history.training_shape(order, TrainingOutput::Batches(&batches)))
        });
        let shape = shape.map_err(from_node)?;
        Ok((PySchema::new(shape.schema), shape.inputs.to_string(), shape.keys))
    }

    /// The training set of these labels and its manifest (JSON).
    #[pyo3(signature = (labels, service, at_column, time_zone, availability, memory_mb))]
    #[expect(
        clippy::too_many_arguments,
        reason = "the keyword arguments of `spark.training_set`, by position"
    )]
    fn training_set(
        &self,
        py: Python<'_>,
        labels: PyRecordBatchReader,
        service: &str,
        at_column: Option<String>,
        time_zone: Option<String>,
        availability: &str,
        memory_mb: Option<u64>,
    ) -> PyResult<(PyTable, String)> {
        let order = order(labels, service, at_column, time_zone, availability, memory_mb)?;
        let batches = CollectedBatches::default();
        let outcome = py.detach(|| {
            let out = TrainingOutput::Batches(&batches);
            self.runtime.block_on(self.history.training_set(order, out, &Silent))
        });
        let outcome = outcome.map_err(from_node)?;
        let batches = batches.into_batches();
        let schema = batches.first().map(|batch| batch.schema());
        let schema = schema.ok_or_else(|| error("internal", "a training set has no rows", None))?;
        Ok((PyTable::try_new(batches, schema)?, outcome.manifest.to_string()))
    }
}

fn order(
    labels: PyRecordBatchReader,
    service: &str,
    at_column: Option<String>,
    time_zone: Option<String>,
    availability: &str,
    memory_mb: Option<u64>,
) -> PyResult<TrainingOrder> {
    let mut reader = labels.into_reader()?;
    let rows = LabelRows::read(&mut reader).map_err(from_lake)?;
    let mut order = TrainingOrder::new(service, rows);
    order.at_column = at_column;
    order.time_zone = time_zone;
    order.memory_budget = memory_mb.map(|mb| mb << 20);
    order.availability = availability_of(availability)?;
    Ok(order)
}
