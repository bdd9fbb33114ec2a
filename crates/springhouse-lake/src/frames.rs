//! Labels and training sets as Arrow batches, for callers that have a table in memory instead of a file.

use crate::error::{LakeError, Result};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchReader};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Rows of one batch of a training set that is read back.
const BATCH_ROWS: usize = 65_536;

/// Writes label rows to a Parquet file that a training set can be made from; returns the rows written.
///
/// The layouts in which a frame library keeps a text (views, large offsets, dictionaries) become plain text; the values
/// are the same. No compression: the file lives as long as the training set is being made.
///
/// # Errors
/// `file_unwritable`; `labels_unreadable` when the reader fails or a column has a type that Parquet lacks.
pub fn write_labels(path: &Path, rows: &mut dyn RecordBatchReader) -> Result<u64> {
    let unreadable = |error: &dyn std::fmt::Display| {
        LakeError::new("labels_unreadable", format!("the label rows can't be read: {error}"))
            .hint("give a table with plain columns: numbers, texts, timestamps")
    };
    let schema = plain_schema(&rows.schema());
    let file = File::create(path).map_err(|error| LakeError::unwritable(path, &error))?;
    let properties = WriterProperties::builder().set_compression(Compression::UNCOMPRESSED).build();
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))
        .map_err(|error| unreadable(&error))?;
    let mut written = 0;
    for batch in rows {
        let batch = plain(&batch.map_err(|error| unreadable(&error))?, &schema)
            .map_err(|error| unreadable(&error))?;
        written += batch.num_rows() as u64;
        writer.write(&batch).map_err(|error| LakeError::unwritable(path, &error))?;
    }
    writer.close().map_err(|error| LakeError::unwritable(path, &error))?;
    Ok(written)
}

/// Reads a training set back, in order.
///
/// # Errors
/// `file_unreadable` or `file_corrupt`.
pub fn read_training_set(path: &Path) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let corrupt =
        |error: &dyn std::fmt::Display| LakeError::corrupt(&path.display().to_string(), "Parquet", error);
    let file = File::open(path).map_err(|error| LakeError::unreadable(path, &error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| corrupt(&error))?;
    let schema = Arc::clone(builder.schema());
    let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| corrupt(&error))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| corrupt(&error))?;
    Ok((schema, batches))
}

fn plain_schema(schema: &Schema) -> SchemaRef {
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

fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let of = |(column, field): (&ArrayRef, &Arc<Field>)| match column.data_type() == field.data_type() {
        true => Ok(Arc::clone(column)),
        false => cast(column, field.data_type()),
    };
    let columns = batch.columns().iter().zip(schema.fields()).map(of).collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, LargeStringArray, RecordBatchIterator, StringArray, StringViewArray};

    #[test]
    fn every_layout_of_text_is_written_as_plain_text_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.parquet");
        let text = ["a", "a text that is longer than twelve bytes", "c"];
        let dictionary = cast(
            &StringArray::from(text.to_vec()),
            &DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        )
        .unwrap();
        let batch = RecordBatch::try_from_iter([
            ("number", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef),
            ("large", Arc::new(LargeStringArray::from(text.to_vec()))),
            ("view", Arc::new(StringViewArray::from(text.to_vec()))),
            ("dictionary", dictionary),
        ])
        .unwrap();
        let schema = batch.schema();
        let mut reader = RecordBatchIterator::new([Ok(batch.clone()), Ok(batch)], schema);
        assert_eq!(write_labels(&path, &mut reader).unwrap(), 6);
        let (_, batches) = read_training_set(&path).unwrap();
        let all = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        let expected = StringArray::from([text, text].concat());
        for column in 1..4 {
            assert_eq!(all.column(column).as_ref(), &expected as &dyn arrow::array::Array);
        }
    }

    #[test]
    fn a_reader_that_fails_leaves_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
        let broken = arrow::error::ArrowError::ComputeError("the stream broke".to_owned());
        let mut reader = RecordBatchIterator::new([Err(broken)], schema);
        let error = write_labels(&folder.path().join("l.parquet"), &mut reader).unwrap_err();
        assert_eq!(error.code, "labels_unreadable");
        assert!(error.message.contains("the stream broke"), "{error}");
    }
}
