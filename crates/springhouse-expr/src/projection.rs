//! From a source's rows to what a view's plan reads.

use crate::error::ExprError;
use crate::steps::{Scope, Steps, StepsBuilder, StepsOutput};
use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{Field, Schema};
use springhouse_core::definition::{Entity, FeatureView, Source};
use springhouse_core::{EntityKey, KeyError, ValueType};
use springhouse_kernel::{Event, Stamp, ViewInput, ViewPlan, arrow_type, encode_keys, value_at};
use std::sync::Arc;

/// The row-level SQL of a source: filter and derived columns.
#[derive(Clone, Debug)]
pub struct SourceTransform {
    steps: Steps,
    schema: Arc<Schema>,
}

impl SourceTransform {
    /// Plans the source's SQL.
    ///
    /// # Errors
    /// [`ExprError`] of the first expression that does not plan.
    pub fn plan(source: &Source) -> Result<Self, ExprError> {
        let mut builder = StepsBuilder::default();
        let scope = source_scope(source)?;
        if let Some(sql) = &source.filter {
            builder.filter(&scope, &scope.predicate(sql)?);
        }
        let names = scope.names();
        names.iter().for_each(|(name, _)| builder.output(&scope, name));
        let fields = names.iter().map(|(name, value_type)| Field::new(name, arrow_type(value_type), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self { steps: builder.finish(), schema })
    }

    /// The rows that the filter keeps, with the derived columns after the declared ones.
    ///
    /// # Panics
    /// When the batch lacks a declared column.
    pub fn apply(&self, batch: &RecordBatch) -> RecordBatch {
        let output = run(&self.steps, batch);
        RecordBatch::try_new(Arc::clone(&self.schema), output.arrays)
            .expect("every array has its column's type and the kept rows")
    }
}

/// The whole way from a source's rows to what a view's plan reads.
#[derive(Clone, Debug)]
pub struct ViewProjection {
    steps: Steps,
    keys: Vec<(String, ValueType)>,
    /// The type of each of the plan's inputs; a predicate is a bool.
    input_types: Vec<ValueType>,
}

/// Rows of a source as a view's plan reads them; rows that a filter left out are gone.
#[derive(Debug)]
pub struct ProjectedRows {
    /// For each kept row, its row number in the source batch.
    pub rows: Vec<u32>,
    /// The entity's key columns, in the entity's order.
    pub key_columns: Vec<ArrayRef>,
    /// One per [`ViewPlan::inputs`].
    pub inputs: Vec<ArrayRef>,
}

impl ViewProjection {
    /// Plans the way from `source` through its and the view's SQL to `plan`'s inputs.
    ///
    /// # Errors
    /// [`ExprError`] of the first expression that does not plan.
    pub fn plan(
        source: &Source,
        entity: &Entity,
        view: &FeatureView,
        plan: &ViewPlan,
    ) -> Result<Self, ExprError> {
        Self::plan_for(source, Some(entity), view, plan)
    }

    /// The same for rows that are known to pass the filters, without their keys.
    ///
    /// # Errors
    /// [`ExprError`] of the first expression that does not plan.
    pub fn plan_inputs(source: &Source, view: &FeatureView, plan: &ViewPlan) -> Result<Self, ExprError> {
        Self::plan_for(source, None, view, plan)
    }

    fn plan_for(
        source: &Source,
        entity: Option<&Entity>,
        view: &FeatureView,
        plan: &ViewPlan,
    ) -> Result<Self, ExprError> {
        let is_filtered = entity.is_some();
        let mut builder = StepsBuilder::default();
        let mut scope = source_scope(source)?;
        if let (Some(sql), true) = (&source.filter, is_filtered) {
            builder.filter(&scope, &scope.predicate(sql)?);
        }
        for derived in &view.derived {
            scope.derive(&derived.name, &derived.sql)?;
        }
        if let (Some(sql), true) = (&view.filter, is_filtered) {
            builder.filter(&scope, &scope.predicate(sql)?);
        }
        let names = scope.names();
        let known = |name: &str, value_type: &ValueType| match names.iter().find(|(column, _)| column == name)
        {
            None => Err(ExprError::new(format!("source `{}` has no column `{name}`", source.name))),
            Some((_, found)) if found != value_type => Err(ExprError::new(format!(
                "column `{name}` of source `{}` is {found}; view `{}` needs {value_type}",
                source.name, view.name
            ))),
            Some(_) => Ok(()),
        };
        let keys = entity.map_or(&[][..], |entity| &entity.keys);
        if let Some(entity) = entity
            && view.key_columns.len() != entity.keys.len()
        {
            return Err(ExprError::new(format!(
                "view `{}` names {} key columns; entity `{}` has {}",
                view.name,
                view.key_columns.len(),
                entity.name,
                entity.keys.len()
            )));
        }
        for (column, (_, value_type)) in view.key_columns.iter().zip(keys) {
            known(column, value_type)?;
            builder.output(&scope, column);
        }
        for input in plan.inputs() {
            match input {
                ViewInput::Column { name, value_type } => {
                    known(name, value_type)?;
                    builder.output(&scope, name);
                }
                ViewInput::Predicate { sql } => builder.output_of(&scope, &scope.predicate(sql)?),
            }
        }
        let input_types = plan.inputs().iter().map(|input| match input {
            ViewInput::Column { value_type, .. } => value_type.clone(),
            ViewInput::Predicate { .. } => ValueType::Bool,
        });
        Ok(Self { input_types: input_types.collect(), steps: builder.finish(), keys: keys.to_vec() })
    }

    /// The declared source columns that the projection reads (keys, inputs, whatever the SQL needs); for column pruning.
    pub fn source_columns(&self) -> &[String] {
        self.steps.columns()
    }

    /// Projects a batch whose columns have the declared names and types (those of [`Self::source_columns`] at least).
    ///
    /// # Panics
    /// When the batch lacks one of [`Self::source_columns`].
    pub fn project(&self, batch: &RecordBatch) -> ProjectedRows {
        let StepsOutput { rows, mut arrays } = run(&self.steps, batch);
        let inputs = arrays.split_off(self.keys.len());
        ProjectedRows { rows: row_numbers(rows, batch.num_rows()), key_columns: arrays, inputs }
    }

    /// The entity key of each projected row.
    pub fn keys(&self, rows: &ProjectedRows) -> Vec<Result<EntityKey, KeyError>> {
        encode_keys(&rows.key_columns, &self.keys)
    }

    /// The `row`-th projected row as a kernel event.
    pub fn event(&self, rows: &ProjectedRows, row: usize, stamp: Stamp) -> Event {
        let inputs = rows.inputs.iter().zip(&self.input_types);
        Event { stamp, values: inputs.map(|(array, value_type)| value_at(array, row, value_type)).collect() }
    }
}

fn source_scope(source: &Source) -> Result<Scope, ExprError> {
    let columns = source.columns.iter().map(|c| (c.name.clone(), c.value_type.clone()));
    let mut scope = Scope::new(columns.collect());
    for derived in &source.derived {
        scope.derive(&derived.name, &derived.sql)?;
    }
    Ok(scope)
}

fn run(steps: &Steps, batch: &RecordBatch) -> StepsOutput {
    steps.run(batch.num_rows(), &|_, name| {
        let column = batch.column_by_name(name);
        Arc::clone(column.expect("the caller brings every column in `source_columns()`"))
    })
}

fn row_numbers(rows: Option<UInt32Array>, row_count: usize) -> Vec<u32> {
    match rows {
        Some(rows) => rows.values().to_vec(),
        None => (0..u32::try_from(row_count).expect("a batch has fewer than 2^32 rows")).collect(),
    }
}
