//! A training set made through an open node: what was pushed and still is in the log belongs to history too.

use crate::{Node, NodeError};
use springhouse_lake::{
    Availability, LabelSource, Progress, Sample, TrainingOutcome, TrainingOutput, TrainingReport,
    TrainingRequest,
};

/// A training set to make.
#[derive(Clone, Debug)]
pub struct TrainingOrder {
    /// The feature services; may be empty when `features` is not.
    pub services: Vec<String>,
    /// Only these features, in this order; empty = all of the services.
    pub features: Vec<String>,
    /// Where the labels are.
    pub labels: LabelSource,
    /// The labels' column with the moment asked for; default `event_timestamp`, else the only timestamp column.
    pub at_column: Option<String>,
    /// The zone of label timestamps that carry none.
    pub time_zone: Option<String>,
    /// Which of the labels; None = all.
    pub sample: Option<Sample>,
    /// Which of an event's two times count.
    pub availability: Availability,
    /// Memory budget in bytes; the project's when None.
    pub memory_budget: Option<u64>,
}

impl TrainingOrder {
    /// All features of a service for all labels.
    pub fn new(service: &str, labels: impl Into<LabelSource>) -> Self {
        Self {
            services: vec![service.to_owned()],
            features: Vec::new(),
            labels: labels.into(),
            at_column: None,
            time_zone: None,
            sample: None,
            availability: Availability::Known,
            memory_budget: None,
        }
    }
}

impl Node {
    /// Makes a training set from the applied definitions.
    ///
    /// # Errors
    /// What the flush or the lake says; `cancelled`.
    pub async fn training_set(
        &self,
        order: TrainingOrder,
        out: TrainingOutput<'_>,
        progress: &dyn Progress,
    ) -> Result<TrainingOutcome, NodeError> {
        self.ingest().flush().await?;
        let applied = self.applied();
        let request = self.training_request(order, &applied, out);
        Ok(self.lake().training_set(&request, progress).await?)
    }

    /// How a training set would be made.
    ///
    /// # Errors
    /// What the flush or the lake says.
    pub async fn training_plan(
        &self,
        order: TrainingOrder,
        out: TrainingOutput<'_>,
    ) -> Result<TrainingReport, NodeError> {
        self.ingest().flush().await?;
        let applied = self.applied();
        let request = self.training_request(order, &applied, out);
        Ok(self.lake().training_plan(&request).await?)
    }

    fn training_request<'a>(
        &self,
        order: TrainingOrder,
        applied: &'a crate::node::Applied,
        out: TrainingOutput<'a>,
    ) -> TrainingRequest<'a> {
        let budget = order.memory_budget.unwrap_or(self.options().memory_budget);
        TrainingRequest {
            services: order.services,
            features: order.features,
            at_column: order.at_column,
            time_zone: order.time_zone,
            sample: order.sample,
            availability: order.availability,
            ..TrainingRequest::new(&applied.definitions, &*applied.hash, "", order.labels, out, budget)
        }
    }
}
