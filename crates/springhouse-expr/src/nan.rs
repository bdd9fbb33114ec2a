//! NaN is null, in predicates and in everything computed.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, Result, ScalarValue};
use datafusion_expr::expr::{Case, ScalarFunction};
use datafusion_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use std::sync::{Arc, LazyLock};

/// The array with null in place of NaN; itself when it has none.
pub(crate) fn nan_to_null(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => clean::<Float64Type>(&array, f64::is_nan).unwrap_or(array),
        DataType::Float32 => clean::<Float32Type>(&array, f32::is_nan).unwrap_or(array),
        _ => array,
    }
}

fn clean<T: ArrowPrimitiveType>(array: &ArrayRef, is_nan: fn(T::Native) -> bool) -> Option<ArrayRef> {
    let floats = array.as_primitive::<T>();
    if !floats.values().iter().any(|v| is_nan(*v)) {
        return None;
    }
    let numbers = BooleanBuffer::collect_bool(floats.len(), |row| !is_nan(floats.value(row)));
    let nulls = NullBuffer::union(floats.nulls(), Some(&NullBuffer::new(numbers)));
    Some(Arc::new(PrimitiveArray::<T>::new(floats.values().clone(), nulls)))
}

/// Wraps what comparisons, null tests and `CASE x WHEN` look at, wherever it could be a NaN. Columns can't: they are
/// cleaned before evaluation. Expects coerced types.
pub(crate) fn guard_comparisons(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let guarded = expr.transform_up(|expr| {
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
                Transformed::yes(Expr::BinaryExpr(BinaryExpr {
                    left: guard_box(left, schema)?,
                    op,
                    right: guard_box(right, schema)?,
                }))
            }
            Expr::Between(mut between) => {
                between.expr = guard_box(between.expr, schema)?;
                between.low = guard_box(between.low, schema)?;
                between.high = guard_box(between.high, schema)?;
                Transformed::yes(Expr::Between(between))
            }
            Expr::InList(mut list) => {
                list.expr = guard_box(list.expr, schema)?;
                list.list = list.list.into_iter().map(|e| guard(e, schema)).collect::<Result<_>>()?;
                Transformed::yes(Expr::InList(list))
            }
            Expr::IsNull(inner) => Transformed::yes(Expr::IsNull(guard_box(inner, schema)?)),
            Expr::IsNotNull(inner) => Transformed::yes(Expr::IsNotNull(guard_box(inner, schema)?)),
            Expr::Case(Case { expr: Some(operand), when_then_expr, else_expr }) => {
                let expr = Some(guard_box(operand, schema)?);
                Transformed::yes(Expr::Case(Case { expr, when_then_expr, else_expr }))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(guarded.data)
}

#[expect(clippy::boxed_local, reason = "the tree holds boxes; each is opened and closed here once")]
fn guard_box(expr: Box<Expr>, schema: &DFSchema) -> Result<Box<Expr>> {
    Ok(Box::new(guard(*expr, schema)?))
}

fn guard(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    if !may_be_nan(&expr, schema)? {
        return Ok(expr);
    }
    Ok(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&NAN_TO_NULL), vec![expr])))
}

fn may_be_nan(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    if !expr.get_type(schema)?.is_floating() {
        return Ok(false);
    }
    Ok(match expr {
        Expr::Column(_) => false,
        Expr::Literal(ScalarValue::Float64(Some(v)), _) => v.is_nan(),
        Expr::Literal(ScalarValue::Float32(Some(v)), _) => v.is_nan(),
        Expr::Cast(cast) => {
            let from = cast.expr.get_type(schema)?;
            // Only text can be cast into a NaN.
            if from.is_floating() { may_be_nan(&cast.expr, schema)? } else { !from.is_numeric() }
        }
        _ => true,
    })
}

static NAN_TO_NULL: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::new_from_impl(NanToNull { signature: Signature::any(1, Volatility::Immutable) }))
});

/// Null for a NaN, else its argument; put in by the planner, not callable.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NanToNull {
    signature: Signature,
}

impl ScalarUDFImpl for NanToNull {
    fn name(&self) -> &'static str {
        "nan_to_null"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut args = args.args;
        Ok(match args.swap_remove(0) {
            ColumnarValue::Array(array) => ColumnarValue::Array(nan_to_null(array)),
            ColumnarValue::Scalar(scalar) => ColumnarValue::Scalar(match scalar {
                ScalarValue::Float64(Some(v)) if v.is_nan() => ScalarValue::Float64(None),
                ScalarValue::Float32(Some(v)) if v.is_nan() => ScalarValue::Float32(None),
                other => other,
            }),
        })
    }
}
