//! Against a naive twin that keeps every call, and the rules by name.

use super::*;
use proptest::prelude::*;

const MS: Tick = 1_000;

fn rules() -> BreakerRules {
    BreakerRules {
        is_on: true,
        window: 1_000 * MS,
        calls_min: 4,
        failure_percent: 50,
        slow: 20 * MS,
        slow_percent: 75,
        open: 500 * MS,
        probes: 2,
    }
}

/// One call at `now` with this outcome; false when it was refused.
fn call(breaker: &mut Breaker, now: Tick, outcome: CallOutcome) -> bool {
    let (passage, era) = breaker.pass(now);
    if passage == Passage::Refused {
        return false;
    }
    breaker.note(now, era, outcome);
    true
}

const FAST: CallOutcome = CallOutcome::Answered(MS);
const SLOW: CallOutcome = CallOutcome::Answered(30 * MS);

#[test]
fn half_of_the_calls_failing_opens_it_and_few_calls_do_not() {
    let mut breaker = Breaker::new(rules());
    for outcome in [CallOutcome::Failed, CallOutcome::Failed, CallOutcome::Failed] {
        assert!(call(&mut breaker, 0, outcome));
    }
    assert_eq!(breaker.state(0), BreakerState::Closed);
    assert!(call(&mut breaker, 0, FAST));
    assert_eq!((breaker.state(0), breaker.opened()), (BreakerState::Open, 1));
    assert!(!call(&mut breaker, 499 * MS, FAST));
}

#[test]
fn slow_answers_open_it_and_what_callers_do_does_not() {
    let mut breaker = Breaker::new(rules());
    for _ in 0..100 {
        assert!(call(&mut breaker, 0, CallOutcome::Abandoned));
    }
    for outcome in [SLOW, SLOW, FAST, SLOW] {
        assert!(call(&mut breaker, 0, outcome));
    }
    assert_eq!(breaker.state(0), BreakerState::Open);
}

#[test]
fn a_few_slow_calls_in_a_hundred_do_not_make_it_flap() {
    let mut breaker = Breaker::new(rules());
    for n in 0..10_000 {
        let outcome = if n % 20 == 0 { CallOutcome::Failed } else { FAST };
        assert!(call(&mut breaker, n * MS, outcome));
    }
    assert_eq!(breaker.opened(), 0);
}

#[test]
fn half_open_lets_few_through_and_closes_when_all_of_them_succeed() {
    let mut breaker = Breaker::new(rules());
    (0..4).for_each(|_| assert!(call(&mut breaker, 0, CallOutcome::Failed)));
    let later = 500 * MS;
    let (first, era) = breaker.pass(later);
    let (second, _) = breaker.pass(later);
    assert_eq!((first, second, breaker.pass(later).0), (Passage::Probe, Passage::Probe, Passage::Refused));
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    // A probe given up makes room for another.
    breaker.note(later, era, CallOutcome::Abandoned);
    assert_eq!(breaker.pass(later).0, Passage::Probe);
    breaker.note(later, era, FAST);
    assert_eq!(breaker.pass(later).0, Passage::Refused);
    breaker.note(later, era, FAST);
    assert_eq!(breaker.state(later), BreakerState::Closed);
    // What failed before it opened is forgotten.
    assert!(call(&mut breaker, later, CallOutcome::Failed));
    assert_eq!(breaker.state(later), BreakerState::Closed);
}

#[test]
fn a_failed_probe_opens_it_again_and_late_outcomes_of_before_change_nothing() {
    let mut breaker = Breaker::new(rules());
    let (_, before) = breaker.pass(0);
    (0..4).for_each(|_| assert!(call(&mut breaker, 0, CallOutcome::Failed)));
    let (_, era) = breaker.pass(500 * MS);
    breaker.note(500 * MS, before, FAST);
    breaker.note(500 * MS, before, FAST);
    assert_eq!(breaker.state(500 * MS), BreakerState::HalfOpen);
    breaker.note(510 * MS, era, CallOutcome::Failed);
    assert_eq!(breaker.state(510 * MS), BreakerState::Open);
    assert_eq!(breaker.pass(1_009 * MS).0, Passage::Refused);
    assert_eq!(breaker.pass(1_010 * MS).0, Passage::Probe);
}

#[test]
fn switched_off_it_lets_everything_through() {
    let mut breaker = Breaker::new(BreakerRules { is_on: false, ..rules() });
    (0..100).for_each(|_| assert!(call(&mut breaker, 0, CallOutcome::Failed)));
    assert_eq!(breaker.state(0), BreakerState::Closed);
}

/// Keeps every call since the last change of state.
struct Naive {
    calls: Vec<(Tick, CallOutcome)>,
}

impl Naive {
    fn would_open(&self, now: Tick) -> bool {
        let step = rules().window / STEPS as u64;
        let seen = self.calls.iter().filter(|(at, outcome)| {
            *outcome != CallOutcome::Abandoned && at / step + (STEPS as u64) > now / step
        });
        let seen: Vec<_> = seen.map(|(_, outcome)| *outcome).collect();
        let failed = seen.iter().filter(|outcome| **outcome == CallOutcome::Failed).count();
        let slow = seen.iter().filter(|outcome| **outcome == SLOW).count();
        seen.len() >= 4
            && (failed > 0 && failed * 100 >= seen.len() * 50
                || failed + slow > 0 && (failed + slow) * 100 >= seen.len() * 75)
    }
}

proptest! {
    /// proptest prints the seed and the smallest failing case.
    #[test]
    fn it_opens_exactly_when_the_naive_twin_would(
        calls in prop::collection::vec((0..400u64, 0..4u8), 1..200),
    ) {
        let mut breaker = Breaker::new(rules());
        let mut naive = Naive { calls: Vec::new() };
        let mut now = 0;
        for (pause, kind) in calls {
            now += pause * MS;
            let outcome = [FAST, SLOW, CallOutcome::Failed, CallOutcome::Abandoned][kind as usize];
            let (passage, era) = breaker.pass(now);
            if passage != Passage::Free {
                if passage == Passage::Probe {
                    breaker.note(now, era, CallOutcome::Abandoned);
                }
                // Two good probes close it; the third call is the first one counted, and the twin starts anew.
                now += rules().open;
                for _ in 0..3 {
                    prop_assert!(call(&mut breaker, now, FAST));
                }
                naive.calls = vec![(now, FAST)];
                continue;
            }
            naive.calls.push((now, outcome));
            let expected = naive.would_open(now) && outcome != CallOutcome::Abandoned;
            breaker.note(now, era, outcome);
            prop_assert_eq!(breaker.state(now) == BreakerState::Open, expected);
        }
    }
}
