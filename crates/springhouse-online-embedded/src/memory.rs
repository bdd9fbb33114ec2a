//! The upper level: states in memory, those that changed since the last checkpoint among them.
//!
//! An entry is *dirty* from a write until a checkpoint has taken it, then *in flight* until that checkpoint is in the
//! file, then clean. Only clean entries may be evicted. An entry that was made by a write while the file may hold an
//! older state of its entity is not *whole*: it holds the events of that write only. A read or a checkpoint completes
//! it by merging the file's state in, so that a write never waits for the disk.

use crate::error::poisoned;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::{EntityState, ViewPlan};
use springhouse_online::{StoreError, StoreStatistics};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks; enough that a reader seldom meets the writer.
const SHARDS: usize = 256;
/// About what an entry takes besides its state and its key: table slot, counters of the `Arc`s, allocator.
const ENTRY_BYTES: usize = 128;

/// A key with its slot and hash: what finds an entry.
#[derive(Clone, Debug)]
pub(crate) struct RowKey {
    pub(crate) slot: u32,
    pub(crate) hash: u64,
    pub(crate) key: EntityKey,
}

/// A state as a checkpoint took it.
#[derive(Debug)]
pub(crate) struct DirtyRow {
    pub(crate) row: RowKey,
    pub(crate) state: Arc<EntityState>,
    pub(crate) whole: bool,
}

/// What memory says of a key.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its state.
    Whole(Arc<EntityState>),
    /// Some of its events; the file may hold more.
    Partial,
    /// Nothing; the file may.
    Nothing,
}

#[derive(Debug)]
struct Entry {
    slot: u32,
    size: u32,
    hash: u64,
    /// The checkpoint that last took this entry; in flight while that is greater than [`Memory::completed`].
    taken_by: u64,
    whole: bool,
    dirty: bool,
    /// Read since the last sweep: the sweep passes it over once.
    touched: AtomicBool,
    key: EntityKey,
    state: Arc<EntityState>,
}

#[derive(Debug, Default)]
struct Shard {
    table: HashTable<Entry>,
    /// The keys of the dirty entries, once each.
    dirty: Vec<RowKey>,
    bytes: usize,
    /// No sweep below this many bytes: one that found little to evict raises it.
    sweep_at: usize,
}

#[derive(Debug)]
pub(crate) struct Memory {
    hasher: ahash::RandomState,
    shards: Box<[RwLock<Shard>]>,
    shard_bytes_max: usize,
    /// The last checkpoint that is in the file. Whoever reads the file reads this first and checks it again under the
    /// lock of the shard that it changes: if it moved, what was read may be old.
    completed: AtomicU64,
    bytes: AtomicU64,
    entities: AtomicU64,
    dirty_bytes: AtomicU64,
    dirty_entities: AtomicU64,
}

impl Memory {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let shard_bytes_max = (bytes_max as usize / SHARDS).max(1);
        let shard = || RwLock::new(Shard { sweep_at: shard_bytes_max, ..Shard::default() });
        Self {
            hasher: ahash::RandomState::new(),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            shard_bytes_max,
            completed: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            entities: AtomicU64::new(0),
            dirty_bytes: AtomicU64::new(0),
            dirty_entities: AtomicU64::new(0),
        }
    }

    pub(crate) fn hash(&self, slot: u32, key: &EntityKey) -> u64 {
        self.hasher.hash_one((slot, key.as_bytes()))
    }

    pub(crate) fn get(&self, slot: u32, hash: u64, key: &EntityKey) -> Result<Found, StoreError> {
        let shard = self.read(hash)?;
        Ok(match shard.table.find(hash, |e| e.is(slot, key)) {
            Some(entry) if entry.whole => {
                entry.touch();
                Found::Whole(Arc::clone(&entry.state))
            }
            Some(_) => Found::Partial,
            None => Found::Nothing,
        })
    }

    /// Adds a delta. `may_be_stored`: whether the file may hold an older state.
    pub(crate) fn merge(
        &self,
        slot: u32,
        may_be_stored: bool,
        plan: &ViewPlan,
        key: EntityKey,
        mut delta: EntityState,
        now: Micros,
    ) -> Result<(), StoreError> {
        let hash = self.hash(slot, &key);
        let mut guard = self.write(hash)?;
        let shard = &mut *guard;
        match shard.table.entry(hash, |e| e.is(slot, &key), |e| e.hash) {
            TableEntry::Occupied(mut occupied) => {
                let entry = occupied.get_mut();
                // Copies when a reader or a running checkpoint still holds the state of before.
                let state = Arc::make_mut(&mut entry.state);
                plan.merge(state, &delta);
                plan.compact(state, now);
                let size_before = entry.size;
                entry.size = entry_bytes(&entry.key, &entry.state);
                self.resized(&mut shard.bytes, size_before, entry.size);
                if entry.dirty {
                    self.dirty_bytes.fetch_add(u64::from(entry.size), Ordering::Relaxed);
                    self.dirty_bytes.fetch_sub(u64::from(size_before), Ordering::Relaxed);
                } else {
                    entry.dirty = true;
                    shard.dirty.push(RowKey { slot, hash, key });
                    self.count_dirty(entry.size);
                }
            }
            TableEntry::Vacant(vacant) => {
                plan.compact(&mut delta, now);
                let size = entry_bytes(&key, &delta);
                shard.dirty.push(RowKey { slot, hash, key: key.clone() });
                self.count_dirty(size);
                self.resized(&mut shard.bytes, 0, size);
                self.entities.fetch_add(1, Ordering::Relaxed);
                vacant.insert(Entry {
                    slot,
                    size,
                    hash,
                    taken_by: 0,
                    whole: !may_be_stored,
                    dirty: true,
                    touched: AtomicBool::new(false),
                    key,
                    state: Arc::new(delta),
                });
            }
        }
        self.sweep_when_due(shard);
        Ok(())
    }

    /// The number to read before the file and to give to [`Self::complete_from_file`].
    pub(crate) fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    /// Takes in what a reader found in the file and gives the state then valid, or `None` for "read again": a
    /// checkpoint was completed since `completed`, so `stored` may be old.
    pub(crate) fn complete_from_file(
        &self,
        row: &RowKey,
        stored: Option<EntityState>,
        plan: &ViewPlan,
        completed: u64,
    ) -> Result<Option<Option<Arc<EntityState>>>, StoreError> {
        let mut guard = self.write(row.hash)?;
        if self.completed() != completed {
            return Ok(None);
        }
        let shard = &mut *guard;
        let state = match shard.table.entry(row.hash, |e| e.is(row.slot, &row.key), |e| e.hash) {
            TableEntry::Occupied(mut occupied) => {
                let entry = occupied.get_mut();
                if !entry.whole {
                    self.complete(entry, &mut shard.bytes, stored.as_ref(), plan);
                }
                entry.touch();
                Arc::clone(&entry.state)
            }
            TableEntry::Vacant(vacant) => {
                // Absence is not remembered: asking for keys that don't exist must not fill the memory.
                let Some(state) = stored else { return Ok(Some(None)) };
                let state = Arc::new(state);
                let size = entry_bytes(&row.key, &state);
                self.resized(&mut shard.bytes, 0, size);
                self.entities.fetch_add(1, Ordering::Relaxed);
                vacant.insert(Entry {
                    slot: row.slot,
                    size,
                    hash: row.hash,
                    taken_by: 0,
                    whole: true,
                    dirty: false,
                    touched: AtomicBool::new(false),
                    key: row.key.clone(),
                    state: Arc::clone(&state),
                });
                state
            }
        };
        self.sweep_when_due(shard);
        Ok(Some(Some(state)))
    }

    /// Completes an entry that a running checkpoint took, with the state that the file held before it.
    pub(crate) fn complete_in_flight(
        &self,
        row: &RowKey,
        stored: Option<&EntityState>,
        plan: &ViewPlan,
    ) -> Result<(), StoreError> {
        let mut guard = self.write(row.hash)?;
        let shard = &mut *guard;
        if let Some(entry) = shard.table.find_mut(row.hash, |e| e.is(row.slot, &row.key))
            && !entry.whole
        {
            self.complete(entry, &mut shard.bytes, stored, plan);
        }
        Ok(())
    }

    fn complete(
        &self,
        entry: &mut Entry,
        shard_bytes: &mut usize,
        stored: Option<&EntityState>,
        plan: &ViewPlan,
    ) {
        entry.whole = true;
        let Some(stored) = stored else { return };
        plan.merge(Arc::make_mut(&mut entry.state), stored);
        let size_before = entry.size;
        entry.size = entry_bytes(&entry.key, &entry.state);
        self.resized(shard_bytes, size_before, entry.size);
        if entry.dirty {
            self.dirty_bytes.fetch_add(u64::from(entry.size), Ordering::Relaxed);
            self.dirty_bytes.fetch_sub(u64::from(size_before), Ordering::Relaxed);
        }
    }

    /// Takes everything dirty for checkpoint `number`. The caller holds the write gate, so this is one moment.
    pub(crate) fn take_dirty(&self, number: u64) -> Result<Vec<DirtyRow>, StoreError> {
        let mut taken = Vec::with_capacity(self.dirty_entities.load(Ordering::Relaxed) as usize);
        for shard in &self.shards {
            let mut guard = shard.write().map_err(|_| poisoned("checkpoint"))?;
            let shard = &mut *guard;
            for row in std::mem::take(&mut shard.dirty) {
                let Some(entry) = shard.table.find_mut(row.hash, |e| e.is(row.slot, &row.key)) else {
                    continue;
                };
                entry.dirty = false;
                entry.taken_by = number;
                self.dirty_bytes.fetch_sub(u64::from(entry.size), Ordering::Relaxed);
                self.dirty_entities.fetch_sub(1, Ordering::Relaxed);
                taken.push(DirtyRow { row, state: Arc::clone(&entry.state), whole: entry.whole });
            }
        }
        Ok(taken)
    }

    /// A checkpoint failed: what it took is dirty again.
    pub(crate) fn give_back(&self, taken: Vec<DirtyRow>) -> Result<(), StoreError> {
        for DirtyRow { row, .. } in taken {
            let mut guard = self.write(row.hash)?;
            let shard = &mut *guard;
            if let Some(entry) = shard.table.find_mut(row.hash, |e| e.is(row.slot, &row.key))
                && !entry.dirty
            {
                entry.dirty = true;
                self.count_dirty(entry.size);
                shard.dirty.push(row);
            }
        }
        Ok(())
    }

    /// Checkpoint `number` is in the file: what it took is clean.
    pub(crate) fn checkpoint_completed(&self, number: u64) -> Result<(), StoreError> {
        self.completed.store(number, Ordering::Release);
        for shard in &self.shards {
            let mut shard = shard.write().map_err(|_| poisoned("checkpoint"))?;
            if shard.bytes > self.shard_bytes_max {
                self.sweep(&mut shard);
            }
        }
        Ok(())
    }

    /// Forgets a dropped slot.
    pub(crate) fn forget_slot(&self, slot: u32) -> Result<(), StoreError> {
        for shard in &self.shards {
            let mut guard = shard.write().map_err(|_| poisoned("drop generation"))?;
            let shard = &mut *guard;
            shard.dirty.retain(|row| row.slot != slot);
            for entry in shard.table.extract_if(|e| e.slot == slot) {
                self.resized(&mut shard.bytes, entry.size, 0);
                self.entities.fetch_sub(1, Ordering::Relaxed);
                if entry.dirty {
                    self.dirty_bytes.fetch_sub(u64::from(entry.size), Ordering::Relaxed);
                    self.dirty_entities.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Up to `limit` keys of a slot.
    pub(crate) fn keys(&self, slot: u32, limit: usize) -> Result<Vec<EntityKey>, StoreError> {
        let mut keys = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().map_err(|_| poisoned("sample keys"))?;
            let of_slot = shard.table.iter().filter(|e| e.slot == slot);
            keys.extend(of_slot.take(limit - keys.len()).map(|e| e.key.clone()));
        }
        Ok(keys)
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn statistics(&self) -> StoreStatistics {
        StoreStatistics {
            entities_in_memory: self.entities.load(Ordering::Relaxed),
            bytes_in_memory: self.bytes.load(Ordering::Relaxed),
            dirty_entities: self.dirty_entities.load(Ordering::Relaxed),
            ..StoreStatistics::default()
        }
    }

    fn sweep_when_due(&self, shard: &mut Shard) {
        if shard.bytes > shard.sweep_at {
            self.sweep(shard);
        }
    }

    /// Evicts clean entries down to seven eighths of the shard's share, those not read since the last sweep first.
    fn sweep(&self, shard: &mut Shard) {
        let target = self.shard_bytes_max / 8 * 7;
        let completed = self.completed();
        // The second round meets no touched entries; what remains then is dirty or in flight.
        for _ in 0..2 {
            let mut bytes = shard.bytes;
            shard.table.retain(|entry| {
                if bytes <= target
                    || !entry.is_clean(completed)
                    || entry.touched.swap(false, Ordering::Relaxed)
                {
                    return true;
                }
                self.resized(&mut bytes, entry.size, 0);
                self.entities.fetch_sub(1, Ordering::Relaxed);
                false
            });
            shard.bytes = bytes;
        }
        // Each sweep looks at the whole shard, so there must be some growth between two of them.
        shard.sweep_at = self.shard_bytes_max.max(shard.bytes + self.shard_bytes_max / 8);
    }

    fn count_dirty(&self, size: u32) {
        self.dirty_entities.fetch_add(1, Ordering::Relaxed);
        self.dirty_bytes.fetch_add(u64::from(size), Ordering::Relaxed);
    }

    fn resized(&self, shard_bytes: &mut usize, before: u32, after: u32) {
        *shard_bytes = *shard_bytes + after as usize - before as usize;
        self.bytes.fetch_add(u64::from(after), Ordering::Relaxed);
        self.bytes.fetch_sub(u64::from(before), Ordering::Relaxed);
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        // Bits that the table below uses neither for its buckets (the low ones) nor for its tags (the top seven).
        &self.shards[(hash >> 40) as usize % SHARDS]
    }

    fn read(&self, hash: u64) -> Result<RwLockReadGuard<'_, Shard>, StoreError> {
        self.shard(hash).read().map_err(|_| poisoned("read"))
    }

    fn write(&self, hash: u64) -> Result<RwLockWriteGuard<'_, Shard>, StoreError> {
        self.shard(hash).write().map_err(|_| poisoned("write"))
    }
}

impl Entry {
    fn is(&self, slot: u32, key: &EntityKey) -> bool {
        self.slot == slot && self.key == *key
    }

    fn is_clean(&self, completed: u64) -> bool {
        !self.dirty && self.taken_by <= completed
    }

    fn touch(&self) {
        // Read first: a line that many readers only read stays in all their caches.
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }
}

fn entry_bytes(key: &EntityKey, state: &EntityState) -> u32 {
    let bytes = ENTRY_BYTES + key.as_bytes().len() + state.size_bytes();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
