//! Names, types, values, keys and definitions of Springhouse. No I/O, no clock, no async.

pub mod buckets;
pub mod change;
mod complete;
mod constant;
pub mod crash_point;
mod declared;
pub mod definition;
pub mod diagnostic;
pub mod diff;
pub mod event_id;
mod hash;
pub mod key;
mod load;
mod read;
mod resolve;
pub mod settings;
pub mod time;
mod topic_seq;
mod types;
mod value;
mod yaml;

pub use definition::{Definitions, ValueStatus};
pub use diagnostic::Diagnostic;
pub use hash::content_hash;
pub use key::{EntityKey, KeyError};
pub use load::{ExpressionProblem, LoadedDefinitions, definition_schema, load_definitions};
pub use read::Spans;
pub use settings::{Settings, load_settings};
pub use time::{Clock, Micros};
pub use topic_seq::{PARTITIONS_MAX, offset_of, partition_of, topic_seq};
pub use types::{SCALAR_TYPE_NAMES, TypeTextError, VECTOR_DIMENSION_MAX, ValueType};
pub use value::Value;
