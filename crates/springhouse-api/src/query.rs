//! Query strings, and values written in them.

use crate::ApiError;
use crate::parse::type_name_of;
use crate::text::{parse_date, parse_timestamp};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use springhouse_core::{Value, ValueType};

/// One `name=value` of a query string, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPair {
    /// Before the `=`.
    pub name: String,
    /// After it; empty without one.
    pub value: String,
}

/// Splits and decodes a query string (`%41`, `+` for a space).
///
/// # Errors
/// `invalid_query` for a broken escape, text that is not UTF-8, or a name given twice.
pub fn parse_query(query: &str) -> Result<Vec<QueryPair>, ApiError> {
    let mut pairs: Vec<QueryPair> = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let decoded = decode(name).zip(decode(value));
        let Some((name, value)) = decoded else {
            return Err(ApiError::new("invalid_query", "the query string has a broken % escape"));
        };
        if pairs.iter().any(|pair| pair.name == name) {
            return Err(ApiError::new("invalid_query", format!("`{name}` is given twice")));
        }
        pairs.push(QueryPair { name, value });
    }
    Ok(pairs)
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => out.push(b' '),
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                let high = char::from(digits[0]).to_digit(16)?;
                let low = char::from(digits[1]).to_digit(16)?;
                out.push((high * 16 + low) as u8);
                rest = tail;
            }
            byte => out.push(*byte),
        }
    }
    String::from_utf8(out).ok()
}

/// An entity key value from text, in the spelling that JSON has for its type, without the quotes.
///
/// # Errors
/// `wrong_type`.
pub fn value_from_text(name: &str, text: &str, value_type: &ValueType) -> Result<Value, ApiError> {
    let value = match value_type {
        ValueType::String => Some(Value::string(text)),
        ValueType::Bool => text.parse().ok().map(Value::Bool),
        ValueType::Int32 => text.parse().ok().filter(|v: &i32| v.to_string() == text).map(Value::Int32),
        ValueType::Int64 => text.parse().ok().filter(|v: &i64| v.to_string() == text).map(Value::Int64),
        ValueType::Timestamp => parse_timestamp(text).map(Value::Timestamp),
        ValueType::Date => parse_date(text).map(Value::Date),
        ValueType::Bytes => STANDARD
            .decode(text)
            .or_else(|_| URL_SAFE.decode(text))
            .ok()
            .map(|bytes| Value::Bytes(bytes.into())),
        _ => None,
    };
    value.ok_or_else(|| {
        ApiError::new("wrong_type", format!("entity key `{name}`: expected {}", type_name_of(value_type)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let pairs = parse_query("view=a%3Ab&key.origin=J+F%4b&&flag").unwrap();
        let texts: Vec<_> = pairs.iter().map(|p| format!("{}={}", p.name, p.value)).collect();
        assert_eq!(texts, ["view=a:b", "key.origin=J FK", "flag="]);
        for query in ["a=%4", "a=%zz", "a=%ff", "a=1&a=2", "a=%é"] {
            assert_eq!(parse_query(query).unwrap_err().code, "invalid_query", "{query}");
        }
    }

    #[test]
    fn keys_in_queries_are_exact() {
        let read = |text: &str, value_type: &str| value_from_text("k", text, &value_type.parse().unwrap());
        assert_eq!(read("9007199254740993", "int64").unwrap(), Value::Int64(9_007_199_254_740_993));
        assert_eq!(read("AP8=", "bytes").unwrap(), Value::Bytes([0u8, 255].as_slice().into()));
        assert_eq!(read("1970-01-02", "date").unwrap(), Value::Date(1));
        for (text, value_type) in
            [("01", "int64"), ("+1", "int64"), ("1.0", "int32"), ("yes", "bool"), ("x", "date")]
        {
            assert_eq!(read(text, value_type).unwrap_err().code, "wrong_type", "{text}");
        }
    }
}
