//! How far each view's state has come, and what an answer may say about its age.

use crate::NodeError;
use crate::topics::Topics;
use crate::workers::Workers;
use arc_swap::ArcSwap;
use springhouse_core::Micros;
use springhouse_ingest::Ingest;
use springhouse_online::{Lane, OnlineStore, ViewHandle};
use springhouse_serving::{Frontiers, ViewFrontier};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// Durable facts about one generation of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ViewProgress {
    /// For a view of a stream: the live stream brings rows from this log offset on; history brings the others.
    pub(crate) stream_start: Option<i64>,
    /// History is loaded up to this moment; None = not yet.
    pub(crate) materialized_until: Option<Micros>,
    /// True when there is no history to load: the stream alone is the whole truth.
    pub(crate) stream_only: bool,
    /// Its stream is written by workers, who say how far they are.
    pub(crate) is_shared: bool,
}

const STREAM_START: &str = "stream_start";
const MATERIALIZED: &str = "materialized_until";

fn lane_name(what: &str, view: &ViewHandle) -> String {
    format!("{what}/{}/{}", view.id, view.generation)
}

/// Reads a view's progress from the store's lanes.
pub(crate) fn read_progress(
    lanes: &BTreeMap<Arc<str>, i64>,
    view: &ViewHandle,
    is_stream: bool,
    has_table: bool,
) -> ViewProgress {
    let lane = |what: &str| lanes.get(lane_name(what, view).as_str()).copied();
    // Lanes hold offset + 1, because a stored position must grow from "absent".
    let is_fed_here = is_stream && !view.is_shared;
    let stream_start = if is_fed_here { lane(STREAM_START).map(|p| p - 1) } else { None };
    let stream_only = is_fed_here && !has_table && stream_start == Some(0);
    let is_shared = view.is_shared;
    ViewProgress { stream_start, materialized_until: lane(MATERIALIZED), stream_only, is_shared }
}

/// Notes from where on the live stream feeds the view.
pub(crate) async fn note_stream_start(
    store: &dyn OnlineStore,
    view: &ViewHandle,
    offset: i64,
    now: Micros,
) -> Result<(), NodeError> {
    let lane = Lane { name: lane_name(STREAM_START, view).into(), position: offset + 1 };
    store.write(Vec::new(), lane, now).await?;
    Ok(())
}

/// Notes that history is loaded up to `until`.
pub(crate) async fn note_materialized(
    store: &dyn OnlineStore,
    view: &ViewHandle,
    until: Micros,
) -> Result<(), NodeError> {
    let lane = Lane { name: lane_name(MATERIALIZED, view).into(), position: until };
    store.write(Vec::new(), lane, until).await?;
    store.checkpoint().await?;
    Ok(())
}

/// Forgets a generation's lanes.
pub(crate) async fn forget(store: &dyn OnlineStore, view: &ViewHandle) -> Result<(), NodeError> {
    for what in [STREAM_START, MATERIALIZED] {
        store.drop_lanes(&lane_name(what, view)).await?;
    }
    Ok(())
}

/// What is known of views, by id; each answer looks for each of its views.
pub(crate) type Named<T> = HashMap<Arc<str>, T, ahash::RandomState>;

/// Gives serving the present frontier of each view.
#[derive(Debug, Default)]
pub(crate) struct NodeFrontiers {
    /// Set once ingestion has opened (serving answers nothing before).
    ingest: OnceLock<Arc<Ingest>>,
    views: ArcSwap<Named<ViewProgress>>,
    /// The topics that views are fed from, by view: source and topic.
    fed_by: ArcSwap<Named<(String, String)>>,
    topics: Arc<Topics>,
    workers: Arc<Workers>,
}

impl NodeFrontiers {
    pub(crate) fn set_ingest(&self, ingest: Arc<Ingest>) {
        // A second call can't happen: a node opens its ingestion once.
        let _ = self.ingest.set(ingest);
    }

    pub(crate) fn new(topics: Arc<Topics>, workers: Arc<Workers>) -> Self {
        Self { topics, workers, ..Self::default() }
    }

    pub(crate) fn set_views(&self, views: Named<ViewProgress>, fed_by: Named<(String, String)>) {
        self.fed_by.store(Arc::new(fed_by));
        self.views.store(Arc::new(views));
    }

    pub(crate) fn progress(&self, view_id: &str) -> Option<ViewProgress> {
        self.views.load().get(view_id).copied()
    }
}

impl NodeFrontiers {
    /// Up to when a view's topic is applied; none when it has no topic.
    fn topic_frontier(&self, view_id: &str, ingest: &Ingest) -> Option<Micros> {
        let fed_by = self.fed_by.load();
        let (source, topic) = fed_by.get(view_id)?;
        if let Some(reader) = self.topics.reader(source) {
            return Some(reader.frontier());
        }
        // Nobody reads it: what was last applied says how far it came.
        let positions = ingest.topic_positions(source, topic);
        Some(positions.values().map(|position| position.newest).min().unwrap_or(Micros::MIN))
    }
}

impl Frontiers for NodeFrontiers {
    fn of(&self, view_id: &str) -> ViewFrontier {
        let nothing = ViewFrontier { frontier: Micros::MIN, cut: -1 };
        let (Some(progress), Some(ingest)) = (self.progress(view_id), self.ingest.get()) else {
            return nothing;
        };
        if progress.is_shared {
            let complete = progress.stream_only || progress.materialized_until.is_some();
            let frontier = if complete { self.workers.frontier(view_id) } else { Micros::MIN };
            return ViewFrontier { frontier, cut: -1 };
        }
        if progress.stream_start.is_none() {
            return ViewFrontier { frontier: progress.materialized_until.unwrap_or(Micros::MIN), cut: -1 };
        }
        let positions = ingest.positions();
        // Without its history a stream view's numbers are too small: better say "not there yet".
        let complete = progress.stream_only || progress.materialized_until.is_some();
        let frontier = if complete { positions.applied_frontier } else { Micros::MIN };
        let frontier = self.topic_frontier(view_id, ingest).map_or(frontier, |topic| frontier.min(topic));
        ViewFrontier { frontier, cut: positions.applied_end }
    }

    fn now(&self) -> Micros {
        self.ingest.get().map_or(Micros::MIN, |ingest| ingest.read_now())
    }
}
