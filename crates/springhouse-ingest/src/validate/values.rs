//! From the text of one JSON value to a typed value, exactly, or what is wrong with it.

use chrono::{NaiveDate, NaiveDateTime, TimeZone};
use springhouse_core::Micros;
use std::borrow::Cow;

/// A stable code and what a good value looks like.
pub(super) type Wrong = (&'static str, &'static str);

/// How deep a JSON value may be nested: many a reader of the answers it is in goes no deeper.
const JSON_DEPTH_MAX: usize = 127;

const WRONG_TYPE: Wrong = ("wrong_type", "");
const NO_ZONE: Wrong = (
    "malformed_value",
    "; it has no zone, and the source declares no time_zone: write an offset such as Z or +02:00",
);

/// The text inside a JSON string.
pub(super) fn string(raw: &str) -> Result<Cow<'_, str>, Wrong> {
    let inner = raw.strip_prefix('"').and_then(|t| t.strip_suffix('"')).ok_or(WRONG_TYPE)?;
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str(raw).map(Cow::Owned).map_err(|_| ("malformed_value", "; an escape is no character"))
}

pub(super) fn boolean(raw: &str) -> Result<bool, Wrong> {
    match raw {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(WRONG_TYPE),
    }
}

pub(super) fn is_number(raw: &str) -> bool {
    raw.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

pub(super) fn int64(raw: &str) -> Result<i64, Wrong> {
    if !is_number(raw) || raw.contains(['.', 'e', 'E']) {
        return Err(WRONG_TYPE);
    }
    raw.parse().map_err(|_| ("out_of_range", ""))
}

pub(super) fn int32(raw: &str) -> Result<i32, Wrong> {
    i32::try_from(int64(raw)?).map_err(|_| ("out_of_range", ""))
}

/// A float: any number that is finite as such, or "NaN", "Infinity", "-Infinity".
pub(super) fn float<F: std::str::FromStr + FloatLike>(raw: &str) -> Result<F, Wrong> {
    match raw {
        "\"NaN\"" => return Ok(F::NAN),
        "\"Infinity\"" => return Ok(F::INFINITY),
        "\"-Infinity\"" => return Ok(F::NEG_INFINITY),
        _ if !is_number(raw) => return Err(WRONG_TYPE),
        _ => {}
    }
    match raw.parse::<F>() {
        Ok(value) if value.finite() => Ok(value),
        _ => Err(("out_of_range", "")),
    }
}

/// What [`float`] needs of f32 and f64.
pub(super) trait FloatLike: Sized {
    const NAN: Self;
    const INFINITY: Self;
    const NEG_INFINITY: Self;
    fn finite(&self) -> bool;
}

impl FloatLike for f64 {
    const NAN: Self = f64::NAN;
    const INFINITY: Self = f64::INFINITY;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
    fn finite(&self) -> bool {
        self.is_finite()
    }
}

impl FloatLike for f32 {
    const NAN: Self = f32::NAN;
    const INFINITY: Self = f32::INFINITY;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
    fn finite(&self) -> bool {
        self.is_finite()
    }
}

/// Standard base64 with padding.
pub(super) fn bytes(raw: &str) -> Result<Vec<u8>, Wrong> {
    use base64::Engine;
    let text = string(raw)?;
    base64::engine::general_purpose::STANDARD
        .decode(text.as_bytes())
        .map_err(|_| ("malformed_value", "; bytes are written in base64, with padding"))
}

/// `2013-01-01`, as days since 1970.
pub(super) fn date(raw: &str) -> Result<i32, Wrong> {
    const WRONG: Wrong = ("malformed_value", "; a date is written 2013-01-01");
    let text = string(raw)?;
    if text.len() != 10 {
        return Err(WRONG);
    }
    let date = NaiveDate::parse_from_str(&text, "%Y-%m-%d").map_err(|_| WRONG)?;
    Ok((date - NaiveDate::default()).num_days() as i32)
}

/// RFC 3339 text, or an integer of microseconds. Text without an offset needs `zone`.
pub(super) fn timestamp(raw: &str, zone: Option<chrono_tz::Tz>) -> Result<Micros, Wrong> {
    if is_number(raw) {
        return int64(raw);
    }
    let text = string(raw)?;
    if let Some(instant) = plain_utc(text.as_bytes()) {
        return Ok(instant);
    }
    if let Ok(instant) = chrono::DateTime::parse_from_rfc3339(&text) {
        return Ok(instant.timestamp_micros());
    }
    let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
        .into_iter()
        .find_map(|format| NaiveDateTime::parse_from_str(&text, format).ok());
    match (local, zone) {
        (None, _) => Err((
            "malformed_value",
            "; a timestamp is RFC 3339 text such as 2013-01-01T05:00:00Z, or an integer of microseconds since 1970",
        )),
        (Some(_), None) => Err(NO_ZONE),
        (Some(local), Some(zone)) => in_zone(local, zone),
    }
}

/// The instant of a local time.
pub(super) fn in_zone(local: NaiveDateTime, zone: chrono_tz::Tz) -> Result<Micros, Wrong> {
    match zone.from_local_datetime(&local) {
        chrono::LocalResult::Single(instant) => Ok(instant.timestamp_micros()),
        chrono::LocalResult::Ambiguous(..) => Err((
            "malformed_value",
            "; the clocks of the source's time_zone showed this time twice: write an offset",
        )),
        chrono::LocalResult::None => Err((
            "malformed_value",
            "; the clocks of the source's time_zone never showed this time: write an offset",
        )),
    }
}

/// `2013-01-01T05:00:00Z` with up to six digits of a second: nearly all timestamps there are, at a tenth of the cost.
fn plain_utc(text: &[u8]) -> Option<Micros> {
    let (head, tail) = text.split_first_chunk::<19>()?;
    let number = |range: std::ops::Range<usize>| {
        head[range].iter().try_fold(0i64, |n, c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.into_iter().any(|(at, byte)| head[at] != byte) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let fraction = tail.strip_suffix(b"Z")?;
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => {
            let value = digits
                .iter()
                .try_fold(0i64, |n, c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))?;
            value * 10i64.pow(6 - digits.len() as u32)
        }
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = NaiveDate::from_ymd_opt(year as i32, month as u32, day as u32)?;
    let days = (days - NaiveDate::default()).num_days();
    Some(((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + micros)
}

/// The unscaled integer of a decimal, from a number or a string; digits are never lost.
pub(super) fn decimal(raw: &str, precision: u8, scale: i8) -> Result<i128, Wrong> {
    const NO_DECIMAL: Wrong = ("malformed_value", "; a decimal is a number, or a string such as \"12.50\"");
    const LOSES: Wrong = ("malformed_value", "; it has more digits after the point than the type");
    const TOO_LARGE: Wrong = ("out_of_range", "");
    let text = if is_number(raw) { Cow::Borrowed(raw) } else { string(raw)? };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| NO_DECIMAL)?),
        None => (text.as_ref(), 0),
    };
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty()
        || mantissa.ends_with('.')
        || !(whole.bytes().chain(fraction.bytes())).all(|c| c.is_ascii_digit())
    {
        return Err(NO_DECIMAL);
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    // The number is `significant` times ten to this power.
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    let power = i64::from(exponent) - fraction.len() as i64 + trailing as i64;
    let shift = power + i64::from(scale);
    if shift < 0 {
        return Err(LOSES);
    }
    if significant.len() as i64 + shift > i64::from(precision) {
        return Err(TOO_LARGE);
    }
    // At most 38 digits from here on: fits.
    let unscaled = significant.parse::<i128>().map_err(|_| TOO_LARGE)? * 10i128.pow(shift as u32);
    Ok(if negative { -unscaled } else { unscaled })
}

/// A JSON value as it is kept: without the white space between its tokens.
pub(super) fn json(raw: &str) -> Result<Cow<'_, str>, Wrong> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let (mut depth, mut has_space) = (0usize, false);
    for (byte, _) in tokens(raw).filter(|(_, is_text)| !is_text) {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            other => has_space |= is_space(other),
        }
        if depth > JSON_DEPTH_MAX {
            return Err(("malformed_value", "; it is nested more than 127 deep"));
        }
    }
    if !has_space {
        return Ok(Cow::Borrowed(raw));
    }
    let kept = tokens(raw).filter(|(byte, is_text)| *is_text || !is_space(*byte)).map(|(byte, _)| byte);
    Ok(Cow::Owned(String::from_utf8(kept.collect()).expect("only ASCII was left out of UTF-8")))
}

/// The bytes of a JSON value, and whether each lies within a string.
fn tokens(raw: &str) -> impl Iterator<Item = (u8, bool)> + '_ {
    let (mut in_string, mut escaped) = (false, false);
    raw.bytes().map(move |byte| {
        let is_text = in_string;
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else {
            in_string = byte == b'"';
        }
        (byte, is_text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_way_reads_what_the_slow_way_reads() {
        let texts = [
            "2013-01-01T05:00:00Z",
            "1969-12-31T23:59:59.999999Z",
            "0001-01-01T00:00:00Z",
            "2000-02-29T23:59:59.5Z",
            "2013-02-29T00:00:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T05:00:00.1234567Z",
            "2013-01-01t05:00:00Z",
            "2013-01-01T05:00:00+00:00",
            "2013-13-01T05:00:00Z",
            "2013-01-01T05:00:00.Z",
            "2013-01-01T05:00:0aZ",
        ];
        for text in texts {
            let slow = chrono::DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_micros());
            if let Some(fast) = plain_utc(text.as_bytes()) {
                assert_eq!(Some(fast), slow, "{text}");
            }
        }
        assert!(plain_utc(texts[0].as_bytes()).is_some() && plain_utc(texts[1].as_bytes()).is_some());
        let mut state = 7u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let micros = (state >> 12) as i64 % 60_000_000_000_000_000 - 30_000_000_000_000_000;
            let text = springhouse_core::time::format_instant(micros);
            assert_eq!(timestamp(&format!("\"{text}\""), None), Ok(micros), "{text}");
        }
    }

    #[test]
    fn a_decimal_keeps_every_digit() {
        let read = |raw: &str| decimal(raw, 10, 2);
        assert_eq!(read("12.5"), Ok(1250));
        assert_eq!(read("\"-12.50\""), Ok(-1250));
        assert_eq!(read("1e3"), Ok(100_000));
        assert_eq!(read("125e-1"), Ok(1250));
        assert_eq!(read("0.000"), Ok(0));
        assert_eq!(read("0e999999"), Ok(0));
        assert_eq!(read("1.500"), Ok(150));
        assert_eq!(read("99999999.99"), Ok(9_999_999_999));
        assert_eq!(read("100000000").unwrap_err().0, "out_of_range");
        assert_eq!(read("1e999999999").unwrap_err().0, "out_of_range");
        assert_eq!(read("1.005").unwrap_err().0, "malformed_value");
        for raw in ["\"\"", "\"1.\"", "\".5\"", "\"--1\"", "\"1,5\"", "\"+1\"", "\"1e\""] {
            assert_eq!(read(raw).unwrap_err().0, "malformed_value", "{raw}");
        }
        assert_eq!(read("true").unwrap_err().0, "wrong_type");
        let most = "9".repeat(38);
        assert_eq!(decimal(&most, 38, 0), Ok(most.parse().unwrap()));
    }

    #[test]
    fn json_keeps_strings_as_they_are() {
        assert_eq!(json("{ \"a b\" : [ 1 , \"x \\\" y\" ] }").unwrap(), "{\"a b\":[1,\"x \\\" y\"]}");
        assert_eq!(json("[\"\\\\\" , 1]").unwrap(), "[\"\\\\\",1]");
    }
}
