//! Compaction of stream tables: other files, the same rows, the same answers.

use crate::support::*;
use crate::training::{Label, label_batch, random_labels, stream_append};
use parquet::file::reader::{FileReader, SerializedFileReader};
use springhouse_core::Value;
use springhouse_core::time::HOUR;
use springhouse_lake::{
    Availability, FileSize, FileSizes, Lake, OptimizeOutcome, OptimizeRequest, PassKind, PassReport, Progress,
};
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

const YAML: &str = "
entities: {user: {keys: {user: string}}, shop: {keys: {shop: int64}}}
sources:
  pushed:
    stream: push
    event_time: at
    columns: {id: int64, user: string, shop: int64, at: timestamp, amount: float64, items: int64, kind: string}
feature_views:
  latest: {entity: user, source: pushed, ttl: 1d, features: {amount: amount, kind: kind}}
  windows:
    entity: user
    source: pushed
    ttl: 1d
    aggregate:
      items: {fn: [count, sum, last], column: items, windows: [1h, 1d]}
      amount: {fn: [sum, max], column: amount, windows: [1d], hop: exact}
  numbers: {entity: user, source: pushed, ttl: 1d, features: {n_id: id, n_at: at, n_shop: shop, n_amount: amount}}
  of_user: {entity: user, source: pushed, ttl: 30d, features: {user_id: id}}
  of_shop: {entity: shop, source: pushed, ttl: 30d, features: {shop_id: id}}
feature_services:
  all: {features: [latest, numbers, windows]}
  last: {features: [of_user, of_shop]}
";

fn by_user() -> OptimizeRequest {
    OptimizeRequest { cluster_by: vec!["user".to_owned()], ..OptimizeRequest::default() }
}

/// A project with labels about these events, of which none is pushed yet.
fn with_labels(random: &mut Random, events: usize, labels: usize) -> (Project, Vec<TestEvent>) {
    let project = Project::new(YAML);
    let events = random_events(random, events);
    write_parquet(&project.path("labels.parquet"), &label_batch(&random_labels(random, &events, labels)), 50);
    (project, events)
}

/// Pushes some of the events, whose offsets are their places.
async fn push(project: &Project, events: &[TestEvent], places: Range<usize>) {
    let append = stream_append(&events[places.clone()], places.start as i64);
    project.lake.append_stream(project.source("pushed"), append).await.unwrap();
}

async fn trained(project: &Project) -> Vec<u8> {
    let out = project.path("train.parquet");
    let request = project.request("labels.parquet", &out);
    project.lake.training_set(&request, &Silent).await.unwrap();
    std::fs::read(&out).unwrap()
}

async fn optimized(project: &Project, request: &OptimizeRequest) -> OptimizeOutcome {
    project.lake.optimize_stream(project.source("pushed"), request, &Silent).await.unwrap()
}

fn data_files(project: &Project) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(project.path(".springhouse/lake/pushed")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "parquet")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_table_gives_the_same_bytes_in_fewer_files() {
    let mut random = Random::new("a_compacted_table_gives_the_same_bytes_in_fewer_files");
    let (project, events) = with_labels(&mut random, 400, 300);
    let source = project.source("pushed").clone();
    assert_eq!(optimized(&project, &by_user()).await, OptimizeOutcome::default(), "there is no table yet");
    for start in (0..200).step_by(10) {
        push(&project, &events, start..start + 10).await;
    }
    let before = trained(&project).await;
    let planned = optimized(&project, &OptimizeRequest { dry_run: true, ..by_user() }).await;
    assert_eq!((planned.files_before, planned.files_after, planned.bytes_after), (20, 1, 0));
    assert_eq!(data_files(&project).len(), 20, "a dry run writes nothing");
    let done = optimized(&project, &by_user()).await;
    assert_eq!((done.files_rewritten, done.files_after, done.rows), (20, 1, 200));
    assert!(trained(&project).await == before, "other bytes after compaction");
    // Nothing is left to do, and the old files are there for those who read them still.
    assert_eq!(optimized(&project, &by_user()).await.files_rewritten, 0);
    assert_eq!(data_files(&project).len(), 21);
    // The position of the stream is what it was: a replay adds nothing, what is new is added.
    assert_eq!(project.lake.append_stream(&source, stream_append(&events[..200], 0)).await.unwrap(), 199);
    // Appends by another writer while files are put together, more than once.
    let tables = project.path(".springhouse/lake");
    let (other, rest) = (Lake::open(project.directory.path(), &tables).unwrap(), events[200..].to_vec());
    let writer = tokio::spawn(async move {
        for start in (0..200).step_by(10) {
            let append = stream_append(&rest[start..start + 10], 200 + start as i64);
            other.append_stream(&source, append).await.unwrap();
        }
    });
    for _ in 0..6 {
        optimized(&project, &by_user()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    writer.await.unwrap();
    let made = optimized(&project, &by_user()).await;
    assert_eq!(made.files_after, 1);
    let after = trained(&project).await;
    // The same events in a table that was never touched.
    let plain = Project::new(YAML);
    push(&plain, &events, 0..events.len()).await;
    std::fs::copy(project.path("labels.parquet"), plain.path("labels.parquet")).unwrap();
    assert!(trained(&plain).await == after, "other answers than from a table in order of arrival");
    // Files that no version has any more go when they are told to.
    let vacuum = OptimizeRequest { vacuum: Some(Duration::ZERO), ..by_user() };
    assert!(optimized(&project, &vacuum).await.files_deleted > 20);
    assert_eq!(data_files(&project).len(), 1);
    assert!(trained(&project).await == after);
    // What the log says is in one file: commits before that are not needed.
    let log = project.path(".springhouse/lake/pushed/_delta_log");
    let checkpoint: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(log.join("_last_checkpoint")).unwrap()).unwrap();
    for version in 0..checkpoint["version"].as_u64().unwrap() {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    let project = Project { lake: Lake::open(project.directory.path(), &tables).unwrap(), ..project };
    assert_eq!(project.lake.stream_position(project.source("pushed")).await.unwrap(), 399);
    assert!(trained(&project).await == after);
}

/// In a file of many rows each column is written as it is best read, and read another way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_compacted_table_gives_the_same_bytes() {
    let mut random = Random::new("a_large_compacted_table_gives_the_same_bytes");
    let project = Project::new(YAML);
    let events = random_events(&mut random, 12_000);
    for start in (0..12_000).step_by(2_000) {
        push(&project, &events, start..start + 2_000).await;
    }
    let labels = label_batch(&random_labels(&mut random, &events, 3_000));
    write_parquet(&project.path("labels.parquet"), &labels, 700);
    let mut made = Vec::new();
    for is_compacted in [false, true] {
        if is_compacted {
            assert_eq!(optimized(&project, &by_user()).await.files_after, 1);
        }
        for (availability, memory) in
            [(Availability::Known, 512), (Availability::Known, 1), (Availability::Event, 512)]
        {
            let out = project.path("train.parquet");
            let mut request = project.request("labels.parquet", &out);
            (request.availability, request.memory_budget) = (availability, memory << 20);
            project.lake.training_set(&request, &Silent).await.unwrap();
            made.push(std::fs::read(&out).unwrap());
        }
    }
    assert!(made[0] == made[1] && made[0] == made[3] && made[0] == made[4], "other bytes of what was known");
    assert!(made[2] == made[5], "other bytes of what had happened");
}

/// Files that were sorted are merged to larger ones, and those stay as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merged_files_give_the_same_bytes_and_are_not_written_again() {
    let mut random = Random::new("merged_files_give_the_same_bytes_and_are_not_written_again");
    let (project, events) = with_labels(&mut random, 1_000, 400);
    let sizes = FileSizes {
        sorted: FileSize { bytes: u64::MAX, rows: 50 },
        merged: FileSize { bytes: u64::MAX, rows: 400 },
    };
    let request = OptimizeRequest { sizes, vacuum: Some(Duration::ZERO), ..by_user() };
    let (mut pushed, mut merged, mut large) = (0, HashSet::new(), Vec::new());
    while pushed < events.len() {
        for _ in 0..1 + random.below(6) {
            let end = events.len().min(pushed + 1 + random.below(20) as usize);
            push(&project, &events, pushed..end).await;
            pushed = end;
            if pushed == events.len() {
                break;
            }
        }
        let before = trained(&project).await;
        let planned = optimized(&project, &OptimizeRequest { dry_run: true, ..request.clone() }).await;
        let done = optimized(&project, &request).await;
        let told = |outcome: &OptimizeOutcome| {
            (
                outcome.files_before,
                outcome.files_after,
                outcome.files_rewritten,
                outcome.rows,
                outcome.bytes_before,
            )
        };
        assert_eq!(told(&planned), told(&done), "a dry run says what is done");
        assert!(trained(&project).await == before, "other bytes after {pushed} events");
        let files = data_files(&project);
        assert_eq!(files.len(), done.files_after);
        assert!(large.iter().all(|path| files.contains(path)), "a large file was written again");
        for path in files {
            let rows = read_parquet(&path).num_rows();
            assert!(rows <= 400, "{rows} rows in a file");
            if rows > 50 {
                assert_in_order(&path);
                merged.insert(path.clone());
            }
            if rows >= 200 && !large.contains(&path) {
                large.push(path);
            }
        }
    }
    assert!(merged.len() > 1 && !large.is_empty(), "{} were merged, {} are large", merged.len(), large.len());
    assert_eq!(optimized(&project, &request).await.files_rewritten, 0);
}

/// A merge that is given up half way leaves the old files and nothing else; one that was killed, what the next one takes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_that_is_interrupted_leaves_the_table_as_it_was() {
    let mut random = Random::new("a_merge_that_is_interrupted_leaves_the_table_as_it_was");
    let (project, events) = with_labels(&mut random, 300, 100);
    let full = FileSize { bytes: u64::MAX, rows: 60 };
    let sorted = OptimizeRequest {
        sizes: FileSizes { sorted: full, merged: FileSize { bytes: 0, rows: 0 } },
        vacuum: Some(Duration::ZERO),
        ..by_user()
    };
    for start in (0..300).step_by(15) {
        push(&project, &events, start..start + 15).await;
    }
    assert_eq!(optimized(&project, &sorted).await.files_after, 5);
    let (before, mut files) = (trained(&project).await, data_files(&project));
    files.sort();
    let whole = FileSize { bytes: u64::MAX, rows: u64::MAX };
    let merged = OptimizeRequest { sizes: FileSizes { sorted: full, merged: whole }, ..by_user() };
    let cancelled = project.lake.optimize_stream(project.source("pushed"), &merged, &GivenUp).await;
    assert_eq!(cancelled.unwrap_err().code, "cancelled");
    let folder = project.path(".springhouse/lake/pushed");
    let left = |folder: &Path| {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".partial")).count()
    };
    let mut now = data_files(&project);
    now.sort();
    assert_eq!((left(&folder), now), (0, files));
    assert!(trained(&project).await == before);
    // Of a process that was killed, an hour ago; and of one that is at it.
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    let written = |name: &str| {
        let file = File::create(folder.join(name)).unwrap();
        file.set_modified(old).unwrap();
        file
    };
    drop(written("_part-1-0.partial"));
    let held = written("_part-2-0.partial");
    held.lock().unwrap();
    assert_eq!(optimized(&project, &merged).await.files_after, 1);
    assert_eq!(left(&folder), 1, "that of a killed process goes, that of a living one stays");
    assert!(trained(&project).await == before);
}

/// Whoever waits has given up.
struct GivenUp;

impl Progress for GivenUp {
    fn report(&self, _: &'static str, _: u64, _: u64) {}

    fn is_cancelled(&self) -> bool {
        true
    }
}

/// The last event among some of one time counts that was pushed last, whether its offset is read or its place says the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_events_of_one_time_the_last_one_pushed_counts_however_files_are_sorted() {
    let mut random =
        Random::new("among_events_of_one_time_the_last_one_pushed_counts_however_files_are_sorted");
    let project = Project::new(YAML);
    let mut events = random_events(&mut random, 1_200);
    for (id, event) in events.iter_mut().enumerate() {
        let late = event.known_at - event.event_time;
        event.id = id as i64;
        event.event_time = event.event_time.div_euclid(6 * HOUR) * 6 * HOUR;
        event.known_at = event.event_time + late;
    }
    let labels = random_labels(&mut random, &events, 400);
    write_parquet(&project.path("labels.parquet"), &label_batch(&labels), 90);
    let by = |columns: &[&str]| OptimizeRequest {
        cluster_by: columns.iter().map(|column| (*column).to_owned()).collect(),
        vacuum: Some(Duration::ZERO),
        ..OptimizeRequest::default()
    };
    let mut pushed = 0;
    // Which views' offsets are told by where rows are: in a file that is sorted by something else first, those of the others aren't.
    for (cluster_by, in_order) in [
        (None, ["user", "shop"].as_slice()),
        (Some(["user"].as_slice()), &["user"]),
        (None, &["user"]),
        (Some(&["shop"]), &["shop"]),
        (Some(&["shop", "amount"]), &[]),
        (Some(&["shop", "user"]), &[]),
        (Some(&[]), &["user", "shop"]),
    ] {
        // Nothing is sorted that is in one file already.
        let end = pushed + 170;
        for start in (pushed..end).step_by(34) {
            push(&project, &events, start..start + 34).await;
        }
        pushed = end;
        if let Some(columns) = cluster_by {
            assert_eq!(optimized(&project, &by(columns)).await.files_after, 1);
        }
        for availability in [Availability::Known, Availability::Event] {
            let out = project.path("train.parquet");
            let mut request = project.request("labels.parquet", &out);
            (request.services, request.availability) = (vec!["last".to_owned()], availability);
            let report = project.lake.training_set(&request, &Silent).await.unwrap().report;
            let made = read_parquet(&out);
            for (row, label) in labels.iter().enumerate() {
                for (name, of_key) in
                    [("user_id", &of_user as &dyn Fn(&TestEvent, &Label) -> bool), ("shop_id", &of_shop)]
                {
                    let seen = |event: &&TestEvent| {
                        let known_at = if availability == Availability::Known {
                            event.known_at
                        } else {
                            event.event_time
                        };
                        of_key(event, label) && event.event_time.max(known_at) <= label.at
                    };
                    let stamp = |event: &&TestEvent| match availability {
                        Availability::Known => (event.event_time, event.known_at, event.id),
                        Availability::Event => (event.event_time, 0, event.id),
                    };
                    let last = events[..pushed].iter().filter(seen).max_by_key(stamp);
                    let expected = last.map_or(Value::Null, |event| Value::Int64(event.id));
                    let context = format!("{name} of label {row}, {cluster_by:?}, {availability:?}");
                    assert_eq!(value(&made, name, row), expected, "{context}");
                }
            }
            for key in ["user", "shop"] {
                let mut columns = vec![key, "at"];
                columns.extend((availability == Availability::Known).then_some("_known_at"));
                columns.extend((!in_order.contains(&key)).then_some("_offset"));
                let passes = report.sources.iter().flat_map(|source| &source.passes);
                let is_of = |pass: &&PassReport| pass.kind == PassKind::Events && pass.columns == [key];
                let read: Vec<u64> = passes.filter(is_of).map(|pass| pass.bytes).collect();
                assert_eq!(
                    read,
                    [stored_bytes(&project, &columns)],
                    "{key}, {cluster_by:?}, {availability:?}"
                );
            }
        }
    }
}

fn of_user(event: &TestEvent, label: &Label) -> bool {
    event.user.is_some() && event.user == label.user
}

fn of_shop(event: &TestEvent, label: &Label) -> bool {
    event.shop == label.shop
}

/// What some columns take in the table's files.
fn stored_bytes(project: &Project, columns: &[&str]) -> u64 {
    let of_file = |path: &PathBuf| -> u64 {
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        let chunks = reader.metadata().row_groups().iter().flat_map(|group| group.columns().to_vec());
        let is_asked = |chunk: &parquet::file::metadata::ColumnChunkMetaData| {
            columns.contains(&chunk.column_path().string().as_str())
        };
        chunks.filter(is_asked).map(|chunk| chunk.compressed_size() as u64).sum()
    };
    data_files(project).iter().map(of_file).sum()
}

#[tokio::test]
async fn rows_of_an_entity_lie_together() {
    let mut random = Random::new("rows_of_an_entity_lie_together");
    let project = Project::new(YAML);
    let events = random_events(&mut random, 120);
    for start in (0..120).step_by(30) {
        push(&project, &events, start..start + 30).await;
    }
    optimized(&project, &OptimizeRequest { vacuum: Some(Duration::ZERO), ..by_user() }).await;
    let [file] = data_files(&project).try_into().unwrap();
    assert_in_order(&file);
}

/// By user, time and offset.
fn assert_in_order(file: &Path) {
    let rows = read_parquet(file);
    let order: Vec<_> = (0..rows.num_rows())
        .map(|row| (value(&rows, "user", row), value(&rows, "at", row), value(&rows, "_offset", row)))
        .collect();
    assert!(order.is_sorted(), "{order:?}");
}
