//! Requests: planned once per shape, read in one call of the store for all views, assembled with the freshness policy.
//! Knows nothing of HTTP, protobuf or JSON.

mod admission;
mod answer;
mod assemble;
mod error;
mod guard;
mod last_known;
mod plan;
mod read;
mod request;
mod served;
mod server;
mod snapshot;
mod stages;
mod statistics;

pub use answer::{
    AnswerHead, DegradationLevel, FeatureAnswer, FeatureColumn, FeatureHead, Origin, Prepared, ViewHead,
};
pub use error::ServingError;
pub use guard::{BreakerState, GuardedStore};
pub use request::{
    CallOptions, FeatureRequest, Frontiers, Priority, Selection, ServingSettings, Signature, ViewFrontier,
};
pub use served::ServedStore;
pub use server::FeatureServer;
pub use stages::{Stage, Stages};
pub use statistics::{Fallbacks, GuardStatistics, NodeStatistics, ServingStatistics};
