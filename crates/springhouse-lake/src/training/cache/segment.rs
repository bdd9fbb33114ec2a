//! A file of events, ready to be used: by bucket of their entity, in a bucket by entity and time. Every part that is read has a
//! checksum; a file appears when it is complete.
//!
//! `blocks, index (JSON), length of the index, checksum of the index, MAGIC`; a block is two Arrow streams: entities with how many
//! rows each has, then the rows.

use crate::error::{LakeError, Result};
use crate::source::location::modified_ns;
use crate::spill::encoded;
use arrow::array::{ArrayRef, AsArray, Decimal128Array, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::Buffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Changes with everything that changes what is in a file.
const MAGIC: &[u8; 8] = b"SHEVENT1";
/// Behind the index: its length, its checksum, the magic number.
const TAIL_BYTES: u64 = 24;
/// An index is a list of files and of at most a thousand blocks.
const INDEX_BYTES_MAX: u64 = 1 << 30;

/// What ends the names of these files.
pub(super) const EXTENSION: &str = "events";
/// What files begin with that are not complete.
const UNFINISHED: &str = ".unfinished-";
/// One that is so old was left by a process that was killed, seconds.
const UNFINISHED_AGE_MAX: u64 = 86_400;

/// A file of a source, and how it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct FileKey {
    pub name: String,
    pub size: u64,
    pub modified_ns: i64,
    /// Of the stream's own table.
    pub is_stream: bool,
    pub partition_values: Vec<(String, Option<String>)>,
}

/// What is in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Index {
    /// The files that it was made from; a reference to a row has the number of its file in this list.
    pub files: Vec<FileKey>,
    pub rows: u64,
    /// Rows of the files that can't be used, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// By bucket; their number is a power of two.
    blocks: Vec<Block>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Block {
    offset: u64,
    /// Bytes of the entities, then of the rows.
    bytes: [u64; 2],
    sums: [u64; 2],
    rows: u64,
}

/// A file that is being made.
pub(super) struct Writer {
    file: tempfile::NamedTempFile,
    /// When it was begun, by the file system's clock, nanoseconds since 1970.
    pub begun_ns: i64,
    state: Mutex<(u64, Vec<Block>)>,
}

/// Entities of a bucket, and how many rows each has, in the order of the rows.
pub(super) struct Entities {
    identities: Decimal128Array,
    rows: UInt32Array,
}

impl Entities {
    /// Each with its rows.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i128, Range<usize>)> {
        let mut start = 0;
        self.identities.values().iter().zip(self.rows.values()).map(move |(identity, rows)| {
            let range = start..start + *rows as usize;
            start = range.end;
            (*identity, range)
        })
    }
}

impl Writer {
    pub(super) fn begin(directory: &Path, buckets: usize) -> Result<Self> {
        let failed = |error: std::io::Error| LakeError::unwritable(directory, &error);
        std::fs::create_dir_all(directory).map_err(failed)?;
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory).map_err(failed)?;
        let begun_ns = modified_ns(&file.as_file().metadata().map_err(failed)?);
        Ok(Self { file, begun_ns, state: Mutex::new((0, vec![Block::default(); buckets])) })
    }

    /// Writes the rows of a bucket: identities, then the columns.
    pub(super) fn write(&self, bucket: usize, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let (entities, rows) = by_entity(rows)?;
        let (mut bytes, begin) = (encoded(&entities)?, rows.num_rows() as u64);
        let first = bytes.len();
        bytes.extend(encoded(&rows)?);
        let sums = [xxh3_64(&bytes[..first]), xxh3_64(&bytes[first..])];
        let lengths = [first as u64, (bytes.len() - first) as u64];
        let offset = {
            let mut state = self.state.lock();
            let offset = state.0;
            state.0 += bytes.len() as u64;
            state.1[bucket] = Block { offset, bytes: lengths, sums, rows: begin };
            offset
        };
        self.file
            .as_file()
            .write_all_at(&bytes, offset)
            .map_err(|error| LakeError::unwritable(self.file.path(), &error))
    }

    /// Gives the file its index and its name. `check` is asked before it appears.
    pub(super) fn finish(
        self,
        files: Vec<FileKey>,
        skipped: BTreeMap<String, u64>,
        path: PathBuf,
        check: impl FnOnce() -> Result<()>,
    ) -> Result<Segment> {
        let (end, blocks) = self.state.into_inner();
        let rows = blocks.iter().map(|block| block.rows).sum();
        let index = Index { files, rows, skipped, blocks };
        let mut bytes = serde_json::to_vec(&index)
            .map_err(|error| LakeError::internal(format!("an index can't be written: {error}")))?;
        let (length, sum) = (bytes.len() as u64, xxh3_64(&bytes));
        bytes.extend(length.to_le_bytes());
        bytes.extend(sum.to_le_bytes());
        bytes.extend(MAGIC);
        let failed = |error: std::io::Error| LakeError::unwritable(&path, &error);
        self.file.as_file().write_all_at(&bytes, end).map_err(failed)?;
        // Before it has a name: after a power failure a named file is whole.
        self.file.as_file().sync_data().map_err(failed)?;
        check()?;
        let file = self.file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(Segment { file, path, index })
    }
}

/// A complete file, open: it can be read also after somebody has deleted it.
pub(super) struct Segment {
    file: File,
    pub path: PathBuf,
    pub index: Index,
}

impl Segment {
    /// Opens a file; none when it is gone or no such file, or not all of it is there.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let bytes = file.metadata().ok()?.len();
        let mut tail = [0; TAIL_BYTES as usize];
        file.read_exact_at(&mut tail, bytes.checked_sub(TAIL_BYTES)?).ok()?;
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&tail[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let (length, sum) = (number(0), number(8));
        if tail[16..] != *MAGIC || length > INDEX_BYTES_MAX {
            return None;
        }
        let mut index = vec![0; length as usize];
        file.read_exact_at(&mut index, bytes.checked_sub(TAIL_BYTES)?.checked_sub(length)?).ok()?;
        if xxh3_64(&index) != sum {
            return None;
        }
        let index: Index = serde_json::from_slice(&index).ok()?;
        index.blocks.len().is_power_of_two().then_some(Self { file, path: path.to_owned(), index })
    }

    pub(super) fn buckets(&self) -> usize {
        self.index.blocks.len()
    }

    /// Rows and bytes of a bucket.
    pub(super) fn cost(&self, bucket: usize) -> (u64, u64) {
        let block = &self.index.blocks[bucket];
        (block.rows, block.bytes[0] + block.bytes[1])
    }

    pub(super) fn entities(&self, bucket: usize) -> Result<Option<Entities>> {
        let Some(batch) = self.read(bucket, 0)? else { return Ok(None) };
        let identities = batch.column(0).as_primitive::<Decimal128Type>().clone();
        let rows = batch.column(1).as_primitive::<arrow::datatypes::UInt32Type>().clone();
        Ok(Some(Entities { identities, rows }))
    }

    /// The rows of a bucket, without their identities.
    pub(super) fn rows(&self, bucket: usize) -> Result<Option<RecordBatch>> {
        self.read(bucket, 1)
    }

    fn read(&self, bucket: usize, part: usize) -> Result<Option<RecordBatch>> {
        let block = &self.index.blocks[bucket];
        if block.rows == 0 {
            return Ok(None);
        }
        let corrupt = |what: &str| {
            LakeError::new("event_cache_corrupt", format!("`{}` is damaged: {what}", self.path.display()))
                .hint("delete the file and run the command again; it is made again from the history")
        };
        let mut bytes = vec![0; block.bytes[part] as usize];
        let offset = block.offset + if part == 0 { 0 } else { block.bytes[0] };
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| corrupt(&error.to_string()))?;
        if xxh3_64(&bytes) != block.sums[part] {
            return Err(corrupt("a checksum is wrong"));
        }
        // Not copied: the arrays are in this memory.
        let mut buffer = Buffer::from_vec(bytes);
        let batch = StreamDecoder::new().decode(&mut buffer);
        batch
            .map_err(|error| corrupt(&error.to_string()))?
            .ok_or_else(|| corrupt("a block is empty"))
            .map(Some)
    }

    /// Notes that it was used now.
    #[expect(clippy::disallowed_methods, reason = "when a file was last used; no value depends on it")]
    pub(super) fn touch(&self) {
        let now = std::fs::FileTimes::new().set_modified(std::time::SystemTime::now());
        if let Err(error) = self.file.set_times(now) {
            tracing::debug!(%error, "the use of cached events can't be noted");
        }
    }
}

/// Rows, whose first column is their identity and whose second their event time, by identity and time; in one batch the entities
/// with their numbers of rows, in the other the rest of the columns.
fn by_entity(rows: &RecordBatch) -> Result<(RecordBatch, RecordBatch)> {
    let identities = rows.column(0).as_primitive::<Decimal128Type>().values();
    let times = rows.column(1).as_primitive::<Int64Type>().values();
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    // Whatever order rows of one moment have: what depends on it is decided by their sequence numbers.
    order.sort_by_key(|row| (identities[*row as usize], times[*row as usize]));
    let (mut found, mut counts): (Vec<i128>, Vec<u32>) = (Vec::new(), Vec::new());
    for row in &order {
        let identity = identities[*row as usize];
        if found.last() != Some(&identity) {
            found.push(identity);
            counts.push(0);
        }
        if let Some(count) = counts.last_mut() {
            *count += 1;
        }
    }
    let schema = Schema::new(vec![
        Field::new("identity", DataType::Decimal128(38, 0), false),
        Field::new("rows", DataType::UInt32, false),
    ]);
    let found: [ArrayRef; 2] = [
        Arc::new(Decimal128Array::from(found).with_precision_and_scale(38, 0)?),
        Arc::new(UInt32Array::from(counts)),
    ];
    let entities = RecordBatch::try_new(Arc::new(schema), found.to_vec())?;
    let order = UInt32Array::from(order);
    let fields: Vec<_> = rows.schema().fields().iter().skip(1).cloned().collect();
    let columns = rows.columns()[1..].iter().map(|column| take(column, &order, None));
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    Ok((entities, RecordBatch::try_new(schema, columns.collect::<Result<_, _>>()?)?))
}

/// Every file of the cache below a folder: its path, its size, when it was last used. What processes that were killed have left is
/// removed.
pub(super) fn list(directory: &Path) -> Vec<(PathBuf, u64, i64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if metadata.is_dir() {
            found.extend(list(&path));
        } else if path.extension().is_some_and(|extension| extension == EXTENSION) {
            found.push((path, metadata.len(), modified_ns(&metadata)));
        } else if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age.as_secs() > UNFINISHED_AGE_MAX) {
                remove(&path);
            }
        }
    }
    found
}

pub(super) fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cached events can't be removed");
        }
        _ => {}
    }
}

/// A column with other values.
pub(super) fn replaced(batch: &RecordBatch, column: usize, of: impl Fn(i64) -> i64) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    let values = columns[column].as_primitive::<Int64Type>();
    columns[column] = Arc::new(values.values().iter().map(|value| of(*value)).collect::<Int64Array>());
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}
