//! One case of the reference: its view as a plan, its events and queries, and the comparison.

use serde_json::Value as Json;
use springhouse_core::definition::{
    AggregateFunction, DefaultValue, FeatureView, FreshnessSlo, LatestFeature, Meta, ViewKind, WindowFeature,
    aggregate_output_type,
};
use springhouse_core::{Micros, Value, ValueStatus, ValueType};
use springhouse_kernel::{
    EntityAnswer, Event, EventColumns, LabelColumns, READ_BACK, Stamp, ViewInput, ViewPlan,
    array_from_values, training_values, value_at,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Where the reference is, if it is there.
pub(crate) fn reference() -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let places = ["../shared/oracle/oracle.py", "../../shared/oracle/oracle.py"];
    places.iter().map(|place| root.join(place)).find(|path| path.exists())
}

/// The most distinct values in a case are far below.
const CAP: u32 = 1_000;

pub(crate) struct Case {
    json: Json,
    plan: ViewPlan,
    /// Each event once, in the order of arrival, with its key.
    events: Vec<(String, Event)>,
}

fn column_type(column: &str) -> Option<ValueType> {
    match column {
        "amount" => Some(ValueType::Float64),
        "items" => Some(ValueType::Int64),
        "merchant" => Some(ValueType::String),
        _ => None,
    }
}

fn typed(json: &Json, value_type: &ValueType) -> Value {
    match (value_type, json) {
        (_, Json::Null) => Value::Null,
        (ValueType::Float64, Json::String(text)) => Value::Float64(text.parse().unwrap()),
        (ValueType::Float64, _) => Value::Float64(json.as_i64().unwrap() as f64),
        (ValueType::Int64, _) => Value::Int64(json.as_i64().unwrap()),
        (ValueType::String, _) => Value::string(json.as_str().unwrap()),
        (ValueType::List(inner), _) => {
            Value::List(json.as_array().unwrap().iter().map(|item| typed(item, inner)).collect())
        }
        (ValueType::Map(key, value), _) => {
            let pair = |pair: &Json| (typed(&pair[0], key), typed(&pair[1], value));
            Value::Map(json.as_array().unwrap().iter().map(pair).collect())
        }
        other => unreachable!("{other:?}"),
    }
}

/// Puts quotes around the numbers with a fraction or an exponent: `serde_json` reads floats to within an ulp only, and
/// here every bit counts.
fn quote_floats(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let (mut in_string, mut rest) = (false, line);
    while let Some(c) = rest.chars().next() {
        let number =
            rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let token = &rest[..number];
        if !in_string && c != 'e' && token.contains(['.', 'e', 'E']) {
            out.extend(['"', '"']);
            out.insert_str(out.len() - 1, token);
            rest = &rest[number..];
            continue;
        }
        let length = match c {
            '\\' => 2,
            '"' => {
                in_string = !in_string;
                1
            }
            c if !in_string && number > 0 && c != 'e' => number,
            c => c.len_utf8(),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

/// SQL's three-valued comparison; the reference's operators.
fn holds(filter: &Json, row: &Json) -> bool {
    let column = filter["column"].as_str().unwrap();
    let value_type = column_type(column).unwrap();
    let value = typed(&row[column], &value_type);
    if value.is_null_or_nan() {
        return false;
    }
    let other = typed(&filter["value"], &value_type);
    match filter["op"].as_str().unwrap() {
        "=" => value == other,
        "<>" => value != other,
        ">" => value > other,
        "<" => value < other,
        operator => unreachable!("{operator}"),
    }
}

fn view(json: &Json) -> FeatureView {
    let features = json["features"].as_array().unwrap();
    let kind = if json["kind"] == "latest" {
        ViewKind::Latest(features.iter().map(latest_feature).collect())
    } else {
        ViewKind::Windows(features.iter().map(window_feature).collect())
    };
    FeatureView {
        name: "v".into(),
        version: 1,
        entity: "e".into(),
        source: "s".into(),
        key_columns: vec!["k".into()],
        op: None,
        filter: None,
        derived: Vec::new(),
        kind,
        soft_ttl: None,
        hard_ttl: json["ttl"].as_i64().unwrap_or(i64::MAX),
        slo: FreshnessSlo { tier: None, p95: 1, p99: 1 },
        meta: Meta::default(),
    }
}

fn latest_feature(json: &Json) -> LatestFeature {
    let column = json["column"].as_str().unwrap();
    LatestFeature {
        name: json["name"].as_str().unwrap().into(),
        column: column.into(),
        value_type: column_type(column).unwrap(),
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    }
}

fn window_feature(json: &Json) -> WindowFeature {
    let n = || u32::try_from(json["n"].as_u64().unwrap()).unwrap();
    let function = match json["fn"].as_str().unwrap() {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "mean" => AggregateFunction::Mean,
        "variance" => AggregateFunction::Variance,
        "stddev" => AggregateFunction::Stddev,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "first" => AggregateFunction::First,
        "last" => AggregateFunction::Last,
        "first_n" => AggregateFunction::FirstN(n()),
        "last_n" => AggregateFunction::LastN(n()),
        "count_distinct" => AggregateFunction::CountDistinct { cap: CAP },
        "value_counts" => AggregateFunction::ValueCounts { cap: CAP },
        "top_n" => AggregateFunction::TopN { n: n(), cap: CAP },
        "seconds_since_last" => AggregateFunction::SecondsSinceLast,
        other => unreachable!("{other}"),
    };
    // The reference takes a column for every function and ignores it where there is none to take.
    let column = json["column"].as_str().filter(|_| function != AggregateFunction::SecondsSinceLast);
    let column_type = column.and_then(column_type);
    WindowFeature {
        name: json["name"].as_str().unwrap().into(),
        value_type: aggregate_output_type(&function, column_type.as_ref(), None).unwrap(),
        function,
        column: column.map(str::to_owned),
        column_type,
        window: json["window"].as_i64(),
        hop: json["hop"].as_i64().unwrap(),
        // The test is its own SQL engine: the predicate's text is the reference's JSON.
        filter: Some(&json["where"]).filter(|filter| !filter.is_null()).map(Json::to_string),
        group_by: None,
        group_type: None,
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    }
}

impl Case {
    pub(crate) fn parse(line: &str) -> Self {
        let json: Json = serde_json::from_str(&quote_floats(line)).unwrap();
        let plan = ViewPlan::compile(&view(&json["view"]), &column_type).unwrap();
        let is_event_time_only = json["availability"] == "event";
        let mut seen = BTreeSet::new();
        let mut events = Vec::new();
        for event in json["events"].as_array().unwrap() {
            let id = event["id"].as_i64().unwrap();
            if !seen.insert(id) {
                continue;
            }
            let event_time = event["event_time"].as_i64().unwrap();
            let known_at = if is_event_time_only { event_time } else { event["known_at"].as_i64().unwrap() };
            let value = |input: &ViewInput| match input {
                ViewInput::Column { name, value_type } => typed(&event["row"][name], value_type),
                ViewInput::Predicate { sql } => {
                    Value::Bool(holds(&serde_json::from_str(sql).unwrap(), &event["row"]))
                }
            };
            let values = plan.inputs().iter().map(value).collect();
            let stamp = Stamp { event_time, known_at, seq: id };
            events.push((event["key"].to_string(), Event { stamp, values }));
        }
        Self { json, plan, events }
    }

    fn queries(&self) -> Vec<(String, Micros)> {
        let query = |q: &Json| (q["key"].to_string(), q["at"].as_i64().unwrap());
        self.json["queries"].as_array().unwrap().iter().map(query).collect()
    }

    /// Compares every way of answering; returns how many values were compared.
    pub(crate) fn compare(&self, differences: &mut BTreeSet<String>) -> usize {
        let mut compared = 0;
        let ways =
            [("read", self.read_at_once()), ("stream", self.read_as_it_comes()), ("training", self.train())];
        for (way, answers) in &ways {
            for (i, answer) in answers.iter().enumerate() {
                compared += self.compare_answer(way, i, answer, differences);
            }
        }
        compared
    }

    /// All events in one state, read at each moment.
    fn read_at_once(&self) -> Vec<EntityAnswer> {
        let answer = |(key, at): &(String, Micros)| {
            let mut state = self.plan.empty();
            for (_, event) in self.events.iter().filter(|(k, _)| k == key) {
                self.plan.insert(&mut state, event.clone(), Micros::MIN);
            }
            self.plan.read(&state, *at)
        };
        self.queries().iter().map(answer).collect()
    }

    /// Events inserted as they become known, compacted and stored at each query's moment, read up to `READ_BACK` late.
    fn read_as_it_comes(&self) -> Vec<EntityAnswer> {
        let queries = self.queries();
        let mut by_time: Vec<usize> = (0..queries.len()).collect();
        by_time.sort_by_key(|i| queries[*i].1);
        let mut arrivals: Vec<&(String, Event)> = self.events.iter().collect();
        arrivals.sort_by_key(|(_, event)| event.stamp.visible_at());
        let mut arrivals = arrivals.into_iter().peekable();
        let mut states = BTreeMap::new();
        let mut answers = vec![self.plan.read_empty(); queries.len()];
        for i in by_time {
            let (key, at) = &queries[i];
            // The writer may be ahead of the reader by the time that reads look back.
            let now = at + if i % 3 == 0 { READ_BACK } else { i as Micros % 2 };
            while let Some((key, event)) = arrivals.next_if(|(_, event)| event.stamp.visible_at() <= now) {
                let state = states.entry(key.clone()).or_insert_with(|| self.plan.empty());
                let mut delta = self.plan.empty();
                self.plan.insert(&mut delta, event.clone(), now);
                self.plan.merge(state, &delta);
            }
            let Some(state) = states.get_mut(key) else { continue };
            self.plan.compact(state, now);
            let mut bytes = Vec::new();
            self.plan.encode(state, &mut bytes);
            let decoded = self.plan.decode(&bytes).unwrap();
            assert_eq!(decoded, *state);
            answers[i] = self.plan.read(&decoded, *at);
        }
        answers
    }

    fn train(&self) -> Vec<EntityAnswer> {
        let queries = self.queries();
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let keys = self.events.iter().map(|(key, _)| key).chain(queries.iter().map(|(key, _)| key));
        for key in keys {
            let next = numbers.len() as u32;
            numbers.entry(key).or_insert(next);
        }
        let column =
            |of: &dyn Fn(&Stamp) -> i64| self.events.iter().map(|(_, e)| of(&e.stamp)).collect::<Vec<_>>();
        let entities: Vec<u32> = self.events.iter().map(|(key, _)| numbers[key.as_str()]).collect();
        let inputs: Vec<_> = self
            .plan
            .inputs()
            .iter()
            .enumerate()
            .map(|(i, input)| {
                let value_type = match input {
                    ViewInput::Column { value_type, .. } => value_type.clone(),
                    ViewInput::Predicate { .. } => ValueType::Bool,
                };
                array_from_values(&value_type, self.events.iter().map(|(_, event)| &event.values[i]))
            })
            .collect();
        let columns = EventColumns {
            entities: &entities,
            event_times: &column(&|s| s.event_time),
            known_at: &column(&|s| s.known_at),
            seq: &column(&|s| s.seq),
            event_ids: None,
            inputs: &inputs,
        };
        let asked: Vec<u32> = queries.iter().map(|(key, _)| numbers[key.as_str()]).collect();
        let at: Vec<Micros> = queries.iter().map(|(_, at)| *at).collect();
        let labels = LabelColumns { entities: &asked, at: &at };
        let out = training_values(&self.plan, numbers.len(), &columns, &labels);
        let answer = |row: usize| EntityAnswer {
            values: self
                .plan
                .features()
                .iter()
                .zip(&out.values)
                .map(|((_, t), array)| value_at(array, row, t))
                .collect(),
            statuses: out.statuses.iter().map(|statuses| statuses[row]).collect(),
            event_time: out.event_times.as_ref().and_then(|times| times[row]),
        };
        (0..queries.len()).map(answer).collect()
    }

    fn compare_answer(
        &self,
        way: &str,
        query: usize,
        got: &EntityAnswer,
        differences: &mut BTreeSet<String>,
    ) -> usize {
        let expected = &self.json["expected"][query];
        let case = self.json["name"].as_str().unwrap();
        let mut note = |what: String| {
            differences.insert(format!("{case} query {query} {way}: {what}"));
        };
        if self.plan.is_latest() {
            let status = match got.statuses[0] {
                ValueStatus::Missing => "missing",
                ValueStatus::Expired => "expired",
                _ => "present",
            };
            if expected["status"] != status || expected["event_time"].as_i64() != got.event_time {
                note(format!("{status} {:?}, expected {expected}", got.event_time));
            }
        }
        for (i, (name, value_type)) in self.plan.features().iter().enumerate() {
            let value = typed(&expected["values"][name], value_type);
            let got = &got.values[i];
            let is_close = (name.contains("variance") || name.contains("stddev")) && close(got, &value);
            if *got != value && !is_close {
                note(format!("{name} is {got:?}, expected {value:?}"));
            }
        }
        self.plan.features().len()
    }
}

/// The reference computes these two from rounded parts.
fn close(got: &Value, expected: &Value) -> bool {
    match (got, expected) {
        (Value::Float64(a), Value::Float64(b)) => (a - b).abs() <= 1e-12 * b.abs(),
        _ => false,
    }
}
