//! What lies behind an answer, as lines for people.

use super::WindowsState;
use crate::Stamp;
use crate::aggregate::{Slot, State};
use crate::plan::{Event, FeatureRead, LatestPlan, Tiling, WindowsPlan, takes_back};
use springhouse_core::definition::AggregateFunction;
use springhouse_core::time::{format_duration, format_instant};
use springhouse_core::{Micros, Value, ValueStatus};

impl LatestPlan {
    /// One block of lines per feature.
    pub(crate) fn explain(&self, row: Option<&Event>, at: Micros) -> Vec<Vec<String>> {
        let Some(row) = row else { return vec![Vec::new(); self.columns.len()] };
        let expired = if self.is_expired(row.stamp.event_time, at) { " (expired)" } else { "" };
        let line = |input: &usize| {
            vec![format!("row {}: {}{expired}", when(&row.stamp), value_text(&row.values[*input]))]
        };
        self.columns.iter().map(line).collect()
    }
}

impl WindowsPlan {
    /// One block of lines per feature.
    pub(crate) fn explain(&self, state: &WindowsState, at: Micros) -> Vec<Vec<String>> {
        self.features.iter().map(|feature| self.explain_feature(feature, state, at)).collect()
    }

    fn explain_feature(&self, feature: &FeatureRead, state: &WindowsState, at: Micros) -> Vec<String> {
        let reader = &self.readers[feature.reader];
        let level = &self.levels[reader.level];
        let index = reader.slots[feature.place];
        let slot = &level.slots[index];
        let covered = reader.covered(level, state, at);
        let from = match reader.window.length {
            None => "the beginning".to_owned(),
            Some(_) => format_instant(covered.bounds.low),
        };
        let mut lines = vec![format!("window from {from} to before {}", format_instant(at))];
        for tile in covered.tiles.iter().filter(|tile| !tile.states[index].is_empty()) {
            let place = match level.tiling {
                Tiling::Lifetime => "lifetime".to_owned(),
                Tiling::Stepped(width) | Tiling::Exact(width) => {
                    format!("tile {} +{}", format_instant(tile.start), format_duration(width))
                }
            };
            lines.push(format!("{place}: {}", state_text(slot, &feature.function, &tile.states[index], at)));
        }
        let line = |event: &Event| event_line(slot, event, takes_back(self.takes_back, &event.values));
        lines.extend(covered.events().filter_map(line));
        lines
    }
}

fn when(stamp: &Stamp) -> String {
    format!("{} known {}", format_instant(stamp.event_time), format_instant(stamp.known_at))
}

fn event_line(slot: &Slot, event: &Event, takes_back: bool) -> Option<String> {
    let taken = slot.taken(|input| &event.values[input])?;
    let (value, group) = (taken.value(), taken.group());
    let group = if slot.group.is_some() { format!(" [{}]", value_text(group)) } else { String::new() };
    let value = if slot.column.is_some() { format!(": {}", value_text(value)) } else { String::new() };
    let what = if takes_back { "taken back" } else { "event" };
    Some(format!("{what} {}{group}{value}", when(&event.stamp)))
}

/// What a tile holds, such as `count=3 sum=12.5`; for states without short parts, the value it would give alone.
fn state_text(slot: &Slot, function: &AggregateFunction, state: &State, at: Micros) -> String {
    let sum = || slot.value(&AggregateFunction::Sum, state, at);
    match state {
        State::Integers(sums) => format!("count={} sum={}", sums.count, sums.sum),
        State::Floats(sums) => format!("count={} sum={}", sums.count, answer_text(sum())),
        _ => format!("{}={}", function.name(), answer_text(slot.value(function, state, at))),
    }
}

fn answer_text((value, status): (Value, ValueStatus)) -> String {
    match status {
        ValueStatus::Fresh => value_text(&value),
        ValueStatus::Overflow => "overflow".to_owned(),
        ValueStatus::OverCap => "over its cap".to_owned(),
        _ => "null".to_owned(),
    }
}

/// A value as people write it.
fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(v) => v.to_string(),
        Value::Int32(v) => v.to_string(),
        Value::Int64(v) => v.to_string(),
        Value::Float32(v) => v.to_string(),
        Value::Float64(v) => v.to_string(),
        Value::String(v) => format!("{v:?}"),
        Value::Bytes(v) => format!("{} bytes", v.len()),
        Value::Timestamp(v) => format_instant(*v),
        Value::Date(v) => {
            let instant = format_instant(i64::from(*v).saturating_mul(springhouse_core::time::DAY));
            instant.split('T').next().unwrap_or_default().to_owned()
        }
        Value::Decimal(v, scale) => decimal_text(*v, *scale),
        Value::List(items) => format!("[{}]", items.iter().map(value_text).collect::<Vec<_>>().join(", ")),
        Value::Vector(items) => format!("a vector of {}", items.len()),
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| format!("{}: {}", value_text(key), value_text(value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

fn decimal_text(unscaled: i128, scale: i8) -> String {
    let digits = usize::try_from(scale).unwrap_or(0);
    let text = format!("{:0>width$}", unscaled.unsigned_abs(), width = digits + 1);
    let (whole, fraction) = text.split_at(text.len() - digits);
    let sign = if unscaled < 0 { "-" } else { "" };
    if digits == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}
