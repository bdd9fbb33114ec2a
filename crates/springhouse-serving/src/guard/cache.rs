//! The states read a moment ago, bounded in bytes. An entry is good until its soft end, may be served while it is read again
//! until its hard end, and both ends are drawn a little apart so that what was read together does not end together.

use super::Tick;
use crate::request::{ServingSettings, ViewFrontier};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::EntityState;
use std::fmt;
use std::sync::Arc;

/// What an entry costs besides its key and its state.
const ENTRY_BYTES: usize = 192;
/// For the cache's first allocation only.
const ENTRY_BYTES_EXPECTED: usize = 1_024;

/// An entity in a view (its build and meaning too: see `Spaces`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) space: u32,
    pub(crate) key: EntityKey,
}

/// What was read. `state: None` = the entity has none.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) state: Option<Arc<EntityState>>,
    /// How far the view had come, at least, when it was read.
    pub(crate) frontier: ViewFrontier,
    read_at: Tick,
    soft_end: Tick,
    hard_end: Tick,
    bytes: u64,
}

/// How long entries live; microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetimes {
    soft: Tick,
    hard: Tick,
    negative: Tick,
    jitter_percent: u64,
}

impl Lifetimes {
    fn new(settings: &ServingSettings) -> Self {
        let soft = settings.hot_cache_soft_ms * 1_000;
        Self {
            soft,
            hard: (settings.hot_cache_hard_ms * 1_000).max(soft),
            negative: settings.negative_cache_ms * 1_000,
            jitter_percent: settings.hot_cache_jitter_percent.min(100),
        }
    }

    /// The soft and the hard end of what is read now. `draw` is any number; equal numbers draw alike. Jitter only shortens.
    fn ends(&self, is_negative: bool, now: Tick, draw: u64) -> (Tick, Tick) {
        let shortened = |length: Tick| length - length / 100 * self.jitter_percent / 1_000 * (draw % 1_000);
        if is_negative {
            let end = now + shortened(self.negative);
            return (end, end);
        }
        (now + shortened(self.soft), now + shortened(self.hard))
    }
}

/// What a request needs an entry to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) at: Micros,
    /// How far the view has come now: an entry that has seen as much is as good as a read.
    pub(crate) frontier: ViewFrontier,
    /// How far, at most, the frontier of an entry may be behind (for windows: their age would be more).
    pub(crate) age_max: Option<Micros>,
    /// How long ago, at most, it may have been read.
    pub(crate) read_age_max: Option<Micros>,
}

impl Wanted {
    fn is_met_by(&self, entry: &Entry, now: Tick) -> bool {
        if entry.frontier.frontier >= self.frontier.frontier {
            return true;
        }
        let read_age = Micros::try_from(now.saturating_sub(entry.read_at)).unwrap_or(Micros::MAX);
        self.read_age_max.is_none_or(|max| read_age <= max)
            && self.age_max.is_none_or(|max| entry.frontier.age(self.at).is_some_and(|age| age <= max))
    }
}

/// What a look found.
#[derive(Clone, Debug)]
pub(crate) enum Look {
    Miss,
    Good(Entry),
    /// To be served, and to be read again.
    Stale(Entry),
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Slot, Entry> for ByBytes {
    fn weight(&self, _: &Slot, entry: &Entry) -> u64 {
        entry.bytes
    }
}

type Entries = Cache<Slot, Entry, ByBytes, ahash::RandomState>;

/// The cache; holds nothing when it is switched off.
pub(crate) struct HotCache {
    entries: Option<Entries>,
    lifetimes: Lifetimes,
    hasher: ahash::RandomState,
}

impl fmt::Debug for HotCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotCache").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl HotCache {
    pub(crate) fn new(settings: &ServingSettings) -> Self {
        let bytes = settings.hot_cache_bytes_max;
        let entries = (bytes > 0).then(|| {
            let hasher = ahash::RandomState::new();
            let lifecycle = DefaultLifecycle::default();
            Entries::with(bytes / ENTRY_BYTES_EXPECTED, bytes as u64, ByBytes, hasher, lifecycle)
        });
        Self { entries, lifetimes: Lifetimes::new(settings), hasher: ahash::RandomState::new() }
    }

    pub(crate) fn look(&self, slot: &Slot, wanted: &Wanted, now: Tick) -> Look {
        let Some(entry) = self.entries.as_ref().and_then(|entries| entries.get(slot)) else {
            return Look::Miss;
        };
        if now >= entry.hard_end || !wanted.is_met_by(&entry, now) {
            Look::Miss
        } else if now >= entry.soft_end {
            Look::Stale(entry)
        } else {
            Look::Good(entry)
        }
    }

    /// Keeps what was read at `read_at`.
    pub(crate) fn keep(
        &self,
        slot: &Slot,
        state: &Option<Arc<EntityState>>,
        frontier: ViewFrontier,
        read_at: Tick,
    ) {
        let Some(entries) = &self.entries else { return };
        let draw = self.hasher.hash_one((slot, read_at));
        let (soft_end, hard_end) = self.lifetimes.ends(state.is_none(), read_at, draw);
        if hard_end <= read_at {
            return;
        }
        let size = state.as_ref().map_or(0, |state| state.size_bytes()) + slot.key.as_bytes().len();
        let bytes = (size + ENTRY_BYTES) as u64;
        let entry = Entry { state: state.clone(), frontier, read_at, soft_end, hard_end, bytes };
        entries.insert(slot.clone(), entry);
    }

    pub(crate) fn forget(&self, slot: &Slot) {
        if let Some(entries) = &self.entries {
            entries.remove(slot);
        }
    }

    /// Entries, and their bytes.
    pub(crate) fn size(&self) -> (usize, u64) {
        self.entries.as_ref().map_or((0, 0), |entries| (entries.len(), entries.weight()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings() -> ServingSettings {
        ServingSettings {
            hot_cache_bytes_max: 1 << 20,
            hot_cache_soft_ms: 10,
            hot_cache_hard_ms: 30,
            negative_cache_ms: 100,
            hot_cache_jitter_percent: 0,
            ..Default::default()
        }
    }

    fn slot(number: u32) -> Slot {
        let types = [("k".to_owned(), springhouse_core::ValueType::Int32)];
        let key = EntityKey::encode(&types, &[springhouse_core::Value::Int32(number as i32)]).unwrap();
        Slot { space: 0, key }
    }

    fn frontier(frontier: Micros) -> ViewFrontier {
        ViewFrontier { frontier, cut: frontier }
    }

    fn wanted(at: Micros) -> Wanted {
        Wanted { at, frontier: frontier(at), age_max: None, read_age_max: None }
    }

    #[test]
    fn absence_is_kept_for_its_own_time_and_no_longer() {
        let cache = HotCache::new(&settings());
        cache.keep(&slot(1), &None, frontier(0), 0);
        assert!(
            matches!(cache.look(&slot(1), &wanted(5), 99_999), Look::Good(entry) if entry.state.is_none())
        );
        assert!(matches!(cache.look(&slot(1), &wanted(5), 100_000), Look::Miss));
        assert!(matches!(cache.look(&slot(2), &wanted(5), 0), Look::Miss));
        cache.keep(&slot(2), &None, frontier(0), 0);
        cache.forget(&slot(2));
        assert!(matches!(cache.look(&slot(2), &wanted(5), 0), Look::Miss));
    }

    #[test]
    fn an_entry_too_old_for_the_request_is_a_miss_unless_nothing_newer_was_applied() {
        let cache = HotCache::new(&settings());
        cache.keep(&slot(1), &None, frontier(1_000), 0);
        let mut wanted = Wanted { age_max: Some(500), ..wanted(1_500) };
        assert!(matches!(cache.look(&slot(1), &wanted, 10), Look::Good(_)));
        wanted.at = 1_501;
        assert!(matches!(cache.look(&slot(1), &wanted, 10), Look::Miss));
        wanted.frontier = frontier(1_000);
        assert!(matches!(cache.look(&slot(1), &wanted, 10), Look::Good(_)));
        let young = Wanted { age_max: None, read_age_max: Some(9), frontier: frontier(2_000), ..wanted };
        assert!(matches!(cache.look(&slot(1), &young, 9), Look::Good(_)));
        assert!(matches!(cache.look(&slot(1), &young, 10), Look::Miss));
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let cache = HotCache::new(&ServingSettings { hot_cache_bytes_max: 64 << 10, ..settings() });
        for number in 0..10_000 {
            cache.keep(&slot(number), &None, frontier(0), 0);
        }
        let (entries, bytes) = cache.size();
        assert!(entries > 100 && bytes <= 64 << 10, "{entries} entries of {bytes} bytes");
        let off = HotCache::new(&ServingSettings { hot_cache_bytes_max: 0, ..settings() });
        off.keep(&slot(1), &None, frontier(0), 0);
        assert!(matches!(off.look(&slot(1), &wanted(0), 0), Look::Miss));
    }

    proptest! {
        #[test]
        fn jitter_shortens_by_no_more_than_its_share_and_spreads(
            jitter in 0..=100u64,
            soft in 1..100_000u64,
            draw in any::<u64>(),
        ) {
            let lifetimes = Lifetimes { soft: soft * 1_000, hard: soft * 3_000, negative: 0, jitter_percent: jitter };
            let (soft_end, hard_end) = lifetimes.ends(false, 7, draw);
            prop_assert!(soft_end <= 7 + soft * 1_000 && hard_end <= 7 + soft * 3_000);
            prop_assert!(soft_end <= hard_end);
            prop_assert!((soft_end - 7) * 100 >= soft * 1_000 * (100 - jitter));
        }
    }
}
