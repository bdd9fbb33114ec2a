//! Identities of the events in a batch; the identity itself is [`springhouse_core::event_id`]'s.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Int64Type;
use springhouse_core::ValueType;
use springhouse_core::event_id::{of_integer, of_text, of_value};
use springhouse_kernel::value_at;

/// The identities in an id column.
pub(crate) fn event_ids(column: &ArrayRef, value_type: &ValueType) -> Vec<Option<u128>> {
    match value_type {
        ValueType::String => column.as_string::<i32>().iter().map(|v| v.map(of_text)).collect(),
        ValueType::Int64 => column.as_primitive::<Int64Type>().iter().map(|v| v.map(of_integer)).collect(),
        _ => (0..column.len()).map(|row| of_value(&value_at(column, row, value_type))).collect(),
    }
}

/// The identities kept in a stream's table.
pub(crate) fn stored_ids(column: &ArrayRef) -> Vec<Option<u128>> {
    let bytes = column.as_binary::<i32>();
    bytes.iter().map(|v| v.and_then(|b| <[u8; 16]>::try_from(b).ok()).map(u128::from_be_bytes)).collect()
}
