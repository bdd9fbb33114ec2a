//! The thread that brings logged rows to the online store: projects them for each view, folds them per entity, and writes
//! them with the log position in one atomic step. Only then are the pushers answered.

use crate::ViewFeed;
use crate::dead_letters::RecentLetters;
use crate::log::LogReader;
use crate::outcome::{DeadLetter, PushError, PushOutcome};
use crate::progress::{Permit, Progress};
use crate::rows::{Piece, StampedRows, schema_of};
use arrow::datatypes::SchemaRef;
use springhouse_core::crash_point::crash_point;
use springhouse_core::definition::{Definitions, Source};
use springhouse_core::{EntityKey, Micros};
use springhouse_expr::ViewProjection;
use springhouse_kernel::{EntityState, Stamp};
use springhouse_online::{Lane, OnlineStore, StoreError, StoreErrorKind, ViewHandle, Write};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The lane of the log in the store.
pub(crate) const LOG_LANE: &str = "log";
/// Groups that wait are applied together up to this many rows.
const ROWS_AT_ONCE_MAX: usize = 100_000;
/// Bytes of log replayed in one write.
const REPLAY_BYTES: usize = 16 << 20;
/// First and longest wait before the store is asked again.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// What the applier is told.
pub(crate) enum ToApplier {
    /// A durable group.
    Group {
        /// Its pushes.
        answers: Vec<Answer>,
        /// Offset after it.
        end: i64,
        /// Newest `known_at` in it.
        known_at: Micros,
    },
    /// From here on these feeds.
    Reload {
        /// The feeds.
        feeds: Feeds,
        /// Told when they are attached.
        reply: oneshot::Sender<Result<(), PushError>>,
    },
    /// The store has lost something: refuse everything until a restart.
    Hold {
        /// Told when nothing is written any more.
        reply: oneshot::Sender<()>,
    },
    /// The store has been taken again: begin with what it says now.
    Restart {
        /// The feeds.
        feeds: Feeds,
        /// Where to begin.
        start: StartAt,
        /// Told when the store is as far as the log.
        reply: oneshot::Sender<Result<(), PushError>>,
    },
    /// Stop.
    Stop,
}

/// Where the log is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// Where the store's lane says.
    Lane,
    /// At the log's end: what is below comes from the lake. For a store that is filled from history.
    End,
}

impl ToApplier {
    /// Answers everyone in it with an error.
    pub(crate) fn refuse(self, error: impl Fn() -> PushError) {
        match self {
            Self::Group { answers, .. } => answers.into_iter().for_each(|a| a.refuse(error())),
            // Nobody waits any more when the caller went away.
            Self::Reload { reply, .. } | Self::Restart { reply, .. } => drop(reply.send(Err(error()))),
            Self::Hold { reply } => drop(reply),
            Self::Stop => {}
        }
    }
}

/// A push that waits for its answer.
pub(crate) struct Answer {
    pub(crate) outcome: PushOutcome,
    /// Source and accepted rows.
    pub(crate) rows: Option<(Arc<str>, Piece)>,
    /// Source and refused rows.
    pub(crate) letters: Option<(Arc<str>, Vec<DeadLetter>)>,
    pub(crate) reply: oneshot::Sender<Result<PushOutcome, PushError>>,
    pub(crate) _permit: Permit,
}

impl Answer {
    pub(crate) fn refuse(self, error: PushError) {
        // Nobody waits any more when the caller went away.
        let _ = self.reply.send(Err(error));
    }
}

/// The feeds of each source, compiled.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    sources: BTreeMap<String, SourceFeeds>,
}

#[derive(Debug)]
struct SourceFeeds {
    schema: SchemaRef,
    event_time: String,
    feeds: Vec<Feed>,
}

#[derive(Debug)]
struct Feed {
    handle: ViewHandle,
    start: i64,
    projection: ViewProjection,
}

impl Feed {
    /// Set in the same write as the rows between `start` and the log lane's position at that moment: from then on the
    /// feed is as far as the log lane.
    fn lane(&self) -> Arc<str> {
        feed_lane(&self.handle).into()
    }
}

/// The lane that says a feed is attached.
fn feed_lane(handle: &ViewHandle) -> String {
    format!("{LOG_LANE}/{}/{}/", handle.id, handle.generation)
}

impl Feeds {
    /// Compiles the feeds of each source.
    pub(crate) fn compile(
        definitions: &Definitions,
        views: BTreeMap<String, Vec<ViewFeed>>,
    ) -> Result<Self, PushError> {
        let mut sources = BTreeMap::new();
        for (name, feeds) in views {
            let invalid = |why: String| PushError::new("invalid_definition", why);
            let source = definitions
                .sources
                .get(&name)
                .ok_or_else(|| invalid(format!("there is no source `{name}`")))?;
            let feeds = feeds
                .into_iter()
                .map(|feed| {
                    let projection = projection_of(definitions, source, &feed.handle)?;
                    Ok(Feed { handle: feed.handle, start: feed.start, projection })
                })
                .collect::<Result<Vec<_>, PushError>>()?;
            let schema = schema_of(source);
            let event_time = source.event_time.clone();
            sources.insert(name, SourceFeeds { schema, event_time, feeds });
        }
        Ok(Self { sources })
    }

    fn all(&self) -> impl Iterator<Item = (&String, &SourceFeeds, &Feed)> {
        self.sources
            .iter()
            .flat_map(|(name, source)| source.feeds.iter().map(move |feed| (name, source, feed)))
    }
}

/// How rows of a source become events of a view.
pub(crate) fn projection_of(
    definitions: &Definitions,
    source: &Source,
    handle: &ViewHandle,
) -> Result<ViewProjection, PushError> {
    let invalid = |why: String| PushError::new("invalid_definition", why);
    let id = &handle.id;
    let view = id.split('@').next().and_then(|name| definitions.feature_views.get(name));
    let view = view
        .filter(|view| view.id() == **id && view.source == source.name)
        .ok_or_else(|| invalid(format!("no view `{id}` of source `{}`", source.name)))?;
    let entity = definitions
        .entities
        .get(&view.entity)
        .ok_or_else(|| invalid(format!("view `{id}` has no entity `{}`", view.entity)))?;
    ViewProjection::plan(source, entity, view, &handle.plan).map_err(|e| invalid(format!("view `{id}`: {e}")))
}

pub(crate) struct Applier {
    pub(crate) store: Arc<dyn OnlineStore>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) letters: Arc<RecentLetters>,
    pub(crate) feeds: Feeds,
    pub(crate) runtime: tokio::runtime::Handle,
    /// Groups that the store refused; applied when the log is read again.
    pub(crate) refused_groups: u64,
}

impl Applier {
    /// Brings the store as far as the log; returns when pushes may begin.
    ///
    /// # Errors
    /// `log_gap` when the log no longer holds what the store lacks, `log_behind` when the store is ahead of the log.
    pub(crate) fn catch_up(&mut self) -> Result<(), PushError> {
        let lanes = self.runtime.block_on(self.store.lanes()).map_err(store_failed)?;
        let log = self.progress.log.clone();
        let applied = lanes.get(LOG_LANE).copied().unwrap_or(0);
        if applied > log.end() {
            return Err(PushError::new(
                "log_behind",
                format!(
                    "the online store has applied the log up to offset {applied}, but the log in {} ends at {}",
                    log.directory().display(),
                    log.end()
                ),
            )
            .hint("put the log's directory back as it was, or remove it together with the online store and run `springhouse rebuild`"));
        }
        if applied < log.first() && log.first() > 0 {
            return Err(gap(applied, log.first()));
        }
        self.progress.applied_end.store(applied, SeqCst);
        self.attach(&lanes)?;
        let mut reader = LogReader::new(log.clone(), applied);
        let end = log.end();
        while reader.position() < end {
            let records = reader.read(end, REPLAY_BYTES)?;
            let mut pieces: BTreeMap<Arc<str>, Vec<Piece>> = BTreeMap::new();
            for record in &records {
                if let Some(piece) = Piece::of(record).map_err(damaged)? {
                    pieces.entry(record.source.as_str().into()).or_default().push(piece);
                }
            }
            let known_at = records.last().map_or(Micros::MIN, |record| record.known_at);
            // These events may have been servable before: how long it took says nothing.
            self.write(pieces, reader.position(), known_at)?;
        }
        Ok(())
    }

    /// Runs until it is told to stop, or everyone who could tell it anything is gone.
    pub(crate) fn run(mut self, queue: &Receiver<ToApplier>) {
        let mut next = queue.recv().ok();
        while let Some(message) = next.take() {
            match message {
                ToApplier::Stop => break,
                ToApplier::Reload { feeds, reply } => {
                    let result = self.reload(feeds);
                    // Nobody waits any more when the caller went away.
                    let _ = reply.send(result);
                }
                ToApplier::Hold { reply } => {
                    let why = PushError::new(
                        "store_lost",
                        "the online store has lost rows and is being brought back",
                    );
                    *self.progress.store_error.lock() = Some(why.hint(STORE_HINT));
                    // Nobody waits any more when the caller went away.
                    let _ = reply.send(());
                }
                ToApplier::Restart { feeds, start, reply } => {
                    let result = self.restart(feeds, start);
                    // Nobody waits any more when the caller went away.
                    let _ = reply.send(result);
                }
                ToApplier::Group { answers, end, known_at } => {
                    next = self.apply_groups(answers, end, known_at, queue);
                }
            }
            if next.is_none() {
                next = queue.recv().ok();
            }
        }
        while let Ok(message) = queue.try_recv() {
            message.refuse(|| PushError::new("shutting_down", "the node is stopping"));
        }
    }

    /// Applies a group with those that wait behind it; gives back the message that ended them, if one did.
    fn apply_groups(
        &mut self,
        mut answers: Vec<Answer>,
        mut end: i64,
        mut known_at: Micros,
        queue: &Receiver<ToApplier>,
    ) -> Option<ToApplier> {
        let count = |answers: &[Answer]| answers.iter().map(|a| a.outcome.accepted).sum::<usize>();
        let mut groups = 1;
        let mut rows = count(&answers);
        let mut end_message = None;
        while rows < ROWS_AT_ONCE_MAX {
            match queue.try_recv() {
                Ok(ToApplier::Group { answers: more, end: later, known_at: newer }) => {
                    rows += count(&more);
                    answers.extend(more);
                    (end, known_at, groups) = (later, newer, groups + 1);
                }
                Ok(other) => {
                    end_message = Some(other);
                    break;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        let mut pieces: BTreeMap<Arc<str>, Vec<Piece>> = BTreeMap::new();
        for answer in &mut answers {
            if let Some((source, piece)) = answer.rows.take() {
                pieces.entry(source).or_default().push(piece);
            }
            if let Some((source, letters)) = answer.letters.take() {
                self.letters.add(&source, letters);
            }
        }
        crash_point("after_ack_before_apply");
        let result = self.write(pieces, end, known_at).map(|written| {
            let now = self.progress.clock.now();
            for (source, rows) in &written {
                if let Some(feeds) = self.feeds.sources.get(&**source) {
                    let event_times = rows.event_times(&feeds.event_time).unwrap_or_default();
                    self.progress.latencies.add(source, event_times, now);
                }
            }
        });
        if result.is_ok() {
            // Else the frontier stays where it is: rows are missing behind it.
            self.progress.groups_applied.fetch_add(groups, SeqCst);
        } else {
            self.refused_groups += groups;
        }
        self.progress.applied.notify_one();
        crash_point("after_apply_before_ack");
        match result {
            // Nobody waits any more where the caller went away.
            Ok(()) => answers.into_iter().for_each(|a| drop(a.reply.send(Ok(a.outcome)))),
            Err(error) => {
                for answer in answers {
                    answer.refuse(error.clone());
                }
            }
        }
        end_message
    }

    /// Writes rows of the log up to `end`: all that there are between the store's position and it, and perhaps rows from
    /// before, which are left out. Gives back what it wrote.
    fn write(
        &self,
        pieces: BTreeMap<Arc<str>, Vec<Piece>>,
        end: i64,
        known_at: Micros,
    ) -> Result<Vec<(Arc<str>, StampedRows)>, PushError> {
        let applied = self.progress.applied_end.load(SeqCst);
        if end <= applied {
            return Ok(Vec::new());
        }
        if let Some(why) = &*self.progress.store_error.lock() {
            return Err(why.clone());
        }
        let now = self.progress.clock.now().max(known_at);
        let mut writes = Vec::new();
        let mut written = Vec::new();
        for (name, mut pieces) in pieces {
            let Some(source) = self.feeds.sources.get(&*name) else { continue };
            // Groups that waited while the log was read again were among what was read; later ones may have joined them.
            pieces.retain(|piece| piece.base >= applied);
            if pieces.is_empty() {
                continue;
            }
            let rows = StampedRows::join(&source.schema, &pieces).map_err(damaged)?;
            for feed in &source.feeds {
                writes.extend(fold(source, feed, &rows, now));
            }
            written.push((name, rows));
        }
        self.write_lane(writes, Lane { name: LOG_LANE.into(), position: end }, now)?;
        self.progress.applied_known_at.fetch_max(known_at, SeqCst);
        self.progress.applied_end.store(end, SeqCst);
        Ok(written)
    }

    fn write_lane(&self, writes: Vec<Write>, lane: Lane, now: Micros) -> Result<(), PushError> {
        let mut wait = RETRY_FIRST;
        loop {
            match self.runtime.block_on(self.store.write(writes.clone(), lane.clone(), now)) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind == StoreErrorKind::Unavailable => {
                    if self.progress.is_stopping.load(SeqCst) {
                        // The rows are in the log; the next start applies them.
                        return Err(store_failed(error));
                    }
                    tracing::warn!(%error, wait_ms = wait.as_millis(), "the online store does not answer");
                    self.runtime.block_on(async { tokio::time::sleep(wait).await });
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
                Err(error) => {
                    tracing::error!(%error, "the online store takes no more rows; they stay in the log");
                    let error = store_failed(error);
                    *self.progress.store_error.lock() = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// Begins again with what the store says now, which may be less than before.
    fn restart(&mut self, feeds: Feeds, start: StartAt) -> Result<(), PushError> {
        self.feeds = feeds;
        *self.progress.store_error.lock() = None;
        let result = self.begin(start);
        match &result {
            Ok(()) => {
                let refused = std::mem::take(&mut self.refused_groups);
                self.progress.groups_applied.fetch_add(refused, SeqCst);
            }
            Err(error) => *self.progress.store_error.lock() = Some(error.clone()),
        }
        result
    }

    /// Brings the store as far as the log, or says that it is.
    ///
    /// # Errors
    /// See [`Self::catch_up`].
    pub(crate) fn begin(&mut self, start: StartAt) -> Result<(), PushError> {
        if start == StartAt::End {
            let end = self.progress.log.end();
            let now = self.progress.clock.now();
            // Positions start at 1: an empty log's lane is left out, and begins at 0.
            if end > 0 {
                self.write_lane(Vec::new(), Lane { name: LOG_LANE.into(), position: end }, now)?;
            }
        }
        self.catch_up()
    }

    fn reload(&mut self, feeds: Feeds) -> Result<(), PushError> {
        let lanes = self.runtime.block_on(self.store.lanes()).map_err(store_failed)?;
        let before = std::mem::replace(&mut self.feeds, feeds);
        if let Err(error) = self.attach(&lanes) {
            self.feeds = before;
            return Err(error);
        }
        for (_, _, feed) in before.all() {
            let lane = feed.lane();
            if !self.feeds.all().any(|(_, _, kept)| kept.lane() == lane) {
                self.runtime.block_on(self.store.drop_lanes(&lane)).map_err(store_failed)?;
            }
        }
        Ok(())
    }

    /// Brings feeds that were not there before as far as the log lane is, each in one write with its own lane.
    fn attach(&self, lanes: &BTreeMap<Arc<str>, i64>) -> Result<(), PushError> {
        let applied = self.progress.applied_end.load(SeqCst);
        let log = &self.progress.log;
        let new = || self.feeds.all().filter(|(_, _, feed)| !lanes.contains_key(&feed.lane()));
        // Checked before anything is written: a reload is done whole or not at all.
        for (_, _, feed) in new() {
            if feed.start < applied && feed.start < log.first() {
                return Err(gap(feed.start, log.first()));
            }
        }
        for (name, source, feed) in new() {
            let lane = feed.lane();
            let mut pieces = Vec::new();
            let mut known_at = self.progress.applied_known_at.load(SeqCst);
            let mut reader = LogReader::new(log.clone(), feed.start.max(0));
            while reader.position() < applied {
                for record in reader.read(applied, REPLAY_BYTES)? {
                    if record.source == *name {
                        pieces.extend(Piece::of(&record).map_err(damaged)?);
                        known_at = known_at.max(record.known_at);
                    }
                }
            }
            let now = self.progress.clock.now().max(known_at);
            let mut writes = Vec::new();
            if !pieces.is_empty() {
                let rows = StampedRows::join(&source.schema, &pieces).map_err(damaged)?;
                writes.extend(fold(source, feed, &rows, now));
            }
            // Positions start at 1, so that the lane of an empty log is set too.
            self.write_lane(writes, Lane { name: lane, position: applied + 1 }, now)?;
        }
        Ok(())
    }
}

/// The rows of one feed, folded per entity; none when no row concerns it.
fn fold(source: &SourceFeeds, feed: &Feed, rows: &StampedRows, now: Micros) -> Option<Write> {
    let later;
    let rows = if rows.offsets.first().is_some_and(|first| *first < feed.start) {
        later = rows.since(feed.start);
        &later
    } else {
        rows
    };
    if rows.offsets.is_empty() {
        return None;
    }
    let event_times = rows.event_times(&source.event_time).expect("the event time is declared");
    let projected = feed.projection.project(&rows.rows);
    let keys = feed.projection.keys(&projected);
    let plan = &feed.handle.plan;
    let mut states: HashMap<EntityKey, EntityState, ahash::RandomState> = HashMap::default();
    let mut keyless = 0;
    for (index, key) in keys.into_iter().enumerate() {
        // A null or too long key where the source's checks could not see it (a derived column, a view with a filter):
        // the row describes no entity of this view.
        let Ok(key) = key else {
            keyless += 1;
            continue;
        };
        let row = projected.rows[index] as usize;
        let stamp =
            Stamp { event_time: event_times[row], known_at: rows.known_at[row], seq: rows.offsets[row] };
        let event = feed.projection.event(&projected, index, stamp);
        plan.insert(states.entry(key).or_insert_with(|| plan.empty()), event, now);
    }
    if keyless > 0 {
        tracing::warn!(view = %feed.handle.id, rows = keyless, "left out rows without a usable entity key");
    }
    (!states.is_empty()).then(|| Write { view: feed.handle.clone(), deltas: states.into_iter().collect() })
}

const STORE_HINT: &str = "the rows are in the log and will be applied when the store works again and the program is started; pushing them again with their ids changes nothing";

fn store_failed(error: StoreError) -> PushError {
    let code = if error.kind == StoreErrorKind::Lost { "store_lost" } else { "store_failed" };
    PushError::new(code, error.to_string()).hint(STORE_HINT)
}

fn damaged(error: arrow::error::ArrowError) -> PushError {
    PushError::new("log_corrupt", format!("rows of the log can't be read: {error}"))
}

fn gap(wanted: i64, first: i64) -> PushError {
    PushError::new(
        "log_gap",
        format!("the online store needs the log from offset {wanted}, but it begins at {first} now"),
    )
    .hint("the older rows are in the lake: run `springhouse rebuild`")
}
