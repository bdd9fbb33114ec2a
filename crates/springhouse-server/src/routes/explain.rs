//! `GET /v1/explain`: the tiles, events or row behind each number of one entity.

use super::{Answer, json};
use crate::app::App;
use crate::problem::{from_node, from_serving};
use axum::extract::Request;
use axum::http::StatusCode;
use springhouse_api::{
    ApiError, ExplainBody, ExplainedFeature, format_timestamp, parse_query, raw_value, value_from_text,
};
use springhouse_core::definition::FeatureView;
use springhouse_core::{Definitions, EntityKey, KeyError, Value};
use springhouse_serving::{CallOptions, FeatureAnswer, FeatureRequest, Selection};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(super) async fn explain(app: Arc<App>, request: Request) -> Answer {
    let (view_name, texts) = asked(request.uri().query().unwrap_or_default())?;
    let definitions = app.node.definitions();
    let view = definitions.feature_views.get(&view_name).ok_or_else(|| {
        let known: Vec<_> = definitions.feature_views.keys().map(String::as_str).collect();
        ApiError::new("unknown_view", format!("there is no feature view `{view_name}`"))
            .hint(format!("the views are: {}", known.join(", ")))
    })?;
    let keys = entity_keys(&definitions, view)?;
    let values = key_values(keys, &texts)?;
    let key = EntityKey::encode(keys, &values).map_err(|error| key_error(&error))?;
    // Value and explanation are of one moment. (An event applied between the two reads can be in the second only.)
    let ask = FeatureRequest {
        selection: Selection::Features(vec![view_name.clone()]),
        entities: keys
            .iter()
            .zip(&values)
            .map(|((name, _), value)| (name.clone(), vec![value.clone()]))
            .collect(),
        request: BTreeMap::new(),
        at: Some(app.node.ingest().read_now()),
        max_age: None,
        roles: app.settings.roles.clone(),
        // What is explained is what the store holds now.
        options: CallOptions { use_cache: false, ..CallOptions::default() },
    };
    let answer = app.node.serving().features(&ask).await.map_err(from_serving)?;
    let behind = app.node.explain(&view_name, &key, answer.at).await.map_err(from_node)?;
    let body = ExplainBody {
        view: view.id(),
        at: format_timestamp(answer.at),
        key: keys.iter().zip(&values).map(|((name, t), value)| (name.clone(), raw_value(value, t))).collect(),
        features: explained(&answer, behind.features.into_iter().collect()),
    };
    json(StatusCode::OK, &body)
}

type Keys = [(String, springhouse_core::ValueType)];

/// The view, and the key values by name, as texts.
fn asked(query: &str) -> Result<(String, BTreeMap<String, String>), ApiError> {
    let mut view = None;
    let mut texts = BTreeMap::new();
    for pair in parse_query(query)? {
        match pair.name.strip_prefix("key.") {
            Some(name) => {
                texts.insert(name.to_owned(), pair.value);
            }
            None if pair.name == "view" => view = Some(pair.value),
            None => {
                return Err(ApiError::new("invalid_query", "an unknown query parameter")
                    .hint("write ?view=NAME&key.NAME=VALUE, with a key.NAME for each entity key"));
            }
        }
    }
    let view = view.ok_or_else(|| {
        ApiError::new("invalid_query", "`view` is missing").hint("write ?view=NAME&key.NAME=VALUE")
    })?;
    Ok((view, texts))
}

fn entity_keys<'d>(definitions: &'d Definitions, view: &FeatureView) -> Result<&'d Keys, ApiError> {
    let entity = definitions.entities.get(&view.entity);
    entity.map(|entity| entity.keys.as_slice()).ok_or_else(|| {
        tracing::error!(view = view.name, entity = view.entity, "a view's entity is not defined");
        ApiError::internal()
    })
}

fn key_values(keys: &Keys, texts: &BTreeMap<String, String>) -> Result<Vec<Value>, ApiError> {
    if let Some(unknown) = texts.keys().find(|name| !keys.iter().any(|(key, _)| key == *name)) {
        let known: Vec<_> = keys.iter().map(|(name, _)| format!("`{name}`")).collect();
        let short: String = unknown.chars().take(100).collect();
        return Err(ApiError::new("unknown_entity_key", format!("unknown entity key `{short}`"))
            .hint(format!("the view's keys are {}", known.join(", "))));
    }
    keys.iter()
        .map(|(name, value_type)| match texts.get(name) {
            Some(text) => value_from_text(name, text, value_type),
            None => Err(ApiError::new("missing_entity_key", format!("entity key `{name}` is missing"))
                .hint(format!("write &key.{name}=VALUE"))),
        })
        .collect()
}

fn key_error(error: &KeyError) -> ApiError {
    match error {
        KeyError::TooLong(_) => ApiError::new("invalid_entity_key", error.to_string()),
        // The values were read into the declared types, so nothing else can be wrong with them.
        _ => ApiError::new("invalid_entity_key", "the values make no key of this entity"),
    }
}

fn explained(answer: &FeatureAnswer, mut lines: HashMap<String, Vec<String>>) -> Vec<ExplainedFeature> {
    let columns = answer.columns().filter(|column| !column.values.is_empty());
    columns
        .map(|column| ExplainedFeature {
            name: column.head.name.clone(),
            value_type: column.head.value_type.to_string(),
            value: raw_value(&column.values[0], &column.head.value_type),
            status: column.statuses[0],
            age_s: column.ages[0].map(|age| age as f64 / 1e6),
            event_time: column.event_times[0].map(format_timestamp),
            lines: lines.remove(&column.head.name).unwrap_or_default(),
        })
        .collect()
}
