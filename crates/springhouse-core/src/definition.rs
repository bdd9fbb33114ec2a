//! What is defined, after the files are read and checked: plain data, every default filled in, every duration in
//! microseconds. This is also what a registry snapshot holds.

use crate::time::Micros;
use crate::{Value, ValueType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that a project defines, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Definitions {
    /// Entities.
    pub entities: BTreeMap<String, Entity>,
    /// Sources.
    pub sources: BTreeMap<String, Source>,
    /// Feature views, stored or windowed.
    pub feature_views: BTreeMap<String, FeatureView>,
    /// Request-time views.
    pub request_views: BTreeMap<String, RequestView>,
    /// Feature services.
    pub feature_services: BTreeMap<String, FeatureService>,
}

/// What every object carries for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Meta {
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// A thing that features describe: a user, an airport.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    /// Its name.
    pub name: String,
    /// Name and type of each key, in the declared order: the order of the encoded key.
    pub keys: Vec<(String, ValueType)>,
    /// For people.
    pub meta: Meta,
}

/// Where events or rows come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Table or stream.
    pub kind: SourceKind,
    /// For a stream: the topic whose messages are its events, beside what is pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaStream>,
    /// For a stream: a file that grows, whose lines are its events, beside what is pushed. Relative paths start at the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ndjson: Option<String>,
    /// The column that says when it happened (a timestamp).
    pub event_time: String,
    /// When the store could first have used a row of a table (for a stream: of its `history`, and of pushes declared
    /// as backfill; other pushes are stamped at the append).
    pub known_at: KnownAt,
    /// Its columns with the event time, in declared order.
    pub columns: Vec<Column>,
    /// Row-level SQL: rows where this is not true are left out.
    pub filter: Option<String>,
    /// Row-level SQL: columns computed from the row, in order; a later one may use an earlier one.
    pub derived: Vec<Derived>,
    /// A column (int64) that orders rows of equal event time and known_at; else their position in the table does.
    pub sequence: Option<String>,
    /// A column that identifies the event: rows of one id count once, across history and stream.
    pub event_id: Option<String>,
    /// A column that says what a row does ([`crate::change`]): rows can take earlier ones back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// The zone of timestamps that carry none, such as `UTC` or `America/New_York`; without it they are refused.
    pub time_zone: Option<String>,
    /// How far an event time may lie after its append and be clamped to it rather than refused.
    pub max_clock_skew: Micros,
    /// How long before its append an event of a stream may have happened rather than be refused; not for backfill.
    #[serde(default = "max_event_age")]
    pub max_event_age: Micros,
    /// For people.
    pub meta: Meta,
}

/// [`Source::max_event_age`] when it is not said: 40 years, after which times in another unit, which fall into 1970, are told.
pub const MAX_EVENT_AGE_DEFAULT: Micros = 14_610 * crate::time::DAY;

fn max_event_age() -> Micros {
    MAX_EVENT_AGE_DEFAULT
}

/// Table or stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Rows in place.
    Table(TableLocation),
    /// Pushed events, with an optional table of the same events from before the stream began.
    Push {
        /// The earlier events.
        history: Option<TableLocation>,
    },
}

/// A topic of Kafka, read as a stream: one message, one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaStream {
    /// `host:port` of some of the cluster's servers; empty: those of the deployment's settings.
    pub brokers: Vec<String>,
    /// Its name.
    pub topic: String,
    /// What a message's value is.
    pub format: MessageFormat,
    /// The schema of Avro or Protobuf messages, as text; none: a registry has it, and its number stands before each message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The Protobuf message that is meant, where the schema has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where reading begins when nothing of the topic was ever read.
    pub start: TopicStart,
    /// Which messages are events.
    pub isolation: Isolation,
    /// The column that gets the message's key.
    pub key: Option<String>,
    /// Columns that get headers: column to header.
    pub headers: BTreeMap<String, String>,
}

/// What a message's value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    /// A JSON object with the source's columns.
    #[default]
    Json,
    /// A record in Avro.
    Avro,
    /// A message in Protobuf.
    Protobuf,
}

/// Where reading a topic begins the first time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicStart {
    /// With the oldest message there is.
    #[default]
    Earliest,
    /// With the first message after the first look at the topic.
    Latest,
    /// With the first message whose timestamp is not before this moment.
    At(Micros),
    /// With these offsets by partition; other partitions with the oldest message that there is.
    Offsets(BTreeMap<i32, i64>),
}

/// Which messages of a topic are events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Those of transactions that were committed, and those without one.
    #[default]
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// A table: format and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableLocation {
    /// How it is stored.
    pub format: TableFormat,
    /// A path or glob below the project, an absolute path, or an object-store URL.
    pub uri: String,
}

/// How a table is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TableFormat {
    /// Parquet files.
    Parquet,
    /// CSV files with a header line.
    Csv,
    /// A Delta table.
    Delta,
}

/// When a row of a table could first have been used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownAt {
    /// A timestamp column says.
    Column(String),
    /// This long after the event time.
    Delay(Micros),
}

/// A column of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name in definitions.
    pub name: String,
    /// Its type.
    pub value_type: ValueType,
    /// True when a row without it is refused (`string!`).
    pub required: bool,
    /// True when it is personal data: kept out of logs, and a view of it needs readers.
    pub pii: bool,
    /// Its name in the table, when that differs.
    pub from: Option<String>,
    /// What it is.
    pub description: String,
}

/// A column computed by SQL from the others of its row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Derived {
    /// Its name.
    pub name: String,
    /// The expression.
    pub sql: String,
    /// The expression's type (found when it was planned).
    pub value_type: ValueType,
}

/// Features of one entity from one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureView {
    /// Its name.
    pub name: String,
    /// Its version; a breaking change needs a higher one.
    pub version: u32,
    /// The entity described.
    pub entity: String,
    /// The source read.
    pub source: String,
    /// The source's column for each key of the entity, in the entity's order.
    pub key_columns: Vec<String>,
    /// The source's `op` column, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Row-level SQL over the source's columns and derived columns: rows where it is not true are left out.
    pub filter: Option<String>,
    /// Row-level SQL: further columns.
    pub derived: Vec<Derived>,
    /// Latest values or windowed aggregates.
    pub kind: ViewKind,
    /// After this age a value is stale (still served).
    pub soft_ttl: Option<Micros>,
    /// After this age a value is expired. For a windowed view: the age of the source's applied frontier.
    pub hard_ttl: Micros,
    /// How fresh it is meant to be.
    pub slo: FreshnessSlo,
    /// For people.
    pub meta: Meta,
}

/// The two kinds of feature view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewKind {
    /// The value of the greatest visible row.
    Latest(Vec<LatestFeature>),
    /// Aggregates over windows.
    Windows(Vec<WindowFeature>),
}

/// A column's latest value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatestFeature {
    /// The feature's name.
    pub name: String,
    /// The column it shows.
    pub column: String,
    /// Its type.
    pub value_type: ValueType,
    /// What the caller gets when there is no fresh value.
    pub default: DefaultValue,
    /// True when it is personal data.
    pub pii: bool,
    /// For people.
    pub meta: Meta,
}

/// One aggregate over one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowFeature {
    /// The feature's name, such as `dep_delay_mean_24h`.
    pub name: String,
    /// What is computed.
    pub function: AggregateFunction,
    /// The column aggregated; none for `count()` and `seconds_since_last`.
    pub column: Option<String>,
    /// The column's type.
    pub column_type: Option<ValueType>,
    /// The window's length; none is `lifetime`.
    pub window: Option<Micros>,
    /// The step of the window's tail; 1 is `exact`. Without meaning for `lifetime`.
    pub hop: Micros,
    /// SQL over the row: events where it is not true don't count.
    pub filter: Option<String>,
    /// A second column: the value is a map from each of its values to the aggregate.
    pub group_by: Option<String>,
    /// The second column's type.
    pub group_type: Option<ValueType>,
    /// The feature's type.
    pub value_type: ValueType,
    /// What the caller gets when there is no fresh value.
    pub default: DefaultValue,
    /// True when it shows personal data (the column is `pii` and the function gives values back).
    pub pii: bool,
    /// For people.
    pub meta: Meta,
}

/// An aggregate and its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateFunction {
    /// Events, or non-null values where a column is given.
    Count,
    /// Exact sum: int64 for integers (null when it overflows), float64 for floats.
    Sum,
    /// The rounded sum divided by the count.
    Mean,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
    /// Sample variance.
    Variance,
    /// Square root of the sample variance.
    Stddev,
    /// The oldest value.
    First,
    /// The newest value.
    Last,
    /// The oldest `n` values, oldest first.
    FirstN(u32),
    /// The newest `n` values, newest first.
    LastN(u32),
    /// Distinct values, exact up to `cap`; beyond it null with the status `over_cap`.
    CountDistinct {
        /// The most distinct values held.
        cap: u32,
    },
    /// HyperLogLog with 2^precision registers; relative standard error 1.04 / sqrt(2^precision).
    ApproxCountDistinct {
        /// 4 to 16.
        precision: u8,
    },
    /// DDSketch; `q` in 0..=1, relative error `alpha`.
    ApproxQuantile {
        /// The quantile.
        q: f64,
        /// The relative error, 0.001 to 0.1.
        alpha: f64,
    },
    /// The `n` most frequent values, the most frequent first, ties by the smaller value.
    TopN {
        /// How many.
        n: u32,
        /// The most distinct values held.
        cap: u32,
    },
    /// Every value with its count, the most frequent first, ties by the smaller value.
    ValueCounts {
        /// The most distinct values held.
        cap: u32,
    },
    /// Seconds from the newest event to the moment asked for.
    SecondsSinceLast,
}

/// What stands in for a value that is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultValue {
    /// Nothing: the caller gets null.
    #[default]
    Null,
    /// This value.
    Constant(Value),
    /// A statistic of the offline history, filled in with its date by `springhouse statistics`.
    Population {
        /// Which.
        statistic: PopulationStatistic,
        /// Its value, once computed.
        value: Option<Value>,
        /// The moment it was computed for.
        computed_at: Option<Micros>,
    },
}

/// A statistic of the history that serves as a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PopulationStatistic {
    /// Arithmetic mean.
    Mean,
    /// Median.
    Median,
    /// The most frequent value.
    Mode,
}

/// How fresh a view is meant to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshnessSlo {
    /// The tier it came from, if any.
    pub tier: Option<Tier>,
    /// 95 of 100 values are younger than this.
    pub p95: Micros,
    /// 99 of 100 values are younger than this.
    pub p99: Micros,
}

/// Named freshness targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// 5 s at p95, 15 s at p99.
    Realtime,
    /// 5 min at p95, 15 min at p99.
    Nearline,
    /// 24 h at p95, 48 h at p99.
    Batch,
}

/// Features computed at request time from other features and request fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestView {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Request fields: name, type, required.
    pub fields: Vec<Column>,
    /// Features used, as `view:feature`, with the name they have in the expressions.
    pub inputs: Vec<(String, FeatureRef)>,
    /// Its features: expressions over inputs and fields, in order; a later one may use an earlier one.
    pub features: Vec<RequestFeature>,
    /// For people.
    pub meta: Meta,
}

/// One expression of a request view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestFeature {
    /// The feature's name.
    pub name: String,
    /// The expression.
    pub sql: String,
    /// Its type (found when it was planned).
    pub value_type: ValueType,
    /// What the caller gets when the expression gives null.
    pub default: DefaultValue,
    /// For people.
    pub meta: Meta,
}

/// A feature by view and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FeatureRef {
    /// The feature view or request view.
    pub view: String,
    /// The feature.
    pub feature: String,
}

impl std::fmt::Display for FeatureRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.view, self.feature)
    }
}

/// The features that one model asks for, with what to do when they are not fresh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureService {
    /// Its name.
    pub name: String,
    /// Its features, every `view` or `view:*` spelled out, in order.
    pub features: Vec<FeatureRef>,
    /// For stale values.
    pub on_stale: OnStale,
    /// For values that the store could not give in time.
    pub on_unavailable: OnUnavailable,
    /// For values that were never seen.
    pub on_missing: OnAbsent,
    /// For values older than the hard TTL.
    pub on_expired: OnAbsent,
    /// Who may read it; empty is everyone.
    pub readers: Vec<String>,
    /// The latency promised at p99, if any.
    pub latency_p99: Option<Micros>,
    /// The availability promised, in percent, if any.
    pub availability_percent: Option<f64>,
    /// For people.
    pub meta: Meta,
}

/// What to do with a stale value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnStale {
    /// Serve it and say so.
    #[default]
    Serve,
    /// Serve the default.
    Default,
    /// Fail the request.
    Fail,
}

/// What to do when the store does not answer in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnavailable {
    /// Serve the default.
    #[default]
    Default,
    /// Serve the last known value, else the default.
    LastKnown,
    /// Fail the request.
    Fail,
}

/// What to do with a value that is missing or expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnAbsent {
    /// Serve the default.
    #[default]
    Default,
    /// Fail the request.
    Fail,
}

/// What became of a value; the same words in answers and in training manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum ValueStatus {
    /// A value within its soft TTL.
    Fresh = 0,
    /// Older than the soft TTL, served.
    Stale = 1,
    /// Older than the hard TTL: the default stands in.
    Expired = 2,
    /// Never seen: the default stands in.
    Missing = 3,
    /// The row or the window has no value: the default stands in.
    Null = 4,
    /// An integer sum left int64: the default stands in.
    Overflow = 5,
    /// More distinct values than the declared cap: the default stands in.
    OverCap = 6,
    /// The store could not be asked in time: last known value or default.
    Unavailable = 7,
    /// The caller may not read it.
    Denied = 8,
}

/// The default hop ladder: the longest of these that is at most a 60th of the window.
pub const HOPS: [Micros; 12] = {
    use crate::time::{DAY, HOUR, MINUTE, SECOND};
    [
        SECOND,
        5 * SECOND,
        10 * SECOND,
        30 * SECOND,
        MINUTE,
        5 * MINUTE,
        10 * MINUTE,
        30 * MINUTE,
        HOUR,
        6 * HOUR,
        12 * HOUR,
        DAY,
    ]
};

/// The hop that says `exact`: one microsecond.
pub const HOP_EXACT: Micros = 1;

/// The hop of a window that declares none: the longest of [`HOPS`] at most `window / 60`, never under one second.
pub fn default_hop(window: Micros) -> Micros {
    HOPS.into_iter().filter(|hop| *hop <= window / 60).max().unwrap_or(HOPS[0])
}

/// The largest `n` of `first_n`, `last_n` and `top_n`.
pub const AGGREGATE_N_MAX: u32 = 1_000;
/// The largest `cap` of distinct values or groups that an aggregate may hold per entity and tile.
pub const AGGREGATE_CAP_MAX: u32 = 100_000;

/// The type of what an aggregate gives over a column of `column_type` (none for `count()` and `seconds_since_last`),
/// grouped by a column of `group_type` if one is given.
///
/// # Errors
/// One sentence for people: the function does not take the column's type, or a parameter is out of range.
pub fn aggregate_output_type(
    function: &AggregateFunction,
    column_type: Option<&ValueType>,
    group_type: Option<&ValueType>,
) -> Result<ValueType, String> {
    let name = function.name();
    function.check_parameters()?;
    let value_type = match (function, column_type) {
        (AggregateFunction::Count, _) => ValueType::Int64,
        (AggregateFunction::SecondsSinceLast, None) => ValueType::Float64,
        (AggregateFunction::SecondsSinceLast, Some(_)) => {
            return Err(format!("`{name}` is about the newest event and takes no column"));
        }
        (_, None) => return Err(format!("`{name}` needs a column")),
        (_, Some(column)) => function
            .output_of(column)
            .ok_or_else(|| format!("`{name}` needs {}, the column is {column}", function.takes()))?,
    };
    match group_type {
        None => Ok(value_type),
        Some(group) if is_comparable(group) => {
            Ok(ValueType::Map(Box::new(group.clone()), Box::new(value_type)))
        }
        Some(group) => Err(format!("a group column has a scalar type (not json), this one is {group}")),
    }
}

/// True for the types whose values can be compared, counted and used as map keys.
fn is_comparable(value_type: &ValueType) -> bool {
    value_type.is_scalar() && *value_type != ValueType::Json
}

impl AggregateFunction {
    /// Its name in definitions, such as `count_distinct`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Variance => "variance",
            Self::Stddev => "stddev",
            Self::First => "first",
            Self::Last => "last",
            Self::FirstN(_) => "first_n",
            Self::LastN(_) => "last_n",
            Self::CountDistinct { .. } => "count_distinct",
            Self::ApproxCountDistinct { .. } => "approx_count_distinct",
            Self::ApproxQuantile { .. } => "approx_quantile",
            Self::TopN { .. } => "top_n",
            Self::ValueCounts { .. } => "value_counts",
            Self::SecondsSinceLast => "seconds_since_last",
        }
    }

    /// The type it gives over a column of this type; None when it does not take the type.
    fn output_of(&self, column: &ValueType) -> Option<ValueType> {
        let is_map = matches!(column, ValueType::Map(..));
        let list = |inner: &ValueType| ValueType::List(Box::new(inner.clone()));
        match self {
            Self::Count => Some(ValueType::Int64),
            Self::SecondsSinceLast => Some(ValueType::Float64),
            Self::Sum if column.is_integer() => Some(ValueType::Int64),
            Self::Sum | Self::Mean | Self::Variance | Self::Stddev | Self::ApproxQuantile { .. } => {
                column.is_numeric().then_some(ValueType::Float64)
            }
            Self::Min | Self::Max => is_comparable(column).then(|| column.clone()),
            Self::First | Self::Last => (!is_map).then(|| column.clone()),
            Self::FirstN(_) | Self::LastN(_) => column.is_scalar().then(|| list(column)),
            Self::TopN { .. } => is_comparable(column).then(|| list(column)),
            Self::CountDistinct { .. } | Self::ApproxCountDistinct { .. } => {
                is_comparable(column).then_some(ValueType::Int64)
            }
            Self::ValueCounts { .. } => is_comparable(column)
                .then(|| ValueType::Map(Box::new(column.clone()), Box::new(ValueType::Int64))),
        }
    }

    fn takes(&self) -> &'static str {
        match self {
            Self::Sum | Self::Mean | Self::Variance | Self::Stddev | Self::ApproxQuantile { .. } => {
                "a number (int32, int64, float32 or float64)"
            }
            Self::First | Self::Last => "any type but a map",
            Self::FirstN(_) | Self::LastN(_) => "a scalar type",
            _ => "a scalar type other than json",
        }
    }

    fn check_parameters(&self) -> Result<(), String> {
        let name = self.name();
        let within = |what: &str, value: u32, max: u32| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(format!("`{what}` of `{name}` is {value}; it must be 1 to {max}"))
        };
        match self {
            Self::FirstN(n) | Self::LastN(n) => within("n", *n, AGGREGATE_N_MAX),
            Self::TopN { n, cap } => {
                within("n", *n, AGGREGATE_N_MAX)?;
                within("cap", *cap, AGGREGATE_CAP_MAX)
            }
            Self::CountDistinct { cap } | Self::ValueCounts { cap } => within("cap", *cap, AGGREGATE_CAP_MAX),
            Self::ApproxCountDistinct { precision } if !(4..=16).contains(precision) => {
                Err(format!("`precision` of `{name}` is {precision}; it must be 4 to 16"))
            }
            Self::ApproxQuantile { q, .. } if !(0.0..=1.0).contains(q) => {
                Err(format!("`q` of `{name}` is {q}; it must be 0 to 1"))
            }
            Self::ApproxQuantile { alpha, .. } if !(0.001..=0.1).contains(alpha) => {
                Err(format!("`alpha` of `{name}` is {alpha}; it must be 0.001 to 0.1"))
            }
            _ => Ok(()),
        }
    }
}

impl Source {
    /// The source's columns as the row-level SQL sees them: declared columns, the event time, then derived ones.
    pub fn schema(&self) -> Vec<(String, ValueType)> {
        let declared = self.columns.iter().map(|c| (c.name.clone(), c.value_type.clone()));
        declared.chain(self.derived.iter().map(|d| (d.name.clone(), d.value_type.clone()))).collect()
    }

    /// True for a push stream.
    pub fn is_stream(&self) -> bool {
        matches!(self.kind, SourceKind::Push { .. })
    }

    /// The table read in place: the table itself, or a stream's history.
    pub fn table(&self) -> Option<&TableLocation> {
        match &self.kind {
            SourceKind::Table(location) => Some(location),
            SourceKind::Push { history } => history.as_ref(),
        }
    }
}

impl FeatureView {
    /// The view's identity where its state is stored: `name@version`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Names and types of its features, in order.
    pub fn features(&self) -> Vec<(&str, &ValueType)> {
        match &self.kind {
            ViewKind::Latest(features) => features.iter().map(|f| (f.name.as_str(), &f.value_type)).collect(),
            ViewKind::Windows(features) => {
                features.iter().map(|f| (f.name.as_str(), &f.value_type)).collect()
            }
        }
    }

    /// The defaults of its features, in order.
    pub fn defaults(&self) -> Vec<&DefaultValue> {
        match &self.kind {
            ViewKind::Latest(features) => features.iter().map(|f| &f.default).collect(),
            ViewKind::Windows(features) => features.iter().map(|f| &f.default).collect(),
        }
    }
}

impl DefaultValue {
    /// The value that stands in.
    pub fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Constant(value) => value.clone(),
            Self::Population { value, .. } => value.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_says_what_it_gives_and_what_it_takes() {
        let typed = |function: &AggregateFunction, column: Option<&str>, group: Option<&str>| {
            let parse = |text: &str| text.parse::<ValueType>().unwrap();
            aggregate_output_type(function, column.map(parse).as_ref(), group.map(parse).as_ref())
                .map(|t| t.to_string())
        };
        use AggregateFunction as F;
        for (function, column, group, expected) in [
            (F::Count, None, None, "int64"),
            (F::Count, Some("json"), None, "int64"),
            (F::Sum, Some("int32"), None, "int64"),
            (F::Sum, Some("float32"), None, "float64"),
            (F::Mean, Some("int64"), None, "float64"),
            (F::Max, Some("decimal(9,2)"), None, "decimal(9,2)"),
            (F::Last, Some("vector<3>"), None, "vector<3>"),
            (F::LastN(3), Some("string"), None, "list<string>"),
            (F::ValueCounts { cap: 9 }, Some("bool"), None, "map<bool,int64>"),
            (
                F::TopN { n: 2, cap: 9 },
                Some("string"),
                Some("decimal(4,1)"),
                "map<decimal(4,1),list<string>>",
            ),
            (F::SecondsSinceLast, None, Some("string"), "map<string,float64>"),
        ] {
            assert_eq!(typed(&function, column, group).as_deref(), Ok(expected), "{function:?}");
            assert_eq!(expected.parse::<ValueType>().unwrap().to_string(), expected);
        }
        for (function, column, group) in [
            (F::Sum, Some("string"), None),
            (F::Sum, None, None),
            (F::SecondsSinceLast, Some("int64"), None),
            (F::Min, Some("json"), None),
            (F::LastN(0), Some("string"), None),
            (F::LastN(3), Some("list<int64>"), None),
            (F::ApproxQuantile { q: f64::NAN, alpha: 0.01 }, Some("int64"), None),
            (F::ApproxCountDistinct { precision: 3 }, Some("int64"), None),
            (F::Count, None, Some("vector<3>")),
        ] {
            assert!(typed(&function, column, group).is_err(), "{function:?}");
        }
    }
}
