//! Rows put aside by partition: in memory while they fit the budget, else in one temporary file that has no name, so that
//! nothing is left behind whatever kills the process.

use crate::error::{LakeError, Result};
use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use parking_lot::Mutex;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Partitions that hold less than one part in this many of the budget are not written to disk.
const SPILL_SHARE: u64 = 16;

/// Pieces that share memory with other partitions are copied at so many bytes.
const SHARED_BYTES_MAX: u64 = 48 << 20;

/// Bytes that a job may hold in buffers, shared by all its partitions.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Takes bytes; false when that is more than there are.
    pub(crate) fn add(&self, bytes: u64) -> bool {
        self.used.fetch_add(bytes, Ordering::AcqRel) + bytes <= self.limit
    }

    /// Gives bytes back.
    pub(crate) fn subtract(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// The temporary file of a job, made when it is first needed.
#[derive(Debug)]
pub(crate) struct SpillFile {
    directory: PathBuf,
    state: Mutex<Option<(Arc<File>, u64)>>,
}

/// A batch in the temporary file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    offset: u64,
    length: u64,
}

impl SpillFile {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), state: Mutex::new(None) }
    }

    /// Bytes written.
    pub(crate) fn size(&self) -> u64 {
        self.state.lock().as_ref().map_or(0, |(_, end)| *end)
    }

    pub(crate) fn write(&self, batch: &RecordBatch) -> Result<Segment> {
        let bytes = encoded(batch)?;
        let (file, offset) = {
            let mut state = self.state.lock();
            let (file, end) = match state.take() {
                Some(open) => open,
                None => {
                    let file = tempfile::tempfile_in(&self.directory).map_err(|e| LakeError::spill(&e))?;
                    (Arc::new(file), 0)
                }
            };
            *state = Some((Arc::clone(&file), end + bytes.len() as u64));
            (file, end)
        };
        file.write_all_at(&bytes, offset).map_err(|e| LakeError::spill(&e))?;
        Ok(Segment { offset, length: bytes.len() as u64 })
    }

    pub(crate) fn read(&self, segment: Segment) -> Result<RecordBatch> {
        let file = self.state.lock().as_ref().map(|(file, _)| Arc::clone(file));
        let file = file.ok_or_else(|| LakeError::internal("nothing was spilled"))?;
        let mut bytes = vec![0; segment.length as usize];
        file.read_exact_at(&mut bytes, segment.offset).map_err(|e| LakeError::spill(&e))?;
        let mut reader = StreamReader::try_new(std::io::Cursor::new(bytes), None)?;
        reader.next().ok_or_else(|| LakeError::internal("a spilled segment is empty"))?.map_err(Into::into)
    }
}

/// A batch as an Arrow stream of its own.
pub(crate) fn encoded(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// A batch in memory or in the file.
#[derive(Debug)]
pub(crate) enum Stored {
    /// A piece of a batch whose other pieces are in other partitions: its memory is free when they all are.
    Shared(RecordBatch),
    /// Its memory is its own.
    Own(RecordBatch),
    Spilled(Segment),
}

impl Stored {
    pub(crate) fn load(&self, file: &SpillFile) -> Result<RecordBatch> {
        match self {
            Self::Shared(batch) | Self::Own(batch) => Ok(batch.clone()),
            Self::Spilled(segment) => file.read(*segment),
        }
    }
}

#[derive(Debug, Default)]
struct Part {
    stored: Vec<Stored>,
    rows: u64,
}

/// Rows in an order that has each partition's together.
#[derive(Debug)]
pub(crate) struct Grouping {
    /// Which row comes where.
    pub order: Vec<u32>,
    /// Rows of each partition.
    counts: Vec<u32>,
}

impl Grouping {
    /// Of rows of which `partition[i]` says where row `i` goes, below `count`.
    pub(crate) fn new(partition: &[u32], count: usize) -> Self {
        let counts = count_by_partition(partition, count);
        Self { order: order_by_partition(partition, &counts), counts }
    }

    /// That of the rows of partitions from one on, when they are alone and in order.
    pub(crate) fn from(&self, partition: usize) -> Self {
        let counts = self.counts.iter().enumerate();
        let counts: Vec<u32> =
            counts.map(|(number, count)| if number < partition { 0 } else { *count }).collect();
        Self { order: (0..counts.iter().sum()).collect(), counts }
    }

    /// The partitions that have rows, with where those are in the order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut start = 0;
        let ranges = self.counts.iter().enumerate().map(move |(partition, count)| {
            let range = start..start + *count as usize;
            start = range.end;
            (partition, range)
        });
        ranges.filter(|(_, range)| !range.is_empty())
    }
}

/// Rows by partition, each partition in the order in which its rows came (when one thread pushes).
#[derive(Debug)]
pub(crate) struct Partitions {
    schema: SchemaRef,
    parts: Vec<Mutex<Part>>,
    /// Bytes in memory.
    bytes: AtomicU64,
    /// Those in pieces that share memory.
    shared_bytes: AtomicU64,
    /// One thread at a time gives the pieces memory of their own.
    gathering: Mutex<()>,
    budget: Arc<Budget>,
    file: Arc<SpillFile>,
}

impl Partitions {
    pub(crate) fn new(count: usize, schema: SchemaRef, budget: &Arc<Budget>, file: &Arc<SpillFile>) -> Self {
        Self {
            schema,
            parts: (0..count.max(1)).map(|_| Mutex::default()).collect(),
            bytes: AtomicU64::new(0),
            shared_bytes: AtomicU64::new(0),
            gathering: Mutex::new(()),
            budget: Arc::clone(budget),
            file: Arc::clone(file),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.parts.len()
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How rows are to be ordered so that each partition's are together; `partition[i]` says where row `i` goes.
    pub(crate) fn grouping(&self, partition: &[u32]) -> Grouping {
        Grouping::new(partition, self.parts.len())
    }

    /// Adds rows in any order; `partition[i]` says where row `i` goes.
    pub(crate) fn push(&self, columns: &[ArrayRef], partition: &[u32]) -> Result<()> {
        let mut grouping = self.grouping(partition);
        let order = UInt32Array::from(std::mem::take(&mut grouping.order));
        let taken = columns.iter().map(|c| take(c, &order, None)).collect::<Result<Vec<_>, _>>()?;
        self.push_grouped(taken, &grouping)
    }

    /// Adds rows that are in the grouping's order.
    pub(crate) fn push_grouped(&self, columns: Vec<ArrayRef>, grouping: &Grouping) -> Result<()> {
        let grouped = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let fits = self.account(&grouped);
        for (partition, range) in grouping.ranges() {
            let mut part = self.parts[partition].lock();
            part.rows += range.len() as u64;
            part.stored.push(Stored::Shared(grouped.slice(range.start, range.len())));
        }
        // Someone else may hold most of the budget; little is gained by writing little.
        let is_worth_it = self.bytes.load(Ordering::Acquire) >= self.budget.limit / SPILL_SHARE;
        if !fits && is_worth_it {
            return self.spill();
        }
        match self.shared_bytes.load(Ordering::Acquire) >= SHARED_BYTES_MAX {
            true => self.unshare(),
            false => Ok(()),
        }
    }

    /// Gives the pieces of each partition memory of their own, so that a partition taken out frees what it had.
    fn unshare(&self) -> Result<()> {
        let Some(_guard) = self.gathering.try_lock() else { return Ok(()) };
        let before = self.shared_bytes.swap(0, Ordering::AcqRel);
        let mut own = 0;
        for part in &self.parts {
            let mut part = part.lock();
            let from = part.stored.iter().position(|s| matches!(s, Stored::Shared(_)));
            let Some(from) = from else { continue };
            let pieces = part.stored.split_off(from);
            let pieces: Vec<RecordBatch> =
                pieces.iter().map(|s| s.load(&self.file)).collect::<Result<_>>()?;
            let whole = concat_batches(&self.schema, &pieces)?;
            own += whole.get_array_memory_size() as u64;
            part.stored.push(Stored::Own(whole));
        }
        // In this order, as for `account`. What was pushed meanwhile may be counted as shared although it is not any more.
        self.budget.add(own);
        self.bytes.fetch_add(own, Ordering::AcqRel);
        self.give_back(before);
        Ok(())
    }

    /// Gives bytes back, at most those that are held: others may have been given back by a spill in another thread.
    fn give_back(&self, bytes: u64) {
        let mut held = self.bytes.load(Ordering::Acquire);
        loop {
            let back = bytes.min(held);
            match self.bytes.compare_exchange(held, held - back, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return self.budget.subtract(back),
                Err(now) => held = now,
            }
        }
    }

    fn account(&self, batch: &RecordBatch) -> bool {
        let bytes = batch.get_array_memory_size() as u64;
        // In this order: a spill in another thread must never give back more than was taken.
        let fits = self.budget.add(bytes);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.shared_bytes.fetch_add(bytes, Ordering::AcqRel);
        fits
    }

    /// Writes everything in memory to the file: slices share memory, so that only all of them together free it.
    fn spill(&self) -> Result<()> {
        for part in &self.parts {
            let mut part = part.lock();
            let from = part.stored.iter().position(|s| !matches!(s, Stored::Spilled(_)));
            let Some(from) = from else { continue };
            let tail = part.stored.split_off(from);
            let batches: Vec<RecordBatch> = tail.iter().map(|s| s.load(&self.file)).collect::<Result<_>>()?;
            let segment = self.file.write(&concat_batches(&self.schema, &batches)?)?;
            part.stored.push(Stored::Spilled(segment));
        }
        self.shared_bytes.store(0, Ordering::Release);
        self.budget.subtract(self.bytes.swap(0, Ordering::AcqRel));
        Ok(())
    }

    /// Rows in a partition.
    pub(crate) fn rows(&self, partition: usize) -> u64 {
        self.parts[partition].lock().rows
    }

    /// The batches of a partition, in order.
    pub(crate) fn load(&self, partition: usize) -> Result<Vec<RecordBatch>> {
        self.parts[partition].lock().stored.iter().map(|s| s.load(&self.file)).collect()
    }

    /// Bytes in memory, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Takes out the batches of a partition. What shares memory with other partitions is given back when all is gone.
    pub(crate) fn take(&self, partition: usize) -> Result<Vec<RecordBatch>> {
        let Part { stored, .. } = std::mem::take(&mut *self.parts[partition].lock());
        let own = stored.iter().map(|s| match s {
            Stored::Own(batch) => batch.get_array_memory_size() as u64,
            Stored::Shared(_) | Stored::Spilled(_) => 0,
        });
        let (own, batches) =
            (own.sum(), stored.iter().map(|s| s.load(&self.file)).collect::<Result<Vec<_>>>());
        self.give_back(own);
        batches
    }

    /// Takes out a partition as one batch.
    pub(crate) fn take_one(&self, partition: usize) -> Result<RecordBatch> {
        self.whole(self.take(partition)?)
    }

    /// Takes out all that there is, partition by partition.
    pub(crate) fn drain(&self) -> Result<Vec<Vec<RecordBatch>>> {
        let mut all = Vec::with_capacity(self.parts.len());
        let bytes = self.bytes.swap(0, Ordering::AcqRel);
        self.shared_bytes.store(0, Ordering::Release);
        for part in &self.parts {
            let Part { stored, .. } = std::mem::take(&mut *part.lock());
            all.push(stored.iter().map(|s| s.load(&self.file)).collect::<Result<_>>()?);
        }
        self.budget.subtract(bytes);
        Ok(all)
    }

    /// A partition as one batch.
    pub(crate) fn load_one(&self, partition: usize) -> Result<RecordBatch> {
        self.whole(self.load(partition)?)
    }

    fn whole(&self, mut batches: Vec<RecordBatch>) -> Result<RecordBatch> {
        if batches.len() == 1 {
            return Ok(batches.remove(0));
        }
        Ok(concat_batches(&self.schema, &batches)?)
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        self.budget.subtract(*self.bytes.get_mut());
    }
}

fn count_by_partition(partition: &[u32], count: usize) -> Vec<u32> {
    let mut counts = vec![0u32; count];
    partition.iter().for_each(|p| counts[*p as usize] += 1);
    counts
}

/// Row numbers grouped by partition, in order within each.
fn order_by_partition(partition: &[u32], counts: &[u32]) -> Vec<u32> {
    let mut next = Vec::with_capacity(counts.len());
    let mut start = 0;
    for count in counts {
        next.push(start);
        start += count;
    }
    let mut order = vec![0u32; partition.len()];
    for (row, p) in partition.iter().enumerate() {
        let slot = &mut next[*p as usize];
        order[*slot as usize] = row as u32;
        *slot += 1;
    }
    order
}

/// How many partitions for `bytes` of rows: small enough that each fits the budget beside the others at work, and the
/// processor's cache when there are many.
pub(crate) fn partition_count(bytes: u64, budget: u64) -> usize {
    /// Comfortable size of a partition.
    const BYTES: u64 = 8 << 20;
    /// More would make slices too small to be worth it.
    const COUNT_MAX: u64 = 1024;
    let comfortable = BYTES.min(budget / 16).max(64 << 10);
    (bytes / comfortable + 1).next_power_of_two().min(COUNT_MAX) as usize
}

/// Which of `count` (a power of two) partitions a mixed hash belongs to.
pub(crate) fn partition_of(hash: u64, count: usize) -> u32 {
    // The low bits: presence filters use the high ones.
    (hash & (count as u64 - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    #[test]
    fn rows_come_back_in_order_spilled_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, false)]));
        for (limit, spills) in [(u64::MAX / 2, false), (2_000, true), (0, true)] {
            let budget = Arc::new(Budget::new(limit));
            let file = Arc::new(SpillFile::new(directory.path()));
            let partitions = Partitions::new(4, Arc::clone(&schema), &budget, &file);
            for start in (0..1000i64).step_by(100) {
                let values: Vec<i64> = (start..start + 100).collect();
                let partition: Vec<u32> = values.iter().map(|v| (v * 7 % 4) as u32).collect();
                partitions.push(&[Arc::new(Int64Array::from(values))], &partition).unwrap();
            }
            assert_eq!(file.size() > 0, spills, "limit {limit}");
            for p in 0..4 {
                let batch = partitions.load_one(p).unwrap();
                let got: Vec<i64> = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
                let expected: Vec<i64> = (0..1000).filter(|v| v * 7 % 4 == p as i64).collect();
                assert_eq!(got, expected);
                assert_eq!(partitions.rows(p), expected.len() as u64);
            }
            drop(partitions);
            assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        }
    }
}
