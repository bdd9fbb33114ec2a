//! The rows from which a latest value can still be read.

use super::{event_bytes, put_event, take_event};
use crate::CodecError;
use crate::answer::{EntityAnswer, ReadFrom};
use crate::codec::{Out, Reader, put_number};
use crate::plan::{Event, LatestPlan};
use crate::stamp::{Stamp, put_stamp, take_stamp};
use springhouse_core::{Micros, Value, ValueStatus};
use std::borrow::Cow;

/// The Pareto front of the rows: a row is dropped when another is greater in the order and visible no later, since no
/// read can prefer it. Usually one row; more while a greater row is not visible yet.
#[derive(Clone, Debug)]
pub(crate) enum LatestState {
    /// Ascending in the order, and by that in `visible_at` too.
    Rows(Vec<Event>),
    /// One row, as it is stored.
    Stored(StoredRow),
}

/// A row whose values are bytes until they are asked for: most are read once, some of them, and what a cache holds is small.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredRow {
    pub(crate) stamp: Stamp,
    /// How many values it has.
    count: u32,
    /// One after the other, looked through when they were read.
    values: Box<[u8]>,
}

impl StoredRow {
    /// Reads its values from the first on.
    pub(crate) fn values(&self) -> Reader<'_> {
        // Values are written in one way in all versions.
        Reader::new(&self.values, super::CODEC_VERSION)
    }

    fn event(&self) -> Event {
        let mut reader = self.values();
        Event { stamp: self.stamp, values: (0..self.count).map(|_| reader.checked_value()).collect() }
    }
}

impl Default for LatestState {
    fn default() -> Self {
        Self::Rows(Vec::new())
    }
}

impl PartialEq for LatestState {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stored(one), Self::Stored(other)) => one == other,
            _ => self.rows() == other.rows(),
        }
    }
}

impl LatestState {
    fn rows(&self) -> Cow<'_, [Event]> {
        match self {
            Self::Rows(rows) => Cow::Borrowed(rows),
            Self::Stored(row) => Cow::Owned(vec![row.event()]),
        }
    }

    fn rows_mut(&mut self) -> &mut Vec<Event> {
        if let Self::Stored(row) = self {
            *self = Self::Rows(vec![row.event()]);
        }
        match self {
            Self::Rows(rows) => rows,
            Self::Stored(_) => unreachable!("it was made rows"),
        }
    }

    pub(crate) fn insert(&mut self, row: Event) {
        let visible_at = row.stamp.visible_at();
        let rows = self.rows_mut();
        // Rows of one stamp (which should not be) are ordered by their values, so that arrival does not matter.
        let at = rows.partition_point(|held| (held.stamp, &held.values) < (row.stamp, &row.values));
        if rows[at..].first().is_some_and(|greater| greater.stamp.visible_at() <= visible_at) {
            return;
        }
        let from = rows.partition_point(|held| held.stamp.visible_at() < visible_at).min(at);
        rows.splice(from..at, [row]);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.rows().into_owned().into_iter().for_each(|row| self.insert(row));
    }

    /// Drops what no read at or after `horizon` can see: of the rows visible by then, all but the greatest.
    pub(crate) fn compact(&mut self, horizon: Micros) {
        if let Self::Rows(rows) = self {
            rows.drain(..visible(rows, horizon).len().saturating_sub(1));
        }
    }

    /// The greatest row visible at `at`.
    pub(crate) fn row_at(&self, at: Micros) -> Option<Cow<'_, Event>> {
        match self {
            Self::Rows(rows) => visible(rows, at).last().map(Cow::Borrowed),
            Self::Stored(row) => row.stamp.is_visible_to_latest(at).then(|| Cow::Owned(row.event())),
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.iter().map(event_bytes).sum(),
            Self::Stored(row) => row.values.len(),
        }
    }

    pub(crate) fn encode(&self, out: &mut Out) {
        match self {
            Self::Rows(rows) => {
                put_number(out, rows.len() as u64);
                rows.iter().for_each(|row| put_event(out, row));
            }
            Self::Stored(row) => {
                put_number(out, 1);
                put_stamp(out, &row.stamp);
                out.extend_from_slice(&row.values);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, inputs: usize) -> Result<Self, CodecError> {
        let length = reader.length(3 + inputs)?;
        if length == 1 {
            let stamp = take_stamp(reader)?;
            let values = reader.skip_values(inputs)?.into();
            return Ok(Self::Stored(StoredRow { stamp, count: inputs as u32, values }));
        }
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
        Ok(Self::Rows(rows))
    }
}

/// Of the rows of a state those that are visible at `at`.
fn visible(rows: &[Event], at: Micros) -> &[Event] {
    &rows[..rows.partition_point(|row| row.stamp.is_visible_to_latest(at))]
}

/// The status of a row's value; NaN counts as null and becomes it.
pub(crate) fn latest_status(value: &mut Value) -> ValueStatus {
    if value.is_null_or_nan() {
        *value = Value::Null;
        return ValueStatus::Null;
    }
    ValueStatus::Fresh
}

impl LatestPlan {
    /// True when a row of this event time is too old to be served at `at`.
    pub(crate) fn is_expired(&self, event_time: Micros, at: Micros) -> bool {
        at.saturating_sub(event_time) > self.hard_ttl
    }

    /// The row to be read feature by feature, where one is shown at `at`.
    pub(crate) fn reading<'a>(&'a self, state: &'a LatestState, at: Micros) -> Option<ReadFrom<'a>> {
        let is_shown =
            |stamp: &Stamp| stamp.is_visible_to_latest(at) && !self.is_expired(stamp.event_time, at);
        match state {
            LatestState::Stored(row) => {
                is_shown(&row.stamp).then(|| ReadFrom::Stored(row, &self.columns, row.values(), 0))
            }
            LatestState::Rows(rows) => {
                let row = visible(rows, at).last().filter(|row| is_shown(&row.stamp))?;
                Some(ReadFrom::Row(row, &self.columns))
            }
        }
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
        let value = |input: &usize| {
            let mut value = row.values[*input].clone();
            let status = latest_status(&mut value);
            (value, status)
        };
        let (values, statuses) = self.columns.iter().map(value).unzip();
        EntityAnswer { values, statuses, event_time: Some(event_time) }
    }
}
