//! Plans as text: the definitions before, the definitions after, and what is said of the difference.

use super::{Change, Compatibility, describe_changes, diff};
use crate::definition::Definitions;
use crate::load_definitions;

fn load(text: &str) -> Definitions {
    let files = [("features.yaml".to_owned(), text.to_owned())];
    match load_definitions(&files, &|_| vec![]) {
        Ok(loaded) => loaded.definitions,
        Err(all) => panic!("{}", all.iter().map(ToString::to_string).collect::<String>()),
    }
}

/// The base with `from` replaced by `to`.
fn changed(from: &str, to: &str) -> Definitions {
    assert!(BASE.contains(from), "{from}");
    load(&BASE.replacen(from, to, 1))
}

fn plan(new: &Definitions) -> String {
    describe_changes(&diff(&load(BASE), new), new)
}

fn breaking(changes: &[Change]) -> usize {
    changes.iter().filter(|c| c.compatibility == Compatibility::Breaking).count()
}

const BASE: &str = r"
entities:
  origin: {keys: {origin: string}, description: Departure airport}
sources:
  departures:
    stream: push
    event_time: departed_at
    columns: {origin: string!, dep_delay: float64, carrier: string}
  weather:
    table: data/weather/*.parquet
    event_time: observed_at
    delay: 30m
    columns: {origin: string!, temp: float64, wind: float64}
feature_views:
  origin_delays:
    entity: origin
    source: departures
    ttl: {soft: 15m, hard: 6h}
    aggregate:
      departures: {fn: count, windows: [1h, 24h], default: 0}
      delay: {fn: mean, column: dep_delay, windows: [1h]}
  origin_weather:
    entity: origin
    source: weather
    ttl: 3h
    features:
      temp: {default: 0.0}
request_views:
  ratio:
    fields: {distance: float64}
    inputs: [origin_delays:delay_1h]
    features: {delay_per_mile: delay_1h / distance}
feature_services:
  model:
    features: [origin_delays, origin_weather:temp, ratio]
";

#[test]
fn nothing_changes_without_a_change() {
    let base = load(BASE);
    assert_eq!(diff(&base, &base), []);
    insta::assert_snapshot!(plan(&base), @"No changes. What is defined is what is applied.");
}

#[test]
fn the_first_plan_adds_everything() {
    let base = load(BASE);
    insta::assert_snapshot!("first_plan", describe_changes(&diff(&Definitions::default(), &base), &base));
}

#[test]
fn a_plan_to_nothing_removes_everything() {
    insta::assert_snapshot!("plan_to_nothing", plan(&Definitions::default()));
}

#[test]
fn words_policies_and_limits_change_freely() {
    let text = BASE
        .replace("Departure airport", "An airport")
        .replace("{soft: 15m, hard: 6h}", "{hard: 12h}")
        .replace("default: 0}", "default: 1}")
        .replace("ttl: 3h", "ttl: 3h\n    tier: realtime\n    owner: ops")
        .replace("ratio]", "ratio]\n    on_stale: fail\n    readers: [role:m]\n    slo: {latency_p99: 10ms, availability: 99.9%}");
    let new = load(&text);
    assert_eq!(breaking(&diff(&load(BASE), &new)), 0);
    insta::assert_snapshot!("free_changes", plan(&new));
}

#[test]
fn what_changes_a_value_needs_a_new_version() {
    insta::assert_snapshot!("hop", plan(&changed("windows: [1h]", "windows: [1h], hop: exact")));
    insta::assert_snapshot!("function", plan(&changed("fn: mean", "fn: max")));
    insta::assert_snapshot!("window_gone", plan(&changed("windows: [1h, 24h]", "windows: [1h]")));
    insta::assert_snapshot!("column", plan(&changed("temp: {default", "temp: {column: wind, default")));
}

#[test]
fn a_raised_version_may_differ_in_everything() {
    let text = BASE
        .replace("    ttl: {soft: 15m, hard: 6h}", "    version: 2\n    ttl: {soft: 15m, hard: 6h}")
        .replace("fn: mean", "fn: mean, group_by: carrier")
        .replace("windows: [1h, 24h]", "windows: [2h]");
    let new = load(&text);
    assert_eq!(breaking(&diff(&load(BASE), &new)), 0);
    insta::assert_snapshot!("raised", plan(&new));
    let back = diff(&new, &load(BASE));
    assert_eq!(back[0].remedy.as_deref(), Some("versions only rise; make it 3"));
}

#[test]
fn the_order_of_features_is_part_of_a_view() {
    let text = BASE.replace("      temp: {default: 0.0}", "      wind:\n      temp: {default: 0.0}");
    let other = BASE.replace("      temp: {default: 0.0}", "      temp: {default: 0.0}\n      wind:");
    let changes = diff(&load(&text), &load(&other));
    insta::assert_snapshot!("order", describe_changes(&changes, &load(&other)));
}

#[test]
fn a_source_that_means_something_else_needs_new_versions_of_its_views() {
    insta::assert_snapshot!("delay", plan(&changed("delay: 30m", "delay: 45m")));
    // A column that no view reads may be of another type, in a table; not in a stream, which keeps its rows.
    insta::assert_snapshot!("table_column_type", plan(&changed("wind: float64", "wind: float32")));
    insta::assert_snapshot!("stream_column_type", plan(&changed("carrier: string", "carrier: int64")));
    insta::assert_snapshot!(
        "stream_column_required",
        plan(&changed("carrier: string", "carrier: string, dest: string!"))
    );
    insta::assert_snapshot!(
        "owner",
        plan(&changed("{keys: {origin: string}", "{keys: {origin: string}, owner: ops"))
    );
}

#[test]
fn a_request_view_may_gain_but_not_change() {
    insta::assert_snapshot!(
        "request_feature_added",
        plan(&changed("features: {delay_per_mile", "features: {twice: distance * 2, delay_per_mile"))
    );
    insta::assert_snapshot!(
        "request_feature_changed",
        plan(&changed("delay_1h / distance", "distance / delay_1h"))
    );
    insta::assert_snapshot!(
        "request_field_required",
        plan(&changed("{distance: float64}", "{distance: float64!}"))
    );
}

#[test]
fn a_service_that_shows_less_breaks_who_asks_for_it() {
    insta::assert_snapshot!("service_shows_less", plan(&changed("origin_weather:temp, ", "")));
}
