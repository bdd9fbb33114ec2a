//! Latest views: rows are scanned by keys and times alone and meet the labels, some at a time, so that nothing is held of rows
//! that no label sees, however long the history is; then only the rows that some label sees are read.

use crate::error::{LakeError, Result};
use crate::source::scan::{ScanSpec, SourceFiles, SourceRows, TakeRows, Unit, in_parallel};
use crate::spill::{Budget, Partitions, SpillFile};
use crate::training::gather::{EVENT_TIME, EventGroup, IDENTITY, reference_plan};
use crate::training::join::{Answers, UnitIndex, load_partition, with_staleness};
use crate::training::plan::ViewJob;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef, UInt8Type, UInt64Type,
};
use hashbrown::HashMap;
use parking_lot::Mutex;
use springhouse_core::{Micros, ValueStatus};
use springhouse_kernel::{LabelColumns, LabelOrder, LatestSearch, Stamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that a label takes while rows meet it, about: its order, what it has seen, its share of the entity's number.
pub(crate) const LABEL_BYTES: u64 = 64;

/// The labels of one entity, ordered once for all views over it.
pub(crate) struct LabelIndex {
    partitions: Vec<LabelPartition>,
}

struct LabelPartition {
    /// From an entity's identity to its number.
    numbers: HashMap<i128, u32, ahash::RandomState>,
    order: LabelOrder,
    /// The row of each label in the label table.
    rows: Vec<u64>,
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
}

impl LabelPartition {
    fn new(labels: &RecordBatch) -> Self {
        let mut numbers: HashMap<i128, u32, ahash::RandomState> = HashMap::default();
        let identities = labels.column(0).as_primitive::<Decimal128Type>().values();
        let entities: Vec<u32> = identities
            .iter()
            .map(|identity| {
                let next = numbers.len() as u32;
                *numbers.entry(*identity).or_insert(next)
            })
            .collect();
        let at: &[Micros] = labels.column(2).as_primitive::<Int64Type>().values();
        let order = LabelOrder::new(numbers.len(), &LabelColumns { entities: &entities, at });
        Self { numbers, order, rows: labels.column(1).as_primitive::<UInt64Type>().values().to_vec() }
    }
}

/// The searches of a group's views, by partition.
pub(crate) struct Meeting<'a> {
    index: &'a LabelIndex,
    searches: Vec<Mutex<LatestSearch>>,
}

impl<'a> Meeting<'a> {
    pub(crate) fn new(index: &'a LabelIndex) -> Self {
        let search = |part: &LabelPartition| Mutex::new(LatestSearch::new(&part.order));
        Self { index, searches: index.partitions.iter().map(search).collect() }
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
        let (mut entities, mut kept) = (Vec::with_capacity(identities.len()), Vec::new());
        for (row, identity) in identities.iter().enumerate() {
            // The filter before let through some that no label is about.
            if let Some(entity) = part.numbers.get(identity) {
                entities.push(*entity);
                kept.push(row as u32);
            }
        }
        let stamp_of = |position: usize| {
            let row = kept[position] as usize;
            let seq = seq.map_or_else(|| files.positional_seq(references[row]), |seq| seq[row]);
            Stamp { event_time: event_times[row], known_at: known_at[row], seq }
        };
        let mut search = self.searches[partition].lock();
        search.offer_all(&part.order, &entities, stamp_of, |position| references[kept[position] as usize]);
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

/// Answers the labels of a group whose rows have met them: which row each label sees is handed to `answers` where the row
/// is too old to be shown, and put aside by the part of the file that it is in.
#[expect(clippy::too_many_arguments, reason = "the pieces of one job, all borrowed")]
pub(crate) fn find_rows(
    jobs: &[ViewJob<'_>],
    group: &EventGroup<'_>,
    units: &[Unit],
    file_count: usize,
    meeting: Meeting<'_>,
    answers: &[Answers],
    aside: (&Arc<Budget>, &Arc<SpillFile>),
    threads: usize,
) -> Result<Vec<Partitions>> {
    let index = UnitIndex::new(units, file_count);
    let winners: Vec<Partitions> =
        group.views.iter().map(|_| Partitions::new(units.len(), winner_schema(), aside.0, aside.1)).collect();
    let Meeting { index: labels, searches } = meeting;
    let searches: Vec<Mutex<Option<LatestSearch>>> =
        searches.into_iter().map(|search| Mutex::new(Some(search.into_inner()))).collect();
    in_parallel(threads, searches.len(), &|partition| {
        let Some(mut search) = searches[partition].lock().take() else { return Ok(()) };
        let part = &labels.partitions[partition];
        for (position, (view, winners)) in group.views.iter().zip(&winners).enumerate() {
            let job = &jobs[*view];
            // One search answers every view of the group; they differ in their TTLs.
            let is_last = position + 1 == group.views.len();
            let this = if is_last { std::mem::take(&mut search) } else { search.clone() };
            let mut winning = Winning::default();
            for seen in this.finish(&job.plan, &part.order, job.view.soft_ttl) {
                let row = part.rows[seen.label as usize];
                match seen.status {
                    ValueStatus::Expired => winning.expired.push(row),
                    status => winning.push(seen.reference, row, status, &index),
                }
            }
            winning.hand_on(job, &answers[*view], winners)?;
        }
        Ok(())
    })?;
    Ok(winners)
}

/// The same from rows that were put aside, for sources whose events have identities (which of the rows of one identity
/// counts is known when all were seen) and for labels that don't fit the budget.
#[expect(clippy::too_many_arguments, reason = "the pieces of one job, all borrowed")]
pub(crate) fn find_rows_put_aside(
    jobs: &[ViewJob<'_>],
    group: &EventGroup<'_>,
    units: &[Unit],
    file_count: usize,
    labels: &Partitions,
    events: &Partitions,
    answers: &[Answers],
    aside: (&Arc<Budget>, &Arc<SpillFile>),
    threads: usize,
) -> Result<Vec<Partitions>> {
    let index = UnitIndex::new(units, file_count);
    let plans = group.views.iter().map(|view| reference_plan(&jobs[*view])).collect::<Result<Vec<_>>>()?;
    let winners: Vec<Partitions> =
        group.views.iter().map(|_| Partitions::new(units.len(), winner_schema(), aside.0, aside.1)).collect();
    let column = group.payload_column();
    in_parallel(threads, labels.count(), &|partition| {
        if labels.rows(partition) == 0 {
            return Ok(());
        }
        let joined = load_partition(labels, events, partition)?;
        for ((view, plan), winners) in group.views.iter().zip(&plans).zip(&winners) {
            let job = &jobs[*view];
            let mut found = joined.answer(plan, group, &[column]);
            let statuses = with_staleness(job, &mut found, &joined.label_at).swap_remove(0);
            let references = found.values[0].as_primitive::<Int64Type>();
            let mut winning = Winning::default();
            for (label, status) in statuses.into_iter().enumerate() {
                let row = joined.label_rows[label];
                match status {
                    ValueStatus::Missing => {}
                    ValueStatus::Expired => winning.expired.push(row),
                    _ => winning.push(references.value(label), row, status, &index),
                }
            }
            winning.hand_on(job, &answers[*view], winners)?;
        }
        Ok(())
    })?;
    Ok(winners)
}

/// The rows that labels of one partition see.
#[derive(Default)]
struct Winning {
    references: Vec<i64>,
    rows: Vec<u64>,
    statuses: Vec<u8>,
    units: Vec<u32>,
    /// Labels whose row is too old to be shown.
    expired: Vec<u64>,
}

impl Winning {
    fn push(&mut self, reference: i64, row: u64, status: ValueStatus, index: &UnitIndex) {
        self.references.push(reference);
        self.rows.push(row);
        self.statuses.push(status as u8);
        self.units.push(index.unit_of(reference));
    }

    fn hand_on(self, job: &ViewJob<'_>, answers: &Answers, winners: &Partitions) -> Result<()> {
        answers.push_absent(&self.expired, &job.plan, ValueStatus::Expired)?;
        let columns: [ArrayRef; 3] = [
            Arc::new(Int64Array::from(self.references)),
            Arc::new(UInt64Array::from(self.rows)),
            Arc::new(UInt8Array::from(self.statuses)),
        ];
        winners.push(&columns, &self.units)
    }
}

fn winner_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("reference", DataType::Int64, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("status", DataType::UInt8, false),
    ]))
}

/// Reads the rows that labels of one view see, and answers with them.
#[expect(clippy::too_many_arguments, reason = "the pieces of one job, all borrowed")]
pub(crate) fn read_rows(
    job: &ViewJob<'_>,
    files: &SourceFiles,
    spec: &ScanSpec,
    units: &[Unit],
    winners: &Partitions,
    answers: &Answers,
    threads: usize,
    read: &AtomicU64,
    report: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<()> {
    let spec =
        ScanSpec { columns: job.projection.source_columns().to_vec(), with_ids: false, ..spec.clone() };
    let wanted: Vec<(usize, Unit)> = units
        .iter()
        .enumerate()
        .filter(|(number, _)| winners.rows(*number) > 0)
        .map(|(number, unit)| (number, unit.clone()))
        .collect();
    files.fetch(&spec, threads, &wanted, &|number| {
        let mut fetch = Fetch::new(job, &winners.load_one(number)?, answers);
        let take: TakeRows<'_> = Box::new(move |rows| {
            report(read.fetch_add(rows.row.len() as u64, Ordering::Relaxed) + rows.row.len() as u64)?;
            fetch.take(&rows)
        });
        Ok(take)
    })
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
    answers: &'a Answers,
    /// Ascending by row.
    wanted: Vec<Wanted>,
    next: usize,
}

impl<'a> Fetch<'a> {
    fn new(job: &'a ViewJob<'a>, winners: &RecordBatch, answers: &'a Answers) -> Self {
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
        Self { job, answers, wanted, next: 0 }
    }

    fn take(&mut self, rows: &SourceRows) -> Result<()> {
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
        let projected = self.job.projection.project(&batch);
        if projected.rows.len() != wanted.len() {
            return Err(LakeError::internal("a filter kept a row once and left it out another time"));
        }
        let ordered = || grouping.order.iter().map(|i| &wanted[*i as usize]);
        let statuses: Vec<ValueStatus> = ordered().map(|w| w.status).collect();
        let columns = self.job.plan.values_of_rows(&projected.inputs, &statuses);
        let label_rows: Vec<u64> = ordered().map(|w| w.label_row).collect();
        self.answers.push_ordered(label_rows, columns, &grouping)
    }
}
