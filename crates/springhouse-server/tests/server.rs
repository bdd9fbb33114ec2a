//! The server as its callers see it: a real node in a folder of its own, a real socket, a real HTTP client.
//!
//! The clock stands where a test sets it, so that answers are the same in every run.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect, its helpers too")]

#[path = "server/support.rs"]
mod support;

#[path = "server/errors.rs"]
mod errors;
#[path = "server/features.rs"]
mod features;
#[path = "server/grpc.rs"]
mod grpc;
#[path = "server/lifecycle.rs"]
mod lifecycle;
#[path = "server/operate.rs"]
mod operate;
#[path = "server/push.rs"]
mod push;
