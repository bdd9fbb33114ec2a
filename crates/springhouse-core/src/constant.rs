//! Constants in definitions: a node read as a value of a given type.

use crate::time::parse_instant;
use crate::yaml::{Kind, Node};
use crate::{Value, ValueType};
use base64::Engine;
use std::sync::Arc;

/// The value that `node` says in the type `value_type`.
///
/// # Errors
/// What was expected, and what to do when the mistake is a common one.
pub(crate) fn constant(node: &Node, value_type: &ValueType) -> Result<Value, Mismatch> {
    let mismatch = |expected: &str| Mismatch { expected: expected.to_owned(), hint: None };
    let wrong = || mismatch(&format!("a constant of type {value_type}"));
    let plain = match &node.kind {
        Kind::Null => return Ok(Value::Null),
        Kind::Scalar { text, plain: true } => Some(text.as_str()),
        _ => None,
    };
    let text = match &node.kind {
        Kind::Scalar { text, .. } => Some(text.as_str()),
        _ => None,
    };
    match value_type {
        ValueType::Bool => match plain {
            Some("true") => Ok(Value::Bool(true)),
            Some("false") => Ok(Value::Bool(false)),
            _ => Err(mismatch("`true` or `false`")),
        },
        ValueType::Int32 => plain.and_then(|t| t.parse().ok()).map(Value::Int32).ok_or_else(wrong),
        ValueType::Int64 => plain.and_then(|t| t.parse().ok()).map(Value::Int64).ok_or_else(wrong),
        ValueType::Float32 => plain
            .and_then(|t| t.parse().ok())
            .filter(|v: &f32| v.is_finite())
            .map(Value::Float32)
            .ok_or_else(wrong),
        ValueType::Float64 => plain
            .and_then(|t| t.parse().ok())
            .filter(|v: &f64| v.is_finite())
            .map(Value::Float64)
            .ok_or_else(wrong),
        ValueType::String => match (text, plain) {
            (Some(text), Some(_)) if looks_typed(text) => {
                Err(Mismatch { hint: Some(format!("write \"{text}\" in quotes")), ..wrong() })
            }
            (Some(text), _) => Ok(Value::string(text)),
            _ => Err(wrong()),
        },
        ValueType::Bytes => text
            .and_then(|t| base64::engine::general_purpose::STANDARD.decode(t).ok())
            .map(|bytes| Value::Bytes(bytes.into()))
            .ok_or_else(|| mismatch("bytes in base64")),
        ValueType::Timestamp => match text.map(parse_instant) {
            Some(Ok(micros)) => Ok(Value::Timestamp(micros)),
            _ => Err(mismatch("an instant such as 2013-01-01T05:00:00Z")),
        },
        ValueType::Date => text
            .and_then(|t| chrono::NaiveDate::parse_from_str(t, "%Y-%m-%d").ok())
            .and_then(|day| i32::try_from((day - chrono::NaiveDate::default()).num_days()).ok())
            .map(Value::Date)
            .ok_or_else(|| mismatch("a date such as 2013-01-31")),
        ValueType::Decimal { precision, scale } => text
            .and_then(|t| decimal(t, *precision, *scale))
            .map(|unscaled| Value::Decimal(unscaled, *scale))
            .ok_or_else(wrong),
        ValueType::Json => serde_json::to_string(&json(node)).map(Value::string).map_err(|_| wrong()),
        ValueType::List(inner) => {
            let Kind::List(items) = &node.kind else { return Err(wrong()) };
            let values: Result<Arc<[Value]>, _> = items.iter().map(|item| constant(item, inner)).collect();
            values.map(Value::List)
        }
        ValueType::Vector(dimension) => {
            let Kind::List(items) = &node.kind else { return Err(wrong()) };
            let values: Result<Vec<Value>, _> =
                items.iter().map(|item| constant(item, &ValueType::Float32)).collect();
            let floats: Vec<f32> = values?
                .iter()
                .filter_map(|v| if let Value::Float32(v) = v { Some(*v) } else { None })
                .collect();
            if floats.len() != *dimension as usize {
                return Err(mismatch(&format!("a list of {dimension} numbers")));
            }
            Ok(Value::Vector(floats.into()))
        }
        ValueType::Map(key_type, item_type) => {
            let Kind::Map(entries) = &node.kind else { return Err(wrong()) };
            let pairs: Result<Arc<[(Value, Value)]>, _> = entries
                .iter()
                .map(|(key, item)| {
                    let plain = **key_type != ValueType::String;
                    let key = Node { span: key.span, kind: Kind::Scalar { text: key.text.clone(), plain } };
                    Ok((constant(&key, key_type)?, constant(item, item_type)?))
                })
                .collect();
            pairs.map(Value::Map)
        }
    }
}

/// Why a constant does not fit.
#[derive(Debug)]
pub(crate) struct Mismatch {
    pub(crate) expected: String,
    pub(crate) hint: Option<String>,
}

/// True when YAML would read the plain text as something other than a text.
fn looks_typed(text: &str) -> bool {
    matches!(text, "true" | "false") || text.parse::<f64>().is_ok()
}

/// A decimal text as the integer of its digits, exactly.
fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = usize::try_from(scale).ok()?;
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || fraction.len() > scale {
        return None;
    }
    let unscaled = format!("{whole}{fraction:0<scale$}").parse::<i128>().ok()?;
    (unscaled < 10i128.checked_pow(u32::from(precision))?).then_some(if negative {
        -unscaled
    } else {
        unscaled
    })
}

/// A node as JSON, plain texts typed as YAML 1.2 types them.
pub(crate) fn json(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.kind {
        Kind::Null => Json::Null,
        Kind::Scalar { text, plain: true } => match text.as_str() {
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            _ => {
                let number =
                    text.parse::<u64>().map(Json::from).or_else(|_| text.parse::<i64>().map(Json::from));
                let number = number.ok().or_else(|| {
                    text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Json::Number)
                });
                number.unwrap_or_else(|| Json::String(text.clone()))
            }
        },
        Kind::Scalar { text, .. } => Json::String(text.clone()),
        Kind::List(items) => Json::Array(items.iter().map(json).collect()),
        Kind::Map(entries) => Json::Object(entries.iter().map(|(k, v)| (k.text.clone(), json(v))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(decimal("12.5", 18, 4), Some(125_000));
        assert_eq!(decimal("-0.0001", 18, 4), Some(-1));
        assert_eq!(decimal("99.99", 4, 2), Some(9_999));
        for text in ["100.00", "1.234", ".5", "1e3", "", "-", "1.2.3"] {
            assert_eq!(decimal(text, 4, 2), None, "{text}");
        }
    }
}
