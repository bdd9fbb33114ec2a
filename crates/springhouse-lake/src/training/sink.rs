//! The formats of a training set: how a chunk is encoded (on any thread) and taken (in order, by one at a time).

use crate::error::{LakeError, Result};
use crate::frames::{plain, plain_schema};
use crate::training::output_file::OutputFile;
use crate::training::plain_column::{PageMemory, PlainColumn};
use crate::training::request::{OutputFormat, TrainingOutput, TrainingSink};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{
    DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use base64::Engine;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnDescPtr, ColumnPath};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Encodes chunks; shared by all threads.
pub(crate) enum Encoder {
    Parquet(ParquetEncoder),
    /// Arrow batches without layouts that a stream can't go on with (dictionaries).
    Batch(SchemaRef),
    Csv(SchemaRef),
}

/// A chunk, encoded.
pub(crate) enum Encoded {
    Parquet(Vec<EncodedColumn>),
    Batch(RecordBatch),
    Bytes(Vec<u8>),
}

/// A column of a row group.
pub(crate) enum EncodedColumn {
    Packed(Box<ArrowColumnChunk>),
    /// Is encoded when it is taken: that takes no longer than a copy.
    Plain(PlainColumn),
}

impl EncodedColumn {
    /// Bytes in memory, about.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Packed(column) => column.close().bytes_written,
            Self::Plain(column) => column.bytes(),
        }
    }

    /// Writes it as the next column of a row group.
    pub(crate) fn append<W: Write + Send>(
        self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        leaf: ColumnDescPtr,
        memory: &mut PageMemory,
    ) -> ParquetResult<()> {
        match self {
            Self::Packed(column) => column.append_to_row_group(group),
            Self::Plain(column) => column.append(group, leaf, memory),
        }
    }
}

/// Takes encoded chunks in order.
pub(crate) enum Taker<'a> {
    Parquet(SerializedFileWriter<OutputFile>, PageMemory),
    ArrowFile(FileWriter<OutputFile>),
    ArrowStream(StreamWriter<Target<'a>>),
    Csv(Target<'a>),
    Batches(&'a dyn TrainingSink),
}

/// Where bytes go.
pub(crate) enum Target<'a> {
    File(OutputFile),
    Writer(&'a Mutex<dyn Write + Send>),
}

impl Write for Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Writer(writer) => locked(writer).write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Writer(writer) => locked(writer).flush(),
        }
    }
}

/// A lock that a panic left behind still guards a writer that can be written to.
fn locked(writer: &Mutex<dyn Write + Send>) -> MutexGuard<'_, dyn Write + Send + 'static> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A way to say that the output can't be written.
pub(crate) type Fail<'a> = &'a (dyn Fn(&dyn std::fmt::Display) -> LakeError + Sync);

/// An encoder and a taker for an output; `file` is the open file where the output is one.
pub(crate) fn open<'a>(
    out: &TrainingOutput<'a>,
    file: Option<OutputFile>,
    schema: &SchemaRef,
    fail: Fail<'_>,
) -> Result<(Encoder, Taker<'a>)> {
    let file = || file.ok_or_else(|| LakeError::internal("an output file is not open"));
    let (format, target) = match *out {
        TrainingOutput::Batches(sink) => {
            return Ok((Encoder::Batch(plain_schema(schema)), Taker::Batches(sink)));
        }
        TrainingOutput::File(_, OutputFormat::Parquet) => {
            return parquet(file()?, schema).map_err(|e| fail(&e));
        }
        TrainingOutput::File(_, OutputFormat::ArrowFile) => {
            let schema = plain_schema(schema);
            let writer = FileWriter::try_new(file()?, &schema).map_err(|e| fail(&e))?;
            return Ok((Encoder::Batch(schema), Taker::ArrowFile(writer)));
        }
        TrainingOutput::File(_, format) => (format, Target::File(file()?)),
        TrainingOutput::Writer(writer, format) => (format, Target::Writer(writer)),
    };
    match format {
        OutputFormat::ArrowStream => {
            let schema = plain_schema(schema);
            let writer = StreamWriter::try_new(target, &schema).map_err(|e| fail(&e))?;
            Ok((Encoder::Batch(schema), Taker::ArrowStream(writer)))
        }
        OutputFormat::Csv => Ok((Encoder::Csv(Arc::clone(schema)), Taker::Csv(target))),
        OutputFormat::Parquet | OutputFormat::ArrowFile => Err(LakeError::new(
            "unknown_format",
            format!("a training set can't be written as {} where there is no file", format.name()),
        )
        .hint("take arrow-stream or csv, or write to a file")),
    }
}

pub(crate) type ParquetResult<T> = Result<T, ParquetError>;

fn parquet<'a>(file: OutputFile, schema: &SchemaRef) -> ParquetResult<(Encoder, Taker<'a>)> {
    let parquet_schema = ArrowSchemaConverter::new().convert(schema)?.root_schema_ptr();
    let writer = SerializedFileWriter::new(file, parquet_schema, properties(schema, Compression::SNAPPY))?;
    let encoder = ParquetEncoder::new(schema)?;
    Ok((Encoder::Parquet(encoder), Taker::Parquet(writer, PageMemory::default())))
}

/// How columns are written where they are compressed like that.
pub(crate) fn properties(schema: &SchemaRef, compression: Compression) -> WriterPropertiesPtr {
    let mut properties = WriterProperties::builder()
        .set_compression(compression)
        .set_created_by(format!("springhouse {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(vec![arrow_schema_entry(schema)]));
    let is_measured = |t: &DataType| t.is_floating() || matches!(t, DataType::Timestamp(..));
    for field in schema.fields().iter().filter(|f| is_measured(f.data_type())) {
        // Measured numbers and moments seldom repeat: a dictionary of them is built only to be given up.
        let column = ColumnPath::from(field.name().as_str());
        properties = properties.set_column_dictionary_enabled(column, false);
    }
    // Integers that hardly repeat are short as differences, and take a tenth of the time that finding each in a dictionary does.
    let is_different = |t: &DataType| is_integer(t) && compression == Compression::UNCOMPRESSED;
    for field in schema.fields().iter().filter(|f| is_different(f.data_type())) {
        let column = ColumnPath::from(field.name().as_str());
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    Arc::new(properties.build())
}

fn is_integer(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int32 | DataType::Int64)
}

fn arrow_schema_entry(schema: &Schema) -> parquet::file::metadata::KeyValue {
    let encoded = parquet::arrow::encode_arrow_schema(schema);
    parquet::file::metadata::KeyValue::new(parquet::arrow::ARROW_SCHEMA_META_KEY.to_owned(), encoded)
}

impl Encoder {
    /// Encodes the columns of a chunk.
    pub(crate) fn encode(&self, chunk: usize, columns: Vec<ArrayRef>, fail: Fail<'_>) -> Result<Encoded> {
        match self {
            Self::Parquet(encoder) => {
                encoder.encode(chunk, columns).map(Encoded::Parquet).map_err(|e| fail(&e))
            }
            Self::Batch(schema) => {
                let columns = columns.into_iter().map(without_idle_nulls).collect::<Result<_, _>>()?;
                Ok(Encoded::Batch(plain(columns, schema)?))
            }
            Self::Csv(schema) => encode_csv(schema, chunk == 0, columns).map(Encoded::Bytes),
        }
    }
}

/// A column that has no nulls without a list of them, so that its bytes don't depend on where its values were before.
fn without_idle_nulls(column: ArrayRef) -> Result<ArrayRef, ArrowError> {
    if column.nulls().is_none_or(|nulls| nulls.null_count() > 0) {
        return Ok(column);
    }
    Ok(arrow::array::make_array(column.to_data().into_builder().nulls(None).build()?))
}

/// Encodes row groups.
pub(crate) struct ParquetEncoder {
    packed: ArrowRowGroupWriterFactory,
    /// For columns that compression does not make shorter.
    plain: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
}

impl ParquetEncoder {
    pub(crate) fn new(schema: &SchemaRef) -> ParquetResult<Self> {
        let parquet_schema = ArrowSchemaConverter::new().convert(schema)?.root_schema_ptr();
        // Only for what the library makes of the properties; nothing is written.
        let factory = |compression: Compression| {
            let (root, properties) = (Arc::clone(&parquet_schema), properties(schema, compression));
            let writer = SerializedFileWriter::new(std::io::sink(), root, properties)?;
            ParquetResult::Ok(ArrowRowGroupWriterFactory::new(&writer, Arc::clone(schema)))
        };
        let (packed, plain) = (factory(Compression::SNAPPY)?, factory(Compression::UNCOMPRESSED)?);
        Ok(Self { packed, plain, schema: Arc::clone(schema) })
    }

    pub(crate) fn encode(&self, group: usize, columns: Vec<ArrayRef>) -> ParquetResult<Vec<EncodedColumn>> {
        let is_plain: Vec<bool> = columns.iter().map(is_noise).collect();
        if let ([true], [column]) = (&is_plain[..], &columns[..])
            && let Some(plain) = PlainColumn::new(column)
        {
            // Without writers that nothing would be written with.
            return Ok(vec![EncodedColumn::Plain(plain)]);
        }
        let (packed, plain) =
            (self.packed.create_column_writers(group)?, self.plain.create_column_writers(group)?);
        let mut writers = packed.into_iter().zip(plain);
        let mut chunks = Vec::new();
        for ((field, column), is_plain) in self.schema.fields().iter().zip(columns).zip(is_plain) {
            if is_plain && let Some(plain) = PlainColumn::new(&column) {
                writers.next().expect("the factory makes one writer per leaf");
                chunks.push(EncodedColumn::Plain(plain));
                continue;
            }
            for leaf in compute_leaves(field, &column)? {
                let (packed, plain) = writers.next().expect("the factory makes one writer per leaf");
                let mut writer = if is_plain { plain } else { packed };
                writer.write(&leaf)?;
                chunks.push(EncodedColumn::Packed(Box::new(writer.close()?)));
            }
        }
        Ok(chunks)
    }
}

/// True for numbers and moments whose less significant halves (integers that) hardly repeat: there is little to find for a
/// compression by repetition.
fn is_noise(column: &ArrayRef) -> bool {
    /// Values that are looked at.
    const SAMPLE: usize = 256;
    let step = column.len().div_ceil(SAMPLE).max(1);
    let rows = (0..column.len()).step_by(step).filter(|row| column.is_valid(*row));
    let mut low: Vec<u32> = match column.data_type() {
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>().values();
            rows.map(|row| values[row].to_bits() as u32).collect()
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>().values();
            rows.map(|row| values[row].to_bits() & 0xffff).collect()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let values = column.as_primitive::<TimestampMicrosecondType>().values();
            rows.map(|row| values[row] as u32).collect()
        }
        DataType::Int64 => {
            let values = column.as_primitive::<Int64Type>().values();
            rows.map(|row| values[row] as u32).collect()
        }
        DataType::Int32 => {
            let values = column.as_primitive::<Int32Type>().values();
            rows.map(|row| values[row] as u32).collect()
        }
        _ => return false,
    };
    let count = low.len();
    low.sort_unstable();
    low.dedup();
    low.len() * 10 > count * 9
}

/// Lines of a CSV file: lists and maps as JSON, bytes as base64 (as CSV sources are read), null as nothing.
fn encode_csv(schema: &SchemaRef, header: bool, columns: Vec<ArrayRef>) -> Result<Vec<u8>> {
    let texts = columns.iter().map(csv_column).collect::<Result<Vec<_>, ArrowError>>()?;
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .zip(&texts)
        .map(|(field, text)| Field::new(field.name(), text.data_type().clone(), true))
        .collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), texts)?;
    let mut bytes = Vec::new();
    arrow::csv::WriterBuilder::new().with_header(header).build(&mut bytes).write(&batch)?;
    Ok(bytes)
}

fn csv_column(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column.data_type() {
        DataType::Binary => {
            let engine = base64::engine::general_purpose::STANDARD;
            let texts = column.as_binary::<i32>().iter().map(|bytes| bytes.map(|bytes| engine.encode(bytes)));
            Ok(Arc::new(texts.collect::<StringArray>()))
        }
        nested if nested.is_nested() => {
            let schema = Arc::new(Schema::new(vec![Field::new("v", nested.clone(), true)]));
            let batch = RecordBatch::try_new(schema, vec![Arc::clone(column)])?;
            let mut lines = Vec::new();
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow::json::writer::LineDelimited>(&mut lines);
            writer.write(&batch)?;
            writer.finish()?;
            drop(writer);
            let lines = String::from_utf8(lines).map_err(|e| ArrowError::JsonError(e.to_string()))?;
            // Each line is {"v":...}.
            let value =
                |line: &str| line.get(5..line.len() - 1).filter(|text| *text != "null").map(str::to_owned);
            Ok(Arc::new(lines.lines().map(value).collect::<StringArray>()))
        }
        DataType::Dictionary(_, inner) => csv_column(&arrow::compute::cast(column, inner)?),
        _ => Ok(Arc::clone(column)),
    }
}

impl Taker<'_> {
    /// Takes the next chunk.
    pub(crate) fn take(&mut self, encoded: Encoded, fail: Fail<'_>) -> Result<()> {
        match (self, encoded) {
            (Self::Parquet(writer, memory), Encoded::Parquet(columns)) => {
                let append = || -> ParquetResult<()> {
                    let leaves = writer.schema_descr().columns().to_vec();
                    let mut group = writer.next_row_group()?;
                    for (column, leaf) in columns.into_iter().zip(leaves) {
                        column.append(&mut group, leaf, memory)?;
                    }
                    group.close()?;
                    Ok(())
                };
                append().map_err(|e| fail(&e))
            }
            (Self::ArrowFile(writer), Encoded::Batch(batch)) => writer.write(&batch).map_err(|e| fail(&e)),
            (Self::ArrowStream(writer), Encoded::Batch(batch)) => writer.write(&batch).map_err(|e| fail(&e)),
            (Self::Csv(target), Encoded::Bytes(bytes)) => target.write_all(&bytes).map_err(|e| fail(&e)),
            (Self::Batches(sink), Encoded::Batch(batch)) => sink.batch(batch),
            _ => Err(LakeError::internal("a chunk was encoded in another format")),
        }
    }

    /// Writes the end; what is in a file is on the disk then.
    pub(crate) fn finish(self, fail: Fail<'_>) -> Result<()> {
        let target = match self {
            Self::Parquet(writer, _) => Target::File(writer.into_inner().map_err(|e| fail(&e))?),
            Self::ArrowFile(mut writer) => {
                writer.finish().map_err(|e| fail(&e))?;
                Target::File(writer.into_inner().map_err(|e| fail(&e))?)
            }
            Self::ArrowStream(mut writer) => {
                writer.finish().map_err(|e| fail(&e))?;
                writer.into_inner().map_err(|e| fail(&e))?
            }
            Self::Csv(target) => target,
            Self::Batches(_) => return Ok(()),
        };
        match target {
            Target::File(file) => file.finish().map_err(|e| fail(&e)),
            mut writer @ Target::Writer(_) => writer.flush().map_err(|e| fail(&e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array, Int64Array};

    #[test]
    fn numbers_are_noise_when_they_do_not_repeat() {
        let noise =
            |n: u64| f64::from_bits(0x4000_0000_0000_0000 | n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12);
        let of = |values: Vec<Option<f64>>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
        assert!(is_noise(&of((0..10_000).map(|n| Some(noise(n))).collect())));
        assert!(is_noise(&of((0..10_000).map(|n| (n % 3 > 0).then(|| noise(n))).collect())));
        assert!(!is_noise(&of((0..10_000).map(|n| Some(noise(n % 50))).collect())));
        assert!(!is_noise(&of((0..10_000).map(|n| Some(n as f64 / 4.0)).collect())));
        assert!(!is_noise(&of(vec![None; 1000])));
        let keys = |below: i64| -> ArrayRef {
            Arc::new((0..10_000).map(|n| Some(n * 7_919 % below)).collect::<Int64Array>())
        };
        assert!(is_noise(&keys(100_003)) && !is_noise(&keys(50)));
        let days: ArrayRef = Arc::new((0..10_000).map(|n| Some(n * 7_919 % 90)).collect::<Int32Array>());
        assert!(!is_noise(&days));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"; 10]));
        assert!(!is_noise(&texts));
    }
}
