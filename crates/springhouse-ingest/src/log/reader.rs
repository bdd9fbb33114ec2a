//! Reading durable rows while the writer goes on.

use super::{Log, LogError, Record, segment};
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::sync::Arc;

/// Reads records in order from an offset; remembers its place, so that each byte is read once.
#[derive(Debug)]
pub(crate) struct LogReader {
    log: Arc<Log>,
    /// Offset of the next row to give.
    next: i64,
    open: Option<OpenSegment>,
}

#[derive(Debug)]
struct OpenSegment {
    first: i64,
    /// Offset of the record at `at`.
    offset: i64,
    at: u64,
    input: BufReader<File>,
}

impl LogReader {
    /// A reader whose first record is the one that holds `from`. The log must still hold it when it reads.
    pub(crate) fn new(log: Arc<Log>, from: i64) -> Self {
        Self { log, next: from, open: None }
    }

    /// Offset of the next row to give.
    pub(crate) fn position(&self) -> i64 {
        self.next
    }

    /// The next records below `end` (durable), up to about `bytes_max`; empty when there are none.
    pub(crate) fn read(&mut self, end: i64, bytes_max: usize) -> Result<Vec<Record>, LogError> {
        let end = end.min(self.log.end());
        let mut records = Vec::new();
        let mut bytes = 0;
        while self.next < end && bytes < bytes_max {
            let record = self.next_record()?;
            if record.end() > self.next {
                self.next = record.end();
                bytes += record.rows.len() + 64;
                records.push(record);
            }
        }
        Ok(records)
    }

    fn next_record(&mut self) -> Result<Record, LogError> {
        let segments = self.log.segments.lock().clone();
        let wanted = segments.iter().rfind(|s| s.first <= self.next).cloned();
        let Some(wanted) = wanted else {
            return Err(LogError::Corrupt {
                path: self.log.directory.clone(),
                byte: 0,
                detail: format!("offset {} is no longer in the log", self.next),
            });
        };
        let path = self.log.path_of(wanted.first);
        if self.open.as_ref().is_none_or(|open| open.first != wanted.first) {
            let file = File::open(&path).map_err(LogError::io("opening a segment", &path))?;
            let mut input = BufReader::with_capacity(1 << 18, file);
            input.seek(SeekFrom::Start(segment::HEADER_BYTES)).map_err(LogError::io("seeking", &path))?;
            let at = segment::HEADER_BYTES;
            self.open = Some(OpenSegment { first: wanted.first, offset: wanted.first, at, input });
        }
        let open = self.open.as_mut().expect("opened above");
        let result = segment::read_record(&path, &mut open.input, open.at);
        match result {
            Ok((record, size)) if record.base == open.offset => {
                open.at += size;
                open.offset = record.end();
                Ok(record)
            }
            Ok((record, _)) => {
                let detail = format!("offset {} where {} was due", record.base, open.offset);
                Err(LogError::Corrupt { path, byte: open.at, detail })
            }
            Err(error) => {
                // The buffer's place is unknown now; the next attempt opens the file again.
                self.open = None;
                Err(error)
            }
        }
    }
}
