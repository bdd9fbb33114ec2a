//! The HTTP/JSON and gRPC contracts of Springhouse: wire types, exact parsing and writing of values, error codes, the
//! OpenAPI document. Knows JSON, protobuf and the Arrow stream format; knows nothing of sockets, files or clocks.

mod arrow_answer;
mod catalog;
mod definitions;
mod error;
mod features;
pub mod grpc;
mod job;
mod json;
mod openapi;
mod openings;
mod parse;
mod position;
mod push;
mod query;
mod routes;
mod status;
#[cfg(test)]
mod test_answer;
mod text;
mod write;

pub use arrow_answer::{AT_KEY, DEFINITION_KEY, LEVEL_KEY, arrow_answer};
pub use catalog::{
    EntityEntry, FeatureEntry, RequestField, ServiceEntry, ServiceList, ViewEntry, ViewList, tier_name,
};
pub use definitions::{DefinitionsBody, PlanBody};
pub use error::{ApiError, ERROR_CODES, ErrorBody, ErrorCode, ErrorDetail, INTERNAL, http_status};
pub use features::{
    AnswerFormat, EntityRows, FeatureColumnBody, FeatureRowBody, FeaturesBody, FeaturesRequestBody,
    Int64Format, Level, OriginName, PositionEntry, PriorityName,
};
pub use job::{
    AdminBody, DifferenceBody, JobBody, JobKind, JobProgress, JobRequestBody, JobState, VerifiedBody,
    ViewOutcome,
};
pub use json::{json_value, raw_value, write_string, write_value};
pub use openapi::openapi;
pub use parse::{AnswerOptions, ParsedFeatures, parse_features};
pub use position::from_object;
pub use push::{
    ARROW_STREAM, IDEMPOTENCY_KEY_BYTES_MAX, MANIFEST_KEY, PushBatch, PushBody, PushEnvelope,
    PushExceptionBody, PushRequestBody, RowOutcomeKind, arrow_batches, batch_key, parse_push,
};
pub use query::{QueryPair, parse_query, value_from_text};
pub use routes::{Method, ROUTES, Route, RouteName};
pub use status::{
    DeadLetterBody, DeadLetterList, ExplainBody, ExplainedFeature, HealthBody, PartitionBody, PositionsBody,
    ReadyBody, ReadyCheck, StatusBody, StoreBody, StreamBody, TopicBody, ViewStatusBody,
};
pub use text::{
    format_date, format_decimal, format_timestamp, parse_date, parse_timestamp, push_date, push_timestamp,
};
pub use write::{level_name, origin_name, status_name, write_features};
