//! The rule that decides every feature value, pure: no I/O, no clock, no async, no randomness, no SQL.

mod aggregate;
mod answer;
mod arrow_values;
mod codec;
mod exact;
mod plan;
mod point_in_time;
mod sketch;
mod stamp;
mod state;

pub use answer::{EntityAnswer, EntityExplanation, Reading, fill_default, status_at_age};
pub use arrow_values::{array_from_values, arrow_type, encode_keys, value_at, value_type_of};
pub use plan::{Event, PlanError, READ_BACK, ViewInput, ViewPlan};
pub use point_in_time::{
    EventColumns, LabelColumns, LabelOrder, LatestSearch, Seen, StampParts, TrainingColumns, nan_as_null,
    partition_point_near, training_values,
};
pub use stamp::{Stamp, Window, WindowBounds};
pub use state::{CodecError, EntityState};
