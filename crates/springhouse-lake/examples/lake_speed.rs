//! How fast the lake is, on data of the shape that public benchmarks of point-in-time joins use: labels against latest views
//! of ten doubles, popular and rare entities, a hundredth of the rows corrected later.
//!
//! ```text
//! lake_speed make DIR LABELS VIEWS ROWS ENTITIES    labels.parquet and view0.parquet ... in DIR
//! lake_speed train DIR VIEWS                        a training set over all views
//! lake_speed windows DIR                            windows over view0
//! lake_speed materialize DIR latest|windows         view0 into the in-memory store
//! ```
#![expect(clippy::print_stdout, reason = "a measurement prints what it measured")]

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use springhouse_core::{Definitions, load_definitions};
use springhouse_kernel::ViewPlan;
use springhouse_lake::{
    Availability, Lake, MaterializeRequest, OutputFormat, Progress, TrainingOutput, TrainingRequest,
};
use springhouse_online::{MemoryStore, OnlineStore, ViewHandle};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const START: i64 = 1_735_689_600_000_000;
const SPAN_MS: u64 = 90 * 86_400 * 1000;

/// Prints when a stage begins and how long it took.
struct Stages(Mutex<(Option<&'static str>, Instant)>);

impl Stages {
    fn new() -> Self {
        Self(Mutex::new((None, Instant::now())))
    }

    fn end(&self) {
        let mut state = self.0.lock().expect("no panic holds it");
        if let (Some(stage), since) = *state {
            println!("  {stage}: {:.2} s", since.elapsed().as_secs_f64());
        }
        *state = (None, Instant::now());
    }
}

impl Progress for Stages {
    fn report(&self, stage: &'static str, _: u64, _: u64) {
        let mut state = self.0.lock().expect("no panic holds it");
        if state.0 != Some(stage) {
            if let (Some(before), since) = *state {
                println!("  {before}: {:.2} s", since.elapsed().as_secs_f64());
            }
            *state = (Some(stage), Instant::now());
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An entity: popularity falls with the power -0.9 of the rank.
    fn entity(&mut self, count: u64) -> i64 {
        let (low, high) = (20f64.powf(0.1), (count as f64 + 20.0).powf(0.1));
        let rank = (low + self.unit() * (high - low)).powi(10) - 20.0;
        let rank = (rank as u64).min(count - 1);
        (rank.wrapping_mul(0x9e37_79b9) % count) as i64
    }

    fn moment(&mut self) -> i64 {
        START + (self.next() % SPAN_MS) as i64 * 1000
    }
}

fn write(path: &Path, columns: Vec<(&str, Vec<ArrayRef>)>) {
    let fields: Vec<Field> =
        columns.iter().map(|(name, parts)| Field::new(*name, parts[0].data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(250_000))
        .build();
    let file = File::create(path).expect("the directory is writable");
    let mut writer =
        ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).expect("a valid schema");
    for part in 0..columns[0].1.len() {
        let arrays = columns.iter().map(|(_, parts)| Arc::clone(&parts[part])).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).expect("arrays of one length");
        writer.write(&batch).expect("the disk has space");
    }
    writer.close().expect("the disk has space");
}

fn times(values: &[i64]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values.to_vec()))
}

fn make(directory: &Path, labels: usize, views: usize, rows: usize, entities: u64) {
    std::fs::create_dir_all(directory).expect("the directory can be made");
    let mut random = Random(7);
    let mut at: Vec<i64> = (0..labels).map(|_| random.moment()).collect();
    at.sort_unstable();
    let keys: Int64Array = (0..labels).map(|_| Some(random.entity(entities))).collect();
    let label: Int32Array = (0..labels).map(|_| Some((random.next() & 1) as i32)).collect();
    write(
        &directory.join("labels.parquet"),
        vec![
            ("entity_id", vec![Arc::new(keys)]),
            ("event_timestamp", vec![times(&at)]),
            ("label", vec![Arc::new(label)]),
        ],
    );
    for view in 0..views {
        let mut all: Vec<(i64, i64, i64)> = (0..rows)
            .map(|_| {
                let event = random.moment();
                (event + 1000 + (random.next() % 300_000) as i64 * 1000, event, random.entity(entities))
            })
            .collect();
        for again in 0..rows / 100 {
            let (known, event, entity) = all[random.next() as usize % rows];
            all[again] = (known + 1000 + (random.next() % 86_400_000) as i64 * 1000, event, entity);
        }
        all.sort_unstable();
        let mut columns: Vec<(String, Vec<ArrayRef>)> = vec![
            ("entity_id".into(), Vec::new()),
            ("event_timestamp".into(), Vec::new()),
            ("created_timestamp".into(), Vec::new()),
        ];
        columns.extend((0..10).map(|n| (format!("f{n}"), Vec::new())));
        for chunk in all.chunks(250_000) {
            let entity: Int64Array = chunk.iter().map(|row| Some(row.2)).collect();
            columns[0].1.push(Arc::new(entity));
            columns[1].1.push(times(&chunk.iter().map(|row| row.1).collect::<Vec<_>>()));
            columns[2].1.push(times(&chunk.iter().map(|row| row.0).collect::<Vec<_>>()));
            for feature in 0..10 {
                let values: Float64Array = chunk
                    .iter()
                    .map(|_| {
                        let value = random.unit() + random.unit() - 1.0;
                        (feature != 9 || !random.next().is_multiple_of(20)).then_some(value)
                    })
                    .collect();
                columns[3 + feature].1.push(Arc::new(values));
            }
        }
        let columns = columns.iter().map(|(name, parts)| (name.as_str(), parts.clone())).collect();
        write(&directory.join(format!("view{view}.parquet")), columns);
    }
}

fn definitions(views: usize) -> Definitions {
    let mut yaml = String::from("entities: {e: {keys: {entity_id: int64}}}\nsources:\n");
    for view in 0..views {
        yaml += &format!(
            "  s{view}:\n    table: view{view}.parquet\n    event_time: event_timestamp\n    known_at: created_timestamp\n    \
             time_zone: UTC\n    columns: {{entity_id: int64, event_timestamp: timestamp"
        );
        (0..10).for_each(|n| yaml += &format!(", f{n}: float64"));
        yaml += "}\n";
    }
    yaml += "feature_views:\n";
    for view in 0..views {
        yaml += &format!("  v{view}:\n    entity: e\n    source: s{view}\n    ttl: 7d\n    features: {{");
        yaml += &(0..10).map(|n| format!("v{view}_f{n}: f{n}")).collect::<Vec<_>>().join(", ");
        yaml += "}\n";
    }
    yaml += "  w:\n    entity: e\n    source: s0\n    ttl: 7d\n    aggregate:\n      \
             a: {fn: [count, sum, mean, max], column: f0, windows: [1h, 1d, 7d, 30d]}\n";
    let names = (0..views).map(|view| format!("v{view}")).collect::<Vec<_>>().join(", ");
    yaml += &format!("feature_services:\n  latest: {{features: [{names}]}}\n  windows: {{features: [w]}}\n");
    let resolve = |definitions: &mut Definitions| {
        springhouse_expr::resolve_types(definitions).expect("there is no SQL in it");
        Vec::new()
    };
    load_definitions(&[("speed.yaml".into(), yaml)], &resolve).expect("the definitions are right").definitions
}

async fn train(directory: &Path, views: usize, service: &str) {
    let definitions = definitions(views);
    let lake = Lake::open(directory, &directory.join("lake")).expect("the directory is writable");
    let out = directory.join(format!("{service}.parquet"));
    let out = TrainingOutput::File(&out, OutputFormat::Parquet);
    let request = TrainingRequest {
        time_zone: Some("UTC".into()),
        availability: Availability::Event,
        ..TrainingRequest::new(&definitions, "", service, directory.join("labels.parquet"), out, 1 << 30)
    };
    let (started, stages) = (Instant::now(), Stages::new());
    let outcome = lake.training_set(&request, &stages).await.expect("the data is right");
    stages.end();
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{service}: {} labels in {seconds:.2} s, {:.0} labels/s",
        outcome.rows,
        outcome.rows as f64 / seconds
    );
}

async fn materialize(directory: &Path, view: &str) {
    let definitions = definitions(1);
    let lake = Lake::open(directory, &directory.join("lake")).expect("the directory is writable");
    let view = &definitions.feature_views[if view == "latest" { "v0" } else { "w" }];
    let types: BTreeMap<_, _> = definitions.sources["s0"].schema().into_iter().collect();
    let plan = ViewPlan::compile(view, &|name| types.get(name).cloned()).expect("a valid view");
    let request = MaterializeRequest {
        definitions: &definitions,
        view: ViewHandle { id: view.id().into(), generation: 0, plan: Arc::new(plan), is_shared: false },
        until: START + SPAN_MS as i64 * 1000,
        stream_end: None,
        stream_positions: None,
        previous: None,
        memory_budget: 1 << 30,
    };
    let store: Arc<dyn OnlineStore> = Arc::new(MemoryStore::new());
    let stages = Stages::new();
    let outcome = lake.materialize(&request, &store, &stages).await.expect("the data is right");
    stages.end();
    println!(
        "{}: {} rows, {} entities in {:.2} s, {:.0} rows/s",
        view.name,
        outcome.rows,
        outcome.entities,
        outcome.seconds,
        outcome.rows as f64 / outcome.seconds
    );
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |position: usize| arguments[position].parse::<usize>().expect("a number");
    let directory = Path::new(arguments.get(1).expect("a directory"));
    match arguments[0].as_str() {
        "make" => make(directory, number(2), number(3), number(4), number(5) as u64),
        "train" => train(directory, number(2), "latest").await,
        "windows" => train(directory, 1, "windows").await,
        "materialize" => materialize(directory, &arguments[2]).await,
        other => panic!("unknown command `{other}`"),
    }
}
