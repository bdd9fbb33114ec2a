//! How far a long job is, and whether it is still wanted.

use crate::error::{LakeError, Result};

/// Told of progress; a command line shows a bar.
pub trait Progress: Send + Sync {
    /// `done` of `total` units (rows or bytes) of the named stage; `total` 0 = unknown.
    fn report(&self, stage: &'static str, done: u64, total: u64);

    /// True when whoever waits has given up: a training set then stops with the error `cancelled`, leaving nothing behind.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Reports, and ends the job with the error `cancelled` when nobody waits for it any more.
pub(crate) fn tell(progress: &dyn Progress, stage: &'static str, done: u64, total: u64) -> Result<()> {
    progress.report(stage, done, total);
    if progress.is_cancelled() {
        return Err(
            LakeError::new("cancelled", "the job was cancelled").hint("run it again when you want it")
        );
    }
    Ok(())
}

/// Nobody is told, and nobody gives up.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _stage: &'static str, _done: u64, _total: u64) {}
}
