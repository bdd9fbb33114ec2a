//! Rows that are given rather than pushed: checked as strictly as a push, stamped by the source's table rule, and neither
//! logged nor applied. For a user's own feature tests.

use crate::outcome::{PushError, PushRows};
use crate::settings::PushSettings;
use crate::validate::{SourceSchema, timestamps};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use springhouse_core::definition::{Definitions, Source};
use springhouse_kernel::Stamp;
use std::collections::HashSet;

/// Rows of a source with their stamps.
#[derive(Debug)]
pub struct GivenRows {
    /// The rows, one column per declared column of the source; events of one id once.
    pub rows: RecordBatch,
    /// The stamp of each row: known by the source's table rule, in the order given (or of its `sequence`).
    pub stamps: Vec<Stamp>,
}

/// Checks and stamps rows of a stream or a table.
///
/// # Errors
/// What is wrong with the first row that a push would refuse, with its number; or with the rows as a whole.
pub fn given_rows(
    definitions: &Definitions,
    source: &Source,
    rows: &PushRows,
) -> Result<GivenRows, PushError> {
    let schema = SourceSchema::new(definitions, source)?;
    let checked = schema.check(rows, None, true, &PushSettings::default())?;
    if let Some(refused) = checked.refused.first() {
        let message = format!("row {} of source `{}`: {}", refused.row, source.name, refused.reason);
        return Err(
            PushError::new(refused.code, message).hint("correct the row; it would be refused as a push too")
        );
    }
    let event_times = timestamps(checked.rows.column(schema.event_time)).values();
    let known_at = checked.known_at.unwrap_or_default();
    let sequence = source.sequence.as_ref().and_then(|name| checked.rows.column_by_name(name));
    let stamp = |row: usize| Stamp {
        event_time: event_times[row],
        known_at: known_at[row],
        seq: sequence.map_or(row as i64, |column| column.as_primitive::<Int64Type>().value(row)),
    };
    let mut seen = HashSet::new();
    let is_first = |row: &usize| match &checked.ids {
        Some(ids) if ids[*row] != 0 => seen.insert(ids[*row]),
        _ => true,
    };
    let kept: Vec<usize> = (0..checked.rows.num_rows()).filter(is_first).collect();
    let stamps = kept.iter().map(|row| stamp(*row)).collect();
    let kept = arrow::array::UInt32Array::from_iter_values(kept.into_iter().map(|row| row as u32));
    let rows = arrow::compute::take_record_batch(&checked.rows, &kept)
        .map_err(|error| PushError::new("malformed_body", error.to_string()))?;
    Ok(GivenRows { rows, stamps })
}
