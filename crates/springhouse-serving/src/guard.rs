//! What stands between a request and a store that is not in this process: hot cache, coalescing of equal reads, and per node of
//! the store a circuit breaker and a limit of calls that adapts; second calls within a budget. Every part can be switched off.
//!
//! The decisions are pure and given the moment ([`breaker`], [`limit`], [`budget`], [`cache`]); [`store`] is the async part.

mod breaker;
mod budget;
mod cache;
mod flights;
mod limit;
mod node;
mod store;

pub use breaker::BreakerState;
pub(crate) use flights::NoAnswer;
pub use store::GuardedStore;
pub(crate) use store::{Ask, Call, RowRead};

/// Microseconds since the guard was made, by a clock that never steps.
pub(crate) type Tick = u64;
