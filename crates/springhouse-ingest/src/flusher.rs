//! The task that moves logged rows to the lake, checkpoints the online store, and deletes log segments that neither needs.

use crate::dead_letters;
use crate::dedup::{self, Dedup, SegmentIds};
use crate::log::{Log, LogReader, Record, replace_file};
use crate::outcome::{DeadLetter, PushError};
use crate::progress::Progress;
use crate::rows::{Piece, StampedRows, schema_of};
use crate::settings::PushSettings;
use crate::topics::TopicPositions;
use parking_lot::Mutex;
use springhouse_core::crash_point::crash_point;
use springhouse_core::definition::{Definitions, Source};
use springhouse_lake::{Lake, LakeError, OptimizeRequest, Silent, StreamAppend, cluster_columns};
use springhouse_online::OnlineStore;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Bytes of log read for one append to the lake.
const FLUSH_BYTES: usize = 32 << 20;
/// Longest wait before the lake is asked again.
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// Definitions of all sources that the log may hold rows of; outlives them in the project.
const SOURCES_FILE: &str = "sources.json";

pub(crate) struct Flusher {
    pub(crate) progress: Arc<Progress>,
    pub(crate) lake: Lake,
    pub(crate) store: Arc<dyn OnlineStore>,
    pub(crate) dedup: Arc<Mutex<Dedup>>,
    pub(crate) settings: PushSettings,
    positions: Arc<Mutex<TopicPositions>>,
    sources: Mutex<BTreeMap<String, Arc<Source>>>,
    /// What the rows of each source are sorted by when its table is compacted.
    cluster_by: Mutex<BTreeMap<String, Vec<String>>>,
    /// One flush at a time.
    place: tokio::sync::Mutex<Place>,
    /// One checkpoint and clearing at a time. Holds what was applied when, oldest first, see [`LOG_KEPT`].
    upkeep: tokio::sync::Mutex<VecDeque<(Instant, i64)>>,
}

/// How long the log keeps rows that a store elsewhere has confirmed: one that loses its last writes (a failover, a crash)
/// gets them from the log; only one that lost more is filled from history.
const LOG_KEPT: Duration = Duration::from_secs(120);

/// Where flushing is.
#[derive(Default)]
struct Place {
    reader: Option<LogReader>,
    /// The last offset in the lake: of each source's rows, and of its dead letters.
    rows: HashMap<String, i64>,
    letters: HashMap<String, i64>,
}

impl Flusher {
    pub(crate) fn new(
        progress: Arc<Progress>,
        lake: Lake,
        store: Arc<dyn OnlineStore>,
        dedup: Arc<Mutex<Dedup>>,
        positions: Arc<Mutex<TopicPositions>>,
        settings: PushSettings,
    ) -> Result<Self, PushError> {
        let sources = read_sources(progress.log.directory())?;
        Ok(Self {
            progress,
            lake,
            store,
            dedup,
            settings,
            positions,
            sources: Mutex::new(sources),
            cluster_by: Mutex::default(),
            place: tokio::sync::Mutex::default(),
            upkeep: tokio::sync::Mutex::default(),
        })
    }

    /// Takes up changed definitions, durably; sources that are gone stay known, for their rows in the log.
    pub(crate) fn set_sources(&self, definitions: &Definitions) -> Result<(), PushError> {
        let mut sources = self.sources.lock();
        let before = sources.clone();
        for source in definitions.sources.values().filter(|source| source.is_stream()) {
            self.cluster_by.lock().insert(source.name.clone(), cluster_columns(definitions, source));
            sources.insert(source.name.clone(), Arc::new(source.clone()));
        }
        if *sources != before {
            write_sources(self.progress.log.directory(), &sources)?;
        }
        Ok(())
    }

    /// Runs until it is aborted.
    pub(crate) async fn run(self: Arc<Self>) {
        let flush_interval = Duration::from_millis(self.settings.flush_interval_ms);
        let checkpoint_interval = Duration::from_millis(self.settings.checkpoint_interval_ms);
        let (mut last_flush, mut last_checkpoint) = (Instant::now(), Instant::now());
        let mut failures = 0u32;
        loop {
            let backoff = match failures {
                0 => flush_interval,
                n => (flush_interval / 8 * 2u32.saturating_pow(n.min(16)))
                    .clamp(flush_interval, RETRY_LONGEST.max(flush_interval)),
            };
            let flush_in = backoff.saturating_sub(last_flush.elapsed());
            let checkpoint_in = checkpoint_interval.saturating_sub(last_checkpoint.elapsed());
            tokio::select! {
                () = tokio::time::sleep(flush_in.min(checkpoint_in)) => {}
                () = self.progress.applied.notified() => {}
            }
            let end = self.progress.applied_end.load(SeqCst);
            let waiting = end - self.progress.flushed_end.load(SeqCst);
            let is_due = last_flush.elapsed() >= backoff;
            if waiting > 0 && (is_due || (failures == 0 && waiting as u64 >= self.settings.flush_rows)) {
                failures = match self.flush_to(end).await {
                    Ok(_) => 0,
                    Err(error) => {
                        if failures == 0 {
                            tracing::warn!(%error, "flushing to the lake failed; rows stay in the log and are tried again");
                        }
                        failures + 1
                    }
                };
                last_flush = Instant::now();
            } else if is_due {
                last_flush = Instant::now();
            }
            if last_checkpoint.elapsed() >= checkpoint_interval {
                if let Err(error) = self.upkeep().await {
                    tracing::warn!(%error, "the checkpoint failed; it is tried again");
                }
                last_checkpoint = Instant::now();
            }
        }
    }

    /// Compacts the tables of pushed rows now and then, one after the other, until it is aborted. A table that is being
    /// appended to is no obstacle, and an interruption leaves it as it was.
    pub(crate) async fn run_compaction(self: Arc<Self>) {
        let interval = Duration::from_secs(self.settings.compact_interval_s);
        if interval.is_zero() {
            return;
        }
        loop {
            tokio::time::sleep(interval).await;
            let sources: Vec<Arc<Source>> = self.sources.lock().values().cloned().collect();
            for source in sources {
                let cluster_by = self.cluster_by.lock().get(&source.name).cloned().unwrap_or_default();
                let request = OptimizeRequest { cluster_by, ..OptimizeRequest::default() };
                match self.lake.optimize_stream(&source, &request, &Silent).await {
                    Ok(done) if done.files_rewritten > 0 => tracing::info!(
                        source = %source.name,
                        files = done.files_rewritten,
                        rows = done.rows,
                        "compacted the lake's table of pushed rows"
                    ),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(source = %source.name, %error, "compaction failed; it is tried again");
                    }
                }
            }
        }
    }

    /// Brings everything in the log below `end` to the lake.
    pub(crate) async fn flush_to(&self, end: i64) -> Result<i64, PushError> {
        let mut place = self.place.lock().await;
        let result = self.flush_all(&mut place, end).await;
        *self.progress.flush_error.lock() = result.as_ref().err().map(ToString::to_string);
        if result.is_err() {
            // What was read but not brought there is read again.
            place.reader = None;
        }
        result
    }

    async fn flush_all(&self, place: &mut Place, end: i64) -> Result<i64, PushError> {
        loop {
            let from = self.progress.flushed_end.load(SeqCst);
            if from >= end {
                return Ok(from);
            }
            let log = self.progress.log.clone();
            // A flush that was given up half way (its task was aborted) leaves a reader that is ahead of the lake.
            let at_place = place.reader.take().filter(|reader| reader.position() == from);
            let mut reader = at_place.unwrap_or_else(|| LogReader::new(log, from));
            let (reader, records) = blocking(move || {
                let records = reader.read(end, FLUSH_BYTES);
                (reader, records)
            })
            .await?;
            let records = records?;
            let reached = reader.position();
            place.reader = Some(reader);
            self.flush_records(place, records).await?;
            self.progress.flushed_end.store(reached, SeqCst);
        }
    }

    async fn flush_records(&self, place: &mut Place, records: Vec<Record>) -> Result<(), PushError> {
        let mut of_source: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for record in records {
            of_source.entry(record.source.clone()).or_default().push(record);
        }
        for (name, records) in of_source {
            let source = self.sources.lock().get(&name).cloned();
            let Some(source) = source else {
                // Only a log that was put together by hand has such rows.
                return Err(PushError::new(
                    "log_corrupt",
                    format!(
                        "the log holds rows of `{name}`, of which {SOURCES_FILE} beside it knows nothing"
                    ),
                ));
            };
            self.flush_letters(place, &name, &records).await?;
            self.flush_rows(place, &source, records).await?;
        }
        Ok(())
    }

    async fn flush_letters(
        &self,
        place: &mut Place,
        source: &str,
        records: &[Record],
    ) -> Result<(), PushError> {
        let letters: Vec<DeadLetter> = records.iter().flat_map(dead_letters::of_record).collect();
        let Some(last) = letters.last().map(|letter| letter.offset) else { return Ok(()) };
        let position = match place.letters.get(source) {
            Some(position) => *position,
            None => {
                let newest = self.lake_letters(source, 1).await?;
                newest.last().map_or(-1, |letter| letter.offset)
            }
        };
        let new: Vec<DeadLetter> = letters.into_iter().filter(|l| l.offset > position).collect();
        if !new.is_empty() {
            let batch = dead_letters::to_batch(&new).map_err(damaged)?;
            self.lake.append_dead_letters(source, batch, last).await.map_err(lake_failed)?;
        }
        place.letters.insert(source.to_owned(), position.max(last));
        Ok(())
    }

    async fn flush_rows(
        &self,
        place: &mut Place,
        source: &Arc<Source>,
        records: Vec<Record>,
    ) -> Result<(), PushError> {
        let position = match place.rows.get(&source.name) {
            Some(position) => *position,
            None => self.lake.stream_position(source).await.map_err(lake_failed)?,
        };
        let definition = source.clone();
        let append = blocking(move || append_of(&definition, &records, position)).await??;
        let Some(append) = append else {
            place.rows.insert(source.name.clone(), position);
            return Ok(());
        };
        let last = append.offset.last().copied().unwrap_or(position);
        crash_point("before_flush_commit");
        let reached = self.lake.append_stream(source, append).await.map_err(lake_failed)?;
        crash_point("after_flush_commit");
        if reached < last {
            return Err(PushError::new(
                "lake_failed",
                format!(
                    "the lake says it holds `{}` up to offset {reached}; {last} was appended",
                    source.name
                ),
            ));
        }
        place.rows.insert(source.name.clone(), reached);
        Ok(())
    }

    /// Checkpoints the store, then deletes what neither it nor the lake needs from the log.
    pub(crate) async fn upkeep(&self) -> Result<(), PushError> {
        let mut earlier = self.upkeep.lock().await;
        let applied = self.progress.applied_end.load(SeqCst);
        crash_point("before_checkpoint");
        self.store.checkpoint().await.map_err(|e| PushError::new("store_failed", e.to_string()))?;
        crash_point("after_checkpoint");
        let mut needless = applied.min(self.progress.flushed_end.load(SeqCst));
        if !self.store.is_local() {
            earlier.push_back((Instant::now(), applied));
            while earlier.get(1).is_some_and(|(at, _)| at.elapsed() >= LOG_KEPT) {
                earlier.pop_front();
            }
            // The newest that is old enough; else nothing.
            let kept = earlier.front().filter(|(at, _)| at.elapsed() >= LOG_KEPT).map_or(0, |(_, end)| *end);
            needless = needless.min(kept);
        }
        let segments = self.progress.log.segments_below(needless);
        if !segments.is_empty() {
            // What is deleted is applied, so they hold at least its positions; the log still has what comes later.
            let (log, positions) = (self.progress.log.clone(), self.positions.lock().clone());
            let saved = blocking(move || log.while_held(|| positions.save(log.directory()))).await?;
            saved.transpose()?;
        }
        for segment in segments {
            let log = self.progress.log.clone();
            let deleted = blocking(move || log.while_held(|| delete_segment(&log, segment.first))).await?;
            deleted.transpose()?;
        }
        let (dedup, log) = (self.dedup.clone(), self.progress.log.clone());
        let now = self.progress.clock.now();
        let dropped =
            blocking(move || log.while_held(|| dedup::drop_old_files(&dedup, log.directory(), now)));
        dropped.await?.transpose()?;
        Ok(())
    }

    /// The newest dead letters in the lake, oldest first.
    pub(crate) async fn lake_letters(
        &self,
        source: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PushError> {
        let batches = self.lake.read_dead_letters(source, limit).await.map_err(lake_failed)?;
        Ok(batches.iter().flat_map(dead_letters::from_batch).collect())
    }
}

fn delete_segment(log: &Log, first: i64) -> Result<(), PushError> {
    if log.first() != first {
        // Someone who was given up did it meanwhile.
        return Ok(());
    }
    let mut ids = SegmentIds::default();
    log.visit_segment(first, &mut |record| ids.add(record))?;
    if !ids.is_empty() {
        Dedup::keep_segment(log.directory(), first, &ids)?;
    }
    crash_point("before_segment_delete");
    log.delete_first_segment(first)?;
    Ok(())
}

/// The accepted rows of records as the lake takes them, but those up to `position`.
fn append_of(source: &Source, records: &[Record], position: i64) -> Result<Option<StreamAppend>, PushError> {
    let mut pieces = Vec::new();
    for record in records.iter().filter(|r| r.accepted > 0 && r.first_refused() > position + 1) {
        pieces.extend(Piece::of(record).map_err(damaged)?);
    }
    if pieces.is_empty() {
        return Ok(None);
    }
    let schema = schema_of(source);
    let stamped = StampedRows::join(&schema, &pieces).map_err(damaged)?.since(position + 1);
    let event_time = stamped.event_times(&source.event_time).map(<[_]>::to_vec).ok_or_else(|| {
        PushError::new("invalid_definition", format!("source `{}` has no event time", source.name))
    })?;
    Ok(Some(StreamAppend {
        event_time,
        known_at: stamped.known_at,
        offset: stamped.offsets,
        event_id: stamped.ids.iter().map(|id| (*id != 0).then_some(*id)).collect(),
        rows: stamped.rows,
    }))
}

/// Runs file work beside the async tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PushError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| PushError::new("shutting_down", format!("the work was given up: {e}")))
}

pub(crate) fn lake_failed(error: LakeError) -> PushError {
    PushError { code: "lake_failed", message: error.message, hint: error.hint }
}

fn damaged(error: arrow::error::ArrowError) -> PushError {
    PushError::new("log_corrupt", format!("rows of the log can't be read: {error}"))
}

fn read_sources(directory: &Path) -> Result<BTreeMap<String, Arc<Source>>, PushError> {
    let path = directory.join(SOURCES_FILE);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| PushError::new("log_corrupt", format!("{} can't be read: {e}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(PushError::new("log_io", format!("reading {} failed: {error}", path.display()))),
    }
}

fn write_sources(directory: &Path, sources: &BTreeMap<String, Arc<Source>>) -> Result<(), PushError> {
    let text = serde_json::to_vec_pretty(sources)
        .map_err(|e| PushError::new("invalid_definition", e.to_string()))?;
    Ok(replace_file(directory, SOURCES_FILE, &text)?)
}
