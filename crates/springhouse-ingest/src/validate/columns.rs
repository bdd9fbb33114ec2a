//! One Arrow column under construction, fed with the text of JSON values.

use super::values::{self, Wrong};
use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, FixedSizeListArray,
    Float32Builder, Float64Builder, Int32Builder, Int64Builder, ListArray, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use serde_json::value::RawValue;
use springhouse_core::ValueType;
use springhouse_kernel::arrow_type;
use std::sync::Arc;

/// A column under construction.
#[derive(Debug)]
pub(super) enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    String(StringBuilder),
    Bytes(BinaryBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
    Decimal { builder: Decimal128Builder, precision: u8, scale: i8 },
    Json(StringBuilder),
    Vector { dimension: u32, values: Vec<f32>, valid: Vec<bool>, data_type: DataType },
    List { items: Box<ColumnBuilder>, offsets: Vec<i32>, valid: Vec<bool>, data_type: DataType },
}

impl ColumnBuilder {
    /// An empty column of that type.
    pub(super) fn new(value_type: &ValueType, rows: usize) -> Self {
        let data_type = arrow_type(value_type);
        match value_type {
            ValueType::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            ValueType::Int32 => Self::Int32(Int32Builder::with_capacity(rows)),
            ValueType::Int64 => Self::Int64(Int64Builder::with_capacity(rows)),
            ValueType::Float32 => Self::Float32(Float32Builder::with_capacity(rows)),
            ValueType::Float64 => Self::Float64(Float64Builder::with_capacity(rows)),
            ValueType::String => Self::String(StringBuilder::with_capacity(rows, rows * 8)),
            ValueType::Bytes => Self::Bytes(BinaryBuilder::with_capacity(rows, rows * 8)),
            ValueType::Timestamp => {
                Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(data_type))
            }
            ValueType::Date => Self::Date(Date32Builder::with_capacity(rows)),
            ValueType::Decimal { precision, scale } => Self::Decimal {
                builder: Decimal128Builder::with_capacity(rows).with_data_type(data_type),
                precision: *precision,
                scale: *scale,
            },
            // A source declares no maps (only functions give them); their text is what is left.
            ValueType::Json | ValueType::Map(..) => Self::Json(StringBuilder::with_capacity(rows, rows * 32)),
            ValueType::Vector(dimension) => Self::Vector {
                dimension: *dimension,
                values: Vec::with_capacity(rows * *dimension as usize),
                valid: Vec::with_capacity(rows),
                data_type,
            },
            ValueType::List(inner) => Self::List {
                items: Box::new(Self::new(inner, rows)),
                offsets: vec![0],
                valid: Vec::with_capacity(rows),
                data_type,
            },
        }
    }

    /// Appends the value of that JSON text; on an error, null.
    pub(super) fn push(&mut self, raw: &str, zone: Option<chrono_tz::Tz>) -> Result<(), Wrong> {
        if raw == "null" {
            self.push_null();
            return Ok(());
        }
        let result = self.push_value(raw, zone);
        if result.is_err() {
            self.push_null();
        }
        result
    }

    fn push_value(&mut self, raw: &str, zone: Option<chrono_tz::Tz>) -> Result<(), Wrong> {
        match self {
            Self::Bool(builder) => builder.append_value(values::boolean(raw)?),
            Self::Int32(builder) => builder.append_value(values::int32(raw)?),
            Self::Int64(builder) => builder.append_value(values::int64(raw)?),
            Self::Float32(builder) => builder.append_value(values::float(raw)?),
            Self::Float64(builder) => builder.append_value(values::float(raw)?),
            Self::String(builder) => builder.append_value(values::string(raw)?),
            Self::Bytes(builder) => builder.append_value(values::bytes(raw)?),
            Self::Timestamp(builder) => builder.append_value(values::timestamp(raw, zone)?),
            Self::Date(builder) => builder.append_value(values::date(raw)?),
            Self::Decimal { builder, precision, scale } => {
                builder.append_value(values::decimal(raw, *precision, *scale)?);
            }
            Self::Json(builder) => builder.append_value(values::json(raw)?),
            Self::Vector { dimension, values: all, valid, .. } => {
                let items = items_of(raw)?;
                if items.len() != *dimension as usize {
                    return Err(("malformed_value", "; the number of elements is part of the type"));
                }
                let before = all.len();
                for item in items {
                    match values::float(item.get()) {
                        Ok(value) => all.push(value),
                        Err(wrong) => {
                            all.truncate(before);
                            return Err(wrong);
                        }
                    }
                }
                valid.push(true);
            }
            Self::List { items, offsets, valid, .. } => {
                for item in items_of(raw)? {
                    items.push(item.get(), zone)?;
                }
                offsets.push(items.len() as i32);
                valid.push(true);
            }
        }
        Ok(())
    }

    pub(super) fn push_null(&mut self) {
        match self {
            Self::Bool(builder) => builder.append_null(),
            Self::Int32(builder) => builder.append_null(),
            Self::Int64(builder) => builder.append_null(),
            Self::Float32(builder) => builder.append_null(),
            Self::Float64(builder) => builder.append_null(),
            Self::String(builder) | Self::Json(builder) => builder.append_null(),
            Self::Bytes(builder) => builder.append_null(),
            Self::Timestamp(builder) => builder.append_null(),
            Self::Date(builder) => builder.append_null(),
            Self::Decimal { builder, .. } => builder.append_null(),
            Self::Vector { dimension, values, valid, .. } => {
                values.resize(values.len() + *dimension as usize, 0.0);
                valid.push(false);
            }
            Self::List { items, offsets, valid, .. } => {
                // Elements of a list that broke off stay below the null; nobody sees them.
                offsets.push(items.len() as i32);
                valid.push(false);
            }
        }
    }

    fn len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        match self {
            Self::Bool(builder) => builder.len(),
            Self::Int32(builder) => builder.len(),
            Self::Int64(builder) => builder.len(),
            Self::Float32(builder) => builder.len(),
            Self::Float64(builder) => builder.len(),
            Self::String(builder) | Self::Json(builder) => builder.len(),
            Self::Bytes(builder) => builder.len(),
            Self::Timestamp(builder) => builder.len(),
            Self::Date(builder) => builder.len(),
            Self::Decimal { builder, .. } => builder.len(),
            Self::Vector { valid, .. } => valid.len(),
            Self::List { offsets, .. } => offsets.len() - 1,
        }
    }

    /// The column.
    pub(super) fn finish(self) -> ArrayRef {
        match self {
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Int32(mut builder) => Arc::new(builder.finish()),
            Self::Int64(mut builder) => Arc::new(builder.finish()),
            Self::Float32(mut builder) => Arc::new(builder.finish()),
            Self::Float64(mut builder) => Arc::new(builder.finish()),
            Self::String(mut builder) | Self::Json(mut builder) => Arc::new(builder.finish()),
            Self::Bytes(mut builder) => Arc::new(builder.finish()),
            Self::Timestamp(mut builder) => Arc::new(builder.finish()),
            Self::Date(mut builder) => Arc::new(builder.finish()),
            Self::Decimal { mut builder, .. } => Arc::new(builder.finish()),
            Self::Vector { dimension, values, valid, data_type } => {
                let DataType::FixedSizeList(field, _) = data_type else {
                    unreachable!("a vector is a fixed-size list")
                };
                let items = arrow::array::Float32Array::from(values);
                let items: ArrayRef = Arc::new(items);
                Arc::new(FixedSizeListArray::new(field, dimension as i32, items, some_nulls(valid)))
            }
            Self::List { items, offsets, valid, data_type } => {
                let DataType::List(field) = data_type else { unreachable!("a list is a list") };
                let items = items.finish();
                debug_assert_eq!(offsets.last().copied(), Some(items.len() as i32));
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(ListArray::new(field, offsets, items, some_nulls(valid)))
            }
        }
    }
}

fn some_nulls(valid: Vec<bool>) -> Option<NullBuffer> {
    valid.contains(&false).then(|| NullBuffer::from(valid))
}

fn items_of(raw: &str) -> Result<Vec<&RawValue>, Wrong> {
    if !raw.starts_with('[') {
        return Err(("wrong_type", ""));
    }
    serde_json::from_str(raw).map_err(|_| ("malformed_value", ""))
}
