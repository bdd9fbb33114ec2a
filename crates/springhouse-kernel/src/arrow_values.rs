//! Between Arrow arrays and [`Value`]s; the one mapping of types.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeListArray,
    Float32Array, Float32Builder, Float64Array, Int32Array, Int64Array, ListArray, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Fields, Float32Type, Float64Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType,
};
use springhouse_core::key::{push_bool, push_bytes, push_i32, push_i64};
use springhouse_core::{EntityKey, KeyError, Value, ValueType};
use std::sync::Arc;

/// The Arrow type of a value type. Timestamps are microseconds UTC (`Timestamp(Microsecond, Some("UTC"))`), `json` is
/// Utf8, `vector<n>` a fixed-size list of float32, `map<k,v>` a list of structs {key, value} in the function's order.
pub fn arrow_type(value_type: &ValueType) -> DataType {
    match value_type {
        ValueType::Bool => DataType::Boolean,
        ValueType::Int32 => DataType::Int32,
        ValueType::Int64 => DataType::Int64,
        ValueType::Float32 => DataType::Float32,
        ValueType::Float64 => DataType::Float64,
        ValueType::String | ValueType::Json => DataType::Utf8,
        ValueType::Bytes => DataType::Binary,
        ValueType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ValueType::Date => DataType::Date32,
        ValueType::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
        ValueType::List(inner) => DataType::List(item_field(arrow_type(inner))),
        ValueType::Vector(dimension) => {
            let dimension = i32::try_from(*dimension).expect("a vector has at most 16384 dimensions");
            DataType::FixedSizeList(item_field(DataType::Float32), dimension)
        }
        ValueType::Map(key, value) => DataType::List(item_field(DataType::Struct(entry_fields(key, value)))),
    }
}

/// The value type of an Arrow type, if it has one (any timestamp unit; large and view strings too).
pub fn value_type_of(data_type: &DataType) -> Option<ValueType> {
    Some(match data_type {
        DataType::Boolean => ValueType::Bool,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            ValueType::Int32
        }
        DataType::Int64 | DataType::UInt32 => ValueType::Int64,
        DataType::Float16 | DataType::Float32 => ValueType::Float32,
        DataType::Float64 => ValueType::Float64,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ValueType::String,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            ValueType::Bytes
        }
        DataType::Timestamp(..) => ValueType::Timestamp,
        DataType::Date32 | DataType::Date64 => ValueType::Date,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            ValueType::Decimal { precision: *precision, scale: *scale }
        }
        DataType::Dictionary(_, values) => value_type_of(values)?,
        DataType::FixedSizeList(field, dimension) if *field.data_type() == DataType::Float32 => {
            ValueType::Vector(u32::try_from(*dimension).ok().filter(|n| *n > 0)?)
        }
        DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => {
            list_type_of(field.data_type())?
        }
        _ => return None,
    })
}

fn list_type_of(item: &DataType) -> Option<ValueType> {
    if let DataType::Struct(fields) = item
        && let [key, value] = &fields[..]
    {
        let (key, value) = (value_type_of(key.data_type())?, value_type_of(value.data_type())?);
        return Some(ValueType::Map(Box::new(key), Box::new(value)));
    }
    let inner = value_type_of(item)?;
    inner.is_scalar().then(|| ValueType::List(Box::new(inner)))
}

fn item_field(data_type: DataType) -> FieldRef {
    Arc::new(Field::new_list_field(data_type, true))
}

fn entry_fields(key: &ValueType, value: &ValueType) -> Fields {
    Fields::from(vec![
        Field::new("key", arrow_type(key), false),
        Field::new("value", arrow_type(value), true),
    ])
}

/// The value at `row`. `array` must be of `arrow_type(value_type)`.
///
/// # Panics
/// When the array is of another type, or shorter.
pub fn value_at(array: &dyn Array, row: usize, value_type: &ValueType) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match value_type {
        ValueType::Bool => Value::Bool(array.as_boolean().value(row)),
        ValueType::Int32 => Value::Int32(array.as_primitive::<Int32Type>().value(row)),
        ValueType::Int64 => Value::Int64(array.as_primitive::<Int64Type>().value(row)),
        ValueType::Float32 => Value::Float32(array.as_primitive::<Float32Type>().value(row)),
        ValueType::Float64 => Value::Float64(array.as_primitive::<Float64Type>().value(row)),
        ValueType::String | ValueType::Json => Value::string(array.as_string::<i32>().value(row)),
        ValueType::Bytes => Value::Bytes(array.as_binary::<i32>().value(row).into()),
        ValueType::Timestamp => Value::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        ValueType::Date => Value::Date(array.as_primitive::<Date32Type>().value(row)),
        ValueType::Decimal { scale, .. } => {
            Value::Decimal(array.as_primitive::<Decimal128Type>().value(row), *scale)
        }
        ValueType::List(inner) => {
            let items = array.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|i| value_at(&items, i, inner)).collect())
        }
        ValueType::Vector(_) => {
            let items = array.as_fixed_size_list().value(row);
            Value::Vector(items.as_primitive::<Float32Type>().values().iter().copied().collect())
        }
        ValueType::Map(key, value) => {
            let entries = array.as_list::<i32>().value(row);
            let entries = entries.as_struct();
            let (keys, values) = (entries.column(0), entries.column(1));
            let pair = |i| (value_at(keys, i, key), value_at(values, i, value));
            Value::Map((0..entries.len()).map(pair).collect())
        }
    }
}

/// Collects into an array; a value of another type is the caller's mistake.
macro_rules! collect {
    ($array:ty, $values:expr, $value_type:expr, $pattern:pat $(if $guard:expr)? => $item:expr) => {
        Arc::new(
            $values
                .into_iter()
                .map(|value| match value {
                    $pattern $(if $guard)? => Some($item),
                    Value::Null => None,
                    other => mismatch($value_type, other),
                })
                .collect::<$array>(),
        )
    };
}

/// An array of `arrow_type(value_type)` from values of that type or null.
///
/// # Panics
/// When a value is of another type.
pub fn array_from_values<'a>(
    value_type: &ValueType,
    values: impl IntoIterator<Item = &'a Value>,
) -> ArrayRef {
    match value_type {
        ValueType::Bool => collect!(BooleanArray, values, value_type, Value::Bool(v) => *v),
        ValueType::Int32 => collect!(Int32Array, values, value_type, Value::Int32(v) => *v),
        ValueType::Int64 => collect!(Int64Array, values, value_type, Value::Int64(v) => *v),
        ValueType::Float32 => collect!(Float32Array, values, value_type, Value::Float32(v) => *v),
        ValueType::Float64 => collect!(Float64Array, values, value_type, Value::Float64(v) => *v),
        ValueType::String | ValueType::Json => {
            collect!(StringArray, values, value_type, Value::String(v) => v.as_ref())
        }
        ValueType::Bytes => collect!(BinaryArray, values, value_type, Value::Bytes(v) => v.as_ref()),
        ValueType::Timestamp => {
            let array: Arc<TimestampMicrosecondArray> =
                collect!(TimestampMicrosecondArray, values, value_type, Value::Timestamp(v) => *v);
            Arc::new(Arc::unwrap_or_clone(array).with_timezone("UTC"))
        }
        ValueType::Date => collect!(Date32Array, values, value_type, Value::Date(v) => *v),
        ValueType::Decimal { precision, scale } => {
            let array: Arc<Decimal128Array> =
                collect!(Decimal128Array, values, value_type, Value::Decimal(v, s) if s == scale => *v);
            let array = Arc::unwrap_or_clone(array).with_precision_and_scale(*precision, *scale);
            Arc::new(array.expect("a decimal type has a precision of 1 to 38 and a scale within it"))
        }
        ValueType::List(inner) => list_array(inner, values, value_type),
        ValueType::Vector(dimension) => vector_array(*dimension, values, value_type),
        ValueType::Map(key, value) => map_array(key, value, values, value_type),
    }
}

fn mismatch(expected: &ValueType, got: &Value) -> ! {
    panic!("a value that is no {expected} in a column of that type: {got:?}")
}

fn list_array<'a>(
    inner: &ValueType,
    values: impl IntoIterator<Item = &'a Value>,
    value_type: &ValueType,
) -> ArrayRef {
    let mut items: Vec<&Value> = Vec::new();
    let (mut lengths, mut valid) = (Vec::new(), Vec::new());
    for value in values {
        match value {
            Value::List(list) => {
                items.extend(list.iter());
                lengths.push(list.len());
                valid.push(true);
            }
            Value::Null => {
                lengths.push(0);
                valid.push(false);
            }
            other => mismatch(value_type, other),
        }
    }
    let items = array_from_values(inner, items);
    let offsets = OffsetBuffer::from_lengths(lengths);
    Arc::new(ListArray::new(item_field(arrow_type(inner)), offsets, items, nulls(valid)))
}

fn map_array<'a>(
    key: &ValueType,
    value: &ValueType,
    values: impl IntoIterator<Item = &'a Value>,
    value_type: &ValueType,
) -> ArrayRef {
    let (mut entry_keys, mut entry_values): (Vec<&Value>, Vec<&Value>) = (Vec::new(), Vec::new());
    let (mut lengths, mut valid) = (Vec::new(), Vec::new());
    for map in values {
        match map {
            Value::Map(pairs) => {
                entry_keys.extend(pairs.iter().map(|pair| &pair.0));
                entry_values.extend(pairs.iter().map(|pair| &pair.1));
                lengths.push(pairs.len());
                valid.push(true);
            }
            Value::Null => {
                lengths.push(0);
                valid.push(false);
            }
            other => mismatch(value_type, other),
        }
    }
    let fields = entry_fields(key, value);
    let columns = vec![array_from_values(key, entry_keys), array_from_values(value, entry_values)];
    let entries: ArrayRef = Arc::new(StructArray::new(fields.clone(), columns, None));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Arc::new(ListArray::new(item_field(DataType::Struct(fields)), offsets, entries, nulls(valid)))
}

fn vector_array<'a>(
    dimension: u32,
    values: impl IntoIterator<Item = &'a Value>,
    value_type: &ValueType,
) -> ArrayRef {
    let width = dimension as usize;
    let mut items = Float32Builder::new();
    let mut valid = Vec::new();
    for value in values {
        match value {
            Value::Vector(vector) if vector.len() == width => {
                items.append_slice(vector);
                valid.push(true);
            }
            Value::Null => {
                items.append_value_n(0.0, width);
                valid.push(false);
            }
            other => mismatch(value_type, other),
        }
    }
    let length = valid.len();
    let width = i32::try_from(dimension).expect("a vector has at most 16384 dimensions");
    let array = FixedSizeListArray::try_new_with_length(
        item_field(DataType::Float32),
        width,
        Arc::new(items.finish()),
        nulls(valid),
        length,
    );
    Arc::new(array.expect("every row appended one vector"))
}

fn nulls(valid: Vec<bool>) -> Option<NullBuffer> {
    valid.contains(&false).then(|| NullBuffer::from(valid))
}

/// Encodes each row's key as [`springhouse_core::EntityKey`] bytes: one result per row, an error for a row with a null
/// part or a key that is too long. A column that is not of its key's Arrow type fails every row.
pub fn encode_keys(columns: &[ArrayRef], keys: &[(String, ValueType)]) -> Vec<Result<EntityKey, KeyError>> {
    let rows = columns.first().map_or(0, |column| column.len());
    if columns.len() != keys.len() {
        let error = KeyError::Count { expected: keys.len(), got: columns.len() };
        return vec![Err(error); rows];
    }
    let wrong = columns.iter().zip(keys).find(|(column, (_, value_type))| {
        !value_type.is_key() || *column.data_type() != arrow_type(value_type)
    });
    if let Some((column, (name, value_type))) = wrong {
        let got = column.data_type().to_string();
        let error = KeyError::Type { name: name.clone(), expected: value_type.clone(), got };
        return vec![Err(error); rows];
    }
    let parts: Vec<KeyColumn<'_>> = columns.iter().map(KeyColumn::new).collect();
    let mut bytes = Vec::with_capacity(64);
    (0..rows)
        .map(|row| {
            bytes.clear();
            for (part, (name, _)) in parts.iter().zip(keys) {
                part.push(row, &mut bytes).map_err(|Null| KeyError::Null(name.clone()))?;
            }
            EntityKey::from_encoded(&bytes)
        })
        .collect()
}

/// A key column, downcast once for all rows.
enum KeyColumn<'a> {
    Bool(&'a BooleanArray),
    Int32(&'a Int32Array),
    Date(&'a Date32Array),
    Int64(&'a Int64Array),
    Timestamp(&'a TimestampMicrosecondArray),
    String(&'a StringArray),
    Bytes(&'a BinaryArray),
}

struct Null;

impl<'a> KeyColumn<'a> {
    fn new(array: &'a ArrayRef) -> Self {
        match array.data_type() {
            DataType::Boolean => Self::Bool(array.as_boolean()),
            DataType::Int32 => Self::Int32(array.as_primitive()),
            DataType::Date32 => Self::Date(array.as_primitive()),
            DataType::Int64 => Self::Int64(array.as_primitive()),
            DataType::Timestamp(..) => Self::Timestamp(array.as_primitive()),
            DataType::Utf8 => Self::String(array.as_string()),
            DataType::Binary => Self::Bytes(array.as_binary()),
            other => unreachable!("`encode_keys` checked the key types, this is {other}"),
        }
    }

    fn push(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Null> {
        macro_rules! part {
            ($array:expr, $push:expr) => {{
                if $array.is_null(row) {
                    return Err(Null);
                }
                $push(out, $array.value(row))
            }};
        }
        match self {
            Self::Bool(array) => part!(array, push_bool),
            Self::Int32(array) => part!(array, push_i32),
            Self::Date(array) => part!(array, push_i32),
            Self::Int64(array) => part!(array, push_i64),
            Self::Timestamp(array) => part!(array, push_i64),
            Self::String(array) => part!(array, |out, text: &str| push_bytes(out, text.as_bytes())),
            Self::Bytes(array) => part!(array, push_bytes),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(text: &str) -> (ValueType, Vec<Value>) {
        let value_type: ValueType = text.parse().unwrap();
        let strings = |items: &[&str]| items.iter().map(|s| Value::string(*s)).collect();
        let values = match text {
            "bool" => vec![Value::Bool(true), Value::Null, Value::Bool(false)],
            "int32" => vec![Value::Int32(i32::MIN), Value::Null],
            "int64" => vec![Value::Int64(i64::MAX), Value::Int64(-1), Value::Null],
            "float32" => vec![Value::Float32(-0.0), Value::Float32(f32::NAN)],
            "float64" => vec![Value::Float64(f64::MIN_POSITIVE), Value::Null],
            "string" | "json" => vec![Value::string(""), Value::string("Ünï"), Value::Null],
            "bytes" => vec![Value::Bytes([0u8, 255].as_slice().into()), Value::Null],
            "timestamp" => vec![Value::Timestamp(-1), Value::Null],
            "date" => vec![Value::Date(-719_162), Value::Null],
            "decimal(38,4)" => vec![Value::Decimal(-(10i128.pow(37)), 4), Value::Null],
            "list<string>" => vec![
                Value::List(strings(&["a", ""])),
                Value::Null,
                Value::List(Arc::new([])),
                Value::List(Arc::new([Value::Null])),
            ],
            "vector<2>" => vec![Value::Vector(Arc::new([1.0, -0.0])), Value::Null],
            "map<string,int64>" => {
                vec![Value::Map(Arc::new([(Value::string("b"), Value::Int64(2))])), Value::Null]
            }
            "map<int64,list<float64>>" => vec![Value::Map(Arc::new([
                (Value::Int64(1), Value::List(Arc::new([Value::Float64(1.5)]))),
                (Value::Int64(2), Value::Null),
            ]))],
            other => unreachable!("{other}"),
        };
        (value_type, values)
    }

    #[test]
    fn every_type_goes_through_arrow_and_back() {
        for text in [
            "bool",
            "int32",
            "int64",
            "float32",
            "float64",
            "string",
            "json",
            "bytes",
            "timestamp",
            "date",
            "decimal(38,4)",
            "list<string>",
            "vector<2>",
            "map<string,int64>",
            "map<int64,list<float64>>",
        ] {
            let (value_type, values) = sample(text);
            let array = array_from_values(&value_type, &values);
            assert_eq!(*array.data_type(), arrow_type(&value_type), "{text}");
            let back: Vec<Value> = (0..array.len()).map(|i| value_at(&array, i, &value_type)).collect();
            assert_eq!(back, values, "{text}");
            let expected = if text == "json" { ValueType::String } else { value_type.clone() };
            assert_eq!(value_type_of(array.data_type()), Some(expected), "{text}");
            assert_eq!(array_from_values(&value_type, &[] as &[Value]).len(), 0, "{text}");
        }
    }

    #[test]
    fn keys_from_columns_are_the_keys_from_values() {
        let keys: Vec<(String, ValueType)> =
            ["bool", "int32", "int64", "string", "bytes", "timestamp", "date"]
                .iter()
                .map(|t| (format!("k_{t}"), t.parse().unwrap()))
                .collect();
        let rows = [
            vec![
                Value::Bool(true),
                Value::Int32(-7),
                Value::Int64(i64::MIN),
                Value::string("ключ"),
                Value::Bytes([1u8].as_slice().into()),
                Value::Timestamp(5),
                Value::Date(3),
            ],
            vec![
                Value::Bool(false),
                Value::Int32(1),
                Value::Int64(2),
                Value::string("x".repeat(500)),
                Value::Bytes([].as_slice().into()),
                Value::Timestamp(-5),
                Value::Date(0),
            ],
            vec![
                Value::Bool(false),
                Value::Int32(1),
                Value::Null,
                Value::string("x"),
                Value::Bytes([].as_slice().into()),
                Value::Timestamp(-5),
                Value::Date(0),
            ],
        ];
        let columns: Vec<ArrayRef> = keys
            .iter()
            .enumerate()
            .map(|(i, (_, value_type))| array_from_values(value_type, rows.iter().map(|row| &row[i])))
            .collect();
        let encoded = encode_keys(&columns, &keys);
        for (row, got) in rows.iter().zip(&encoded) {
            assert_eq!(*got, EntityKey::encode(&keys, row));
        }
        assert!(encoded[0].is_ok() && matches!(encoded[1], Err(KeyError::TooLong(_))));
        assert_eq!(encoded[2], Err(KeyError::Null("k_int64".into())));
        let wrong = encode_keys(&columns[..1], &keys[1..2]);
        assert!(wrong.iter().all(|r| matches!(r, Err(KeyError::Type { .. }))) && wrong.len() == 3);
    }
}
