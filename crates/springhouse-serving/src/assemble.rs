//! From states to columns: the kernel's answer, ages, statuses, policy, defaults; then what is computed from those.

use crate::answer::{DegradationLevel, FeatureAnswer, Origin};
use crate::error::ServingError;
use crate::plan::{ColumnFrom, ColumnShape, ComputedInput, ComputedView, RequestShape, ViewRead};
use crate::read::{Found, FoundRow, Inputs, age_of};
use crate::request::ViewFrontier;
use crate::snapshot::{ServedView, Snapshot};
use arrow::array::{Array, ArrayRef};
use springhouse_core::definition::{OnAbsent, OnStale};
use springhouse_core::time::format_duration;
use springhouse_core::{Micros, Value, ValueStatus};
use springhouse_kernel::{EntityState, Reading, array_from_values, status_at_age, value_at};
use std::borrow::Cow;
use std::sync::Arc;

/// The moment and the caller's own limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Micros,
    pub(crate) max_age: Option<Micros>,
    pub(crate) drop_stale: bool,
}

/// An answer with room for everything.
pub(crate) fn empty_answer(shape: &RequestShape, row_count: usize, at: Micros) -> FeatureAnswer {
    let (values, views) = (shape.columns.len() * row_count, shape.head.views.len());
    FeatureAnswer {
        head: Arc::clone(&shape.head),
        at,
        row_count,
        level: DegradationLevel::Healthy,
        values: std::iter::repeat_with(|| Value::Null).take(values).collect(),
        statuses: vec![ValueStatus::Unavailable; values],
        origins: vec![Origin::Default; values],
        ages: vec![None; views * row_count],
        event_times: vec![None; views * row_count],
        cuts: vec![None; views],
    }
}

/// Fills in what was found of the stored view at this place in the shape's reads.
pub(crate) fn assemble_view(
    snapshot: &Snapshot,
    shape: &RequestShape,
    place: usize,
    found: &Found,
    moment: Moment,
    answer: &mut FeatureAnswer,
) -> Result<(), ServingError> {
    let read = &shape.reads[place];
    let view = &snapshot.views[read.view];
    let rows = Rows { shape, read, place, view, moment };
    answer.cuts[place] = found.cut();
    for row in 0..answer.row_count {
        match found {
            Found::States(states, frontier) => {
                rows.answer(states[row].as_deref(), frontier, answer, row, Origin::Store)?
            }
            Found::Rows(found) => match &found[row] {
                FoundRow::Read(read) => {
                    rows.answer(read.state.as_deref(), &read.frontier, answer, row, read.origin)?
                }
                FoundRow::Known(known) => {
                    rows.answer(known.state.as_deref(), &known.frontier, answer, row, Origin::LastKnown)?
                }
                FoundRow::Nothing => rows.unavailable(answer, row),
            },
        }
    }
    Ok(())
}

/// What is the same for all rows of a view.
struct Rows<'a> {
    shape: &'a RequestShape,
    read: &'a ViewRead,
    place: usize,
    view: &'a ServedView,
    moment: Moment,
}

impl Rows<'_> {
    /// One row, from a state that comes from there.
    fn answer(
        &self,
        state: Option<&EntityState>,
        frontier: &ViewFrontier,
        answer: &mut FeatureAnswer,
        row: usize,
        read_from: Origin,
    ) -> Result<(), ServingError> {
        let plan = &self.view.handle.plan;
        let policy = &self.shape.policy;
        let may_refuse = policy.may_refuse();
        let mut reading = state.map(|state| plan.reading(state, self.moment.at));
        let event_time = reading.as_ref().and_then(Reading::event_time);
        let age = age_of(plan.is_latest(), event_time, frontier, self.moment.at);
        answer.ages[self.place * answer.row_count + row] = age;
        answer.event_times[self.place * answer.row_count + row] = event_time;
        let of_fresh = self.status(ValueStatus::Fresh, age);
        for (feature, column) in &self.read.features {
            let at = column * answer.row_count + row;
            let value = &mut answer.values[at];
            let raw = match &mut reading {
                Some(reading) => reading.take(*feature, value),
                None => {
                    value.clone_from(&self.view.empty.values[*feature]);
                    self.view.empty.statuses[*feature]
                }
            };
            let mut status = match raw {
                ValueStatus::Fresh => of_fresh,
                raw => self.status(raw, age),
            };
            if may_refuse {
                self.refuse(status, &self.shape.columns[*column], row, age)?;
            }
            let mut origin = read_from;
            if !is_served(status, policy.on_stale, self.moment.drop_stale) {
                value.clone_from(&self.shape.columns[*column].default);
                origin = Origin::Default;
            }
            if read_from == Origin::LastKnown {
                status = ValueStatus::Unavailable;
            }
            answer.statuses[at] = status;
            answer.origins[at] = origin;
        }
        Ok(())
    }

    /// What becomes of the status that the kernel gave a value of this age.
    fn status(&self, raw: ValueStatus, age: Option<Micros>) -> ValueStatus {
        // A window over nothing loaded is no answer, whatever it counts to.
        if !self.view.handle.plan.is_latest() && age.is_none() {
            return ValueStatus::Expired;
        }
        let status = status_at_age(raw, age, self.view.soft_ttl, self.view.hard_ttl);
        let is_over_max = self.moment.max_age.zip(age).is_some_and(|(max, age)| age > max);
        if status == ValueStatus::Fresh && is_over_max { ValueStatus::Stale } else { status }
    }

    /// The defaults; the rest says already that there is nothing.
    fn unavailable(&self, answer: &mut FeatureAnswer, row: usize) {
        for (_, column) in &self.read.features {
            let value = &mut answer.values[column * answer.row_count + row];
            value.clone_from(&self.shape.columns[*column].default);
        }
    }

    /// The service's policy may be to fail rather than to serve this.
    fn refuse(
        &self,
        status: ValueStatus,
        column: &ColumnShape,
        row: usize,
        age: Option<Micros>,
    ) -> Result<(), ServingError> {
        let policy = &self.shape.policy;
        let code = match status {
            ValueStatus::Stale if policy.on_stale == OnStale::Fail => "stale_refused",
            ValueStatus::Expired if policy.on_expired == OnAbsent::Fail => "expired_refused",
            ValueStatus::Missing if policy.on_missing == OnAbsent::Fail => "missing_refused",
            _ => return Ok(()),
        };
        let age = age.map_or_else(String::new, |age| format!(", its age is {}", format_duration(age)));
        let word = code.trim_end_matches("_refused");
        let message = format!("`{}` of row {row} is {word}{age}", column.feature);
        let policy = format!("the service's policy is `on_{word}: fail`");
        Err(ServingError::new(code, message).with_hint(policy))
    }
}

/// True when the value itself is shown, and not its default.
fn is_served(status: ValueStatus, on_stale: OnStale, drop_stale: bool) -> bool {
    match status {
        ValueStatus::Fresh => true,
        ValueStatus::Stale => on_stale != OnStale::Default && !drop_stale,
        _ => false,
    }
}

/// Evaluates the request view at this place in the shape's computed ones, over what is filled in already.
pub(crate) fn assemble_computed(
    snapshot: &Snapshot,
    shape: &RequestShape,
    place: usize,
    inputs: &Inputs<'_>,
    at: &[Micros],
    answer: &mut FeatureAnswer,
) {
    let rows = inputs.row_count;
    let computed = &shape.computed[place];
    let plan = &snapshot.request_views[&computed.name].plan;
    let arrays = plan.evaluate_with(at, &|place, _| match computed.inputs[place] {
        ComputedInput::Column(column) => {
            array_from_values(&shape.columns[column].value_type, answer.values_of(column))
        }
        ComputedInput::Field(field) => field_array(shape, inputs, field),
        ComputedInput::Now => unreachable!("the plan makes `now` itself"),
    });
    let ages = oldest(shape, computed, answer);
    answer.ages[(shape.reads.len() + place) * rows..][..rows].copy_from_slice(&ages);
    for (array, output) in arrays.iter().zip(&computed.outputs) {
        let Some(column) = *output else { continue };
        let shape = &shape.columns[column];
        for row in 0..rows {
            let at = column * rows + row;
            let is_null = array.is_null(row);
            answer.values[at] = match is_null {
                true => shape.default.clone(),
                false => value_at(array, row, &shape.value_type),
            };
            answer.statuses[at] = if is_null { ValueStatus::Null } else { ValueStatus::Fresh };
            answer.origins[at] = if is_null { Origin::Default } else { Origin::Computed };
        }
    }
}

fn field_array(shape: &RequestShape, inputs: &Inputs<'_>, field: usize) -> ArrayRef {
    let rows = inputs.row_count;
    let values: Cow<'_, [Value]> = match inputs.fields[field] {
        None => Cow::Owned(vec![Value::Null; rows]),
        Some([one]) => Cow::Owned(vec![one.clone(); rows]),
        Some(values) => Cow::Borrowed(values),
    };
    array_from_values(&shape.signature.fields[field].1, values.iter())
}

/// Per row the age of the oldest value that the view reads: what is computed is as old as that.
fn oldest(shape: &RequestShape, computed: &ComputedView, answer: &FeatureAnswer) -> Vec<Option<Micros>> {
    let mut oldest: Vec<Option<Micros>> = vec![None; answer.row_count];
    for input in &computed.inputs {
        if let ComputedInput::Column(column) = input {
            let view = shape.columns[*column].from.view(shape.reads.len());
            oldest
                .iter_mut()
                .zip(answer.ages_of(view))
                .for_each(|(oldest, age)| *oldest = (*oldest).max(*age));
        }
    }
    oldest
}

/// How degraded the answer is: the worst of what was read from the store, shown or not.
pub(crate) fn level(shape: &RequestShape, answer: &FeatureAnswer) -> DegradationLevel {
    use ValueStatus::{Expired, Stale, Unavailable};
    let seen = answer.statuses.iter().fold(0u32, |seen, status| seen | 1 << *status as u32);
    let was_seen = |status: ValueStatus| seen & (1 << status as u32) != 0;
    // Of what is computed nothing is any of these.
    if was_seen(Expired) || was_seen(Unavailable) {
        let lost = answer.statuses.iter().filter(|status| matches!(status, Expired | Unavailable)).count();
        let is_read = |column: &&ColumnShape| matches!(column.from, ColumnFrom::Read(_));
        let read = shape.columns.iter().filter(is_read).count() * answer.row_count;
        return if lost == read { DegradationLevel::Critical } else { DegradationLevel::Degraded };
    }
    if was_seen(Stale) { DegradationLevel::Stale } else { DegradationLevel::Healthy }
}
