//! One node's ingestion: its parts, opened, wired and stopped.

use crate::applier::{Applier, Feeds, LOG_LANE, ToApplier};
use crate::dead_letters::{self, RecentLetters};
use crate::dedup::{self, Dedup};
use crate::flusher::{Flusher, blocking};
use crate::latency::LatencyHistogram;
use crate::log::{Log, encode_rows};
use crate::messages::{self, Messages};
use crate::outcome::{
    DeadLetter, IngestPositions, PushError, PushOutcome, PushRequest, PushRows, RowOutcome,
};
use crate::progress::{Permit, Progress};
use crate::settings::PushSettings;
use crate::topics::{PartitionPosition, TopicPositions};
use crate::validate::{CheckedRows, SourceSchema};
use crate::writer::{Submission, ToWriter, Writer};
use crate::{Feeding, ViewFeed};
use parking_lot::{Mutex, RwLock};
use springhouse_core::definition::Definitions;
use springhouse_core::time::SECOND;
use springhouse_core::{Clock, Micros};
use springhouse_lake::Lake;
use springhouse_online::OnlineStore;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Bodies up to this size are checked where they arrive; larger ones beside the async tasks.
const CHECK_INLINE_BYTES_MAX: usize = 256 << 10;

/// The ingestion of one node: owns the log, the applier and the flusher.
///
/// Dropped without [`Self::shutdown`] it stops at once, as after a crash: what was acknowledged is in the log.
pub struct Ingest {
    settings: PushSettings,
    progress: Arc<Progress>,
    dedup: Arc<Mutex<Dedup>>,
    letters: Arc<RecentLetters>,
    positions: Arc<Mutex<TopicPositions>>,
    flusher: Arc<Flusher>,
    schemas: RwLock<Arc<HashMap<String, Known>>>,
    writer: Sender<ToWriter>,
    applier: Sender<ToApplier>,
    of_workers: RwLock<HashSet<String>>,
    closing: AtomicBool,
    /// Writer and applier.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Flusher and compaction.
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

/// A source as pushes see it.
enum Known {
    Stream(Arc<SourceSchema>),
    Table,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("positions", &self.positions()).finish_non_exhaustive()
    }
}

impl Ingest {
    /// Opens the log below `directory`, replays what the online store has not applied, and starts the writer, applier
    /// and flusher on the current tokio runtime. `feeding`: the feeds of each source, and where the store
    /// takes the log up.
    ///
    /// # Errors
    /// `invalid_settings`, `invalid_definition`; `log_locked`, `log_corrupt`, `log_io`; `log_gap` when the store lacks
    /// rows that are in the lake only, `log_behind` when store or lake are ahead of the log; `store_failed`.
    pub async fn open(
        directory: &Path,
        settings: PushSettings,
        definitions: Arc<Definitions>,
        feeding: impl Into<Feeding>,
        store: Arc<dyn OnlineStore>,
        lake: Lake,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PushError> {
        settings.validate()?;
        let feeding: Feeding = feeding.into();
        let schemas = Arc::new(compile(&definitions)?);
        let feeds = Feeds::compile(&definitions, feeding.views)?;
        let lake_end = lake_end(&lake, &definitions).await;
        let start = if Log::exists(directory) {
            0
        } else {
            // A log that was removed begins where store and lake are, else they would take new rows for old ones.
            let lanes = store.lanes().await.map_err(|e| PushError::new("store_failed", e.to_string()))?;
            let applied = lanes.get(LOG_LANE).copied().unwrap_or(0);
            let lake_end = lake_end.as_ref().map_err(Clone::clone)?;
            applied.max(*lake_end)
        };
        let window = (settings.idempotency_window_s as i64).saturating_mul(SECOND);
        let keys_max = settings.idempotency_keys_max;
        let (log_directory, segment_bytes) = (directory.to_owned(), settings.segment_bytes);
        let (opened, dedup, letters, positions) = blocking(move || {
            let mut dedup = Dedup::new(window, keys_max);
            let letters = RecentLetters::default();
            let mut positions = TopicPositions::load(&log_directory)?;
            if let Some(first) = Log::first_offset(&log_directory)? {
                dedup.load(&log_directory, first)?;
            }
            let opened = Log::open(&log_directory, start, segment_bytes, |record| {
                dedup.replay(record);
                positions.replay(record);
                letters.add(&record.source, dead_letters::of_record(record));
            })?;
            Ok::<_, PushError>((opened, dedup, letters, positions))
        })
        .await??;
        match &lake_end {
            Ok(end) if *end > opened.log.end() => {
                return Err(PushError::new(
                    "log_behind",
                    format!("the lake holds rows up to offset {end}, but the log ends at {}", opened.log.end()),
                )
                .hint("put the log's directory back as it was, or remove it: a new log begins after what the lake holds"));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the lake does not answer; rows stay in the log until it does")
            }
        }
        let progress = Arc::new(Progress::new(opened.log, clock, opened.last_known_at));
        let (dedup, letters) = (Arc::new(Mutex::new(dedup)), Arc::new(letters));
        let durable_positions = Arc::new(Mutex::new(positions.clone()));
        let flusher = Arc::new(Flusher::new(
            progress.clone(),
            lake,
            store.clone(),
            dedup.clone(),
            durable_positions.clone(),
            settings.clone(),
        )?);
        flusher.set_sources(&definitions)?;

        let runtime = tokio::runtime::Handle::current();
        let mut applier = Applier {
            store,
            progress: progress.clone(),
            letters: letters.clone(),
            feeds,
            runtime: runtime.clone(),
            refused_groups: 0,
        };
        let applier = blocking(move || applier.begin(feeding.start).map(|()| applier)).await??;
        let (to_writer, writer_queue) = channel();
        let (to_applier, applier_queue) = channel();
        let writer = Writer {
            log: opened.writer,
            dedup: dedup.clone(),
            progress: progress.clone(),
            applier: to_applier.clone(),
            last_known_at: opened.last_known_at,
            company_delay: Duration::from_millis(settings.group_commit_delay_ms),
            positions,
            durable_positions: durable_positions.clone(),
            has_new_positions: false,
        };
        let threads = vec![
            spawn("log-writer", move || writer.run(&writer_queue))?,
            spawn("applier", move || applier.run(&applier_queue))?,
        ];
        let tasks =
            vec![runtime.spawn(flusher.clone().run()), runtime.spawn(flusher.clone().run_compaction())];
        Ok(Self {
            settings,
            progress,
            dedup,
            letters,
            positions: durable_positions,
            flusher,
            schemas: RwLock::new(schemas),
            writer: to_writer,
            applier: to_applier,
            of_workers: RwLock::default(),
            closing: AtomicBool::new(false),
            threads: Mutex::new(threads),
            tasks: Mutex::new(tasks),
        })
    }

    /// Validates, logs, applies; returns when the rows are durable *and* applied to the online store.
    ///
    /// # Errors
    /// See [`PushError::code`]. After `log_failed` nothing of the push was acknowledged, though it may be there after a
    /// restart; after `store_failed` it is in the log and will be applied.
    pub async fn push(&self, request: PushRequest) -> Result<PushOutcome, PushError> {
        let schema = self.open_schema(&request.source)?;
        let bytes = self.bytes_of(&request)?;
        self.submit(bytes, move |permit, settings| {
            let checked =
                schema.check(&request.rows, request.row_keys.as_deref(), request.backfill, settings)?;
            let mut prepared = prepare(schema, checked, permit)?;
            let key = request.idempotency_key.as_deref();
            prepared.0.batch_key = key.map(|key| dedup::batch_key(&request.source, key));
            Ok(prepared)
        })
        .await
    }

    /// What [`Self::push`] would say of each row, except that it can't tell duplicates: nothing is logged, and no dead letter
    /// is kept.
    ///
    /// # Errors
    /// As [`Self::push`], of those about the request.
    pub async fn check(&self, request: PushRequest) -> Result<PushOutcome, PushError> {
        let schema = self.schema(&request.source)?;
        let permit = self.admit(self.bytes_of(&request)?)?;
        let settings = self.settings.clone();
        let check =
            move || schema.check(&request.rows, request.row_keys.as_deref(), request.backfill, &settings);
        let checked = blocking(check).await??;
        drop(permit);
        let refused = checked.refused.into_iter().map(|refused| {
            (refused.row as usize, RowOutcome::Refused { code: refused.code, reason: refused.reason })
        });
        let mut exceptions: Vec<_> = refused.collect();
        exceptions.sort_by_key(|(row, _)| *row);
        Ok(PushOutcome {
            accepted: checked.rows.num_rows(),
            refused: exceptions.len(),
            exceptions,
            ..PushOutcome::nothing(self.positions().log_end, self.progress.clock.now())
        })
    }

    fn bytes_of(&self, request: &PushRequest) -> Result<usize, PushError> {
        let bytes = size_of(request);
        if bytes > self.settings.batch_bytes_max {
            return Err(PushError::new(
                "too_large",
                format!("the push has {bytes} bytes; at most {} are taken", self.settings.batch_bytes_max),
            )
            .hint("push smaller batches, or raise push.batch_bytes_max"));
        }
        Ok(bytes)
    }

    /// Messages of a topic, as [`Self::push`]. Those that are in the log already change nothing: after an error the same
    /// messages may be given again, and must be before later ones of their partitions.
    ///
    /// # Errors
    /// See [`PushError::code`]; `invalid_request` when some of them are in the log and others are not.
    pub async fn submit_messages(&self, messages: Messages) -> Result<PushOutcome, PushError> {
        self.begin_messages(Arc::new(messages)).await?.await
    }

    /// As [`Self::submit_messages`], but returns when the messages are on their way to the log, so that the next ones can be
    /// checked while these are written and applied. Messages of later calls come behind them. What is returned then
    /// waits until they are applied; when it fails, later messages of their partitions fail too.
    ///
    /// # Errors
    /// As [`Self::submit_messages`]; after an error from this call nothing was begun.
    pub async fn begin_messages(
        &self,
        messages: Arc<Messages>,
    ) -> Result<impl Future<Output = Result<PushOutcome, PushError>> + Send + use<>, PushError> {
        let schema = self.open_schema(&messages.source)?;
        let begun = self.begin(messages.bytes(), move |permit, settings| {
            let checked = messages::check(&schema, &messages, settings)?;
            let places = messages.messages.iter().map(|m| (m.partition, m.offset)).collect();
            let mut prepared = prepare(schema, checked, permit)?;
            prepared.0.origin = Some((messages.origin(), places));
            Ok(prepared)
        });
        begun.await.map(answered)
    }

    /// How far a source's topic has been read, by partition: the messages below are in the log.
    pub fn topic_positions(&self, source: &str, topic: &str) -> BTreeMap<i32, PartitionPosition> {
        self.positions.lock().of(source, topic)
    }

    async fn submit(
        &self,
        bytes: usize,
        check: impl FnOnce(Permit, &PushSettings) -> Result<Prepared, PushError> + Send + 'static,
    ) -> Result<PushOutcome, PushError> {
        answered(self.begin(bytes, check).await?).await
    }

    /// Checks and sends to the log; the answer comes when it is applied.
    async fn begin(
        &self,
        bytes: usize,
        check: impl FnOnce(Permit, &PushSettings) -> Result<Prepared, PushError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<PushOutcome, PushError>>, PushError> {
        let permit = self.admit(bytes)?;
        let checking = Checking::begin(&self.progress);
        let settings = self.settings.clone();
        let check = move || check(permit, &settings);
        let (submission, answer) =
            if bytes <= CHECK_INLINE_BYTES_MAX { check()? } else { blocking(check).await?? };
        let sent = self.writer.send(ToWriter::Push(Box::new(submission)));
        drop(checking);
        sent.map_err(|_| shutting_down())?;
        Ok(answer)
    }

    /// The schema of a source that can be written to now.
    fn open_schema(&self, source: &str) -> Result<Arc<SourceSchema>, PushError> {
        if self.closing.load(SeqCst) {
            return Err(shutting_down());
        }
        if let Some(why) = self.progress.log.failure() {
            return Err(PushError::new("log_failed", format!("the row log can't be written: {why}"))
                .hint("look at the disk, then start the program again"));
        }
        if self.of_workers.read().contains(source) {
            return Err(PushError::new(
                "not_a_stream",
                format!("source `{source}` is the topic that workers read (`kafka.workers`); nothing else may add to it"),
            )
            .hint("produce to the topic"));
        }
        self.schema(source)
    }

    /// Sources whose rows come from workers: nothing is pushed to them here.
    pub fn leave_to_workers(&self, sources: HashSet<String>) {
        *self.of_workers.write() = sources;
    }

    fn admit(&self, bytes: usize) -> Result<Permit, PushError> {
        let log_bytes = self.progress.log.bytes();
        if log_bytes >= self.settings.log_bytes_max {
            return Err(PushError::new(
                "overloaded",
                format!("the log takes {log_bytes} bytes on disk, of {} allowed", self.settings.log_bytes_max),
            )
            .hint("rows wait in it for the lake: look at the flush error in `springhouse status`, or raise push.log_bytes_max"));
        }
        Permit::take(&self.progress, bytes, self.settings.queue_bytes_max).ok_or_else(|| {
            PushError::new("overloaded", "too many pushes are under way")
                .hint("push again a little later, with the same idempotency keys")
        })
    }

    fn schema(&self, name: &str) -> Result<Arc<SourceSchema>, PushError> {
        let schemas = self.schemas.read().clone();
        match schemas.get(name) {
            Some(Known::Stream(schema)) => Ok(schema.clone()),
            Some(Known::Table) => Err(PushError::new(
                "not_a_stream",
                format!("source `{name}` is a table that is read in place"),
            )
            .hint("push to a source with `stream: push`")),
            None => {
                let close = schemas
                    .keys()
                    .map(|known| (strsim::jaro_winkler(known, name), known))
                    .filter(|(likeness, _)| *likeness > 0.8)
                    .max_by(|a, b| a.0.total_cmp(&b.0));
                let error = PushError::new("unknown_source", format!("there is no source `{name}`"));
                Err(match close {
                    Some((_, known)) => error.hint(format!("did you mean `{known}`?")),
                    None => error,
                })
            }
        }
    }

    /// Swaps definitions and views (after `apply`, or when a generation was switched), without losing a push. Returns
    /// when the new feeds have everything from their start on.
    ///
    /// # Errors
    /// `invalid_definition`; `log_gap` when a new feed starts before the log does; nothing has changed then.
    pub async fn reload(
        &self,
        definitions: Arc<Definitions>,
        views: BTreeMap<String, Vec<ViewFeed>>,
    ) -> Result<(), PushError> {
        let schemas = Arc::new(compile(&definitions)?);
        let feeds = Feeds::compile(&definitions, views)?;
        self.flusher.set_sources(&definitions)?;
        let (reply, answer) = oneshot::channel();
        self.applier.send(ToApplier::Reload { feeds, reply }).map_err(|_| shutting_down())?;
        answer.await.map_err(|_| shutting_down())??;
        *self.schemas.write() = schemas;
        Ok(())
    }

    /// Stops writing to a store that has lost something, before it is taken again: a write that came in between would have
    /// its rows there, and not those before them. Pushes are refused until [`Self::restart`]; their rows are in the log.
    ///
    /// # Errors
    /// `shutting_down`.
    pub async fn hold(&self) -> Result<(), PushError> {
        let (reply, answer) = oneshot::channel();
        self.applier.send(ToApplier::Hold { reply }).map_err(|_| shutting_down())?;
        answer.await.map_err(|_| shutting_down())
    }

    /// Takes up a store that has lost something, or was emptied to be filled again: nothing that was known of it counts any
    /// more. Returns when it is as far as the log (pushes that it refused meanwhile among the rows).
    ///
    /// # Errors
    /// `log_gap` when the log no longer has what the store lacks: fill it from history, and start at the log's end;
    /// `store_failed`. Pushes are refused until a restart succeeds; their rows are in the log.
    pub async fn restart(&self, definitions: &Definitions, feeding: Feeding) -> Result<(), PushError> {
        let feeds = Feeds::compile(definitions, feeding.views)?;
        let (start, (reply, answer)) = (feeding.start, oneshot::channel());
        self.applier.send(ToApplier::Restart { feeds, start, reply }).map_err(|_| shutting_down())?;
        answer.await.map_err(|_| shutting_down())?
    }

    /// Remembers event ids (see [`springhouse_core::event_id`]) that the source's history holds, durably, so that a later
    /// push of one is a duplicate. Bounded as pushed ids are, apart from them.
    ///
    /// # Errors
    /// `log_io` when they can't be written.
    pub fn remember_ids(&self, source: &str, ids: &[u128]) -> Result<(), PushError> {
        let salt = dedup::source_salt(source);
        let ids: Vec<u128> = ids.iter().map(|id| id ^ salt).collect();
        let directory = self.progress.log.directory();
        let now = self.progress.clock.now();
        let remembered =
            self.progress.log.while_held(|| dedup::remember_history(&self.dedup, directory, &ids, now));
        Ok(remembered.ok_or_else(shutting_down)??)
    }

    /// Flushes everything that is in the log now to the lake; returns the flushed end.
    ///
    /// # Errors
    /// `lake_failed`; the rows stay in the log.
    pub async fn flush(&self) -> Result<i64, PushError> {
        self.flusher.flush_to(self.progress.log.end()).await
    }

    /// How far each part is.
    pub fn positions(&self) -> IngestPositions {
        IngestPositions {
            log_end: self.progress.log.end(),
            applied_end: self.progress.applied_end.load(SeqCst),
            flushed_end: self.progress.flushed_end.load(SeqCst),
            applied_frontier: self.progress.frontier(),
            log_bytes: self.progress.log.bytes(),
            flush_error: self.progress.flush_error.lock().clone(),
            log_error: self.progress.log.failure().map(str::to_owned),
        }
    }

    /// A moment that is not before the `known_at` of any applied row: the clock, or that plus one microsecond after the
    /// clock stepped back. Reads use it as `now`.
    pub fn read_now(&self) -> Micros {
        self.progress.read_now()
    }

    /// How long events took until they were servable, by source, since the start.
    pub fn latencies(&self) -> BTreeMap<Arc<str>, LatencyHistogram> {
        self.progress.latencies.all()
    }

    /// The newest dead letters of a source, at most `limit`, newest last: those not in the lake yet, and those in it.
    ///
    /// # Errors
    /// `lake_failed` when more are asked for than are in memory and the lake can't be read.
    pub async fn dead_letters(&self, source: &str, limit: usize) -> Result<Vec<DeadLetter>, PushError> {
        let recent = self.letters.newest(source, limit);
        if recent.len() >= limit {
            return Ok(recent);
        }
        let first = recent.first().map_or(i64::MAX, |letter| letter.offset);
        let mut all = self.flusher.lake_letters(source, limit).await?;
        all.retain(|letter| letter.offset < first);
        all.extend(recent);
        all.drain(..all.len().saturating_sub(limit));
        Ok(all)
    }

    /// Flushes, checkpoints and stops. Pushes under way are finished, later ones get `shutting_down`.
    ///
    /// # Errors
    /// What the flush or the checkpoint says; nothing acknowledged is lost then, the next start goes on.
    pub async fn shutdown(&self) -> Result<(), PushError> {
        self.closing.store(true, SeqCst);
        self.progress.is_stopping.store(true, SeqCst);
        // Gone already when it is called twice.
        let _ = self.writer.send(ToWriter::Stop { clean: true });
        let threads = std::mem::take(&mut *self.threads.lock());
        blocking(move || threads.into_iter().for_each(|thread| drop(thread.join()))).await?;
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            // Its end is being aborted.
            let _ = task.await;
        }
        let flushed = self.flush().await;
        let kept_up = self.flusher.upkeep().await;
        self.progress.log.release();
        flushed.and(kept_up)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.closing.store(true, SeqCst);
        self.progress.is_stopping.store(true, SeqCst);
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        // Gone already after a shutdown.
        let _ = self.writer.send(ToWriter::Stop { clean: false });
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has said so.
            drop(thread.join());
        }
        self.progress.log.release();
    }
}

/// Counts a push that is being checked.
struct Checking(Arc<Progress>);

impl Checking {
    fn begin(progress: &Arc<Progress>) -> Self {
        progress.checking.fetch_add(1, SeqCst);
        Self(progress.clone())
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.0.checking.fetch_sub(1, SeqCst);
    }
}

type Prepared = (Submission, oneshot::Receiver<Result<PushOutcome, PushError>>);

async fn answered(
    answer: oneshot::Receiver<Result<PushOutcome, PushError>>,
) -> Result<PushOutcome, PushError> {
    answer.await.map_err(|_| shutting_down())?
}

fn prepare(schema: Arc<SourceSchema>, checked: CheckedRows, permit: Permit) -> Result<Prepared, PushError> {
    let encoded = if checked.rows.num_rows() == 0 {
        bytes::Bytes::new()
    } else {
        encode_rows(&checked.rows).map_err(|e| PushError::new("malformed_body", e.to_string()))?
    };
    let (reply, answer) = oneshot::channel();
    Ok((Submission { schema, checked, encoded, batch_key: None, origin: None, reply, permit }, answer))
}

fn size_of(request: &PushRequest) -> usize {
    match &request.rows {
        PushRows::Json(body) => body.len(),
        PushRows::Arrow(batches) => batches.iter().map(|b| b.get_array_memory_size()).sum(),
    }
}

fn compile(definitions: &Definitions) -> Result<HashMap<String, Known>, PushError> {
    let known = |source: &springhouse_core::definition::Source| {
        Ok::<_, PushError>(match source.is_stream() {
            true => Known::Stream(Arc::new(SourceSchema::new(definitions, source)?)),
            false => Known::Table,
        })
    };
    definitions.sources.values().map(|s| Ok((s.name.clone(), known(s)?))).collect()
}

/// Offset after the last row of any stream in the lake.
async fn lake_end(lake: &Lake, definitions: &Definitions) -> Result<i64, PushError> {
    let mut end = 0;
    for source in definitions.sources.values().filter(|source| source.is_stream()) {
        let position = lake.stream_position(source).await.map_err(|e| PushError {
            code: "lake_failed",
            message: e.message,
            hint: e.hint,
        })?;
        end = end.max(position + 1);
    }
    Ok(end)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, PushError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|e| PushError::new("log_io", format!("no thread for the {name}: {e}")))
}

fn shutting_down() -> PushError {
    PushError::new("shutting_down", "the node is stopping").hint("push to another node, or again later")
}
