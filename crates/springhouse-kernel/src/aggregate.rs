//! States of aggregates: commutative monoids over the set of visible events, each held once however many features
//! read it.

mod coding;
mod groups;
mod value;

pub(crate) use groups::Groups;
pub(crate) use value::seconds;

use crate::Stamp;
use crate::exact::ExactSum;
use crate::plan::Event;
use crate::sketch::{DistinctSketch, QuantileScale, QuantileSketch, SKETCH_BUCKETS_MAX};
use springhouse_core::definition::AggregateFunction;
use springhouse_core::{Micros, Value, ValueType};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The most groups of an aggregate with a second column; past it the value is null with the status `over_cap`.
pub(crate) const GROUPS_MAX: usize = 10_000;

/// What a state holds; together with where it reads, its identity. Parameters are part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Events, or non-null values where there is a column.
    Count,
    /// Count and sum of integers, with the sum of squares if `squares`.
    Integers { squares: bool },
    /// Count and sum of floats, with the sum of squares if `squares`.
    Floats { squares: bool },
    /// The least value.
    Least,
    /// The greatest value.
    Greatest,
    /// The `n` oldest values with their stamps.
    Oldest { n: usize },
    /// The `n` newest values with their stamps.
    Newest { n: usize },
    /// Every value with its count, up to `cap` values.
    Counted { cap: usize },
    /// HyperLogLog.
    Distinct { precision: u8 },
    /// DDSketch, up to `cap` buckets.
    Quantile { scale: QuantileScale, cap: usize },
    /// The newest event time.
    NewestTime,
    /// Every event that was not taken back: for functions whose own state can't give an event up.
    Kept,
}

/// One state to keep: what, over which input, of which events.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    /// What is held.
    pub(crate) kind: Kind,
    /// The input aggregated.
    pub(crate) column: Option<usize>,
    /// The input that must be true.
    pub(crate) predicate: Option<usize>,
    /// The input grouped by, and the most groups.
    pub(crate) group: Option<(usize, usize)>,
    /// True where events can be taken back. Counts may then be below zero for a while (in two's complement), and caps are
    /// held against when a value is read, never in a state.
    pub(crate) takes_back: bool,
}

/// What of an event counts for a slot: neither is null or NaN; none where the slot has no such column.
pub(crate) struct Taken<V> {
    value: Option<V>,
    group: Option<V>,
}

impl<V: Borrow<Value>> Taken<V> {
    /// The value aggregated; null for slots of whole events.
    pub(crate) fn value(&self) -> &Value {
        self.value.as_ref().map_or(&Value::Null, Borrow::borrow)
    }

    /// The group; null for slots without groups.
    pub(crate) fn group(&self) -> &Value {
        self.group.as_ref().map_or(&Value::Null, Borrow::borrow)
    }
}

/// The state of a slot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// [`Kind::Count`].
    Count(u64),
    /// [`Kind::Integers`].
    Integers(Box<Integers>),
    /// [`Kind::Floats`].
    Floats(Box<Floats>),
    /// [`Kind::Least`] and [`Kind::Greatest`].
    Extreme(Option<Value>),
    /// [`Kind::Oldest`] (ascending) and [`Kind::Newest`] (descending); equal stamps by value.
    Picked(Vec<(Stamp, Value)>),
    /// [`Kind::Counted`].
    Counted(BTreeMap<Value, u64>),
    /// [`Kind::Distinct`].
    Distinct(Box<DistinctSketch>),
    /// [`Kind::Quantile`].
    Quantile(Box<QuantileSketch>),
    /// [`Kind::NewestTime`].
    NewestTime(Option<Micros>),
    /// [`Kind::Kept`]: event times and values, with how often each was added less how often it was taken back; never 0.
    Kept(BTreeMap<(Micros, Value), i64>),
    /// Any kind by the values of a second column.
    Grouped(Box<Groups>),
    /// More distinct values, groups or buckets than the cap: stays so whatever is added.
    OverCap,
}

/// Exact power sums of integers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Integers {
    /// How many.
    pub(crate) count: u64,
    /// 2^64 values of 2^63 fit.
    pub(crate) sum: i128,
    /// Sum of squares, unit 1.
    pub(crate) squares: Option<Box<ExactSum>>,
}

/// Exact power sums of floats.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Floats {
    /// How many, infinities too.
    pub(crate) count: u64,
    /// How many are +infinity and -infinity; they are in no sum.
    pub(crate) infinite: [u64; 2],
    /// Sum, unit 2^-1074.
    pub(crate) sum: ExactSum,
    /// Sum of squares, unit 2^-2148.
    pub(crate) squares: Option<Box<ExactSum>>,
}

/// `0.0` for `-0.0`: one zero among values that are compared, counted or grouped by.
pub(crate) fn with_one_zero(value: &Value) -> Value {
    match value {
        Value::Float32(0.0) => Value::Float32(0.0),
        Value::Float64(0.0) => Value::Float64(0.0),
        other => other.clone(),
    }
}

fn float_of(value: &Value) -> f64 {
    match value {
        Value::Float64(v) => *v,
        Value::Float32(v) => f64::from(*v),
        Value::Int32(v) => f64::from(*v),
        Value::Int64(v) => *v as f64,
        other => unreachable!("the plan was compiled for a number, this is {other:?}"),
    }
}

fn integer_of(value: &Value) -> i64 {
    match value {
        Value::Int32(v) => i64::from(*v),
        Value::Int64(v) => *v,
        other => unreachable!("the plan was compiled for an integer, this is {other:?}"),
    }
}

/// A count of what was added less what was taken back; not below 0.
fn net(count: u64) -> u64 {
    if count > i64::MAX as u64 { 0 } else { count }
}

/// Adds to how often an event counts.
pub(crate) fn keep<K: Ord>(kept: &mut BTreeMap<K, i64>, event: K, times: i64) {
    match kept.entry(event) {
        Entry::Vacant(place) => {
            place.insert(times);
        }
        Entry::Occupied(mut held) => {
            *held.get_mut() += times;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

impl Integers {
    fn is_empty(&self) -> bool {
        self.count == 0 && self.sum == 0 && self.squares.as_ref().is_none_or(|squares| squares.is_zero())
    }

    fn add(&mut self, value: i64, remove: bool) {
        let signed = i128::from(value);
        if remove {
            self.count = self.count.wrapping_sub(1);
            self.sum -= signed;
        } else {
            self.count = self.count.wrapping_add(1);
            self.sum += signed;
        }
        if let Some(squares) = &mut self.squares {
            squares.add_integer_square(value, remove);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum += other.sum;
        if let (Some(squares), Some(more)) = (&mut self.squares, &other.squares) {
            squares.merge(more);
        }
    }
}

impl Floats {
    fn is_empty(&self) -> bool {
        self.count == 0
            && self.infinite == [0, 0]
            && self.sum.is_zero()
            && self.squares.as_ref().is_none_or(|squares| squares.is_zero())
    }

    fn add(&mut self, value: f64, remove: bool) {
        let step = if remove { u64::MAX } else { 1 };
        self.count = self.count.wrapping_add(step);
        if value.is_infinite() {
            let held = &mut self.infinite[usize::from(value < 0.0)];
            *held = held.wrapping_add(step);
            return;
        }
        if remove {
            self.sum.remove_float(value);
        } else {
            self.sum.add_float(value);
        }
        if let Some(squares) = &mut self.squares {
            squares.add_float_square(value, remove);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.infinite[0] = self.infinite[0].wrapping_add(other.infinite[0]);
        self.infinite[1] = self.infinite[1].wrapping_add(other.infinite[1]);
        self.sum.merge(&other.sum);
        if let (Some(squares), Some(more)) = (&mut self.squares, &other.squares) {
            squares.merge(more);
        }
    }
}

impl Kind {
    /// What holds enough for a function over a column of this type.
    pub(crate) fn of(function: &AggregateFunction, column_type: Option<&ValueType>) -> Self {
        use AggregateFunction as F;
        let sums = |squares| match column_type.is_some_and(ValueType::is_integer) {
            true => Kind::Integers { squares },
            false => Kind::Floats { squares },
        };
        match function {
            F::Count => Kind::Count,
            F::Sum | F::Mean => sums(false),
            F::Variance | F::Stddev => sums(true),
            F::Min => Kind::Least,
            F::Max => Kind::Greatest,
            F::First => Kind::Oldest { n: 1 },
            F::Last => Kind::Newest { n: 1 },
            F::FirstN(n) => Kind::Oldest { n: *n as usize },
            F::LastN(n) => Kind::Newest { n: *n as usize },
            F::CountDistinct { cap } | F::TopN { cap, .. } | F::ValueCounts { cap } => {
                Kind::Counted { cap: *cap as usize }
            }
            F::ApproxCountDistinct { precision } => Kind::Distinct { precision: *precision },
            F::ApproxQuantile { alpha, .. } => Kind::quantile(*alpha),
            F::SecondsSinceLast => Kind::NewestTime,
        }
    }

    /// The state of no events.
    pub(crate) fn empty(&self) -> State {
        match self {
            Self::Count => State::Count(0),
            Self::Integers { squares } => {
                let squares = squares.then(Box::default);
                State::Integers(Box::new(Integers { squares, ..Integers::default() }))
            }
            Self::Floats { squares } => {
                let squares = squares.then(Box::default);
                State::Floats(Box::new(Floats { squares, ..Floats::default() }))
            }
            Self::Least | Self::Greatest => State::Extreme(None),
            Self::Oldest { .. } | Self::Newest { .. } => State::Picked(Vec::new()),
            Self::Counted { .. } => State::Counted(BTreeMap::new()),
            Self::Distinct { .. } => State::Distinct(Box::new(DistinctSketch::empty())),
            Self::Quantile { .. } => State::Quantile(Box::default()),
            Self::NewestTime => State::NewestTime(None),
            Self::Kept => State::Kept(BTreeMap::new()),
        }
    }

    /// True when a value can be taken away again, so that a window can slide.
    pub(crate) fn can_remove(&self) -> bool {
        matches!(
            self,
            Self::Count
                | Self::Integers { .. }
                | Self::Floats { .. }
                | Self::Counted { .. }
                | Self::Quantile { .. }
                | Self::Kept
        )
    }

    /// The same without a cap: a cap reached is not undone by taking values away.
    pub(crate) fn without_cap(self) -> Self {
        match self {
            Self::Counted { .. } => Self::Counted { cap: usize::MAX },
            Self::Quantile { scale, .. } => Self::Quantile { scale, cap: usize::MAX },
            other => other,
        }
    }

    /// Adds one value (any where there is no column). False when that leaves the state as it was, and would leave
    /// every state as it was that holds this one's events and more.
    pub(crate) fn insert(&self, state: &mut State, stamp: &Stamp, value: &Value) -> bool {
        match (self, &mut *state) {
            (_, State::OverCap) => return false,
            (Self::Count, State::Count(count)) => *count = count.wrapping_add(1),
            (_, State::Integers(sums)) => sums.add(integer_of(value), false),
            (_, State::Floats(sums)) => sums.add(float_of(value), false),
            (_, State::Extreme(held)) => return self.insert_extreme(held, with_one_zero(value)),
            (_, State::Picked(picked)) => return self.pick(picked, (stamp, value)),
            (_, State::Counted(counts)) => {
                *counts.entry(with_one_zero(value)).or_default() += 1;
                self.enforce_cap(state);
            }
            (Self::Distinct { precision }, State::Distinct(sketch)) => {
                return sketch.insert(&with_one_zero(value), *precision);
            }
            (Self::Quantile { scale, .. }, State::Quantile(sketch)) => {
                sketch.insert(float_of(value), *scale);
                self.enforce_cap(state);
            }
            (_, State::NewestTime(newest)) => *newest = (*newest).max(Some(stamp.event_time)),
            (_, State::Kept(kept)) => keep(kept, (stamp.event_time, value.clone()), 1),
            (kind, state) => unreachable!("{kind:?} has no state {state:?}"),
        }
        true
    }

    /// Takes away a value that was added, or (of counts, sums and kept events) will be. Only for kinds with
    /// [`Self::can_remove`], without cap.
    pub(crate) fn remove(&self, state: &mut State, stamp: &Stamp, value: &Value) {
        match (self, state) {
            (Self::Count, State::Count(count)) => *count = count.wrapping_sub(1),
            (_, State::Kept(kept)) => keep(kept, (stamp.event_time, value.clone()), -1),
            (_, State::Integers(sums)) => sums.add(integer_of(value), true),
            (_, State::Floats(sums)) => sums.add(float_of(value), true),
            (_, State::Counted(counts)) => {
                let value = with_one_zero(value);
                let count = counts.get_mut(&value).expect("only what was added is taken away");
                *count -= 1;
                if *count == 0 {
                    counts.remove(&value);
                }
            }
            (Self::Quantile { scale, .. }, State::Quantile(sketch)) => sketch.remove(float_of(value), *scale),
            (kind, state) => unreachable!("nothing can be taken away from {kind:?} in {state:?}"),
        }
    }

    /// Adds everything that another state of the same kind holds.
    pub(crate) fn merge(&self, state: &mut State, other: &State) {
        match (&mut *state, other) {
            (State::OverCap, _) => {}
            (_, State::OverCap) => *state = State::OverCap,
            (State::Count(count), State::Count(more)) => *count = count.wrapping_add(*more),
            (State::Kept(kept), State::Kept(more)) => {
                more.iter().for_each(|(event, times)| keep(kept, event.clone(), *times));
            }
            (State::Integers(sums), State::Integers(more)) => sums.merge(more),
            (State::Floats(sums), State::Floats(more)) => sums.merge(more),
            (State::Extreme(held), State::Extreme(more)) => {
                if let Some(value) = more {
                    self.insert_extreme(held, value.clone());
                }
            }
            (State::Picked(picked), State::Picked(more)) => {
                more.iter().for_each(|(stamp, value)| {
                    self.pick(picked, (stamp, value));
                });
            }
            (State::Counted(counts), State::Counted(more)) => {
                for (value, count) in more {
                    *counts.entry(value.clone()).or_default() += count;
                }
                self.enforce_cap(state);
            }
            (State::Distinct(sketch), State::Distinct(more)) => {
                if let Self::Distinct { precision } = self {
                    sketch.merge(more, *precision);
                }
            }
            (State::Quantile(sketch), State::Quantile(more)) => {
                sketch.merge(more);
                self.enforce_cap(state);
            }
            (State::NewestTime(newest), State::NewestTime(more)) => *newest = (*newest).max(*more),
            (state, other) => unreachable!("{self:?} can't merge {other:?} into {state:?}"),
        }
    }

    fn insert_extreme(&self, held: &mut Option<Value>, value: Value) -> bool {
        let wins = match held {
            None => true,
            Some(best) => match self {
                Self::Least => value < *best,
                _ => value > *best,
            },
        };
        if wins {
            *held = Some(value);
        }
        wins
    }

    /// Keeps the list sorted and cut to `n`.
    fn pick(&self, picked: &mut Vec<(Stamp, Value)>, candidate: (&Stamp, &Value)) -> bool {
        let order = |held: &(Stamp, Value)| (&held.0, &held.1).cmp(&candidate);
        let (n, at) = match self {
            Self::Oldest { n } => (*n, picked.partition_point(|held| order(held).is_le())),
            Self::Newest { n } => (*n, picked.partition_point(|held| order(held).is_ge())),
            other => unreachable!("{other:?} picks nothing"),
        };
        if at == n {
            return false;
        }
        picked.truncate(n - 1);
        picked.insert(at, (*candidate.0, candidate.1.clone()));
        true
    }

    fn enforce_cap(&self, state: &mut State) {
        let over = match (self, &*state) {
            (Self::Counted { cap }, State::Counted(counts)) => counts.len() > *cap,
            (Self::Quantile { cap, .. }, State::Quantile(sketch)) => sketch.buckets() > *cap,
            _ => false,
        };
        if over {
            *state = State::OverCap;
        }
    }

    /// The kind of a quantile sketch.
    pub(crate) fn quantile(alpha: f64) -> Self {
        Self::Quantile { scale: QuantileScale::new(alpha), cap: SKETCH_BUCKETS_MAX }
    }
}

impl Slot {
    /// The state of no events.
    pub(crate) fn empty(&self) -> State {
        match self.group {
            None => self.kind.empty(),
            Some(_) => State::Grouped(Box::default()),
        }
    }

    /// The same without caps; see [`Kind::without_cap`].
    pub(crate) fn without_caps(&self) -> Self {
        let group = self.group.map(|(input, _)| (input, usize::MAX));
        Self { kind: self.kind.without_cap(), group, ..self.clone() }
    }

    /// What of an event counts for this slot; None when nothing does. `value` gives an input's value.
    pub(crate) fn taken<V: Borrow<Value>>(&self, value: impl Fn(usize) -> V) -> Option<Taken<V>> {
        if let Some(input) = self.predicate
            && !matches!(value(input).borrow(), Value::Bool(true))
        {
            return None;
        }
        let some = |input: usize| Some(value(input)).filter(|v| !v.borrow().is_null_or_nan());
        let group = match self.group {
            None => None,
            Some((input, _)) => Some(some(input)?),
        };
        let value = match self.column {
            None => None,
            Some(input) => Some(some(input)?),
        };
        Some(Taken { value, group })
    }

    /// Adds an event, if it counts; or takes back what it names.
    pub(crate) fn insert(&self, state: &mut State, event: &Event, takes_back: bool) {
        if let Some(taken) = self.taken(|input| &event.values[input]) {
            self.change(state, &event.stamp, &taken, takes_back);
        }
    }

    /// Adds what [`Self::taken`] gave, or takes it back.
    pub(crate) fn change<V: Borrow<Value>>(
        &self,
        state: &mut State,
        stamp: &Stamp,
        taken: &Taken<V>,
        takes_back: bool,
    ) {
        if takes_back {
            self.remove_taken(state, stamp, taken);
        } else {
            self.insert_taken(state, stamp, taken);
        }
    }

    /// Adds what [`Self::taken`] gave. False as for [`Kind::insert`].
    pub(crate) fn insert_taken<V: Borrow<Value>>(
        &self,
        state: &mut State,
        stamp: &Stamp,
        taken: &Taken<V>,
    ) -> bool {
        match state {
            State::Grouped(groups) => {
                let is_changed = groups.insert(self, stamp, taken.value(), taken.group());
                if !groups.is_within_cap(self) {
                    *state = State::OverCap;
                }
                is_changed
            }
            state => self.kind.insert(state, stamp, taken.value()),
        }
    }

    /// Takes away what was added. Only for slots with [`Kind::can_remove`], without caps.
    pub(crate) fn remove_taken<V: Borrow<Value>>(&self, state: &mut State, stamp: &Stamp, taken: &Taken<V>) {
        match state {
            State::Grouped(groups) => groups.remove(self, stamp, taken.value(), taken.group()),
            state => self.kind.remove(state, stamp, taken.value()),
        }
    }

    /// Adds everything that another state of this slot holds.
    pub(crate) fn merge(&self, state: &mut State, other: &State) {
        match (&mut *state, other) {
            (State::Grouped(groups), State::Grouped(more)) => {
                groups.merge(self, more);
                if !groups.is_within_cap(self) {
                    *state = State::OverCap;
                }
            }
            (state, other) => self.kind.merge(state, other),
        }
    }
}

impl State {
    /// True for the state of no events.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Count(count) => *count == 0,
            Self::Integers(sums) => sums.is_empty(),
            Self::Floats(sums) => sums.is_empty(),
            Self::Extreme(held) => held.is_none(),
            Self::Picked(picked) => picked.is_empty(),
            Self::Counted(counts) => counts.is_empty(),
            Self::Distinct(sketch) => sketch.is_empty(),
            Self::Quantile(sketch) => sketch.zero == 0 && sketch.buckets() == 0,
            Self::NewestTime(newest) => newest.is_none(),
            Self::Kept(kept) => kept.is_empty(),
            Self::Grouped(groups) => groups.is_empty(),
            Self::OverCap => false,
        }
    }

    /// True when no event counts: there is none, or no more were added than taken back.
    pub(crate) fn counts_nothing(&self) -> bool {
        match self {
            Self::Count(count) => net(*count) == 0,
            Self::Integers(sums) => net(sums.count) == 0,
            Self::Floats(sums) => net(sums.count) == 0,
            Self::Kept(kept) => !kept.values().any(|times| *times > 0),
            other => other.is_empty(),
        }
    }

    /// About how many bytes it takes besides its own place.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Count(_) | Self::NewestTime(_) | Self::OverCap => 0,
            Self::Integers(sums) => 48 + if sums.squares.is_some() { 64 } else { 0 },
            Self::Floats(sums) => 96 + if sums.squares.is_some() { 64 } else { 0 },
            Self::Extreme(held) => held.as_ref().map_or(0, value_heap_bytes),
            Self::Picked(picked) => picked.iter().map(|(_, value)| 56 + value_heap_bytes(value)).sum(),
            Self::Counted(counts) => counts.keys().map(|value| 56 + value_heap_bytes(value)).sum(),
            Self::Distinct(sketch) => match &**sketch {
                DistinctSketch::Sparse(set) => 32 + set.len() * 4,
                DistinctSketch::Dense(ranks) => 32 + ranks.len(),
            },
            Self::Quantile(sketch) => 64 + sketch.buckets() * 16,
            Self::Kept(kept) => kept.keys().map(|(_, value)| 64 + value_heap_bytes(value)).sum(),
            Self::Grouped(groups) => groups.heap_bytes(),
        }
    }
}

/// About how many bytes a value takes besides its own place.
pub(crate) fn value_heap_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => 16 + text.len(),
        Value::Bytes(bytes) => 16 + bytes.len(),
        Value::Vector(items) => 16 + items.len() * 4,
        Value::List(items) => 16 + items.iter().map(|item| 32 + value_heap_bytes(item)).sum::<usize>(),
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| 64 + value_heap_bytes(key) + value_heap_bytes(value);
            16 + pairs.iter().map(pair).sum::<usize>()
        }
        _ => 0,
    }
}
