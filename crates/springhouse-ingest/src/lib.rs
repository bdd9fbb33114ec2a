//! Push: strict validation, a durable log with group commit, the applier, the flush to the lake, dead letters.
//!
//! A push is checked row by row where it arrives ([`PushOutcome`] says what became of each), stamped and written by the one
//! log writer, made durable with its group, applied to the online store, and only then answered. Rows move to the lake
//! later. Every step remembers its position with its data, so that a stop at any moment loses nothing that was answered
//! and counts nothing twice. No HTTP, no definitions from files, no reading of features.

mod applier;
mod dead_letters;
mod dedup;
mod flusher;
mod given;
mod latency;
mod log;
mod messages;
mod outcome;
mod progress;
mod rows;
mod service;
mod settings;
mod shared;
mod stamp;
mod topics;
mod validate;
mod writer;

pub use applier::StartAt;
pub use given::{GivenRows, GivenSource, given_rows};
pub use latency::LatencyHistogram;
pub use messages::{Message, Messages};
pub use outcome::{
    DeadLetter, IngestPositions, PushError, PushOutcome, PushRequest, PushRows, ROW_CODES, RowOutcome,
};
pub use service::Ingest;
pub use settings::PushSettings;
pub use shared::{Checked, FedBuild, TakenOver, TopicChecker, TopicWorker, WorkError, fed_builds};
pub use topics::{OffsetRange, PartitionPosition};

/// What the log is applied to, and from where.
#[derive(Clone, Debug)]
pub struct Feeding {
    /// By source name, the feeds of its views.
    pub views: std::collections::BTreeMap<String, Vec<ViewFeed>>,
    /// Where the store takes the log up.
    pub start: StartAt,
}

impl From<std::collections::BTreeMap<String, Vec<ViewFeed>>> for Feeding {
    /// Where the store's lane says.
    fn from(views: std::collections::BTreeMap<String, Vec<ViewFeed>>) -> Self {
        Self { views, start: StartAt::Lane }
    }
}

/// One view, or one build of a view, that a stream's rows are applied to. A generation that is being rebuilt is fed beside
/// the active one: two feeds of one view.
#[derive(Clone, Debug)]
pub struct ViewFeed {
    /// View and generation.
    pub handle: springhouse_online::ViewHandle,
    /// Rows with an offset below this are not applied: the view's history brings them. When rows from here on are in
    /// the log already as the feed is first attached, they are applied then. A feed that was taken away must not come
    /// back: make a new generation.
    pub start: i64,
}
