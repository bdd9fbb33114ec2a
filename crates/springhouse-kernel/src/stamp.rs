//! The two times of a record, the order, what is visible, and a window's bounds. Nobody else compares timestamps.

use springhouse_core::Micros;

/// When something happened, when the store could first have used it, and its place among equals.
/// The derived order is *the* order of the project: event time, then known_at, then sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// When it happened.
    pub event_time: Micros,
    /// When the store could first have used it.
    pub known_at: Micros,
    /// Its log offset (>= 0), or its place in a table (< 0, or the source's `sequence` column).
    pub seq: i64,
}

impl Stamp {
    /// The first moment that may see the record.
    pub fn visible_at(&self) -> Micros {
        self.event_time.max(self.known_at)
    }

    /// True when a latest value asked for at `at` may use the record (`visible_at <= at`).
    pub fn is_visible_to_latest(&self, at: Micros) -> bool {
        self.visible_at() <= at
    }
}

/// A window's length and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// None is a lifetime: no tail.
    pub length: Option<Micros>,
    /// The tail's step; [`springhouse_core::definition::HOP_EXACT`] is exact.
    pub hop: Micros,
}

/// The events that a window holds at one moment: `low <= event_time` and `visible_at < head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowBounds {
    /// The least event time inside; `Micros::MIN` for a lifetime.
    pub low: Micros,
    /// The moment asked for.
    pub head: Micros,
}

impl Window {
    /// The bounds at `at`. The one place where a window's bounds are computed.
    pub fn bounds(&self, at: Micros) -> WindowBounds {
        let low = match self.length {
            None => Micros::MIN,
            // Saturation only matters beyond year 290,000; floor division, also before 1970.
            Some(length) => at.saturating_sub(length).div_euclid(self.hop).saturating_mul(self.hop),
        };
        WindowBounds { low, head: at }
    }
}

impl WindowBounds {
    /// True when the event is inside: `<` at the head, so that an event is never among its own features.
    pub fn contains(&self, stamp: &Stamp) -> bool {
        self.low <= stamp.event_time && stamp.visible_at() < self.head
    }
}
