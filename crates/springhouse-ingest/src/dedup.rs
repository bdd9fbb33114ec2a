//! What was seen before: identities of events and outcomes of keyed batches, bounded in time and number.
//!
//! Durable because it is rebuilt: from the log, and from *ids files* for what is no longer in the log. Before a segment is
//! deleted its identities go to `<first offset>.ids`; identities of history go to `history-<number>.ids`.

mod files;

use crate::log::{LogError, Record};
use crate::outcome::{PushOutcome, RowOutcome};
use parking_lot::Mutex;
use springhouse_core::Micros;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Most bytes of outcomes kept for batch keys; the oldest go first.
const OUTCOME_BYTES_MAX: usize = 64 << 20;

/// The identities that a push is checked against.
#[derive(Debug)]
pub(crate) struct Dedup {
    window: Micros,
    pushed: IdSet,
    /// Apart, so that loading a long history can't push out the ids of live events.
    history: IdSet,
    batches: BatchOutcomes,
}

impl Dedup {
    pub(crate) fn new(window: Micros, keys_max: usize) -> Self {
        Self {
            window,
            pushed: IdSet::new(keys_max),
            history: IdSet::new(keys_max),
            batches: BatchOutcomes::default(),
        }
    }

    /// Forgets what is older than the window at `now`.
    pub(crate) fn expire(&mut self, now: Micros) {
        let oldest = now.saturating_sub(self.window);
        self.pushed.expire(oldest);
        self.history.expire(oldest);
        self.batches.expire(oldest);
    }

    /// True when the (salted) identity was seen.
    pub(crate) fn contains(&self, id: u128) -> bool {
        self.pushed.set.contains(&id) || self.history.set.contains(&id)
    }

    /// Remembers a pushed identity; false when it was seen before.
    pub(crate) fn insert(&mut self, id: u128, at: Micros) -> bool {
        !self.history.set.contains(&id) && self.pushed.insert(id, at)
    }

    /// The first outcome of a batch key.
    pub(crate) fn batch(&self, key: u128) -> Option<Arc<PushOutcome>> {
        self.batches.outcomes.get(&key).cloned()
    }

    /// Remembers the outcome of a batch key.
    pub(crate) fn insert_batch(&mut self, key: u128, at: Micros, outcome: PushOutcome) {
        self.batches.insert(key, at, outcome);
    }

    /// Takes in what a record of the log remembers.
    pub(crate) fn replay(&mut self, record: &Record) {
        let salt = source_salt(&record.source);
        for id in record.ids.iter().flatten().filter(|id| **id != 0) {
            self.pushed.insert(*id ^ salt, record.known_at);
        }
        if let Some(key) = record.batch_key {
            self.batches.insert(key, record.known_at, outcome_of(record));
        }
    }

    /// Takes in the ids files of `directory`, but those of segments that are still in the log (`log_first` and later).
    pub(crate) fn load(&mut self, directory: &Path, log_first: i64) -> Result<(), LogError> {
        files::load(self, directory, log_first)
    }

    /// Writes what the records of a segment remember to its ids file, durably.
    pub(crate) fn keep_segment(directory: &Path, first: i64, ids: &SegmentIds) -> Result<(), LogError> {
        files::write_segment(directory, first, ids)
    }

    /// Those of the (salted) identities that were not seen.
    fn unseen(&self, ids: &[u128]) -> Vec<u128> {
        ids.iter().copied().filter(|id| !self.contains(*id)).collect()
    }
}

/// Deletes the ids files of which nothing is remembered any more.
pub(crate) fn drop_old_files(dedup: &Mutex<Dedup>, directory: &Path, now: Micros) -> Result<(), LogError> {
    let (window, keys_max) = {
        let dedup = dedup.lock();
        (dedup.window, dedup.pushed.keys_max)
    };
    files::drop_old(directory, now.saturating_sub(window), keys_max)
}

/// Remembers (salted) identities of history, durably. The index is not locked while files are written: pushes go on. The
/// caller sees to it that only one thread changes the directory's files.
pub(crate) fn remember_history(
    dedup: &Mutex<Dedup>,
    directory: &Path,
    ids: &[u128],
    at: Micros,
) -> Result<(), LogError> {
    let new = dedup.lock().unseen(ids);
    if new.is_empty() {
        return Ok(());
    }
    let files = files::write_history(directory, &new, at)?;
    let whole = {
        let mut dedup = dedup.lock();
        for id in new {
            dedup.history.insert(id, at);
        }
        (files > files::HISTORY_FILES_MAX).then(|| dedup.history.to_runs())
    };
    match whole {
        Some(runs) => files::compact_history(directory, runs),
        None => Ok(()),
    }
}

/// What makes identities of two sources two.
pub(crate) fn source_salt(source: &str) -> u128 {
    xxh3_128(source.as_bytes())
}

/// The identity of a batch key.
pub(crate) fn batch_key(source: &str, key: &str) -> u128 {
    xxh3_128(key.as_bytes()) ^ source_salt(source).rotate_left(64)
}

/// The outcome that a record's push had.
fn outcome_of(record: &Record) -> PushOutcome {
    let duplicates = record.duplicates.iter().map(|row| (*row as usize, RowOutcome::Duplicate));
    let refused = record
        .refused
        .iter()
        .map(|r| (r.row as usize, RowOutcome::Refused { code: r.code, reason: r.reason.clone() }));
    let mut exceptions: Vec<_> = duplicates.chain(refused).collect();
    exceptions.sort_unstable_by_key(|(row, _)| *row);
    PushOutcome {
        accepted: record.accepted as usize,
        duplicates: record.duplicates.len(),
        refused: record.refused.len(),
        exceptions,
        end_offset: record.end(),
        known_at: record.known_at,
    }
}

/// What the records of one segment remember.
#[derive(Debug, Default)]
pub(crate) struct SegmentIds {
    /// Salted identities, with the moment of each run.
    runs: Vec<(Micros, Vec<u128>)>,
    /// Outcomes of batch keys.
    batches: Vec<(u128, PushOutcome)>,
}

impl SegmentIds {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.batches.is_empty()
    }

    /// Adds a record's.
    pub(crate) fn add(&mut self, record: &Record) {
        let salt = source_salt(&record.source);
        let ids = record.ids.iter().flatten().filter(|id| **id != 0).map(|id| *id ^ salt);
        match self.runs.last_mut() {
            Some((at, run)) if *at == record.known_at => run.extend(ids),
            _ => {
                let run: Vec<u128> = ids.collect();
                if !run.is_empty() {
                    self.runs.push((record.known_at, run));
                }
            }
        }
        if let Some(key) = record.batch_key {
            self.batches.push((key, outcome_of(record)));
        }
    }
}

/// A set that forgets its oldest members, by number and by age.
#[derive(Debug)]
struct IdSet {
    keys_max: usize,
    set: HashSet<u128, BuildHasherDefault<LowBits>>,
    /// In order of insertion.
    order: VecDeque<u128>,
    /// Moments of runs in `order`, with their lengths.
    runs: VecDeque<(Micros, usize)>,
}

impl IdSet {
    fn new(keys_max: usize) -> Self {
        Self { keys_max, set: HashSet::default(), order: VecDeque::new(), runs: VecDeque::new() }
    }

    fn insert(&mut self, id: u128, at: Micros) -> bool {
        if !self.set.insert(id) {
            return false;
        }
        self.order.push_back(id);
        match self.runs.back_mut() {
            Some((last, count)) if *last >= at => *count += 1,
            _ => self.runs.push_back((at, 1)),
        }
        if self.order.len() > self.keys_max {
            self.forget(1);
        }
        true
    }

    /// Its members with the moment of each run, oldest first.
    fn to_runs(&self) -> Vec<(Micros, Vec<u128>)> {
        let mut order = self.order.iter().copied();
        self.runs.iter().map(|(at, count)| (*at, order.by_ref().take(*count).collect())).collect()
    }

    fn expire(&mut self, oldest: Micros) {
        while let Some((at, count)) = self.runs.front().copied()
            && at < oldest
        {
            self.forget(count);
        }
    }

    fn forget(&mut self, count: usize) {
        for id in self.order.drain(..count) {
            self.set.remove(&id);
        }
        let run = self.runs.front_mut().expect("every identity belongs to a run");
        run.1 -= count;
        if run.1 == 0 {
            self.runs.pop_front();
        }
    }
}

/// Identities are hashes already: their low half is the hash.
#[derive(Debug, Default)]
struct LowBits(u64);

impl Hasher for LowBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
}

#[derive(Debug, Default)]
struct BatchOutcomes {
    outcomes: HashMap<u128, Arc<PushOutcome>>,
    order: VecDeque<(Micros, u128, usize)>,
    bytes: usize,
}

impl BatchOutcomes {
    fn insert(&mut self, key: u128, at: Micros, outcome: PushOutcome) {
        let bytes = size_of(&outcome);
        if self.outcomes.insert(key, Arc::new(outcome)).is_none() {
            self.order.push_back((at, key, bytes));
            self.bytes += bytes;
        }
        while self.bytes > OUTCOME_BYTES_MAX && self.order.len() > 1 {
            self.forget_oldest();
        }
    }

    fn expire(&mut self, oldest: Micros) {
        while self.order.front().is_some_and(|(at, ..)| *at < oldest) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key, bytes)) = self.order.pop_front() {
            self.outcomes.remove(&key);
            self.bytes -= bytes;
        }
    }
}

fn size_of(outcome: &PushOutcome) -> usize {
    let exceptions = outcome.exceptions.iter().map(|(_, exception)| match exception {
        RowOutcome::Refused { reason, .. } => 64 + reason.len(),
        _ => 64,
    });
    200 + exceptions.sum::<usize>()
}

#[cfg(test)]
mod tests;
