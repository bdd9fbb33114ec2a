//! Training sets against the naive way, on random data, through every kind of source.

use crate::support::*;
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use springhouse_core::{Micros, Value, ValueStatus};
use springhouse_lake::{Availability, PassKind, StreamAppend, TrainingOutcome};
use std::collections::BTreeMap;
use std::sync::Arc;

const YAML: &str = "
entities:
  user: {keys: {user: string}}
  visit: {keys: {shop: int64, user: string}}
sources:
  parts:
    table: data/parts/*.parquet
    event_time: at
    known_at: known
    event_id: id
    columns: {id: int64, user: string, shop: int64, at: timestamp!, amount: float64, items: int64, kind: string}
  lines:
    table: data/lines.csv
    event_time: at
    delay: 30m
    columns: {user: string, shop: int64, at: timestamp, amount: float64, items: int64, kind: string}
  delta:
    table: {path: data/delta, format: delta}
    event_time: at
    known_at: known
    columns: {user: string, shop: int64, at: timestamp, amount: float64, items: int64, kind: string}
  pushed:
    stream: push
    history: data/history/**/*.parquet
    event_time: at
    known_at: known
    event_id: id
    columns: {id: int64, user: string, shop: int64, at: timestamp, amount: float64, items: int64, kind: string}
feature_views:
  parts_latest:
    entity: user
    source: parts
    ttl: {soft: 2h, hard: 1d}
    features: {p_amount: {column: amount, default: -1.5}, p_items: items, p_kind: {column: kind, default: none}}
  parts_visits:
    entity: visit
    source: parts
    ttl: 2d
    where: shop >= 0
    features: {v_amount: amount, v_id: id, v_at: at, v_shop: shop}
  parts_windows:
    entity: user
    source: parts
    ttl: 1d
    aggregate:
      pw: {fn: [count, sum, mean, min, max, last], column: amount, windows: [1h, 1d]}
      pk: {fn: count, where: items > 2, windows: [6h], default: 0}
      pl: {fn: sum, column: items, windows: [lifetime]}
      pd: {fn: count_distinct, cap: 12, over_cap: null, column: items, windows: [lifetime]}
      pe: {fn: sum, column: amount, windows: [90m], hop: exact}
  lines_latest:
    entity: user
    source: lines
    ttl: 3d
    features: {l_amount: amount, l_kind: kind}
  lines_windows:
    entity: visit
    source: lines
    ttl: 1d
    aggregate:
      lw: {fn: sum, column: items, windows: [12h]}
      ln: {fn: last_n, n: 3, column: items, windows: [12h]}
      ls: {fn: seconds_since_last, windows: [1d]}
  delta_latest:
    entity: user
    source: delta
    ttl: 1d
    where: kind = 'k1'
    features: {d_amount: amount}
  delta_windows:
    entity: user
    source: delta
    ttl: 1d
    aggregate:
      dw: {fn: stddev, column: amount, windows: [1d]}
      dg: {fn: sum, column: items, group_by: kind, windows: [1d]}
  pushed_latest:
    entity: user
    source: pushed
    ttl: 1d
    features: {s_amount: amount, s_id: id}
  pushed_windows:
    entity: user
    source: pushed
    ttl: 1d
    aggregate:
      sw: {fn: [count, sum], column: amount, windows: [1h, 2d]}
request_views:
  asked:
    fields: {scale: int64!, note: string}
    inputs: {total: parts_windows:pw_sum_1d}
    features:
      scaled: {sql: total * scale, default: -1.0}
      scaled_twice: scaled + scaled
feature_services:
  careful:
    features: [parts_latest:p_amount, parts_latest:p_kind, parts_windows:pw_sum_1d, asked]
    on_stale: default
  plain:
    features: [parts_latest:p_amount, delta_latest, parts_windows:pk_6h]
  all:
    features: [parts_latest, parts_visits, parts_windows, lines_latest, lines_windows, delta_latest, delta_windows,
               pushed_latest, pushed_windows, asked]
";

/// Where each source's events are, with the stamps that the naive way gives them.
pub(crate) struct World {
    pub(crate) project: Project,
    events: BTreeMap<&'static str, Vec<NaiveEvent>>,
    pub(crate) all: Vec<TestEvent>,
}

fn in_slices(events: &[TestEvent], count: usize) -> Vec<Vec<TestEvent>> {
    (0..count).map(|part| events.iter().skip(part).step_by(count).cloned().collect()).collect()
}

/// In order of arrival, or entity by entity as a compacted table has them, by time or not.
fn by_entity_or_not(random: &mut Random, events: &mut [TestEvent]) {
    match random.below(4) {
        0 => events.sort_by_key(|event| (event.user.clone(), event.event_time)),
        1 => events.sort_by_key(|event| event.user.clone()),
        _ => {}
    }
}

/// Times as text with an offset, and no bits lost in numbers.
fn csv_batch(events: &[TestEvent]) -> RecordBatch {
    let texts: StringArray =
        events.iter().map(|e| Some(springhouse_core::time::format_instant(e.event_time))).collect();
    let whole = event_batch(events);
    let column = |name: &str| whole.column_by_name(name).unwrap().clone();
    batch(vec![
        ("user", column("user")),
        ("shop", column("shop")),
        ("at", Arc::new(texts)),
        ("amount", column("amount")),
        ("items", column("items")),
        ("kind", column("kind")),
    ])
}

pub(crate) async fn world(random: &mut Random, count: usize) -> World {
    let project = Project::new(YAML);
    let mut events: BTreeMap<&'static str, Vec<NaiveEvent>> = BTreeMap::new();
    // A Parquet glob of three files with small row groups.
    let parts = random_events(random, count);
    for (number, mut part) in in_slices(&parts, 3).into_iter().enumerate() {
        by_entity_or_not(random, &mut part);
        // Of large row groups few rows are read on their own.
        let group_rows = if random.chance(50) { 17 } else { 1_000 };
        let write = if random.chance(50) { write_parquet } else { write_plain_parquet };
        write(&project.path(&format!("data/parts/{number}.parquet")), &event_batch(&part), group_rows);
        for (row, event) in part.iter().enumerate() {
            // The true sequence has a hash of the file's name in it; among rows of equal times the order of files is that of
            // the hashes, so the naive way asks for it.
            let seq = table_seq(&format!("data/parts/{number}.parquet"), row);
            events.entry("parts").or_default().push(naive(event, event.known_at, seq, true));
        }
    }
    // CSV without ids: redelivered rows count again.
    let mut lines = random_events(random, count);
    // An empty cell is null, so an empty name is no name.
    lines.iter_mut().filter(|e| e.user.as_deref() == Some("")).for_each(|e| e.user = None);
    write_csv(&project.path("data/lines.csv"), &csv_batch(&lines));
    for (row, event) in lines.iter().enumerate() {
        let known_at = event.event_time + 30 * springhouse_core::time::MINUTE;
        events.entry("lines").or_default().push(naive(
            event,
            known_at,
            table_seq("data/lines.csv", row),
            false,
        ));
    }
    // A Delta table, made as one by another lake.
    let mut delta = random_events(random, count);
    by_entity_or_not(random, &mut delta);
    write_delta(&project, &delta).await;
    for file in delta_files(&project.path("data/delta")) {
        let stored = read_parquet(&project.path(&format!("data/delta/{file}")));
        for row in 0..stored.num_rows() {
            let Value::Int64(id) = value(&stored, "id", row) else { panic!("an event without its number") };
            let event = &delta[id as usize];
            let seq = table_seq(&format!("data/delta/{file}"), row);
            events.entry("delta").or_default().push(naive(event, event.known_at, seq, false));
        }
    }
    // A stream with a history; some events are in both.
    let pushed = random_events(random, count);
    let (old, new) = pushed.split_at(count / 2);
    write_parquet(&project.path("data/history/2023/11/a.parquet"), &event_batch(old), 50);
    for (row, event) in old.iter().enumerate() {
        let seq = table_seq("data/history/2023/11/a.parquet", row);
        events.entry("pushed").or_default().push(naive(event, event.known_at, seq, true));
    }
    let mut live = new.to_vec();
    live.extend(old.iter().take(7).cloned());
    live.sort_by_key(|e| e.known_at);
    for (part, chunk) in live.chunks(40).enumerate() {
        let append = stream_append(chunk, (part * 40) as i64);
        project.lake.append_stream(project.source("pushed"), append).await.unwrap();
    }
    for (offset, event) in live.iter().enumerate() {
        events.entry("pushed").or_default().push(naive(event, event.known_at, offset as i64, true));
    }
    let all = [parts, lines, delta, pushed].concat();
    World { project, events, all }
}

/// The sequence number of a table row, as documented.
pub(crate) fn table_seq(file: &str, row: usize) -> i64 {
    let hash31 = xxhash_rust::xxh3::xxh3_64(file.as_bytes()) & 0x7fff_ffff;
    (1u64 << 63 | hash31 << 32 | row as u64) as i64
}

pub(crate) fn stream_append(events: &[TestEvent], first_offset: i64) -> StreamAppend {
    let whole = event_batch(events);
    let known = whole.schema().index_of("known").unwrap();
    let mut rows = whole;
    rows.remove_column(known);
    StreamAppend {
        rows,
        event_time: events.iter().map(|e| e.event_time).collect(),
        known_at: events.iter().map(|e| e.known_at).collect(),
        offset: (first_offset..first_offset + events.len() as i64).collect(),
        event_id: events.iter().map(|e| Some(springhouse_core::event_id::of_integer(e.id))).collect(),
    }
}

/// A Delta table of the events with their `known` as a column and their place in the list as `id`.
async fn write_delta(project: &Project, events: &[TestEvent]) {
    let maker = definitions(
        "
entities: {user: {keys: {user: string}}}
sources:
  delta:
    stream: push
    event_time: at
    columns: {id: int64, user: string, shop: int64, at: timestamp, known: timestamp, amount: float64, items: int64, kind: string}
",
    );
    let lake = springhouse_lake::Lake::open(project.directory.path(), &project.path("data/.")).unwrap();
    let numbered: Vec<TestEvent> =
        events.iter().enumerate().map(|(n, e)| TestEvent { id: n as i64, ..e.clone() }).collect();
    for (part, chunk) in numbered.chunks(60).enumerate() {
        let mut append = stream_append(chunk, (part * 60) as i64);
        append.rows = event_batch(chunk);
        lake.append_stream(&maker.sources["delta"], append).await.unwrap();
    }
}

fn delta_files(directory: &std::path::Path) -> Vec<String> {
    let entries =
        std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = entries.filter(|name| name.ends_with(".parquet")).collect();
    files.sort();
    files
}

pub(crate) struct Label {
    pub(crate) user: Option<String>,
    pub(crate) shop: i64,
    pub(crate) at: Micros,
    pub(crate) scale: i64,
}

pub(crate) fn random_labels(random: &mut Random, events: &[TestEvent], count: usize) -> Vec<Label> {
    let mut labels: Vec<Label> = Vec::new();
    for _ in 0..count {
        let user = match random.below(10) {
            0 => Some("nobody".to_owned()),
            1 => None,
            _ => events[random.below(events.len() as u64) as usize].user.clone(),
        };
        let label = Label {
            user,
            shop: random.below(3) as i64 - 1,
            at: random_moment(random, events),
            scale: random.below(5) as i64,
        };
        if random.chance(10) {
            labels.push(Label { user: label.user.clone(), ..label });
        }
        labels.push(label);
    }
    labels
}

pub(crate) fn label_batch(labels: &[Label]) -> RecordBatch {
    let extra: ArrayRef = Arc::new((0..labels.len() as i32).map(Some).collect::<Int32Array>());
    batch(vec![
        ("extra", extra),
        ("user", Arc::new(labels.iter().map(|l| l.user.clone()).collect::<StringArray>())),
        // An int32 where the key is int64: it widens.
        ("shop", Arc::new(labels.iter().map(|l| Some(l.shop as i32)).collect::<Int32Array>())),
        ("event_timestamp", timestamps(labels.iter().map(|l| Some(l.at)))),
        ("scale", Arc::new(labels.iter().map(|l| Some(l.scale)).collect::<Int64Array>())),
    ])
}

/// Compares every value of a training set with the naive way; gives how many were not null.
pub(crate) fn compare(
    world: &World,
    labels: &[Label],
    made: &RecordBatch,
    availability: Availability,
) -> usize {
    let definitions = &world.project.definitions;
    let mut not_null = 0;
    for (row, label) in labels.iter().enumerate() {
        let mut total = Value::Null;
        for view in definitions.feature_views.values() {
            let key = match (view.entity.as_str(), &label.user) {
                (_, None) => None,
                ("user", Some(user)) => Some(vec![Value::string(user.as_str())]),
                (_, Some(user)) => Some(vec![Value::Int64(label.shop), Value::string(user.as_str())]),
            };
            let answer = key.map(|key| {
                naive_answer(
                    definitions,
                    view,
                    &world.events[view.source.as_str()],
                    &key,
                    label.at,
                    availability,
                )
            });
            for (number, (feature, _)) in view.features().into_iter().enumerate() {
                let default = view.defaults()[number].value();
                let expected = match &answer {
                    Some(answer) if answer.statuses[number] == ValueStatus::Fresh => {
                        answer.values[number].clone()
                    }
                    _ => default,
                };
                let got = value(made, feature, row);
                assert_eq!(
                    got, expected,
                    "row {row}, {}:{feature} of {:?} shop {} at {}",
                    view.name, label.user, label.shop, label.at
                );
                if feature == "pw_sum_1d" {
                    total = expected.clone();
                }
                not_null += usize::from(!got.is_null());
            }
        }
        let scaled = match total {
            Value::Float64(total) => Value::Float64(total * label.scale as f64),
            _ => Value::Float64(-1.0),
        };
        assert_eq!(value(made, "scaled", row), scaled, "row {row}");
    }
    not_null
}

pub(crate) fn assert_labels_kept(labels: &RecordBatch, made: &RecordBatch) {
    assert_eq!(made.num_rows(), labels.num_rows());
    for (number, field) in labels.schema().fields().iter().enumerate() {
        assert_eq!(made.schema().field(number), field.as_ref());
        assert_eq!(made.column(number), labels.column(number), "{}", field.name());
    }
}

#[tokio::test]
async fn training_values_are_those_of_the_naive_way() {
    let mut random = Random::new("training_values_are_those_of_the_naive_way");
    for round in 0..4 {
        let world = world(&mut random, 40 + 240 * round).await;
        for (count, availability) in [
            (60, Availability::Known),
            (60, Availability::Event),
            (3, Availability::Known),
            (2, Availability::Event),
        ] {
            let labels = random_labels(&mut random, &world.all, count);
            let given = label_batch(&labels);
            write_parquet(&world.project.path("labels.parquet"), &given, 23);
            let out = world.project.path("out/train.parquet");
            let mut request = world.project.request("labels.parquet", &out);
            request.availability = availability;
            let outcome = world.project.lake.training_set(&request, &Silent).await.unwrap();
            assert_eq!(outcome.rows, labels.len() as u64);
            let made = read_parquet(&out);
            assert_labels_kept(&given, &made);
            let not_null = compare(&world, &labels, &made, availability);
            assert!(count < 10 || not_null > labels.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_command_gives_the_same_bytes_whatever_the_budget() {
    let mut random = Random::new("the_same_command_gives_the_same_bytes_whatever_the_budget");
    let world = world(&mut random, 600).await;
    let labels = random_labels(&mut random, &world.all, 3_000);
    write_parquet(&world.project.path("labels.parquet"), &label_batch(&labels), 1_000);
    let mut seen: Option<(Vec<u8>, String)> = None;
    for budget in [1 << 30, 0, 50_000, 1 << 30] {
        let out = world.project.path("train.parquet");
        let mut request = world.project.request("labels.parquet", &out);
        request.memory_budget = budget;
        let outcome = world.project.lake.training_set(&request, &Silent).await.unwrap();
        let bytes = std::fs::read(&out).unwrap();
        let manifest = std::fs::read_to_string(world.project.path("train.parquet.manifest.json")).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&manifest).unwrap(), outcome.manifest);
        match &seen {
            None => seen = Some((bytes, manifest)),
            Some(first) => assert!(*first == (bytes, manifest), "another budget made other bytes: {budget}"),
        }
    }
    assert_eq!(world.project.left_behind(), [""; 0]);
}

#[tokio::test]
async fn labels_may_be_csv() {
    let mut random = Random::new("labels_may_be_csv");
    let world = world(&mut random, 80).await;
    let mut labels = random_labels(&mut random, &world.all, 40);
    // CSV has no empty text that is not null.
    labels.iter_mut().filter(|l| l.user.as_deref() == Some("")).for_each(|l| l.user = None);
    let given = label_batch(&labels);
    let texts: StringArray =
        labels.iter().map(|l| Some(springhouse_core::time::format_instant(l.at))).collect();
    let column = |name: &str| given.column_by_name(name).unwrap().clone();
    let csv = batch(vec![
        ("user", column("user")),
        ("shop", column("shop")),
        ("event_timestamp", Arc::new(texts)),
        ("scale", column("scale")),
        ("weight", Arc::new(labels.iter().map(|_| Some("0.5")).collect::<StringArray>())),
        ("zip", Arc::new(labels.iter().map(|_| Some("007")).collect::<StringArray>())),
    ]);
    write_csv(&world.project.path("labels.csv"), &csv);
    let out = world.project.path("train.parquet");
    let request = world.project.request("labels.csv", &out);
    world.project.lake.training_set(&request, &Silent).await.unwrap();
    let made = read_parquet(&out);
    compare(&world, &labels, &made, Availability::Known);
    assert_eq!(value(&made, "weight", 0), Value::Float64(0.5));
    assert_eq!(value(&made, "zip", 0), Value::string("007"));
    assert_eq!(value(&made, "event_timestamp", 0), Value::Timestamp(labels[0].at));
}

#[tokio::test]
async fn the_manifest_counts_every_status() {
    let mut random = Random::new("the_manifest_counts_every_status");
    let world = world(&mut random, 200).await;
    let labels = random_labels(&mut random, &world.all, 200);
    write_parquet(&world.project.path("labels.parquet"), &label_batch(&labels), 1_000);
    let out = world.project.path("train.parquet");
    let request = world.project.request("labels.parquet", &out);
    let outcome = world.project.lake.training_set(&request, &Silent).await.unwrap();
    let view = &world.project.definitions.feature_views["parts_latest"];
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for label in &labels {
        let status = match &label.user {
            None => "missing",
            Some(user) => {
                let key = [Value::string(user.as_str())];
                let events = &world.events["parts"];
                let answer = naive_answer(
                    &world.project.definitions,
                    view,
                    events,
                    &key,
                    label.at,
                    Availability::Known,
                );
                match answer.statuses[0] {
                    ValueStatus::Fresh if label.at - answer.event_time.unwrap() > view.soft_ttl.unwrap() => {
                        "stale"
                    }
                    ValueStatus::Fresh => "fresh",
                    ValueStatus::Expired => "expired",
                    ValueStatus::Missing => "missing",
                    ValueStatus::Null => "null",
                    other => panic!("{other:?}"),
                }
            }
        };
        *expected.entry(status).or_default() += 1;
    }
    let feature = &outcome.manifest["features"][0];
    assert_eq!(feature["feature"], "parts_latest:p_amount");
    for (status, count) in &expected {
        assert_eq!(feature["rows"][status], *count, "{status}: {feature:#}");
    }
    assert_eq!(outcome.manifest["rows"], labels.len() as u64);
    let files = outcome.manifest["sources"]["parts"]["files"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    assert_eq!(files[0]["name"], "data/parts/0.parquet");
}

#[tokio::test]
async fn recomputed_answers_are_those_of_the_naive_way() {
    let mut random = Random::new("recomputed_answers_are_those_of_the_naive_way");
    let world = world(&mut random, 200).await;
    let definitions = &world.project.definitions;
    for view in definitions.feature_views.values().filter(|v| v.entity == "user") {
        let users = ["u2", "u3", "", "nobody"];
        let keys: Vec<_> = users.iter().map(|user| user_key(definitions, user)).collect();
        let at: Vec<Micros> = users.iter().map(|_| random_moment(&mut random, &world.all)).collect();
        let cut = springhouse_lake::Cut { stream_end: Some(50), table_cursor: None };
        let answers = world.project.lake.recompute(definitions, view, &keys, &at, &cut).await.unwrap();
        for ((user, at), answer) in users.iter().zip(&at).zip(answers) {
            let events: Vec<NaiveEvent> =
                world.events[view.source.as_str()].iter().filter(|e| e.stamp.seq < 50).cloned().collect();
            let key = [Value::string(*user)];
            let expected = naive_answer(definitions, view, &events, &key, *at, Availability::Known);
            assert_eq!(answer, expected, "{} of {user:?} at {at}", view.name);
        }
    }
}

#[tokio::test]
async fn what_a_killed_process_left_of_an_output_is_removed() {
    let mut random = Random::new("what_a_killed_process_left_of_an_output_is_removed");
    let world = world(&mut random, 40).await;
    let labels = random_labels(&mut random, &world.all, 5);
    write_parquet(&world.project.path("labels.parquet"), &label_batch(&labels), 23);
    let out = world.project.path("train.parquet");
    let names = ["old", "held", "new", "other"];
    let left = |name: &str| match name {
        "other" => world.project.path(".other.parquet.1.partial"),
        _ => world.project.path(&format!(".train.parquet.{name}.partial")),
    };
    for name in names {
        std::fs::write(left(name), "half").unwrap();
        if name != "new" {
            settle(&left(name), 0);
        }
    }
    let held = std::fs::File::open(left("held")).unwrap();
    held.lock().unwrap();
    world.project.lake.training_set(&world.project.request("labels.parquet", &out), &Silent).await.unwrap();
    let found: Vec<&str> = names.into_iter().filter(|name| left(name).exists()).collect();
    assert_eq!(found, ["held", "new", "other"]);
}

/// Writes a file's time long ago, as of one that was not written just now.
fn settle(path: &std::path::Path, seconds: u64) {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000 + seconds);
    std::fs::File::options().append(true).open(path).unwrap().set_modified(at).unwrap();
}

/// Rows read of a source by the readings of a kind.
fn rows_read(outcome: &TrainingOutcome, source: &str, kind: PassKind) -> u64 {
    let of_source = outcome.report.sources.iter().find(|s| s.source == source).unwrap();
    of_source.passes.iter().filter(|pass| pass.kind == kind).map(|pass| pass.rows).sum()
}

/// The files of the event cache.
fn cached_files(project: &Project) -> Vec<std::path::PathBuf> {
    fn below(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    below(&project.path(".springhouse/lake/_events"), &mut found);
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_event_cache_the_bytes_are_the_same_and_only_new_files_are_read() {
    let mut random = Random::new("with_an_event_cache_the_bytes_are_the_same_and_only_new_files_are_read");
    for round in 0..3 {
        let world = world(&mut random, 100 + 400 * round).await;
        let project = &world.project;
        for part in 0..3 {
            settle(&project.path(&format!("data/parts/{part}.parquet")), part);
        }
        settle(&project.path("data/lines.csv"), 9);
        settle(&project.path("data/history/2023/11/a.parquet"), 9);
        let out = project.path("train.parquet");
        let cached = project.lake.clone().with_event_cache(1 << 30);
        if round == 2 {
            // Then the tables of our own are old enough too.
            tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
        }
        for step in 0..6 {
            let labels = random_labels(&mut random, &world.all, if step == 3 { 3 } else { 300 });
            write_parquet(&project.path("labels.parquet"), &label_batch(&labels), 100);
            let mut request = project.request("labels.parquet", &out);
            // Rows meet labels while they are read, or are put aside, and spilled.
            request.memory_budget = [1 << 30, 0][random.below(2) as usize];
            request.availability = [Availability::Known, Availability::Event][random.below(2) as usize];
            if step == 2 {
                // A part of the features is in what was cached for all.
                request.services = vec!["plain".to_owned()];
            }
            project.lake.training_set(&request, &Silent).await.unwrap();
            let plain = std::fs::read(&out).unwrap();
            let outcome = cached.training_set(&request, &Silent).await.unwrap();
            assert!(plain == std::fs::read(&out).unwrap(), "round {round}, step {step}: other bytes");
            assert!(rows_read(&outcome, "parts", PassKind::Cached) > 0, "step {step}");
            let of_stream = outcome.report.sources.iter().any(|s| s.source == "pushed");
            if round == 2 && of_stream && step > 0 {
                assert_eq!(rows_read(&outcome, "pushed", PassKind::Events), 0);
            }
            let events = rows_read(&outcome, "parts", PassKind::Events);
            match step {
                0 => assert!(events > 0),
                // Another definition of nothing, the same files.
                1..=3 => assert_eq!(events, 0, "step {step}"),
                4 => assert!(events > 0, "a new file is read"),
                _ => assert_eq!(events, 0, "step {step}"),
            }
            if step == 3 {
                let event = random_events(&mut random, 50);
                write_parquet(&project.path("data/parts/3.parquet"), &event_batch(&event), 10);
                settle(&project.path("data/parts/3.parquet"), 100);
            }
        }
        // Two at once make it, and neither has another answer.
        let labels = random_labels(&mut random, &world.all, 300);
        write_parquet(&project.path("labels.parquet"), &label_batch(&labels), 100);
        std::fs::remove_dir_all(project.path(".springhouse/lake/_events")).unwrap();
        let outs = [project.path("one.parquet"), project.path("two.parquet")];
        let requests = outs.each_ref().map(|out| project.request("labels.parquet", out));
        let runtime = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            for request in &requests {
                scope.spawn(|| runtime.block_on(cached.training_set(request, &Silent)).unwrap());
            }
        });
        project.lake.training_set(&project.request("labels.parquet", &out), &Silent).await.unwrap();
        let plain = std::fs::read(&out).unwrap();
        assert!(outs.iter().all(|out| std::fs::read(out).unwrap() == plain));
    }
}

#[tokio::test]
async fn cached_events_are_never_stale_and_may_be_deleted_or_damaged() {
    let mut random = Random::new("cached_events_are_never_stale_and_may_be_deleted_or_damaged");
    let world = world(&mut random, 200).await;
    let project = &world.project;
    let out = project.path("train.parquet");
    let cached = project.lake.clone().with_event_cache(1 << 30);
    let labels = random_labels(&mut random, &world.all, 200);
    write_parquet(&project.path("labels.parquet"), &label_batch(&labels), 100);
    let request = project.request("labels.parquet", &out);
    // What was written just now is not cached: it could be written again at what its file says is the same moment.
    let outcome = cached.training_set(&request, &Silent).await.unwrap();
    assert_eq!(rows_read(&outcome, "parts", PassKind::Cached), 0);
    assert!(cached_files(project).is_empty());
    let compare = async |what: &str| {
        project.lake.training_set(&request, &Silent).await.unwrap();
        let plain = std::fs::read(&out).unwrap();
        let outcome = cached.training_set(&request, &Silent).await.unwrap();
        assert!(plain == std::fs::read(&out).unwrap(), "{what}: other bytes");
        outcome
    };
    for part in 0..3 {
        settle(&project.path(&format!("data/parts/{part}.parquet")), part);
    }
    compare("made").await;
    // A file is written again, with as many rows and bytes; one is taken away.
    let other = random_events(&mut random, 67);
    write_parquet(&project.path("data/parts/0.parquet"), &event_batch(&other), 17);
    settle(&project.path("data/parts/0.parquet"), 500);
    let outcome = compare("written again").await;
    assert!(rows_read(&outcome, "parts", PassKind::Events) >= 67);
    std::fs::remove_file(project.path("data/parts/1.parquet")).unwrap();
    compare("taken away").await;
    // What was made from files that are gone is gone too.
    assert_eq!(
        cached_files(project).iter().filter(|path| path.to_string_lossy().contains("/parts/")).count(),
        3
    );
    let outcome = compare("still").await;
    assert_eq!(rows_read(&outcome, "parts", PassKind::Events), 0);
    // Files that are not complete are none.
    for path in cached_files(project) {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1 - random.below(100) as usize]).unwrap();
    }
    let outcome = compare("cut off").await;
    assert!(rows_read(&outcome, "parts", PassKind::Events) > 0);
    // What is damaged is told, and never used.
    let damaged =
        cached_files(project).into_iter().find(|path| path.to_string_lossy().contains("parts")).unwrap();
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    let error = cached.training_set(&request, &Silent).await.unwrap_err();
    assert_eq!(error.code, "event_cache_corrupt", "{error}");
    std::fs::remove_dir_all(project.path(".springhouse/lake/_events")).unwrap();
    compare("deleted").await;
    // Where nothing can be written, nothing is cached, and that is all.
    std::fs::remove_dir_all(project.path(".springhouse/lake/_events")).unwrap();
    std::fs::write(project.directory.path().join(".springhouse/lake/_events"), "in the way").unwrap();
    let outcome = compare("in the way").await;
    assert_eq!(rows_read(&outcome, "parts", PassKind::Cached), 0);
    std::fs::remove_file(project.directory.path().join(".springhouse/lake/_events")).unwrap();
    compare("made again").await;
    // Smaller than a source: nothing is kept. Smaller than all: what was not used for longest goes.
    let none = project.lake.clone().with_event_cache(100);
    none.training_set(&request, &Silent).await.unwrap();
    assert!(cached_files(project).is_empty());
    compare("made anew").await;
    let bytes = |project: &Project| -> u64 {
        cached_files(project).iter().map(|path| std::fs::metadata(path).unwrap().len()).sum()
    };
    let all = bytes(project);
    let less = project.lake.clone().with_event_cache(all * 2 / 3);
    less.training_set(&request, &Silent).await.unwrap();
    assert!(bytes(project) <= all * 2 / 3);
    let plain = std::fs::read(&out).unwrap();
    project.lake.training_set(&request, &Silent).await.unwrap();
    assert!(plain == std::fs::read(&out).unwrap());
    assert!(!cached_files(project).iter().any(|path| path.to_string_lossy().contains(".unfinished")));
}
