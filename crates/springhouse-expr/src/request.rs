//! Request-time views: expressions over fetched features and request fields.

use crate::error::ExprError;
use crate::steps::{Scope, Steps, StepsBuilder};
use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use springhouse_core::definition::RequestView;
use springhouse_core::{Micros, ValueType};
use std::sync::Arc;

/// The column with the moment asked for, unless the view has an input or a field of this name.
pub(crate) const NOW: &str = "now";

/// A request-time view, planned: its expressions in order.
#[derive(Clone, Debug)]
pub struct RequestPlan {
    steps: Steps,
    /// Whether `now` means the moment asked for.
    has_now: bool,
    features: Vec<(String, ValueType)>,
}

impl RequestPlan {
    /// Plans the view over its inputs (name and type as they appear in the expressions) and request fields.
    ///
    /// # Errors
    /// [`ExprError`] of the first expression that does not plan.
    pub fn plan(view: &RequestView, inputs: &[(String, ValueType)]) -> Result<Self, ExprError> {
        let mut scope = request_scope(view, inputs);
        let mut features = Vec::with_capacity(view.features.len());
        for feature in &view.features {
            let value_type = scope.derive(&feature.name, &feature.sql)?;
            features.push((feature.name.clone(), value_type));
        }
        let mut builder = StepsBuilder::default();
        features.iter().for_each(|(name, _)| builder.output(&scope, name));
        let named = |name: &str| name == NOW;
        let has_now =
            !inputs.iter().any(|(name, _)| named(name)) && !view.fields.iter().any(|f| named(&f.name));
        Ok(Self { steps: builder.finish(), has_now, features })
    }

    /// Names and types of its features, in order.
    pub fn features(&self) -> &[(String, ValueType)] {
        &self.features
    }

    /// The inputs and request fields that some expression reads (and `now`, when one reads that).
    pub fn columns(&self) -> &[String] {
        self.steps.columns()
    }

    /// One array per feature, from a batch of inputs and request fields found by name. `at` per row is in the column
    /// `now`.
    ///
    /// # Panics
    /// When the batch lacks one of [`Self::columns`] (but `now`), or has another number of rows than `at`.
    pub fn evaluate(&self, batch: &RecordBatch, at: &[Micros]) -> Vec<ArrayRef> {
        assert_eq!(batch.num_rows(), at.len(), "one moment per row");
        self.evaluate_with(at, &|_, name| {
            let column = batch.column_by_name(name);
            Arc::clone(column.expect("the caller brings every column in `columns()`"))
        })
    }

    /// The same from arrays: `column` gives the array of a column by its place in [`Self::columns`] and its name.
    pub fn evaluate_with(&self, at: &[Micros], column: &dyn Fn(usize, &str) -> ArrayRef) -> Vec<ArrayRef> {
        let output = self.steps.run(at.len(), &|place, name| {
            if self.has_now && name == NOW {
                return Arc::new(TimestampMicrosecondArray::from(at.to_vec()).with_timezone("UTC"));
            }
            column(place, name)
        });
        output.arrays
    }
}

/// Inputs, then fields, then `now` where the name is free.
pub(crate) fn request_scope(view: &RequestView, inputs: &[(String, ValueType)]) -> Scope {
    let mut columns = inputs.to_vec();
    columns.extend(view.fields.iter().map(|field| (field.name.clone(), field.value_type.clone())));
    if !columns.iter().any(|(name, _)| name == NOW) {
        columns.push((NOW.to_owned(), ValueType::Timestamp));
    }
    Scope::new(columns)
}
