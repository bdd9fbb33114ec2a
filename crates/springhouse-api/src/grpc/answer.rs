//! The words of the contract for those of serving; and, for the tests, the plain twin of what is sent.

#[cfg(test)]
use super::column::column;
use super::v1;
use springhouse_core::ValueStatus;
#[cfg(test)]
use springhouse_core::{Value, ValueType};
use springhouse_serving::{DegradationLevel, Origin};
#[cfg(test)]
use springhouse_serving::{FeatureAnswer, FeatureColumn};

/// The answer, saying as much as `detail` asks for.
#[cfg(test)]
pub(super) fn response(answer: &FeatureAnswer, detail: v1::Detail) -> v1::GetFeaturesResponse {
    let full = detail == v1::Detail::Full;
    let position = |(view, cut): (&str, i64)| v1::Position { view: view.to_owned(), cut };
    v1::GetFeaturesResponse {
        at_us: answer.at,
        level: level(answer.level).into(),
        definition: answer.head.definition_hash.to_string(),
        row_count: u32::try_from(answer.row_count).unwrap_or(u32::MAX),
        features: answer.columns().map(|column| feature(&column, detail)).collect(),
        positions: if full { answer.positions().map(position).collect() } else { Vec::new() },
    }
}

#[cfg(test)]
fn feature(from: &FeatureColumn<'_>, detail: v1::Detail) -> v1::Feature {
    let mut feature = v1::Feature {
        name: from.head.name.clone(),
        values: Some(column(from.values.iter(), &from.head.value_type)),
        ..Default::default()
    };
    if detail != v1::Detail::Values {
        feature.r#type = from.head.value_type.to_string();
        feature.statuses = from.statuses.iter().map(|status| self::status(*status).into()).collect();
        feature.ages_us = from.ages.iter().map(|age| age.unwrap_or(-1)).collect();
    }
    if detail == v1::Detail::Full {
        let times: Vec<_> =
            from.event_times.iter().map(|at| at.map_or(Value::Null, Value::Timestamp)).collect();
        feature.event_times = Some(column(times.iter(), &ValueType::Timestamp));
        feature.origins = from.origins.iter().map(|origin| self::origin(*origin).into()).collect();
    }
    feature
}

pub(super) fn level(level: DegradationLevel) -> v1::Level {
    match level {
        DegradationLevel::Healthy => v1::Level::Healthy,
        DegradationLevel::Stale => v1::Level::Stale,
        DegradationLevel::Degraded => v1::Level::Degraded,
        DegradationLevel::Critical => v1::Level::Critical,
    }
}

pub(super) fn status(status: ValueStatus) -> v1::Status {
    match status {
        ValueStatus::Fresh => v1::Status::Fresh,
        ValueStatus::Stale => v1::Status::Stale,
        ValueStatus::Expired => v1::Status::Expired,
        ValueStatus::Missing => v1::Status::Missing,
        ValueStatus::Null => v1::Status::Null,
        ValueStatus::Overflow => v1::Status::Overflow,
        ValueStatus::OverCap => v1::Status::OverCap,
        ValueStatus::Unavailable => v1::Status::Unavailable,
        ValueStatus::Denied => v1::Status::Denied,
    }
}

pub(super) fn origin(origin: Origin) -> v1::Origin {
    match origin {
        Origin::Store => v1::Origin::Store,
        Origin::HotCache => v1::Origin::HotCache,
        Origin::StaleCache => v1::Origin::Stale,
        Origin::LastKnown => v1::Origin::LastKnown,
        Origin::Default => v1::Origin::Default,
        Origin::Computed => v1::Origin::Computed,
    }
}
