//! Where the time of one answer went.

use std::time::Duration;
use tokio::time::Instant;

/// A stage of an answer, in the order they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Finding the shape of the request, checking what it brings, encoding keys.
    Plan,
    /// Looking into the hot cache; only where a store is elsewhere.
    Cache,
    /// Waiting for the store.
    Store,
    /// States to values as of the request's moment, with TTLs, defaults and statuses.
    Kernel,
    /// Features computed from the request and from other features.
    Expressions,
}

const STAGES: [Stage; 5] = [Stage::Plan, Stage::Cache, Stage::Store, Stage::Kernel, Stage::Expressions];

impl Stage {
    /// Its name in traces.
    pub fn word(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Cache => "cache",
            Self::Store => "store",
            Self::Kernel => "kernel",
            Self::Expressions => "expressions",
        }
    }
}

/// The stages that an answer has gone through, each from the end of the one before it.
#[derive(Clone, Copy, Debug)]
pub struct Stages {
    /// None where nobody looks: each look at the clock costs as much as a value.
    begun: Option<Instant>,
    /// By stage: when it ended, counted from the begin; none when the answer did not come to it.
    ends: [Option<Duration>; STAGES.len()],
    /// Calls of the store that the request itself made; those that it shared with another count there.
    pub store_calls: u32,
}

impl Stages {
    /// Of an answer that begins now.
    pub fn begin() -> Self {
        Self { begun: Some(Instant::now()), ..Self::unmeasured() }
    }

    /// Of an answer whose times nobody wants to know.
    pub fn unmeasured() -> Self {
        Self { begun: None, ends: [None; STAGES.len()], store_calls: 0 }
    }

    /// Notes that a stage has ended.
    pub(crate) fn end(&mut self, stage: Stage) {
        self.ends[stage as usize] = self.begun.map(|begun| begun.elapsed());
    }

    /// When the answer began, where it is measured.
    pub fn begun(&self) -> Option<std::time::Instant> {
        self.begun.map(Instant::into_std)
    }

    /// The stages there were: when each began, counted from the answer's begin, and how long it took.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, Duration, Duration)> {
        let mut before = Duration::ZERO;
        STAGES.into_iter().zip(self.ends).filter_map(move |(stage, end)| {
            let (began, end) = (before, end?);
            before = end;
            Some((stage, began, end.saturating_sub(began)))
        })
    }
}
