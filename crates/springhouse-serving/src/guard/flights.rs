//! Reads under way, so that equal ones share one call. Whoever comes first leads and drives the call; when the leader goes away
//! before the answer is there, the call goes on in a task of its own, so it makes no difference to the others.
//!
//! A flight is also what keeps the cache honest: its result is kept only while it is still the flight of its slot. A write takes
//! the flight out of the table, so what was read before the write is neither cached nor given to whoever asks after it.

use super::cache::Slot;
use crate::request::ViewFrontier;
use springhouse_online::{States, StoreError, StoreErrorKind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::SetOnce;

/// Locks: enough that two requests seldom meet.
const SHARDS: usize = 64;

/// Why there is nothing. Ordered: of several reasons the last is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NoAnswer {
    /// Not in time.
    Timeout(Duration),
    /// The breaker of the node is open, or calls pile up at a node that is silent: not asked.
    NotAsked(&'static str),
    /// The store said that it can't.
    Failed(Arc<str>),
    /// There is too much to do.
    Shed,
    /// What it holds is damaged.
    Corrupt(Arc<str>),
}

impl From<&StoreError> for NoAnswer {
    fn from(error: &StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Corrupt => Self::Corrupt(error.to_string().into()),
            _ => Self::Failed(error.to_string().into()),
        }
    }
}

/// One call under way: keys of one or several views on one node.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// What was found, view by view.
    pub(crate) done: SetOnce<Vec<Result<States, NoAnswer>>>,
}

/// The flight of a slot, and the slot's place in it.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) flight: Arc<Flight>,
    /// Which of the flight's views.
    pub(crate) part: usize,
    /// Which of the view's keys.
    pub(crate) place: usize,
    /// How far the view had come, at least, when the flight began.
    pub(crate) frontier: ViewFrontier,
}

type Shard = HashMap<Slot, Seat, ahash::RandomState>;

/// The flights under way by slot. Bounded by the calls under way and the rows of each.
#[derive(Debug)]
pub(crate) struct Flights {
    hasher: ahash::RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

impl Flights {
    pub(crate) fn new() -> Self {
        Self { hasher: ahash::RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// The part of the table that a slot is in. A poisoned one is whole: each change is one call.
    pub(crate) fn lock(&self, slot: &Slot) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[self.hasher.hash_one(slot) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flights' slots in the table.
    pub(crate) fn len(&self) -> usize {
        let len = |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.shards.iter().map(len).sum()
    }
}
