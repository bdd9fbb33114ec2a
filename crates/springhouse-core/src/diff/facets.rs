//! The facets of each kind of object: what of it can differ, in words, and what a difference means.

use crate::definition::{
    AggregateFunction, Column, DefaultValue, Derived, Entity, FeatureService, FeatureView, HOP_EXACT,
    KafkaStream, KnownAt, LatestFeature, Meta, PopulationStatistic, RequestView, Source, SourceKind,
    TableLocation, Tier, TopicStart, ViewKind, WindowFeature,
};
use crate::time::{Micros, format_duration};
use serde::Serialize;

/// One thing that can differ.
#[derive(Clone, Debug)]
pub(super) struct Facet {
    pub(super) path: String,
    pub(super) text: String,
    /// What it is, for when all of it comes or goes and `text` alone says too little.
    pub(super) about: Option<String>,
    pub(super) weight: Weight,
    /// A new one asks something of callers.
    pub(super) is_required: bool,
}

/// What a difference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// May be changed freely: words for people, policy, limits.
    Free,
    /// Values become other values.
    Meaning,
}

#[derive(Default)]
struct List(Vec<Facet>);

impl List {
    fn add(&mut self, weight: Weight, path: impl Into<String>, text: impl Into<String>) {
        self.0.push(Facet { path: path.into(), text: text.into(), about: None, weight, is_required: false });
    }

    fn meaning(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.add(Weight::Meaning, path, text);
    }

    fn free(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.add(Weight::Free, path, text);
    }

    /// A part with facets of its own below `path`.
    fn part(&mut self, path: &str, about: String) {
        let (path, text) = (path.to_owned(), String::new());
        self.0.push(Facet { path, text, about: Some(about), weight: Weight::Meaning, is_required: false });
    }

    fn maybe(&mut self, weight: Weight, path: &str, text: Option<String>) {
        if let Some(text) = text {
            self.add(weight, path, text);
        }
    }

    fn meta(&mut self, before: &str, meta: &Meta) {
        for (key, text) in [("description", &meta.description), ("owner", &meta.owner)] {
            if !text.is_empty() {
                self.free(format!("{before}{key}"), format!("{text:?}"));
            }
        }
        for (key, text) in &meta.tags {
            self.free(format!("{before}tags.{key}"), format!("{text:?}"));
        }
    }

    fn derived(&mut self, derived: &[Derived]) {
        for column in derived {
            let text = format!("{} ({})", column.sql, column.value_type);
            self.meaning(format!("derived.{}", column.name), text);
        }
    }
}

pub(super) fn entity(entity: &Entity) -> Vec<Facet> {
    let mut list = List::default();
    list.meaning("keys", keys(entity));
    list.meta("", &entity.meta);
    list.0
}

fn keys(entity: &Entity) -> String {
    let keys: Vec<String> = entity.keys.iter().map(|(name, t)| format!("{name}: {t}")).collect();
    format!("{{{}}}", keys.join(", "))
}

pub(super) fn source(source: &Source) -> Vec<Facet> {
    let mut list = List::default();
    match &source.kind {
        SourceKind::Table(location) => list.meaning("table", location_text(location)),
        SourceKind::Push { history } => {
            match (&source.kafka, &source.ndjson) {
                (None, None) => list.meaning("stream", "push"),
                (Some(kafka), _) => topic(&mut list, kafka),
                (None, Some(file)) => {
                    list.meaning("stream", "ndjson");
                    list.meaning("stream.ndjson", file);
                }
            }
            list.maybe(Weight::Meaning, "history", history.as_ref().map(location_text));
        }
    }
    list.meaning("event_time", &source.event_time);
    match &source.known_at {
        KnownAt::Column(column) => list.meaning("known_at", column),
        KnownAt::Delay(delay) => list.meaning("delay", format_duration(*delay)),
    }
    for column in &source.columns {
        column_facets(&mut list, "columns", column);
    }
    list.maybe(Weight::Meaning, "where", source.filter.clone());
    list.derived(&source.derived);
    list.maybe(Weight::Meaning, "sequence", source.sequence.clone());
    list.maybe(Weight::Meaning, "event_id", source.event_id.clone());
    list.maybe(Weight::Meaning, "op", source.op.clone());
    list.maybe(Weight::Meaning, "time_zone", source.time_zone.clone());
    list.free("max_clock_skew", format_duration(source.max_clock_skew));
    list.free("max_event_age", format_duration(source.max_event_age));
    list.meta("", &source.meta);
    list.0
}

fn topic(list: &mut List, kafka: &KafkaStream) {
    list.meaning("stream", "kafka");
    list.meaning("stream.kafka.topic", &kafka.topic);
    list.meaning("stream.kafka.format", word(&kafka.format));
    // What a schema may become is the business of who writes the messages.
    list.free("stream.kafka.schema", kafka.schema.clone().unwrap_or_default());
    list.maybe(Weight::Meaning, "stream.kafka.message", kafka.message.clone());
    list.maybe(Weight::Meaning, "stream.kafka.key", kafka.key.clone());
    for (column, header) in &kafka.headers {
        list.meaning(format!("stream.kafka.headers.{column}"), header);
    }
    list.meaning("stream.kafka.isolation", word(&kafka.isolation));
    list.free("stream.kafka.brokers", kafka.brokers.join(", "));
    let start = match &kafka.start {
        TopicStart::Earliest => "earliest".to_owned(),
        TopicStart::Latest => "latest".to_owned(),
        TopicStart::At(moment) => crate::time::format_instant(*moment),
        TopicStart::Offsets(offsets) => {
            let offset = |(partition, offset): (&i32, &i64)| format!("{partition}: {offset}");
            offsets.iter().map(offset).collect::<Vec<_>>().join(", ")
        }
    };
    list.free("stream.kafka.start", start);
}

fn column_facets(list: &mut List, section: &str, column: &Column) {
    let path = format!("{section}.{}", column.name);
    let mark = if column.required { "!" } else { "" };
    // What the column is at all never differs by itself: its parts are told one by one.
    list.0.push(Facet {
        path: path.clone(),
        text: String::new(),
        about: Some(format!("{}{mark}", column.value_type)),
        weight: Weight::Free,
        is_required: column.required,
    });
    list.meaning(format!("{path}.type"), column.value_type.to_string());
    list.free(format!("{path}.required"), if mark.is_empty() { "no" } else { "yes" });
    list.meaning(format!("{path}.from"), column.from.as_ref().unwrap_or(&column.name));
    list.free(format!("{path}.pii"), if column.pii { "yes" } else { "no" });
    if !column.description.is_empty() {
        list.free(format!("{path}.description"), format!("{:?}", column.description));
    }
}

fn location_text(location: &TableLocation) -> String {
    format!("{} ({})", location.uri, word(&location.format))
}

pub(super) fn feature_view(view: &FeatureView) -> Vec<Facet> {
    let mut list = List::default();
    list.meaning("entity", &view.entity);
    list.meaning("source", &view.source);
    list.meaning("keys", format!("[{}]", view.key_columns.join(", ")));
    list.maybe(Weight::Meaning, "where", view.filter.clone());
    list.derived(&view.derived);
    match &view.kind {
        ViewKind::Latest(features) => features.iter().for_each(|f| latest(&mut list, f)),
        ViewKind::Windows(features) => features.iter().for_each(|f| window(&mut list, f)),
    }
    list.maybe(Weight::Free, "ttl.soft", view.soft_ttl.map(format_duration));
    list.free("ttl.hard", format_duration(view.hard_ttl));
    let slo = &view.slo;
    list.free("slo", freshness(slo.tier, slo.p95, slo.p99));
    list.meta("", &view.meta);
    list.0
}

fn freshness(tier: Option<Tier>, p95: Micros, p99: Micros) -> String {
    let times = format!("p95 {}, p99 {}", format_duration(p95), format_duration(p99));
    match tier {
        Some(tier) => format!("{} ({times})", word(&tier)),
        None => times,
    }
}

fn latest(list: &mut List, feature: &LatestFeature) {
    let path = format!("features.{}", feature.name);
    list.part(&path, format!("latest `{}` ({})", feature.column, feature.value_type));
    list.meaning(format!("{path}.column"), &feature.column);
    list.meaning(format!("{path}.type"), feature.value_type.to_string());
    shared(list, &path, &feature.default, feature.pii, &feature.meta);
}

fn window(list: &mut List, feature: &WindowFeature) {
    let path = format!("features.{}", feature.name);
    let of = feature.column.as_ref().map(|column| format!(" of `{column}`")).unwrap_or_default();
    let over = length(feature.window);
    list.part(&path, format!("{}{of} over {over} ({})", function(&feature.function), feature.value_type));
    list.meaning(format!("{path}.fn"), function(&feature.function));
    list.maybe(Weight::Meaning, &format!("{path}.column"), feature.column.clone());
    list.meaning(format!("{path}.window"), length(feature.window));
    if feature.window.is_some() {
        list.meaning(format!("{path}.hop"), hop(feature.hop));
    }
    list.maybe(Weight::Meaning, &format!("{path}.where"), feature.filter.clone());
    list.maybe(Weight::Meaning, &format!("{path}.group_by"), feature.group_by.clone());
    list.meaning(format!("{path}.type"), feature.value_type.to_string());
    shared(list, &path, &feature.default, feature.pii, &feature.meta);
}

fn shared(list: &mut List, path: &str, default: &DefaultValue, pii: bool, meta: &Meta) {
    list.free(format!("{path}.default"), default_text(default));
    list.free(format!("{path}.pii"), if pii { "yes" } else { "no" });
    list.meta(&format!("{path}."), meta);
}

fn function(function: &AggregateFunction) -> String {
    let name = function.name();
    match function {
        AggregateFunction::FirstN(n) | AggregateFunction::LastN(n) => format!("{name}(n: {n})"),
        AggregateFunction::CountDistinct { cap } | AggregateFunction::ValueCounts { cap } => {
            format!("{name}(cap: {cap})")
        }
        AggregateFunction::TopN { n, cap } => format!("{name}(n: {n}, cap: {cap})"),
        AggregateFunction::ApproxCountDistinct { precision } => format!("{name}(precision: {precision})"),
        AggregateFunction::ApproxQuantile { q, alpha } => format!("{name}(q: {q}, alpha: {alpha})"),
        _ => name.to_owned(),
    }
}

fn length(window: Option<Micros>) -> String {
    window.map_or_else(|| "lifetime".to_owned(), format_duration)
}

fn hop(hop: Micros) -> String {
    if hop == HOP_EXACT { "exact".to_owned() } else { format_duration(hop) }
}

fn default_text(default: &DefaultValue) -> String {
    match default {
        DefaultValue::Null => "null".to_owned(),
        DefaultValue::Constant(value) => constant_text(value),
        DefaultValue::Population { statistic, .. } => {
            format!("population {}", word::<PopulationStatistic>(statistic))
        }
    }
}

fn constant_text(value: &crate::Value) -> String {
    use crate::Value;
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(v) => v.to_string(),
        Value::Int32(v) => v.to_string(),
        Value::Int64(v) => v.to_string(),
        Value::Float32(v) => format!("{v:?}"),
        Value::Float64(v) => format!("{v:?}"),
        Value::String(v) => format!("{v:?}"),
        Value::Bytes(v) => format!("{} bytes", v.len()),
        Value::Timestamp(v) => crate::time::format_instant(*v),
        Value::Date(v) => format!("day {v}"),
        Value::Decimal(v, scale) => format!("{v}e-{scale}"),
        Value::List(items) => list(items.iter().map(constant_text).collect()),
        Value::Vector(items) => list(items.iter().map(|v| format!("{v:?}")).collect()),
        Value::Map(pairs) => {
            list(pairs.iter().map(|(k, v)| format!("{}: {}", constant_text(k), constant_text(v))).collect())
        }
    }
}

pub(super) fn request_view(view: &RequestView) -> Vec<Facet> {
    let mut list = List::default();
    for field in &view.fields {
        column_facets(&mut list, "fields", field);
    }
    for (name, input) in &view.inputs {
        list.meaning(format!("inputs.{name}"), input.to_string());
    }
    for feature in &view.features {
        let path = format!("features.{}", feature.name);
        list.part(&path, format!("{} ({})", feature.sql, feature.value_type));
        list.meaning(format!("{path}.sql"), &feature.sql);
        list.meaning(format!("{path}.type"), feature.value_type.to_string());
        list.free(format!("{path}.default"), default_text(&feature.default));
        list.meta(&format!("{path}."), &feature.meta);
    }
    list.meta("", &view.meta);
    // A field that is gone, or of which more is asked, breaks who sends it.
    for facet in &mut list.0 {
        if facet.path.starts_with("fields.") && (facet.text.is_empty() || facet.path.ends_with(".required")) {
            facet.weight = Weight::Meaning;
        }
    }
    list.0
}

pub(super) fn service(service: &FeatureService) -> Vec<Facet> {
    let mut list = List::default();
    for feature in &service.features {
        list.meaning(format!("features.{feature}"), "");
    }
    list.free("on_stale", word(&service.on_stale));
    list.free("on_unavailable", word(&service.on_unavailable));
    list.free("on_missing", word(&service.on_missing));
    list.free("on_expired", word(&service.on_expired));
    if !service.readers.is_empty() {
        list.free("readers", format!("[{}]", service.readers.join(", ")));
    }
    list.maybe(Weight::Free, "slo.latency_p99", service.latency_p99.map(format_duration));
    list.maybe(Weight::Free, "slo.availability", service.availability_percent.map(|p| format!("{p}%")));
    list.meta("", &service.meta);
    list.0
}

/// The word that a definition has for it.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

pub(super) fn summary_entity(entity: &Entity) -> String {
    keys(entity)
}

pub(super) fn summary_source(source: &Source) -> String {
    let columns = count(source.columns.len(), "column");
    match &source.kind {
        SourceKind::Table(location) => format!("{}, {columns}", location_text(location)),
        SourceKind::Push { history } => {
            let stream = match (&source.kafka, &source.ndjson) {
                (None, None) => "push stream".to_owned(),
                (Some(kafka), _) => format!("topic `{}`", kafka.topic),
                (None, Some(file)) => format!("file `{file}`"),
            };
            match history {
                None => format!("{stream}, {columns}"),
                Some(location) => format!("{stream} with history {}, {columns}", location_text(location)),
            }
        }
    }
}

pub(super) fn summary_feature_view(view: &FeatureView) -> String {
    let what = match view.kind {
        ViewKind::Latest(_) => "latest",
        ViewKind::Windows(_) => "windowed",
    };
    let features = count(view.features().len(), "feature");
    format!("version {}, {what}, {features} of `{}` from `{}`", view.version, view.entity, view.source)
}

pub(super) fn summary_request_view(view: &RequestView) -> String {
    format!("version {}, {}", view.version, count(view.features.len(), "feature"))
}

pub(super) fn summary_service(service: &FeatureService) -> String {
    count(service.features.len(), "feature")
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
