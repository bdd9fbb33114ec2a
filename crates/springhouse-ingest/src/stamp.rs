//! Which checked rows count, and when each was known: the same for what is pushed and for what is read from a topic.

use crate::dedup::{Dedup, source_salt};
use crate::log::RefusedRow;
use crate::outcome::PushError;
use crate::validate::{CheckedRows, SourceSchema, timestamps};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use springhouse_core::Micros;
use springhouse_core::definition::Source;
use springhouse_core::time::format_instant;
use std::sync::Arc;

/// What was decided about checked rows.
pub(crate) struct Decided {
    /// The rows that count, with clamped event times.
    pub(crate) rows: RecordBatch,
    /// Their numbers; none when all of them count.
    pub(crate) numbers: Option<Vec<u32>>,
    /// Their identities, as they were checked.
    pub(crate) ids: Option<Vec<u128>>,
    /// When each was known; none: all at the append.
    pub(crate) known_at: Option<Vec<Micros>>,
    /// Those that don't, by number.
    pub(crate) refused: Vec<RefusedRow>,
    /// Numbers of those that came before.
    pub(crate) duplicates: Vec<u32>,
    /// Events that count.
    pub(crate) accepted: usize,
    /// True when the rows are others than the checked ones.
    pub(crate) is_changed: bool,
}

/// Decides about each row. `known_at` is the moment of the append; messages have moments of their own, never later than that.
pub(crate) fn decide(
    schema: &SourceSchema,
    checked: CheckedRows,
    known_at: Micros,
    are_messages: bool,
    dedup: &mut Dedup,
) -> Result<Decided, PushError> {
    let CheckedRows { mut rows, mut numbers, mut ids, known_at: mut row_known_at, mut refused } = checked;
    // Neither a backfilled row nor a message can have been known later than now.
    if let Some(times) = &mut row_known_at {
        times.iter_mut().for_each(|time| *time = (*time).min(known_at));
    }
    let at = Appended::of_rows(known_at, row_known_at.as_deref(), are_messages);
    let fates = fates(schema, &rows, (numbers.as_deref(), ids.as_deref()), known_at, &at, dedup);
    let Some(fates) = fates else {
        let accepted = match &numbers {
            None => rows.num_rows(),
            Some(numbers) => events(0..rows.num_rows(), &|row| numbers[row]),
        };
        let (known_at, duplicates) = (row_known_at, Vec::new());
        return Ok(Decided {
            rows,
            numbers,
            ids,
            known_at,
            refused,
            duplicates,
            accepted,
            is_changed: false,
        });
    };
    let number = |row: usize| numbers.as_ref().map_or(row as u32, |numbers| numbers[row]);
    let mut duplicates = Vec::new();
    for (row, fate) in fates.iter().enumerate() {
        match fate {
            Fate::Keep => {}
            // An update is two rows, and one event.
            _ if row > 0 && number(row - 1) == number(row) => {}
            Fate::Duplicate => duplicates.push(number(row)),
            Fate::OutOfTime => {
                let time = timestamps(rows.column(schema.event_time)).value(row);
                let row = if at.is_in_time(&schema.source, time, row) { row + 1 } else { row };
                refused.push(out_of_time(schema, &rows, row, number(row), at.of(row)));
            }
        }
    }
    let internal = |e: arrow::error::ArrowError| PushError::new("malformed_body", e.to_string());
    let is_kept = |row: &usize| fates[*row] == Fate::Keep;
    let accepted = events((0..fates.len()).filter(is_kept), &number);
    let keep: BooleanArray = fates.iter().map(|fate| Some(*fate == Fate::Keep)).collect();
    if keep.true_count() < keep.len() {
        numbers = Some((0..fates.len()).filter(is_kept).map(number).collect());
        rows = arrow::compute::filter_record_batch(&rows, &keep).map_err(internal)?;
        ids = ids.map(|ids| (0..ids.len()).filter(is_kept).map(|row| ids[row]).collect());
        row_known_at =
            row_known_at.map(|times| (0..times.len()).filter(is_kept).map(|row| times[row]).collect());
    }
    let at = Appended::of_rows(known_at, row_known_at.as_deref(), are_messages);
    if schema.source.op.is_none() {
        rows = clamp(schema, rows, &at).map_err(internal)?;
    }
    Ok(Decided {
        rows,
        numbers,
        ids,
        known_at: row_known_at,
        refused,
        duplicates,
        accepted,
        is_changed: true,
    })
}

/// What becomes of each checked row, given the event that it is of and its identity; none when all are kept as they
/// are. The rows of one event share their fate.
fn fates(
    schema: &SourceSchema,
    rows: &RecordBatch,
    (numbers, ids): (Option<&[u32]>, Option<&[u128]>),
    known_at: Micros,
    appended: &Appended<'_>,
    dedup: &mut Dedup,
) -> Option<Vec<Fate>> {
    let times = timestamps(rows.column(schema.event_time)).values();
    let has_future = times.iter().enumerate().any(|(row, time)| *time > appended.of(row));
    let out_of_time = |row: usize| !appended.is_in_time(&schema.source, times[row], row);
    let has_out_of_time = (0..rows.num_rows()).any(out_of_time);
    if !has_future && !has_out_of_time && ids.is_none() {
        return None;
    }
    let is_one_event = |a: usize, b: usize| numbers.is_some_and(|numbers| numbers.get(a) == numbers.get(b));
    let event_out_of_time = |row: usize| {
        out_of_time(row)
            || row > 0 && is_one_event(row - 1, row) && out_of_time(row - 1)
            || row + 1 < rows.num_rows() && is_one_event(row, row + 1) && out_of_time(row + 1)
    };
    let salt = source_salt(&schema.source.name);
    let mut changed = has_future;
    let fates = (0..rows.num_rows())
        .map(|row| {
            let id = ids.map_or(0, |ids| ids[row]);
            let fate = if id != 0 && dedup.contains(id ^ salt) {
                Fate::Duplicate
            } else if has_out_of_time && event_out_of_time(row) {
                // Not remembered: the row may come again with a right time.
                Fate::OutOfTime
            } else if id != 0 && !dedup.insert(id ^ salt, known_at) {
                Fate::Duplicate
            } else {
                Fate::Keep
            };
            changed |= fate != Fate::Keep;
            fate
        })
        .collect();
    changed.then_some(fates)
}

/// A row whose event time can't be.
fn out_of_time(
    schema: &SourceSchema,
    rows: &RecordBatch,
    row: usize,
    number: u32,
    appended: Micros,
) -> RefusedRow {
    let source = &schema.source;
    let time = timestamps(rows.column(schema.event_time)).value(row);
    let (code, limit, where_) = if time > appended {
        ("event_time_in_future", source.max_clock_skew, "after")
    } else {
        ("event_time_too_old", source.max_event_age, "before")
    };
    let mut reason = format!(
        "column `{}` is {}, which is more than {} {where_} the append at {}",
        source.event_time,
        format_instant(time),
        springhouse_core::time::format_duration(limit),
        format_instant(appended)
    );
    if code == "event_time_too_old" {
        reason.push_str("; numbers are microseconds since 1970. What is that old comes as backfill, or with a greater `max_event_age`");
    }
    RefusedRow { row: number, code, reason, text: crate::validate::row_text(rows, row) }
}

/// How many events ascending rows are of.
fn events(rows: impl Iterator<Item = usize>, number: &dyn Fn(usize) -> u32) -> usize {
    let mut last = None;
    rows.filter(|row| last.replace(number(*row)) != Some(number(*row))).count()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Duplicate,
    OutOfTime,
}

/// When rows were appended.
enum Appended<'a> {
    /// All at one moment.
    AtOnce(Micros),
    /// All at one moment, of events that may be of any age.
    Backfill(Micros),
    /// Each at its own.
    Each(&'a [Micros]),
}

impl<'a> Appended<'a> {
    /// Messages were appended at moments of their own; for other rows such moments say that they are a backfill.
    fn of_rows(at_once: Micros, each: Option<&'a [Micros]>, are_messages: bool) -> Self {
        match each {
            None => Self::AtOnce(at_once),
            Some(each) if are_messages => Self::Each(each),
            Some(_) => Self::Backfill(at_once),
        }
    }

    /// True when the row's event time is neither farther after its append than clocks may differ, nor too long before it.
    fn is_in_time(&self, source: &Source, time: Micros, row: usize) -> bool {
        let appended = self.of(row);
        let is_old = time < appended.saturating_sub(source.max_event_age);
        time <= appended.saturating_add(source.max_clock_skew)
            && (!is_old || matches!(self, Self::Backfill(_)))
    }

    fn of(&self, row: usize) -> Micros {
        match self {
            Self::AtOnce(moment) | Self::Backfill(moment) => *moment,
            Self::Each(moments) => moments[row],
        }
    }
}

/// Event times after the append become its moment. Not for rows that can be taken back, which are named by theirs: they are
/// visible once it has come.
fn clamp(
    schema: &SourceSchema,
    rows: RecordBatch,
    appended: &Appended<'_>,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let times = timestamps(rows.column(schema.event_time));
    if times.values().iter().enumerate().all(|(row, time)| *time <= appended.of(row)) {
        return Ok(rows);
    }
    let clamped = times.values().iter().enumerate().map(|(row, time)| (*time).min(appended.of(row)));
    let clamped = TimestampMicrosecondArray::from_iter_values(clamped);
    let clamped: ArrayRef = Arc::new(clamped.with_data_type(times.data_type().clone()));
    let mut columns = rows.columns().to_vec();
    columns[schema.event_time] = clamped;
    RecordBatch::try_new(rows.schema(), columns)
}
