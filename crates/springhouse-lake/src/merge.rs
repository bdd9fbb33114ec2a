//! Files that are each sorted by the same columns, passed through side by side: their rows in one order, of which little is in
//! memory at a time.

use crate::error::{LakeError, Result};
use crate::layout;
use crate::source::location::FileRef;
use crate::source::parquet;
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader};
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use std::sync::Arc;

/// Rows of a batch that comes out.
const BATCH_ROWS: usize = 8_192;

/// All columns of some files; one from before a column came has nulls there.
pub(crate) fn united<'a>(schemas: impl IntoIterator<Item = &'a SchemaRef>) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = Vec::new();
    for field in schemas.into_iter().flat_map(|schema| schema.fields()) {
        if !fields.iter().any(|known| known.name() == field.name()) {
            fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
        }
    }
    Arc::new(Schema::new(fields))
}

/// Rows with all columns.
pub(crate) fn in_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let column = |field: &Arc<Field>| match batch.column_by_name(field.name()) {
        Some(column) => Arc::clone(column),
        None => new_null_array(field.data_type(), batch.num_rows()),
    };
    let columns: Vec<ArrayRef> = schema.fields().iter().map(column).collect();
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// The rows of sorted files, in one order.
pub(crate) struct Merged<'f> {
    pub schema: SchemaRef,
    converter: RowConverter,
    /// Positions of the columns that all are sorted by.
    by: Vec<usize>,
    inputs: Vec<Input<'f>>,
    /// The batches that rows of the next batch are in.
    batches: Vec<RecordBatch>,
}

/// A file, as far as it was passed through.
struct Input<'f> {
    file: &'f FileRef,
    metadata: ArrowReaderMetadata,
    reader: ParquetRecordBatchReader,
    /// What the rows of its batch are sorted by; none when there are no more.
    keys: Option<Rows>,
    /// Its batch among all.
    batch: usize,
    /// The next row of it.
    row: usize,
}

impl<'f> Merged<'f> {
    /// Files that are sorted by those of some columns that they have.
    pub(crate) fn new(files: &'f [FileRef], by: &[String]) -> Result<Self> {
        let open = |file: &'f FileRef| {
            let metadata = parquet::open(file)?;
            let groups = (0..metadata.metadata().num_row_groups()).collect();
            let reader = reader(file, &metadata, groups)?;
            Ok(Input { file, metadata, reader, keys: None, batch: 0, row: 0 })
        };
        let inputs: Vec<Input<'f>> = files.iter().map(open).collect::<Result<_>>()?;
        let schema = united(inputs.iter().map(|input| input.metadata.schema()));
        let by: Vec<usize> = by.iter().filter_map(|name| parquet::root_of(&schema, name)).collect();
        let fields = by.iter().map(|column| SortField::new(schema.field(*column).data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let mut merged = Self { schema, converter, by, inputs, batches: Vec::new() };
        (0..files.len()).try_for_each(|input| merged.advance(input))?;
        Ok(merged)
    }

    /// Some of the rows, from everywhere.
    pub(crate) fn sample(&self) -> Result<RecordBatch> {
        let share = layout::SAMPLE_ROWS.div_ceil(self.inputs.len().max(1));
        let mut pieces = Vec::with_capacity(self.inputs.len());
        for (number, input) in self.inputs.iter().enumerate() {
            let groups = input.metadata.metadata().num_row_groups();
            let group = groups * number / self.inputs.len();
            let rows = reader(input.file, &input.metadata, vec![group])?
                .map(|batch| in_schema(&batch.map_err(|e| corrupt(input.file, &e))?, &self.schema));
            let rows = concat_batches(&self.schema, &rows.collect::<Result<Vec<_>>>()?)?;
            pieces.push(layout::sample(&rows, share)?);
        }
        Ok(concat_batches(&self.schema, &pieces)?)
    }

    /// Goes on to the next rows of a file.
    fn advance(&mut self, number: usize) -> Result<()> {
        let input = &mut self.inputs[number];
        (input.keys, input.row, input.batch) = (None, 0, self.batches.len());
        for batch in input.reader.by_ref() {
            let batch = in_schema(&batch.map_err(|e| corrupt(input.file, &e))?, &self.schema)?;
            if batch.num_rows() > 0 {
                let columns: Vec<ArrayRef> =
                    self.by.iter().map(|column| Arc::clone(batch.column(*column))).collect();
                input.keys = Some(self.converter.convert_columns(&columns)?);
                self.batches.push(batch);
                break;
            }
        }
        Ok(())
    }

    /// The file with the least row; of two with the same, the first.
    fn least(&self, except: Option<usize>) -> Option<(usize, arrow::row::Row<'_>)> {
        let inputs = self.inputs.iter().enumerate().filter(|(number, _)| Some(*number) != except);
        inputs
            .filter_map(|(number, input)| Some((number, input.keys.as_ref()?.row(input.row))))
            .min_by(|a, b| a.1.cmp(&b.1))
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        // Batches that were passed through are of no use any more.
        let mut kept = Vec::with_capacity(self.inputs.len());
        for input in self.inputs.iter_mut().filter(|input| input.keys.is_some()) {
            kept.push(self.batches[input.batch].clone());
            input.batch = kept.len() - 1;
        }
        self.batches = kept;
        let mut rows: Vec<(usize, usize)> = Vec::with_capacity(BATCH_ROWS);
        while rows.len() < BATCH_ROWS
            && let Some((number, _)) = self.least(None)
        {
            let other = self.least(Some(number)).map(|(other, row)| (other, row.owned()));
            let is_next = |row: arrow::row::Row<'_>, other: &(usize, OwnedRow)| {
                // The first of two files comes first with what both have.
                if number < other.0 { row <= other.1.row() } else { row < other.1.row() }
            };
            let input = &mut self.inputs[number];
            let Some(keys) = &input.keys else { break };
            while rows.len() < BATCH_ROWS
                && input.row < keys.num_rows()
                && other.as_ref().is_none_or(|other| is_next(keys.row(input.row), other))
            {
                rows.push((input.batch, input.row));
                input.row += 1;
            }
            if input.row == keys.num_rows() {
                self.advance(number)?;
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        Ok(Some(interleave_record_batch(&batches, &rows)?))
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().transpose()
    }
}

fn reader(
    file: &FileRef,
    metadata: &ArrowReaderMetadata,
    groups: Vec<usize>,
) -> Result<ParquetRecordBatchReader> {
    let roots: Vec<usize> = (0..metadata.schema().fields().len()).collect();
    parquet::read(file, metadata, &roots, groups, None)
}

fn corrupt(file: &FileRef, error: &dyn std::fmt::Display) -> LakeError {
    LakeError::corrupt(&file.name, "Parquet", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::draws;
    use arrow::array::{Float64Array, Int64Array, StringArray};
    use arrow::compute::{SortColumn, lexsort_to_indices, take_record_batch};
    use std::path::Path;

    fn sorted(rows: &RecordBatch, by: &[&str]) -> RecordBatch {
        let place: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows.num_rows() as i64));
        let columns = by.iter().filter_map(|name| rows.column_by_name(name)).chain([&place]);
        let columns: Vec<SortColumn> =
            columns.map(|column| SortColumn { values: Arc::clone(column), options: None }).collect();
        take_record_batch(rows, &lexsort_to_indices(&columns, None).unwrap()).unwrap()
    }

    fn written(directory: &Path, number: usize, rows: &RecordBatch) -> FileRef {
        let path = directory.join(format!("{number}.parquet"));
        let mut file = std::fs::File::create(&path).unwrap();
        let fail = |e: ::parquet::errors::ParquetError| LakeError::internal(e.to_string());
        layout::write_parquet(&mut file, layout::Rows::of(rows.clone(), Vec::new()), &fail).unwrap();
        crate::source::location::file_ref(directory, path).unwrap()
    }

    #[test]
    fn merged_files_are_all_rows_sorted() {
        let mut below = draws(41);
        let directory = tempfile::tempdir().unwrap();
        for round in 0..60 {
            // The last ones have more rows than a batch.
            let most = if round < 55 { 60 } else { 40_000 };
            let mut files = Vec::new();
            for number in 0..1 + below(6) as usize {
                let rows = 1 + below(most) as i64;
                let key = |drawn: u64| (drawn > 0).then(|| format!("k{drawn}"));
                let keys: StringArray = (0..rows).map(|_| key(below(12))).collect();
                let times: Int64Array = (0..rows).map(|_| Some(below(20) as i64)).collect();
                let values: Float64Array =
                    (0..rows).map(|row| Some((number as i64 * 100_000 + row) as f64)).collect();
                let mut columns: Vec<(&str, ArrayRef, bool)> =
                    vec![("time", Arc::new(times), true), ("value", Arc::new(values), true)];
                // One from before a column came.
                if number > 0 || below(2) == 0 {
                    columns.insert(below(3) as usize, ("key", Arc::new(keys), true));
                }
                let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
                files.push(sorted(&rows, &["key", "time"]));
            }
            let schemas: Vec<SchemaRef> = files.iter().map(RecordBatch::schema).collect();
            let schema = united(&schemas);
            let all: Vec<RecordBatch> = files.iter().map(|rows| in_schema(rows, &schema).unwrap()).collect();
            let expected = sorted(&concat_batches(&schema, &all).unwrap(), &["key", "time"]);
            let files: Vec<FileRef> =
                files.iter().enumerate().map(|(n, rows)| written(directory.path(), n, rows)).collect();
            let merged = Merged::new(&files, &["key".to_owned(), "time".to_owned()]).unwrap();
            let (schema, sample) = (Arc::clone(&merged.schema), merged.sample().unwrap());
            assert!(sample.num_rows() >= layout::SAMPLE_ROWS.min(expected.num_rows() / 2), "round {round}");
            let batches: Vec<RecordBatch> = merged.map(Result::unwrap).collect();
            assert!(batches.iter().all(|batch| batch.num_rows() <= BATCH_ROWS));
            assert_eq!(concat_batches(&schema, &batches).unwrap(), expected, "round {round}");
        }
    }
}
