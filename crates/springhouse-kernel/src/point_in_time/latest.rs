//! Latest values for many labels: find the row of every label first, then copy the columns once.

use super::grouped::{Asked, Grouped, Happened, sort_by_key};
use super::{EventColumns, LabelColumns, TrainingColumns};
use crate::arrow_values::value_at;
use crate::plan::{LatestPlan, ViewPlan};
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, UInt32Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Float64Type};
use springhouse_core::{Micros, Value, ValueStatus};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// No event row.
const NONE: u32 = u32::MAX;

pub(super) fn answer(
    plan: &ViewPlan,
    latest: &LatestPlan,
    entity_count: usize,
    events: &EventColumns<'_>,
    labels: &LabelColumns<'_>,
    is_kept: impl Fn(usize) -> bool,
) -> TrainingColumns {
    let rows = rows_used(plan, latest, entity_count, events, labels, is_kept);
    let times = |(row, _): (&u32, &Micros)| (*row != NONE).then(|| events.event_times[*row as usize]);
    let event_times: Vec<Option<Micros>> = rows.iter().zip(labels.at).map(times).collect();
    let status = |(event_time, at): (&Option<Micros>, &Micros)| match event_time {
        None => ValueStatus::Missing,
        Some(event_time) if latest.is_expired(*event_time, *at) => ValueStatus::Expired,
        Some(_) => ValueStatus::Fresh,
    };
    let statuses: Vec<ValueStatus> = event_times.iter().zip(labels.at).map(status).collect();
    let is_fresh = BooleanBuffer::collect_bool(statuses.len(), |i| statuses[i] == ValueStatus::Fresh);
    let indices = UInt32Array::new(rows.into(), Some(NullBuffer::new(is_fresh)));
    let mut out = TrainingColumns { values: Vec::new(), statuses: Vec::new(), event_times: None };
    for input in &latest.columns {
        let (array, status) = column(&events.inputs[*input], &indices, &statuses);
        out.values.push(array);
        out.statuses.push(status);
    }
    out.event_times = Some(event_times);
    out
}

/// The event row behind each label: the greatest visible one.
fn rows_used(
    plan: &ViewPlan,
    latest: &LatestPlan,
    entity_count: usize,
    events: &EventColumns<'_>,
    labels: &LabelColumns<'_>,
    is_kept: impl Fn(usize) -> bool,
) -> Vec<u32> {
    let mut asked = Grouped::new(
        labels.entities,
        entity_count,
        |_| true,
        |row| Asked { at: labels.at[row], row: row as u32 },
    );
    let mut happened = Grouped::new(events.entities, entity_count, is_kept, |row| Happened {
        visible_at: events.stamp(row).visible_at(),
        event_time: events.event_times[row],
        row: row as u32,
    });
    let mut rows = vec![NONE; labels.at.len()];
    for entity in 0..entity_count {
        let asked = asked.of(entity);
        if asked.is_empty() {
            continue;
        }
        let happened = happened.of(entity);
        sort_by_key(asked, |label| label.at);
        sort_by_key(happened, |event| event.visible_at);
        let mut coming = happened.iter().peekable();
        if let Some(input) = latest.takes_back {
            let takes_back = events.inputs[input].as_boolean();
            let mut surviving: BTreeMap<(Micros, Vec<Value>), (i64, u32)> = BTreeMap::new();
            for label in asked {
                while let Some(event) = coming.next_if(|event| event.visible_at <= label.at) {
                    let row = event.row as usize;
                    let is_taken = takes_back.is_valid(row) && takes_back.value(row);
                    let content = values(plan, events, row).enumerate();
                    let content = content.map(|(i, value)| if i == input { Value::Null } else { value });
                    let content = (event.event_time, content.collect());
                    match surviving.entry(content) {
                        Entry::Vacant(place) => {
                            place.insert((if is_taken { -1 } else { 1 }, event.row));
                        }
                        Entry::Occupied(mut held) => {
                            held.get_mut().0 += if is_taken { -1 } else { 1 };
                            if held.get().0 == 0 {
                                held.remove();
                            }
                        }
                    }
                }
                let greatest = surviving.values().rev().find(|(times, _)| *times > 0);
                rows[label.row as usize] = greatest.map_or(NONE, |(_, row)| *row);
            }
            continue;
        }
        let mut greatest: Option<&Happened> = None;
        for label in asked {
            while let Some(event) = coming.next_if(|event| event.visible_at <= label.at) {
                if greatest.is_none_or(|held| order(plan, events, held, event).is_lt()) {
                    greatest = Some(event);
                }
            }
            rows[label.row as usize] = greatest.map_or(NONE, |event| event.row);
        }
    }
    rows
}

/// The order of two rows; rows of one stamp by their values, as the online state has it.
fn order(plan: &ViewPlan, events: &EventColumns<'_>, a: &Happened, b: &Happened) -> Ordering {
    let by_time = a.event_time.cmp(&b.event_time);
    if by_time.is_ne() {
        return by_time;
    }
    let (a, b) = (a.row as usize, b.row as usize);
    events.stamp(a).cmp(&events.stamp(b)).then_with(|| values(plan, events, a).cmp(values(plan, events, b)))
}

/// The inputs of a row.
fn values<'a>(
    plan: &'a ViewPlan,
    events: &'a EventColumns<'_>,
    row: usize,
) -> impl Iterator<Item = Value> + use<'a> {
    let inputs = events.inputs.iter().zip(&plan.inputs);
    inputs.map(move |(array, input)| value_at(array, row, input.value_type()))
}

/// The values of one column at the rows used, and what became of each.
fn column(input: &ArrayRef, indices: &UInt32Array, statuses: &[ValueStatus]) -> (ArrayRef, Vec<ValueStatus>) {
    let taken = arrow::compute::take(input, indices, None)
        .expect("every index is a row of the column, and a partition's strings stay below 2 GiB");
    with_nulls_as_statuses(taken, statuses, indices.null_count())
}

/// A column without NaN, and the statuses with null where a row that is there has no value; `known`: how many nulls are
/// those of rows that are not.
pub(super) fn with_nulls_as_statuses(
    column: ArrayRef,
    statuses: &[ValueStatus],
    known: usize,
) -> (ArrayRef, Vec<ValueStatus>) {
    let column = nan_as_null(column);
    let mut statuses = statuses.to_vec();
    if let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > known) {
        for (status, is_valid) in statuses.iter_mut().zip(nulls) {
            if !is_valid && matches!(status, ValueStatus::Fresh | ValueStatus::Stale) {
                *status = ValueStatus::Null;
            }
        }
    }
    (column, statuses)
}

/// NaN counts as null.
pub fn nan_as_null(column: ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => without_nan::<Float64Type>(&column, f64::is_nan),
        DataType::Float32 => without_nan::<Float32Type>(&column, f32::is_nan),
        _ => column,
    }
}

fn without_nan<T: ArrowPrimitiveType>(array: &ArrayRef, is_nan: fn(T::Native) -> bool) -> ArrayRef {
    let floats = array.as_primitive::<T>();
    if !floats.values().iter().any(|value| is_nan(*value)) {
        return array.clone();
    }
    let numbers = BooleanBuffer::collect_bool(floats.len(), |i| !is_nan(floats.value(i)));
    let nulls = NullBuffer::union(floats.nulls(), Some(&NullBuffer::new(numbers)));
    Arc::new(PrimitiveArray::<T>::new(floats.values().clone(), nulls))
}
