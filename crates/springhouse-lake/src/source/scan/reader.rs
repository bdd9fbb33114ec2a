//! How the rows of one file are read: which of its columns, as which types, and which rows can be used.

use super::{
    ColumnRows, ColumnValues, FetchedRows, FileFormat, Origin, ScanCounts, ScanFile, ScanSpec, Seq,
    SourceFiles, SourceRows, Unit, pages,
};
use crate::error::{LakeError, Result, did_you_mean};
use crate::event_id::{event_ids, stored_ids};
use crate::source::conform::{Place, conform};
use crate::source::keys::KeySet;
use crate::source::plain::{PlainValues, Scratch};
use crate::source::zone::Zone;
use crate::source::{csv, parquet, plain};
use crate::stream::{EVENT_ID_COLUMN, KNOWN_AT_COLUMN, OFFSET_COLUMN};
use crate::training::Availability;
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, RowSelection};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, new_empty_array,
    new_null_array,
};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use springhouse_core::ValueType;
use springhouse_core::change::Change;
use springhouse_core::definition::{Column, KnownAt};
use springhouse_core::time::{DAY, EVENT_TIME_MAX, EVENT_TIME_MIN};
use springhouse_kernel::arrow_type;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers of a batch's rows in their file.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    From(u64),
    /// Not empty.
    Listed(&'a [u32]),
}

impl Numbers<'_> {
    fn first(self) -> u64 {
        match self {
            Self::From(first) => first,
            Self::Listed(listed) => u64::from(listed[0]),
        }
    }
}

/// What takes the batches of a unit as they are in the file, with the roots that their columns are and the numbers of their rows.
pub(super) type TakeBatch<'a> = dyn FnMut(&RecordBatch, &[usize], Numbers<'_>) -> Result<()> + 'a;

/// How one column comes out of one file.
#[derive(Clone, Debug)]
struct FileColumn {
    /// Declared name.
    name: String,
    /// Name in the file.
    from: String,
    /// Its declared type.
    value_type: ValueType,
    /// Where it is.
    place: ColumnPlace,
}

#[derive(Clone, Debug)]
enum ColumnPlace {
    /// A root column of the file.
    Root(usize),
    /// A partition value of the Delta table.
    Constant(Option<String>),
    /// The file is older than the column.
    Absent,
}

impl FileColumn {
    fn root(&self) -> Option<usize> {
        match self.place {
            ColumnPlace::Root(root) => Some(root),
            ColumnPlace::Constant(_) | ColumnPlace::Absent => None,
        }
    }
}

/// The event times of a file.
#[derive(Clone, Copy)]
pub(super) struct TimeLeaf {
    pub leaf: usize,
    unit: TimeUnit,
    /// Microseconds that a time may be away from what is written.
    slack: i64,
}

impl TimeLeaf {
    fn micros(self, raw: i64) -> i64 {
        match self.unit {
            TimeUnit::Second => raw.saturating_mul(1_000_000),
            TimeUnit::Millisecond => raw.saturating_mul(1_000),
            TimeUnit::Microsecond => raw,
            TimeUnit::Nanosecond => raw.div_euclid(1_000),
        }
    }

    /// How much of the time between these two, as they are written, is asked for.
    pub(super) fn share(self, low: i64, high: i64, spec: &ScanSpec) -> f64 {
        let low = self.micros(low).saturating_sub(self.slack);
        let high = self.micros(high).saturating_add(self.slack);
        let asked = high.min(*spec.event_times.end()).saturating_sub(low.max(*spec.event_times.start()));
        asked.max(0) as f64 / high.saturating_sub(low).max(1) as f64
    }

    /// False when no time between these two, as they are written, is asked for.
    pub(super) fn may_hold(self, low: i64, high: i64, spec: &ScanSpec) -> bool {
        self.micros(high).saturating_add(self.slack) >= *spec.event_times.start()
            && self.micros(low).saturating_sub(self.slack) <= *spec.event_times.end()
    }
}

pub(super) struct FileReader<'a> {
    files: &'a SourceFiles,
    pub(super) file: &'a ScanFile,
    /// Every column read, by declared or special name, once.
    columns: Vec<FileColumn>,
    /// Positions in `columns`; none where rows were found before.
    event_time: Option<usize>,
    known_at: Option<usize>,
    sequence: Option<usize>,
    event_id: Option<usize>,
    op: Option<usize>,
    offset: Option<usize>,
    stored_id: Option<usize>,
    /// Columns asked for.
    output: Vec<usize>,
    /// Required columns.
    required: Vec<usize>,
}

impl<'a> FileReader<'a> {
    pub(super) fn new(files: &'a SourceFiles, file: &'a ScanFile, spec: &ScanSpec) -> Result<Self> {
        let source = &files.source;
        let stream = file.origin == Origin::Stream;
        let mut reader = Self::without_columns(files, file);
        reader.event_time = Some(reader.add(&source.event_time, &ValueType::Timestamp)?);
        if stream {
            if spec.availability == Availability::Known {
                reader.known_at = Some(reader.add(KNOWN_AT_COLUMN, &ValueType::Timestamp)?);
            }
            if spec.with_offsets {
                reader.offset = Some(reader.add(OFFSET_COLUMN, &ValueType::Int64)?);
            }
            if spec.with_ids {
                reader.stored_id = Some(reader.add(EVENT_ID_COLUMN, &ValueType::Bytes)?);
            }
        } else {
            if let (KnownAt::Column(name), Availability::Known) = (&source.known_at, spec.availability) {
                reader.known_at = Some(reader.add(name, &ValueType::Timestamp)?);
            }
            if let Some(name) = &source.sequence {
                reader.sequence = Some(reader.add(name, &ValueType::Int64)?);
            }
        }
        if let (Some(name), true) = (&source.event_id, spec.with_ids) {
            let value_type = files.column(name).map_or(ValueType::String, |c| c.value_type.clone());
            reader.event_id = Some(reader.add(name, &value_type)?);
        }
        reader.add_output(&spec.columns)?;
        // Every view of the source asks for it.
        reader.op = source.op.as_ref().and_then(|op| reader.columns.iter().position(|c| c.name == *op));
        for column in source.columns.iter().filter(|c| c.required) {
            let read = reader.columns.iter().position(|c| c.name == column.name);
            if read.is_none() && reader.has_no_nulls(column)? {
                continue;
            }
            let position = reader.add(&column.name, &column.value_type)?;
            reader.required.push(position);
        }
        Ok(reader)
    }

    /// A reader of columns alone, for rows that were found before: whether they count is known.
    pub(super) fn of_columns(files: &'a SourceFiles, file: &'a ScanFile, columns: &[String]) -> Result<Self> {
        let mut reader = Self::without_columns(files, file);
        reader.add_output(columns)?;
        if reader.columns.iter().all(|column| column.root().is_none()) {
            // Something must be read to tell how many rows there are.
            reader.add(&files.source.event_time, &ValueType::Timestamp)?;
        }
        Ok(reader)
    }

    fn without_columns(files: &'a SourceFiles, file: &'a ScanFile) -> Self {
        Self {
            files,
            file,
            columns: Vec::new(),
            event_time: None,
            known_at: None,
            sequence: None,
            event_id: None,
            op: None,
            offset: None,
            stored_id: None,
            output: Vec::new(),
            required: Vec::new(),
        }
    }

    fn add_output(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            let declared = self.files.column(name).ok_or_else(|| {
                LakeError::internal(format!("source `{}` has no column `{name}`", self.files.source.name))
            })?;
            let position = self.add(name, &declared.value_type)?;
            self.output.push(position);
        }
        Ok(())
    }

    /// Adds a column to what is read, once; checks that it is there and of a type that can be made the declared one.
    fn add(&mut self, name: &str, value_type: &ValueType) -> Result<usize> {
        if let Some(position) = self.columns.iter().position(|c| c.name == name) {
            return Ok(position);
        }
        let stream = self.file.origin == Origin::Stream;
        let from = match self.files.column(name) {
            Some(Column { from: Some(from), .. }) if !stream => from.clone(),
            _ => name.to_owned(),
        };
        let partition = self.file.file.partition_values.iter().find(|(column, _)| *column == from);
        let place = match (parquet::root_of(&self.file.schema, &from), partition) {
            (_, Some((_, value))) => ColumnPlace::Constant(value.clone()),
            (Some(root), None) => ColumnPlace::Root(root),
            (None, None) if self.file.may_lack && name != self.files.source.event_time => ColumnPlace::Absent,
            (None, None) => return Err(self.missing(name, &from)),
        };
        let column = FileColumn { name: name.to_owned(), from, value_type: value_type.clone(), place };
        if let ColumnPlace::Root(root) = column.place
            && !matches!(self.file.format, FileFormat::Csv)
        {
            let empty = new_empty_array(self.file.schema.field(root).data_type());
            conform(&empty, value_type, self.place(&column, 0))?;
        }
        self.columns.push(column);
        Ok(self.columns.len() - 1)
    }

    fn missing(&self, name: &str, from: &str) -> LakeError {
        let error = LakeError::new(
            "source_missing_column",
            format!("`{}` has no column `{from}` (source `{}`)", self.file.file.name, self.files.source.name),
        );
        let known: Vec<&str> = self.file.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let hint = did_you_mean(from, known.iter().copied())
            .map(|near| format!("{near} Write `from:` under column `{name}` to read another name"))
            .unwrap_or_else(|| format!("the file's columns are {}", known.join(", ")));
        error.hint(hint)
    }

    /// True when the statistics of every row group say that a column has no nulls, so that it need not be read.
    fn has_no_nulls(&self, column: &Column) -> Result<bool> {
        let FileFormat::Parquet(metadata) = &self.file.format else { return Ok(false) };
        let stream = self.file.origin == Origin::Stream;
        let from = column.from.as_ref().filter(|_| !stream).unwrap_or(&column.name);
        if self.file.file.partition_values.iter().any(|(name, _)| name == from) {
            return Ok(false);
        }
        let Some(root) = parquet::root_of(&self.file.schema, from) else {
            // A column that came later than the file: rows from before it are not refused for it.
            return if self.file.may_lack { Ok(true) } else { Err(self.missing(&column.name, from)) };
        };
        let Some(leaf) = parquet::leaf_of(metadata, root) else { return Ok(false) };
        let groups = metadata.metadata().row_groups();
        Ok(groups.iter().all(|group| parquet::null_count(group, leaf) == Some(0)))
    }

    fn place<'b>(&'b self, column: &'b FileColumn, first_row: u64) -> Place<'b> {
        let constant = matches!(column.place, ColumnPlace::Constant(_));
        Place {
            file: &self.file.file.name,
            column: &column.from,
            // Delta keeps timestamps and partition values in UTC.
            zone: if constant || self.file.origin == Origin::Stream { Zone::Utc } else { self.files.zone },
            zone_fix: "`time_zone: UTC` (or the zone it is) in the source's definition",
            local_time_errors_are_null: true,
            first_row,
            text: constant || matches!(self.file.format, FileFormat::Csv),
        }
    }

    /// False when the statistics of a row group say that no row in it is asked for.
    pub(super) fn may_hold(&self, unit: &Unit, spec: &ScanSpec) -> bool {
        let (FileFormat::Parquet(metadata), Some(number)) = (&self.file.format, unit.row_group) else {
            return true;
        };
        let group = metadata.metadata().row_group(number);
        if let Some((leaf, keys)) = self.key_leaf(spec)
            && let Some(statistics) = group.column(leaf).statistics()
            && !keys.may_be_in(statistics)
        {
            return false;
        }
        if let Some(root) = self.offset.and_then(|position| self.columns[position].root())
            && let Some((low, high)) =
                parquet::leaf_of(metadata, root).and_then(|leaf| parquet::int64_range(group, leaf))
            && (high < spec.offsets.start || low >= spec.offsets.end)
        {
            return false;
        }
        let Some(times) = self.time_leaf() else { return true };
        let Some((low, high)) = parquet::int64_range(group, times.leaf) else { return true };
        times.may_hold(low, high, spec)
    }

    /// Where the keys are that a scan asks for, if it asks for few.
    pub(super) fn key_leaf<'s>(&self, spec: &'s ScanSpec) -> Option<(usize, &'s KeySet)> {
        let FileFormat::Parquet(metadata) = &self.file.format else { return None };
        let (name, keys) = spec.keys.as_ref().filter(|(_, keys)| !keys.is_any())?;
        let column = self.columns.iter().find(|column| column.name == *name)?;
        let root = column.root()?;
        // As it is in the file: a text made of something else has other bounds.
        let is_as_declared = *self.file.schema.field(root).data_type() == arrow_type(&column.value_type);
        Some((parquet::leaf_of(metadata, root).filter(|_| is_as_declared)?, keys))
    }

    /// Where the event times are, and how they are written.
    pub(super) fn time_leaf(&self) -> Option<TimeLeaf> {
        let FileFormat::Parquet(metadata) = &self.file.format else { return None };
        let root = self.columns[self.event_time?].root()?;
        let DataType::Timestamp(unit, zone) = self.file.schema.field(root).data_type() else { return None };
        // A local time is at most a day away from UTC, whatever its zone.
        let slack = if zone.is_some() || self.files.zone == Zone::Utc { 0 } else { DAY + DAY / 4 };
        Some(TimeLeaf { leaf: parquet::leaf_of(metadata, root)?, unit: *unit, slack })
    }

    /// Rows of a unit, and stored bytes of the columns that this reader reads of it.
    pub(super) fn cost(&self, unit: &Unit) -> (u64, u64) {
        let (FileFormat::Parquet(metadata), Some(number)) = (&self.file.format, unit.row_group) else {
            return (self.file.rows_estimate(), self.file.file.size);
        };
        let group = metadata.metadata().row_group(number);
        let bytes = self.leaves(metadata).map(|leaf| group.column(leaf).compressed_size().unsigned_abs());
        (group.num_rows().unsigned_abs(), bytes.sum())
    }

    /// The leaves of the columns that this reader reads.
    pub(super) fn leaves(&self, metadata: &ArrowReaderMetadata) -> impl Iterator<Item = usize> {
        let roots: BTreeSet<usize> = self.columns.iter().filter_map(FileColumn::root).collect();
        let schema = metadata.parquet_schema();
        (0..schema.num_columns()).filter(move |leaf| roots.contains(&schema.get_column_root_idx(*leaf)))
    }

    /// Gives the batches of a unit; `only`: of those rows.
    pub(super) fn read(
        &self,
        unit: &Unit,
        only: Option<&RowSelection>,
        each: &mut TakeBatch<'_>,
    ) -> Result<()> {
        let mut roots: Vec<usize> = self.columns.iter().filter_map(FileColumn::root).collect();
        roots.sort_unstable();
        roots.dedup();
        let mut given = 0;
        let mut give = |batch: RecordBatch, only: Option<&[u32]>| -> Result<()> {
            let numbers = match only {
                Some(only) => Numbers::Listed(&only[given..given + batch.num_rows()]),
                None => Numbers::From(unit.first_row + given as u64),
            };
            given += batch.num_rows();
            each(&batch, &roots, numbers)
        };
        match &self.file.format {
            FileFormat::Parquet(metadata) => {
                let groups = unit.row_group.into_iter().collect();
                // What is between them is not even read where the file has a page index.
                let metadata = only.and_then(|_| self.file.paged()).unwrap_or(metadata);
                let rows = only.map(|only| pages::rows(only, unit));
                for batch in parquet::read(&self.file.file, metadata, &roots, groups, only)? {
                    let batch = batch.map_err(|e| LakeError::corrupt(&self.file.file.name, "Parquet", &e))?;
                    give(batch, rows.as_deref())?;
                }
            }
            FileFormat::Csv => {
                for batch in csv::read(&self.file.file, &self.file.schema, &roots)? {
                    give(batch.map_err(|e| LakeError::corrupt(&self.file.file.name, "CSV", &e))?, None)?;
                }
            }
        }
        Ok(())
    }

    /// Gives the values of one of the columns asked for, of all rows of a unit.
    pub(super) fn read_column(
        &self,
        unit: &Unit,
        number: usize,
        scratch: &mut Scratch,
        each: &mut dyn FnMut(ColumnRows<'_>) -> Result<()>,
    ) -> Result<()> {
        let column = &self.columns[self.output[number]];
        if self.read_plain(unit, column, scratch, each)? {
            return Ok(());
        }
        let alone = Self::of_columns(self.files, self.file, std::slice::from_ref(&column.name))?;
        alone.read(unit, None, &mut |batch, roots, numbers| {
            let rows = alone.fetched(batch, roots, numbers)?;
            let Some(first) = rows.row.first() else { return Ok(()) };
            let values = ColumnValues::Array(rows.batch.column(0));
            each(ColumnRows { first: *first, count: rows.row.len(), values })
        })
    }

    /// The same where they are stored as they are in memory, and of the type that they are declared as.
    fn read_plain(
        &self,
        unit: &Unit,
        column: &FileColumn,
        scratch: &mut Scratch,
        each: &mut dyn FnMut(ColumnRows<'_>) -> Result<()>,
    ) -> Result<bool> {
        let (FileFormat::Parquet(metadata), Some(group), Some(root)) =
            (&self.file.format, unit.row_group, column.root())
        else {
            return Ok(false);
        };
        let data_type = self.file.schema.field(root).data_type();
        let (Some(width), Some(leaf)) = (data_type.primitive_width(), parquet::leaf_of(metadata, root))
        else {
            return Ok(false);
        };
        if *data_type != arrow_type(&column.value_type) {
            return Ok(false);
        }
        let mut give = |place: usize, count: usize, values: PlainValues<'_>| {
            let first = u32::try_from(unit.first_row + place as u64);
            let first = first.map_err(|_| too_many_rows(&self.file.file.name))?;
            each(ColumnRows { first, count, values: ColumnValues::Plain(values) })
        };
        plain::for_each_page(&self.file.file, metadata, group, leaf, width, scratch, &mut give)
    }

    /// The columns of a batch, with their declared types.
    fn typed(&self, batch: &RecordBatch, roots: &[usize], first_row: u64) -> Result<Vec<ArrayRef>> {
        let length = batch.num_rows();
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let array = match &column.place {
                ColumnPlace::Root(root) => {
                    let position = roots.binary_search(root).expect("every root read is in the list");
                    Arc::clone(batch.column(position))
                }
                ColumnPlace::Constant(text) => {
                    let cells = std::iter::repeat_n(text.as_deref(), length);
                    Arc::new(cells.collect::<arrow::array::StringArray>()) as ArrayRef
                }
                ColumnPlace::Absent => {
                    columns.push(new_null_array(&arrow_type(&column.value_type), length));
                    continue;
                }
            };
            columns.push(conform(&array, &column.value_type, self.place(column, first_row))?);
        }
        Ok(columns)
    }

    /// The numbers of a batch's rows in the file.
    fn row_numbers(&self, numbers: Numbers<'_>, length: usize) -> Result<ScalarBuffer<u32>> {
        match numbers {
            Numbers::Listed(listed) => Ok(listed.iter().copied().collect()),
            Numbers::From(first) => {
                let first = u32::try_from(first).ok();
                let rows = first.and_then(|first| Some(first..first.checked_add(length as u32)?));
                Ok(rows.ok_or_else(|| too_many_rows(&self.file.file.name))?.collect())
            }
        }
    }

    /// The columns asked for of one batch of a file.
    pub(super) fn fetched(
        &self,
        batch: &RecordBatch,
        roots: &[usize],
        numbers: Numbers<'_>,
    ) -> Result<FetchedRows> {
        let columns = self.typed(batch, roots, numbers.first())?;
        let row = self.row_numbers(numbers, batch.num_rows())?;
        Ok(FetchedRows { batch: self.output(&columns, row.len())?, row })
    }

    fn output(&self, columns: &[ArrayRef], rows: usize) -> Result<RecordBatch> {
        let mut fields = Vec::with_capacity(self.output.len());
        let mut arrays = Vec::with_capacity(self.output.len());
        for position in &self.output {
            let array = &columns[*position];
            fields.push(Field::new(&self.columns[*position].name, array.data_type().clone(), true));
            arrays.push(Arc::clone(array));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
    }

    /// One batch of a file as rows: types, stamps, identities, without what can't be used.
    pub(super) fn rows(
        &self,
        batch: &RecordBatch,
        roots: &[usize],
        unit: &Unit,
        numbers: Numbers<'_>,
        spec: &ScanSpec,
        counts: &ScanCounts,
    ) -> Result<Option<SourceRows>> {
        let length = batch.num_rows();
        counts.rows_read.fetch_add(length as u64, Ordering::Relaxed);
        let columns = self.typed(batch, roots, numbers.first())?;
        let row = self.row_numbers(numbers, length)?;
        let keep = self.keep(&columns, length, spec, counts);
        let (columns, row) = match keep {
            None => (columns, row),
            Some(mask) if mask.true_count() == 0 => return Ok(None),
            Some(mask) => {
                let filter = arrow::compute::FilterBuilder::new(&mask).optimize().build();
                let kept = mask.values().set_indices().map(|i| row[i]).collect();
                (columns.iter().map(|c| filter.filter(c)).collect::<Result<Vec<_>, _>>()?, kept)
            }
        };
        self.assemble(&columns, row, unit.file, spec).map(Some)
    }

    fn assemble(
        &self,
        columns: &[ArrayRef],
        row: ScalarBuffer<u32>,
        file: usize,
        spec: &ScanSpec,
    ) -> Result<SourceRows> {
        let times =
            |position: usize| columns[position].as_primitive::<TimestampMicrosecondType>().values().clone();
        let event_time = self.event_time.map(times);
        let event_time = event_time.ok_or_else(|| LakeError::internal("event times were not read"))?;
        let known_at = match (spec.availability, self.known_at, &self.files.source.known_at) {
            (Availability::Event, ..) => event_time.clone(),
            (Availability::Known, Some(position), _) => times(position),
            (Availability::Known, None, KnownAt::Delay(delay)) if *delay != 0 => {
                event_time.iter().map(|t| t.saturating_add(*delay)).collect()
            }
            (Availability::Known, None, _) => event_time.clone(),
        };
        let positional = |row: u32| self.file.seq_base | i64::from(row);
        let seq = match (self.offset, self.sequence) {
            (Some(position), _) => {
                Seq::Stored(columns[position].as_primitive::<Int64Type>().values().clone())
            }
            (None, Some(position)) => {
                let declared: &Int64Array = columns[position].as_primitive::<Int64Type>();
                let rows = declared.iter().zip(row.iter());
                Seq::Stored(rows.map(|(v, row)| v.unwrap_or_else(|| positional(*row))).collect())
            }
            (None, None) => Seq::Positional(self.file.seq_base),
        };
        let declared = self.event_id.map(|p| event_ids(&columns[p], &self.columns[p].value_type));
        let event_ids = match (self.stored_id.map(|p| stored_ids(&columns[p])), declared) {
            (Some(stored), Some(declared)) => {
                Some(stored.into_iter().zip(declared).map(|(stored, declared)| stored.or(declared)).collect())
            }
            (stored, declared) => stored.or(declared),
        };
        let batch = self.output(columns, row.len())?;
        Ok(SourceRows { batch, event_time, known_at, seq, event_ids, row, file })
    }

    /// Which rows can be used; None when all can. What can't is counted.
    fn keep(
        &self,
        columns: &[ArrayRef],
        length: usize,
        spec: &ScanSpec,
        counts: &ScanCounts,
    ) -> Option<BooleanArray> {
        let mut keep: Option<Vec<bool>> = None;
        let mut drop = |row: usize, count: &AtomicU64| {
            let keep = keep.get_or_insert_with(|| vec![true; length]);
            if std::mem::replace(&mut keep[row], false) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        let mut check_times = |position: usize, null: &AtomicU64, range: &AtomicU64| {
            let times = columns[position].as_primitive::<TimestampMicrosecondType>();
            if times.null_count() > 0 {
                (0..length).filter(|row| times.is_null(*row)).for_each(|row| drop(row, null));
            }
            for (row, time) in times.values().iter().enumerate() {
                if !(EVENT_TIME_MIN..=EVENT_TIME_MAX).contains(time) && times.is_valid(row) {
                    drop(row, range);
                }
            }
        };
        if let Some(event_time) = self.event_time {
            check_times(event_time, &counts.no_event_time, &counts.out_of_range);
        }
        if let Some(position) = self.known_at {
            check_times(position, &counts.no_known_at, &counts.no_known_at);
        }
        for position in &self.required {
            let column = &columns[*position];
            if column.null_count() > 0 {
                (0..length)
                    .filter(|row| column.is_null(*row))
                    .for_each(|row| drop(row, &counts.required_null));
            }
        }
        if let Some(position) = self.op {
            let ops = columns[position].as_string::<i32>();
            let is_unknown = |row: &usize| ops.is_valid(*row) && Change::of(ops.value(*row)).is_none();
            (0..length).filter(is_unknown).for_each(|row| drop(row, &counts.unknown_op));
        }
        if let Some(position) = self.offset {
            // Not asked for, so not counted as skipped.
            let ignored = AtomicU64::new(0);
            let offsets = columns[position].as_primitive::<Int64Type>();
            for (row, offset) in offsets.values().iter().enumerate() {
                if !spec.offsets.contains(offset) {
                    drop(row, &ignored);
                }
            }
        }
        keep.map(|keep| BooleanArray::new(BooleanBuffer::from(keep), None))
    }
}

fn too_many_rows(file: &str) -> LakeError {
    LakeError::new("file_too_large", format!("`{file}` has more than 2^32 rows")).hint("split the file")
}
