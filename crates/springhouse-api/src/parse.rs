//! Reading `POST /v1/features`: the envelope first, then keys and request fields straight into their declared types.
//!
//! No value passes through `serde_json::Value`: it would round integers beyond 64 bits, keep the last of two equal keys
//! and lose the digits of decimals. Floats are read by the standard library, which rounds correctly.

mod table;
mod typed;

use crate::ApiError;
use crate::features::{AnswerFormat, Int64Format, PriorityName};
use crate::position::from_object;
use serde::Deserialize;
use serde_json::value::RawValue;
use springhouse_core::time::parse_duration;
use springhouse_serving::{CallOptions, FeatureRequest, Priority, Selection, Signature};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use table::parse_table;

pub(crate) use table::Kind;
pub(crate) use typed::type_name_of;

/// How the caller wants the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerOptions {
    /// Columns or rows.
    pub format: AnswerFormat,
    /// Types, statuses and ages.
    pub metadata: bool,
    /// Event times, origins and positions.
    pub full: bool,
    /// How int64 values are written.
    pub int64: Int64Format,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { format: AnswerFormat::Columns, metadata: true, full: false, int64: Int64Format::Number }
    }
}

/// A request, ready for serving (its `roles` are the server's to fill in), and how to answer it.
#[derive(Clone, Debug)]
pub struct ParsedFeatures {
    /// The request.
    pub request: FeatureRequest,
    /// The answer's form.
    pub options: AnswerOptions,
}

/// The envelope; [`crate::FeaturesRequestBody`] is its documented twin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    service: Option<Cow<'a, str>>,
    #[serde(default)]
    features: Option<Vec<String>>,
    #[serde(borrow, default)]
    entities: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
    #[serde(borrow, default)]
    max_age: Option<Cow<'a, str>>,
    #[serde(default)]
    drop_stale: bool,
    #[serde(default)]
    priority: PriorityName,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    full: bool,
    #[serde(default)]
    metadata: Option<bool>,
    #[serde(default)]
    format: AnswerFormat,
    #[serde(default)]
    int64: Int64Format,
}

/// Reads a features request. `signature` says which keys and fields the selection has, with their types.
///
/// # Errors
/// `malformed_json`, `invalid_request`, `wrong_type`, `unknown_entity_key`, `missing_entity_key`, `invalid_entity_key`,
/// `unknown_request_field`, `missing_request_field`, and whatever `signature` says.
pub fn parse_features(
    body: &[u8],
    signature: impl FnOnce(&Selection) -> Result<Arc<Signature>, ApiError>,
) -> Result<ParsedFeatures, ApiError> {
    let envelope: Envelope<'_> = from_object(body)?;
    let selection = selection(envelope.service.map(Cow::into_owned), envelope.features)?;
    let max_age = match envelope.max_age {
        None => None,
        Some(text) => Some(
            parse_duration(&text).map_err(|e| ApiError::new("invalid_request", format!("`max_age`: {e}")))?,
        ),
    };
    let signature = signature(&selection)?;
    let entities = match envelope.entities {
        Some(raw) => parse_table(body, raw.get(), Kind::Entities, &signature)?,
        None => BTreeMap::new(),
    };
    let request = match envelope.request {
        Some(raw) => parse_table(body, raw.get(), Kind::Request, &signature)?,
        None => BTreeMap::new(),
    };
    let options = CallOptions {
        priority: match envelope.priority {
            PriorityName::Background => Priority::Background,
            PriorityName::Normal => Priority::Normal,
            PriorityName::Critical => Priority::Critical,
        },
        timeout: envelope.timeout_ms.map(Duration::from_millis),
        drop_stale: envelope.drop_stale,
        use_cache: true,
    };
    Ok(ParsedFeatures {
        request: FeatureRequest {
            selection,
            entities,
            request,
            at: None,
            max_age,
            roles: Vec::new(),
            options,
        },
        options: AnswerOptions {
            format: envelope.format,
            metadata: envelope.metadata.unwrap_or(true),
            full: envelope.full,
            int64: envelope.int64,
        },
    })
}

/// What is asked for: a service or features by name.
///
/// # Errors
/// `invalid_request`.
pub(crate) fn selection(
    service: Option<String>,
    features: Option<Vec<String>>,
) -> Result<Selection, ApiError> {
    match (service, features) {
        (Some(service), None) => Ok(Selection::Service(service)),
        (None, Some(features)) if !features.is_empty() => Ok(Selection::Features(features)),
        (None, Some(_)) => Err(ApiError::new("invalid_request", "`features` is empty")),
        (Some(_), Some(_)) => {
            Err(ApiError::new("invalid_request", "both `service` and `features` are given")
                .hint("ask for a service or for features by name, not both"))
        }
        (None, None) => Err(ApiError::new("invalid_request", "neither `service` nor `features` is given")
            .hint(r#"name what you want: {"service": "..."} or {"features": ["view:feature"]}"#)),
    }
}

#[cfg(test)]
mod tests;
