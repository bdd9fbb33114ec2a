//! Which entities are asked for, where they are few: what statistics of a sorted file leave row groups and pages out by.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::Int64Type;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;
use springhouse_core::ValueType;
use std::collections::BTreeSet;

/// With more different values nearly every row group has some.
const KEYS_MAX: usize = 10_000;

/// The different values of the first part of a key, or that there are too many to tell.
#[derive(Clone, Debug)]
pub(crate) enum KeySet {
    /// Integers of 64 bits.
    Int64(BTreeSet<i64>),
    /// Texts.
    Text(BTreeSet<Box<[u8]>>),
    /// Too many, or of another type.
    Any,
}

impl KeySet {
    /// No values yet.
    pub(crate) fn new(value_type: &ValueType) -> Self {
        match value_type {
            ValueType::Int64 => Self::Int64(BTreeSet::new()),
            ValueType::String => Self::Text(BTreeSet::new()),
            _ => Self::Any,
        }
    }

    /// Takes up the values of a column of that type; nulls are no keys.
    pub(crate) fn add(&mut self, column: &ArrayRef) {
        match self {
            Self::Int64(keys) => {
                let mut last = None;
                for key in column.as_primitive::<Int64Type>().iter().flatten() {
                    // Neighbours are often the same.
                    if last != Some(key) {
                        keys.insert(key);
                        last = Some(key);
                    }
                    if keys.len() > KEYS_MAX {
                        break;
                    }
                }
            }
            Self::Text(keys) => {
                for key in column.as_string::<i32>().iter().flatten() {
                    if !keys.contains(key.as_bytes()) {
                        keys.insert(key.as_bytes().into());
                    }
                    if keys.len() > KEYS_MAX {
                        break;
                    }
                }
            }
            Self::Any => {}
        }
        if self.is_too_many() {
            *self = Self::Any;
        }
    }

    fn is_too_many(&self) -> bool {
        match self {
            Self::Int64(keys) => keys.len() > KEYS_MAX,
            Self::Text(keys) => keys.len() > KEYS_MAX,
            Self::Any => false,
        }
    }

    /// True when there are so many that they rule nothing out.
    pub(crate) fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    /// False when a column of these statistics has none of the keys. Bounds may be wider than the values, never narrower.
    pub(crate) fn may_be_in(&self, statistics: &Statistics) -> bool {
        match statistics {
            Statistics::Int64(s) => match (s.min_opt(), s.max_opt()) {
                (Some(low), Some(high)) => self.has_int64(*low, *high),
                _ => true,
            },
            Statistics::ByteArray(s) => match (s.min_bytes_opt(), s.max_bytes_opt()) {
                (Some(low), Some(high)) => self.has_text(low, high),
                _ => true,
            },
            _ => true,
        }
    }

    /// The same for each page of a column; none when its index doesn't tell.
    pub(crate) fn pages(&self, index: &ColumnIndexMetaData) -> Option<Vec<bool>> {
        match index {
            ColumnIndexMetaData::INT64(index) => {
                let bounds = index.min_values_iter().zip(index.max_values_iter());
                Some(may_hold(bounds, |low, high| self.has_int64(*low, *high)))
            }
            ColumnIndexMetaData::BYTE_ARRAY(index) => {
                let bounds = index.min_values_iter().zip(index.max_values_iter());
                Some(may_hold(bounds, |low, high| self.has_text(low, high)))
            }
            _ => None,
        }
    }

    fn has_int64(&self, low: i64, high: i64) -> bool {
        match self {
            Self::Int64(keys) => low > high || keys.range(low..=high).next().is_some(),
            Self::Text(_) | Self::Any => true,
        }
    }

    fn has_text(&self, low: &[u8], high: &[u8]) -> bool {
        use std::ops::Bound::Included;
        match self {
            Self::Text(keys) => {
                low > high || keys.range::<[u8], _>((Included(low), Included(high))).next().is_some()
            }
            Self::Int64(_) | Self::Any => true,
        }
    }
}

/// Which of a column's pages may hold something, by their least and greatest values. A page without has nothing but nulls, which are
/// counted as skipped.
pub(crate) fn may_hold<T>(
    bounds: impl Iterator<Item = (Option<T>, Option<T>)>,
    is_between: impl Fn(T, T) -> bool,
) -> Vec<bool> {
    bounds.map(|(low, high)| low.zip(high).is_none_or(|(low, high)| is_between(low, high))).collect()
}
