//! From what a file says about time to microseconds UTC; the only place where a time zone is applied.

use crate::error::{LakeError, Result};
use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone, Utc};
use springhouse_core::Micros;
use std::str::FromStr;

/// The zone of timestamps that carry none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// None was declared: a naive timestamp is refused.
    Undeclared,
    /// UTC, the common case.
    Utc,
    /// A named zone with its daylight saving rules.
    Named(chrono_tz::Tz),
}

/// Why a local time is no instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalTimeError {
    /// Clocks were set back: the local time happened twice.
    Twice,
    /// Clocks were set forward: the local time never happened.
    Never,
    /// Outside the years that can be told.
    Range,
    /// No zone was declared.
    NoZone,
}

impl Zone {
    /// Reads a declared zone name.
    pub(crate) fn parse(name: Option<&str>) -> Result<Self> {
        match name.map(str::trim) {
            None => Ok(Self::Undeclared),
            Some("UTC" | "utc" | "Z" | "Etc/UTC") => Ok(Self::Utc),
            Some(name) => chrono_tz::Tz::from_str(name).map(Self::Named).map_err(|_| {
                LakeError::new("unknown_time_zone", format!("`{name}` is not a time zone"))
                    .hint("write an IANA name such as UTC or America/New_York")
            }),
        }
    }

    /// The instant of a local time given as microseconds since 1970-01-01T00:00 on the local clock.
    pub(crate) fn instant(self, local: Micros) -> Result<Micros, LocalTimeError> {
        match self {
            Self::Undeclared => Err(LocalTimeError::NoZone),
            Self::Utc => Ok(local),
            Self::Named(zone) => {
                let naive = DateTime::from_timestamp_micros(local).ok_or(LocalTimeError::Range)?.naive_utc();
                match zone.from_local_datetime(&naive) {
                    chrono::LocalResult::Single(at) => Ok(at.timestamp_micros()),
                    chrono::LocalResult::Ambiguous(..) => Err(LocalTimeError::Twice),
                    chrono::LocalResult::None => Err(LocalTimeError::Never),
                }
            }
        }
    }
}

impl std::fmt::Display for LocalTimeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Twice => "happened twice in its time zone (clocks were set back)",
            Self::Never => "never happened in its time zone (clocks were set forward)",
            Self::Range => "is outside the years that can be told",
            Self::NoZone => "carries no time zone",
        })
    }
}

/// What a text says about an instant.
pub(crate) enum TimeText {
    /// An instant: the text has an offset.
    Instant(Micros),
    /// A local time.
    Local(Micros),
}

/// Reads `2013-01-01T05:00:00Z`, `2013-01-01 05:00:00.25+02:00`, `2013-01-01 05:00` or `2013-01-01`.
pub(crate) fn parse_time_text(text: &str) -> Option<TimeText> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(TimeText::Instant(at.with_timezone(&Utc).timestamp_micros()));
    }
    let (body, suffix) = match text.strip_suffix(" UTC").or_else(|| text.strip_suffix(" Z")) {
        Some(body) => (body, true),
        None => (text, false),
    };
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"] {
        if let Ok(local) = NaiveDateTime::parse_from_str(body, format) {
            let micros = local.and_utc().timestamp_micros();
            return Some(if suffix { TimeText::Instant(micros) } else { TimeText::Local(micros) });
        }
    }
    for format in ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z"] {
        if let Ok(at) = DateTime::parse_from_str(text, format) {
            return Some(TimeText::Instant(at.timestamp_micros()));
        }
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(TimeText::Local(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use springhouse_core::time::HOUR;

    #[test]
    fn a_local_time_is_an_instant_only_when_it_happened_once() {
        let zone = Zone::parse(Some("America/New_York")).unwrap();
        let local = |text: &str| match parse_time_text(text).unwrap() {
            TimeText::Local(at) => at,
            TimeText::Instant(_) => panic!("{text} has an offset"),
        };
        assert_eq!(zone.instant(local("2013-01-01 00:00")), Ok(local("2013-01-01 05:00")));
        assert_eq!(zone.instant(local("2013-11-03 01:30")), Err(LocalTimeError::Twice));
        assert_eq!(zone.instant(local("2013-03-10 02:30")), Err(LocalTimeError::Never));
        assert_eq!(Zone::Undeclared.instant(0), Err(LocalTimeError::NoZone));
        assert_eq!(Zone::Utc.instant(7), Ok(7));
        assert!(Zone::parse(Some("Mars/Base")).is_err());
    }

    #[test]
    fn an_offset_in_the_text_makes_an_instant() {
        for text in [
            "1970-01-01T02:00:00+02:00",
            "1970-01-01 00:00:00Z",
            "1970-01-01 02:00:00+0200",
            "1970-01-01 00:00:00 UTC",
            "1970-01-01 01:00:00 +01:00",
            "1970-01-01 00:00:00+00",
        ] {
            assert!(matches!(parse_time_text(text), Some(TimeText::Instant(0))), "{text}");
        }
        assert!(matches!(parse_time_text("1970-01-01 01:00"), Some(TimeText::Local(HOUR))));
        assert!(parse_time_text("yesterday").is_none());
    }
}
