//! One of the processes that read a project's topics together (`springhouse ingest`): for each source with a topic a share of
//! it, for as long as what it began with holds.

use crate::node::{nothing_applied, plan_of};
use crate::{NodeError, NodeOptions, open_registry};
use springhouse_core::definition::Source;
use springhouse_core::{Clock, Definitions};
use springhouse_ingest::{PushSettings, TopicWorker, fed_builds};
use springhouse_kafka::{KafkaSettings, SourceReader, Work, WorkerError, error_name, work_topic};
use springhouse_lake::Lake;
use springhouse_online::{Builds, SharedRows, ViewHandle, build_name};
use springhouse_online_redis::{RedisSettings, RedisShared};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it looks whether what it began with still holds.
const LOOK: Duration = Duration::from_millis(500);
/// A reading that went on for this long has begun well.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// Longest wait before something that failed is tried again.
const RETRY_LONGEST: Duration = Duration::from_secs(4);

/// A source that is read, and what it was begun with.
struct Reading {
    reader: SourceReader,
    begun_with: String,
    begun_at: Instant,
}

/// A source whose reading has ended by itself.
struct Failing {
    times: u32,
    /// When it is begun again.
    again_at: Instant,
    /// What is wrong.
    error: String,
}

struct Worker {
    name: String,
    redis: RedisSettings,
    kafka: KafkaSettings,
    push: PushSettings,
    lake: Lake,
    clock: Arc<dyn Clock>,
    /// Looks at the store; every source has one of its own to write with.
    watch: RedisShared,
    readings: BTreeMap<String, Reading>,
    failing: BTreeMap<String, Failing>,
    /// By name of an error, whether one is told. Of what is not in here a worker of this name may have said something before.
    told: BTreeMap<String, bool>,
}

/// Reads a share of every topic until `stop` is done. Several processes of one project may do so at once; `name` tells them apart
/// in what they say.
///
/// # Errors
/// `wrong_settings` without `kafka.workers`; that the registry or the lake can't be opened. What goes wrong later is in the log
/// and the status, and is tried again.
pub async fn work(
    options: NodeOptions,
    name: String,
    stop: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let (Some(redis), true) = (options.redis.clone(), options.kafka.workers) else {
        return Err(NodeError::new(
            "wrong_settings",
            "this project's topics are read by `springhouse serve`, not by workers",
            "set `kafka: {workers: true}` and `store: {kind: redis}` in springhouse.yaml, and start `springhouse serve` again",
        ));
    };
    let registry = open_registry(&options.paths.registry)?;
    registry.head().await?.ok_or_else(nothing_applied)?;
    let lake = options.lake()?;
    let mut worker = Worker {
        name,
        watch: RedisShared::new(redis.clone())?,
        redis,
        kafka: options.kafka,
        push: options.push,
        lake,
        clock: options.clock,
        readings: BTreeMap::new(),
        failing: BTreeMap::new(),
        told: BTreeMap::new(),
    };
    let mut stop = std::pin::pin!(stop);
    let mut wait = LOOK;
    let mut told = None;
    loop {
        let looked = async {
            let head = registry.head().await?.ok_or_else(nothing_applied)?;
            worker.look(&head.definitions, head.definition_hash.as_str()).await
        };
        wait = match looked.await {
            Ok(()) => {
                told = None;
                LOOK
            }
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::warn!(error = text, hint = error.hint, "waiting");
                }
                told = Some(text);
                (wait * 2).min(RETRY_LONGEST)
            }
        };
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    worker.end(|_| true).await;
    worker.take_back().await;
    Ok(())
}

impl Worker {
    /// Begins to read what is not read, and ends what is read with what no longer holds.
    async fn look(&mut self, definitions: &Definitions, hash: &str) -> Result<(), NodeError> {
        let builds = match self.watch.begin().await {
            Ok(builds) => builds,
            Err(error) if error.kind == springhouse_online::StoreErrorKind::Lost => {
                self.end(|_| true).await;
                return Err(NodeError::new(
                    "store_not_there",
                    "the online store is not there yet, or is being made anew",
                    "start `springhouse serve`, which makes it",
                ));
            }
            // Those that read go on as long as they can.
            Err(error) => return Err(error.into()),
        };
        let identity = self.watch.identity();
        self.tell().await;
        self.note_ended();
        self.end(|reading| reading.reader.has_ended()).await;
        let mut wanted = BTreeMap::new();
        // What is wrong with one source is no reason to read no other.
        let mut first_error = None;
        let mut kept = BTreeSet::new();
        for source in definitions.sources.values().filter(|source| source.kafka.is_some()) {
            match wanted_builds(definitions, source, &builds) {
                Ok((views, names)) => {
                    let begun_with = format!("{identity} {hash} {names:?} {:?}", source.kafka);
                    wanted.insert(source.name.clone(), (source, views, begun_with));
                }
                // Until the server has taken up what was applied, what is read goes on as it was.
                Err(error) if self.readings.contains_key(&source.name) => {
                    kept.insert(source.name.clone());
                    first_error.get_or_insert(error);
                }
                Err(error) => {
                    self.fail(&source.name, error.to_string(), None);
                    first_error.get_or_insert(error);
                }
            }
        }
        self.failing
            .retain(|name, _| definitions.sources.get(name).is_some_and(|source| source.kafka.is_some()));
        self.end_others(&wanted, &kept).await;
        for (name, (source, views, begun_with)) in wanted {
            let is_too_early =
                self.failing.get(&name).is_some_and(|failing| failing.again_at > Instant::now());
            if self.readings.contains_key(&name) || is_too_early {
                continue;
            }
            match self.begin(definitions, source, &views).await {
                Ok(reader) => {
                    let begun_at = Instant::now();
                    self.readings.insert(name, Reading { reader, begun_with, begun_at });
                }
                Err(error) => {
                    self.fail(&name, error.to_string(), None);
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn note_ended(&mut self) {
        let has_ended = |(_, reading): &(&String, &Reading)| reading.reader.has_ended();
        let ended = self.readings.iter().filter(has_ended);
        let ended: Vec<_> = ended
            .map(|(name, reading)| (name.clone(), reading.reader.status().error, reading.begun_at))
            .collect();
        for (name, error, begun_at) in ended {
            self.fail(&name, error.unwrap_or_else(|| "reading has ended".to_owned()), Some(begun_at));
        }
    }

    /// What fails again and again is begun less and less often.
    fn fail(&mut self, source: &str, error: String, begun_at: Option<Instant>) {
        let went_well = begun_at.is_some_and(|begun_at| begun_at.elapsed() >= WELL_AFTER);
        let before = self.failing.remove(source).filter(|_| !went_well);
        let times = before.map_or(0, |before| before.times + 1);
        let wait = (LOOK * 2u32.saturating_pow(times.min(16))).min(RETRY_LONGEST);
        self.failing.insert(source.to_owned(), Failing { times, again_at: Instant::now() + wait, error });
    }

    /// Says what is wrong, and when nothing is any more. Whoever reads nothing of a topic has no other way to.
    async fn tell(&mut self) {
        let mut notes = Vec::new();
        let of_failing = self.failing.iter().map(|(source, failing)| (source, Some(failing.error.clone())));
        let of_reading =
            self.readings.iter().map(|(source, reading)| (source, reading.reader.status().error));
        // Of a source that is read, what its reader says.
        for (source, error) in of_failing.chain(of_reading).collect::<BTreeMap<_, _>>() {
            let name = error_name(source, &self.name);
            match error {
                Some(error) => {
                    let error = WorkerError { at: self.clock.now(), error };
                    self.told.insert(name.clone(), true);
                    // A time and a text can't fail to be written.
                    notes.push((name, serde_json::to_string(&error).unwrap_or_default()));
                }
                None => {
                    if self.told.insert(name.clone(), false) != Some(false) {
                        notes.push((name, String::new()));
                    }
                }
            }
        }
        self.write(notes).await;
    }

    /// Who has stopped on purpose has nothing to complain of.
    async fn take_back(&mut self) {
        let told = std::mem::take(&mut self.told).into_iter().filter(|(_, is_told)| *is_told);
        self.write(told.map(|(name, _)| (name, String::new())).collect()).await;
    }

    async fn write(&self, notes: Vec<(String, String)>) {
        if !notes.is_empty()
            && let Err(error) = self.watch.commit(&[], &notes).await
        {
            tracing::debug!(%error, "what is wrong can't be said");
        }
    }

    async fn begin(
        &self,
        definitions: &Definitions,
        source: &Source,
        views: &[ViewHandle],
    ) -> Result<SourceReader, NodeError> {
        let store = Arc::new(RedisShared::new(self.redis.clone())?);
        let in_store = store.begin().await?;
        let fed = fed_builds(views, &in_store).map_err(outdated)?;
        let identity = store.identity();
        let worker = TopicWorker::new(
            definitions,
            &source.name,
            fed,
            (store, self.lake.clone()),
            self.push.clone(),
            (self.kafka.row_cache_mb as usize) << 20,
            self.clock.clone(),
        )?;
        let group = format!("springhouse-{}-{}", source.name, identity.get(..12).unwrap_or(&identity));
        let work = Work { worker, group, name: self.name.clone() };
        work_topic(source, &self.kafka, work, self.clock.clone()).map_err(|error| {
            let message = format!("no thread to read source `{}`: {error}", source.name);
            NodeError::new("log_io", message, "look at the machine's limits")
        })
    }

    async fn end_others(
        &mut self,
        wanted: &BTreeMap<String, (&Source, Vec<ViewHandle>, String)>,
        kept: &BTreeSet<String>,
    ) {
        let outdated: Vec<String> = self
            .readings
            .iter()
            .filter(|(name, reading)| {
                let is_as_wanted = wanted.get(*name).is_some_and(|(_, _, with)| *with == reading.begun_with);
                !is_as_wanted && !kept.contains(*name)
            })
            .map(|(name, _)| name.clone())
            .collect();
        let ended: Vec<Reading> = outdated.iter().filter_map(|name| self.readings.remove(name)).collect();
        end_all(ended).await;
    }

    async fn end(&mut self, which: impl Fn(&Reading) -> bool) {
        let (ended, kept) =
            std::mem::take(&mut self.readings).into_iter().partition(|(_, reading)| which(reading));
        self.readings = kept;
        let ended: BTreeMap<String, Reading> = ended;
        end_all(ended.into_values().collect()).await;
    }
}

/// The views of a source, and the names of their builds; an error while a view has none.
fn wanted_builds(
    definitions: &Definitions,
    source: &Source,
    builds: &Builds,
) -> Result<(Vec<ViewHandle>, Vec<String>), NodeError> {
    let mut views = Vec::new();
    for view in definitions.feature_views.values().filter(|view| view.source == source.name) {
        let plan = Arc::new(plan_of(source, view)?);
        views.push(ViewHandle { id: view.id().into(), generation: 0, plan, is_shared: true });
    }
    let fed = fed_builds(&views, builds).map_err(outdated)?;
    let is_fed = |view: &&ViewHandle| fed.iter().any(|fed| fed.handle.id == view.id);
    if let Some(view) = views.iter().find(|view| !is_fed(view)) {
        return Err(NodeError::new(
            "view_not_begun",
            format!("view `{}` is not served yet", view.id),
            "start `springhouse serve`, or let it take up what was applied: `springhouse apply` tells it",
        ));
    }
    let names = fed.iter().map(|fed| build_name(&fed.handle).to_string()).collect();
    Ok((views, names))
}

fn outdated(error: springhouse_ingest::WorkError) -> NodeError {
    NodeError::new("view_not_planned", error.to_string(), "apply the definitions that the server has")
}

/// All at once: each finishes what it has fetched.
async fn end_all(readings: Vec<Reading>) {
    if readings.is_empty() {
        return;
    }
    readings.iter().for_each(|reading| reading.reader.stop());
    // Dropping one waits for its thread; nothing else can fail.
    drop(tokio::task::spawn_blocking(move || drop(readings)).await);
}
