//! SQL expressions over rows: checked when a definition is planned, evaluated over Arrow by DataFusion's scalar engine.
//! No session, no I/O. Only deterministic scalar functions. A row on which an expression fails (division by zero, a cast
//! that does not fit, an integer that overflows) gets null for it, the same on every path; floats follow IEEE 754, so
//! `1.0 / 0` is infinite.
//!
//! NaN is null: a float column's NaN is null to every expression, a comparison never sees a NaN, and no computed float is
//! one (a plain column passes through untouched, as it is). So a predicate over a NaN is not true, wherever it is asked.

mod check;
mod error;
mod expression;
mod functions;
mod nan;
mod projection;
mod query;
mod request;
mod resolve;
mod steps;

pub use error::ExprError;
pub use expression::Expression;
pub use projection::{ProjectedRows, SourceTransform, ViewProjection};
pub use query::{PlannedRowQuery, RowOutput, RowQuery};
pub use request::RequestPlan;
pub use resolve::resolve_types;
