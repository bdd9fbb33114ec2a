//! What an operator may tune.

use serde::Deserialize;

/// Settings of the embedded store, in `springhouse.yaml` under `online:`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedSettings {
    /// The most bytes the store may take on disk. Only address space is reserved; raising it costs nothing until used.
    /// Never more than the size of the disk.
    pub map_size_bytes: u64,
    /// About how many bytes of states stay in memory. Larger: fewer reads from the file. Changed states stay beyond
    /// it until the next checkpoint, see `dirty_bytes_max`.
    pub memory_bytes_max: u64,
    /// About how many bytes of changed states may wait for a checkpoint. Beyond it a write first waits for one; at half
    /// of it a checkpoint starts by itself. Larger: fewer and larger checkpoints, more to do again after a kill.
    pub dirty_bytes_max: u64,
    /// The most threads, of all processes, that may read the file.
    pub readers_max: u32,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self {
            map_size_bytes: 64 << 30,
            memory_bytes_max: 1 << 30,
            dirty_bytes_max: 256 << 20,
            readers_max: 1024,
        }
    }
}
