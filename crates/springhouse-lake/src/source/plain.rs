//! Values of one width that lie in a file as they lie in memory (not compressed or compressed as they are, without a
//! dictionary): looked at page by page, where few of them are copied.

use crate::error::{LakeError, Result};
use crate::source::location::FileRef;
use bytes::{Buf, Bytes};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Most stored bytes of a column in a row group; one with more is read in batches.
const COLUMN_BYTES_MAX: u64 = 16 << 20;

/// What is used again for the columns of a row group: memory that was just used is faster than other memory.
#[derive(Default)]
pub(crate) struct Scratch {
    file: Option<(PathBuf, File)>,
    bytes: Vec<u8>,
    present: Present,
}

impl Scratch {
    /// Bytes of the file that all is read of, until they are given back.
    fn read(&mut self, file: &FileRef, start: u64, length: u64) -> std::io::Result<Arc<Vec<u8>>> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(length as usize, 0);
        let open = match self.file.take().filter(|(path, _)| *path == file.path) {
            Some(open) => open,
            None => (file.path.clone(), File::open(&file.path)?),
        };
        self.file.insert(open).1.read_exact_at(&mut bytes, start)?;
        Ok(Arc::new(bytes))
    }

    /// Takes them back when nobody looks at them any more.
    fn give_back(&mut self, bytes: Arc<Vec<u8>>) {
        self.bytes = Arc::into_inner(bytes).unwrap_or_default();
    }
}

/// Bytes that are given back.
struct Lent(Arc<Vec<u8>>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Values of one width as they are in memory.
#[derive(Clone, Copy)]
pub(crate) struct PlainValues<'a> {
    /// Those that are not null, one after the other.
    pub bytes: &'a [u8],
    /// Which rows have one; none where all have.
    pub present: Option<&'a Present>,
}

/// Which rows of a page have a value, and where it is among the values.
#[derive(Default)]
pub(crate) struct Present {
    /// A bit per row, from the lowest on.
    words: Vec<u64>,
    /// Values before the rows of each word.
    before: Vec<u32>,
}

impl Present {
    /// The place of a row's value; none where it is null.
    pub(crate) fn place(&self, row: usize) -> Option<usize> {
        let (word, bit) = (self.words[row / 64], 1 << (row % 64));
        let place = || self.before[row / 64] + (word & (bit - 1)).count_ones();
        (word & bit != 0).then(|| place() as usize)
    }

    /// Reads which of so many rows have a value from definition levels of one bit (Parquet's hybrid of runs and packed bits), and
    /// how many have one; none when those are cut off.
    fn read(&mut self, mut levels: &[u8], rows: usize) -> Option<usize> {
        self.words.clear();
        self.words.resize(rows.div_ceil(64), 0);
        let mut row = 0;
        while row < rows {
            let header = take_number(&mut levels)?;
            if header & 1 == 0 {
                let end = rows.min(row.checked_add((header >> 1) as usize)?);
                if end == row {
                    return None;
                }
                if levels.split_off_first()? & 1 == 1 {
                    (row..end).for_each(|row| self.words[row / 64] |= 1 << (row % 64));
                }
                row = end;
                continue;
            }
            // The last byte may have bits for more rows than there are.
            let packed = (header >> 1) as usize;
            let bytes = levels.split_off(..packed.min((rows - row).div_ceil(8)))?;
            if bytes.is_empty() {
                return None;
            }
            let (words, bytes) = bytes.as_chunks::<8>();
            for word in words {
                row = self.put(u64::from_le_bytes(*word), 64.min(rows - row), row);
            }
            for byte in bytes {
                row = self.put(u64::from(*byte), 8.min(rows - row), row);
            }
        }
        self.before.clear();
        let mut count = 0;
        for word in &self.words {
            self.before.push(count);
            count += word.count_ones();
        }
        Some(count as usize)
    }

    /// Takes so many bits, which are those of the rows from one on; the row after them.
    fn put(&mut self, bits: u64, count: usize, row: usize) -> usize {
        let (bits, place, shift) = (bits & (u64::MAX >> (64 - count)), row / 64, row % 64);
        self.words[place] |= bits << shift;
        if shift + count > 64 {
            self.words[place + 1] |= bits >> (64 - shift);
        }
        row + count
    }
}

/// An unsigned LEB128 number of at most 32 bits.
fn take_number(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(number).ok();
        }
    }
    None
}

/// Gives the pages of a column in a row group: the place of its first row among the row group's, how many rows, and their
/// values. False when the column is not stored like that, which may turn out after some pages.
pub(crate) fn for_each_page(
    file: &FileRef,
    metadata: &ArrowReaderMetadata,
    group: usize,
    leaf: usize,
    width: usize,
    scratch: &mut Scratch,
    each: &mut dyn FnMut(usize, usize, PlainValues<'_>) -> Result<()>,
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
        || length > COLUMN_BYTES_MAX
        || start.checked_add(length).is_none_or(|end| end > file.size)
    {
        return Ok(false);
    }
    let corrupt = |e: &dyn std::fmt::Display| LakeError::corrupt(&file.name, "Parquet", e);
    let bytes = scratch.read(file, start, length).map_err(|e| LakeError::unreadable(&file.path, &e))?;
    let chunk = Arc::new(Chunk { start, bytes: Bytes::from_owner(Lent(Arc::clone(&bytes))) });
    let rows = usize::try_from(row_group.num_rows()).map_err(|e| corrupt(&e))?;
    let mut pages = SerializedPageReader::new(chunk, column, rows, None).map_err(|e| corrupt(&e))?;
    let mut first_row = 0;
    let mut is_plain = true;
    while is_plain && let Some(page) = pages.get_next_page().map_err(|e| corrupt(&e))? {
        let count = page.num_values() as usize;
        let found = if first_row + count > rows {
            None
        } else {
            values(&page, is_optional, width, &mut scratch.present)
        };
        is_plain = found.is_some();
        if let Some(values) = found {
            each(first_row, count, values)?;
            first_row += count;
        }
    }
    drop(pages);
    scratch.give_back(bytes);
    Ok(is_plain && first_row == rows)
}

/// The values of a page; none where they are not stored one after the other.
fn values<'a>(
    page: &'a Page,
    is_optional: bool,
    width: usize,
    present: &'a mut Present,
) -> Option<PlainValues<'a>> {
    let rows = page.num_values() as usize;
    let (levels, bytes) = match page {
        Page::DataPage { buf, encoding: Encoding::PLAIN, def_level_encoding, .. } if is_optional => {
            let length = u32::from_le_bytes(*buf.first_chunk()?) as usize;
            (*def_level_encoding == Encoding::RLE).then_some(())?;
            buf.get(4..)?.split_at_checked(length)?
        }
        Page::DataPage { buf, encoding: Encoding::PLAIN, .. } => ([].as_slice(), buf.as_ref()),
        Page::DataPageV2 { buf, encoding: Encoding::PLAIN, def_levels_byte_len, .. } => {
            buf.split_at_checked(*def_levels_byte_len as usize)?
        }
        _ => return None,
    };
    if bytes.len() == rows.checked_mul(width)? {
        return Some(PlainValues { bytes, present: None });
    }
    let count = if is_optional { present.read(levels, rows)? } else { rows };
    (bytes.len() == count.checked_mul(width)?).then_some(PlainValues { bytes, present: Some(present) })
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
    use crate::draws::draws;
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
    fn levels_of_any_runs_say_which_rows_are_there() {
        let mut below = draws(29);
        for round in 0..500 {
            let rows = 1 + below(400) as usize;
            let (mut levels, mut expected) = (Vec::new(), Vec::new());
            while expected.len() < rows {
                let length = 1 + below(70);
                if below(2) == 0 {
                    let is_there = below(2) == 1;
                    match length {
                        0..64 => levels.push((length << 1) as u8),
                        _ => levels.extend([(length << 1) as u8 | 0x80, (length >> 6) as u8]),
                    }
                    levels.push(u8::from(is_there));
                    expected.extend((0..length).map(|_| is_there));
                } else {
                    let bytes = 1 + below(9);
                    levels.push((bytes << 1 | 1) as u8);
                    for _ in 0..bytes {
                        let byte = below(256) as u8;
                        levels.push(byte);
                        expected.extend((0..8).map(|bit| byte >> bit & 1 == 1));
                    }
                }
            }
            expected.truncate(rows);
            let mut present = Present::default();
            let count = present.read(&levels, rows).unwrap();
            let places: Vec<Option<usize>> = (0..rows).map(|row| present.place(row)).collect();
            let mut next = 0..;
            let wanted: Vec<Option<usize>> =
                expected.iter().map(|is_there| is_there.then(|| next.next().unwrap())).collect();
            assert_eq!(places, wanted, "round {round}");
            assert_eq!(count, expected.iter().filter(|is_there| **is_there).count());
            // What is cut off is no page.
            let cut = below(levels.len() as u64) as usize;
            let mut shorter = Present::default();
            if let Some(count) = shorter.read(&levels[..cut], rows) {
                assert_eq!(count, expected.iter().filter(|is_there| **is_there).count());
            }
        }
        assert_eq!(Present::default().read(&[0, 1, 0, 1], 5), None);
        assert_eq!(Present::default().read(&[1, 1], 5), None);
        assert_eq!(Present::default().read(&[0xff; 9], 5), None);
    }

    #[test]
    fn pages_are_the_values_or_there_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.parquet");
        let mut below = draws(11);
        let (mut looked_at, mut with_nulls) = (0, 0);
        for round in 0..200 {
            let rows = 1 + below(300) as usize;
            // None, some, many, or for a while.
            let (nulls, share) = (below(2) == 0, 1 + below(40));
            let mut values = || -> Vec<Option<i64>> {
                let none = below(rows as u64) as usize..below(rows as u64) as usize;
                let is_there = |row: usize, drawn: u64| !nulls || (drawn > 0 && !none.contains(&row));
                (0..rows).map(|row| is_there(row, below(share)).then(|| below(1 << 30) as i64)).collect()
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
            let mut scratch = Scratch { bytes: vec![7; below(2000) as usize], ..Scratch::default() };
            let mut row = 0;
            for group in 0..metadata.metadata().num_row_groups() {
                let in_group = metadata.metadata().row_group(group).num_rows() as usize;
                for (leaf, column) in batch.columns().iter().enumerate() {
                    let part = column.slice(row, in_group);
                    let width = part.data_type().primitive_width().unwrap_or(1);
                    let mut found: Vec<Option<Vec<u8>>> = Vec::new();
                    let mut each = |first: usize, count: usize, values: PlainValues<'_>| {
                        assert_eq!(found.len(), first);
                        let value = |place: usize| values.bytes[place * width..][..width].to_vec();
                        found.extend((0..count).map(|row| match values.present {
                            None => Some(value(row)),
                            Some(present) => present.place(row).map(value),
                        }));
                        Ok(())
                    };
                    let is_plain =
                        for_each_page(&file, &metadata, group, leaf, width, &mut scratch, &mut each);
                    let is_bool = *part.data_type() == arrow::datatypes::DataType::Boolean;
                    let expected = !has_dictionary && !is_bool;
                    assert_eq!(is_plain.unwrap(), expected, "round {round}, column {leaf}");
                    if expected {
                        let data = part.to_data();
                        let stored = &data.buffers()[0].as_slice()[data.offset() * width..];
                        let stored = |row: usize| stored[row * width..][..width].to_vec();
                        let stored = (0..in_group).map(|row| part.is_valid(row).then(|| stored(row)));
                        assert_eq!(found, stored.collect::<Vec<_>>(), "round {round}, column {leaf}");
                        looked_at += 1;
                        with_nulls += usize::from(part.null_count() > 0);
                    }
                }
                row += in_group;
            }
        }
        assert!(
            looked_at > 600 && with_nulls > 100,
            "{looked_at} columns were plain, {with_nulls} had nulls"
        );
    }
}
