//! Measures the embedded store; the figures in `docs/adr/0002-embedded-store.md` come from here.
//!
//! `cargo run --release -p springhouse-online-embedded --example measure -- [folder] [entities]`; the folder decides
//! which disk is measured (default: the system's temporary folder), entities default to 1,000,000.

#![expect(clippy::print_stdout, reason = "a report for people")]
#![expect(clippy::disallowed_methods, reason = "measuring is what this program does")]

use futures::executor::block_on;
use springhouse_core::definition::{
    AggregateFunction, DefaultValue, FeatureView, FreshnessSlo, LatestFeature, Meta, ViewKind, WindowFeature,
    default_hop,
};
use springhouse_core::key::{identity, spread};
use springhouse_core::time::{DAY, HOUR, MINUTE, SECOND};
use springhouse_core::{EntityKey, Micros, Value, ValueType};
use springhouse_kernel::{EntityState, Event, Stamp, ViewPlan};
use springhouse_online::suite::Random;
use springhouse_online::{Lane, OnlineStore, ViewHandle, Write};
use springhouse_online_embedded::{EmbeddedSettings, EmbeddedStore};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NOW: Micros = 1_767_225_600 * SECOND;
const READS: usize = 300_000;
const BATCH: usize = 1_000;
/// How long each write measurement runs.
const RUN: Duration = Duration::from_secs(8);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let entities: u64 = arguments.next().map_or(1_000_000, |n| n.parse().expect("entities is a number"));
    if let Some(role) = arguments.next() {
        return load_and_die(&folder, entities, &role);
    }
    let folder = folder.join(format!("springhouse-measure-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder to measure in");
    for (name, view) in views() {
        println!("== {name}, {entities} entities");
        bulk_load(&folder.join(name), &view, entities, EmbeddedSettings::default());
        open_after_kill(&folder.join(name), &view, entities, name);
        reads(&folder.join(name), &view, entities);
        durable_writes(&folder.join(name), &view, entities);
    }
    std::fs::remove_dir_all(&folder).expect("remove what was measured");
}

/// A view of latest values, 20 columns, and one of windows, 12 features.
fn views() -> [(&'static str, ViewHandle); 2] {
    let latest = (0..20).map(|i| LatestFeature {
        name: format!("f{i}"),
        column: format!("c{}", i % 10),
        value_type: ValueType::Float64,
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    });
    let windows = [HOUR, 2 * HOUR, DAY, 7 * DAY].into_iter().flat_map(|window| {
        let functions = [AggregateFunction::Count, AggregateFunction::Mean, AggregateFunction::Max];
        functions.map(|function| WindowFeature {
            name: format!("{function:?}_{window}"),
            value_type: if function == AggregateFunction::Count {
                ValueType::Int64
            } else {
                ValueType::Float64
            },
            function,
            column: Some("c0".to_owned()),
            column_type: Some(ValueType::Float64),
            window: Some(window),
            hop: default_hop(window),
            filter: None,
            group_by: None,
            group_type: None,
            default: DefaultValue::Null,
            pii: false,
            meta: Meta::default(),
        })
    });
    let handle = |name: &str, kind| {
        let view = FeatureView {
            name: name.to_owned(),
            version: 1,
            entity: "user".to_owned(),
            source: "events".to_owned(),
            key_columns: vec!["user".to_owned()],
            op: None,
            filter: None,
            derived: Vec::new(),
            kind,
            soft_ttl: None,
            hard_ttl: DAY,
            slo: FreshnessSlo { tier: None, p95: MINUTE, p99: HOUR },
            meta: Meta::default(),
        };
        let plan = ViewPlan::compile(&view, &|_| Some(ValueType::Float64)).expect("a valid view");
        ViewHandle { id: view.id().into(), generation: 0, plan: Arc::new(plan), is_shared: false }
    };
    [
        ("latest", handle("latest", ViewKind::Latest(latest.collect()))),
        ("windows", handle("windows", ViewKind::Windows(windows.collect()))),
    ]
}

fn key(entity: u64) -> EntityKey {
    EntityKey::encode(
        &[("user".to_owned(), ValueType::String)],
        &[Value::string(format!("user-{entity:016}"))],
    )
    .expect("a short key")
}

/// The state of one event.
fn delta(view: &ViewHandle, seq: i64, now: Micros) -> EntityState {
    let mut state = view.plan.empty();
    let stamp = Stamp { event_time: now - MINUTE, known_at: now - MINUTE, seq };
    let values = view.plan.inputs().iter().map(|_| Value::Float64(seq as f64 * 0.37)).collect();
    view.plan.insert(&mut state, Event { stamp, values }, now);
    state
}

fn open(folder: &Path, settings: &EmbeddedSettings) -> EmbeddedStore {
    EmbeddedStore::open(folder, settings).expect("open")
}

/// As a materialisation does it: one bucket of entities after the other, one write each, then a checkpoint.
fn bulk_load(folder: &Path, view: &ViewHandle, entities: u64, settings: EmbeddedSettings) {
    const BUCKETS: u64 = 16;
    let store = open(folder, &settings);
    let (mut in_store, mut cpu) = (Duration::ZERO, 0.0);
    let wall = Instant::now();
    for bucket in 0..BUCKETS {
        let is_member = |key: &EntityKey| spread(identity(key.as_bytes())) % BUCKETS == bucket;
        let members = (0..entities).map(|entity| (key(entity), entity)).filter(|(key, _)| is_member(key));
        let deltas = members.map(|(key, entity)| (key, delta(view, entity as i64, NOW))).collect();
        let (begin, cpu_before) = (Instant::now(), cpu_seconds());
        let lane = Lane { name: format!("materialize/{bucket}").into(), position: 1 };
        block_on(store.write(vec![Write { view: view.clone(), deltas }], lane, NOW)).expect("write");
        in_store += begin.elapsed();
        cpu += cpu_seconds() - cpu_before;
    }
    let (begin, cpu_before) = (Instant::now(), cpu_seconds());
    block_on(store.checkpoint()).expect("checkpoint");
    in_store += begin.elapsed();
    cpu += cpu_seconds() - cpu_before;
    let size = std::fs::metadata(folder.join("data.mdb")).expect("the file").len() >> 20;
    println!(
        "bulk load: {:.0} entities/s in the store ({:.0} per CPU second; {:.0} with making the deltas), file {size} MiB, {:?}",
        entities as f64 / in_store.as_secs_f64(),
        entities as f64 / cpu,
        entities as f64 / wall.elapsed().as_secs_f64(),
        store.statistics()
    );
}

/// CPU time of this process so far, all threads: on a busy machine the truer measure.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Counted after the program's name, which may hold spaces: user and system time, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// A child loads some batches on top and aborts with dirty states in memory.
fn open_after_kill(folder: &Path, view: &ViewHandle, entities: u64, role: &str) {
    let exe = std::env::current_exe().expect("this program");
    let mut child = std::process::Command::new(exe);
    let status = child.arg(folder).arg(entities.to_string()).arg(role).status().expect("a child");
    assert!(!status.success(), "it aborts");
    let begin = Instant::now();
    let store = open(folder, &EmbeddedSettings::default());
    let opened = begin.elapsed();
    let found = block_on(store.get_many(view, &[key(7)])).expect("get");
    assert!(found[0].is_some());
    println!("open after a kill: {opened:?}, with the first answer {:?}", begin.elapsed());
}

fn load_and_die(folder: &Path, entities: u64, role: &str) {
    let store = open(folder, &EmbeddedSettings::default());
    let (_, view) = views().into_iter().find(|(name, _)| *name == role).expect("a view");
    let mut writer = Batches::new(view, entities);
    for round in 0..50 {
        writer.write(&store);
        if round % 20 == 19 {
            block_on(store.checkpoint()).expect("checkpoint");
        }
    }
    std::process::abort();
}

fn reads(folder: &Path, view: &ViewHandle, entities: u64) {
    let settings = EmbeddedSettings { memory_bytes_max: 8 << 30, ..EmbeddedSettings::default() };
    {
        let store = open(folder, &EmbeddedSettings { memory_bytes_max: 1, ..settings.clone() });
        time_reads("get, from the file", &store, view, entities, READS);
        time_many("get 100, from the file", &store, view, entities);
    }
    let store = open(folder, &settings);
    let everyone: Vec<_> = (0..entities).map(key).collect();
    block_on(store.get_many(view, &everyone)).expect("warm up");
    drop(everyone);
    time_reads("get, from memory", &store, view, entities, READS);
    time_many("get 100, from memory", &store, view, entities);
    let absent: Vec<_> = (0..READS as u64).map(|i| key(entities + i)).collect();
    let times = absent.iter().map(|key| timed(|| block_on(store.get_many(view, std::slice::from_ref(key)))));
    report("get, of nobody", times.collect());
}

fn time_reads(what: &str, store: &EmbeddedStore, view: &ViewHandle, entities: u64, count: usize) {
    let mut random = Random::new(1);
    let keys: Vec<_> = (0..count).map(|_| key(random.below(entities))).collect();
    let times = keys.iter().map(|key| timed(|| block_on(store.get_many(view, std::slice::from_ref(key)))));
    report(what, times.collect());
}

fn time_many(what: &str, store: &EmbeddedStore, view: &ViewHandle, entities: u64) {
    let mut random = Random::new(2);
    let requests: Vec<Vec<_>> =
        (0..2_000).map(|_| (0..100).map(|_| key(random.below(entities))).collect()).collect();
    report(what, requests.iter().map(|keys| timed(|| block_on(store.get_many(view, keys)))).collect());
}

fn timed<T, E: std::fmt::Debug>(call: impl FnOnce() -> Result<T, E>) -> Duration {
    let begin = Instant::now();
    let result = std::hint::black_box(call());
    let elapsed = begin.elapsed();
    result.expect("a call that is measured succeeds");
    elapsed
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e6;
    println!(
        "{what}: p50 {:.2} us, p99 {:.2} us, p99.9 {:.2} us ({} calls)",
        at(0.5),
        at(0.99),
        at(0.999),
        times.len()
    );
}

/// Random batches of single events, as an applier makes them.
struct Batches {
    view: ViewHandle,
    entities: u64,
    random: Random,
    position: i64,
}

impl Batches {
    fn new(view: ViewHandle, entities: u64) -> Self {
        Self { view, entities, random: Random::new(3), position: 0 }
    }

    fn next(&mut self) -> (Write, Lane, Micros) {
        self.position += 1;
        let now = NOW + self.position * 10_000;
        let members: std::collections::BTreeSet<_> =
            (0..BATCH).map(|_| self.random.below(self.entities)).collect();
        let seq = |i: usize| self.position * BATCH as i64 + i as i64;
        let deltas = members.iter().enumerate();
        let deltas = deltas.map(|(i, entity)| (key(*entity), delta(&self.view, seq(i), now))).collect();
        let lane = Lane { name: "log".into(), position: self.position };
        (Write { view: self.view.clone(), deltas }, lane, now)
    }

    fn write(&mut self, store: &EmbeddedStore) -> Duration {
        let (write, lane, now) = self.next();
        timed(|| block_on(store.write(vec![write], lane, now)))
    }
}

/// The same durable batches in two ways: into a log that is synced, the store checkpointed every second; and the store
/// alone, checkpointed for every batch. A reader asks all the while.
fn durable_writes(folder: &Path, view: &ViewHandle, entities: u64) {
    for is_logged in [true, false] {
        // Lanes of the run before are above the positions of this one.
        let store = open(folder, &EmbeddedSettings::default());
        block_on(store.drop_lanes("log")).expect("drop lanes");
        let mut log = File::create(folder.join("log")).expect("a log");
        let is_done = AtomicBool::new(false);
        let checkpoints = AtomicU64::new(0);
        let mut batches = Batches::new(view.clone(), entities);
        let mut times = Vec::new();
        let mut events = 0;
        let (begin, cpu_before) = (Instant::now(), cpu_seconds());
        let read_times = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut random = Random::new(4);
                let mut times = Vec::new();
                while !is_done.load(Ordering::Relaxed) {
                    let key = [key(random.below(entities))];
                    times.push(timed(|| block_on(store.get_many(view, &key))));
                    std::thread::sleep(Duration::from_micros(200));
                }
                times
            });
            if is_logged {
                scope.spawn(|| {
                    while !is_done.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_secs(1));
                        block_on(store.checkpoint()).expect("checkpoint");
                        checkpoints.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while begin.elapsed() < RUN {
                let (write, lane, now) = batches.next();
                events += write.deltas.len();
                let line = vec![b'x'; write.deltas.len() * 100];
                let start = Instant::now();
                if is_logged {
                    log.write_all(&line).and_then(|()| log.sync_data()).expect("log");
                }
                block_on(store.write(vec![write], lane, now)).expect("write");
                if !is_logged {
                    block_on(store.checkpoint()).expect("checkpoint");
                    checkpoints.fetch_add(1, Ordering::Relaxed);
                }
                times.push(start.elapsed());
            }
            is_done.store(true, Ordering::Relaxed);
            reader.join().expect("the reader")
        });
        let how =
            if is_logged { "log synced per batch, checkpoint every second" } else { "checkpoint per batch" };
        println!(
            "durable writes, {how}: {:.0} events/s, {:.0} per CPU second (reader included), {} checkpoints",
            events as f64 / begin.elapsed().as_secs_f64(),
            events as f64 / (cpu_seconds() - cpu_before),
            checkpoints.load(Ordering::Relaxed)
        );
        report("  batch of 1000", times);
        report("  reads meanwhile", read_times);
    }
}
