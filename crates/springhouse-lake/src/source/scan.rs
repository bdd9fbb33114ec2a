//! A scan: the rows of a source, table and stream alike, with declared columns, stamps and identities, in parallel.

mod pages;
mod reader;

use crate::delta;
use crate::error::{LakeError, Result};
use crate::lake::Lake;
use crate::layout;
use crate::source::conform::plain_name;
use crate::source::keys::KeySet;
use crate::source::location::{FileRef, list_files, resolve};
use crate::source::plain::{PlainValues, Scratch};
use crate::source::selected::{Pass, PassKind, Selected};
use crate::source::zone::Zone;
use crate::source::{csv, parquet};
use crate::stream::OFFSET_COLUMN;
use crate::training::again::{SourceInputs, changed};
use crate::training::{Availability, threads};
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, RowSelection};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use deltalake_core::DeltaTable;
use parking_lot::Mutex;
use reader::FileReader;
use springhouse_core::Micros;
use springhouse_core::definition::{Column, Source, TableFormat};
use springhouse_core::time::{EVENT_TIME_MAX, EVENT_TIME_MIN};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Rows of which fewer than one in so many are wanted are read on their own; else all are decoded, which is faster.
const SPARSE_SHARE: u64 = 64;
/// So many parts of a file are read one after the other for the same column: rows of one time are in many parts where a file is in
/// the order of its keys, and what their values go to stays in the processor's cache.
const SPAN_UNITS: usize = 16;

/// Which rows and columns a scan gives.
#[derive(Clone, Debug)]
pub(crate) struct ScanSpec {
    /// Declared columns, by name.
    pub columns: Vec<String>,
    /// Rows outside may be left out (whole row groups and pages are), rows inside never are.
    pub event_times: std::ops::RangeInclusive<Micros>,
    /// Stream rows outside are left out.
    pub offsets: Range<i64>,
    /// False where no stream row is outside and nothing is decided by sequence numbers ([`SourceFiles::are_in_order`]): they are not
    /// read then, and [`SourceRows::seq`] does not tell them.
    pub with_offsets: bool,
    /// Whether `known_at` is the record's or the event time again.
    pub availability: Availability,
    /// Whether rows come with their event's identity.
    pub with_ids: bool,
    /// Rows whose first key is none of these may be left out (whole row groups and pages are): the column, and the keys.
    pub keys: Option<(String, Arc<KeySet>)>,
}

impl ScanSpec {
    /// Everything there is of these columns.
    pub(crate) fn all(columns: Vec<String>) -> Self {
        Self {
            columns,
            event_times: EVENT_TIME_MIN..=EVENT_TIME_MAX,
            offsets: 0..i64::MAX,
            with_offsets: true,
            availability: Availability::Known,
            with_ids: false,
            keys: None,
        }
    }
}

/// Rows of one file that were found before, in file order.
#[derive(Debug)]
pub(crate) struct FetchedRows {
    /// The columns asked for, with their declared names and types.
    pub batch: RecordBatch,
    /// Per row: its number in the file.
    pub row: ScalarBuffer<u32>,
}

/// Rows of one file, in file order.
#[derive(Debug)]
pub(crate) struct SourceRows {
    /// The columns asked for, with their declared names and types.
    pub batch: RecordBatch,
    /// Per row.
    pub event_time: ScalarBuffer<i64>,
    /// Per row.
    pub known_at: ScalarBuffer<i64>,
    seq: Seq,
    /// Per row: its event's identity, when the source declares one (or pushed rows brought one).
    pub event_ids: Option<Vec<Option<u128>>>,
    /// Per row: its number in the file.
    pub row: ScalarBuffer<u32>,
    /// Which file of the scan.
    pub file: usize,
}

/// Sequence numbers of rows.
#[derive(Debug)]
enum Seq {
    /// Per row.
    Stored(ScalarBuffer<i64>),
    /// Of a row with the number 0 in its file.
    Positional(i64),
}

impl SourceRows {
    /// A row's sequence number.
    pub(crate) fn seq(&self, row: usize) -> i64 {
        match &self.seq {
            Seq::Stored(seq) => seq[row],
            Seq::Positional(first) => first | i64::from(self.row[row]),
        }
    }
}

/// Whether a file is of the table read in place or of the stream's own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Read in place.
    Table,
    /// Ours.
    Stream,
}

/// One file of a scan.
#[derive(Debug)]
pub(crate) struct ScanFile {
    /// The file.
    pub file: FileRef,
    /// Whose it is.
    pub origin: Origin,
    format: FileFormat,
    /// With the page index, read when it is first asked for.
    with_pages: OnceLock<Option<ArrowReaderMetadata>>,
    schema: SchemaRef,
    /// `i64::MIN | hash31(name) << 32`.
    seq_base: i64,
    /// Columns that a file may lack: those of a Delta table whose schema has them.
    may_lack: bool,
}

#[derive(Debug)]
enum FileFormat {
    Parquet(ArrowReaderMetadata),
    Csv,
}

/// A part of a file that one thread reads.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// Which file.
    pub file: usize,
    /// Parquet: the row group; None: the whole file.
    pub row_group: Option<usize>,
    /// The number of its first row in the file.
    pub first_row: u64,
}

/// Parts that may hold what is asked for, with the rows of those of their pages that may; none: all.
type Chosen = Vec<(Unit, Option<RowSelection>)>;

/// The files of a source at one moment, their footers read.
#[derive(Debug)]
pub(crate) struct SourceFiles {
    /// The source.
    pub source: Source,
    /// Its files: table first, each part sorted by name.
    pub files: Vec<ScanFile>,
    /// The version of the Delta table read in place.
    pub table_version: Option<i64>,
    /// The version of the stream's own Delta table.
    pub stream_version: Option<i64>,
    zone: Zone,
    passes: Mutex<Vec<Pass>>,
}

/// What a scan read and left out.
#[derive(Debug, Default)]
pub(crate) struct ScanCounts {
    /// Rows looked at.
    pub rows_read: AtomicU64,
    /// Rows without an event time (or with a local one that is no instant).
    pub no_event_time: AtomicU64,
    /// Rows whose event time no record may carry.
    pub out_of_range: AtomicU64,
    /// Rows whose `known_at` column is null or out of range.
    pub no_known_at: AtomicU64,
    /// Rows without a required column.
    pub required_null: AtomicU64,
    /// Rows whose `op` is no word of [`springhouse_core::change`].
    pub unknown_op: AtomicU64,
    /// Rows whose entity key has a null part or is too long.
    pub no_key: AtomicU64,
    /// Rows that were wanted.
    pub kept: AtomicU64,
}

impl ScanCounts {
    fn reasons(&self) -> [(&'static str, &AtomicU64); 6] {
        [
            ("no_event_time", &self.no_event_time),
            ("event_time_out_of_range", &self.out_of_range),
            ("no_known_at", &self.no_known_at),
            ("required_column_null", &self.required_null),
            ("unknown_op", &self.unknown_op),
            ("no_entity_key", &self.no_key),
        ]
    }

    /// Adds what another scan has left out.
    pub(crate) fn add_skipped(&self, skipped: &BTreeMap<String, u64>) {
        for (reason, count) in self.reasons() {
            count.fetch_add(skipped.get(reason).copied().unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// The counts of what was left out, by reason; only those that are not zero.
    pub(crate) fn skipped(&self) -> BTreeMap<&'static str, u64> {
        let counted = self.reasons().into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

/// The negative sequence number of a table row, without its row number.
fn seq_base(name: &str) -> i64 {
    let hash31 = xxhash_rust::xxh3::xxh3_64(name.as_bytes()) & 0x7fff_ffff;
    i64::MIN | (hash31 << 32) as i64
}

/// A source's Delta table, as it is or in a version; none when there is none, or was none.
async fn open_delta(
    directory: &Path,
    source: &str,
    version: Option<Option<i64>>,
) -> Result<Option<DeltaTable>> {
    match version {
        None => delta::open(directory).await,
        Some(None) => Ok(None),
        Some(Some(version)) => {
            let gone = |why: &str| changed(source, &format!("version {version} of its Delta table {why}"));
            match delta::open_version(directory, version).await {
                Ok(table) => Ok(Some(table.ok_or_else(|| gone("is gone with the table"))?)),
                Err(error) => Err(gone(&format!("can't be read ({})", error.message))),
            }
        }
    }
}

impl SourceFiles {
    /// Finds the files of a source and reads their footers. `stream` false leaves the stream's own table out.
    pub(crate) async fn open(lake: &Lake, source: &Source, stream: bool) -> Result<Self> {
        Self::open_as(lake, source, stream, None).await
    }

    /// The same of a source as it was.
    pub(crate) async fn open_again(lake: &Lake, source: &Source, inputs: &SourceInputs) -> Result<Self> {
        Self::open_as(lake, source, true, Some(inputs)).await
    }

    async fn open_as(
        lake: &Lake,
        source: &Source,
        stream: bool,
        inputs: Option<&SourceInputs>,
    ) -> Result<Self> {
        let zone = Zone::parse(source.time_zone.as_deref())?;
        let mut found = Self {
            source: source.clone(),
            files: Vec::new(),
            table_version: None,
            stream_version: None,
            zone,
            passes: Mutex::default(),
        };
        if let Some(location) = source.table() {
            if location.format == TableFormat::Delta {
                let directory = resolve(lake.project(), &location.uri)?;
                let version = inputs.map(|inputs| inputs.delta_version);
                let Some(table) = open_delta(&directory, &source.name, version).await? else {
                    return Err(LakeError::new(
                        "source_not_found",
                        format!("`{}` is not a Delta table", location.uri),
                    )
                    .hint("give the directory that holds `_delta_log`"));
                };
                let listed = delta::files(lake.project(), &directory, &table)?;
                found.table_version = Some(listed.version);
                found.add(listed.files, Origin::Table, TableFormat::Parquet, true)?;
            } else {
                let mut files = list_files(lake.project(), &location.uri, location.format)?;
                if let Some(inputs) = inputs {
                    files = inputs.of(&source.name, files)?;
                }
                found.add(files, Origin::Table, location.format, false)?;
            }
        }
        if stream && source.is_stream() {
            let directory = lake.stream_table(&source.name);
            let version = inputs.map(|inputs| inputs.stream_delta_version);
            if let Some(table) = open_delta(&directory, &source.name, version).await? {
                let listed = delta::files(lake.project(), &directory, &table)?;
                found.stream_version = Some(listed.version);
                found.add(listed.files, Origin::Stream, TableFormat::Parquet, true)?;
            }
        }
        Ok(found)
    }

    fn add(
        &mut self,
        files: Vec<FileRef>,
        origin: Origin,
        format: TableFormat,
        may_lack: bool,
    ) -> Result<()> {
        let opened = made_in_parallel(threads(), files.len(), &|number| {
            let file = &files[number];
            if format == TableFormat::Csv {
                return Ok((FileFormat::Csv, csv::header(file)?));
            }
            let metadata = parquet::open(file)?;
            let schema = Arc::clone(metadata.schema());
            Ok((FileFormat::Parquet(metadata), schema))
        })?;
        for (file, (format, schema)) in files.into_iter().zip(opened) {
            let seq_base = seq_base(&file.name);
            let with_pages = OnceLock::new();
            self.files.push(ScanFile { file, origin, format, with_pages, schema, seq_base, may_lack });
        }
        Ok(())
    }

    /// About how many rows there are; for CSV a guess from the size.
    pub(crate) fn rows_estimate(&self) -> u64 {
        self.files.iter().map(ScanFile::rows_estimate).sum()
    }

    fn column(&self, name: &str) -> Option<&Column> {
        self.source.columns.iter().find(|c| c.name == name)
    }

    /// The rows, given to `each` from `threads` threads in no particular order. `wanted` decides which files.
    pub(crate) fn for_each(
        &self,
        spec: &ScanSpec,
        threads: usize,
        wanted: &(dyn Fn(usize, &ScanFile) -> bool + Sync),
        counts: &ScanCounts,
        each: &(dyn Fn(SourceRows) -> Result<()> + Sync),
    ) -> Result<()> {
        let (readers, units, selected) = self.select(spec, wanted)?;
        self.note(Pass { kind: PassKind::Events, columns: spec.columns.clone(), selected, rows_kept: None });
        in_parallel(threads, units.len(), &|number| {
            let (unit, pages) = &units[number];
            let reader = readers[unit.file].as_ref().expect("units are made of wanted files");
            reader.read(unit, pages.as_ref(), &mut |batch, roots, numbers| {
                reader.rows(batch, roots, unit, numbers, spec, counts)?.map_or(Ok(()), each)
            })
        })
    }

    /// The parts that may hold what is asked for, with a reader for the files they are in.
    fn select<'f>(
        &'f self,
        spec: &ScanSpec,
        wanted: &(dyn Fn(usize, &ScanFile) -> bool + Sync),
    ) -> Result<(Vec<Option<FileReader<'f>>>, Chosen, Selected)> {
        let mut readers = Vec::with_capacity(self.files.len());
        let mut units = Vec::new();
        let mut selected = Selected::default();
        for (index, file) in self.files.iter().enumerate() {
            if !wanted(index, file) {
                readers.push(None);
                continue;
            }
            let reader = FileReader::new(self, file, spec)?;
            for unit in file.units(index) {
                let mut may_hold = reader.may_hold(&unit, spec);
                let pages = if may_hold { reader.pages(&unit, spec) } else { None };
                may_hold &= pages.as_ref().is_none_or(RowSelection::selects_any);
                let cost = reader.cost(&unit);
                selected.count(cost, may_hold);
                if may_hold {
                    if let Some(pages) = &pages {
                        let bytes = reader.bytes_of(&unit, pages).unwrap_or(cost.1);
                        selected.leave_out(cost.0 - pages.row_count() as u64, cost.1 - bytes);
                    }
                    units.push((unit, pages));
                }
            }
            readers.push(Some(reader));
        }
        Ok((readers, units, selected))
    }

    /// What a scan would read.
    pub(crate) fn selected(
        &self,
        spec: &ScanSpec,
        wanted: &(dyn Fn(usize, &ScanFile) -> bool + Sync),
    ) -> Result<Selected> {
        self.select(spec, wanted).map(|(_, _, selected)| selected)
    }

    /// The parts that a scan would read, in order.
    pub(crate) fn units_selected(
        &self,
        spec: &ScanSpec,
        wanted: &(dyn Fn(usize, &ScanFile) -> bool + Sync),
    ) -> Result<Vec<Unit>> {
        Ok(self.select(spec, wanted)?.1.into_iter().map(|(unit, _)| unit).collect())
    }

    pub(crate) fn note(&self, pass: Pass) {
        let mut passes = self.passes.lock();
        let same = |known: &&mut Pass| {
            known.kind == PassKind::Rows && pass.kind == PassKind::Rows && known.columns == pass.columns
        };
        match passes.iter_mut().find(same) {
            // Rows for another range of labels.
            Some(known) => known.selected.add(&pass.selected),
            None => passes.push(pass),
        }
    }

    /// Says how many rows of the last reading were wanted.
    pub(crate) fn note_kept(&self, rows: u64) {
        if let Some(pass) = self.passes.lock().last_mut() {
            pass.rows_kept = Some(rows);
        }
    }

    /// Every reading so far.
    pub(crate) fn passes(&self) -> Vec<Pass> {
        self.passes.lock().clone()
    }

    /// The sequence number of a row of a table without a column for it; `reference` is `file << 32 | row`.
    pub(crate) fn positional_seq(&self, reference: i64) -> i64 {
        self.files[(reference >> 32) as usize].seq_base | (reference & 0xffff_ffff)
    }

    /// True where rows of one event time and one entity, which has these keys, are in the order of their references when they are in
    /// that of their sequence numbers, and no row is outside of these offsets. Of the files that Springhouse keeps it may be known.
    pub(crate) fn are_in_order(&self, keys: &[String], offsets: &Range<i64>) -> bool {
        let mut next = offsets.start;
        self.files.iter().all(|file| {
            let of_file = file.offsets_in_order(keys, &self.source.event_time);
            of_file.is_some_and(|(low, high)| {
                let is_next = next <= low && low <= high && high < offsets.end;
                next = high.saturating_add(1);
                is_next
            })
        })
    }

    /// Every part that a scan reads on its own, in order.
    pub(crate) fn units(&self) -> Vec<Unit> {
        self.files.iter().enumerate().flat_map(|(index, file)| file.units(index)).collect()
    }

    /// Reads columns of rows that were found before, of some units. `start` says which of the unit with a number, and what takes
    /// them.
    pub(crate) fn fetch<'t>(
        &self,
        columns: &[String],
        threads: usize,
        units: &[(usize, Unit)],
        start: &(dyn Fn(usize) -> Result<Box<dyn TakeRows + 't>> + Sync),
    ) -> Result<()> {
        let fetch = self.begin_fetch(columns, threads, units, start)?;
        let spans: Vec<&[ByColumn<'_, 't>]> = fetch
            .units
            .chunk_by(|a, b| a.unit.file == b.unit.file)
            .flat_map(|of_file| of_file.chunks(SPAN_UNITS))
            .collect();
        in_parallel(threads, spans.len() * columns.len(), &|number| {
            let (span, column) = (spans[number / columns.len()], number % columns.len());
            let mut scratch = Scratch::default();
            for unit in span {
                unit.read(column, &mut scratch)?;
                if column + 1 == columns.len() {
                    unit.take.rows_done(unit.reader.cost(unit.unit).0)?;
                }
            }
            Ok(())
        })?;
        fetch.units.into_iter().try_for_each(|unit| unit.take.columns_done())
    }

    /// The same up to where columns can be read one by one; what is not read like that was read.
    pub(crate) fn begin_fetch<'u, 't>(
        &'u self,
        columns: &[String],
        threads: usize,
        units: &'u [(usize, Unit)],
        start: &(dyn Fn(usize) -> Result<Box<dyn TakeRows + 't>> + Sync),
    ) -> Result<ColumnFetch<'u, 't>> {
        let selected = Mutex::new(self.selected_rows(columns, &mut units.iter().map(|(_, unit)| unit))?);
        let by_column = made_in_parallel(threads, units.len(), &|number| {
            let (name, unit) = &units[number];
            let reader = FileReader::of_columns(self, &self.files[unit.file], columns)?;
            let mut take = start(*name)?;
            let cost = reader.cost(unit);
            let is_sparse = take.count() as u64 * SPARSE_SHARE <= cost.0;
            if !is_sparse && unit.row_group.is_some() && take.begin_columns()? {
                return Ok(Some(ByColumn { unit, reader, take }));
            }
            let rows = take.wanted();
            let only = is_sparse.then(|| pages::selection_of(&rows, unit));
            if let Some(bytes) = only.as_ref().and_then(|only| reader.bytes_of(unit, only)) {
                selected.lock().leave_out(cost.0 - rows.len() as u64, cost.1 - bytes);
            }
            reader.read(unit, only.as_ref(), &mut |batch, roots, numbers| {
                take.rows(&reader.fetched(batch, roots, numbers)?)
            })?;
            Ok(None)
        })?;
        let (columns, selected) = (columns.to_vec(), selected.into_inner());
        self.note(Pass { kind: PassKind::Rows, columns, selected, rows_kept: None });
        Ok(ColumnFetch { units: by_column.into_iter().flatten().collect() })
    }

    /// What reading columns of rows that were found before would read: of these units, in order.
    pub(crate) fn selected_rows(
        &self,
        columns: &[String],
        units: &mut dyn Iterator<Item = &Unit>,
    ) -> Result<Selected> {
        let mut selected = Selected::default();
        let mut units = units.peekable();
        for (index, file) in self.files.iter().enumerate() {
            let reader = FileReader::of_columns(self, file, columns)?;
            for unit in file.units(index) {
                let is_read = units.next_if(|u| (u.file, u.first_row) == (index, unit.first_row)).is_some();
                selected.count(reader.cost(&unit), is_read);
            }
        }
        Ok(selected)
    }

    /// Fails when a file was changed since it was opened: two passes over it would not see the same rows.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.check_files(&(0..self.files.len()).collect())
    }

    /// The same for some of the files.
    pub(crate) fn check_files(&self, numbers: &BTreeSet<usize>) -> Result<()> {
        let files = numbers.iter().map(|number| &self.files[*number]);
        for file in files.filter(|f| f.file.modified_ns != 0) {
            let now = crate::source::location::file_ref(Path::new(""), file.file.path.clone())?;
            let same_time = self.is_delta_file(file) || now.modified_ns == file.file.modified_ns;
            if now.size != file.file.size || !same_time {
                return Err(LakeError::new(
                    "source_changed",
                    format!("`{}` was changed while it was being read", file.file.name),
                )
                .hint("run the command again; write new files instead of changing old ones"));
            }
        }
        Ok(())
    }

    /// Delta's log has its own modification time of a file, in milliseconds.
    fn is_delta_file(&self, file: &ScanFile) -> bool {
        file.may_lack
    }
}

/// Units that are read column by column.
pub(crate) struct ColumnFetch<'a, 't> {
    units: Vec<ByColumn<'a, 't>>,
}

impl ColumnFetch<'_, '_> {
    /// Reads one of the columns, of all units.
    pub(crate) fn read(&self, column: usize) -> Result<()> {
        let mut scratch = Scratch::default();
        self.units.iter().try_for_each(|unit| unit.read(column, &mut scratch))
    }
}

/// A unit that is read column by column.
struct ByColumn<'a, 't> {
    unit: &'a Unit,
    reader: FileReader<'a>,
    take: Box<dyn TakeRows + 't>,
}

impl ByColumn<'_, '_> {
    fn read(&self, column: usize, scratch: &mut Scratch) -> Result<()> {
        let mut next = 0;
        let mut take = |rows: ColumnRows<'_>| self.take.column(column, &rows, &mut next);
        self.reader.read_column(self.unit, column, scratch, &mut take)
    }
}

/// What takes the rows of a unit.
pub(crate) trait TakeRows: Send + Sync {
    /// How many rows are wanted, one that is wanted twice counted twice.
    fn count(&self) -> usize;

    /// Their numbers in the file, ascending; asked for before [`Self::rows`].
    fn wanted(&mut self) -> Vec<u32>;

    /// Takes a batch; they come in file order, and may have other rows as well.
    fn rows(&mut self, rows: &FetchedRows) -> Result<()>;

    /// Makes ready for [`Self::column`], which is called instead when most rows are read; false where it can't be.
    fn begin_columns(&mut self) -> Result<bool>;

    /// Takes values of a column, by its number; those of one column come in file order, and may come again. `next` is 0 before
    /// the first, and then what this left there: how far it is.
    fn column(&self, column: usize, rows: &ColumnRows<'_>, next: &mut usize) -> Result<()>;

    /// Told that so many rows were read column by column.
    fn rows_done(&self, rows: u64) -> Result<()>;

    /// Called when all columns were read.
    fn columns_done(self: Box<Self>) -> Result<()>;
}

/// Values of one column of a unit.
#[derive(Clone, Copy)]
pub(crate) struct ColumnRows<'a> {
    /// The number of the first row in its file.
    pub first: u32,
    /// How many rows.
    pub count: usize,
    /// What they have.
    pub values: ColumnValues<'a>,
}

/// Values of one column.
#[derive(Clone, Copy)]
pub(crate) enum ColumnValues<'a> {
    /// As they are in memory.
    Plain(PlainValues<'a>),
    /// As an array.
    Array(&'a ArrayRef),
}

/// Does jobs `0..count` on up to `threads` threads; the first error stops the others.
pub(crate) fn in_parallel(
    threads: usize,
    count: usize,
    job: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || -> Result<()> {
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            job(number).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    let threads = threads.clamp(1, count.max(1));
    if threads == 1 {
        return work();
    }
    std::thread::scope(|scope| {
        // This thread works too.
        let handles: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let here = work();
        handles.into_iter().map(join).fold(here, Result::and)
    })
}

/// The same with what the jobs make, in their order.
pub(crate) fn made_in_parallel<T: Send>(
    threads: usize,
    count: usize,
    make: &(dyn Fn(usize) -> Result<T> + Sync),
) -> Result<Vec<T>> {
    let made: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    in_parallel(threads, count, &|number| {
        *made[number].lock() = Some(make(number)?);
        Ok(())
    })?;
    Ok(made.into_iter().filter_map(Mutex::into_inner).collect())
}

/// Waits for a thread; its panic goes on here.
pub(crate) fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl ScanFile {
    /// The least and the greatest offset, where rows of one event time and one entity with these keys are in their order.
    fn offsets_in_order(&self, keys: &[String], event_time: &str) -> Option<(i64, i64)> {
        let (Origin::Stream, FileFormat::Parquet(metadata)) = (self.origin, &self.format) else {
            return None;
        };
        let by = layout::sorted_by(metadata.metadata().file_metadata())?;
        let (last, before) = by.split_last()?;
        let is_same = |column: &String| column == event_time || keys.contains(column);
        if last != OFFSET_COLUMN || !before.iter().all(is_same) {
            return None;
        }
        let leaf = parquet::leaf_of(metadata, parquet::root_of(&self.schema, OFFSET_COLUMN)?)?;
        let mut offsets = None;
        for group in metadata.metadata().row_groups() {
            let (low, high) = parquet::int64_range(group, leaf)?;
            if parquet::null_count(group, leaf) != Some(0) {
                return None;
            }
            let (least, greatest) = offsets.unwrap_or((low, high));
            offsets = Some((low.min(least), high.max(greatest)));
        }
        offsets
    }

    /// The footer with the page index, if there is one.
    fn paged(&self) -> Option<&ArrowReaderMetadata> {
        let FileFormat::Parquet(metadata) = &self.format else { return None };
        self.with_pages.get_or_init(|| parquet::with_pages(&self.file, metadata)).as_ref()
    }

    pub(crate) fn rows_estimate(&self) -> u64 {
        match &self.format {
            FileFormat::Parquet(metadata) => metadata.metadata().file_metadata().num_rows().unsigned_abs(),
            // 50 bytes a line: a guess, only for how many partitions to make.
            FileFormat::Csv => self.file.size / 50 + 1,
        }
    }

    fn units(&self, index: usize) -> Vec<Unit> {
        let FileFormat::Parquet(metadata) = &self.format else {
            return vec![Unit { file: index, row_group: None, first_row: 0 }];
        };
        let mut first_row = 0;
        let mut units = Vec::with_capacity(metadata.metadata().num_row_groups());
        for (number, group) in metadata.metadata().row_groups().iter().enumerate() {
            let rows = group.num_rows().unsigned_abs();
            if rows > 0 {
                units.push(Unit { file: index, row_group: Some(number), first_row });
            }
            first_row += rows;
        }
        units
    }

    /// Exact rows of a Parquet file.
    pub(crate) fn row_count(&self) -> Option<u64> {
        match &self.format {
            FileFormat::Parquet(_) => Some(self.rows_estimate()),
            FileFormat::Csv => None,
        }
    }
}

/// The names of the columns in a schema with their types in plain words, for messages.
pub(crate) fn describe(schema: &SchemaRef) -> String {
    let parts: Vec<String> =
        schema.fields().iter().map(|f| format!("{} ({})", f.name(), plain_name(f.data_type()))).collect();
    parts.join(", ")
}

/// A set of column names as a sorted list.
pub(crate) fn names<'a>(sets: impl IntoIterator<Item = &'a [String]>) -> Vec<String> {
    let all: BTreeSet<&String> = sets.into_iter().flatten().collect();
    all.into_iter().cloned().collect()
}

/// True when `path` holds a Delta table.
pub(crate) fn is_delta(path: &Path) -> bool {
    path.join("_delta_log").is_dir()
}
