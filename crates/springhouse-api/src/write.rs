//! A feature answer as JSON, written by hand into one buffer: this is most of what the server does per request.

use crate::features::AnswerFormat;
use crate::json::{array, items, push_integer, write_string, write_value};
use crate::openings::openings;
use crate::parse::AnswerOptions;
use crate::text::push_timestamp;
use springhouse_core::{Micros, ValueStatus};
use springhouse_serving::{DegradationLevel, FeatureAnswer, FeatureColumn, Origin};

/// Appends the answer as the JSON of [`crate::FeaturesBody`].
pub fn write_features(out: &mut Vec<u8>, answer: &FeatureAnswer, options: &AnswerOptions) {
    out.reserve(estimate(answer, options));
    out.extend_from_slice(b"{\"at\":\"");
    push_timestamp(out, answer.at);
    out.extend_from_slice(b"\",\"level\":\"");
    out.extend_from_slice(level_name(answer.level).as_bytes());
    out.extend_from_slice(b"\",\"definition\":");
    write_string(out, &answer.head.definition_hash);
    out.extend_from_slice(b",\"row_count\":");
    push_integer(out, answer.row_count);
    match options.format {
        AnswerFormat::Columns => write_columns(out, answer, options),
        AnswerFormat::Rows => write_rows(out, answer, options),
    }
    if options.full {
        out.extend_from_slice(b",\"positions\":");
        array(out, answer.positions(), |out, (view, cut)| {
            out.extend_from_slice(b"{\"view\":");
            write_string(out, view);
            out.extend_from_slice(b",\"cut\":");
            push_integer(out, cut);
            out.push(b'}');
        });
    }
    out.push(b'}');
}

// A guess that is usually enough, so that the buffer grows once.
fn estimate(answer: &FeatureAnswer, options: &AnswerOptions) -> usize {
    let per_value = if options.full {
        96
    } else if options.metadata {
        40
    } else {
        16
    };
    256 + answer.head.features.len() * (72 + answer.row_count.min(100_000) * per_value)
}

fn write_columns(out: &mut Vec<u8>, answer: &FeatureAnswer, options: &AnswerOptions) {
    out.extend_from_slice(b",\"features\":{");
    let mut written = 0..0;
    for (place, (feature, opening)) in answer.head.features.iter().zip(openings(&answer.head)).enumerate() {
        let comma = usize::from(place == 0);
        if options.metadata {
            out.extend_from_slice(&opening.json[comma..]);
        } else {
            out.extend_from_slice(&opening.json[comma..opening.json_name_end]);
            out.extend_from_slice(b":{\"values\":[");
        }
        items(out, answer.values_of(place).iter(), |out, value| {
            write_value(out, value, &feature.value_type, options.int64)
        });
        let start = out.len();
        // Features of one row mostly have the rest in common.
        if place > 0 && is_like_before(answer, place, options.full) {
            out.extend_from_within(written);
        } else {
            out.push(b']');
            write_metadata(out, &answer.column(place), options);
            out.push(b'}');
        }
        written = start..out.len();
    }
    out.push(b'}');
}

/// True when the rows of the feature at a place have the same statuses and ages as those of the one before it, and, where they
/// are told in `full`, times and origins.
#[inline(always)]
pub(crate) fn is_like_before(answer: &FeatureAnswer, place: usize, full: bool) -> bool {
    let rows = answer.row_count;
    let both = (place - 1) * rows..(place + 1) * rows;
    let (before, statuses) = answer.statuses[both.clone()].split_at(rows);
    let (feature_before, feature) = (&answer.head.features[place - 1], &answer.head.features[place]);
    // All features of a view have the ages in common.
    before == statuses
        && (!full || answer.origins[both.clone()][..rows] == answer.origins[both][rows..])
        && (feature_before.view == feature.view || are_views_alike(answer, place, full))
}

fn are_views_alike(answer: &FeatureAnswer, place: usize, full: bool) -> bool {
    let (before, column) = (answer.column(place - 1), answer.column(place));
    before.ages == column.ages && (!full || before.event_times == column.event_times)
}

fn write_metadata(out: &mut Vec<u8>, column: &FeatureColumn<'_>, options: &AnswerOptions) {
    if options.metadata {
        out.extend_from_slice(b",\"status\":");
        array(out, column.statuses.iter(), |out, status| write_status(out, *status));
        out.extend_from_slice(b",\"age_s\":");
        array(out, column.ages.iter(), |out, age| write_seconds(out, *age));
    }
    if options.full {
        out.extend_from_slice(b",\"event_time\":");
        array(out, column.event_times.iter(), |out, at| write_instant(out, *at));
        out.extend_from_slice(b",\"origin\":");
        array(out, column.origins.iter(), |out, origin| write_origin(out, *origin));
    }
}

fn write_rows(out: &mut Vec<u8>, answer: &FeatureAnswer, options: &AnswerOptions) {
    if options.metadata {
        out.extend_from_slice(b",\"types\":");
        object(out, answer, |out, c| write_type(out, &c));
    }
    out.extend_from_slice(b",\"rows\":");
    array(out, 0..answer.row_count, |out, row| {
        out.extend_from_slice(b"{\"values\":");
        object(out, answer, |out, c| write_value(out, &c.values[row], &c.head.value_type, options.int64));
        if options.metadata {
            out.extend_from_slice(b",\"status\":");
            object(out, answer, |out, c| write_status(out, c.statuses[row]));
            out.extend_from_slice(b",\"age_s\":");
            object(out, answer, |out, c| write_seconds(out, c.ages[row]));
        }
        if options.full {
            out.extend_from_slice(b",\"event_time\":");
            object(out, answer, |out, c| write_instant(out, c.event_times[row]));
            out.extend_from_slice(b",\"origin\":");
            object(out, answer, |out, c| write_origin(out, c.origins[row]));
        }
        out.push(b'}');
    });
}

/// An object with an item for each feature.
fn object<'a>(
    out: &mut Vec<u8>,
    answer: &'a FeatureAnswer,
    mut write: impl FnMut(&mut Vec<u8>, FeatureColumn<'a>),
) {
    out.push(b'{');
    for (index, column) in answer.columns().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, &column.head.name);
        out.push(b':');
        write(out, column);
    }
    out.push(b'}');
}

fn write_type(out: &mut Vec<u8>, column: &FeatureColumn<'_>) {
    write_string(out, &column.head.type_name);
}

/// The word for a status; the same as its serde name.
pub fn status_name(status: ValueStatus) -> &'static str {
    match status {
        ValueStatus::Fresh => "fresh",
        ValueStatus::Stale => "stale",
        ValueStatus::Expired => "expired",
        ValueStatus::Missing => "missing",
        ValueStatus::Null => "null",
        ValueStatus::Overflow => "overflow",
        ValueStatus::OverCap => "over_cap",
        ValueStatus::Unavailable => "unavailable",
        ValueStatus::Denied => "denied",
    }
}

fn write_status(out: &mut Vec<u8>, status: ValueStatus) {
    out.push(b'"');
    out.extend_from_slice(status_name(status).as_bytes());
    out.push(b'"');
}

/// The word for a level.
pub fn level_name(level: DegradationLevel) -> &'static str {
    match level {
        DegradationLevel::Healthy => "healthy",
        DegradationLevel::Stale => "stale",
        DegradationLevel::Degraded => "degraded",
        DegradationLevel::Critical => "critical",
    }
}

/// The word for an origin.
pub fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Store => "store",
        Origin::HotCache => "hot_cache",
        Origin::StaleCache => "stale",
        Origin::LastKnown => "last_known",
        Origin::Default => "default",
        Origin::Computed => "computed",
    }
}

fn write_origin(out: &mut Vec<u8>, origin: Origin) {
    out.push(b'"');
    out.extend_from_slice(origin_name(origin).as_bytes());
    out.push(b'"');
}

/// Microseconds as seconds with only the digits needed, exact: `1500000` is `1.5`.
fn write_seconds(out: &mut Vec<u8>, micros: Option<Micros>) {
    let Some(micros) = micros else {
        out.extend_from_slice(b"null");
        return;
    };
    if micros < 0 {
        out.push(b'-');
    }
    let (whole, mut fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    push_integer(out, whole);
    if fraction == 0 {
        return;
    }
    out.push(b'.');
    let mut scale = 100_000;
    while fraction > 0 {
        out.push(b'0' + (fraction / scale) as u8);
        fraction %= scale;
        scale /= 10;
    }
}

fn write_instant(out: &mut Vec<u8>, at: Option<Micros>) {
    match at {
        None => out.extend_from_slice(b"null"),
        Some(at) => {
            out.push(b'"');
            push_timestamp(out, at);
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests;
