//! Training sets whose features are all columns of latest views with values of one width: made column by column, from the
//! sources' files to the output, so that no more is in memory at a time than the columns that are being made.

use crate::error::{LakeError, Result};
use crate::source::scan::{ColumnFetch, ColumnRows, ColumnValues, FetchedRows, SourceFiles, TakeRows, Unit};
use crate::training::assemble::{FeatureCounts, RowStatuses, is_usable};
use crate::training::column_file::{ColumnFile, Part};
use crate::training::dense::{Column, DenseRow, Gathered, from_row, sort_by_row};
use crate::training::join::dense_features;
use crate::training::label_keys::EncodedLabels;
use crate::training::labels::Labels;
use crate::training::latest::{SeenRows, places_of, without_nan};
use crate::training::output::{LabelColumns, Turns, to_file};
use crate::training::plain_column::is_plain;
use crate::training::plan::{ServicePlan, Slot, ViewJob};
use crate::training::request::{OutputFormat, TrainingOutput};
use crate::training::sink::{EncodedColumn, Fail};
use crate::training::stages::Stages;
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef, UInt64Type};
use parking_lot::Mutex;
use springhouse_core::definition::{DefaultValue, TableFormat};
use springhouse_core::{ValueStatus, ValueType};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Of eight parts of the memory budget so many may be taken by what is being made.
const EIGHTHS: u64 = 3;
/// Bytes that a label takes beside values: which row it sees, and a status; of two views, for one is made ready while the columns of
/// the one before it are written.
const LABEL_BYTES: u64 = 2 * 9;
/// The same where values are gathered: where they belong as well.
const GATHERED_LABEL_BYTES: u64 = 2 * 11;

/// A training set that is made like that.
pub(crate) struct ByColumn<'a> {
    pub plan: &'a ServicePlan<'a>,
    pub labels: &'a Labels,
    /// The labels' own columns, where they were encoded when their keys were read.
    pub encoded: Option<&'a EncodedLabels>,
    pub schema: &'a SchemaRef,
    pub label_rows: u64,
    pub chunk_rows: u64,
    pub threads: usize,
    pub memory_budget: u64,
    pub stages: &'a Stages,
    /// Told how many columns are written, and of how many.
    pub report: &'a (dyn Fn(u64, u64) -> Result<()> + Sync),
}

/// True for features whose columns come one after the other in a Parquet file, however it is made: a training set is the same to the
/// byte whatever memory there is.
pub(crate) fn has_columns_apart(plan: &ServicePlan<'_>) -> bool {
    let is_column = |job: &ViewJob<'_>| {
        let is_csv = job.source.table().is_some_and(|table| table.format == TableFormat::Csv);
        job.has_plain_inputs() && !is_csv && dense_features(job).is_some()
    };
    plan.requests.is_empty() && !plan.views.is_empty() && plan.views.iter().all(is_column)
}

/// The file of an output that is made column by column: one that has them apart, and whose columns fit in memory.
pub(crate) fn output_of<'o>(
    out: &TrainingOutput<'o>,
    plan: &ServicePlan<'_>,
    label_rows: u64,
    threads: usize,
    memory_budget: u64,
) -> Option<&'o Path> {
    let TrainingOutput::File(path, OutputFormat::Parquet) = *out else { return None };
    (has_columns_apart(plan) && fit(plan, label_rows, LABEL_BYTES, threads, memory_budget)).then_some(path)
}

/// Whether so many columns fit in memory, and so many bytes for each label.
fn fit(
    plan: &ServicePlan<'_>,
    label_rows: u64,
    label_bytes: u64,
    columns: usize,
    memory_budget: u64,
) -> bool {
    let types = plan.views.iter().filter_map(dense_features).flatten();
    let width = types.filter_map(|data_type| data_type.primitive_width()).max().unwrap_or(1) as u64;
    let bytes = label_rows.saturating_mul(label_bytes + columns as u64 * width);
    label_rows <= u64::from(u32::MAX) && bytes <= memory_budget / 8 * EIGHTHS
}

impl ByColumn<'_> {
    /// Writes it, when all that it is made of was read and is as it was; what became of the features, by output.
    pub(crate) fn write(
        &self,
        path: &Path,
        seen: &[(&SeenRows, &SourceFiles)],
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<FeatureCounts>> {
        let fail = |e: &dyn std::fmt::Display| LakeError::unwritable(path, e);
        let chunks: Vec<usize> = (0..self.label_rows.div_ceil(self.chunk_rows))
            .map(|chunk| (self.label_rows - chunk * self.chunk_rows).min(self.chunk_rows) as usize)
            .collect();
        let units: Vec<Vec<(usize, Unit)>> =
            seen.iter().map(|(seen, _)| seen.units_first_seen(&seen.ranges())).collect();
        to_file(path, |file| {
            let file = ColumnFile::new(file, self.schema, &chunks).map_err(|e| fail(&e))?;
            let fit = |label_bytes: u64, columns: usize| {
                fit(self.plan, self.label_rows, label_bytes, columns, self.memory_budget)
            };
            let gathers = self.chunk_rows as usize <= Gathered::CHUNK_ROWS_MAX
                && fit(GATHERED_LABEL_BYTES, self.threads);
            // A column that is made before its turn waits, if there is room, and who made it goes on with the next one.
            let has_room = fit(if gathers { GATHERED_LABEL_BYTES } else { LABEL_BYTES }, self.threads + 1);
            let turns = Turns::leaving(file, usize::from(has_room));
            let encoded = self.encoded.and_then(EncodedLabels::take);
            let label_leaves = match &encoded {
                Some((part, _)) => part.end_leaf(),
                None => self.stages.time("write", "", || self.write_labels(&turns, chunks.len(), &fail))?,
            };
            let counts = Arc::new(Mutex::new(vec![FeatureCounts::default(); self.plan.outputs.len()]));
            let work = Work {
                of: self,
                turns: &turns,
                label_leaves,
                chunks: &chunks,
                counts: Arc::clone(&counts),
                used: Arc::default(),
                gathers,
                columns_written: AtomicU64::new(0),
                path,
            };
            let mut first_piece = chunks.len();
            let mut views = Vec::with_capacity(seen.len());
            for ((seen, files), units) in seen.iter().zip(&units) {
                let view = View::new(&work, seen, files, units, first_piece)?;
                first_piece += view.columns.len();
                views.push(view);
            }
            let label_jobs = usize::from(encoded.is_some());
            let labels = Mutex::new(encoded);
            turns.in_parallel(self.threads, label_jobs + first_piece - chunks.len(), &|job| {
                if job < label_jobs {
                    let encoded = labels.lock().take();
                    let Some((part, encoded)) = encoded else { return Ok(()) };
                    return self.stages.time("write", "", || append_labels(&turns, part, encoded, &fail));
                }
                let piece = chunks.len() + job - label_jobs;
                let number = views.partition_point(|view| view.first_piece <= piece) - 1;
                let view = &views[number];
                view.make_ready()?;
                view.write(piece - view.first_piece)?;
                let rest = view.first_piece + view.columns.len() - piece - 1;
                match views.get(number + 1) {
                    // While the others make the last columns of this one.
                    Some(next) if rest == self.threads.min(view.columns.len() - 1) => next.make_ready(),
                    _ => Ok(()),
                }
            })?;
            check()?;
            drop(views);
            self.stages.time("write", "", || {
                turns.into_inner()?.finish().map_err(|e| fail(&e))?.finish().map_err(|e| fail(&e))
            })?;
            Ok(std::mem::take(&mut *counts.lock()))
        })
    }

    /// Reads and writes the labels' own columns; how many leaves they have.
    fn write_labels(&self, turns: &Turns<ColumnFile>, chunks: usize, fail: Fail<'_>) -> Result<usize> {
        let fields = self.labels.schema.fields().len();
        let part = Part::new(self.schema, 0..fields, 0).map_err(|e| fail(&e))?;
        let columns = LabelColumns::new(self.labels, self.label_rows, self.chunk_rows);
        turns.in_parallel(self.threads, chunks, &|_| {
            let Some((chunk, _, batch)) = columns.next()? else { return Ok(()) };
            let encoded = part.encode(chunk, batch.columns().to_vec()).map_err(|e| fail(&e))?;
            turns.take(chunk, |file| file.append(&part, chunk, encoded).map_err(|e| fail(&e))).map(drop)
        })?;
        // There are no more than were counted.
        columns.next()?;
        Ok(part.end_leaf())
    }
}

/// Writes the labels' own columns, which were encoded before.
fn append_labels(
    turns: &Turns<ColumnFile>,
    part: &Part,
    encoded: Vec<Vec<EncodedColumn>>,
    fail: Fail<'_>,
) -> Result<()> {
    let mut chunks = encoded.into_iter().enumerate();
    chunks.try_for_each(|(chunk, columns)| {
        turns.take(chunk, |file| file.append(part, chunk, columns).map_err(|e| fail(&e))).map(drop)
    })
}

/// What the columns of all views are written with.
struct Work<'a> {
    of: &'a ByColumn<'a>,
    turns: &'a Turns<ColumnFile>,
    /// Leaves of the labels' columns, which come first; a feature is one.
    label_leaves: usize,
    /// Rows of each chunk.
    chunks: &'a [usize],
    counts: Arc<Mutex<Vec<FeatureCounts>>>,
    /// Memory of columns that are written.
    used: Arc<Mutex<Vec<Column>>>,
    /// Whether values are gathered in the order in which they are read before they are put to their labels' places: with memory for
    /// that it takes less time, because what is written to is in the processor's cache.
    gathers: bool,
    columns_written: AtomicU64,
    path: &'a Path,
}

/// A view whose columns are written.
struct View<'a> {
    work: &'a Work<'a>,
    job: &'a ViewJob<'a>,
    seen: &'a SeenRows,
    files: &'a SourceFiles,
    /// The parts of the files in which labels see rows.
    units: &'a [(usize, Unit)],
    /// The source's.
    columns: Vec<String>,
    /// The number of its first column among all pieces of the file.
    first_piece: usize,
    state: Mutex<State<'a>>,
    columns_left: AtomicUsize,
}

/// How far a view is.
enum State<'a> {
    Waiting,
    Ready(Arc<Ready<'a>>),
    Written,
}

/// What a view's columns are made from.
struct Ready<'a> {
    since: Instant,
    placed: Arc<Placed>,
    fetch: ColumnFetch<'a, 'a>,
    apart: Vec<Apart>,
    labels: Arc<ViewLabels>,
}

/// The labels of a view whose columns are made.
struct ViewLabels {
    /// Where values are gathered; in the order of their positions.
    gathered: Vec<Gathered>,
    /// Which see a row whose values are shown.
    present: BooleanBuffer,
    of_chunks: Vec<RowStatuses>,
    chunk_rows: u32,
}

impl<'a> View<'a> {
    fn new(
        work: &'a Work<'a>,
        seen: &'a SeenRows,
        files: &'a SourceFiles,
        units: &'a [(usize, Unit)],
        first_piece: usize,
    ) -> Result<Self> {
        let job = &work.of.plan.views[seen.view];
        let columns = job.inputs()?.source_columns().to_vec();
        let (state, columns_left) = (Mutex::new(State::Waiting), AtomicUsize::new(columns.len()));
        Ok(Self { work, job, seen, files, units, columns, first_piece, state, columns_left })
    }

    /// Finds out which rows of which parts of files are wanted, unless that was done before. Who comes meanwhile waits. On as many
    /// threads as there may be, though some may be at columns still: where few rows are wanted, they are read here.
    fn make_ready(&self) -> Result<()> {
        let mut state = self.state.lock();
        if let State::Waiting = *state {
            *state = State::Ready(Arc::new(self.ready()?));
        }
        Ok(())
    }

    fn ready(&self) -> Result<Ready<'a>> {
        let since = Instant::now();
        let of = self.work.of;
        let mut statuses = Vec::new();
        statuses.resize_with(of.label_rows as usize, || AtomicU8::new(ValueStatus::Missing as u8));
        let placed = Arc::new(Placed {
            columns: self.columns.iter().map(|_| Mutex::default()).collect(),
            types: self.columns.iter().map(|column| self.type_of(column)).collect(),
            apart: Mutex::default(),
            gathered: Mutex::default(),
        });
        let mut firsts = BTreeMap::new();
        let mut first = 0;
        for (unit, _) in self.units {
            firsts.insert(*unit, first);
            first += self.seen.count(*unit) as u32;
        }
        let gathering = |unit: usize| {
            let (chunks, chunk_rows) = (self.work.chunks.len(), of.chunk_rows as u32);
            self.work.gathers.then(|| Gathering { first: firsts[&unit], chunks, chunk_rows })
        };
        for labels in self.seen.take_expired()? {
            for label in labels.column(0).as_primitive::<UInt64Type>().values() {
                *statuses[*label as usize].get_mut() = ValueStatus::Expired as u8;
            }
        }
        let fetch = self.files.begin_fetch(&self.columns, of.threads, self.units, &|unit| {
            Ok(Box::new(Placing::new(self.seen, unit, &statuses, gathering(unit), &placed)?))
        })?;
        let statuses: Vec<u8> = statuses.into_iter().map(AtomicU8::into_inner).collect();
        let apart = std::mem::take(&mut *placed.apart.lock());
        let mut gathered = std::mem::take(&mut *placed.gathered.lock());
        gathered.sort_unstable_by_key(Gathered::first);
        let present = BooleanBuffer::collect_bool(statuses.len(), |label| is_usable(statuses[label]));
        let of_chunks = statuses
            .chunks(of.chunk_rows as usize)
            .map(|statuses| RowStatuses::new(statuses.to_vec()))
            .collect();
        let labels = ViewLabels { gathered, present, of_chunks, chunk_rows: of.chunk_rows as u32 };
        Ok(Ready { since, placed, fetch, apart, labels: Arc::new(labels) })
    }

    /// Reads and writes a column.
    fn write(&self, number: usize) -> Result<()> {
        let ready = match &*self.state.lock() {
            State::Ready(ready) => Some(Arc::clone(ready)),
            State::Waiting | State::Written => None,
        };
        let ready = ready.ok_or_else(|| LakeError::internal("a view is not ready for its columns"))?;
        let work = self.work;
        let piece = self.first_piece + number;
        if let Some(data_type) = &ready.placed.types[number] {
            let column = ready.read(number, data_type, self)?;
            self.write_column(&self.columns[number], column, data_type, &ready.labels, piece)?;
        } else {
            work.turns.leave(piece, |_| Ok(()))?;
        }
        if self.columns_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.state.lock() = State::Written;
            work.of.stages.add("read rows", &self.job.view.name, ready.since.elapsed());
        }
        Ok(())
    }

    /// The type of the features that are a column; none where no feature is.
    fn type_of(&self, column: &str) -> Option<DataType> {
        let feature = *self.job.features_of(column).first()?;
        Some(springhouse_kernel::arrow_type(&self.job.plan.features()[feature].1))
    }

    fn new_column(&self, data_type: &DataType) -> Column {
        let mut used = self.work.used.lock();
        let rows = self.work.of.label_rows as usize;
        let again = used.iter().position(|column| column.can_hold(data_type, rows));
        let again = again.map(|position| used.swap_remove(position));
        drop(used);
        again.unwrap_or_else(|| Column::new(data_type, rows))
    }

    /// Writes the outputs that show a column's values.
    fn write_column(
        &self,
        name: &str,
        column: Column,
        data_type: &DataType,
        labels: &Arc<ViewLabels>,
        piece: usize,
    ) -> Result<()> {
        let work = self.work;
        let of = work.of;
        let fail = |e: &dyn std::fmt::Display| LakeError::unwritable(work.path, e);
        let (schema, outputs) = (of.schema, &of.plan.outputs);
        let first_field = schema.fields().len() - outputs.len();
        let features = self.job.features_of(name);
        let mut shown = Vec::new();
        for (number, output) in outputs.iter().enumerate() {
            let Slot::Stored { view, feature } = output.slot else { continue };
            if view != self.seen.view || !features.contains(&feature) {
                continue;
            }
            let field = first_field + number;
            let part = Part::new(schema, field..field + 1, work.label_leaves + number);
            shown.push(Shown {
                number,
                part: part.map_err(|e| fail(&e))?,
                default: self.job.defaults[feature].clone(),
                value_type: self.job.plan.features()[feature].1.clone(),
                stale_is_default: output.stale_is_default,
            });
        }
        let made = shown.len() as u64;
        let writing = Writing {
            outputs: shown,
            data_type: data_type.clone(),
            labels: Arc::clone(labels),
            counts: Arc::clone(&work.counts),
            path: work.path.to_owned(),
        };
        let values = match work.gathers {
            true => Values::gathered(column, labels),
            false => Values::Whole(column.finish(data_type, &labels.present)?),
        };
        let used = Arc::clone(&work.used);
        if is_plain(data_type) {
            // Encoding takes no longer than a copy, and what was put together just now is in the processor's cache.
            work.turns.leave(piece, move |file| {
                writing.for_each_chunk(&values, &mut |part, chunk, columns| {
                    file.append(part, chunk, columns).map_err(|e| LakeError::unwritable(&writing.path, &e))
                })?;
                used.lock().extend(values.into_memory());
                Ok(())
            })?;
        } else {
            let mut encoded = Vec::new();
            writing.for_each_chunk(&values, &mut |_, chunk, columns| {
                encoded.push((chunk, columns));
                Ok(())
            })?;
            used.lock().extend(values.into_memory());
            work.turns.leave(piece, move |file| writing.append(file, encoded))?;
        }
        let done = work.columns_written.fetch_add(made, Ordering::Relaxed) + made;
        (of.report)(done, outputs.len() as u64)
    }
}

impl Ready<'_> {
    /// Reads the values of a column to where they are gathered, or to their labels' places.
    fn read(&self, number: usize, data_type: &DataType, view: &View<'_>) -> Result<Column> {
        *self.placed.columns[number].lock() = Some(view.new_column(data_type));
        self.fetch.read(number)?;
        let column = self.placed.columns[number].lock().take();
        let mut column = column.ok_or_else(|| LakeError::internal("a column was taken twice"))?;
        for apart in &self.apart {
            let values = ColumnValues::Array(apart.batch.column(number));
            let from = ColumnRows { first: 0, count: apart.rows.len(), values };
            column.put(data_type, &from, &apart.rows);
        }
        Ok(column)
    }
}

/// The values of a column.
enum Values {
    /// Each at its label's place.
    Whole(ArrayRef),
    /// As they were gathered, and which labels have one.
    Gathered(Column, BooleanBuffer),
}

impl Values {
    fn gathered(mut column: Column, labels: &ViewLabels) -> Self {
        let valid = column.valid_gathered(&labels.gathered, labels.chunk_rows, &labels.present);
        Self::Gathered(column, valid)
    }

    /// Those of a chunk's labels; `memory` is used for them, if there is any.
    fn of_chunk(
        &self,
        chunk: usize,
        labels: &ViewLabels,
        data_type: &DataType,
        memory: Option<Column>,
    ) -> Result<ArrayRef> {
        let first = chunk * labels.chunk_rows as usize;
        let rows = (labels.present.len() - first).min(labels.chunk_rows as usize);
        match self {
            Self::Whole(values) => Ok(values.slice(first, rows)),
            Self::Gathered(column, valid) => {
                let again = memory.filter(|memory| memory.can_hold(data_type, rows));
                let mut values = again.unwrap_or_else(|| Column::new(data_type, rows));
                values.put_gathered(column, &labels.gathered, chunk);
                values.into_array(data_type, valid.slice(first, rows))
            }
        }
    }

    fn into_memory(self) -> Option<Column> {
        match self {
            Self::Whole(values) => Column::again(values),
            Self::Gathered(column, _) => Some(column),
        }
    }
}

/// What the outputs that show a column's values are written with.
struct Writing {
    outputs: Vec<Shown>,
    data_type: DataType,
    labels: Arc<ViewLabels>,
    counts: Arc<Mutex<Vec<FeatureCounts>>>,
    path: PathBuf,
}

/// An output that shows a column's values.
struct Shown {
    /// Among all outputs.
    number: usize,
    part: Part,
    default: DefaultValue,
    value_type: ValueType,
    stale_is_default: bool,
}

/// Takes the columns of a chunk, encoded.
type TakeEncoded<'a> = dyn FnMut(&Part, usize, Vec<EncodedColumn>) -> Result<()> + 'a;

impl Writing {
    /// Encodes what is shown of the values, output by output.
    fn for_each_chunk(&self, values: &Values, each: &mut TakeEncoded<'_>) -> Result<()> {
        let mut memory = None;
        for output in &self.outputs {
            let mut counts = FeatureCounts::default();
            for (chunk, statuses) in self.labels.of_chunks.iter().enumerate() {
                let of_chunk = values.of_chunk(chunk, &self.labels, &self.data_type, memory.take())?;
                let (default, value_type) = (&output.default, &output.value_type);
                let (shown, more) =
                    statuses.shown(Arc::clone(&of_chunk), default, value_type, output.stale_is_default)?;
                counts.merge(&more);
                let encoded = output.part.encode(chunk, vec![shown]);
                each(&output.part, chunk, encoded.map_err(|e| LakeError::unwritable(&self.path, &e))?)?;
                memory = Column::again(of_chunk);
            }
            self.counts.lock()[output.number].merge(&counts);
        }
        Ok(())
    }

    /// Writes what was encoded before.
    fn append(&self, file: &mut ColumnFile, encoded: Vec<(usize, Vec<EncodedColumn>)>) -> Result<()> {
        let parts = self.outputs.iter().flat_map(|output| self.labels.of_chunks.iter().map(|_| &output.part));
        parts.zip(encoded).try_for_each(|(part, (chunk, columns))| {
            file.append(part, chunk, columns).map_err(|e| LakeError::unwritable(&self.path, &e))
        })
    }
}

/// What one view's rows go to.
struct Placed {
    /// By column of the source; there while it is read.
    columns: Vec<Mutex<Option<Column>>>,
    /// By column of the source: the type of the features that are it.
    types: Vec<Option<DataType>>,
    /// Rows of parts of files of which so few are wanted that all their columns were read at once.
    apart: Mutex<Vec<Apart>>,
    gathered: Mutex<Vec<Gathered>>,
}

/// Where the values of a part of a file are gathered.
struct Gathering {
    /// The position of the first.
    first: u32,
    chunks: usize,
    chunk_rows: u32,
}

/// Rows, with all columns; `rows` are numbered by their place in the batch.
struct Apart {
    batch: RecordBatch,
    rows: Vec<DenseRow>,
}

/// The rows of one part of a file that labels see.
struct Placing {
    /// Ascending by row from when they are read on.
    rows: Vec<DenseRow>,
    next: usize,
    gathering: Option<Gathering>,
    placed: Arc<Placed>,
}

impl Placing {
    /// Takes out the rows of a part of the files, and notes the labels' statuses.
    fn new(
        seen: &SeenRows,
        unit: usize,
        statuses: &[AtomicU8],
        gathering: Option<Gathering>,
        placed: &Arc<Placed>,
    ) -> Result<Self> {
        let rows = seen.take_wanted(unit, |wanted| {
            statuses[wanted.label_row as usize].store(wanted.status as u8, Ordering::Relaxed);
            DenseRow::new(wanted.row, wanted.label_row as u32)
        })?;
        Ok(Self { rows, next: 0, gathering, placed: Arc::clone(placed) })
    }

    /// Brings rows in the order of the file, and gives them positions where values are gathered.
    fn sort(&mut self) {
        sort_by_row(&mut self.rows);
        if let Some(Gathering { first, chunks, chunk_rows }) = self.gathering.take()
            && !self.rows.is_empty()
        {
            let gathered = Gathered::new(&mut self.rows, first, chunks, chunk_rows);
            self.placed.gathered.lock().push(gathered);
        }
    }
}

impl TakeRows for Placing {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn wanted(&mut self) -> Vec<u32> {
        self.sort();
        let mut rows: Vec<u32> = self.rows.iter().map(|row| row.row).collect();
        rows.dedup();
        rows
    }

    fn rows(&mut self, rows: &FetchedRows) -> Result<()> {
        let wanted = &self.rows[self.next..];
        let places = places_of(wanted.iter().map(|row| row.row), rows)?;
        if !places.is_empty() {
            let wanted =
                wanted.iter().take(places.len()).zip(0..).map(|(row, place)| row.at_row(place)).collect();
            self.next += places.len();
            let batch = without_nan(&take_record_batch(&rows.batch, &UInt32Array::from(places))?)?;
            self.placed.apart.lock().push(Apart { batch, rows: wanted });
        }
        Ok(())
    }

    fn begin_columns(&mut self) -> Result<bool> {
        self.sort();
        Ok(true)
    }

    fn column(&self, column: usize, rows: &ColumnRows<'_>, next: &mut usize) -> Result<()> {
        let wanted = from_row(&self.rows, rows.first, *next);
        if let (Some(data_type), false) = (&self.placed.types[column], wanted.is_empty())
            && let Some(target) = &mut *self.placed.columns[column].lock()
        {
            let put = target.put_numbers(data_type, rows, wanted);
            *next = self.rows.len() - wanted.len() + put;
        }
        Ok(())
    }

    fn rows_done(&self, _rows: u64) -> Result<()> {
        Ok(())
    }

    fn columns_done(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
