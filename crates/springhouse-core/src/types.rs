//! The types a key, a column and a feature may have.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The type of a value. Written in definitions as `int64`, `list<string>`, `vector<128>`, `decimal(18,4)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// True or false.
    Bool,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// IEEE 754 single.
    Float32,
    /// IEEE 754 double.
    Float64,
    /// UTF-8 text.
    String,
    /// Raw bytes (base64 in JSON).
    Bytes,
    /// An instant, microseconds UTC.
    Timestamp,
    /// A calendar day, days since 1970-01-01.
    Date,
    /// A decimal of `precision` digits (1 to 38), `scale` of them after the point.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: i8,
    },
    /// A list of values of one scalar type.
    List(Box<ValueType>),
    /// A vector of exactly this many float32.
    Vector(u32),
    /// A JSON document, kept as its text.
    Json,
    /// What a grouped aggregate or `value_counts` gives: key type and value type, sorted as the function says.
    Map(Box<ValueType>, Box<ValueType>),
}

/// The largest dimension of a vector.
pub const VECTOR_DIMENSION_MAX: u32 = 16_384;

impl ValueType {
    /// True for the types an entity key may have: those with one canonical spelling.
    pub fn is_key(&self) -> bool {
        matches!(
            self,
            Self::Bool
                | Self::Int32
                | Self::Int64
                | Self::String
                | Self::Bytes
                | Self::Timestamp
                | Self::Date
        )
    }

    /// True for integers and floats.
    pub fn is_numeric(&self) -> bool {
        matches!(self, Self::Int32 | Self::Int64 | Self::Float32 | Self::Float64)
    }

    /// True for int32 and int64.
    pub fn is_integer(&self) -> bool {
        matches!(self, Self::Int32 | Self::Int64)
    }

    /// True for types without parts.
    pub fn is_scalar(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Vector(_) | Self::Map(..))
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int32 => f.write_str("int32"),
            Self::Int64 => f.write_str("int64"),
            Self::Float32 => f.write_str("float32"),
            Self::Float64 => f.write_str("float64"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Date => f.write_str("date"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::List(inner) => write!(f, "list<{inner}>"),
            Self::Vector(dimension) => write!(f, "vector<{dimension}>"),
            Self::Json => f.write_str("json"),
            Self::Map(key, value) => write!(f, "map<{key},{value}>"),
        }
    }
}

/// A text that names no type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeTextError(pub String);

impl fmt::Display for TypeTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TypeTextError {}

/// The scalar type names, for messages and the JSON Schema.
pub const SCALAR_TYPE_NAMES: [&str; 10] =
    ["bool", "int32", "int64", "float32", "float64", "string", "bytes", "timestamp", "date", "json"];

impl FromStr for ValueType {
    type Err = TypeTextError;

    fn from_str(text: &str) -> Result<Self, TypeTextError> {
        let fail = |why: &str| TypeTextError(format!("`{text}` is not a type: {why}"));
        let trimmed = text.trim();
        Ok(match trimmed {
            "bool" => Self::Bool,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "float32" => Self::Float32,
            "float64" => Self::Float64,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "timestamp" => Self::Timestamp,
            "date" => Self::Date,
            "json" => Self::Json,
            _ => {
                if let Some(inner) = trimmed.strip_prefix("list<").and_then(|t| t.strip_suffix('>')) {
                    let inner: Self = inner.parse()?;
                    if !inner.is_scalar() {
                        return Err(fail("a list holds scalars"));
                    }
                    Self::List(Box::new(inner))
                } else if let Some(inner) = trimmed.strip_prefix("map<").and_then(|t| t.strip_suffix('>')) {
                    let (key, value) = split_map(inner).ok_or_else(|| fail("write map<key,value>"))?;
                    Self::Map(Box::new(key.parse()?), Box::new(value.parse()?))
                } else if let Some(inner) = trimmed.strip_prefix("vector<").and_then(|t| t.strip_suffix('>'))
                {
                    match inner.trim().parse::<u32>() {
                        Ok(n) if (1..=VECTOR_DIMENSION_MAX).contains(&n) => Self::Vector(n),
                        _ => return Err(fail("a vector has 1 to 16384 dimensions, as in vector<128>")),
                    }
                } else if let Some(inner) = trimmed.strip_prefix("decimal(").and_then(|t| t.strip_suffix(')'))
                {
                    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
                    match parts.as_slice() {
                        [p, s] => match (p.parse::<u8>(), s.parse::<i8>()) {
                            (Ok(precision), Ok(scale))
                                if (1..=38).contains(&precision)
                                    && scale >= 0
                                    && (scale as u8) <= precision =>
                            {
                                Self::Decimal { precision, scale }
                            }
                            _ => {
                                return Err(fail(
                                    "decimal(precision,scale) needs 1 <= precision <= 38 and 0 <= scale <= precision",
                                ));
                            }
                        },
                        _ => return Err(fail("write decimal(precision,scale)")),
                    }
                } else {
                    return Err(fail(&format!(
                        "the types are {}, decimal(p,s), list<type>, vector<n>",
                        SCALAR_TYPE_NAMES.join(", ")
                    )));
                }
            }
        })
    }
}

/// Splits at the comma between key and value: the first outside of brackets.
fn split_map(inner: &str) -> Option<(&str, &str)> {
    let mut depth = 0u32;
    for (at, c) in inner.char_indices() {
        match c {
            '<' | '(' => depth += 1,
            '>' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return Some((&inner[..at], &inner[at + 1..])),
            _ => {}
        }
    }
    None
}

impl Serialize for ValueType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ValueType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_reads_back_as_it_is_written() {
        for text in
            ["bool", "int64", "list<string>", "vector<128>", "decimal(18,4)", "json", "map<string,int64>"]
        {
            assert_eq!(text.parse::<ValueType>().unwrap().to_string(), text);
        }
        for text in ["int", "list<list<int64>>", "vector<0>", "decimal(40,2)", "decimal(2,4)", ""] {
            assert!(text.parse::<ValueType>().is_err(), "{text}");
        }
    }
}
