//! How many events a second become durable and servable, and how long a push takes: several clients push JSON batches into
//! one `Ingest` over the embedded store. `push_rate [folder] [seconds] [clients] [rows per batch]`.
#![expect(clippy::print_stdout, reason = "it is a program that prints what it measured")]

use springhouse_core::definition::Definitions;
use springhouse_core::{Clock, Micros, load_definitions};
use springhouse_ingest::{Ingest, PushRequest, PushRows, PushSettings, ViewFeed};
use springhouse_kernel::ViewPlan;
use springhouse_lake::Lake;
use springhouse_online::ViewHandle;
use springhouse_online_embedded::{EmbeddedSettings, EmbeddedStore};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEFINITIONS: &str = "
entities:
  user: {keys: {user: string}, description: Someone, owner: bench@example.com}
sources:
  clicks:
    description: Clicks
    owner: bench@example.com
    stream: push
    event_time: at
    event_id: id
    columns: {at: timestamp!, user: string!, id: int64!, amount: float64, page: string}
feature_views:
  user_clicks:
    description: Clicks of a user
    owner: bench@example.com
    entity: user
    source: clicks
    ttl: {hard: 30d}
    aggregate:
      clicks: {fn: count, windows: [1h, 24h], default: 0}
      amount: {fn: sum, column: amount, windows: [1h, 24h], default: 0.0}
  user_page:
    description: The page a user saw last
    owner: bench@example.com
    entity: user
    source: clicks
    ttl: {hard: 30d}
    features: {page: {default: none}}
";

/// The wall clock, started once.
#[derive(Debug)]
struct WallClock(Micros, Instant);

impl Clock for WallClock {
    fn now(&self) -> Micros {
        self.0 + self.1.elapsed().as_micros() as i64
    }
}

fn feeds(definitions: &Definitions) -> BTreeMap<String, Vec<ViewFeed>> {
    let schema = definitions.sources["clicks"].schema();
    let feed = |view: &springhouse_core::definition::FeatureView| {
        let column_type = |name: &str| schema.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
        let plan = Arc::new(ViewPlan::compile(view, &column_type).expect("the view plans"));
        ViewFeed {
            handle: ViewHandle { id: view.id().into(), generation: 0, plan, is_shared: false },
            start: 0,
        }
    };
    BTreeMap::from([("clicks".to_owned(), definitions.feature_views.values().map(feed).collect())])
}

fn body(first: i64, rows: usize, now: Micros) -> String {
    let mut out = String::with_capacity(rows * 100);
    for id in first..first + rows as i64 {
        let user = (id * 7919) % 100_000;
        let comma = if id == first { '[' } else { ',' };
        write!(
            out,
            r#"{comma}{{"at": {now}, "user": "user-{user}", "id": {id}, "amount": {}.25, "page": "/p/{}"}}"#,
            id % 100,
            id % 500
        )
        .expect("a string takes everything");
    }
    out.push(']');
    out
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "push_rate.tmp".to_owned()));
    let mut number = |default: usize| arguments.next().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (seconds, clients, rows) = (number(10), number(4), number(500));
    let files = [("features.yaml".to_owned(), DEFINITIONS.to_owned())];
    let loaded = load_definitions(&files, &|d| {
        springhouse_expr::resolve_types(d).expect("there is no SQL");
        Vec::new()
    });
    let definitions = Arc::new(loaded.expect("the definitions are right").definitions);
    let store =
        EmbeddedStore::open(&folder.join("online"), &EmbeddedSettings::default()).expect("a new store");
    let clock = Arc::new(WallClock(1_704_067_200_000_000, Instant::now()));
    let log = folder.join("log");
    let ingest = Ingest::open(
        &log,
        PushSettings::default(),
        definitions.clone(),
        feeds(&definitions),
        Arc::new(store),
        Lake::open(&folder, &folder.join("lake")).expect("a new lake"),
        clock.clone(),
    );
    let ingest = Arc::new(ingest.await.expect("a new log"));
    let end = Instant::now() + Duration::from_secs(seconds as u64);
    let mut tasks = Vec::new();
    for client in 0..clients {
        let (ingest, clock) = (ingest.clone(), clock.clone());
        tasks.push(tokio::spawn(async move {
            let mut first = client as i64 * 1_000_000_000;
            let mut times = Vec::new();
            while Instant::now() < end {
                let request = PushRequest {
                    source: "clicks".to_owned(),
                    rows: PushRows::Json(body(first, rows, clock.now()).into()),
                    idempotency_key: None,
                    row_keys: None,
                    backfill: false,
                };
                let began = Instant::now();
                let outcome = ingest.push(request).await.expect("the push is taken");
                assert_eq!(outcome.accepted, rows);
                times.push(began.elapsed());
                first += rows as i64;
            }
            times
        }));
    }
    let began = Instant::now();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a client runs to its end"));
    }
    let elapsed = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{clients} clients, {rows} rows a batch: {:.0} events/s durable and applied; push p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        (times.len() * rows) as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0)
    );
    let began = Instant::now();
    ingest.shutdown().await.expect("a clean stop");
    println!("flushed and checkpointed in {:.1} s; {:?}", began.elapsed().as_secs_f64(), ingest.positions());
}
