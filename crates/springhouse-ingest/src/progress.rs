//! How far each part is, shared by all of them.

use crate::PushError;
use crate::latency::Latencies;
use crate::log::Log;
use parking_lot::Mutex;
use springhouse_core::{Clock, Micros};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::SeqCst};
use tokio::sync::Notify;

/// Positions and counters.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) log: Arc<Log>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Applied to the online store below this.
    pub(crate) applied_end: AtomicI64,
    /// `known_at` of the newest applied row.
    pub(crate) applied_known_at: AtomicI64,
    /// In the lake below this.
    pub(crate) flushed_end: AtomicI64,
    /// Groups that the writer began; counted before it reads the clock for them.
    pub(crate) groups_begun: AtomicU64,
    /// Groups that are applied.
    pub(crate) groups_applied: AtomicU64,
    /// Pushes that are being checked and will reach the writer soon.
    pub(crate) checking: AtomicUsize,
    /// Bytes of pushes under way.
    pub(crate) queued_bytes: AtomicUsize,
    /// Told after each applied group.
    pub(crate) applied: Notify,
    /// From event to servable.
    pub(crate) latencies: Latencies,
    /// Why the last flush failed.
    pub(crate) flush_error: Mutex<Option<String>>,
    /// Why the store takes no more rows.
    pub(crate) store_error: Mutex<Option<PushError>>,
    /// Nobody waits for a store that does not answer any more.
    pub(crate) is_stopping: AtomicBool,
}

impl Progress {
    pub(crate) fn new(log: Arc<Log>, clock: Arc<dyn Clock>, last_known_at: Micros) -> Self {
        Self {
            applied_end: AtomicI64::new(log.first()),
            applied_known_at: AtomicI64::new(last_known_at),
            flushed_end: AtomicI64::new(log.first()),
            log,
            clock,
            groups_begun: AtomicU64::new(0),
            groups_applied: AtomicU64::new(0),
            checking: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            applied: Notify::new(),
            latencies: Latencies::default(),
            flush_error: Mutex::new(None),
            store_error: Mutex::new(None),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// Everything that was visible before this moment is applied.
    pub(crate) fn frontier(&self) -> Micros {
        // The clock first: a group that begins after the check is stamped after this reading.
        let now = self.clock.now();
        let newest = self.applied_known_at.load(SeqCst);
        let idle = self.groups_begun.load(SeqCst) == self.groups_applied.load(SeqCst);
        if idle { now.max(newest) } else { newest }
    }

    /// A moment that sees every applied row.
    pub(crate) fn read_now(&self) -> Micros {
        let newest = self.applied_known_at.load(SeqCst);
        self.clock.now().max(newest.saturating_add(1))
    }
}

/// The share of one push in the bytes under way; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    progress: Arc<Progress>,
    bytes: usize,
}

impl Permit {
    /// None when there is no room. A push that is alone always has room.
    pub(crate) fn take(progress: &Arc<Progress>, bytes: usize, bytes_max: usize) -> Option<Self> {
        let before = progress.queued_bytes.fetch_add(bytes, SeqCst);
        let permit = Self { progress: progress.clone(), bytes };
        (before == 0 || before.saturating_add(bytes) <= bytes_max).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.progress.queued_bytes.fetch_sub(self.bytes, SeqCst);
    }
}
