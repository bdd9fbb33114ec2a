//! One process writes: an advisory lock on a file, with a note in it of who holds it.

use crate::error::{failed, unavailable};
use springhouse_online::{StoreError, StoreErrorKind};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

const LOCK_FILE: &str = "writer.lock";
/// More than any note takes; a longer file was not written by this program.
const NOTE_BYTES_MAX: u64 = 4096;

/// The process that has a store open for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterProcess {
    /// Its process id.
    pub pid: u32,
    /// Where it can be asked, if it said so.
    pub address: Option<String>,
}

/// Says which process has the store in `folder` open for writing, if one has.
pub fn writer_process(folder: &Path) -> Option<WriterProcess> {
    let file = File::open(folder.join(LOCK_FILE)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read_note(&file),
        _ => None,
    }
}

/// The lock, held until dropped (the system lets go of it when the process dies, however it dies).
#[derive(Debug)]
pub struct WriterLock {
    file: File,
}

impl WriterLock {
    /// Takes the lock of a folder.
    ///
    /// # Errors
    /// `Locked`, with who holds it; `Unavailable` when the file can't be written.
    pub fn take(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(LOCK_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| unavailable("open", format!("{}: {error}", path.display())))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(&path, &file)),
            Err(TryLockError::Error(error)) => {
                return Err(unavailable("open", format!("{}: {error}", path.display())));
            }
        }
        let lock = Self { file };
        lock.note(None)?;
        Ok(lock)
    }

    /// Notes who holds the lock, and where to ask.
    ///
    /// # Errors
    /// `Unavailable` when the file can't be written.
    pub fn note(&self, address: Option<&str>) -> Result<(), StoreError> {
        let mut text = format!("pid={}\n", std::process::id());
        if let Some(address) = address {
            text.push_str(&format!("address={address}\n"));
        }
        let mut file = &self.file;
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.flush());
        written.map_err(|error| unavailable("open", format!("{LOCK_FILE}: {error}")))
    }
}

fn locked(path: &Path, file: &File) -> StoreError {
    let holder = match read_note(file) {
        Some(WriterProcess { pid, address: Some(address) }) => {
            format!("process {pid} has it open for writing and answers at {address}; ask there, or stop it")
        }
        Some(WriterProcess { pid, address: None }) => {
            format!("process {pid} has it open for writing; stop it, or open the store for reading only")
        }
        None => {
            "another process has it open for writing; stop it, or open the store for reading only".to_owned()
        }
    };
    failed(StoreErrorKind::Locked, "open", format!("{}: {holder}", path.display()))
}

fn read_note(mut file: &File) -> Option<WriterProcess> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(NOTE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    Some(WriterProcess { pid: field("pid")?.parse().ok()?, address: field("address").map(str::to_owned) })
}
