//! Training values: the same answers as [`crate::ViewPlan::read`], for many labels at once over Arrow arrays.

use crate::arrow_values::{array_from_values, value_at};
use crate::{EntityState, Event, Stamp, ViewPlan};
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
pub fn training_values(
    plan: &ViewPlan,
    entity_count: usize,
    events: &EventColumns<'_>,
    labels: &LabelColumns<'_>,
) -> TrainingColumns {
    let kept = kept_rows(events);
    let mut states: Vec<EntityState> = (0..entity_count).map(|_| plan.empty()).collect();
    for row in kept {
        let values = events.inputs.iter().zip(plan.inputs());
        let event = Event {
            stamp: events.stamp(row),
            values: values.map(|(array, input)| value_at(array, row, input.value_type())).collect(),
        };
        plan.insert(&mut states[events.entities[row] as usize], event, Micros::MIN);
    }
    let asked = labels.entities.iter().zip(labels.at);
    let answers: Vec<_> = asked.map(|(entity, at)| plan.read(&states[*entity as usize], *at)).collect();
    let columns = 0..plan.features().len();
    TrainingColumns {
        values: columns
            .clone()
            .map(|i| array_from_values(&plan.features()[i].1, answers.iter().map(|a| &a.values[i])))
            .collect(),
        statuses: columns.map(|i| answers.iter().map(|a| a.statuses[i]).collect()).collect(),
        event_times: plan.is_latest().then(|| answers.iter().map(|a| a.event_time).collect()),
    }
}

impl EventColumns<'_> {
    fn stamp(&self, row: usize) -> Stamp {
        Stamp { event_time: self.event_times[row], known_at: self.known_at[row], seq: self.seq[row] }
    }
}

/// The rows that count: of those with one event id, the one with the least (known_at, seq).
fn kept_rows(events: &EventColumns<'_>) -> Vec<usize> {
    let Some(ids) = events.event_ids else { return (0..events.entities.len()).collect() };
    let mut first: HashMap<u128, usize> = HashMap::new();
    let arrival = |row: usize| (events.known_at[row], events.seq[row], events.event_times[row], row);
    for (row, id) in ids.iter().enumerate() {
        if let Some(id) = id {
            let held = first.entry(*id).or_insert(row);
            if arrival(row) < arrival(*held) {
                *held = row;
            }
        }
    }
    let is_kept = |row: &usize| ids[*row].is_none_or(|id| first[&id] == *row);
    (0..events.entities.len()).filter(is_kept).collect()
}
