//! What a server says about itself: `/health`, `/ready`, `/v1/status`, explanations and dead letters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use springhouse_core::ValueStatus;
use std::collections::BTreeMap;

/// The process lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthBody {
    /// Always `alive`.
    pub status: String,
    /// The program's version.
    pub version: String,
}

/// Whether requests should be sent here, and what is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyBody {
    /// False (with status 503) when a check that matters for every answer fails.
    pub ready: bool,
    /// True when some check fails, also one that does not stop the server from being ready.
    pub degraded: bool,
    /// Every check, also those that pass.
    pub checks: Vec<ReadyCheck>,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyCheck {
    /// Such as `accepting`, `store`, `log`, `definitions`, `frontier`, `view origin_delays@1`.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether the server is not ready without it.
    pub required: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The node at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusBody {
    /// The program's version.
    pub version: String,
    /// The server's present moment, RFC 3339.
    pub now: String,
    /// Registry snapshot served.
    pub snapshot: u64,
    /// Hash of its definitions.
    pub definition: String,
    /// Views.
    pub views: Vec<ViewStatusBody>,
    /// How far the push log is applied and flushed.
    pub positions: PositionsBody,
    /// Store sizes.
    pub store: StoreBody,
    /// The topics of Kafka that are read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicBody>,
    /// Sources of which events were applied since the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamBody>,
}

/// How long the events of a source took from their event time until reads saw them, since the start. Quantiles are upper
/// bounds; null: more than three hours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamBody {
    /// The source.
    pub source: String,
    /// Events applied.
    pub events: u64,
    /// Half of them were servable within this, seconds.
    pub p50_s: Option<f64>,
    /// 95 of 100.
    pub p95_s: Option<f64>,
    /// 99 of 100.
    pub p99_s: Option<f64>,
}

/// One topic that is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopicBody {
    /// The source.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// Messages that wait to be applied.
    pub lag_messages: i64,
    /// Seconds until they are, at the present rate; null while nothing moves.
    pub lag_s: Option<f64>,
    /// Messages applied a second, over the last seconds.
    pub rate: f64,
    /// Everything visible before this moment is applied, RFC 3339; null: not known.
    pub frontier: Option<String>,
    /// How far the frontier is behind `now`, seconds.
    pub age_s: Option<f64>,
    /// Messages read since the start.
    pub messages: u64,
    /// Of them, those without a value, which are no events.
    pub tombstones: u64,
    /// Messages that the topic had deleted before they were read, since the start.
    pub lost: u64,
    /// True while nothing is read; the server's log says why.
    pub failing: bool,
    /// Its partitions.
    pub partitions: Vec<PartitionBody>,
}

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionBody {
    /// Its number.
    pub partition: i32,
    /// The offset read next; all below is applied.
    pub position: i64,
    /// The offset after the last message that may be read; null: no broker has told yet.
    pub end: Option<i64>,
    /// Messages that wait to be applied.
    pub lag_messages: i64,
    /// The newest timestamp applied, RFC 3339.
    pub newest: Option<String>,
}

/// One view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ViewStatusBody {
    /// `name@version`.
    pub view: String,
    /// The entity described.
    pub entity: String,
    /// The source read.
    pub source: String,
    /// `realtime`, `nearline`, `batch`; none for a view with targets of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The generation served.
    pub generation: u32,
    /// Everything visible before this moment is applied, RFC 3339; null: never loaded.
    pub frontier: Option<String>,
    /// How far the frontier is behind `now`, seconds.
    pub age_s: Option<f64>,
    /// 95 of 100 values should be younger than this, seconds.
    pub slo_p95_s: f64,
    /// 99 of 100 values should be younger than this, seconds.
    pub slo_p99_s: f64,
    /// Of the values served over the last five minutes, half were younger than this, seconds (an upper bound); null: none was.
    #[serde(default)]
    pub served_p50_s: Option<f64>,
    /// 95 of 100.
    #[serde(default)]
    pub served_p95_s: Option<f64>,
    /// 99 of 100.
    #[serde(default)]
    pub served_p99_s: Option<f64>,
    /// Whether the age is within the p99 target.
    pub within_slo: bool,
}

/// Positions in the push log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PositionsBody {
    /// The offset of the next row.
    pub log_end: i64,
    /// Applied to the online store below this.
    pub applied_end: i64,
    /// In the lake below this.
    pub flushed_end: i64,
    /// Everything known before this moment is applied, RFC 3339.
    pub applied_frontier: String,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// True when the log takes no more rows; the server's log says why.
    pub log_failing: bool,
    /// True when the last flush to the lake failed; the server's log says why.
    pub flush_failing: bool,
}

/// Sizes of the online store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreBody {
    /// Entities held in memory.
    pub entities_in_memory: u64,
    /// Bytes of those, about.
    pub bytes_in_memory: u64,
    /// Entities changed since the last checkpoint.
    pub dirty_entities: u64,
}

/// What lies behind the features of one view for one entity.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExplainBody {
    /// `name@version`.
    pub view: String,
    /// The moment explained, RFC 3339.
    pub at: String,
    /// The entity's keys.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub key: BTreeMap<String, Box<RawValue>>,
    /// Its features.
    pub features: Vec<ExplainedFeature>,
}

/// One feature and what it is made of.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedFeature {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub value_type: String,
    /// Its value.
    #[schemars(with = "serde_json::Value")]
    pub value: Box<RawValue>,
    /// What became of it.
    pub status: ValueStatus,
    /// Its age, seconds.
    pub age_s: Option<f64>,
    /// Event time of a latest value, RFC 3339.
    pub event_time: Option<String>,
    /// Tiles, events or the row behind the number, one a line.
    pub lines: Vec<String>,
}

/// Refused rows of one source, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterList {
    /// The source.
    pub source: String,
    /// The rows.
    pub dead_letters: Vec<DeadLetterBody>,
}

/// A refused row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterBody {
    /// Its place in the log.
    pub offset: i64,
    /// When it was refused, RFC 3339.
    pub refused_at: String,
    /// Stable code.
    pub code: String,
    /// Why.
    pub reason: String,
    /// The row as it came, JSON text.
    pub row: String,
}
