//! From states to columns: the kernel's answer, ages, statuses, policy, defaults; then what is computed from those.

use crate::answer::{DegradationLevel, FeatureColumn, Origin, PerRow};
use crate::error::ServingError;
use crate::plan::{ColumnShape, ComputedInput, ComputedView, RequestShape, ViewRead};
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

/// Fills the columns of one stored view.
pub(crate) fn assemble_view(
    snapshot: &Snapshot,
    shape: &RequestShape,
    read: &ViewRead,
    found: &Found,
    moment: Moment,
    columns: &mut [FeatureColumn],
    row_count: usize,
) -> Result<(), ServingError> {
    let view = &snapshot.views[read.view];
    let rows = Rows { shape, read, view, moment };
    for row in 0..row_count {
        match found {
            Found::States(states, frontier) => {
                rows.answer(states[row].as_deref(), frontier, columns, row, Origin::Store)?
            }
            Found::Rows(found) => match &found[row] {
                FoundRow::Read(read) => {
                    rows.answer(read.state.as_deref(), &read.frontier, columns, row, read.origin)?
                }
                FoundRow::Known(known) => {
                    rows.answer(known.state.as_deref(), &known.frontier, columns, row, Origin::LastKnown)?
                }
                FoundRow::Nothing => rows.unavailable(columns),
            },
        }
    }
    Ok(())
}

/// What is the same for all rows of a view.
struct Rows<'a> {
    shape: &'a RequestShape,
    read: &'a ViewRead,
    view: &'a ServedView,
    moment: Moment,
}

impl Rows<'_> {
    /// One row, from a state that comes from there.
    fn answer(
        &self,
        state: Option<&EntityState>,
        frontier: &ViewFrontier,
        columns: &mut [FeatureColumn],
        row: usize,
        read_from: Origin,
    ) -> Result<(), ServingError> {
        let plan = &self.view.handle.plan;
        let mut reading = state.map(|state| plan.reading(state, self.moment.at));
        let event_time = reading.as_ref().and_then(Reading::event_time);
        let age = age_of(plan.is_latest(), event_time, frontier, self.moment.at);
        // A window over nothing loaded is no answer, whatever it counts to.
        let is_loaded = plan.is_latest() || age.is_some();
        for (feature, column) in &self.read.features {
            let (mut value, raw) = match &mut reading {
                Some(reading) => reading.take(*feature),
                None => (self.view.empty.values[*feature].clone(), self.view.empty.statuses[*feature]),
            };
            let mut status = match is_loaded {
                true => status_at_age(raw, age, self.view.soft_ttl, self.view.hard_ttl),
                false => ValueStatus::Expired,
            };
            if status == ValueStatus::Fresh
                && self.moment.max_age.zip(age).is_some_and(|(max, age)| age > max)
            {
                status = ValueStatus::Stale;
            }
            let shape = &self.shape.columns[*column];
            self.refuse(status, shape, row, age)?;
            let mut origin = read_from;
            if !is_served(status, self.shape.policy.on_stale, self.moment.drop_stale) {
                value = shape.default.clone();
                origin = Origin::Default;
            }
            if read_from == Origin::LastKnown {
                status = ValueStatus::Unavailable;
            }
            let column = &mut columns[*column];
            column.values.push(value);
            column.statuses.push(status);
            column.ages.push(age);
            column.event_times.push(event_time);
            column.origins.push(origin);
        }
        Ok(())
    }

    fn unavailable(&self, columns: &mut [FeatureColumn]) {
        for (_, column) in &self.read.features {
            let default = self.shape.columns[*column].default.clone();
            let column = &mut columns[*column];
            column.values.push(default);
            column.statuses.push(ValueStatus::Unavailable);
            column.ages.push(None);
            column.event_times.push(None);
            column.origins.push(Origin::Default);
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

/// Evaluates one request view over what is filled in already.
pub(crate) fn assemble_computed(
    snapshot: &Snapshot,
    shape: &RequestShape,
    computed: &ComputedView,
    inputs: &Inputs<'_>,
    at: &[Micros],
    columns: &mut [FeatureColumn],
) {
    let rows = inputs.row_count;
    let plan = &snapshot.request_views[&computed.name].plan;
    let arrays = plan.evaluate_with(at, &|place, _| match computed.inputs[place] {
        ComputedInput::Column(column) => {
            array_from_values(&shape.columns[column].value_type, &columns[column].values)
        }
        ComputedInput::Field(field) => field_array(shape, inputs, field),
        ComputedInput::Now => unreachable!("the plan makes `now` itself"),
    });
    let ages = oldest(computed, columns, rows);
    for (array, output) in arrays.iter().zip(&computed.outputs) {
        let Some(place) = *output else { continue };
        let column = &mut columns[place];
        for (row, age) in ages.iter().enumerate() {
            let is_null = array.is_null(row);
            let shape = &shape.columns[place];
            column.values.push(match is_null {
                true => shape.default.clone(),
                false => value_at(array, row, &shape.value_type),
            });
            column.statuses.push(if is_null { ValueStatus::Null } else { ValueStatus::Fresh });
            column.origins.push(if is_null { Origin::Default } else { Origin::Computed });
            column.ages.push(*age);
            column.event_times.push(None);
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
fn oldest(computed: &ComputedView, columns: &[FeatureColumn], rows: usize) -> Vec<Option<Micros>> {
    let mut ages = vec![None; rows];
    for input in &computed.inputs {
        if let ComputedInput::Column(column) = input {
            ages.iter_mut()
                .zip(&columns[*column].ages)
                .for_each(|(oldest, age)| *oldest = (*oldest).max(*age));
        }
    }
    ages
}

/// Empty columns of the shape, with room for the rows.
pub(crate) fn empty_columns(shape: &RequestShape, row_count: usize) -> Vec<FeatureColumn> {
    let column = |column: &ColumnShape| FeatureColumn {
        name: Arc::clone(&column.name),
        view: Arc::clone(&column.view),
        value_type: column.value_type.clone(),
        type_name: Arc::clone(&column.type_name),
        values: PerRow::with_capacity(row_count),
        statuses: PerRow::with_capacity(row_count),
        ages: PerRow::with_capacity(row_count),
        event_times: PerRow::with_capacity(row_count),
        origins: PerRow::with_capacity(row_count),
    };
    shape.columns.iter().map(column).collect()
}

/// How degraded the answer is: the worst of what was read from the store, shown or not.
pub(crate) fn level(shape: &RequestShape, columns: &[FeatureColumn]) -> DegradationLevel {
    let mut level = DegradationLevel::Healthy;
    let (mut stored, mut lost) = (0usize, 0usize);
    for (column, shape) in columns.iter().zip(&shape.columns) {
        if !shape.is_stored {
            continue;
        }
        for status in &column.statuses {
            stored += 1;
            match status {
                ValueStatus::Stale => level = level.max(DegradationLevel::Stale),
                ValueStatus::Expired | ValueStatus::Unavailable => {
                    lost += 1;
                    level = level.max(DegradationLevel::Degraded);
                }
                _ => {}
            }
        }
    }
    if stored > 0 && lost == stored { DegradationLevel::Critical } else { level }
}
