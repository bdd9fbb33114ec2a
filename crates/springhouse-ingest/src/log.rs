//! The durable log of what was pushed: segmented append-only files, one writer, checksums, positions per row.
//!
//! A segment is named by its first offset (`00000000000000000000.log`) and starts with a checksummed header. Then come
//! records, each `[length u32][crc32c u32][payload]`, one per accepted batch ([`Record`]). Offsets count rows, dense, from
//! 0: first the accepted rows of a batch, then its refused ones (a dead letter has a place in the log too).
//!
//! **After a crash.** A group of records is written and synced as one; only then anybody is told. Each record carries the
//! byte where its group began, and so says that everything before that byte was durable. Bytes that are no record are
//! therefore either a torn tail (no later record vouches for them: cut off, with a log line) or damage (an error that
//! names file and byte). The record that a clean stop appends vouches for everything before it.
//!
//! **After a failed write or sync** the log is failed until it is opened again: what the kernel dropped can't be synced by
//! trying once more, and nothing is acknowledged that may not be there.

mod reader;
mod record;
mod segment;

pub(crate) use reader::LogReader;
pub(crate) use record::{Record, RefusedRow, decode_rows, encode_rows};
pub(crate) use segment::{replace_file, sync_directory};

use parking_lot::Mutex;
use springhouse_core::Micros;
use springhouse_core::crash_point::crash_point;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Why the log can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The operating system refused.
    #[error("{action} failed for {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Stored bytes are not what was written.
    #[error("the log is damaged: {path}, byte {byte}: {detail}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        byte: u64,
        /// What is wrong there.
        detail: String,
    },
    /// Another process or handle writes it.
    #[error("the log in {0} is in use by another process")]
    Locked(PathBuf),
    /// An earlier write or sync failed.
    #[error("the log failed earlier and takes no more rows until it is opened again: {0}")]
    Failed(String),
}

impl LogError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// One segment file.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Offset of its first row.
    pub(crate) first: i64,
    /// Offset after its last durable row.
    pub(crate) end: i64,
    /// Its size.
    pub(crate) bytes: u64,
    /// The newest `known_at` before its first row.
    known_at: Micros,
}

/// The log as readers, the flusher and the writer share it.
#[derive(Debug)]
pub(crate) struct Log {
    directory: PathBuf,
    /// In order; the last one is being written.
    segments: Mutex<Vec<Segment>>,
    /// Offset after the last durable row.
    durable_end: AtomicI64,
    /// Bytes on disk.
    bytes: AtomicU64,
    failed: OnceLock<String>,
    /// Holds the advisory lock on the directory.
    lock: File,
    /// True once the directory may be another's.
    released: Mutex<bool>,
}

/// What opening found.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The log.
    pub(crate) log: Arc<Log>,
    /// Its one writer.
    pub(crate) writer: LogWriter,
    /// The newest `known_at` in it.
    pub(crate) last_known_at: Micros,
}

impl Log {
    /// Opens or creates the log in `directory` and shows every record in it to `visit`, in order. `start`: the offset at
    /// which a log without any segment begins.
    ///
    /// # Errors
    /// [`LogError`]; of [`LogError::Corrupt`] nothing was changed on disk.
    pub(crate) fn open(
        directory: &Path,
        start: i64,
        segment_bytes_max: u64,
        mut visit: impl FnMut(&Record),
    ) -> Result<Opened, LogError> {
        std::fs::create_dir_all(directory).map_err(LogError::io("creating the directory", directory))?;
        let lock = lock_directory(directory)?;
        let mut last_known_at = Micros::MIN;
        let segments = segment::scan_all(directory, &mut |record| {
            last_known_at = last_known_at.max(record.known_at);
            visit(record);
        })?;
        last_known_at = segments.iter().map(|s| s.known_at).fold(last_known_at, Micros::max);
        let log = Arc::new(Self {
            directory: directory.to_owned(),
            durable_end: AtomicI64::new(segments.last().map_or(start, |s| s.end)),
            bytes: AtomicU64::new(segments.iter().map(|s| s.bytes).sum()),
            segments: Mutex::new(segments),
            failed: OnceLock::new(),
            lock,
            released: Mutex::new(false),
        });
        let writer = LogWriter::open(log.clone(), segment_bytes_max, last_known_at)?;
        Ok(Opened { log, writer, last_known_at })
    }

    /// True when `directory` holds any segment.
    pub(crate) fn exists(directory: &Path) -> bool {
        segment::list(directory).is_ok_and(|names| !names.is_empty())
    }

    /// Offset of the first row held below `directory`; none without a log.
    pub(crate) fn first_offset(directory: &Path) -> Result<Option<i64>, LogError> {
        Ok(segment::list(directory)?.first().copied())
    }

    /// Gives the directory free, after whoever changes files in it right now. The writer must be gone.
    pub(crate) fn release(&self) {
        let mut released = self.released.lock();
        if !std::mem::replace(&mut *released, true)
            && let Err(error) = self.lock.unlock()
        {
            tracing::warn!(%error, "the log's lock was not given free; the end of the process does it");
        }
    }

    /// Runs work that changes files of the directory, unless it was given free.
    pub(crate) fn while_held<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let released = self.released.lock();
        (!*released).then(work)
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Offset after the last durable row.
    pub(crate) fn end(&self) -> i64 {
        self.durable_end.load(Ordering::Acquire)
    }

    /// Offset of the first row still held.
    pub(crate) fn first(&self) -> i64 {
        self.segments.lock().first().map_or_else(|| self.end(), |s| s.first)
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why it failed, once it did.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// The segments that are complete and end at or below `offset`, oldest first.
    pub(crate) fn segments_below(&self, offset: i64) -> Vec<Segment> {
        let segments = self.segments.lock();
        let closed = segments.len().saturating_sub(1);
        segments[..closed].iter().take_while(|s| s.end <= offset).cloned().collect()
    }

    /// Shows every record of a complete segment to `visit`.
    pub(crate) fn visit_segment(&self, first: i64, visit: &mut dyn FnMut(&Record)) -> Result<(), LogError> {
        let path = self.path_of(first);
        match segment::scan_one(&path, first, visit)? {
            segment::Scan::Whole(_) => Ok(()),
            segment::Scan::Torn { byte, detail, .. } => Err(LogError::Corrupt { path, byte, detail }),
        }
    }

    /// Deletes the oldest segment, which must be complete.
    pub(crate) fn delete_first_segment(&self, first: i64) -> Result<(), LogError> {
        let mut segments = self.segments.lock();
        assert!(
            segments.len() > 1 && segments[0].first == first,
            "only the oldest complete segment is deleted"
        );
        let path = self.path_of(first);
        std::fs::remove_file(&path).map_err(LogError::io("deleting a segment", &path))?;
        sync_directory(&self.directory)?;
        self.bytes.fetch_sub(segments.remove(0).bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn path_of(&self, first: i64) -> PathBuf {
        self.directory.join(segment::file_name(first))
    }

    fn fail(&self, error: LogError) -> LogError {
        let text = error.to_string();
        tracing::error!(error = %text, "the log failed; no more rows are taken until it is opened again");
        // The first failure stays: what follows is its consequence.
        let _ = self.failed.set(text);
        error
    }
}

fn lock_directory(directory: &Path) -> Result<File, LogError> {
    let path = directory.join("LOCK");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(LogError::io("opening the lock file", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(LogError::Locked(directory.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => {
            Err(LogError::Io { action: "locking the log", path, source })
        }
    }
}

/// The one writer of a log; it lives on one thread.
#[derive(Debug)]
pub(crate) struct LogWriter {
    log: Arc<Log>,
    file: File,
    /// Where the next group begins in the file.
    position: u64,
    /// First offset of the segment being written.
    first: i64,
    /// Offset of the next row.
    end: i64,
    /// The newest `known_at` added.
    known_at: Micros,
    segment_bytes_max: u64,
    group: Vec<u8>,
}

impl LogWriter {
    fn open(log: Arc<Log>, segment_bytes_max: u64, known_at: Micros) -> Result<Self, LogError> {
        let end = log.end();
        let last = log.segments.lock().last().cloned();
        let (file, position, first) = match last {
            None => {
                let (file, bytes) = segment::create(&log.directory, end, known_at)?;
                log.segments.lock().push(Segment { first: end, end, bytes, known_at });
                log.bytes.fetch_add(bytes, Ordering::Relaxed);
                (file, bytes, end)
            }
            Some(last) => {
                let path = log.path_of(last.first);
                let mut file = OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .map_err(LogError::io("opening a segment", &path))?;
                file.seek(SeekFrom::Start(last.bytes)).map_err(LogError::io("seeking", &path))?;
                (file, last.bytes, last.first)
            }
        };
        Ok(Self { log, file, position, first, end, known_at, segment_bytes_max, group: Vec::new() })
    }

    /// Offset of the next row.
    pub(crate) fn next_offset(&self) -> i64 {
        self.end
    }

    /// Bytes collected for the present group.
    pub(crate) fn group_bytes(&self) -> usize {
        self.group.len()
    }

    /// Adds a record to the present group; its base must be [`Self::next_offset`].
    pub(crate) fn add(&mut self, record: &Record) -> Result<(), LogError> {
        assert_eq!(record.base, self.end, "offsets are dense");
        assert!(record.known_at >= self.known_at, "known_at never falls along the log");
        if self.group.is_empty() {
            self.roll_when_full()?;
        }
        record.encode(self.position, &mut self.group);
        self.end = record.end();
        self.known_at = record.known_at;
        Ok(())
    }

    /// Writes the group and makes it durable. After an error nothing can be added any more.
    pub(crate) fn commit(&mut self) -> Result<(), LogError> {
        if let Some(why) = self.log.failure() {
            return Err(LogError::Failed(why.to_owned()));
        }
        if self.group.is_empty() {
            return Ok(());
        }
        let path = self.log.path_of(self.first);
        crash_point("before_log_write");
        self.file
            .write_all(&self.group)
            .map_err(|e| self.log.fail(LogError::io("writing the log", &path)(e)))?;
        crash_point("after_log_write_before_sync");
        self.file.sync_data().map_err(|e| self.log.fail(LogError::io("syncing the log", &path)(e)))?;
        let written = self.group.len() as u64;
        self.group.clear();
        self.position += written;
        {
            let mut segments = self.log.segments.lock();
            let active = segments.last_mut().expect("the segment being written is in the list");
            active.bytes = self.position;
            active.end = self.end;
        }
        self.log.bytes.fetch_add(written, Ordering::Relaxed);
        self.log.durable_end.store(self.end, Ordering::Release);
        crash_point("after_sync_before_ack");
        Ok(())
    }

    /// Appends the record of a clean stop: it vouches for all before it.
    pub(crate) fn close(&mut self) -> Result<(), LogError> {
        if self.position > segment::HEADER_BYTES {
            self.add(&Record::closing(self.end, self.known_at))?;
        }
        self.commit()
    }

    fn roll_when_full(&mut self) -> Result<(), LogError> {
        // A segment without rows would share its name with the next one.
        if self.position < self.segment_bytes_max || self.end == self.first {
            return Ok(());
        }
        let (file, bytes) =
            segment::create(&self.log.directory, self.end, self.known_at).map_err(|e| self.log.fail(e))?;
        let segment = Segment { first: self.end, end: self.end, bytes, known_at: self.known_at };
        self.log.segments.lock().push(segment);
        self.log.bytes.fetch_add(bytes, Ordering::Relaxed);
        (self.file, self.position, self.first) = (file, bytes, self.end);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
