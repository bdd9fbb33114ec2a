//! Workers: each has a connection and one request under way.

use super::shadow::Comparison;
use super::{LoadArgs, Timetable};
use anyhow::Context;
use hdrhistogram::Histogram;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The level of an answer (empty where it has none), or the code of a refusal.
pub(super) type Outcome = Result<String, String>;

/// What requests are sent to.
pub(super) trait Target {
    /// Sends request `number` and waits for its answer.
    async fn call(&mut self, number: u64) -> Outcome;

    /// Called after a request that was answered and measured.
    async fn afterwards(&mut self, _number: u64, _measured: &mut Measured) {}
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Measured {
    /// Microseconds from the planned moment (or from sending, without a rate) to the answer; refusals too.
    pub(super) latencies: Histogram<u64>,
    pub(super) levels: BTreeMap<String, u64>,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) shadow: Comparison,
    pub(super) seconds: f64,
}

/// A latency is kept to this many digits.
const LATENCY_DIGITS: u8 = 3;
/// Longer ones count as this long: an hour, in microseconds.
const LATENCY_MAX: u64 = 3_600_000_000;

impl Measured {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            latencies: Histogram::new(LATENCY_DIGITS).context("a histogram can't be made")?,
            levels: BTreeMap::new(),
            failures: BTreeMap::new(),
            shadow: Comparison::default(),
            seconds: 0.0,
        })
    }

    fn note(&mut self, outcome: &Outcome, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(LATENCY_MAX);
        self.latencies.record(micros).expect("the histogram grows up to the longest latency");
        let (counts, word) = match outcome {
            Ok(level) => (&mut self.levels, level),
            Err(code) => (&mut self.failures, code),
        };
        match counts.get_mut(word) {
            Some(count) => *count += 1,
            None => drop(counts.insert(word.clone(), 1)),
        }
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latencies.add(&other.latencies).context("histograms can't be added")?;
        for (counts, more) in [(&mut self.levels, &other.levels), (&mut self.failures, &other.failures)] {
            for (word, count) in more {
                *counts.entry(word.clone()).or_default() += count;
            }
        }
        self.shadow.add(other.shadow.clone());
        Ok(())
    }

    pub(super) fn answered(&self) -> u64 {
        self.levels.values().sum()
    }

    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// Sends what the arguments say, over one target for each connection.
pub(super) async fn run_all<T: Target + 'static>(
    load: &LoadArgs,
    target: impl Fn(usize) -> T,
) -> anyhow::Result<Measured> {
    let timetable = Timetable::new(load.rate, load.burst);
    let started = Instant::now();
    let warm = started + Duration::from_secs_f64(load.warm_up);
    let end = warm + Duration::from_secs_f64(load.seconds);
    let next = Rc::new(Cell::new(0));
    let mut workers = Vec::new();
    for connection in 0..load.connections.max(1) {
        let worker = Worker {
            target: target(connection),
            timetable,
            next: next.clone(),
            give_up: Duration::from_millis(load.give_up_ms),
            started,
            warm,
            end,
        };
        workers.push(tokio::task::spawn_local(worker.run()));
    }
    let mut all = Measured::new()?;
    for worker in workers {
        all.add(&worker.await.context("a worker stopped")??)?;
    }
    // A server that can't keep the timetable answers the last planned requests after its end: they count, and so does the
    // time they took.
    all.seconds = (started.elapsed().as_secs_f64() - load.warm_up).max(load.seconds);
    Ok(all)
}

struct Worker<T> {
    target: T,
    timetable: Option<Timetable>,
    next: Rc<Cell<u64>>,
    give_up: Duration,
    started: Instant,
    warm: Instant,
    end: Instant,
}

/// The runtime's timers are a millisecond late at worst, which would be most of a latency: the last of a wait is spent letting
/// others run. A timetable thus keeps a core busy.
const TICK: Duration = Duration::from_micros(1_500);

impl<T: Target> Worker<T> {
    async fn run(mut self) -> anyhow::Result<Measured> {
        let mut measured = Measured::new()?;
        loop {
            let number = self.next.get();
            self.next.set(number + 1);
            let planned = match &self.timetable {
                Some(timetable) => self.started + timetable.due(number),
                None => Instant::now(),
            };
            if planned >= self.end {
                return Ok(measured);
            }
            let ahead = planned.saturating_duration_since(Instant::now());
            if ahead > TICK {
                tokio::time::sleep(ahead - TICK).await;
            }
            while Instant::now() < planned {
                tokio::task::yield_now().await;
            }
            let outcome = match tokio::time::timeout(self.give_up, self.target.call(number)).await {
                Ok(outcome) => outcome,
                Err(_) => Err("no answer in time".to_owned()),
            };
            if planned >= self.warm {
                measured.note(&outcome, planned.elapsed());
                if outcome.is_ok() {
                    self.target.afterwards(number, &mut measured).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_any_length_are_kept() {
        let mut measured = Measured::new().unwrap();
        for millis in [1, 10, 1_000, 100_000, u64::MAX] {
            measured.note(&Ok("healthy".to_owned()), Duration::from_millis(millis));
        }
        let mut all = Measured::new().unwrap();
        all.add(&measured).unwrap();
        assert!(all.latencies.value_at_quantile(0.6).abs_diff(1_000_000) < 2_000);
        assert!(all.latencies.max() > 3_500_000_000);
        assert_eq!((all.answered(), all.failed()), (5, 0));
    }
}
