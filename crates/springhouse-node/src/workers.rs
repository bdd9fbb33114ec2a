//! What workers say of their work, for the process that serves what they write.

use crate::NodeError;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use springhouse_core::{Definitions, Micros};
use springhouse_ingest::LatencyHistogram;
use springhouse_kafka::{PartitionStatus, TopicStatus, WorkerError, WorkerNote};
use springhouse_online::{OnlineStore, Positions, SharedNotes, ViewHandle, build_name};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A rebuild gives up when workers have not come nearer for this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);

/// How long a worker's word counts: without a newer one nobody is known to read its partitions.
const WORD_LASTS: Micros = 15 * springhouse_core::time::SECOND;

/// Errors of a source that are remembered as logged.
const LOGGED_MAX: usize = 20;

/// By source, then by partition.
type Notes = BTreeMap<String, BTreeMap<i32, WorkerNote>>;

/// A view that workers write.
#[derive(Debug)]
struct Shared {
    source: String,
    build: Arc<str>,
}

/// What was said at one moment.
#[derive(Debug, Default)]
struct Said {
    notes: Notes,
    /// By source, of the workers that have one: when, and what it is.
    errors: BTreeMap<String, Vec<WorkerError>>,
    /// By build, and partition: what its rows have, at least.
    reached: BTreeMap<Arc<str>, Positions>,
}

/// What was said last.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    said: ArcSwap<Said>,
    /// By view (`NAME@VERSION`).
    views: ArcSwap<HashMap<Arc<str>, Shared>>,
    /// By source, its topic.
    topics: ArcSwap<BTreeMap<String, String>>,
    /// By build, its frontier when every partition was last read.
    whole: Mutex<HashMap<String, Micros>>,
    /// By source, the errors that were logged.
    logged: Mutex<HashMap<String, BTreeSet<String>>>,
}

/// Reads what workers say, again and again.
pub(crate) async fn follow_workers(store: Arc<dyn OnlineStore>, workers: Arc<Workers>, interval: Duration) {
    let mut is_failing = false;
    loop {
        match store.shared_notes().await {
            Ok(shared) => {
                workers.hear(shared);
                is_failing = false;
            }
            // Whoever reads rows sees it too; what was said before stays, and ages.
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "what the workers say can't be read");
                }
            }
        }
        tokio::time::sleep(interval).await;
    }
}

impl Workers {
    pub(crate) fn set_views(&self, definitions: &Definitions, views: &BTreeMap<String, ViewHandle>) {
        let (mut shared, mut topics) = (HashMap::new(), BTreeMap::new());
        for view in definitions.feature_views.values() {
            let handle = &views[&view.name];
            let Some(kafka) = definitions.sources[&view.source].kafka.as_ref().filter(|_| handle.is_shared)
            else {
                continue;
            };
            topics.insert(view.source.clone(), kafka.topic.clone());
            let of_view = Shared { source: view.source.clone(), build: build_name(handle) };
            shared.insert(handle.id.clone(), of_view);
        }
        self.views.store(Arc::new(shared));
        self.topics.store(Arc::new(topics));
    }

    /// Reads what workers say now.
    pub(crate) async fn look(&self, store: &dyn OnlineStore) -> Result<(), NodeError> {
        self.hear(store.shared_notes().await?);
        Ok(())
    }

    /// By partition, the offset below which everything of a source's topic is in the rows.
    pub(crate) fn positions(&self, source: &str) -> BTreeMap<i32, i64> {
        let said = self.said.load();
        let of_source = said.notes.get(source).into_iter().flatten();
        of_source.map(|(partition, note)| (*partition, note.position)).collect()
    }

    fn hear(&self, shared: SharedNotes) {
        let mut said = Said::default();
        for (name, text) in &shared.notes {
            let Some((source, part)) = name.rsplit_once('/') else { continue };
            // A note of another version of the program says nothing to this one: as if it were not there.
            if let Some(source) = source.strip_prefix("error ") {
                said.errors
                    .entry(source.to_owned())
                    .or_default()
                    .extend(serde_json::from_str::<WorkerError>(text));
            } else if let (Ok(partition), Ok(note)) = (part.parse(), serde_json::from_str::<WorkerNote>(text))
            {
                said.notes.entry(source.to_owned()).or_default().insert(partition, note);
            }
        }
        self.log_errors(&said);
        said.reached = shared.positions;
        for (build, has) in shared.builds {
            let reached = said.reached.entry(build).or_default();
            for (partition, start) in has.start {
                let position = reached.entry(partition).or_insert(start);
                *position = (*position).max(start);
            }
        }
        self.said.store(Arc::new(said));
    }

    /// Writes to this process's log what workers say is wrong, once.
    fn log_errors(&self, said: &Said) {
        let mut logged = self.logged.lock();
        for (source, errors) in &said.errors {
            let Some(newest) = errors.iter().max_by_key(|error| error.at) else { continue };
            let of_source = logged.entry(source.clone()).or_default();
            if of_source.len() >= LOGGED_MAX {
                of_source.clear();
            }
            if of_source.insert(newest.error.clone()) {
                tracing::warn!(source, error = newest.error, "a worker does not get on");
            }
        }
        // What comes again after it was over is told again.
        logged.retain(|source, _| said.errors.contains_key(source));
    }

    /// Everything that was visible before this moment is in the rows of the view.
    pub(crate) fn frontier(&self, view_id: &str) -> Micros {
        let views = self.views.load();
        views.get(view_id).map_or(Micros::MIN, |view| self.build_frontier(&view.source, &view.build))
    }

    fn build_frontier(&self, source: &str, build: &str) -> Micros {
        let said = self.said.load();
        let Some(notes) = said.notes.get(source) else { return Micros::MIN };
        let reached = |partition: &i32| said.reached.get(build)?.get(partition).copied();
        let of_partition = |(partition, note): (&i32, &WorkerNote)| {
            let is_level = note.builds.iter().any(|name| name == build)
                || reached(partition).is_some_and(|reached| reached >= note.position);
            if is_level { note.frontier } else { Micros::MIN }
        };
        let frontier = notes.iter().map(of_partition).min().unwrap_or(Micros::MIN);
        let partitions = notes.values().map(|note| note.partitions).max().unwrap_or(0);
        let mut whole = self.whole.lock();
        if notes.len() >= partitions {
            whole.insert(build.to_owned(), frontier);
            return frontier;
        }
        // A topic that has grown: until somebody reads the new partition, everything is as old as when that was last not so.
        whole.get(build).map_or(Micros::MIN, |whole| frontier.min(*whole))
    }

    /// Returns when the rows of a build under construction are as fresh as those of the one that is served.
    pub(crate) async fn wait_until_level(
        &self,
        source: &str,
        served: &ViewHandle,
        next: &ViewHandle,
    ) -> Result<(), NodeError> {
        let (served, next) = (build_name(served), build_name(next));
        let wanted = self.build_frontier(source, &served);
        let (mut best, mut since) = (Micros::MIN, Instant::now());
        loop {
            let reached = self.build_frontier(source, &next);
            if reached >= wanted {
                return Ok(());
            }
            if reached > best {
                (best, since) = (reached, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                return Err(NodeError::new(
                    "workers_away",
                    format!("no worker brings `{next}` up to date; `{served}` stays in service"),
                    "start `springhouse ingest`, and rebuild again",
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How far the topics are that workers read.
    pub(crate) fn status(&self, now: Micros) -> Vec<TopicStatus> {
        let (said, topics) = (self.said.load(), self.topics.load());
        let of_topic = |(source, topic): (&String, &String)| {
            let notes = said.notes.get(source);
            let partition = |(number, note): (&i32, &WorkerNote)| PartitionStatus {
                partition: *number,
                position: note.position,
                end: note.end,
                newest: note.newest,
                caught_up_at: note.caught_up_at,
                frontier: note.frontier,
            };
            // Of each worker the newest word, whichever partition it was about.
            let by_worker = notes.map(latest_by_worker).unwrap_or_default();
            let sum = |what: fn(&WorkerNote) -> u64| by_worker.values().map(|note| what(note)).sum();
            let partitions: Vec<PartitionStatus> = notes.into_iter().flatten().map(partition).collect();
            let expected = by_worker.values().map(|note| note.partitions).max().unwrap_or(1);
            let is_new = |at: Micros| at > now.saturating_sub(WORD_LASTS);
            let errors = said.errors.get(source).into_iter().flatten();
            let error = errors.filter(|error| is_new(error.at)).map(|error| error.error.clone()).next();
            let silent =
                notes.into_iter().flatten().find(|(_, note)| !is_new(note.at)).map(|(partition, note)| {
                    format!(
                        "worker `{}`, which read partition {partition}, says nothing any more",
                        note.worker
                    )
                });
            let missing = (partitions.len() < expected.max(1))
                .then(|| "not every partition is read; start `springhouse ingest`".to_owned());
            TopicStatus {
                source: source.clone(),
                topic: topic.clone(),
                frontier: match missing {
                    Some(_) => Micros::MIN,
                    None => partitions.iter().map(|p| p.frontier).min().unwrap_or(Micros::MIN),
                },
                partitions,
                // Begun with a zero: the sum of nothing is a negative one.
                rate: by_worker.values().fold(0.0, |rate, note| rate + note.rate),
                messages: sum(|note| note.messages),
                tombstones: sum(|note| note.tombstones),
                lost: sum(|note| note.lost),
                error: error
                    .or_else(|| by_worker.values().find_map(|note| note.error.clone()))
                    .or(missing)
                    .or(silent),
            }
        };
        topics.iter().map(of_topic).collect()
    }

    /// Adds how long events took in workers.
    pub(crate) fn add_latencies(
        &self,
        mut all: BTreeMap<Arc<str>, LatencyHistogram>,
    ) -> BTreeMap<Arc<str>, LatencyHistogram> {
        for (source, notes) in self.said.load().notes.iter() {
            let histogram = all.entry(source.as_str().into()).or_default();
            for note in latest_by_worker(notes).values() {
                histogram.add_counts(&note.latencies, note.latency_sum);
            }
        }
        all
    }
}

fn latest_by_worker(notes: &BTreeMap<i32, WorkerNote>) -> BTreeMap<&str, &WorkerNote> {
    let mut latest: BTreeMap<&str, &WorkerNote> = BTreeMap::new();
    for note in notes.values() {
        let known = latest.entry(&note.worker).or_insert(note);
        if note.at > known.at {
            *known = note;
        }
    }
    latest
}
