//! Opening a node, and its jobs.

use crate::patience::Patience;
use crate::progress::{
    Named, NodeFrontiers, ViewProgress, forget, note_materialized, note_stream_start, read_progress,
};
use crate::store::StorePlace;
use crate::topics::Topics;
use crate::workers::{Workers, follow_workers};
use crate::{NodeError, VerifyOutcome, keeper, store, verify};
use arc_swap::ArcSwap;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde::Serialize;
use springhouse_core::definition::{FeatureView, Source};
use springhouse_core::{Clock, Definitions, Micros};
use springhouse_ingest::{
    Feeding, Ingest, IngestPositions, LatencyHistogram, PushSettings, StartAt, ViewFeed,
};
use springhouse_kafka::{KafkaSettings, TopicStatus, read_topic};
use springhouse_kernel::ViewPlan;
use springhouse_lake::{Lake, MaterializeRequest, Progress};
use springhouse_online::{Condition, OnlineStore, StoreStatistics, ViewHandle, build_name};
use springhouse_online_embedded::EmbeddedSettings;
use springhouse_online_redis::RedisSettings;
use springhouse_registry::Registry;
use springhouse_serving::{FeatureServer, ServedStore, ServingSettings};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Where a project keeps its things.
#[derive(Clone, Debug)]
pub struct NodePaths {
    /// The project folder; relative source paths start here.
    pub project: PathBuf,
    /// Registry snapshots.
    pub registry: PathBuf,
    /// Delta tables of what was pushed.
    pub lake: PathBuf,
    /// The embedded online store; for one elsewhere, the lock and the note of which store it is.
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
    /// Limits of the embedded online store.
    pub online: EmbeddedSettings,
    /// The online store is on Redis, and where; None = embedded.
    pub redis: Option<RedisSettings>,
    /// Address and limits of Kafka.
    pub kafka: KafkaSettings,
    /// Memory budget of one materialisation or training set, bytes.
    pub memory_budget: u64,
    /// What training sets may keep on disk of the history that they have read, bytes; 0 = nothing.
    pub event_cache: u64,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl NodeOptions {
    /// The project's lake.
    ///
    /// # Errors
    /// `file_unwritable`.
    pub fn lake(&self) -> Result<Lake, NodeError> {
        Ok(Lake::open(&self.paths.project, &self.paths.lake)?.with_event_cache(self.event_cache))
    }
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

/// How views are filled.
#[derive(Clone, Copy)]
enum Filling {
    /// With what is new up to that moment.
    WhatIsNew(Micros),
    /// From nothing, in the next generation.
    Again,
}

/// By view, of those that are done.
type Outcomes = BTreeMap<String, JobOutcome>;

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
    /// Freshness target at p95, microseconds.
    pub slo_p95: Micros,
    /// Freshness target at p99, microseconds.
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
    /// Whether what the store holds can be relied on.
    pub store_condition: Condition,
    /// True for a store that is not in this process.
    pub store_is_elsewhere: bool,
    /// The topics that are read.
    pub topics: Vec<TopicStatus>,
    /// By source: how long events took until they were servable.
    pub latencies: BTreeMap<Arc<str>, LatencyHistogram>,
}

/// What is served: one registry snapshot and the generation of each of its views.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) hash: Arc<str>,
    pub(crate) snapshot: u64,
    /// By view name.
    pub(crate) views: BTreeMap<String, ViewHandle>,
}

/// One open node. The only writer of its online store and log.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    registry: Registry,
    store: Arc<dyn OnlineStore>,
    place: StorePlace,
    lake: Lake,
    ingest: Arc<Ingest>,
    serving: FeatureServer,
    frontiers: Arc<NodeFrontiers>,
    topics: Arc<Topics>,
    workers: Arc<Workers>,
    applied: ArcSwap<Applied>,
    /// One job at a time: materialisation, rebuild and reload change the same facts.
    jobs: Arc<tokio::sync::Mutex<()>>,
    /// What is known of the store's condition.
    condition: Mutex<Condition>,
    /// Looks after a store that is elsewhere.
    keeper: Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// Reads what workers say.
    following: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(following) = self.following.lock().take() {
            following.abort();
        }
    }
}

impl Node {
    /// Opens the project at the registry's head: takes the store's writer lock, replays the log.
    ///
    /// # Errors
    /// `nothing_applied`, `store_locked` (another node runs; the hint says where), or what a part says.
    pub async fn open(options: NodeOptions) -> Result<Arc<Self>, NodeError> {
        let registry = open_registry(&options.paths.registry)?;
        let opened = store::open(&options).await?;
        let served = ServedStore::new(opened.store, &options.serving);
        let store = served.store();
        let mut must_fill = opened.must_fill;
        let lake = options.lake()?;
        let (applied, ingest) = loop {
            if must_fill {
                store.begin_filling().await?;
            }
            let applied = load_head(&registry, store.as_ref(), options.kafka.workers).await?;
            match open_ingest(&options, &applied, &store, &lake, must_fill).await {
                // It has lost more than the log still has. What was pushed is in the lake.
                Err(error) if !must_fill && !store.is_local() && lacks_log(error.code) => must_fill = true,
                ingest => break (applied, Arc::new(ingest?)),
            }
        };
        let topics = Arc::new(Topics::default());
        let workers = Arc::new(Workers::default());
        let frontiers = Arc::new(NodeFrontiers::new(topics.clone(), workers.clone()));
        frontiers.set_ingest(ingest.clone());
        let serving = FeatureServer::new(
            applied.definitions.clone(),
            applied.hash.clone(),
            applied.views.clone(),
            served,
            frontiers.clone(),
            options.serving.clone(),
        )?;
        let check_interval =
            options.redis.as_ref().map(|redis| Duration::from_millis(redis.check_interval_ms));
        let node = Arc::new(Self {
            options,
            registry,
            store,
            place: opened.place,
            lake,
            ingest,
            serving,
            frontiers,
            topics,
            workers,
            applied: ArcSwap::from_pointee(applied),
            jobs: Arc::default(),
            condition: Mutex::new(if must_fill { Condition::Filling } else { Condition::Whole }),
            keeper: Mutex::new(None),
            following: Mutex::new(None),
        });
        node.take_up_views().await?;
        if node.options.kafka.workers {
            let interval = Duration::from_millis(node.options.kafka.commit_interval_ms);
            let following = tokio::spawn(follow_workers(node.store.clone(), node.workers.clone(), interval));
            *node.following.lock() = Some(following);
        }
        if let Some(interval) = check_interval {
            // Taken before anybody else can: a job waits until the store is filled.
            let filling = if must_fill { Some(node.jobs.clone().lock_owned().await) } else { None };
            if !must_fill {
                node.place.remember()?;
            }
            let keeper = tokio::spawn(keeper::keep(Arc::downgrade(&node), interval, filling));
            *node.keeper.lock() = Some(keeper);
        }
        Ok(node)
    }

    /// Begins to read the topics of the applied sources, and goes on with what is applied later. What goes wrong with a topic
    /// is in its status, and is tried again.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn read_topics(&self) -> Result<(), NodeError> {
        self.topics.begin(read_topic);
        self.follow_topics()
    }

    fn follow_topics(&self) -> Result<(), NodeError> {
        let (definitions, options) = (self.definitions(), &self.options);
        // A reader that ends is waited for.
        tokio::task::block_in_place(|| {
            let (project, kafka) = (&options.paths.project, &options.kafka);
            self.topics.follow(&definitions, project, kafka, &self.ingest, &options.clock)
        })
    }

    /// The definitions served.
    pub fn definitions(&self) -> Arc<Definitions> {
        self.applied.load().definitions.clone()
    }

    /// Hash of the definitions served.
    pub fn definition_hash(&self) -> Arc<str> {
        self.applied.load().hash.clone()
    }

    /// Number of the registry snapshot served.
    pub fn snapshot(&self) -> u64 {
        self.applied.load().snapshot
    }

    /// Answers feature requests.
    pub fn serving(&self) -> &FeatureServer {
        &self.serving
    }

    /// Takes pushes.
    pub fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// What is applied.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The history.
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// The online store.
    pub fn store(&self) -> &Arc<dyn OnlineStore> {
        &self.store
    }

    /// Tells other processes where this node's server listens, so that they ask it instead of opening the project.
    ///
    /// # Errors
    /// When the note can't be written beside the store's lock.
    pub fn announce(&self, address: &str) -> Result<(), NodeError> {
        self.place.announce(address)
    }

    /// How it was opened.
    pub fn options(&self) -> &NodeOptions {
        &self.options
    }

    /// How far a view (`name@version`) has come.
    pub fn frontier(&self, view_id: &str) -> springhouse_serving::ViewFrontier {
        springhouse_serving::Frontiers::of(self.frontiers.as_ref(), view_id)
    }

    /// What is known of the store's condition; a store elsewhere is asked about once a second.
    pub fn store_condition(&self) -> Condition {
        self.condition.lock().clone()
    }

    pub(crate) fn set_store_condition(&self, condition: Condition) {
        *self.condition.lock() = condition;
    }

    /// From which offset of the log a view's stream feeds it.
    pub(crate) fn stream_start(&self, view_id: &str) -> Option<i64> {
        self.frontiers.progress(view_id).and_then(|progress| progress.stream_start)
    }

    /// The views whose streams workers write.
    pub fn shared_views(&self) -> Vec<ViewHandle> {
        self.applied.load().views.values().filter(|view| view.is_shared).cloned().collect()
    }

    /// Takes up what workers say now, instead of when it is time.
    ///
    /// # Errors
    /// What the store says.
    pub async fn look_at_workers(&self) -> Result<(), NodeError> {
        self.workers.look(self.store.as_ref()).await
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    pub(crate) fn jobs(&self) -> &tokio::sync::Mutex<()> {
        &self.jobs
    }

    pub(crate) fn place(&self) -> &StorePlace {
        &self.place
    }

    pub(crate) fn applied(&self) -> Arc<Applied> {
        self.applied.load_full()
    }

    /// Takes up the registry's head: new definitions, new views, without losing a push or a request.
    ///
    /// # Errors
    /// What the registry, ingestion or serving says; the old definitions then stay in force.
    pub async fn reload(&self) -> Result<u64, NodeError> {
        let _job = self.jobs.lock().await;
        let applied = self.load_head().await?;
        let snapshot = applied.snapshot;
        self.switch_to(applied).await?;
        Ok(snapshot)
    }

    /// Loads what is new in the history of the named views (all when None), up to `until` (now when None). A store elsewhere
    /// that is away is waited for (for two minutes); what an outcome counts is then of the last attempt at its view.
    ///
    /// # Errors
    /// `unknown_view`, or what the lake or the store says. Views done before stay done.
    pub async fn materialize(
        &self,
        views: Option<&[String]>,
        until: Option<Micros>,
        progress: &dyn Progress,
    ) -> Result<Vec<JobOutcome>, NodeError> {
        let until = until.unwrap_or_else(|| self.ingest.read_now());
        self.fill(views, Filling::WhatIsNew(until), progress).await
    }

    /// Builds a new generation of the named views (all when None) from history and switches when it is complete. A store
    /// that is away is waited for as by [`Self::materialize`].
    ///
    /// # Errors
    /// `unknown_view`, or what the lake or the store says; the old generation then stays in service.
    pub async fn rebuild(
        &self,
        views: Option<&[String]>,
        progress: &dyn Progress,
    ) -> Result<Vec<JobOutcome>, NodeError> {
        self.fill(views, Filling::Again, progress).await
    }

    /// Fills the named views, and again those that are not done when the store was away. The jobs' lock is free in between:
    /// what the store has lost meanwhile, the keeper brings back.
    async fn fill(
        &self,
        views: Option<&[String]>,
        filling: Filling,
        progress: &dyn Progress,
    ) -> Result<Vec<JobOutcome>, NodeError> {
        let mut outcomes = Outcomes::new();
        let mut patience = Patience::new(self.store.is_local());
        loop {
            match self.fill_rest(views, filling, &mut outcomes, progress).await {
                Ok(names) => return Ok(names.iter().filter_map(|name| outcomes.remove(name)).collect()),
                Err(error) => patience.wait_after(error, progress).await?,
            }
        }
    }

    /// One attempt at those that have no outcome yet; the names of all.
    async fn fill_rest(
        &self,
        views: Option<&[String]>,
        filling: Filling,
        outcomes: &mut Outcomes,
        progress: &dyn Progress,
    ) -> Result<Vec<String>, NodeError> {
        let _job = self.jobs.lock().await;
        let names = chosen_views(&self.definitions(), views)?;
        let left: Vec<String> = names.iter().filter(|name| !outcomes.contains_key(*name)).cloned().collect();
        match filling {
            Filling::WhatIsNew(until) => self.materialize_each(&left, until, outcomes, progress).await?,
            Filling::Again => {
                let until = self.ingest.read_now();
                self.rebuild_each(&left, until, outcomes, progress).await?;
            }
        }
        Ok(names)
    }

    async fn rebuild_each(
        &self,
        names: &[String],
        until: Micros,
        outcomes: &mut Outcomes,
        progress: &dyn Progress,
    ) -> Result<(), NodeError> {
        for name in names {
            let applied = self.applied();
            let view = &applied.definitions.feature_views[name];
            let outcome = self.rebuild_view(view, &applied.views[name], until, progress).await?;
            outcomes.insert(name.clone(), outcome);
        }
        Ok(())
    }

    async fn materialize_each(
        &self,
        names: &[String],
        until: Micros,
        outcomes: &mut Outcomes,
        progress: &dyn Progress,
    ) -> Result<(), NodeError> {
        let applied = self.applied();
        self.remember_history(&applied, names.iter().map(|name| &applied.definitions.feature_views[name]))
            .await?;
        let shown = AtomicUsize::new(0);
        let load = |(number, name): (usize, &String)| {
            let handle = &applied.views[name];
            let (applied, shown) = (&applied, &shown);
            async move {
                let end = self.frontiers.progress(&handle.id).and_then(|p| p.stream_start);
                let progress = InTurn { progress, number, shown };
                let loaded = self.load(applied, handle, until, end, VIEWS_AT_ONCE, &progress).await;
                shown.fetch_add(1, Ordering::Relaxed);
                loaded
            }
        };
        let mut loads = stream::iter(names.iter().enumerate()).map(load).buffered(VIEWS_AT_ONCE as usize);
        let mut changed = Vec::new();
        for name in names {
            let Some(loaded) = loads.next().await else { break };
            let mut outcome = loaded?;
            match outcome.must_rebuild {
                true => changed.push(name.clone()),
                false => {
                    outcomes.insert(name.clone(), job_outcome(&applied.views[name], &mut outcome, false));
                }
            }
        }
        drop(loads);
        self.rebuild_each(&changed, until, outcomes, progress).await
    }

    /// Reads up to `entities_per_view` entities of each named view online and recomputes them from history at the same
    /// moment and cut.
    ///
    /// # Errors
    /// What the store or the lake says.
    pub async fn verify(
        &self,
        views: Option<&[String]>,
        entities_per_view: usize,
    ) -> Result<VerifyOutcome, NodeError> {
        let names = chosen_views(&self.definitions(), views)?;
        verify::verify(self, &names, entities_per_view).await
    }

    /// The node at a glance.
    ///
    /// # Errors
    /// What the store says.
    pub async fn status(&self) -> Result<NodeStatus, NodeError> {
        let applied = self.applied();
        let now = self.ingest.read_now();
        let line = |view: &FeatureView| {
            let handle = &applied.views[&view.name];
            let frontier =
                Some(self.frontier(&handle.id).frontier).filter(|frontier| *frontier != Micros::MIN);
            ViewLine {
                view: view.id(),
                entity: view.entity.clone(),
                source: view.source.clone(),
                generation: handle.generation,
                frontier,
                age: frontier.map(|frontier| (now - frontier).max(0)),
                slo_p95: view.slo.p95,
                slo_p99: view.slo.p99,
            }
        };
        Ok(NodeStatus {
            now,
            snapshot: applied.snapshot,
            definition_hash: applied.hash.to_string(),
            views: applied.definitions.feature_views.values().map(line).collect(),
            positions: self.ingest.positions(),
            store: self.store.statistics(),
            store_condition: self.store_condition(),
            store_is_elsewhere: !self.store.is_local(),
            topics: self.topics.status().into_iter().chain(self.workers.status(now)).collect(),
            latencies: self.workers.add_latencies(self.ingest.latencies()),
        })
    }

    /// Flushes, checkpoints, stops. Safe to call twice.
    ///
    /// # Errors
    /// What the flush or the checkpoint says.
    pub async fn shutdown(&self) -> Result<(), NodeError> {
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper {
            keeper.abort();
            // It stops where it waits for something; while it reads history that takes a moment, and it must not go on in a
            // runtime that ends.
            drop(tokio::time::timeout(KEEPER_END_MAX, keeper).await);
        }
        let topics = self.topics.clone();
        // Its end is that of a thread; nothing else can fail.
        drop(tokio::task::spawn_blocking(move || topics.end()).await);
        self.ingest.shutdown().await?;
        self.store.checkpoint().await?;
        Ok(())
    }

    /// Gives every view without one its stream start, and tells ingestion and serving what to feed and read.
    pub(crate) async fn take_up_views(&self) -> Result<(), NodeError> {
        let applied = self.applied();
        let now = self.ingest.read_now();
        let lanes = self.store.lanes().await?;
        let is_new = |view: &&FeatureView| {
            let progress = view_progress(&applied, &lanes, view, &applied.views[&view.name]);
            applied.definitions.sources[&view.source].is_stream()
                && progress.stream_start.is_none()
                && !progress.is_shared
        };
        let new: Vec<&FeatureView> = applied.definitions.feature_views.values().filter(is_new).collect();
        if let Err(error) = self.remember_history(&applied, new.iter().copied()).await {
            // Serving must not wait for a history that can't be read; materialising it will say so again.
            tracing::warn!(%error, "a stream's history can't be read yet: pushed events of it would count twice");
        }
        for view in new {
            // A new view starts where the log ends now; ingestion brings it the rows from there on.
            let end = self.ingest.positions().log_end;
            note_stream_start(self.store.as_ref(), &applied.views[&view.name], end, now).await?;
        }
        self.begin_builds(&applied).await?;
        self.store.checkpoint().await?;
        let lanes = self.store.lanes().await?;
        self.ingest.reload(applied.definitions.clone(), feeds(&applied, &lanes)).await?;
        self.publish_progress(&applied).await
    }

    pub(crate) async fn load_head(&self) -> Result<Applied, NodeError> {
        load_head(&self.registry, self.store.as_ref(), self.options.kafka.workers).await
    }

    pub(crate) async fn switch_to(&self, applied: Applied) -> Result<(), NodeError> {
        self.applied.store(Arc::new(applied));
        self.take_up_views().await?;
        let applied = self.applied();
        self.serving.reload(applied.definitions.clone(), applied.hash.clone(), applied.views.clone())?;
        if self.topics.are_read() { self.follow_topics() } else { Ok(()) }
    }

    /// Lets workers write the views of topics: what the lake has of a topic now is a new view's history, they bring the rest.
    async fn begin_builds(&self, applied: &Applied) -> Result<(), NodeError> {
        let mut sources = HashSet::new();
        for view in applied.definitions.feature_views.values() {
            let handle = &applied.views[&view.name];
            if handle.is_shared {
                let source = &applied.definitions.sources[&view.source];
                let start = self.lake.topic_positions(source).await?.next;
                self.store.begin_build(handle, &start).await?;
                sources.insert(source.name.clone());
            }
        }
        self.ingest.leave_to_workers(sources);
        Ok(())
    }

    async fn publish_progress(&self, applied: &Applied) -> Result<(), NodeError> {
        let lanes = self.store.lanes().await?;
        let shared = match applied.views.values().any(|view| view.is_shared) {
            true => Some(self.store.shared_notes().await?),
            false => None,
        };
        let of = |view: &FeatureView| {
            let handle = &applied.views[&view.name];
            let mut progress = view_progress(applied, &lanes, view, handle);
            let build = shared.as_ref().and_then(|shared| shared.builds.get(&build_name(handle)));
            if build.is_some_and(|build| build.start.is_empty()) {
                progress.stream_only = applied.definitions.sources[&view.source].table().is_none();
            }
            (handle.id.clone(), progress)
        };
        self.workers.set_views(&applied.definitions, &applied.views);
        let views: Named<_> = applied.definitions.feature_views.values().map(of).collect();
        let fed_by = |view: &FeatureView| {
            let source = &applied.definitions.sources[&view.source];
            let topic = source.kafka.as_ref().map(|kafka| kafka.topic.clone()).or(source.ndjson.clone())?;
            Some((applied.views[&view.name].id.clone(), (source.name.clone(), topic)))
        };
        let fed_by = applied.definitions.feature_views.values().filter_map(fed_by).collect();
        self.frontiers.set_views(views, fed_by);
        Ok(())
    }

    /// Makes ingestion know the events that lie in the streams' history tables, before they can be pushed again.
    async fn remember_history(
        &self,
        applied: &Applied,
        views: impl Iterator<Item = &FeatureView>,
    ) -> Result<(), NodeError> {
        let sources: std::collections::BTreeSet<&String> = views.map(|view| &view.source).collect();
        for source in sources.into_iter().map(|name| &applied.definitions.sources[name]) {
            if source.is_stream() && source.table().is_some() && source.event_id.is_some() {
                let ids = self.lake.history_event_ids(source).await?;
                self.ingest.remember_ids(&source.name, &ids)?;
            }
        }
        Ok(())
    }

    /// One materialisation run into one generation; `at_once` runs share the memory budget.
    pub(crate) async fn load(
        &self,
        applied: &Applied,
        handle: &ViewHandle,
        until: Micros,
        stream_end: Option<i64>,
        at_once: u64,
        progress: &dyn Progress,
    ) -> Result<springhouse_lake::MaterializeOutcome, NodeError> {
        if let Some(end) = stream_end.filter(|end| *end > 0) {
            // Rows below the view's stream start are read from the lake: they must be there.
            if self.ingest.positions().flushed_end < end {
                self.ingest.flush().await?;
            }
        }
        let previous = self.store.view_status(handle).await?.map(|status| status.note);
        let stream_positions = match handle.is_shared {
            true => {
                let mut shared = self.store.shared_notes().await?;
                let build = shared.builds.remove(&build_name(handle));
                Some(build.map(|build| build.start).unwrap_or_default())
            }
            false => None,
        };
        let request = MaterializeRequest {
            definitions: &applied.definitions,
            view: handle.clone(),
            until,
            stream_end,
            stream_positions: stream_positions.as_ref(),
            previous,
            memory_budget: self.options.memory_budget / at_once,
        };
        let outcome = self.lake.materialize(&request, &self.store, progress).await?;
        if !outcome.must_rebuild {
            note_materialized(self.store.as_ref(), handle, until).await?;
            self.publish_progress(&self.applied()).await?;
        }
        Ok(outcome)
    }

    /// Fills the next generation and switches readers to it; the one before the present one is dropped.
    async fn rebuild_view(
        &self,
        view: &FeatureView,
        current: &ViewHandle,
        until: Micros,
        progress: &dyn Progress,
    ) -> Result<JobOutcome, NodeError> {
        let applied = self.applied();
        let store = self.store.as_ref();
        let next = ViewHandle { generation: current.generation + 1, ..current.clone() };
        // What an interrupted rebuild left behind.
        store.drop_generation(&next.id, next.generation).await?;
        forget(store, &next).await?;
        let source = &applied.definitions.sources[&view.source];
        let mut stream_end = None;
        if next.is_shared {
            let start = self.lake.topic_positions(source).await?.next;
            store.begin_build(&next, &start).await?;
        } else if source.is_stream() {
            stream_end = Some(self.feed_also(&applied, &view.source, &next).await?);
        }
        let mut outcome = self.load(&applied, &next, until, stream_end, 1, progress).await?;
        if next.is_shared {
            self.workers.wait_until_level(&view.source, current, &next).await?;
        }
        store.checkpoint().await?;
        store.activate_generation(&next.id, next.generation).await?;
        let mut views = applied.views.clone();
        views.insert(view.name.clone(), next.clone());
        let switched = Applied {
            definitions: applied.definitions.clone(),
            hash: applied.hash.clone(),
            snapshot: applied.snapshot,
            views,
        };
        self.switch_to(switched).await?;
        store.drop_generation(&current.id, current.generation).await?;
        forget(store, current).await?;
        Ok(job_outcome(&next, &mut outcome, true))
    }

    /// Feeds a generation under construction beside the served ones; returns the offset from which it is fed.
    async fn feed_also(&self, applied: &Applied, source: &str, next: &ViewHandle) -> Result<i64, NodeError> {
        let lanes = self.store.lanes().await?;
        let mut all = feeds(applied, &lanes);
        let start = self.ingest.positions().log_end;
        all.entry(source.to_owned()).or_default().push(ViewFeed { handle: next.clone(), start });
        note_stream_start(self.store.as_ref(), next, start, self.ingest.read_now()).await?;
        self.store.checkpoint().await?;
        self.ingest.reload(applied.definitions.clone(), all).await?;
        Ok(start)
    }
}

/// Longest wait for the end of what looks after the store.
const KEEPER_END_MAX: Duration = Duration::from_secs(5);

/// Views that are loaded at once: while one is written, the history of the next is read.
const VIEWS_AT_ONCE: u64 = 2;

/// The progress of one of several views: told when the views before it are done.
struct InTurn<'a> {
    progress: &'a dyn Progress,
    number: usize,
    shown: &'a AtomicUsize,
}

impl Progress for InTurn<'_> {
    fn report(&self, stage: &'static str, done: u64, total: u64) {
        if self.shown.load(Ordering::Relaxed) == self.number {
            self.progress.report(stage, done, total);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.progress.is_cancelled()
    }
}

/// True when the log and what the store says of it don't fit, so that only the lake can bring what the store lacks.
pub(crate) fn lacks_log(code: &str) -> bool {
    matches!(code, "log_gap" | "log_behind")
}

async fn open_ingest(
    options: &NodeOptions,
    applied: &Applied,
    store: &Arc<dyn OnlineStore>,
    lake: &Lake,
    is_filling: bool,
) -> Result<Ingest, NodeError> {
    let start = if is_filling { StartAt::End } else { StartAt::Lane };
    let feeding = Feeding { views: feeds(applied, &store.lanes().await?), start };
    Ok(Ingest::open(
        &options.paths.log,
        options.push.clone(),
        applied.definitions.clone(),
        feeding,
        store.clone(),
        lake.clone(),
        options.clock.clone(),
    )
    .await?)
}

pub(crate) type Feeds = BTreeMap<String, Vec<ViewFeed>>;

pub(crate) fn feeds(applied: &Applied, lanes: &BTreeMap<Arc<str>, i64>) -> Feeds {
    let mut feeds = Feeds::new();
    for view in applied.definitions.feature_views.values() {
        let handle = &applied.views[&view.name];
        if let Some(start) = view_progress(applied, lanes, view, handle).stream_start {
            let feed = ViewFeed { handle: handle.clone(), start };
            feeds.entry(view.source.clone()).or_default().push(feed);
        }
    }
    feeds
}

fn view_progress(
    applied: &Applied,
    lanes: &BTreeMap<Arc<str>, i64>,
    view: &FeatureView,
    handle: &ViewHandle,
) -> ViewProgress {
    let source = &applied.definitions.sources[&view.source];
    read_progress(lanes, handle, source.is_stream(), source.table().is_some())
}

fn job_outcome(
    handle: &ViewHandle,
    outcome: &mut springhouse_lake::MaterializeOutcome,
    rebuilt: bool,
) -> JobOutcome {
    JobOutcome {
        view: handle.id.to_string(),
        rows: outcome.rows,
        entities: outcome.entities,
        seconds: outcome.seconds,
        generation: handle.generation,
        rebuilt,
    }
}

/// The named views, or all.
fn chosen_views(definitions: &Definitions, views: Option<&[String]>) -> Result<Vec<String>, NodeError> {
    let Some(names) = views else {
        return Ok(definitions.feature_views.keys().cloned().collect());
    };
    for name in names {
        if !definitions.feature_views.contains_key(name) {
            let known: Vec<&str> = definitions.feature_views.keys().map(String::as_str).collect();
            return Err(NodeError::new(
                "unknown_view",
                format!("there is no feature view `{name}`"),
                format!("the applied views are: {}", known.join(", ")),
            ));
        }
    }
    let mut seen = HashSet::new();
    Ok(names.iter().filter(|name| seen.insert(*name)).cloned().collect())
}

/// The registry in a folder, which is made when it is not there.
///
/// # Errors
/// `registry_failed` when the folder can't be made or read.
pub fn open_registry(folder: &Path) -> Result<Registry, NodeError> {
    std::fs::create_dir_all(folder).map_err(|error| {
        NodeError::new(
            "registry_failed",
            format!("the registry folder {} can't be made: {error}", folder.display()),
            "check that the folder may be written",
        )
    })?;
    Ok(Registry::local(folder)?)
}

pub(crate) fn nothing_applied() -> NodeError {
    NodeError::new(
        "nothing_applied",
        "nothing has been applied to this project yet",
        "run `springhouse apply`",
    )
}

pub(crate) async fn load_head(
    registry: &Registry,
    store: &dyn OnlineStore,
    workers: bool,
) -> Result<Applied, NodeError> {
    let head = registry.head().await?.ok_or_else(nothing_applied)?;
    let definitions = Arc::new(head.definitions);
    let mut views = BTreeMap::new();
    for view in definitions.feature_views.values() {
        let source = definitions.sources.get(&view.source).ok_or_else(|| {
            NodeError::new(
                "registry_damaged",
                format!("view `{}` names source `{}`, which is not in the snapshot", view.name, view.source),
                "apply the definitions again",
            )
        })?;
        let plan = plan_of(source, view)?;
        let id: Arc<str> = view.id().into();
        let generation = store.active_generation(&id).await?;
        views.insert(
            view.name.clone(),
            ViewHandle { id, generation, plan: Arc::new(plan), is_shared: workers && source.kafka.is_some() },
        );
    }
    Ok(Applied { definitions, hash: head.definition_hash.as_str().into(), snapshot: head.number, views })
}

/// What the states of a view mean.
pub(crate) fn plan_of(source: &Source, view: &FeatureView) -> Result<ViewPlan, NodeError> {
    let columns: HashMap<String, _> = source
        .schema()
        .into_iter()
        .chain(view.derived.iter().map(|d| (d.name.clone(), d.value_type.clone())))
        .collect();
    ViewPlan::compile(view, &|name| columns.get(name).cloned()).map_err(|error| {
        NodeError::new("view_not_planned", error.to_string(), "correct the definition and apply again")
    })
}
