//! Between Arrow arrays and [`Value`]s; the one mapping of types.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use springhouse_core::{Value, ValueType};

/// The Arrow type of a value type. Timestamps are microseconds UTC (`Timestamp(Microsecond, Some("UTC"))`), `json` is
/// Utf8, `vector<n>` a fixed-size list of float32, `map<k,v>` a list of structs {key, value} in the function's order.
pub fn arrow_type(value_type: &ValueType) -> DataType {
    let _ = value_type;
    unimplemented!()
}

/// The value type of an Arrow type, if it has one (any timestamp unit; large and view strings too).
pub fn value_type_of(data_type: &DataType) -> Option<ValueType> {
    let _ = data_type;
    unimplemented!()
}

/// The value at `row`. `array` must be of `arrow_type(value_type)`.
pub fn value_at(array: &dyn Array, row: usize, value_type: &ValueType) -> Value {
    let _ = (array, row, value_type);
    unimplemented!()
}

/// An array of `arrow_type(value_type)` from values of that type or null.
///
/// # Panics
/// When a value is of another type.
pub fn array_from_values<'a>(
    value_type: &ValueType,
    values: impl IntoIterator<Item = &'a Value>,
) -> ArrayRef {
    let _ = (value_type, values.into_iter().count());
    unimplemented!()
}

/// Encodes each row's key as [`springhouse_core::EntityKey`] bytes. Err(row, why) for the first row with a null or a key
/// that is too long; `on_bad_row` decides instead when given.
pub fn encode_keys(
    columns: &[ArrayRef],
    keys: &[(String, ValueType)],
) -> Vec<Result<springhouse_core::EntityKey, springhouse_core::KeyError>> {
    let _ = (columns, keys);
    unimplemented!()
}
