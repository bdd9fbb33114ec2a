//! The ids files: identities of log segments that are gone, and of history.

use super::{Dedup, SegmentIds};
use crate::log::{LogError, replace_file, sync_directory};
use crate::outcome::{PushOutcome, RowOutcome, known_code};
use springhouse_core::Micros;
use std::fs::File;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"SPHSIDS\x01";
const SUFFIX: &str = ".ids";
const HISTORY_PREFIX: &str = "history-";
/// So many files of history are rewritten as one.
pub(super) const HISTORY_FILES_MAX: usize = 32;

/// The files with their numbers, in order.
fn list(directory: &Path, prefix: &str) -> Result<Vec<(i64, PathBuf)>, LogError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(LogError::io("listing the log", directory))? {
        let path = entry.map_err(LogError::io("listing the log", directory))?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(SUFFIX)?.strip_prefix(prefix)?.parse().ok());
        if let Some(number) = number {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

pub(super) fn load(dedup: &mut Dedup, directory: &Path, log_first: i64) -> Result<(), LogError> {
    for (first, path) in list(directory, "")? {
        if first >= log_first {
            // Its segment was not deleted after all; it will write the file again.
            continue;
        }
        let ids = read(&path)?;
        for (at, run) in ids.runs {
            for id in run {
                dedup.pushed.insert(id, at);
            }
        }
        for (key, outcome) in ids.batches {
            dedup.batches.insert(key, outcome.known_at, outcome);
        }
    }
    for (_, path) in list(directory, HISTORY_PREFIX)? {
        for (at, run) in read(&path)?.runs {
            for id in run {
                dedup.history.insert(id, at);
            }
        }
    }
    Ok(())
}

pub(super) fn write_segment(directory: &Path, first: i64, ids: &SegmentIds) -> Result<(), LogError> {
    write(directory, &format!("{first:020}{SUFFIX}"), ids)
}

/// Writes one more file of history; returns how many there are.
pub(super) fn write_history(directory: &Path, ids: &[u128], at: Micros) -> Result<usize, LogError> {
    let files = list(directory, HISTORY_PREFIX)?;
    let number = files.last().map_or(0, |(number, _)| number + 1);
    let ids = SegmentIds { runs: vec![(at, ids.to_vec())], batches: Vec::new() };
    write(directory, &format!("{HISTORY_PREFIX}{number:020}{SUFFIX}"), &ids)?;
    Ok(files.len() + 1)
}

/// Rewrites the files of history as one that holds what is still remembered.
pub(super) fn compact_history(directory: &Path, runs: Vec<(Micros, Vec<u128>)>) -> Result<(), LogError> {
    let files = list(directory, HISTORY_PREFIX)?;
    let Some(((last, _), older)) = files.split_last() else { return Ok(()) };
    // Replaces the newest; a stop before the others are gone only leaves identities twice.
    let name = format!("{HISTORY_PREFIX}{last:020}{SUFFIX}");
    write(directory, &name, &SegmentIds { runs, batches: Vec::new() })?;
    for (_, path) in older {
        std::fs::remove_file(path).map_err(LogError::io("deleting an ids file", path))?;
    }
    sync_directory(directory)
}

/// Deletes files whose newest identity is older than `oldest`, and files beyond the newest `keys_max` identities.
pub(super) fn drop_old(directory: &Path, oldest: Micros, keys_max: usize) -> Result<(), LogError> {
    for prefix in ["", HISTORY_PREFIX] {
        let mut newer = 0;
        for (_, path) in list(directory, prefix)?.into_iter().rev() {
            let (newest, count) = summary(&path)?;
            if newest < oldest || newer >= keys_max as u64 {
                std::fs::remove_file(&path).map_err(LogError::io("deleting an ids file", &path))?;
            }
            newer += count;
        }
    }
    Ok(())
}

/// Layout: magic; newest moment i64; identities u64; runs u32 of (moment i64, count u32, identities u128 each);
/// batches u32 of (key u128, outcome); crc32c of all before it. Little endian.
fn write(directory: &Path, name: &str, ids: &SegmentIds) -> Result<(), LogError> {
    let count: usize = ids.runs.iter().map(|(_, run)| run.len()).sum();
    let newest = ids
        .runs
        .iter()
        .map(|(at, _)| *at)
        .chain(ids.batches.iter().map(|(_, outcome)| outcome.known_at))
        .max()
        .unwrap_or(Micros::MIN);
    let mut out = Vec::with_capacity(64 + count * 16);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&newest.to_le_bytes());
    out.extend_from_slice(&(count as u64).to_le_bytes());
    out.extend_from_slice(&(ids.runs.len() as u32).to_le_bytes());
    for (at, run) in &ids.runs {
        out.extend_from_slice(&at.to_le_bytes());
        out.extend_from_slice(&(run.len() as u32).to_le_bytes());
        run.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    }
    out.extend_from_slice(&(ids.batches.len() as u32).to_le_bytes());
    for (key, outcome) in &ids.batches {
        out.extend_from_slice(&key.to_le_bytes());
        put_outcome(&mut out, outcome);
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());

    replace_file(directory, name, &out)
}

fn put_outcome(out: &mut Vec<u8>, outcome: &PushOutcome) {
    out.extend_from_slice(&outcome.known_at.to_le_bytes());
    out.extend_from_slice(&outcome.end_offset.to_le_bytes());
    out.extend_from_slice(&(outcome.accepted as u64).to_le_bytes());
    out.extend_from_slice(&(outcome.exceptions.len() as u32).to_le_bytes());
    for (row, exception) in &outcome.exceptions {
        out.extend_from_slice(&(*row as u32).to_le_bytes());
        let (code, reason) = match exception {
            RowOutcome::Refused { code, reason } => (*code, reason.as_str()),
            _ => ("", ""),
        };
        for text in [code, reason] {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn read(path: &Path) -> Result<SegmentIds, LogError> {
    let bytes = std::fs::read(path).map_err(LogError::io("reading an ids file", path))?;
    let corrupt = |byte: usize, detail: &str| LogError::Corrupt {
        path: path.to_owned(),
        byte: byte as u64,
        detail: detail.to_owned(),
    };
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
        return Err(corrupt(0, "the file is too short"));
    };
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(corrupt(body.len(), "a checksum that does not match"));
    }
    let rest = body.strip_prefix(&MAGIC).ok_or_else(|| corrupt(0, "no ids file of this version"))?;
    let mut input = Input(rest);
    decode(&mut input).ok_or_else(|| corrupt(body.len() - input.0.len(), "malformed"))
}

fn decode(input: &mut Input<'_>) -> Option<SegmentIds> {
    input.take(16)?;
    let mut ids = SegmentIds::default();
    for _ in 0..input.u32()? {
        let at = input.i64()?;
        let count = input.u32()? as usize;
        let run = input.take(count.checked_mul(16)?)?.as_chunks::<16>().0;
        ids.runs.push((at, run.iter().map(|id| u128::from_le_bytes(*id)).collect()));
    }
    for _ in 0..input.u32()? {
        let key = u128::from_le_bytes(input.take(16)?.try_into().ok()?);
        let (known_at, end_offset, accepted) = (input.i64()?, input.i64()?, input.i64()? as usize);
        let mut exceptions = Vec::new();
        for _ in 0..input.u32()? {
            let row = input.u32()? as usize;
            let (code, reason) = (input.text()?, input.text()?);
            exceptions.push(match code {
                "" => (row, RowOutcome::Duplicate),
                _ => (row, RowOutcome::Refused { code: known_code(code), reason: reason.to_owned() }),
            });
        }
        let duplicates = exceptions.iter().filter(|(_, e)| *e == RowOutcome::Duplicate).count();
        let refused = exceptions.len() - duplicates;
        ids.batches
            .push((key, PushOutcome { accepted, duplicates, refused, exceptions, end_offset, known_at }));
    }
    input.0.is_empty().then_some(ids)
}

/// Newest moment and number of identities, from the file's head alone.
fn summary(path: &Path) -> Result<(Micros, u64), LogError> {
    let mut head = [0; 24];
    let mut file = File::open(path).map_err(LogError::io("reading an ids file", path))?;
    std::io::Read::read_exact(&mut file, &mut head).map_err(LogError::io("reading an ids file", path))?;
    let mut input = Input(&head[8..]);
    let fields = input.i64().zip(input.i64());
    let (newest, count) = fields.expect("the head has both fields");
    Ok((newest, count as u64))
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        std::str::from_utf8(self.take(len)?).ok()
    }
}
