//! Who is let in: more requests at once than can be answered in time are refused at once, the least important first.

use crate::error::ServingError;
use crate::request::{Priority, ServingSettings};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Of a limit, how much each priority may fill. What is left belongs to those above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares([usize; 3]);

impl Shares {
    pub(crate) fn new(settings: &ServingSettings) -> Self {
        Self([settings.background_share_percent, settings.normal_share_percent, 100])
    }

    /// The most that may be under way, for one more of this priority to begin. At least one: a priority that may fill nothing
    /// would never be served, however idle the server is.
    pub(crate) fn of(self, priority: Priority, limit: usize) -> usize {
        (limit.saturating_mul(self.0[priority as usize]) / 100).clamp(1, limit.max(1))
    }
}

/// Counts requests under way.
#[derive(Debug)]
pub(crate) struct Admission {
    under_way: AtomicUsize,
    requests_max: usize,
    shares: Shares,
    shed: [AtomicU64; 3],
}

/// One request under way; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted<'a>(&'a Admission);

impl Admission {
    pub(crate) fn new(settings: &ServingSettings) -> Self {
        let requests_max = if settings.requests_max == 0 { usize::MAX } else { settings.requests_max };
        Self {
            under_way: AtomicUsize::new(0),
            requests_max,
            shares: Shares::new(settings),
            shed: Default::default(),
        }
    }

    /// Lets a request in, or refuses it without waiting.
    pub(crate) fn enter(&self, priority: Priority) -> Result<Admitted<'_>, ServingError> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(self);
        if before < self.shares.of(priority, self.requests_max) {
            return Ok(admitted);
        }
        self.note_shed(priority);
        Err(shed("too many requests are under way", priority))
    }

    pub(crate) fn note_shed(&self, priority: Priority) {
        self.shed[priority as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    pub(crate) fn shed(&self) -> [u64; 3] {
        std::array::from_fn(|priority| self.shed[priority].load(Ordering::Relaxed))
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The refusal of a request that was not begun.
pub(crate) fn shed(why: &str, priority: Priority) -> ServingError {
    ServingError::new("shed", format!("{why}; this one has priority `{}`", priority.label()))
        .with_hint("nothing was begun: try again later, and not all at once")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_are_refused_first_and_the_rest_keep_their_share() {
        let settings = ServingSettings {
            requests_max: 10,
            background_share_percent: 30,
            normal_share_percent: 80,
            ..Default::default()
        };
        let admission = Admission::new(&settings);
        let enter = |priority, times: usize| -> Vec<_> {
            (0..times).filter_map(|_| admission.enter(priority).ok()).collect()
        };
        let background = enter(Priority::Background, 10);
        assert_eq!(background.len(), 3);
        let normal = enter(Priority::Normal, 10);
        assert_eq!(normal.len(), 5);
        let critical = enter(Priority::Critical, 10);
        assert_eq!(critical.len(), 2);
        assert_eq!(admission.shed(), [7, 5, 8]);
        assert_eq!(admission.under_way(), 10);
        drop((background, normal, critical));
        assert_eq!(admission.under_way(), 0);
        assert!(admission.enter(Priority::Background).is_ok());
    }

    #[test]
    fn a_share_of_nothing_still_lets_one_in() {
        let settings = ServingSettings { requests_max: 0, background_share_percent: 0, ..Default::default() };
        let admission = Admission::new(&settings);
        let one = admission.enter(Priority::Background).unwrap();
        assert_eq!(admission.enter(Priority::Background).unwrap_err().code, "shed");
        drop(one);
        assert!(admission.enter(Priority::Background).is_ok());
    }
}
