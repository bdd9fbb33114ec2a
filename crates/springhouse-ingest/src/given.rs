//! Rows that are given rather than pushed: checked as strictly as a push, stamped by the source's table rule, and neither
//! logged nor applied. For a user's own feature tests.

use crate::outcome::{PushError, PushRows};
use crate::settings::PushSettings;
use crate::validate::{SourceSchema, timestamps};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use springhouse_core::Micros;
use springhouse_core::definition::{Definitions, Source};
use springhouse_kernel::Stamp;
use std::collections::HashMap;

/// Rows of a source with their stamps.
#[derive(Debug)]
pub struct GivenRows {
    /// The rows, one column per declared column of the source. Of the events of one id only the one that was known
    /// first is there, as in a training set, wherever it stands among the rows.
    pub rows: RecordBatch,
    /// The stamp of each row: known by the source's table rule, in the order of its `sequence` (or of the rows).
    pub stamps: Vec<Stamp>,
}

/// Rows given for one source.
#[derive(Clone, Debug)]
pub struct GivenSource {
    /// The source.
    pub source: String,
    /// The rows.
    pub rows: PushRows,
    /// By row, when it was known, where that is not by the source's table rule: a late event. May be shorter than the rows.
    pub known_at: Vec<Option<Micros>>,
}

/// Checks and stamps rows of a stream or a table.
///
/// # Errors
/// What is wrong with the first row that a push would refuse, with its number; or with the rows as a whole.
pub fn given_rows(
    definitions: &Definitions,
    source: &Source,
    given: &GivenSource,
) -> Result<GivenRows, PushError> {
    let schema = SourceSchema::new(definitions, source)?;
    let checked = schema.check(&given.rows, None, true, &PushSettings::default())?;
    if let Some(refused) = checked.refused.first() {
        let message = format!("row {} of source `{}`: {}", refused.row, source.name, refused.reason);
        return Err(
            PushError::new(refused.code, message).hint("correct the row; it would be refused as a push too")
        );
    }
    let event_times = timestamps(checked.rows.column(schema.event_time)).values();
    // No row was refused, so rows have the places they were given in, unless updates are two rows each.
    let place = |row: usize| checked.numbers.as_ref().map_or(row, |numbers| numbers[row] as usize);
    let mut known_at = checked.known_at.unwrap_or_default();
    for (row, known) in known_at.iter_mut().enumerate() {
        *known = given.known_at.get(place(row)).copied().flatten().unwrap_or(*known);
    }
    let sequence = source.sequence.as_ref().and_then(|name| checked.rows.column_by_name(name));
    let sequence = sequence.map(|column| column.as_primitive::<Int64Type>());
    // A row without a number goes by its place, before those with one, as it does in a table.
    let declared = |row: usize| sequence.filter(|s| s.is_valid(row)).map(|s| s.value(row));
    let stamp = |row: usize| Stamp {
        event_time: event_times[row],
        known_at: known_at[row],
        seq: declared(row).unwrap_or(i64::MIN + row as i64),
    };
    let kept = match &checked.ids {
        Some(ids) => first_known(ids, stamp),
        None => (0..checked.rows.num_rows()).collect(),
    };
    let stamps = kept.iter().map(|row| stamp(*row)).collect();
    let kept = arrow::array::UInt32Array::from_iter_values(kept.into_iter().map(|row| row as u32));
    let rows = arrow::compute::take_record_batch(&checked.rows, &kept)
        .map_err(|error| PushError::new("malformed_body", error.to_string()))?;
    Ok(GivenRows { rows, stamps })
}

/// The rows that count, in their order: all without an identity (0), and of each identity the one that was known first.
fn first_known(ids: &[u128], stamp: impl Fn(usize) -> Stamp) -> Vec<usize> {
    let arrival = |row: usize| (stamp(row).known_at, stamp(row).seq, stamp(row).event_time, row);
    let mut first: HashMap<u128, usize> = HashMap::new();
    for (row, id) in ids.iter().enumerate() {
        let held = first.entry(*id).or_insert(row);
        if arrival(row) < arrival(*held) {
            *held = row;
        }
    }
    (0..ids.len()).filter(|row| ids[*row] == 0 || first[&ids[*row]] == *row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(ids: &[u128], arrivals: &[(i64, i64)]) -> Vec<usize> {
        let stamp = |row: usize| Stamp { event_time: 0, known_at: arrivals[row].0, seq: arrivals[row].1 };
        first_known(ids, stamp)
    }

    #[test]
    fn of_one_id_the_event_that_was_known_first_counts_whatever_the_order_of_rows() {
        assert_eq!(kept(&[7, 7, 7], &[(5, 0), (3, 1), (4, 2)]), [1]);
        assert_eq!(kept(&[7, 7], &[(5, 2), (5, 1)]), [1], "the sequence decides among equals");
        assert_eq!(kept(&[7, 8, 7, 8], &[(1, 0), (2, 1), (2, 2), (1, 3)]), [0, 3]);
    }

    #[test]
    fn events_without_an_id_all_count() {
        assert_eq!(kept(&[0, 0, 7], &[(5, 0), (3, 1), (4, 2)]), [0, 1, 2]);
    }
}
