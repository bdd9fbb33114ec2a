//! The thread that decides: in log order it stamps rows, finds duplicates, writes groups and makes them durable.

use crate::applier::{Answer, ToApplier};
use crate::dedup::{Dedup, source_salt};
use crate::log::{LogError, LogWriter, Record, RefusedRow, encode_rows};
use crate::messages::Places;
use crate::outcome::{PushError, PushOutcome, RowOutcome};
use crate::progress::{Permit, Progress};
use crate::rows::Piece;
use crate::topics::{Known, Origin, TopicPositions};
use crate::validate::{CheckedRows, SourceSchema, timestamps};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use bytes::Bytes;
use parking_lot::Mutex;
use springhouse_core::Micros;
use springhouse_core::definition::Source;
use springhouse_core::time::format_instant;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A group is written at this size without waiting for more.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// What the writer is told.
pub(crate) enum ToWriter {
    /// A checked push.
    Push(Box<Submission>),
    /// Finish what was sent before, then stop; `clean` appends the record of a clean stop.
    Stop {
        /// False leaves the log as a crash would.
        clean: bool,
    },
}

/// A checked push on its way into the log.
pub(crate) struct Submission {
    pub(crate) schema: Arc<SourceSchema>,
    pub(crate) checked: CheckedRows,
    /// [`encode_rows`] of the checked rows, made ahead: mostly all of them are accepted as they are.
    pub(crate) encoded: Bytes,
    pub(crate) batch_key: Option<u128>,
    /// The messages that the rows came in, and their places by row number.
    pub(crate) origin: Option<(Origin, Places)>,
    pub(crate) reply: oneshot::Sender<Result<PushOutcome, PushError>>,
    pub(crate) permit: Permit,
}

pub(crate) struct Writer {
    pub(crate) log: LogWriter,
    pub(crate) dedup: Arc<Mutex<Dedup>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) applier: Sender<ToApplier>,
    pub(crate) last_known_at: Micros,
    pub(crate) company_delay: Duration,
    /// With the present group.
    pub(crate) positions: TopicPositions,
    /// What is durable.
    pub(crate) durable_positions: Arc<Mutex<TopicPositions>>,
    pub(crate) has_new_positions: bool,
}

impl Writer {
    /// Runs until it is told to stop, or everyone who could tell it anything is gone.
    pub(crate) fn run(mut self, queue: &Receiver<ToWriter>) {
        let mut next = queue.recv().ok();
        while let Some(ToWriter::Push(first)) = next {
            next = self.one_group(first, queue);
            if next.is_none() {
                next = queue.recv().ok();
            }
        }
        if let Some(ToWriter::Stop { clean: true }) = next
            && let Err(error) = self.log.close()
        {
            tracing::warn!(%error, "the log was not closed cleanly");
        }
        // The applier may be gone already; then there is nothing to stop.
        let _ = self.applier.send(ToApplier::Stop);
    }

    /// Writes one group; gives back the message that ended it, if one did.
    fn one_group(&mut self, first: Box<Submission>, queue: &Receiver<ToWriter>) -> Option<ToWriter> {
        self.progress.groups_begun.fetch_add(1, SeqCst);
        let mut answers = Vec::new();
        let mut end_message = None;
        let deadline = Instant::now() + self.company_delay;
        self.take(*first, &mut answers);
        while self.log.group_bytes() < GROUP_BYTES_MAX {
            match self.next_in_group(queue, deadline) {
                Some(ToWriter::Push(submission)) => self.take(*submission, &mut answers),
                Some(stop) => {
                    end_message = Some(stop);
                    break;
                }
                None => break,
            }
        }
        match self.log.commit() {
            Ok(()) => {
                if std::mem::take(&mut self.has_new_positions) {
                    *self.durable_positions.lock() = self.positions.clone();
                }
                let group =
                    ToApplier::Group { answers, end: self.log.next_offset(), known_at: self.last_known_at };
                if let Err(returned) = self.applier.send(group) {
                    returned.0.refuse(|| PushError::new("shutting_down", "the node is stopping"));
                }
            }
            Err(error) => {
                let text = error.to_string();
                answers.into_iter().for_each(|answer| answer.refuse(log_failed(&text)));
                self.progress.groups_applied.fetch_add(1, SeqCst);
            }
        }
        end_message
    }

    /// The next push of the present group: one that is there, or one that is being checked right now.
    fn next_in_group(&self, queue: &Receiver<ToWriter>, deadline: Instant) -> Option<ToWriter> {
        match queue.try_recv() {
            Ok(message) => return Some(message),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        if self.progress.checking.load(SeqCst) == 0 {
            return None;
        }
        queue.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    fn take(&mut self, submission: Submission, answers: &mut Vec<Answer>) {
        let log = &self.progress.log;
        if let Some(why) = log.failure() {
            let error = log_failed(why);
            // Nobody waits any more when the caller went away.
            let _ = submission.reply.send(Err(error));
            return;
        }
        let known_at = self.progress.clock.now().max(self.last_known_at);
        self.last_known_at = known_at;
        let dedup = self.dedup.clone();
        let mut dedup = dedup.lock();
        dedup.expire(known_at);
        if let Some(key) = submission.batch_key
            && let Some(first) = dedup.batch(key)
        {
            let Submission { reply, permit, .. } = submission;
            answers.push(Answer {
                outcome: (*first).clone(),
                rows: None,
                letters: None,
                reply,
                _permit: permit,
            });
            return;
        }
        if let Some((origin, _)) = &submission.origin {
            match self.positions.place(&submission.schema.source.name, origin) {
                Ok(Known::New) => {}
                // They are in the log already: the answer to the first time was lost, or the store did not take them then.
                Ok(Known::Read) => {
                    let outcome = PushOutcome::nothing(self.log.next_offset(), known_at);
                    let Submission { reply, permit, .. } = submission;
                    answers.push(Answer { outcome, rows: None, letters: None, reply, _permit: permit });
                    return;
                }
                Err(error) => return drop(submission.reply.send(Err(error))),
            }
        }
        let Submission { schema, checked, encoded, batch_key, origin, reply, permit } = submission;
        match self.stamp(&schema, checked, encoded, batch_key, origin, known_at, &mut dedup) {
            Ok((piece, record, outcome)) => {
                if let Some(origin) = &record.origin {
                    self.positions.advance(&record.source, origin);
                    self.has_new_positions = true;
                }
                if let Some(key) = batch_key {
                    dedup.insert_batch(key, known_at, outcome.clone());
                }
                let name: Arc<str> = schema.source.name.as_str().into();
                let letters = (!record.refused.is_empty())
                    .then(|| (name.clone(), crate::dead_letters::of_record(&record)));
                let rows = piece.map(|piece| (name, piece));
                answers.push(Answer { outcome, rows, letters, reply, _permit: permit });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Decides about each row and adds the record to the group.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a submission, taken apart by its only caller"
    )]
    fn stamp(
        &mut self,
        schema: &SourceSchema,
        checked: CheckedRows,
        mut encoded: Bytes,
        batch_key: Option<u128>,
        origin: Option<(Origin, Places)>,
        known_at: Micros,
        dedup: &mut Dedup,
    ) -> Result<(Option<Piece>, Record, PushOutcome), PushError> {
        let CheckedRows { mut rows, numbers, mut ids, known_at: mut row_known_at, mut refused } = checked;
        let number = |row: usize| numbers.as_ref().map_or(row as u32, |numbers| numbers[row]);
        // Neither a backfilled row nor a message can have been known later than now.
        if let Some(times) = &mut row_known_at {
            times.iter_mut().for_each(|time| *time = (*time).min(known_at));
        }
        let (origin, places) = origin.unzip();
        // A message was appended at its own moment, a pushed row with its push.
        let is_read = places.is_some();
        let at = Appended::of_rows(known_at, row_known_at.as_deref(), is_read);
        let fates = self.fates(schema, &rows, (numbers.as_deref(), ids.as_deref()), known_at, &at, dedup);
        let mut duplicates = Vec::new();
        let mut accepted = match numbers {
            None => rows.num_rows(),
            Some(_) => events(0..rows.num_rows(), &number),
        };
        if let Some(fates) = &fates {
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
            accepted = events((0..fates.len()).filter(|row| fates[*row] == Fate::Keep), &number);
            let keep: BooleanArray = fates.iter().map(|fate| Some(*fate == Fate::Keep)).collect();
            if keep.true_count() < keep.len() {
                rows = arrow::compute::filter_record_batch(&rows, &keep).map_err(internal)?;
                let kept = |row: &usize| fates[*row] == Fate::Keep;
                ids = ids.map(|ids| (0..ids.len()).filter(kept).map(|row| ids[row]).collect());
                row_known_at =
                    row_known_at.map(|times| (0..times.len()).filter(kept).map(|row| times[row]).collect());
            }
            let at = Appended::of_rows(known_at, row_known_at.as_deref(), is_read);
            if schema.source.op.is_none() {
                rows = clamp(schema, rows, &at).map_err(internal)?;
            }
            encoded =
                if rows.num_rows() == 0 { Bytes::new() } else { encode_rows(&rows).map_err(internal)? };
        }
        if let (Some(places), Some(origin)) = (&places, &origin) {
            for refused in &mut refused {
                let (partition, offset) = places[refused.row as usize];
                let place = format!(" (topic `{}`, partition {partition}, offset {offset})", origin.topic);
                refused.reason.push_str(&place);
            }
        }
        if ids.as_ref().is_some_and(|ids| ids.iter().all(|id| *id == 0)) {
            ids = None;
        }
        refused.sort_unstable_by_key(|refused| refused.row);
        let mut exceptions: Vec<(usize, RowOutcome)> =
            duplicates
                .iter()
                .map(|row| (*row as usize, RowOutcome::Duplicate))
                .chain(refused.iter().map(|r| {
                    (r.row as usize, RowOutcome::Refused { code: r.code, reason: r.reason.clone() })
                }))
                .collect();
        exceptions.sort_unstable_by_key(|(row, _)| *row);
        let record = Record {
            group_start: 0,
            source: schema.source.name.clone(),
            base: self.log.next_offset(),
            accepted: rows.num_rows() as u32,
            known_at,
            batch_key,
            duplicates: if batch_key.is_some() { duplicates.clone() } else { Vec::new() },
            row_known_at: row_known_at.clone(),
            ids: ids.clone(),
            refused,
            origin,
            rows: if rows.num_rows() == 0 { Bytes::new() } else { encoded },
        };
        let outcome = PushOutcome {
            accepted,
            duplicates: duplicates.len(),
            refused: record.refused.len(),
            exceptions,
            end_offset: record.end(),
            known_at,
        };
        // What has no row and no key leaves nothing to remember.
        if record.end() > record.base || batch_key.is_some() || record.origin.is_some() {
            self.log.add(&record).map_err(|e: LogError| log_failed(&e.to_string()))?;
        }
        let piece =
            (rows.num_rows() > 0).then(|| Piece { rows, base: record.base, known_at, row_known_at, ids });
        Ok((piece, record, outcome))
    }

    /// What becomes of each checked row, given the event that it is of and its identity; none when all are kept as they
    /// are. The rows of one event share their fate.
    fn fates(
        &self,
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
        let is_one_event =
            |a: usize, b: usize| numbers.is_some_and(|numbers| numbers.get(a) == numbers.get(b));
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

fn log_failed(why: &str) -> PushError {
    PushError::new("log_failed", format!("the row log can't be written: {why}"))
        .hint("nothing of this push was acknowledged; look at the disk, then start the program again")
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
