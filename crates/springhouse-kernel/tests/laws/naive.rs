//! Every answer from a plain list of the events, written for reading: the twin of everything fast.

use crate::random::View;
use springhouse_core::definition::{AggregateFunction as F, ViewKind, WindowFeature};
use springhouse_core::{Micros, Value, ValueStatus};
use springhouse_kernel::{Event, Stamp};
use std::collections::BTreeMap;

type Answer = (Value, ValueStatus);

pub(crate) struct Naive<'a> {
    pub(crate) view: &'a View,
    pub(crate) events: &'a [Event],
}

fn fresh(value: Value) -> Answer {
    (value, ValueStatus::Fresh)
}

const NULL: Answer = (Value::Null, ValueStatus::Null);

fn or_null(value: Option<Value>) -> Answer {
    value.map_or(NULL, fresh)
}

fn one_zero(value: &Value) -> Value {
    match value {
        Value::Float64(v) if *v == 0.0 => Value::Float64(0.0),
        Value::Float32(v) if *v == 0.0 => Value::Float32(0.0),
        other => other.clone(),
    }
}

fn number(value: &Value) -> f64 {
    match value {
        Value::Float64(v) => *v,
        Value::Float32(v) => f64::from(*v),
        Value::Int64(v) => *v as f64,
        Value::Int32(v) => f64::from(*v),
        other => unreachable!("{other:?}"),
    }
}

impl Naive<'_> {
    /// What is left of the events visible at `at` once some took others back; none when one takes back what is not there.
    pub(crate) fn surviving(&self, at: Micros) -> Option<Vec<Event>> {
        let Some(flag) = self.view.takes_back() else { return Some(self.events.to_vec()) };
        let is_latest = matches!(self.view.definition.kind, ViewKind::Latest(_));
        let mut visible: Vec<Event> = self.events.to_vec();
        visible.retain(|e| {
            let visible_at = e.stamp.event_time.max(e.stamp.known_at);
            visible_at < at || is_latest && visible_at == at
        });
        let (mut left, mut taken) = (Vec::new(), Vec::new());
        for mut event in visible {
            let takes_back = event.values[flag] == Value::Bool(true);
            event.values[flag] = Value::Null;
            let event_time = event.stamp.event_time;
            event.stamp = Stamp { event_time, known_at: event_time, seq: 0 };
            if takes_back { taken.push(event) } else { left.push(event) }
        }
        for event in taken {
            let place = left.iter().position(|other| *other == event)?;
            left.remove(place);
        }
        Some(left)
    }

    pub(crate) fn read(&self, at: Micros) -> (Vec<Answer>, Option<Micros>) {
        match &self.view.definition.kind {
            ViewKind::Latest(features) => {
                let seen = self.events.iter().filter(|e| e.stamp.event_time.max(e.stamp.known_at) <= at);
                let Some(row) = seen.max_by_key(|e| (e.stamp, e.values.clone())) else {
                    return (vec![(Value::Null, ValueStatus::Missing); features.len()], None);
                };
                let event_time = Some(row.stamp.event_time);
                if at - row.stamp.event_time > self.view.definition.hard_ttl {
                    return (vec![(Value::Null, ValueStatus::Expired); features.len()], event_time);
                }
                let value = |column: &str| match &row.values[self.view.column(column)] {
                    Value::Float64(v) if v.is_nan() => NULL,
                    Value::Float32(v) if v.is_nan() => NULL,
                    Value::Null => NULL,
                    other => fresh(other.clone()),
                };
                (features.iter().map(|f| value(&f.column)).collect(), event_time)
            }
            ViewKind::Windows(features) => (features.iter().map(|f| self.window(f, at)).collect(), None),
        }
    }

    fn window(&self, feature: &WindowFeature, at: Micros) -> Answer {
        let low = feature.window.map(|length| {
            let tail = at - length;
            tail - tail.rem_euclid(feature.hop)
        });
        let mut inside: Vec<&Event> = self.events.iter().collect();
        inside.retain(|e| e.stamp.event_time < at && e.stamp.known_at < at);
        inside.retain(|e| low.is_none_or(|low| e.stamp.event_time >= low));
        if let Some(sql) = &feature.filter {
            inside.retain(|e| e.values[self.view.predicate(sql)] == Value::Bool(true));
        }
        let column = feature.column.as_deref().map(|column| self.view.column(column));
        inside.sort_by_key(|e| (e.stamp, column.map(|column| &e.values[column])));
        if let Some(column) = column {
            inside.retain(|e| !e.values[column].is_null_or_nan());
        }
        let Some(group) = &feature.group_by else { return aggregate(&feature.function, &inside, column, at) };
        let group = self.view.column(group);
        let mut groups: BTreeMap<Value, Vec<&Event>> = BTreeMap::new();
        for event in inside.into_iter().filter(|e| !e.values[group].is_null_or_nan()) {
            groups.entry(one_zero(&event.values[group])).or_default().push(event);
        }
        let mut pairs = Vec::new();
        for (group, events) in groups {
            let (value, status) = aggregate(&feature.function, &events, column, at);
            if matches!(status, ValueStatus::Overflow | ValueStatus::OverCap) {
                return (Value::Null, status);
            }
            pairs.push((group, value));
        }
        fresh(Value::Map(pairs.into()))
    }
}

fn aggregate(function: &F, inside: &[&Event], column: Option<usize>, at: Micros) -> Answer {
    let values: Vec<&Value> =
        column.map(|c| inside.iter().map(|e| &e.values[c]).collect()).unwrap_or_default();
    let integers = || values.iter().all(|v| matches!(v, Value::Int32(_) | Value::Int64(_)));
    let whole = |v: &Value| match v {
        Value::Int32(v) => i128::from(*v),
        Value::Int64(v) => i128::from(*v),
        other => unreachable!("{other:?}"),
    };
    let list = |n: u32, values: Vec<&Value>| {
        fresh(Value::List(values.into_iter().take(n as usize).cloned().collect()))
    };
    match function {
        F::Count => fresh(Value::Int64(inside.len() as i64)),
        F::SecondsSinceLast => or_null(inside.last().map(|e| {
            // Far less than 2^53 microseconds in these tests.
            Value::Float64((at - e.stamp.event_time) as f64 / 1e6)
        })),
        F::Sum if values.is_empty() => NULL,
        F::Sum if integers() => match i64::try_from(values.iter().map(|v| whole(v)).sum::<i128>()) {
            Ok(sum) => fresh(Value::Int64(sum)),
            Err(_) => (Value::Null, ValueStatus::Overflow),
        },
        F::Mean if values.is_empty() => NULL,
        F::Mean if integers() => {
            let sum = values.iter().map(|v| whole(v)).sum::<i128>();
            fresh(Value::Float64(sum as f64 / values.len() as f64))
        }
        F::Sum | F::Mean => {
            // Exact: eighths below 2^13, or infinities. `+ 0.0` as a sum of negative zeros is zero.
            let sum = values.iter().map(|v| number(v)).sum::<f64>() + 0.0;
            let value = if *function == F::Sum { sum } else { sum / values.len() as f64 };
            or_null((!value.is_nan()).then_some(Value::Float64(value)))
        }
        F::Variance => or_null(variance(&values).map(Value::Float64)),
        F::Stddev => or_null(variance(&values).map(|v| Value::Float64(v.sqrt()))),
        F::Min => or_null(values.iter().map(|v| one_zero(v)).min()),
        F::Max => or_null(values.iter().map(|v| one_zero(v)).max()),
        F::First => or_null(values.first().map(|v| (*v).clone())),
        F::Last => or_null(values.last().map(|v| (*v).clone())),
        F::FirstN(n) => list(*n, values),
        F::LastN(n) => list(*n, values.into_iter().rev().collect()),
        F::CountDistinct { cap } | F::TopN { cap, .. } | F::ValueCounts { cap } => {
            let mut counts: BTreeMap<Value, i64> = BTreeMap::new();
            values.iter().for_each(|v| *counts.entry(one_zero(v)).or_default() += 1);
            if counts.len() > *cap as usize {
                return (Value::Null, ValueStatus::OverCap);
            }
            let distinct = counts.len() as i64;
            let mut pairs: Vec<(Value, i64)> = counts.into_iter().collect();
            pairs.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            match function {
                F::CountDistinct { .. } => fresh(Value::Int64(distinct)),
                F::TopN { n, .. } => list(*n, pairs.iter().map(|(value, _)| value).collect()),
                _ => fresh(Value::Map(pairs.into_iter().map(|(v, n)| (v, Value::Int64(n))).collect())),
            }
        }
        // The two sketches: the exact answer; the comparison allows for their error.
        F::ApproxCountDistinct { .. } => {
            let distinct: std::collections::BTreeSet<Value> = values.iter().map(|v| one_zero(v)).collect();
            fresh(Value::Int64(distinct.len() as i64))
        }
        F::ApproxQuantile { q, .. } => {
            let mut numbers: Vec<f64> = values.iter().map(|v| number(v)).collect();
            numbers.sort_by(f64::total_cmp);
            let rank = (q * numbers.len().saturating_sub(1) as f64) as usize;
            or_null(numbers.get(rank).map(|v| Value::Float64(*v)))
        }
    }
}

/// From integer power sums; floats are whole eighths.
fn variance(values: &[&Value]) -> Option<f64> {
    let numbers: Vec<f64> = values.iter().map(|v| number(v)).collect();
    if numbers.len() < 2 || numbers.iter().any(|v| v.is_infinite()) {
        return None;
    }
    let n = numbers.len() as i128;
    let whole = |v: &&Value| match v {
        Value::Int64(v) => (i128::from(*v), 1.0),
        Value::Int32(v) => (i128::from(*v), 1.0),
        other => ((number(other) * 8.0) as i128, 64.0),
    };
    let unit = whole(&values[0]).1;
    let big = |v: &&Value| num_bigint::BigInt::from(whole(v).0);
    let sum: num_bigint::BigInt = values.iter().map(big).sum();
    let squares: num_bigint::BigInt = values.iter().map(|v| big(v).pow(2)).sum();
    let numerator = squares * n - &sum * &sum;
    let denominator = n * (n - 1);
    // Rounded once when the numerator is below 2^53; beyond, the comparison allows for a second rounding.
    let numerator: f64 = numerator.to_string().parse().unwrap();
    Some(numerator / denominator as f64 / unit)
}

pub(crate) fn assert_same(got: &Value, expected: &Value, function: Option<&F>, what: &str) {
    let is_close = match (function, got, expected) {
        (Some(F::ApproxCountDistinct { precision }), Value::Int64(a), Value::Int64(b)) => {
            // Few values: collisions in the registers only.
            (a - b).abs() <= if *precision >= 14 { 2 } else { 4 + b }
        }
        (Some(F::ApproxQuantile { alpha, .. }), Value::Float64(a), Value::Float64(b)) => {
            a == b || (a - b).abs() <= alpha * b.abs()
        }
        (Some(F::Variance | F::Stddev), Value::Float64(a), Value::Float64(b)) => {
            (a - b).abs() <= 4.0 * f64::EPSILON * b.abs()
        }
        (Some(_), Value::Map(a), Value::Map(b)) if a.len() == b.len() => {
            for ((group, value), (other_group, other)) in a.iter().zip(b.iter()) {
                assert_eq!(group, other_group, "{what}");
                assert_same(value, other, function, what);
            }
            true
        }
        _ => false,
    };
    assert!(is_close || got == expected, "{what}: got {got:?}, expected {expected:?}");
}
