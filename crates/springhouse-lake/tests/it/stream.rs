//! Stream tables: appended exactly once, widened, read by others.

use crate::support::*;
use crate::training::stream_append;
use arrow::array::{Array, StringArray};
use springhouse_core::topic_seq;
use springhouse_lake::{Lake, StreamAppend};
use std::collections::BTreeMap;
use std::sync::Arc;

const YAML: &str = "
entities: {user: {keys: {user: string}}}
sources:
  pushed:
    stream: push
    event_time: at
    columns: {id: int64, user: string, shop: int64, at: timestamp, amount: float64, items: int64, kind: string}
";

fn rows_of(project: &Project) -> Vec<i64> {
    let directory = project.directory.path().join(".springhouse/lake/pushed");
    // Only files that the log names are rows.
    let mut offsets = Vec::new();
    for entry in std::fs::read_dir(directory.join("_delta_log")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            let Some(path) = action["add"]["path"].as_str() else { continue };
            let file = read_parquet(&directory.join(path));
            for row in 0..file.num_rows() {
                let springhouse_core::Value::Int64(offset) = value(&file, "_offset", row) else { panic!() };
                offsets.push(offset);
            }
        }
    }
    offsets.sort_unstable();
    offsets
}

#[tokio::test]
async fn an_append_counts_once_however_often_it_comes() {
    let mut random = Random::new("an_append_counts_once_however_often_it_comes");
    let project = Project::new(YAML);
    let source = project.source("pushed");
    let events = random_events(&mut random, 100);
    assert_eq!(project.lake.stream_position(source).await.unwrap(), -1);
    let append = |from: usize, to: usize| stream_append(&events[from..to], from as i64);
    assert_eq!(project.lake.append_stream(source, append(0, 30)).await.unwrap(), 29);
    assert_eq!(project.lake.append_stream(source, append(0, 30)).await.unwrap(), 29);
    // A replay that overlaps brings only what is new.
    assert_eq!(project.lake.append_stream(source, append(10, 60)).await.unwrap(), 59);
    // Another process with its own view of the table.
    let other = springhouse_lake::Lake::open(
        project.directory.path(),
        &project.directory.path().join(".springhouse/lake"),
    )
    .unwrap();
    assert_eq!(other.append_stream(source, append(50, 80)).await.unwrap(), 79);
    // The first one's cached table is behind now.
    assert_eq!(project.lake.append_stream(source, append(50, 100)).await.unwrap(), 99);
    assert_eq!(project.lake.append_stream(source, append(20, 40)).await.unwrap(), 99);
    assert_eq!(project.lake.stream_position(source).await.unwrap(), 99);
    assert_eq!(rows_of(&project), (0..100).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_position_is_found_behind_any_number_of_other_commits() {
    let mut random = Random::new("a_position_is_found_behind_any_number_of_other_commits");
    let project = Project::new(YAML);
    let source = project.source("pushed");
    let events = random_events(&mut random, 40);
    let commit = |version: u64| {
        let log = project.directory.path().join(".springhouse/lake/pushed/_delta_log");
        log.join(format!("{version:020}.json"))
    };
    for (first, position) in [(0, 19), (20, 39)] {
        project
            .lake
            .append_stream(source, stream_append(&events[first..first + 20], first as i64))
            .await
            .unwrap();
        let newest = (0..).find(|version| !commit(*version).exists()).unwrap() - 1;
        // Those of others, who append nothing.
        for version in newest + 1..newest + 24 {
            std::fs::write(
                commit(version),
                "{\"commitInfo\":{}}\n{\"txn\":{\"appId\":\"another\",\"version\":7}}\n",
            )
            .unwrap();
            assert_eq!(project.lake.stream_position(source).await.unwrap(), position, "{version}");
        }
    }
    // What can't be read is told, and not taken for what was before it.
    let newest = (0..).find(|version| !commit(*version).exists()).unwrap();
    std::fs::write(commit(newest), "{\"commitInfo\":{}}\n{\"txn\":{\"appId\":").unwrap();
    assert_eq!(project.lake.stream_position(source).await.unwrap_err().code, "delta_failed");
}

#[tokio::test]
async fn a_table_that_nothing_was_appended_to_has_no_position() {
    let project = Project::new(YAML);
    let source = project.source("pushed");
    let log = project.directory.path().join(".springhouse/lake/pushed/_delta_log");
    std::fs::create_dir_all(&log).unwrap();
    assert_eq!(project.lake.stream_position(source).await.unwrap(), -1);
    let mut random = Random::new("a_table_that_nothing_was_appended_to_has_no_position");
    let events = random_events(&mut random, 10);
    project.lake.append_stream(source, stream_append(&events, 0)).await.unwrap();
    // The same table by somebody else.
    for version in 0..2 {
        let commit = log.join(format!("{version:020}.json"));
        let text = std::fs::read_to_string(&commit).unwrap();
        let others: String =
            text.lines().filter(|line| !line.contains("\"txn\"")).map(|line| format!("{line}\n")).collect();
        assert_eq!(text.contains("\"txn\""), version == 1);
        std::fs::write(&commit, others).unwrap();
    }
    let lake =
        Lake::open(project.directory.path(), &project.directory.path().join(".springhouse/lake")).unwrap();
    assert_eq!(lake.stream_position(source).await.unwrap(), -1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_of_the_same_rows_write_them_once() {
    let mut random = Random::new("two_writers_of_the_same_rows_write_them_once");
    let project = Project::new(YAML);
    let events = random_events(&mut random, 60);
    let tables = project.directory.path().join(".springhouse/lake");
    let mut writers = Vec::new();
    for _ in 0..3 {
        let lake = springhouse_lake::Lake::open(project.directory.path(), &tables).unwrap();
        let (source, events) = (project.source("pushed").clone(), events.clone());
        writers.push(tokio::spawn(async move {
            for start in (0..60).step_by(10) {
                lake.append_stream(&source, stream_append(&events[..start + 10], 0)).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(rows_of(&project), (0..60).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_new_column_widens_the_table() {
    let mut random = Random::new("a_new_column_widens_the_table");
    let project = Project::new(YAML);
    let events = random_events(&mut random, 20);
    project.lake.append_stream(project.source("pushed"), stream_append(&events[..10], 0)).await.unwrap();
    let wider = definitions(&YAML.replace("kind: string}", "kind: string, colour: string}"));
    let mut append = stream_append(&events[10..], 10);
    let colours: StringArray = (0..10).map(|n| Some(format!("c{n}"))).collect();
    let mut columns: Vec<(String, arrow::array::ArrayRef)> = append
        .rows
        .schema()
        .fields()
        .iter()
        .zip(append.rows.columns())
        .map(|(f, c)| (f.name().clone(), Arc::clone(c)))
        .collect();
    columns.push(("colour".into(), Arc::new(colours)));
    append.rows = batch(columns.iter().map(|(name, array)| (name.as_str(), Arc::clone(array))).collect());
    let source = &wider.sources["pushed"];
    assert_eq!(project.lake.append_stream(source, append).await.unwrap(), 19);
    // The narrow definition goes on; what it does not know is null.
    let more = random_events(&mut random, 5);
    assert_eq!(
        project.lake.append_stream(project.source("pushed"), stream_append(&more, 20)).await.unwrap(),
        24
    );
    assert_eq!(rows_of(&project), (0..25).collect::<Vec<i64>>());
    // A type that changed is refused.
    let changed = definitions(&YAML.replace("items: int64", "items: string"));
    let again: StreamAppend = stream_append(&more, 30);
    let error = project.lake.append_stream(&changed.sources["pushed"], again).await.unwrap_err();
    assert_eq!(error.code, "stream_type_changed", "{error}");
}

#[tokio::test]
async fn dead_letters_are_kept_once() {
    let project = Project::new(YAML);
    let letters = |texts: &[&str]| {
        batch(vec![
            ("code", Arc::new(texts.iter().map(|_| Some("wrong_type")).collect::<StringArray>())),
            ("row", Arc::new(texts.iter().map(|t| Some(*t)).collect::<StringArray>())),
        ])
    };
    project.lake.append_dead_letters("pushed", letters(&["a", "b"]), 7).await.unwrap();
    project.lake.append_dead_letters("pushed", letters(&["a", "b"]), 7).await.unwrap();
    project.lake.append_dead_letters("pushed", letters(&["c"]), 9).await.unwrap();
    let read = project.lake.read_dead_letters("pushed", 2).await.unwrap();
    let texts: Vec<_> = read
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(|row| value(batch, "row", row)).collect::<Vec<_>>())
        .collect();
    assert_eq!(texts, ["b", "c"].map(springhouse_core::Value::string));
    assert!(project.lake.read_dead_letters("other", 5).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_append_that_makes_no_sense_is_refused() {
    let mut random = Random::new("an_append_that_makes_no_sense_is_refused");
    let project = Project::new(YAML);
    let events = random_events(&mut random, 3);
    let mut append = stream_append(&events, 0);
    append.offset = vec![0, 0, 1];
    let error = project.lake.append_stream(project.source("pushed"), append).await.unwrap_err();
    assert_eq!(error.code, "stream_append_invalid");
    assert!(!event_batch(&events).column(0).is_empty());
}

/// Messages `from` to `to` of some partitions, as a worker appends them.
fn of_partitions(events: &[TestEvent], ranges: &[(i32, usize, usize)]) -> (StreamAppend, BTreeMap<i32, i64>) {
    let mut chosen = Vec::new();
    let mut seqs = Vec::new();
    for (partition, from, to) in ranges {
        chosen.extend_from_slice(&events[*from..*to]);
        seqs.extend((*from..*to).map(|offset| topic_seq(*partition, offset as i64, 0)));
    }
    let append = StreamAppend { offset: seqs, ..stream_append(&chosen, 0) };
    (append, ranges.iter().map(|(partition, _, to)| (*partition, *to as i64)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_a_topic_are_appended_once_whoever_reads_them() {
    let mut random = Random::new("partitions_of_a_topic_are_appended_once_whoever_reads_them");
    let project = Project::new(YAML);
    let events = random_events(&mut random, 60);
    let source = project.source("pushed").clone();
    assert_eq!(project.lake.topic_positions(&source).await.unwrap(), Default::default());
    // Where it begins is said once, by whoever is first.
    project.lake.begin_partitions(&source, &BTreeMap::from([(0, 0), (1, 0), (2, 7)])).await.unwrap();
    project.lake.begin_partitions(&source, &BTreeMap::from([(1, 5), (2, 9), (3, 0)])).await.unwrap();
    let positions = project.lake.topic_positions(&source).await.unwrap();
    assert_eq!(positions.first, BTreeMap::from([(0, 0), (1, 0), (2, 7), (3, 0)]));
    assert_eq!(positions.next, positions.first);
    let tables = project.directory.path().join(".springhouse/lake");
    let mut writers = Vec::new();
    for writer in 0..3 {
        let lake = Lake::open(project.directory.path(), &tables).unwrap();
        let (source, events) = (source.clone(), events.clone());
        let steps: Vec<usize> = (0..6).map(|_| 1 + random.below(20) as usize).collect();
        writers.push(tokio::spawn(async move {
            // Each reads two partitions from where the lake is, and again, and a bit of it again.
            let mut next = [0usize; 2];
            for step in steps.into_iter().chain([60, 60]) {
                let range = |number: usize| {
                    ((writer + number as i32) % 3, next[number], (next[number] + step).min(60))
                };
                let mut ranges = [range(0), range(1)];
                ranges.sort_unstable();
                let (append, reached) = of_partitions(&events, &ranges);
                let has = lake.append_topic(&source, &append, &reached).await.unwrap();
                assert!(reached.iter().all(|(partition, to)| has[partition] >= *to), "{has:?} {reached:?}");
                next = [(next[0] + step).min(60), (next[1] + step).min(60)];
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let positions = project.lake.topic_positions(&source).await.unwrap();
    assert_eq!(positions.next, BTreeMap::from([(0, 60), (1, 60), (2, 60), (3, 0)]));
    let expected = |partition: i32, from: i64| (from..60).map(move |offset| topic_seq(partition, offset, 0));
    let all: Vec<i64> = expected(0, 0).chain(expected(1, 0)).chain(expected(2, 7)).collect();
    assert_eq!(rows_of(&project), all);
}

#[tokio::test]
async fn a_table_that_one_process_wrote_is_not_for_workers() {
    let mut random = Random::new("a_table_that_one_process_wrote_is_not_for_workers");
    let project = Project::new(YAML);
    let events = random_events(&mut random, 5);
    let source = project.source("pushed");
    project.lake.append_stream(source, stream_append(&events, 0)).await.unwrap();
    let error = project.lake.topic_positions(source).await.unwrap_err();
    assert_eq!(error.code, "stream_has_other_rows", "{error}");
}
