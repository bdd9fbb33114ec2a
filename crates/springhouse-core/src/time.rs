//! Instants and durations: int64 microseconds, UTC, and how people write them.

use std::fmt;

/// Microseconds since 1970-01-01T00:00:00 UTC, or a number of microseconds.
pub type Micros = i64;

/// One second in microseconds.
pub const SECOND: Micros = 1_000_000;
/// One minute in microseconds.
pub const MINUTE: Micros = 60 * SECOND;
/// One hour in microseconds.
pub const HOUR: Micros = 60 * MINUTE;
/// One day in microseconds.
pub const DAY: Micros = 24 * HOUR;

/// The earliest event time a record may carry: 0001-01-01. Leaves room to subtract any window.
pub const EVENT_TIME_MIN: Micros = -62_135_596_800 * SECOND;
/// The latest event time a record may carry: 9999-12-31T23:59:59.999999.
pub const EVENT_TIME_MAX: Micros = 253_402_300_800 * SECOND - 1;
/// The longest duration a definition may name (100,000 days); keeps every bound inside int64.
pub const DURATION_MAX: Micros = 100_000 * DAY;

/// A text that is no duration or no instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeTextError(pub String);

impl fmt::Display for TimeTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimeTextError {}

/// Reads a duration such as `90s`, `15m`, `1h30m`, `7d`, `250ms`; a bare `0` is zero.
///
/// # Errors
/// When the text is empty, has an unknown unit, is negative, or is over [`DURATION_MAX`].
pub fn parse_duration(text: &str) -> Result<Micros, TimeTextError> {
    let fail = || {
        TimeTextError(format!(
            "`{text}` is not a duration; write a number and a unit such as 30s, 15m, 6h, 7d or 1h30m"
        ))
    };
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(0);
    }
    let mut rest = trimmed;
    let mut total: i64 = 0;
    if rest.is_empty() {
        return Err(fail());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
        let number: i64 = rest[..digits].parse().map_err(|_| fail())?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "us" => 1,
            "ms" => 1_000,
            "s" => SECOND,
            "m" | "min" => MINUTE,
            "h" => HOUR,
            "d" => DAY,
            "w" => 7 * DAY,
            _ => return Err(fail()),
        };
        rest = &rest[unit_len..];
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(fail)?;
    }
    if total > DURATION_MAX {
        return Err(TimeTextError(format!("`{text}` is longer than the longest duration, 100000d")));
    }
    Ok(total)
}

/// Writes a duration the way [`parse_duration`] reads it, in the largest units that are exact: `7d`, `1h30m`, `90s` as `1m30s`.
pub fn format_duration(micros: Micros) -> String {
    if micros == 0 {
        return "0s".to_owned();
    }
    let mut out = if micros < 0 { "-".to_owned() } else { String::new() };
    let mut rest = micros.unsigned_abs();
    for (unit, name) in [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"), (1_000, "ms"), (1, "us")] {
        let unit = unit.unsigned_abs();
        if rest >= unit {
            out.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    out
}

/// Reads an RFC 3339 instant (`2013-01-01T05:00:00Z`, `...+02:00`); an offset is required, so no local time is guessed.
///
/// # Errors
/// When the text is not RFC 3339, or carries no offset.
pub fn parse_instant(text: &str) -> Result<Micros, TimeTextError> {
    chrono::DateTime::parse_from_rfc3339(text.trim()).map(|t| t.timestamp_micros()).map_err(|_| {
        TimeTextError(format!(
            "`{text}` is not an instant; write RFC 3339 with an offset such as 2013-01-01T05:00:00Z"
        ))
    })
}

/// Writes an instant as RFC 3339 in UTC, with as many fractional digits (0, 3 or 6) as it needs.
pub fn format_instant(at: Micros) -> String {
    match chrono::DateTime::from_timestamp_micros(at) {
        Some(t) => t.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        None => format!("{at}us"),
    }
}

/// Where a component gets the present moment; the program passes one in, tests pass a fixed one.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Micros;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_are_written() {
        for text in ["30s", "15m", "1h30m", "7d", "250ms", "1us", "1d1us"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("0").unwrap(), 0);
        for text in ["", "15", "h", "1y", "-1s", "99999999999999d", "1.5h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_instant_needs_an_offset() {
        assert_eq!(parse_instant("1970-01-01T00:00:01Z").unwrap(), SECOND);
        assert_eq!(parse_instant("1970-01-01T02:00:00+02:00").unwrap(), 0);
        assert!(parse_instant("1970-01-01T00:00:01").is_err());
        assert_eq!(format_instant(-1), "1969-12-31T23:59:59.999999Z");
    }
}
