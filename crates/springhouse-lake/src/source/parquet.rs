//! Parquet files, read synchronously by row group: the unit of work of a scan.

use crate::error::{LakeError, Result};
use crate::source::ahead::AheadReader;
use crate::source::location::FileRef;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Most rows in a batch.
const BATCH_ROWS_MAX: usize = 32_768;
/// Fewest rows in a batch, however wide they are.
const BATCH_ROWS_MIN: usize = 64;
/// About how many bytes a batch may have.
const BATCH_BYTES: i64 = 4 << 20;

/// Reads a file's footer.
pub(crate) fn open(file: &FileRef) -> Result<ArrowReaderMetadata> {
    let handle = File::open(&file.path).map_err(|e| LakeError::unreadable(&file.path, &e))?;
    ArrowReaderMetadata::load(&handle, ArrowReaderOptions::new())
        .map_err(|e| LakeError::corrupt(&file.name, "Parquet", &e))
}

/// A footer with the file's page index; none of a file that has none, or one that can't be read.
pub(crate) fn with_pages(file: &FileRef, metadata: &ArrowReaderMetadata) -> Option<ArrowReaderMetadata> {
    let mut columns = metadata.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns);
    if !columns.any(|column| column.offset_index_offset().is_some()) {
        return None;
    }
    let mut reader = ParquetMetaDataReader::new_with_metadata(metadata.metadata().as_ref().clone())
        .with_page_index_policy(PageIndexPolicy::Optional);
    reader.read_page_indexes(&File::open(&file.path).ok()?).ok()?;
    ArrowReaderMetadata::try_new(Arc::new(reader.finish().ok()?), ArrowReaderOptions::new()).ok()
}

/// Reads some columns (by position among the root columns of the schema) of some row groups; of `only` these of their rows.
pub(crate) fn read(
    file: &FileRef,
    metadata: &ArrowReaderMetadata,
    roots: &[usize],
    row_groups: Vec<usize>,
    only: Option<&RowSelection>,
) -> Result<ParquetRecordBatchReader> {
    let unreadable = |e: std::io::Error| LakeError::unreadable(&file.path, &e);
    let handle = File::open(&file.path).map_err(unreadable)?;
    let mask = ProjectionMask::roots(metadata.parquet_schema(), roots.iter().copied());
    let batch_rows = batch_rows(metadata, &mask, &row_groups);
    let leaves: Vec<usize> =
        (0..metadata.parquet_schema().num_columns()).filter(|leaf| mask.leaf_included(*leaf)).collect();
    let places = row_groups.iter().flat_map(|group| {
        let group = metadata.metadata().row_group(*group);
        leaves.iter().map(|leaf| group.column(*leaf).byte_range())
    });
    let places = places.map(|(start, length)| start..start.saturating_add(length));
    // Of single rows the pages are read that they are in.
    let places: Vec<Range<u64>> = if only.is_none() { places.collect() } else { Vec::new() };
    let reader = AheadReader::new(handle, places, leaves.len()).map_err(unreadable)?;
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(reader, metadata.clone())
        .with_projection(mask)
        .with_row_groups(row_groups)
        .with_batch_size(batch_rows);
    if let Some(only) = only {
        builder = builder.with_row_selection(only.clone());
    }
    builder.build().map_err(|e| LakeError::corrupt(&file.name, "Parquet", &e))
}

/// All of a small file of our own making.
pub(crate) fn read_whole(file: &FileRef) -> Result<Vec<RecordBatch>> {
    let metadata = open(file)?;
    let roots: Vec<usize> = (0..metadata.schema().fields().len()).collect();
    let groups = (0..metadata.metadata().num_row_groups()).collect();
    read(file, &metadata, &roots, groups, None)?
        .map(|batch| batch.map_err(|e| LakeError::corrupt(&file.name, "Parquet", &e)))
        .collect()
}

fn batch_rows(metadata: &ArrowReaderMetadata, mask: &ProjectionMask, row_groups: &[usize]) -> usize {
    let (mut bytes, mut rows) = (0i64, 0i64);
    for group in row_groups {
        let group = metadata.metadata().row_group(*group);
        rows += group.num_rows();
        let leaves = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        bytes += leaves.map(|(_, column)| column.uncompressed_size()).sum::<i64>();
    }
    let row_bytes = (bytes / rows.max(1)).max(1);
    usize::try_from(BATCH_BYTES / row_bytes).unwrap_or(BATCH_ROWS_MAX).clamp(BATCH_ROWS_MIN, BATCH_ROWS_MAX)
}

/// The position of a root column and of its only leaf, if it has one only.
pub(crate) fn leaf_of(metadata: &ArrowReaderMetadata, root: usize) -> Option<usize> {
    let schema = metadata.parquet_schema();
    let mut leaves = (0..schema.num_columns()).filter(|leaf| schema.get_column_root_idx(*leaf) == root);
    let first = leaves.next()?;
    leaves.next().is_none().then_some(first)
}

/// The least and greatest value of an int64 leaf in a row group, raw, when the statistics say.
pub(crate) fn int64_range(group: &RowGroupMetaData, leaf: usize) -> Option<(i64, i64)> {
    match group.column(leaf).statistics()? {
        Statistics::Int64(s) => Some((*s.min_opt()?, *s.max_opt()?)),
        _ => None,
    }
}

/// How many nulls a leaf has in a row group, when the statistics say.
pub(crate) fn null_count(group: &RowGroupMetaData, leaf: usize) -> Option<u64> {
    group.column(leaf).statistics()?.null_count_opt()
}

/// The position of a root column by name.
pub(crate) fn root_of(schema: &SchemaRef, name: &str) -> Option<usize> {
    schema.fields().iter().position(|f| f.name() == name)
}
