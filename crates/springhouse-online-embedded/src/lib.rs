//! The embedded online store: state in memory over LMDB, in one folder, without a server.
//!
//! Two levels. Reads and writes meet in a sharded map; a checkpoint takes what changed, with the lanes that it came
//! from, and writes it to LMDB in one transaction. Between checkpoints nothing is durable: the caller keeps a log (or
//! can read its source again) and starts after the lane positions of the last checkpoint. LMDB needs no recovery, so a
//! store opens at once after a kill. Why so: `docs/adr/0002-embedded-store.md`.
//!
//! One process writes ([`EmbeddedStore`]); any number of others read the last checkpoint ([`EmbeddedReader`]).

mod catalog;
mod checkpoint;
mod disk;
mod error;
mod lock;
mod memory;
mod reader;
mod settings;
mod store;

pub use lock::{WriterLock, WriterProcess, writer_process};
pub use reader::EmbeddedReader;
pub use settings::EmbeddedSettings;
pub use store::EmbeddedStore;
