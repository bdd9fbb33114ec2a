//! What the kernel costs, on synthetic events of the size of a real table: `cargo run --release --example kernel_speed`.
//!
//! Numbers are for one core; the first argument scales everything (0.01 is a smoke test).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement reads the clock and talks to the person who runs it"
)]

use arrow::array::{ArrayRef, Float64Array, StringArray};
use springhouse_core::definition::{
    AggregateFunction as F, DefaultValue, FeatureView, FreshnessSlo, LatestFeature, Meta, ViewKind,
    WindowFeature, aggregate_output_type, default_hop,
};
use springhouse_core::time::{DAY, HOUR, SECOND};
use springhouse_core::{Micros, Value, ValueType};
use springhouse_kernel::{Event, EventColumns, LabelColumns, Stamp, ViewPlan, training_values};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// That of the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn column_type(name: &str) -> Option<ValueType> {
    Some(if name == "carrier" { ValueType::String } else { ValueType::Float64 })
}

fn plan(kind: ViewKind) -> ViewPlan {
    let view = FeatureView {
        name: "measured".into(),
        version: 1,
        entity: "e".into(),
        source: "s".into(),
        key_columns: vec!["k".into()],
        op: None,
        filter: None,
        derived: Vec::new(),
        kind,
        soft_ttl: None,
        hard_ttl: i64::MAX,
        slo: FreshnessSlo { tier: None, p95: 1, p99: 1 },
        meta: Meta::default(),
    };
    ViewPlan::compile(&view, &column_type).unwrap()
}

fn latest(columns: usize) -> ViewPlan {
    let feature = |i| LatestFeature {
        name: format!("f{i}"),
        column: format!("f{i}"),
        value_type: ValueType::Float64,
        default: DefaultValue::Null,
        pii: false,
        meta: Meta::default(),
    };
    plan(ViewKind::Latest((0..columns).map(feature).collect()))
}

fn windows(features: &[(F, &str)], lengths: &[Option<Micros>]) -> ViewPlan {
    let mut all = Vec::new();
    for (function, column) in features {
        let column = Some(*column).filter(|column| !column.is_empty());
        let value_column = column.and_then(column_type);
        for window in lengths {
            all.push(WindowFeature {
                name: format!("{}_{column:?}_{window:?}", function.name()),
                function: function.clone(),
                column: column.map(str::to_owned),
                column_type: value_column.clone(),
                window: *window,
                hop: default_hop(window.unwrap_or(HOUR)),
                filter: None,
                group_by: None,
                group_type: None,
                value_type: aggregate_output_type(function, value_column.as_ref(), None).unwrap(),
                default: DefaultValue::Null,
                pii: false,
                meta: Meta::default(),
            });
        }
    }
    plan(ViewKind::Windows(all))
}

/// A number that looks random and is the same every run.
fn mix(i: u64) -> u64 {
    let z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

/// Seconds of this thread on a core where the system tells, so that other work on the machine does not count; else
/// seconds since the first call.
fn busy_seconds() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.get_or_init(Instant::now).elapsed().as_secs_f64(), |n| n / 1e9)
}

struct Table {
    entities: Vec<u32>,
    event_times: Vec<Micros>,
    known_at: Vec<Micros>,
    seq: Vec<i64>,
}

/// Rows in time order over 90 days; one in eight is known up to an hour late.
fn table(rows: usize, entity_count: usize) -> Table {
    let event_times: Vec<Micros> = (0..rows as i64).map(|i| i * 90 * DAY / rows as i64).collect();
    let late = |(i, at): (usize, &Micros)| at + if mix(i as u64).is_multiple_of(8) { HOUR } else { SECOND };
    Table {
        entities: (0..rows as u64).map(|i| (mix(i) % entity_count as u64) as u32).collect(),
        known_at: event_times.iter().enumerate().map(late).collect(),
        event_times,
        seq: (0..rows as i64).collect(),
    }
}

fn train(name: &str, plan: &ViewPlan, rows: usize, label_count: usize, entity_count: usize) {
    let table = table(rows, entity_count);
    let carriers = ["AA", "B6", "DL", "UA", "WN"];
    let input = |i: usize| -> ArrayRef {
        match plan.inputs()[i].value_type() {
            ValueType::String => Arc::new(StringArray::from_iter_values(
                (0..rows as u64).map(|row| carriers[mix(row) as usize % carriers.len()]),
            )),
            _ => Arc::new(Float64Array::from_iter_values(
                (0..rows as u64).map(|row| (mix(row + i as u64) % 100_000) as f64 / 100.0),
            )),
        }
    };
    let inputs: Vec<ArrayRef> = (0..plan.inputs().len()).map(input).collect();
    let asked: Vec<u32> =
        (0..label_count as u64).map(|i| (mix(i + 7) % entity_count as u64) as u32).collect();
    let at: Vec<Micros> = (0..label_count as u64).map(|i| (mix(i + 9) % (90 * DAY as u64)) as i64).collect();
    let events = EventColumns {
        entities: &table.entities,
        event_times: &table.event_times,
        known_at: &table.known_at,
        seq: &table.seq,
        event_ids: None,
        inputs: &inputs,
    };
    let start = busy_seconds();
    let out = training_values(plan, entity_count, &events, &LabelColumns { entities: &asked, at: &at });
    let seconds = busy_seconds() - start;
    black_box(&out);
    println!(
        "{name}: {label_count} labels x {rows} rows x {} features: {seconds:.2} s",
        plan.features().len()
    );
}

fn per_call(name: &str, calls: usize, mut call: impl FnMut(usize)) {
    let start = busy_seconds();
    (0..calls).for_each(&mut call);
    println!("{name}: {:.2} us", (busy_seconds() - start) * 1e6 / calls as f64);
}

/// One busy entity: an event every ten seconds for a week.
fn online(name: &str, plan: &ViewPlan, scale: f64) {
    let count = (60_480.0 * scale) as i64;
    let event = |i: i64| {
        let at = i * 10 * SECOND;
        let value = |input: &springhouse_kernel::ViewInput| match input.value_type() {
            ValueType::String => Value::string(["AA", "B6", "DL"][i as usize % 3]),
            _ => Value::Float64((mix(i as u64) % 100_000) as f64 / 100.0),
        };
        let values = plan.inputs().iter().map(value).collect();
        Event { stamp: Stamp { event_time: at, known_at: at, seq: i }, values }
    };
    let mut state = plan.empty();
    per_call(&format!("{name}: insert, merge and compact one event"), count as usize, |i| {
        let event = event(i as i64);
        let now = event.stamp.known_at;
        let mut delta = plan.empty();
        plan.insert(&mut delta, event, now);
        plan.merge(&mut state, &delta);
        plan.compact(&mut state, now);
    });
    let now = count * 10 * SECOND;
    let calls = (2_000.0 * scale).max(10.0) as usize;
    per_call(&format!("{name}: read {} features", plan.features().len()), calls, |i| {
        black_box(plan.read(&state, now + i as i64));
    });
    let mut bytes = Vec::new();
    per_call(&format!("{name}: encode"), calls, |_| {
        bytes.clear();
        plan.encode(&state, &mut bytes);
    });
    per_call(&format!("{name}: decode"), calls, |_| {
        black_box(plan.decode(&bytes).unwrap());
    });
    println!("{name}: {} bytes stored, about {} in memory", bytes.len(), state.size_bytes());
}

/// Events of many entities (Zipf, exponent 1) in time order, as an applier takes them: a batch folded into the states that it
/// touches, each brought up to the present once.
fn stream(name: &str, plan: &ViewPlan, events: usize, entity_count: usize) {
    const BATCH: usize = 10_000;
    let mut states: Vec<_> = (0..entity_count).map(|_| plan.empty()).collect();
    let step = DAY / 1_000_000;
    let mut touched = Vec::with_capacity(BATCH);
    let (mut at, mut next) = (0, 0u64);
    let start = busy_seconds();
    for batch in 0..events / BATCH {
        touched.clear();
        let now = at + BATCH as i64 * step;
        for _ in 0..BATCH {
            next += 1;
            at += step;
            // The inverse of the harmonic sum, closely enough.
            let draw = (mix(next) % (1 << 20)) as f64 / (1u64 << 20) as f64;
            let entity = ((entity_count as f64).powf(draw) as usize).min(entity_count) - 1;
            let values = vec![Value::Float64((mix(next + 5) % 100_000) as f64 / 100.0)];
            let stamp = Stamp { event_time: at, known_at: at, seq: next as i64 };
            plan.insert(&mut states[entity], Event { stamp, values }, now);
            touched.push(entity);
        }
        touched.sort_unstable();
        touched.dedup();
        touched.iter().for_each(|entity| plan.compact(&mut states[*entity], now));
        black_box(batch);
    }
    let seconds = busy_seconds() - start;
    let bytes: usize = states.iter().map(|state| state.size_bytes()).sum();
    println!(
        "{name}: {events} events of {entity_count} entities: {:.0} events a second and core, {} MiB",
        (events / BATCH * BATCH) as f64 / seconds,
        bytes >> 20
    );
}

fn main() {
    let scale: f64 = std::env::args().nth(1).map_or(1.0, |text| text.parse().unwrap());
    let size = |n: f64| (n * scale) as usize;
    let (rows, labels, entities) = (size(5e6), size(1e6), size(1e5).max(1));
    train("latest", &latest(10), rows, labels, entities);
    train("latest, few entities", &latest(10), rows, labels, 5);
    let lengths = [Some(HOUR), Some(DAY), Some(7 * DAY)];
    let sums = windows(&[(F::Count, ""), (F::Mean, "x")], &lengths);
    train("count and mean", &sums, rows, labels, entities);
    train("count and mean, few entities", &sums, rows, labels, 5);
    let others =
        windows(&[(F::Max, "x"), (F::Last, "x"), (F::CountDistinct { cap: 100 }, "carrier")], &lengths);
    train("max, last and distinct", &others, rows, labels, entities);
    train("max, last and distinct, few entities", &others, rows / 10, labels / 10, 5);
    online("count and mean", &sums, scale);
    online("max, last and distinct", &others, scale);
    online("latest", &latest(10), scale);
    let four = [(F::Count, ""), (F::Sum, "x"), (F::Mean, "x"), (F::Max, "x")];
    stream("one window", &windows(&four, &[Some(HOUR)]), size(5e6).max(10_000), 100_000);
    let lengths = [Some(HOUR), Some(DAY), Some(7 * DAY), Some(30 * DAY)];
    stream("four windows", &windows(&four, &lengths), size(5e6).max(10_000), 100_000);
}
