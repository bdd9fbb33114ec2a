//! When not to ask a node of the store: it has failed, or been slow, too often lately. Pure: the moment is given.
//!
//! Closed: calls go through and are counted in a sliding window. Open: nothing goes through. Half-open, after a while: a few
//! probes go through, and only when all of them succeed is it closed again. What the caller did (a wrong request, a call given
//! up) never counts.

use super::Tick;
use crate::request::ServingSettings;

/// The sliding window moves in this many steps.
const STEPS: usize = 10;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// An answer (also one that says the caller is wrong), this many microseconds after the call.
    Answered(Tick),
    /// No answer, or one that says that the store can't.
    Failed,
    /// Nobody waits for it any more, or it was never made: it says nothing of the store.
    Abandoned,
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    Free,
    /// One of the few that find out whether the node is well again.
    Probe,
    Refused,
}

/// Closed, half-open, open, as metrics have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// A few probes go through.
    HalfOpen,
    /// Nothing goes through.
    Open,
}

/// When it opens and for how long. Times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakerRules {
    pub(crate) is_on: bool,
    pub(crate) window: Tick,
    pub(crate) calls_min: u64,
    pub(crate) failure_percent: u64,
    pub(crate) slow: Tick,
    pub(crate) slow_percent: u64,
    pub(crate) open: Tick,
    pub(crate) probes: u32,
}

impl BreakerRules {
    pub(crate) fn new(settings: &ServingSettings) -> Self {
        Self {
            is_on: settings.breaker,
            window: settings.breaker_window_ms.max(1) * 1_000,
            calls_min: settings.breaker_calls_min.max(1),
            failure_percent: settings.breaker_failure_percent,
            slow: settings.breaker_slow_ms * 1_000,
            slow_percent: settings.breaker_slow_percent,
            open: settings.breaker_open_ms * 1_000,
            probes: settings.breaker_probes.max(1),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    calls: u64,
    failed: u64,
    slow: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open { until: Tick },
    HalfOpen { under_way: u32, succeeded: u32 },
}

/// The breaker of one node.
#[derive(Debug)]
pub(crate) struct Breaker {
    rules: BreakerRules,
    state: State,
    steps: [Counts; STEPS],
    /// The step that is being counted into: time divided by the step's length.
    step: u64,
    /// Calls let through before the last change of state say nothing of the present one.
    era: u32,
    opened: u64,
}

impl Breaker {
    pub(crate) fn new(rules: BreakerRules) -> Self {
        Self { rules, state: State::Closed, steps: Default::default(), step: 0, era: 0, opened: 0 }
    }

    /// Whether a call may be made now, and the era to give back with its outcome.
    pub(crate) fn pass(&mut self, now: Tick) -> (Passage, u32) {
        if !self.rules.is_on {
            return (Passage::Free, self.era);
        }
        if let State::Open { until } = self.state
            && now >= until
        {
            self.enter(State::HalfOpen { under_way: 0, succeeded: 0 });
        }
        let passage = match &mut self.state {
            State::Closed => Passage::Free,
            State::Open { .. } => Passage::Refused,
            State::HalfOpen { under_way, succeeded } if *under_way + *succeeded < self.rules.probes => {
                *under_way += 1;
                Passage::Probe
            }
            State::HalfOpen { .. } => Passage::Refused,
        };
        (passage, self.era)
    }

    /// Notes what became of a call that [`Self::pass`] let through.
    pub(crate) fn note(&mut self, now: Tick, era: u32, outcome: CallOutcome) {
        if !self.rules.is_on || era != self.era {
            return;
        }
        let is_slow = matches!(outcome, CallOutcome::Answered(took) if took >= self.rules.slow);
        match &mut self.state {
            State::Closed => {
                self.count(now, outcome, is_slow);
                if self.is_bad() {
                    self.open(now);
                }
            }
            State::HalfOpen { under_way, succeeded } => {
                *under_way = under_way.saturating_sub(1);
                match outcome {
                    CallOutcome::Abandoned => {}
                    CallOutcome::Answered(_) if !is_slow => {
                        *succeeded += 1;
                        if *succeeded >= self.rules.probes {
                            self.enter(State::Closed);
                        }
                    }
                    _ => self.open(now),
                }
            }
            // An open breaker let nothing through in this era.
            State::Open { .. } => {}
        }
    }

    /// As it is now.
    pub(crate) fn state(&self, now: Tick) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often it has opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    fn open(&mut self, now: Tick) {
        self.opened += 1;
        self.enter(State::Open { until: now.saturating_add(self.rules.open) });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.era = self.era.wrapping_add(1);
        self.steps = Default::default();
    }

    fn count(&mut self, now: Tick, outcome: CallOutcome, is_slow: bool) {
        if outcome == CallOutcome::Abandoned {
            return;
        }
        let step = now / (self.rules.window / STEPS as u64).max(1);
        // Outcomes can be noted a little out of order; an older step's is counted into the present one.
        let moved = step.saturating_sub(self.step).min(STEPS as u64);
        for passed in 0..moved {
            self.steps[((step - passed) % STEPS as u64) as usize] = Counts::default();
        }
        self.step = self.step.max(step);
        let counts = &mut self.steps[(self.step % STEPS as u64) as usize];
        counts.calls += 1;
        counts.failed += u64::from(outcome == CallOutcome::Failed);
        counts.slow += u64::from(is_slow);
    }

    fn is_bad(&self) -> bool {
        let sum = |of: fn(&Counts) -> u64| self.steps.iter().map(of).sum::<u64>();
        let calls = sum(|c| c.calls);
        let over = |count: u64, percent: u64| count > 0 && count * 100 >= calls * percent;
        calls >= self.rules.calls_min
            && (over(sum(|c| c.failed), self.rules.failure_percent)
                || over(sum(|c| c.failed) + sum(|c| c.slow), self.rules.slow_percent))
    }
}

#[cfg(test)]
mod tests;
