//! Strict checks of pushed rows against the source's declared columns, row by row: a bad row never refuses its
//! neighbours. JSON goes straight into Arrow columns.

mod arrow_rows;
mod changes;
mod columns;
mod json_rows;
mod values;

pub(crate) use arrow_rows::row_text;

use crate::log::RefusedRow;
use crate::outcome::{PushError, PushRows};
use crate::settings::PushSettings;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Schema, SchemaRef};
use changes::ChangeColumns;
use springhouse_core::change::Change;
use springhouse_core::definition::{Definitions, KnownAt, Source};
use springhouse_core::key::ENTITY_KEY_BYTES_MAX;
use springhouse_core::time::{EVENT_TIME_MAX, EVENT_TIME_MIN, format_instant};
use springhouse_core::{Micros, ValueType, event_id};
use springhouse_kernel::arrow_type;
use std::collections::HashMap;
use std::sync::Arc;

/// A source's declared columns, compiled for checking.
#[derive(Debug)]
pub(crate) struct SourceSchema {
    /// The definition.
    pub(crate) source: Arc<Source>,
    /// Declared columns.
    pub(crate) arrow: SchemaRef,
    /// The column with the event time.
    pub(crate) event_time: usize,
    /// The zone of timestamps without one.
    zone: Option<chrono_tz::Tz>,
    columns: Vec<ColumnRule>,
    by_name: HashMap<String, usize>,
    event_id: Option<usize>,
    /// The column that says what a row does.
    op: Option<usize>,
    changes: Option<ChangeColumns>,
    /// The column with the moment a row was known, for backfill.
    known_at: Option<usize>,
    /// Columns of each entity key, where they are all declared ones.
    keys: Vec<Vec<usize>>,
}

/// One declared column.
#[derive(Debug)]
struct ColumnRule {
    name: String,
    value_type: ValueType,
    /// Why a null is refused; none where it is not.
    required: Option<&'static str>,
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    code: &'static str,
    reason: String,
}

/// Rows that passed, as columns, and those that did not.
#[derive(Debug)]
pub(crate) struct CheckedRows {
    /// The rows that passed.
    pub(crate) rows: RecordBatch,
    /// Their row numbers in the push, twice where an update is two rows; none when all passed and each is a row.
    pub(crate) numbers: Option<Vec<u32>>,
    /// Their identities, 0 for none; none when no row has one.
    pub(crate) ids: Option<Vec<u128>>,
    /// Backfill: the moment each was known, by the source's rule.
    pub(crate) known_at: Option<Vec<Micros>>,
    /// The rows that did not.
    pub(crate) refused: Vec<RefusedRow>,
}

impl SourceSchema {
    /// Compiles the source with what its views need of it. A view's declared key columns are required, unless a filter
    /// of the view or the source may leave out rows without them.
    pub(crate) fn new(definitions: &Definitions, source: &Source) -> Result<Self, PushError> {
        let invalid =
            |why: String| PushError::new("invalid_definition", format!("source `{}`: {why}", source.name));
        let by_name: HashMap<String, usize> =
            source.columns.iter().enumerate().map(|(i, c)| (c.name.clone(), i)).collect();
        let find =
            |name: &String| by_name.get(name).copied().ok_or_else(|| invalid(format!("no column `{name}`")));
        let event_time = find(&source.event_time)?;
        let mut columns: Vec<ColumnRule> = source
            .columns
            .iter()
            .map(|c| ColumnRule {
                name: c.name.clone(),
                value_type: c.value_type.clone(),
                required: c.required.then_some("is required"),
            })
            .collect();
        columns[event_time].required = Some("is the event time");
        let mut keys = Vec::new();
        for view in definitions.feature_views.values().filter(|v| v.source == source.name) {
            let key: Option<Vec<usize>> =
                view.key_columns.iter().map(|name| by_name.get(name).copied()).collect();
            if let (Some(key), None, None) = (key, &view.filter, &source.filter) {
                for column in &key {
                    columns[*column].required.get_or_insert("is an entity key");
                }
                keys.push(key);
            }
        }
        let zone = match &source.time_zone {
            None => None,
            Some(name) => Some(name.parse().map_err(|_| invalid(format!("`{name}` is no time zone")))?),
        };
        let known_at = match &source.known_at {
            KnownAt::Column(name) => by_name.get(name).copied(),
            KnownAt::Delay(_) => None,
        };
        let event_id = source.event_id.as_ref().map(find).transpose()?;
        let op = source.op.as_ref().map(find).transpose()?;
        let fields = columns.iter().map(|c| Field::new(&c.name, arrow_type(&c.value_type), true));
        let arrow = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self {
            source: Arc::new(source.clone()),
            arrow,
            event_time,
            zone,
            columns,
            by_name,
            event_id,
            op,
            changes: ChangeColumns::of(source),
            known_at,
            keys,
        })
    }

    /// Checks a push.
    ///
    /// # Errors
    /// What is wrong with the push as a whole; a wrong row is in [`CheckedRows::refused`].
    pub(crate) fn check(
        &self,
        rows: &PushRows,
        row_keys: Option<&[Option<String>]>,
        backfill: bool,
        settings: &PushSettings,
    ) -> Result<CheckedRows, PushError> {
        if row_keys.is_some() && self.event_id.is_some() {
            return Err(PushError::new(
                "invalid_request",
                format!("rows of `{}` are identified by their event id", self.source.name),
            )
            .hint("push without row keys"));
        }
        if backfill && matches!(&self.source.known_at, KnownAt::Column(_)) && self.known_at.is_none() {
            return Err(PushError::new(
                "invalid_request",
                format!("source `{}` does not declare its known_at column", self.source.name),
            )
            .hint("add it to the source's columns, then push as backfill"));
        }
        let table = match rows {
            PushRows::Json(body) => json_rows::read(self, body, settings)?,
            PushRows::Arrow(batches) => arrow_rows::read(self, batches, settings)?,
        };
        let count = match table.numbers.as_deref() {
            None => table.flaws.len(),
            Some(numbers) => numbers.last().map_or(0, |last| *last as usize + 1),
        };
        if let Some(keys) = row_keys
            && keys.len() != count
        {
            return Err(PushError::new(
                "invalid_request",
                format!("{} row keys for {count} rows", keys.len()),
            ));
        }
        self.check_table(table, row_keys, backfill)
    }

    /// Checks rows that are JSON texts of their own.
    ///
    /// # Errors
    /// What is wrong with all of them; a wrong row is in [`CheckedRows::refused`].
    pub(crate) fn check_texts(&self, rows: Vec<&str>) -> Result<CheckedRows, PushError> {
        self.check_table(json_rows::read_rows(self, rows), None, false)
    }

    fn check_table(
        &self,
        mut table: Table<'_>,
        row_keys: Option<&[Option<String>]>,
        backfill: bool,
    ) -> Result<CheckedRows, PushError> {
        self.check_nulls(&mut table, backfill);
        self.check_event_times(&mut table);
        self.check_key_lengths(&mut table);
        self.keep_good(table, row_keys, backfill)
    }

    fn check_nulls(&self, table: &mut Table, backfill: bool) {
        for (index, rule) in self.columns.iter().enumerate() {
            let why = match rule.required {
                Some(why) => why,
                None if backfill && self.known_at == Some(index) => "says when a row was known",
                None => continue,
            };
            let Some(nulls) = table.columns[index].logical_nulls() else { continue };
            for row in (0..nulls.len()).filter(|row| nulls.is_null(*row)) {
                table.flaws[row].get_or_insert_with(|| Flaw {
                    code: "missing_column",
                    reason: format!("column `{}` {why}; the row has no value for it", rule.name),
                });
            }
        }
    }

    fn check_event_times(&self, table: &mut Table) {
        let times = timestamps(&table.columns[self.event_time]);
        for (row, time) in times.values().iter().enumerate() {
            if !(EVENT_TIME_MIN..=EVENT_TIME_MAX).contains(time) && !times.is_null(row) {
                table.flaws[row].get_or_insert_with(|| Flaw {
                    code: "event_time_out_of_range",
                    reason: format!(
                        "column `{}` is {time} microseconds; event times lie between {} and {}",
                        self.source.event_time,
                        format_instant(EVENT_TIME_MIN),
                        format_instant(EVENT_TIME_MAX)
                    ),
                });
            }
        }
    }

    /// A key that no store can hold would be in the log and nowhere else.
    fn check_key_lengths(&self, table: &mut Table) {
        for key in &self.keys {
            let mut lengths = vec![0usize; table.flaws.len()];
            for column in key {
                add_key_lengths(&table.columns[*column], &mut lengths);
            }
            for (row, length) in lengths.into_iter().enumerate() {
                if length > ENTITY_KEY_BYTES_MAX {
                    table.flaws[row].get_or_insert_with(|| Flaw {
                        code: "key_too_long",
                        reason: format!(
                            "the entity key takes {length} bytes; at most {ENTITY_KEY_BYTES_MAX} are allowed"
                        ),
                    });
                }
            }
        }
    }

    /// Rows that come as columns say what they do in words; those of JSON were made from what an event said.
    fn check_ops(&self, columns: &[ArrayRef], flaws: &mut [Option<Flaw>]) {
        let Some(op) = self.op else { return };
        for (row, word) in columns[op].as_string::<i32>().iter().enumerate() {
            if let Some(word) = word
                && Change::of(word).is_none()
            {
                flaws[row].get_or_insert_with(|| changes::unknown_op(&self.columns[op].name, word));
            }
        }
    }

    fn keep_good(
        &self,
        table: Table,
        row_keys: Option<&[Option<String>]>,
        backfill: bool,
    ) -> Result<CheckedRows, PushError> {
        let internal = |e: arrow::error::ArrowError| PushError::new("malformed_body", e.to_string());
        let Table { columns, mut flaws, numbers: events, mut text_of } = table;
        let number = |row: usize| events.as_ref().map_or(row as u32, |events| events[row]);
        if events.is_some() {
            share_flaws(&mut flaws, &number);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(flaws.len()));
        let mut rows =
            RecordBatch::try_new_with_options(self.arrow.clone(), columns, &options).map_err(internal)?;
        let mut numbers = events.clone();
        let mut refused: Vec<RefusedRow> = Vec::new();
        if flaws.iter().any(Option::is_some) {
            let good: BooleanArray = flaws.iter().map(|flaw| Some(flaw.is_none())).collect();
            rows = arrow::compute::filter_record_batch(&rows, &good).map_err(internal)?;
            let mut kept = Vec::with_capacity(rows.num_rows());
            for (row, flaw) in flaws.into_iter().enumerate() {
                match flaw {
                    None => kept.push(number(row)),
                    // The other row of an update: it was refused once.
                    Some(_) if refused.last().is_some_and(|refused| refused.row == number(row)) => {}
                    Some(Flaw { code, reason }) => {
                        let row = number(row);
                        refused.push(RefusedRow { row, code, reason, text: text_of(row as usize) });
                    }
                }
            }
            numbers = Some(kept);
        }
        let ids = match (self.event_id, row_keys) {
            (Some(column), _) => identities(rows.column(column), &self.columns[column].value_type),
            (None, Some(keys)) => {
                let id = |row: usize| keys[row].as_deref().map_or(0, event_id::of_text);
                Some(match &numbers {
                    Some(numbers) => ids_of_rows(numbers, id),
                    None => (0..keys.len()).map(id).collect(),
                })
            }
            (None, None) => None,
        };
        let known_at = backfill.then(|| match (&self.source.known_at, self.known_at) {
            (KnownAt::Delay(delay), _) => {
                let times = timestamps(rows.column(self.event_time)).values();
                times.iter().map(|time| time.saturating_add(*delay)).collect()
            }
            (KnownAt::Column(_), Some(column)) => timestamps(rows.column(column)).values().to_vec(),
            (KnownAt::Column(_), None) => unreachable!("refused above"),
        });
        Ok(CheckedRows { rows, numbers, ids, known_at, refused })
    }
}

/// A flaw in one row of an update is one of both.
fn share_flaws(flaws: &mut [Option<Flaw>], number: &dyn Fn(usize) -> u32) {
    for row in 1..flaws.len() {
        if number(row - 1) == number(row) {
            let flaw = flaws[row - 1].clone().or_else(|| flaws[row].clone());
            (flaws[row - 1], flaws[row]) = (flaw.clone(), flaw);
        }
    }
}

/// The identities of rows from those of the events that they are; the two rows of an update each have one of their own.
fn ids_of_rows(numbers: &[u32], id: impl Fn(usize) -> u128) -> Vec<u128> {
    let of_row = |(row, number): (usize, &u32)| match id(*number as usize) {
        id if id != 0 && numbers.get(row + 1) == Some(number) => event_id::of_bytes(&id.to_le_bytes()),
        id => id,
    };
    numbers.iter().enumerate().map(of_row).collect()
}

/// Rows on their way: all of them as columns, with the first flaw of each.
struct Table<'a> {
    /// One per declared column; null where a row has a flaw or nothing.
    columns: Vec<ArrayRef>,
    /// One per row.
    flaws: Vec<Option<Flaw>>,
    /// The number of the event that each row is of, ascending; none where every event is one row.
    numbers: Option<Vec<u32>>,
    /// An event as it came.
    text_of: Box<dyn FnMut(usize) -> String + 'a>,
}

/// The event times of checked rows.
pub(crate) fn timestamps(column: &ArrayRef) -> &TimestampMicrosecondArray {
    column.as_any().downcast_ref().expect("a timestamp column is in microseconds")
}

fn add_key_lengths(column: &ArrayRef, lengths: &mut [usize]) {
    let any = column.as_any();
    let prefixed = |length: usize| length + 1 + usize::from(length >= 0x80) + usize::from(length >= 0x4000);
    if let Some(texts) = any.downcast_ref::<StringArray>() {
        let pairs = lengths.iter_mut().zip(texts.offsets().lengths());
        pairs.for_each(|(total, length)| *total += prefixed(length));
    } else if let Some(bytes) = any.downcast_ref::<BinaryArray>() {
        let pairs = lengths.iter_mut().zip(bytes.offsets().lengths());
        pairs.for_each(|(total, length)| *total += prefixed(length));
    } else {
        lengths.iter_mut().for_each(|total| *total += 8);
    }
}

/// The identities in an event-id column; the same numbers as [`event_id::of_value`] gives.
fn identities(column: &ArrayRef, value_type: &ValueType) -> Option<Vec<u128>> {
    let any = column.as_any();
    let or_zero = |row: usize, id: u128| if column.is_null(row) { 0 } else { id };
    Some(if let Some(texts) = any.downcast_ref::<StringArray>() {
        (0..column.len()).map(|row| or_zero(row, event_id::of_text(texts.value(row)))).collect()
    } else if let Some(bytes) = any.downcast_ref::<BinaryArray>() {
        (0..column.len()).map(|row| or_zero(row, event_id::of_bytes(bytes.value(row)))).collect()
    } else {
        let integers: Box<dyn Fn(usize) -> i64> = if let Some(a) = any.downcast_ref::<Int64Array>() {
            Box::new(|row| a.value(row))
        } else if let Some(a) = any.downcast_ref::<Int32Array>() {
            Box::new(|row| i64::from(a.value(row)))
        } else if let Some(a) = any.downcast_ref::<TimestampMicrosecondArray>() {
            Box::new(|row| a.value(row))
        } else if let Some(a) = any.downcast_ref::<Date32Array>() {
            Box::new(|row| i64::from(a.value(row)))
        } else {
            let value = |row| springhouse_kernel::value_at(column.as_ref(), row, value_type);
            return Some((0..column.len()).map(|row| event_id::of_value(&value(row)).unwrap_or(0)).collect());
        };
        (0..column.len()).map(|row| or_zero(row, event_id::of_integer(integers(row)))).collect()
    })
}
