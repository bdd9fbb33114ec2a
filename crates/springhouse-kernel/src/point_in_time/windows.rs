//! Windowed aggregates for many labels: entity by entity, events and labels in time order, every window sliding along.

use super::grouped::{Asked, Grouped, Happened, sort_by_key};
use super::in_order::InOrder;
use super::suffix::SuffixTree;
use super::timeline::Timeline;
use super::{EventColumns, LabelColumns, TrainingColumns};
use crate::aggregate::{Kind, Slot, State, with_one_zero};
use crate::arrow_values::array_from_values;
use crate::plan::{ViewPlan, WindowReader, WindowsPlan};
use crate::stamp::Stamp;
use arrow::array::{ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use springhouse_core::definition::AggregateFunction;
use springhouse_core::{Micros, Value, ValueStatus, ValueType};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn answer(
    plan: &ViewPlan,
    windows: &WindowsPlan,
    entity_count: usize,
    events: &EventColumns<'_>,
    labels: &LabelColumns<'_>,
    is_kept: impl Fn(usize) -> bool,
) -> TrainingColumns {
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
    let mut in_order = InOrder::new(windows, events);
    // A prefix of events says nothing of one that a later event takes back.
    let can_be_in_order = windows.takes_back.is_none();
    // What the fast way leaves, and everything, for entities whose events it can't take.
    let rest = slides(windows, &|column| !in_order.covers(column));
    let all = slides(windows, &|_| true);
    let mut out: Vec<Column> =
        plan.features.iter().map(|(_, value_type)| Column::new(value_type, labels.at.len())).collect();
    let mut timeline = Timeline::new(plan, events);
    for entity in 0..entity_count {
        let asked = asked.of(entity);
        if asked.is_empty() {
            continue;
        }
        sort_by_key(asked, |label| label.at);
        let seen = seen(windows, happened.of(entity), asked);
        let is_done = match visible_in_order(seen, asked) {
            Some(seen) if can_be_in_order => in_order.run(seen, asked, &mut out),
            _ => false,
        };
        let slides = if is_done { &rest } else { &all };
        if !slides.is_empty() {
            timeline.fill(events, seen, asked);
            slides.iter().for_each(|slide| slide.run(&timeline, windows.takes_back, asked, &mut out));
        }
    }
    let (values, statuses) = out.into_iter().map(Column::finish).unzip();
    TrainingColumns { values, statuses, event_times: None }
}

/// An entity's events in the order of event time, without those that no window of the first label reaches.
fn seen<'h>(windows: &WindowsPlan, happened: &'h mut [Happened], asked: &[Asked]) -> &'h [Happened] {
    let low = windows.readers.iter().map(|reader| reader.window.bounds(asked[0].at).low).min();
    sort_by_key(happened, |event| event.event_time);
    let from = happened.partition_point(|event| event.event_time < low.unwrap_or(Micros::MIN));
    &happened[from..]
}

/// The events that some label sees, when they became visible in their order.
fn visible_in_order<'h>(seen: &'h [Happened], asked: &[Asked]) -> Option<&'h [Happened]> {
    seen.is_sorted_by_key(|event| event.visible_at).then(|| {
        let to = seen.partition_point(|event| event.visible_at < asked[asked.len() - 1].at);
        &seen[..to]
    })
}

/// A feature's column and function.
type Reading<'p> = (usize, &'p AggregateFunction);

/// One window over one slot, and the features that read it.
struct Slide<'p> {
    reader: &'p WindowReader,
    /// With its caps: what a value is made with.
    slot: Slot,
    /// Without caps: what events are added to and taken from.
    open: Slot,
    features: Vec<Reading<'p>>,
    way: Way,
    /// Events that were taken back are left out one by one, as the slot keeps all others.
    is_of_kept: bool,
}

/// What names an event that is taken back: its time, its value and its group.
type Content = (Micros, Value, Value);

/// How a window keeps up with the labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Events are only added: a lifetime.
    Grow,
    /// Events are added at the head and taken away at the tail.
    Slide,
    /// The newest few of all visible events; those before the tail are left out when read.
    Newest,
    /// A tree over event times.
    Tree,
}

/// The slides behind the features that are wanted.
fn slides<'p>(windows: &'p WindowsPlan, is_wanted: &dyn Fn(usize) -> bool) -> Vec<Slide<'p>> {
    let mut slides = Vec::new();
    for (number, reader) in windows.readers.iter().enumerate() {
        for (place, slot) in reader.slots.iter().enumerate() {
            let slot = &windows.levels[reader.level].slots[*slot];
            let reads = windows.features.iter().enumerate();
            let reads = reads.filter(|(_, feature)| feature.reader == number && feature.place == place);
            let reads = reads.filter(|(column, _)| is_wanted(*column));
            let features: Vec<Reading<'_>> =
                reads.map(|(column, feature)| (column, &feature.function)).collect();
            if slot.kind == Kind::Kept {
                slides.extend(features.into_iter().map(|feature| Slide::of_kept(reader, slot, feature)));
                continue;
            }
            if features.is_empty() {
                continue;
            }
            let way = match slot.kind {
                _ if reader.window.length.is_none() => Way::Grow,
                kind if kind.can_remove() => Way::Slide,
                Kind::Newest { .. } | Kind::NewestTime if slot.group.is_none() => Way::Newest,
                _ => Way::Tree,
            };
            let (slot, open) = (slot.clone(), slot.without_caps());
            slides.push(Slide { reader, slot, open, features, way, is_of_kept: false });
        }
    }
    slides
}

impl<'p> Slide<'p> {
    /// A window over what a slot keeps: the state of the function alone, from which events go when they are taken back.
    fn of_kept(reader: &'p WindowReader, slot: &Slot, feature: Reading<'p>) -> Self {
        let slot = Slot { kind: Kind::of(feature.1, None), takes_back: false, ..slot.clone() };
        let way = if slot.kind.can_remove() { Way::Slide } else { Way::Tree };
        let open = slot.without_caps();
        Slide { reader, slot, open, features: vec![feature], way, is_of_kept: true }
    }

    /// When each event is taken back: never is the greatest moment, and `i64::MIN` says that it never counts, since it only
    /// takes back or was taken back before it came.
    fn ends(&self, timeline: &Timeline, takes_back: &dyn Fn(usize) -> bool) -> Vec<Micros> {
        let mut ends = vec![Micros::MIN; timeline.stamps.len()];
        // By content: the events that count, and how many are to be taken back when they come.
        let mut contents: HashMap<Content, (Vec<usize>, usize), ahash::RandomState> = HashMap::default();
        for place in timeline.by_visibility.iter().map(|place| *place as usize) {
            let Some(taken) = self.open.taken(|input| timeline.value(place, input)) else { continue };
            let stamp = &timeline.stamps[place];
            let content = (stamp.event_time, taken.value().clone(), with_one_zero(taken.group()));
            let (counting, owed) = contents.entry(content).or_default();
            if takes_back(place) {
                match counting.pop() {
                    Some(taken_back) => ends[taken_back] = stamp.visible_at(),
                    None => *owed += 1,
                }
            } else if *owed > 0 {
                *owed -= 1;
            } else {
                counting.push(place);
                ends[place] = Micros::MAX;
            }
        }
        ends
    }

    fn run(&self, timeline: &Timeline, takes_back: Option<usize>, asked: &[Asked], out: &mut [Column]) {
        let takes_back =
            |place: usize| takes_back.is_some_and(|input| timeline.value(place, input) == Value::Bool(true));
        let ends = self.is_of_kept.then(|| self.ends(timeline, &takes_back));
        // With ends, no event that takes back is let in.
        let is_taking = |place: usize| ends.is_none() && takes_back(place);
        let stamp_of = |place: usize| match (timeline.stamps[place], &ends) {
            (stamp, None) => stamp,
            // Arrival decides nothing among events that can be taken back.
            (Stamp { event_time, .. }, Some(_)) => Stamp { event_time, known_at: event_time, seq: 0 },
        };
        let taken_of = |place: usize| self.open.taken(|input| timeline.value(place, input));
        let added = |place: usize| taken_of(place).expect("only what was taken was added");
        let mut leaving: Vec<(Micros, usize)> = ends.iter().flatten().copied().zip(0..).collect();
        leaving.retain(|(end, _)| !matches!(*end, Micros::MIN | Micros::MAX));
        leaving.sort_unstable();
        let mut leaving = leaving.into_iter().peekable();
        let places = timeline.stamps.len();
        let mut state = self.open.empty();
        let mut tree = (self.way == Way::Tree).then(|| SuffixTree::new(&self.open, places));
        // Places that are in the state, so that only they are taken away.
        let can_leave = self.way == Way::Slide || ends.is_some();
        let mut is_in = vec![false; if can_leave { places } else { 0 }];
        let (mut coming, mut tail) = (timeline.by_visibility.iter().peekable(), 0);
        for label in asked {
            let bounds = self.reader.window.bounds(label.at);
            while tail < places && timeline.stamps[tail].event_time < bounds.low {
                if self.way == Way::Slide && std::mem::take(&mut is_in[tail]) {
                    self.open.change(&mut state, &stamp_of(tail), &added(tail), !is_taking(tail));
                }
                tail += 1;
            }
            while let Some(place) =
                coming.next_if(|place| timeline.stamps[**place as usize].visible_at() < bounds.head)
            {
                let place = *place as usize;
                // The tail never moves back: what is behind it now stays outside.
                let is_out = ends.as_ref().is_some_and(|ends| ends[place] == Micros::MIN);
                if is_out || !bounds.contains(&timeline.stamps[place]) {
                    continue;
                }
                let Some(taken) = taken_of(place) else { continue };
                match &mut tree {
                    Some(tree) => tree.insert(place, &stamp_of(place), &taken),
                    None => self.open.change(&mut state, &stamp_of(place), &taken, is_taking(place)),
                }
                if can_leave {
                    is_in[place] = true;
                }
            }
            while let Some((_, place)) = leaving.next_if(|(end, _)| *end < bounds.head) {
                if std::mem::take(&mut is_in[place]) {
                    match &mut tree {
                        Some(tree) => tree.remove(place),
                        None => self.open.change(&mut state, &stamp_of(place), &added(place), true),
                    }
                }
            }
            let row = label.row as usize;
            match (&tree, self.way) {
                (Some(tree), _) => self.read(&tree.suffix(tail), label.at, row, out),
                (None, Way::Newest) => self.read(&newer_than(&state, bounds.low), label.at, row, out),
                (None, _) => self.read(&state, label.at, row, out),
            }
        }
    }

    fn read(&self, state: &State, at: Micros, row: usize, out: &mut [Column]) {
        for (column, function) in &self.features {
            out[*column].set(row, self.slot.value(function, state, at));
        }
    }
}

/// The part of a list of the newest that a window's tail leaves.
fn newer_than(state: &State, low: Micros) -> State {
    match state {
        State::Picked(picked) => {
            let kept = picked.partition_point(|(stamp, _)| stamp.event_time >= low);
            State::Picked(picked[..kept].to_vec())
        }
        State::NewestTime(newest) => State::NewestTime(newest.filter(|time| *time >= low)),
        other => unreachable!("{other:?} is no list of the newest"),
    }
}

/// The values of a feature being filled in, label by label in any order.
pub(super) struct Column {
    value_type: ValueType,
    pub(super) values: Values,
    pub(super) statuses: Vec<ValueStatus>,
}

/// Numbers without a [`Value`] each: a training set has many.
pub(super) enum Values {
    Int64(Vec<i64>),
    Int32(Vec<i32>),
    Float64(Vec<f64>),
    Float32(Vec<f32>),
    Other(Vec<Value>),
}

impl Column {
    fn new(value_type: &ValueType, rows: usize) -> Self {
        let values = match value_type {
            ValueType::Int64 => Values::Int64(vec![0; rows]),
            ValueType::Int32 => Values::Int32(vec![0; rows]),
            ValueType::Float64 => Values::Float64(vec![0.0; rows]),
            ValueType::Float32 => Values::Float32(vec![0.0; rows]),
            _ => Values::Other(vec![Value::Null; rows]),
        };
        Self { value_type: value_type.clone(), values, statuses: vec![ValueStatus::Null; rows] }
    }

    fn set(&mut self, row: usize, (value, status): (Value, ValueStatus)) {
        self.statuses[row] = status;
        match (&mut self.values, value) {
            (Values::Other(values), value) => values[row] = value,
            (Values::Int64(values), Value::Int64(value)) => values[row] = value,
            (Values::Int32(values), Value::Int32(value)) => values[row] = value,
            (Values::Float64(values), Value::Float64(value)) => values[row] = value,
            (Values::Float32(values), Value::Float32(value)) => values[row] = value,
            (_, Value::Null) => {}
            (_, value) => unreachable!("a feature of type {} has no value {value:?}", self.value_type),
        }
    }

    fn finish(self) -> (ArrayRef, Vec<ValueStatus>) {
        let statuses = self.statuses;
        let nulls = || {
            let is_fresh = BooleanBuffer::collect_bool(statuses.len(), |i| statuses[i] == ValueStatus::Fresh);
            Some(NullBuffer::new(is_fresh)).filter(|nulls| nulls.null_count() > 0)
        };
        let array: ArrayRef = match self.values {
            Values::Int64(values) => Arc::new(Int64Array::new(values.into(), nulls())),
            Values::Int32(values) => Arc::new(Int32Array::new(values.into(), nulls())),
            Values::Float64(values) => Arc::new(Float64Array::new(values.into(), nulls())),
            Values::Float32(values) => Arc::new(Float32Array::new(values.into(), nulls())),
            Values::Other(values) => array_from_values(&self.value_type, &values),
        };
        (array, statuses)
    }
}
