//! Values of one width that lie in a file as they lie in memory (not compressed or compressed as they are, without a dictionary,
//! without nulls): looked at page by page, where few of them are copied.

use crate::error::{LakeError, Result};
use crate::source::location::FileRef;
use crate::source::parquet::null_count;
use bytes::{Buf, Bytes};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Most stored bytes of a column in a row group; one with more is read in batches.
const COLUMN_BYTES_MAX: u64 = 16 << 20;

/// What is used again for the columns of a row group: memory that was just used is faster than other memory.
#[derive(Default)]
pub(crate) struct Scratch {
    file: Option<File>,
    bytes: Vec<u8>,
}

impl Scratch {
    /// Bytes of the file that all is read of, until they are given back.
    fn read(&mut self, file: &FileRef, start: u64, length: u64) -> std::io::Result<Bytes> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(length as usize, 0);
        let handle = match self.file.take() {
            Some(handle) => handle,
            None => File::open(&file.path)?,
        };
        self.file.insert(handle).read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }

    fn give_back(&mut self, bytes: Bytes) {
        if let Ok(bytes) = bytes.try_into_mut() {
            self.bytes = bytes.into();
        }
    }
}

/// Gives the pages of a column in a row group: the place of its first row among the row group's, and its values. False when
/// the column is not stored like that, which may turn out after some pages.
pub(crate) fn for_each_page(
    file: &FileRef,
    metadata: &ArrowReaderMetadata,
    group: usize,
    leaf: usize,
    width: usize,
    scratch: &mut Scratch,
    each: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
) -> Result<bool> {
    let row_group = metadata.metadata().row_group(group);
    let column = row_group.column(leaf);
    let descriptor = column.column_descr();
    let stored_width = match column.column_type() {
        Type::INT32 | Type::FLOAT => 4,
        Type::INT64 | Type::DOUBLE => 8,
        _ => 0,
    };
    let (start, length) = column.byte_range();
    let is_optional = descriptor.max_def_level() == 1;
    if stored_width != width
        || column.dictionary_page_offset().is_some()
        || descriptor.max_rep_level() > 0
        || descriptor.max_def_level() > 1
        || null_count(row_group, leaf).is_some_and(|nulls| nulls > 0)
        || length > COLUMN_BYTES_MAX
        || start.checked_add(length).is_none_or(|end| end > file.size)
    {
        return Ok(false);
    }
    let corrupt = |e: &dyn std::fmt::Display| LakeError::corrupt(&file.name, "Parquet", e);
    let bytes = scratch.read(file, start, length).map_err(|e| LakeError::unreadable(&file.path, &e))?;
    let chunk = Arc::new(Chunk { start, bytes: bytes.clone() });
    let rows = usize::try_from(row_group.num_rows()).map_err(|e| corrupt(&e))?;
    let mut pages = SerializedPageReader::new(chunk, column, rows, None).map_err(|e| corrupt(&e))?;
    let mut first_row = 0;
    let mut is_plain = true;
    while is_plain && let Some(page) = pages.get_next_page().map_err(|e| corrupt(&e))? {
        let found = values(&page, is_optional, width).filter(|(_, count)| first_row + count <= rows);
        is_plain = found.is_some();
        if let Some((values, count)) = found {
            each(first_row, values)?;
            first_row += count;
        }
    }
    drop(pages);
    scratch.give_back(bytes);
    Ok(is_plain && first_row == rows)
}

/// The values of a page, and how many there are; none where some are null, or are not stored one after the other.
fn values(page: &Page, is_optional: bool, width: usize) -> Option<(&[u8], usize)> {
    let (bytes, levels, count) = match page {
        Page::DataPage { buf, num_values, encoding: Encoding::PLAIN, def_level_encoding, .. } => {
            let levels = match is_optional {
                false => 0,
                true if *def_level_encoding != Encoding::RLE => return None,
                true => 4 + u32::from_le_bytes(*buf.first_chunk()?) as usize,
            };
            (buf, levels, *num_values as usize)
        }
        Page::DataPageV2 { buf, num_values, encoding: Encoding::PLAIN, def_levels_byte_len, .. } => {
            (buf, *def_levels_byte_len as usize, *num_values as usize)
        }
        _ => return None,
    };
    let values = bytes.get(levels..)?;
    (values.len() == count.checked_mul(width)?).then_some((values, count))
}

/// A part of a file.
struct Chunk {
    start: u64,
    bytes: Bytes,
}

impl Chunk {
    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let from = start.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let from = from.filter(|from| *from <= self.bytes.len());
        from.map(|from| self.bytes.slice(from..))
            .ok_or_else(|| ParquetError::EOF(format!("byte {start} is outside the column")))
    }
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Chunk {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let from = self.from(start)?;
        match length <= from.len() {
            true => Ok(from.slice(..length)),
            false => Err(ParquetError::EOF(format!("{length} bytes from {start} on are outside the column"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::parquet::open;
    use arrow::array::{
        Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
        TimestampMillisecondArray,
    };
    use arrow::datatypes::{Field, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

    #[test]
    fn pages_are_the_values_or_there_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.parquet");
        let mut state = 11u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % bound
        };
        let mut looked_at = 0;
        for round in 0..200 {
            let rows = 1 + below(300) as usize;
            let nulls = below(2) == 0;
            let mut values = || -> Vec<Option<i64>> {
                (0..rows).map(|_| (!nulls || below(40) > 0).then(|| below(1 << 30) as i64)).collect()
            };
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(values())),
                Arc::new(values().iter().map(|v| v.map(|v| v as f64 / 8.0)).collect::<Float64Array>()),
                Arc::new(values().iter().map(|v| v.map(|v| v as f32 / 8.0)).collect::<Float32Array>()),
                Arc::new(values().iter().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
                Arc::new(TimestampMillisecondArray::from(values())),
                Arc::new(values().iter().map(|v| v.map(|v| v % 2 == 0)).collect::<BooleanArray>()),
            ];
            let is_nullable = nulls || below(2) == 0;
            let field = |(i, column): (usize, &ArrayRef)| {
                Field::new(format!("c{i}"), column.data_type().clone(), is_nullable)
            };
            let schema = Arc::new(Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>()));
            let batch = RecordBatch::try_new(schema, columns).unwrap();
            let has_dictionary = below(3) == 0;
            let version = if below(2) == 0 { WriterVersion::PARQUET_1_0 } else { WriterVersion::PARQUET_2_0 };
            let compression =
                [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())]
                    [below(3) as usize];
            let statistics = if below(2) == 0 { EnabledStatistics::None } else { EnabledStatistics::Page };
            let page_rows = 1 + below(100) as usize;
            let properties = WriterProperties::builder()
                .set_dictionary_enabled(has_dictionary)
                .set_encoding(Encoding::PLAIN)
                .set_writer_version(version)
                .set_compression(compression)
                // Whether there are nulls may be known before a page is read, or not.
                .set_statistics_enabled(statistics)
                .set_data_page_row_count_limit(page_rows)
                .set_write_batch_size(page_rows)
                .set_max_row_group_row_count(Some(1 + below(400) as usize))
                .build();
            let mut writer =
                ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let file = crate::source::location::file_ref(directory.path(), path.clone()).unwrap();
            let metadata = open(&file).unwrap();
            let mut scratch = Scratch { file: None, bytes: vec![7; below(2000) as usize] };
            let mut row = 0;
            for group in 0..metadata.metadata().num_row_groups() {
                let in_group = metadata.metadata().row_group(group).num_rows() as usize;
                for (leaf, column) in batch.columns().iter().enumerate() {
                    let part = column.slice(row, in_group);
                    let width = part.data_type().primitive_width().unwrap_or(1);
                    let mut found: Vec<u8> = Vec::new();
                    let is_plain = for_each_page(
                        &file,
                        &metadata,
                        group,
                        leaf,
                        width,
                        &mut scratch,
                        &mut |first, bytes| {
                            assert_eq!(found.len(), first * width);
                            found.extend(bytes);
                            Ok(())
                        },
                    );
                    let is_bool = *part.data_type() == arrow::datatypes::DataType::Boolean;
                    let expected = !has_dictionary && part.null_count() == 0 && !is_bool;
                    assert_eq!(is_plain.unwrap(), expected, "round {round}, column {leaf}");
                    if expected {
                        let data = part.to_data();
                        let stored = &data.buffers()[0].as_slice()[data.offset() * width..];
                        assert_eq!(found, stored[..in_group * width], "round {round}, column {leaf}");
                        looked_at += 1;
                    }
                }
                row += in_group;
            }
        }
        assert!(looked_at > 300, "{looked_at} columns were plain");
    }
}
