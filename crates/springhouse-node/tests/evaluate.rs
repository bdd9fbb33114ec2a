//! Features of given rows against a naive reading of the rule, at moments drawn from the windows' bounds.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use proptest::prelude::*;
use springhouse_core::time::{HOUR, MINUTE, SECOND};
use springhouse_core::{Definitions, Micros, Value};
use springhouse_ingest::{GivenSource, PushRows};
use springhouse_node::{NodeError, evaluate, load_files};
use springhouse_serving::{CallOptions, FeatureRequest, Selection};
use std::collections::BTreeMap;
use std::sync::Arc;

const NOON: Micros = 1_768_046_400 * SECOND;
const DELAY: Micros = 5 * MINUTE;

const FILE: &str = "
entities:
  user: {keys: {user: int64}}
sources:
  orders:
    table: orders.parquet
    event_time: at
    known_at: known
    event_id: id
    columns: {at: timestamp!, known: timestamp, id: int64!, user: int64!, amount: float64}
  late:
    table: late.parquet
    event_time: at
    delay: 5m
    columns: {at: timestamp!, user: int64!, city: string}
feature_views:
  spending:
    entity: user
    source: orders
    ttl: 36500d
    aggregate:
      orders: {fn: count, windows: [1h, lifetime], default: 0}
      spent: {fn: sum, column: amount, windows: [1h], default: 0.0}
  home:
    entity: user
    source: late
    ttl: 36500d
    features: {city: {default: nowhere}}
";

/// One order: when it happened, when it was known, its id, whose, how much.
type Order = (Micros, Micros, i64, i64, i32);

fn definitions() -> Arc<Definitions> {
    let files = [("features/all.yaml".to_owned(), FILE.to_owned())];
    Arc::new(load_files(&files).expect("the definitions are right").definitions)
}

fn orders(orders: &[Order]) -> GivenSource {
    let row = |order: &Order| {
        let (at, known, id, user, amount) = *order;
        serde_json::json!({"at": at, "known": known, "id": id, "user": user, "amount": f64::from(amount)})
    };
    let rows: Vec<_> = orders.iter().map(row).collect();
    json("orders", &rows.into())
}

fn json(source: &str, rows: &serde_json::Value) -> GivenSource {
    let rows = PushRows::Json(serde_json::to_vec(rows).unwrap().into());
    GivenSource { source: source.to_owned(), rows, known_at: Vec::new() }
}

/// Values of the view's features for user 1 at `at`. The only place that touches the API.
fn values(rows: &[GivenSource], view: &str, at: Micros) -> Result<Vec<Value>, NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let server = evaluate(definitions(), rows, at).await?;
        let request = FeatureRequest {
            selection: Selection::Features(vec![view.to_owned()]),
            entities: BTreeMap::from([("user".to_owned(), vec![Value::Int64(1)])]),
            request: BTreeMap::new(),
            at: None,
            max_age: None,
            roles: Vec::new(),
            options: CallOptions::default(),
        };
        let answer = server.features(&request).await.expect("the request is right");
        Ok(answer.columns().map(|column| column.values[0].clone()).collect())
    })
}

/// The rule as it is written, recomputed from scratch: count in the hour, count ever, sum in the hour.
fn naive(orders: &[Order], at: Micros) -> Vec<Value> {
    let is_first = |order: &&Order| {
        let copies = orders.iter().enumerate().filter(|(_, other)| other.2 == order.2);
        let first = copies.min_by_key(|(place, other)| (other.1, *place)).unwrap().1;
        std::ptr::eq(*order, first)
    };
    let is_seen = |order: &&Order| order.3 == 1 && order.0.max(order.1) < at;
    let seen: Vec<&Order> = orders.iter().filter(is_first).filter(is_seen).collect();
    let low = (at - HOUR).div_euclid(MINUTE) * MINUTE;
    let hour: Vec<&&Order> = seen.iter().filter(|order| order.0 >= low).collect();
    let spent: i32 = hour.iter().map(|order| order.4).sum();
    vec![Value::Int64(hour.len() as i64), Value::Int64(seen.len() as i64), Value::Float64(f64::from(spent))]
}

/// Moments on and beside the bounds of the window, of its hop and of what an entity's state still tells apart.
fn moment() -> impl Strategy<Value = Micros> {
    let near = [0, MINUTE, HOUR, HOUR + MINUTE, 10 * SECOND, 24 * HOUR];
    let base = prop::sample::select(near.to_vec());
    (base, prop::sample::select(vec![-1, 0, 1, SECOND]), prop::bool::ANY)
        .prop_map(|(base, beside, after)| NOON + if after { base + beside } else { -base + beside })
}

fn order() -> impl Strategy<Value = Order> {
    let late = prop::sample::select(vec![0, 1, SECOND, 10 * SECOND, HOUR, 2 * HOUR]);
    (moment(), late, 0i64..20, 1i64..3, 0i32..1000)
        .prop_map(|(at, late, id, user, amount)| (at, at + late, id, user, amount))
}

proptest! {
    #[test]
    fn given_rows_give_what_the_rule_says(given in prop::collection::vec(order(), 0..40), at in moment()) {
        prop_assert_eq!(values(&[orders(&given)], "spending", at).unwrap(), naive(&given, at));
    }
}

#[test]
fn a_row_is_seen_from_its_event_time_plus_the_delay_on() {
    let rows = [json("late", &serde_json::json!([{"at": NOON, "user": 1, "city": "Bonn"}]))];
    let city = |at| values(&rows, "home", at).unwrap()[0].clone();
    assert_eq!(city(NOON + DELAY - 1), Value::string("nowhere".to_owned()));
    assert_eq!(city(NOON + DELAY), Value::string("Bonn".to_owned()));
}

#[test]
fn a_source_that_is_not_given_has_no_rows() {
    assert_eq!(values(&[], "spending", NOON).unwrap(), naive(&[], NOON));
}

#[test]
fn a_wrong_row_is_told_with_source_number_and_column() {
    let right = serde_json::json!({"at": NOON, "known": NOON, "id": 1, "user": 1});
    for (name, value, code) in [
        ("amount", serde_json::json!("much"), "wrong_type"),
        ("user", serde_json::Value::Null, "missing_column"),
        ("colour", serde_json::json!("red"), "unknown_column"),
    ] {
        let mut wrong = right.clone();
        wrong[name] = value;
        let error =
            values(&[json("orders", &serde_json::json!([right, wrong]))], "spending", NOON).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("row 1 of source `orders`") && said.contains(name), "{said}");
        assert_eq!(error.code, code);
    }
}

#[test]
fn an_unknown_source_is_told_with_those_there_are() {
    let error = values(&[json("odrers", &serde_json::json!([]))], "spending", NOON).unwrap_err();
    assert_eq!(error.code, "unknown_source");
    assert!(error.hint.unwrap().contains("orders"));
}
