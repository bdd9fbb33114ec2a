//! kill -9 of a process that pushes, at random moments and at named points. A ledger beside the project has a line before
//! each push (`sent`) and one after its answer (`acked`). After every death: acked <= counted <= sent for every user; after
//! the doubtful rows are delivered again: counted == sent; in the end every id is in the lake once.

use crate::support::{Project, Random, START, click, ids_in_lake, json};
use springhouse_ingest::Ingest;
use springhouse_online_embedded::{EmbeddedSettings, EmbeddedStore};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

const USERS: i64 = 7;
const PUSHERS: usize = 3;
const CHILD: &str = "SPRINGHOUSE_TEST_INGEST_CHILD";

const POINTS: [&str; 10] = [
    "before_log_write",
    "after_log_write_before_sync",
    "after_sync_before_ack",
    "after_ack_before_apply",
    "after_apply_before_ack",
    "before_flush_commit",
    "after_flush_commit",
    "before_checkpoint",
    "after_checkpoint",
    "before_segment_delete",
];

fn project(folder: &Path) -> Project {
    let store = EmbeddedStore::open(&folder.join("online"), &EmbeddedSettings::default()).unwrap();
    let mut project = Project::at(folder, Arc::new(store));
    project.settings.segment_bytes = 20_000;
    project.settings.flush_interval_ms = 40;
    project.settings.checkpoint_interval_ms = 30;
    project
}

/// Sent and acknowledged ids.
fn ledger(folder: &Path) -> (Vec<i64>, Vec<i64>) {
    let text = std::fs::read_to_string(folder.join("ledger")).unwrap_or_default();
    let (mut sent, mut acked) = (Vec::new(), Vec::new());
    // A line that the kill tore has no newline.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let (what, ids) = line.split_once(' ').unwrap();
        let list = if what == "sent" { &mut sent } else { &mut acked };
        list.extend(ids.split(',').map(|id| id.parse::<i64>().unwrap()));
    }
    (sent, acked)
}

fn by_user(ids: &[i64]) -> BTreeMap<i64, i64> {
    let mut counts: BTreeMap<i64, i64> = (0..USERS).map(|user| (user, 0)).collect();
    ids.iter().for_each(|id| *counts.get_mut(&(id % USERS)).unwrap() += 1);
    counts
}

async fn counted(project: &Project, ingest: &Ingest) -> BTreeMap<i64, i64> {
    let mut counts = BTreeMap::new();
    for user in 0..USERS {
        counts.insert(user, project.clicks(ingest, &format!("u{user}")).await.0);
    }
    counts
}

fn rows(ids: &[i64]) -> String {
    let rows: Vec<String> =
        ids.iter().map(|id| click(Some(*id), &format!("u{}", id % USERS), START, 1.0)).collect();
    format!("[{}]", rows.join(","))
}

/// What a restarted process finds, and after the doubtful rows came again.
async fn check_and_redeliver(project: &Project, ingest: &Ingest) {
    let (sent, acked) = ledger(&project.folder);
    let found = counted(project, ingest).await;
    let (sent_by, acked_by) = (by_user(&sent), by_user(&acked));
    for user in 0..USERS {
        assert!(
            acked_by[&user] <= found[&user] && found[&user] <= sent_by[&user],
            "user {user}: acked {}, counted {}, sent {}",
            acked_by[&user],
            found[&user],
            sent_by[&user]
        );
    }
    for some in sent.chunks(50) {
        ingest.push(json("clicks", &rows(some))).await.unwrap();
    }
    assert_eq!(counted(project, ingest).await, sent_by);
}

/// Runs only as the child of the test below, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let project = Arc::new(project(Path::new(&folder)));
    if let Ok(spec) = std::env::var("SPRINGHOUSE_CRASH_AT") {
        springhouse_core::crash_point::arm(&spec).unwrap();
    }
    let ingest = Arc::new(project.open().await);
    check_and_redeliver(&project, &ingest).await;
    let (sent, _) = ledger(&project.folder);
    let next = Arc::new(AtomicI64::new(sent.iter().max().map_or(0, |id| id + 1)));
    let file = std::fs::OpenOptions::new().create(true).append(true).open(project.folder.join("ledger"));
    let file = Arc::new(file.unwrap());
    let note = |file: &std::fs::File, what: &str, ids: &[i64]| {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        // A new line first would hide a torn one; the torn one is at the end of an earlier life, so begin on its own line.
        (&*file).write_all(format!("{what} {}\n", ids.join(",")).as_bytes()).unwrap();
    };
    let mut pushers = Vec::new();
    for pusher in 0..PUSHERS {
        let (ingest, next, file) = (ingest.clone(), next.clone(), file.clone());
        pushers.push(tokio::spawn(async move {
            let mut random = Random::new(u64::from(std::process::id()) + pusher as u64);
            // Far more than fit into its life.
            for _ in 0..1_000_000 {
                let count = 1 + random.below(40) as i64;
                let first = next.fetch_add(count, Ordering::SeqCst);
                let ids: Vec<i64> = (first..first + count).collect();
                note(&file, "sent", &ids);
                let outcome = ingest.push(json("clicks", &rows(&ids))).await.unwrap();
                assert_eq!(outcome.accepted as i64, count);
                note(&file, "acked", &ids);
            }
        }));
    }
    for pusher in pushers {
        pusher.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_counts_twice_when_it_is_killed() {
    let seed = u64::from(std::process::id());
    let kills: usize = std::env::var("SPRINGHOUSE_TEST_KILLS").map_or(12, |n| n.parse().unwrap());
    println!("seed {seed}, {kills} kills");
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut reached = 0;
    for kill in 0..kills {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "kills::child", "--nocapture", "--test-threads", "1"]);
        command.env(CHILD, folder.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let point = (kill % 4 != 3).then(|| POINTS[kill % POINTS.len()]);
        if let Some(point) = point {
            command.env("SPRINGHOUSE_CRASH_AT", format!("{point}:{}", 1 + random.below(4)));
        }
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        let alive = Duration::from_millis(if point.is_some() { 10_000 } else { 100 + random.below(600) });
        let died = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if began.elapsed() > alive => break None,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        };
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("panicked"), "kill {kill} at {point:?}: {text}");
        reached += usize::from(died.is_some());
        end_torn_line(folder.path());
    }
    // Points that were armed were reached, but those that a short life may miss.
    assert!(reached * 2 >= kills, "{reached} of {kills} died at their point");
    let project = project(folder.path());
    let ingest = project.open().await;
    check_and_redeliver(&project, &ingest).await;
    ingest.shutdown().await.unwrap();
    let (sent, acked) = ledger(folder.path());
    println!("{} sent, {} acked", sent.len(), acked.len());
    assert!(!acked.is_empty());
    let in_lake: Vec<i64> = ids_in_lake(folder.path()).into_iter().flatten().collect();
    let twice: Vec<_> = in_lake.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    let missing: Vec<_> = sent.iter().filter(|id| in_lake.binary_search(id).is_err()).collect();
    assert!(twice.is_empty() && missing.is_empty(), "twice in the lake: {twice:?}, not at all: {missing:?}");
}

/// The kill may have torn the ledger's last line; what comes next must not grow onto it.
fn end_torn_line(folder: &Path) {
    let path = folder.join("ledger");
    let Ok(text) = std::fs::read_to_string(&path) else { return };
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        std::fs::write(path, &text[..whole]).unwrap();
    }
}
