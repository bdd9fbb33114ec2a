//! Kill tests: a child process writes and checkpoints, dies at a random moment or at a named point, and the store must
//! hold exactly the events up to its lane position. 10 times, or 100 when `SPRINGHOUSE_TEST_LONG` is 1.
//!
//! The child is this same test binary, asked for the one test `child_writer`, which does nothing unless told to.

use futures::executor::block_on;
use springhouse_core::crash_point;
use springhouse_online::OnlineStore;
use springhouse_online::suite::{Batch, Random, World};
use springhouse_online_embedded::{EmbeddedSettings, EmbeddedStore};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

const FOLDER: &str = "SPRINGHOUSE_CHILD_FOLDER";
const SEED: &str = "SPRINGHOUSE_CHILD_SEED";
const CRASH_AT: &str = "SPRINGHOUSE_CHILD_CRASH_AT";
/// Batches that the child may be ahead of its last checkpoint: keeps the naive fold of the check short.
const AHEAD_MAX: i64 = 60;

fn settings() -> EmbeddedSettings {
    EmbeddedSettings { memory_bytes_max: 20_000, ..EmbeddedSettings::default() }
}

fn reached(store: &EmbeddedStore) -> i64 {
    block_on(store.lanes()).expect("lanes").get("log").copied().unwrap_or(0)
}

fn batch(world: &mut World, position: i64) -> Batch {
    world.random_batch("log", position)
}

#[test]
fn child_writer() {
    let (Ok(folder), Ok(seed)) = (std::env::var(FOLDER), std::env::var(SEED)) else { return };
    if let Ok(spec) = std::env::var(CRASH_AT) {
        crash_point::arm(&spec).expect("a crash point");
    }
    let store = EmbeddedStore::open(Path::new(&folder), &settings()).expect("open");
    let mut world = World::new(seed.parse().expect("a number"));
    let start = reached(&store);
    for position in 1..=start {
        batch(&mut world, position);
    }
    let durable = AtomicI64::new(start);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let position = reached(&store);
                block_on(store.checkpoint()).expect("checkpoint");
                durable.store(position, Ordering::Release);
                println!("durable {position}");
            }
        });
        for position in start + 1.. {
            let batch = batch(&mut world, position);
            block_on(store.write(batch.writes(), batch.lane.clone(), batch.now)).expect("write");
            while position > durable.load(Ordering::Acquire) + AHEAD_MAX {
                std::thread::yield_now();
            }
        }
    });
}

fn start_child(folder: &Path, seed: u64, crash_at: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "child_writer", "--nocapture"]).env(FOLDER, folder).env(SEED, seed.to_string());
    if let Some(spec) = crash_at {
        command.env(CRASH_AT, spec);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a child")
}

/// Lets the child make some checkpoints, kills it, and gives the last position that it called durable.
fn run_and_kill(mut child: Child, random: &mut Random) -> i64 {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let durable = |line: String| line.strip_prefix("durable ").and_then(|p| p.parse().ok());
    let before = random.below(6) as usize;
    let mut last = lines.by_ref().filter_map(durable).take(before).last().unwrap_or(0);
    // A moment within the next checkpoint: they take a few milliseconds.
    let until = Instant::now() + Duration::from_micros(random.below(12_000));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("dead");
    last = lines.filter_map(durable).last().unwrap_or(last);
    last
}

fn check(folder: &Path, seed: u64, durable: i64, round: &str) -> i64 {
    let store = EmbeddedStore::open(folder, &settings()).expect("opens after a kill");
    let reached = reached(&store);
    assert!(reached >= durable, "{round}: {durable} was durable, {reached} is there. seed={seed}");
    let mut world = World::new(seed);
    let batches: Vec<_> = (1..=reached).map(|position| batch(&mut world, position)).collect();
    block_on(world.assert_holds(&store, &batches, round));
    reached
}

fn fresh_seed() -> u64 {
    let given = std::env::var("SPRINGHOUSE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| u64::from(std::process::id()))
}

#[test]
fn a_kill_at_any_moment_loses_no_checkpoint_and_counts_nothing_twice() {
    let kills = if std::env::var("SPRINGHOUSE_TEST_LONG").is_ok_and(|long| long == "1") { 100 } else { 10 };
    let seed = fresh_seed();
    println!("seed={seed}");
    let mut random = Random::new(seed);
    let mut folder = tempfile::tempdir().expect("a folder");
    let mut furthest = 0;
    for kill in 0..kills {
        // The check recomputes from the first event, so a long run starts again now and then.
        if kill % 10 == 9 {
            folder = tempfile::tempdir().expect("a folder");
        }
        let child = start_child(folder.path(), seed, None);
        let durable = run_and_kill(child, &mut random);
        furthest = furthest.max(check(folder.path(), seed, durable, &format!("kill {kill}")));
    }
    assert!(furthest > 0, "the children wrote something");
}

#[test]
fn a_crash_around_the_commit_leaves_either_checkpoint() {
    let seed = 77;
    let folder = tempfile::tempdir().expect("a folder");
    let mut before = 0;
    for spec in
        ["online_before_commit:1", "online_after_commit:1", "online_before_commit:3", "online_after_commit:4"]
    {
        let mut child = start_child(folder.path(), seed, Some(spec));
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let durable =
            lines.filter_map(|line| line.strip_prefix("durable ")?.parse().ok()).last().unwrap_or(before);
        assert!(!child.wait().expect("ends").success(), "{spec} should abort the child");
        let reached = check(folder.path(), seed, durable, spec);
        if spec == "online_before_commit:1" {
            assert_eq!(reached, before, "nothing was committed");
        }
        if spec == "online_after_commit:1" {
            assert!(reached > before, "the commit counts though nobody heard of it");
        }
        before = reached;
    }
}
