//! An answer as the bytes of a `GetFeaturesResponse`, without a message in between: for one entity the message's own
//! allocations would be most of what the answer costs. The tests compare with the message, byte for byte.

use super::answer::{level, origin, status};
use super::column::column;
use super::v1;
use crate::openings::{Opening, openings};
use crate::write::is_like_before;
use prost::Message;
use prost::encoding::{WireType, encode_varint, encoded_len_varint};
use springhouse_core::{Value, ValueType};
use springhouse_serving::{FeatureAnswer, FeatureColumn, FeatureHead};
use std::ops::Range;

/// Appends the answer, saying as much as `detail` asks for.
pub(super) fn answer(out: &mut Vec<u8>, from: &FeatureAnswer, detail: v1::Detail) {
    out.reserve(estimate(from, detail));
    if from.at != 0 {
        key(out, 1, WireType::SixtyFourBit);
        out.extend_from_slice(&from.at.to_le_bytes());
    }
    varint(out, 2, level(from.level) as u64);
    text(out, 3, &from.head.definition_hash);
    varint(out, 4, from.row_count as u64);
    let full = detail == v1::Detail::Full;
    let mut before = 0..0;
    for (place, opening) in openings(&from.head).iter().enumerate() {
        let alike = (place > 0 && is_like_before(from, place, full)).then_some(before);
        let mut length = 0;
        nested(out, 5, |out| length = feature(out, from, place, opening, detail, alike));
        // It ends the feature, wherever that was moved.
        before = out.len() - length..out.len();
    }
    if full {
        for (view, cut) in from.positions() {
            let position = v1::Position { view: view.to_owned(), cut };
            prost::encoding::message::encode(6, &position, out);
        }
    }
}

/// About as many bytes as the answer has, so that it seldom grows.
fn estimate(from: &FeatureAnswer, detail: v1::Detail) -> usize {
    let value = match detail {
        v1::Detail::Values => 10,
        v1::Detail::Full => 30,
        _ => 18,
    };
    let heads = from.head.features.iter().map(|head| 24 + head.name.len() + head.type_name.len());
    128 + heads.sum::<usize>() + from.head.features.len() * from.row_count * value
}

/// The fields of a feature's name and type, and where the name ends.
pub(crate) fn name_and_type(feature: &FeatureHead) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    text(&mut out, 1, &feature.name);
    let name_end = out.len();
    text(&mut out, 2, &feature.type_name);
    (out, name_end)
}

/// Appends the feature at a place; says how many of its last bytes are about its values. Those of the feature before are copied where
/// they are `alike`, as features of one row mostly have them.
fn feature(
    out: &mut Vec<u8>,
    from: &FeatureAnswer,
    place: usize,
    opening: &Opening,
    detail: v1::Detail,
    alike: Option<Range<usize>>,
) -> usize {
    let has_type = detail != v1::Detail::Values;
    let end = if has_type { opening.message.len() } else { opening.message_name_end };
    out.extend_from_slice(&opening.message[..end]);
    nested(out, 3, |out| values(out, from.values_of(place), &from.head.features[place].value_type));
    let start = out.len();
    match alike {
        Some(written) => out.extend_from_within(written),
        None => metadata(out, &from.column(place), detail),
    }
    out.len() - start
}

fn metadata(out: &mut Vec<u8>, from: &FeatureColumn<'_>, detail: v1::Detail) {
    if detail != v1::Detail::Values {
        packed(out, 4, from.statuses.iter().map(|value| status(*value) as u64));
        packed(out, 5, from.ages.iter().map(|age| zigzag(age.unwrap_or(-1))));
    }
    if detail == v1::Detail::Full {
        let times: Vec<_> =
            from.event_times.iter().map(|at| at.map_or(Value::Null, Value::Timestamp)).collect();
        nested(out, 6, |out| values(out, &times, &ValueType::Timestamp));
        packed(out, 7, from.origins.iter().map(|value| origin(*value) as u64));
    }
}

/// A column of these values.
fn values(out: &mut Vec<u8>, values: &[Value], value_type: &ValueType) {
    // In proto3 an empty list has no bytes, but the kind that holds it has.
    macro_rules! fixed {
        ($tag:literal, $width:literal, $pattern:pat => $value:expr) => {
            nested(out, $tag, |out| {
                if values.is_empty() {
                    return;
                }
                key(out, 1, WireType::LengthDelimited);
                number(out, $width * values.len() as u64);
                for value in values {
                    match value {
                        $pattern => out.extend_from_slice(&$value.to_le_bytes()),
                        _ => out.extend_from_slice(&[0; $width]),
                    }
                }
            })
        };
    }
    macro_rules! variable {
        ($tag:literal, $pattern:pat => $value:expr) => {
            nested(out, $tag, |out| {
                let numbers = values.iter().map(|value| match value {
                    $pattern => $value,
                    _ => 0,
                });
                packed(out, 1, numbers);
            })
        };
    }
    macro_rules! pieces {
        ($tag:literal, $pattern:pat => $bytes:expr) => {
            nested(out, $tag, |out| {
                for value in values {
                    let bytes: &[u8] = match value {
                        $pattern => $bytes,
                        _ => &[],
                    };
                    piece(out, 1, bytes);
                }
            })
        };
    }
    match value_type {
        ValueType::Bool => variable!(1, Value::Bool(v) => u64::from(*v)),
        ValueType::Int32 => variable!(2, Value::Int32(v) => zigzag(i64::from(*v))),
        ValueType::Int64 => variable!(2, Value::Int64(v) => zigzag(*v)),
        ValueType::Float32 => fixed!(3, 4, Value::Float32(v) => v),
        ValueType::Float64 => fixed!(4, 8, Value::Float64(v) => v),
        ValueType::String | ValueType::Json => pieces!(5, Value::String(v) => v.as_bytes()),
        ValueType::Bytes => pieces!(6, Value::Bytes(v) => v),
        ValueType::Timestamp => fixed!(7, 8, Value::Timestamp(v) => v),
        // Rare, or made of others: by way of the message.
        ValueType::Date
        | ValueType::Decimal { .. }
        | ValueType::List(_)
        | ValueType::Vector(_)
        | ValueType::Map(..) => {
            column(values.iter(), value_type).encode(out).expect("a Vec takes every message");
            return;
        }
    }
    let nulls = values.iter().enumerate().filter(|(_, value)| value.is_null()).map(|(row, _)| row as u64);
    packed(out, 15, nulls);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn key(out: &mut Vec<u8>, tag: u32, wire: WireType) {
    number(out, u64::from(tag << 3 | wire as u32));
}

fn number(out: &mut Vec<u8>, value: u64) {
    // Most are lengths of a few bytes, and words.
    if value < 0x80 {
        out.push(value as u8);
    } else {
        encode_varint(value, out);
    }
}

/// A number, unless it is the default.
fn varint(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        key(out, tag, WireType::Varint);
        number(out, value);
    }
}

/// A string, unless it is empty.
fn text(out: &mut Vec<u8>, tag: u32, text: &str) {
    if !text.is_empty() {
        piece(out, tag, text.as_bytes());
    }
}

fn piece(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    key(out, tag, WireType::LengthDelimited);
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What `write` appends, with its length before it: of one byte, as it mostly is; else the content moves.
fn nested(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, tag, WireType::LengthDelimited);
    let start = out.len() + 1;
    out.push(0);
    write(out);
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let more = encoded_len_varint(length as u64) - 1;
    out.resize(out.len() + more, 0);
    out.copy_within(start..start + length, start + more);
    encode_varint(length as u64, &mut &mut out[start - 1..start + more]);
}

/// A packed list, unless it is empty.
fn packed(out: &mut Vec<u8>, tag: u32, values: impl Iterator<Item = u64>) {
    let mut values = values.peekable();
    if values.peek().is_some() {
        nested(out, tag, |out| values.for_each(|value| number(out, value)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::response;
    use super::super::column::tests::{TYPES, scalar};
    use super::*;
    use crate::test_answer::{Column, answer_of};
    use proptest::prelude::*;
    use springhouse_core::ValueStatus;
    use springhouse_serving::Origin;

    fn feature_column(rows: usize) -> impl Strategy<Value = Column> {
        prop::sample::select(TYPES.as_slice()).prop_flat_map(move |name| {
            let value_type: ValueType = name.parse().unwrap();
            let values = prop::collection::vec(scalar(&value_type), rows);
            let statuses = prop::collection::vec(
                prop::sample::select(vec![ValueStatus::Fresh, ValueStatus::Missing, ValueStatus::Denied]),
                rows,
            );
            let times = prop::collection::vec(prop::option::of(any::<i64>()), rows);
            let ages = prop::collection::vec(prop::option::of(0i64..i64::MAX), rows);
            let origins =
                prop::collection::vec(prop::sample::select(vec![Origin::Store, Origin::Computed]), rows);
            let name = prop_oneof![Just(String::new()), "[a-z]{1,9}"];
            (name, values, statuses, ages, times, origins).prop_map(
                move |(name, values, statuses, ages, event_times, origins)| Column {
                    name,
                    value_type: value_type.clone(),
                    values,
                    statuses,
                    ages,
                    event_times,
                    origins,
                },
            )
        })
    }

    fn with_lists_of_the_one_before(mut columns: Vec<Column>, alike: &[[bool; 4]]) -> Vec<Column> {
        for number in 1..columns.len() {
            let (before, after) = columns.split_at_mut(number);
            let (before, column) = (&before[number - 1], &mut after[0]);
            let [statuses, ages, event_times, origins] = alike[number];
            if statuses {
                column.statuses = before.statuses.clone();
            }
            if ages {
                column.ages = before.ages.clone();
            }
            if event_times {
                column.event_times = before.event_times.clone();
            }
            if origins {
                column.origins = before.origins.clone();
            }
        }
        columns
    }

    fn feature_answer() -> impl Strategy<Value = FeatureAnswer> {
        prop_oneof![0usize..4, 100usize..140, Just(3_000)].prop_flat_map(|rows| {
            let columns = prop::collection::vec(feature_column(rows), 0..4);
            let at = prop_oneof![Just(0i64), any::<i64>()];
            let cuts = prop::collection::vec(prop::option::of(any::<i64>()), 4);
            // What a column has in common with the one before.
            let alike = prop::collection::vec(any::<[bool; 4]>(), 4);
            (at, columns, cuts, alike).prop_map(move |(at, columns, mut cuts, alike)| {
                let columns = with_lists_of_the_one_before(columns, &alike);
                cuts.truncate(columns.len());
                FeatureAnswer { at, cuts, ..answer_of(rows, columns) }
            })
        })
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_message(given in feature_answer()) {
            for detail in [v1::Detail::Values, v1::Detail::Status, v1::Detail::Full] {
                let mut out = Vec::new();
                answer(&mut out, &given, detail);
                prop_assert_eq!(out, response(&given, detail).encode_to_vec());
            }
        }
    }
}
