//! The HTTP and gRPC side of `springhouse serve`: binds the contracts of `springhouse-api` to a socket, on top of one open node.
//! Decides nothing about features: it parses, asks the node, writes, measures, and stops in good order.

mod app;
mod body;
mod connection;
mod grpc_status;
mod in_place;
mod in_process;
mod jobs;
mod metrics;
mod outbox;
mod peer;
mod problem;
mod routes;
mod serve;
mod served_log;
mod settings;
mod trace;

pub use in_process::InProcess;
pub use metrics::{METRICS, Metric};
pub use serve::{ServerError, serve, shutdown_signal};
pub use settings::ServerSettings;
pub use trace::{FinishedRequest, ParentSpan, RequestTracer, TraceContext};
