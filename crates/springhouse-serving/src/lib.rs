//! Requests: planned once per shape, read in one batched store call per view, assembled with the freshness policy.
//! Knows nothing of HTTP, protobuf or JSON.

mod answer;
mod assemble;
mod error;
mod last_known;
mod plan;
mod read;
mod request;
mod server;
mod snapshot;

pub use answer::{DegradationLevel, FeatureAnswer, FeatureColumn, Origin};
pub use error::ServingError;
pub use request::{FeatureRequest, Frontiers, Selection, ServingSettings, Signature, ViewFrontier};
pub use server::FeatureServer;
