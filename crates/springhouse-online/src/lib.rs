//! The online store: the state of every entity in every view, for the serving path.

mod memory;
mod shared;
mod store;
pub mod suite;

pub use memory::MemoryStore;
pub use shared::{Build, Builds, Positions, Replacement, SharedNotes, SharedRow, SharedRows, build_name};
pub use store::{
    BoxFuture, Condition, Holding, Lane, OnlineStore, States, StoreError, StoreErrorKind, StoreStatistics,
    ViewHandle, ViewKeys, ViewStatus, Write,
};
