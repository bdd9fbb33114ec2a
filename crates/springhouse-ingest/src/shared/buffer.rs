//! Rows on their way to the lake, which takes them in larger portions than the store.

use super::{Checked, WorkError};
use crate::dead_letters;
use crate::flusher::lake_failed;
use crate::outcome::{DeadLetter, PushError};
use crate::settings::PushSettings;
use arrow::array::{RecordBatch, UInt64Array};
use springhouse_core::definition::Source;
use springhouse_core::{Micros, offset_of, partition_of};
use springhouse_lake::{Lake, StreamAppend};
use springhouse_online::Positions;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Longest wait before the lake is asked again.
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// A portion is sent when it has this many bytes, however few rows.
const PORTION_BYTES: usize = 64 << 20;
/// When this many times a portion waits, nothing more is taken until the lake has taken the one before.
const PORTIONS_MAX: usize = 2;
/// How long to wait for that before saying so.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
const ROOM_LOOK: Duration = Duration::from_millis(2);

/// One commit of the lake.
#[derive(Debug, Default)]
struct Portion {
    rows: Vec<RecordBatch>,
    event_time: Vec<Micros>,
    known_at: Vec<Micros>,
    seqs: Vec<i64>,
    letters: Vec<DeadLetter>,
    /// Of rows and letters, about.
    bytes: usize,
    /// By partition, the offset after the last message that was read.
    reached: Positions,
}

/// A portion that is being brought there.
#[derive(Debug)]
struct OnItsWay {
    portion: Arc<Portion>,
    task: JoinHandle<Result<(), PushError>>,
}

#[derive(Debug)]
pub(super) struct LakeBuffer {
    lake: Lake,
    source: Arc<Source>,
    rows_max: usize,
    interval: Duration,
    /// Of the owned partitions: below, everything is here or in the lake.
    next: Positions,
    waiting: Portion,
    on_its_way: Option<OnItsWay>,
    /// A portion that the lake did not take, and when it is tried again.
    refused: Option<(Arc<Portion>, Instant)>,
    failures: u32,
    error: Option<String>,
    last_begun: Instant,
}

impl LakeBuffer {
    pub(super) fn new(lake: Lake, source: Arc<Source>, settings: &PushSettings) -> Self {
        Self {
            lake,
            source,
            rows_max: usize::try_from(settings.flush_rows).unwrap_or(usize::MAX).max(1),
            interval: Duration::from_millis(settings.flush_interval_ms),
            next: Positions::new(),
            waiting: Portion::default(),
            on_its_way: None,
            refused: None,
            failures: 0,
            error: None,
            last_begun: Instant::now(),
        }
    }

    pub(super) fn take_over(&mut self, partition: i32, next: i64) {
        self.next.insert(partition, next);
    }

    pub(super) fn release(&mut self, partition: i32) {
        // Rows of it that still wait do no harm: the lake takes each once, whoever brings it.
        self.next.remove(&partition);
    }

    pub(super) fn error(&self) -> Option<String> {
        self.error.clone()
    }

    /// Adds what the lake does not have and what does not wait already. True when anything was added.
    ///
    /// # Errors
    /// When messages are missing between what is here and what is given.
    pub(super) fn add(&mut self, checked: &Checked) -> Result<bool, WorkError> {
        for range in &checked.ranges {
            if let Some(next) = self.next.get(&range.partition).filter(|next| range.from > **next) {
                return Err(WorkError::Outdated(format!(
                    "partition {}: messages from offset {} are given, but the lake gets those below {next} only",
                    range.partition, range.from
                )));
            }
        }
        let is_new = |seq: i64| self.next.get(&partition_of(seq)).is_some_and(|next| offset_of(seq) >= *next);
        let kept: Vec<usize> = (0..checked.seqs.len()).filter(|row| is_new(checked.seqs[*row])).collect();
        let letters = checked.letters.iter().filter(|letter| is_new(letter.offset)).cloned();
        let before = self.waiting.letters.len();
        self.waiting.letters.extend(letters);
        self.waiting.bytes += self.waiting.letters[before..].iter().map(|l| l.row.len() + 256).sum::<usize>();
        self.waiting.bytes += kept.len() * 32 + checked.rows.get_array_memory_size();
        if kept.len() == checked.seqs.len() {
            self.waiting.rows.push(checked.rows.clone());
        } else if !kept.is_empty() {
            let indices = UInt64Array::from_iter_values(kept.iter().map(|row| *row as u64));
            // Its only error is an index that is out of bounds.
            if let Ok(rows) = arrow::compute::take_record_batch(&checked.rows, &indices) {
                self.waiting.rows.push(rows);
            }
        }
        self.waiting.event_time.extend(kept.iter().map(|row| checked.event_time[*row]));
        self.waiting.known_at.extend(kept.iter().map(|row| checked.known_at[*row]));
        self.waiting.seqs.extend(kept.iter().map(|row| checked.seqs[*row]));
        for range in &checked.ranges {
            let Some(next) = self.next.get_mut(&range.partition).filter(|next| range.to > **next) else {
                continue;
            };
            *next = range.to;
            self.waiting.reached.insert(range.partition, range.to);
        }
        Ok(!kept.is_empty())
    }

    /// Notes what has come to the lake, and sends more when it is time.
    pub(super) async fn tick(&mut self) {
        if self.on_its_way.as_ref().is_some_and(|sent| sent.task.is_finished()) {
            // What went wrong is noted, and tried again.
            let _ = self.arrive().await;
        }
        if self.on_its_way.is_some() {
            return;
        }
        if let Some((portion, _)) = self.refused.take_if(|(_, at)| *at <= Instant::now()) {
            self.send(portion);
            return;
        }
        let is_due = self.holds(1) || self.last_begun.elapsed() >= self.interval;
        if is_due && self.refused.is_none() && !self.waiting.reached.is_empty() {
            let portion = std::mem::take(&mut self.waiting);
            self.send(Arc::new(portion));
        }
    }

    /// True when that many portions wait.
    fn holds(&self, portions: usize) -> bool {
        self.waiting.seqs.len() >= self.rows_max.saturating_mul(portions)
            || self.waiting.bytes >= PORTION_BYTES * portions
    }

    /// Waits while more would be too much; says so when that takes long.
    pub(super) async fn make_room(&mut self) -> Result<(), PushError> {
        let until = tokio::time::Instant::now() + ROOM_PATIENCE;
        self.tick().await;
        while self.holds(PORTIONS_MAX) {
            if tokio::time::Instant::now() > until {
                let why = self.error.clone().unwrap_or_else(|| "it does not answer".to_owned());
                return Err(PushError::new("lake_failed", format!("the lake takes no more rows: {why}")));
            }
            tokio::time::sleep(ROOM_LOOK).await;
            self.tick().await;
        }
        Ok(())
    }

    /// Brings everything to the lake; gives up at the first failure.
    pub(super) async fn flush(&mut self) -> Result<(), PushError> {
        loop {
            if self.on_its_way.is_some() {
                self.arrive().await?;
            } else if let Some((portion, _)) = self.refused.take() {
                self.send(portion);
            } else if !self.waiting.reached.is_empty() {
                let portion = std::mem::take(&mut self.waiting);
                self.send(Arc::new(portion));
            } else {
                return Ok(());
            }
        }
    }

    fn send(&mut self, portion: Arc<Portion>) {
        self.last_begun = Instant::now();
        let (lake, source, sent) = (self.lake.clone(), self.source.clone(), portion.clone());
        // Sorting, encoding and syncing a portion takes a while: the rows of the store must not wait for it.
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || runtime.block_on(bring(&lake, &source, &sent)));
        self.on_its_way = Some(OnItsWay { portion, task });
    }

    async fn arrive(&mut self) -> Result<(), PushError> {
        let Some(OnItsWay { portion, task }) = self.on_its_way.take() else { return Ok(()) };
        let result = match task.await {
            Ok(result) => result,
            Err(error) => Err(PushError::new("lake_failed", error.to_string())),
        };
        match &result {
            Ok(()) => (self.failures, self.error) = (0, None),
            Err(error) => {
                if self.failures == 0 {
                    tracing::warn!(%error, "the lake does not take rows; they wait, and it is tried again");
                }
                self.error = Some(error.to_string());
                let wait =
                    (self.interval / 8 * 2u32.saturating_pow(self.failures.min(16))).min(RETRY_LONGEST);
                self.failures += 1;
                self.refused = Some((portion, Instant::now() + wait));
            }
        }
        result
    }
}

async fn bring(lake: &Lake, source: &Source, portion: &Portion) -> Result<(), PushError> {
    let internal = |error: arrow::error::ArrowError| PushError::new("lake_failed", error.to_string());
    if !portion.letters.is_empty() {
        let mut letters: Vec<&DeadLetter> = portion.letters.iter().collect();
        letters.sort_by_key(|letter| letter.offset);
        letters.dedup_by_key(|letter| letter.offset);
        let numbers: Vec<i64> = letters.iter().map(|letter| letter.offset).collect();
        let letters: Vec<DeadLetter> = letters.into_iter().cloned().collect();
        let batch = dead_letters::to_batch(&letters).map_err(internal)?;
        lake.append_topic_letters(&source.name, &batch, &numbers, &portion.reached)
            .await
            .map_err(lake_failed)?;
    }
    let mut order: Vec<usize> = (0..portion.seqs.len()).collect();
    order.sort_unstable_by_key(|row| portion.seqs[*row]);
    // A partition that was given up and taken over again is read again from where the lake has it.
    order.dedup_by_key(|row| portion.seqs[*row]);
    let rows = match portion.rows.first() {
        None => RecordBatch::new_empty(crate::rows::schema_of(source)),
        Some(first) => arrow::compute::concat_batches(first.schema_ref(), &portion.rows).map_err(internal)?,
    };
    let indices = UInt64Array::from_iter_values(order.iter().map(|row| *row as u64));
    let append = StreamAppend {
        rows: arrow::compute::take_record_batch(&rows, &indices).map_err(internal)?,
        event_time: order.iter().map(|row| portion.event_time[*row]).collect(),
        known_at: order.iter().map(|row| portion.known_at[*row]).collect(),
        offset: order.iter().map(|row| portion.seqs[*row]).collect(),
        event_id: vec![None; order.len()],
    };
    lake.append_topic(source, &append, &portion.reached).await.map_err(lake_failed)?;
    Ok(())
}
