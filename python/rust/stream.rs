//! Arrow tables and their IPC stream form, for what goes over HTTP.

use crate::error::error;
use arrow::array::RecordBatchReader;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3_arrow::{PyRecordBatchReader, PyTable};
use std::io::Cursor;

/// The Arrow IPC stream of a table (anything with `__arrow_c_stream__`).
#[pyfunction]
pub(crate) fn to_stream<'py>(py: Python<'py>, table: PyRecordBatchReader) -> PyResult<Bound<'py, PyBytes>> {
    let reader = table.into_reader()?;
    let bytes = py.detach(|| write(reader)).map_err(|e| error("invalid_table", e, None))?;
    Ok(PyBytes::new(py, &bytes))
}

fn write(reader: Box<dyn RecordBatchReader + Send>) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &reader.schema())?;
    for batch in reader {
        writer.write(&batch?)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// The table in an Arrow IPC stream, and the text under `key` in its schema's metadata.
#[pyfunction]
pub(crate) fn from_stream(py: Python<'_>, bytes: &[u8], key: &str) -> PyResult<(PyTable, Option<String>)> {
    let bytes = bytes.to_vec();
    let (batches, schema) = py
        .detach(|| {
            let reader = StreamReader::try_new(Cursor::new(bytes), None)?;
            let schema = reader.schema();
            Ok((reader.collect::<Result<Vec<_>, _>>()?, schema))
        })
        .map_err(|e: arrow::error::ArrowError| error("malformed_answer", e, None))?;
    let note = schema.metadata().get(key).cloned();
    Ok((PyTable::try_new(batches, schema)?, note))
}
