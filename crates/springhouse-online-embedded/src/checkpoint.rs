//! The thread that writes to the file: checkpoints, changes of the catalog, and the rows of dropped generations.
//!
//! One thread, because LMDB has one writer at a time anyway, and because a checkpoint takes long enough (a sync) to be
//! in the way of whoever runs on the caller's thread.

use crate::catalog::CatalogChange;
use crate::disk::place_of;
use crate::error::{corrupt, from_lmdb, poisoned, unavailable};
use crate::memory::DirtyRow;
use crate::store::Shared;
use futures::channel::oneshot;
use springhouse_core::crash_point::crash_point;
use springhouse_kernel::ViewPlan;
use springhouse_online::StoreError;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};

/// Rows of dropped generations deleted in one transaction; other work goes on between two of them.
const GARBAGE_ROWS: usize = 20_000;

/// A checkpoint that someone waits for, with the change of the catalog that it should carry.
pub(crate) struct Job {
    pub(crate) change: Option<CatalogChange>,
    pub(crate) done: oneshot::Sender<Result<(), StoreError>>,
}

/// Runs until the store is dropped. `saved_lanes`: as the file has them.
pub(crate) fn run(shared: &Shared, jobs: &Receiver<Job>, mut saved_lanes: BTreeMap<Arc<str>, i64>) {
    // Given up when it fails: the rows are out of sight, and the next open tries again.
    let mut has_garbage = true;
    loop {
        let first = if has_garbage {
            match jobs.try_recv() {
                Ok(job) => Some(job),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return,
            }
        } else {
            match jobs.recv() {
                Ok(job) => Some(job),
                Err(RecvError) => return,
            }
        };
        let Some(first) = first else {
            has_garbage = collect_garbage(shared).unwrap_or(false);
            continue;
        };
        has_garbage |= matches!(first.change, Some(CatalogChange::Drop { .. }));
        // Whoever asked before the checkpoint begins is served by it. A change goes alone, so that its failure is its own.
        let mut waiting = vec![first.done];
        let mut next = None;
        if first.change.is_none() {
            while let Ok(job) = jobs.try_recv() {
                if job.change.is_some() {
                    next = Some(job);
                    break;
                }
                waiting.push(job.done);
            }
        }
        answer(waiting, &checkpoint(shared, &mut saved_lanes, first.change));
        if let Some(Job { change, done }) = next {
            has_garbage |= matches!(change, Some(CatalogChange::Drop { .. }));
            answer(vec![done], &checkpoint(shared, &mut saved_lanes, change));
        }
    }
}

fn answer(waiting: Vec<oneshot::Sender<Result<(), StoreError>>>, result: &Result<(), StoreError>) {
    for done in waiting {
        // Whoever no longer waits does not want to know.
        let _ = done.send(result.clone());
    }
}

/// One moment of the store: everything dirty with the lanes that it came from.
struct Snapshot {
    number: u64,
    rows: Vec<DirtyRow>,
    lanes: BTreeMap<Arc<str>, i64>,
    /// Slots that the file does not know yet: view id, generation, number.
    new_slots: Vec<(Arc<str>, u32, u32)>,
    next_slot: u32,
    /// What the rows of each slot mean.
    slots: HashMap<u32, SnapshotSlot>,
}

struct SnapshotSlot {
    view_id: Arc<str>,
    plan: Arc<ViewPlan>,
}

fn checkpoint(
    shared: &Shared,
    saved_lanes: &mut BTreeMap<Arc<str>, i64>,
    change: Option<CatalogChange>,
) -> Result<(), StoreError> {
    let mut snapshot = take_snapshot(shared)?;
    if snapshot.rows.is_empty()
        && snapshot.new_slots.is_empty()
        && snapshot.lanes == *saved_lanes
        && change.is_none()
    {
        return Ok(());
    }
    snapshot.rows.sort_by_cached_key(|DirtyRow { row, .. }| (row.slot, place_of(&row.key), row.key.clone()));
    if let Err(error) = write_snapshot(shared, &snapshot, saved_lanes, change.as_ref()) {
        shared.memory.give_back(snapshot.rows)?;
        return Err(error);
    }
    // In this order: a generation goes out of sight before its rows become evictable, new slots are known as saved
    // before the next snapshot.
    publish(shared, &snapshot, change)?;
    shared.memory.checkpoint_completed(snapshot.number)?;
    *saved_lanes = snapshot.lanes;
    Ok(())
}

/// Under the write gate, so that no write is half in it.
fn take_snapshot(shared: &Shared) -> Result<Snapshot, StoreError> {
    let mut gate = shared.gate.lock().map_err(|_| poisoned("checkpoint"))?;
    Shared::due_checkpoint_begins(&mut gate);
    let mut catalog = shared.catalog.write().map_err(|_| poisoned("checkpoint"))?;
    let number = shared.memory.completed() + 1;
    let rows = shared.memory.take_dirty(number)?;
    let mut slots = HashMap::new();
    let mut new_slots = Vec::new();
    for (view_id, generation, slot) in catalog.slots_mut() {
        // From here on a row of it may be in the file and in the file only.
        slot.has_rows = true;
        if !slot.saved {
            new_slots.push((Arc::clone(view_id), generation, slot.number));
        }
        if let Some(plan) = slot.plan.get() {
            slots.insert(slot.number, SnapshotSlot { view_id: Arc::clone(view_id), plan: Arc::clone(plan) });
        }
    }
    Ok(Snapshot { number, rows, lanes: gate.lanes.clone(), new_slots, next_slot: catalog.next_slot, slots })
}

/// All of it in one transaction, synced when this returns.
fn write_snapshot(
    shared: &Shared,
    snapshot: &Snapshot,
    saved_lanes: &BTreeMap<Arc<str>, i64>,
    change: Option<&CatalogChange>,
) -> Result<(), StoreError> {
    let disk = &shared.disk;
    let mut txn = disk.write("checkpoint")?;
    for (view_id, generation, number) in &snapshot.new_slots {
        disk.put_slot(&mut txn, view_id, *generation, *number, snapshot.next_slot)?;
    }
    let dropped = match change {
        Some(CatalogChange::Drop { view_id, generation }) => {
            let slot = shared.slot_number(view_id, *generation)?;
            disk.drop_generation(&mut txn, view_id, *generation, slot)?;
            slot
        }
        Some(CatalogChange::Status { view_id, generation, status }) => {
            disk.put_status(&mut txn, view_id, *generation, status)?;
            None
        }
        Some(CatalogChange::Activate { view_id, generation }) => {
            disk.put_active(&mut txn, view_id, *generation)?;
            None
        }
        None => None,
    };
    for rows in snapshot.rows.chunk_by(|a, b| a.row.slot == b.row.slot) {
        if Some(rows[0].row.slot) != dropped {
            write_rows(shared, &mut txn, snapshot, rows)?;
        }
    }
    for (name, position) in &snapshot.lanes {
        if saved_lanes.get(name) != Some(position) {
            disk.put_lane(&mut txn, name, *position)?;
        }
    }
    for name in saved_lanes.keys().filter(|name| !snapshot.lanes.contains_key(*name)) {
        disk.delete_lane(&mut txn, name)?;
    }
    crash_point("online_before_commit");
    txn.commit().map_err(from_lmdb("checkpoint"))?;
    crash_point("online_after_commit");
    Ok(())
}

/// The rows of one slot, in key order.
fn write_rows(
    shared: &Shared,
    txn: &mut heed::RwTxn<'_>,
    snapshot: &Snapshot,
    rows: &[DirtyRow],
) -> Result<(), StoreError> {
    let slot = rows[0].row.slot;
    let SnapshotSlot { view_id, plan } =
        snapshot.slots.get(&slot).expect("a dirty row came through a write, which noted its slot and plan");
    let append = shared.disk.ends_before(txn, slot, &rows[0].row.key)?;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for DirtyRow { row, state, whole } in rows {
        value.clear();
        if *whole {
            plan.encode(state, &mut value);
        } else {
            let stored = shared.disk.row(txn, slot, &row.key, &mut key, "checkpoint")?;
            let stored = stored.map(|bytes| plan.decode(bytes)).transpose();
            let stored =
                stored.map_err(|error| corrupt("checkpoint", format!("view `{view_id}`: {error}")))?;
            // Before the commit: afterwards the file holds these events itself.
            shared.memory.complete_in_flight(row, stored.as_ref(), plan)?;
            match stored {
                Some(mut stored) => {
                    plan.merge(&mut stored, state);
                    plan.encode(&stored, &mut value);
                }
                None => plan.encode(state, &mut value),
            }
        }
        shared.disk.put_row(txn, slot, &row.key, &value, append, &mut key)?;
    }
    Ok(())
}

/// The file has it: now the rest of the process may know.
fn publish(shared: &Shared, snapshot: &Snapshot, change: Option<CatalogChange>) -> Result<(), StoreError> {
    // The gate, so that no write is on its way to a slot that goes.
    let _gate = shared.gate.lock().map_err(|_| poisoned("checkpoint"))?;
    let mut catalog = shared.catalog.write().map_err(|_| poisoned("checkpoint"))?;
    for (view_id, generation, _) in &snapshot.new_slots {
        if let Some(slot) = catalog.views.get_mut(view_id).and_then(|g| g.get_mut(generation)) {
            slot.saved = true;
        }
    }
    match change {
        Some(CatalogChange::Status { view_id, generation, status }) => {
            catalog.statuses.insert((view_id, generation), status);
        }
        Some(CatalogChange::Activate { view_id, generation }) => {
            catalog.active.insert(view_id, generation);
        }
        Some(CatalogChange::Drop { view_id, generation }) => {
            catalog.statuses.remove(&(Arc::clone(&view_id), generation));
            let slot =
                catalog.views.get_mut(&view_id).and_then(|generations| generations.remove(&generation));
            if let Some(slot) = slot {
                catalog.garbage.push(slot.number);
                drop(catalog);
                shared.memory.forget_slot(slot.number)?;
            }
        }
        None => {}
    }
    Ok(())
}

/// Deletes some rows of a dropped generation. True while there are more.
fn collect_garbage(shared: &Shared) -> Result<bool, StoreError> {
    let next = shared.catalog.read().map_err(|_| poisoned("drop generation"))?.garbage.first().copied();
    let Some(slot) = next else { return Ok(false) };
    let mut txn = shared.disk.write("drop generation")?;
    let deleted = shared.disk.delete_rows(&mut txn, slot, GARBAGE_ROWS)?;
    let is_done = deleted < GARBAGE_ROWS;
    if is_done {
        shared.disk.forget_garbage(&mut txn, slot)?;
    }
    txn.commit().map_err(from_lmdb("drop generation"))?;
    if is_done {
        let mut catalog = shared.catalog.write().map_err(|_| poisoned("drop generation"))?;
        catalog.garbage.retain(|garbage| *garbage != slot);
    }
    Ok(true)
}

/// What a caller sees when the thread is gone.
pub(crate) fn thread_ended(action: &'static str) -> StoreError {
    unavailable(action, "the store's writing thread has ended; open the store again")
}
