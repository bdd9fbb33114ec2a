//! SQL expressions over rows: checked when a definition is planned, evaluated over Arrow by DataFusion's scalar engine.
//! No session, no I/O. Only deterministic scalar functions. A row on which an expression fails (division by zero, a cast
//! that does not fit) gets null for it, the same on every path.

use arrow::array::{ArrayRef, RecordBatch};
use springhouse_core::definition::{Entity, FeatureView, RequestView, Source};
use springhouse_core::{EntityKey, KeyError, Micros, ValueType};
use springhouse_kernel::{Stamp, ViewPlan};

/// Why an expression can't be planned. `message` is one line for people; `hint` says what to do, when that is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Where in the SQL text (1-based column), when known.
    pub column: Option<usize>,
}

/// One planned expression over named, typed columns.
#[derive(Clone, Debug)]
pub struct Expression {}

impl Expression {
    /// Plans `sql` over `columns`.
    ///
    /// # Errors
    /// Syntax, unknown column (with a "did you mean"), unknown or non-deterministic function, subquery or aggregate, a
    /// result type that is no [`ValueType`].
    pub fn plan(sql: &str, columns: &[(String, ValueType)]) -> Result<Self, ExprError> {
        let _ = (sql, columns);
        unimplemented!()
    }

    /// The result type.
    pub fn value_type(&self) -> &ValueType {
        unimplemented!()
    }

    /// The columns it reads.
    pub fn columns(&self) -> &[String] {
        unimplemented!()
    }

    /// Evaluates over a batch that has (at least) the columns read, found by name. The array has the batch's length and
    /// the Arrow type of [`Self::value_type`]; failing rows are null.
    pub fn evaluate(&self, batch: &RecordBatch) -> ArrayRef {
        let _ = batch;
        unimplemented!()
    }
}

/// The row-level SQL of a source: filter and derived columns.
#[derive(Clone, Debug)]
pub struct SourceTransform {}

impl SourceTransform {
    /// Plans the source's SQL.
    ///
    /// # Errors
    /// [`ExprError`] of the first expression that does not plan.
    pub fn plan(source: &Source) -> Result<Self, ExprError> {
        let _ = source;
        unimplemented!()
    }
}

/// The whole way from a source's rows to what a view's plan reads.
#[derive(Clone, Debug)]
pub struct ViewProjection {}

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
        let _ = (source, entity, view, plan);
        unimplemented!()
    }

    /// The declared source columns that the projection reads (keys, inputs, whatever the SQL needs); for column pruning.
    pub fn source_columns(&self) -> &[String] {
        unimplemented!()
    }

    /// Projects a batch whose columns have the declared names and types (those of [`Self::source_columns`] at least).
    pub fn project(&self, batch: &RecordBatch) -> ProjectedRows {
        let _ = batch;
        unimplemented!()
    }

    /// The entity key of each projected row.
    pub fn keys(&self, rows: &ProjectedRows) -> Vec<Result<EntityKey, KeyError>> {
        let _ = rows;
        unimplemented!()
    }

    /// The `row`-th projected row as a kernel event.
    pub fn event(&self, rows: &ProjectedRows, row: usize, stamp: Stamp) -> springhouse_kernel::Event {
        let _ = (rows, row, stamp);
        unimplemented!()
    }
}

/// A request-time view, planned: its expressions in order.
#[derive(Clone, Debug)]
pub struct RequestPlan {}

impl RequestPlan {
    /// Plans the view over its inputs (name and type as they appear in the expressions) and request fields.
    ///
    /// # Errors
    /// [`ExprError`] of the first expression that does not plan.
    pub fn plan(view: &RequestView, inputs: &[(String, ValueType)]) -> Result<Self, ExprError> {
        let _ = (view, inputs);
        unimplemented!()
    }

    /// One array per feature, from a batch of inputs and request fields found by name. `at` per row is in the column `now`.
    pub fn evaluate(&self, batch: &RecordBatch, at: &[Micros]) -> Vec<ArrayRef> {
        let _ = (batch, at);
        unimplemented!()
    }
}

/// Checks one definition's expressions and fills in the types of derived columns and request features.
///
/// # Errors
/// Every [`ExprError`] with the path of the expression inside the definitions (such as
/// `feature_views.origin_delays.where`).
pub fn resolve_types(
    definitions: &mut springhouse_core::Definitions,
) -> Result<(), Vec<(String, ExprError)>> {
    let _ = definitions;
    unimplemented!()
}
