//! Columns of numbers that are written as they are in memory: one page, its levels made of the bits that say what is null. The
//! library's writer takes a column apart value by value, which takes longer than all else that is done to write it.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Float64Type};
use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, EncodingMask};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::Result;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use std::io::Write;

/// Most bytes of values: what the library's writer takes for one page.
const BYTES_MAX: usize = 1 << 20;
/// Bytes of a page's header and of the numbers before its levels, at most about.
const HEADER_BYTES: usize = 256;

/// A column of a row group that is written like that.
pub(crate) struct PlainColumn {
    values: ArrayRef,
    statistics: Statistics,
}

impl PlainColumn {
    /// None for what has other rules: other types, no value at all, a value that is not a number, more than a page.
    pub(crate) fn new(values: &ArrayRef) -> Option<Self> {
        let nulls = Some(values.null_count() as u64);
        // Readers may not tell the two zeros apart: the bounds are so that both are between them.
        let statistics = match values.data_type() {
            DataType::Float32 => {
                let (min, max) = bounds::<Float32Type>(values, f32::INFINITY, f32::NEG_INFINITY)?;
                let (min, max) = (if min == 0.0 { -0.0 } else { min }, if max == 0.0 { 0.0 } else { max });
                written(ValueStatistics::new(Some(min), Some(max), None, nulls, false))
            }
            DataType::Float64 => {
                let (min, max) = bounds::<Float64Type>(values, f64::INFINITY, f64::NEG_INFINITY)?;
                let (min, max) = (if min == 0.0 { -0.0 } else { min }, if max == 0.0 { 0.0 } else { max });
                written(ValueStatistics::new(Some(min), Some(max), None, nulls, false))
            }
            _ => return None,
        };
        (values.len() * width(values) <= BYTES_MAX)
            .then(|| Self { values: ArrayRef::clone(values), statistics })
    }

    /// Bytes of its values.
    pub(crate) fn bytes(&self) -> u64 {
        (self.values.len() * width(&self.values)) as u64
    }

    /// Writes it as the next column of a row group; `memory` is used again.
    pub(crate) fn append<W: Write + Send>(
        self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        column: ColumnDescPtr,
        memory: &mut PageMemory,
    ) -> Result<()> {
        let (rows, is_optional) = (self.values.len(), column.max_def_level() > 0);
        let mut page = std::mem::take(&mut memory.page);
        page.clear();
        if is_optional {
            put_levels(self.values.nulls(), rows, &mut page);
        }
        put_values(&self.values, &mut page);
        let page = Bytes::from(page);
        let mut chunk = TrackedWrite::new(std::mem::take(&mut memory.chunk));
        chunk.inner_mut().clear();
        chunk.inner_mut().reserve(page.len() + HEADER_BYTES);
        let written = SerializedPageWriter::new(&mut chunk).write_page(CompressedPage::new(
            Page::DataPage {
                buf: page.clone(),
                num_values: rows as u32,
                encoding: Encoding::PLAIN,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            },
            page.len(),
        ))?;
        let chunk = Bytes::from(chunk.into_inner()?);
        let bound = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
        let (min, max) = (bound(self.statistics.min_bytes_opt()), bound(self.statistics.max_bytes_opt()));
        let mut column_index = ColumnIndexBuilder::new(column.physical_type());
        column_index.append(false, min, max, self.values.null_count() as i64);
        column_index.set_boundary_order(BoundaryOrder::ASCENDING);
        let mut offset_index = OffsetIndexBuilder::new();
        offset_index.append_row_count(rows as i64);
        offset_index.append_offset_and_size(0, written.compressed_size as i32);
        let metadata = ColumnChunkMetaData::builder(column)
            .set_compression(Compression::UNCOMPRESSED)
            .set_encodings_mask(EncodingMask::new_from_encodings([Encoding::PLAIN, Encoding::RLE].iter()))
            .set_num_values(rows as i64)
            .set_total_compressed_size(written.compressed_size as i64)
            .set_total_uncompressed_size(written.uncompressed_size as i64)
            .set_data_page_offset(0)
            .set_statistics(self.statistics)
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: written.bytes_written,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index: Some(column_index.build()?),
            offset_index: Some(offset_index.build()),
        };
        group.append_column(&chunk, close)?;
        memory.take_back(page, chunk);
        Ok(())
    }
}

/// What pages are made in: memory that was just used is faster than other memory.
#[derive(Default)]
pub(crate) struct PageMemory {
    page: Vec<u8>,
    chunk: Vec<u8>,
}

impl PageMemory {
    fn take_back(&mut self, page: Bytes, chunk: Bytes) {
        self.page = page.into();
        self.chunk = chunk.into();
    }
}

/// Bounds that old readers see too, as those of the library's writer.
fn written<T>(bounds: ValueStatistics<T>) -> Statistics
where
    Statistics: From<ValueStatistics<T>>,
{
    bounds.with_backwards_compatible_min_max(true).into()
}

/// The least and the greatest value; none where there is no value or one that is not a number. `above` and `below` are what no
/// number is greater, or less, than.
fn bounds<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    above: T::Native,
    below: T::Native,
) -> Option<(T::Native, T::Native)> {
    let array = values.as_primitive::<T>();
    if array.null_count() == array.len() {
        return None;
    }
    // Side by side, so that the processor can compare several at once.
    const LANES: usize = 8;
    let (mut min, mut max, mut are_numbers) = ([above; LANES], [below; LANES], [true; LANES]);
    let mut look = |values: &[T::Native]| {
        for (lane, value) in values.iter().enumerate() {
            min[lane] = if *value < min[lane] { *value } else { min[lane] };
            max[lane] = if *value > max[lane] { *value } else { max[lane] };
            are_numbers[lane] &= *value >= below;
        }
    };
    let mut look_at = |from: usize, end: usize| {
        let (whole, rest) = array.values()[from..end].as_chunks::<LANES>();
        whole.iter().for_each(|values| look(values));
        look(rest);
    };
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => look_at(0, array.len()),
        Some(nulls) => nulls.valid_slices().for_each(|(from, end)| look_at(from, end)),
    }
    let least = |a: T::Native, b: T::Native| if b < a { b } else { a };
    let greatest = |a: T::Native, b: T::Native| if b > a { b } else { a };
    are_numbers
        .iter()
        .all(|is_number| *is_number)
        .then(|| (min.into_iter().fold(above, least), max.into_iter().fold(below, greatest)))
}

fn width(values: &ArrayRef) -> usize {
    values.data_type().primitive_width().unwrap_or(1)
}

/// Definition levels of one bit with their length: one run where all have a value, else the bits as they are.
fn put_levels(nulls: Option<&NullBuffer>, rows: usize, to: &mut Vec<u8>) {
    let length_at = to.len();
    to.extend_from_slice(&[0; 4]);
    match nulls.filter(|nulls| nulls.null_count() > 0) {
        None => {
            put_number((rows as u64) << 1, to);
            to.push(1);
        }
        Some(nulls) => {
            let bits = nulls.inner().sliced();
            let bytes = rows.div_ceil(8);
            put_number((bytes as u64) << 1 | 1, to);
            to.extend_from_slice(&bits.as_slice()[..bytes]);
        }
    }
    let length = (to.len() - length_at - 4) as u32;
    to[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

/// The values that are not null, one after the other.
fn put_values(values: &ArrayRef, to: &mut Vec<u8>) {
    let (data, width) = (values.to_data(), width(values));
    let bytes = &data.buffers()[0].as_slice()[data.offset() * width..][..values.len() * width];
    match values.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => to.extend_from_slice(bytes),
        Some(nulls) => {
            to.reserve((values.len() - nulls.null_count()) * width);
            for (from, end) in nulls.valid_slices() {
                to.extend_from_slice(&bytes[from * width..end * width]);
            }
        }
    }
}

/// An unsigned LEB128 number.
fn put_number(mut number: u64, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::draws;
    use arrow::array::{Float32Array, Float64Array, RecordBatch};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Field, Schema};
    use parquet::arrow::ArrowSchemaConverter;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use std::sync::Arc;

    fn read(bytes: Vec<u8>, schema: &Arc<Schema>) -> (RecordBatch, Arc<ParquetMetaData>) {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(Bytes::from(bytes), options);
        let reader = reader.expect("a footer");
        let metadata = Arc::clone(reader.metadata());
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
        (concat_batches(schema, &batches).unwrap(), metadata)
    }

    /// The same columns by the library's writer, which is the naive way.
    fn by_library(columns: &[ArrayRef], schema: &Arc<Schema>) -> Vec<u8> {
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_data_page_row_count_limit(1 << 20)
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(schema), Some(properties)).unwrap();
        writer.write(&RecordBatch::try_new(Arc::clone(schema), columns.to_vec()).unwrap()).unwrap();
        writer.into_inner().unwrap()
    }

    fn by_pages(columns: &[ArrayRef], schema: &Arc<Schema>) -> Vec<u8> {
        let root = ArrowSchemaConverter::new().convert(schema).unwrap().root_schema_ptr();
        let mut writer = SerializedFileWriter::new(Vec::new(), root, Arc::default()).unwrap();
        let descriptors: Vec<ColumnDescPtr> = writer.schema_descr().columns().to_vec();
        let mut group = writer.next_row_group().unwrap();
        let mut memory = PageMemory::default();
        for (values, column) in columns.iter().zip(descriptors) {
            PlainColumn::new(values).unwrap().append(&mut group, column, &mut memory).unwrap();
        }
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn columns_are_read_as_those_of_the_library() {
        let mut below = draws(11);
        for round in 0..200 {
            let rows = 1 + if round % 10 == 0 { below(70_000) } else { below(200) } as usize;
            let null_share = [0, 0, 1, 50, 99][below(5) as usize];
            let mut values = || -> Vec<Option<f64>> {
                let mut values: Vec<Option<f64>> = (0..rows)
                    .map(|_| (below(100) >= null_share).then(|| (below(9) as f64 - 4.0) * below(1000) as f64))
                    .collect();
                values[below(rows as u64) as usize] = Some([0.0, -0.0, 1.5][below(3) as usize]);
                values
            };
            let (a, b, whole) = (values(), values(), values());
            let whole: Float64Array = whole.iter().map(|v| Some(v.unwrap_or(7.0))).collect();
            let from = below(rows as u64) as usize;
            let columns: Vec<ArrayRef> = vec![
                Arc::new(a.iter().copied().collect::<Float64Array>()),
                Arc::new(b.iter().map(|v| v.map(|v| v as f32)).collect::<Float32Array>()),
                Arc::new(whole),
            ];
            // A part of an array begins within its bits.
            let columns: Vec<ArrayRef> = columns.iter().map(|c| c.slice(from, rows - from)).collect();
            if columns.iter().any(|column| column.null_count() == column.len()) {
                continue;
            }
            let schema = Arc::new(Schema::new(vec![
                Field::new("a", DataType::Float64, true),
                Field::new("b", DataType::Float32, true),
                Field::new("whole", DataType::Float64, false),
            ]));
            let (ours, of_ours) = read(by_pages(&columns, &schema), &schema);
            let (theirs, of_theirs) = read(by_library(&columns, &schema), &schema);
            assert_eq!(ours, theirs, "round {round}");
            assert_eq!(ours.columns(), columns, "round {round}");
            for (ours, theirs) in of_ours.row_group(0).columns().iter().zip(of_theirs.row_group(0).columns())
            {
                assert_eq!(ours.statistics(), theirs.statistics(), "round {round}");
                assert_eq!(ours.num_values(), theirs.num_values());
            }
            for column in 0..3 {
                let ours = &of_ours.column_index().unwrap()[0][column];
                let theirs = &of_theirs.column_index().unwrap()[0][column];
                assert_eq!(ours.num_pages(), 1);
                assert_eq!(ours.null_count(0), theirs.null_count(0), "round {round}");
            }
        }
    }

    #[test]
    fn what_has_other_rules_is_left_to_the_library() {
        let floats = |values: Vec<Option<f64>>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
        assert!(PlainColumn::new(&floats(vec![Some(1.0), None])).is_some());
        assert!(PlainColumn::new(&floats(vec![Some(1.0), Some(f64::NAN)])).is_none());
        assert!(PlainColumn::new(&floats(vec![Some(1.0), Some(-f64::NAN)])).is_none());
        assert!(PlainColumn::new(&floats(vec![None, None])).is_none());
        assert!(PlainColumn::new(&floats(vec![Some(1.0); BYTES_MAX / 8])).is_some());
        assert!(PlainColumn::new(&floats(vec![Some(1.0); BYTES_MAX / 8 + 1])).is_none());
        let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![1]));
        assert!(PlainColumn::new(&numbers).is_none());
    }
}
