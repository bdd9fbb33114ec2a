//! Latest views: rows are scanned by keys and times alone and meet the labels, some at a time, so that nothing is held of rows
//! that no label sees, however long the history is; then only the rows that some label sees are read.

use crate::error::{LakeError, Result};
use crate::identity::{Identity, mix};
use crate::source::scan::{
    ColumnRows, FetchedRows, SourceFiles, SourceRows, TakeRows, Unit, in_parallel, made_in_parallel,
};
use crate::spill::{Budget, Grouping, Partitions, SpillFile, partition_of};
use crate::training::assemble::shown_status;
use crate::training::dense::{DenseAnswers, DenseRow, DenseRows, among, numbers};
use crate::training::gather::{EVENT_TIME, EventGroup, IDENTITY, KeptRows, Run, reference_plan};
use crate::training::join::{Answers, EntityNumbers, load_partition, with_staleness};
use crate::training::plan::ViewJob;
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
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
use std::sync::{Arc, OnceLock};

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
        let partitions = made_in_parallel(threads, labels.count(), &|partition| {
            Ok(LabelPartition::new(&labels.load(partition)?))
        })?;
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
    /// Of the labels in these pieces.
    fn new(labels: &[RecordBatch]) -> Self {
        let identities =
            |piece: &'_ RecordBatch| piece.column(0).as_primitive::<Decimal128Type>().values().clone();
        let pieces: Vec<_> = labels.iter().map(identities).collect();
        let (numbers, entities, identities) =
            EntityNumbers::sorted(pieces.iter().flat_map(|piece| &piece[..]));
        let mut at: Vec<Micros> = Vec::with_capacity(entities.len());
        let mut rows = Vec::with_capacity(entities.len());
        for piece in labels {
            at.extend_from_slice(piece.column(2).as_primitive::<Int64Type>().values());
            rows.extend(piece.column(1).as_primitive::<UInt64Type>().values().iter().map(|row| *row as u32));
        }
        let order = LabelOrder::new(numbers.count(), &LabelColumns { entities: &entities, at: &at });
        Self { numbers, identities, order, rows }
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
        // Most of it is getting memory.
        let searches = made_in_parallel(threads, index.partitions.len(), &|partition| {
            Ok(Mutex::new(LatestSearch::new(&index.partitions[partition].order, parts)))
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
        let is_known_at_once = rows.known_at.inner().ptr_eq(rows.event_time.inner());
        let (event_time, known_at) = (&rows.event_time[..], &rows.known_at[..]);
        let times_at = |row: usize| (event_time[row], event_time[row].max(known_at[row]));
        match &kept.listed {
            None if is_known_at_once => {
                let times_of = |row: usize| (event_time[row], event_time[row]);
                self.offer_runs_at(rows, &kept.runs, |position| position, times_of);
            }
            None => self.offer_runs_at(rows, &kept.runs, |position| position, times_at),
            Some(places) => {
                let row_of = |position: usize| places.source[position] as usize;
                self.offer_runs_at(rows, &kept.runs, row_of, |position| times_at(row_of(position)));
            }
        }
    }

    /// `row_of` and `times_of` are asked by position.
    fn offer_runs_at(
        &self,
        rows: &SourceRows,
        runs: &[Run],
        row_of: impl Fn(usize) -> usize,
        times_of: impl Fn(usize) -> (Micros, Micros),
    ) {
        let base = (rows.file as i64) << 32;
        let reference_of = |position: usize| base | i64::from(rows.row[row_of(position)]);
        let stamp_of = |position: usize| {
            let row = row_of(position);
            Stamp { event_time: rows.event_time[row], known_at: rows.known_at[row], seq: rows.seq(row) }
        };
        let partitions: Vec<u32> =
            runs.iter().map(|run| partition_of(mix(run.identity), self.searches.len())).collect();
        let grouping = Grouping::new(&partitions, self.searches.len());
        let meet = |partition: usize, places: Range<usize>, search: &mut LatestSearch| {
            let part = &self.index.partitions[partition];
            let mut from = 0;
            for run in grouping.order[places].iter().map(|place| &runs[*place as usize]) {
                from = part.place(run.identity, from);
                // The filter before let through some that no label is about.
                if part.identities.get(from) == Some(&run.identity) {
                    search.offer_entity(
                        &part.order,
                        from as u32,
                        run.positions(),
                        &times_of,
                        stamp_of,
                        reference_of,
                    );
                }
            }
        };
        // What another thread is at comes last.
        let mut later = Vec::new();
        for (partition, places) in grouping.ranges() {
            match self.searches[partition].try_lock() {
                Some(mut search) => meet(partition, places, &mut search),
                None => later.push((partition, places)),
            }
        }
        for (partition, places) in later {
            meet(partition, places, &mut self.searches[partition].lock());
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

/// The rows that the labels of one view see, by part of the files, until their columns are read.
pub(crate) struct SeenRows {
    /// The view.
    pub view: usize,
    index: Arc<UnitIndex>,
    /// By part of the files: where in its file the row is, whose label it is, fresh or stale.
    winners: Partitions,
    /// By range: labels that see a row which is too old to be shown, and so is not read.
    expired: Partitions,
    /// By range, then by part of the files: labels that see a row in it.
    counts: Mutex<Vec<u32>>,
    first_ranges: OnceLock<Vec<Option<usize>>>,
    /// What is not put aside yet: little at a time would be many small pieces.
    pending: Mutex<Vec<Winning>>,
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
        let units = index.units.len();
        Self {
            view,
            index: Arc::clone(index),
            winners: Partitions::new(units, winner_schema(), aside.0, aside.1),
            expired: Partitions::new(ranges.count, expired_schema(), aside.0, aside.1),
            counts: Mutex::new(vec![0; ranges.count * units]),
            first_ranges: OnceLock::new(),
            pending: Mutex::default(),
            ranges,
        }
    }

    /// Takes what is found of so many labels in.
    fn add(&self, labels: usize, fill: impl FnOnce(&mut Winning)) -> Result<()> {
        let started = self.pending.lock().pop();
        let enough = PENDING_ROWS.max(64 * self.index.units.len());
        let mut winning = started.unwrap_or_else(|| Winning::with_capacity(enough));
        winning.rows.reserve(labels);
        fill(&mut winning);
        if winning.rows.len() + winning.expired.len() >= enough {
            return winning.hand_on(self);
        }
        self.pending.lock().push(winning);
        Ok(())
    }

    /// Puts the rest aside.
    fn finish(&self) -> Result<()> {
        let pending = std::mem::take(&mut *self.pending.lock());
        pending.into_iter().try_for_each(|winning| winning.hand_on(self))
    }

    /// The first range of which a label sees a row, by part of the files; none where no label sees one. Asked for when all was
    /// found.
    fn first_ranges(&self) -> &[Option<usize>] {
        self.first_ranges.get_or_init(|| {
            let (counts, units) = (self.counts.lock(), self.index.units.len());
            let first = |unit: usize| counts.iter().skip(unit).step_by(units).position(|count| *count > 0);
            (0..units).map(first).collect()
        })
    }

    /// The parts of the files in which a label of these ranges sees a row, and none before, with their numbers.
    pub(crate) fn units_first_seen(&self, ranges: &Range<usize>) -> Vec<(usize, Unit)> {
        let is_now = |first: &Option<usize>| first.is_some_and(|first| ranges.contains(&first));
        let units = self.index.units.iter().enumerate().zip(self.first_ranges());
        units.filter(|(_, first)| is_now(first)).map(|((number, unit), _)| (number, unit.clone())).collect()
    }

    /// How many labels see a row of a part.
    pub(crate) fn count(&self, unit: usize) -> u64 {
        self.winners.rows(unit)
    }

    /// All ranges of the labels.
    pub(crate) fn ranges(&self) -> Range<usize> {
        0..self.ranges.count
    }

    /// Takes out which rows of a part labels see, each as what is made of it.
    pub(crate) fn take_wanted<T>(&self, unit: usize, mut make: impl FnMut(Wanted) -> T) -> Result<Vec<T>> {
        let winners = self.winners.take(unit)?;
        let mut wanted = Vec::with_capacity(winners.iter().map(RecordBatch::num_rows).sum());
        for winners in winners {
            let rows = winners.column(0).as_primitive::<UInt32Type>().values();
            let labels = winners.column(1).as_primitive::<UInt64Type>().values();
            let statuses = winners.column(2).as_primitive::<UInt8Type>().values();
            let winner = |(row, (label_row, status)): (&u32, (&u64, &u8))| {
                make(Wanted { row: *row, label_row: *label_row, status: shown_status(*status) })
            };
            wanted.extend(rows.iter().zip(labels.iter().zip(statuses)).map(winner));
        }
        Ok(wanted)
    }

    /// Takes out all labels that see a row which is too old to be shown.
    pub(crate) fn take_expired(&self) -> Result<Vec<RecordBatch>> {
        Ok(self.expired.drain()?.into_iter().flatten().collect())
    }

    /// How many labels see a row that is read before their round when so many ranges are answered at a time, and how many see
    /// one in all. What is read is kept for them.
    pub(crate) fn read_early(&self, per_round: usize) -> (u64, u64) {
        let (first, counts) = (self.first_ranges(), self.counts.lock());
        let (mut early, mut all) = (0, 0);
        for (range, of_range) in counts.chunks(self.index.units.len().max(1)).enumerate() {
            for (count, first) in of_range.iter().zip(first) {
                let is_early = first.is_some_and(|first| first / per_round < range / per_round);
                early += if is_early { u64::from(*count) } else { 0 };
                all += u64::from(*count);
            }
        }
        (early, all)
    }
}

/// Rows that are put aside together, at least.
const PENDING_ROWS: usize = 65_536;

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
            found.add(part.rows.len(), |winning| {
                this.finish(&job.plan, &part.order, job.view.soft_ttl, |seen| {
                    let row = u64::from(part.rows[seen.label as usize]);
                    winning.push(&index, seen.reference, row, seen.status);
                });
            })?;
        }
        Ok(())
    })?;
    found.iter().try_for_each(SeenRows::finish)?;
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
            found.add(joined.label_rows.len(), |winning| {
                for (label, status) in statuses.into_iter().enumerate() {
                    // Of an expired row nothing is read, and the answer has no reference either.
                    if status != ValueStatus::Missing {
                        winning.push(&index, references.value(label), joined.label_rows[label], status);
                    }
                }
            })?;
        }
        Ok(())
    })?;
    found.iter().try_for_each(SeenRows::finish)?;
    Ok(found)
}

/// The rows that some labels see.
struct Winning {
    /// With the part of a file that each is in.
    rows: Vec<(u32, Wanted)>,
    /// Labels of rows that are too old to be shown.
    expired: Vec<u64>,
}

impl Winning {
    /// For about so many labels.
    fn with_capacity(labels: usize) -> Self {
        Self { rows: Vec::with_capacity(labels), expired: Vec::new() }
    }

    fn push(&mut self, index: &UnitIndex, reference: i64, label_row: u64, status: ValueStatus) {
        if status == ValueStatus::Expired {
            self.expired.push(label_row);
            return;
        }
        let row = (reference & 0xffff_ffff) as u32;
        self.rows.push((index.unit_of(reference), Wanted { row, label_row, status }));
    }

    fn hand_on(self, found: &SeenRows) -> Result<()> {
        let range_of = |label: u64| (label / found.ranges.rows) as u32;
        let units = found.index.units.len();
        {
            let mut counts = found.counts.lock();
            for (unit, wanted) in &self.rows {
                counts[range_of(wanted.label_row) as usize * units + *unit as usize] += 1;
            }
        }
        let ranges: Vec<u32> = self.expired.iter().map(|label| range_of(*label)).collect();
        found.expired.push(&[Arc::new(UInt64Array::from(self.expired))], &ranges)?;
        let of_unit: Vec<u32> = self.rows.iter().map(|(unit, _)| *unit).collect();
        let grouping = found.winners.grouping(&of_unit);
        let ordered = || grouping.order.iter().map(|place| self.rows[*place as usize].1);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_iter_values(ordered().map(|wanted| wanted.row))),
            Arc::new(UInt64Array::from_iter_values(ordered().map(|wanted| wanted.label_row))),
            Arc::new(UInt8Array::from_iter_values(ordered().map(|wanted| wanted.status as u8))),
        ];
        found.winners.push_grouped(columns, &grouping)
    }
}

/// From a row reference to the part of a file that holds the row.
pub(crate) struct UnitIndex {
    units: Vec<Unit>,
    files: Vec<UnitsOfFile>,
}

/// The parts of a file.
struct UnitsOfFile {
    /// (first row, unit number), ascending.
    firsts: Vec<(u64, u32)>,
    /// Rows of each part but the last, where that is one number.
    rows: Option<u32>,
}

impl UnitIndex {
    fn new(files: &SourceFiles) -> Self {
        let units = files.units();
        let mut firsts = vec![Vec::new(); files.files.len()];
        for (number, unit) in units.iter().enumerate() {
            firsts[unit.file].push((unit.first_row, number as u32));
        }
        Self { units, files: firsts.into_iter().map(UnitsOfFile::new).collect() }
    }

    fn unit_of(&self, reference: i64) -> u32 {
        self.files[(reference >> 32) as usize].unit_of((reference & 0xffff_ffff) as u32)
    }
}

impl UnitsOfFile {
    fn new(firsts: Vec<(u64, u32)>) -> Self {
        let second = firsts.get(1).and_then(|(first, _)| u32::try_from(*first).ok());
        let are_at = |rows: &u32| (0..).zip(&firsts).all(|(n, (first, _))| n * u64::from(*rows) == *first);
        let rows = second.filter(|rows| *rows > 0).filter(are_at);
        Self { firsts, rows }
    }

    fn unit_of(&self, row: u32) -> u32 {
        let place = match self.rows {
            Some(rows) => ((row / rows) as usize).min(self.firsts.len() - 1),
            None => self.firsts.partition_point(|(first, _)| *first <= u64::from(row)) - 1,
        };
        self.firsts[place].1
    }
}

fn winner_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("row", DataType::UInt32, false),
        Field::new("label", DataType::UInt64, false),
        Field::new("status", DataType::UInt8, false),
    ]))
}

fn expired_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("label", DataType::UInt64, false)]))
}

/// Answers the labels of some ranges with the rows that they see in one view. A part of a file is read once, for the first of
/// these labels; what later ones see in it is put aside for them.
pub(crate) fn read_rows(
    job: &ViewJob<'_>,
    files: &SourceFiles,
    seen: &SeenRows,
    ranges: Range<usize>,
    answers: &Answers,
    threads: usize,
    report: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<()> {
    in_parallel(threads, ranges.len(), &|number| {
        for labels in seen.expired.take(ranges.start + number)? {
            let labels = labels.column(0).as_primitive::<UInt64Type>().values();
            answers.push_absent(labels, &job.plan, ValueStatus::Expired)?;
        }
        Ok(())
    })?;
    let inputs = job.inputs()?;
    let units = seen.units_first_seen(&ranges);
    let later_from = ranges.end as u64 * seen.ranges.rows;
    files.fetch(inputs.source_columns(), threads, &units, &|number| {
        let wanted = seen.take_wanted(number, |wanted| wanted)?;
        Ok(Box::new(Fetch::new(job, &inputs, wanted, answers, later_from, report)))
    })
}

/// A row that a label sees.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// The row in its file.
    pub row: u32,
    /// The label's row.
    pub label_row: u64,
    /// Fresh or stale.
    pub status: ValueStatus,
}

/// The rows of one unit that labels see.
struct Fetch<'a> {
    job: &'a ViewJob<'a>,
    inputs: &'a ViewProjection,
    answers: &'a Answers,
    /// Labels from here on are answered later.
    later_from: u64,
    report: &'a (dyn Fn(u64) -> Result<()> + Sync),
    wanted: Vec<Wanted>,
    next: usize,
    /// The same by chunk of the answers and ascending by row, made when columns come one by one.
    by_chunk: Vec<(usize, Vec<DenseRow>)>,
    later: Option<Later>,
}

/// Rows of one unit that later labels see, and their values until they are put aside.
struct Later {
    /// In the order of the chunks that the labels are in.
    labels: Vec<u64>,
    statuses: Vec<ValueStatus>,
    chunks: Grouping,
    /// Ascending by row.
    rows: Vec<DenseRow>,
    values: DenseRows,
}

impl<'a> Fetch<'a> {
    fn new(
        job: &'a ViewJob<'a>,
        inputs: &'a ViewProjection,
        wanted: Vec<Wanted>,
        answers: &'a Answers,
        later_from: u64,
        report: &'a (dyn Fn(u64) -> Result<()> + Sync),
    ) -> Self {
        Self { job, inputs, answers, later_from, report, wanted, next: 0, by_chunk: Vec::new(), later: None }
    }

    /// Notes which rows later labels see; `wanted` are in the order of the labels' chunks.
    fn begin_later(&mut self, dense: &DenseAnswers, wanted: &[Wanted], chunks: Grouping) {
        if wanted.is_empty() {
            return;
        }
        let mut rows: Vec<DenseRow> =
            wanted.iter().zip(0..).map(|(wanted, place)| DenseRow::new(wanted.row, place)).collect();
        rows.sort_unstable_by_key(|row| row.row);
        self.later = Some(Later {
            labels: wanted.iter().map(|wanted| wanted.label_row).collect(),
            statuses: wanted.iter().map(|wanted| wanted.status).collect(),
            chunks,
            rows,
            values: dense.rows_apart(wanted.len()),
        });
    }
}

/// Where rows that labels see, ascending, are among some of their file; as many as come before the end of these.
pub(crate) fn places_of(wanted: impl Iterator<Item = u32>, rows: &FetchedRows) -> Result<Vec<u32>> {
    let mut places = Vec::new();
    let mut place = 0;
    for wanted in wanted {
        while place < rows.row.len() && rows.row[place] < wanted {
            place += 1;
        }
        if place == rows.row.len() {
            break;
        }
        if rows.row[place] != wanted {
            return Err(LakeError::internal("a row that a label sees was not there when it was read again"));
        }
        places.push(place as u32);
    }
    Ok(places)
}

/// Columns with null for what is no number.
pub(crate) fn without_nan(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| nan_as_null(Arc::clone(column))).collect();
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
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

    /// Notes the rows' statuses, and where their values go. Where most are for later, they are better read row by row: what is read
    /// column by column is all in memory before it can be put aside.
    fn begin_columns(&mut self) -> Result<bool> {
        let Some(dense) = self.answers.dense.as_ref().filter(|_| self.job.has_plain_inputs()) else {
            return Ok(false);
        };
        let is_later = |wanted: &&Wanted| wanted.label_row >= self.later_from;
        let later = self.wanted.iter().filter(is_later).count();
        if later * 2 > self.wanted.len() {
            return Ok(false);
        }
        let chunk: Vec<u32> =
            self.wanted.iter().map(|wanted| self.answers.chunk_of(wanted.label_row)).collect();
        let grouping = self.answers.chunks.grouping(&chunk);
        let ordered: Vec<Wanted> = grouping.order.iter().map(|i| self.wanted[*i as usize]).collect();
        let (now, later) = ordered.split_at(ordered.len() - later);
        let end = self.answers.chunk_of(self.later_from) as usize;
        for (chunk, range) in grouping.ranges().take_while(|(chunk, _)| *chunk < end) {
            let wanted = &now[range];
            let row = |wanted: &Wanted| dense.row(chunk, wanted.row, wanted.label_row);
            let mut rows: Vec<DenseRow> = wanted.iter().map(row).collect();
            dense.put_statuses(chunk, &rows, wanted.iter().map(|wanted| wanted.status));
            rows.sort_unstable_by_key(|row| row.row);
            self.by_chunk.push((chunk, rows));
        }
        self.begin_later(dense, later, grouping.from(end));
        self.wanted = Vec::new();
        Ok(true)
    }

    fn column(&self, column: usize, rows: &ColumnRows<'_>, _next: &mut usize) -> Result<()> {
        let Some(dense) = &self.answers.dense else {
            return Err(LakeError::internal("answers have no places for columns"));
        };
        let features = self.job.features_of(&self.inputs.source_columns()[column]);
        let mut array = None;
        let rows = &ColumnRows { values: numbers(rows, &mut array), ..*rows };
        for (chunk, wanted) in &self.by_chunk {
            let wanted = among(wanted, rows);
            if !wanted.is_empty() {
                dense.put_column(*chunk, &features, rows, wanted);
            }
        }
        if let Some(later) = &self.later {
            later.values.put_column(&features, rows, among(&later.rows, rows));
        }
        Ok(())
    }

    fn columns_done(self: Box<Self>) -> Result<()> {
        let Some(later) = self.later else { return Ok(()) };
        let values = later.values.finish(later.statuses.iter().map(|status| *status as u8))?;
        self.answers.put_later(later.labels, &values, later.statuses, &later.chunks)
    }

    fn rows_done(&self, rows: u64) -> Result<()> {
        (self.report)(rows)
    }

    fn rows(&mut self, rows: &FetchedRows) -> Result<()> {
        (self.report)(rows.row.len() as u64)?;
        let positions = places_of(self.wanted[self.next..].iter().map(|wanted| wanted.row), rows)?;
        if positions.is_empty() {
            return Ok(());
        }
        let first = self.next;
        self.next += positions.len();
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
        self.answers.push_rows(label_rows, &values, statuses, &grouping, self.later_from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::draws;

    #[test]
    fn a_row_is_in_the_last_part_that_does_not_begin_after_it() {
        let mut below = draws(31);
        let mut even = 0;
        for _ in 0..300 {
            let rows = 1 + below(9);
            let (is_even, parts) = (below(2) == 0, 1 + below(6) as u32);
            let mut next = 0;
            let mut part = || {
                let first = next;
                // Some have no rows.
                next += if is_even { rows } else { below(6) };
                first
            };
            let firsts: Vec<(u64, u32)> = (10..10 + parts).map(|number| (part(), number)).collect();
            let units = UnitsOfFile::new(firsts.clone());
            even += usize::from(units.rows.is_some());
            for row in 0..firsts[firsts.len() - 1].0 as u32 + 20 {
                let naive = firsts.iter().rev().find(|(first, _)| *first <= u64::from(row));
                assert_eq!(Some(units.unit_of(row)), naive.map(|(_, number)| *number), "{firsts:?}");
            }
        }
        assert!((50..250).contains(&even), "{even}");
    }
}
