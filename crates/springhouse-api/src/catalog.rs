//! Definitions as people read them: `/v1/views` and `/v1/services`.

use crate::json::json_value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use springhouse_core::Definitions;
use springhouse_core::ValueType;
use springhouse_core::definition::{
    AggregateFunction, DefaultValue, FeatureService, FeatureView, HOP_EXACT, Meta, OnAbsent, OnStale,
    OnUnavailable, RequestView, Tier, ViewKind,
};
use springhouse_core::time::format_duration;

/// Every view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ViewList {
    /// Entities with their keys.
    pub entities: Vec<EntityEntry>,
    /// Views, stored ones first, by name.
    pub views: Vec<ViewEntry>,
}

/// An entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EntityEntry {
    /// Its name.
    pub name: String,
    /// Its keys, in order.
    pub keys: Vec<RequestField>,
    /// For people.
    #[serde(flatten)]
    pub meta: Meta,
}

/// A view and its features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ViewEntry {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// `latest`, `windows` or `request`.
    pub kind: String,
    /// The entity described (not for request views).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// The source read (not for request views).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `realtime`, `nearline`, `batch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// After this age values are stale, such as `15m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_ttl: Option<String>,
    /// After this age values are expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_ttl: Option<String>,
    /// Row-level SQL that rows must pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Request views: fields that a request brings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_fields: Vec<RequestField>,
    /// Its features.
    pub features: Vec<FeatureEntry>,
    /// For people.
    #[serde(flatten)]
    pub meta: Meta,
}

/// A name with a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestField {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub value_type: String,
    /// Whether a request must bring it.
    pub required: bool,
}

/// One feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeatureEntry {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub value_type: String,
    /// What it is, such as `mean(dep_delay) over 24h by 10m` or `latest dep_delay`.
    pub is: String,
    /// What stands in when there is no fresh value.
    pub default: serde_json::Value,
    /// Whether it shows personal data.
    pub pii: bool,
    /// For people.
    #[serde(flatten)]
    pub meta: Meta,
}

/// Every service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceList {
    /// Services by name.
    pub services: Vec<ServiceEntry>,
}

/// A feature service and its policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceEntry {
    /// Its name.
    pub name: String,
    /// Its features as `view:feature`, in order.
    pub features: Vec<String>,
    /// For stale values.
    pub on_stale: OnStale,
    /// When the store does not answer in time.
    pub on_unavailable: OnUnavailable,
    /// For values never seen.
    pub on_missing: OnAbsent,
    /// For values older than the hard TTL.
    pub on_expired: OnAbsent,
    /// Who may read it; empty is everyone.
    pub readers: Vec<String>,
    /// The latency promised at p99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p99: Option<String>,
    /// The availability promised, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_percent: Option<f64>,
    /// For people.
    #[serde(flatten)]
    pub meta: Meta,
}

impl ViewList {
    /// Of these definitions.
    pub fn of(definitions: &Definitions) -> Self {
        let entities = definitions.entities.values().map(|entity| EntityEntry {
            name: entity.name.clone(),
            keys: entity.keys.iter().map(|(name, value_type)| field(name, value_type, true)).collect(),
            meta: entity.meta.clone(),
        });
        let stored = definitions.feature_views.values().map(stored_view);
        let request = definitions.request_views.values().map(request_view);
        Self { entities: entities.collect(), views: stored.chain(request).collect() }
    }
}

impl ServiceList {
    /// Of these definitions.
    pub fn of(definitions: &Definitions) -> Self {
        Self { services: definitions.feature_services.values().map(service).collect() }
    }
}

fn field(name: &str, value_type: &ValueType, required: bool) -> RequestField {
    RequestField { name: name.to_owned(), value_type: value_type.to_string(), required }
}

/// The word for a tier; the same as its serde name.
pub fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Realtime => "realtime",
        Tier::Nearline => "nearline",
        Tier::Batch => "batch",
    }
}

fn stored_view(view: &FeatureView) -> ViewEntry {
    let features = match &view.kind {
        ViewKind::Latest(features) => features
            .iter()
            .map(|feature| FeatureEntry {
                name: feature.name.clone(),
                value_type: feature.value_type.to_string(),
                is: format!("latest {}", feature.column),
                default: default_json(&feature.default, &feature.value_type),
                pii: feature.pii,
                meta: feature.meta.clone(),
            })
            .collect(),
        ViewKind::Windows(features) => features
            .iter()
            .map(|feature| {
                let column = feature.column.as_deref().unwrap_or("");
                let window = match feature.window {
                    None => "over its lifetime".to_owned(),
                    Some(window) if feature.hop == HOP_EXACT => {
                        format!("over {} exact", format_duration(window))
                    }
                    Some(window) => {
                        format!("over {} by {}", format_duration(window), format_duration(feature.hop))
                    }
                };
                let filter = feature.filter.as_ref().map_or(String::new(), |sql| format!(" where {sql}"));
                let group = feature.group_by.as_ref().map_or(String::new(), |by| format!(" per {by}"));
                FeatureEntry {
                    name: feature.name.clone(),
                    value_type: feature.value_type.to_string(),
                    is: format!("{}({column}) {window}{group}{filter}", function_name(&feature.function)),
                    default: default_json(&feature.default, &feature.value_type),
                    pii: feature.pii,
                    meta: feature.meta.clone(),
                }
            })
            .collect(),
    };
    ViewEntry {
        name: view.name.clone(),
        version: view.version,
        kind: if matches!(view.kind, ViewKind::Latest(_)) { "latest" } else { "windows" }.to_owned(),
        entity: Some(view.entity.clone()),
        source: Some(view.source.clone()),
        tier: view.slo.tier.map(|tier| tier_name(tier).to_owned()),
        soft_ttl: view.soft_ttl.map(format_duration),
        hard_ttl: Some(format_duration(view.hard_ttl)),
        filter: view.filter.clone(),
        request_fields: Vec::new(),
        features,
        meta: view.meta.clone(),
    }
}

fn request_view(view: &RequestView) -> ViewEntry {
    ViewEntry {
        name: view.name.clone(),
        version: view.version,
        kind: "request".to_owned(),
        entity: None,
        source: None,
        tier: None,
        soft_ttl: None,
        hard_ttl: None,
        filter: None,
        request_fields: view.fields.iter().map(|f| field(&f.name, &f.value_type, f.required)).collect(),
        features: view
            .features
            .iter()
            .map(|feature| FeatureEntry {
                name: feature.name.clone(),
                value_type: feature.value_type.to_string(),
                is: feature.sql.clone(),
                default: default_json(&feature.default, &feature.value_type),
                pii: false,
                meta: feature.meta.clone(),
            })
            .collect(),
        meta: view.meta.clone(),
    }
}

fn service(service: &FeatureService) -> ServiceEntry {
    ServiceEntry {
        name: service.name.clone(),
        features: service.features.iter().map(ToString::to_string).collect(),
        on_stale: service.on_stale,
        on_unavailable: service.on_unavailable,
        on_missing: service.on_missing,
        on_expired: service.on_expired,
        readers: service.readers.clone(),
        latency_p99: service.latency_p99.map(format_duration),
        availability_percent: service.availability_percent,
        meta: service.meta.clone(),
    }
}

fn default_json(default: &DefaultValue, value_type: &ValueType) -> serde_json::Value {
    json_value(&default.value(), value_type)
}

fn function_name(function: &AggregateFunction) -> String {
    match function {
        AggregateFunction::Count => "count".to_owned(),
        AggregateFunction::Sum => "sum".to_owned(),
        AggregateFunction::Mean => "mean".to_owned(),
        AggregateFunction::Min => "min".to_owned(),
        AggregateFunction::Max => "max".to_owned(),
        AggregateFunction::Variance => "variance".to_owned(),
        AggregateFunction::Stddev => "stddev".to_owned(),
        AggregateFunction::First => "first".to_owned(),
        AggregateFunction::Last => "last".to_owned(),
        AggregateFunction::FirstN(n) => format!("first_{n}"),
        AggregateFunction::LastN(n) => format!("last_{n}"),
        AggregateFunction::CountDistinct { cap } => format!("count_distinct[up to {cap}]"),
        AggregateFunction::ApproxCountDistinct { precision } => {
            let percent = 104.0 / f64::from(1u32 << precision.min(&30)).sqrt();
            format!("approx_count_distinct[±{percent:.2}%]")
        }
        AggregateFunction::ApproxQuantile { q, alpha } => {
            format!("approx_quantile[{q}, ±{}%]", alpha * 100.0)
        }
        AggregateFunction::TopN { n, cap } => format!("top_{n}[of up to {cap}]"),
        AggregateFunction::ValueCounts { cap } => format!("value_counts[up to {cap}]"),
        AggregateFunction::SecondsSinceLast => "seconds_since_last".to_owned(),
    }
}
