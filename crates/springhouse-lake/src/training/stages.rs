//! How long the stages of a training set took.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// One stage: what was done, and the time on the clock it took.
#[derive(Clone, Debug, PartialEq)]
pub struct StageTime {
    /// What, such as `read labels` or `gather events`.
    pub stage: &'static str,
    /// Of what: the source or view; empty for stages of the whole job.
    pub of: String,
    /// How long.
    pub took: Duration,
}

/// The stages so far, in the order in which they ended.
#[derive(Debug, Default)]
pub(crate) struct Stages(Mutex<Vec<StageTime>>);

impl Stages {
    /// Does something and notes how long it took, also when it fails.
    pub(crate) fn time<T>(&self, stage: &'static str, of: &str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        self.add(stage, of, started.elapsed());
        done
    }

    /// Notes how long something took.
    pub(crate) fn add(&self, stage: &'static str, of: &str, took: Duration) {
        tracing::debug!(stage, of, seconds = took.as_secs_f64(), "stage");
        let mut stages = self.0.lock();
        match stages.iter_mut().find(|known| known.stage == stage && known.of == of) {
            // What is done range by range is one stage.
            Some(known) => known.took += took,
            None => stages.push(StageTime { stage, of: of.to_owned(), took }),
        }
    }

    pub(crate) fn into_list(self) -> Vec<StageTime> {
        self.0.into_inner()
    }
}
