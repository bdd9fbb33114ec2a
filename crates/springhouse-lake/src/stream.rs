//! Stream tables: what was pushed, kept in one Delta table per source below `<tables>/<source>/`, and dead letters below
//! `<tables>/_dead_letters/<source>/`.
//!
//! Columns of a stream table: the declared ones (the event time already clamped), then `_known_at`, `_offset` and
//! `_event_id` (16 bytes, big endian). Any Delta reader opens them (reader version 1).

use crate::delta::{self, TableColumn};
use crate::error::{LakeError, Result};
use crate::lake::Lake;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, Int64Array, RecordBatch, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema};
use springhouse_core::definition::Source;
use springhouse_core::{Micros, ValueType};
use springhouse_kernel::{arrow_type, value_type_of};
use std::path::PathBuf;
use std::sync::Arc;

/// The column with the moment of a row's append.
pub const KNOWN_AT_COLUMN: &str = "_known_at";
/// The column with a row's log offset.
pub const OFFSET_COLUMN: &str = "_offset";
/// The column with the hash of a row's event id or idempotency key.
pub const EVENT_ID_COLUMN: &str = "_event_id";

/// Rows of a stream to be kept, in log order. Columns: the source's declared columns.
#[derive(Debug)]
pub struct StreamAppend {
    /// Declared columns, then nothing else.
    pub rows: RecordBatch,
    /// Per row: clamped event time.
    pub event_time: Vec<Micros>,
    /// Per row.
    pub known_at: Vec<Micros>,
    /// Per row: its log offset.
    pub offset: Vec<i64>,
    /// Per row: hash of its idempotency key or event id, if it has one.
    pub event_id: Vec<Option<u128>>,
}

impl Lake {
    /// Where a stream's rows are kept.
    pub fn stream_table(&self, source: &str) -> PathBuf {
        self.tables().join(source)
    }

    fn dead_letter_table(&self, source: &str) -> PathBuf {
        self.tables().join("_dead_letters").join(source)
    }

    /// Appends stream rows exactly once: rows at or below the table's last appended offset are skipped (Delta application
    /// transaction `springhouse/<source>`, version = last offset). Returns the last offset in the table.
    ///
    /// # Errors
    /// `stream_append_invalid` when the vectors differ in length or offsets don't rise; `stream_type_changed`;
    /// `delta_failed`; `file_unwritable`.
    pub async fn append_stream(&self, source: &Source, append: StreamAppend) -> Result<i64> {
        let columns = stream_columns(source);
        let batch = stream_batch(source, &append, &columns)?;
        let rows_after = |position: i64| -> Result<Option<(RecordBatch, i64)>> {
            let first = append.offset.partition_point(|offset| *offset <= position);
            let Some(last) = append.offset[first..].last() else { return Ok(None) };
            Ok(Some((batch.slice(first, batch.num_rows() - first), *last)))
        };
        let directory = self.stream_table(&source.name);
        self.append_to(directory, &columns, &stream_app(&source.name), &rows_after).await
    }

    /// The last offset in the stream's table; -1 when there is none.
    ///
    /// # Errors
    /// `delta_failed` when the table can't be read.
    pub async fn stream_position(&self, source: &Source) -> Result<i64> {
        match delta::open(&self.stream_table(&source.name)).await? {
            None => Ok(-1),
            Some(table) => delta::position(&table, &stream_app(&source.name)).await,
        }
    }

    /// Appends rows to the dead-letter table of a source exactly once: a second append with a `last_offset` at or below
    /// the stored one changes nothing.
    ///
    /// # Errors
    /// `delta_failed`, `file_unwritable`.
    pub async fn append_dead_letters(
        &self,
        source: &str,
        letters: RecordBatch,
        last_offset: i64,
    ) -> Result<()> {
        let mut columns = Vec::new();
        for field in letters.schema().fields() {
            let value_type = value_type_of(field.data_type()).ok_or_else(|| {
                LakeError::internal(format!("dead letters have no column type for {}", field.data_type()))
            })?;
            columns.push(TableColumn { name: field.name().clone(), value_type });
        }
        let rows_after = |position: i64| -> Result<Option<(RecordBatch, i64)>> {
            let is_new = position < last_offset && letters.num_rows() > 0;
            Ok(is_new.then(|| (letters.clone(), last_offset)))
        };
        let app = format!("springhouse/dead_letters/{source}");
        self.append_to(self.dead_letter_table(source), &columns, &app, &rows_after).await?;
        Ok(())
    }

    /// The newest dead letters in the lake, at most `limit`, oldest first.
    ///
    /// # Errors
    /// `delta_failed`, `file_corrupt`.
    pub async fn read_dead_letters(&self, source: &str, limit: usize) -> Result<Vec<RecordBatch>> {
        let directory = self.dead_letter_table(source);
        let Some(table) = delta::open(&directory).await? else { return Ok(Vec::new()) };
        let files = delta::files(self.project(), &directory, &table)?;
        let mut batches = Vec::new();
        let mut rows = 0;
        // File names begin with the position of their first row, so that the last names are the newest.
        for file in files.files.iter().rev() {
            if rows >= limit {
                break;
            }
            let mut of_file = crate::source::parquet::read_whole(file)?;
            of_file.reverse();
            for batch in of_file {
                let keep = batch.num_rows().min(limit - rows);
                if keep > 0 {
                    rows += keep;
                    batches.push(batch.slice(batch.num_rows() - keep, keep));
                }
            }
        }
        batches.reverse();
        Ok(batches)
    }

    pub(crate) async fn append_to(
        &self,
        directory: PathBuf,
        columns: &[TableColumn],
        app: &str,
        rows_after: delta::RowsAfter<'_>,
    ) -> Result<i64> {
        let mut open = self.open_tables().lock().await;
        let cached = open.remove(&directory);
        let (table, position) = delta::append(&directory, cached, columns, app, rows_after).await?;
        open.insert(directory, table);
        Ok(position)
    }
}

fn stream_app(source: &str) -> String {
    format!("springhouse/{source}")
}

fn stream_columns(source: &Source) -> Vec<TableColumn> {
    let declared =
        source.columns.iter().map(|c| TableColumn { name: c.name.clone(), value_type: c.value_type.clone() });
    let own = [
        (KNOWN_AT_COLUMN, ValueType::Timestamp),
        (OFFSET_COLUMN, ValueType::Int64),
        (EVENT_ID_COLUMN, ValueType::Bytes),
    ];
    declared.chain(own.map(|(name, value_type)| TableColumn { name: name.into(), value_type })).collect()
}

fn stream_batch(source: &Source, append: &StreamAppend, columns: &[TableColumn]) -> Result<RecordBatch> {
    let rows = append.rows.num_rows();
    let lengths =
        [append.event_time.len(), append.known_at.len(), append.offset.len(), append.event_id.len()];
    if lengths.iter().any(|length| *length != rows) || !append.offset.is_sorted_by(|a, b| a < b) {
        return Err(LakeError::new(
            "stream_append_invalid",
            format!(
                "an append to `{}` has {rows} rows with {lengths:?} stamps, or offsets that don't rise",
                source.name
            ),
        ));
    }
    let mut event_ids = BinaryBuilder::with_capacity(rows, rows * 16);
    for id in &append.event_id {
        event_ids.append_option(id.map(u128::to_be_bytes));
    }
    let times = |values: &[Micros]| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values.to_vec()).with_timezone("UTC"))
    };
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for column in columns {
        let array = match column.name.as_str() {
            KNOWN_AT_COLUMN => times(&append.known_at),
            OFFSET_COLUMN => Arc::new(Int64Array::from(append.offset.clone())),
            EVENT_ID_COLUMN => Arc::new(event_ids.finish()),
            name if name == source.event_time => times(&append.event_time),
            name => match append.rows.column_by_name(name) {
                Some(array) => storable(array, &column.value_type)?,
                None => storable(&new_null_array(&arrow_type(&column.value_type), rows), &column.value_type)?,
            },
        };
        fields.push(Field::new(&column.name, array.data_type().clone(), true));
        arrays.push(array);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// A column as Delta has it: a vector is a list there.
fn storable(array: &ArrayRef, value_type: &ValueType) -> Result<ArrayRef> {
    if !matches!(value_type, ValueType::Vector(_)) {
        return Ok(Arc::clone(array));
    }
    let DataType::FixedSizeList(field, _) = array.data_type() else {
        return Err(LakeError::internal("a vector column is no fixed-size list"));
    };
    debug_assert!(array.as_fixed_size_list_opt().is_some());
    Ok(arrow::compute::cast(array, &DataType::List(Arc::clone(field)))?)
}
