//! Random pushes, restarts and redeliveries against a naive model.

use crate::gate::Gate;
use crate::support::{Project, Random, START, click, describe, feeds, ids_in_lake, json};
use springhouse_core::time::{HOUR, SECOND};
use springhouse_ingest::{Feeding, Ingest, PushRequest, StartAt};
use springhouse_online::StoreErrorKind;
use springhouse_online_embedded::{EmbeddedSettings, EmbeddedStore};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const USERS: u64 = 5;

/// Everything accepted, by hand.
#[derive(Default)]
struct Model {
    seen: HashMap<i64, ()>,
    users: BTreeMap<String, (i64, f64)>,
    keyed: HashMap<String, String>,
}

async fn embedded(project: &mut Project) {
    let folder = project.folder.join("online");
    // The old store must be gone before its folder can be opened again; the dropped tasks give it free in their time.
    project.store = Arc::new(springhouse_online::MemoryStore::new());
    project.store = loop {
        match EmbeddedStore::open(&folder, &EmbeddedSettings::default()) {
            Ok(store) => break Arc::new(store),
            Err(error) => assert_eq!(error.kind, StoreErrorKind::Locked),
        }
        tokio::task::yield_now().await;
    };
}

/// A push of some old and some new rows, some of them wrong, with what must come of it.
fn random_push(random: &mut Random, model: &mut Model, now: i64) -> (PushRequest, String) {
    let mut rows = Vec::new();
    let (mut accepted, mut duplicates, mut refused) = (0, 0, 0);
    for _ in 0..random.below(8) {
        let user = format!("u{}", random.below(USERS));
        let amount = random.below(1000) as f64 / 8.0;
        match random.below(10) {
            0 => {
                rows.push(format!(r#"{{"at": {now}, "user": "{user}", "amount": "much"}}"#));
                refused += 1;
            }
            1 => {
                rows.push(click(Some(random.below(300) as i64 + 1_000_000), &user, now + HOUR, amount));
                refused += 1;
            }
            2 => {
                rows.push(click(None, &user, now - random.below(50) as i64 * SECOND, amount));
                let entry = model.users.entry(user).or_default();
                (entry.0, entry.1, accepted) = (entry.0 + 1, entry.1 + amount, accepted + 1);
            }
            _ => {
                let id = random.below(400) as i64;
                rows.push(click(Some(id), &user, now + random.below(5) as i64 * SECOND, amount));
                if model.seen.insert(id, ()).is_some() {
                    duplicates += 1;
                } else {
                    let entry = model.users.entry(user).or_default();
                    (entry.0, entry.1, accepted) = (entry.0 + 1, entry.1 + amount, accepted + 1);
                }
            }
        }
    }
    let request = json("clicks", &format!("[{}]", rows.join(",")));
    (request, format!("accepted={accepted} duplicates={duplicates} refused={refused}"))
}

async fn check(project: &Project, ingest: &Ingest, model: &Model) {
    for user in 0..USERS {
        let user = format!("u{user}");
        // Eighths add up exactly in binary floats, in any order.
        let expected = model.users.get(&user).copied().unwrap_or_default();
        assert_eq!(project.clicks(ingest, &user).await, expected, "{user}");
    }
}

async fn one_run(seed: u64, durable: bool) {
    println!("seed {seed} durable {durable}");
    let mut random = Random::new(seed);
    let mut project = Project::new();
    project.settings.segment_bytes = 3_000;
    // Flushes, checkpoints and deletions go on in between.
    project.settings.flush_interval_ms = 7;
    project.settings.checkpoint_interval_ms = 5;
    if durable {
        embedded(&mut project).await;
    }
    let mut model = Model::default();
    let mut ingest = project.open().await;
    let mut earlier: Vec<(PushRequest, String)> = Vec::new();
    let mut now = START;
    for step in 0..120 {
        now += random.below(2 * SECOND as u64) as i64;
        project.clock.set(now);
        match random.below(12) {
            0 => {
                drop(ingest);
                if durable {
                    embedded(&mut project).await;
                }
                ingest = project.open().await;
                check(&project, &ingest, &model).await;
            }
            1 => {
                ingest.shutdown().await.unwrap();
                drop(ingest);
                if durable {
                    embedded(&mut project).await;
                }
                ingest = project.open().await;
            }
            2 => {
                let end = ingest.positions().log_end;
                assert_eq!(ingest.flush().await.unwrap(), end);
            }
            3 if !earlier.is_empty() => {
                // A push with a key comes again: nothing changes.
                let (request, first) = &earlier[random.below(earlier.len() as u64) as usize];
                assert_eq!(&describe(&ingest.push(request.clone()).await), first, "step {step}");
            }
            _ => {
                let (mut request, expected) = random_push(&mut random, &mut model, now);
                let is_keyed = random.below(3) == 0;
                request.idempotency_key = is_keyed.then(|| format!("key {step}"));
                let outcome = describe(&ingest.push(request.clone()).await);
                assert_eq!(outcome.lines().next().unwrap(), expected, "step {step}");
                if is_keyed {
                    model.keyed.insert(format!("key {step}"), outcome.clone());
                    earlier.push((request, outcome));
                }
            }
        }
        check(&project, &ingest, &model).await;
    }
    let end = ingest.positions().log_end;
    ingest.shutdown().await.unwrap();
    assert_eq!(ingest.positions().flushed_end, end);
    let in_lake = ids_in_lake(&project.folder);
    let with_id: Vec<i64> = in_lake.iter().copied().flatten().collect();
    let mut expected: Vec<i64> = model.seen.keys().copied().collect();
    expected.sort_unstable();
    assert_eq!(with_id, expected);
    assert_eq!(in_lake.len() as i64, model.users.values().map(|(count, _)| count).sum::<i64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_pushed_and_whenever_it_stops_every_event_counts_once() {
    let seed = u64::from(std::process::id());
    for run in 0..3 {
        one_run(seed + run, false).await;
        one_run(seed + run, true).await;
    }
}

#[tokio::test]
async fn pushes_that_waited_while_the_log_was_read_again_count_once() {
    let mut project = Project::new();
    let gate = Arc::new(Gate::open());
    project.store = gate.clone();
    let ingest = Arc::new(project.open().await);
    gate.close();
    let mut pushes = Vec::new();
    let mut push = async |id: i64| {
        let row = format!("[{}]", click(Some(id), "a", START, 1.0));
        let before = ingest.positions().log_end;
        pushes.push(tokio::spawn({
            let ingest = ingest.clone();
            async move { ingest.push(json("clicks", &row)).await }
        }));
        while ingest.positions().log_end == before {
            tokio::task::yield_now().await;
        }
    };
    // The first is being written when the restart is asked for; the second is logged before the log is read again, so it is
    // among what is read; the third is logged while that is written. Those two are then taken up together.
    push(0).await;
    let restarted = tokio::spawn({
        let (ingest, definitions) = (ingest.clone(), project.definitions.clone());
        let feeding = Feeding { views: feeds(&definitions), start: StartAt::Lane };
        async move { ingest.restart(&definitions, feeding).await }
    });
    tokio::task::yield_now().await;
    push(1).await;
    gate.writes.add_permits(1);
    while project.clicks(&ingest, "a").await.0 == 0 {
        tokio::task::yield_now().await;
    }
    push(2).await;
    gate.writes.add_permits(100);
    restarted.await.unwrap().unwrap();
    for pushed in pushes {
        assert_eq!(pushed.await.unwrap().unwrap().accepted, 1);
    }
    assert_eq!(project.clicks(&ingest, "a").await, (3, 3.0));
}

#[tokio::test]
async fn a_store_that_lacks_rows_which_left_the_log_asks_for_a_rebuild() {
    let mut project = Project::new();
    project.settings.segment_bytes = 500;
    let ingest = project.open().await;
    for id in 0..10 {
        ingest.push(json("clicks", &format!("[{}]", click(Some(id), "a", START, 1.0)))).await.unwrap();
    }
    ingest.shutdown().await.unwrap();
    drop(ingest);
    project.store = Arc::new(springhouse_online::MemoryStore::new());
    let text = describe(&project.try_open().await.map(|_| panic!("opened")));
    insta::assert_snapshot!(text.replace(char::is_numeric, "9"), @r"
    log_gap: the online store needs the log from offset 9, but it begins at 99 now
      hint: the older rows are in the lake: run `springhouse rebuild`
    ");
}

#[tokio::test]
async fn a_log_that_was_removed_begins_after_what_the_lake_holds() {
    let project = Project::new();
    let ingest = project.open().await;
    for id in 0..3 {
        ingest.push(json("clicks", &format!("[{}]", click(Some(id), "a", START, 1.0)))).await.unwrap();
    }
    ingest.shutdown().await.unwrap();
    drop(ingest);
    std::fs::remove_dir_all(project.log()).unwrap();
    let ingest = project.open().await;
    assert_eq!(ingest.positions().log_end, 3);
    let outcome = ingest.push(json("clicks", &format!("[{}]", click(Some(3), "a", START, 1.0)))).await;
    assert_eq!(outcome.unwrap().end_offset, 4);
    ingest.flush().await.unwrap();
    assert_eq!(ids_in_lake(&project.folder), [0, 1, 2, 3].map(Some));
    // A log that ends before what the lake holds would give new rows old places.
    drop(ingest);
    let stolen = project.folder.join("stolen");
    std::fs::rename(project.log(), &stolen).unwrap();
    let other = Project::new();
    let ingest = other.open().await;
    ingest.push(json("clicks", &format!("[{}]", click(Some(9), "a", START, 1.0)))).await.unwrap();
    drop(ingest);
    std::fs::rename(other.log(), project.log()).unwrap();
    assert_eq!(project.try_open().await.unwrap_err().code, "log_behind");
}

#[tokio::test]
async fn a_damaged_log_is_not_opened_and_says_where() {
    let project = Project::new();
    let ingest = project.open().await;
    for id in 0..5 {
        ingest.push(json("clicks", &format!("[{}]", click(Some(id), "a", START, 1.0)))).await.unwrap();
    }
    drop(ingest);
    let path = project.log().join("00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = project.try_open().await.unwrap_err();
    assert_eq!(error.code, "log_corrupt");
    assert!(error.message.contains("00000000000000000000.log, byte 32: a checksum"), "{}", error.message);
}
