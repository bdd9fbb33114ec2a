//! Labels: what was asked, when. Read twice: once for keys and moments, once for everything, to be passed through.

use crate::error::{LakeError, Result, did_you_mean};
use crate::lake::Lake;
use crate::source::conform::{Place, conform};
use crate::source::location::{FileRef, file_name, file_ref};
use crate::source::scan::{describe, is_delta};
use crate::source::zone::{TimeText, Zone, parse_time_text};
use crate::source::{csv, parquet};
use crate::{delta, training::TrainingRequest};
use ::parquet::arrow::arrow_reader::ArrowReaderMetadata;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_empty_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use springhouse_core::time::{EVENT_TIME_MAX, EVENT_TIME_MIN};
use springhouse_core::{Micros, ValueType};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The at-column's usual name.
const AT_COLUMN: &str = "event_timestamp";

/// A label table, opened.
#[derive(Debug)]
pub(crate) struct Labels {
    /// How it was named.
    pub name: String,
    /// Its columns as they are passed through.
    pub schema: SchemaRef,
    /// Position of the column with the moment.
    pub at_column: usize,
    /// The Delta version read.
    pub version: Option<i64>,
    zone: Zone,
    is_csv: bool,
    files: Vec<LabelFile>,
}

#[derive(Debug)]
struct LabelFile {
    file: FileRef,
    zone: Zone,
    format: LabelFormat,
}

#[derive(Debug)]
enum LabelFormat {
    Parquet(ArrowReaderMetadata),
    /// The header, and the columns' types as they are passed through.
    Csv(SchemaRef, Vec<ValueType>),
}

impl Labels {
    /// Opens the label table. `key_types`: columns whose types the definitions say (keys and request fields).
    pub(crate) async fn open(
        lake: &Lake,
        request: &TrainingRequest<'_>,
        key_types: &BTreeMap<String, ValueType>,
    ) -> Result<Self> {
        let zone = Zone::parse(request.time_zone.as_deref())?;
        let path =
            std::path::absolute(&request.labels).map_err(|e| LakeError::unreadable(&request.labels, &e))?;
        let name = request.labels_name.clone().unwrap_or_else(|| file_name(lake.project(), &path));
        let (paths, version) = label_files(lake, &path).await?;
        let mut files = Vec::with_capacity(paths.len());
        for file in paths {
            let is_csv = file.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"));
            let format = if is_csv {
                let header = csv::header(&file)?;
                let types = csv_types(&file, &header, key_types, zone)?;
                LabelFormat::Csv(header, types)
            } else {
                LabelFormat::Parquet(parquet::open(&file)?)
            };
            files.push(LabelFile { file, zone, format });
        }
        let first = files.first().ok_or_else(|| empty(&name))?;
        let schema = first.schema();
        if let Some(other) = files.iter().find(|f| f.schema().fields() != schema.fields()) {
            return Err(LakeError::new(
                "labels_differ",
                format!(
                    "the label files differ: `{}` has {}; `{}` has {}",
                    first.file.name,
                    describe(&schema),
                    other.file.name,
                    describe(&other.schema())
                ),
            )
            .hint("write all label files with the same columns and types"));
        }
        let at_column = at_column(&name, &schema, request.at_column.as_deref())?;
        let is_csv = files.iter().any(|f| matches!(f.format, LabelFormat::Csv(..)));
        let labels = Self { name, schema, at_column, version, zone, is_csv, files };
        // Types are checked before any row is read.
        labels.at(&labels.empty_batch(), 0)?;
        Ok(labels)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.file.size).sum()
    }

    /// Rows of all files; None when only reading tells.
    pub(crate) fn row_count(&self) -> Option<u64> {
        let counts = self.files.iter().map(|f| match &f.format {
            LabelFormat::Parquet(metadata) => {
                Some(metadata.metadata().file_metadata().num_rows().unsigned_abs())
            }
            LabelFormat::Csv(..) => None,
        });
        counts.sum()
    }

    /// The hash of the files' bytes, in order.
    pub(crate) fn hash(&self) -> Result<String> {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        let mut buffer = vec![0; 1 << 20];
        for file in &self.files {
            let unreadable = |e: std::io::Error| LakeError::unreadable(&file.file.path, &e);
            let mut handle = std::fs::File::open(&file.file.path).map_err(unreadable)?;
            loop {
                match std::io::Read::read(&mut handle, &mut buffer).map_err(unreadable)? {
                    0 => break,
                    read => hasher.update(&buffer[..read]),
                }
            }
        }
        Ok(format!("xxh3:{:016x}", hasher.digest()))
    }

    fn empty_batch(&self) -> RecordBatch {
        RecordBatch::new_empty(Arc::clone(&self.schema))
    }

    /// The position of a column that the definitions name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        parquet::root_of(&self.schema, name)
    }

    /// A "there is no such column" with what is there.
    pub(crate) fn missing(&self, code: &'static str, column: &str, why: &str) -> LakeError {
        let known: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let hint = did_you_mean(column, known.iter().copied()).unwrap_or_default();
        LakeError::new(code, format!("the labels `{}` have no column `{column}`, {why}", self.name))
            .hint(format!("{hint} The columns are {}", describe(&self.schema)).trim().to_owned())
    }

    /// A column as a declared type.
    pub(crate) fn typed(
        &self,
        array: &ArrayRef,
        column: usize,
        value_type: &ValueType,
        first_row: u64,
    ) -> Result<ArrayRef> {
        let place = Place {
            file: &self.name,
            column: self.schema.field(column).name(),
            zone: self.zone,
            zone_fix: "`--time-zone UTC` (or the zone it is)",
            local_time_errors_are_null: false,
            first_row,
            // A CSV file's times stay texts until they are read as moments.
            text: self.is_csv && array.data_type() == &DataType::Utf8,
        };
        conform(array, value_type, place).map_err(|mut error| {
            if error.code == "source_wrong_type" {
                error.code = "labels_wrong_type";
                error.hint = Some(format!(
                    "write the column as {value_type}; a label column is matched with keys and request fields by name"
                ));
            }
            error
        })
    }

    /// Checks that a column can be read as a declared type.
    pub(crate) fn check(&self, column: usize, value_type: &ValueType) -> Result<()> {
        let empty = new_empty_array(self.schema.field(column).data_type());
        self.typed(&empty, column, value_type, 0).map(|_| ())
    }

    /// The moments of a batch of all columns.
    pub(crate) fn at(&self, batch: &RecordBatch, first_row: u64) -> Result<Vec<Micros>> {
        self.moments(batch.column(self.at_column), first_row)
    }

    /// The moments in the at-column.
    pub(crate) fn moments(&self, column: &ArrayRef, first_row: u64) -> Result<Vec<Micros>> {
        let typed = self.typed(column, self.at_column, &ValueType::Timestamp, first_row)?;
        let times = typed.as_primitive::<TimestampMicrosecondType>();
        let bad = |row: usize, what: &str| {
            LakeError::new(
                "labels_bad_time",
                format!(
                    "row {} of the labels `{}` has {what} in `{}`",
                    first_row + row as u64 + 1,
                    self.name,
                    self.schema.field(self.at_column).name()
                ),
            )
            .hint("every label needs the moment that it is asked for; leave such rows out")
        };
        if let Some(row) = (0..times.len()).find(|row| times.is_null(*row)) {
            return Err(bad(row, "no time"));
        }
        let out = times.values().iter().position(|t| !(EVENT_TIME_MIN..=EVENT_TIME_MAX).contains(t));
        match out {
            Some(row) => Err(bad(row, "a time outside the years 1 to 9999")),
            None => Ok(times.values().to_vec()),
        }
    }

    /// Reads some columns (sorted positions) of all rows in order, in batches of any size.
    pub(crate) fn read(&self, columns: Vec<usize>) -> LabelReader<'_> {
        LabelReader { labels: self, columns, file: 0, current: None, row: 0, rest: None }
    }
}

/// Reads labels in order.
pub(crate) struct LabelReader<'a> {
    labels: &'a Labels,
    columns: Vec<usize>,
    file: usize,
    current: Option<Batches>,
    /// The number of the next row.
    row: u64,
    rest: Option<RecordBatch>,
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl LabelReader<'_> {
    fn next_of_file(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batches) = &mut self.current {
                match batches.next().transpose()? {
                    Some(batch) if batch.num_rows() == 0 => continue,
                    Some(batch) => return Ok(Some(batch)),
                    None => {
                        self.current = None;
                        self.file += 1;
                    }
                }
            }
            let Some(file) = self.labels.files.get(self.file) else { return Ok(None) };
            self.current = Some(file.batches(&self.labels.schema, &self.columns)?);
        }
    }

    /// The next rows with the number of the first, as they come.
    pub(crate) fn next_batch(&mut self) -> Result<Option<(u64, RecordBatch)>> {
        let batch = match self.rest.take() {
            Some(rest) => Some(rest),
            None => self.next_of_file()?,
        };
        Ok(batch.map(|batch| {
            let first = self.row;
            self.row += batch.num_rows() as u64;
            (first, batch)
        }))
    }

    /// Exactly the next `rows` rows, fewer only at the end.
    pub(crate) fn next_chunk(&mut self, rows: usize) -> Result<Option<(u64, RecordBatch)>> {
        let mut parts: Vec<RecordBatch> = Vec::new();
        let mut have = 0;
        let first = self.row;
        while have < rows {
            let Some((_, batch)) = self.next_batch()? else { break };
            let want = rows - have;
            if batch.num_rows() > want {
                self.row -= (batch.num_rows() - want) as u64;
                self.rest = Some(batch.slice(want, batch.num_rows() - want));
                parts.push(batch.slice(0, want));
                have = rows;
            } else {
                have += batch.num_rows();
                parts.push(batch);
            }
        }
        match parts.len() {
            0 => Ok(None),
            1 => Ok(Some((first, parts.remove(0)))),
            _ => Ok(Some((first, concat_batches(&parts[0].schema(), &parts)?))),
        }
    }
}

impl LabelFile {
    fn schema(&self) -> SchemaRef {
        match &self.format {
            LabelFormat::Parquet(metadata) => {
                // Key-value metadata of the writer (pandas' index and such) is not a matter of the columns.
                let fields = metadata.schema().fields().clone();
                Arc::new(Schema::new(fields))
            }
            LabelFormat::Csv(header, types) => {
                let fields = header.fields().iter().zip(types).map(|(field, value_type)| {
                    Field::new(field.name(), springhouse_kernel::arrow_type(value_type), true)
                });
                Arc::new(Schema::new(fields.collect::<Vec<_>>()))
            }
        }
    }

    fn batches(&self, schema: &SchemaRef, columns: &[usize]) -> Result<Batches> {
        let projected = Arc::new(schema.project(columns)?);
        let file = self.file.clone();
        match &self.format {
            LabelFormat::Parquet(metadata) => {
                let groups = (0..metadata.metadata().num_row_groups()).collect();
                let reader = parquet::read(&file, metadata, columns, groups)?;
                Ok(Box::new(reader.map(move |batch| {
                    let batch = batch.map_err(|e| LakeError::corrupt(&file.name, "Parquet", &e))?;
                    Ok(batch.with_schema(Arc::clone(&projected))?)
                })))
            }
            LabelFormat::Csv(header, types) => {
                let reader = csv::read(&file, header, columns)?;
                let types: Vec<ValueType> = columns.iter().map(|c| types[*c].clone()).collect();
                let zone = self.zone;
                let mut first_row = 0;
                Ok(Box::new(reader.map(move |batch| {
                    let batch = batch.map_err(|e| LakeError::corrupt(&file.name, "CSV", &e))?;
                    let mut arrays = Vec::with_capacity(types.len());
                    for (position, value_type) in types.iter().enumerate() {
                        let place = Place {
                            file: &file.name,
                            column: projected.field(position).name(),
                            zone,
                            zone_fix: "`--time-zone UTC` (or the zone it is)",
                            local_time_errors_are_null: false,
                            first_row,
                            text: true,
                        };
                        arrays.push(conform(batch.column(position), value_type, place)?);
                    }
                    first_row += batch.num_rows() as u64;
                    Ok(RecordBatch::try_new(Arc::clone(&projected), arrays)?)
                })))
            }
        }
    }
}

async fn label_files(lake: &Lake, path: &Path) -> Result<(Vec<FileRef>, Option<i64>)> {
    if is_delta(path) {
        let table = delta::open(path).await?.ok_or_else(|| {
            LakeError::new("labels_unreadable", format!("`{}` is not a Delta table", path.display()))
        })?;
        let listed = delta::files(lake.project(), path, &table)?;
        if listed.files.iter().any(|f| !f.partition_values.is_empty()) {
            return Err(LakeError::new(
                "delta_unsupported",
                format!(
                    "the label table `{}` is partitioned, which is not supported for labels",
                    path.display()
                ),
            )
            .hint("write the labels without partition columns, or as a Parquet file"));
        }
        return Ok((listed.files, Some(listed.version)));
    }
    if path.is_dir() || path.to_string_lossy().contains(['*', '?']) {
        let text = path.to_string_lossy();
        let format = springhouse_core::definition::TableFormat::Parquet;
        return Ok((crate::source::location::list_files(lake.project(), &text, format)?, None));
    }
    Ok((vec![file_ref(lake.project(), path.to_owned())?], None))
}

fn empty(name: &str) -> LakeError {
    LakeError::new("labels_empty", format!("the labels `{name}` have no rows"))
        .hint("a training set needs at least one label")
}

/// The error for labels without rows.
pub(crate) fn no_rows(labels: &Labels) -> LakeError {
    empty(&labels.name)
}

fn at_column(name: &str, schema: &SchemaRef, wanted: Option<&str>) -> Result<usize> {
    let is_time = |t: &DataType| matches!(t, DataType::Timestamp(..));
    if let Some(wanted) = wanted {
        return parquet::root_of(schema, wanted).ok_or_else(|| {
            let known = schema.fields().iter().map(|f| f.name().as_str());
            let error = LakeError::new(
                "labels_missing_at_column",
                format!("the labels `{name}` have no column `{wanted}`"),
            );
            error.hint(
                did_you_mean(wanted, known)
                    .unwrap_or_else(|| format!("the columns are {}", describe(schema))),
            )
        });
    }
    if let Some(position) = parquet::root_of(schema, AT_COLUMN) {
        return Ok(position);
    }
    let times: Vec<usize> =
        (0..schema.fields().len()).filter(|i| is_time(schema.field(*i).data_type())).collect();
    match times.as_slice() {
        [only] => Ok(*only),
        [] => Err(LakeError::new(
            "labels_missing_at_column",
            format!("the labels `{name}` have no timestamp column"),
        )
        .hint(format!(
            "say which column holds the moments with --at-column; the columns are {}",
            describe(schema)
        ))),
        several => {
            let names: Vec<&str> = several.iter().map(|i| schema.field(*i).name().as_str()).collect();
            Err(LakeError::new(
                "labels_missing_at_column",
                format!("the labels `{name}` have several timestamp columns: {}", names.join(", ")),
            )
            .hint("say which one holds the moments with --at-column"))
        }
    }
}

/// The types of a CSV file's columns: keys and request fields as defined, the rest bool, int64, float64 or timestamp when
/// every cell is one, else string.
fn csv_types(
    file: &FileRef,
    header: &SchemaRef,
    key_types: &BTreeMap<String, ValueType>,
    zone: Zone,
) -> Result<Vec<ValueType>> {
    let all: Vec<usize> = (0..header.fields().len()).collect();
    let mut seen = vec![CellKinds::default(); all.len()];
    for batch in csv::read(file, header, &all)? {
        let batch = batch.map_err(|e| LakeError::corrupt(&file.name, "CSV", &e))?;
        for (seen, column) in seen.iter_mut().zip(batch.columns()) {
            column.as_string::<i32>().iter().flatten().for_each(|cell| seen.add(cell, zone));
        }
    }
    let types = header.fields().iter().zip(seen).map(|(field, seen)| match key_types.get(field.name()) {
        // Read as moments later, with the labels' zone.
        Some(ValueType::Timestamp) => ValueType::String,
        Some(declared) => declared.clone(),
        None => seen.value_type(),
    });
    Ok(types.collect())
}

/// What all cells of a CSV column could be.
#[derive(Clone, Debug, Default)]
struct CellKinds {
    cells: u64,
    bools: u64,
    integers: u64,
    numbers: u64,
    instants: u64,
}

impl CellKinds {
    fn add(&mut self, cell: &str, zone: Zone) {
        self.cells += 1;
        self.bools += u64::from(matches!(cell, "true" | "false" | "True" | "False"));
        let integer = is_plain_integer(cell);
        self.integers += u64::from(integer);
        self.numbers += u64::from(integer || is_float(cell));
        // Only while every cell was one: most columns are not times, and parsing is slow.
        if self.instants + 1 == self.cells {
            self.instants += u64::from(match parse_time_text(cell) {
                Some(TimeText::Instant(_)) => true,
                Some(TimeText::Local(local)) => zone.instant(local).is_ok(),
                None => false,
            });
        }
    }

    fn value_type(&self) -> ValueType {
        let all = |count: u64| count == self.cells && self.cells > 0;
        if all(self.bools) {
            ValueType::Bool
        } else if all(self.integers) {
            ValueType::Int64
        } else if all(self.numbers) {
            ValueType::Float64
        } else if all(self.instants) {
            ValueType::Timestamp
        } else {
            ValueType::String
        }
    }
}

/// An int64 that reads back as it is written: `007` is not one.
fn is_plain_integer(cell: &str) -> bool {
    cell.parse::<i64>().is_ok_and(|number| number.to_string() == cell)
}

fn is_float(cell: &str) -> bool {
    let leading_zero = cell.trim_start_matches('-').starts_with('0') && !cell.contains('.') && cell.len() > 1;
    !leading_zero && cell.parse::<f64>().is_ok_and(f64::is_finite)
}
