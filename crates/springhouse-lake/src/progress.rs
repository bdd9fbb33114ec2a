//! How far a long job is.

/// Told of progress; a command line shows a bar.
pub trait Progress: Send + Sync {
    /// `done` of `total` units (rows or bytes) of the named stage; `total` 0 = unknown.
    fn report(&self, stage: &'static str, done: u64, total: u64);
}
