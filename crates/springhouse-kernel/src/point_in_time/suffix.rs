//! States of all visible events from a given place on, where nothing can be taken away again.
//!
//! Events lie at places in the order of their event times. Everything visible at `T` happened before `T`, so a window
//! is a suffix of the places, and a tree of states answers it with a logarithm of merges; an event becomes visible by
//! an insertion into each of its ancestors. Late events and exact tails need nothing special.

use crate::Stamp;
use crate::aggregate::{Slot, State, Taken};
use springhouse_core::Value;

/// A complete binary tree, root at 1; leaves from `leaves` on.
pub(super) struct SuffixTree<'p> {
    slot: &'p Slot,
    leaves: usize,
    nodes: Vec<State>,
}

impl<'p> SuffixTree<'p> {
    /// A tree of this many places, none visible.
    pub(super) fn new(slot: &'p Slot, places: usize) -> Self {
        let leaves = places.next_power_of_two();
        Self { slot, leaves, nodes: vec![slot.empty(); 2 * leaves] }
    }

    /// Makes the event at a place visible.
    pub(super) fn insert(&mut self, place: usize, stamp: &Stamp, taken: &Taken<Value>) {
        let mut node = self.leaves + place;
        // A node that does not change has ancestors that don't either: most maxima stop after a step or two.
        while node > 0 && self.slot.insert_taken(&mut self.nodes[node], stamp, taken) {
            node /= 2;
        }
    }

    /// Takes the event at a place back.
    pub(super) fn remove(&mut self, place: usize) {
        let mut node = self.leaves + place;
        self.nodes[node] = self.slot.empty();
        while node > 1 {
            node /= 2;
            let mut sum = self.nodes[2 * node].clone();
            self.slot.merge(&mut sum, &self.nodes[2 * node + 1]);
            self.nodes[node] = sum;
        }
    }

    /// The state of the visible events at `from` and beyond.
    pub(super) fn suffix(&self, from: usize) -> State {
        let mut sum = self.slot.empty();
        if from >= self.leaves {
            return sum;
        }
        if from == 0 {
            return self.nodes[1].clone();
        }
        let mut node = self.leaves + from;
        self.slot.merge(&mut sum, &self.nodes[node]);
        while node > 1 {
            // A left child's sibling lies wholly to the right.
            if node.is_multiple_of(2) {
                self.slot.merge(&mut sum, &self.nodes[node + 1]);
            }
            node /= 2;
        }
        sum
    }
}
