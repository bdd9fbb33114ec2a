//! What was done to keep answering: numbers that only grow, and how things are now. For metrics and `/ready`.

use crate::guard::BreakerState;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A server's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServingStatistics {
    /// Requests under way now.
    pub requests_under_way: usize,
    /// Requests refused because there was too much to do, in the order of [`crate::Priority::ALL`].
    pub shed: [u64; 3],
    /// Entity rows of views that the store did not answer for: the last known state stood in, or the defaults did.
    pub fallbacks: Fallbacks,
    /// Of the guard; none before a store in this process.
    pub guard: Option<GuardStatistics>,
}

/// What stood in for rows that the store did not answer for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fallbacks {
    /// The last known state.
    pub last_known: u64,
    /// The defaults.
    pub defaults: u64,
}

/// The guard's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardStatistics {
    /// By the names in [`Self::LABELS`].
    pub counts: [u64; Self::COUNTS],
    /// Entries in the hot cache.
    pub cache_entries: usize,
    /// Bytes of those.
    pub cache_bytes: u64,
    /// Keys that are being read.
    pub reads_under_way: usize,
    /// The nodes of the store, by number.
    pub nodes: Vec<NodeStatistics>,
}

impl GuardStatistics {
    pub(crate) const COUNTS: usize = 10;
    pub(crate) const HITS: usize = 0;
    pub(crate) const NEGATIVE_HITS: usize = 1;
    pub(crate) const STALE_HITS: usize = 2;
    pub(crate) const MISSES: usize = 3;
    pub(crate) const COALESCED: usize = 4;
    pub(crate) const CALLS: usize = 5;
    pub(crate) const CALLS_FAILED: usize = 6;
    pub(crate) const CALLS_REFUSED: usize = 7;
    pub(crate) const RETRIES: usize = 8;
    pub(crate) const HEDGES: usize = 9;

    /// What each of [`Self::counts`] counts: looks into the cache that found a state, an absence, something to be read again,
    /// nothing; keys read together with another request; calls of the store, those that failed, those not made (breaker or
    /// limit); second calls after a failure, and before an answer.
    pub const LABELS: [&'static str; Self::COUNTS] = [
        "cache_hit",
        "cache_negative_hit",
        "cache_stale_hit",
        "cache_miss",
        "coalesced",
        "call",
        "call_failed",
        "call_refused",
        "retry",
        "hedge",
    ];

    /// One of [`Self::counts`] by its label; 0 for a label that is none.
    pub fn count(&self, label: &str) -> u64 {
        Self::LABELS.iter().position(|known| *known == label).map_or(0, |place| self.counts[place])
    }

    /// The nodes whose breaker is not closed: what makes answers degraded now.
    pub fn broken_nodes(&self) -> Vec<usize> {
        let broken = |(node, statistics): (usize, &NodeStatistics)| {
            (statistics.breaker != BreakerState::Closed).then_some(node)
        };
        self.nodes.iter().enumerate().filter_map(broken).collect()
    }
}

/// A node of the store as the guard sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStatistics {
    /// Its breaker.
    pub breaker: BreakerState,
    /// How often that has opened.
    pub opened: u64,
    /// Most calls under way.
    pub limit: usize,
    /// Calls under way.
    pub under_way: usize,
}
