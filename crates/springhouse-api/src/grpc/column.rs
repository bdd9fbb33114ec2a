//! Columns of the contract from values of serving, and back.

use super::v1;
use super::v1::column::Kind;
use crate::text::{format_decimal, parse_date, parse_decimal, parse_timestamp};
use serde::de::IgnoredAny;
use springhouse_core::{Value, ValueType};

/// Values of `value_type` as a column.
pub(super) fn column<'v>(
    values: impl ExactSizeIterator<Item = &'v Value> + Clone,
    value_type: &ValueType,
) -> v1::Column {
    let mut nulls = Vec::new();
    macro_rules! plain {
        ($kind:ident, $pattern:pat => $value:expr) => {{
            let one = |(row, value): (usize, &'v Value)| match value {
                $pattern => $value,
                _ => {
                    nulls.push(number(row));
                    Default::default()
                }
            };
            Kind::$kind(v1::$kind { values: values.enumerate().map(one).collect() })
        }};
    }
    let kind = match value_type {
        ValueType::Bool => plain!(Bools, Value::Bool(v) => *v),
        ValueType::Int32 => plain!(Integers, Value::Int32(v) => i64::from(*v)),
        ValueType::Int64 => plain!(Integers, Value::Int64(v) => *v),
        ValueType::Float32 => plain!(Floats, Value::Float32(v) => *v),
        ValueType::Float64 => plain!(Doubles, Value::Float64(v) => *v),
        ValueType::String | ValueType::Json => plain!(Strings, Value::String(v) => v.to_string()),
        ValueType::Decimal { .. } => {
            plain!(Strings, Value::Decimal(unscaled, scale) => format_decimal(*unscaled, *scale))
        }
        ValueType::Bytes => plain!(Blobs, Value::Bytes(v) => v.to_vec()),
        ValueType::Timestamp => plain!(Timestamps, Value::Timestamp(v) => *v),
        ValueType::Date => plain!(Dates, Value::Date(v) => *v),
        ValueType::List(inner) => {
            let mut items = Vec::new();
            let lengths = lengths(values, &mut nulls, |value| match value {
                Value::List(list) => {
                    items.extend(list.iter());
                    Some(list.len())
                }
                _ => None,
            });
            Kind::Lists(Box::new(v1::Lists {
                lengths,
                items: Some(Box::new(column(items.into_iter(), inner))),
            }))
        }
        ValueType::Vector(_) => {
            let mut floats = Vec::new();
            let lengths = lengths(values, &mut nulls, |value| match value {
                Value::Vector(vector) => {
                    floats.extend_from_slice(vector);
                    Some(vector.len())
                }
                _ => None,
            });
            let items =
                v1::Column { kind: Some(Kind::Floats(v1::Floats { values: floats })), nulls: Vec::new() };
            Kind::Lists(Box::new(v1::Lists { lengths, items: Some(Box::new(items)) }))
        }
        ValueType::Map(key_type, item_type) => {
            let (mut keys, mut items) = (Vec::new(), Vec::new());
            let lengths = lengths(values, &mut nulls, |value| match value {
                Value::Map(entries) => {
                    keys.extend(entries.iter().map(|(key, _)| key));
                    items.extend(entries.iter().map(|(_, item)| item));
                    Some(entries.len())
                }
                _ => None,
            });
            Kind::Maps(Box::new(v1::Maps {
                lengths,
                keys: Some(Box::new(column(keys.into_iter(), key_type))),
                items: Some(Box::new(column(items.into_iter(), item_type))),
            }))
        }
    };
    v1::Column { kind: Some(kind), nulls }
}

fn lengths<'v>(
    values: impl Iterator<Item = &'v Value>,
    nulls: &mut Vec<u32>,
    mut length: impl FnMut(&'v Value) -> Option<usize>,
) -> Vec<u32> {
    let one = |(row, value)| {
        number(length(value).unwrap_or_else(|| {
            nulls.push(number(row));
            0
        }))
    };
    values.enumerate().map(one).collect()
}

/// Rows and items of one message: a message is smaller than 4 GiB.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Why a column has no values of the declared type, without a value (it may be personal).
pub(super) type Reason = String;

/// A column's values, as `value_type`.
///
/// Numbers go into every type of number that holds them; timestamps, dates and decimals may come as text.
pub(super) fn values(column: v1::Column, value_type: &ValueType) -> Result<Vec<Value>, Reason> {
    let kind = column.kind.ok_or("it has no values")?;
    // `None` does not fit; where the row is null, that is all right.
    let mut values: Vec<Option<Value>> = match (value_type, kind) {
        (ValueType::Bool, Kind::Bools(v)) => all(v.values, |v| Some(Value::Bool(v))),
        (ValueType::Int32, Kind::Integers(v)) => all(v.values, |v| i32::try_from(v).ok().map(Value::Int32)),
        (ValueType::Int64, Kind::Integers(v)) => all(v.values, |v| Some(Value::Int64(v))),
        (ValueType::Float32, Kind::Floats(v)) => all(v.values, |v| Some(Value::Float32(v))),
        (ValueType::Float32, Kind::Doubles(v)) => all(v.values, |v| Some(Value::Float32(v as f32))),
        (ValueType::Float32, Kind::Integers(v)) => all(v.values, |v| Some(Value::Float32(v as f32))),
        (ValueType::Float64, Kind::Doubles(v)) => all(v.values, |v| Some(Value::Float64(v))),
        (ValueType::Float64, Kind::Floats(v)) => all(v.values, |v| Some(Value::Float64(f64::from(v)))),
        (ValueType::Float64, Kind::Integers(v)) => all(v.values, |v| Some(Value::Float64(v as f64))),
        (ValueType::String, Kind::Strings(v)) => all(v.values, |v| Some(Value::string(v))),
        (ValueType::Json, Kind::Strings(v)) => {
            all(v.values, |v| serde_json::from_str::<IgnoredAny>(&v).ok().map(|_| Value::string(v)))
        }
        (ValueType::Decimal { precision, scale }, Kind::Strings(v)) => all(v.values, |v| {
            parse_decimal(&v, *precision, *scale).map(|unscaled| Value::Decimal(unscaled, *scale))
        }),
        (ValueType::Bytes, Kind::Blobs(v)) => all(v.values, |v| Some(Value::Bytes(v.into()))),
        (ValueType::Timestamp, Kind::Timestamps(v)) => all(v.values, |v| Some(Value::Timestamp(v))),
        (ValueType::Timestamp, Kind::Strings(v)) => {
            all(v.values, |v| parse_timestamp(&v).map(Value::Timestamp))
        }
        (ValueType::Date, Kind::Dates(v)) => all(v.values, |v| Some(Value::Date(v))),
        (ValueType::Date, Kind::Strings(v)) => all(v.values, |v| parse_date(&v).map(Value::Date)),
        (ValueType::List(inner), Kind::Lists(v)) => {
            let items = items(v.items, inner)?;
            pieces(&v.lengths, items.len())?.map(|range| Some(Value::List(items[range].into()))).collect()
        }
        (ValueType::Vector(dimension), Kind::Lists(v)) => {
            let items: Vec<f32> = match v.items.and_then(|column| column.kind) {
                Some(Kind::Floats(v)) => v.values,
                Some(Kind::Doubles(v)) => v.values.into_iter().map(|v| v as f32).collect(),
                _ => return Err(expected(value_type)),
            };
            let one = |range: std::ops::Range<usize>| {
                (range.len() == *dimension as usize).then(|| Value::Vector(items[range].into()))
            };
            pieces(&v.lengths, items.len())?.map(one).collect()
        }
        (ValueType::Map(key_type, item_type), Kind::Maps(v)) => {
            let (keys, items) = (items(v.keys, key_type)?, items(v.items, item_type)?);
            if keys.len() != items.len() {
                return Err("it has not as many keys as items".to_owned());
            }
            let pairs: Vec<_> = keys.into_iter().zip(items).collect();
            pieces(&v.lengths, pairs.len())?.map(|range| Some(Value::Map(pairs[range].into()))).collect()
        }
        _ => return Err(expected(value_type)),
    };
    for row in column.nulls {
        *values.get_mut(row as usize).ok_or("it has a null behind its last row")? = Some(Value::Null);
    }
    values.into_iter().collect::<Option<_>>().ok_or_else(|| expected(value_type))
}

fn expected(value_type: &ValueType) -> Reason {
    format!("expected values of {value_type}")
}

fn all<T>(values: Vec<T>, convert: impl Fn(T) -> Option<Value>) -> Vec<Option<Value>> {
    values.into_iter().map(convert).collect()
}

fn items(column: Option<Box<v1::Column>>, value_type: &ValueType) -> Result<Vec<Value>, Reason> {
    column.map_or(Ok(Vec::new()), |column| values(*column, value_type))
}

/// Where the items of each row are.
fn pieces(
    lengths: &[u32],
    items: usize,
) -> Result<impl Iterator<Item = std::ops::Range<usize>> + '_, Reason> {
    if lengths.iter().map(|length| *length as usize).sum::<usize>() != items {
        return Err("the lengths of its rows are not those of its items".to_owned());
    }
    let next = |end: &mut usize, length: &u32| {
        let start = *end;
        *end += *length as usize;
        Some(start..*end)
    };
    Ok(lengths.iter().scan(0, next))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::grpc) fn scalar(value_type: &ValueType) -> BoxedStrategy<Value> {
        let value = match value_type {
            ValueType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
            ValueType::Int32 => any::<i32>().prop_map(Value::Int32).boxed(),
            ValueType::Int64 => any::<i64>().prop_map(Value::Int64).boxed(),
            ValueType::Float32 => any::<u32>().prop_map(|v| Value::Float32(f32::from_bits(v))).boxed(),
            ValueType::Float64 => any::<u64>().prop_map(|v| Value::Float64(f64::from_bits(v))).boxed(),
            ValueType::String => ".{0,9}".prop_map(Value::string).boxed(),
            ValueType::Json => Just(Value::string(r#"{"a":[1,null]}"#)).boxed(),
            ValueType::Bytes => {
                prop::collection::vec(any::<u8>(), 0..9).prop_map(|v| Value::Bytes(v.into())).boxed()
            }
            ValueType::Timestamp => any::<i64>().prop_map(Value::Timestamp).boxed(),
            ValueType::Date => any::<i32>().prop_map(Value::Date).boxed(),
            ValueType::Decimal { scale, .. } => {
                let scale = *scale;
                any::<i64>().prop_map(move |v| Value::Decimal(v.into(), scale)).boxed()
            }
            ValueType::Vector(n) => prop::collection::vec(any::<u32>().prop_map(f32::from_bits), *n as usize)
                .prop_map(|v| Value::Vector(v.into()))
                .boxed(),
            ValueType::List(inner) => {
                prop::collection::vec(scalar(inner), 0..4).prop_map(|v| Value::List(v.into())).boxed()
            }
            ValueType::Map(key, item) => prop::collection::vec((scalar(key), scalar(item)), 0..4)
                .prop_map(|v| Value::Map(v.into()))
                .boxed(),
        };
        prop_oneof![1 => Just(Value::Null), 4 => value].boxed()
    }

    pub(in crate::grpc) const TYPES: [&str; 14] = [
        "bool",
        "int32",
        "int64",
        "float32",
        "float64",
        "string",
        "json",
        "bytes",
        "timestamp",
        "date",
        "decimal(20,4)",
        "list<decimal(38,2)>",
        "vector<3>",
        "map<string,int64>",
    ];

    fn typed() -> impl Strategy<Value = (ValueType, Vec<Value>)> {
        prop::sample::select(TYPES.as_slice()).prop_flat_map(|name| {
            let value_type: ValueType = name.parse().unwrap();
            let values = prop::collection::vec(scalar(&value_type), 0..12);
            (Just(value_type), values)
        })
    }

    proptest! {
        #[test]
        fn every_column_comes_back_to_the_last_bit((value_type, given) in typed()) {
            let sent = prost::Message::encode_to_vec(&column(given.iter(), &value_type));
            let received = <v1::Column as prost::Message>::decode(sent.as_slice()).unwrap();
            prop_assert_eq!(values(received, &value_type).unwrap(), given);
        }

        /// Whatever a message says of itself, it becomes values or a reason.
        #[test]
        fn no_column_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..64), name in prop::sample::select(TYPES.as_slice())) {
            if let Ok(column) = <v1::Column as prost::Message>::decode(bytes.as_slice()) {
                let _ = values(column, &name.parse().unwrap());
            }
        }
    }

    #[test]
    fn columns_that_do_not_fit_say_why() {
        let integers = |values: &[i64], nulls: &[u32]| v1::Column {
            kind: Some(Kind::Integers(v1::Integers { values: values.to_vec() })),
            nulls: nulls.to_vec(),
        };
        let lists = |lengths: &[u32]| v1::Column {
            kind: Some(Kind::Lists(Box::new(v1::Lists {
                lengths: lengths.to_vec(),
                items: Some(Box::new(integers(&[1, 2, 3], &[]))),
            }))),
            nulls: Vec::new(),
        };
        let said =
            |column: v1::Column, value_type: &str| values(column, &value_type.parse().unwrap()).unwrap_err();
        assert_eq!(said(integers(&[1 << 40], &[]), "int32"), "expected values of int32");
        assert_eq!(said(integers(&[1], &[]), "string"), "expected values of string");
        assert_eq!(said(integers(&[1], &[1]), "int64"), "it has a null behind its last row");
        assert_eq!(said(v1::Column::default(), "int64"), "it has no values");
        for lengths in [&[1u32, 1][..], &[4], &[u32::MAX, u32::MAX]] {
            assert_eq!(
                said(lists(lengths), "list<int64>"),
                "the lengths of its rows are not those of its items"
            );
        }
        assert_eq!(said(lists(&[3]), "list<string>"), "expected values of string");
        assert_eq!(said(lists(&[3]), "vector<3>"), "expected values of vector<3>");
    }
}
