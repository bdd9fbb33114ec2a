//! The store as its one writing process sees it.

use crate::catalog::{Catalog, CatalogChange, check_name};
use crate::checkpoint::{self, Job, thread_ended};
use crate::disk::Disk;
use crate::error::{corrupt, poisoned, unavailable};
use crate::lock::WriterLock;
use crate::memory::{Found, Memory, RowKey};
use crate::reader::EmbeddedReader;
use crate::settings::EmbeddedSettings;
use futures::channel::oneshot;
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::{CodecError, EntityState};
use springhouse_online::{
    BoxFuture, Lane, OnlineStore, StoreError, StoreStatistics, ViewHandle, ViewStatus, Write,
};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::ready;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;

/// The embedded store, open for writing.
///
/// Dropping it does not checkpoint: what was written since the last checkpoint is then gone with its lane positions,
/// as after a kill.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// None only while dropping, to end the thread.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    lock: WriterLock,
}

/// What callers and the writing thread share. Locks are taken in the order gate, catalog, shard.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Disk,
    pub(crate) memory: Memory,
    /// The write gate: held while a write is merged and while a checkpoint takes its snapshot. Poisoned by a write that
    /// panics half way, so that half a write is never made durable.
    pub(crate) gate: Mutex<Gate>,
    pub(crate) catalog: RwLock<Catalog>,
    /// The newest `now` of any write, for states read back from the file.
    newest: AtomicI64,
    dirty_bytes_max: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Gate {
    pub(crate) lanes: BTreeMap<Arc<str>, i64>,
    /// True while a checkpoint that nobody waits for is on its way.
    is_checkpoint_due: bool,
}

impl EmbeddedStore {
    /// Opens the store in `folder`, making it if there is none, as its one writer.
    ///
    /// # Errors
    /// `Locked` when another process (or another handle of this one) writes it, with who and where; `Corrupt` when the
    /// file is damaged or of another format; `Unavailable` when the folder can't be written.
    pub fn open(folder: &Path, settings: &EmbeddedSettings) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder)
            .map_err(|error| unavailable("open", format!("{}: {error}", folder.display())))?;
        let lock = WriterLock::take(folder)?;
        let disk = Disk::open(folder, settings)?;
        let (catalog, lanes) = {
            let txn = disk.read("open")?;
            (disk.load_catalog(&txn)?, disk.lanes(&txn, "open")?)
        };
        let shared = Arc::new(Shared {
            disk,
            memory: Memory::new(settings.memory_bytes_max),
            gate: Mutex::new(Gate { lanes: lanes.clone(), is_checkpoint_due: false }),
            catalog: RwLock::new(catalog),
            newest: AtomicI64::new(Micros::MIN),
            dirty_bytes_max: settings.dirty_bytes_max,
        });
        let (jobs, queue) = mpsc::channel();
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("online-store".to_owned())
            .spawn(move || checkpoint::run(&for_thread, &queue, lanes))
            .map_err(|error| unavailable("open", error.to_string()))?;
        Ok(Self { shared, jobs: Some(jobs), thread: Some(thread), lock })
    }

    /// Opens the store in `folder` for reading its last checkpoint, beside the process that writes it.
    ///
    /// # Errors
    /// `Invalid` when there is no store, `Locked` when this very process has it open, `Corrupt` as in [`Self::open`].
    pub fn open_read_only(folder: &Path, settings: &EmbeddedSettings) -> Result<EmbeddedReader, StoreError> {
        EmbeddedReader::open(folder, settings)
    }

    /// Notes in the lock file where this process can be asked, for the message that a second writer gets.
    ///
    /// # Errors
    /// `Unavailable` when the file can't be written.
    pub fn announce(&self, address: &str) -> Result<(), StoreError> {
        self.lock.note(Some(address))
    }

    fn submit(
        &self,
        change: Option<CatalogChange>,
    ) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let (done, result) = oneshot::channel();
        let jobs = self.jobs.as_ref().expect("the sender is only taken by drop");
        jobs.send(Job { change, done }).map_err(|_| thread_ended("checkpoint"))?;
        Ok(result)
    }

    async fn checkpoint_with(&self, change: Option<CatalogChange>) -> Result<(), StoreError> {
        self.submit(change)?.await.unwrap_or_else(|_| Err(thread_ended("checkpoint")))
    }

    /// Waits for a checkpoint when too much is dirty, starts one when it is getting much.
    async fn make_room(&self) -> Result<(), StoreError> {
        let dirty = self.shared.memory.dirty_bytes();
        if dirty > self.shared.dirty_bytes_max {
            return self.checkpoint_with(None).await;
        }
        if dirty > self.shared.dirty_bytes_max / 2 && self.shared.claim_due_checkpoint()? {
            // Its failure is not lost: the dirty states stay, and the write that must wait gets the error.
            drop(self.submit(None)?);
        }
        Ok(())
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already seen by whoever waited for it.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("statistics", &self.shared.memory.statistics()).finish()
    }
}

impl Shared {
    pub(crate) fn slot_number(&self, view_id: &str, generation: u32) -> Result<Option<u32>, StoreError> {
        let catalog = self.catalog.read().map_err(|_| poisoned("read"))?;
        Ok(catalog.slot(view_id, generation).map(|slot| slot.number))
    }

    /// Number of a view's slot, and whether the file may hold rows of it; checks that its states mean the same.
    fn slot(&self, view: &ViewHandle, is_write: bool) -> Result<Option<(u32, bool)>, StoreError> {
        let catalog = self.catalog.read().map_err(|_| poisoned("read"))?;
        let Some(slot) = catalog.slot(&view.id, view.generation) else { return Ok(None) };
        match slot.plan.get() {
            Some(plan) if plan.fingerprint() == view.plan.fingerprint() => {}
            Some(_) => {
                return Err(corrupt("use a view", format!("view `{}`: {}", view.id, CodecError::Plan)));
            }
            None => {
                let txn = self.disk.read("read")?;
                let row = self.disk.any_row(&txn, slot.number)?;
                // A damaged row is no reason to refuse all others.
                if let Some(Err(error @ (CodecError::Plan | CodecError::Version(_)))) =
                    row.map(|bytes| view.plan.decode(bytes))
                {
                    return Err(corrupt("use a view", format!("view `{}`: {error}", view.id)));
                }
                if row.is_some() || is_write {
                    slot.plan.get_or_init(|| Arc::clone(&view.plan));
                }
            }
        }
        Ok(Some((slot.number, slot.has_rows)))
    }

    fn slot_for_write(&self, view: &ViewHandle) -> Result<(u32, bool), StoreError> {
        loop {
            if let Some(slot) = self.slot(view, true)? {
                return Ok(slot);
            }
            self.catalog.write().map_err(|_| poisoned("write"))?.add_slot(view);
        }
    }

    fn get_many(
        &self,
        view: &ViewHandle,
        keys: &[EntityKey],
    ) -> Result<Vec<Option<Arc<EntityState>>>, StoreError> {
        let mut states = vec![None; keys.len()];
        // Before the catalog: if no checkpoint is completed from here on, `has_rows` holds for the look into memory.
        let completed = self.memory.completed();
        let Some((slot, has_rows)) = self.slot(view, false)? else { return Ok(states) };
        let mut in_file = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let hash = self.memory.hash(slot, key);
            match self.memory.get(slot, hash, key)? {
                Found::Whole(state) => states[index] = Some(state),
                Found::Nothing if !has_rows && self.memory.completed() == completed => {}
                Found::Nothing | Found::Partial => {
                    in_file.push((index, RowKey { slot, hash, key: key.clone() }));
                }
            }
        }
        // Again only when a checkpoint was completed in between, about once a second.
        while !in_file.is_empty() {
            self.get_from_file(view, &mut in_file, &mut states)?;
        }
        Ok(states)
    }

    /// Answers what it can of `wanted` from one moment of the file; what it can't stays in it.
    fn get_from_file(
        &self,
        view: &ViewHandle,
        wanted: &mut Vec<(usize, RowKey)>,
        states: &mut [Option<Arc<EntityState>>],
    ) -> Result<(), StoreError> {
        let completed = self.memory.completed();
        let newest = self.newest.load(Ordering::Relaxed);
        let txn = self.disk.read("read")?;
        let mut buffer = Vec::new();
        let mut again = Vec::new();
        for (index, row) in wanted.drain(..) {
            let stored = self.disk.row(&txn, row.slot, &row.key, &mut buffer, "read")?;
            let mut stored = stored.map(|bytes| decode(view, bytes)).transpose()?;
            if let Some(state) = &mut stored
                && newest > Micros::MIN
            {
                view.plan.compact(state, newest);
            }
            match self.memory.complete_from_file(&row, stored, &view.plan, completed)? {
                Some(state) => states[index] = state,
                None => again.push((index, row)),
            }
        }
        *wanted = again;
        Ok(())
    }

    fn write(&self, writes: Vec<Write>, lane: Lane, now: Micros) -> Result<bool, StoreError> {
        check_name("write", "lane", &lane.name)?;
        for write in &writes {
            check_name("write", "view", &write.view.id)?;
        }
        let mut gate = self.gate.lock().map_err(|_| poisoned("write"))?;
        if gate.lanes.get(&lane.name).is_some_and(|reached| *reached >= lane.position) {
            return Ok(false);
        }
        // All of them before the first merge, so that a write that is refused changes nothing.
        let slots = writes.iter().map(|write| self.slot_for_write(&write.view));
        let slots = slots.collect::<Result<Vec<_>, _>>()?;
        for (Write { view, deltas }, (slot, has_rows)) in writes.into_iter().zip(slots) {
            for (key, delta) in deltas {
                self.memory.merge(slot, has_rows, &view.plan, key, delta, now)?;
            }
        }
        self.newest.fetch_max(now, Ordering::Relaxed);
        gate.lanes.insert(lane.name, lane.position);
        Ok(true)
    }

    /// True for the one caller that should start the checkpoint.
    fn claim_due_checkpoint(&self) -> Result<bool, StoreError> {
        let mut gate = self.gate.lock().map_err(|_| poisoned("write"))?;
        Ok(!std::mem::replace(&mut gate.is_checkpoint_due, true))
    }

    /// The next snapshot takes what is due.
    pub(crate) fn due_checkpoint_begins(gate: &mut Gate) {
        gate.is_checkpoint_due = false;
    }

    fn drop_lanes(&self, prefix: &str) -> Result<(), StoreError> {
        let mut gate = self.gate.lock().map_err(|_| poisoned("drop lanes"))?;
        gate.lanes.retain(|name, _| !name.starts_with(prefix));
        Ok(())
    }

    /// Half from the file and half from memory if there are enough, so that a check sees both.
    fn sample_keys(&self, view: &ViewHandle, limit: usize) -> Result<Vec<EntityKey>, StoreError> {
        let Some(slot) = self.slot_number(&view.id, view.generation)? else { return Ok(Vec::new()) };
        let in_memory = self.memory.keys(slot, limit)?;
        let in_file = {
            let txn = self.disk.read("sample keys")?;
            self.disk.keys(&txn, slot, limit)?
        };
        let mut seen = HashSet::with_capacity(in_memory.len() + in_file.len());
        let (first, rest) = in_file.split_at(in_file.len().min(limit / 2));
        let candidates = first.iter().chain(&in_memory).chain(rest);
        Ok(candidates.filter(|key| seen.insert(*key)).take(limit).cloned().collect())
    }
}

/// Reads a row's bytes with the plan of the view that they are asked for.
pub(crate) fn decode(view: &ViewHandle, bytes: &[u8]) -> Result<EntityState, StoreError> {
    view.plan.decode(bytes).map_err(|error| corrupt("read", format!("view `{}`: {error}", view.id)))
}

impl OnlineStore for EmbeddedStore {
    fn get_many<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<EntityState>>>, StoreError>> {
        // At once, on the caller's thread: a hit takes well under a microsecond, a page of the file mostly too.
        Box::pin(ready(self.shared.get_many(view, keys)))
    }

    fn write<'a>(
        &'a self,
        writes: Vec<Write>,
        lane: Lane,
        now: Micros,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.make_room().await?;
            self.shared.write(writes, lane, now)
        })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.checkpoint_with(None))
    }

    fn lanes(&self) -> BoxFuture<'_, Result<BTreeMap<Arc<str>, i64>, StoreError>> {
        let gate = self.shared.gate.lock().map_err(|_| poisoned("read lanes"));
        Box::pin(ready(gate.map(|gate| gate.lanes.clone())))
    }

    fn drop_lanes<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.shared.drop_lanes(prefix) })
    }

    fn view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
    ) -> BoxFuture<'a, Result<Option<ViewStatus>, StoreError>> {
        let catalog = self.shared.catalog.read().map_err(|_| poisoned("read a status"));
        let id = (Arc::clone(&view.id), view.generation);
        Box::pin(ready(catalog.map(|catalog| catalog.statuses.get(&id).cloned())))
    }

    fn set_view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
        status: ViewStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            check_name("set a status", "view", &view.id)?;
            let (view_id, generation) = (Arc::clone(&view.id), view.generation);
            self.checkpoint_with(Some(CatalogChange::Status { view_id, generation, status })).await
        })
    }

    fn active_generation<'a>(&'a self, view_id: &'a str) -> BoxFuture<'a, Result<u32, StoreError>> {
        let catalog = self.shared.catalog.read().map_err(|_| poisoned("read the active generation"));
        Box::pin(ready(catalog.map(|catalog| catalog.active.get(view_id).copied().unwrap_or(0))))
    }

    fn activate_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            check_name("activate a generation", "view", view_id)?;
            self.checkpoint_with(Some(CatalogChange::Activate { view_id: view_id.into(), generation })).await
        })
    }

    fn drop_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            check_name("drop a generation", "view", view_id)?;
            self.checkpoint_with(Some(CatalogChange::Drop { view_id: view_id.into(), generation })).await
        })
    }

    fn sample_keys<'a>(
        &'a self,
        view: &'a ViewHandle,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EntityKey>, StoreError>> {
        Box::pin(ready(self.shared.sample_keys(view, limit)))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn statistics(&self) -> StoreStatistics {
        self.shared.memory.statistics()
    }
}
