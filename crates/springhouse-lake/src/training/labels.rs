//! Labels: what was asked, when. Read for keys and moments, and for everything, to be passed through: at once where the output is
//! made by column ([`crate::training::label_keys`]), else twice.
//!
//! A label table may be behind a query ([`crate::training::label_query`]) and a sample; what comes out of them are the labels,
//! numbered from 0 in the order of the table.

use crate::error::{LakeError, Result, did_you_mean};
use crate::lake::Lake;
use crate::source::conform::{Place, conform};
use crate::source::location::file_name;
use crate::source::parquet;
use crate::source::scan::describe;
use crate::source::zone::Zone;
use crate::training::again::IN_MEMORY;
use crate::training::label_query::LabelQuery;
use crate::training::label_table::{Batches, LabelTable, ZONE_FIX};
use crate::training::request::{LabelSource, SampleSize, TrainingRequest};
use crate::training::sample::Sampler;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_empty_array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use springhouse_core::time::{EVENT_TIME_MAX, EVENT_TIME_MIN};
use springhouse_core::{Micros, ValueType};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// The at-column's usual name.
const AT_COLUMN: &str = "event_timestamp";

/// Labels, opened.
#[derive(Debug)]
pub(crate) struct Labels {
    /// How they were named.
    pub name: String,
    /// Their columns as they are passed through.
    pub schema: SchemaRef,
    /// Position of the column with the moment.
    pub at_column: usize,
    /// Where they are stored.
    pub table: LabelTable,
    zone: Zone,
    query: Option<LabelQuery>,
    sampler: Option<Sampler>,
    /// Rows before the sample, where they had to be counted.
    counted: Option<u64>,
    sample: Option<SampleSize>,
    /// Which of what is left are the labels.
    range: Option<Range<u64>>,
    hash: OnceLock<String>,
}

impl Labels {
    /// Opens the labels. `key_types`: columns whose types the definitions say (keys and request fields).
    pub(crate) async fn open(
        lake: &Lake,
        request: &TrainingRequest<'_>,
        key_types: &BTreeMap<String, ValueType>,
    ) -> Result<Self> {
        let zone = Zone::parse(request.time_zone.as_deref())?;
        let absolute =
            |path: PathBuf| std::path::absolute(&path).map_err(|e| LakeError::unreadable(&path, &e));
        let inputs = request.label_inputs.as_ref();
        let (table, name, query) = match &request.labels {
            LabelSource::Rows(rows) => (LabelTable::of_rows(rows.clone()), IN_MEMORY.to_owned(), None),
            LabelSource::Path(path) => {
                let path = absolute(path.clone())?;
                let name = file_name(lake.project(), &path);
                (LabelTable::open(lake, &path, &name, key_types, zone, inputs).await?, name, None)
            }
            LabelSource::Query(sql) => {
                let query = LabelQuery::parse(sql)?;
                let path = absolute(PathBuf::from(query.table()))?;
                let name = file_name(lake.project(), &path);
                let types = query.declared(key_types);
                let table = LabelTable::open(lake, &path, &name, &types, zone, inputs).await?;
                let planned = query.plan(&table, &name, zone)?;
                (table, name, Some(planned))
            }
        };
        let schema = match &query {
            Some(query) => Arc::clone(query.schema()),
            None => Arc::clone(&table.schema),
        };
        let at_column = at_column(&name, &schema, request.at_column.as_deref())?;
        let mut labels = Self {
            name,
            schema,
            at_column,
            table,
            zone,
            query,
            sampler: None,
            counted: None,
            sample: None,
            range: None,
            hash: OnceLock::new(),
        };
        // Types are checked before any row is read.
        labels.at(&labels.empty_batch(), 0)?;
        if let Some(sample) = request.sample {
            let mut counted = None;
            let sampler = Sampler::new(sample, || {
                let rows = match labels.row_count() {
                    Some(rows) => rows,
                    None => labels.count_rows()?,
                };
                counted = Some(rows);
                Ok::<_, LakeError>(rows)
            })?;
            labels.sample = sampler.map(|_| sample.size);
            labels.counted = counted;
            labels.sampler = sampler;
        }
        labels.range.clone_from(&request.rows);
        Ok(labels)
    }

    /// How many labels there are; None when only reading tells.
    pub(crate) fn row_count(&self) -> Option<u64> {
        let all = match &self.query {
            Some(query) if query.has_filter() => self.counted,
            _ => self.counted.or_else(|| self.table.row_count()),
        };
        let taken = match self.sample {
            None => all,
            Some(SampleSize::Rows(rows)) => all.map(|all| all.min(rows)),
            Some(SampleSize::Share(_)) => None,
        };
        taken.map(|rows| self.in_range(rows))
    }

    /// How many of so many rows are in the range.
    fn in_range(&self, rows: u64) -> u64 {
        match &self.range {
            Some(range) => rows.min(range.end).saturating_sub(range.start),
            None => rows,
        }
    }

    /// About how many labels there are, to decide sizes by.
    pub(crate) fn row_guess(&self) -> u64 {
        let stored = || self.table.row_count().unwrap_or(self.table.bytes() / 20 + 1);
        match (self.row_count(), self.sample) {
            (Some(rows), _) => rows,
            (None, Some(SampleSize::Share(share))) => self.in_range((stored() as f64 * share) as u64 + 1),
            (None, _) => self.in_range(stored()),
        }
    }

    /// How many labels there are, read if need be.
    pub(crate) fn count(&self) -> Result<u64> {
        self.row_count().map_or_else(|| self.count_rows(), Ok)
    }

    fn count_rows(&self) -> Result<u64> {
        let mut reader = self.read(if self.query.is_some() { Vec::new() } else { vec![0] });
        let mut rows = 0;
        while let Some((_, batch)) = reader.next_batch()? {
            rows += batch.num_rows() as u64;
        }
        Ok(rows)
    }

    /// The hash of the table's bytes (or of the rows in memory).
    pub(crate) fn hash(&self) -> Result<&str> {
        if let Some(hash) = self.hash.get() {
            return Ok(hash);
        }
        let hash = self.table.hash()?;
        Ok(self.hash.get_or_init(|| hash))
    }

    /// The moments' range, when it can be told without reading: from the statistics of a column that is UTC microseconds.
    pub(crate) fn moments_known(&self) -> Option<(Micros, Micros)> {
        let utc = matches!(
            self.schema.field(self.at_column).data_type(),
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(_))
        );
        let narrowed = self.query.is_some() || self.sampler.is_some() || self.range.is_some();
        if utc && !narrowed { self.table.int64_range(self.at_column) } else { None }
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
            zone_fix: ZONE_FIX,
            local_time_errors_are_null: false,
            first_row,
            // A CSV file's times stay texts until they are read as moments.
            text: self.table.is_csv() && array.data_type() == &DataType::Utf8,
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
        LabelReader {
            labels: self,
            columns,
            part: 0,
            current: None,
            before_sample: 0,
            before_range: 0,
            row: 0,
            rest: None,
        }
    }
}

/// Reads labels in order.
pub(crate) struct LabelReader<'a> {
    labels: &'a Labels,
    columns: Vec<usize>,
    part: usize,
    current: Option<Batches>,
    /// The number of the next row before the sample.
    before_sample: u64,
    /// The number of the next row before the range.
    before_range: u64,
    /// The number of the next row.
    row: u64,
    rest: Option<RecordBatch>,
}

impl LabelReader<'_> {
    fn next_stored(&mut self) -> Result<Option<RecordBatch>> {
        let table = &self.labels.table;
        loop {
            if let Some(batches) = &mut self.current {
                match batches.next().transpose()? {
                    Some(batch) if batch.num_rows() == 0 => continue,
                    Some(batch) => return Ok(Some(batch)),
                    None => {
                        self.current = None;
                        self.part += 1;
                    }
                }
            }
            if self.part == table.part_count() {
                return Ok(None);
            }
            self.current = Some(match &self.labels.query {
                Some(query) => table.read(self.part, &query.stored_columns(&self.columns))?,
                None => table.read(self.part, &self.columns)?,
            });
        }
    }

    fn next_taken(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let Some(mut batch) = self.next_stored()? else { return Ok(None) };
            if let Some(query) = &self.labels.query {
                batch = query.run(&batch, &self.columns)?;
            }
            let before = self.before_sample;
            self.before_sample += batch.num_rows() as u64;
            if let Some(sampler) = &self.labels.sampler {
                batch = filter_record_batch(&batch, &sampler.mask(before, batch.num_rows()))?;
            }
            if let Some(range) = &self.labels.range {
                let (first, rows) = (self.before_range, batch.num_rows() as u64);
                self.before_range += rows;
                if first >= range.end {
                    return Ok(None);
                }
                let from = range.start.saturating_sub(first).min(rows);
                let to = (range.end - first).min(rows);
                batch = batch.slice(from as usize, to.saturating_sub(from) as usize);
            }
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
    }

    /// The next rows with the number of the first, as they come.
    pub(crate) fn next_batch(&mut self) -> Result<Option<(u64, RecordBatch)>> {
        let batch = match self.rest.take() {
            Some(rest) => Some(rest),
            None => self.next_taken()?,
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
