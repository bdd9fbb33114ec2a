//! Latest views: rows are scanned by keys and times alone and meet the labels, some at a time, so that nothing is held of rows
//! that no label sees, however long the history is; then only the rows that some label sees are read.

use crate::error::{LakeError, Result};
use crate::identity::{Identity, mix};
use crate::source::scan::{FetchedRows, SourceFiles, TakeRows, Taking, Unit, in_parallel};
use crate::spill::{Budget, Partitions, SpillFile, partition_of};
use crate::training::gather::{EVENT_TIME, EventGroup, IDENTITY, reference_plan};
use crate::training::join::{Answers, EntityNumbers, load_partition, with_staleness};
use crate::training::plan::ViewJob;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take, take_record_batch};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef, UInt8Type, UInt32Type, UInt64Type,
};
use parking_lot::Mutex;
use springhouse_core::{Micros, ValueStatus};
use springhouse_expr::ViewProjection;
use springhouse_kernel::{LabelColumns, LabelOrder, LatestSearch, Stamp, StampParts};
use std::ops::Range;
use std::sync::Arc;

/// Bytes that a label takes while rows meet it, about: its place in the order and what it has seen.
pub(crate) const LABEL_BYTES: u64 = 48;

/// The labels of one entity, ordered once for all views over it.
pub(crate) struct LabelIndex {
    partitions: Vec<LabelPartition>,
}

struct LabelPartition {
    /// From an entity's identity to its number.
    numbers: EntityNumbers,
    order: LabelOrder,
    /// The row of each label in the label table.
    rows: Vec<u32>,
}

impl LabelIndex {
    /// Orders the labels that were put aside.
    pub(crate) fn new(labels: &Partitions, threads: usize) -> Result<Self> {
        let made: Vec<Mutex<Option<LabelPartition>>> =
            (0..labels.count()).map(|_| Mutex::default()).collect();
        in_parallel(threads, labels.count(), &|partition| {
            *made[partition].lock() = Some(LabelPartition::new(&labels.load_one(partition)?));
            Ok(())
        })?;
        let partitions = made.into_iter().filter_map(Mutex::into_inner).collect();
        Ok(Self { partitions })
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |part: &LabelPartition| part.order.bytes() + 4 * part.rows.len() + part.numbers.bytes();
        self.partitions.iter().map(|part| of(part) as u64).sum()
    }
}

impl LabelPartition {
    fn new(labels: &RecordBatch) -> Self {
        let identities = labels.column(0).as_primitive::<Decimal128Type>().values();
        let (numbers, entities) = EntityNumbers::of(identities);
        let at: &[Micros] = labels.column(2).as_primitive::<Int64Type>().values();
        let order = LabelOrder::new(numbers.count(), &LabelColumns { entities: &entities, at });
        let rows = labels.column(1).as_primitive::<UInt64Type>().values();
        Self { numbers, order, rows: rows.iter().map(|row| *row as u32).collect() }
    }
}

/// The searches of a group's views, by partition.
pub(crate) struct Meeting<'a> {
    index: &'a LabelIndex,
    searches: Vec<Mutex<LatestSearch>>,
}

impl<'a> Meeting<'a> {
    pub(crate) fn new(index: &'a LabelIndex, parts: StampParts) -> Self {
        let search = |part: &LabelPartition| Mutex::new(LatestSearch::new(&part.order, parts));
        Self { index, searches: index.partitions.iter().map(search).collect() }
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.searches.iter().map(|search| search.lock().bytes() as u64).sum()
    }

    /// Offers rows that were put aside in one partition to the labels of their entities.
    fn offer(&self, group: &EventGroup<'_>, files: &SourceFiles, partition: usize, rows: &RecordBatch) {
        let part = &self.index.partitions[partition];
        let int64 = |column: usize| rows.column(column).as_primitive::<Int64Type>().values();
        let identities = rows.column(IDENTITY).as_primitive::<Decimal128Type>().values();
        let event_times = int64(EVENT_TIME);
        let known_at = int64(group.known_at_column().unwrap_or(EVENT_TIME));
        let seq = group.seq_column().map(int64);
        let references = int64(group.payload_column());
        // The filter before let through some that no label is about.
        let (entities, kept) = part.numbers.find(identities);
        let stamp_of = |position: usize| {
            let row = kept[position] as usize;
            let seq = seq.map_or_else(|| files.positional_seq(references[row]), |seq| seq[row]);
            Stamp { event_time: event_times[row], known_at: known_at[row], seq }
        };
        let mut search = self.searches[partition].lock();
        search.offer(&part.order, &entities, stamp_of, |position| references[kept[position] as usize]);
    }

    /// Offers rows of one entity to its labels; the arguments are those of [`LatestSearch::offer_entity`].
    pub(crate) fn offer_entity(
        &self,
        identity: i128,
        rows: Range<usize>,
        times_of: impl Fn(usize) -> (Micros, Micros),
        stamp_of: impl Fn(usize) -> Stamp,
        reference_of: impl Fn(usize) -> i64,
    ) {
        let partition = partition_of(mix(identity as Identity), self.searches.len()) as usize;
        let part = &self.index.partitions[partition];
        // The filter before let through some that no label is about.
        let Some(entity) = part.numbers.get(identity) else { return };
        let mut search = self.searches[partition].lock();
        search.offer_entity(&part.order, entity, rows, times_of, stamp_of, reference_of);
    }

    /// Offers all that was put aside so far, and forgets it.
    pub(crate) fn take_up(
        &self,
        group: &EventGroup<'_>,
        files: &SourceFiles,
        events: &Partitions,
        threads: usize,
    ) -> Result<()> {
        let drained: Vec<Mutex<Vec<RecordBatch>>> = events.drain()?.into_iter().map(Mutex::new).collect();
        in_parallel(threads, drained.len(), &|partition| {
            let rows = std::mem::take(&mut *drained[partition].lock());
            if !rows.is_empty() {
                self.offer(group, files, partition, &concat_batches(events.schema(), &rows)?);
            }
            Ok(())
        })
    }
}

/// The rows that the labels of one view see, by range of labels, until their columns are read.
pub(crate) struct SeenRows {
    /// The view.
    pub view: usize,
    index: Arc<UnitIndex>,
    /// By range: where the row is, whose label it is (counted from the range's first), fresh or stale.
    winners: Partitions,
    /// By range, then by part of the files: whether a label sees a row in it.
    touched: Mutex<Vec<bool>>,
    ranges: Ranges,
}

/// The labels in ranges of so many rows each, so that the answers of one fit in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Labels in a range; a multiple of a chunk's rows.
    pub rows: u64,
    /// How many ranges.
    pub count: usize,
}

impl Ranges {
    /// Ranges of so many chunks that their answers have about `bytes`.
    pub(crate) fn new(rows: u64, chunk_rows: u64, row_bytes: u64, bytes: u64) -> Self {
        let chunks = (bytes / row_bytes.max(1) / chunk_rows).clamp(1, rows.div_ceil(chunk_rows).max(1));
        Self { rows: chunks * chunk_rows, count: rows.div_ceil(chunks * chunk_rows).max(1) as usize }
    }
}

impl SeenRows {
    fn new(
        view: usize,
        index: &Arc<UnitIndex>,
        ranges: Ranges,
        aside: (&Arc<Budget>, &Arc<SpillFile>),
    ) -> Self {
        Self {
            view,
            index: Arc::clone(index),
            winners: Partitions::new(ranges.count, winner_schema(), aside.0, aside.1),
            touched: Mutex::new(vec![false; ranges.count * index.units.len()]),
            ranges,
        }
    }

    /// How many parts of files are read when it is done range by range, and how many at once.
    pub(crate) fn units_read(&self) -> (usize, usize) {
        let (touched, units) = (self.touched.lock(), self.index.units.len());
        let at_once = (0..units).filter(|unit| touched.iter().skip(*unit).step_by(units).any(|is| *is));
        (touched.iter().filter(|is| **is).count(), at_once.count())
    }
}

/// Which row each label of a group sees, now that the rows have met them.
pub(crate) fn find_rows(
    jobs: &[ViewJob<'_>],
    group: &EventGroup<'_>,
    files: &SourceFiles,
    meeting: Meeting<'_>,
    ranges: Ranges,
    aside: (&Arc<Budget>, &Arc<SpillFile>),
    threads: usize,
) -> Result<Vec<SeenRows>> {
    let index = Arc::new(UnitIndex::new(files));
    let found: Vec<SeenRows> =
        group.views.iter().map(|view| SeenRows::new(*view, &index, ranges, aside)).collect();
    let Meeting { index: labels, searches } = meeting;
    let searches: Vec<Mutex<Option<LatestSearch>>> =
        searches.into_iter().map(|search| Mutex::new(Some(search.into_inner()))).collect();
    in_parallel(threads, searches.len(), &|partition| {
        let Some(mut search) = searches[partition].lock().take() else { return Ok(()) };
        let part = &labels.partitions[partition];
        for (position, (view, found)) in group.views.iter().zip(&found).enumerate() {
            let job = &jobs[*view];
            // One search answers every view of the group; they differ in their TTLs.
            let is_last = position + 1 == group.views.len();
            let this = if is_last { std::mem::take(&mut search) } else { search.clone() };
            let mut winning = Winning::default();
            for seen in this.finish(&job.plan, &part.order, job.view.soft_ttl) {
                let row = u64::from(part.rows[seen.label as usize]);
                winning.push(seen.reference, row, seen.status, ranges);
            }
            winning.hand_on(found)?;
        }
        Ok(())
    })?;
    Ok(found)
}

/// The same from rows that were put aside, for sources whose events have identities (which of the rows of one identity
/// counts is known when all were seen) and for labels that don't fit the budget.
#[expect(clippy::too_many_arguments, reason = "the pieces of one job, all borrowed")]
pub(crate) fn find_rows_put_aside(
    jobs: &[ViewJob<'_>],
    group: &EventGroup<'_>,
    files: &SourceFiles,
    labels: &Partitions,
    events: &Partitions,
    ranges: Ranges,
    aside: (&Arc<Budget>, &Arc<SpillFile>),
    threads: usize,
) -> Result<Vec<SeenRows>> {
    let index = Arc::new(UnitIndex::new(files));
    let plans = group.views.iter().map(|view| reference_plan(&jobs[*view])).collect::<Result<Vec<_>>>()?;
    let found: Vec<SeenRows> =
        group.views.iter().map(|view| SeenRows::new(*view, &index, ranges, aside)).collect();
    let column = group.payload_column();
    in_parallel(threads, labels.count(), &|partition| {
        if labels.rows(partition) == 0 {
            return Ok(());
        }
        let joined = load_partition(labels, events, partition)?;
        for ((view, plan), found) in group.views.iter().zip(&plans).zip(&found) {
            let job = &jobs[*view];
            let mut answer = joined.answer(plan, group, &[column]);
            let statuses = with_staleness(job, &mut answer, &joined.label_at).swap_remove(0);
            let references = answer.values[0].as_primitive::<Int64Type>();
            let mut winning = Winning::default();
            for (label, status) in statuses.into_iter().enumerate() {
                let row = joined.label_rows[label];
                // Of an expired row nothing is read, and the answer has no reference either.
                if status != ValueStatus::Missing {
                    winning.push(references.value(label), row, status, ranges);
                }
            }
            winning.hand_on(found)?;
        }
        Ok(())
    })?;
    Ok(found)
}

/// The status of a row that is too old to be shown, and so is not read.
const EXPIRED: u8 = ValueStatus::Expired as u8;

/// The rows that labels of one partition see.
#[derive(Default)]
struct Winning {
    references: Vec<i64>,
    /// Counted from the first label of their range.
    rows: Vec<u32>,
    statuses: Vec<u8>,
    ranges: Vec<u32>,
}

impl Winning {
    fn push(&mut self, reference: i64, row: u64, status: ValueStatus, ranges: Ranges) {
        self.references.push(reference);
        self.rows.push((row % ranges.rows) as u32);
        self.statuses.push(status as u8);
        self.ranges.push((row / ranges.rows) as u32);
    }

    fn hand_on(self, found: &SeenRows) -> Result<()> {
        let units = found.index.units.len();
        let mut touched = vec![false; found.ranges.count * units];
        for ((reference, status), range) in self.references.iter().zip(&self.statuses).zip(&self.ranges) {
            if *status == EXPIRED {
                continue;
            }
            touched[*range as usize * units + found.index.unit_of(*reference) as usize] = true;
        }
        found.touched.lock().iter_mut().zip(touched).for_each(|(all, here)| *all |= here);
        let columns: [ArrayRef; 3] = [
            Arc::new(Int64Array::from(self.references)),
            Arc::new(UInt32Array::from(self.rows)),
            Arc::new(UInt8Array::from(self.statuses)),
        ];
        found.winners.push(&columns, &self.ranges)
    }
}

/// From a row reference to the part of a file that holds the row.
pub(crate) struct UnitIndex {
    units: Vec<Unit>,
    /// Per file: (first row, unit number), ascending.
    files: Vec<Vec<(u64, u32)>>,
}

impl UnitIndex {
    fn new(files: &SourceFiles) -> Self {
        let units = files.units();
        let mut first_rows = vec![Vec::new(); files.files.len()];
        for (number, unit) in units.iter().enumerate() {
            first_rows[unit.file].push((unit.first_row, number as u32));
        }
        Self { units, files: first_rows }
    }

    fn unit_of(&self, reference: i64) -> u32 {
        let (file, row) = ((reference >> 32) as usize, (reference & 0xffff_ffff) as u64);
        let units = &self.files[file];
        units[units.partition_point(|(first, _)| *first <= row) - 1].1
    }
}

fn winner_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("reference", DataType::Int64, false),
        Field::new("row", DataType::UInt32, false),
        Field::new("status", DataType::UInt8, false),
    ]))
}

/// Reads the rows that the labels of some ranges see in one view, and answers with them.
#[expect(clippy::too_many_arguments, reason = "the pieces of one job, all borrowed")]
pub(crate) fn read_rows(
    job: &ViewJob<'_>,
    files: &SourceFiles,
    seen: &SeenRows,
    ranges: Range<usize>,
    answers: &Answers,
    aside: (&Arc<Budget>, &Arc<SpillFile>),
    threads: usize,
    report: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<()> {
    let units = &seen.index.units;
    let by_unit = Partitions::new(units.len(), wanted_schema(), aside.0, aside.1);
    in_parallel(threads, ranges.len(), &|number| {
        let range = ranges.start + number;
        let first = range as u64 * seen.ranges.rows;
        for found in seen.winners.take(range)? {
            let references = found.column(0).as_primitive::<Int64Type>().values();
            let rows = found.column(1).as_primitive::<UInt32Type>().values();
            let statuses = found.column(2).as_primitive::<UInt8Type>().values();
            let (mut kept, mut label_rows, mut unit) = (Vec::new(), Vec::new(), Vec::new());
            let mut expired = Vec::new();
            for (position, row) in rows.iter().enumerate() {
                let label_row = first + u64::from(*row);
                if statuses[position] == EXPIRED {
                    expired.push(label_row);
                } else {
                    kept.push(position as u32);
                    label_rows.push(label_row);
                    unit.push(seen.index.unit_of(references[position]));
                }
            }
            answers.push_absent(&expired, &job.plan, ValueStatus::Expired)?;
            let kept = UInt32Array::from(kept);
            let columns: [ArrayRef; 3] = [
                take(found.column(0), &kept, None)?,
                Arc::new(UInt64Array::from(label_rows)),
                take(found.column(2), &kept, None)?,
            ];
            by_unit.push(&columns, &unit)?;
        }
        Ok(())
    })?;
    let inputs = job.inputs()?;
    let wanted: Vec<(usize, Unit)> = units
        .iter()
        .enumerate()
        .filter(|(number, _)| by_unit.rows(*number) > 0)
        .map(|(number, unit)| (number, unit.clone()))
        .collect();
    files.fetch(inputs.source_columns(), threads, &wanted, &|number| {
        let mut fetch = Fetch::new(job, &inputs, &by_unit.load_one(number)?, answers);
        let mut rows: Vec<u32> = fetch.wanted.iter().map(|wanted| wanted.row).collect();
        rows.dedup();
        let take: TakeRows<'_> = Box::new(move |rows| {
            report(rows.row.len() as u64)?;
            fetch.take(&rows)
        });
        Ok(Taking { rows, take })
    })
}

/// The same with the number of the label's row, by part of the files.
fn wanted_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("reference", DataType::Int64, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("status", DataType::UInt8, false),
    ]))
}

/// A row that a label sees.
#[derive(Clone, Copy)]
struct Wanted {
    /// The row in its file.
    row: u32,
    label_row: u64,
    status: ValueStatus,
}

/// The rows of one unit that labels see.
struct Fetch<'a> {
    job: &'a ViewJob<'a>,
    inputs: &'a ViewProjection,
    answers: &'a Answers,
    /// Ascending by row.
    wanted: Vec<Wanted>,
    next: usize,
}

impl<'a> Fetch<'a> {
    fn new(
        job: &'a ViewJob<'a>,
        inputs: &'a ViewProjection,
        winners: &RecordBatch,
        answers: &'a Answers,
    ) -> Self {
        let references = winners.column(0).as_primitive::<Int64Type>().values();
        let rows = winners.column(1).as_primitive::<UInt64Type>().values();
        let statuses = winners.column(2).as_primitive::<UInt8Type>().values();
        let stale = ValueStatus::Stale as u8;
        let mut wanted: Vec<Wanted> = references
            .iter()
            .zip(rows.iter().zip(statuses))
            .map(|(reference, (label_row, status))| Wanted {
                row: (*reference & 0xffff_ffff) as u32,
                label_row: *label_row,
                status: if *status == stale { ValueStatus::Stale } else { ValueStatus::Fresh },
            })
            .collect();
        wanted.sort_unstable_by_key(|wanted| (wanted.row, wanted.label_row));
        Self { job, inputs, answers, wanted, next: 0 }
    }

    fn take(&mut self, rows: &FetchedRows) -> Result<()> {
        let first = self.next;
        let mut positions = Vec::new();
        let mut position = 0;
        while let Some(wanted) = self.wanted.get(self.next) {
            while position < rows.row.len() && rows.row[position] < wanted.row {
                position += 1;
            }
            if position == rows.row.len() {
                break;
            }
            if rows.row[position] != wanted.row {
                return Err(LakeError::internal(
                    "a row that a label sees was not there when it was read again",
                ));
            }
            positions.push(position as u32);
            self.next += 1;
        }
        if positions.is_empty() {
            return Ok(());
        }
        // In the order of the answers' chunks, so that values are copied once.
        let wanted = &self.wanted[first..self.next];
        let chunk: Vec<u32> = wanted.iter().map(|w| self.answers.chunk_of(w.label_row)).collect();
        let grouping = self.answers.chunks.grouping(&chunk);
        let taken: UInt32Array = grouping.order.iter().map(|i| positions[*i as usize]).collect();
        let batch = take_record_batch(&rows.batch, &taken)?;
        let projected = self.inputs.project(&batch);
        let ordered = || grouping.order.iter().map(|i| &wanted[*i as usize]);
        let statuses: Vec<ValueStatus> = ordered().map(|w| w.status).collect();
        let values = self.job.plan.values_of_rows(&projected.inputs);
        let label_rows: Vec<u64> = ordered().map(|w| w.label_row).collect();
        self.answers.push_rows(label_rows, &values, statuses, &grouping)
    }
}
