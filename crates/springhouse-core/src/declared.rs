//! What `features/**/*.yaml` may say, key by key. The JSON Schema for editors is made from these structs, the comments
//! on them are its descriptions.

use crate::ValueType;
use crate::definition::{
    Isolation, MessageFormat, OnAbsent, OnStale, OnUnavailable, PopulationStatistic, TableFormat, Tier,
};
use crate::read::{Entries, FromNode, OneOrMany, Reader, ShortOr, section, words};
use crate::time::{Micros, parse_duration};
use crate::yaml::{Kind, Node};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::collections::BTreeMap;

section! {
    /// Definitions of a Springhouse project. A file may hold any of the sections; all files are read as one.
    DefinitionFile, "a definition file";
    required {}
    optional {
        /// Things that features describe: a user, an airport.
        "entities" entities: Entries<EntityDecl>,
        /// Where events or rows come from.
        "sources" sources: Entries<SourceDecl>,
        /// Features of one entity from one source: latest values, or aggregates over windows.
        "feature_views" feature_views: Entries<FeatureViewDecl>,
        /// Features computed at request time from other features and request fields.
        "request_views" request_views: Entries<RequestViewDecl>,
        /// The features that one model asks for, with what to do when they are not fresh.
        "feature_services" feature_services: Entries<FeatureServiceDecl>,
    }
}

section! {
    /// A thing that features describe.
    EntityDecl, "an entity";
    required {
        /// Name and type of each key, in order, such as `{origin: string, carrier: string}`.
        "keys" keys: Entries<TypeText>,
    }
    optional {
        /// What it is.
        "description" description: String,
        /// Who answers for it.
        "owner" owner: String,
        /// Free labels.
        "tags" tags: BTreeMap<String, String>,
    }
}

section! {
    /// Where events or rows come from: a `table` read in place, or a `stream` with an optional `history` table.
    SourceDecl, "a source";
    required {
        /// The timestamp column that says when it happened. Need not be repeated under `columns`.
        "event_time" event_time: String,
        /// Its columns, such as `{origin: string!, dep_delay: float64}`; `!`: a row without it is refused.
        "columns" columns: Entries<ColumnDecl>,
    }
    optional {
        /// A table read in place: a path, glob or URL (`data/*.parquet`), or `{path, format}`.
        "table" table: LocationDecl,
        /// `push`: events arrive over HTTP; or `kafka` with a topic, whose messages are read as well.
        "stream" stream: StreamDecl,
        /// A table of the same events from before the stream began.
        "history" history: LocationDecl,
        /// The timestamp column that says when the store could first have used a row.
        "known_at" known_at: String,
        /// Instead of `known_at`: a row can be used this long after its event time, such as `30m`. Zero when absent.
        "delay" delay: Duration,
        /// Row-level SQL: rows where it is not true are left out.
        "where" filter: String,
        /// Row-level SQL: further columns, each a name and an expression; a later one may use an earlier one.
        "derived" derived: Entries<String>,
        /// An int64 column that orders rows of equal event time and known_at; else their place in the table does.
        "sequence" sequence: String,
        /// A column that identifies the event: rows of one id count once, across history and stream.
        "event_id" event_id: String,
        /// A string column that says what a row does: `insert`, `update_before`, `update_after` or `delete`. Rows can then
        /// take earlier ones of the same content back.
        "op" op: String,
        /// The zone of timestamps that carry none, such as `UTC` or `America/New_York`; without it they are refused.
        "time_zone" time_zone: String,
        /// How far an event time may lie after its arrival and be clamped to it rather than refused; 5s when absent.
        "max_clock_skew" max_clock_skew: Duration,
        /// How long before its arrival an event of a stream may have happened; one that is older is refused, as its time is most
        /// likely in another unit. 14610d (40 years) when absent. Not for what is pushed as backfill.
        "max_event_age" max_event_age: Duration,
        /// What it is.
        "description" description: String,
        /// Who answers for it.
        "owner" owner: String,
        /// Free labels.
        "tags" tags: BTreeMap<String, String>,
    }
}

/// A table: its path, glob or URL, or `{path, format}` where the name does not tell the format.
pub(crate) type LocationDecl = ShortOr<String, LocationLong>;

section! {
    /// A table whose name does not tell its format.
    LocationLong, "a table";
    required {
        /// A path or glob below the project, an absolute path, or an object-store URL.
        "path" path: String,
    }
    optional {
        /// `parquet`, `csv` or `delta`; told from the name when absent.
        "format" format: TableFormat,
    }
}

/// How the events of a stream arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub(crate) enum StreamKind {
    /// Pushed over HTTP.
    Push,
}

/// A stream: `push`, or where its events are read.
pub(crate) type StreamDecl = ShortOr<StreamKind, StreamLong>;

section! {
    /// A stream that is read: `kafka` or `ndjson`.
    StreamLong, "a stream";
    required {}
    optional {
        /// A topic of Kafka.
        "kafka" kafka: KafkaDecl,
        /// A file that grows: one line, one event, a JSON object with the source's columns. A relative path starts at the project.
        "ndjson" ndjson: String,
    }
}

section! {
    /// A topic of Kafka: one message, one event.
    KafkaDecl, "a Kafka topic";
    required {
        /// Its name.
        "topic" topic: String,
    }
    optional {
        /// Where the cluster is found: `host:port`, one or several; `kafka.brokers` of springhouse.yaml when absent.
        "brokers" brokers: OneOrMany<String>,
        /// What a message's value is: `json` (when absent), an object with the source's columns; `avro`; `protobuf`. Fields of the
        /// latter two that are no columns are left out.
        "format" format: MessageFormat,
        /// The schema of `avro` (JSON) or `protobuf` (the text of a .proto file); when absent, each message begins with the number
        /// of its schema in the registry `kafka.registry_url` of springhouse.yaml, as Confluent's clients write it.
        "schema" schema: String,
        /// The full name of the `protobuf` message, where `schema` has several.
        "message" message: String,
        /// Where reading begins the first time: `earliest` (when absent), `latest`, a moment such as `2026-01-31T00:00:00Z`, or the
        /// offset of each partition's first message that `history` does not have: `{0: 1200, 1: 900}`.
        "start" start: ShortOr<String, Entries<u64>>,
        /// `read_committed` (when absent) leaves out messages of transactions that were aborted; or `read_uncommitted`.
        "isolation" isolation: Isolation,
        /// The column that gets the message's key, which must be UTF-8.
        "key" key: String,
        /// Columns that get headers: `{column: header}`.
        "headers" headers: BTreeMap<String, String>,
    }
}

/// A column: its type, or the long form.
pub(crate) type ColumnDecl = ShortOr<TypeText, ColumnLong>;

section! {
    /// A column with more to say than its type.
    ColumnLong, "a column";
    required {
        /// Its type; with `!` it is required.
        "type" value_type: TypeText,
    }
    optional {
        /// True: a row without it is refused.
        "required" required: bool,
        /// True: personal data. It is kept out of logs, and a service that shows it needs `readers`.
        "pii" pii: bool,
        /// Its name in the table, when that differs.
        "from" from: String,
        /// What it is.
        "description" description: String,
    }
}

section! {
    /// Features of one entity from one source: `features` (latest values) or `aggregate` (windows).
    FeatureViewDecl, "a feature view";
    required {
        /// The entity described.
        "entity" entity: String,
        /// The source read.
        "source" source: String,
        /// How old a value may be: `{soft: 15m, hard: 6h}`, or just the hard limit. Older than soft is served as stale,
        /// older than hard is replaced by the default.
        "ttl" ttl: ShortOr<Duration, TtlDecl>,
    }
    optional {
        /// 1 when absent. A breaking change of a live view needs a higher one.
        "version" version: u32,
        /// The source's column for each key of the entity, where the names differ, such as `{airport: origin}`.
        "keys" keys: Entries<String>,
        /// Row-level SQL: rows where it is not true are left out.
        "where" filter: String,
        /// Row-level SQL: further columns, each a name and an expression.
        "derived" derived: Entries<String>,
        /// Latest values: a list of columns, or a mapping from feature names to columns.
        "features" features: FeaturesDecl,
        /// Aggregates over windows. One function makes features named NAME_WINDOW, such as `late_1h`; a list of
        /// functions NAME_FUNCTION_WINDOW, such as `delay_mean_24h`.
        "aggregate" aggregate: Entries<AggregateDecl>,
        /// How fresh it is meant to be: realtime (5s at p95, 15s at p99), nearline (5m, 15m) or batch (24h, 48h).
        "tier" tier: Tier,
        /// Instead of `tier`: own targets for the age of values.
        "slo" slo: FreshnessDecl,
        /// What it is.
        "description" description: String,
        /// Who answers for it.
        "owner" owner: String,
        /// Free labels.
        "tags" tags: BTreeMap<String, String>,
    }
}

section! {
    /// How old a value may be.
    TtlDecl, "a ttl";
    required {
        /// Older values are replaced by the default.
        "hard" hard: Duration,
    }
    optional {
        /// Older values are served, as stale.
        "soft" soft: Duration,
    }
}

section! {
    /// Targets for the age of values.
    FreshnessDecl, "a freshness slo";
    required {
        /// 95 of 100 values are younger than this.
        "p95" p95: Duration,
        /// 99 of 100 values are younger than this.
        "p99" p99: Duration,
    }
    optional {}
}

/// Latest values: a list of columns, or a mapping from feature names to columns.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum FeaturesDecl {
    /// Columns; each is a feature of its name, without a default.
    Columns(Vec<String>),
    /// Features by name.
    Named(Entries<LatestDecl>),
}

impl FromNode for FeaturesDecl {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match node.kind {
            Kind::List(_) => Vec::from_node(node, reader).map(Self::Columns),
            Kind::Map(_) => Entries::from_node(node, reader).map(Self::Named),
            _ => reader.expected(node, "a list of columns or a mapping from feature names to columns"),
        }
    }
}

/// A latest value: nothing (the column of that name), a column, or the long form.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum LatestDecl {
    /// The column of the feature's name.
    Same(()),
    /// This column.
    Column(String),
    /// The long form.
    Long(LatestLong),
}

impl FromNode for LatestDecl {
    const TAKES_NULL: bool = true;

    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match node.kind {
            Kind::Null => Some(Self::Same(())),
            Kind::Map(_) => LatestLong::from_node(node, reader).map(Self::Long),
            _ => String::from_node(node, reader).map(Self::Column),
        }
    }
}

section! {
    /// A latest value with more to say.
    LatestLong, "a feature";
    required {}
    optional {
        /// The column it shows; the one of its name when absent.
        "column" column: String,
        /// What the caller gets when there is no fresh value: a constant, or `{population: mean|median|mode}`.
        "default" default: DefaultDecl,
        /// True: personal data, also when its column is not marked.
        "pii" pii: bool,
        /// What it is.
        "description" description: String,
        /// Who answers for it.
        "owner" owner: String,
        /// Free labels.
        "tags" tags: BTreeMap<String, String>,
    }
}

section! {
    /// Aggregates of one column over windows.
    AggregateDecl, "an aggregate";
    required {
        /// The function, or a list of functions.
        "fn" functions: OneOrMany<FunctionName>,
        /// Window lengths such as `1h`, `24h`, `7d`, or `lifetime`. The text is part of the feature's name.
        "windows" windows: Vec<WindowText>,
    }
    optional {
        /// The column aggregated; absent for a count of events and for `seconds_since_last`.
        "column" column: String,
        /// The step of the window's tail, or `exact`. When absent: the longest of 1s 5s 10s 30s 1m 5m 10m 30m 1h 6h 12h
        /// 1d that is at most a 60th of the window.
        "hop" hop: HopText,
        /// SQL over the row: events where it is not true don't count.
        "where" filter: String,
        /// A second column: the feature is a map from each of its values to the aggregate.
        "group_by" group_by: String,
        /// How many values: `first_n`, `last_n`, `top_n`.
        "n" n: u32,
        /// The quantile, 0 to 1: `approx_quantile`.
        "q" q: f64,
        /// The relative error, 0.001 to 0.1, 0.01 when absent: `approx_quantile`.
        "alpha" alpha: f64,
        /// 4 to 16, 12 when absent; 2^precision registers: `approx_count_distinct`.
        "precision" precision: u32,
        /// The most distinct values counted exactly: `count_distinct`, `top_n`, `value_counts`.
        "cap" cap: u32,
        /// What the feature is beyond `cap`; only `null` can be said, and must be, where there is a cap.
        "over_cap" over_cap: NullOnly,
        /// What the caller gets when there is no fresh value: a constant, or `{population: mean|median|mode}`.
        "default" default: DefaultDecl,
        /// What it is.
        "description" description: String,
        /// Who answers for it.
        "owner" owner: String,
        /// Free labels.
        "tags" tags: BTreeMap<String, String>,
    }
}

section! {
    /// Features computed at request time.
    RequestViewDecl, "a request view";
    required {
        /// Features by name: an SQL expression over inputs and fields, or the long form; a later one may use an earlier
        /// one. `now` is the moment of the request.
        "features" features: Entries<ShortOr<String, RequestFeatureLong>>,
    }
    optional {
        /// 1 when absent. A breaking change of a live view needs a higher one.
        "version" version: u32,
        /// What the request brings: names and types; `!` is required.
        "fields" fields: Entries<ColumnDecl>,
        /// Features used: a list of `view:feature`, or a mapping from the names they have in the expressions.
        "inputs" inputs: InputsDecl,
        /// What it is.
        "description" description: String,
        /// Who answers for it.
        "owner" owner: String,
        /// Free labels.
        "tags" tags: BTreeMap<String, String>,
    }
}

/// Features that a request view uses.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum InputsDecl {
    /// `view:feature`, under the feature's name.
    List(Vec<String>),
    /// `view:feature` under another name.
    Named(Entries<String>),
}

impl FromNode for InputsDecl {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match node.kind {
            Kind::List(_) => Vec::from_node(node, reader).map(Self::List),
            Kind::Map(_) => Entries::from_node(node, reader).map(Self::Named),
            _ => reader.expected(node, "a list of `view:feature` or a mapping from names to them"),
        }
    }
}

section! {
    /// A request-time feature with more to say than its expression.
    RequestFeatureLong, "a request feature";
    required {
        /// The expression.
        "sql" sql: String,
    }
    optional {
        /// What the caller gets when the expression gives null: a constant.
        "default" default: DefaultDecl,
        /// What it is.
        "description" description: String,
        /// Who answers for it.
        "owner" owner: String,
        /// Free labels.
        "tags" tags: BTreeMap<String, String>,
    }
}

section! {
    /// The features that one model asks for.
    FeatureServiceDecl, "a feature service";
    required {
        /// `view` (all its features) or `view:feature`, in order.
        "features" features: Vec<String>,
    }
    optional {
        /// A stale value: serve it (and say so), serve the default, or fail the request.
        "on_stale" on_stale: OnStale,
        /// The store does not answer in time: default, last known value, or fail.
        "on_unavailable" on_unavailable: OnUnavailable,
        /// A value never seen: default or fail.
        "on_missing" on_missing: OnAbsent,
        /// A value older than the hard ttl: default or fail.
        "on_expired" on_expired: OnAbsent,
        /// Who may read it, such as `role:delay-model`; everyone when absent.
        "readers" readers: Vec<String>,
        /// What is promised.
        "slo" slo: ServiceSloDecl,
        /// What it is.
        "description" description: String,
        /// Who answers for it.
        "owner" owner: String,
        /// Free labels.
        "tags" tags: BTreeMap<String, String>,
    }
}

section! {
    /// What a service promises.
    ServiceSloDecl, "a service slo";
    required {}
    optional {
        /// Latency at p99, such as `10ms`.
        "latency_p99" latency_p99: Duration,
        /// Availability, such as `99.9%`.
        "availability" availability: Percent,
    }
}

words! {
    Tier: "realtime" => Self::Realtime, "nearline" => Self::Nearline, "batch" => Self::Batch;
    OnStale: "serve" => Self::Serve, "default" => Self::Default, "fail" => Self::Fail;
    OnUnavailable: "default" => Self::Default, "last_known" => Self::LastKnown, "fail" => Self::Fail;
    OnAbsent: "default" => Self::Default, "fail" => Self::Fail;
    TableFormat: "parquet" => Self::Parquet, "csv" => Self::Csv, "delta" => Self::Delta;
    StreamKind: "push" => Self::Push;
    MessageFormat: "json" => Self::Json, "avro" => Self::Avro, "protobuf" => Self::Protobuf;
    Isolation: "read_committed" => Self::ReadCommitted, "read_uncommitted" => Self::ReadUncommitted;
    PopulationStatistic: "mean" => Self::Mean, "median" => Self::Median, "mode" => Self::Mode;
    FunctionName as synonym_of_function:
        "count" => Self::Count, "sum" => Self::Sum, "mean" => Self::Mean, "min" => Self::Min, "max" => Self::Max,
        "variance" => Self::Variance, "stddev" => Self::Stddev, "first" => Self::First, "last" => Self::Last,
        "first_n" => Self::FirstN, "last_n" => Self::LastN, "count_distinct" => Self::CountDistinct,
        "approx_count_distinct" => Self::ApproxCountDistinct, "approx_quantile" => Self::ApproxQuantile,
        "top_n" => Self::TopN, "value_counts" => Self::ValueCounts,
        "seconds_since_last" => Self::SecondsSinceLast;
}

/// What people call a function elsewhere.
fn synonym_of_function(text: &str) -> Option<&'static str> {
    Some(match text.to_lowercase().as_str() {
        "avg" | "average" => "mean",
        "std" | "stdev" | "stddev_samp" => "stddev",
        "var" | "var_samp" => "variance",
        "median" | "percentile" | "quantile" | "p50" | "p90" | "p95" | "p99" => "approx_quantile",
        "distinct" | "nunique" | "unique_count" | "distinct_count" => "count_distinct",
        "approx_distinct" | "hll" => "approx_count_distinct",
        "histogram" | "frequencies" => "value_counts",
        "latest" | "newest" => "last",
        "oldest" => "first",
        "top_k" | "topk" => "top_n",
        _ => return None,
    })
}

/// An aggregate function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub(crate) enum FunctionName {
    /// Events, or non-null values of a column.
    Count,
    /// Exact sum.
    Sum,
    /// Mean.
    Mean,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
    /// Sample variance.
    Variance,
    /// Sample standard deviation.
    Stddev,
    /// The oldest value.
    First,
    /// The newest value.
    Last,
    /// The oldest `n` values, oldest first.
    FirstN,
    /// The newest `n` values, newest first.
    LastN,
    /// Distinct values, exact up to `cap`.
    CountDistinct,
    /// Distinct values, estimated.
    ApproxCountDistinct,
    /// The quantile `q`, within the relative error `alpha`.
    ApproxQuantile,
    /// The `n` most frequent values.
    TopN,
    /// Every value with its count.
    ValueCounts,
    /// Seconds since the newest event.
    SecondsSinceLast,
}

/// A type, with `!` when a value is required.
#[derive(Clone, Debug)]
pub(crate) struct TypeText {
    pub(crate) value_type: ValueType,
    pub(crate) required: bool,
}

impl FromNode for TypeText {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Kind::Scalar { text, .. } = &node.kind else {
            return reader.expected(node, "a type such as `string` or `float64!`");
        };
        let bare = text.strip_suffix('!').unwrap_or(text);
        match bare.parse::<ValueType>() {
            Ok(ValueType::Map(..)) => {
                let message = format!("a column can't have the type `{bare}`; only aggregates give maps");
                reader.report(node.span, "unknown_type", message).set_hint("use `json`");
                None
            }
            Ok(value_type) => Some(Self { value_type, required: bare.len() < text.len() }),
            Err(error) => {
                let hint = type_hint(bare);
                reader.report(node.span, "unknown_type", error.to_string()).hint = hint;
                None
            }
        }
    }
}

/// What people write for a type elsewhere.
fn type_hint(text: &str) -> Option<String> {
    let known = match text.to_lowercase().as_str() {
        "int" | "integer" | "bigint" | "long" | "i64" => "int64",
        "smallint" | "short" | "i32" => "int32",
        "double" | "f64" | "number" => "float64",
        "float" | "real" | "f32" => "float32",
        "str" | "text" | "varchar" | "utf8" => "string",
        "boolean" => "bool",
        "binary" | "blob" => "bytes",
        "datetime" | "timestamptz" | "unix_timestamp" => "timestamp",
        _ => crate::diagnostic::closest(text, crate::SCALAR_TYPE_NAMES.iter())?,
    };
    Some(format!("did you mean `{known}`?"))
}

impl JsonSchema for TypeText {
    fn schema_name() -> Cow<'static, str> {
        "Type".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let scalars = crate::SCALAR_TYPE_NAMES.join("|");
        json_schema!({
            "type": "string",
            "description": "bool, int32, int64, float32, float64, string, bytes, timestamp, date, json, decimal(p,s), \
                            list<type> or vector<n>; with `!` when a value is required",
            "pattern": format!(
                r"^({scalars}|decimal\([0-9]+, *[0-9]+\)|list<({scalars}|decimal\([0-9]+, *[0-9]+\))>|vector<[0-9]+>)!?$"
            ),
            "examples": ["string!", "int64", "float64", "timestamp", "decimal(18,4)", "list<string>", "vector<128>"],
        })
    }
}

/// A duration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duration(pub(crate) Micros);

impl FromNode for Duration {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Kind::Scalar { text, .. } = &node.kind else {
            return reader.expected(node, "a duration such as `30s`, `15m` or `6h`");
        };
        match parse_duration(text) {
            Ok(micros) => Some(Self(micros)),
            Err(error) => {
                reader.report(node.span, "wrong_duration", error.to_string());
                None
            }
        }
    }
}

const DURATION_PATTERN: &str = "([0-9]+(us|ms|s|m|h|d))+";

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "description": "a number and a unit: us, ms, s, m, h, d; such as 30s, 15m, 1h30m",
            "pattern": format!("^({DURATION_PATTERN}|0)$"),
            "maximum": 0,
        })
    }
}

/// A window's length (none: lifetime), and its text.
#[derive(Clone, Debug)]
pub(crate) struct WindowText {
    pub(crate) length: Option<Micros>,
    pub(crate) text: String,
}

impl FromNode for WindowText {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Kind::Scalar { text, .. } = &node.kind
            && text == "lifetime"
        {
            return Some(Self { length: None, text: text.clone() });
        }
        let Duration(length) = Duration::from_node(node, reader)?;
        let Kind::Scalar { text, .. } = &node.kind else { return None };
        if length == 0 {
            reader.report(node.span, "wrong_window", "a window can't be empty".to_owned());
            return None;
        }
        if !text.chars().all(|c| c.is_ascii_alphanumeric()) {
            let message = "a window is written without blanks, as it becomes part of a name".to_owned();
            reader.report(node.span, "wrong_window", message);
            return None;
        }
        Some(Self { length: Some(length), text: text.clone() })
    }
}

impl JsonSchema for WindowText {
    fn schema_name() -> Cow<'static, str> {
        "Window".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "a duration such as 1h, 24h or 7d, or `lifetime`",
            "pattern": format!("^({DURATION_PATTERN}|lifetime)$"),
        })
    }
}

/// The step of a window's tail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HopText(pub(crate) Micros);

impl FromNode for HopText {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Kind::Scalar { text, .. } = &node.kind
            && text == "exact"
        {
            return Some(Self(crate::definition::HOP_EXACT));
        }
        let Duration(hop) = Duration::from_node(node, reader)?;
        if hop == 0 {
            reader
                .report(node.span, "wrong_hop", "a hop can't be zero".to_owned())
                .set_hint("`hop: exact` moves the window's tail to the microsecond");
            return None;
        }
        Some(Self(hop))
    }
}

impl JsonSchema for HopText {
    fn schema_name() -> Cow<'static, str> {
        "Hop".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "a duration, or `exact`",
            "pattern": format!("^({DURATION_PATTERN}|exact)$"),
        })
    }
}

/// A percentage such as `99.9%`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percent(pub(crate) f64);

impl FromNode for Percent {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let number = match &node.kind {
            Kind::Scalar { text, .. } => text.strip_suffix('%').and_then(|t| t.trim().parse::<f64>().ok()),
            _ => None,
        };
        match number {
            Some(percent) if percent > 0.0 && percent <= 100.0 => Some(Self(percent)),
            _ => reader.expected(node, "a percentage such as `99.9%`"),
        }
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$"})
    }
}

/// A key of which only `null` can be said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NullOnly;

impl FromNode for NullOnly {
    const TAKES_NULL: bool = true;

    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match node.kind {
            Kind::Null => Some(Self),
            _ => reader.expected(node, "`null`"),
        }
    }
}

impl JsonSchema for NullOnly {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Null".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "null"})
    }
}

/// What stands in for a value that is not there; read for real once the feature's type is known.
#[derive(Clone, Debug)]
pub(crate) enum DefaultDecl {
    Constant(Node),
    Population(PopulationStatistic),
}

section! {
    /// A statistic of the history.
    PopulationDecl, "a default from the population";
    required {
        /// Which.
        "population" population: PopulationStatistic,
    }
    optional {}
}

impl FromNode for DefaultDecl {
    const TAKES_NULL: bool = true;

    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        if node.entry("population").is_some() {
            return PopulationDecl::from_node(node, reader)?.population.map(Self::Population);
        }
        Some(Self::Constant(node.clone()))
    }
}

impl JsonSchema for DefaultDecl {
    fn schema_name() -> Cow<'static, str> {
        "Default".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let population = generator.subschema_for::<PopulationDecl>();
        json_schema!({
            "description": "a constant of the feature's type, or {population: mean|median|mode}",
            "anyOf": [population, {"type": ["null", "boolean", "number", "string", "array"]}],
        })
    }
}
