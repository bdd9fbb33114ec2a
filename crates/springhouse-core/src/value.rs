//! One value, with its exact type.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::sync::Arc;

/// A value of a key, a column or a feature. Equality is by bits: `NaN == NaN`, and `0.0 != -0.0`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Value {
    /// No value.
    #[default]
    Null,
    /// `bool`.
    Bool(bool),
    /// `int32`.
    Int32(i32),
    /// `int64`.
    Int64(i64),
    /// `float32`.
    Float32(f32),
    /// `float64`.
    Float64(f64),
    /// `string`, and the text of `json`.
    String(Arc<str>),
    /// `bytes`.
    Bytes(Arc<[u8]>),
    /// `timestamp`: microseconds since 1970, UTC.
    Timestamp(i64),
    /// `date`: days since 1970-01-01.
    Date(i32),
    /// `decimal`: the unscaled integer and the scale.
    Decimal(i128, i8),
    /// `list<..>`; an element may be null.
    List(Arc<[Value]>),
    /// `vector<n>`.
    Vector(Arc<[f32]>),
    /// `map<..>`: pairs, in the order that the function that made it defines.
    Map(Arc<[(Value, Value)]>),
}

impl Value {
    /// A string value.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Self::String(text.into())
    }

    /// True for null, and for a NaN: the aggregates see neither.
    pub fn is_null_or_nan(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Float32(v) => v.is_nan(),
            Self::Float64(v) => v.is_nan(),
            _ => false,
        }
    }

    /// True for null.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Int32(_) => 2,
            Self::Int64(_) => 3,
            Self::Float32(_) => 4,
            Self::Float64(_) => 5,
            Self::String(_) => 6,
            Self::Bytes(_) => 7,
            Self::Timestamp(_) => 8,
            Self::Date(_) => 9,
            Self::Decimal(..) => 10,
            Self::List(_) => 11,
            Self::Vector(_) => 12,
            Self::Map(_) => 13,
        }
    }
}

/// A total order: nulls first, then by type, then by value; strings by code point, floats by `total_cmp`
/// (so `-0.0 < 0.0`, NaN last), decimals of one scale by number, lists element by element.
impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int32(a), Self::Int32(b)) => a.cmp(b),
            (Self::Int64(a), Self::Int64(b)) | (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::Float32(a), Self::Float32(b)) => a.total_cmp(b),
            (Self::Float64(a), Self::Float64(b)) => a.total_cmp(b),
            (Self::String(a), Self::String(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Date(a), Self::Date(b)) => a.cmp(b),
            (Self::Decimal(a, x), Self::Decimal(b, y)) => x.cmp(y).then_with(|| a.cmp(b)),
            (Self::List(a), Self::List(b)) => a.cmp(b),
            (Self::Vector(a), Self::Vector(b)) => {
                let by_element = a.iter().zip(b.iter()).map(|(x, y)| x.total_cmp(y));
                by_element.into_iter().find(|o| o.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            (Self::Map(a), Self::Map(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // By bits, so that two NaNs of one payload are one value and "bit for bit" means it.
            (Self::Float32(a), Self::Float32(b)) => a.to_bits() == b.to_bits(),
            (Self::Float64(a), Self::Float64(b)) => a.to_bits() == b.to_bits(),
            _ => self.cmp(other).is_eq(),
        }
    }
}

impl Eq for Value {}

impl std::hash::Hash for Value {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.rank().hash(state);
        match self {
            Self::Null => {}
            Self::Bool(v) => v.hash(state),
            Self::Int32(v) | Self::Date(v) => v.hash(state),
            Self::Int64(v) | Self::Timestamp(v) => v.hash(state),
            Self::Float32(v) => v.to_bits().hash(state),
            Self::Float64(v) => v.to_bits().hash(state),
            Self::String(v) => v.hash(state),
            Self::Bytes(v) => v.hash(state),
            Self::Decimal(v, scale) => (v, scale).hash(state),
            Self::List(v) => v.hash(state),
            Self::Vector(v) => v.iter().for_each(|x| x.to_bits().hash(state)),
            Self::Map(v) => v.hash(state),
        }
    }
}
