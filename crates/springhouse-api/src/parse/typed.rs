//! One JSON value into one [`Value`] of a declared type, or a reason why not.

use crate::text::{parse_date, parse_decimal, parse_timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use springhouse_core::{Value, ValueType};
use std::cell::RefCell;
use std::fmt;

/// Where a refused value leaves its reason: serde's own errors are texts, and texts are not matched on.
pub(super) type Reason = RefCell<Option<String>>;

/// Reads a value of this type. A reason says what was expected and what kind of thing came, never the value itself.
#[derive(Clone, Copy)]
pub(super) struct TypedValue<'t> {
    pub(super) value_type: &'t ValueType,
    pub(super) reason: &'t Reason,
}

/// How a type is called in errors, with the spelling it takes in JSON where that is not plain.
pub(crate) fn type_name_of(value_type: &ValueType) -> String {
    match value_type {
        ValueType::Timestamp => {
            "timestamp (RFC 3339 with an offset, to the microsecond, such as \"2013-01-01T05:00:00Z\")"
                .to_owned()
        }
        ValueType::Date => "date (such as \"2013-01-01\")".to_owned(),
        ValueType::Bytes => "bytes (a base64 string)".to_owned(),
        ValueType::Decimal { .. } => format!("{value_type} (a string such as \"12.50\"; nothing is rounded)"),
        ValueType::Int32 | ValueType::Int64 => {
            format!("{value_type} (an integer in range, without fraction or exponent)")
        }
        ValueType::Float32 | ValueType::Float64 => {
            format!("{value_type} (a number in range, \"NaN\", \"Infinity\" or \"-Infinity\")")
        }
        ValueType::Map(..) => format!("{value_type} (a list of [key, value] pairs)"),
        _ => value_type.to_string(),
    }
}

impl<'de> DeserializeSeed<'de> for TypedValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.value_type {
            // Their digits must not pass through serde_json's own number reader.
            ValueType::Float32 | ValueType::Float64 | ValueType::Decimal { .. } | ValueType::Json => {
                let raw = <&RawValue>::deserialize(deserializer)?;
                from_raw(raw.get(), self.value_type).map_err(|kind| self.got(kind))
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for TypedValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_name_of(self.value_type))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        match self.value_type {
            ValueType::Bool => Ok(Value::Bool(v)),
            _ => Err(self.got("a boolean")),
        }
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        match self.value_type {
            ValueType::Int64 => Ok(Value::Int64(v)),
            ValueType::Int32 => i32::try_from(v).map(Value::Int32).map_err(|_| self.got("a larger integer")),
            _ => Err(self.got("a number")),
        }
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        match i64::try_from(v) {
            Ok(v) => self.visit_i64(v),
            Err(_) => Err(self.got("a larger integer")),
        }
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
        Err(self.got("a number with a fraction, an exponent or more digits"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        let value = match self.value_type {
            ValueType::String => Some(Value::string(text)),
            // For callers whose numbers end at 2^53. One spelling only, so that equal keys have equal texts.
            ValueType::Int64 => text.parse::<i64>().ok().filter(|v| v.to_string() == text).map(Value::Int64),
            ValueType::Bytes => STANDARD.decode(text).ok().map(|bytes| Value::Bytes(bytes.into())),
            ValueType::Timestamp => parse_timestamp(text).map(Value::Timestamp),
            ValueType::Date => parse_date(text).map(Value::Date),
            _ => return Err(self.got("a string")),
        };
        value.ok_or_else(|| self.got("a string that is none"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        match self.value_type {
            ValueType::List(inner) => {
                let mut values = Vec::new();
                while let Some(value) = items.next_element_seed(self.of(inner))? {
                    values.push(value);
                }
                Ok(Value::List(values.into()))
            }
            ValueType::Vector(dimension) => {
                let mut values = Vec::new();
                while let Some(value) = items.next_element_seed(self.of(&ValueType::Float32))? {
                    match value {
                        Value::Float32(v) => values.push(v),
                        _ => return Err(self.got("a list with a null")),
                    }
                }
                if values.len() != *dimension as usize {
                    return Err(self.got(&format!("{} numbers", values.len())));
                }
                Ok(Value::Vector(values.into()))
            }
            ValueType::Map(key_type, item_type) => {
                let mut pairs = Vec::new();
                while let Some(pair) = items.next_element_seed(Pair(self.of(key_type), self.of(item_type)))? {
                    pairs.push(pair);
                }
                Ok(Value::Map(pairs.into()))
            }
            _ => Err(self.got("a list")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(self.got("an object"))
    }
}

impl<'t> TypedValue<'t> {
    fn of(self, value_type: &'t ValueType) -> Self {
        Self { value_type, ..self }
    }

    fn got<E: de::Error>(self, what: &str) -> E {
        let expected = type_name_of(self.value_type);
        self.reason.replace(Some(format!("expected {expected}, got {what}")));
        E::custom("wrong type")
    }
}

/// A `[key, value]` pair of a map.
struct Pair<'t>(TypedValue<'t>, TypedValue<'t>);

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = (Value, Value);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(Value, Value), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Pair<'_> {
    fn got<E: de::Error>(&self, what: &str) -> E {
        self.0.reason.replace(Some(format!("expected a [key, value] pair, got {what}")));
        E::custom("wrong type")
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = (Value, Value);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a [key, value] pair")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(Value, Value), A::Error> {
        let Some(key) = items.next_element_seed(self.0)? else { return Err(self.got("an empty list")) };
        let Some(value) = items.next_element_seed(self.1)? else { return Err(self.got("one item")) };
        match items.next_element::<de::IgnoredAny>()? {
            None => Ok((key, value)),
            Some(_) => Err(self.got("more items")),
        }
    }
}

/// The error says what kind of thing came.
fn from_raw(raw: &str, value_type: &ValueType) -> Result<Value, &'static str> {
    let text = raw.trim_ascii();
    if text == "null" {
        return Ok(Value::Null);
    }
    if *value_type == ValueType::Json {
        return Ok(Value::string(text));
    }
    let unquoted: Option<String> = if text.starts_with('"') { serde_json::from_str(text).ok() } else { None };
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let value = match value_type {
        ValueType::Float64 => match &unquoted {
            Some(word) => non_finite(word).map(Value::Float64),
            None if is_number => text.parse().ok().filter(|v: &f64| v.is_finite()).map(Value::Float64),
            None => None,
        },
        ValueType::Float32 => match &unquoted {
            Some(word) => non_finite(word).map(|v| Value::Float32(v as f32)),
            None if is_number => text.parse().ok().filter(|v: &f32| v.is_finite()).map(Value::Float32),
            None => None,
        },
        ValueType::Decimal { precision, scale } => {
            parse_decimal(unquoted.as_deref().unwrap_or(text), *precision, *scale)
                .map(|unscaled| Value::Decimal(unscaled, *scale))
        }
        _ => None,
    };
    value.ok_or(match text.as_bytes().first() {
        Some(b'"') => "a string that is none",
        Some(b'[') => "a list",
        Some(b'{') => "an object",
        Some(b't' | b'f') => "a boolean",
        _ => "a number that does not fit",
    })
}

fn non_finite(word: &str) -> Option<f64> {
    match word {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}
