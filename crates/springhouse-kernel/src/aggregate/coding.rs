//! Bytes of aggregate states: one spelling per state.

use super::{Floats, Groups, Integers, Kind, Slot, State};
use crate::codec::{Out, Reader, put_bytes, put_number, put_signed, put_value, put_wide};
use crate::exact::ExactSum;
use crate::sketch::{DistinctSketch, QuantileSketch};
use crate::stamp::{put_stamp, take_stamp};
use crate::{CodecError, Stamp};
use springhouse_core::Value;
use std::collections::BTreeMap;

type Taken<T> = Result<T, CodecError>;

const MALFORMED: CodecError = CodecError::Malformed("an aggregate's state can't be");

/// Leads every state that may be over its cap.
const WITHIN_CAP: u8 = 0;
const OVER_CAP: u8 = 1;

fn put_sum(out: &mut Out, sum: &ExactSum) {
    let (zeros, bytes) = sum.to_bytes();
    put_number(out, zeros as u64);
    put_bytes(out, &bytes);
}

fn take_sum(reader: &mut Reader<'_>) -> Taken<ExactSum> {
    let zeros = usize::try_from(reader.number()?).ok().filter(|zeros| *zeros < 1024).ok_or(MALFORMED)?;
    ExactSum::from_bytes(zeros, reader.bytes()?).ok_or(MALFORMED)
}

impl Slot {
    /// Appends a state of this slot.
    pub(crate) fn encode(&self, state: &State, out: &mut Out) {
        if self.group.is_none() {
            return self.kind.encode(state, out);
        }
        let State::Grouped(groups) = state else { return out.push(OVER_CAP) };
        out.push(WITHIN_CAP);
        put_number(out, groups.states.len() as u64);
        for (group, state) in &groups.states {
            put_value(out, group);
            self.kind.encode(state, out);
        }
    }

    /// Reads a state of this slot.
    pub(crate) fn decode(&self, reader: &mut Reader<'_>) -> Taken<State> {
        let Some((_, cap)) = self.group else { return self.kind.decode(reader) };
        if is_over_cap(reader)? {
            return Ok(State::OverCap);
        }
        let length = reader.length(2)?;
        let mut states = BTreeMap::new();
        for _ in 0..length {
            let group = reader.value()?;
            ascending(states.last_key_value().map(|(last, _)| last), &group)?;
            let state = self.kind.decode(reader)?;
            if state.is_empty() {
                return Err(MALFORMED);
            }
            states.insert(group, state);
        }
        if states.len() > cap && !self.takes_back {
            return Err(MALFORMED);
        }
        Ok(State::Grouped(Box::new(Groups { states })))
    }
}

fn is_over_cap(reader: &mut Reader<'_>) -> Taken<bool> {
    match reader.byte()? {
        WITHIN_CAP => Ok(false),
        OVER_CAP => Ok(true),
        _ => Err(MALFORMED),
    }
}

fn ascending<T: Ord>(last: Option<&T>, next: &T) -> Taken<()> {
    if last.is_none_or(|last| last < next) { Ok(()) } else { Err(MALFORMED) }
}

impl Kind {
    fn encode(&self, state: &State, out: &mut Out) {
        let has_cap = matches!(self, Self::Counted { .. } | Self::Quantile { .. });
        if has_cap {
            out.push(if *state == State::OverCap { OVER_CAP } else { WITHIN_CAP });
        }
        match state {
            State::OverCap => {}
            State::Count(count) => put_number(out, *count),
            State::Integers(sums) => {
                put_number(out, sums.count);
                put_wide(out, sums.sum);
                sums.squares.iter().for_each(|squares| put_sum(out, squares));
            }
            State::Floats(sums) => {
                put_number(out, sums.count);
                sums.infinite.iter().for_each(|count| put_number(out, *count));
                put_sum(out, &sums.sum);
                sums.squares.iter().for_each(|squares| put_sum(out, squares));
            }
            State::Extreme(held) => put_value(out, held.as_ref().unwrap_or(&Value::Null)),
            State::Picked(picked) => {
                put_number(out, picked.len() as u64);
                for (stamp, value) in picked {
                    put_stamp(out, stamp);
                    put_value(out, value);
                }
            }
            State::Counted(counts) => {
                put_number(out, counts.len() as u64);
                for (value, count) in counts {
                    put_value(out, value);
                    put_number(out, *count);
                }
            }
            State::Distinct(sketch) => put_registers(out, &sketch.registers()),
            State::Quantile(sketch) => {
                put_number(out, sketch.zero);
                put_buckets(out, &sketch.negative);
                put_buckets(out, &sketch.positive);
            }
            State::NewestTime(newest) => {
                out.push(u8::from(newest.is_some()));
                newest.iter().for_each(|time| put_signed(out, *time));
            }
            State::Kept(kept) => {
                put_number(out, kept.len() as u64);
                for ((event_time, value), times) in kept {
                    put_signed(out, *event_time);
                    put_value(out, value);
                    put_signed(out, *times);
                }
            }
            State::Grouped(_) => unreachable!("groups hold plain states"),
        }
    }

    fn decode(&self, reader: &mut Reader<'_>) -> Taken<State> {
        Ok(match self {
            Self::Count => State::Count(reader.number()?),
            Self::Integers { squares } => {
                let (count, sum) = (reader.number()?, reader.wide()?);
                let squares = squares.then(|| take_sum(reader).map(Box::new)).transpose()?;
                State::Integers(Box::new(Integers { count, sum, squares }))
            }
            Self::Floats { squares } => {
                let count = reader.number()?;
                let infinite = [reader.number()?, reader.number()?];
                let sum = take_sum(reader)?;
                let squares = squares.then(|| take_sum(reader).map(Box::new)).transpose()?;
                State::Floats(Box::new(Floats { count, infinite, sum, squares }))
            }
            Self::Least | Self::Greatest => {
                let value = reader.value()?;
                State::Extreme((!value.is_null()).then_some(value))
            }
            Self::Oldest { n } | Self::Newest { n } => State::Picked(self.take_picked(*n, reader)?),
            Self::Counted { cap } => {
                if is_over_cap(reader)? {
                    return Ok(State::OverCap);
                }
                let length = reader.length(2)?;
                let mut counts = BTreeMap::new();
                for _ in 0..length {
                    let (value, count) = (reader.value()?, reader.number()?);
                    ascending(counts.last_key_value().map(|(last, _)| last), &value)?;
                    counts.insert(value, count);
                }
                if counts.len() > *cap || counts.values().any(|count| *count == 0) {
                    return Err(MALFORMED);
                }
                State::Counted(counts)
            }
            Self::Distinct { precision } => {
                let sketch = DistinctSketch::from_registers(take_registers(reader)?, *precision);
                State::Distinct(Box::new(sketch.ok_or(MALFORMED)?))
            }
            Self::Quantile { cap, .. } => {
                if is_over_cap(reader)? {
                    return Ok(State::OverCap);
                }
                let zero = reader.number()?;
                let (negative, positive) = (take_buckets(reader)?, take_buckets(reader)?);
                let sketch = QuantileSketch { negative, zero, positive };
                if sketch.buckets() > *cap {
                    return Err(MALFORMED);
                }
                State::Quantile(Box::new(sketch))
            }
            Self::NewestTime => match reader.byte()? {
                0 => State::NewestTime(None),
                1 => State::NewestTime(Some(reader.signed()?)),
                _ => return Err(MALFORMED),
            },
            Self::Kept => {
                let length = reader.length(3)?;
                let mut kept = BTreeMap::new();
                for _ in 0..length {
                    let event = (reader.signed()?, reader.value()?);
                    ascending(kept.last_key_value().map(|(last, _)| last), &event)?;
                    match reader.signed()? {
                        0 => return Err(MALFORMED),
                        times => kept.insert(event, times),
                    };
                }
                State::Kept(kept)
            }
        })
    }

    fn take_picked(&self, n: usize, reader: &mut Reader<'_>) -> Taken<Vec<(Stamp, Value)>> {
        let length = reader.length(4)?;
        let mut picked: Vec<(Stamp, Value)> = Vec::with_capacity(length.min(n));
        for _ in 0..length {
            let next = (take_stamp(reader)?, reader.value()?);
            let in_order = picked.last().is_none_or(|last| match self {
                Self::Oldest { .. } => *last <= next,
                _ => *last >= next,
            });
            if !in_order || picked.len() == n {
                return Err(MALFORMED);
            }
            picked.push(next);
        }
        Ok(picked)
    }
}

fn put_registers(out: &mut Out, registers: &[(u16, u8)]) {
    put_number(out, registers.len() as u64);
    let mut next = 0u64;
    for (register, rank) in registers {
        put_number(out, u64::from(*register) - next);
        out.push(*rank);
        next = u64::from(*register) + 1;
    }
}

fn take_registers(reader: &mut Reader<'_>) -> Taken<Vec<(u16, u8)>> {
    let length = reader.length(2)?;
    let mut registers = Vec::with_capacity(length);
    let mut next = 0u64;
    for _ in 0..length {
        let register = reader.number()?.checked_add(next).ok_or(MALFORMED)?;
        let number = u16::try_from(register).map_err(|_| MALFORMED)?;
        registers.push((number, reader.byte()?));
        next = register + 1;
    }
    Ok(registers)
}

fn put_buckets(out: &mut Out, buckets: &BTreeMap<i32, u64>) {
    put_number(out, buckets.len() as u64);
    let mut last = 0i64;
    for (bucket, count) in buckets {
        put_signed(out, i64::from(*bucket) - last);
        put_number(out, *count);
        last = i64::from(*bucket);
    }
}

fn take_buckets(reader: &mut Reader<'_>) -> Taken<BTreeMap<i32, u64>> {
    let length = reader.length(2)?;
    let mut buckets = BTreeMap::new();
    let mut last = 0i64;
    for _ in 0..length {
        let bucket = reader.signed()?.checked_add(last).ok_or(MALFORMED)?;
        let number = i32::try_from(bucket).map_err(|_| MALFORMED)?;
        ascending(buckets.last_key_value().map(|(last, _)| last), &number)?;
        let count = reader.number()?;
        if count == 0 {
            return Err(MALFORMED);
        }
        buckets.insert(number, count);
        last = bucket;
    }
    Ok(buckets)
}
