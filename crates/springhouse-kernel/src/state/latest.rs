//! The rows from which a latest value can still be read.

use super::{event_bytes, put_event, take_event};
use crate::CodecError;
use crate::answer::EntityAnswer;
use crate::codec::{Out, Reader, put_number};
use crate::plan::{Event, LatestPlan};
use springhouse_core::{Micros, Value, ValueStatus};

/// The Pareto front of the rows: a row is dropped when another is greater in the order and visible no later, since no
/// read can prefer it. Usually one row; more while a greater row is not visible yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LatestState {
    /// Ascending in the order, and by that in `visible_at` too.
    pub(super) rows: Vec<Event>,
}

impl LatestState {
    pub(crate) fn insert(&mut self, row: Event) {
        let visible_at = row.stamp.visible_at();
        // Rows of one stamp (which should not be) are ordered by their values, so that arrival does not matter.
        let at = self.rows.partition_point(|held| (held.stamp, &held.values) < (row.stamp, &row.values));
        if self.rows[at..].first().is_some_and(|greater| greater.stamp.visible_at() <= visible_at) {
            return;
        }
        let from = self.rows.partition_point(|held| held.stamp.visible_at() < visible_at).min(at);
        self.rows.splice(from..at, [row]);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.rows.iter().for_each(|row| self.insert(row.clone()));
    }

    /// Drops what no read at or after `horizon` can see: of the rows visible by then, all but the greatest.
    pub(crate) fn compact(&mut self, horizon: Micros) {
        let visible = self.rows.partition_point(|row| row.stamp.is_visible_to_latest(horizon));
        self.rows.drain(..visible.saturating_sub(1));
    }

    /// The greatest row visible at `at`.
    pub(crate) fn row_at(&self, at: Micros) -> Option<&Event> {
        let visible = self.rows.partition_point(|row| row.stamp.is_visible_to_latest(at));
        self.rows[..visible].last()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.rows.iter().map(event_bytes).sum()
    }

    pub(crate) fn encode(&self, out: &mut Out) {
        put_number(out, self.rows.len() as u64);
        self.rows.iter().for_each(|row| put_event(out, row));
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, inputs: usize) -> Result<Self, CodecError> {
        let length = reader.length(3 + inputs)?;
        let mut rows: Vec<Event> = Vec::with_capacity(length);
        for _ in 0..length {
            let row = take_event(reader, inputs)?;
            let is_front = rows.last().is_none_or(|last| {
                last.stamp < row.stamp && last.stamp.visible_at() < row.stamp.visible_at()
            });
            if !is_front {
                return Err(CodecError::Malformed("its rows are not in order"));
            }
            rows.push(row);
        }
        Ok(Self { rows })
    }
}

/// The status of a row's value; NaN counts as null.
pub(crate) fn latest_value(value: &Value) -> (Value, ValueStatus) {
    if value.is_null_or_nan() {
        (Value::Null, ValueStatus::Null)
    } else {
        (value.clone(), ValueStatus::Fresh)
    }
}

impl LatestPlan {
    /// True when a row of this event time is too old to be served at `at`.
    pub(crate) fn is_expired(&self, event_time: Micros, at: Micros) -> bool {
        at.saturating_sub(event_time) > self.hard_ttl
    }

    /// The answer at `at` from the greatest row that is visible then.
    pub(crate) fn read(&self, row: Option<&Event>, at: Micros) -> EntityAnswer {
        let none = |status, event_time| EntityAnswer {
            values: vec![Value::Null; self.columns.len()],
            statuses: vec![status; self.columns.len()],
            event_time,
        };
        let Some(row) = row else { return none(ValueStatus::Missing, None) };
        let event_time = row.stamp.event_time;
        if self.is_expired(event_time, at) {
            return none(ValueStatus::Expired, Some(event_time));
        }
        let (values, statuses) = self.columns.iter().map(|input| latest_value(&row.values[*input])).unzip();
        EntityAnswer { values, statuses, event_time: Some(event_time) }
    }
}
