//! The clocks that a program passes in.

use springhouse_core::{Clock, Micros};
use std::sync::atomic::{AtomicI64, Ordering};

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(Micros::MAX))
    }
}

/// A clock that stands where it was set; for replays and tests.
#[derive(Debug, Default)]
pub struct SettableClock(AtomicI64);

impl SettableClock {
    /// Moves it.
    pub fn set(&self, at: Micros) {
        self.0.store(at, Ordering::SeqCst);
    }
}

impl Clock for SettableClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}
