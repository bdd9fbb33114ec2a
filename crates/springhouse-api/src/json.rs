//! Values as JSON, exact, into one buffer.
//!
//! | type | JSON |
//! |---|---|
//! | bool | `true` |
//! | int32, int64 | an integer, all digits (int64 as a string on request) |
//! | float32, float64 | the shortest digits that read back to the same bits; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | string | a string |
//! | bytes | base64 (standard alphabet, padded) |
//! | timestamp | RFC 3339, UTC, six fractional digits |
//! | date | `"2013-01-01"` |
//! | decimal | a string with all digits of its scale |
//! | list, vector | an array |
//! | map | an array of `[key, value]` pairs, in the order that the feature defines |
//! | json | the document itself |

use crate::features::Int64Format;
use crate::text::{format_decimal, push_date, push_timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use springhouse_core::{Value, ValueType};

/// Appends `value`, which is of `value_type`, as JSON.
pub fn write_value(out: &mut Vec<u8>, value: &Value, value_type: &ValueType, int64: Int64Format) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(v) => out.extend_from_slice(if *v { b"true" } else { b"false" }),
        Value::Int32(v) => push_integer(out, *v),
        Value::Int64(v) => match int64 {
            Int64Format::Number => push_integer(out, *v),
            Int64Format::String => {
                out.push(b'"');
                push_integer(out, *v);
                out.push(b'"');
            }
        },
        Value::Float32(v) if v.is_finite() => push_float(out, *v),
        Value::Float32(v) => push_non_finite(out, f64::from(*v)),
        Value::Float64(v) if v.is_finite() => push_float(out, *v),
        Value::Float64(v) => push_non_finite(out, *v),
        Value::String(text) if *value_type == ValueType::Json => push_document(out, text),
        Value::String(text) => write_string(out, text),
        Value::Bytes(bytes) => push_base64(out, bytes),
        Value::Timestamp(micros) => quoted(out, |out| push_timestamp(out, *micros)),
        Value::Date(days) => quoted(out, |out| push_date(out, *days)),
        Value::Decimal(unscaled, scale) => {
            quoted(out, |out| out.extend_from_slice(format_decimal(*unscaled, *scale).as_bytes()));
        }
        Value::List(items) => {
            let inner = match value_type {
                ValueType::List(inner) => inner,
                _ => value_type,
            };
            array(out, items.iter(), |out, item| write_value(out, item, inner, int64));
        }
        Value::Vector(items) => {
            array(out, items.iter(), |out, item| {
                write_value(out, &Value::Float32(*item), &ValueType::Float32, int64);
            });
        }
        Value::Map(pairs) => {
            let (key_type, item_type) = match value_type {
                ValueType::Map(key, item) => (key.as_ref(), item.as_ref()),
                _ => (value_type, value_type),
            };
            array(out, pairs.iter(), |out, (key, item)| {
                out.push(b'[');
                write_value(out, key, key_type, int64);
                out.push(b',');
                write_value(out, item, item_type, int64);
                out.push(b']');
            });
        }
    }
}

/// A value as a piece of JSON text.
pub fn raw_value(value: &Value, value_type: &ValueType) -> Box<RawValue> {
    let mut out = Vec::new();
    write_value(&mut out, value, value_type, Int64Format::Number);
    let text = String::from_utf8(out).expect("JSON is written from UTF-8 strings and ASCII");
    RawValue::from_string(text).expect("what is written is JSON; the tests read it back")
}

/// A value as a JSON tree. Floats are put in with the digits that [`write_value`] has: serde_json's own reader can miss the
/// last one.
pub fn json_value(value: &Value, value_type: &ValueType) -> serde_json::Value {
    let exact = |text: &str| text.parse().ok().and_then(serde_json::Number::from_f64);
    let number = match value {
        Value::Float64(v) => serde_json::Number::from_f64(*v),
        Value::Float32(v) if v.is_finite() => exact(zmij::Buffer::new().format_finite(*v)),
        _ => None,
    };
    match number {
        Some(number) => number.into(),
        None => serde_json::from_str(raw_value(value, value_type).get()).unwrap_or_default(),
    }
}

/// Appends the items with commas between, in brackets.
pub(crate) fn array<T>(out: &mut Vec<u8>, of: impl Iterator<Item = T>, write: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    items(out, of, write);
    out.push(b']');
}

/// Appends the items with commas between.
pub(crate) fn items<T>(
    out: &mut Vec<u8>,
    of: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    for (index, item) in of.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
}

/// Appends a JSON string with the escapes that JSON needs and no others.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let (plain, rest) = bytes.split_at(plain_bytes(bytes));
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    out.extend_from_slice(plain);
    if !rest.is_empty() {
        push_escaped(out, rest);
    }
    out.push(b'"');
}

/// Appends what begins with a byte that is escaped.
#[cold]
fn push_escaped(out: &mut Vec<u8>, mut rest: &[u8]) {
    while let Some((byte, after)) = rest.split_first() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
        let (plain, special) = after.split_at(plain_bytes(after));
        out.extend_from_slice(plain);
        rest = special;
    }
}

/// How many bytes stand before the first that is escaped. Eight are looked at as a whole: subtracting borrows into the high
/// bit of those that are below what is subtracted.
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    let below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
    let equal = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    // A borrow may go on into bytes behind the first one that is found; that one is right.
    let first = |eight: &[u8; 8]| {
        let word = u64::from_le_bytes(*eight);
        let special = (below(word, 0x20) | equal(word, b'"') | equal(word, b'\\')) & HIGH;
        (special != 0).then(|| special.trailing_zeros() as usize / 8)
    };
    let Some(last) = bytes.last_chunk() else {
        let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
        return bytes.iter().position(is_special).unwrap_or(bytes.len());
    };
    for (number, word) in bytes.as_chunks().0.iter().enumerate() {
        if let Some(place) = first(word) {
            return number * 8 + place;
        }
    }
    // The last eight again, some of which are not looked at yet.
    first(last).map_or(bytes.len(), |place| bytes.len() - 8 + place)
}

/// Appends an integer.
pub(crate) fn push_integer(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push_float(out: &mut Vec<u8>, number: impl zmij::Float) {
    out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
}

fn push_non_finite(out: &mut Vec<u8>, number: f64) {
    let text: &[u8] = if number.is_nan() {
        b"\"NaN\""
    } else if number > 0.0 {
        b"\"Infinity\""
    } else {
        b"\"-Infinity\""
    };
    out.extend_from_slice(text);
}

/// Embeds a document as it is. A text that is no JSON after all must not break the answer around it: it goes out as a
/// string.
fn push_document(out: &mut Vec<u8>, text: &str) {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => out.extend_from_slice(text.trim_ascii().as_bytes()),
        Err(_) => write_string(out, text),
    }
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    quoted(out, |out| {
        let start = out.len();
        out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("four bytes for each three fit");
        out.truncate(start + written);
    });
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_byte_that_is_escaped_is_found(bytes in prop::collection::vec(any::<u8>(), 0..40), around in "[ -~]{0,30}") {
            let mixed = [around.as_bytes(), &bytes, around.as_bytes()].concat();
            for bytes in [&bytes[..], around.as_bytes(), &mixed] {
                let expected = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
                prop_assert_eq!(plain_bytes(bytes), expected.unwrap_or(bytes.len()), "{:?}", bytes);
            }
        }
    }

    fn json(value: &Value, value_type: &str) -> String {
        let mut out = Vec::new();
        write_value(&mut out, value, &value_type.parse().unwrap(), Int64Format::Number);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_type_has_one_exact_spelling() {
        let big = (1i64 << 53) + 1;
        for (value, value_type, expected) in [
            (Value::Null, "int64", "null"),
            (Value::Bool(true), "bool", "true"),
            (Value::Int32(i32::MIN), "int32", "-2147483648"),
            (Value::Int64(big), "int64", "9007199254740993"),
            (Value::Int64(i64::MIN), "int64", "-9223372036854775808"),
            (Value::Float64(0.1 + 0.2), "float64", "0.30000000000000004"),
            (Value::Float64(-0.0), "float64", "-0.0"),
            (Value::Float64(f64::NAN), "float64", "\"NaN\""),
            (Value::Float64(f64::NEG_INFINITY), "float64", "\"-Infinity\""),
            (Value::Float32(0.1), "float32", "0.1"),
            (Value::Float32(f32::INFINITY), "float32", "\"Infinity\""),
            (Value::string("a\"\\\n\u{1}é\u{2028}"), "string", "\"a\\\"\\\\\\n\\u0001é\u{2028}\""),
            (Value::Bytes([0u8, 255, 7, 9].as_slice().into()), "bytes", "\"AP8HCQ==\""),
            (Value::Bytes([].as_slice().into()), "bytes", "\"\""),
            (Value::Timestamp(1), "timestamp", "\"1970-01-01T00:00:00.000001Z\""),
            (Value::Date(-1), "date", "\"1969-12-31\""),
            (Value::Decimal(-12345, 2), "decimal(10,2)", "\"-123.45\""),
            (Value::List([Value::Int64(1), Value::Null].as_slice().into()), "list<int64>", "[1,null]"),
            (Value::Vector([1.5f32, f32::NAN].as_slice().into()), "vector<2>", "[1.5,\"NaN\"]"),
            (
                Value::Map([(Value::string("k"), Value::Int64(2))].as_slice().into()),
                "map<string,int64>",
                "[[\"k\",2]]",
            ),
            (Value::string(" {\"a\": [1]} "), "json", "{\"a\": [1]}"),
            (Value::string("{broken"), "json", "\"{broken\""),
            (Value::string("1] , [2"), "json", "\"1] , [2\""),
        ] {
            assert_eq!(json(&value, value_type), expected);
        }
        let mut out = Vec::new();
        write_value(&mut out, &Value::Int64(big), &ValueType::Int64, Int64Format::String);
        assert_eq!(out, b"\"9007199254740993\"");
    }

    proptest! {
        #[test]
        fn any_string_reads_back(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn any_finite_double_reads_back_to_its_bits(bits in any::<u64>()) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite());
            let text = json(&Value::Float64(number), "float64");
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
            prop_assert!(serde_json::from_str::<f64>(&text).is_ok(), "{} is a JSON number", text);
        }

        #[test]
        fn any_finite_single_reads_back_to_its_bits(bits in any::<u32>()) {
            let number = f32::from_bits(bits);
            prop_assume!(number.is_finite());
            let text = json(&Value::Float32(number), "float32");
            prop_assert_eq!(text.parse::<f32>().unwrap().to_bits(), bits);
        }
    }
}
