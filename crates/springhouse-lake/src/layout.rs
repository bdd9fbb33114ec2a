//! How the columns of the Parquet files that Springhouse keeps are written: each as a sample of it says.
//!
//! Measured numbers seldom repeat, so that a dictionary of them and compressing them only cost time when they are read; numbers
//! that rise are short as differences; what repeats is short in a dictionary.

use crate::error::{LakeError, Result};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaData};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use std::io::Write;
use std::sync::Arc;

/// Rows of a row group: few enough that statistics of a sorted file leave most of it out for few entities.
const ROW_GROUP_ROWS: usize = 65_536;

/// Who writes them, as their footers say.
const CREATED_BY: &str = "springhouse";

/// What a footer says of the order of all rows of a file: the columns that they are sorted by, ascending, as a list in JSON.
const SORTED_BY: &str = "springhouse.sorted_by";

/// Rows of the sample; smaller files are put together with others before it matters how they are written.
pub(crate) const SAMPLE_ROWS: usize = 8_192;

/// How many pieces it is put together from.
const PIECES: usize = 16;

/// Compressing is worth it where it leaves at most so much.
const WORTH_IT: f64 = 0.9;

/// Rows that become a file.
pub(crate) struct Rows<'a> {
    /// Of every batch.
    pub schema: SchemaRef,
    /// All of them or some from everywhere ([`sample`]): how columns are written is tried on these.
    pub sample: RecordBatch,
    /// One after the other.
    pub batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send + 'a>,
    /// The columns that they are sorted by, ascending.
    pub sorted_by: Vec<String>,
}

impl Rows<'_> {
    /// Those of one batch.
    pub(crate) fn of(rows: RecordBatch, sorted_by: Vec<String>) -> Self {
        let batches = Box::new(std::iter::once(Ok(rows.clone())));
        Self { schema: rows.schema(), sample: rows, batches, sorted_by }
    }
}

/// Writes rows as a Parquet file; `fail` says what it means when that does not go.
pub(crate) fn write_parquet(
    out: &mut (dyn Write + Send),
    rows: Rows<'_>,
    fail: &dyn Fn(ParquetError) -> LakeError,
) -> Result<()> {
    let properties = properties(&rows.sample, &rows.sorted_by).map_err(fail)?;
    let mut writer = writer(out, &rows.schema, properties).map_err(fail)?;
    for batch in rows.batches {
        writer.write(&batch?).map_err(fail)?;
    }
    writer.close().map(drop).map_err(fail)
}

fn writer<W: Write + Send>(
    out: W,
    schema: &SchemaRef,
    properties: WriterProperties,
) -> Result<ArrowWriter<W>, ParquetError> {
    // Without the Arrow schema in the file, readers see Parquet's own types: those of the Delta schema.
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(out, Arc::clone(schema), options)
}

/// What a footer says of some rows that are written so.
fn tried(rows: &RecordBatch, properties: WriterProperties) -> Result<ParquetMetaData, ParquetError> {
    let mut writer = writer(std::io::sink(), rows.schema_ref(), properties)?;
    writer.write(rows)?;
    writer.close()
}

fn common() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(CREATED_BY.to_owned())
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
}

/// The columns by which all rows of a file are sorted, as far as Springhouse wrote it and says so.
pub(crate) fn sorted_by(file: &FileMetaData) -> Option<Vec<String>> {
    let said = file.key_value_metadata()?.iter().find(|entry| entry.key == SORTED_BY)?;
    let is_ours = file.created_by() == Some(CREATED_BY);
    serde_json::from_str(said.value.as_deref().filter(|_| is_ours)?).ok()
}

/// How to write each column of these rows.
fn properties(rows: &RecordBatch, sorted_by: &[String]) -> Result<WriterProperties, ParquetError> {
    let said = KeyValue::new(SORTED_BY.to_owned(), serde_json::json!(sorted_by).to_string());
    let mut properties = common().set_key_value_metadata(Some(vec![said]).filter(|_| !sorted_by.is_empty()));
    if rows.num_rows() < SAMPLE_ROWS {
        return Ok(properties.build());
    }
    let sample = sample(rows, SAMPLE_ROWS)?;
    let repeating = tried(&sample, common().build())?;
    let plain = common().set_dictionary_enabled(false);
    let integers = repeating.row_group(0).columns().iter().filter(|column| is_integer(column));
    let plain = integers.fold(plain, |plain, column| {
        plain.set_column_encoding(column.column_path().clone(), Encoding::DELTA_BINARY_PACKED)
    });
    let different = tried(&sample, plain.build())?;
    let (repeating, different) = (repeating.row_group(0).columns(), different.row_group(0).columns());
    for (repeating, different) in repeating.iter().zip(different) {
        let path = || different.column_path().clone();
        let smallest = repeating.compressed_size().min(different.compressed_size());
        let is_worth_it = smallest as f64 <= different.uncompressed_size() as f64 * WORTH_IT;
        if is_worth_it && repeating.compressed_size() == smallest {
            continue;
        }
        properties = properties.set_column_dictionary_enabled(path(), false);
        if is_integer(different) {
            properties = properties.set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED);
        }
        if !is_worth_it {
            properties = properties.set_column_compression(path(), Compression::UNCOMPRESSED);
        }
    }
    Ok(properties.build())
}

/// So many rows or some more, unless there are few, in pieces from everywhere: in rows by entity, neighbours are more alike than others.
pub(crate) fn sample(rows: &RecordBatch, count: usize) -> Result<RecordBatch, ArrowError> {
    let length = count.div_ceil(PIECES).min(rows.num_rows());
    let last = rows.num_rows() - length;
    let piece = |number: usize| rows.slice(last * number / (PIECES - 1), length);
    let pieces: Vec<RecordBatch> = (0..PIECES).map(piece).collect();
    concat_batches(rows.schema_ref(), &pieces)
}

fn is_integer(column: &ColumnChunkMetaData) -> bool {
    [Type::INT32, Type::INT64].contains(&column.column_type())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn columns_are_written_as_they_are_best_read() {
        let mut state = 5u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 11
        };
        let rows = 100_000u64;
        let measured: Float64Array = (0..rows).map(|_| Some(random() as f64 / 1e9)).collect();
        let price: Float64Array = (0..rows).map(|_| Some((random() % 50) as f64 / 4.0)).collect();
        let rising: Int64Array = (0..rows).map(|row| Some((row * 1000 + random() % 500) as i64)).collect();
        let count: Int32Array = (0..rows).map(|row| (row % 7 > 0).then(|| (random() % 20) as i32)).collect();
        let name: StringArray = (0..rows).map(|_| Some(format!("n{}", random() % 100))).collect();
        let flag: BooleanArray = (0..rows).map(|_| Some(random() % 2 == 0)).collect();
        let columns: [(&str, ArrayRef); 6] = [
            ("measured", Arc::new(measured)),
            ("price", Arc::new(price)),
            ("rising", Arc::new(rising)),
            ("count", Arc::new(count)),
            ("name", Arc::new(name)),
            ("flag", Arc::new(flag)),
        ];
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, c)| (name, c, true))).unwrap();
        let mut bytes = Vec::new();
        let batches = [Ok(batch.slice(0, 70_000)), Ok(batch.slice(70_000, 30_000))];
        let rows = Rows { batches: Box::new(batches.into_iter()), ..Rows::of(batch.clone(), Vec::new()) };
        write_parquet(&mut bytes, rows, &|e| LakeError::internal(e.to_string())).unwrap();
        let bytes = bytes::Bytes::from(bytes);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap();
        let group = reader.metadata().row_group(0).clone();
        let is_compressed = |column: usize| group.column(column).compression() != Compression::UNCOMPRESSED;
        let has = |column: usize, wanted| group.column(column).encodings().any(|found| found == wanted);
        assert!(!is_compressed(0) && has(0, Encoding::PLAIN) && !has(0, Encoding::RLE_DICTIONARY));
        assert!(has(1, Encoding::RLE_DICTIONARY));
        assert!(has(2, Encoding::DELTA_BINARY_PACKED));
        assert!(has(4, Encoding::RLE_DICTIONARY));
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let read = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        assert_eq!(read.columns(), batch.columns());
        // And no larger than all the same way.
        let mut same = Vec::new();
        let mut writer = writer(&mut same, batch.schema_ref(), common().build()).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        assert!(bytes.len() <= same.len());
    }
}
