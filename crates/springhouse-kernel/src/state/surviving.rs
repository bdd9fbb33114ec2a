//! The rows of a view of latest values that can be taken back: all that were not, since the newest may go and leave the one
//! before it.

use super::windows::{by_visibility, insert_sorted, merge_sorted};
use super::{event_bytes, put_events, take_events};
use crate::CodecError;
use crate::aggregate::{keep, value_heap_bytes};
use crate::codec::{Out, Reader, put_number, put_signed, put_value};
use crate::plan::{Event, LatestPlan, takes_back};
use crate::stamp::Stamp;
use springhouse_core::{Micros, Value};
use std::collections::{BTreeMap, VecDeque};

/// What names a row: its event time, and its inputs without the one that says whether it takes back. Rows of one event
/// time go by their values: which of two was known first can't be told once one of their like was taken back.
type Content = (Micros, Vec<Value>);

/// What an entity keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SurvivingState {
    /// Rows that became visible at or after the horizon of the last write; by visible_at, then the order.
    recent: VecDeque<Event>,
    /// All others, with how often each was added less how often it was taken back; never 0.
    rows: BTreeMap<Content, i64>,
}

impl SurvivingState {
    pub(crate) fn merge(&mut self, other: &Self) {
        merge_sorted(&mut self.recent, &other.recent, by_visibility);
        other.rows.iter().for_each(|(content, times)| keep(&mut self.rows, content.clone(), *times));
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let row = |(_, values): &Content| {
            64 + values.iter().map(|value| size_of::<Value>() + value_heap_bytes(value)).sum::<usize>()
        };
        self.recent.iter().map(event_bytes).sum::<usize>() + self.rows.keys().map(row).sum::<usize>()
    }

    pub(crate) fn encode(&self, out: &mut Out) {
        put_events(out, self.recent.iter());
        put_number(out, self.rows.len() as u64);
        for ((event_time, values), times) in &self.rows {
            put_signed(out, *event_time);
            values.iter().for_each(|value| put_value(out, value));
            put_signed(out, *times);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, inputs: usize) -> Result<Self, CodecError> {
        let recent = take_events(reader, inputs, by_visibility)?;
        let length = reader.length(2 + inputs)?;
        let mut rows: BTreeMap<Content, i64> = BTreeMap::new();
        for _ in 0..length {
            let event_time = reader.signed()?;
            let values = reader.values(inputs)?;
            let (content, times) = ((event_time, values), reader.signed()?);
            if times == 0 || rows.last_key_value().is_some_and(|(last, _)| *last >= content) {
                return Err(CodecError::Malformed("its rows are not in order"));
            }
            rows.insert(content, times);
        }
        Ok(Self { recent, rows })
    }
}

impl LatestPlan {
    /// Adds a row or takes one back.
    pub(crate) fn insert(&self, state: &mut SurvivingState, row: Event, horizon: Micros) {
        if row.stamp.visible_at() < horizon {
            let (content, times) = self.content(row);
            keep(&mut state.rows, content, times);
        } else {
            insert_sorted(&mut state.recent, row, by_visibility);
        }
    }

    pub(crate) fn compact(&self, state: &mut SurvivingState, horizon: Micros) {
        while state.recent.front().is_some_and(|row| row.stamp.visible_at() < horizon) {
            let (content, times) = self.content(state.recent.pop_front().expect("there is a first row"));
            keep(&mut state.rows, content, times);
        }
    }

    fn content(&self, row: Event) -> (Content, i64) {
        let times = if takes_back(self.takes_back, &row.values) { -1 } else { 1 };
        let mut values = row.values;
        self.takes_back.iter().for_each(|input| values[*input] = Value::Null);
        ((row.stamp.event_time, values), times)
    }

    /// The greatest row visible at `at` that was not taken back by then.
    pub(crate) fn row_at(&self, state: &SurvivingState, at: Micros) -> Option<Event> {
        let visible = state.recent.iter().take_while(|row| row.stamp.is_visible_to_latest(at));
        let mut recent: BTreeMap<Content, i64> = BTreeMap::new();
        for row in visible {
            let (content, times) = self.content(row.clone());
            keep(&mut recent, content, times);
        }
        let times = |content: &Content| {
            let of = |rows: &BTreeMap<Content, i64>| rows.get(content).copied().unwrap_or(0);
            of(&state.rows) + of(&recent)
        };
        let greatest =
            |rows: &'_ BTreeMap<Content, i64>| rows.keys().rev().find(|row| times(row) > 0).cloned();
        let (event_time, values) = greatest(&state.rows).max(greatest(&recent))?;
        Some(Event { stamp: Stamp { event_time, known_at: event_time, seq: 0 }, values })
    }
}
