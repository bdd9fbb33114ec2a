//! Files that are not written to their end yet.

use std::fs::File;
use std::path::Path;

/// What their names end with.
pub(crate) const PARTIAL: &str = ".partial";

/// One that nobody has written to for so long, and nobody holds, is of a process that was killed. Seconds.
const ABANDONED_AFTER: u64 = 60;

/// Says that somebody is at it, as long as the file is open. Where files can't be locked, nothing is removed either.
pub(crate) fn hold(file: &File) {
    let _ = file.try_lock();
}

/// Removes one that will not be whole: it is of no use, and the error that matters is the one that it is for.
pub(crate) fn discard(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Removes what processes that were killed have left in a directory, of names that begin so.
pub(crate) fn remove_abandoned(directory: &Path, prefix: &str) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if name.starts_with(prefix)
            && name.ends_with(PARTIAL)
            && age.is_some_and(|age| age.as_secs() >= ABANDONED_AFTER)
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::debug!(%error, "a half-written file can't be removed");
        }
    }
}
