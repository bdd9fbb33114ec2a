//! Arrow rows into declared columns: names must match, types must be the declared ones or ones that lose nothing.

use super::{Flaw, SourceSchema, Table, values};
use crate::outcome::PushError;
use crate::settings::PushSettings;
use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, RecordBatch, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Float32Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use chrono::DateTime;
use serde_json::value::RawValue;
use springhouse_core::ValueType;
use springhouse_kernel::{arrow_type, value_type_of};
use std::sync::Arc;

/// Reads batches of one schema.
pub(super) fn read<'a>(
    schema: &SourceSchema,
    batches: &'a [RecordBatch],
    settings: &PushSettings,
) -> Result<Table<'a>, PushError> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    if rows > settings.batch_rows_max || bytes > settings.batch_bytes_max {
        return Err(PushError::new(
            "too_large",
            format!(
                "{rows} rows of {bytes} bytes; at most {} rows and {} bytes are taken",
                settings.batch_rows_max, settings.batch_bytes_max
            ),
        )
        .hint("push smaller batches, or raise push.batch_rows_max or push.batch_bytes_max"));
    }
    let Some(first) = batches.first() else {
        let columns = schema.arrow.fields().iter().map(|f| new_null_array(f.data_type(), 0)).collect();
        return Ok(Table { columns, flaws: Vec::new(), numbers: None, text_of: Box::new(|_| String::new()) });
    };
    let whole = arrow::compute::concat_batches(first.schema_ref(), batches)
        .map_err(|e| mismatch(format!("the batches have different schemas: {e}")))?;
    check_names(schema, &whole)?;
    let mut flaws = vec![None; whole.num_rows()];
    let columns = schema
        .columns
        .iter()
        .map(|rule| match whole.column_by_name(&rule.name) {
            None => Ok(new_null_array(&arrow_type(&rule.value_type), whole.num_rows())),
            Some(column) => convert(schema, &rule.name, &rule.value_type, column, &mut flaws),
        })
        .collect::<Result<Vec<_>, _>>()?;
    schema.check_ops(&columns, &mut flaws);
    Ok(Table { columns, flaws, numbers: None, text_of: Box::new(move |row| row_text(&whole, row)) })
}

fn mismatch(message: String) -> PushError {
    PushError::new("schema_mismatch", message).hint("send the source's declared columns")
}

fn check_names(schema: &SourceSchema, rows: &RecordBatch) -> Result<(), PushError> {
    for field in rows.schema_ref().fields() {
        if !schema.by_name.contains_key(field.name()) {
            return Err(mismatch(schema.unknown_column(field.name()).reason));
        }
    }
    let names = rows.schema_ref().fields().iter().map(|f| f.name());
    if names.collect::<std::collections::HashSet<_>>().len() != rows.num_columns() {
        return Err(mismatch("a column is there twice".to_owned()));
    }
    for rule in &schema.columns {
        if let Some(why) = rule.required
            && rows.column_by_name(&rule.name).is_none()
        {
            return Err(mismatch(format!("column `{}` {why}; the batch does not have it", rule.name)));
        }
    }
    Ok(())
}

/// The row as JSON, for the dead-letter table.
pub(crate) fn row_text(rows: &RecordBatch, row: usize) -> String {
    let mut out = Vec::new();
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut out);
    let written = writer.write(&rows.slice(row, 1)).and_then(|()| writer.finish());
    match written {
        Ok(()) => String::from_utf8_lossy(&out).trim_end().to_owned(),
        Err(error) => serde_json::json!({ "unprintable": error.to_string() }).to_string(),
    }
}

fn convert(
    schema: &SourceSchema,
    name: &str,
    value_type: &ValueType,
    column: &ArrayRef,
    flaws: &mut [Option<Flaw>],
) -> Result<ArrayRef, PushError> {
    let wanted = arrow_type(value_type);
    let wrong =
        || mismatch(format!("column `{name}` should be {value_type} ({wanted}), got {}", column.data_type()));
    let cast = |column: &ArrayRef| {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(column, &wanted, &options)
            .map_err(|e| mismatch(format!("column `{name}` should be {value_type}: {e}")))
    };
    let mut flaw = |row: usize, code: &'static str, more: &str| {
        flaws[row].get_or_insert_with(|| Flaw {
            code,
            reason: format!("column `{name}` should be {value_type}{more}"),
        });
    };
    let column = &unpack_dictionary(column)?;
    match (value_type, column.data_type()) {
        (ValueType::Timestamp, DataType::Timestamp(unit, zone)) => {
            timestamps(schema, column, *unit, zone.is_some(), &mut flaw)
                .map(|times| Arc::new(times.with_data_type(wanted.clone())) as ArrayRef)
        }
        (ValueType::Json, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => {
            let texts = cast(column)?;
            let mut out = Vec::with_capacity(texts.len());
            for (row, text) in texts.as_string::<i32>().iter().enumerate() {
                out.push(text.and_then(|text| match serde_json::from_str::<&RawValue>(text) {
                    Ok(raw) => match values::json(raw.get()) {
                        Ok(json) => Some(json),
                        Err((code, more)) => {
                            flaw(row, code, more);
                            None
                        }
                    },
                    Err(_) => {
                        flaw(row, "malformed_value", "; the text is no JSON");
                        None
                    }
                }));
            }
            Ok(Arc::new(arrow::array::StringArray::from_iter(out)))
        }
        (ValueType::Vector(dimension), DataType::List(_) | DataType::LargeList(_)) => {
            vectors(column, *dimension, &wanted, &mut flaw).ok_or_else(wrong)
        }
        (_, found) if *found == wanted => Ok(column.clone()),
        (ValueType::Int64, DataType::Int8 | DataType::Int16 | DataType::Int32)
        | (ValueType::Int64, DataType::UInt8 | DataType::UInt16 | DataType::UInt32)
        | (ValueType::Int32, DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16)
        | (ValueType::Float64, DataType::Float32 | DataType::Float16)
        | (ValueType::Bytes, DataType::FixedSizeBinary(_)) => cast(column),
        (ValueType::Decimal { scale, .. }, DataType::Decimal128(_, found)) if found <= scale => cast(column),
        (_, found) if value_type_of(found).as_ref() == Some(value_type) => cast(column),
        _ => Err(wrong()),
    }
}

fn unpack_dictionary(column: &ArrayRef) -> Result<ArrayRef, PushError> {
    match column.data_type() {
        DataType::Dictionary(_, values) => {
            arrow::compute::cast(column, values).map_err(|e| mismatch(e.to_string()))
        }
        _ => Ok(column.clone()),
    }
}

fn timestamps(
    schema: &SourceSchema,
    column: &ArrayRef,
    unit: TimeUnit,
    has_zone: bool,
    flaw: &mut dyn FnMut(usize, &'static str, &str),
) -> Result<TimestampMicrosecondArray, PushError> {
    // Floor, as the text of a timestamp is read: before 1970 too.
    let micros: TimestampMicrosecondArray = match unit {
        TimeUnit::Second => {
            column.as_primitive::<TimestampSecondType>().unary(|t| t.saturating_mul(1_000_000))
        }
        TimeUnit::Millisecond => {
            column.as_primitive::<TimestampMillisecondType>().unary(|t| t.saturating_mul(1_000))
        }
        TimeUnit::Microsecond => column.as_primitive::<TimestampMicrosecondType>().clone(),
        TimeUnit::Nanosecond => {
            column.as_primitive::<TimestampNanosecondType>().unary(|t| t.div_euclid(1_000))
        }
    };
    if has_zone || micros.null_count() == micros.len() {
        return Ok(micros);
    }
    let Some(zone) = schema.zone else {
        return Err(PushError::new(
            "schema_mismatch",
            format!("timestamps of type {} have no zone", column.data_type()),
        )
        .hint("send timestamps with the zone UTC, or declare the source's time_zone"));
    };
    let mut out = Vec::with_capacity(micros.len());
    for (row, local) in micros.iter().enumerate() {
        let Some(local) = local else {
            out.push(None);
            continue;
        };
        let instant = match DateTime::from_timestamp_micros(local) {
            Some(naive) => values::in_zone(naive.naive_utc(), zone),
            None => Err(("out_of_range", "")),
        };
        out.push(instant.map_err(|(code, more)| flaw(row, code, more)).ok());
    }
    Ok(out.into_iter().collect())
}

fn vectors(
    column: &ArrayRef,
    dimension: u32,
    wanted: &DataType,
    flaw: &mut dyn FnMut(usize, &'static str, &str),
) -> Option<ArrayRef> {
    let DataType::FixedSizeList(field, _) = wanted else { return None };
    let mut out: Vec<f32> = Vec::with_capacity(column.len() * dimension as usize);
    let mut valid = Vec::with_capacity(column.len());
    for row in 0..column.len() {
        let items = match column.data_type() {
            DataType::List(_) => column.as_list::<i32>().value(row),
            _ => column.as_list::<i64>().value(row),
        };
        let items = items.as_primitive_opt::<Float32Type>()?;
        if column.is_valid(row) && items.len() == dimension as usize && items.null_count() == 0 {
            out.extend_from_slice(items.values());
            valid.push(true);
            continue;
        }
        if column.is_valid(row) {
            flaw(row, "malformed_value", "; the number of elements is part of the type");
        }
        out.resize(out.len() + dimension as usize, 0.0);
        valid.push(false);
    }
    let items: ArrayRef = Arc::new(Float32Array::from(out));
    Some(Arc::new(FixedSizeListArray::new(
        field.clone(),
        dimension as i32,
        items,
        Some(NullBuffer::from(valid)),
    )))
}
