//! Training values: the same answers as [`crate::ViewPlan::read`], for many labels at once over Arrow arrays.

mod grouped;
mod in_order;
mod latest;
mod search;
mod suffix;
mod timeline;
mod windows;

pub use latest::nan_as_null;
pub use search::{LabelOrder, LatestSearch, Seen, StampParts, partition_point_near};

use crate::plan::{PlanKind, ViewPlan};
use crate::stamp::Stamp;
use arrow::array::ArrayRef;
use hashbrown::HashMap;
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
///
/// # Panics
/// When columns of one side differ in length, an entity is not below `entity_count`, an input is not of its Arrow type,
/// or a partition has 2^32 rows or more.
pub fn training_values(
    plan: &ViewPlan,
    entity_count: usize,
    events: &EventColumns<'_>,
    labels: &LabelColumns<'_>,
) -> TrainingColumns {
    events.check(plan);
    assert_eq!(labels.entities.len(), labels.at.len(), "label columns have one length");
    let kept = events.event_ids.map(|ids| first_arrivals(events, ids));
    let is_kept = |row: usize| kept.as_ref().is_none_or(|kept| kept[row]);
    match &plan.kind {
        PlanKind::Latest(latest) => latest::answer(plan, latest, entity_count, events, labels, is_kept),
        PlanKind::Windows(windows) => windows::answer(plan, windows, entity_count, events, labels, is_kept),
    }
}

impl EventColumns<'_> {
    fn check(&self, plan: &ViewPlan) {
        let rows = self.entities.len();
        assert!(rows < u32::MAX as usize, "a partition has fewer than 2^32 rows");
        let lengths = [self.event_times.len(), self.known_at.len(), self.seq.len()];
        assert_eq!(lengths, [rows; 3], "event columns have one length");
        assert_eq!(self.inputs.len(), plan.inputs.len(), "there is one array per input of the plan");
        for (array, input) in self.inputs.iter().zip(&plan.inputs) {
            assert_eq!(array.len(), rows, "event columns have one length");
            let expected = crate::arrow_type(input.value_type());
            assert_eq!(*array.data_type(), expected, "an input has the Arrow type of its value type");
        }
    }

    fn stamp(&self, row: usize) -> Stamp {
        Stamp { event_time: self.event_times[row], known_at: self.known_at[row], seq: self.seq[row] }
    }
}

/// Per row, whether it counts: of the rows with one event id, only the one with the least (known_at, seq).
fn first_arrivals(events: &EventColumns<'_>, ids: &[Option<u128>]) -> Vec<bool> {
    let mut kept = vec![true; events.entities.len()];
    assert_eq!(ids.len(), kept.len(), "event columns have one length");
    // Rows that are equal in all of these are the same to every answer, unless their contents differ; the row number
    // then decides, as the file's order would.
    let arrival = |row: usize| (events.known_at[row], events.seq[row], events.event_times[row], row);
    let mut first: HashMap<u128, u32> = HashMap::with_capacity(ids.len());
    for (row, id) in ids.iter().enumerate() {
        let Some(id) = id else { continue };
        let held = first.entry(*id).or_insert(row as u32);
        let other = *held as usize;
        if other == row {
            continue;
        }
        if arrival(row) < arrival(other) {
            kept[other] = false;
            *held = row as u32;
        } else {
            kept[row] = false;
        }
    }
    kept
}
