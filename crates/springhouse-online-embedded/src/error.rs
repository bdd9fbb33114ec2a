//! From what went wrong to what the caller can do about it.

use heed::MdbError;
use springhouse_online::{StoreError, StoreErrorKind};

const STORE: &str = "embedded";

pub(crate) fn failed(kind: StoreErrorKind, action: &'static str, detail: impl Into<String>) -> StoreError {
    StoreError { kind, action, store: STORE, detail: detail.into() }
}

pub(crate) fn invalid(action: &'static str, detail: impl Into<String>) -> StoreError {
    failed(StoreErrorKind::Invalid, action, detail)
}

pub(crate) fn corrupt(action: &'static str, detail: impl Into<String>) -> StoreError {
    failed(StoreErrorKind::Corrupt, action, detail)
}

pub(crate) fn unavailable(action: &'static str, detail: impl Into<String>) -> StoreError {
    failed(StoreErrorKind::Unavailable, action, detail)
}

/// A lock is poisoned: a write stopped half way, so what is in memory can't be trusted. The file can.
pub(crate) fn poisoned(action: &'static str) -> StoreError {
    unavailable(
        action,
        "an earlier write panicked half way; open the store again to go back to its last checkpoint",
    )
}

/// For `map_err`: what LMDB says, as a store error.
pub(crate) fn from_lmdb(action: &'static str) -> impl Fn(heed::Error) -> StoreError {
    move |error| match error {
        heed::Error::Mdb(MdbError::MapFull) => {
            unavailable(action, "the file has reached `map_size_bytes`; raise it and open the store again")
        }
        heed::Error::Mdb(MdbError::ReadersFull) => {
            unavailable(action, "more threads read the file than `readers_max` allows; raise it")
        }
        heed::Error::Mdb(MdbError::MapResized) => {
            unavailable(action, "another process has raised `map_size_bytes`; open the store again")
        }
        heed::Error::Mdb(
            error @ (MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::Invalid
            | MdbError::VersionMismatch
            | MdbError::Incompatible),
        ) => corrupt(action, format!("the file is damaged or no store ({error}); remove it and rebuild")),
        heed::Error::EnvAlreadyOpened => {
            failed(StoreErrorKind::Locked, action, "this process has the store open already")
        }
        heed::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            unavailable(action, "the disk is full; nothing is lost, free some space and it goes on")
        }
        error => unavailable(action, error.to_string()),
    }
}
