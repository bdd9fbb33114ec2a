//! Columns of numbers and moments that are written as they are in memory: one page, its levels made of the bits that say what is null. The
//! library's writer takes a column apart value by value, which takes longer than all else that is done to write it.

use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, TimeUnit};
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
/// Bytes of a page's header, at most about.
const HEADER_BYTES: usize = 256;

/// A column of a row group that is written like that.
pub(crate) struct PlainColumn {
    values: ArrayRef,
}

/// True for a type whose columns are written like that, mostly: [`PlainColumn::new`].
pub(crate) fn is_plain(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64 | DataType::Timestamp(TimeUnit::Microsecond, _))
}

impl PlainColumn {
    /// None for what has other rules: other types, no value at all, more than a page.
    pub(crate) fn new(values: &ArrayRef) -> Option<Self> {
        let is_plain = is_plain(values.data_type())
            && values.null_count() < values.len()
            && values.len() * width(values) <= BYTES_MAX;
        is_plain.then(|| Self { values: ArrayRef::clone(values) })
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
        let mut chunk = TrackedWrite::new(std::mem::take(&mut memory.chunk));
        chunk.inner_mut().clear();
        chunk.inner_mut().reserve(self.bytes() as usize + self.values.len() / 8 + HEADER_BYTES);
        let close = self.write(&mut chunk, column, memory)?;
        let chunk = Bytes::from(chunk.into_inner()?);
        group.append_column(&chunk, close)?;
        memory.chunk = chunk.into();
        Ok(())
    }

    /// Writes its page; where it is, and all else that a footer says of it. `memory` is used again.
    pub(crate) fn write<W: Write + Send>(
        &self,
        to: &mut TrackedWrite<W>,
        column: ColumnDescPtr,
        memory: &mut PageMemory,
    ) -> Result<ColumnCloseResult> {
        let (rows, null_count) = (self.values.len(), self.values.null_count());
        let PageMemory { page, levels, .. } = memory;
        levels.clear();
        if column.max_def_level() > 0 {
            put_levels(self.values.nulls(), rows, levels);
        }
        let length = levels.len() + (rows - null_count) * width(&self.values);
        let mut bytes = std::mem::take(page);
        // What it had before is written over. One place more, for a value that is null at the end.
        bytes.resize(bytes.len().max(length + width(&self.values)), 0);
        bytes[..levels.len()].copy_from_slice(levels);
        put_values(&self.values, &mut bytes[levels.len()..]);
        let statistics = statistics(&self.values, &bytes[levels.len()..length]);
        let bytes = Bytes::from(bytes);
        let written = SerializedPageWriter::new(to).write_page(CompressedPage::new(
            Page::DataPage {
                buf: bytes.slice(..length),
                num_values: rows as u32,
                encoding: Encoding::PLAIN,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            },
            length,
        ))?;
        *page = bytes.into();
        // Readers take no page index of a column without bounds: values of which none is a number.
        let mut column_index = None;
        if let (Some(min), Some(max)) = (statistics.min_bytes_opt(), statistics.max_bytes_opt()) {
            let mut of_page = ColumnIndexBuilder::new(column.physical_type());
            of_page.append(false, min.to_vec(), max.to_vec(), null_count as i64);
            of_page.set_boundary_order(BoundaryOrder::ASCENDING);
            column_index = Some(of_page.build()?);
        }
        let mut offset_index = OffsetIndexBuilder::new();
        offset_index.append_row_count(rows as i64);
        offset_index.append_offset_and_size(written.offset as i64, written.compressed_size as i32);
        let metadata = ColumnChunkMetaData::builder(column)
            .set_compression(Compression::UNCOMPRESSED)
            .set_encodings_mask(EncodingMask::new_from_encodings([Encoding::PLAIN, Encoding::RLE].iter()))
            .set_num_values(rows as i64)
            .set_total_compressed_size(written.compressed_size as i64)
            .set_total_uncompressed_size(written.uncompressed_size as i64)
            .set_data_page_offset(written.offset as i64)
            .set_statistics(statistics)
            .build()?;
        Ok(ColumnCloseResult {
            bytes_written: written.bytes_written,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index,
            offset_index: Some(offset_index.build()),
        })
    }
}

/// What pages are made in: memory that was just used is faster than other memory.
#[derive(Default)]
pub(crate) struct PageMemory {
    page: Vec<u8>,
    levels: Vec<u8>,
    chunk: Vec<u8>,
}

/// What is said of a column with these values, of which `present` are those that are not null. Readers may not tell the two zeros
/// apart: the bounds are so that both are between them.
fn statistics(values: &ArrayRef, present: &[u8]) -> Statistics {
    let nulls = Some(values.null_count() as u64);
    match values.data_type() {
        DataType::Float32 => {
            let (min, max) = bounds(present, f32::from_le_bytes, f32::INFINITY, f32::NEG_INFINITY).unzip();
            let min = min.map(|min| if min == 0.0 { -0.0 } else { min });
            let max = max.map(|max| if max == 0.0 { 0.0 } else { max });
            written(ValueStatistics::new(min, max, None, nulls, false))
        }
        DataType::Timestamp(..) => {
            let (min, max) = bounds(present, i64::from_le_bytes, i64::MAX, i64::MIN).unzip();
            written(ValueStatistics::new(min, max, None, nulls, false))
        }
        _ => {
            let (min, max) = bounds(present, f64::from_le_bytes, f64::INFINITY, f64::NEG_INFINITY).unzip();
            let min = min.map(|min| if min == 0.0 { -0.0 } else { min });
            let max = max.map(|max| if max == 0.0 { 0.0 } else { max });
            written(ValueStatistics::new(min, max, None, nulls, false))
        }
    }
}

/// Bounds that old readers see too, as those of the library's writer.
fn written<T>(bounds: ValueStatistics<T>) -> Statistics
where
    Statistics: From<ValueStatistics<T>>,
{
    bounds.with_backwards_compatible_min_max(true).into()
}

/// The least and the greatest number, passing over what is none; none where nothing is. `above` and `below` are what no number is
/// greater, or less, than.
fn bounds<T: Copy + PartialOrd, const N: usize>(
    bytes: &[u8],
    value: fn([u8; N]) -> T,
    above: T,
    below: T,
) -> Option<(T, T)> {
    // Side by side, so that the processor can compare several at once.
    const LANES: usize = 8;
    let (mut min, mut max) = ([above; LANES], [below; LANES]);
    let mut look = |values: &[[u8; N]]| {
        for (lane, bytes) in values.iter().enumerate() {
            let value = value(*bytes);
            min[lane] = if value < min[lane] { value } else { min[lane] };
            max[lane] = if value > max[lane] { value } else { max[lane] };
        }
    };
    let (whole, rest) = bytes.as_chunks::<N>().0.as_chunks::<LANES>();
    whole.iter().for_each(|values| look(values));
    look(rest);
    let min = min.into_iter().fold(above, |a, b| if b < a { b } else { a });
    let max = max.into_iter().fold(below, |a, b| if b > a { b } else { a });
    (min <= max).then_some((min, max))
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

/// The values that are not null, one after the other; in `to` there is room for one more.
fn put_values(values: &ArrayRef, to: &mut [u8]) {
    let (data, width) = (values.to_data(), width(values));
    let bytes = &data.buffers()[0].as_slice()[data.offset() * width..][..values.len() * width];
    match (values.nulls().filter(|nulls| nulls.null_count() > 0), width) {
        (None, _) => to[..bytes.len()].copy_from_slice(bytes),
        (Some(nulls), 4) => put_present::<4>(bytes, nulls, to),
        (Some(nulls), _) => put_present::<8>(bytes, nulls, to),
    }
}

/// Every value is written, and the next one over it where it is null: nulls that come and go can't be foreseen by the processor.
fn put_present<const N: usize>(bytes: &[u8], nulls: &NullBuffer, to: &mut [u8]) {
    let (values, places) = (bytes.as_chunks::<N>().0, to.as_chunks_mut::<N>().0);
    let mut next = 0;
    for (values, word) in values.chunks(64).zip(nulls.inner().bit_chunks().iter_padded()) {
        if word == u64::MAX {
            places[next..next + values.len()].copy_from_slice(values);
            next += values.len();
            continue;
        }
        for (bit, value) in values.iter().enumerate() {
            places[next] = *value;
            next += (word >> bit & 1) as usize;
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
    use arrow::array::{Float32Array, Float64Array, RecordBatch, TimestampMicrosecondArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Field, Schema};
    use parquet::arrow::ArrowSchemaConverter;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
    use parquet::file::page_index::column_index::ColumnIndexMetaData;
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
        let mut without_numbers = 0;
        for round in 0..200 {
            let rows = 1 + if round % 10 == 0 { below(70_000) } else { below(200) } as usize;
            let null_share = [0, 0, 1, 50, 99][below(5) as usize];
            // What is no number: none, some, all.
            let nan_share = [0, 0, 3, 100][below(4) as usize];
            let mut values = || -> Vec<Option<f64>> {
                let mut number = || match below(100) < nan_share {
                    true => [f64::NAN, -f64::NAN][below(2) as usize],
                    false => (below(9) as f64 - 4.0) * below(1000) as f64,
                };
                let mut values: Vec<Option<f64>> = (0..rows).map(|_| Some(number())).collect();
                values.iter_mut().filter(|_| below(100) < null_share).for_each(|value| *value = None);
                if nan_share < 100 {
                    let some = [0.0, -0.0, 1.5, f64::INFINITY, f64::NEG_INFINITY][below(5) as usize];
                    values[below(rows as u64) as usize] = Some(some);
                }
                values
            };
            let (a, b, whole) = (values(), values(), values());
            let whole: Float64Array = whole.iter().map(|v| Some(v.unwrap_or(7.0))).collect();
            let moments: TimestampMicrosecondArray =
                a.iter().map(|v| v.map(|v| (v as i64).wrapping_mul(below(1 << 40) as i64))).collect();
            let moments = moments.with_timezone("UTC");
            let from = below(rows as u64) as usize;
            let columns: Vec<ArrayRef> = vec![
                Arc::new(a.iter().copied().collect::<Float64Array>()),
                Arc::new(b.iter().map(|v| v.map(|v| v as f32)).collect::<Float32Array>()),
                Arc::new(whole),
                Arc::new(moments),
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
                Field::new("moments", columns[3].data_type().clone(), true),
            ]));
            let (ours, of_ours) = read(by_pages(&columns, &schema), &schema);
            let (theirs, of_theirs) = read(by_library(&columns, &schema), &schema);
            assert_eq!(ours, theirs, "round {round}");
            assert_eq!(ours.columns(), columns, "round {round}");
            without_numbers += usize::from(nan_share == 100);
            for (ours, theirs) in of_ours.row_group(0).columns().iter().zip(of_theirs.row_group(0).columns())
            {
                assert_eq!(ours.statistics(), theirs.statistics(), "round {round}");
                assert_eq!(ours.num_values(), theirs.num_values());
            }
            for column in 0..4 {
                let ours = &of_ours.column_index().unwrap()[0][column];
                let theirs = &of_theirs.column_index().unwrap()[0][column];
                if let ColumnIndexMetaData::NONE = theirs {
                    assert!(matches!(ours, ColumnIndexMetaData::NONE), "round {round}");
                    continue;
                }
                assert_eq!(ours.num_pages(), 1);
                assert_eq!(ours.null_count(0), theirs.null_count(0), "round {round}");
            }
        }
        assert!(without_numbers > 10);
    }

    #[test]
    fn what_has_other_rules_is_left_to_the_library() {
        let floats = |values: Vec<Option<f64>>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
        assert!(PlainColumn::new(&floats(vec![Some(1.0), None])).is_some());
        assert!(PlainColumn::new(&floats(vec![None, None])).is_none());
        assert!(PlainColumn::new(&floats(vec![Some(1.0); BYTES_MAX / 8])).is_some());
        assert!(PlainColumn::new(&floats(vec![Some(1.0); BYTES_MAX / 8 + 1])).is_none());
        let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![1]));
        assert!(PlainColumn::new(&numbers).is_none());
    }
}
