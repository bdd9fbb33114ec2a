//! The Parquet file of a training set: one row group a chunk, encoded in parallel, written in order; the same rows give the
//! same bytes whatever the number of threads.

use crate::error::{LakeError, Result};
use crate::source::scan::in_parallel;
use crate::training::assemble::Assembler;
use crate::training::labels::{LabelReader, Labels};
use arrow::array::ArrayRef;
use arrow::datatypes::{Field, Schema, SchemaRef};
use parking_lot::{Condvar, Mutex};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most rows of a chunk.
const CHUNK_ROWS_MAX: u64 = 65_536;
/// Fewest rows of a chunk, however wide they are.
const CHUNK_ROWS_MIN: u64 = 256;
/// About how many bytes a chunk may have.
const CHUNK_BYTES: u64 = 64 << 20;

/// Rows of a chunk; depends on the columns alone, so that files are the same on every machine.
pub(crate) fn chunk_rows(schema: &Schema) -> u64 {
    let width: u64 = schema.fields().iter().map(|f| crate::training::gather::width(f.data_type())).sum();
    (CHUNK_BYTES / width.max(1)).clamp(CHUNK_ROWS_MIN, CHUNK_ROWS_MAX)
}

/// The output's columns: the labels', then the features'.
pub(crate) fn output_schema(labels: &Labels, features: Vec<Field>) -> Result<SchemaRef> {
    let mut fields: Vec<Field> = labels.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    for feature in features {
        if labels.find(feature.name()).is_some() {
            return Err(LakeError::new(
                "labels_column_taken",
                format!(
                    "the labels `{}` have a column `{}`, which is a feature of the service too",
                    labels.name,
                    feature.name()
                ),
            )
            .hint("rename or drop the column in the labels"));
        }
        fields.push(feature);
    }
    Ok(Arc::new(Schema::new(fields)))
}

struct Turn {
    writer: SerializedFileWriter<BufWriter<File>>,
    next: usize,
    failed: bool,
}

/// Assembles and writes all chunks; returns the rows written.
#[expect(clippy::too_many_arguments, reason = "the pieces of one job, all borrowed")]
pub(crate) fn write(
    out: &Path,
    schema: &SchemaRef,
    labels: &Labels,
    assembler: &Assembler<'_>,
    chunk_rows: u64,
    chunk_count: usize,
    threads: usize,
    report: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<u64> {
    let partial = partial_path(out);
    let unwritable = |e: &dyn std::fmt::Display| LakeError::unwritable(out, e);
    let file = File::create(&partial).map_err(|e| unwritable(&e))?;
    let result = write_to(file, schema, labels, assembler, chunk_rows, chunk_count, threads, report, out);
    match result {
        Ok(rows) => {
            std::fs::rename(&partial, out).map_err(|e| unwritable(&e))?;
            Ok(rows)
        }
        Err(error) => {
            // The half-written file is of no use; the error that matters is the first one.
            let _ = std::fs::remove_file(&partial);
            Err(error)
        }
    }
}

fn partial_path(out: &Path) -> PathBuf {
    let name = out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    out.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}

#[expect(clippy::too_many_arguments, reason = "the body of `write`, apart only for its cleaning up")]
fn write_to(
    file: File,
    schema: &SchemaRef,
    labels: &Labels,
    assembler: &Assembler<'_>,
    chunk_rows: u64,
    chunk_count: usize,
    threads: usize,
    report: &(dyn Fn(u64) -> Result<()> + Sync),
    out: &Path,
) -> Result<u64> {
    let fail = |e: parquet::errors::ParquetError| LakeError::unwritable(out, &e);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(format!("springhouse {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(vec![arrow_schema_entry(schema)]));
    for field in schema.fields().iter().filter(|f| f.data_type().is_floating()) {
        // Measured numbers seldom repeat: a dictionary of them is built only to be given up.
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), false);
    }
    let properties = Arc::new(properties.build());
    let parquet_schema = ArrowSchemaConverter::new().convert(schema).map_err(fail)?;
    let writer =
        SerializedFileWriter::new(BufWriter::new(file), parquet_schema.root_schema_ptr(), properties)
            .map_err(fail)?;
    let factory = ArrowRowGroupWriterFactory::new(&writer, Arc::clone(schema));
    let reader = Mutex::new((0usize, labels.read((0..labels.schema.fields().len()).collect())));
    let turn = Mutex::new(Turn { writer, next: 0, failed: false });
    let changed = Condvar::new();
    let written = Mutex::new(0u64);
    let one = |_: usize| -> Result<()> {
        let Some((chunk, first_row, batch)) = next_chunk(&reader, chunk_rows)? else { return Ok(()) };
        let mut columns = batch.columns().to_vec();
        columns.extend(assembler.chunk(chunk, first_row, &batch)?);
        let encoded = encode(&factory, schema, chunk, &columns).map_err(fail)?;
        let mut turn = turn.lock();
        while turn.next != chunk && !turn.failed {
            changed.wait(&mut turn);
        }
        if turn.failed {
            return Ok(());
        }
        let mut group = turn.writer.next_row_group().map_err(fail)?;
        for column in encoded {
            column.append_to_row_group(&mut group).map_err(fail)?;
        }
        group.close().map_err(fail)?;
        turn.next += 1;
        changed.notify_all();
        let mut written = written.lock();
        *written += batch.num_rows() as u64;
        report(*written)
    };
    in_parallel(threads, chunk_count, &|number| {
        one(number).inspect_err(|_| {
            turn.lock().failed = true;
            changed.notify_all();
        })
    })?;
    let Turn { writer, .. } = turn.into_inner();
    let mut file = writer.into_inner().map_err(fail)?;
    std::io::Write::flush(&mut file).map_err(|e| LakeError::unwritable(out, &e))?;
    file.get_ref().sync_all().map_err(|e| LakeError::unwritable(out, &e))?;
    Ok(written.into_inner())
}

fn next_chunk(
    reader: &Mutex<(usize, LabelReader<'_>)>,
    chunk_rows: u64,
) -> Result<Option<(usize, u64, arrow::array::RecordBatch)>> {
    let mut reader = reader.lock();
    let Some((first_row, batch)) = reader.1.next_chunk(chunk_rows as usize)? else { return Ok(None) };
    let chunk = reader.0;
    reader.0 += 1;
    Ok(Some((chunk, first_row, batch)))
}

fn encode(
    factory: &ArrowRowGroupWriterFactory,
    schema: &SchemaRef,
    chunk: usize,
    columns: &[ArrayRef],
) -> parquet::errors::Result<Vec<ArrowColumnChunk>> {
    let mut writers = factory.create_column_writers(chunk)?.into_iter();
    let mut chunks = Vec::new();
    for (field, column) in schema.fields().iter().zip(columns) {
        for leaf in compute_leaves(field, column)? {
            let mut writer = writers.next().expect("the factory makes one writer per leaf");
            writer.write(&leaf)?;
            chunks.push(writer.close()?);
        }
    }
    Ok(chunks)
}

fn arrow_schema_entry(schema: &Schema) -> parquet::file::metadata::KeyValue {
    let encoded = parquet::arrow::encode_arrow_schema(schema);
    parquet::file::metadata::KeyValue::new(parquet::arrow::ARROW_SCHEMA_META_KEY.to_owned(), encoded)
}
