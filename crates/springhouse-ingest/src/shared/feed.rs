//! One view and generation in one worker: its rows, and which messages they have.

use super::{Checked, FedBuild, WorkError};
use crate::applier::projection_of;
use crate::outcome::PushError;
use springhouse_core::definition::{Definitions, Source};
use springhouse_core::{EntityKey, Micros, offset_of, partition_of};
use springhouse_expr::ViewProjection;
use springhouse_kernel::{EntityState, Stamp};
use springhouse_online::{Positions, Replacement, SharedRow, SharedRows, ViewHandle, build_name};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Wait before rows are read again that another worker was faster to write; grows with every attempt.
const CONTENTION_WAIT: Duration = Duration::from_millis(1);
const CONTENTION_WAIT_MAX: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Feed {
    /// Of the build.
    pub(super) name: Arc<str>,
    handle: ViewHandle,
    projection: ViewProjection,
    /// What its history has; workers write what comes after.
    start: Positions,
    /// By shard of the store: what it has said, or was told, that all rows have.
    committed: Vec<Positions>,
    /// Of the owned partitions: everything below is in the rows.
    pub(super) positions: Positions,
    rows: Rows,
}

/// A row that is to be written.
struct Work {
    key: EntityKey,
    /// Rows of the projection.
    events: Vec<u32>,
    before: Option<u64>,
    positions: Vec<(i32, i64)>,
    state: EntityState,
}

impl Feed {
    pub(super) fn new(
        definitions: &Definitions,
        source: &Source,
        fed: FedBuild,
        cache_bytes: usize,
    ) -> Result<Self, PushError> {
        let FedBuild { handle, build, positions } = fed;
        let projection = projection_of(definitions, source, &handle)?;
        Ok(Self {
            name: build_name(&handle),
            handle,
            projection,
            start: build.start,
            committed: positions,
            positions: Positions::new(),
            rows: Rows::new(cache_bytes),
        })
    }

    /// Takes a partition over where the store says that every shard has come; `first`: where its topic begins for us.
    pub(super) fn take_over(&mut self, partition: i32, in_store: &[Positions], first: i64) -> i64 {
        let least = self.start.get(&partition).copied().unwrap_or(first);
        let mut position = i64::MAX;
        for (known, said) in self.committed.iter_mut().zip(in_store) {
            match said.get(&partition) {
                Some(said) => drop(known.insert(partition, *said)),
                None => drop(known.remove(&partition)),
            }
            position = position.min(said.get(&partition).map_or(least, |said| (*said).max(least)));
        }
        self.positions.insert(partition, position);
        position
    }

    pub(super) fn release(&mut self, partition: i32) {
        self.positions.remove(&partition);
    }

    /// The present positions were committed.
    pub(super) fn committed(&mut self) {
        for known in &mut self.committed {
            for (partition, position) in &self.positions {
                let known = known.entry(*partition).or_insert(*position);
                *known = (*known).max(*position);
            }
        }
    }

    /// Below this offset all messages of the partition are in the rows of the shard.
    fn floor(&self, shard: usize, partition: i32) -> i64 {
        let start = self.start.get(&partition).copied().unwrap_or(0);
        self.committed[shard].get(&partition).map_or(start, |committed| start.max(*committed))
    }

    /// Puts the messages into the rows that are not in yet.
    pub(super) async fn apply(
        &mut self,
        store: &dyn SharedRows,
        checked: &Checked,
        now: Micros,
    ) -> Result<(), WorkError> {
        for range in &checked.ranges {
            if let Some(position) =
                self.positions.get(&range.partition).filter(|position| range.from > **position)
            {
                return Err(WorkError::Outdated(format!(
                    "partition {}: messages from offset {} are given, but {} has those below {position} only",
                    range.partition, range.from, self.name
                )));
            }
        }
        let projected = self.projection.project(&checked.rows);
        let mut of_key: HashMap<EntityKey, Vec<u32>, ahash::RandomState> = HashMap::default();
        for (index, key) in self.projection.keys(&projected).into_iter().enumerate() {
            // A row without a usable key describes no entity of this view.
            let Ok(key) = key else { continue };
            let seq = checked.seqs[projected.rows[index] as usize];
            let reached = self.positions.get(&partition_of(seq));
            if reached.is_some_and(|reached| offset_of(seq) >= *reached) {
                of_key.entry(key).or_default().push(index as u32);
            }
        }
        let mut todo: Vec<(EntityKey, Vec<u32>)> = of_key.into_iter().collect();
        let committed =
            |partition| self.committed.iter().map(|shard| shard.get(&partition).copied()).collect();
        let fence: Vec<(i32, Vec<Option<i64>>)> =
            checked.ranges.iter().map(|range| (range.partition, committed(range.partition))).collect();
        let mut wait = CONTENTION_WAIT;
        while !todo.is_empty() {
            let missing: Vec<EntityKey> =
                todo.iter().filter(|(key, _)| !self.rows.has(key)).map(|(key, _)| key.clone()).collect();
            let read =
                if missing.is_empty() { Vec::new() } else { store.read(&self.handle, &missing).await? };
            let mut read: HashMap<EntityKey, Option<SharedRow>, ahash::RandomState> =
                missing.into_iter().zip(read).collect();
            let mut work = Vec::with_capacity(todo.len());
            for (key, events) in todo.drain(..) {
                let held = match self.rows.take(&key) {
                    Some(held) => Some(held),
                    None => read.remove(&key).flatten(),
                };
                work.extend(self.add(&projected, checked, key, events, held, store, now));
            }
            if work.is_empty() {
                break;
            }
            let replacements: Vec<Replacement<'_>> = work
                .iter()
                .map(|work| Replacement {
                    key: &work.key,
                    before: work.before,
                    positions: &work.positions,
                    state: &work.state,
                })
                .collect();
            let versions = store.replace(&self.handle, &fence, &replacements).await?;
            drop(replacements);
            for (work, version) in work.into_iter().zip(versions) {
                match version {
                    Some(version) => {
                        let held = SharedRow { version, positions: work.positions, state: work.state };
                        self.rows.insert(work.key, held);
                    }
                    None => todo.push((work.key, work.events)),
                }
            }
            if !todo.is_empty() {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(CONTENTION_WAIT_MAX);
            }
        }
        for range in &checked.ranges {
            if let Some(position) = self.positions.get_mut(&range.partition) {
                *position = range.to.max(*position);
            }
        }
        Ok(())
    }

    /// A row with those of the events that it does not have; none when it has all, and goes back to the others.
    #[expect(clippy::too_many_arguments, reason = "one step of `apply`, its only caller")]
    fn add(
        &mut self,
        projected: &springhouse_expr::ProjectedRows,
        checked: &Checked,
        key: EntityKey,
        events: Vec<u32>,
        held: Option<SharedRow>,
        store: &dyn SharedRows,
        now: Micros,
    ) -> Option<Work> {
        let shard = store.shard_of(&key);
        let plan = &self.handle.plan;
        let (before, mut positions, mut state) = match held {
            Some(held) => (Some(held.version), held.positions, held.state),
            None => (None, Vec::new(), plan.empty()),
        };
        let mut is_changed = false;
        // What the row has of each partition as it came: an event of the batch does not hide one that stands behind it.
        let has = positions.clone();
        for event in &events {
            let index = *event as usize;
            let row = projected.rows[index] as usize;
            let seq = checked.seqs[row];
            let (partition, offset) = (partition_of(seq), offset_of(seq));
            let reached = has.iter().find(|(known, _)| *known == partition).map_or(0, |(_, next)| *next);
            if offset < reached.max(self.floor(shard, partition)) {
                continue;
            }
            let stamp = Stamp { event_time: checked.event_time[row], known_at: checked.known_at[row], seq };
            plan.insert(&mut state, self.projection.event(projected, index, stamp), now);
            is_changed = true;
            match positions.iter_mut().find(|(known, _)| *known == partition) {
                Some((_, next)) => *next = (*next).max(offset + 1),
                None => positions.push((partition, offset + 1)),
            }
        }
        if !is_changed {
            if let Some(version) = before {
                self.rows.insert(key, SharedRow { version, positions, state });
            }
            return None;
        }
        plan.compact(&mut state, now);
        // What all rows have, no row needs to remember.
        positions.retain(|(partition, next)| *next > self.floor(shard, *partition));
        Some(Work { key, events, before, positions, state })
    }
}

/// Rows that were written last: about as many as fit, the older half goes at once.
#[derive(Debug)]
struct Rows {
    newer: HashMap<EntityKey, SharedRow, ahash::RandomState>,
    older: HashMap<EntityKey, SharedRow, ahash::RandomState>,
    /// Of the newer ones, about.
    bytes: usize,
    bytes_max: usize,
}

impl Rows {
    fn new(bytes_max: usize) -> Self {
        Self { newer: HashMap::default(), older: HashMap::default(), bytes: 0, bytes_max }
    }

    fn has(&self, key: &EntityKey) -> bool {
        self.newer.contains_key(key) || self.older.contains_key(key)
    }

    fn size(key: &EntityKey, held: &SharedRow) -> usize {
        key.as_bytes().len() + held.state.size_bytes() + held.positions.len() * 16 + 96
    }

    fn take(&mut self, key: &EntityKey) -> Option<SharedRow> {
        if let Some(held) = self.newer.remove(key) {
            self.bytes = self.bytes.saturating_sub(Self::size(key, &held));
            return Some(held);
        }
        self.older.remove(key)
    }

    fn insert(&mut self, key: EntityKey, held: SharedRow) {
        self.bytes += Self::size(&key, &held);
        self.newer.insert(key, held);
        if self.bytes > self.bytes_max / 2 {
            self.older = std::mem::take(&mut self.newer);
            self.bytes = 0;
        }
    }
}
