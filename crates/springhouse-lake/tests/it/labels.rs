//! What is wrong with labels and files, and what is said about it.

use crate::support::*;
use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use springhouse_core::Value;
use springhouse_lake::{LabelSource, LakeError, TrainingRequest};
use std::fmt::Write as _;
use std::sync::Arc;

const YAML: &str = "
entities:
  user: {keys: {user: string}}
  visit: {keys: {shop: int64, user: string}}
sources:
  parts:
    table: data/parts.parquet
    event_time: at
    columns: {user: string, shop: int64, at: timestamp!, amount: float64}
feature_views:
  latest:
    entity: user
    source: parts
    ttl: 1d
    features: {amount: amount}
  visits:
    entity: visit
    source: parts
    ttl: 1d
    features: {visit_amount: amount}
request_views:
  asked:
    fields: {scale: int64!}
    inputs: {amount: latest:amount}
    features: {scaled: {sql: amount * scale, default: 0.0}}
feature_services:
  all: {features: [latest]}
  visits: {features: [latest, visits]}
  asked: {features: [asked]}
";

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(values.iter().map(|v| Some(*v)).collect::<StringArray>())
}

fn times(count: i64) -> ArrayRef {
    timestamps((0..count).map(|n| Some(ORIGIN + n)))
}

fn naive_times(count: i64) -> ArrayRef {
    Arc::new((0..count).map(|n| Some(ORIGIN + n)).collect::<TimestampMicrosecondArray>())
}

fn good_parts() -> arrow::array::RecordBatch {
    batch(vec![
        ("user", strings(&["a", "b"])),
        ("shop", Arc::new(Int64Array::from(vec![1, 2]))),
        ("at", times(2)),
        ("amount", Arc::new(Float64Array::from(vec![1.5, 2.5]))),
    ])
}

/// The error of a training set from these labels and parts.
async fn error_of(
    write_labels: impl FnOnce(&Project),
    write_parts: impl FnOnce(&Project),
    change: impl FnOnce(&mut TrainingRequest<'_>),
) -> String {
    let project = Project::new(YAML);
    write_labels(&project);
    write_parts(&project);
    let out = project.path("out/train.parquet");
    let mut request = project.request("labels.parquet", &out);
    change(&mut request);
    let error: LakeError = project.lake.training_set(&request, &Silent).await.unwrap_err();
    let text = format!("{}: {}\n  {}", error.code, error.message, error.hint.unwrap_or_default());
    assert!(!out.exists(), "a failed training set left a file behind");
    text.replace(&project.directory.path().display().to_string(), "PROJECT")
}

fn put(batch: arrow::array::RecordBatch) -> impl FnOnce(&Project) {
    move |project| write_parquet(&project.path("labels.parquet"), &batch, 100)
}

fn put_parts(batch: arrow::array::RecordBatch) -> impl FnOnce(&Project) {
    move |project| write_parquet(&project.path("data/parts.parquet"), &batch, 100)
}

fn put_csv(text: &'static str) -> impl FnOnce(&Project) {
    move |project| std::fs::write(project.path("labels.csv"), text).unwrap()
}

fn label_file(request: &mut TrainingRequest<'_>, name: &str) {
    let LabelSource::Path(path) = &mut request.labels else { panic!("labels are a file") };
    path.set_file_name(name);
}

fn csv(request: &mut TrainingRequest<'_>) {
    label_file(request, "labels.csv");
}

fn good() -> arrow::array::RecordBatch {
    batch(vec![("user", strings(&["a", "b"])), ("event_timestamp", times(2))])
}

fn parts_with(column: &str, array: ArrayRef) -> arrow::array::RecordBatch {
    let parts = good_parts();
    let schema = parts.schema();
    let columns = schema.fields().iter().zip(parts.columns()).map(|(f, c)| {
        (f.name().clone(), if f.name() == column { Arc::clone(&array) } else { Arc::clone(c) })
    });
    let columns: Vec<(String, ArrayRef)> = columns.collect();
    batch(columns.iter().map(|(n, a)| (n.as_str(), Arc::clone(a))).collect())
}

#[tokio::test]
async fn every_mistake_is_named_with_its_remedy() {
    let same = |_: &mut TrainingRequest<'_>| {};
    let parts = || put_parts(good_parts());
    let nothing = |_: &Project| {};
    let service = |name: &'static str| move |r: &mut TrainingRequest<'_>| r.services = vec![name.into()];
    let mut all = String::new();
    let mut case = |name: &str, error: String| writeln!(all, "# {name}\n{error}\n").unwrap();

    case("no such service", error_of(put(good()), parts(), service("al")).await);
    case("no label file", error_of(nothing, parts(), same).await);
    let bytes = |p: &Project| std::fs::write(p.path("labels.parquet"), b"PAR1 not really PAR1").unwrap();
    case("labels are no Parquet", error_of(bytes, parts(), same).await);
    let cut_off = |p: &Project| {
        put(good())(p);
        let whole = std::fs::read(p.path("labels.parquet")).unwrap();
        std::fs::write(p.path("labels.parquet"), &whole[..whole.len() / 2]).unwrap();
    };
    case("labels are cut off", error_of(cut_off, parts(), same).await);
    case("labels are empty", error_of(put(good().slice(0, 0)), parts(), same).await);
    let misspelt = batch(vec![("usr", strings(&["a"])), ("event_timestamp", times(1))]);
    case("a key is misspelt", error_of(put(misspelt), parts(), same).await);
    let one_key = good();
    case("one of two keys is missing", error_of(put(one_key), parts(), service("visits")).await);
    let number = batch(vec![("user", Arc::new(Int64Array::from(vec![1]))), ("event_timestamp", times(1))]);
    case("a key has another type", error_of(put(number), parts(), same).await);
    let float = batch(vec![
        ("user", strings(&["a"])),
        ("shop", Arc::new(Float64Array::from(vec![1.0]))),
        ("event_timestamp", times(1)),
    ]);
    case("a float where an int is declared", error_of(put(float), parts(), service("visits")).await);
    let naive = batch(vec![("user", strings(&["a"])), ("event_timestamp", naive_times(1))]);
    case("times without a zone", error_of(put(naive.clone()), parts(), same).await);
    let zone = |name: &'static str| move |r: &mut TrainingRequest<'_>| r.time_zone = Some(name.into());
    case("an unknown zone", error_of(put(naive), parts(), zone("Mars/Base")).await);
    let twice = 1_383_442_200; // 2013-11-03T01:30:00 on the clocks of New York, which came twice.
    let twice: ArrayRef = Arc::new(TimestampSecondArray::from(vec![0, twice]));
    let twice = batch(vec![("user", strings(&["a", "b"])), ("event_timestamp", twice)]);
    case("a local time that came twice", error_of(put(twice), parts(), zone("America/New_York")).await);
    let no_time = batch(vec![("user", strings(&["a"])), ("when", strings(&["x"]))]);
    case("no timestamp column", error_of(put(no_time), parts(), same).await);
    let two = batch(vec![("user", strings(&["a"])), ("from", times(1)), ("to", times(1))]);
    case("two timestamp columns", error_of(put(two), parts(), same).await);
    let at = |name: &'static str| move |r: &mut TrainingRequest<'_>| r.at_column = Some(name.into());
    case("an at-column that is not there", error_of(put(good()), parts(), at("event_time")).await);
    case("an at-column of texts", error_of(put(good()), parts(), at("user")).await);
    let null =
        batch(vec![("user", strings(&["a", "b"])), ("event_timestamp", timestamps([Some(ORIGIN), None]))]);
    case("a label without a time", error_of(put(null), parts(), same).await);
    let far = batch(vec![("user", strings(&["a"])), ("event_timestamp", timestamps([Some(i64::MAX)]))]);
    case("a time beyond all years", error_of(put(far), parts(), same).await);
    let taken =
        batch(vec![("user", strings(&["a"])), ("event_timestamp", times(1)), ("amount", strings(&["?"]))]);
    case("a label column with a feature's name", error_of(put(taken), parts(), same).await);
    case("a request field is missing", error_of(put(good()), parts(), service("asked")).await);
    let wrong_field =
        batch(vec![("user", strings(&["a"])), ("event_timestamp", times(1)), ("scale", strings(&["two"]))]);
    case("a request field of another type", error_of(put(wrong_field), parts(), service("asked")).await);
    let ragged = put_csv("user,event_timestamp\na,2023-11-14T00:00:00Z\nb\n");
    case("a ragged CSV line", error_of(ragged, parts(), csv).await);
    let cell = put_csv("user,event_timestamp,scale\na,2023-11-14T00:00:00Z,1\nb,2023-11-14T00:00:00Z,2.5\n");
    case(
        "a bad CSV cell",
        error_of(cell, parts(), |r| {
            csv(r);
            r.services = vec!["asked".into()];
        })
        .await,
    );
    let when = put_csv("user,event_timestamp\na,2023-11-14T00:00:00Z\nb,yesterday\n");
    case("a CSV time that is none", error_of(when, parts(), csv).await);
    let local = put_csv("user,event_timestamp\na,2023-11-14 00:00:00\n");
    case("CSV times without a zone", error_of(local, parts(), csv).await);
    case("an empty CSV file", error_of(put_csv(""), parts(), csv).await);

    case("no source file", error_of(put(good()), nothing, same).await);
    let broken = |p: &Project| std::fs::write(p.path("data/parts.parquet"), b"garbage").unwrap();
    case("a source that is no Parquet", error_of(put(good()), broken, same).await);
    let parts_naive = put_parts(parts_with("at", naive_times(2)));
    case("source times without a zone", error_of(put(good()), parts_naive, same).await);
    let text = put_parts(parts_with("amount", strings(&["1", "2"])));
    case("a source column of another type", error_of(put(good()), text, same).await);
    let large = put_parts(parts_with("amount", Arc::new(Int64Array::from(vec![1, (1 << 53) + 1]))));
    case("an integer that no double equals", error_of(put(good()), large, same).await);
    let mut lacking = good_parts();
    lacking.remove_column(3);
    case("a source without a column", error_of(put(good()), put_parts(lacking), same).await);

    insta::assert_snapshot!(all);
}

#[tokio::test]
async fn types_that_lose_nothing_are_read() {
    // Every array stands for the same two rows; what is read must be what the plain types give.
    let user = strings(&["a", "b"]);
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let seconds = ORIGIN / 1_000_000;
    let utc: Option<Arc<str>> = Some("+00:00".into());
    let variants: Vec<(&str, ArrayRef)> = vec![
        ("user", Arc::clone(&user)),
        ("user", cast(&user, &DataType::LargeUtf8).unwrap()),
        ("user", cast(&user, &DataType::Utf8View).unwrap()),
        ("user", cast(&user, &dictionary).unwrap()),
        ("shop", Arc::new(Int32Array::from(vec![1, 2]))),
        ("shop", cast(&Int32Array::from(vec![1, 2]), &DataType::UInt8).unwrap()),
        ("shop", cast(&Int32Array::from(vec![1, 2]), &DataType::UInt64).unwrap()),
        ("at", cast(&times(2), &DataType::Timestamp(TimeUnit::Nanosecond, utc)).unwrap()),
        (
            "at",
            Arc::new(TimestampNanosecondArray::from(vec![ORIGIN * 1000 + 999; 2]).with_timezone("+02:00")),
        ),
        ("at", Arc::new(TimestampSecondArray::from(vec![seconds; 2]).with_timezone("America/New_York"))),
        ("amount", cast(&Float64Array::from(vec![1.5, 2.5]), &DataType::Float32).unwrap()),
        ("amount", cast(&Float64Array::from(vec![1.5, 2.5]), &DataType::Float16).unwrap()),
    ];
    for (column, array) in variants {
        let project = Project::new(YAML);
        put_parts(parts_with(column, Arc::clone(&array)))(&project);
        let labels = batch(vec![("user", strings(&["a", "b"])), ("event_timestamp", times(2))]);
        put(labels)(&project);
        let out = project.path("train.parquet");
        let request = project.request("labels.parquet", &out);
        project.lake.training_set(&request, &Silent).await.unwrap();
        let made = read_parquet(&out);
        let got = [value(&made, "amount", 0), value(&made, "amount", 1)];
        assert_eq!(got, [Value::Float64(1.5), Value::Float64(2.5)], "{column}: {:?}", array.data_type());
    }
}

#[tokio::test]
async fn rows_that_no_time_can_be_told_of_are_counted() {
    let project = Project::new(YAML);
    let parts = batch(vec![
        ("user", Arc::new(StringArray::from(vec![Some("a"), Some("a"), Some("a"), None])) as ArrayRef),
        ("shop", Arc::new(Int64Array::from(vec![1, 1, 1, 1]))),
        ("at", timestamps([Some(ORIGIN), None, Some(i64::MAX), Some(ORIGIN)])),
        ("amount", Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 4.0]))),
    ]);
    put_parts(parts)(&project);
    put(good())(&project);
    let out = project.path("train.parquet");
    let request = project.request("labels.parquet", &out);
    let outcome = project.lake.training_set(&request, &Silent).await.unwrap();
    let skipped = &outcome.manifest["sources"]["parts"]["rows_skipped"];
    let expected = serde_json::json!({
        "event_time_out_of_range": 1, "no_entity_key": 1, "no_event_time": 1
    });
    assert_eq!(*skipped, expected);
    assert_eq!(value(&read_parquet(&out), "amount", 0), Value::Float64(1.0));
}
