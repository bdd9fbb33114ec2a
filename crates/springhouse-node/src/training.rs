//! A training set made through an open node: what was pushed and still is in the log belongs to history too.

use crate::{Node, NodeError};
use springhouse_lake::{Availability, Progress, TrainingOutcome, TrainingRequest};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A training set to make.
#[derive(Clone, Debug)]
pub struct TrainingOrder {
    /// The feature service.
    pub service: String,
    /// Label file (Parquet, CSV) or Delta table.
    pub labels: PathBuf,
    /// What they are called, where they are a table that was written for this job alone.
    pub labels_name: Option<String>,
    /// Output Parquet file; its manifest goes beside it.
    pub out: PathBuf,
    /// The labels' column with the moment asked for; default `event_timestamp`, else the only timestamp column.
    pub at_column: Option<String>,
    /// The zone of label timestamps that carry none.
    pub time_zone: Option<String>,
    /// Which of an event's two times count.
    pub availability: Availability,
    /// Memory budget in bytes; the project's when None.
    pub memory_budget: Option<u64>,
}

impl Node {
    /// Makes a training set from the applied definitions.
    ///
    /// # Errors
    /// What the flush or the lake says; `cancelled`.
    pub async fn training_set(
        &self,
        order: TrainingOrder,
        progress: &dyn Progress,
    ) -> Result<TrainingOutcome, NodeError> {
        self.ingest().flush().await?;
        let applied = self.applied();
        let request = TrainingRequest {
            definitions: &applied.definitions,
            definition_hash: applied.hash.to_string(),
            service: order.service,
            labels: order.labels,
            labels_name: order.labels_name,
            at_column: order.at_column,
            time_zone: order.time_zone,
            out: order.out,
            availability: order.availability,
            memory_budget: order.memory_budget.unwrap_or(self.options().memory_budget),
            cuts: BTreeMap::new(),
        };
        Ok(self.lake().training_set(&request, progress).await?)
    }
}
