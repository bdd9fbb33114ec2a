//! Segment files: names, headers, and reading them back after a stop of any kind.

use super::record::{FRAME_BYTES, PAYLOAD_BYTES_MAX, RECORD_MAGIC, Record};
use super::{LogError, Segment};
use springhouse_core::Micros;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Magic, format version, first offset, the newest `known_at` before it (so that it never falls, though older segments
/// are deleted and the clock steps back), checksum.
pub(super) const HEADER_BYTES: u64 = 32;
const MAGIC: [u8; 8] = *b"SPHSLOG\0";
const VERSION: u32 = 1;

/// The name of the segment that starts at `first`.
pub(super) fn file_name(first: i64) -> String {
    format!("{first:020}.log")
}

/// First offsets of the segments in `directory`, in order.
pub(super) fn list(directory: &Path) -> Result<Vec<i64>, LogError> {
    let mut firsts = Vec::new();
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(firsts),
        Err(error) => return Err(LogError::io("listing the log", directory)(error)),
    };
    for entry in entries {
        let name = entry.map_err(LogError::io("listing the log", directory))?.file_name();
        if let Some(digits) = name.to_str().and_then(|n| n.strip_suffix(".log"))
            && digits.len() == 20
            && let Ok(first) = digits.parse()
        {
            firsts.push(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// Creates a segment with its header, durable with its name; returns it and its size.
pub(super) fn create(directory: &Path, first: i64, known_at: Micros) -> Result<(File, u64), LogError> {
    let path = directory.join(file_name(first));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(LogError::io("creating a segment", &path))?;
    file.write_all(&header(first, known_at)).map_err(LogError::io("writing a segment's header", &path))?;
    file.sync_all().map_err(LogError::io("syncing a segment", &path))?;
    sync_directory(directory)?;
    Ok((file, HEADER_BYTES))
}

/// Makes names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), LogError> {
    File::open(directory).and_then(|d| d.sync_all()).map_err(LogError::io("syncing the directory", directory))
}

/// Puts a file in the place of the one of that name, whole or not at all, durable when it returns.
pub(crate) fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), LogError> {
    let temporary = directory.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary).map_err(LogError::io("creating a file", &temporary))?;
    file.write_all(bytes).map_err(LogError::io("writing", &temporary))?;
    file.sync_all().map_err(LogError::io("syncing", &temporary))?;
    std::fs::rename(&temporary, directory.join(name)).map_err(LogError::io("renaming", &temporary))?;
    sync_directory(directory)
}

fn header(first: i64, known_at: Micros) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..20].copy_from_slice(&first.to_le_bytes());
    bytes[20..28].copy_from_slice(&known_at.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads all segments, cuts off a torn tail, and returns the segments left.
pub(super) fn scan_all(directory: &Path, visit: &mut dyn FnMut(&Record)) -> Result<Vec<Segment>, LogError> {
    let firsts = list(directory)?;
    let mut segments: Vec<Segment> = Vec::with_capacity(firsts.len());
    for (index, first) in firsts.iter().copied().enumerate() {
        let path = directory.join(file_name(first));
        if let Some(previous) = segments.last()
            && previous.end != first
        {
            let detail = format!("the segment before it ends at offset {}, not at {first}", previous.end);
            return Err(LogError::Corrupt { path, byte: 0, detail });
        }
        let is_last = index + 1 == firsts.len();
        match scan_one(&path, first, visit)? {
            Scan::Whole(segment) => segments.push(segment),
            Scan::Torn { segment: _, byte, detail } if !is_last => {
                return Err(LogError::Corrupt { path, byte, detail });
            }
            Scan::Torn { segment: None, .. } => {
                tracing::warn!(path = %path.display(), "removed a segment whose creation was interrupted");
                std::fs::remove_file(&path).map_err(LogError::io("removing a segment", &path))?;
                sync_directory(directory)?;
            }
            Scan::Torn { segment: Some(segment), byte, detail } => {
                tracing::warn!(
                    path = %path.display(), byte, detail,
                    "cut off the torn end of the log; nothing in it had been acknowledged"
                );
                cut(&path, segment.bytes)?;
                segments.push(segment);
            }
        }
    }
    Ok(segments)
}

fn cut(path: &Path, bytes: u64) -> Result<(), LogError> {
    let file = OpenOptions::new().write(true).open(path).map_err(LogError::io("opening a segment", path))?;
    file.set_len(bytes).map_err(LogError::io("truncating a segment", path))?;
    file.sync_all().map_err(LogError::io("syncing a segment", path))
}

/// What a segment file holds.
pub(super) enum Scan {
    /// Records to its end.
    Whole(Segment),
    /// Records up to `byte`, then something that was never acknowledged.
    Torn {
        /// The part before it; none when not even the header is whole.
        segment: Option<Segment>,
        /// Where the records end.
        byte: u64,
        /// What is there.
        detail: String,
    },
}

/// Reads one segment.
pub(super) fn scan_one(path: &Path, first: i64, visit: &mut dyn FnMut(&Record)) -> Result<Scan, LogError> {
    let bytes = std::fs::read(path).map_err(LogError::io("reading a segment", path))?;
    let corrupt = |byte: usize, detail: &str| LogError::Corrupt {
        path: path.to_owned(),
        byte: byte as u64,
        detail: detail.to_owned(),
    };
    let Some(found) = bytes.first_chunk::<{ HEADER_BYTES as usize }>() else {
        if later_record(&bytes, 0).is_some() {
            return Err(corrupt(0, "the header is damaged"));
        }
        let detail = "the header is incomplete".to_owned();
        return Ok(Scan::Torn { segment: None, byte: 0, detail });
    };
    let known_at = i64::from_le_bytes(found[20..28].try_into().expect("eight bytes"));
    if found != &header(first, known_at) {
        if bytes.len() == found.len() {
            // Created, never synced: no record was written to it.
            let detail = "the header is not what was written".to_owned();
            return Ok(Scan::Torn { segment: None, byte: 0, detail });
        }
        return Err(corrupt(0, "the header is damaged, or written by another version"));
    }
    let mut at = HEADER_BYTES as usize;
    let mut end = first;
    while at < bytes.len() {
        match record_at(&bytes, at) {
            Ok((record, size)) => {
                if record.base != end {
                    return Err(corrupt(at, &format!("offset {} where {end} was due", record.base)));
                }
                visit(&record);
                end = record.end();
                at += size;
            }
            Err(detail) => {
                if let Some(witness) = later_record(&bytes, at + 1)
                    && witness.group_start > at as u64
                {
                    return Err(corrupt(at, detail));
                }
                let segment = Segment { first, end, bytes: at as u64, known_at };
                return Ok(Scan::Torn { segment: Some(segment), byte: at as u64, detail: detail.to_owned() });
            }
        }
    }
    Ok(Scan::Whole(Segment { first, end, bytes: at as u64, known_at }))
}

/// The record that starts at `at` and its size with the frame.
fn record_at(bytes: &[u8], at: usize) -> Result<(Record, usize), &'static str> {
    let rest = &bytes[at..];
    let frame = rest.first_chunk::<FRAME_BYTES>().ok_or("an incomplete frame")?;
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    let crc = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return Err("a length that can't be");
    }
    let payload = rest[FRAME_BYTES..].get(..length).ok_or("an incomplete record")?;
    if crc32c::crc32c(payload) != crc {
        return Err("a checksum that does not match");
    }
    let record = Record::decode(payload).ok_or("a record of an unknown format")?;
    Ok((record, FRAME_BYTES + length))
}

/// The last whole record that starts at or after `from`: the one that vouches for the most.
fn later_record(bytes: &[u8], from: usize) -> Option<Record> {
    let mut found = None;
    let mut at = from;
    while let Some(rest) = bytes.get(at + FRAME_BYTES..) {
        let Some(next) = find_magic(rest) else { break };
        at += next;
        match record_at(bytes, at) {
            Ok((record, size)) => {
                found = Some(record);
                at += size;
            }
            Err(_) => at += 1,
        }
    }
    found
}

fn find_magic(bytes: &[u8]) -> Option<usize> {
    bytes.windows(RECORD_MAGIC.len()).position(|window| window == RECORD_MAGIC)
}

/// Reads the frame at `at` from an open file; for readers below the durable end.
pub(super) fn read_record(
    path: &Path,
    input: &mut dyn std::io::Read,
    at: u64,
) -> Result<(Record, u64), LogError> {
    let corrupt =
        |detail: &str| LogError::Corrupt { path: path.to_owned(), byte: at, detail: detail.to_owned() };
    let mut frame = [0; FRAME_BYTES];
    input.read_exact(&mut frame).map_err(LogError::io("reading the log", path))?;
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return Err(corrupt("a length that can't be"));
    }
    let mut bytes = frame.to_vec();
    bytes.resize(FRAME_BYTES + length, 0);
    input.read_exact(&mut bytes[FRAME_BYTES..]).map_err(LogError::io("reading the log", path))?;
    let (record, size) = record_at(&bytes, 0).map_err(corrupt)?;
    Ok((record, size as u64))
}
