//! A case's Parquet files.

use super::case::{Case, CaseEvent, EVENT_TIME, ID, KNOWN_AT, ROW_COLUMNS};
use super::exact::Exact;
use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use springhouse_core::{Definitions, Value, ValueType};
use springhouse_kernel::{array_from_values, arrow_type, value_at};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// One column: name, type, values.
type Filled = (String, ValueType, Vec<Value>);

pub(crate) fn write_events(case: &Case, events: &[CaseEvent], path: &Path) -> anyhow::Result<()> {
    let mut columns = key_columns(case, events.iter().map(|event| event.key.as_slice()))?;
    let ids = events.iter().map(|event| Value::Int64(event.id)).collect();
    columns.push((ID.to_owned(), ValueType::Int64, ids));
    let event_times = events.iter().map(|event| Value::Timestamp(event.event_time)).collect();
    columns.push((EVENT_TIME.to_owned(), ValueType::Timestamp, event_times));
    let known_at = events.iter().map(|event| Value::Timestamp(event.known_at)).collect();
    columns.push((KNOWN_AT.to_owned(), ValueType::Timestamp, known_at));
    for (name, value_type) in &ROW_COLUMNS {
        let cell =
            |event: &CaseEvent| event.row.get(*name).map_or(Ok(Value::Null), |value| value.typed(value_type));
        let values = events.iter().map(cell).collect::<anyhow::Result<_>>()?;
        columns.push(((*name).to_owned(), value_type.clone(), values));
    }
    write(columns, path)
}

pub(crate) fn write_labels(case: &Case, path: &Path) -> anyhow::Result<()> {
    let mut columns = key_columns(case, case.queries.iter().map(|query| query.key.as_slice()))?;
    let at = case.queries.iter().map(|query| Value::Timestamp(query.at)).collect();
    columns.push(("at".to_owned(), ValueType::Timestamp, at));
    write(columns, path)
}

fn key_columns<'a>(case: &Case, keys: impl Iterator<Item = &'a [Exact]>) -> anyhow::Result<Vec<Filled>> {
    let mut columns: Vec<Filled> = case.keys().into_iter().map(|(name, t)| (name, t, Vec::new())).collect();
    for key in keys {
        for ((_, value_type, values), part) in columns.iter_mut().zip(key) {
            values.push(part.typed(value_type)?);
        }
    }
    Ok(columns)
}

fn write(columns: Vec<Filled>, path: &Path) -> anyhow::Result<()> {
    let field = |(name, value_type, _): &Filled| Field::new(name, arrow_type(value_type), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let arrays =
        columns.iter().map(|(_, value_type, values)| array_from_values(value_type, values)).collect();
    let batch =
        RecordBatch::try_new(schema.clone(), arrays).context("the columns of a case have one length")?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, schema, None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(())
}

/// The features of each row of a training set.
pub(crate) fn read_training(
    definitions: &Definitions,
    path: &Path,
) -> anyhow::Result<Vec<BTreeMap<String, Value>>> {
    let mut rows = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()? {
        let batch = batch?;
        let start = rows.len();
        rows.resize_with(start + batch.num_rows(), BTreeMap::new);
        for view in definitions.feature_views.values() {
            for (name, value_type) in view.features() {
                let column = batch.column_by_name(name).with_context(|| format!("no column `{name}`"))?;
                let column = arrow::compute::cast(column, &arrow_type(value_type))?;
                for row in 0..batch.num_rows() {
                    rows[start + row].insert(name.to_owned(), value_at(&column, row, value_type));
                }
            }
        }
    }
    Ok(rows)
}
