//! The case format, and what it means as definitions.

use super::exact::Exact;
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value as Json;
use springhouse_core::definition::{
    AggregateFunction, Column, DefaultValue, Definitions, Entity, FeatureRef, FeatureService, FeatureView,
    FreshnessSlo, KnownAt, LatestFeature, Meta, OnAbsent, OnStale, OnUnavailable, Source, SourceKind,
    TableFormat, TableLocation, Tier, ViewKind, WindowFeature, aggregate_output_type,
};
use springhouse_core::time::HOUR;
use springhouse_core::{Micros, ValueType};
use std::collections::BTreeMap;

/// More distinct values than any case holds.
const CAP: u32 = 100_000;

/// One case.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) view: CaseView,
    pub(crate) availability: CaseAvailability,
    pub(crate) events: Vec<CaseEvent>,
    pub(crate) queries: Vec<CaseQuery>,
    pub(crate) expected: Vec<CaseAnswer>,
}

/// Which times count.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CaseAvailability {
    Known,
    Event,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum CaseView {
    Latest { ttl: Option<Micros>, features: Vec<CaseLatest> },
    Windows { features: Vec<CaseWindow> },
}

#[derive(Debug, Deserialize)]
pub(crate) struct CaseLatest {
    name: String,
    column: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CaseWindow {
    name: String,
    #[serde(rename = "fn")]
    function: String,
    column: Option<String>,
    window: Option<Micros>,
    hop: Micros,
    #[serde(rename = "where")]
    filter: Option<CaseWhere>,
    n: Option<u32>,
    q: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct CaseWhere {
    column: String,
    op: String,
    value: Json,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CaseEvent {
    pub(crate) id: i64,
    pub(crate) key: Vec<Exact>,
    pub(crate) event_time: Micros,
    pub(crate) known_at: Micros,
    pub(crate) row: BTreeMap<String, Exact>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CaseQuery {
    pub(crate) key: Vec<Exact>,
    pub(crate) at: Micros,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CaseAnswer {
    pub(crate) values: BTreeMap<String, Exact>,
    #[serde(default)]
    pub(crate) event_time: Option<Micros>,
    #[serde(default)]
    pub(crate) status: Option<String>,
}

/// The names that a case's project uses.
pub(crate) const SOURCE: &str = "events";
pub(crate) const VIEW: &str = "view";
pub(crate) const SERVICE: &str = "service";
/// The column of the event's identity and sequence.
pub(crate) const ID: &str = "id";
pub(crate) const EVENT_TIME: &str = "event_time";
pub(crate) const KNOWN_AT: &str = "known_at";
/// Row columns of every case.
pub(crate) const ROW_COLUMNS: [(&str, ValueType); 3] =
    [("amount", ValueType::Float64), ("items", ValueType::Int64), ("merchant", ValueType::String)];

impl Case {
    /// Checks what the types don't say.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.queries.len() == self.expected.len(),
            "{} queries, {} expected answers",
            self.queries.len(),
            self.expected.len()
        );
        ensure!(!self.queries.is_empty(), "no queries");
        Ok(())
    }

    /// Names and types of the key parts, from the first query's.
    pub(crate) fn keys(&self) -> Vec<(String, ValueType)> {
        let part = |(index, part): (usize, &Exact)| {
            let value_type = if part.is_int() { ValueType::Int64 } else { ValueType::String };
            (format!("key{index}"), value_type)
        };
        self.queries[0].key.iter().enumerate().map(part).collect()
    }

    /// The moment from which the store could use an event.
    pub(crate) fn known_at(&self, event: &CaseEvent) -> Micros {
        match self.availability {
            CaseAvailability::Known => event.known_at,
            CaseAvailability::Event => event.event_time,
        }
    }

    /// The case as definitions. `stream`: the events are pushed, after those in `events.parquet`.
    pub(crate) fn definitions(&self, stream: bool) -> anyhow::Result<Definitions> {
        let keys = self.keys();
        let mut columns: Vec<Column> = keys.iter().map(|(name, t)| column(name, t, true)).collect();
        columns.push(column(ID, &ValueType::Int64, true));
        columns.push(column(EVENT_TIME, &ValueType::Timestamp, true));
        columns.push(column(KNOWN_AT, &ValueType::Timestamp, false));
        columns.extend(ROW_COLUMNS.iter().map(|(name, t)| column(name, t, false)));
        let table = TableLocation { format: TableFormat::Parquet, uri: "events*.parquet".to_owned() };
        let kind = if stream { SourceKind::Push { history: Some(table) } } else { SourceKind::Table(table) };
        let source = Source {
            name: SOURCE.to_owned(),
            kind,
            event_time: EVENT_TIME.to_owned(),
            known_at: KnownAt::Column(KNOWN_AT.to_owned()),
            columns,
            filter: None,
            derived: Vec::new(),
            sequence: (!stream).then(|| ID.to_owned()),
            event_id: Some(ID.to_owned()),
            op: None,
            time_zone: None,
            max_clock_skew: 0,
            max_event_age: i64::MAX,
            kafka: None,
            ndjson: None,
            meta: Meta::default(),
        };
        let entity = Entity { name: "entity".to_owned(), keys: keys.clone(), meta: Meta::default() };
        let (kind, hard_ttl) = self.view_kind()?;
        let view = FeatureView {
            name: VIEW.to_owned(),
            version: 1,
            entity: "entity".to_owned(),
            source: SOURCE.to_owned(),
            key_columns: keys.into_iter().map(|key| key.0).collect(),
            op: None,
            filter: None,
            derived: Vec::new(),
            kind,
            soft_ttl: None,
            hard_ttl,
            slo: FreshnessSlo { tier: Some(Tier::Batch), p95: 24 * HOUR, p99: 48 * HOUR },
            meta: Meta::default(),
        };
        let features = view
            .features()
            .iter()
            .map(|(name, _)| FeatureRef { view: VIEW.to_owned(), feature: (*name).to_owned() })
            .collect();
        let service = FeatureService {
            name: SERVICE.to_owned(),
            features,
            on_stale: OnStale::Serve,
            on_unavailable: OnUnavailable::Fail,
            on_missing: OnAbsent::Default,
            on_expired: OnAbsent::Default,
            readers: Vec::new(),
            latency_p99: None,
            availability_percent: None,
            meta: Meta::default(),
        };
        Ok(Definitions {
            entities: [("entity".to_owned(), entity)].into(),
            sources: [(SOURCE.to_owned(), source)].into(),
            feature_views: [(VIEW.to_owned(), view)].into(),
            request_views: BTreeMap::new(),
            feature_services: [(SERVICE.to_owned(), service)].into(),
        })
    }

    fn view_kind(&self) -> anyhow::Result<(ViewKind, Micros)> {
        match &self.view {
            CaseView::Latest { ttl, features } => {
                let features = features.iter().map(|f| {
                    Ok(LatestFeature {
                        name: f.name.clone(),
                        column: f.column.clone(),
                        value_type: column_type(&f.column)?,
                        default: DefaultValue::Null,
                        pii: false,
                        meta: Meta::default(),
                    })
                });
                Ok((ViewKind::Latest(features.collect::<anyhow::Result<_>>()?), ttl.unwrap_or(Micros::MAX)))
            }
            CaseView::Windows { features } => {
                let features = features.iter().map(window_feature).collect::<anyhow::Result<_>>()?;
                Ok((ViewKind::Windows(features), Micros::MAX))
            }
        }
    }
}

fn window_feature(feature: &CaseWindow) -> anyhow::Result<WindowFeature> {
    let function = function(feature)?;
    let column_type = feature.column.as_deref().map(column_type).transpose()?;
    let value_type = aggregate_output_type(&function, column_type.as_ref(), None)
        .map_err(|why| anyhow::anyhow!("feature {}: {why}", feature.name))?;
    Ok(WindowFeature {
        name: feature.name.clone(),
        function,
        column: feature.column.clone(),
        column_type,
        window: feature.window,
        hop: feature.hop,
        filter: feature.filter.as_ref().map(filter_sql).transpose()?,
        group_by: None,
        group_type: None,
        value_type,
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    })
}

fn column(name: &str, value_type: &ValueType, required: bool) -> Column {
    Column {
        name: name.to_owned(),
        value_type: value_type.clone(),
        required,
        pii: false,
        from: None,
        description: String::new(),
    }
}

fn column_type(name: &str) -> anyhow::Result<ValueType> {
    let found = ROW_COLUMNS.iter().find(|column| column.0 == name);
    found.map(|column| column.1.clone()).with_context(|| format!("no case has a column `{name}`"))
}

fn function(feature: &CaseWindow) -> anyhow::Result<AggregateFunction> {
    let n = || feature.n.with_context(|| format!("feature {} needs n", feature.name));
    Ok(match feature.function.as_str() {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "mean" => AggregateFunction::Mean,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "variance" => AggregateFunction::Variance,
        "stddev" => AggregateFunction::Stddev,
        "first" => AggregateFunction::First,
        "last" => AggregateFunction::Last,
        "first_n" => AggregateFunction::FirstN(n()?),
        "last_n" => AggregateFunction::LastN(n()?),
        "count_distinct" => AggregateFunction::CountDistinct { cap: CAP },
        "approx_count_distinct" => AggregateFunction::ApproxCountDistinct { precision: 12 },
        "approx_quantile" => AggregateFunction::ApproxQuantile { q: feature.q.unwrap_or(0.5), alpha: 0.01 },
        "top_n" => AggregateFunction::TopN { n: n()?, cap: CAP },
        "value_counts" => AggregateFunction::ValueCounts { cap: CAP },
        "seconds_since_last" => AggregateFunction::SecondsSinceLast,
        other => bail!("feature {}: unknown function `{other}`", feature.name),
    })
}

fn filter_sql(filter: &CaseWhere) -> anyhow::Result<String> {
    ensure!(["=", "<>", ">", "<"].contains(&filter.op.as_str()), "unknown operator `{}`", filter.op);
    let value = match &filter.value {
        Json::String(text) => format!("'{}'", text.replace('\'', "''")),
        Json::Number(number) => number.to_string(),
        other => bail!("a `where` compares with a string or a number, not {other}"),
    };
    Ok(format!("{} {} {value}", filter.column, filter.op))
}
