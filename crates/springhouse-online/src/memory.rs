//! The in-memory store: the reference for all others.

/// Everything in memory; nothing survives the process.
#[derive(Debug, Default)]
pub struct MemoryStore {}
