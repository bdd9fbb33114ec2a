//! Refused rows: the newest in memory, all of them in the lake.

use crate::log::Record;
use crate::outcome::DeadLetter;
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::error::ArrowError;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Most letters of one source kept in memory.
const RECENT_MAX: usize = 1_000;

/// The columns of the dead-letter table.
const COLUMNS: [&str; 5] = ["offset", "refused_at", "code", "reason", "row"];

/// The letters of a record.
pub(crate) fn of_record(record: &Record) -> Vec<DeadLetter> {
    let letters = record.refused.iter().zip(record.first_refused()..);
    letters
        .map(|(refused, offset)| DeadLetter {
            offset,
            refused_at: record.known_at,
            code: refused.code.to_owned(),
            reason: refused.reason.clone(),
            row: refused.text.clone(),
        })
        .collect()
}

/// Letters as rows of the dead-letter table: text columns, so that it never changes its types.
pub(crate) fn to_batch(letters: &[DeadLetter]) -> Result<RecordBatch, ArrowError> {
    let column = |text: &dyn Fn(&DeadLetter) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(letters.iter().map(text)))
    };
    RecordBatch::try_from_iter(COLUMNS.into_iter().zip([
        column(&|l| l.offset.to_string()),
        column(&|l| springhouse_core::time::format_instant(l.refused_at)),
        column(&|l| l.code.clone()),
        column(&|l| l.reason.clone()),
        column(&|l| l.row.clone()),
    ]))
}

/// The letters in rows of the dead-letter table; rows that are no letters are left out.
pub(crate) fn from_batch(rows: &RecordBatch) -> Vec<DeadLetter> {
    let texts: Option<Vec<_>> = COLUMNS
        .into_iter()
        .map(|name| rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()))
        .collect();
    let Some(texts) = texts else { return Vec::new() };
    let letter = |row: usize| {
        Some(DeadLetter {
            offset: texts[0].value(row).parse().ok()?,
            refused_at: springhouse_core::time::parse_instant(texts[1].value(row)).ok()?,
            code: texts[2].value(row).to_owned(),
            reason: texts[3].value(row).to_owned(),
            row: texts[4].value(row).to_owned(),
        })
    };
    (0..rows.num_rows()).filter_map(letter).collect()
}

/// The newest letters of each source.
#[derive(Debug, Default)]
pub(crate) struct RecentLetters(Mutex<HashMap<String, VecDeque<DeadLetter>>>);

impl RecentLetters {
    pub(crate) fn add(&self, source: &str, letters: Vec<DeadLetter>) {
        if letters.is_empty() {
            return;
        }
        let mut all = self.0.lock();
        let recent = all.entry(source.to_owned()).or_default();
        recent.extend(letters);
        let surplus = recent.len().saturating_sub(RECENT_MAX);
        recent.drain(..surplus);
    }

    /// The newest, newest last.
    pub(crate) fn newest(&self, source: &str, limit: usize) -> Vec<DeadLetter> {
        let all = self.0.lock();
        let Some(recent) = all.get(source) else { return Vec::new() };
        recent.iter().skip(recent.len().saturating_sub(limit)).cloned().collect()
    }
}
