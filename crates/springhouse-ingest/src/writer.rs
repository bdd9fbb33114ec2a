//! The thread that decides: in log order it stamps rows, finds duplicates, writes groups and makes them durable.

use crate::applier::{Answer, ToApplier};
use crate::dedup::Dedup;
use crate::log::{LogError, LogWriter, Record, encode_rows};
use crate::messages::Places;
use crate::outcome::{PushError, PushOutcome, RowOutcome};
use crate::progress::{Permit, Progress};
use crate::rows::Piece;
use crate::stamp::{Decided, decide};
use crate::topics::{Known, Origin, TopicPositions};
use crate::validate::{CheckedRows, SourceSchema};
use bytes::Bytes;
use parking_lot::Mutex;
use springhouse_core::Micros;
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
        let (origin, places) = origin.unzip();
        // A message was appended at its own moment, a pushed row with its push.
        let decided = decide(schema, checked, known_at, places.is_some(), dedup)?;
        let Decided { rows, ids, known_at: row_known_at, mut refused, duplicates, accepted, .. } = decided;
        if decided.is_changed {
            let internal = |e: arrow::error::ArrowError| PushError::new("malformed_body", e.to_string());
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
        let ids = ids.filter(|ids| ids.iter().any(|id| *id != 0));
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
}

fn log_failed(why: &str) -> PushError {
    PushError::new("log_failed", format!("the row log can't be written: {why}"))
        .hint("nothing of this push was acknowledged; look at the disk, then start the program again")
}
