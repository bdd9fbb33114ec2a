//! A project on disk: definitions, log, store and lake, with a clock that the test moves.

use springhouse_core::definition::Definitions;
use springhouse_core::{Clock, EntityKey, ExpressionProblem, Micros, Value, load_definitions};
use springhouse_ingest::{
    Ingest, PushError, PushOutcome, PushRequest, PushRows, PushSettings, RowOutcome, ViewFeed,
};
use springhouse_kernel::ViewPlan;
use springhouse_lake::Lake;
use springhouse_online::{MemoryStore, OnlineStore, ViewHandle};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// 2024-01-01T00:00:00Z.
pub(crate) const START: Micros = 1_704_067_200_000_000;

pub(crate) const DEFINITIONS: &str = "
entities:
  user: {keys: {user: string}, description: Someone, owner: tests@example.com}
sources:
  clicks:
    description: Clicks
    owner: tests@example.com
    stream: push
    event_time: at
    event_id: id
    max_clock_skew: 5s
    columns: {at: timestamp!, user: string!, id: int64, amount: float64}
  views:
    description: Page views, without ids
    owner: tests@example.com
    stream: push
    event_time: at
    delay: 10m
    columns: {at: timestamp!, user: string!, page: string}
feature_views:
  user_clicks:
    description: Clicks of a user
    owner: tests@example.com
    entity: user
    source: clicks
    ttl: {hard: 30d}
    aggregate:
      clicks: {fn: count, windows: [lifetime], default: 0}
      amount: {fn: sum, column: amount, windows: [lifetime], default: 0.0}
  user_pages:
    description: The page a user saw last
    owner: tests@example.com
    entity: user
    source: views
    ttl: {hard: 30d}
    features: {page: {default: none}}
";

#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn set(&self, now: Micros) {
        self.0.store(now, Ordering::SeqCst);
    }

    pub(crate) fn advance(&self, by: Micros) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}

pub(crate) fn definitions(yaml: &str) -> Arc<Definitions> {
    let resolve = |definitions: &mut Definitions| match springhouse_expr::resolve_types(definitions) {
        Ok(()) => Vec::new(),
        Err(problems) => problems
            .into_iter()
            .map(|(path, error)| ExpressionProblem {
                path,
                message: error.message,
                hint: error.hint,
                column: error.column,
            })
            .collect(),
    };
    let files = [("features.yaml".to_owned(), yaml.to_owned())];
    match load_definitions(&files, &resolve) {
        Ok(loaded) => Arc::new(loaded.definitions),
        Err(all) => panic!("{}", all.iter().map(ToString::to_string).collect::<String>()),
    }
}

pub(crate) fn handle(definitions: &Definitions, view: &str, generation: u32) -> ViewHandle {
    let view = &definitions.feature_views[view];
    let schema = definitions.sources[&view.source].schema();
    let column_type = |name: &str| {
        let derived = view.derived.iter().map(|d| (d.name.clone(), d.value_type.clone()));
        schema.iter().cloned().chain(derived).find(|(n, _)| n == name).map(|(_, t)| t)
    };
    let plan = ViewPlan::compile(view, &column_type).unwrap();
    ViewHandle { id: view.id().into(), generation, plan: Arc::new(plan), is_shared: false }
}

/// Every view of every stream, from offset 0.
pub(crate) fn feeds(definitions: &Definitions) -> BTreeMap<String, Vec<ViewFeed>> {
    let mut feeds: BTreeMap<String, Vec<ViewFeed>> = BTreeMap::new();
    for view in definitions.feature_views.values() {
        let feed = ViewFeed { handle: handle(definitions, &view.name, 0), start: 0 };
        feeds.entry(view.source.clone()).or_default().push(feed);
    }
    feeds
}

pub(crate) struct Project {
    pub(crate) folder: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) store: Arc<dyn OnlineStore>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) settings: PushSettings,
}

impl Project {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new());
        let mut project = Self::at(temporary.path(), store);
        project._temporary = Some(temporary);
        project
    }

    pub(crate) fn at(folder: &Path, store: Arc<dyn OnlineStore>) -> Self {
        Self {
            folder: folder.to_owned(),
            _temporary: None,
            definitions: definitions(DEFINITIONS),
            store,
            clock: Arc::new(TestClock(AtomicI64::new(START))),
            settings: PushSettings {
                flush_interval_ms: 3_600_000,
                checkpoint_interval_ms: 3_600_000,
                ..PushSettings::default()
            },
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub(crate) fn lake(&self) -> Lake {
        Lake::open(&self.folder, &self.folder.join("lake")).unwrap()
    }

    pub(crate) async fn try_open(&self) -> Result<Ingest, PushError> {
        Ingest::open(
            &self.log(),
            self.settings.clone(),
            self.definitions.clone(),
            feeds(&self.definitions),
            self.store.clone(),
            self.lake(),
            self.clock.clone(),
        )
        .await
    }

    pub(crate) async fn open(&self) -> Ingest {
        self.try_open().await.unwrap()
    }

    /// The features of one user now, by name.
    pub(crate) async fn read(&self, ingest: &Ingest, view: &str, user: &str) -> BTreeMap<String, Value> {
        let handle = handle(&self.definitions, view, 0);
        let keys = &self.definitions.entities["user"].keys;
        let key = EntityKey::encode(keys, &[Value::string(user)]).unwrap();
        let states = self.store.get_many(&handle, &[key]).await.unwrap();
        let answer = match &states[0] {
            Some(state) => handle.plan.read(state, ingest.read_now()),
            None => handle.plan.read_empty(),
        };
        handle.plan.features().iter().map(|(name, _)| name.clone()).zip(answer.values).collect()
    }

    /// Clicks and their amount of one user.
    pub(crate) async fn clicks(&self, ingest: &Ingest, user: &str) -> (i64, f64) {
        let values = self.read(ingest, "user_clicks", user).await;
        let Value::Int64(count) = values["clicks_lifetime"] else { panic!("{values:?}") };
        let sum = match values["amount_lifetime"] {
            Value::Float64(sum) => sum,
            _ => 0.0,
        };
        (count, sum)
    }
}

pub(crate) fn json(source: &str, rows: &str) -> PushRequest {
    PushRequest {
        source: source.to_owned(),
        rows: PushRows::Json(rows.to_owned().into()),
        idempotency_key: None,
        row_keys: None,
        backfill: false,
    }
}

/// A row of `clicks`.
pub(crate) fn click(id: Option<i64>, user: &str, at: Micros, amount: f64) -> String {
    let id = id.map_or("null".to_owned(), |id| id.to_string());
    format!(r#"{{"at": {at}, "user": "{user}", "id": {id}, "amount": {amount}}}"#)
}

/// An outcome as text: `accepted=1 duplicates=0 refused=1` and a line per exception.
pub(crate) fn describe(outcome: &Result<PushOutcome, PushError>) -> String {
    match outcome {
        Err(error) => match &error.hint {
            Some(hint) => format!("{}: {}\n  hint: {hint}", error.code, error.message),
            None => format!("{}: {}", error.code, error.message),
        },
        Ok(outcome) => {
            let mut text = format!(
                "accepted={} duplicates={} refused={}",
                outcome.accepted, outcome.duplicates, outcome.refused
            );
            for (row, exception) in &outcome.exceptions {
                text += &match exception {
                    RowOutcome::Refused { code, reason } => format!("\nrow {row}: {code}: {reason}"),
                    RowOutcome::Duplicate => format!("\nrow {row}: duplicate"),
                    RowOutcome::Accepted => format!("\nrow {row}: accepted"),
                };
            }
            text
        }
    }
}

/// A small generator of numbers; the seed is printed by whoever uses it.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The ids of all rows of `clicks` in the lake, sorted.
pub(crate) fn ids_in_lake(folder: &Path) -> Vec<Option<i64>> {
    use arrow::array::AsArray;
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(folder.join("lake/clicks")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "parquet") || !is_live(folder, &path) {
            continue;
        }
        let file = std::fs::File::open(path).unwrap();
        let builder = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        for batch in builder.build().unwrap() {
            let batch = batch.unwrap();
            let column = batch.column_by_name("id").unwrap();
            ids.extend(column.as_primitive::<arrow::datatypes::Int64Type>().iter());
        }
    }
    ids.sort_unstable();
    ids
}

/// True when a commit of the table names the file: one that was written without its commit is no part of it.
fn is_live(folder: &Path, file: &Path) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    let log = folder.join("lake/clicks/_delta_log");
    std::fs::read_dir(log).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_some_and(|e| e == "json") && std::fs::read_to_string(path).unwrap().contains(name)
    })
}
