//! CSV files with a header line: read as texts, so that a bad cell is named with its line.

use crate::error::{LakeError, Result};
use crate::source::location::FileRef;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::{Format, Reader};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

/// Rows in a batch.
const BATCH_ROWS: usize = 8_192;

/// The column names of the header, as a schema of texts.
pub(crate) fn header(file: &FileRef) -> Result<SchemaRef> {
    let handle = File::open(&file.path).map_err(|e| LakeError::unreadable(&file.path, &e))?;
    let (schema, _) = Format::default()
        .with_header(true)
        .infer_schema(BufReader::new(handle), Some(0))
        .map_err(|e| LakeError::corrupt(&file.name, "CSV", &e))?;
    if schema.fields().is_empty() {
        return Err(LakeError::corrupt(&file.name, "CSV", &"it has no header line"));
    }
    let strip = |name: &str| name.trim_start_matches('\u{feff}').to_owned();
    let fields: Vec<Field> =
        schema.fields().iter().map(|f| Field::new(strip(f.name()), DataType::Utf8, true)).collect();
    Ok(Arc::new(Schema::new(fields)))
}

/// Reads some columns (by position) as texts; an empty cell is null.
pub(crate) fn read(file: &FileRef, schema: &SchemaRef, columns: &[usize]) -> Result<Reader<File>> {
    let handle = File::open(&file.path).map_err(|e| LakeError::unreadable(&file.path, &e))?;
    ReaderBuilder::new(Arc::clone(schema))
        .with_header(true)
        .with_batch_size(BATCH_ROWS)
        .with_projection(columns.to_vec())
        .build(handle)
        .map_err(|e| LakeError::corrupt(&file.name, "CSV", &e))
}
