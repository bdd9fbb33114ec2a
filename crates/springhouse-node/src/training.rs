//! Training sets: through an open node, for which what was pushed and still is in the log belongs to history too, and from
//! the lake alone, by any number of processes at once.

use crate::node::nothing_applied;
use crate::{Node, NodeError, Project};
use serde::{Deserialize, Serialize};
use springhouse_core::Definitions;
use springhouse_core::definition::Source;
use springhouse_lake::{
    Availability, LabelSource, Lake, Manifest, OptimizeOutcome, OptimizeRequest, Progress, Sample,
    TrainingOutcome, TrainingOutput, TrainingReport, TrainingRequest, TrainingShape, cluster_columns,
};
use springhouse_registry::{Registry, Snapshot};
use std::time::Duration;

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
    /// Labels of a part, where finished parts are kept until the output is complete; None: not kept.
    pub part_rows: Option<u64>,
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
            part_rows: None,
        }
    }

    fn request<'a>(
        self,
        definitions: &'a Definitions,
        hash: &str,
        out: TrainingOutput<'a>,
        memory_budget: u64,
    ) -> TrainingRequest<'a> {
        let budget = self.memory_budget.unwrap_or(memory_budget);
        TrainingRequest {
            services: self.services,
            features: self.features,
            at_column: self.at_column,
            time_zone: self.time_zone,
            sample: self.sample,
            availability: self.availability,
            part_rows: self.part_rows,
            ..TrainingRequest::new(definitions, hash, "", self.labels, out, budget)
        }
    }
}

/// A project's applied definitions and its lake, without the rest of a node: nothing is locked, written or replayed. What
/// still is in the push log is not part of it.
#[derive(Debug)]
pub struct History {
    definitions: Definitions,
    hash: String,
    lake: Lake,
    memory_budget: u64,
}

/// What another process needs to have the same definitions.
#[derive(Serialize, Deserialize)]
struct Shared {
    definitions: Definitions,
    hash: String,
}

impl History {
    /// The registry's head and the lake of a project.
    ///
    /// # Errors
    /// `nothing_applied`, or what the registry or the lake says.
    pub async fn open(project: &Project) -> Result<Self, NodeError> {
        let head = project.registry()?.head().await?.ok_or_else(nothing_applied)?;
        let shared = Shared { hash: head.definition_hash, definitions: head.definitions };
        let history = Self::with(project, shared)?;
        let event_cache = u64::from(project.settings.event_cache_mb) << 20;
        Ok(Self { lake: history.lake.with_event_cache(event_cache), ..history })
    }

    /// The lake of a project under definitions that [`Self::shared`] gave elsewhere.
    ///
    /// # Errors
    /// `internal` when the text is not from there, or what the lake says.
    pub fn from_shared(project: &Project, shared: &str) -> Result<Self, NodeError> {
        let shared = serde_json::from_str(shared).map_err(|error| {
            let hint = "run the same version of Springhouse everywhere";
            NodeError::new("internal", format!("the definitions can't be read: {error}"), hint)
        })?;
        Self::with(project, shared)
    }

    fn with(project: &Project, shared: Shared) -> Result<Self, NodeError> {
        let lake = Lake::open(&project.root, &project.paths().lake)?;
        let memory_budget = u64::from(project.settings.memory_budget_mb) << 20;
        Ok(Self { definitions: shared.definitions, hash: shared.hash, lake, memory_budget })
    }

    /// The definitions as text, for [`Self::from_shared`].
    pub fn shared(&self) -> String {
        let shared = Shared { definitions: self.definitions.clone(), hash: self.hash.clone() };
        serde_json::to_string(&shared).expect("definitions are kept as JSON in the registry too")
    }

    /// Compacts the lake's tables of streams: of these sources, or of all.
    ///
    /// # Errors
    /// `unknown_source` (no such stream), or what the lake says.
    pub async fn optimize(
        &self,
        sources: &[String],
        vacuum: Option<Duration>,
        dry_run: bool,
        progress: &dyn Progress,
    ) -> Result<Vec<(String, OptimizeOutcome)>, NodeError> {
        let streams: Vec<&Source> = self.definitions.sources.values().filter(|s| s.is_stream()).collect();
        let mut chosen = Vec::new();
        for name in sources {
            let source = streams.iter().find(|source| source.name == *name).ok_or_else(|| {
                let known: Vec<&str> = streams.iter().map(|source| source.name.as_str()).collect();
                let hint = format!("the sources that take pushes are {}", known.join(", "));
                NodeError::new(
                    "unknown_source",
                    format!("there is no source `{name}` that takes pushes"),
                    hint,
                )
            })?;
            chosen.push(*source);
        }
        let mut done = Vec::new();
        for source in if sources.is_empty() { streams } else { chosen } {
            let cluster_by = cluster_columns(&self.definitions, source);
            let request = OptimizeRequest { cluster_by, vacuum, dry_run, ..OptimizeRequest::default() };
            let outcome = self.lake.optimize_stream(source, &request, progress).await?;
            done.push((source.name.clone(), outcome));
        }
        Ok(done)
    }

    /// What a training set would look like, and what it would be made from.
    ///
    /// # Errors
    /// What the lake says.
    pub async fn training_shape(
        &self,
        order: TrainingOrder,
        out: TrainingOutput<'_>,
    ) -> Result<TrainingShape, NodeError> {
        let request = order.request(&self.definitions, &self.hash, out, self.memory_budget);
        Ok(self.lake.training_shape(&request).await?)
    }

    /// Makes a training set.
    ///
    /// # Errors
    /// What the lake says; `cancelled`.
    pub async fn training_set(
        &self,
        order: TrainingOrder,
        out: TrainingOutput<'_>,
        progress: &dyn Progress,
    ) -> Result<TrainingOutcome, NodeError> {
        let request = order.request(&self.definitions, &self.hash, out, self.memory_budget);
        Ok(self.lake.training_set(&request, progress).await?)
    }
}

/// The snapshot with the definitions that a manifest names.
///
/// # Errors
/// `unknown_definitions`, or what the registry says.
pub async fn snapshot_of(registry: &Registry, manifest: &Manifest) -> Result<Snapshot, NodeError> {
    let hash = &manifest.definition_hash;
    let found = registry.list().await?.into_iter().rfind(|snapshot| snapshot.definition_hash == *hash);
    found.ok_or_else(|| {
        let message = format!("the registry has no definitions with the manifest's hash {hash}");
        NodeError::new(
            "unknown_definitions",
            message,
            "it was made in another project; `springhouse registry` lists what was applied here",
        )
    })
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
        let budget = self.options().memory_budget;
        let request = order.request(&applied.definitions, &applied.hash, out, budget);
        Ok(self.lake().training_set(&request, progress).await?)
    }

    /// Makes a training set again, as its manifest says.
    ///
    /// # Errors
    /// `unknown_definitions`, or what the registry or the lake says; `cancelled`.
    pub async fn training_set_again(
        &self,
        manifest: &Manifest,
        out: TrainingOutput<'_>,
        memory_budget: Option<u64>,
        part_rows: Option<u64>,
        progress: &dyn Progress,
    ) -> Result<TrainingOutcome, NodeError> {
        let snapshot = snapshot_of(self.registry(), manifest).await?;
        let budget = memory_budget.unwrap_or(self.options().memory_budget);
        let project = &self.options().paths.project;
        let request = manifest.request(project, &snapshot.definitions, out, budget)?;
        let request = TrainingRequest { part_rows, ..request };
        let made = self.lake().training_set(&request, progress).await?;
        manifest.check(&made.manifest)?;
        Ok(made)
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
        let budget = self.options().memory_budget;
        let request = order.request(&applied.definitions, &applied.hash, out, budget);
        Ok(self.lake().training_plan(&request).await?)
    }
}
