//! A small project in a temporary directory, random events, and the naive way to answer a label.

use arrow::array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use springhouse_core::definition::{FeatureView, Source};
use springhouse_core::time::{DAY, HOUR, MINUTE, SECOND};
use springhouse_core::{Definitions, EntityKey, Micros, Value, load_definitions};
use springhouse_kernel::{EntityAnswer, Event, Stamp, ViewInput, ViewPlan};
use springhouse_lake::{Availability, Lake, OutputFormat, TrainingOutput, TrainingRequest};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use springhouse_lake::Silent;

/// A project in a temporary directory.
pub(crate) struct Project {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) definitions: Definitions,
    pub(crate) lake: Lake,
}

impl Project {
    pub(crate) fn new(yaml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let definitions = definitions(yaml);
        let lake = Lake::open(directory.path(), &directory.path().join(".springhouse/lake")).unwrap();
        Self { directory, definitions, lake }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(crate) fn source(&self, name: &str) -> &Source {
        &self.definitions.sources[name]
    }

    /// A request for the service `all`. `out` is kept below the project; its folder is made.
    pub(crate) fn request<'a>(&'a self, labels: &str, out: &'a Path) -> TrainingRequest<'a> {
        std::fs::create_dir_all(out.parent().unwrap()).unwrap();
        let out = TrainingOutput::File(out, OutputFormat::of(out).unwrap());
        TrainingRequest::new(&self.definitions, "hash", "all", self.path(labels), out, 512 << 20)
    }

    /// Names below the project that a job should not leave behind.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut folders = vec![self.directory.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if ["partial", "resume", "tmp"].iter().any(|word| name.contains(word)) {
                    left.push(name);
                } else if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        left
    }
}

pub(crate) fn definitions(yaml: &str) -> Definitions {
    let resolve = |definitions: &mut Definitions| {
        let problems = springhouse_expr::resolve_types(definitions).err().unwrap_or_default();
        problems
            .into_iter()
            .map(|(path, error)| springhouse_core::ExpressionProblem {
                path,
                message: error.message,
                hint: error.hint,
                column: error.column,
            })
            .collect()
    };
    let loaded = load_definitions(&[("test.yaml".into(), yaml.into())], &resolve);
    loaded.unwrap_or_else(|problems| panic!("{problems:#?}")).definitions
}

/// A small random generator with its seed in sight.
pub(crate) struct Random(u64);

impl Random {
    /// From `SPRINGHOUSE_TEST_SEED`, else from the clock; printed, so that a red run can be repeated.
    pub(crate) fn new(test: &str) -> Self {
        let seed =
            std::env::var("SPRINGHOUSE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                now.as_nanos() as u64 % 1_000_000_007
            });
        println!("{test}: SPRINGHOUSE_TEST_SEED={seed}");
        Self(seed.wrapping_mul(2) + 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One event of the test sources.
#[derive(Clone, Debug)]
pub(crate) struct TestEvent {
    pub(crate) id: i64,
    pub(crate) user: Option<String>,
    pub(crate) shop: i64,
    pub(crate) event_time: Micros,
    pub(crate) known_at: Micros,
    pub(crate) amount: Option<f64>,
    pub(crate) items: Option<i64>,
    pub(crate) kind: Option<String>,
}

pub(crate) const ORIGIN: Micros = 1_700_000_000 * SECOND;

/// Random events: equal times, times on and beside tile edges, late ones, nulls, NaN, redeliveries.
pub(crate) fn random_events(random: &mut Random, count: usize) -> Vec<TestEvent> {
    let mut events: Vec<TestEvent> = Vec::with_capacity(count);
    for id in 0..count as i64 {
        if !events.is_empty() && random.chance(5) {
            // The same event again, known later.
            let mut again = events[random.below(events.len() as u64) as usize].clone();
            again.known_at += random.below(2 * HOUR as u64) as i64;
            events.push(again);
            continue;
        }
        let mut event_time = ORIGIN + random.below(5 * DAY as u64) as i64;
        if random.chance(20) {
            event_time = event_time.div_euclid(HOUR) * HOUR + random.below(3) as i64 - 1;
        }
        if !events.is_empty() && random.chance(20) {
            event_time = events[random.below(events.len() as u64) as usize].event_time;
        }
        let late = match random.below(4) {
            0 => random.below(6 * HOUR as u64) as i64,
            1 => 1,
            _ => 0,
        };
        events.push(TestEvent {
            id,
            user: (!random.chance(3)).then(|| match random.below(6) {
                0 => "a name that is longer than fifteen bytes".to_owned(),
                1 => String::new(),
                n => format!("u{n}"),
            }),
            shop: random.below(3) as i64 - 1,
            event_time,
            known_at: event_time + late,
            amount: match random.below(10) {
                0 => None,
                1 => Some(f64::NAN),
                2 => Some(0.1),
                _ => Some(random.below(1_000_000) as f64 / 64.0 - 3000.0),
            },
            items: (!random.chance(10)).then(|| random.below(20) as i64 - 3),
            kind: (!random.chance(10)).then(|| format!("k{}", random.below(3))),
        });
    }
    events
}

pub(crate) fn timestamps(values: impl IntoIterator<Item = Option<Micros>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

/// The events as a table.
pub(crate) fn event_batch(events: &[TestEvent]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(events.iter().map(|e| Some(e.id)).collect::<Int64Array>())),
        ("user", Arc::new(events.iter().map(|e| e.user.clone()).collect::<StringArray>())),
        ("shop", Arc::new(events.iter().map(|e| Some(e.shop)).collect::<Int64Array>())),
        ("at", timestamps(events.iter().map(|e| Some(e.event_time)))),
        ("known", timestamps(events.iter().map(|e| Some(e.known_at)))),
        ("amount", Arc::new(events.iter().map(|e| e.amount).collect::<Float64Array>())),
        ("items", Arc::new(events.iter().map(|e| e.items).collect::<Int64Array>())),
        ("kind", Arc::new(events.iter().map(|e| e.kind.clone()).collect::<StringArray>())),
    ];
    batch(columns)
}

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

pub(crate) fn write_parquet(path: &Path, batch: &RecordBatch, row_group_rows: usize) {
    write_parquet_as(path, batch, row_group_rows, WriterProperties::builder());
}

/// The same with the values one after the other, as measured numbers are best kept.
pub(crate) fn write_plain_parquet(path: &Path, batch: &RecordBatch, row_group_rows: usize) {
    write_parquet_as(path, batch, row_group_rows, WriterProperties::builder().set_dictionary_enabled(false));
}

fn write_parquet_as(
    path: &Path,
    batch: &RecordBatch,
    row_group_rows: usize,
    properties: WriterPropertiesBuilder,
) {
    // Several pages a row group, so that some can be left out.
    let page_rows = (row_group_rows / 8).max(1);
    let properties = properties
        .set_max_row_group_row_count(Some(row_group_rows))
        .set_data_page_row_count_limit(page_rows)
        .set_write_batch_size(page_rows)
        .build();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

pub(crate) fn write_csv(path: &Path, batch: &RecordBatch) {
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(File::create(path).unwrap());
    writer.write(batch).unwrap();
}

pub(crate) fn read_parquet(path: &Path) -> RecordBatch {
    let reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap());
    let reader = reader.unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// An event as the naive way sees it: its key and stamp, and its row by column name.
#[derive(Clone, Debug)]
pub(crate) struct NaiveEvent {
    pub(crate) id: Option<i64>,
    pub(crate) stamp: Stamp,
    pub(crate) row: BTreeMap<&'static str, Value>,
}

pub(crate) fn naive(event: &TestEvent, known_at: Micros, seq: i64, with_id: bool) -> NaiveEvent {
    let row = BTreeMap::from([
        ("id", Value::Int64(event.id)),
        ("user", event.user.clone().map_or(Value::Null, Value::string)),
        ("shop", Value::Int64(event.shop)),
        ("at", Value::Timestamp(event.event_time)),
        ("amount", event.amount.map_or(Value::Null, Value::Float64)),
        ("items", event.items.map_or(Value::Null, Value::Int64)),
        ("kind", event.kind.clone().map_or(Value::Null, Value::string)),
    ]);
    NaiveEvent {
        id: with_id.then_some(event.id),
        stamp: Stamp { event_time: event.event_time, known_at, seq },
        row,
    }
}

/// The predicates that the test definitions use.
pub(crate) fn holds(sql: &str, row: &BTreeMap<&'static str, Value>) -> bool {
    match sql {
        "items > 2" => matches!(row["items"], Value::Int64(n) if n > 2),
        "kind = 'k1'" => row["kind"] == Value::string("k1"),
        "shop >= 0" => matches!(row["shop"], Value::Int64(n) if n >= 0),
        other => panic!("the naive way does not know `{other}`"),
    }
}

/// The plan of a view.
pub(crate) fn plan(definitions: &Definitions, view: &FeatureView) -> ViewPlan {
    let types: BTreeMap<_, _> = definitions.sources[&view.source].schema().into_iter().collect();
    ViewPlan::compile(view, &|name| types.get(name).cloned()).unwrap()
}

/// The answer by folding every event of the entity that is known into an empty state, one by one.
pub(crate) fn naive_answer(
    definitions: &Definitions,
    view: &FeatureView,
    events: &[NaiveEvent],
    key: &[Value],
    at: Micros,
    availability: Availability,
) -> EntityAnswer {
    let plan = plan(definitions, view);
    let mut mine: Vec<NaiveEvent> = events
        .iter()
        .filter(|e| view.key_columns.iter().zip(key).all(|(column, value)| e.row[column.as_str()] == *value))
        .filter(|e| view.filter.as_deref().is_none_or(|sql| holds(sql, &e.row)))
        .cloned()
        .collect();
    if availability == Availability::Event {
        mine.iter_mut().for_each(|e| e.stamp.known_at = e.stamp.event_time);
    }
    mine.sort_by_key(|e| (e.stamp.known_at, e.stamp.seq));
    let mut seen = std::collections::HashSet::new();
    let mut state = plan.empty();
    for event in mine {
        if event.id.is_some_and(|id| !seen.insert(id)) {
            continue;
        }
        let values = plan.inputs().iter().map(|input| match input {
            ViewInput::Column { name, .. } => event.row[name.as_str()].clone(),
            ViewInput::Predicate { sql } => Value::Bool(holds(sql, &event.row)),
        });
        plan.insert(&mut state, Event { stamp: event.stamp, values: values.collect() }, at);
    }
    plan.read(&state, at)
}

/// The encoded key of a user.
pub(crate) fn user_key(definitions: &Definitions, user: &str) -> EntityKey {
    EntityKey::encode(&definitions.entities["user"].keys, &[Value::string(user)]).unwrap()
}

/// Label moments: at random, and on and beside what matters.
pub(crate) fn random_moment(random: &mut Random, events: &[TestEvent]) -> Micros {
    if events.is_empty() || random.chance(50) {
        return ORIGIN + random.below(6 * DAY as u64) as i64 - DAY / 2;
    }
    let event = &events[random.below(events.len() as u64) as usize];
    let at = match random.below(5) {
        0 => event.event_time,
        1 => event.known_at,
        2 => event.known_at + HOUR,
        3 => event.event_time + DAY,
        _ => event.known_at.div_euclid(MINUTE) * MINUTE,
    };
    at + random.below(3) as i64 - 1
}

/// The value at a row of an output column.
pub(crate) fn value(batch: &RecordBatch, column: &str, row: usize) -> Value {
    let array = batch
        .column_by_name(column)
        .unwrap_or_else(|| panic!("no column `{column}` in {:?}", batch.schema()));
    if array.is_null(row) {
        return Value::Null;
    }
    let value_type =
        springhouse_kernel::value_type_of(array.data_type()).unwrap_or_else(|| match array.data_type() {
            DataType::List(_) => panic!("column `{column}` has no value type: {:?}", array.data_type()),
            other => panic!("{other:?}"),
        });
    springhouse_kernel::value_at(array, row, &value_type)
}
