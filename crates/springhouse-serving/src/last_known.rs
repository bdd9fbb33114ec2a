//! The states read lately, for services whose policy is to serve the last known value while the store is away.

use crate::request::ViewFrontier;
use springhouse_core::EntityKey;
use springhouse_kernel::EntityState;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// About how much memory the remembered states may hold alive. They are shared with the store where that is in memory.
const BYTES_MAX: usize = 64 << 20;
/// What an entry costs besides its state.
const ENTRY_BYTES: usize = 128;

/// What was read of an entity (None = it had no state), and how far the view had come then.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) state: Option<Arc<EntityState>>,
    pub(crate) frontier: ViewFrontier,
}

/// Remembers in two halves: when the young one is full it becomes the old one, and the old one is forgotten.
#[derive(Debug, Default)]
pub(crate) struct LastKnown {
    halves: Mutex<Halves>,
}

#[derive(Debug, Default)]
struct Halves {
    young: HashMap<(usize, EntityKey), Known, ahash::RandomState>,
    old: HashMap<(usize, EntityKey), Known, ahash::RandomState>,
    young_bytes: usize,
}

impl LastKnown {
    /// A poisoned lock only means that some entries are not there.
    fn halves(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn remember(
        &self,
        view: usize,
        keys: &[EntityKey],
        states: &[Option<Arc<EntityState>>],
        frontier: ViewFrontier,
    ) {
        let mut halves = self.halves();
        for (key, state) in keys.iter().zip(states) {
            let size = state.as_ref().map_or(0, |state| state.size_bytes()) + key.as_bytes().len();
            halves.young_bytes += size + ENTRY_BYTES;
            halves.young.insert((view, key.clone()), Known { state: state.clone(), frontier });
            if halves.young_bytes > BYTES_MAX / 2 {
                halves.old = std::mem::take(&mut halves.young);
                halves.young_bytes = 0;
            }
        }
    }

    pub(crate) fn recall(&self, view: usize, keys: &[EntityKey]) -> Vec<Option<Known>> {
        let halves = self.halves();
        let find = |key: &EntityKey| {
            let entry = (view, key.clone());
            halves.young.get(&entry).or_else(|| halves.old.get(&entry)).cloned()
        };
        keys.iter().map(find).collect()
    }
}
