//! The two times of a record, the order, what is visible, and a window's bounds. Nobody else compares timestamps.

use crate::CodecError;
use crate::codec::{Out, Reader, put_number, put_signed};
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

/// Appends a stamp's bytes.
pub(crate) fn put_stamp(out: &mut Out, stamp: &Stamp) {
    put_signed(out, stamp.event_time);
    // Small where both times are close, and the same modulo 2^64 where they are not.
    put_signed(out, stamp.known_at.wrapping_sub(stamp.event_time));
    put_signed(out, stamp.seq);
}

/// Reads what [`put_stamp`] wrote.
pub(crate) fn take_stamp(reader: &mut Reader<'_>) -> Result<Stamp, CodecError> {
    let event_time = reader.signed()?;
    let known_at = event_time.wrapping_add(reader.signed()?);
    Ok(Stamp { event_time, known_at, seq: reader.signed()? })
}

/// Sequence numbers with the same bits above these are close together: those of one partition of a topic, of the push log, of a file.
const SERIES_BITS: u32 = 46;
/// So many of them are told apart in a list of stamps; numbers of others are written in full.
const SERIES_MAX: usize = 64;

/// Stamps one after the other, each as what differs from those before.
#[derive(Debug, Default)]
pub(crate) struct StampSeries {
    event_time: Micros,
    /// The last sequence number of each series so far.
    seqs: Vec<i64>,
}

impl StampSeries {
    fn series_of(&self, seq: i64) -> Option<usize> {
        self.seqs.iter().position(|last| last >> SERIES_BITS == seq >> SERIES_BITS)
    }

    fn begin(&mut self, seq: i64) {
        if self.seqs.len() < SERIES_MAX {
            self.seqs.push(seq);
        }
    }

    /// Appends a stamp's bytes.
    pub(crate) fn put(&mut self, out: &mut Out, stamp: &Stamp) {
        put_signed(out, stamp.event_time.wrapping_sub(self.event_time));
        put_signed(out, stamp.known_at.wrapping_sub(stamp.event_time));
        self.event_time = stamp.event_time;
        if let Some(place) = self.series_of(stamp.seq) {
            put_number(out, place as u64);
            put_signed(out, stamp.seq.wrapping_sub(self.seqs[place]));
            self.seqs[place] = stamp.seq;
        } else {
            put_number(out, self.seqs.len() as u64);
            put_signed(out, stamp.seq);
            self.begin(stamp.seq);
        }
    }

    /// Reads what [`Self::put`] wrote.
    pub(crate) fn take(&mut self, reader: &mut Reader<'_>) -> Result<Stamp, CodecError> {
        self.event_time = self.event_time.wrapping_add(reader.signed()?);
        let known_at = self.event_time.wrapping_add(reader.signed()?);
        let place = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
        let number = reader.signed()?;
        let seq = self.seqs.get(place).map_or(number, |last| last.wrapping_add(number));
        // One spelling for each.
        if self.series_of(seq).unwrap_or(self.seqs.len()) != place {
            return Err(CodecError::Malformed("a sequence number is of another series"));
        }
        match self.seqs.get_mut(place) {
            Some(last) => *last = seq,
            None => self.begin(seq),
        }
        Ok(Stamp { event_time: self.event_time, known_at, seq })
    }
}

/// The start of the tile of this width that holds the event time: floor division, also before 1970.
pub(crate) fn tile_start(event_time: Micros, width: Micros) -> Micros {
    event_time.div_euclid(width).saturating_mul(width)
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
            Some(length) => tile_start(at.saturating_sub(length), self.hop),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_windows_tail_moves_in_steps_and_its_head_is_exact() {
        let window = Window { length: Some(60), hop: 10 };
        assert_eq!(window.bounds(69), WindowBounds { low: 0, head: 69 });
        assert_eq!(window.bounds(70), WindowBounds { low: 10, head: 70 });
        assert_eq!(window.bounds(-1), WindowBounds { low: -70, head: -1 });
        let exact = Window { length: Some(60), hop: 1 };
        assert_eq!(exact.bounds(69).low, 9);
        assert_eq!(Window { length: None, hop: 10 }.bounds(5).low, Micros::MIN);
        let at = |event_time, known_at| Stamp { event_time, known_at, seq: 0 };
        let bounds = window.bounds(70);
        for (stamp, inside) in [
            (at(10, 10), true),
            (at(9, 9), false),
            (at(69, 69), true),
            (at(70, 70), false),
            (at(10, 69), true),
            (at(10, 70), false),
        ] {
            assert_eq!(bounds.contains(&stamp), inside, "{stamp:?}");
        }
    }

    #[test]
    fn extreme_moments_do_not_overflow() {
        let window = Window { length: Some(100), hop: 7 };
        assert!(window.bounds(Micros::MIN).low <= Micros::MIN + 7);
        assert!(window.bounds(Micros::MAX).low < Micros::MAX);
    }
}
