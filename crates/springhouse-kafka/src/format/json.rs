//! Single values as JSON, as a push would write them for a column of their type.

use super::Flaw;
use base64::Engine;
use serde_json::{Number, Value as Json};
use springhouse_core::ValueType;

pub(super) fn wrong_type(what: &str, target: &ValueType) -> Flaw {
    ("wrong_type", format!("{what} can't become {target}"))
}

/// Exactly: a float32 keeps its value when it becomes a float64.
pub(super) fn float(value: f64) -> Json {
    let word = if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    Number::from_f64(value).map_or_else(|| word.into(), Json::Number)
}

/// Base64 for bytes; text for a column of text.
pub(super) fn bytes(value: &[u8], target: &ValueType) -> Result<Json, Flaw> {
    match target {
        ValueType::String => std::str::from_utf8(value)
            .map(Json::from)
            .map_err(|_| ("malformed_value", "bytes for a string column are not UTF-8".to_owned())),
        ValueType::Bytes | ValueType::Json => {
            Ok(base64::engine::general_purpose::STANDARD.encode(value).into())
        }
        _ => Err(wrong_type("bytes", target)),
    }
}

/// A moment in units of which there are so many in a second. Columns of numbers get the number itself.
pub(super) fn moment(value: i64, per_second: i64, target: &ValueType) -> Result<Json, Flaw> {
    if matches!(target, ValueType::Int64 | ValueType::Int32) {
        return Ok(value.into());
    }
    let micros = if per_second <= 1_000_000 {
        value.checked_mul(1_000_000 / per_second)
    } else {
        Some(value.div_euclid(per_second / 1_000_000))
    };
    micros.map(Json::from).ok_or_else(|| ("out_of_range", "a timestamp is out of range".to_owned()))
}

/// What the items of a column are to be.
pub(super) fn items(target: &ValueType) -> Result<&ValueType, Flaw> {
    match target {
        ValueType::List(inner) => Ok(inner),
        ValueType::Vector(_) => Ok(&ValueType::Float32),
        ValueType::Json => Ok(&ValueType::Json),
        _ => Err(wrong_type("a list", target)),
    }
}

/// What stands in an object, which only a column of JSON takes.
pub(super) fn members<'a>(what: &str, target: &'a ValueType) -> Result<&'a ValueType, Flaw> {
    if *target == ValueType::Json { Ok(target) } else { Err(wrong_type(what, target)) }
}
