//! One node of a project: opens and wires the registry, the online store, the lake, ingestion and serving, and runs the
//! jobs that need several of them. What the server, the command line and language bindings share; knows no HTTP.

mod clock;
mod error;
mod evaluate;
mod explain;
mod keeper;
mod node;
mod patience;
mod plan;
mod progress;
mod project;
mod store;
mod topics;
mod training;
mod verify;
mod worker;
mod workers;

pub use clock::{SettableClock, SystemClock};
pub use error::NodeError;
pub use evaluate::evaluate;
pub use node::{JobOutcome, Node, NodeOptions, NodePaths, NodeStatus, ViewLine, open_registry};
pub use patience::WAITING_FOR_STORE;
pub use plan::{Plan, Refusal};
pub use project::{
    FEATURES_FOLDER, Mistakes, Project, ProjectError, SETTINGS_FILE, STATE_FOLDER, load_files, read_section,
};
pub use springhouse_kafka::{KafkaSettings, PartitionStatus, TopicStatus, WorkerNote, note_name};
pub use springhouse_online::Condition;
pub use training::{History, TrainingOrder, snapshot_of};
pub use verify::{DIFFERENCES_MAX, Difference, VerifyOutcome};
pub use worker::work;
