//! What a worker does with the messages of a topic that several workers read together: there is no log between the topic and
//! the store, since the topic is one, and what was read is remembered where it was put.
//!
//! A message goes into the rows of every view of its source ([`springhouse_online::SharedRows`]), each of which says which
//! messages it has, and into the lake's table, whose transactions name the offsets of each partition. Whoever reads a partition
//! next begins at the least of what all of them say, and each leaves out what it has.

mod buffer;
mod feed;

use crate::dedup::Dedup;
use crate::latency::LatencyHistogram;
use crate::log::RefusedRow;
use crate::messages::{self, Messages};
use crate::outcome::{DeadLetter, PushError};
use crate::settings::PushSettings;
use crate::stamp::decide;
use crate::topics::OffsetRange;
use crate::validate::{SourceSchema, timestamps};
use arrow::array::RecordBatch;
use buffer::LakeBuffer;
use feed::Feed;
use futures::future::try_join_all;
use springhouse_core::definition::Definitions;
use springhouse_core::{Clock, Micros, PARTITIONS_MAX, topic_seq};
use springhouse_lake::{Lake, LakeError};
use springhouse_online::{
    Build, Builds, Positions, SharedRows, StoreError, StoreErrorKind, ViewHandle, build_name,
};
use std::sync::Arc;

/// Why a worker does not get on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WorkError {
    /// Something does not answer: the same can be tried again.
    #[error("{0}")]
    Unavailable(String),
    /// What this worker took for true no longer is: begin anew with what the store and the lake say.
    #[error("{0}")]
    Outdated(String),
}

impl From<StoreError> for WorkError {
    fn from(error: StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Unavailable => Self::Unavailable(error.to_string()),
            _ => Self::Outdated(error.to_string()),
        }
    }
}

impl From<PushError> for WorkError {
    fn from(error: PushError) -> Self {
        match error.code {
            "lake_failed" => Self::Unavailable(error.to_string()),
            _ => Self::Outdated(error.to_string()),
        }
    }
}

impl From<LakeError> for WorkError {
    fn from(error: LakeError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A view and generation to be fed, with what the store says of it: what it is, and how far each shard has come.
#[derive(Clone, Debug)]
pub struct FedBuild {
    /// View and generation.
    pub handle: ViewHandle,
    /// What it is.
    pub build: Build,
    /// By shard of the store.
    pub positions: Vec<Positions>,
}

/// Messages that have been checked: rows with their stamps, and dead letters.
#[derive(Debug)]
pub struct Checked {
    pub(crate) rows: RecordBatch,
    pub(crate) event_time: Vec<Micros>,
    pub(crate) known_at: Vec<Micros>,
    /// [`topic_seq`]s of the rows.
    pub(crate) seqs: Vec<i64>,
    /// Their `offset`s are [`topic_seq`]s.
    pub(crate) letters: Vec<DeadLetter>,
    /// What the messages take up.
    pub ranges: Vec<OffsetRange>,
    /// Messages.
    pub messages: u64,
    /// Of them, without a value.
    pub tombstones: u64,
}

/// One source in one worker.
#[derive(Debug)]
pub struct TopicWorker {
    schema: Arc<SourceSchema>,
    settings: PushSettings,
    store: Arc<dyn SharedRows>,
    lake: Lake,
    clock: Arc<dyn Clock>,
    feeds: Vec<Feed>,
    buffer: LakeBuffer,
    latencies: LatencyHistogram,
}

/// Partitions that were taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// By partition, the offset at which reading begins.
    pub begins: Positions,
    /// By partition, the offset below which everything is in the rows of all builds.
    pub in_rows: Positions,
    /// Partitions that nobody has read yet.
    pub unknown: Vec<i32>,
    /// True when nobody has read any partition of the topic yet.
    pub is_new_topic: bool,
}

/// Checks messages for a [`TopicWorker`], beside its work on others.
#[derive(Clone, Debug)]
pub struct TopicChecker {
    schema: Arc<SourceSchema>,
    settings: PushSettings,
    clock: Arc<dyn Clock>,
}

impl TopicChecker {
    /// Checks messages as pushed rows are.
    ///
    /// # Errors
    /// Only what no single message is to blame for.
    pub fn check(&self, messages: &Messages) -> Result<Checked, PushError> {
        let now = self.clock.now();
        let (schema, settings) = (&*self.schema, &self.settings);
        let checked = messages::check(schema, messages, settings)?;
        // Sources of workers have no identities.
        let decided = decide(schema, checked, now, true, &mut Dedup::new(0, 1))?;
        let place = |number: u32| {
            let message = &messages.messages[number as usize];
            (message.partition, message.offset)
        };
        let numbers = decided.numbers.unwrap_or_else(|| (0..decided.rows.num_rows() as u32).collect());
        let seq = |(row, number): (usize, &u32)| {
            let (partition, offset) = place(*number);
            let is_second = row > 0 && numbers[row - 1] == *number;
            topic_seq(partition, offset, usize::from(is_second))
        };
        let seqs: Vec<i64> = numbers.iter().enumerate().map(seq).collect();
        let letter = |refused: RefusedRow| {
            let (partition, offset) = place(refused.row);
            let place = format!(" (topic `{}`, partition {partition}, offset {offset})", messages.topic);
            DeadLetter {
                offset: topic_seq(partition, offset, 0),
                refused_at: now,
                code: refused.code.to_owned(),
                reason: refused.reason + &place,
                row: refused.text,
            }
        };
        let mut letters: Vec<DeadLetter> = decided.refused.into_iter().map(letter).collect();
        letters.sort_by_key(|letter| letter.offset);
        Ok(Checked {
            event_time: timestamps(decided.rows.column(schema.event_time)).values().to_vec(),
            known_at: decided.known_at.unwrap_or_else(|| vec![now; decided.rows.num_rows()]),
            rows: decided.rows,
            seqs,
            letters,
            ranges: messages.ranges.clone(),
            messages: messages.messages.len() as u64,
            tombstones: messages.messages.iter().filter(|message| message.value.is_none()).count() as u64,
        })
    }
}

impl TopicWorker {
    /// Nothing is read yet. `row_cache_bytes`: how much memory the rows of all views may take that were written last.
    ///
    /// # Errors
    /// `invalid_definition`, also for a source with an `event_id`: its events would have to be known to all workers.
    pub fn new(
        definitions: &Definitions,
        source: &str,
        builds: Vec<FedBuild>,
        (store, lake): (Arc<dyn SharedRows>, Lake),
        settings: PushSettings,
        row_cache_bytes: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PushError> {
        let invalid = |why: String| PushError::new("invalid_definition", why);
        let definition = definitions
            .sources
            .get(source)
            .ok_or_else(|| invalid(format!("there is no source `{source}`")))?;
        if definition.event_id.is_some() {
            return Err(invalid(format!(
                "source `{source}` has an `event_id`: events that come twice would have to be known to all workers"
            ))
            .hint("leave `event_id` out where messages come once (an idempotent producer), or let `springhouse serve` read the topic: take `workers` out of `kafka:` in springhouse.yaml"));
        }
        let schema = Arc::new(SourceSchema::new(definitions, definition)?);
        let share = row_cache_bytes / builds.len().max(1);
        let feeds = builds
            .into_iter()
            .map(|build| Feed::new(definitions, definition, build, share))
            .collect::<Result<_, PushError>>()?;
        let buffer = LakeBuffer::new(lake.clone(), schema.source.clone(), &settings);
        let latencies = LatencyHistogram::default();
        Ok(Self { schema, settings, store, lake, clock, feeds, buffer, latencies })
    }

    /// Checks messages for it.
    pub fn checker(&self) -> TopicChecker {
        let (schema, settings, clock) = (self.schema.clone(), self.settings.clone(), self.clock.clone());
        TopicChecker { schema, settings, clock }
    }

    /// Takes partitions over, but those that nobody has read yet: say [`Self::begin`] where they begin, and take them over then.
    ///
    /// # Errors
    /// What the store or the lake says.
    pub async fn take_over(&mut self, partitions: &[i32]) -> Result<TakenOver, WorkError> {
        if let Some(beyond) = partitions.iter().find(|partition| **partition >= PARTITIONS_MAX) {
            return Err(WorkError::Outdated(format!(
                "partition {beyond} is beyond the {PARTITIONS_MAX} that can be read"
            )));
        }
        let in_lake = self.lake.topic_positions(&self.schema.source).await?;
        let in_store = self.store.positions().await?;
        let mut taken = TakenOver { is_new_topic: in_lake.next.is_empty(), ..TakenOver::default() };
        for partition in partitions {
            let (Some(next), Some(first)) = (in_lake.next.get(partition), in_lake.first.get(partition))
            else {
                taken.unknown.push(*partition);
                continue;
            };
            let mut in_rows = i64::MAX;
            for feed in &mut self.feeds {
                let Some((_, positions)) = in_store.get(&feed.name) else {
                    return Err(WorkError::Outdated(format!("{} is no longer written", feed.name)));
                };
                in_rows = in_rows.min(feed.take_over(*partition, positions, *first));
            }
            self.buffer.take_over(*partition, *next);
            taken.in_rows.insert(*partition, in_rows);
            taken.begins.insert(*partition, in_rows.min(*next));
        }
        Ok(taken)
    }

    /// Says where partitions begin that nobody has read yet, once and for all workers.
    ///
    /// # Errors
    /// What the lake says.
    pub async fn begin(&self, first: &Positions) -> Result<(), WorkError> {
        Ok(self.lake.begin_partitions(&self.schema.source, first).await?)
    }

    /// Puts checked messages into the rows of all views, and on their way to the lake. After `Unavailable` the same messages
    /// may be given again; those that are in already change nothing.
    ///
    /// # Errors
    /// What the store says.
    pub async fn apply(&mut self, checked: &Checked) -> Result<(), WorkError> {
        let now = self.clock.now();
        let store = &self.store;
        try_join_all(self.feeds.iter_mut().map(|feed| feed.apply(store.as_ref(), checked, now))).await?;
        if self.buffer.add(checked)? {
            self.latencies.add(&checked.event_time, self.clock.now());
        }
        Ok(self.buffer.make_room().await?)
    }

    /// Begins to bring to the lake what has waited long enough, in the background; notes what has come there.
    pub async fn tick(&mut self) {
        self.buffer.tick().await;
    }

    /// Brings everything to the lake.
    ///
    /// # Errors
    /// What the lake says; what it did not take is brought there by whoever reads these partitions next.
    pub async fn flush(&mut self) -> Result<(), WorkError> {
        Ok(self.buffer.flush().await?)
    }

    /// Why the last attempt to bring rows to the lake failed; none while it works.
    pub fn lake_error(&self) -> Option<String> {
        self.buffer.error()
    }

    /// Says to all how far the owned partitions are, and what is noted.
    ///
    /// # Errors
    /// What the store says.
    pub async fn commit(&mut self, notes: &[(String, String)]) -> Result<(), WorkError> {
        let positions: Vec<(Arc<str>, Positions)> =
            self.feeds.iter().map(|feed| (feed.name.clone(), feed.positions.clone())).collect();
        self.store.commit(&positions, notes).await?;
        self.feeds.iter_mut().for_each(Feed::committed);
        Ok(())
    }

    /// What was noted last under some names.
    ///
    /// # Errors
    /// What the store says.
    pub async fn notes(&self, names: &[String]) -> Result<Vec<Option<String>>, WorkError> {
        Ok(self.store.notes(names).await?)
    }

    /// Gives partitions up.
    pub fn release(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.buffer.release(*partition);
            self.feeds.iter_mut().for_each(|feed| feed.release(*partition));
        }
    }

    /// From event to servable, since the start.
    pub fn latencies(&self) -> &LatencyHistogram {
        &self.latencies
    }

    /// The builds whose rows have everything below an offset of a partition.
    pub fn builds_at(&self, partition: i32, offset: i64) -> impl Iterator<Item = &Arc<str>> {
        let has =
            move |feed: &&Feed| feed.positions.get(&partition).is_some_and(|position| *position >= offset);
        self.feeds.iter().filter(has).map(|feed| &feed.name)
    }
}

/// The builds of a source that the store has and whose plans are these.
///
/// # Errors
/// `Outdated` when a build has another meaning than its plan: the definitions have changed since.
pub fn fed_builds(views: &[ViewHandle], in_store: &Builds) -> Result<Vec<FedBuild>, WorkError> {
    let mut fed = Vec::new();
    for view in views {
        let prefix = format!("{}/", view.id);
        for (name, (build, positions)) in in_store.iter().filter(|(name, _)| name.starts_with(&prefix)) {
            let Ok(generation) = name[prefix.len()..].parse() else { continue };
            let handle = ViewHandle { generation, ..view.clone() };
            debug_assert_eq!(build_name(&handle), *name);
            if build.fingerprint != view.plan.fingerprint() {
                return Err(WorkError::Outdated(format!(
                    "the rows of `{name}` were written with another meaning; run `springhouse rebuild`"
                )));
            }
            fed.push(FedBuild { handle, build: build.clone(), positions: positions.clone() });
        }
    }
    Ok(fed)
}
