//! Latest values for many labels while events come by in any order: nothing is held but the labels.
//!
//! An event is seen by every label of its entity from `visible_at` on. It is offered to the first of them alone, which
//! keeps the greatest; at the end the greatest is handed on from label to label. That costs a search per event, and the
//! memory of the labels, however many events there are.

use super::LabelColumns;
use super::grouped::{Asked, Grouped, Happened, sort_by_key};
use super::latest::nan_as_null;
use crate::plan::{PlanKind, ViewPlan};
use crate::stamp::Stamp;
use arrow::array::ArrayRef;
use springhouse_core::{Micros, ValueStatus};
use std::ops::Range;

/// Labels of one partition by entity and time; what every [`LatestSearch`] over them shares.
#[derive(Debug)]
pub struct LabelOrder {
    /// Where each entity's labels start; one more than there are entities.
    offsets: Vec<u32>,
    /// Moments, ascending within an entity.
    at: Vec<Micros>,
    /// Which label each is.
    labels: Vec<u32>,
}

impl LabelOrder {
    /// Orders labels.
    ///
    /// # Panics
    /// When the columns differ in length, an entity is not below `entity_count`, or there are 2^32 labels or more.
    pub fn new(entity_count: usize, labels: &LabelColumns<'_>) -> Self {
        assert_eq!(labels.entities.len(), labels.at.len(), "label columns have one length");
        let item = |row: usize| Asked { at: labels.at[row], row: row as u32 };
        let mut grouped = Grouped::new(labels.entities, entity_count, |_| true, item);
        (0..entity_count).for_each(|entity| sort_by_key(grouped.of(entity), |label| label.at));
        let (offsets, asked) = grouped.into_parts();
        Self {
            offsets,
            at: asked.iter().map(|label| label.at).collect(),
            labels: asked.iter().map(|label| label.row).collect(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        4 * self.offsets.len() + 12 * self.at.len()
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// The first label of `from..end` that is not before a moment: near `from`, mostly.
    fn first_at(&self, from: usize, end: usize, at: Micros) -> usize {
        partition_point_counted(from..end, |label| self.at[label] < at)
    }

    fn of(&self, entity: u32) -> Range<usize> {
        self.offsets[entity as usize] as usize..self.offsets[entity as usize + 1] as usize
    }
}

/// The event that a label sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The label: its place in the [`LabelColumns`].
    pub label: u32,
    /// When it happened.
    pub event_time: Micros,
    /// What it was offered with.
    pub reference: i64,
    /// What the row's age makes of it: fresh, stale or expired. (A value of it may still be null.)
    pub status: ValueStatus,
}

/// Which parts of a stamp are not implied: what is, takes no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StampParts {
    /// False where every event is known when it happens.
    pub known_at: bool,
    /// False where events of one time are in the order of their references.
    pub seq: bool,
}

/// Finds the greatest visible event of every label; see the module.
#[derive(Clone, Debug, Default)]
pub struct LatestSearch {
    /// The greatest of the events offered to each label, in columns; `reference` breaks ties of stamps.
    event_time: Vec<Micros>,
    known_at: Option<Vec<Micros>>,
    seq: Option<Vec<i64>>,
    reference: Vec<i64>,
}

/// The reference of no event.
const NONE: i64 = i64::MIN;

/// In the order that counts.
type Best = (Micros, Micros, i64, i64);

impl LatestSearch {
    /// Nothing was offered yet.
    pub fn new(order: &LabelOrder, parts: StampParts) -> Self {
        let column = |is_there: bool| is_there.then(|| vec![i64::MIN; order.len()]);
        Self {
            event_time: vec![i64::MIN; order.len()],
            known_at: column(parts.known_at),
            seq: column(parts.seq),
            reference: vec![NONE; order.len()],
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let optional = |column: &Option<Vec<i64>>| column.as_ref().map_or(0, Vec::len);
        8 * (self.event_time.len() + optional(&self.known_at) + optional(&self.seq) + self.reference.len())
    }

    fn best(&self, place: usize) -> Best {
        let of = |column: &Option<Vec<i64>>| column.as_ref().map_or(0, |column| column[place]);
        (self.event_time[place], of(&self.known_at), of(&self.seq), self.reference[place])
    }

    fn set(&mut self, place: usize, best: Best) {
        (self.event_time[place], self.reference[place]) = (best.0, best.3);
        if let Some(known_at) = &mut self.known_at {
            known_at[place] = best.1;
        }
        if let Some(seq) = &mut self.seq {
            seq[place] = best.2;
        }
    }

    fn improve(&mut self, place: usize, stamp: Stamp, reference: i64) {
        // The event time decides nearly always; the rest lies elsewhere in memory.
        if stamp.event_time < self.event_time[place] {
            return;
        }
        let offered = (
            stamp.event_time,
            if self.known_at.is_some() { stamp.known_at } else { 0 },
            if self.seq.is_some() { stamp.seq } else { 0 },
            reference,
        );
        if offered > self.best(place) {
            self.set(place, offered);
        }
    }

    /// Takes events into account, some of all there are: they are brought in order, so that events and labels of an entity
    /// are passed through side by side. `stamp_of` and `reference_of` are asked by the event's position; a reference stands
    /// for its event and is not `i64::MIN`.
    ///
    /// # Panics
    /// When there are 2^32 events or more.
    pub fn offer(
        &mut self,
        order: &LabelOrder,
        entities: &[u32],
        stamp_of: impl Fn(usize) -> Stamp,
        reference_of: impl Fn(usize) -> i64,
    ) {
        let item = |row: usize| Happened {
            visible_at: stamp_of(row).visible_at(),
            event_time: stamp_of(row).event_time,
            row: row as u32,
        };
        let entity_count = order.offsets.len() - 1;
        let mut grouped = Grouped::new(entities, entity_count, |_| true, item);
        for entity in 0..entity_count {
            let happened = grouped.of(entity);
            sort_by_key(happened, |event| event.visible_at);
            self.meet(order, entity as u32, happened.iter().copied(), &stamp_of, &reference_of);
        }
    }

    /// The same with events of one entity, whose positions are `rows`. `times_of` gives event time and the moment from which it
    /// is visible, and is asked more often than the others.
    pub fn offer_entity(
        &mut self,
        order: &LabelOrder,
        entity: u32,
        rows: Range<usize>,
        times_of: impl Fn(usize) -> (Micros, Micros),
        stamp_of: impl Fn(usize) -> Stamp,
        reference_of: impl Fn(usize) -> i64,
    ) {
        let item = |row: usize| {
            let (event_time, visible_at) = times_of(row);
            Happened { visible_at, event_time, row: row as u32 }
        };
        let mut last = Micros::MIN;
        let is_next = |row: usize| {
            let (event_time, visible_at) = times_of(row);
            event_time == visible_at && std::mem::replace(&mut last, visible_at) <= visible_at
        };
        if rows.clone().all(is_next) {
            self.meet_in_order(order, entity, rows, |row| times_of(row).0, &stamp_of, &reference_of);
        } else if rows.clone().is_sorted_by_key(|row| times_of(row).1) {
            self.meet(order, entity, rows.map(item), &stamp_of, &reference_of);
        } else {
            let mut happened: Vec<Happened> = rows.map(item).collect();
            sort_by_key(&mut happened, |event| event.visible_at);
            self.meet(order, entity, happened.into_iter(), &stamp_of, &reference_of);
        }
    }

    /// Offers events of an entity that come in the order of their times and are visible from then on: only those that are the
    /// latest of what a label is the first to see are looked at.
    fn meet_in_order(
        &mut self,
        order: &LabelOrder,
        entity: u32,
        rows: Range<usize>,
        time_of: impl Fn(usize) -> Micros,
        stamp_of: &impl Fn(usize) -> Stamp,
        reference_of: &impl Fn(usize) -> i64,
    ) {
        let Range { start: mut place, end } = order.of(entity);
        let mut next = rows.start;
        while next < rows.end {
            place = order.first_at(place, end, time_of(next));
            if place == end {
                return;
            }
            let at = order.at[place];
            let after = partition_point_counted(next..rows.end, |row| time_of(row) <= at);
            // The rest of their stamps decides among those of one time.
            let time = time_of(after - 1);
            for row in (next..after).rev().take_while(|row| time_of(*row) == time) {
                self.improve(place, stamp_of(row), reference_of(row));
            }
            next = after;
        }
    }

    /// Passes through labels and events of an entity side by side; the events come in the order in which they become visible.
    fn meet(
        &mut self,
        order: &LabelOrder,
        entity: u32,
        happened: impl Iterator<Item = Happened>,
        stamp_of: &impl Fn(usize) -> Stamp,
        reference_of: &impl Fn(usize) -> i64,
    ) {
        let Range { start: mut first, end } = order.of(entity);
        let mut offer = |place: usize, event: Happened| {
            if event.event_time >= self.event_time[place] {
                let row = event.row as usize;
                self.improve(place, stamp_of(row), reference_of(row));
            }
        };
        // The latest of the events that the label at `first` is the first to see: the others need not be offered.
        let mut latest: Option<Happened> = None;
        for event in happened {
            if first < end && order.at[first] < event.visible_at {
                if let Some(latest) = latest.take() {
                    offer(first, latest);
                }
                first = order.first_at(first, end, event.visible_at);
            }
            if first == end {
                return;
            }
            match latest {
                Some(known) if known.event_time > event.event_time => {}
                // The rest of their stamps decides.
                Some(known) if known.event_time == event.event_time => {
                    offer(first, known);
                    latest = Some(event);
                }
                _ => latest = Some(event),
            }
        }
        if let Some(latest) = latest {
            offer(first, latest);
        }
    }

    /// Tells what each label sees; labels that see nothing are left out.
    ///
    /// # Panics
    /// When the plan is of windows.
    pub fn finish(
        mut self,
        plan: &ViewPlan,
        order: &LabelOrder,
        soft_ttl: Option<Micros>,
        mut each: impl FnMut(Seen),
    ) {
        let PlanKind::Latest(latest) = &plan.kind else { panic!("only latest values are searched for") };
        for bounds in order.offsets.windows(2) {
            for place in bounds[0] as usize..bounds[1] as usize {
                if place > bounds[0] as usize && self.best(place - 1) > self.best(place) {
                    self.set(place, self.best(place - 1));
                }
                let (event_time, .., reference) = self.best(place);
                if reference == NONE {
                    continue;
                }
                let age = order.at[place].saturating_sub(event_time);
                let status = crate::status_at_age(ValueStatus::Fresh, Some(age), soft_ttl, latest.hard_ttl);
                each(Seen { label: order.labels[place], event_time, reference, status });
            }
        }
    }
}

/// As [`partition_point_near`], where how near it is can't be foreseen: the first places are all looked at, without a branch.
fn partition_point_counted(range: Range<usize>, is_before: impl Fn(usize) -> bool) -> usize {
    const COUNTED: usize = 8;
    let count = |range: Range<usize>| -> usize { range.map(|place| usize::from(is_before(place))).sum() };
    let near = range.start + COUNTED;
    if near >= range.end {
        return range.start + count(range);
    }
    match count(range.start..near) {
        COUNTED => partition_point_near(near..range.end, is_before),
        before => range.start + before,
    }
}

/// The first place of `range` that is not before something, where those that are come first: looked for near the start, in time
/// by the logarithm of how far from it.
pub fn partition_point_near(range: Range<usize>, is_before: impl Fn(usize) -> bool) -> usize {
    let mut step = 1;
    while range.start + step < range.end && is_before(range.start + step) {
        step *= 2;
    }
    let (mut low, mut high) = (range.start + step / 2, range.end.min(range.start + step));
    while low < high {
        let middle = low.midpoint(high);
        match is_before(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

impl ViewPlan {
    /// The input that each feature is.
    ///
    /// # Panics
    /// When the plan is of windows.
    pub fn inputs_of_rows(&self) -> &[usize] {
        let PlanKind::Latest(latest) = &self.kind else { panic!("windows see more than one row") };
        &latest.columns
    }

    /// The values of labels that each see one row: row `i` of the inputs, one per [`ViewPlan::inputs`], for label `i`. A null is
    /// a feature's own (`null`); what else there is to say of it is the row's status.
    ///
    /// # Panics
    /// When the plan is of windows.
    pub fn values_of_rows(&self, inputs: &[ArrayRef]) -> Vec<ArrayRef> {
        self.inputs_of_rows().iter().map(|input| nan_as_null(inputs[*input].clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use springhouse_core::ValueType;
    use springhouse_core::definition::{
        DefaultValue, FeatureView, FreshnessSlo, LatestFeature, Meta, ViewKind,
    };

    fn plan(hard_ttl: Micros) -> ViewPlan {
        let feature = LatestFeature {
            name: "row".into(),
            column: "row".into(),
            value_type: ValueType::Int64,
            default: DefaultValue::Null,
            pii: false,
            meta: Meta::default(),
        };
        let view = FeatureView {
            name: "v".into(),
            version: 1,
            entity: "e".into(),
            source: "s".into(),
            key_columns: vec!["k".into()],
            op: None,
            filter: None,
            derived: Vec::new(),
            kind: ViewKind::Latest(vec![feature]),
            soft_ttl: None,
            hard_ttl,
            slo: FreshnessSlo { tier: None, p95: 1, p99: 1 },
            meta: Meta::default(),
        };
        ViewPlan::compile(&view, &|_| Some(ValueType::Int64)).unwrap()
    }

    #[test]
    fn every_label_finds_what_looking_at_all_events_finds() {
        let mut state = 77u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for round in 0..400 {
            let (entities, span) = (1 + below(4) as usize, 1 + below(60));
            let events: Vec<(u32, Stamp)> = (0..below(60))
                .map(|_| {
                    let event_time = below(span) as i64 - 5;
                    let known_at = event_time + below(12) as i64 - 2;
                    (below(entities as u64) as u32, Stamp { event_time, known_at, seq: below(3) as i64 })
                })
                .collect();
            let asked: Vec<u32> = (0..below(40)).map(|_| below(entities as u64) as u32).collect();
            let at: Vec<Micros> = asked.iter().map(|_| below(span) as i64 - 5).collect();
            let order = LabelOrder::new(entities, &LabelColumns { entities: &asked, at: &at });
            // Stamps of which a part is implied, and others.
            let parts = StampParts { known_at: below(3) > 0, seq: below(3) > 0 };
            let events: Vec<(u32, Stamp)> = events
                .into_iter()
                .enumerate()
                .map(|(reference, (entity, stamp))| {
                    let known_at = if parts.known_at { stamp.known_at } else { stamp.event_time };
                    let seq = if parts.seq { stamp.seq } else { reference as i64 };
                    (entity, Stamp { known_at, seq, ..stamp })
                })
                .collect();
            let mut search = LatestSearch::new(&order, parts);
            // In two parts, as a scan brings them.
            let (first, second) = events.split_at(below(1 + events.len() as u64) as usize);
            for (part, before) in [(first, 0), (second, first.len())] {
                let (stamp_of, reference_of) = (|row: usize| part[row].1, |row: usize| (before + row) as i64);
                let of: Vec<u32> = part.iter().map(|(entity, _)| *entity).collect();
                if below(2) == 0 {
                    search.offer(&order, &of, stamp_of, reference_of);
                    continue;
                }
                // Entity by entity, by time or in any order.
                let is_sorted = below(2) == 0;
                for entity in 0..entities as u32 {
                    let mut rows: Vec<usize> = (0..part.len()).filter(|row| of[*row] == entity).collect();
                    if is_sorted {
                        rows.sort_by_key(|row| part[*row].1.event_time);
                    }
                    let times_of = |i: usize| (stamp_of(rows[i]).event_time, stamp_of(rows[i]).visible_at());
                    let (stamp_of, reference_of) =
                        (|i: usize| stamp_of(rows[i]), |i: usize| reference_of(rows[i]));
                    search.offer_entity(&order, entity, 0..rows.len(), times_of, stamp_of, reference_of);
                }
            }
            let (soft, hard) = (below(20) as i64, 10 + below(20) as i64);
            let mut found = vec![None; asked.len()];
            let mut all = Vec::new();
            search.finish(&plan(hard), &order, Some(soft), |seen| all.push(seen));
            for seen in all {
                assert!(found[seen.label as usize].replace(seen).is_none());
            }
            for (label, (entity, at)) in asked.iter().zip(&at).enumerate() {
                let visible = events.iter().enumerate();
                let visible = visible.filter(|(_, (of, stamp))| of == entity && stamp.visible_at() <= *at);
                let greatest = visible.max_by_key(|(reference, (_, stamp))| (*stamp, *reference));
                let expected = greatest.map(|(reference, (_, stamp))| Seen {
                    label: label as u32,
                    event_time: stamp.event_time,
                    reference: reference as i64,
                    status: match at - stamp.event_time {
                        age if age > hard => ValueStatus::Expired,
                        age if age > soft => ValueStatus::Stale,
                        _ => ValueStatus::Fresh,
                    },
                });
                assert_eq!(found[label], expected, "round {round}, label {label}");
            }
        }
    }
}
