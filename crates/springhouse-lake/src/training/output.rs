//! Writing a training set: chunks are assembled and encoded in parallel and written in order; the same rows give the same
//! bytes whatever the number of threads. In a Parquet file a chunk is a row group.

use crate::error::{LakeError, Result};
use crate::partial::{PARTIAL, discard, hold, remove_abandoned};
use crate::source::scan::in_parallel;
use crate::training::assemble::Assembler;
use crate::training::column_file::rearrange;
use crate::training::label_table::changed;
use crate::training::labels::{LabelReader, Labels};
use crate::training::output_file::OutputFile;
use crate::training::request::{OutputFormat, TrainingOutput};
use crate::training::sink::{self, Taker};
use crate::training::stages::Stages;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

/// Most rows of a chunk.
const CHUNK_ROWS_MAX: u64 = 65_536;
/// Fewest rows of a chunk, however wide they are.
const CHUNK_ROWS_MIN: u64 = 256;
/// About how many bytes a chunk may have.
const CHUNK_BYTES: u64 = 64 << 20;

/// Rows of a chunk; depends on the columns alone, so that files are the same on every machine.
pub(crate) fn chunk_rows(schema: &Schema) -> u64 {
    let width: u64 = schema.fields().iter().map(|f| crate::training::gather::width(f.data_type())).sum();
    (CHUNK_BYTES / width.max(1)).clamp(CHUNK_ROWS_MIN, CHUNK_ROWS_MAX)
}

/// The output's columns: the labels', then the features'.
pub(crate) fn output_schema(labels: &Labels, features: Vec<Field>) -> Result<SchemaRef> {
    let mut fields: Vec<Field> = labels.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    for feature in features {
        if labels.find(feature.name()).is_some() {
            return Err(LakeError::new(
                "labels_column_taken",
                format!(
                    "the labels `{}` have a column `{}`, which is a feature asked for too",
                    labels.name,
                    feature.name()
                ),
            )
            .hint("rename or drop the column in the labels"));
        }
        fields.push(feature);
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// What many threads make pieces for and one after the other takes, in the pieces' order.
pub(crate) struct Turns<T> {
    state: Mutex<Turn<T>>,
    changed: Condvar,
}

struct Turn<T> {
    /// None while somebody has it.
    of: Option<T>,
    next: usize,
    /// Most pieces that are left for others to take.
    left_max: usize,
    failed: bool,
    /// Pieces whose turn has not come, by number, and how they are taken.
    left: BTreeMap<usize, Left<T>>,
}

type Left<T> = Box<dyn FnOnce(&mut T) -> Result<()> + Send>;

impl<T> Turns<T> {
    pub(crate) fn new(of: T) -> Self {
        Self::leaving(of, 0)
    }

    /// So many pieces may be left for others to take.
    pub(crate) fn leaving(of: T, left_max: usize) -> Self {
        let turn = Turn { of: Some(of), next: 0, left_max, failed: false, left: BTreeMap::new() };
        Self { state: Mutex::new(turn), changed: Condvar::new() }
    }

    /// Waits until all pieces before this one were taken, and takes it; false where another failed.
    pub(crate) fn take(&self, piece: usize, take: impl FnOnce(&mut T) -> Result<()>) -> Result<bool> {
        let mut turn = self.state.lock();
        while turn.next != piece && !turn.failed {
            self.changed.wait(&mut turn);
        }
        self.take_next(turn, take)
    }

    /// The same, where the piece may be left for who takes the one before it. Waits while as many as may be are left already.
    pub(crate) fn leave(
        &self,
        piece: usize,
        take: impl FnOnce(&mut T) -> Result<()> + Send + 'static,
    ) -> Result<bool> {
        let mut turn = self.state.lock();
        while turn.next != piece && turn.left.len() >= turn.left_max && !turn.failed {
            self.changed.wait(&mut turn);
        }
        if turn.next == piece || turn.failed {
            return self.take_next(turn, take);
        }
        turn.left.insert(piece, Box::new(take));
        Ok(true)
    }

    /// Takes the piece whose turn it is, and those after it that were left. Others may leave theirs meanwhile.
    fn take_next<'t>(
        &'t self,
        mut turn: MutexGuard<'t, Turn<T>>,
        take: impl FnOnce(&mut T) -> Result<()>,
    ) -> Result<bool> {
        if turn.failed {
            return Ok(false);
        }
        let Some(mut of) = turn.of.take() else {
            return Err(LakeError::internal("two pieces have their turn"));
        };
        let mut taken = MutexGuard::unlocked(&mut turn, || take(&mut of));
        while taken.is_ok() {
            turn.next += 1;
            let next = turn.next;
            let Some(take) = turn.left.remove(&next) else { break };
            self.changed.notify_all();
            taken = MutexGuard::unlocked(&mut turn, || take(&mut of));
        }
        turn.of = Some(of);
        turn.failed |= taken.is_err();
        self.changed.notify_all();
        taken.map(|()| true)
    }

    /// Makes pieces on many threads; where one fails nobody waits for it.
    pub(crate) fn in_parallel(
        &self,
        threads: usize,
        count: usize,
        make: &(dyn Fn(usize) -> Result<()> + Sync),
    ) -> Result<()>
    where
        T: Send,
    {
        in_parallel(threads, count, &|number| {
            make(number).inspect_err(|_| {
                self.state.lock().failed = true;
                self.changed.notify_all();
            })
        })
    }

    /// What is left of it when all are done.
    pub(crate) fn into_inner(self) -> Result<T> {
        self.state.into_inner().of.ok_or_else(|| LakeError::internal("a piece was not taken to its end"))
    }
}

/// Chunks that are written together, and what is done before and after: the answers of one range are in memory at a time.
pub(crate) struct Rounds<'a> {
    /// Chunks of one range.
    pub chunks: usize,
    /// Makes the answers of a range.
    pub begin: &'a dyn Fn(usize) -> Result<()>,
    /// Forgets them.
    pub end: &'a dyn Fn(usize) -> Result<()>,
    /// Where time goes.
    pub stages: &'a Stages,
    /// A Parquet file has its columns one after the other, but for so many of the first fields.
    pub columns_after: Option<usize>,
}

/// Where chunks come from.
pub(crate) trait Chunks: Sync {
    /// The next chunk's rows, with its number and the number of its first row; called by one thread at a time.
    fn next(&self) -> Result<Option<(usize, u64, RecordBatch)>>;

    /// The columns of the output for these rows; called by many threads.
    fn columns(&self, chunk: usize, first_row: u64, rows: &RecordBatch) -> Result<Vec<ArrayRef>>;
}

/// The labels' own columns, in chunks.
pub(crate) struct LabelColumns<'a> {
    labels: &'a Labels,
    reader: Mutex<(usize, LabelReader<'a>)>,
    rows: u64,
    chunk_rows: u64,
}

impl<'a> LabelColumns<'a> {
    /// Of labels that had so many rows when their keys were read.
    pub(crate) fn new(labels: &'a Labels, rows: u64, chunk_rows: u64) -> Self {
        let columns = (0..labels.schema.fields().len()).collect();
        Self { labels, reader: Mutex::new((0, labels.read(columns))), rows, chunk_rows }
    }

    /// As [`Chunks::next`].
    pub(crate) fn next(&self) -> Result<Option<(usize, u64, RecordBatch)>> {
        let mut reader = self.reader.lock();
        let next = reader.1.next_chunk(self.chunk_rows as usize)?;
        let chunk = reader.0;
        reader.0 += 1;
        let left = self.rows.saturating_sub(chunk as u64 * self.chunk_rows);
        if next.as_ref().map_or(0, |(_, batch)| batch.num_rows() as u64) != left.min(self.chunk_rows) {
            return Err(changed(&self.labels.name));
        }
        Ok(next.map(|(first_row, batch)| (chunk, first_row, batch)))
    }
}

/// Chunks of labels, with features.
pub(crate) struct LabelChunks<'a> {
    labels: LabelColumns<'a>,
    assembler: &'a Assembler<'a>,
}

impl<'a> LabelChunks<'a> {
    pub(crate) fn new(labels: LabelColumns<'a>, assembler: &'a Assembler<'a>) -> Self {
        Self { labels, assembler }
    }
}

impl Chunks for LabelChunks<'_> {
    fn next(&self) -> Result<Option<(usize, u64, RecordBatch)>> {
        self.labels.next()
    }

    fn columns(&self, chunk: usize, first_row: u64, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let mut columns = rows.columns().to_vec();
        columns.extend(self.assembler.chunk(chunk, first_row, rows)?);
        Ok(columns)
    }
}

/// Writes all chunks; returns the rows written.
pub(crate) fn write(
    out: &TrainingOutput<'_>,
    schema: &SchemaRef,
    chunks: &dyn Chunks,
    chunk_count: usize,
    rounds: &Rounds<'_>,
    threads: usize,
    report: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<u64> {
    let write_to =
        |file: Option<OutputFile>| write_to(file, out, schema, chunks, chunk_count, rounds, threads, report);
    match (out, rounds.columns_after) {
        (TrainingOutput::File(path, OutputFormat::Parquet), Some(fields)) => {
            let fail = |e: &dyn std::fmt::Display| LakeError::unwritable(path, e);
            let by_rows = ByRows(path.with_file_name(format!(
                "{}{}.rows{PARTIAL}",
                partial_prefix(path),
                process::id()
            )));
            let file = OutputFile::create(&by_rows.0).map_err(|e| fail(&e))?;
            // Says that somebody is at it, as in `to_file`.
            let from = File::open(&by_rows.0).map_err(|e| fail(&e))?;
            let _ = from.try_lock();
            let written = write_to(Some(file))?;
            rounds.stages.time("write", "", || {
                to_file(path, |file| {
                    let file = rearrange(&from, schema, fields, file).map_err(|e| fail(&e))?;
                    file.finish().map_err(|e| fail(&e))
                })
            })?;
            Ok(written)
        }
        (TrainingOutput::File(path, _), _) => to_file(path, |file| write_to(Some(file))),
        (_, _) => write_to(None),
    }
}

/// A file that is removed when it is of no use any more.
struct ByRows(PathBuf);

impl Drop for ByRows {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, "a file that was only on the way can't be removed");
        }
    }
}

/// Writes to a file that has another name until it is whole.
pub(crate) fn to_file<T>(path: &Path, write: impl FnOnce(OutputFile) -> Result<T>) -> Result<T> {
    let partial = partial_path(path);
    let unwritable = |e: &dyn std::fmt::Display| LakeError::unwritable(path, e);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    remove_abandoned(directory, &partial_prefix(path));
    let file = OutputFile::create(&partial).map_err(|e| unwritable(&e))?;
    let held = File::open(&partial).map_err(|e| unwritable(&e))?;
    hold(&held);
    let written = write(file).inspect_err(|_| discard(&partial))?;
    // Who holds the file that was there frees its blocks, some tens of milliseconds for a large one; nobody waits for that.
    let replaced = path.is_file().then(|| File::open(path));
    std::fs::rename(&partial, path).map_err(|e| unwritable(&e))?;
    let _ = std::thread::Builder::new().spawn(move || drop(replaced));
    Ok(written)
}

fn partial_path(out: &Path) -> PathBuf {
    out.with_file_name(format!("{}{}{PARTIAL}", partial_prefix(out), process::id()))
}

fn partial_prefix(out: &Path) -> String {
    format!(".{}.", out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default())
}

#[expect(clippy::too_many_arguments, reason = "the body of `write`, apart only for its cleaning up")]
fn write_to(
    file: Option<OutputFile>,
    out: &TrainingOutput<'_>,
    schema: &SchemaRef,
    chunks: &dyn Chunks,
    chunk_count: usize,
    rounds: &Rounds<'_>,
    threads: usize,
    report: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<u64> {
    let place = out.path().unwrap_or_else(|| Path::new("-"));
    let fail = |e: &dyn std::fmt::Display| LakeError::unwritable(place, e);
    let (encoder, taker) = sink::open(out, file, schema, &fail)?;
    let turns = Turns::new(taker);
    let written = Mutex::new(0u64);
    let one = |_: usize| -> Result<()> {
        let Some((chunk, first_row, batch)) = chunks.next()? else { return Ok(()) };
        let encoded = encoder.encode(chunk, chunks.columns(chunk, first_row, &batch)?, &fail)?;
        let take = |taker: &mut Taker<'_>| {
            taker.take(encoded, &fail)?;
            let mut written = written.lock();
            *written += batch.num_rows() as u64;
            report(*written)
        };
        turns.take(chunk, take).map(drop)
    };
    for (range, first) in (0..chunk_count).step_by(rounds.chunks).enumerate() {
        (rounds.begin)(range)?;
        rounds
            .stages
            .time("write", "", || turns.in_parallel(threads, rounds.chunks.min(chunk_count - first), &one))?;
        (rounds.end)(range)?;
    }
    rounds.stages.time("write", "", || turns.into_inner()?.finish(&fail))?;
    Ok(written.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::draws;

    #[test]
    fn pieces_are_taken_in_order_whoever_makes_them_and_leaves_them() {
        let mut below = draws(41);
        for round in 0..60 {
            let (threads, count, left_max) = (1 + below(4) as usize, below(30) as usize, below(3) as usize);
            let waits: Vec<u64> = (0..count).map(|_| below(10_000)).collect();
            let is_left: Vec<bool> = (0..count).map(|_| below(3) > 0).collect();
            let fails = (below(4) == 0).then(|| below(30) as usize).filter(|piece| *piece < count);
            let turns = Turns::leaving(Vec::new(), left_max);
            let made = turns.in_parallel(threads, count, &|piece| {
                (0..waits[piece]).for_each(|_| std::hint::spin_loop());
                let take = move |taken: &mut Vec<usize>| {
                    taken.push(piece);
                    match fails == Some(piece) {
                        true => Err(LakeError::internal("this one can't be written")),
                        false => Ok(()),
                    }
                };
                if is_left[piece] { turns.leave(piece, take) } else { turns.take(piece, take) }.map(drop)
            });
            assert_eq!(made.is_err(), fails.is_some(), "round {round}");
            let expected = 0..fails.map_or(count, |piece| piece + 1);
            assert_eq!(turns.into_inner().unwrap(), expected.collect::<Vec<_>>(), "round {round}");
        }
    }
}
