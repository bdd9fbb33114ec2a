//! What the kernel says about one entity at one moment, before and after defaults.

use crate::codec::Reader;
use crate::plan::Event;
use crate::state::{StoredRow, latest_status};
use springhouse_core::definition::DefaultValue;
use springhouse_core::{Micros, Value, ValueStatus};

/// The raw answer: values and statuses before defaults, TTLs and policy.
#[derive(Clone, Debug, PartialEq)]
pub struct EntityAnswer {
    /// One per feature. Null wherever the status is not `Fresh`.
    pub values: Vec<Value>,
    /// One per feature: `Fresh`, `Null`, `Overflow`, `OverCap`; all `Missing` or all `Expired` for latest views.
    /// (Soft TTLs are the caller's: they depend on the age, which for windows is the source's.)
    pub statuses: Vec<ValueStatus>,
    /// Latest views: the event time of the greatest visible row, also when it is expired.
    pub event_time: Option<Micros>,
}

/// What a state says at one moment, feature by feature: an [`EntityAnswer`] of which only what is asked for is made.
#[derive(Debug)]
pub struct Reading<'a> {
    pub(crate) from: ReadFrom<'a>,
}

/// Where it is taken from.
#[derive(Debug)]
pub(crate) enum ReadFrom<'a> {
    /// A row that is shown, and the input that each feature is.
    Row(&'a Event, &'a [usize]),
    /// The same of a row as it is stored; the reader is before the input with this number.
    Stored(&'a StoredRow, &'a [usize], Reader<'a>, usize),
    /// Everything, made at once.
    Answer(EntityAnswer),
}

impl Reading<'_> {
    /// As [`EntityAnswer::event_time`].
    pub fn event_time(&self) -> Option<Micros> {
        match &self.from {
            ReadFrom::Row(row, _) => Some(row.stamp.event_time),
            ReadFrom::Stored(row, ..) => Some(row.stamp.event_time),
            ReadFrom::Answer(answer) => answer.event_time,
        }
    }

    /// Puts the value of a feature there and gives its status; a value may be taken once.
    #[inline]
    pub fn take(&mut self, feature: usize, into: &mut Value) -> ValueStatus {
        match &mut self.from {
            ReadFrom::Row(row, columns) => into.clone_from(&row.values[columns[feature]]),
            ReadFrom::Stored(row, columns, reader, next) => {
                let input = columns[feature];
                if input < *next {
                    (*reader, *next) = (row.values(), 0);
                }
                (*next..input).for_each(|_| reader.skip_checked());
                *next = input + 1;
                *into = reader.checked_value();
            }
            ReadFrom::Answer(answer) => {
                *into = std::mem::take(&mut answer.values[feature]);
                return answer.statuses[feature];
            }
        }
        latest_status(into)
    }
}

/// What lies behind an answer, for people (`get --explain`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityExplanation {
    /// One block of lines per feature: (feature name, lines such as
    /// `tile 2013-01-01T10:00:00Z +10m: count=3 sum=12.5` or `event 2013-01-01T10:59:00Z known 2013-01-01T11:00:00Z: 4.5`).
    pub features: Vec<(String, Vec<String>)>,
}

/// The status of a value of this age: past the hard TTL nothing is shown, past the soft TTL a value is stale. The one rule
/// for training sets (where a window's age is 0) and for serving. `None` is no age: nothing was seen, nothing can be old.
pub fn status_at_age(
    status: ValueStatus,
    age: Option<Micros>,
    soft_ttl: Option<Micros>,
    hard_ttl: Micros,
) -> ValueStatus {
    let is_older_than = |ttl: Micros| age.is_some_and(|age| age > ttl);
    match status {
        ValueStatus::Missing | ValueStatus::Unavailable | ValueStatus::Denied => status,
        _ if is_older_than(hard_ttl) => ValueStatus::Expired,
        ValueStatus::Fresh if soft_ttl.is_some_and(is_older_than) => ValueStatus::Stale,
        _ => status,
    }
}

/// Fills in the default where the value is not usable; the same in training sets and online.
pub fn fill_default(value: &mut Value, status: ValueStatus, default: &DefaultValue) {
    if !matches!(status, ValueStatus::Fresh | ValueStatus::Stale) {
        *value = default.value();
    }
}

#[cfg(test)]
mod tests {
    use super::status_at_age;
    use springhouse_core::ValueStatus::{Expired, Fresh, Missing, Null, Stale};

    #[test]
    fn a_value_is_stale_past_the_soft_ttl_and_gone_past_the_hard_one() {
        for (status, age, expected) in [
            (Fresh, Some(10), Fresh),
            (Fresh, Some(11), Stale),
            (Fresh, Some(20), Stale),
            (Fresh, Some(21), Expired),
            (Null, Some(11), Null),
            (Null, Some(21), Expired),
            (Missing, Some(21), Missing),
            (Fresh, None, Fresh),
        ] {
            assert_eq!(status_at_age(status, age, Some(10), 20), expected, "{status:?} {age:?}");
        }
        assert_eq!(status_at_age(Fresh, Some(20), None, 20), Fresh);
    }
}
