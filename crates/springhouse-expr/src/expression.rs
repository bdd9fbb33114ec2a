//! One expression: from text to a compiled tree, and from arrays to an array.

use crate::check;
use crate::error::ExprError;
use crate::functions::FUNCTIONS;
use crate::nan::{guard_comparisons, nan_to_null};
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{Expr, ExprSchemable, Operator, binary_expr};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::expressions::BinaryExpr;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use springhouse_core::ValueType;
use springhouse_kernel::{arrow_type, value_type_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// One planned expression over named, typed columns.
#[derive(Clone, Debug)]
pub struct Expression {
    value_type: ValueType,
    /// The columns read, in order of first mention; `Compiled::schema` has the same order.
    columns: Vec<String>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Nothing but a column: its array is the answer.
    Column,
    Computed(Arc<Compiled>),
}

#[derive(Debug)]
struct Compiled {
    physical: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    output: DataType,
}

impl Expression {
    /// Plans `sql` over `columns`, whose names are distinct. Cost: some hundred microseconds; do it once.
    ///
    /// # Errors
    /// Syntax, unknown column (with a "did you mean"), unknown or non-deterministic function, subquery or aggregate, a
    /// result type that is no [`ValueType`].
    pub fn plan(sql: &str, columns: &[(String, ValueType)]) -> Result<Self, ExprError> {
        let (tree, used) = check::parse(sql, columns)?;
        let fields: Vec<(&String, &ValueType)> = used
            .iter()
            .filter_map(|name| columns.iter().find(|(column, _)| column == name))
            .map(|(name, value_type)| (name, value_type))
            .collect();
        if let (datafusion_sql::sqlparser::ast::Expr::Identifier(_), [(_, value_type)]) =
            (&tree, fields.as_slice())
        {
            return Ok(Self { value_type: (*value_type).clone(), columns: used, kind: Kind::Column });
        }
        let schema = Schema::new(
            fields
                .iter()
                .map(|(name, value_type)| Field::new(name.as_str(), arrow_type(value_type), true))
                .collect::<Vec<_>>(),
        );
        let (physical, found) = compile(tree, &schema).map_err(|e| ExprError::from_engine(&e))?;
        let value_type = value_type(&found)?;
        let output = arrow_type(&value_type);
        let compiled = Compiled { physical, schema: Arc::new(schema), output };
        Ok(Self { value_type, columns: used, kind: Kind::Computed(Arc::new(compiled)) })
    }

    /// Plans a condition: an expression that is a bool.
    ///
    /// # Errors
    /// As [`Self::plan`], and any other type than bool.
    pub fn plan_predicate(sql: &str, columns: &[(String, ValueType)]) -> Result<Self, ExprError> {
        let planned = Self::plan(sql, columns)?;
        if planned.value_type == ValueType::Bool {
            return Ok(planned);
        }
        Err(ExprError::new(format!("a condition is a bool, this is {}", planned.value_type))
            .with_hint("compare it with something, as in `x > 0` or `x IS NOT NULL`"))
    }

    /// The result type.
    pub fn value_type(&self) -> &ValueType {
        &self.value_type
    }

    /// The columns it reads.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Evaluates over a batch that has (at least) the columns read, found by name. The array has the batch's length and
    /// the Arrow type of [`Self::value_type`]; failing rows are null.
    ///
    /// # Panics
    /// When the batch lacks a column that is read.
    pub fn evaluate(&self, batch: &RecordBatch) -> ArrayRef {
        let read = |name: &String| {
            let column = batch.column_by_name(name);
            Arc::clone(column.expect("the caller brings every column in `columns()`"))
        };
        self.evaluate_arrays(self.columns.iter().map(read).collect(), batch.num_rows())
    }

    /// The same over arrays in the order of [`Self::columns`], all of `rows` rows.
    pub(crate) fn evaluate_arrays(&self, mut arrays: Vec<ArrayRef>, rows: usize) -> ArrayRef {
        match &self.kind {
            Kind::Column => arrays.swap_remove(0),
            Kind::Computed(compiled) => compiled.evaluate(arrays, rows),
        }
    }
}

impl Compiled {
    fn evaluate(&self, arrays: Vec<ArrayRef>, rows: usize) -> ArrayRef {
        let columns = arrays.into_iter().zip(self.schema.fields()).map(|(array, field)| {
            let array = if array.data_type() == field.data_type() {
                array
            } else {
                // A reader may bring another layout of the same type (views, other list names).
                cast_with_options(
                    &array,
                    field.data_type(),
                    &CastOptions { safe: false, ..Default::default() },
                )
                .expect("the caller brings columns of the declared types")
            };
            nan_to_null(array)
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns.collect(), &options)
            .expect("the arrays have the schema's types and one length");
        self.evaluate_rows(&batch)
    }

    /// The whole batch at once; where that fails, halves of it, down to the rows that fail. An expression looks at one
    /// row at a time, so the rows that pass get the same value in any batch.
    fn evaluate_rows(&self, batch: &RecordBatch) -> ArrayRef {
        let rows = batch.num_rows();
        if let Some(array) = self.try_evaluate(batch) {
            return array;
        }
        if rows <= 1 {
            return new_null_array(&self.output, rows);
        }
        let middle = rows / 2;
        let head = self.evaluate_rows(&batch.slice(0, middle));
        let tail = self.evaluate_rows(&batch.slice(middle, rows - middle));
        concat(&[&head, &tail]).expect("both halves have the output type")
    }

    fn try_evaluate(&self, batch: &RecordBatch) -> Option<ArrayRef> {
        // A function that panics on an odd value must not take the process down with every replay of that value.
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            self.physical.evaluate(batch).and_then(|value| value.into_array_of_size(batch.num_rows()))
        }));
        let array = evaluated.ok()?.ok()?;
        if *array.data_type() == self.output {
            return Some(nan_to_null(array));
        }
        let options = CastOptions { safe: true, ..Default::default() };
        cast_with_options(&array, &self.output, &options).ok().map(nan_to_null)
    }
}

/// From the checked tree to something that evaluates, and its Arrow type.
fn compile(
    tree: datafusion_sql::sqlparser::ast::Expr,
    schema: &Schema,
) -> Result<(Arc<dyn PhysicalExpr>, DataType), DataFusionError> {
    let named = Arc::new(DFSchema::try_from(schema.clone())?);
    let options = ParserOptions::from(&FUNCTIONS.options.sql_parser).with_enable_ident_normalization(false);
    let planner = SqlToRel::new_with_options(&*FUNCTIONS, options);
    let expr = planner.sql_to_expr(tree, &named, &mut PlannerContext::new())?;
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(&named))
        .with_config_options(Arc::clone(&FUNCTIONS.options))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.coerce(expr, &named)?;
    let expr = guard_comparisons(checked_constants(expr, &named)?, &named)?;
    let found = expr.get_type(&*named)?;
    // A constant that fails to fold stays as it is, and fails (so is null) on every row.
    let expr = simplifier.simplify(expr.clone()).unwrap_or(expr);
    let mut properties = ExecutionProps::new();
    properties.config_options = Some(Arc::clone(&FUNCTIONS.options));
    let physical = create_physical_expr(&expr, &named, &properties, &PhysicalPlanningContext::default())?;
    Ok((checked_arithmetic(physical)?, found))
}

/// Makes integer arithmetic notice an overflow where the engine would not: `-x` becomes `0 - x`, and arithmetic of constants
/// is done here, before the simplifier does it wrapping round.
fn checked_constants(expr: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    let rewritten = expr.transform_up(|expr| {
        Ok(match expr {
            Expr::Negative(inner) if inner.get_type(schema)?.is_integer() => {
                let zero = Expr::Literal(ScalarValue::new_zero(&inner.get_type(schema)?)?, None);
                Transformed::yes(fold(zero, Operator::Minus, *inner)?)
            }
            Expr::BinaryExpr(binary) => Transformed::yes(fold(*binary.left, binary.op, *binary.right)?),
            other => Transformed::no(other),
        })
    })?;
    Ok(rewritten.data)
}

fn fold(left: Expr, op: Operator, right: Expr) -> Result<Expr, DataFusionError> {
    if let (Expr::Literal(l, _), Expr::Literal(r, _)) = (&left, &right)
        && l.data_type() == r.data_type()
        && l.data_type().is_integer()
    {
        let folded = match op {
            Operator::Plus => Some(l.add_checked(r)),
            Operator::Minus => Some(l.sub_checked(r)),
            Operator::Multiply => Some(l.mul_checked(r)),
            _ => None,
        };
        if let Some(folded) = folded {
            let value = folded.or_else(|_| ScalarValue::try_from(&l.data_type()))?;
            return Ok(Expr::Literal(value, None));
        }
    }
    Ok(binary_expr(left, op, right))
}

/// Integers that leave their type fail, instead of coming round at the other end.
fn checked_arithmetic(physical: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let rewritten = physical.transform_up(|expr| {
        Ok(match (&*expr as &dyn std::any::Any).downcast_ref::<BinaryExpr>() {
            Some(binary) => {
                let checked =
                    BinaryExpr::new(Arc::clone(binary.left()), *binary.op(), Arc::clone(binary.right()));
                Transformed::yes(Arc::new(checked.with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>)
            }
            None => Transformed::no(expr),
        })
    })?;
    Ok(rewritten.data)
}

/// The value type that an expression of this Arrow type gives; small integers widen.
fn value_type(found: &DataType) -> Result<ValueType, ExprError> {
    let widened = match found {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => Some(ValueType::Int32),
        DataType::UInt32 | DataType::UInt64 => Some(ValueType::Int64),
        DataType::Float16 => Some(ValueType::Float32),
        DataType::Null | DataType::Duration(_) | DataType::Interval(_) => None,
        other => value_type_of(other),
    };
    widened.ok_or_else(|| match found {
        DataType::Null => ExprError::new("the expression is always null and has no type")
            .with_hint("give it one, as in `CAST(NULL AS DOUBLE)`"),
        DataType::Duration(_) | DataType::Interval(_) => {
            ExprError::new("the expression is a length of time, which no feature holds")
                .with_hint("take its seconds: `EXTRACT(EPOCH FROM (a - b))`")
        }
        other => ExprError::new(format!("the expression gives {other}, which no feature holds"))
            .with_hint("cast it to a type that one does, as in `CAST(x AS BIGINT)`"),
    })
}
