//! Definition files: what they mean, and what is said of those that are wrong. Text in, text out.

use springhouse_core::definition::{Definitions, SourceKind, ViewKind};
use springhouse_core::load_definitions;
use std::path::Path;

/// Stands in for the planner of SQL: every expression is a float64.
fn all_floats(definitions: &mut Definitions) -> Vec<springhouse_core::ExpressionProblem> {
    let derived = definitions.sources.values_mut().flat_map(|s| &mut s.derived);
    let derived = derived.chain(definitions.feature_views.values_mut().flat_map(|v| &mut v.derived));
    for column in derived {
        column.value_type = springhouse_core::ValueType::Float64;
    }
    for feature in definitions.request_views.values_mut().flat_map(|v| &mut v.features) {
        feature.value_type = springhouse_core::ValueType::Float64;
    }
    vec![]
}

fn load(text: &str) -> Result<Definitions, String> {
    let files: Vec<(String, String)> = text
        .split("# file: ")
        .enumerate()
        .filter(|(at, part)| *at > 0 || !part.trim().is_empty())
        .map(|(at, part)| match at {
            0 => ("features.yaml".to_owned(), part.to_owned()),
            _ => {
                let (name, text) = part.split_once('\n').expect("a file's name ends its line");
                (name.to_owned(), text.to_owned())
            }
        })
        .collect();
    load_definitions(&files, &all_floats)
        .map(|loaded| loaded.definitions)
        .map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn the_flights_example_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flights/features");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        files.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
    }
    let loaded = load_definitions(&files, &all_floats)
        .unwrap_or_else(|all| panic!("{}", all.iter().map(ToString::to_string).collect::<String>()));
    let definitions = loaded.definitions;
    assert!(matches!(definitions.sources["departed"].kind, SourceKind::Push { history: Some(_) }));
    let ViewKind::Windows(features) = &definitions.feature_views["origin_departures"].kind else { panic!() };
    assert!(features.iter().any(|f| f.name.ends_with("_1h")));
    let json = serde_json::to_string(&definitions).unwrap();
    assert_eq!(serde_json::from_str::<Definitions>(&json).unwrap(), definitions);
}

/// Every `bad_definitions/*.yaml` beside what is said of it.
#[test]
fn every_mistake_is_told_with_its_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_definitions");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    assert!(paths.len() >= 40, "only {} files", paths.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(&folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let said = load(&text).err().unwrap_or_else(|| panic!("{name} loads"));
            insta::assert_snapshot!(name, said);
        }
    });
}

#[test]
fn a_feature_without_a_default_is_worth_a_look() {
    let text = r"
entities: {origin: {keys: {origin: string}}}
sources: {weather: {stream: push, event_time: at, columns: {origin: string!, temp: float64, wind: float64}}}
feature_views:
  now:
    entity: origin
    source: weather
    ttl: 1h
    features: {temp: , wind: {default: null}}
";
    let files = [("features.yaml".to_owned(), text.to_owned())];
    let loaded = load_definitions(&files, &all_floats).unwrap();
    insta::assert_snapshot!(loaded.warnings[0], @r"
    warning[missing_default]: without a default, callers get null where there is no fresh value: `temp`
     --> features.yaml:5:3
      |
    5 |   now:
      |   ^^^
      = help: write `default: null` if that is meant
    ");
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn anchors_and_merge_keys_share_what_is_alike() {
    let shared = r"
entities: {origin: {keys: {origin: string}}}
sources:
  a: &source {stream: push, event_time: at, columns: &columns {origin: string!, temp: float64}}
  b: {<<: *source, event_time: seen_at}
  c: {stream: push, event_time: at, columns: *columns}
";
    let definitions = load(shared).unwrap();
    assert_eq!(definitions.sources["b"].event_time, "seen_at");
    assert_eq!(definitions.sources["c"].columns, definitions.sources["a"].columns);
}

#[test]
fn what_gives_the_times_need_not_be_declared_twice() {
    let text = r"
sources:
  table: {table: a.csv, event_time: at, known_at: seen, sequence: number, columns: {x: int64}}
  stream: {stream: push, history: {path: a, format: delta}, event_time: at, known_at: seen, columns: {at: timestamp, x: int64}}
";
    let definitions = load(text).unwrap();
    let columns = |source: &str| -> Vec<String> {
        let columns = &definitions.sources[source].columns;
        columns
            .iter()
            .map(|c| format!("{}: {}{}", c.name, c.value_type, if c.required { "!" } else { "" }))
            .collect()
    };
    assert_eq!(columns("table"), ["x: int64", "at: timestamp!", "seen: timestamp!", "number: int64!"]);
    // A push has no `known_at`; its history does.
    assert_eq!(columns("stream"), ["at: timestamp", "x: int64", "seen: timestamp"]);
}

#[test]
fn defaults_keep_the_type_of_their_feature() {
    use springhouse_core::Value;
    let text = r#"
entities: {k: {keys: {k: int64}}}
sources:
  s:
    stream: push
    event_time: at
    columns:
      k: int64
      b: bool
      i: int32
      l: int64
      f: float32
      d: float64
      s: string
      y: bytes
      t: timestamp
      a: date
      n: decimal(10,2)
      li: list<int64>
      v: vector<2>
      j: json
feature_views:
  view:
    entity: k
    source: s
    ttl: 1h
    features:
      b: {default: true}
      i: {default: -7}
      l: {default: 9007199254740993}
      f: {default: 0.1}
      d: {default: 0.1}
      s: {default: "true"}
      y: {default: AP8=}
      t: {default: "1970-01-01T00:00:01Z"}
      a: {default: 1970-01-02}
      n: {default: -1.5}
      li: {default: [1, null]}
      v: {default: [1, 2.5]}
      j: {default: {a: [1, x]}}
  windows:
    entity: k
    source: s
    ttl: 1h
    aggregate:
      grouped: {fn: count, group_by: s, windows: [1h], default: {a: 1}}
      nothing: {fn: mean, column: d, windows: [1h], default: null}
"#;
    let definitions = load(text).unwrap();
    let expected = [
        Value::Bool(true),
        Value::Int32(-7),
        Value::Int64(9_007_199_254_740_993),
        Value::Float32(0.1),
        Value::Float64(0.1),
        Value::string("true"),
        Value::Bytes([0u8, 255].as_slice().into()),
        Value::Timestamp(1_000_000),
        Value::Date(1),
        Value::Decimal(-150, 2),
        Value::List([Value::Int64(1), Value::Null].as_slice().into()),
        Value::Vector([1.0f32, 2.5].as_slice().into()),
        Value::string(r#"{"a":[1,"x"]}"#),
    ];
    let defaults: Vec<Value> =
        definitions.feature_views["view"].defaults().into_iter().map(|d| d.value()).collect();
    assert_eq!(defaults, expected);
    let windows: Vec<Value> =
        definitions.feature_views["windows"].defaults().into_iter().map(|d| d.value()).collect();
    assert_eq!(windows, [Value::Map([(Value::string("a"), Value::Int64(1))].as_slice().into()), Value::Null]);
}
