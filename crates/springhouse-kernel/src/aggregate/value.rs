//! From a state to the value of a feature.

use super::{Floats, Integers, Kind, Slot, State, net};
use crate::Stamp;
use crate::exact::{float_variance, ratio_to_float, sample_variance};
use num_bigint::{BigInt, BigUint};
use springhouse_core::definition::AggregateFunction;
use springhouse_core::time::SECOND;
use springhouse_core::{Micros, Value, ValueStatus};
use std::collections::BTreeMap;

/// A value and what became of it; null unless fresh.
pub(crate) type Answer = (Value, ValueStatus);

const OVER_CAP: Answer = (Value::Null, ValueStatus::OverCap);

fn fresh(value: Value) -> Answer {
    (value, ValueStatus::Fresh)
}

fn fresh_or_null(value: Option<Value>) -> Answer {
    value.map_or((Value::Null, ValueStatus::Null), fresh)
}

/// A float that is a value; NaN (of opposite infinities) is null.
fn float(value: f64) -> Answer {
    fresh_or_null((!value.is_nan()).then_some(Value::Float64(value)))
}

impl Slot {
    /// The value of `function` over the events in `state`, at the moment `at`.
    pub(crate) fn value(&self, function: &AggregateFunction, state: &State, at: Micros) -> Answer {
        let State::Grouped(groups) = state else { return self.kind.value(function, state, at) };
        let counts = |state: &State| !self.takes_back || !state.counts_nothing();
        let counting = || groups.states.iter().filter(|(_, state)| counts(state));
        if self.group.is_some_and(|(_, cap)| groups.states.len() > cap && counting().count() > cap) {
            return OVER_CAP;
        }
        let mut pairs = Vec::with_capacity(groups.states.len());
        for (group, state) in counting() {
            match self.kind.value(function, state, at) {
                // One group that is wrong makes the whole map wrong; one without a value (a variance of one) is null.
                (_, status @ (ValueStatus::Overflow | ValueStatus::OverCap)) => return (Value::Null, status),
                (value, _) => pairs.push((group.clone(), value)),
            }
        }
        fresh(Value::Map(pairs.into()))
    }
}

impl Kind {
    fn value(&self, function: &AggregateFunction, state: &State, at: Micros) -> Answer {
        match state {
            State::OverCap => OVER_CAP,
            State::Count(count) => fresh(Value::Int64(net(*count) as i64)),
            State::Kept(kept) => value_of_kept(kept, function, at),
            State::Integers(sums) => sums.value(function),
            State::Floats(sums) => sums.value(function),
            State::Extreme(held) => fresh_or_null(held.clone()),
            State::Picked(picked) => match function {
                AggregateFunction::First | AggregateFunction::Last => {
                    fresh_or_null(picked.first().map(|(_, value)| value.clone()))
                }
                // A state may hold more than this feature asks for.
                AggregateFunction::FirstN(n) | AggregateFunction::LastN(n) => {
                    let values = picked.iter().take(*n as usize).map(|(_, value)| value.clone());
                    fresh(Value::List(values.collect()))
                }
                other => unreachable!("{} reads no list", other.name()),
            },
            State::Counted(counts) => {
                let cap = match self {
                    Self::Counted { cap } => *cap,
                    _ => usize::MAX,
                };
                if counts.len() > cap {
                    return OVER_CAP;
                }
                match function {
                    AggregateFunction::CountDistinct { .. } => fresh(Value::Int64(counts.len() as i64)),
                    AggregateFunction::TopN { n, .. } => {
                        let top = most_frequent(counts).into_iter().take(*n as usize);
                        fresh(Value::List(top.map(|(value, _)| value.clone()).collect()))
                    }
                    _ => {
                        let pairs = most_frequent(counts).into_iter();
                        let pair =
                            |(value, count): (&Value, u64)| (value.clone(), Value::Int64(count as i64));
                        fresh(Value::Map(pairs.map(pair).collect()))
                    }
                }
            }
            State::Distinct(sketch) => {
                let Self::Distinct { precision } = self else { return OVER_CAP };
                fresh(Value::Int64(sketch.estimate(*precision)))
            }
            State::Quantile(sketch) => match (self, function) {
                (Self::Quantile { cap, .. }, _) if sketch.buckets() > *cap => OVER_CAP,
                (Self::Quantile { scale, .. }, AggregateFunction::ApproxQuantile { q, .. }) => {
                    fresh_or_null(sketch.quantile(*q, *scale).map(Value::Float64))
                }
                (kind, function) => unreachable!("{} reads no {kind:?}", function.name()),
            },
            State::NewestTime(newest) => fresh_or_null(newest.map(|time| Value::Float64(seconds(time, at)))),
            State::Grouped(_) => unreachable!("groups hold plain states"),
        }
    }
}

/// The value of the events that are left, as if no other had been.
fn value_of_kept(kept: &BTreeMap<(Micros, Value), i64>, function: &AggregateFunction, at: Micros) -> Answer {
    let kind = Kind::of(function, None);
    let open = kind.without_cap();
    let mut state = open.empty();
    // They are in the order of event time: what picks from an end looks at no more than it picks.
    let (from_the_end, mut missing) = match kind {
        Kind::Oldest { n } => (false, n as i64),
        Kind::Newest { n } => (true, n as i64),
        Kind::NewestTime => (true, 1),
        _ => (false, i64::MAX),
    };
    let mut events = kept.iter();
    let events = std::iter::from_fn(|| if from_the_end { events.next_back() } else { events.next() });
    for ((event_time, value), times) in events.filter(|(_, times)| **times > 0) {
        let stamp = Stamp { event_time: *event_time, known_at: *event_time, seq: 0 };
        let taken = (*times).min(missing);
        (0..taken).for_each(|_| {
            open.insert(&mut state, &stamp, value);
        });
        missing -= taken;
        if missing == 0 {
            break;
        }
    }
    kind.value(function, &state, at)
}

/// Values by falling count, ties by the smaller value.
fn most_frequent(counts: &BTreeMap<Value, u64>) -> Vec<(&Value, u64)> {
    let mut pairs: Vec<(&Value, u64)> = counts.iter().map(|(value, count)| (value, *count)).collect();
    // Stable, so that ties stay in the map's order.
    pairs.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    pairs
}

/// The seconds between two moments, rounded once.
pub(crate) fn seconds(from: Micros, to: Micros) -> f64 {
    let micros = i128::from(to) - i128::from(from);
    if micros.unsigned_abs() < 1 << 53 {
        return micros as f64 / SECOND as f64;
    }
    ratio_to_float(&BigInt::from(micros), &BigUint::from(SECOND.unsigned_abs()), 0)
}

impl Integers {
    fn value(&self, function: &AggregateFunction) -> Answer {
        let count = net(self.count);
        match function {
            AggregateFunction::Count => fresh(Value::Int64(count as i64)),
            _ if count == 0 => fresh_or_null(None),
            AggregateFunction::Sum => match i64::try_from(self.sum) {
                Ok(sum) => fresh(Value::Int64(sum)),
                Err(_) => (Value::Null, ValueStatus::Overflow),
            },
            AggregateFunction::Mean => float(self.sum as f64 / count as f64),
            AggregateFunction::Variance => fresh_or_null(self.variance().map(Value::Float64)),
            AggregateFunction::Stddev => fresh_or_null(self.variance().map(|v| Value::Float64(v.sqrt()))),
            other => unreachable!("{} reads no power sums", other.name()),
        }
    }

    fn variance(&self) -> Option<f64> {
        let squares = self.squares.as_ref().expect("a variance's slot holds squares");
        sample_variance(net(self.count), &BigInt::from(self.sum), &squares.to_big(), 0)
    }
}

impl Floats {
    fn value(&self, function: &AggregateFunction) -> Answer {
        let count = net(self.count);
        match function {
            AggregateFunction::Count => fresh(Value::Int64(count as i64)),
            _ if count == 0 => fresh_or_null(None),
            AggregateFunction::Sum => float(self.total()),
            AggregateFunction::Mean => float(self.total() / count as f64),
            AggregateFunction::Variance => fresh_or_null(self.variance().map(Value::Float64)),
            AggregateFunction::Stddev => fresh_or_null(self.variance().map(|v| Value::Float64(v.sqrt()))),
            other => unreachable!("{} reads no power sums", other.name()),
        }
    }

    fn total(&self) -> f64 {
        match self.infinite {
            [0, 0] => self.sum.to_float(),
            [_, 0] => f64::INFINITY,
            [0, _] => f64::NEG_INFINITY,
            _ => f64::NAN,
        }
    }

    fn variance(&self) -> Option<f64> {
        if self.infinite != [0, 0] {
            return None;
        }
        let squares = self.squares.as_ref().expect("a variance's slot holds squares");
        float_variance(net(self.count), &self.sum, squares)
    }
}
