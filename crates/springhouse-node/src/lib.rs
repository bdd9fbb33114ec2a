//! One node of a project: opens and wires the registry, the online store, the lake, ingestion and serving, and runs the
//! jobs that need several of them. What the server, the command line and language bindings share; knows no HTTP.

mod clock;
mod node;
mod verify;

pub use clock::{SettableClock, SystemClock};
pub use node::{JobOutcome, Node, NodeError, NodeOptions, NodePaths, NodeStatus, ViewLine};
pub use verify::{Difference, VerifyOutcome};
