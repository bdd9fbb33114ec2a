//! Opening a node, and its jobs.

use crate::VerifyOutcome;
use serde::Serialize;
use springhouse_core::{Clock, Definitions, Micros};
use springhouse_ingest::{Ingest, IngestPositions, PushSettings};
use springhouse_lake::{Lake, Progress};
use springhouse_online::{OnlineStore, StoreStatistics};
use springhouse_serving::{FeatureServer, ServingSettings};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a project keeps its things.
#[derive(Clone, Debug)]
pub struct NodePaths {
    /// The project folder; relative source paths start here.
    pub project: PathBuf,
    /// Registry snapshots.
    pub registry: PathBuf,
    /// Delta tables of what was pushed.
    pub lake: PathBuf,
    /// The embedded online store.
    pub online: PathBuf,
    /// The push log.
    pub log: PathBuf,
}

impl NodePaths {
    /// The default layout: everything below `.springhouse/`.
    pub fn in_project(project: &Path) -> Self {
        let state = project.join(".springhouse");
        Self {
            project: project.to_owned(),
            registry: state.join("registry"),
            lake: state.join("lake"),
            online: state.join("online"),
            log: state.join("log"),
        }
    }
}

/// How to open a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Folders.
    pub paths: NodePaths,
    /// Limits of push.
    pub push: PushSettings,
    /// Limits of serving.
    pub serving: ServingSettings,
    /// Memory budget of one materialisation or training set, bytes.
    pub memory_budget: u64,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// What a job on one view did.
#[derive(Clone, Debug, Serialize)]
pub struct JobOutcome {
    /// `name@version`.
    pub view: String,
    /// Source rows loaded.
    pub rows: u64,
    /// Entities written.
    pub entities: u64,
    /// Seconds.
    pub seconds: f64,
    /// The generation now served.
    pub generation: u32,
    /// True when the view was built again from nothing (asked for, or its files had changed).
    pub rebuilt: bool,
}

/// One view in the status table.
#[derive(Clone, Debug, Serialize)]
pub struct ViewLine {
    /// `name@version`.
    pub view: String,
    /// The entity.
    pub entity: String,
    /// The source.
    pub source: String,
    /// Served generation.
    pub generation: u32,
    /// Everything visible before this moment is applied; None = never materialised.
    pub frontier: Option<Micros>,
    /// `now - frontier`, microseconds.
    pub age: Option<Micros>,
    /// Freshness targets, microseconds.
    pub slo_p95: Micros,
    /// Freshness targets, microseconds.
    pub slo_p99: Micros,
}

/// The node at a glance.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Now.
    pub now: Micros,
    /// Registry snapshot served.
    pub snapshot: u64,
    /// Hash of its definitions.
    pub definition_hash: String,
    /// Views.
    pub views: Vec<ViewLine>,
    /// Log, applied, flushed.
    pub positions: IngestPositions,
    /// Store sizes.
    pub store: StoreStatistics,
}

/// Why the node can't open or a job failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    /// Stable code, such as `nothing_applied`, `store_locked`, `unknown_view`.
    pub code: &'static str,
    /// What failed and why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// One open node. The only writer of its online store and log.
#[derive(Debug)]
pub struct Node {}

impl Node {
    /// Opens the project at the registry's head: takes the store's writer lock, replays the log.
    ///
    /// # Errors
    /// `nothing_applied`, `store_locked` (another node runs; the hint says where), or what a part says.
    pub async fn open(options: NodeOptions) -> Result<Arc<Self>, NodeError> {
        let _ = options;
        unimplemented!()
    }

    /// The definitions served.
    pub fn definitions(&self) -> Arc<Definitions> {
        unimplemented!()
    }

    /// Answers feature requests.
    pub fn serving(&self) -> &FeatureServer {
        unimplemented!()
    }

    /// Takes pushes.
    pub fn ingest(&self) -> &Ingest {
        unimplemented!()
    }

    /// The history.
    pub fn lake(&self) -> &Lake {
        unimplemented!()
    }

    /// The online store.
    pub fn store(&self) -> &Arc<dyn OnlineStore> {
        unimplemented!()
    }

    /// Takes up the registry's head.
    pub async fn reload(&self) -> Result<u64, NodeError> {
        unimplemented!()
    }

    /// Loads what is new in the history of the named views (all when None), up to `until` (now when None).
    pub async fn materialize(
        &self,
        views: Option<&[String]>,
        until: Option<Micros>,
        progress: &dyn Progress,
    ) -> Result<Vec<JobOutcome>, NodeError> {
        let _ = (views, until, progress);
        unimplemented!()
    }

    /// Builds a new generation of the named views (all when None) from history and switches when it is complete.
    pub async fn rebuild(
        &self,
        views: Option<&[String]>,
        progress: &dyn Progress,
    ) -> Result<Vec<JobOutcome>, NodeError> {
        let _ = (views, progress);
        unimplemented!()
    }

    /// Reads up to `entities_per_view` entities of each named view online and recomputes them from history at the same
    /// moment and cut.
    pub async fn verify(
        &self,
        views: Option<&[String]>,
        entities_per_view: usize,
    ) -> Result<VerifyOutcome, NodeError> {
        let _ = (views, entities_per_view);
        unimplemented!()
    }

    /// The node at a glance.
    pub async fn status(&self) -> Result<NodeStatus, NodeError> {
        unimplemented!()
    }

    /// Flushes, checkpoints, stops. Safe to call twice.
    pub async fn shutdown(&self) -> Result<(), NodeError> {
        unimplemented!()
    }
}
