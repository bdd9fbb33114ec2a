//! Timestamps, dates and decimals as text, both ways and exact. Written by hand because they stand in the hot path, and
//! because years outside 0..=9999 must survive (as ISO 8601 expanded years, `+012345-01-01`).

use springhouse_core::time::DAY;

/// Appends an instant as RFC 3339 in UTC with six fractional digits, such as `2013-01-01T05:00:00.000000Z`.
pub fn push_timestamp(out: &mut Vec<u8>, micros: i64) {
    let days = micros.div_euclid(DAY);
    let in_day = micros.rem_euclid(DAY);
    push_civil(out, days);
    let (seconds, fraction) = (in_day / 1_000_000, in_day % 1_000_000);
    out.push(b'T');
    push_2(out, seconds / 3600);
    out.push(b':');
    push_2(out, seconds / 60 % 60);
    out.push(b':');
    push_2(out, seconds % 60);
    out.push(b'.');
    push_2(out, fraction / 10_000);
    push_2(out, fraction / 100 % 100);
    push_2(out, fraction % 100);
    out.push(b'Z');
}

/// Appends a day as `2013-01-01`.
pub fn push_date(out: &mut Vec<u8>, days: i32) {
    push_civil(out, i64::from(days));
}

/// [`push_timestamp`] as a string.
pub fn format_timestamp(micros: i64) -> String {
    into_string(|out| push_timestamp(out, micros))
}

/// [`push_date`] as a string.
pub fn format_date(days: i32) -> String {
    into_string(|out| push_date(out, days))
}

fn into_string(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::with_capacity(32);
    write(&mut out);
    String::from_utf8(out).expect("only ASCII was written")
}

fn push_2(out: &mut Vec<u8>, number: i64) {
    out.push(b'0' + (number / 10) as u8);
    out.push(b'0' + (number % 10) as u8);
}

fn push_civil(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil_from_days(days);
    if (0..=9999).contains(&year) {
        push_2(out, year / 100);
        push_2(out, year % 100);
    } else {
        // ISO 8601 expanded: a sign and at least six digits (a date can reach year 5,881,580).
        out.push(if year < 0 { b'-' } else { b'+' });
        let digits = format!("{:06}", year.unsigned_abs());
        out.extend_from_slice(digits.as_bytes());
    }
    out.push(b'-');
    push_2(out, month);
    out.push(b'-');
    push_2(out, day);
}

/// Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The inverse of [`civil_from_days`]; the caller has checked month and day.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Reads `2013-01-01`, or an expanded year as [`push_date`] writes it.
pub fn parse_date(text: &str) -> Option<i32> {
    let mut rest = text.as_bytes();
    let days = take_civil(&mut rest)?;
    if rest.is_empty() { i32::try_from(days).ok() } else { None }
}

/// Reads RFC 3339 with an offset. Digits beyond the microsecond are refused unless they are zero: nothing is rounded.
/// A leap second (`:60`) is refused: it has no microsecond of its own.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let mut rest = text.as_bytes();
    let days = take_civil(&mut rest)?;
    if !matches!(take_byte(&mut rest)?, b'T' | b't' | b' ') {
        return None;
    }
    let hour = take_digits(&mut rest, 2).filter(|h| *h < 24)?;
    expect(&mut rest, b':')?;
    let minute = take_digits(&mut rest, 2).filter(|m| *m < 60)?;
    expect(&mut rest, b':')?;
    let second = take_digits(&mut rest, 2).filter(|s| *s < 60)?;
    let mut fraction = 0;
    if rest.first() == Some(&b'.') {
        rest = &rest[1..];
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 || rest[..digits].iter().skip(6).any(|b| *b != b'0') {
            return None;
        }
        let mut scale = 100_000;
        for digit in rest[..digits].iter().take(6) {
            fraction += i64::from(digit - b'0') * scale;
            scale /= 10;
        }
        rest = &rest[digits..];
    }
    let offset_minutes = match take_byte(&mut rest)? {
        b'Z' | b'z' => 0,
        sign @ (b'+' | b'-') => {
            let hours = take_digits(&mut rest, 2).filter(|h| *h < 24)?;
            expect(&mut rest, b':')?;
            let minutes = hours * 60 + take_digits(&mut rest, 2).filter(|m| *m < 60)?;
            if sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    if !rest.is_empty() {
        return None;
    }
    let seconds = hour * 3600 + minute * 60 + second - offset_minutes * 60;
    let micros = i128::from(days) * i128::from(DAY) + i128::from(seconds) * 1_000_000 + i128::from(fraction);
    i64::try_from(micros).ok()
}

fn take_civil(rest: &mut &[u8]) -> Option<i64> {
    let year = match rest.first()? {
        sign @ (b'+' | b'-') => {
            let negative = *sign == b'-';
            *rest = &rest[1..];
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            if !(6..=7).contains(&digits) {
                return None;
            }
            let year = take_digits(rest, digits)?;
            if negative { -year } else { year }
        }
        _ => take_digits(rest, 4)?,
    };
    expect(rest, b'-')?;
    let month = take_digits(rest, 2).filter(|m| (1..=12).contains(m))?;
    expect(rest, b'-')?;
    let day = take_digits(rest, 2).filter(|d| (1..=days_in_month(year, month)).contains(d))?;
    Some(days_from_civil(year, month, day))
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    Some(*first)
}

fn expect(rest: &mut &[u8], byte: u8) -> Option<()> {
    (take_byte(rest)? == byte).then_some(())
}

fn take_digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    head.iter().try_fold(0i64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

/// Writes a decimal with all digits of its scale: `(12345, 2)` is `123.45`.
pub fn format_decimal(unscaled: i128, scale: i8) -> String {
    let digits = unscaled.unsigned_abs().to_string();
    let sign = if unscaled < 0 { "-" } else { "" };
    let Ok(places) = usize::try_from(scale) else {
        return format!("{sign}{digits}{}", "0".repeat(usize::from(scale.unsigned_abs())));
    };
    if places == 0 {
        return format!("{sign}{digits}");
    }
    let padded = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = padded.split_at(padded.len() - places);
    format!("{sign}{whole}.{fraction}")
}

/// Reads a decimal of `precision` digits, `scale` of them after the point; nothing is rounded. No exponents.
pub(crate) fn parse_decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || unsigned.ends_with('.') {
        return None;
    }
    let places = usize::try_from(scale).ok()?;
    let kept = &fraction[..fraction.len().min(places)];
    if fraction[kept.len()..].bytes().any(|b| b != b'0') {
        return None;
    }
    let mut digits = String::with_capacity(whole.len() + places);
    digits.push_str(whole);
    digits.push_str(kept);
    digits.extend(std::iter::repeat_n('0', places - kept.len()));
    let significant = digits.trim_start_matches('0');
    if significant.len() > usize::from(precision) {
        return None;
    }
    let unscaled: i128 = if significant.is_empty() { 0 } else { significant.parse().ok()? };
    Some(if negative { -unscaled } else { unscaled })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use springhouse_core::time::{format_instant, parse_instant};

    #[test]
    fn timestamps_at_the_edges() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (-62_167_219_200_000_000, "0000-01-01T00:00:00.000000Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
            (253_402_300_800_000_000, "+010000-01-01T00:00:00.000000Z"),
            (i64::MAX, "+294247-01-10T04:00:54.775807Z"),
            (i64::MIN, "-290308-12-21T19:59:05.224192Z"),
        ] {
            assert_eq!(format_timestamp(micros), text);
            assert_eq!(parse_timestamp(text), Some(micros), "{text}");
        }
        for text in [
            "",
            "2013-01-01",
            "2013-01-01T00:00:00",
            "2013-02-29T00:00:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T00:00:60Z",
            "2013-01-01T00:00:00.0000001Z",
            "2013-01-01T00:00:00.Z",
            "2013-01-01T00:00:00Zx",
            "2013-01-01T00:00:00+0200",
            "13-01-01T00:00:00Z",
            "2013-01-01T00:00:00+24:00",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
        assert_eq!(parse_timestamp("1970-01-01T02:00:00.5000000+02:00"), Some(500_000));
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        for (unscaled, scale, text) in [
            (12345, 2, "123.45"),
            (-5, 2, "-0.05"),
            (0, 3, "0.000"),
            (7, 0, "7"),
            (i128::MAX, 10, "17014118346046923173168730371.5884105727"),
        ] {
            assert_eq!(format_decimal(unscaled, scale), text);
            if unscaled != i128::MAX {
                assert_eq!(parse_decimal(text, 38, scale), Some(unscaled));
            }
        }
        assert_eq!(parse_decimal("1.230", 5, 2), Some(123));
        for text in ["1.234", "1e3", "", "-", ".5", "1.", "1000", "+1", " 1", "1_0"] {
            assert_eq!(parse_decimal(text, 5, 2), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_timestamp_reads_back(micros in any::<i64>()) {
            prop_assert_eq!(parse_timestamp(&format_timestamp(micros)), Some(micros));
        }

        #[test]
        fn timestamps_agree_with_the_calendar_crate(micros in -62_167_219_200_000_000i64..253_402_300_800_000_000) {
            prop_assert_eq!(parse_instant(&format_timestamp(micros)).unwrap(), micros);
            prop_assert_eq!(parse_timestamp(&format_instant(micros)), Some(micros));
        }

        #[test]
        fn any_date_reads_back(days in any::<i32>()) {
            prop_assert_eq!(parse_date(&format_date(days)), Some(days));
        }
    }
}
