//! The trait that every online store implements, and its contract.

use crate::{Positions, SharedNotes};
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::{EntityState, ViewPlan};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A boxed future; the trait is `dyn` per batch.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A view as the stores see it.
#[derive(Clone, Debug)]
pub struct ViewHandle {
    /// `name@version`.
    pub id: Arc<str>,
    /// Which build of the view's rows: `rebuild` fills the next and then switches.
    pub generation: u32,
    /// What its states mean.
    pub plan: Arc<ViewPlan>,
    /// True when workers write the rows of its stream ([`crate::SharedRows`]) beside those of its history: a read merges the two.
    pub is_shared: bool,
}

/// The states of some keys, in their order; `None` = never written.
pub type States = Vec<Option<Arc<EntityState>>>;

/// One view's part of a read of several.
#[derive(Clone, Copy, Debug)]
pub struct ViewKeys<'a> {
    /// The view and generation.
    pub view: &'a ViewHandle,
    /// Whose states are wanted.
    pub keys: &'a [EntityKey],
}

/// What a write advances, in the same atomic step as its rows: a name and a position that only grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Such as `log`, or `materialize/origin_delays@1/7/bucket-3`.
    pub name: Arc<str>,
    /// The position reached by the write; a write at or below the stored position is skipped whole.
    pub position: i64,
}

/// Events, already folded per entity, to add to one view.
#[derive(Clone, Debug)]
pub struct Write {
    /// The view and generation.
    pub view: ViewHandle,
    /// What to merge into each entity's state; an entity appears once.
    pub deltas: Vec<(EntityKey, EntityState)>,
}

/// What a store remembers of one view and generation besides its rows; written by whoever fills it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewStatus {
    /// Opaque text of the writer (JSON): materialisation cursor, stream start, and so on.
    pub note: String,
}

/// Sizes for `status` and `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Entities held in memory.
    pub entities_in_memory: u64,
    /// Bytes of those, about.
    pub bytes_in_memory: u64,
    /// Entities changed since the last checkpoint.
    pub dirty_entities: u64,
    /// Calls to another server that are under way.
    pub calls_in_flight: u64,
    /// How many of them may be.
    pub calls_in_flight_max: u64,
    /// Calls refused because so many were.
    pub calls_refused: u64,
    /// Connections opened so far.
    pub connections_opened: u64,
}

/// Whether what a store holds can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It holds what it has confirmed.
    Whole,
    /// It is being filled from history; reads fail as `Unavailable` until it is whole.
    Filling,
    /// It holds less than it has confirmed, and why; reads and writes fail as `Lost` until it has been taken again.
    Lost(String),
}

/// What a store that was taken again holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// What it held at an earlier moment: its lanes say how far it had come, and the writer does the rest again.
    Earlier,
    /// Nothing that could be gone on with: [`OnlineStore::begin_filling`].
    Nothing,
}

/// The state of every entity in every view.
///
/// # Contract (checked for every store by [`crate::suite`])
/// - `get_many` gives one slot per key, in key order; `None` = never written.
/// - Once `write` returns `Ok(true)`, every later `get_many` on this handle sees its rows and `lanes` its lane.
/// - A write is atomic with its lane: after a crash either all of it is there or nothing. It may be lost by a crash
///   until `checkpoint` returns; then the lane's position is also the older one, so that the writer can do it again.
/// - A write whose lane is at or below the stored position changes nothing and returns `Ok(false)`.
/// - The states of a generation have one meaning: reading or writing it with a plan of another
///   [`ViewPlan::fingerprint`] fails as [`StoreErrorKind::Corrupt`] and changes nothing. (Fill the next generation.)
/// - Merging is [`ViewPlan::merge`] followed by [`ViewPlan::compact`] at `now`.
pub trait OnlineStore: fmt::Debug + Send + Sync + 'static {
    /// The states of `keys` in `view`.
    fn get_many<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<States, StoreError>>;

    /// The states of keys in several views, view by view, each as [`OnlineStore::get_many`] gives it. A store that is elsewhere
    /// asks every node once for all of them.
    fn get_views<'a>(&'a self, reads: &'a [ViewKeys<'a>]) -> BoxFuture<'a, Vec<Result<States, StoreError>>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(reads.len());
            for read in reads {
                answers.push(self.get_many(read.view, read.keys).await);
            }
            answers
        })
    }

    /// Merges deltas of any number of views and advances `lane`, atomically.
    fn write<'a>(
        &'a self,
        writes: Vec<Write>,
        lane: Lane,
        now: Micros,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Makes everything written so far durable.
    fn checkpoint(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Every lane with its position, as far as written (not only checkpointed).
    fn lanes(&self) -> BoxFuture<'_, Result<BTreeMap<Arc<str>, i64>, StoreError>>;

    /// Forgets lanes whose name starts with `prefix` (of finished jobs).
    fn drop_lanes<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// What is noted of a view's generation, durable at once.
    fn view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
    ) -> BoxFuture<'a, Result<Option<ViewStatus>, StoreError>>;

    /// Notes it, durable at once together with everything written before.
    fn set_view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
        status: ViewStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The generation that readers use of a view (`name@version`); 0 until set.
    fn active_generation<'a>(&'a self, view_id: &'a str) -> BoxFuture<'a, Result<u32, StoreError>>;

    /// Switches readers to a generation, durable at once; `lanes` are set in the same step.
    fn activate_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Deletes all rows of one generation of a view, its status too.
    fn drop_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Up to `limit` entity keys of a view, for `verify` and the catalog; which ones is not defined.
    fn sample_keys<'a>(
        &'a self,
        view: &'a ViewHandle,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EntityKey>, StoreError>>;

    /// Sizes.
    fn statistics(&self) -> StoreStatistics;

    /// Asks the store whether it still holds what it has confirmed. Stores that can't lose anything behind their
    /// caller's back are always whole.
    fn condition(&self) -> BoxFuture<'_, Result<Condition, StoreError>> {
        Box::pin(std::future::ready(Ok(Condition::Whole)))
    }

    /// Takes a store up again that has lost something, and closes it for readers until [`Self::end_filling`]. The caller holds
    /// nothing that it knew of the store before (lanes, generations, statuses) for true any more.
    fn take_again(&self) -> BoxFuture<'_, Result<Holding, StoreError>> {
        Box::pin(std::future::ready(Ok(Holding::Earlier)))
    }

    /// Removes everything; until [`Self::end_filling`], reads fail as `Unavailable`, so that an entity whose row is not
    /// there yet is not taken for a new one. Survives the process.
    fn begin_filling(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// What was to be filled is there: readers may read.
    fn end_filling(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The most rows that one write changes in one step. A larger write is as atomic, but costs more.
    fn write_rows_max(&self) -> usize {
        usize::MAX
    }

    /// Begins a build whose stream workers write ([`crate::SharedRows`]); one that is there stays as it is.
    /// [`Self::drop_generation`] ends it.
    ///
    /// # Errors
    /// `Invalid` for a store that only one process can write.
    fn begin_build<'a>(
        &'a self,
        _view: &'a ViewHandle,
        _start: &'a Positions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(std::future::ready(Err(not_shared("begin a build"))))
    }

    /// What workers say of their work; notes are not newer than positions.
    ///
    /// # Errors
    /// `Invalid` for a store that only one process can write.
    fn shared_notes(&self) -> BoxFuture<'_, Result<SharedNotes, StoreError>> {
        Box::pin(std::future::ready(Err(not_shared("read what workers say"))))
    }

    /// True for a store in this process: a read costs about as much as a look into a cache and can't hang on a network, so
    /// nothing is put between it and the caller.
    fn is_local(&self) -> bool {
        false
    }

    /// The node of the store that answers for a key: nodes fail one by one, and what is measured of one says nothing of the
    /// others. Small numbers; the keys of a store that is one node are all of node 0. May change when keys move.
    fn node_of(&self, _view: &ViewHandle, _key: &EntityKey) -> usize {
        0
    }
}

fn not_shared(action: &'static str) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Invalid,
        action,
        store: "online",
        detail: "only one process can write this store; workers need `store: {kind: redis}`".to_owned(),
    }
}

/// A failed store call. Branch on [`StoreError::kind`]; the text is for people and may change.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action} failed in the {store} store: {detail}")]
pub struct StoreError {
    /// What the caller can do about it.
    pub kind: StoreErrorKind,
    /// What was being done.
    pub action: &'static str,
    /// Which store.
    pub store: &'static str,
    /// What went wrong, and what to do.
    pub detail: String,
}

/// What a caller can do about a failed store call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store does not answer now. Retry with backoff, or serve stale if the caller allows it.
    Unavailable,
    /// The request is wrong. Do not retry; fix the caller.
    Invalid,
    /// Another process holds the store for writing.
    Locked,
    /// Stored bytes fail their checksum or version. Stop and look.
    Corrupt,
    /// The store no longer holds what it had confirmed. See [`OnlineStore::take_again`].
    Lost,
}

impl StoreErrorKind {
    /// The stable code of a job that failed for it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unavailable => "store_unavailable",
            Self::Invalid => "store_refused",
            Self::Locked => "store_locked",
            Self::Corrupt => "store_corrupt",
            Self::Lost => "store_lost",
        }
    }

    /// What people can do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Unavailable => {
                "check the online store (its disk, or its servers and the way to them), then try again"
            }
            Self::Invalid => "see the message; if it says nothing of a setting, please report it",
            Self::Locked => "another process has this project open; stop it, or talk to its server",
            Self::Corrupt => {
                "stop, keep a copy, delete the online store's folder and run `springhouse rebuild`"
            }
            Self::Lost => "a running server fills the store again from history by itself; see /ready",
        }
    }
}
