//! Tables of frame libraries and IPC files: the layouts in which they keep a text (views, large offsets, dictionaries) become
//! plain; the values are the same. And training sets read back.

use crate::error::{LakeError, Result};
use crate::training::request::OutputFormat;
use arrow::array::RecordBatchReader;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

/// Rows of one batch of a training set that is read back.
const BATCH_ROWS: usize = 65_536;

/// Reads a training set back, in order.
///
/// # Errors
/// `file_unreadable` or `file_corrupt`; `unknown_format` for CSV, which keeps no types.
pub fn read_training_set(path: &Path, format: OutputFormat) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let corrupt =
        |error: &dyn std::fmt::Display| LakeError::corrupt(&path.display().to_string(), format.name(), error);
    let file = File::open(path).map_err(|error| LakeError::unreadable(path, &error))?;
    type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;
    let (schema, batches): (SchemaRef, Batches) = match format {
        OutputFormat::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| corrupt(&error))?;
            let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| corrupt(&error))?;
            (reader.schema(), Box::new(reader))
        }
        OutputFormat::ArrowFile => {
            let reader = FileReader::try_new(BufReader::new(file), None).map_err(|error| corrupt(&error))?;
            (reader.schema(), Box::new(reader))
        }
        OutputFormat::ArrowStream => {
            let reader =
                StreamReader::try_new(BufReader::new(file), None).map_err(|error| corrupt(&error))?;
            (reader.schema(), Box::new(reader))
        }
        OutputFormat::Csv => {
            return Err(LakeError::new("unknown_format", "a CSV file keeps no types to read it back with")
                .hint("read it with a frame library, or write the training set as Parquet"));
        }
    };
    let batches = batches.collect::<Result<Vec<_>, _>>().map_err(|error| corrupt(&error))?;
    Ok((schema, batches))
}

/// A schema without layouts of its own.
pub(crate) fn plain_schema(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| {
        let data_type = plain_type(field.data_type());
        Field::new(field.name(), data_type, field.is_nullable())
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        other => other.clone(),
    }
}

/// Columns as a batch of a plain schema.
pub(crate) fn plain(columns: Vec<ArrayRef>, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let of = |(column, field): (ArrayRef, &Arc<Field>)| match column.data_type() == field.data_type() {
        true => Ok(column),
        false => cast(&column, field.data_type()),
    };
    let rows = columns.first().map_or(0, |column| column.len());
    let columns = columns.into_iter().zip(schema.fields()).map(of).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, LargeStringArray, StringArray, StringViewArray};

    #[test]
    fn every_layout_of_text_becomes_plain_text_and_what_is_plain_is_not_copied() {
        let text = ["a", "a text that is longer than twelve bytes", "c"];
        let dictionary = cast(
            &StringArray::from(text.to_vec()),
            &DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        )
        .unwrap();
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let batch = RecordBatch::try_from_iter([
            ("number", Arc::clone(&number)),
            ("large", Arc::new(LargeStringArray::from(text.to_vec()))),
            ("view", Arc::new(StringViewArray::from(text.to_vec()))),
            ("dictionary", dictionary),
        ])
        .unwrap();
        let schema = plain_schema(&batch.schema());
        let made = plain(batch.columns().to_vec(), &schema).unwrap();
        for column in 1..4 {
            assert_eq!(
                made.column(column).as_ref(),
                &StringArray::from(text.to_vec()) as &dyn arrow::array::Array
            );
        }
        let place = |array: &ArrayRef| array.to_data().buffers()[0].as_ptr();
        assert_eq!(place(made.column(0)), place(&number));
    }
}
