//! What one predicate lets through of one column, of one entity, in time order, and the totals made of it.

use super::super::EventColumns;
use super::super::grouped::{Asked, Happened};
use super::super::windows::{Column, Values};
use super::fixed::FixedSums;
use crate::aggregate::{Slot, seconds};
use arrow::array::{Array, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type};
use hashbrown::HashMap;
use springhouse_core::ValueStatus;

/// What a feature needs of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Count,
    Sum,
    Mean,
    Least,
    Greatest,
    Distinct { cap: usize },
    NewestTime,
}

/// A column as Arrow has it.
enum Source<'a> {
    /// Whole events.
    Events,
    Float64(&'a PrimitiveArray<Float64Type>),
    Float32(&'a PrimitiveArray<Float32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    Int32(&'a PrimitiveArray<Int32Type>),
    /// Anything whose values can be told apart by their bytes.
    Bytes(&'a dyn Array),
}

/// A series; the buffers hold one entity's.
pub(super) struct Series<'a> {
    column: Option<usize>,
    predicate: Option<usize>,
    source: Source<'a>,
    condition: Option<&'a BooleanArray>,
    sums: bool,
    extremes: bool,
    distinct: bool,
    /// Per event of the partition, a small number that equal values share; none where nothing is distinct.
    identities: Vec<u32>,
    /// Per identity, the place where it was last seen.
    last_seen: Vec<u32>,

    /// True where every event counts, so that places are counts.
    is_whole: bool,
    /// Per place, whether the event counts.
    taken: Vec<bool>,
    /// How many events count before each place; one more than there are places.
    counts: Vec<u32>,
    floats: Vec<f64>,
    integers: Vec<i64>,
    /// The sum of the integers before each place.
    integer_sums: Vec<i128>,
    float_sums: FixedSums,
    /// Per place, where the same value was before and comes again.
    neighbours: Vec<(u32, u32)>,
}

/// No place.
const NONE: u32 = u32::MAX;

impl<'a> Series<'a> {
    /// The series behind a slot; None when its column's type has none.
    pub(super) fn new(slot: &Slot, events: &EventColumns<'a>) -> Option<Self> {
        let source = match slot.column.map(|column| &events.inputs[column]) {
            None => Source::Events,
            Some(array) => match array.data_type() {
                DataType::Float64 => Source::Float64(array.as_primitive()),
                DataType::Float32 => Source::Float32(array.as_primitive()),
                DataType::Int64 => Source::Int64(array.as_primitive()),
                DataType::Int32 => Source::Int32(array.as_primitive()),
                DataType::Utf8 | DataType::Binary => Source::Bytes(array),
                _ => return None,
            },
        };
        let condition = slot.predicate.map(|predicate| events.inputs[predicate].as_boolean());
        Some(Self {
            column: slot.column,
            predicate: slot.predicate,
            is_whole: slot.column.is_none() && slot.predicate.is_none(),
            source,
            condition,
            sums: false,
            extremes: false,
            distinct: false,
            identities: Vec::new(),
            last_seen: Vec::new(),
            taken: Vec::new(),
            counts: Vec::new(),
            floats: Vec::new(),
            integers: Vec::new(),
            integer_sums: Vec::new(),
            float_sums: FixedSums::default(),
            neighbours: Vec::new(),
        })
    }

    /// True for the series of this slot.
    pub(super) fn is_of(&self, slot: &Slot) -> bool {
        (self.column, self.predicate) == (slot.column, slot.predicate)
    }

    /// True when it can give what a feature needs.
    pub(super) fn can(&self, need: &Need) -> bool {
        match need {
            Need::Count | Need::NewestTime => true,
            Need::Distinct { .. } => !matches!(self.source, Source::Events),
            Need::Sum | Need::Mean | Need::Least | Need::Greatest => {
                !matches!(self.source, Source::Events | Source::Bytes(_))
            }
        }
    }

    /// From now on it gives this.
    pub(super) fn will(&mut self, need: &Need) {
        match need {
            Need::Count | Need::NewestTime => {}
            Need::Sum | Need::Mean => self.sums = true,
            Need::Least | Need::Greatest => self.extremes = true,
            Need::Distinct { .. } => self.distinct = true,
        }
    }

    /// Once for a partition: numbers the values that are to be told apart.
    pub(super) fn prepare(&mut self, events: &EventColumns<'_>) {
        if !self.distinct {
            return;
        }
        let rows = 0..events.entities.len();
        let (identities, count) = match self.source {
            Source::Events => return,
            // Zeros are one value; NaN counts for nothing.
            Source::Float64(array) => number(rows.map(|row| (array.value(row) + 0.0).to_bits())),
            Source::Float32(array) => number(rows.map(|row| (array.value(row) + 0.0).to_bits())),
            Source::Int64(array) => number(rows.map(|row| array.value(row))),
            Source::Int32(array) => number(rows.map(|row| array.value(row))),
            Source::Bytes(array) => match array.data_type() {
                DataType::Utf8 => {
                    let array = array.as_string::<i32>();
                    number(rows.map(|row| array.value(row).as_bytes()))
                }
                _ => {
                    let array = array.as_binary::<i32>();
                    number(rows.map(|row| array.value(row)))
                }
            },
        };
        self.identities = identities;
        self.last_seen = vec![NONE; count];
    }

    /// Takes up one entity's events; false when its sums don't fit.
    pub(super) fn fill(&mut self, events: &[Happened]) -> bool {
        if self.is_whole {
            return true;
        }
        self.take(events);
        if self.distinct {
            self.find_neighbours(events);
        }
        if !self.sums {
            return true;
        }
        match self.source {
            Source::Float64(_) | Source::Float32(_) => self.float_sums.fill(&self.floats),
            _ => {
                self.integer_sums.clear();
                self.integer_sums.push(0);
                let mut sum = 0;
                self.integer_sums.extend(self.integers.iter().map(|value| {
                    sum += i128::from(*value);
                    sum
                }));
                true
            }
        }
    }

    /// Which events count, and their numbers (0 where they don't).
    fn take(&mut self, events: &[Happened]) {
        let condition = self.condition;
        let holds = |row: usize| condition.is_none_or(|array| array.is_valid(row) && array.value(row));
        self.taken.clear();
        let is_valid = |array: &dyn Array, row: usize| array.is_valid(row) && holds(row);
        match self.source {
            Source::Events => self.taken.extend(events.iter().map(|event| holds(event.row as usize))),
            Source::Bytes(array) => {
                self.taken.extend(events.iter().map(|event| is_valid(array, event.row as usize)));
            }
            Source::Float64(array) => {
                self.floats.clear();
                for row in events.iter().map(|event| event.row as usize) {
                    let value = array.value(row);
                    let is_taken = is_valid(array, row) && !value.is_nan();
                    self.taken.push(is_taken);
                    self.floats.push(if is_taken { value } else { 0.0 });
                }
            }
            Source::Float32(array) => {
                self.floats.clear();
                for row in events.iter().map(|event| event.row as usize) {
                    let value = f64::from(array.value(row));
                    let is_taken = is_valid(array, row) && !value.is_nan();
                    self.taken.push(is_taken);
                    self.floats.push(if is_taken { value } else { 0.0 });
                }
            }
            Source::Int64(array) => {
                self.integers.clear();
                for row in events.iter().map(|event| event.row as usize) {
                    let is_taken = is_valid(array, row);
                    self.taken.push(is_taken);
                    self.integers.push(if is_taken { array.value(row) } else { 0 });
                }
            }
            Source::Int32(array) => {
                self.integers.clear();
                for row in events.iter().map(|event| event.row as usize) {
                    let is_taken = is_valid(array, row);
                    self.taken.push(is_taken);
                    self.integers.push(if is_taken { i64::from(array.value(row)) } else { 0 });
                }
            }
        }
        self.counts.clear();
        self.counts.push(0);
        let mut count = 0;
        self.counts.extend(self.taken.iter().map(|is_taken| {
            count += u32::from(*is_taken);
            count
        }));
    }

    fn find_neighbours(&mut self, events: &[Happened]) {
        self.neighbours.clear();
        self.neighbours.resize(events.len(), (NONE, NONE));
        let identity = |event: &Happened| self.identities[event.row as usize] as usize;
        for (place, (event, is_taken)) in events.iter().zip(&self.taken).enumerate() {
            if *is_taken {
                let before = std::mem::replace(&mut self.last_seen[identity(event)], place as u32);
                self.neighbours[place].0 = before;
                if before != NONE {
                    self.neighbours[before as usize].1 = place as u32;
                }
            }
        }
        // Only what was touched is undone: there may be many more values than events of an entity.
        for event in events {
            self.last_seen[identity(event)] = NONE;
        }
    }

    /// Writes a feature of each label: over the events from `tails` to `heads`.
    pub(super) fn read(
        &self,
        need: &Need,
        events: &[Happened],
        asked: &[Asked],
        heads: &[u32],
        tails: &[u32],
        out: &mut Column,
    ) {
        let pieces = || {
            asked.iter().zip(heads.iter().zip(tails)).map(|(label, (h, t))| (label, *h as usize, *t as usize))
        };
        let count = |head: usize, tail: usize| match self.is_whole {
            true => (head - tail) as u32,
            false => self.counts[head] - self.counts[tail],
        };
        let is_float = matches!(self.source, Source::Float64(_) | Source::Float32(_));
        match (need, &mut out.values) {
            (Need::Count, Values::Int64(values)) => {
                for (label, head, tail) in pieces() {
                    values[label.row as usize] = i64::from(count(head, tail));
                    out.statuses[label.row as usize] = ValueStatus::Fresh;
                }
            }
            (Need::Sum | Need::Mean, Values::Float64(values)) => {
                let sum = |head: usize, tail: usize| match is_float {
                    true => self.float_sums.between(tail, head),
                    false => (self.integer_sums[head] - self.integer_sums[tail]) as f64,
                };
                let is_mean = *need == Need::Mean;
                for (label, head, tail) in pieces() {
                    let count = count(head, tail);
                    if count > 0 {
                        let sum = sum(head, tail);
                        values[label.row as usize] = if is_mean { sum / f64::from(count) } else { sum };
                        out.statuses[label.row as usize] = ValueStatus::Fresh;
                    }
                }
            }
            (Need::Sum, Values::Int64(values)) => {
                for (label, head, tail) in pieces().filter(|(_, head, tail)| count(*head, *tail) > 0) {
                    let row = label.row as usize;
                    match i64::try_from(self.integer_sums[head] - self.integer_sums[tail]) {
                        Ok(sum) => (values[row], out.statuses[row]) = (sum, ValueStatus::Fresh),
                        Err(_) => out.statuses[row] = ValueStatus::Overflow,
                    }
                }
            }
            (Need::Least | Need::Greatest, values) => {
                let is_least = *need == Need::Least;
                let mut set = |row: usize, place: usize| {
                    match values {
                        Values::Float64(values) => values[row] = self.floats[place] + 0.0,
                        Values::Float32(values) => values[row] = (self.floats[place] + 0.0) as f32,
                        Values::Int64(values) => values[row] = self.integers[place],
                        Values::Int32(values) => values[row] = self.integers[place] as i32,
                        Values::Other(_) => unreachable!("an extreme of numbers is a number"),
                    }
                    out.statuses[row] = ValueStatus::Fresh;
                };
                match (is_float, is_least) {
                    (true, true) => {
                        extremes(&self.floats, &self.taken, pieces(), |a, b| a < b, &mut set);
                    }
                    (true, false) => extremes(&self.floats, &self.taken, pieces(), |a, b| a > b, &mut set),
                    (false, true) => extremes(&self.integers, &self.taken, pieces(), |a, b| a < b, &mut set),
                    (false, false) => extremes(&self.integers, &self.taken, pieces(), |a, b| a > b, &mut set),
                }
            }
            (Need::Distinct { cap }, Values::Int64(values)) => {
                let (mut distinct, mut from, mut to) = (0usize, 0usize, 0usize);
                for (label, head, tail) in pieces() {
                    while to < head {
                        let before = self.neighbours[to].0;
                        distinct +=
                            usize::from(self.taken[to] && (before == NONE || (before as usize) < from));
                        to += 1;
                    }
                    while from < tail {
                        let again = self.neighbours[from].1;
                        distinct -= usize::from(self.taken[from] && (again == NONE || again as usize >= to));
                        from += 1;
                    }
                    let row = label.row as usize;
                    if distinct > *cap {
                        out.statuses[row] = ValueStatus::OverCap;
                    } else {
                        (values[row], out.statuses[row]) = (distinct as i64, ValueStatus::Fresh);
                    }
                }
            }
            (Need::NewestTime, Values::Float64(values)) => {
                // The newest event that counts before the head.
                let (mut newest, mut to) = (None, 0);
                for (label, head, tail) in pieces() {
                    while to < head {
                        if self.is_whole || self.taken[to] {
                            newest = Some(to);
                        }
                        to += 1;
                    }
                    if let Some(newest) = newest.filter(|newest| *newest >= tail) {
                        values[label.row as usize] = seconds(events[newest].event_time, label.at);
                        out.statuses[label.row as usize] = ValueStatus::Fresh;
                    }
                }
            }
            (need, _) => unreachable!("{need:?} has a column of its type"),
        }
    }
}

/// Numbers values so that equal ones have one number; returns how many there are.
fn number<K: std::hash::Hash + Eq>(values: impl Iterator<Item = K>) -> (Vec<u32>, usize) {
    let mut numbers: HashMap<K, u32> = HashMap::new();
    let identities = values.map(|value| {
        let next = numbers.len() as u32;
        *numbers.entry(value).or_insert(next)
    });
    let identities = identities.collect();
    (identities, numbers.len())
}

/// The best value of each piece: `set` gets the label's row and the value's place. The stack holds the places that are
/// better than everything after them: the first of them inside a piece is its best.
fn extremes<'l, T: Copy>(
    values: &[T],
    taken: &[bool],
    pieces: impl Iterator<Item = (&'l Asked, usize, usize)>,
    is_better: impl Fn(T, T) -> bool,
    set: &mut dyn FnMut(usize, usize),
) {
    let (mut stack, mut to): (Vec<u32>, usize) = (Vec::new(), 0);
    for (label, head, tail) in pieces {
        while to < head {
            if taken[to] {
                while stack.pop_if(|top| !is_better(values[*top as usize], values[to])).is_some() {}
                stack.push(to as u32);
            }
            to += 1;
        }
        let first = stack.partition_point(|place| (*place as usize) < tail);
        if let Some(place) = stack.get(first) {
            set(label.row as usize, *place as usize);
        }
    }
}
