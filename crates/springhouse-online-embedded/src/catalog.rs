//! What a store knows besides rows and lanes: slots, active generations, notes.

use crate::error::invalid;
use springhouse_kernel::ViewPlan;
use springhouse_online::{StoreError, ViewHandle, ViewStatus};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// The longest view id and lane name in bytes; with a generation beside it, what LMDB can index.
pub(crate) const NAME_BYTES_MAX: usize = 440;

/// The catalog in memory: as on disk, and the slots that the next checkpoint will note there.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) views: HashMap<Arc<str>, BTreeMap<u32, Slot>, ahash::RandomState>,
    pub(crate) statuses: BTreeMap<(Arc<str>, u32), ViewStatus>,
    pub(crate) active: BTreeMap<Arc<str>, u32>,
    /// Numbers are never used twice, so rows of a dropped generation are never taken for those of its successor.
    pub(crate) next_slot: u32,
    /// Slots whose generation is dropped and whose rows are still to be deleted.
    pub(crate) garbage: Vec<u32>,
}

/// Where the rows of one generation of a view are: the number that their keys in the file begin with.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) number: u32,
    /// False while no row was ever written to the file: what is not in memory is not there.
    pub(crate) has_rows: bool,
    /// True once the file knows the slot.
    pub(crate) saved: bool,
    /// What the states mean; known from the first write or the first row read on. All plans used with it have the
    /// fingerprint of this one.
    pub(crate) plan: OnceLock<Arc<ViewPlan>>,
}

impl Catalog {
    pub(crate) fn slot(&self, view_id: &str, generation: u32) -> Option<&Slot> {
        self.views.get(view_id)?.get(&generation)
    }

    /// Gives a view that is about to be written a slot, if it has none.
    pub(crate) fn add_slot(&mut self, view: &ViewHandle) {
        let next_slot = &mut self.next_slot;
        let generations = self.views.entry(Arc::clone(&view.id)).or_default();
        generations.entry(view.generation).or_insert_with(|| {
            let number = *next_slot;
            *next_slot += 1;
            let plan = OnceLock::from(Arc::clone(&view.plan));
            Slot { number, has_rows: false, saved: false, plan }
        });
    }

    pub(crate) fn slots_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, u32, &mut Slot)> {
        self.views
            .iter_mut()
            .flat_map(|(id, generations)| generations.iter_mut().map(move |(g, s)| (id, *g, s)))
    }
}

/// A change of the catalog, durable when its checkpoint is.
#[derive(Clone, Debug)]
pub(crate) enum CatalogChange {
    Status { view_id: Arc<str>, generation: u32, status: ViewStatus },
    Activate { view_id: Arc<str>, generation: u32 },
    Drop { view_id: Arc<str>, generation: u32 },
}

/// Refuses names that can't be keys of the file.
pub(crate) fn check_name(action: &'static str, what: &str, name: &str) -> Result<(), StoreError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
        return Err(invalid(
            action,
            format!("{what} `{name}` should have 1 to {NAME_BYTES_MAX} bytes and no zero byte"),
        ));
    }
    Ok(())
}
