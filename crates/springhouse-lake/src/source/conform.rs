//! A column as a file has it, made the declared type or refused with the reason. Values never change silently: integers
//! widen, texts and dictionaries unfold, timestamps become microseconds UTC; everything else is an error that names the
//! file, the column and both types.

use crate::error::{LakeError, Result};
use crate::source::zone::{TimeText, Zone, parse_time_text};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType, UInt64Type};
use base64::Engine;
use springhouse_core::ValueType;
use springhouse_kernel::arrow_type;
use std::sync::Arc;

/// Where a column comes from, for messages and for naive times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The file's name.
    pub file: &'a str,
    /// The column's name in the file.
    pub column: &'a str,
    /// The zone of timestamps that carry none.
    pub zone: Zone,
    /// How the definition says a zone, for the hint: `time_zone: UTC` or `--time-zone UTC`.
    pub zone_fix: &'a str,
    /// What to call the local times that are no instants: refused, or null (the row is then counted as skipped).
    pub local_time_errors_are_null: bool,
    /// The number of the array's first row in the file; for messages.
    pub first_row: u64,
    /// True when the cells are texts of a CSV file.
    pub text: bool,
}

/// `array` as `arrow_type(declared)`.
pub(crate) fn conform(array: &ArrayRef, declared: &ValueType, place: Place<'_>) -> Result<ArrayRef> {
    let target = arrow_type(declared);
    if array.data_type() == &target {
        return Ok(Arc::clone(array));
    }
    if let DataType::Dictionary(_, inner) = array.data_type() {
        return conform(&cast(array, inner)?, declared, place);
    }
    if place.text && !matches!(declared, ValueType::String | ValueType::Json) {
        return from_text(array.as_string::<i32>(), declared, place);
    }
    let wrong = || wrong_type(array.data_type(), declared, place);
    match (declared, array.data_type()) {
        (_, DataType::Null) => Ok(arrow::array::new_null_array(&target, array.len())),
        (ValueType::Timestamp, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) => {
            timestamps(array, place)
        }
        (ValueType::Int32, DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16) => {
            cast(array, &target)
        }
        (
            ValueType::Int64,
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32,
        ) => cast(array, &target),
        (ValueType::Int64, DataType::UInt64) => {
            let values: &UInt64Array = array.as_primitive::<UInt64Type>();
            match values.iter().position(|v| v.is_some_and(|v| i64::try_from(v).is_err())) {
                None => cast(array, &target),
                Some(row) => Err(wrong()
                    .hint(format!("row {} holds a number beyond int64", place.first_row + row as u64 + 1))),
            }
        }
        (ValueType::Float32, DataType::Float16 | DataType::Int8 | DataType::Int16) => cast(array, &target),
        (
            ValueType::Float64,
            DataType::Float16
            | DataType::Float32
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32,
        ) => cast(array, &target),
        (ValueType::Float64, DataType::Int64) => {
            // Up to 2^53 every integer is a double; beyond it values would change silently.
            let values: &Int64Array = array.as_primitive::<Int64Type>();
            match values.iter().position(|v| v.is_some_and(|v| v.unsigned_abs() > 1 << 53)) {
                None => cast(array, &target),
                Some(row) => Err(wrong().hint(format!(
                    "row {} holds an integer that no float64 equals; declare the column as int64",
                    place.first_row + row as u64 + 1
                ))),
            }
        }
        (ValueType::String | ValueType::Json, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => {
            cast(array, &target)
        }
        (
            ValueType::Bytes,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_),
        ) => cast(array, &target),
        (ValueType::Date, DataType::Date64) => cast(array, &target),
        (
            ValueType::Decimal { scale, .. },
            DataType::Decimal32(_, s)
            | DataType::Decimal64(_, s)
            | DataType::Decimal128(_, s)
            | DataType::Decimal256(_, s),
        ) if s <= scale => cast(array, &target)
            .map_err(|_| wrong().hint("a value has more digits than declared; declare a larger precision")),
        (
            ValueType::List(inner),
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..),
        ) => list(array, inner, &target, place),
        (
            ValueType::Vector(dimension),
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..),
        ) => vector(array, *dimension, &target, place),
        _ => Err(wrong()),
    }
}

fn cast(array: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    Ok(cast_with_options(array, target, &CastOptions { safe: false, ..CastOptions::default() })?)
}

fn wrong_type(found: &DataType, declared: &ValueType, place: Place<'_>) -> LakeError {
    let found = plain_name(found);
    LakeError::new(
        "source_wrong_type",
        format!("column `{}` of `{}` should be {declared}, got {found}", place.column, place.file),
    )
    .hint(format!("declare the column with the type that the file has ({found}), or write the file again"))
}

/// An Arrow type in the words of definitions where there is one.
pub(crate) fn plain_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "bool".into(),
        DataType::Int32 => "int32".into(),
        DataType::Int64 => "int64".into(),
        DataType::Float32 => "float32".into(),
        DataType::Float64 => "float64".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytes".into(),
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Timestamp(_, None) => "timestamp without a time zone".into(),
        DataType::Timestamp(..) => "timestamp".into(),
        DataType::Decimal128(p, s) => format!("decimal({p},{s})"),
        DataType::List(field) | DataType::LargeList(field) => {
            format!("list<{}>", plain_name(field.data_type()))
        }
        DataType::FixedSizeList(field, n) => format!("{n} x {}", plain_name(field.data_type())),
        DataType::Dictionary(_, inner) => plain_name(inner),
        other => format!("{other}").to_lowercase(),
    }
}

/// Any timestamp or day as microseconds UTC. Nanoseconds are cut downwards, so that the order of instants stays.
fn timestamps(array: &ArrayRef, place: Place<'_>) -> Result<ArrayRef> {
    let (unit, naive) = match array.data_type() {
        DataType::Timestamp(unit, zone) => (*unit, zone.is_none()),
        DataType::Date32 => {
            return timestamps(&cast(array, &DataType::Timestamp(TimeUnit::Second, None))?, place);
        }
        _ => return timestamps(&cast(array, &DataType::Timestamp(TimeUnit::Millisecond, None))?, place),
    };
    let raw = cast(array, &DataType::Int64)?;
    let raw: &Int64Array = raw.as_primitive::<Int64Type>();
    if naive && place.zone == Zone::Undeclared {
        return Err(naive_time(place));
    }
    let to_micros = |v: i64| match unit {
        TimeUnit::Second => v.checked_mul(1_000_000),
        TimeUnit::Millisecond => v.checked_mul(1_000),
        TimeUnit::Microsecond => Some(v),
        TimeUnit::Nanosecond => Some(v.div_euclid(1_000)),
    };
    let plain = !naive || place.zone == Zone::Utc;
    let values: TimestampMicrosecondArray = if plain && unit == TimeUnit::Microsecond {
        raw.reinterpret_cast()
    } else if plain {
        // What does not fit in microseconds is no time that a record may carry; null is skipped and counted.
        raw.iter().map(|v| v.and_then(to_micros)).collect()
    } else {
        let mut out = TimestampMicrosecondArray::builder(raw.len());
        for (row, value) in raw.iter().enumerate() {
            let Some(local) = value.and_then(to_micros) else {
                out.append_null();
                continue;
            };
            match place.zone.instant(local) {
                Ok(at) => out.append_value(at),
                Err(_) if place.local_time_errors_are_null => out.append_null(),
                Err(why) => return Err(local_time(place, row, local, why)),
            }
        }
        out.finish()
    };
    Ok(Arc::new(values.with_timezone("UTC")))
}

pub(crate) fn naive_time(place: Place<'_>) -> LakeError {
    LakeError::new(
        "naive_timestamp",
        format!("the timestamps in column `{}` of `{}` carry no time zone", place.column, place.file),
    )
    .hint(format!("say which zone they are in: {}", place.zone_fix))
}

fn local_time(
    place: Place<'_>,
    row: usize,
    local: i64,
    why: crate::source::zone::LocalTimeError,
) -> LakeError {
    let text = springhouse_core::time::format_instant(local);
    LakeError::new(
        "ambiguous_local_time",
        format!(
            "row {} of `{}`: the local time {} in column `{}` {why}",
            place.first_row + row as u64 + 1,
            place.file,
            text.trim_end_matches('Z'),
            place.column
        ),
    )
    .hint("store instants with an offset or in UTC")
}

fn list(array: &ArrayRef, inner: &ValueType, target: &DataType, place: Place<'_>) -> Result<ArrayRef> {
    let DataType::List(field) = target else { return Err(LakeError::internal("a list type is no list")) };
    let as_list = cast_to_list(array)?;
    let values = conform(as_list.values(), inner, place)?;
    let list =
        ListArray::try_new(Arc::clone(field), as_list.offsets().clone(), values, as_list.nulls().cloned())?;
    Ok(Arc::new(list))
}

fn cast_to_list(array: &ArrayRef) -> Result<ListArray> {
    let inner = match array.data_type() {
        DataType::List(_) => return Ok(array.as_list::<i32>().clone()),
        DataType::LargeList(field) | DataType::FixedSizeList(field, _) => field,
        _ => return Err(LakeError::internal("not a list")),
    };
    Ok(cast(array, &DataType::List(Arc::clone(inner)))?.as_list::<i32>().clone())
}

fn vector(array: &ArrayRef, dimension: u32, target: &DataType, place: Place<'_>) -> Result<ArrayRef> {
    let declared = ValueType::Vector(dimension);
    let DataType::FixedSizeList(field, width) = target else {
        return Err(LakeError::internal("a vector type is no fixed-size list"));
    };
    let as_list = cast_to_list(array)?;
    let item = as_list.values().data_type().clone();
    if !matches!(item, DataType::Float32 | DataType::Float16) {
        return Err(wrong_type(array.data_type(), &declared, place)
            .hint("a vector holds float32; write the column as lists of float32"));
    }
    let values = cast(as_list.values(), &DataType::Float32)?;
    // A null vector still takes its place in a fixed-size list, so indices are rebuilt row by row.
    let mut take = Vec::with_capacity(as_list.len() * dimension as usize);
    for row in 0..as_list.len() {
        if as_list.is_null(row) {
            take.extend(std::iter::repeat_n(None, dimension as usize));
            continue;
        }
        let start = as_list.value_offsets()[row] as u64;
        let length = as_list.value_length(row) as u32;
        if length != dimension {
            return Err(LakeError::new(
                "source_wrong_type",
                format!(
                    "row {} of `{}`: column `{}` should be {declared}, got {length} dimensions",
                    place.first_row + row as u64 + 1,
                    place.file,
                    place.column
                ),
            )
            .hint("declare the dimension that the file has, or leave the row out"));
        }
        take.extend((start..start + u64::from(length)).map(Some));
    }
    let values = arrow::compute::take(&values, &UInt64Array::from(take), None)?;
    let vectors = FixedSizeListArray::try_new(Arc::clone(field), *width, values, as_list.nulls().cloned())?;
    Ok(Arc::new(vectors))
}

/// A CSV column of texts as the declared type; an empty cell is null.
fn from_text(cells: &StringArray, declared: &ValueType, place: Place<'_>) -> Result<ArrayRef> {
    let bad = |row: usize| {
        LakeError::new(
            "csv_bad_cell",
            format!(
                "line {} of `{}`: column `{}` should be {declared}, got `{}`",
                // The header is line 1.
                place.first_row + row as u64 + 2,
                place.file,
                place.column,
                cells.value(row).chars().take(80).collect::<String>()
            ),
        )
        .hint("correct the cell, or the type that the column is declared with")
    };
    match declared {
        ValueType::Timestamp => {
            let mut out = TimestampMicrosecondArray::builder(cells.len());
            for (row, cell) in cells.iter().enumerate() {
                match cell.map(|text| parse_time_text(text).ok_or_else(|| bad(row))).transpose()? {
                    None => out.append_null(),
                    Some(TimeText::Instant(at)) => out.append_value(at),
                    Some(TimeText::Local(_)) if place.zone == Zone::Undeclared => {
                        return Err(naive_time(place));
                    }
                    Some(TimeText::Local(local)) => match place.zone.instant(local) {
                        Ok(at) => out.append_value(at),
                        Err(_) if place.local_time_errors_are_null => out.append_null(),
                        Err(why) => return Err(local_time(place, row, local, why)),
                    },
                }
            }
            let values: arrow::array::PrimitiveArray<TimestampMicrosecondType> = out.finish();
            Ok(Arc::new(values.with_timezone("UTC")))
        }
        ValueType::Bool => {
            let parsed: BooleanArray = cells
                .iter()
                .enumerate()
                .map(|(row, cell)| {
                    cell.map(|text| match text.trim() {
                        "true" | "True" | "TRUE" | "1" | "t" => Ok(true),
                        "false" | "False" | "FALSE" | "0" | "f" => Ok(false),
                        _ => Err(bad(row)),
                    })
                    .transpose()
                })
                .collect::<Result<_>>()?;
            Ok(Arc::new(parsed))
        }
        ValueType::Bytes => {
            let engine = base64::engine::general_purpose::STANDARD;
            let mut out = arrow::array::BinaryBuilder::new();
            for (row, cell) in cells.iter().enumerate() {
                match cell {
                    None => out.append_null(),
                    Some(text) => out.append_value(engine.decode(text.trim()).map_err(|_| bad(row))?),
                }
            }
            Ok(Arc::new(out.finish()))
        }
        ValueType::List(_) | ValueType::Vector(_) | ValueType::Map(..) => Err(LakeError::new(
            "source_wrong_type",
            format!(
                "column `{}` of `{}` should be {declared}; a CSV file can't hold it",
                place.column, place.file
            ),
        )
        .hint("store the table as Parquet")),
        _ => {
            let trimmed: StringArray = cells.iter().map(|cell| cell.map(str::trim)).collect();
            let parsed = arrow::compute::cast(&trimmed, &arrow_type(declared))?;
            match (0..cells.len()).find(|row| cells.is_valid(*row) && parsed.is_null(*row)) {
                Some(row) => Err(bad(row)),
                None => Ok(parsed),
            }
        }
    }
}
