//! Names, types, values, keys and definitions of Springhouse. No I/O, no clock, no async.

pub mod crash_point;
pub mod definition;
pub mod event_id;
mod hash;
pub mod key;
pub mod time;
mod types;
mod value;

pub use definition::{Definitions, ValueStatus};
pub use hash::content_hash;
pub use key::{EntityKey, KeyError};
pub use time::{Clock, Micros};
pub use types::{SCALAR_TYPE_NAMES, TypeTextError, VECTOR_DIMENSION_MAX, ValueType};
pub use value::Value;
