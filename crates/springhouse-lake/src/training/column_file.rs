//! A Parquet file that gets its columns one after the other: those of one part of the schema for all row groups, then those of the
//! next. Row groups are of the rows that they would be of else, but their columns are not beside each other in the file, which
//! Parquet leaves open: where a column of a row group is, the footer says.

use crate::training::output_file::OutputFile;
use crate::training::plain_column::PageMemory;
use crate::training::sink::{EncodedColumn, ParquetEncoder, ParquetResult, properties};
use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use parking_lot::Mutex;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::Compression;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder,
    ParquetMetaDataOptions, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::SchemaDescPtr;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

/// Writes the row groups of a Parquet file to another one like that; the first fields are one part, each other field is one.
pub(crate) fn rearrange(
    from: &File,
    schema: &SchemaRef,
    first_fields: usize,
    to: OutputFile,
) -> ParquetResult<OutputFile> {
    let options = ParquetMetaDataOptions::new().with_encoding_stats_as_mask(false);
    let footer = ParquetMetaDataReader::new()
        .with_metadata_options(Some(options))
        .with_page_index_policy(PageIndexPolicy::Required)
        .parse_and_finish(from)?;
    let rows: Vec<usize> =
        footer.row_groups().iter().map(|group| group.num_rows().unsigned_abs() as usize).collect();
    let mut file = ColumnFile::new(to, schema, &rows)?;
    let parts = (first_fields..schema.fields().len()).map(|field| field..field + 1);
    let mut first_leaf = 0;
    for fields in std::iter::once(0..first_fields).chain(parts) {
        let part = Part::new(schema, fields, first_leaf)?;
        first_leaf = part.end_leaf();
        (0..rows.len()).try_for_each(|group| file.copy(&part, group, from, &footer))?;
    }
    file.finish()
}

/// A column's metadata as they were before they were read: what is read does not say that bounds are for old readers as well.
fn as_written(read: &ColumnChunkMetaData) -> ParquetResult<ColumnChunkMetaData> {
    let is_signed = read.column_descr().sort_order().is_signed();
    let Some(statistics) = read.statistics().filter(|_| is_signed) else { return Ok(read.clone()) };
    let statistics = match statistics.clone() {
        Statistics::Boolean(of) => of.with_backwards_compatible_min_max(true).into(),
        Statistics::Int32(of) => of.with_backwards_compatible_min_max(true).into(),
        Statistics::Int64(of) => of.with_backwards_compatible_min_max(true).into(),
        Statistics::Float(of) => of.with_backwards_compatible_min_max(true).into(),
        Statistics::Double(of) => of.with_backwards_compatible_min_max(true).into(),
        Statistics::FixedLenByteArray(of) => {
            Statistics::FixedLenByteArray(of.with_backwards_compatible_min_max(true))
        }
        others => others,
    };
    read.clone().into_builder().set_statistics(statistics).build()
}

/// The file.
pub(crate) struct ColumnFile {
    written: TrackedWrite<Shared>,
    file: Shared,
    schema: SchemaDescPtr,
    properties: WriterPropertiesPtr,
    groups: Vec<Group>,
    memory: PageMemory,
}

/// Some fields of the schema, whose columns are written together.
pub(crate) struct Part {
    encoder: ParquetEncoder,
    schema: SchemaDescPtr,
    properties: WriterPropertiesPtr,
    first_leaf: usize,
}

/// What is written of a row group.
struct Group {
    rows: i64,
    leaves: Vec<Option<Leaf>>,
}

struct Leaf {
    metadata: ColumnChunkMetaData,
    column_index: ColumnIndexMetaData,
    offset_index: OffsetIndexMetaData,
}

impl Leaf {
    fn new(
        metadata: ColumnChunkMetaData,
        column_index: Option<ColumnIndexMetaData>,
        offset_index: Option<OffsetIndexMetaData>,
    ) -> ParquetResult<Self> {
        let missing = || ParquetError::General("a column has no offset index".to_owned());
        Ok(Self {
            metadata,
            column_index: column_index.unwrap_or(ColumnIndexMetaData::NONE),
            offset_index: offset_index.ok_or_else(missing)?,
        })
    }
}

fn check_rows(of_group: i64, of_columns: i64) -> ParquetResult<()> {
    match of_columns == of_group {
        true => Ok(()),
        false => Err(ParquetError::General(format!("{of_columns} rows in a row group of {of_group}"))),
    }
}

/// A file that the footer's writer, which does not give it back, can have as well.
#[derive(Clone)]
struct Shared(Arc<Mutex<OutputFile>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().flush()
    }
}

impl Part {
    /// Some fields of a schema that follow each other; before them there are so many leaves.
    pub(crate) fn new(schema: &SchemaRef, fields: Range<usize>, first_leaf: usize) -> ParquetResult<Self> {
        let schema = Arc::new(Schema::new(schema.fields()[fields].to_vec()));
        Ok(Self {
            encoder: ParquetEncoder::new(&schema)?,
            properties: properties(&schema, Compression::SNAPPY),
            schema: Arc::new(ArrowSchemaConverter::new().convert(&schema)?),
            first_leaf,
        })
    }

    /// Leaves up to its end.
    pub(crate) fn end_leaf(&self) -> usize {
        self.first_leaf + self.schema.num_columns()
    }

    /// Encodes its columns of a row group; called by many threads.
    pub(crate) fn encode(&self, group: usize, columns: Vec<ArrayRef>) -> ParquetResult<Vec<EncodedColumn>> {
        self.encoder.encode(group, columns)
    }
}

impl ColumnFile {
    /// Begins a file with row groups of so many rows each.
    pub(crate) fn new(file: OutputFile, schema: &SchemaRef, rows: &[usize]) -> ParquetResult<Self> {
        let descriptor = Arc::new(ArrowSchemaConverter::new().convert(schema)?);
        if rows.len() > i16::MAX as usize {
            return Err(ParquetError::General(format!("{} row groups are too many", rows.len())));
        }
        let file = Shared(Arc::new(Mutex::new(file)));
        let mut written = TrackedWrite::new(file.clone());
        written.write_all(b"PAR1")?;
        let group = |rows: &usize| Group {
            rows: *rows as i64,
            leaves: (0..descriptor.num_columns()).map(|_| None).collect(),
        };
        Ok(Self {
            written,
            file,
            groups: rows.iter().map(group).collect(),
            schema: descriptor,
            properties: properties(schema, Compression::SNAPPY),
            memory: PageMemory::default(),
        })
    }

    /// Writes the columns of a part of a row group.
    pub(crate) fn append(
        &mut self,
        part: &Part,
        group: usize,
        columns: Vec<EncodedColumn>,
    ) -> ParquetResult<()> {
        if let [EncodedColumn::Plain(column)] = &columns[..] {
            // Straight to its place.
            let leaf = Arc::clone(&part.schema.columns()[0]);
            let closed = column.write(&mut self.written, leaf, &mut self.memory)?;
            let Group { rows, leaves } = &mut self.groups[group];
            check_rows(*rows, closed.rows_written as i64)?;
            leaves[part.first_leaf] =
                Some(Leaf::new(closed.metadata, closed.column_index, closed.offset_index)?);
            return Ok(());
        }
        self.write_group(part, group, |writer, memory| {
            let mut columns = columns.into_iter().zip(part.schema.columns());
            columns.try_for_each(|(column, leaf)| column.append(writer, Arc::clone(leaf), memory))
        })
    }

    /// Copies the columns of a part of a row group from a file that has it whole.
    fn copy(
        &mut self,
        part: &Part,
        group: usize,
        from: &File,
        footer: &ParquetMetaData,
    ) -> ParquetResult<()> {
        let leaves = part.first_leaf..part.end_leaf();
        let of_group = footer.row_group(group);
        let (column_indexes, offset_indexes) = (footer.column_index(), footer.offset_index());
        self.write_group(part, group, |writer, _| {
            leaves.into_iter().try_for_each(|leaf| {
                let metadata = as_written(of_group.column(leaf))?;
                let close = ColumnCloseResult {
                    bytes_written: metadata.compressed_size().unsigned_abs(),
                    rows_written: of_group.num_rows().unsigned_abs(),
                    metadata,
                    bloom_filter: None,
                    column_index: column_indexes.and_then(|of_file| of_file.get(group)?.get(leaf).cloned()),
                    offset_index: offset_indexes.and_then(|of_file| of_file.get(group)?.get(leaf).cloned()),
                };
                writer.append_column(from, close)
            })
        })
    }

    fn write_group(
        &mut self,
        part: &Part,
        number: usize,
        write: impl FnOnce(&mut SerializedRowGroupWriter<'_, Shared>, &mut PageMemory) -> ParquetResult<()>,
    ) -> ParquetResult<()> {
        let Group { rows, leaves } = &mut self.groups[number];
        let place = part.first_leaf;
        let closed = move |_: &mut TrackedWrite<Shared>,
                           metadata: RowGroupMetaData,
                           _,
                           column_indexes: Vec<Option<ColumnIndexMetaData>>,
                           offset_indexes: Vec<Option<OffsetIndexMetaData>>| {
            check_rows(*rows, metadata.num_rows())?;
            let indexes = column_indexes.into_iter().zip(offset_indexes);
            for ((leaf, metadata), (column_index, offset_index)) in
                leaves[place..].iter_mut().zip(metadata.columns()).zip(indexes)
            {
                *leaf = Some(Leaf::new(metadata.clone(), column_index, offset_index)?);
            }
            Ok(())
        };
        let (schema, properties) = (Arc::clone(&part.schema), Arc::clone(&part.properties));
        let closed = Some(Box::new(closed) as _);
        let mut writer =
            SerializedRowGroupWriter::new(schema, properties, &mut self.written, number as i16, closed);
        write(&mut writer, &mut self.memory)?;
        writer.close().map(drop)
    }

    /// Writes the footer; every column of every row group must be there.
    pub(crate) fn finish(self) -> ParquetResult<OutputFile> {
        let Self { written, file, schema, properties, groups, .. } = self;
        let (mut row_groups, mut column_indexes, mut offset_indexes) = (Vec::new(), Vec::new(), Vec::new());
        let mut all_rows = 0;
        for (number, Group { rows, leaves }) in groups.into_iter().enumerate() {
            let missing = || ParquetError::General("a column of a row group was not written".to_owned());
            let leaves: Vec<Leaf> =
                leaves.into_iter().map(|leaf| leaf.ok_or_else(missing)).collect::<Result<_, _>>()?;
            let bytes = leaves.iter().map(|leaf| leaf.metadata.uncompressed_size()).sum();
            let first = leaves.first().map_or(0, |leaf| leaf.metadata.byte_range().0);
            let (mut columns, mut column_index, mut offset_index) = (Vec::new(), Vec::new(), Vec::new());
            for leaf in leaves {
                columns.push(leaf.metadata);
                column_index.push(leaf.column_index);
                offset_index.push(leaf.offset_index);
            }
            let of_group = RowGroupMetaData::builder(Arc::clone(&schema))
                .set_num_rows(rows)
                .set_total_byte_size(bytes)
                .set_ordinal(number as i16)
                .set_file_offset(first as i64)
                .set_column_metadata(columns);
            row_groups.push(of_group.build()?);
            column_indexes.push(column_index);
            offset_indexes.push(offset_index);
            all_rows += rows;
        }
        let of_file = FileMetaData::new(
            properties.writer_version().as_num(),
            all_rows,
            Some(properties.created_by().to_owned()),
            properties.key_value_metadata().cloned(),
            schema,
            None,
        );
        let metadata = ParquetMetaDataBuilder::new(of_file)
            .set_row_groups(row_groups)
            .set_column_index(Some(column_indexes))
            .set_offset_index(Some(offset_indexes))
            .build();
        ParquetMetaDataWriter::new_with_tracked(written, &metadata).finish()?;
        let file = Arc::into_inner(file.0).map(Mutex::into_inner);
        file.ok_or_else(|| ParquetError::General("the file is still being written to".to_owned()))
    }
}
