//! What goes over the wire for `POST /v1/features`. These types are the contract: the document is generated from them and
//! clients may use them; the server's hot path reads and writes the same JSON without them (`parse`, `write`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_json::value::RawValue;
use springhouse_core::ValueStatus;
use std::collections::BTreeMap;

/// Features asked for: by service or by name, for one or many entity rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeaturesRequestBody {
    /// A feature service. Either this or `features`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Features as `view:feature`, or `view` for all of a view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// The entity keys of each row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entities: Option<EntityRows>,
    /// Request fields: columns (as many values as entity rows, or one for all) or one object per row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<EntityRows>,
    /// Values older than this count as stale, such as `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// Stale values (by their soft TTL or `max_age`) are replaced by their defaults. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drop_stale: bool,
    /// Who goes first when there are more requests than can be answered in time. Default `normal`.
    #[serde(default)]
    pub priority: PriorityName,
    /// How long the caller waits, in milliseconds; the server's own limit (`serving.request_timeout_ms`) holds too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Also event times, where each value came from, and log positions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// False leaves types, statuses and ages out. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<bool>,
    /// `columns` (default) or `rows`.
    #[serde(default)]
    pub format: AnswerFormat,
    /// How int64 values are written. Default `number`.
    #[serde(default)]
    pub int64: Int64Format,
}

/// Values by name: columns of equal length, or one object per row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EntityRows {
    /// `{"origin": ["JFK", "EWR"]}`.
    Columns(BTreeMap<String, Vec<Json>>),
    /// `[{"origin": "JFK"}, {"origin": "EWR"}]`.
    Rows(Vec<BTreeMap<String, Json>>),
}

/// The shape of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerFormat {
    /// `features`: one entry per feature with a list per row.
    #[default]
    Columns,
    /// `rows`: one entry per entity row with a value per feature.
    Rows,
}

/// Who goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriorityName {
    /// Work that can wait, such as scoring a batch: shed first.
    Background,
    /// Most requests.
    #[default]
    Normal,
    /// Shed last.
    Critical,
}

/// How int64 values are written (also inside lists and maps).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Int64Format {
    /// As JSON integers with all digits. JavaScript's `JSON.parse` rounds them beyond 2^53.
    #[default]
    Number,
    /// As strings.
    String,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeaturesBody {
    /// The moment answered for, RFC 3339.
    pub at: String,
    /// `healthy`; `stale`: some value is stale; `degraded`: a default stands in because a value expired or the store did
    /// not answer; `critical`: nothing came from the store although all should have.
    pub level: Level,
    /// Hash of the definitions answered with.
    pub definition: String,
    /// Entity rows.
    pub row_count: usize,
    /// With `format: columns`: by feature, in the order asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<BTreeMap<String, FeatureColumnBody>>,
    /// With `format: rows`: the type of each feature (unless `metadata` is false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<BTreeMap<String, String>>,
    /// With `format: rows`: one entry per entity row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<FeatureRowBody>>,
    /// With `full`: the log position that each view had applied when it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<Vec<PositionEntry>>,
}

/// How degraded an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Every value fresh, or honestly missing or null.
    Healthy,
    /// Some value is stale.
    Stale,
    /// Some value is a default because it expired or the store did not answer.
    Degraded,
    /// No value came from the store although all should have.
    Critical,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OriginName {
    /// Read from the store for this request.
    Store,
    /// Read from the store a moment ago, for another request.
    HotCache,
    /// The same, and being read again meanwhile.
    Stale,
    /// The store did not answer; this is what it said the last time.
    LastKnown,
    /// The default stands in.
    Default,
    /// Computed for this request.
    Computed,
}

/// One feature for all rows. Lists have one item per entity row.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureColumnBody {
    /// Its type, such as `float64`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub value_type: Option<String>,
    /// Its values; how each type is written is said at the top of this document.
    // Raw, because serde_json's own reader of floats is not exact in its last digit.
    #[schemars(with = "Vec<Json>")]
    pub values: Vec<Box<RawValue>>,
    /// What became of each value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Vec<ValueStatus>>,
    /// Ages in seconds, exact to the microsecond; null where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<Vec<Option<f64>>>,
    /// With `full`: event times of latest values, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time: Option<Vec<Option<String>>>,
    /// With `full`: where each value came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Vec<OriginName>>,
}

/// All features of one row, each map by feature.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureRowBody {
    /// Values.
    #[schemars(with = "BTreeMap<String, Json>")]
    pub values: BTreeMap<String, Box<RawValue>>,
    /// What became of each value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<BTreeMap<String, ValueStatus>>,
    /// Ages in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<BTreeMap<String, Option<f64>>>,
    /// With `full`: event times of latest values, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time: Option<BTreeMap<String, Option<String>>>,
    /// With `full`: where each value came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<BTreeMap<String, OriginName>>,
}

/// How far a view had applied its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PositionEntry {
    /// `name@version`.
    pub view: String,
    /// Everything below this log offset was applied; -1 for a view of a table.
    pub cut: i64,
}
