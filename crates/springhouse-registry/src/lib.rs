//! What is applied: an append-only chain of snapshots on object storage.
//!
//! Each `apply` puts one file, `00000001.json`, `00000002.json` and so on, and only if nobody has put that number before
//! (put-if-absent), so of two people who apply at once one wins and the other is told to look again. A snapshot names the
//! checksum of its parent, and nothing is ever changed or deleted. Knows nothing of YAML, views' state or serving.

mod error;
mod snapshot;
mod store;

pub use error::{RegistryError, RegistryErrorKind};
pub use snapshot::{Snapshot, SnapshotMeta};
pub use store::Registry;
