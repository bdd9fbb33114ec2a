//! What is compiled once from a feature view, and the operations on an entity's state that follow from it.

use crate::Stamp;
use crate::answer::{EntityAnswer, EntityExplanation};
use crate::state::EntityState;
use springhouse_core::definition::FeatureView;
use springhouse_core::{Micros, Value, ValueType};

/// How far back from the newest applied moment a read is still exact: raw events this young stay beside the tiles.
pub const READ_BACK: Micros = 10 * springhouse_core::time::SECOND;

/// One Arrow column that a plan reads for each event.
#[derive(Clone, Debug, PartialEq)]
pub enum ViewInput {
    /// A column of the source or a derived column.
    Column {
        /// Its name.
        name: String,
        /// Its type.
        value_type: ValueType,
    },
    /// A boolean: whether an aggregate's `where` is true (null is not true).
    Predicate {
        /// The SQL text.
        sql: String,
    },
}

/// One event of one entity, with a value for each of the plan's inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its times.
    pub stamp: Stamp,
    /// One per [`ViewPlan::inputs`]; predicates are `Value::Bool`, anything but `Bool(true)` is not true.
    pub values: Vec<Value>,
}

/// Everything that the kernel must know of a feature view, resolved once.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewPlan {
    // kernel owner: replace
    pub(crate) view: FeatureView,
}

/// Why a view has no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("view `{view}` can't be planned: {reason}")]
pub struct PlanError {
    /// The view.
    pub view: String,
    /// What is wrong with it.
    pub reason: String,
}

impl ViewPlan {
    /// Compiles a view. `column_type` gives the type of a source or derived column.
    ///
    /// # Errors
    /// When a function does not take the column's type, or a parameter is out of range.
    pub fn compile(
        view: &FeatureView,
        column_type: &dyn Fn(&str) -> Option<ValueType>,
    ) -> Result<Self, PlanError> {
        let _ = (view, column_type);
        unimplemented!()
    }

    /// The columns and predicates that every event must bring, in order, without duplicates.
    pub fn inputs(&self) -> &[ViewInput] {
        unimplemented!()
    }

    /// Names and types of the features, in order.
    pub fn features(&self) -> &[(String, ValueType)] {
        unimplemented!()
    }

    /// True for a view of latest values.
    pub fn is_latest(&self) -> bool {
        unimplemented!()
    }

    /// The state of an entity without events.
    pub fn empty(&self) -> EntityState {
        unimplemented!()
    }

    /// Adds an event. `now`: the newest moment of the writer (its clock, or the cut of a materialisation); events with
    /// `visible_at < now - READ_BACK` go into tiles, younger ones stay raw, so that every read at `T >= now - READ_BACK`
    /// is exact.
    pub fn insert(&self, state: &mut EntityState, event: Event, now: Micros) {
        let _ = (state, event, now);
        unimplemented!()
    }

    /// Adds all events of `other` (which `state` must not hold yet). Commutative and associative, `empty` is neutral.
    pub fn merge(&self, state: &mut EntityState, other: &EntityState) {
        let _ = (state, other);
        unimplemented!()
    }

    /// Folds raw events older than `now - READ_BACK` into tiles and drops what no read at or after that moment can see.
    pub fn compact(&self, state: &mut EntityState, now: Micros) {
        let _ = (state, now);
        unimplemented!()
    }

    /// The raw (before defaults) value of every feature at `at`.
    pub fn read(&self, state: &EntityState, at: Micros) -> EntityAnswer {
        let _ = (state, at);
        unimplemented!()
    }

    /// The answer for an entity without any state.
    pub fn read_empty(&self) -> EntityAnswer {
        unimplemented!()
    }

    /// The tiles, raw events or row behind the answer at `at`.
    pub fn explain(&self, state: &EntityState, at: Micros) -> EntityExplanation {
        let _ = (state, at);
        unimplemented!()
    }

    /// Appends the state's bytes: versioned, checksummed, compact, no column names; equal states, equal bytes.
    pub fn encode(&self, state: &EntityState, out: &mut Vec<u8>) {
        let _ = (state, out);
        unimplemented!()
    }

    /// Reads a state that [`Self::encode`] wrote for the same plan.
    ///
    /// # Errors
    /// [`crate::CodecError`] when the bytes are damaged, of another version, or of another plan.
    pub fn decode(&self, bytes: &[u8]) -> Result<EntityState, crate::CodecError> {
        let _ = bytes;
        unimplemented!()
    }
}
