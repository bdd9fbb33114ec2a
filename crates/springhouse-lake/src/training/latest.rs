//! Latest views: rows are scanned by keys and times alone and meet the labels, some at a time, so that nothing is held of rows
//! that no label sees, however long the history is; then only the rows that some label sees are read.

use crate::error::{LakeError, Result};
use crate::identity::{Identity, mix};
use crate::source::scan::{
    ColumnRows, ColumnValues, FetchedRows, SourceFiles, SourceRows, TakeRows, Unit, in_parallel,
};
use crate::spill::{Budget, Grouping, Partitions, SpillFile, partition_of};
use crate::training::dense::{DenseAnswers, DenseRow};
use crate::training::gather::{EVENT_TIME, EventGroup, IDENTITY, KeptRows, reference_plan};
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
use springhouse_kernel::{
    LabelColumns, LabelOrder, LatestSearch, Stamp, StampParts, nan_as_null, partition_point_near,
};
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
    /// From its number to its identity, ascending.
    identities: Vec<Identity>,
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
        let of = |part: &LabelPartition| {
            part.order.bytes() + 4 * part.rows.len() + 16 * part.identities.len() + part.numbers.bytes()
        };
        self.partitions.iter().map(|part| of(part) as u64).sum()
    }
}

impl LabelPartition {
    fn new(labels: &RecordBatch) -> Self {
        let identities = labels.column(0).as_primitive::<Decimal128Type>().values();
        let (numbers, entities, identities) = EntityNumbers::sorted(identities);
        let at: &[Micros] = labels.column(2).as_primitive::<Int64Type>().values();
        let order = LabelOrder::new(numbers.count(), &LabelColumns { entities: &entities, at });
        let rows = labels.column(1).as_primitive::<UInt64Type>().values();
        Self { numbers, identities, order, rows: rows.iter().map(|row| *row as u32).collect() }
    }

    /// Where an identity is, or would be: near a place where a lesser one was, mostly.
    fn place(&self, identity: Identity, from: usize) -> usize {
        let is_after = self.identities.get(from).is_some_and(|known| *known <= identity);
        let start = if is_after { from } else { 0 };
        partition_point_near(start..self.identities.len(), |place| self.identities[place] < identity)
    }
}

/// The searches of a group's views, by partition.
pub(crate) struct Meeting<'a> {
    index: &'a LabelIndex,
    searches: Vec<Mutex<LatestSearch>>,
}

impl<'a> Meeting<'a> {
    pub(crate) fn new(index: &'a LabelIndex, parts: StampParts, threads: usize) -> Result<Self> {
        let searches: Vec<Mutex<LatestSearch>> = index.partitions.iter().map(|_| Mutex::default()).collect();
        // Most of it is getting memory.
        in_parallel(threads, searches.len(), &|partition| {
            *searches[partition].lock() = LatestSearch::new(&index.partitions[partition].order, parts);
            Ok(())
        })?;
        Ok(Self { index, searches })
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

    /// Offers rows that come entity by entity, without putting them aside.
    pub(crate) fn offer_runs(&self, rows: &SourceRows, kept: &KeptRows) {
        let base = (rows.file as i64) << 32;
        let row_of = |position: usize| kept.source[position] as usize;
        let times_of = |position: usize| {
            let row = row_of(position);
            (rows.event_time[row], rows.event_time[row].max(rows.known_at[row]))
        };
        let reference_of = |position: usize| base | i64::from(rows.row[row_of(position)]);
        let stamp_of = |position: usize| {
            let row = row_of(position);
            Stamp { event_time: rows.event_time[row], known_at: rows.known_at[row], seq: rows.seq[row] }
        };
        let partitions: Vec<u32> =
            kept.runs.iter().map(|run| partition_of(mix(run.identity), self.searches.len())).collect();
        let grouping = Grouping::new(&partitions, self.searches.len());
        let meet = |partition: usize, runs: Range<usize>, search: &mut LatestSearch| {
            let part = &self.index.partitions[partition];
            let mut from = 0;
            for run in &grouping.order[runs] {
                from = part.place(kept.runs[*run as usize].identity, from);
                // The filter before let through some that no label is about.
                if part.identities.get(from) == Some(&kept.runs[*run as usize].identity) {
                    let positions = kept.positions(*run as usize);
                    search.offer_entity(
                        &part.order,
                        from as u32,
                        positions,
                        times_of,
                        stamp_of,
                        reference_of,
                    );
                }
            }
        };
        // What another thread is at comes last.
        let mut later = Vec::new();
        for (partition, runs) in grouping.ranges() {
            match self.searches[partition].try_lock() {
                Some(mut search) => meet(partition, runs, &mut search),
                None => later.push((partition, runs)),
            }
        }
        for (partition, runs) in later {
            meet(partition, runs, &mut self.searches[partition].lock());
        }
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

/// The labels in ranges of so many rows each; the answers of some fit in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Labels in a range; a multiple of a chunk's rows.
    pub rows: u64,
    /// How many ranges.
    pub count: usize,
    /// The answers of how many fit.
    pub fitting: usize,
}

impl Ranges {
    /// Most ranges: what labels of each see is noted by part of the files.
    const COUNT_MAX: u64 = 512;

    /// Ranges of few chunks each, for answers of `row_bytes` of which `bytes` fit.
    pub(crate) fn new(rows: u64, chunk_rows: u64, row_bytes: u64, bytes: u64) -> Self {
        let chunks = rows.div_ceil(chunk_rows).max(1);
        let fitting = (bytes / row_bytes.max(1) / chunk_rows).max(1);
        let in_range = chunks.div_ceil(Self::COUNT_MAX).min(fitting);
        Self {
            rows: in_range * chunk_rows,
            count: chunks.div_ceil(in_range) as usize,
            fitting: (fitting / in_range) as usize,
        }
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

    /// How many parts of files are read, one read twice counted twice, when so many ranges are answered at a time.
    pub(crate) fn units_read(&self, per_round: usize) -> usize {
        let (touched, units) = (self.touched.lock(), self.index.units.len().max(1));
        let of_round = |round: &[bool]| {
            let is_read =
                |unit: &usize| round.iter().skip(*unit).step_by(units).any(|is_touched| *is_touched);
            (0..units).filter(is_read).count()
        };
        touched.chunks(per_round * units).map(of_round).sum()
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
            let mut winning = Winning::with_capacity(part.rows.len());
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
            let mut winning = Winning::with_capacity(statuses.len());
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
struct Winning {
    references: Vec<i64>,
    /// Counted from the first label of their range.
    rows: Vec<u32>,
    statuses: Vec<u8>,
    ranges: Vec<u32>,
}

impl Winning {
    fn with_capacity(labels: usize) -> Self {
        Self {
            references: Vec::with_capacity(labels),
            rows: Vec::with_capacity(labels),
            statuses: Vec::with_capacity(labels),
            ranges: Vec::with_capacity(labels),
        }
    }

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
            let (mut kept, mut label_rows) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
            let mut unit = Vec::with_capacity(rows.len());
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
        Ok(Box::new(Fetch::new(job, &inputs, &by_unit.load_one(number)?, answers, report)))
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
    report: &'a (dyn Fn(u64) -> Result<()> + Sync),
    wanted: Vec<Wanted>,
    next: usize,
    /// The same by chunk of the answers and ascending by row, made when columns come one by one.
    by_chunk: Vec<(usize, Vec<DenseRow>)>,
}

impl<'a> Fetch<'a> {
    fn new(
        job: &'a ViewJob<'a>,
        inputs: &'a ViewProjection,
        winners: &RecordBatch,
        answers: &'a Answers,
        report: &'a (dyn Fn(u64) -> Result<()> + Sync),
    ) -> Self {
        let references = winners.column(0).as_primitive::<Int64Type>().values();
        let rows = winners.column(1).as_primitive::<UInt64Type>().values();
        let statuses = winners.column(2).as_primitive::<UInt8Type>().values();
        let stale = ValueStatus::Stale as u8;
        let wanted: Vec<Wanted> = references
            .iter()
            .zip(rows.iter().zip(statuses))
            .map(|(reference, (label_row, status))| Wanted {
                row: (*reference & 0xffff_ffff) as u32,
                label_row: *label_row,
                status: if *status == stale { ValueStatus::Stale } else { ValueStatus::Fresh },
            })
            .collect();
        Self { job, inputs, answers, report, wanted, next: 0, by_chunk: Vec::new() }
    }

    /// Notes the rows' statuses, and where their values go.
    fn begin_columns(&mut self, dense: &DenseAnswers) {
        let chunk: Vec<u32> =
            self.wanted.iter().map(|wanted| self.answers.chunk_of(wanted.label_row)).collect();
        let grouping = self.answers.chunks.grouping(&chunk);
        for (chunk, range) in grouping.ranges() {
            let wanted = || grouping.order[range.clone()].iter().map(|i| &self.wanted[*i as usize]);
            let row = |wanted: &Wanted| dense.row(chunk, wanted.row, wanted.label_row);
            let mut rows: Vec<DenseRow> = wanted().map(row).collect();
            dense.put_statuses(chunk, &rows, wanted().map(|wanted| wanted.status));
            rows.sort_unstable_by_key(|row| row.row);
            self.by_chunk.push((chunk, rows));
        }
    }
}

impl TakeRows for Fetch<'_> {
    fn count(&self) -> usize {
        self.wanted.len()
    }

    fn wanted(&mut self) -> Vec<u32> {
        self.wanted.sort_unstable_by_key(|wanted| (wanted.row, wanted.label_row));
        let mut rows: Vec<u32> = self.wanted.iter().map(|wanted| wanted.row).collect();
        rows.dedup();
        rows
    }

    fn is_by_column(&self) -> bool {
        self.answers.dense.is_some() && self.job.has_plain_inputs()
    }

    fn column(&mut self, column: usize, rows: &ColumnRows<'_>) -> Result<()> {
        let Some(dense) = &self.answers.dense else {
            return Err(LakeError::internal("answers have no places for columns"));
        };
        if self.by_chunk.is_empty() {
            self.begin_columns(dense);
        }
        let features = self.job.features_of(&self.inputs.source_columns()[column]);
        let numbers = match rows.values {
            ColumnValues::Array(values) => Some(nan_as_null(Arc::clone(values))),
            ColumnValues::Plain(_) => None,
        };
        let values = numbers.as_ref().map_or(rows.values, ColumnValues::Array);
        let rows = &ColumnRows { values, ..*rows };
        for (chunk, wanted) in &self.by_chunk {
            let (first, end) = (rows.first, u64::from(rows.first) + rows.count as u64);
            let wanted = &wanted[wanted.partition_point(|row| row.row < first)..];
            let wanted = &wanted[..wanted.partition_point(|row| u64::from(row.row) < end)];
            if !wanted.is_empty() {
                dense.put_column(*chunk, &features, rows, wanted);
            }
        }
        Ok(())
    }

    fn rows_done(&mut self, rows: u64) -> Result<()> {
        (self.report)(rows)
    }

    fn rows(&mut self, rows: &FetchedRows) -> Result<()> {
        (self.report)(rows.row.len() as u64)?;
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
