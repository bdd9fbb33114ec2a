//! Rows of the log with their stamps, several records at once: what the applier and the flusher work on.

use crate::log::{Record, decode_rows};
use crate::validate::timestamps;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use springhouse_core::Micros;
use springhouse_core::definition::Source;
use springhouse_kernel::arrow_type;
use std::sync::Arc;

/// The declared columns of a source.
pub(crate) fn schema_of(source: &Source) -> SchemaRef {
    let fields = source.columns.iter().map(|c| Field::new(&c.name, arrow_type(&c.value_type), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Accepted rows of one source, in log order.
#[derive(Debug)]
pub(crate) struct StampedRows {
    /// Declared columns, with clamped event times.
    pub(crate) rows: RecordBatch,
    /// Per row.
    pub(crate) known_at: Vec<Micros>,
    /// Per row.
    pub(crate) offsets: Vec<i64>,
    /// Per row; 0 for none.
    pub(crate) ids: Vec<u128>,
}

/// The rows of one record.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// The accepted rows.
    pub(crate) rows: RecordBatch,
    /// Offset of the first.
    pub(crate) base: i64,
    /// The moment of the append.
    pub(crate) known_at: Micros,
    /// Per row, for a backfill.
    pub(crate) row_known_at: Option<Vec<Micros>>,
    /// Per row, where there are any.
    pub(crate) ids: Option<Vec<u128>>,
}

impl Piece {
    /// The accepted rows of a record; none when it has none.
    pub(crate) fn of(record: &Record) -> Result<Option<Self>, arrow::error::ArrowError> {
        let rows = decode_rows(&record.rows)?;
        Ok(rows.map(|rows| Self {
            rows,
            base: record.base,
            known_at: record.known_at,
            row_known_at: record.row_known_at.clone(),
            ids: record.ids.clone(),
        }))
    }
}

impl StampedRows {
    /// Joins pieces, with the columns that `schema` declares now.
    pub(crate) fn join(schema: &SchemaRef, pieces: &[Piece]) -> Result<Self, arrow::error::ArrowError> {
        let batches: Vec<RecordBatch> =
            pieces.iter().map(|piece| conform(&piece.rows, schema)).collect::<Result<_, _>>()?;
        let rows = match batches.as_slice() {
            [one] => one.clone(),
            _ => arrow::compute::concat_batches(schema, &batches)?,
        };
        let count = rows.num_rows();
        let (mut known_at, mut offsets) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut ids = Vec::with_capacity(count);
        for piece in pieces {
            let rows = piece.rows.num_rows();
            offsets.extend(piece.base..piece.base + rows as i64);
            match &piece.row_known_at {
                Some(times) => known_at.extend_from_slice(times),
                None => known_at.extend(std::iter::repeat_n(piece.known_at, rows)),
            }
            match &piece.ids {
                Some(some) => ids.extend_from_slice(some),
                None => ids.extend(std::iter::repeat_n(0, rows)),
            }
        }
        Ok(Self { rows, known_at, offsets, ids })
    }

    /// The rows with an offset of at least `start`.
    pub(crate) fn since(&self, start: i64) -> Self {
        let first = self.offsets.partition_point(|offset| *offset < start);
        Self {
            rows: self.rows.slice(first, self.offsets.len() - first),
            known_at: self.known_at[first..].to_vec(),
            offsets: self.offsets[first..].to_vec(),
            ids: self.ids[first..].to_vec(),
        }
    }

    /// The event times in that column.
    pub(crate) fn event_times(&self, column: &str) -> Option<&[Micros]> {
        self.rows.column_by_name(column).map(|times| &**timestamps(times).values())
    }
}

/// Rows that were checked against an older definition of their source, as the present one has them: columns that are
/// gone are left out, new ones are null, changed types are cast (null where a value does not fit).
fn conform(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    if rows.schema_ref() == schema {
        return Ok(rows.clone());
    }
    let columns = schema
        .fields()
        .iter()
        .map(|field| match rows.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => arrow::compute::cast(column, field.data_type()),
        })
        .collect::<Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}
