//! Training values: the same answers as [`crate::ViewPlan::read`], for many labels at once over Arrow arrays.

use crate::ViewPlan;
use arrow::array::ArrayRef;
use springhouse_core::{Micros, ValueStatus};

/// Events of one partition of entities, in any order.
#[derive(Debug)]
pub struct EventColumns<'a> {
    /// The entity of each event: a dense number below `entity_count`, shared with the labels.
    pub entities: &'a [u32],
    /// Event times.
    pub event_times: &'a [Micros],
    /// Known-at times (for `availability: event`, the event times again).
    pub known_at: &'a [Micros],
    /// Sequence numbers.
    pub seq: &'a [i64],
    /// Event identities: rows of one (non-null) id count once, the least (known_at, seq) stays. None when not declared.
    pub event_ids: Option<&'a [Option<u128>]>,
    /// One array per [`ViewPlan::inputs`].
    pub inputs: &'a [ArrayRef],
}

/// What was asked: one moment of one entity per row, in any order.
#[derive(Debug)]
pub struct LabelColumns<'a> {
    /// The entity of each label.
    pub entities: &'a [u32],
    /// The moment of each label.
    pub at: &'a [Micros],
}

/// Raw answers, row for row as the labels.
#[derive(Debug)]
pub struct TrainingColumns {
    /// One array per feature, nulls where the status is not fresh.
    pub values: Vec<ArrayRef>,
    /// One vector per feature.
    pub statuses: Vec<Vec<ValueStatus>>,
    /// Latest views: the event time of the row used.
    pub event_times: Option<Vec<Option<Micros>>>,
}

/// Answers all labels of one partition. Cost: events + labels (times a logarithm for the sorts), not their product.
pub fn training_values(
    plan: &ViewPlan,
    entity_count: usize,
    events: &EventColumns<'_>,
    labels: &LabelColumns<'_>,
) -> TrainingColumns {
    let _ = (plan, entity_count, events, labels);
    unimplemented!()
}
