//! A JSON value whose numbers keep every digit: it stays text until its type is known.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use springhouse_core::{Value, ValueType};
use std::fmt;

/// A JSON value as it is written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Exact(Box<RawValue>);

impl Exact {
    pub(crate) fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    pub(crate) fn int(value: i64) -> anyhow::Result<Self> {
        Ok(Self(RawValue::from_string(value.to_string())?))
    }

    fn text(&self) -> &str {
        self.0.get()
    }

    /// True for a number without fraction and exponent.
    pub(crate) fn is_int(&self) -> bool {
        self.text().parse::<i64>().is_ok()
    }

    fn list(&self) -> Option<Vec<Self>> {
        serde_json::from_str(self.text()).ok()
    }

    /// The value in its type; NaN is spelled "NaN".
    pub(crate) fn typed(&self, value_type: &ValueType) -> anyhow::Result<Value> {
        let text = self.text();
        Ok(match value_type {
            _ if text == "null" => Value::Null,
            ValueType::Float64 if text == "\"NaN\"" => Value::Float64(f64::NAN),
            // The standard library rounds to the nearest float; serde_json does so only with a feature.
            ValueType::Float64 => {
                Value::Float64(text.parse().with_context(|| format!("{text} is no float64"))?)
            }
            ValueType::Int64 => Value::Int64(text.parse().with_context(|| format!("{text} is no int64"))?),
            ValueType::String => Value::string(serde_json::from_str::<String>(text)?),
            other => bail!("a case has no values of type {other}"),
        })
    }

    /// The very same value: integers exactly, floats to the bit (a zero has no sign in JSON), lists and pairs in order.
    pub(crate) fn is(&self, value: &Value) -> bool {
        let text = self.text();
        match value {
            Value::Null => text == "null",
            Value::String(value) => {
                serde_json::from_str::<String>(text).is_ok_and(|t| t.as_str() == value.as_ref())
            }
            Value::Int64(value) => text.parse() == Ok(*value),
            Value::Float64(value) => !text.starts_with('"') && text.parse() == Ok(*value),
            Value::List(values) => self.list().is_some_and(|list| {
                list.len() == values.len()
                    && list.iter().zip(values.iter()).all(|(item, value)| item.is(value))
            }),
            Value::Map(pairs) => self.list().is_some_and(|list| {
                let is_pair = |(item, (key, value)): (&Self, &(Value, Value))| match item.list().as_deref() {
                    Some([k, v]) => k.is(key) && v.is(value),
                    _ => false,
                };
                list.len() == pairs.len() && list.iter().zip(pairs.iter()).all(is_pair)
            }),
            _ => false,
        }
    }
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
