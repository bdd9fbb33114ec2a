//! An aggregate by the values of a second column.

use super::{Slot, State, value_heap_bytes, with_one_zero};
use crate::Stamp;
use springhouse_core::Value;
use std::collections::BTreeMap;

/// One state per group; a group is there as long as it has an event that counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Groups {
    /// Sorted by group; none is empty.
    pub(crate) states: BTreeMap<Value, State>,
}

impl Groups {
    /// Adds a value to its group. False as for [`super::Kind::insert`].
    pub(super) fn insert(&mut self, slot: &Slot, stamp: &Stamp, value: &Value, group: &Value) -> bool {
        let group = with_one_zero(group);
        if slot.takes_back {
            let state = self.states.entry(group.clone()).or_insert_with(|| slot.kind.empty());
            slot.kind.insert(state, stamp, value);
            if state.is_empty() {
                self.states.remove(&group);
            }
            return true;
        }
        slot.kind.insert(self.states.entry(group).or_insert_with(|| slot.kind.empty()), stamp, value)
    }

    /// Takes away a value that was added, or will be.
    pub(super) fn remove(&mut self, slot: &Slot, stamp: &Stamp, value: &Value, group: &Value) {
        let group = with_one_zero(group);
        let Some(state) = self.states.get_mut(&group) else {
            let mut state = slot.kind.empty();
            slot.kind.remove(&mut state, stamp, value);
            self.states.insert(group, state);
            return;
        };
        slot.kind.remove(state, stamp, value);
        if state.is_empty() {
            self.states.remove(&group);
        }
    }

    /// Adds all groups of another.
    pub(super) fn merge(&mut self, slot: &Slot, other: &Self) {
        for (group, more) in &other.states {
            match self.states.get_mut(group) {
                Some(state) => {
                    slot.kind.merge(state, more);
                    if slot.takes_back && state.is_empty() {
                        self.states.remove(group);
                    }
                }
                None => {
                    self.states.insert(group.clone(), more.clone());
                }
            }
        }
    }

    /// True unless there are more groups than a state of the slot may hold.
    pub(super) fn is_within_cap(&self, slot: &Slot) -> bool {
        slot.takes_back || slot.group.is_none_or(|(_, cap)| self.states.len() <= cap)
    }

    /// True without groups.
    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// About how many bytes the groups take.
    pub(super) fn heap_bytes(&self) -> usize {
        self.states.iter().map(|(group, state)| 64 + value_heap_bytes(group) + state.heap_bytes()).sum()
    }
}
