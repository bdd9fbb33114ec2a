//! How often a call may be made a second time: a share of the calls made once, so that a store in trouble is not asked more
//! than that much more.

use std::sync::atomic::{AtomicI64, Ordering};

/// What one second call costs; the first calls earn a share of it each.
const COST: i64 = 100;
/// Most second calls saved up.
const SAVED_MAX: i64 = 20;

/// A purse that first calls fill and second calls empty.
#[derive(Debug)]
pub(crate) struct Budget {
    saved: AtomicI64,
    earned_per_call: i64,
}

impl Budget {
    pub(crate) fn new(percent: u64) -> Self {
        let earned_per_call = i64::try_from(percent).unwrap_or(COST).min(COST);
        Self { saved: AtomicI64::new(0), earned_per_call }
    }

    /// A first call is made.
    pub(crate) fn earn(&self) {
        if self.earned_per_call > 0 && self.saved.load(Ordering::Relaxed) < SAVED_MAX * COST {
            // Racing calls may save up a little more than the most; that is bounded by their number.
            self.saved.fetch_add(self.earned_per_call, Ordering::Relaxed);
        }
    }

    /// Pays for a second call, if there is enough.
    pub(crate) fn spend(&self) -> bool {
        let pay = |saved| (saved >= COST).then_some(saved - COST);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_spent_before_it_is_earned_and_zero_switches_it_off() {
        let budget = Budget::new(10);
        assert!(!budget.spend());
        (0..10).for_each(|_| budget.earn());
        assert!(budget.spend() && !budget.spend());
        let off = Budget::new(0);
        (0..1_000).for_each(|_| off.earn());
        assert!(!off.spend());
    }

    proptest! {
        #[test]
        fn second_calls_are_never_more_than_their_share(
            percent in 0..=100u64,
            calls in prop::collection::vec(any::<bool>(), 1..2_000),
        ) {
            let budget = Budget::new(percent);
            let (mut first, mut second) = (0u64, 0u64);
            for fails in calls {
                budget.earn();
                first += 1;
                second += u64::from(fails && budget.spend());
                prop_assert!(second * 100 <= first * percent);
            }
        }
    }
}
