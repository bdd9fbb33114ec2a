//! The in-memory store: the reference for all others.

use crate::store::{
    BoxFuture, Lane, OnlineStore, StoreError, StoreErrorKind, StoreStatistics, ViewHandle, ViewStatus, Write,
};
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::{CodecError, EntityState, ViewPlan};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks per view generation: enough that a reader seldom meets the writer.
const SHARDS: usize = 64;

/// Everything in memory; nothing survives the process, and `checkpoint` has nothing to do.
#[derive(Default)]
pub struct MemoryStore {
    /// The write gate: whoever holds it changes lanes, notes and rows.
    notes: Mutex<Notes>,
    tables: RwLock<BTreeMap<Arc<str>, Generations>>,
}

#[derive(Default)]
struct Notes {
    lanes: BTreeMap<Arc<str>, i64>,
    statuses: BTreeMap<(Arc<str>, u32), ViewStatus>,
    active: BTreeMap<Arc<str>, u32>,
}

type Generations = BTreeMap<u32, Arc<Table>>;
type Shard = HashMap<EntityKey, Arc<EntityState>, ahash::RandomState>;

/// The rows of one generation of a view.
struct Table {
    fingerprint: u64,
    hasher: ahash::RandomState,
    shards: [RwLock<Shard>; SHARDS],
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock_notes(&self) -> Result<MutexGuard<'_, Notes>, StoreError> {
        self.notes.lock().map_err(|_| poisoned("write"))
    }

    fn table(&self, view: &ViewHandle) -> Result<Option<Arc<Table>>, StoreError> {
        let tables = self.tables.read().map_err(|_| poisoned("read"))?;
        let table = tables.get(&view.id).and_then(|generations| generations.get(&view.generation)).cloned();
        match table {
            Some(table) if table.fingerprint != view.plan.fingerprint() => Err(StoreError {
                kind: StoreErrorKind::Corrupt,
                action: "use a view",
                store: "memory",
                detail: format!("view `{}`: {}", view.id, CodecError::Plan),
            }),
            table => Ok(table),
        }
    }

    fn table_or_new(&self, view: &ViewHandle) -> Result<Arc<Table>, StoreError> {
        if let Some(table) = self.table(view)? {
            return Ok(table);
        }
        let mut tables = self.tables.write().map_err(|_| poisoned("write"))?;
        let generations = tables.entry(Arc::clone(&view.id)).or_default();
        Ok(Arc::clone(
            generations
                .entry(view.generation)
                .or_insert_with(|| Arc::new(Table::new(view.plan.fingerprint()))),
        ))
    }

    fn get_now(
        &self,
        view: &ViewHandle,
        keys: &[EntityKey],
    ) -> Result<Vec<Option<Arc<EntityState>>>, StoreError> {
        let Some(table) = self.table(view)? else {
            return Ok(vec![None; keys.len()]);
        };
        keys.iter().map(|key| Ok(table.read(key)?.get(key).cloned())).collect()
    }

    fn write_now(&self, writes: Vec<Write>, lane: Lane, now: Micros) -> Result<bool, StoreError> {
        let mut notes = self.lock_notes()?;
        if notes.lanes.get(&lane.name).is_some_and(|reached| *reached >= lane.position) {
            return Ok(false);
        }
        let tables = writes.iter().map(|write| self.table_or_new(&write.view));
        let tables = tables.collect::<Result<Vec<_>, _>>()?;
        for (write, table) in writes.into_iter().zip(tables) {
            for (key, delta) in write.deltas {
                table.merge(&write.view.plan, key, delta, now)?;
            }
        }
        notes.lanes.insert(lane.name, lane.position);
        Ok(true)
    }

    fn sample_now(&self, view: &ViewHandle, limit: usize) -> Result<Vec<EntityKey>, StoreError> {
        let mut keys = Vec::new();
        if let Some(table) = self.table(view)? {
            for shard in &table.shards {
                let shard = shard.read().map_err(|_| poisoned("read"))?;
                keys.extend(shard.keys().take(limit - keys.len()).cloned());
            }
        }
        Ok(keys)
    }

    fn drop_now(&self, view_id: &str, generation: u32) -> Result<(), StoreError> {
        let mut notes = self.lock_notes()?;
        notes.statuses.remove(&(view_id.into(), generation));
        let mut tables = self.tables.write().map_err(|_| poisoned("write"))?;
        if let Some(generations) = tables.get_mut(view_id) {
            generations.remove(&generation);
        }
        Ok(())
    }
}

impl Table {
    fn new(fingerprint: u64) -> Self {
        Self {
            fingerprint,
            hasher: ahash::RandomState::new(),
            shards: std::array::from_fn(|_| RwLock::default()),
        }
    }

    fn shard(&self, key: &EntityKey) -> &RwLock<Shard> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    fn read(&self, key: &EntityKey) -> Result<RwLockReadGuard<'_, Shard>, StoreError> {
        self.shard(key).read().map_err(|_| poisoned("read"))
    }

    fn write(&self, key: &EntityKey) -> Result<RwLockWriteGuard<'_, Shard>, StoreError> {
        self.shard(key).write().map_err(|_| poisoned("write"))
    }

    /// Readers that hold the state of before keep it: `make_mut` copies when the state is shared.
    fn merge(
        &self,
        plan: &ViewPlan,
        key: EntityKey,
        delta: EntityState,
        now: Micros,
    ) -> Result<(), StoreError> {
        let mut shard = self.write(&key)?;
        let state = shard.entry(key).or_insert_with(|| Arc::new(plan.empty()));
        let state = Arc::make_mut(state);
        plan.merge(state, &delta);
        plan.compact(state, now);
        Ok(())
    }
}

/// A write that panicked may have left half of its rows behind: wrong data is worse than none.
fn poisoned(action: &'static str) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Unavailable,
        action,
        store: "memory",
        detail: "an earlier write panicked half way; fill the store again".to_owned(),
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("statistics", &self.statistics()).finish()
    }
}

impl OnlineStore for MemoryStore {
    fn get_many<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<EntityState>>>, StoreError>> {
        Box::pin(ready(self.get_now(view, keys)))
    }

    fn write<'a>(
        &'a self,
        writes: Vec<Write>,
        lane: Lane,
        now: Micros,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { self.write_now(writes, lane, now) })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(ready(Ok(())))
    }

    fn lanes(&self) -> BoxFuture<'_, Result<BTreeMap<Arc<str>, i64>, StoreError>> {
        Box::pin(ready(self.lock_notes().map(|notes| notes.lanes.clone())))
    }

    fn drop_lanes<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.lock_notes()?.lanes.retain(|name, _| !name.starts_with(prefix));
            Ok(())
        })
    }

    fn view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
    ) -> BoxFuture<'a, Result<Option<ViewStatus>, StoreError>> {
        let id = (Arc::clone(&view.id), view.generation);
        Box::pin(ready(self.lock_notes().map(|notes| notes.statuses.get(&id).cloned())))
    }

    fn set_view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
        status: ViewStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.lock_notes()?.statuses.insert((Arc::clone(&view.id), view.generation), status);
            Ok(())
        })
    }

    fn active_generation<'a>(&'a self, view_id: &'a str) -> BoxFuture<'a, Result<u32, StoreError>> {
        Box::pin(ready(self.lock_notes().map(|notes| notes.active.get(view_id).copied().unwrap_or(0))))
    }

    fn activate_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.lock_notes()?.active.insert(view_id.into(), generation);
            Ok(())
        })
    }

    fn drop_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.drop_now(view_id, generation) })
    }

    fn sample_keys<'a>(
        &'a self,
        view: &'a ViewHandle,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EntityKey>, StoreError>> {
        Box::pin(ready(self.sample_now(view, limit)))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn statistics(&self) -> StoreStatistics {
        let mut statistics = StoreStatistics::default();
        let Ok(tables) = self.tables.read() else { return statistics };
        for shard in tables.values().flat_map(BTreeMap::values).flat_map(|table| &table.shards) {
            let Ok(shard) = shard.read() else { continue };
            statistics.entities_in_memory += shard.len() as u64;
            statistics.bytes_in_memory += shard.values().map(|s| s.size_bytes() as u64).sum::<u64>();
        }
        statistics
    }
}
