//! The online store on Redis or Valkey: one server, a primary watched by Sentinel, or a Cluster.
//!
//! One string per (view, generation, entity) holds the state as the kernel's codec writes it (version, fingerprint,
//! checksum; no column names), so a read is one `MGET`. Everything that changes goes through scripts that first check who
//! writes and what the store is:
//!
//! - Every shard has a **meta key**: the store's identity, the writer's epoch, and a number that grows with every write. A
//!   read fetches it in the same command as its rows. A store that was emptied, exchanged, or taken back to an earlier
//!   moment (a failover that lost confirmed writes) is noticed by that, and its rows are never taken for the truth.
//! - Rows that are not there yet go in a transaction that watches who the writer is, where the server allows that.
//! - The newest writer wins: opening raises the epoch, and the scripts of an older one then change nothing.
//! - A write that fits one script is atomic with its lane. A larger one (or one that touches several shards of a Cluster)
//!   is first stored whole as an **intent**, then carried out in parts, then its lane is set; whoever writes next
//!   completes an intent left behind. States in an intent are final ones, so doing it twice changes nothing.
//!
//! Why so: `docs/adr/0005-redis-store.md`.

mod connection;
mod error;
mod intent;
mod layout;
mod new_rows;
mod scripts;
mod settings;
mod shared;
mod slots;
mod store;
mod writer;

pub use settings::{RedisMode, RedisSettings, RowLayout};
pub use shared::RedisShared;
pub use store::RedisStore;
