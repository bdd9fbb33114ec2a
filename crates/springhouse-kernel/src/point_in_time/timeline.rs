//! The events of one entity that some label may see, gathered from their rows once.

use super::EventColumns;
use super::grouped::{Asked, Happened, sort_by_key};
use crate::arrow_values::value_at;
use crate::plan::ViewPlan;
use crate::stamp::Stamp;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::DataType;
use springhouse_core::{Value, ValueType};

/// Events in the order of their event times; the rows of an entity lie scattered, and every window reads them.
pub(super) struct Timeline<'a> {
    pub(super) stamps: Vec<Stamp>,
    /// Places in `stamps`, in the order in which they become visible.
    pub(super) by_visibility: Vec<u32>,
    inputs: Vec<Input<'a>>,
}

/// A column and what was gathered from it; small for the types that most columns have.
enum Input<'a> {
    /// Null is NaN: no aggregate sees either.
    Float64(&'a Float64Array, Vec<f64>),
    Int64(&'a Int64Array, Vec<Option<i64>>),
    /// Null is false: as a predicate it is the same. Only for predicates.
    Predicate(&'a BooleanArray, Vec<bool>),
    Other(&'a ArrayRef, &'a ValueType, Vec<Value>),
}

impl<'a> Input<'a> {
    fn new(array: &'a ArrayRef, input: &'a crate::ViewInput) -> Self {
        match (array.data_type(), input) {
            (DataType::Float64, _) => Self::Float64(array.as_primitive(), Vec::new()),
            (DataType::Int64, _) => Self::Int64(array.as_primitive(), Vec::new()),
            (_, crate::ViewInput::Predicate { .. }) => Self::Predicate(array.as_boolean(), Vec::new()),
            _ => Self::Other(array, input.value_type(), Vec::new()),
        }
    }

    fn gather(&mut self, rows: impl Iterator<Item = usize>) {
        match self {
            Self::Float64(array, out) => {
                out.clear();
                out.extend(rows.map(|row| if array.is_null(row) { f64::NAN } else { array.value(row) }));
            }
            Self::Int64(array, out) => {
                out.clear();
                out.extend(rows.map(|row| (!array.is_null(row)).then(|| array.value(row))));
            }
            Self::Predicate(array, out) => {
                out.clear();
                out.extend(rows.map(|row| !array.is_null(row) && array.value(row)));
            }
            Self::Other(array, value_type, out) => {
                out.clear();
                out.extend(rows.map(|row| value_at(*array, row, value_type)));
            }
        }
    }

    fn value(&self, place: usize) -> Value {
        match self {
            Self::Float64(_, values) => Value::Float64(values[place]),
            Self::Int64(_, values) => values[place].map_or(Value::Null, Value::Int64),
            Self::Predicate(_, values) => Value::Bool(values[place]),
            Self::Other(_, _, values) => values[place].clone(),
        }
    }
}

impl<'a> Timeline<'a> {
    pub(super) fn new(plan: &'a ViewPlan, events: &EventColumns<'a>) -> Self {
        let inputs = events.inputs.iter().zip(&plan.inputs);
        let inputs = inputs.map(|(array, input)| Input::new(array, input)).collect();
        Self { stamps: Vec::new(), by_visibility: Vec::new(), inputs }
    }

    /// Takes up one entity's events, which are in the order of event time; `asked` is not empty and in time order.
    pub(super) fn fill(&mut self, events: &EventColumns<'_>, happened: &[Happened], asked: &[Asked]) {
        // What even the last label can't see is left out.
        let last = asked[asked.len() - 1].at;
        let seen = || {
            let seen = happened.iter().filter(|event| event.visible_at < last);
            seen.map(|event| event.row as usize)
        };
        self.stamps.clear();
        self.stamps.extend(seen().map(|row| events.stamp(row)));
        self.inputs.iter_mut().for_each(|input| input.gather(seen()));
        self.by_visibility.clear();
        self.by_visibility.extend(0..self.stamps.len() as u32);
        let stamps = &self.stamps;
        sort_by_key(&mut self.by_visibility, |place| stamps[*place as usize].visible_at());
    }

    /// An input's value of the event at a place.
    pub(super) fn value(&self, place: usize, input: usize) -> Value {
        self.inputs[input].value(place)
    }
}
