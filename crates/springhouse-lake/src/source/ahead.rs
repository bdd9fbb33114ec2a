//! Column chunks read some bytes ahead. The library asks for every page twice, for its header and for its bytes, and asks a file by
//! a new handle, a seek and a buffer of its own each time.

use bytes::Bytes;
use parking_lot::Mutex;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

/// Bytes read ahead of all columns of a row group together, about.
const AHEAD_BYTES: u64 = 8 << 20;
/// Bytes read ahead of one column, at least and at most.
const OF_COLUMN: Range<u64> = (16 << 10)..(4 << 20);
/// Bytes read at a time of what is in no column that is read ahead: about the header of a page.
const ELSEWHERE: u64 = 8 << 10;

/// A file whose columns are read.
#[derive(Clone)]
pub(crate) struct AheadReader(Arc<Ahead>);

struct Ahead {
    file: Mutex<File>,
    length: u64,
    /// Where the columns are that are read; ascending.
    columns: Vec<Column>,
    ahead: u64,
}

struct Column {
    place: Range<u64>,
    window: Mutex<Window>,
}

/// What was read of a column last.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Bytes,
}

impl AheadReader {
    /// Of a file whose columns at these places are read, each from its beginning to its end, and so many of them at a time.
    pub(crate) fn new(file: File, mut places: Vec<Range<u64>>, at_a_time: usize) -> std::io::Result<Self> {
        let length = file.metadata()?.len();
        places.sort_unstable_by_key(|place| place.start);
        let ahead = (AHEAD_BYTES / at_a_time.max(1) as u64).clamp(OF_COLUMN.start, OF_COLUMN.end);
        let column = |place: Range<u64>| Column { place, window: Mutex::default() };
        let columns = places.into_iter().map(column).collect();
        Ok(Self(Arc::new(Ahead { file: Mutex::new(file), length, columns, ahead })))
    }
}

impl Ahead {
    /// Bytes from `start` on, so many that they end where `length` bytes do: those that are known, and the others from the file.
    fn read(&self, start: u64, length: u64, known: &[u8]) -> Result<Bytes> {
        let outside = || ParquetError::EOF(format!("the file has no {length} bytes from {start} on"));
        if start.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(outside());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(|_| outside())?);
        bytes.extend_from_slice(known);
        let mut file = self.file.lock();
        file.seek(SeekFrom::Start(start + known.len() as u64))?;
        (&mut *file).take(length - known.len() as u64).read_to_end(&mut bytes)?;
        // It was cut off meanwhile.
        if bytes.len() as u64 == length { Ok(bytes.into()) } else { Err(outside()) }
    }

    /// The column that has these bytes.
    fn column(&self, start: u64, end: u64) -> Option<&Column> {
        let after = self.columns.partition_point(|column| column.place.start <= start);
        self.columns[..after].last().filter(|column| end <= column.place.end)
    }

    /// Some bytes, of a file that goes on there.
    fn some(&self, start: u64) -> Result<Bytes> {
        match self.column(start, start.saturating_add(1)) {
            Some(_) => self.from(start, 1),
            None => self.read(start, ELSEWHERE.min(self.length - start), &[]),
        }
    }

    /// At least so many bytes, and what is read ahead.
    fn from(&self, start: u64, length: u64) -> Result<Bytes> {
        let end = start.saturating_add(length);
        let Some(column) = self.column(start, end) else { return self.read(start, length, &[]) };
        let mut window = column.window.lock();
        let from = start.checked_sub(window.start).and_then(|from| usize::try_from(from).ok());
        let known = from.and_then(|from| (from <= window.bytes.len()).then(|| window.bytes.slice(from..)));
        let mut known = known.unwrap_or_default();
        if length > known.len() as u64 {
            let length = length.max(self.ahead.min(column.place.end - start));
            known = self.read(start, length, &known)?;
            *window = Window { start, bytes: known.clone() };
        }
        if end == column.place.end {
            // The last that is asked for.
            *window = Window::default();
        }
        Ok(known)
    }
}

impl Length for AheadReader {
    fn len(&self) -> u64 {
        self.0.length
    }
}

impl ChunkReader for AheadReader {
    type T = AheadRead;

    fn get_read(&self, start: u64) -> Result<AheadRead> {
        Ok(AheadRead { of: Arc::clone(&self.0), at: start, bytes: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        Ok(self.0.from(start, length as u64)?.slice(..length))
    }
}

/// The bytes from a place on.
pub(crate) struct AheadRead {
    of: Arc<Ahead>,
    at: u64,
    bytes: Bytes,
}

impl Read for AheadRead {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.bytes.is_empty() && self.at < self.of.length {
            self.bytes = self.of.some(self.at).map_err(std::io::Error::other)?;
        }
        let count = into.len().min(self.bytes.len());
        into[..count].copy_from_slice(&self.bytes.split_to(count));
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::draws;

    #[test]
    fn bytes_are_those_of_the_file_wherever_they_are_asked_for() {
        let mut below = draws(17);
        let content: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, &content).unwrap();
        let all = content.len() as u64;
        for round in 0..20 {
            // Columns with and without something between them.
            let mut places = Vec::new();
            let mut at = below(100);
            while at < all {
                let most = [50, 40_000, 2_000_000][below(3) as usize];
                let end = (at + 1 + below(most)).min(all);
                places.push(at..end);
                at = end + if below(2) == 0 { 0 } else { below(3000) };
            }
            places.truncate(1 + below(places.len() as u64) as usize);
            let reader =
                AheadReader::new(File::open(&path).unwrap(), places.clone(), 1 + below(300) as usize)
                    .unwrap();
            for _ in 0..40 {
                let start = if below(2) == 0 {
                    below(all)
                } else {
                    let place = &places[below(places.len() as u64) as usize];
                    place.start + below(place.end - place.start)
                };
                let most = [10, 3000, 500_000][below(3) as usize];
                let length = below(most).min(all - start);
                let (from, end) = (start as usize, (start + length) as usize);
                if below(2) == 0 {
                    let bytes = reader.get_bytes(start, length as usize).unwrap();
                    assert!(bytes == content[from..end], "round {round}: {length} bytes from {start} on");
                } else {
                    let mut bytes = Vec::new();
                    reader.get_read(start).unwrap().take(length).read_to_end(&mut bytes).unwrap();
                    assert!(bytes == content[from..end], "round {round}: {length} from {start} on, read");
                }
            }
        }
    }

    #[test]
    fn bytes_behind_the_end_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [1, 2, 3, 4]).unwrap();
        let reader =
            AheadReader::new(File::open(&path).unwrap(), std::iter::once(1..9).collect(), 1).unwrap();
        assert!(reader.get_bytes(1, 4).is_err());
        assert!(reader.get_bytes(u64::MAX, 1).is_err());
        assert_eq!(reader.get_bytes(0, 1).unwrap().as_ref(), [1]);
        // A footer may say that a column goes on behind the end of the file.
        assert!(reader.get_bytes(1, 2).is_err());
        assert_eq!(reader.get_read(4).unwrap().read(&mut [0; 3]).unwrap(), 0);
    }
}
