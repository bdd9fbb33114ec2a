//! One node of the store: its breaker and its limit, and the permit of a call.

use super::Tick;
use super::breaker::{Breaker, BreakerRules, CallOutcome, Passage};
use super::flights::NoAnswer;
use super::limit::{Limit, LimitRules};
use crate::admission::Shares;
use crate::request::Priority;
use crate::statistics::NodeStatistics;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of one node.
#[derive(Debug)]
pub(crate) struct StoreNode {
    state: Mutex<(Breaker, Limit)>,
}

impl StoreNode {
    pub(crate) fn new(breaker: BreakerRules, limit: LimitRules) -> Self {
        Self { state: Mutex::new((Breaker::new(breaker), Limit::new(limit))) }
    }

    /// Both are left in order by every call, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, (Breaker, Limit)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call through, or says why not; never waits.
    pub(crate) fn admit(
        self: &Arc<Self>,
        priority: Priority,
        shares: Shares,
        now: Tick,
    ) -> Result<Permit, NoAnswer> {
        let mut state = self.lock();
        let (breaker, limit) = &mut *state;
        let (passage, era) = breaker.pass(now);
        let room = match passage {
            Passage::Refused => return Err(NoAnswer::NotAsked("the circuit breaker of its node is open")),
            Passage::Probe => usize::MAX,
            Passage::Free => shares.of(priority, limit.now().0),
        };
        if limit.begin(room, now) {
            return Ok(Permit {
                node: Arc::clone(self),
                era,
                began: now,
                is_probe: passage == Passage::Probe,
                ended: false,
            });
        }
        Err(match limit.is_silent(now) {
            true => NoAnswer::NotAsked("its node does not answer the calls under way"),
            false => NoAnswer::Shed,
        })
    }

    pub(crate) fn statistics(&self, now: Tick) -> NodeStatistics {
        let state = self.lock();
        let (limit, under_way) = state.1.now();
        NodeStatistics { breaker: state.0.state(now), opened: state.0.opened(), limit, under_way }
    }
}

/// One call under way. Dropped without an end it says nothing of the node.
#[derive(Debug)]
pub(crate) struct Permit {
    node: Arc<StoreNode>,
    era: u32,
    began: Tick,
    pub(crate) is_probe: bool,
    ended: bool,
}

impl Permit {
    pub(crate) fn began(&self) -> Tick {
        self.began
    }

    /// The node answered, or (false) failed to.
    pub(crate) fn end(&mut self, now: Tick, answered: bool) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = now.saturating_sub(self.began);
        let outcome = if answered { CallOutcome::Answered(took) } else { CallOutcome::Failed };
        let mut state = self.node.lock();
        state.0.note(now, self.era, outcome);
        state.1.end(now, answered.then_some(took));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.node.lock();
            state.0.note(self.began, self.era, CallOutcome::Abandoned);
            state.1.abandon();
        }
    }
}
