//! What else may be asked of a training set: features, services, samples, queries, formats; always the values that the plain
//! training set has.

use crate::support::*;
use crate::training::{Label, World, label_batch, random_labels, world};
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, RecordBatchIterator, StringArray,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::DataType;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use springhouse_lake::{
    CollectedBatches, LabelRows, LabelSource, OutputFormat, PassKind, Sample, SampleSize, TrainingOutcome,
    TrainingOutput, TrainingRequest, ViewWay,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

async fn labelled(test: &str, events: usize, labels: usize) -> (World, Vec<Label>, RecordBatch) {
    let mut random = Random::new(test);
    let world = world(&mut random, events).await;
    let labels = random_labels(&mut random, &world.all, labels);
    let given = label_batch(&labels);
    write_parquet(&world.project.path("labels.parquet"), &given, 37);
    (world, labels, given)
}

/// Makes a training set into `train.parquet` and reads it.
async fn made(
    world: &World,
    change: impl FnOnce(&mut TrainingRequest<'_>),
) -> (RecordBatch, TrainingOutcome) {
    let out = world.project.path("train.parquet");
    let mut request = world.project.request("labels.parquet", &out);
    change(&mut request);
    let outcome = world.project.lake.training_set(&request, &Silent).await.unwrap();
    (read_parquet(&out), outcome)
}

fn names(batch: &RecordBatch) -> Vec<String> {
    batch.schema().fields().iter().map(|field| field.name().clone()).collect()
}

const LABEL_COLUMNS: usize = 5;

#[tokio::test]
async fn features_come_in_the_order_asked_and_are_the_plain_ones() {
    let (world, ..) = labelled("features_come_in_the_order_asked", 150, 80).await;
    let (all, _) = made(&world, |_| {}).await;
    let asked = ["pl_lifetime", "parts_latest:p_kind", "scaled", "lines_latest", "pushed_windows:*"];
    let expected = [
        "pl_lifetime",
        "p_kind",
        "scaled",
        "l_amount",
        "l_kind",
        "sw_count_1h",
        "sw_count_2d",
        "sw_sum_1h",
        "sw_sum_2d",
    ];
    for services in [vec!["all".to_owned()], vec![]] {
        let (some, outcome) = made(&world, |request| {
            request.services = services.clone();
            request.features = asked.map(str::to_owned).to_vec();
        })
        .await;
        let mut got = names(&some)[LABEL_COLUMNS..].to_vec();
        got[5..].sort();
        assert_eq!(got, expected);
        for name in &got {
            assert_eq!(some.column_by_name(name), all.column_by_name(name), "{name}");
        }
        // Of `parts_windows` only the feature asked for and the input of `scaled` were computed.
        let views = &outcome.report.views;
        let view = views.iter().find(|view| view.view == "parts_windows").unwrap();
        assert_eq!((view.features, view.way), (2, ViewWay::Aggregate));
        assert!(
            views.iter().all(|view| view.view != "parts_visits"),
            "a view that nobody asked for was read"
        );
    }
}

#[tokio::test]
async fn several_services_share_columns_where_they_agree() {
    let (world, ..) = labelled("several_services_share_columns", 200, 150).await;
    let (together, outcome) =
        made(&world, |request| request.services = vec!["plain".into(), "careful".into()]).await;
    let columns = names(&together)[LABEL_COLUMNS..].to_vec();
    assert_eq!(columns.iter().collect::<BTreeSet<_>>().len(), columns.len(), "{columns:?}");
    assert_eq!(columns[..2], ["plain/parts_latest:p_amount", "d_amount"]);
    let mut differ = false;
    for service in outcome.manifest["services"].as_array().unwrap() {
        let name = service["name"].as_str().unwrap();
        let (alone, _) = made(&world, |request| request.services = vec![name.to_owned()]).await;
        let own = service["columns"].as_object().unwrap();
        assert_eq!(own.len(), names(&alone).len() - LABEL_COLUMNS);
        for (own, column) in own {
            let column = column.as_str().unwrap();
            assert_eq!(
                together.column_by_name(column).unwrap(),
                alone.column_by_name(own).unwrap(),
                "{name} {own}"
            );
        }
        differ |= own["p_amount"] == "careful/parts_latest:p_amount";
    }
    assert!(differ);
    // A service beside itself is itself.
    let (once, _) = made(&world, |request| request.services = vec!["plain".into()]).await;
    let (twice, _) = made(&world, |request| request.services = vec!["plain".into(), "plain".into()]).await;
    assert_eq!(once, twice);
}

#[tokio::test]
async fn a_sample_is_the_same_rows_of_the_whole() {
    let (world, _, given) = labelled("a_sample_is_the_same_rows_of_the_whole", 120, 300).await;
    let (all, _) = made(&world, |_| {}).await;
    let extra = |batch: &RecordBatch| -> Vec<i32> {
        batch.column(0).as_primitive::<arrow::datatypes::Int32Type>().values().to_vec()
    };
    let mut seen = BTreeSet::new();
    for (size, seed) in [("40", 0), ("40", 1), ("20%", 0), ("1000", 0)] {
        let size: SampleSize = size.parse().unwrap();
        let sample = Sample { size, seed };
        let (some, outcome) = made(&world, |request| request.sample = Some(sample)).await;
        let rows = extra(&some);
        let mask: arrow::array::BooleanArray =
            extra(&all).iter().map(|row| Some(rows.contains(row))).collect();
        assert_eq!(some, filter_record_batch(&all, &mask).unwrap());
        match size {
            SampleSize::Rows(rows) => assert_eq!(some.num_rows(), (rows as usize).min(given.num_rows())),
            SampleSize::Share(_) => assert!((30..100).contains(&some.num_rows()), "{}", some.num_rows()),
        }
        assert_eq!(outcome.manifest["labels"]["rows"], some.num_rows());
        // The labels may come in any files and batches.
        let reader = RecordBatchIterator::new(
            [Ok(given.slice(0, 33)), Ok(given.slice(33, given.num_rows() - 33))],
            given.schema(),
        );
        let rows_in_memory = LabelRows::read(&mut { reader }).unwrap();
        let (from_memory, _) = made(&world, |request| {
            request.labels = rows_in_memory.into();
            request.sample = Some(sample);
        })
        .await;
        assert_eq!(from_memory, some);
        seen.insert(rows);
    }
    assert_eq!(seen.len(), 4, "another seed takes other rows");
}

#[tokio::test]
async fn labels_from_a_query_are_its_rows() {
    let (world, labels, given) = labelled("labels_from_a_query_are_its_rows", 120, 200).await;
    let path = world.project.path("labels.parquet");
    let (all, _) = made(&world, |_| {}).await;
    let sql = format!(
        "SELECT \"extra\", user, shop, event_timestamp, scale, scale * 2 AS twice, upper(user) AS loud FROM '{}' \
         WHERE scale >= 2 AND user IS NOT NULL",
        path.display()
    );
    let wanted: Vec<bool> = labels.iter().map(|label| label.scale >= 2 && label.user.is_some()).collect();
    let mask = arrow::array::BooleanArray::from(wanted);
    let expected = filter_record_batch(&all, &mask).unwrap();
    let (some, outcome) = made(&world, |request| request.labels = LabelSource::Query(sql.clone())).await;
    assert_eq!(outcome.manifest["labels"]["query"], sql);
    assert_eq!(some.num_rows(), expected.num_rows());
    assert!(some.num_rows() > 10);
    for name in names(&expected) {
        assert_eq!(some.column_by_name(&name), expected.column_by_name(&name), "{name}");
    }
    for row in 0..some.num_rows() {
        let (springhouse_core::Value::Int64(scale), springhouse_core::Value::Int64(twice)) =
            (value(&some, "scale", row), value(&some, "twice", row))
        else {
            panic!("numbers are numbers");
        };
        assert_eq!(twice, scale * 2);
    }
    // A sample of a query samples what is left; `*` is every column; names may be given.
    let sql = format!("SELECT * FROM '{}' WHERE scale >= 2 AND user IS NOT NULL", path.display());
    let (sampled, _) = made(&world, |request| {
        request.labels = LabelSource::Query(sql);
        request.sample = Some(Sample { size: SampleSize::Rows(7), seed: 5 });
    })
    .await;
    assert_eq!(sampled.num_rows(), 7);
    // Keys and moments may be computed: texts of a CSV file too.
    let csv = batch(vec![
        ("who", given.column_by_name("user").unwrap().clone()),
        ("store", given.column_by_name("shop").unwrap().clone()),
        (
            "day",
            Arc::new(
                labels
                    .iter()
                    .map(|l| Some(springhouse_core::time::format_instant(l.at)))
                    .collect::<StringArray>(),
            ),
        ),
        ("scale", given.column_by_name("scale").unwrap().clone()),
    ]);
    write_csv(&world.project.path("more/labels.csv"), &csv);
    let sql = format!(
        "SELECT who AS user, store AS shop, day + INTERVAL '1 hour' AS event_timestamp, scale FROM '{}'",
        world.project.path("more/*.csv").display()
    );
    let (later, _) = made(&world, |request| request.labels = LabelSource::Query(sql)).await;
    assert_eq!(
        value(&later, "event_timestamp", 3),
        springhouse_core::Value::Timestamp(labels[3].at + springhouse_core::time::HOUR)
    );
}

#[tokio::test]
async fn labels_may_be_arrow_csv_parts_or_rows_in_memory() {
    let (world, _, given) = labelled("labels_may_be_arrow_csv_parts_or_rows_in_memory", 100, 150).await;
    let (all, whole) = made(&world, |_| {}).await;
    let parquet = std::fs::read(world.project.path("train.parquet")).unwrap();
    let (first, second) = (given.slice(0, 61), given.slice(61, given.num_rows() - 61));
    let mut file =
        FileWriter::try_new(File::create(world.project.path("a/labels.arrow")).unwrap(), &given.schema())
            .unwrap();
    file.write(&first).unwrap();
    file.write(&second).unwrap();
    file.finish().unwrap();
    let mut stream =
        StreamWriter::try_new(File::create(world.project.path("b/labels.arrows")).unwrap(), &given.schema())
            .unwrap();
    stream.write(&first).unwrap();
    stream.write(&second).unwrap();
    stream.finish().unwrap();
    write_parquet(&world.project.path("c/0.parquet"), &first, 10);
    write_parquet(&world.project.path("c/1.parquet"), &second, 10);
    for name in ["a/labels.arrow", "a", "b/labels.arrows", "b/*.arrows", "c", "c/[01].parquet"] {
        made(&world, |request| request.labels = world.project.path(name).into()).await;
        let bytes = std::fs::read(world.project.path("train.parquet")).unwrap();
        assert!(bytes == parquet, "{name} made another training set");
    }
    // Rows in memory, in the layouts of frame libraries; their hash is that of their values.
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let mut hashes = BTreeSet::new();
    for layout in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View, dictionary] {
        let columns: Vec<(String, ArrayRef)> = given
            .schema()
            .fields()
            .iter()
            .zip(given.columns())
            .map(|(field, column)| {
                let is_text = column.data_type() == &DataType::Utf8;
                let column =
                    if is_text { arrow::compute::cast(column, &layout).unwrap() } else { column.clone() };
                (field.name().clone(), column)
            })
            .collect();
        let rows =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        for cut in [0, 10, 77] {
            let parts = [Ok(rows.slice(0, cut)), Ok(rows.slice(cut, rows.num_rows() - cut))];
            let labels = LabelRows::read(&mut RecordBatchIterator::new(parts, rows.schema())).unwrap();
            assert_eq!(labels.row_count(), given.num_rows() as u64);
            let (same, outcome) = made(&world, |request| request.labels = labels.into()).await;
            assert_eq!(same, all);
            assert_eq!(outcome.manifest["labels"]["name"], "table");
            hashes.insert(outcome.manifest["labels"]["hash"].to_string());
        }
    }
    assert_eq!(hashes.len(), 1, "{hashes:?}");
    assert!(!hashes.contains(&whole.manifest["labels"]["hash"].to_string()));
    // CSV files of one table agree on types, even if one of them alone would say another.
    for (name, weights) in [("d/0.csv", ["1", "2"]), ("d/1.csv", ["0.5", "3"])] {
        let part = batch(vec![
            ("user", Arc::new(StringArray::from(vec!["u1", "u2"]))),
            ("shop", Arc::new(Int64Array::from(vec![1, 0]))),
            ("event_timestamp", Arc::new(StringArray::from(vec!["2023-11-15T00:00:00Z"; 2]))),
            ("scale", Arc::new(Int64Array::from(vec![1, 1]))),
            ("weight", Arc::new(StringArray::from(weights.to_vec()))),
        ]);
        write_csv(&world.project.path(name), &part);
    }
    let (lines, _) = made(&world, |request| request.labels = world.project.path("d").into()).await;
    assert_eq!(
        lines.column_by_name("weight").unwrap().as_ref(),
        &Float64Array::from(vec![1.0, 2.0, 0.5, 3.0]) as &dyn Array
    );
}

#[tokio::test]
async fn every_format_has_the_same_values() {
    let (world, ..) = labelled("every_format_has_the_same_values", 120, 150).await;
    let (parquet, _) = made(&world, |_| {}).await;
    async fn write_as<'a>(world: &'a World, out: TrainingOutput<'a>) {
        let nowhere = world.project.path("nowhere.parquet");
        let mut request = world.project.request("labels.parquet", &nowhere);
        // The formats differ in nothing else.
        let request: &mut TrainingRequest<'_> = &mut request;
        let labels = request.labels.clone();
        let request = TrainingRequest::new(&world.project.definitions, "hash", "all", labels, out, 512 << 20);
        let outcome = world.project.lake.training_set(&request, &Silent).await.unwrap();
        assert_eq!(outcome.rows, outcome.manifest["rows"].as_u64().unwrap());
    }
    let together = |batches: Vec<RecordBatch>| concat_batches(&batches[0].schema(), &batches).unwrap();
    let path = world.project.path("train.arrow");
    write_as(&world, TrainingOutput::File(&path, OutputFormat::of(&path).unwrap())).await;
    let file = FileReader::try_new(File::open(&path).unwrap(), None).unwrap();
    assert_eq!(together(file.map(Result::unwrap).collect()), parquet);

    let path = world.project.path("train.arrows");
    write_as(&world, TrainingOutput::File(&path, OutputFormat::of(&path).unwrap())).await;
    let bytes = std::fs::read(&path).unwrap();
    let stream = StreamReader::try_new(bytes.as_slice(), None).unwrap();
    assert_eq!(together(stream.map(Result::unwrap).collect()), parquet);

    struct Bytes(Arc<Mutex<Vec<u8>>>);
    impl Write for Bytes {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let written = Arc::new(Mutex::new(Vec::new()));
    let writer = Mutex::new(Bytes(Arc::clone(&written)));
    write_as(&world, TrainingOutput::Writer(&writer, OutputFormat::ArrowStream)).await;
    assert_eq!(*written.lock().unwrap(), bytes);
    written.lock().unwrap().clear();
    write_as(&world, TrainingOutput::Writer(&writer, OutputFormat::Csv)).await;
    let path = world.project.path("train.csv");
    write_as(&world, TrainingOutput::File(&path, OutputFormat::of(&path).unwrap())).await;
    assert_eq!(*written.lock().unwrap(), std::fs::read(&path).unwrap());
    compare_csv(&path, &parquet);

    let collected = CollectedBatches::default();
    write_as(&world, TrainingOutput::Batches(&collected)).await;
    assert_eq!(together(collected.into_batches()), parquet);
    assert_eq!(world.project.left_behind(), [""; 0]);
}

/// Every cell of a CSV file against the value that it stands for.
fn compare_csv(path: &Path, expected: &RecordBatch) {
    let text = std::fs::read_to_string(path).unwrap();
    let (schema, _) =
        arrow::csv::reader::Format::default().with_header(true).infer_schema(text.as_bytes(), None).unwrap();
    assert_eq!(
        schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>(),
        names(expected),
        "the header has the columns"
    );
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|f| arrow::datatypes::Field::new(f.name(), DataType::Utf8, true))
        .collect();
    let texts = arrow::csv::ReaderBuilder::new(Arc::new(arrow::datatypes::Schema::new(fields)))
        .with_header(true)
        .with_batch_size(expected.num_rows())
        .build(text.as_bytes())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(texts.num_rows(), expected.num_rows());
    for (column, name) in names(expected).iter().enumerate() {
        let cells = texts.column(column).as_string::<i32>();
        for row in 0..expected.num_rows() {
            let cell = cells.is_valid(row).then(|| cells.value(row));
            let (value, text) = (value(expected, name, row), cell.unwrap_or_default());
            match value {
                springhouse_core::Value::Null => assert_eq!(text, "", "{name} {row}"),
                springhouse_core::Value::Float64(v) => {
                    assert_eq!(text.parse::<f64>().unwrap().to_bits(), v.to_bits(), "{name} {row}")
                }
                springhouse_core::Value::Int64(v) => assert_eq!(text, v.to_string()),
                springhouse_core::Value::Int32(v) => assert_eq!(text, v.to_string()),
                springhouse_core::Value::String(v) => assert_eq!(text, &*v),
                springhouse_core::Value::Timestamp(at) => {
                    assert_eq!(springhouse_core::time::parse_instant(text).unwrap(), at, "{name} {row}")
                }
                nested => {
                    let json: serde_json::Value = serde_json::from_str(text).unwrap();
                    assert!(json.is_array(), "{name} {row}: {nested:?} is {text}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_report_says_what_is_read_and_what_is_left_out() {
    let project = Project::new(
        "
entities: {user: {keys: {user: string}}}
sources:
  parts:
    table: data/parts.parquet
    event_time: at
    columns: {user: string, at: timestamp!, amount: float64, kind: string}
feature_views:
  latest: {entity: user, source: parts, ttl: 1d, features: {amount: amount, kind: kind}}
  windows: {entity: user, source: parts, ttl: 1d, aggregate: {n: {fn: [count, sum], column: amount, windows: [1h]}}}
feature_services: {all: {features: [latest:amount, windows]}}
",
    );
    // Ten row groups of ten rows, an hour apart; each row is a page.
    let rows = 100i64;
    let hour = springhouse_core::time::HOUR;
    let parts = batch(vec![
        ("user", Arc::new((0..rows).map(|_| Some("a")).collect::<StringArray>())),
        ("at", timestamps((0..rows).map(|n| Some(ORIGIN + n * hour)))),
        ("amount", Arc::new((0..rows).map(|n| Some(n as f64)).collect::<Float64Array>())),
        ("kind", Arc::new((0..rows).map(|_| Some("k")).collect::<StringArray>())),
    ]);
    write_parquet(&project.path("data/parts.parquet"), &parts, 10);
    let labels = batch(vec![
        ("user", Arc::new(StringArray::from(vec!["a", "nobody"]))),
        ("event_timestamp", timestamps([Some(ORIGIN + 45 * hour), Some(ORIGIN + 45 * hour)])),
    ]);
    write_parquet(&project.path("labels.parquet"), &labels, 10);
    let out = project.path("train.parquet");
    let request = project.request("labels.parquet", &out);
    let planned = project.lake.training_plan(&request).await.unwrap();
    assert!(!out.exists() && planned.made.is_none());
    assert_eq!((planned.labels.rows, planned.labels.first), (Some(2), Some(ORIGIN + 45 * hour)));
    let made = project.lake.training_set(&request, &Silent).await.unwrap().report;
    let passes = |report: &springhouse_lake::TrainingReport| {
        let passes = report.sources[0].passes.iter();
        passes
            .map(|pass| (pass.kind, pass.parts, pass.parts_pruned, pass.rows, pass.at_most))
            .collect::<Vec<_>>()
    };
    // Latest values: any row up to the label may be the one; then one row group holds it. Windows: one hour before, and of that
    // row group two pages.
    assert_eq!(
        passes(&planned),
        [
            (PassKind::Events, 10, 5, 50, false),
            (PassKind::Rows, 10, 5, 50, true),
            (PassKind::Events, 10, 9, 2, false)
        ]
    );
    assert_eq!(
        passes(&made),
        [
            (PassKind::Events, 10, 5, 50, false),
            (PassKind::Events, 10, 9, 2, false),
            (PassKind::Rows, 10, 9, 10, false)
        ]
    );
    let pass = &made.sources[0].passes[2];
    assert_eq!(pass.columns, ["amount"]);
    assert!(pass.bytes > 0 && pass.bytes_pruned > pass.bytes);
    let latest = &made.views[0];
    assert_eq!((latest.features, latest.features_defined, latest.way), (1, 2, ViewWay::LatestRow));
    let took = made.made.unwrap();
    assert_eq!((took.rows, took.spilled_bytes), (2, 0));
    assert!(took.stages.iter().any(|stage| stage.stage == "write"));
}

#[tokio::test]
async fn parts_without_any_of_few_entities_are_left_out_and_answers_are_the_same() {
    let mut random = Random::new("parts_without_any_of_few_entities_are_left_out_and_answers_are_the_same");
    let yaml = |key: &str| {
        format!(
            "
entities: {{entity: {{keys: {{key: {key}}}}}}}
sources:
  rows:
    table: data/rows.parquet
    event_time: at
    columns: {{key: {key}, at: timestamp!, amount: float64}}
feature_views:
  latest: {{entity: entity, source: rows, ttl: 1d, features: {{amount: amount}}}}
  windows: {{entity: entity, source: rows, ttl: 1d, aggregate: {{n: {{fn: [count, sum], column: amount, windows: [1h]}}}}}}
feature_services: {{all: {{features: [latest, windows]}}}}
"
        )
    };
    // Bounds of long texts are cut short in the statistics: nothing is left out by them, and nothing is lost.
    for (key, length, prunes) in [("string", 10, true), ("string", 100, false), ("int64", 0, true)] {
        let keys = |numbers: &[i64]| -> ArrayRef {
            match key {
                "string" => Arc::new(
                    numbers
                        .iter()
                        .map(|n| Some(format!("{}{n:04}", "x".repeat(length))))
                        .collect::<StringArray>(),
                ),
                _ => Arc::new(numbers.iter().map(|n| Some(*n - 500)).collect::<Int64Array>()),
            }
        };
        let minute = springhouse_core::time::MINUTE;
        let mut rows: Vec<(i64, i64)> =
            (0..2_000).map(|_| (random.below(1_000) as i64, random.below(100) as i64)).collect();
        let asked: Vec<i64> = vec![7, 7, 430, 999, 1_000, -1];
        let at = |minutes: &[i64]| timestamps(minutes.iter().map(|m| Some(ORIGIN + m * minute)));
        let labels = batch(vec![("key", keys(&asked)), ("event_timestamp", at(&[50, 99, 99, 99, 99, 99]))]);
        let mut made = Vec::new();
        // Forty row groups; then one, of pages of 250 rows.
        for (is_sorted, group_rows) in [(false, 50), (false, 2_000), (true, 50), (true, 2_000)] {
            if is_sorted {
                // Stable: rows of an entity stay in the order of arrival, which decides between rows of one moment.
                rows.sort_by_key(|(key, _)| *key);
            }
            let (numbers, minutes): (Vec<i64>, Vec<i64>) = rows.iter().copied().unzip();
            let amounts = rows.iter().map(|(key, minute)| Some((key * 1_000 + minute) as f64));
            let table = batch(vec![
                ("key", keys(&numbers)),
                ("at", at(&minutes)),
                ("amount", Arc::new(amounts.collect::<Float64Array>())),
            ]);
            let project = Project::new(&yaml(key));
            write_parquet(&project.path("data/rows.parquet"), &table, group_rows);
            write_parquet(&project.path("labels.parquet"), &labels, 50);
            let out = project.path("train.parquet");
            let request = project.request("labels.parquet", &out);
            let report = project.lake.training_set(&request, &Silent).await.unwrap().report;
            let events = report.sources[0].passes.iter().filter(|pass| pass.kind == PassKind::Events);
            for pass in events.filter(|_| is_sorted && prunes) {
                // Three entities are there, in a group or two each, and at most as many pages.
                let (pruned, rows) = if group_rows == 50 { (34, 150) } else { (0, 1_500) };
                assert!(pass.parts_pruned >= pruned && pass.rows <= rows, "{key}: {pass:?}");
                assert!(pass.bytes_pruned > 0, "{key}: {pass:?}");
            }
            let seen = report.sources[0].passes.iter().find(|pass| pass.kind == PassKind::Rows);
            if group_rows == 2_000 {
                // A row or none of each label, in as many pages at most.
                assert!(seen.is_some_and(|pass| pass.rows <= 6 && pass.bytes_pruned > 0), "{key}: {seen:?}");
            }
            made.push(read_parquet(&out));
        }
        assert!(made.iter().all(|other| *other == made[0]), "{key}");
    }
}
