//! How many calls of one node of the store may be under way: as many as it answers quickly. Pure: the moment is given.
//!
//! Additive increase while it is used and answers come below the target, multiplicative decrease at most once per target when
//! they don't: the queue that a node is made to hold never waits longer than about the target, whatever the load.

use super::Tick;
use crate::request::ServingSettings;

/// What is left of the limit after a call that took too long.
const DECREASE: f64 = 0.9;

/// How the limit moves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitRules {
    pub(crate) is_on: bool,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// A call that takes longer, in microseconds, has waited behind others.
    pub(crate) target: Tick,
}

impl LimitRules {
    pub(crate) fn new(settings: &ServingSettings) -> Self {
        let max = settings.store_calls_max.max(1) as f64;
        Self {
            is_on: settings.store_calls_adaptive,
            min: (settings.store_calls_min.max(1) as f64).min(max),
            max,
            target: settings.store_calls_target_ms.max(1) * 1_000,
        }
    }
}

/// The limit of one node.
#[derive(Debug)]
pub(crate) struct Limit {
    rules: LimitRules,
    limit: f64,
    under_way: usize,
    decreased_at: Tick,
    answered_at: Tick,
}

impl Limit {
    /// Begins half way (by factor) between its bounds.
    pub(crate) fn new(rules: LimitRules) -> Self {
        let limit = if rules.is_on { (rules.min * rules.max).sqrt() } else { rules.max };
        Self { rules, limit, under_way: 0, decreased_at: 0, answered_at: 0 }
    }

    /// The limit, and what is under way.
    pub(crate) fn now(&self) -> (usize, usize) {
        (self.limit as usize, self.under_way)
    }

    /// Begins a call if fewer than `room` are under way.
    pub(crate) fn begin(&mut self, room: usize, now: Tick) -> bool {
        if self.under_way >= room {
            return false;
        }
        if self.under_way == 0 {
            // A node that nobody asked has not been silent.
            self.answered_at = self.answered_at.max(now);
        }
        self.under_way += 1;
        true
    }

    /// True when calls are under way and none was answered for longer than an answer should take: it is not that there are
    /// too many calls, the node is silent.
    pub(crate) fn is_silent(&self, now: Tick) -> bool {
        self.under_way > 0 && now.saturating_sub(self.answered_at) > self.rules.target
    }

    /// Ends a call: answered after so many microseconds, or not at all.
    pub(crate) fn end(&mut self, now: Tick, took: Option<Tick>) {
        let used = self.under_way;
        self.under_way = self.under_way.saturating_sub(1);
        if took.is_some() {
            self.answered_at = self.answered_at.max(now);
        }
        if !self.rules.is_on {
            return;
        }
        if took.is_some_and(|took| took <= self.rules.target) {
            // Only a limit that is reached has been tried.
            if used as f64 * 2.0 >= self.limit {
                self.limit = (self.limit + 1.0 / self.limit).min(self.rules.max);
            }
        } else if now.saturating_sub(self.decreased_at) >= self.rules.target {
            self.limit = (self.limit * DECREASE).max(self.rules.min);
            self.decreased_at = now;
        }
    }

    /// Ends a call that says nothing of the node.
    pub(crate) fn abandon(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Tick = 1_000;

    fn rules() -> LimitRules {
        LimitRules { is_on: true, min: 2.0, max: 128.0, target: 10 * MS }
    }

    /// A node that does `workers` calls at once, each in `service`, the others wait; asked by more callers than it can serve,
    /// each as soon as the limit lets it. Returns (answered per second, the longest wait, the last limit).
    fn overload(limit: &mut Limit, workers: usize, service: Tick, until: Tick) -> (u64, Tick, usize) {
        let (mut free_at, mut calls) = (vec![0 as Tick; workers], std::collections::BTreeSet::new());
        let (mut now, mut answered, mut longest, mut number) = (0, 0u64, 0, 0u64);
        while now < until {
            while limit.begin(limit.now().0, now) {
                let worker = free_at.iter_mut().min().unwrap();
                *worker = now.max(*worker) + service;
                calls.insert((*worker, number, now));
                number += 1;
            }
            let (end, _, begun) = calls.pop_first().unwrap();
            now = end;
            limit.end(now, Some(now - begun));
            answered += 1;
            longest = longest.max(now - begun);
        }
        (answered * 1_000_000 / until, longest, limit.now().0)
    }

    #[test]
    fn under_overload_the_node_stays_busy_and_nobody_waits_much_longer_than_the_target() {
        for (workers, service) in [(1, MS), (2, 500), (8, 4 * MS), (1, 100)] {
            let mut limit = Limit::new(rules());
            overload(&mut limit, workers, service, 2_000 * MS);
            let mut settled = limit;
            settled.under_way = 0;
            settled.decreased_at = 0;
            let (rate, longest, last) = overload(&mut settled, workers, service, 2_000 * MS);
            let peak = workers as u64 * 1_000_000 / service;
            assert!(rate * 100 >= peak * 95, "{rate} of {peak} with limit {last}");
            assert!(longest <= 2 * rules().target, "{longest} with limit {last}");
        }
    }

    #[test]
    fn a_silent_node_gets_few_calls_and_the_limit_comes_back_with_it() {
        let mut limit = Limit::new(rules());
        let mut now = 0;
        for _ in 0..200 {
            now += 10 * MS;
            assert!(limit.begin(usize::MAX, now));
            limit.end(now, None);
        }
        assert_eq!(limit.now(), (2, 0));
        overload(&mut limit, 4, MS, 3_000 * MS);
        assert!(limit.now().0 > 8, "{:?}", limit.now());
    }

    #[test]
    fn silence_is_told_from_load() {
        let mut limit = Limit::new(rules());
        assert!(!limit.is_silent(1_000 * MS));
        assert!(limit.begin(5, 1_000 * MS) && limit.begin(5, 1_000 * MS));
        assert!(!limit.is_silent(1_010 * MS));
        assert!(limit.is_silent(1_011 * MS));
        limit.end(1_011 * MS, Some(11 * MS));
        assert!(!limit.is_silent(1_012 * MS));
    }

    #[test]
    fn switched_off_it_is_its_most() {
        let mut limit = Limit::new(LimitRules { is_on: false, ..rules() });
        assert!(limit.begin(usize::MAX, 0));
        limit.end(1_000 * MS, None);
        assert_eq!(limit.now(), (128, 0));
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_and_counts_right(
            steps in prop::collection::vec((0..3u8, 0..20_000u64), 1..500),
        ) {
            let mut limit = Limit::new(rules());
            let (mut now, mut open) = (0, 0usize);
            for (what, micros) in steps {
                now += micros;
                match what {
                    0 => open += usize::from(limit.begin(limit.now().0, now)),
                    1 if open > 0 => {
                        limit.end(now, (micros % 3 > 0).then_some(micros));
                        open -= 1;
                    }
                    2 if open > 0 => {
                        limit.abandon();
                        open -= 1;
                    }
                    _ => {}
                }
                prop_assert_eq!(limit.now().1, open);
                prop_assert!((2..=128).contains(&limit.now().0));
            }
        }
    }
}
