//! Wrong rows and wrong pushes, with what is said of each.

use crate::support::{Project, START, definitions, describe, json};
use arrow::array::{
    Array, ArrayRef, BinaryArray, Float64Array, Int32Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::datatypes::Float32Type;
use springhouse_core::{Value, time::HOUR};
use springhouse_ingest::{PushRequest, PushRows};
use springhouse_kernel::value_at;
use std::sync::Arc;

const EVERY_TYPE: &str = "
entities:
  thing: {keys: {k: string}, description: A thing, owner: tests@example.com}
sources:
  zoned:
    description: Local times
    owner: tests@example.com
    stream: push
    event_time: at
    time_zone: America/New_York
    columns: {at: timestamp!, k: string!}
  plain:
    description: A table
    owner: tests@example.com
    table: data/*.parquet
    event_time: at
    columns: {at: timestamp!, k: string!}
  typed:
    description: One column of each type
    owner: tests@example.com
    stream: push
    event_time: at
    known_at: seen_at
    max_event_age: 36500d
    columns:
      at: timestamp!
      k: string
      seen_at: timestamp
      must: int32!
      b: bool
      i32: int32
      i64: int64
      f32: float32
      f64: float64
      s: string
      bytes: bytes
      ts: timestamp
      d: date
      dec: decimal(6,2)
      j: json
      l: list<int64>
      v: vector<3>
feature_views:
  things:
    description: Things
    owner: tests@example.com
    entity: thing
    source: typed
    ttl: {hard: 1d}
    features: {i64: {default: 0}}
  zoned_things:
    description: Things
    owner: tests@example.com
    entity: thing
    source: zoned
    keys: {k: k}
    ttl: {hard: 1d}
    aggregate: {n: {fn: count, windows: [1h], default: 0}}
  plain_things:
    description: Things
    owner: tests@example.com
    entity: thing
    source: plain
    ttl: {hard: 1d}
    aggregate: {m: {fn: count, windows: [1h], default: 0}}
";

fn project() -> Project {
    let mut project = Project::new();
    project.definitions = definitions(EVERY_TYPE);
    project
}

fn only(source: &str) -> std::collections::BTreeMap<String, Vec<springhouse_ingest::ViewFeed>> {
    let mut feeds = crate::support::feeds(&definitions(EVERY_TYPE));
    feeds.retain(|name, _| name == source);
    feeds
}

async fn open(project: &Project) -> springhouse_ingest::Ingest {
    let mut feeds = only("typed");
    feeds.extend(only("zoned"));
    springhouse_ingest::Ingest::open(
        &project.log(),
        project.settings.clone(),
        project.definitions.clone(),
        feeds,
        project.store.clone(),
        project.lake(),
        project.clock.clone(),
    )
    .await
    .unwrap()
}

/// Rows of `typed`: `{..}` stands for the columns that every row needs.
const WRONG_ROWS: &[&str] = &[
    "7",
    "null",
    "[]",
    r#""text""#,
    r#"{.., "f63": 1}"#,
    r#"{.., "something else": {"deep": [1, {}]}}"#,
    r#"{.., "i64": 1, "i64": 1}"#,
    r#"{"k": "a", "must": 1}"#,
    r#"{"at": null, "k": "a", "must": 1}"#,
    r#"{"at": 0, "must": 1}"#,
    r#"{"at": 0, "k": "a"}"#,
    r#"{"at": 0, "k": "a", "must": null}"#,
    r#"{"at": 1.5, "k": "a", "must": 1}"#,
    r#"{"at": "yesterday", "k": "a", "must": 1}"#,
    r#"{"at": "2024-01-01T00:00:00", "k": "a", "must": 1}"#,
    r#"{"at": "2024-02-30T00:00:00Z", "k": "a", "must": 1}"#,
    r#"{"at": "10000-01-01T00:00:00Z", "k": "a", "must": 1}"#,
    r#"{"at": 999999999999999999, "k": "a", "must": 1}"#,
    r#"{"at": -999999999999999999, "k": "a", "must": 1}"#,
    r#"{"at": "2024-01-01T00:00:06Z", "k": "a", "must": 1}"#,
    r#"{"at": true, "k": "a", "must": 1}"#,
    r#"{.., "b": 1}"#,
    r#"{.., "b": "true"}"#,
    r#"{.., "i32": 2147483648}"#,
    r#"{.., "i32": "7"}"#,
    r#"{.., "i64": 9223372036854775808}"#,
    r#"{.., "i64": -9223372036854775809}"#,
    r#"{.., "i64": 1.0}"#,
    r#"{.., "i64": 1e3}"#,
    r#"{.., "f32": 1e39}"#,
    r#"{.., "f64": 1e309}"#,
    r#"{.., "f64": "nan"}"#,
    r#"{.., "f64": "1.5"}"#,
    r#"{.., "s": 5}"#,
    r#"{.., "s": "\ud800"}"#,
    r#"{.., "s": {"a": "a long value of which the reason quotes the beginning, and no more than that"}}"#,
    r#"{.., "bytes": "not base64!"}"#,
    r#"{.., "bytes": "YQ"}"#,
    r#"{.., "ts": "2024-01-01 00:00:00"}"#,
    r#"{.., "d": "2024-1-1"}"#,
    r#"{.., "d": "2023-02-29"}"#,
    r#"{.., "d": 19000}"#,
    r#"{.., "dec": 1.005}"#,
    r#"{.., "dec": "10000.00"}"#,
    r#"{.., "dec": "1,5"}"#,
    r#"{.., "dec": false}"#,
    r#"{.., "l": 1}"#,
    r#"{.., "j": DEEP}"#,
    r#"{.., "l": [1, "2"]}"#,
    r#"{.., "v": [1, 2]}"#,
    r#"{.., "v": [1, 2, null]}"#,
    r#"{.., "v": [1, 2, "x"]}"#,
];

#[tokio::test]
async fn every_wrong_row_is_refused_with_its_reason_and_its_neighbours_are_not() {
    let project = project();
    let ingest = open(&project).await;
    let deep = format!("{}1{}", "[".repeat(128), "]".repeat(128));
    let whole = |row: &str| row.replace("..", r#""at": 0, "k": "a", "must": 1"#).replace("DEEP", &deep);
    let good = whole("{..}");
    let mut report = String::new();
    for row in WRONG_ROWS {
        let outcome = ingest.push(json("typed", &format!("[{good},{},{good}]", whole(row)))).await;
        let text = describe(&outcome);
        let counts = "accepted=2 duplicates=0 refused=1\nrow 1: ";
        let reason = text.strip_prefix(counts).unwrap_or_else(|| panic!("{row}: {text}"));
        report += &format!("{row}\n    {reason}\n");
    }
    let long = whole("{..}").replace(r#""k": "a""#, &format!(r#""k": "{}""#, "x".repeat(500)));
    report += &format!(
        "a key of 500 bytes\n    {}\n",
        describe(&ingest.push(json("typed", &format!("[{long}]"))).await)
    );
    insta::assert_snapshot!("wrong_rows", report);
}

#[tokio::test]
async fn every_wrong_push_is_refused_as_a_whole() {
    let mut project = project();
    project.settings.batch_rows_max = 3;
    project.settings.batch_bytes_max = 1_000;
    let ingest = open(&project).await;
    let mut report = String::new();
    let long = format!("[{}]", "0".repeat(1_000));
    for (source, body) in [
        ("type", "[]"),
        ("something", "[]"),
        ("plain", "[]"),
        ("typed", ""),
        ("typed", "{}"),
        ("typed", "null"),
        ("typed", "[{]"),
        ("typed", "[{}"),
        ("typed", "[{},]"),
        ("typed", "[] []"),
        ("typed", "[NaN]"),
        ("typed", "[1,2,3,4]"),
        ("typed", &long),
    ] {
        let outcome = ingest.push(json(source, body)).await;
        assert!(outcome.is_err(), "{body}");
        let body = if body.len() > 20 { "a long body" } else { body };
        report += &format!("{source} <- {body}\n    {}\n", describe(&outcome).replace('\n', "\n    "));
    }
    let latin =
        PushRequest { rows: PushRows::Json(bytes::Bytes::from_static(b"[\"\xe9\"]")), ..json("typed", "") };
    report +=
        &format!("typed <- Latin-1\n    {}\n", describe(&ingest.push(latin).await).replace('\n', "\n    "));
    insta::assert_snapshot!("wrong_pushes", report);
    assert_eq!(ingest.positions().log_end, 0);
}

/// The rows that the lake got of `typed`, column by column.
async fn stored(project: &Project, column: &str) -> Vec<Value> {
    let value_type =
        &project.definitions.sources["typed"].columns.iter().find(|c| c.name == column).unwrap().value_type;
    let mut values = Vec::new();
    let table = project.folder.join("lake/typed");
    let mut files: Vec<_> = std::fs::read_dir(table).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "parquet")) {
        let file = std::fs::File::open(path).unwrap();
        let reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build();
        for batch in reader.unwrap() {
            let batch = batch.unwrap();
            let array = batch.column_by_name(column).unwrap();
            let array = arrow::compute::cast(array, &springhouse_kernel::arrow_type(value_type)).unwrap();
            values.extend((0..array.len()).map(|row| value_at(array.as_ref(), row, value_type)));
        }
    }
    values
}

#[tokio::test]
async fn good_values_arrive_exactly() {
    let project = project();
    let ingest = open(&project).await;
    let rows = r#"[
      {"at": 0, "k": "a", "must": 1, "i64": 9007199254740993, "f64": 9007199254740993, "f32": 0.1, "s": "\u00e9\n\"",
       "bytes": "aGk=", "ts": "2024-01-01T02:00:00.123456+02:00", "d": "1969-12-31", "dec": "-0.50",
       "j": { "b" : [ 1.0 , 12345678901234567890 ], "a" : null }, "l": [1, null, 3], "v": [1, 0.5, "NaN"], "b": true},
      {"must": -2147483648, "k": "", "at": "1969-12-31T23:59:59.999999Z", "i64": -9223372036854775808, "f64": "NaN",
       "f32": "-Infinity", "s": "", "bytes": "", "ts": -1, "d": "2024-02-29", "dec": 12e2, "j": "text", "l": [], "b": false},
      {"at": 0, "k": "a", "must": 1, "i64": null, "f64": -0.0, "j": null}
    ]"#;
    let outcome = ingest.push(json("typed", rows)).await;
    assert_eq!(describe(&outcome), "accepted=3 duplicates=0 refused=0");
    ingest.flush().await.unwrap();
    let mut report = String::new();
    for column in ["at", "must", "b", "i64", "f32", "f64", "s", "bytes", "ts", "d", "dec", "j", "l", "v"] {
        report += &format!("{column}\n");
        for value in stored(&project, column).await {
            report += &format!("    {value:?}\n");
        }
    }
    insta::assert_snapshot!("good_values", report);
}

#[tokio::test]
async fn local_times_are_read_in_the_zone_of_the_source() {
    let project = project();
    let ingest = open(&project).await;
    let row = |at: &str| format!(r#"{{"at": "{at}", "k": "a"}}"#);
    let times =
        ["2023-07-01T12:00:00", "2023-03-12T02:30:00", "2023-11-05T01:30:00", "2023-11-05T01:30:00-05:00"];
    let rows: Vec<String> = times.iter().map(|at| row(at)).collect();
    let outcome = ingest.push(json("zoned", &format!("[{}]", rows.join(",")))).await;
    insta::assert_snapshot!(describe(&outcome), @r#"
    accepted=2 duplicates=0 refused=2
    row 1: malformed_value: column `at` should be timestamp, got "2023-03-12T02:30:00"; the clocks of the source's time_zone never showed this time: write an offset
    row 2: malformed_value: column `at` should be timestamp, got "2023-11-05T01:30:00"; the clocks of the source's time_zone showed this time twice: write an offset
    "#);
}

fn arrow(columns: Vec<(&str, ArrayRef)>) -> PushRequest {
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    PushRequest { rows: PushRows::Arrow(vec![rows.clone(), rows]), ..json("typed", "") }
}

fn utc(times: &[i64]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"))
}

fn texts(texts: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

#[tokio::test]
async fn arrow_rows_are_checked_like_json_rows() {
    let project = project();
    let ingest = open(&project).await;
    let must: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let base = |more: Vec<(&'static str, ArrayRef)>| {
        let mut columns =
            vec![("at", utc(&[0, 1])), ("k", texts(&[Some("a"), Some("b")])), ("must", must.clone())];
        columns.extend(more);
        arrow(columns)
    };
    let mut report = String::new();
    let mut say = async |name: &str, request: PushRequest| {
        let outcome = ingest.push(request).await;
        report += &format!("{name}\n    {}\n", describe(&outcome).replace('\n', "\n    "));
    };
    say("as declared", base(vec![])).await;
    say("none", PushRequest { rows: PushRows::Arrow(vec![]), ..json("typed", "") }).await;
    let lists = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
        Some(vec![Some(1.0), Some(2.0), Some(3.0)]),
        Some(vec![Some(1.0)]),
    ]);
    say(
        "other types that lose nothing",
        base(vec![
            ("i64", Arc::new(Int32Array::from(vec![Some(1), None]))),
            ("ts", Arc::new(TimestampMillisecondArray::from(vec![-1, 1]).with_timezone("+02:00"))),
            ("bytes", Arc::new(BinaryArray::from(vec![&b"a"[..], b"b"]))),
        ]),
    )
    .await;
    say("a list of the wrong length for a vector", base(vec![("v", Arc::new(lists))])).await;
    say("broken json", base(vec![("j", texts(&[Some("{ \"a\": 1 }"), Some("{")]))])).await;
    say("unknown column", base(vec![("i46", must.clone())])).await;
    say("float for int", base(vec![("i64", Arc::new(Float64Array::from(vec![1.0, 2.0])))])).await;
    say("unsigned 64 bits", base(vec![("i64", Arc::new(UInt64Array::from(vec![1, u64::MAX])))])).await;
    say("no zone", base(vec![("ts", Arc::new(TimestampMicrosecondArray::from(vec![1, 2])))])).await;
    say(
        "a required column is not there",
        arrow(vec![("at", utc(&[0, 1])), ("k", texts(&[Some("a"), Some("b")]))]),
    )
    .await;
    say(
        "null keys, null times, times ahead",
        arrow(vec![
            (
                "at",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![None, Some(0), Some(START + HOUR)])
                        .with_timezone("UTC"),
                ),
            ),
            ("k", texts(&[Some("a"), None, Some("c")])),
            ("must", Arc::new(Int32Array::from(vec![1, 2, 3]))),
        ]),
    )
    .await;
    let backfill = |request: PushRequest| PushRequest { backfill: true, ..request };
    say("backfill without known_at", backfill(base(vec![]))).await;
    say("backfill", backfill(base(vec![("seen_at", utc(&[5, 6]))]))).await;
    insta::assert_snapshot!("arrow_rows", report);
    let letters = ingest.dead_letters("typed", 3).await.unwrap();
    assert_eq!(letters[0].row, r#"{"at":"1970-01-01T00:00:00.000001Z","k":"b","must":2}"#);
}

#[tokio::test]
async fn pushes_beyond_the_named_limits_are_told_to_come_back() {
    let mut project = Project::new();
    project.settings.segment_bytes = 1_000;
    project.settings.log_bytes_max = 2_000;
    let ingest = project.open().await;
    let mut pushed = 0;
    let refused = loop {
        let row = crate::support::click(Some(pushed), "a", START, 1.0);
        match ingest.push(json("clicks", &format!("[{row}]"))).await {
            Ok(_) => pushed += 1,
            refused => break describe(&refused),
        }
    };
    assert!(pushed >= 1 && refused.starts_with("overloaded: the log takes"), "{pushed} {refused}");
    assert_eq!(ingest.positions().log_end, pushed);
    // With the rows in the lake and the store checkpointed, the log shrinks and pushes go on.
    drop(ingest);
    project.settings.checkpoint_interval_ms = 1;
    project.settings.log_bytes_max = 100_000;
    let ingest = project.open().await;
    ingest.flush().await.unwrap();
    while ingest.positions().log_bytes >= 1_500 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let row = crate::support::click(Some(pushed), "a", START, 1.0);
    assert_eq!(ingest.push(json("clicks", &format!("[{row}]"))).await.unwrap().accepted, 1);
    // Old ids are still known, though their segments are gone.
    let row = crate::support::click(Some(0), "a", START, 1.0);
    assert_eq!(ingest.push(json("clicks", &format!("[{row}]"))).await.unwrap().duplicates, 1);
    assert_eq!(project.clicks(&ingest, "a").await.0, pushed + 1);
}

#[test]
fn settings_are_checked_as_a_whole() {
    let settings = springhouse_ingest::PushSettings {
        batch_rows_max: 0,
        queue_bytes_max: 1,
        log_bytes_max: 1,
        ..springhouse_ingest::PushSettings::default()
    };
    insta::assert_snapshot!(settings.validate().unwrap_err(), @"push.batch_rows_max must be above 0; push.queue_bytes_max must be at least push.batch_bytes_max; push.log_bytes_max must hold at least two segments (push.segment_bytes)");
}
