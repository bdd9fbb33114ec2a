//! The states read lately, for services whose policy is to serve the last known value while the store is away.

use crate::request::ViewFrontier;
use springhouse_core::EntityKey;
use springhouse_kernel::EntityState;
use springhouse_online::ViewHandle;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// What an entry costs besides its state.
const ENTRY_BYTES: usize = 128;

/// What was read of an entity (None = it had no state), and how far the view had come then.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) state: Option<Arc<EntityState>>,
    pub(crate) frontier: ViewFrontier,
}

/// Remembers in two halves: when the young one is full it becomes the old one, and the old one is forgotten.
#[derive(Debug)]
pub(crate) struct LastKnown {
    halves: Mutex<Halves>,
    /// About how much memory the states may hold alive. They are shared with the store where that is in memory.
    bytes_max: usize,
}

/// A view and what its states mean (whichever build of it they come from), and an entity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place(Arc<str>, u64, EntityKey);

impl Place {
    fn new(view: &ViewHandle, key: &EntityKey) -> Self {
        Self(Arc::clone(&view.id), view.plan.fingerprint(), key.clone())
    }
}

#[derive(Debug, Default)]
struct Halves {
    young: HashMap<Place, Known, ahash::RandomState>,
    old: HashMap<Place, Known, ahash::RandomState>,
    young_bytes: usize,
}

impl LastKnown {
    /// A poisoned lock only means that some entries are not there.
    fn halves(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { halves: Mutex::default(), bytes_max }
    }

    /// Remembers what was just read.
    pub(crate) fn remember<'a>(
        &self,
        view: &ViewHandle,
        read: impl Iterator<Item = (&'a EntityKey, &'a Option<Arc<EntityState>>, ViewFrontier)>,
    ) {
        if self.bytes_max == 0 {
            return;
        }
        let mut halves = self.halves();
        for (key, state, frontier) in read {
            let size = state.as_ref().map_or(0, |state| state.size_bytes()) + key.as_bytes().len();
            halves.young_bytes += size + ENTRY_BYTES;
            halves.young.insert(Place::new(view, key), Known { state: state.clone(), frontier });
            if halves.young_bytes > self.bytes_max / 2 {
                halves.old = std::mem::take(&mut halves.young);
                halves.young_bytes = 0;
            }
        }
    }

    pub(crate) fn recall(&self, view: &ViewHandle, key: &EntityKey) -> Option<Known> {
        let halves = self.halves();
        let place = Place::new(view, key);
        halves.young.get(&place).or_else(|| halves.old.get(&place)).cloned()
    }
}
