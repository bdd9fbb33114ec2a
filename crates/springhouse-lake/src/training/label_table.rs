//! A label table as it is stored: which files, in which format, with which columns.

use crate::delta;
use crate::error::{LakeError, Result};
use crate::frames::{plain, plain_schema};
use crate::lake::Lake;
use crate::source::conform::{Place, conform};
use crate::source::location::{FileRef, file_ref, list_files};
use crate::source::scan::{describe, is_delta};
use crate::source::zone::{TimeText, Zone, parse_time_text};
use crate::source::{csv, parquet};
use crate::training::again::LabelInputs;
use crate::training::request::LabelRows;
use ::parquet::arrow::arrow_reader::ArrowReaderMetadata;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::row::{RowConverter, SortField};
use springhouse_core::ValueType;
use springhouse_core::definition::TableFormat;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// How a zone is said for labels.
pub(crate) const ZONE_FIX: &str = "`--time-zone UTC` (or the zone it is)";

/// The files (or rows) that labels are in; all with the same columns.
#[derive(Debug)]
pub(crate) struct LabelTable {
    pub schema: SchemaRef,
    /// The Delta version read.
    pub version: Option<i64>,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Parquet(FileRef, ArrowReaderMetadata),
    /// The header, and the columns' types as they are passed through.
    Csv(FileRef, SchemaRef, Vec<ValueType>, Zone),
    /// An IPC file, or an IPC stream.
    Arrow(FileRef, SchemaRef, bool),
    Rows(LabelRows),
}

/// Reads batches of a part.
pub(crate) type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl LabelTable {
    /// Opens the table at a path. `types`: columns whose types the definitions say; only CSV needs to be told.
    pub(crate) async fn open(
        lake: &Lake,
        path: &Path,
        name: &str,
        types: &BTreeMap<String, ValueType>,
        zone: Zone,
        inputs: Option<&LabelInputs>,
    ) -> Result<Self> {
        let version = inputs.and_then(|inputs| inputs.delta_version);
        let (files, version) = label_files(lake, path, version).await?;
        let mut parts = Vec::with_capacity(files.len());
        let mut lines = Vec::new();
        for file in files {
            match format_of(&file)? {
                FileKind::Csv => {
                    let header = csv::header(&file)?;
                    lines.push(parts.len());
                    parts.push(Part::Csv(file, header, Vec::new(), zone));
                }
                FileKind::Arrow { stream } => {
                    let schema = arrow_schema(&file, stream)?;
                    parts.push(Part::Arrow(file, schema, stream));
                }
                FileKind::Parquet => {
                    let metadata = parquet::open(&file)?;
                    parts.push(Part::Parquet(file, metadata));
                }
            }
        }
        type_lines(&mut parts, types)?;
        let first = parts.first().ok_or_else(|| empty(name))?;
        let schema = first.schema();
        if let Some(other) = parts.iter().find(|part| part.schema().fields() != schema.fields()) {
            return Err(LakeError::new(
                "labels_differ",
                format!(
                    "the label files differ: `{}` has {}; `{}` has {}",
                    first.name(),
                    describe(&schema),
                    other.name(),
                    describe(&other.schema())
                ),
            )
            .hint("write all label files with the same columns and types"));
        }
        Ok(Self { schema, version, parts })
    }

    /// Rows in memory as a table.
    pub(crate) fn of_rows(rows: LabelRows) -> Self {
        Self { schema: Arc::clone(&rows.schema), version: None, parts: vec![Part::Rows(rows)] }
    }

    /// True when a column of texts may be times, because CSV has no other way to write them.
    pub(crate) fn is_csv(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Csv(..)))
    }

    /// How many parts there are.
    pub(crate) fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// The files, if it is in files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &FileRef> {
        self.parts.iter().filter_map(Part::file)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files().map(|file| file.size).sum()
    }

    /// Rows of all parts; None when only reading tells.
    pub(crate) fn row_count(&self) -> Option<u64> {
        let counts = self.parts.iter().map(|part| match part {
            Part::Parquet(_, metadata) => Some(metadata.metadata().file_metadata().num_rows().unsigned_abs()),
            Part::Csv(..) | Part::Arrow(..) => None,
            Part::Rows(rows) => Some(rows.row_count()),
        });
        counts.sum()
    }

    /// The least and greatest instant of a column, when every file's statistics say; raw values of the column's unit.
    pub(crate) fn int64_range(&self, column: usize) -> Option<(i64, i64)> {
        let mut range: Option<(i64, i64)> = None;
        for part in &self.parts {
            let Part::Parquet(_, metadata) = part else { return None };
            let leaf = parquet::leaf_of(metadata, column)?;
            for group in metadata.metadata().row_groups().iter().filter(|group| group.num_rows() > 0) {
                let (low, high) = parquet::int64_range(group, leaf)?;
                range = Some(range.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
            }
        }
        range
    }

    /// The hash of the files' bytes in order, or of the rows' values.
    pub(crate) fn hash(&self) -> Result<String> {
        let mut hasher = Xxh3::new();
        let mut buffer = vec![0; 1 << 20];
        for part in &self.parts {
            match part.file() {
                Some(file) => {
                    let unreadable = |e: std::io::Error| LakeError::unreadable(&file.path, &e);
                    let mut handle = File::open(&file.path).map_err(unreadable)?;
                    loop {
                        match handle.read(&mut buffer).map_err(unreadable)? {
                            0 => break,
                            read => hasher.update(&buffer[..read]),
                        }
                    }
                }
                None => part.hash_rows(&mut hasher)?,
            }
        }
        Ok(format!("xxh3:{:016x}", hasher.digest()))
    }

    /// Fails when a file was changed since it was opened: two passes over it would not see the same rows.
    pub(crate) fn check_unchanged(&self, lake: &Lake, name: &str) -> Result<()> {
        for file in self.files() {
            let now = file_ref(lake.project(), file.path.clone())?;
            // Delta's log has its own modification time of a file.
            let same_time = self.version.is_some() || now.modified_ns == file.modified_ns;
            if now.size != file.size || !same_time {
                return Err(changed(name));
            }
        }
        Ok(())
    }

    /// Some columns (sorted positions) of a part.
    pub(crate) fn read(&self, part: usize, columns: &[usize]) -> Result<Batches> {
        self.parts[part].batches(&self.schema, columns)
    }
}

/// The error for labels that are not what they were when they were opened.
pub(crate) fn changed(name: &str) -> LakeError {
    LakeError::new("labels_changed", format!("the labels `{name}` were changed while they were being read"))
        .hint("run the command again")
}

/// The error for labels without rows.
pub(crate) fn empty(name: &str) -> LakeError {
    LakeError::new("labels_empty", format!("the labels `{name}` have no rows"))
        .hint("a training set needs at least one label")
}

impl Part {
    fn file(&self) -> Option<&FileRef> {
        match self {
            Self::Parquet(file, _) | Self::Csv(file, ..) | Self::Arrow(file, ..) => Some(file),
            Self::Rows(_) => None,
        }
    }

    fn name(&self) -> &str {
        self.file().map_or("table", |file| &file.name)
    }

    fn schema(&self) -> SchemaRef {
        match self {
            Self::Parquet(_, metadata) => {
                // Key-value metadata of the writer (pandas' index and such) is not a matter of the columns.
                let fields = metadata.schema().fields().clone();
                Arc::new(Schema::new(fields))
            }
            Self::Csv(_, header, types, _) => {
                let fields = header.fields().iter().zip(types).map(|(field, value_type)| {
                    Field::new(field.name(), springhouse_kernel::arrow_type(value_type), true)
                });
                Arc::new(Schema::new(fields.collect::<Vec<_>>()))
            }
            Self::Arrow(_, schema, _) => plain_schema(schema),
            Self::Rows(rows) => Arc::clone(&rows.schema),
        }
    }

    fn batches(&self, schema: &SchemaRef, columns: &[usize]) -> Result<Batches> {
        let projected = Arc::new(schema.project(columns)?);
        match self {
            Self::Parquet(file, metadata) => {
                let file = file.clone();
                let groups = (0..metadata.metadata().num_row_groups()).collect();
                let reader = parquet::read(&file, metadata, columns, groups, None)?;
                Ok(Box::new(reader.map(move |batch| {
                    let batch = batch.map_err(|e| LakeError::corrupt(&file.name, "Parquet", &e))?;
                    Ok(batch.with_schema(Arc::clone(&projected))?)
                })))
            }
            Self::Csv(file, header, types, zone) => {
                let (file, zone) = (file.clone(), *zone);
                let reader = csv::read(&file, header, columns)?;
                let types: Vec<ValueType> = columns.iter().map(|c| types[*c].clone()).collect();
                let mut first_row = 0;
                Ok(Box::new(reader.map(move |batch| {
                    let batch = batch.map_err(|e| LakeError::corrupt(&file.name, "CSV", &e))?;
                    let mut arrays = Vec::with_capacity(types.len());
                    for (position, value_type) in types.iter().enumerate() {
                        let place = Place {
                            file: &file.name,
                            column: projected.field(position).name(),
                            zone,
                            zone_fix: ZONE_FIX,
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
            Self::Arrow(file, _, stream) => {
                let file = file.clone();
                let reader = arrow_batches(&file, *stream, Some(columns.to_vec()))?;
                Ok(Box::new(reader.map(move |batch| {
                    let batch = batch.and_then(|batch| plain(batch.columns().to_vec(), &projected));
                    batch.map_err(|e| arrow_error(&file, &e))
                })))
            }
            Self::Rows(rows) => {
                let (batches, columns) = (Arc::clone(&rows.batches), columns.to_vec());
                let batch = move |number: usize| -> Result<RecordBatch> {
                    let batch =
                        batches.get(number).ok_or_else(|| LakeError::internal("label rows went away"))?;
                    Ok(batch.project(&columns)?)
                };
                Ok(Box::new((0..rows.batches.len()).map(batch)))
            }
        }
    }

    /// The values of rows in memory, whatever batches they come in and whatever lies below their nulls.
    fn hash_rows(&self, hasher: &mut Xxh3) -> Result<()> {
        let Self::Rows(rows) = self else { return Ok(()) };
        for field in rows.schema.fields() {
            hasher.update(format!("{}\0{}\0", field.name(), field.data_type()).as_bytes());
        }
        for column in 0..rows.schema.fields().len() {
            let converter =
                RowConverter::new(vec![SortField::new(rows.schema.field(column).data_type().clone())])?;
            for batch in rows.batches.iter() {
                let values = converter.convert_columns(&[Arc::clone(batch.column(column))])?;
                values.iter().for_each(|value| hasher.update(value.data()));
            }
        }
        Ok(())
    }
}

enum FileKind {
    Parquet,
    Csv,
    Arrow { stream: bool },
}

/// CSV by its extension; Arrow by its first bytes or extension; else Parquet.
fn format_of(file: &FileRef) -> Result<FileKind> {
    let extension = file.path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if extension == "csv" {
        return Ok(FileKind::Csv);
    }
    let mut head = [0u8; 6];
    let mut handle = File::open(&file.path).map_err(|e| LakeError::unreadable(&file.path, &e))?;
    let is_arrow = handle.read_exact(&mut head).is_ok() && &head == b"ARROW1";
    Ok(match (is_arrow, extension.as_str()) {
        (true, _) => FileKind::Arrow { stream: false },
        (false, "arrow" | "arrows" | "feather" | "ipc") => FileKind::Arrow { stream: true },
        _ => FileKind::Parquet,
    })
}

fn arrow_error(file: &FileRef, error: &ArrowError) -> LakeError {
    let text = error.to_string();
    if text.contains("decompression requires") {
        return LakeError::new(
            "labels_unreadable",
            format!("the Arrow file `{}` is compressed, which can't be read", file.name),
        )
        .hint("write it without compression, or write Parquet");
    }
    LakeError::corrupt(&file.name, "Arrow", error)
}

type ArrowBatches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

fn arrow_batches(file: &FileRef, stream: bool, columns: Option<Vec<usize>>) -> Result<ArrowBatches> {
    let handle = File::open(&file.path).map_err(|e| LakeError::unreadable(&file.path, &e))?;
    let handle = BufReader::new(handle);
    let fail = |e: ArrowError| arrow_error(file, &e);
    Ok(if stream {
        Box::new(StreamReader::try_new(handle, columns).map_err(fail)?)
    } else {
        Box::new(FileReader::try_new(handle, columns).map_err(fail)?)
    })
}

fn arrow_schema(file: &FileRef, stream: bool) -> Result<SchemaRef> {
    let handle = File::open(&file.path).map_err(|e| LakeError::unreadable(&file.path, &e))?;
    let handle = BufReader::new(handle);
    let fail = |e: ArrowError| arrow_error(file, &e);
    Ok(if stream {
        StreamReader::try_new(handle, None).map_err(fail)?.schema()
    } else {
        FileReader::try_new(handle, None).map_err(fail)?.schema()
    })
}

async fn label_files(lake: &Lake, path: &Path, version: Option<i64>) -> Result<(Vec<FileRef>, Option<i64>)> {
    if is_delta(path) {
        let table = match version {
            Some(version) => delta::open_version(path, version).await?,
            None => delta::open(path).await?,
        };
        let table = table.ok_or_else(|| {
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
    let text = path.to_string_lossy();
    if path.is_dir() {
        // The first of these that there are any of.
        for extension in ["parquet", "csv", "arrow", "arrows", "feather"] {
            let pattern = format!("{}/**/*.{extension}", text.trim_end_matches('/'));
            if let Ok(files) = list_files(lake.project(), &pattern, TableFormat::Parquet) {
                return Ok((files, None));
            }
        }
        return Err(LakeError::new("labels_unreadable", format!("the folder `{text}` holds no label files"))
            .hint("labels are Parquet, CSV or Arrow files, or a Delta table"));
    }
    if text.contains(['*', '?', '[']) && !path.exists() {
        return Ok((list_files(lake.project(), &text, TableFormat::Parquet)?, None));
    }
    Ok((vec![file_ref(lake.project(), path.to_owned())?], None))
}

/// Gives the columns of CSV files their types: as declared for keys and request fields; for the rest bool, int64, float64 or
/// timestamp when every cell of every file is one, else string.
fn type_lines(parts: &mut [Part], declared: &BTreeMap<String, ValueType>) -> Result<()> {
    let mut seen: BTreeMap<String, CellKinds> = BTreeMap::new();
    for part in &*parts {
        let Part::Csv(file, header, _, zone) = part else { continue };
        let all: Vec<usize> = (0..header.fields().len()).collect();
        let mut kinds: Vec<CellKinds> =
            header.fields().iter().map(|field| seen.remove(field.name()).unwrap_or_default()).collect();
        for batch in csv::read(file, header, &all)? {
            let batch = batch.map_err(|e| LakeError::corrupt(&file.name, "CSV", &e))?;
            for (kinds, column) in kinds.iter_mut().zip(batch.columns()) {
                column.as_string::<i32>().iter().flatten().for_each(|cell| kinds.add(cell, *zone));
            }
        }
        seen.extend(header.fields().iter().map(|field| field.name().clone()).zip(kinds));
    }
    for part in parts {
        let Part::Csv(_, header, types, _) = part else { continue };
        let found = header.fields().iter().map(|field| match declared.get(field.name()) {
            // Read as moments later, with the labels' zone.
            Some(ValueType::Timestamp) => ValueType::String,
            Some(declared) => declared.clone(),
            None => seen.get(field.name()).map_or(ValueType::String, CellKinds::value_type),
        });
        *types = found.collect();
    }
    Ok(())
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
