//! Population defaults: the statistic of what serving would have answered as events came.

use crate::support::*;
use springhouse_core::definition::{DefaultValue, FeatureRef};
use springhouse_core::time::DAY;
use springhouse_core::{Value, ValueStatus};
use springhouse_lake::{Availability, fill_population_defaults};

const YAML: &str = "
entities: {user: {keys: {user: string}}}
sources:
  parts:
    table: data/*.parquet
    event_time: at
    known_at: known
    columns: {id: int64, user: string, shop: int64, at: timestamp, amount: float64, items: int64, kind: string}
feature_views:
  latest:
    entity: user
    source: parts
    ttl: 1d
    features:
      amount: {default: {population: median}}
      kind: {default: {population: mode}}
      items: {default: 7}
  windows:
    entity: user
    source: parts
    ttl: 1d
    aggregate:
      w: {fn: count, windows: [6h], default: {population: mean}}
";

#[tokio::test]
async fn a_population_default_is_the_statistic_of_the_naive_answers() {
    let mut random = Random::new("a_population_default_is_the_statistic_of_the_naive_answers");
    let mut project = Project::new(YAML);
    let events = random_events(&mut random, 120);
    write_parquet(&project.path("data/a.parquet"), &event_batch(&events), 31);
    let all: Vec<NaiveEvent> = events
        .iter()
        .enumerate()
        .map(|(row, event)| {
            naive(event, event.known_at, crate::training::table_seq("data/a.parquet", row), false)
        })
        .collect();
    let as_of = ORIGIN + 3 * DAY;
    let found = project.lake.population_statistics(&project.definitions, as_of).await.unwrap();
    let again = project.lake.population_statistics(&project.definitions, as_of).await.unwrap();
    assert_eq!(found, again);
    let population = |view: &str, feature: usize| -> Vec<Value> {
        let view = &project.definitions.feature_views[view];
        let moments = all.iter().filter(|e| e.stamp.visible_at() <= as_of && !e.row["user"].is_null());
        let answers = moments.map(|e| {
            let key = [e.row["user"].clone()];
            naive_answer(&project.definitions, view, &all, &key, e.stamp.visible_at(), Availability::Known)
        });
        let fresh = answers.filter(|answer| answer.statuses[feature] == ValueStatus::Fresh);
        let mut values: Vec<Value> = fresh.map(|answer| answer.values[feature].clone()).collect();
        values.sort();
        values
    };
    let of = |view: &str, feature: &str| {
        found.get(&FeatureRef { view: view.into(), feature: feature.into() }).cloned().unwrap()
    };
    let amounts = population("latest", 0);
    let middle = [&amounts[(amounts.len() - 1) / 2], &amounts[amounts.len() / 2]];
    let [Value::Float64(low), Value::Float64(high)] = middle else { panic!("{middle:?}") };
    assert_eq!(of("latest", "amount"), Value::Float64(low / 2.0 + high / 2.0));
    let kinds = population("latest", 1);
    let count = |kind: &Value| kinds.iter().filter(|k| *k == kind).count();
    let most = kinds.iter().map(count).max().unwrap();
    assert_eq!(of("latest", "kind"), *kinds.iter().find(|kind| count(kind) == most).unwrap());
    let counts = population("windows", 0);
    let total: i64 = counts.iter().map(|v| if let Value::Int64(v) = v { *v } else { panic!("{v:?}") }).sum();
    let mean = total as f64 / counts.len() as f64;
    let Value::Int64(got) = of("windows", "w_6h") else { panic!() };
    assert!((got as f64 - mean).abs() <= 0.5 + 1e-9, "{got} is not the rounded {mean}");
    assert_eq!(found.len(), 3, "only population defaults are computed: {found:?}");

    fill_population_defaults(&mut project.definitions, &found, as_of).unwrap();
    let defaults = project.definitions.feature_views["latest"].defaults();
    let DefaultValue::Population { value, computed_at, .. } = defaults[1] else { panic!() };
    assert_eq!(
        (value.as_ref(), *computed_at),
        (found.get(&FeatureRef { view: "latest".into(), feature: "kind".into() }), Some(as_of))
    );
}
