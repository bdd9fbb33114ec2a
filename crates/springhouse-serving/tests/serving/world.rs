//! A small project in memory: definitions, a store with faults on demand, frontiers that a test sets.

use arrow::array::RecordBatch;
use springhouse_core::definition::Definitions;
use springhouse_core::time::format_duration;
use springhouse_core::{EntityKey, Micros, Value, ValueType, load_definitions};
use springhouse_expr::{ViewProjection, resolve_types};
use springhouse_kernel::{EntityState, Stamp, ViewPlan, array_from_values};
use springhouse_online::{
    BoxFuture, Lane, MemoryStore, OnlineStore, StoreError, StoreErrorKind, StoreStatistics, ViewHandle,
    ViewStatus, Write,
};
use springhouse_serving::{
    CallOptions, FeatureAnswer, FeatureRequest, FeatureServer, Frontiers, GuardedStore, Selection,
    ServedStore, ServingError, ServingSettings, ViewFrontier,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) const SECOND: Micros = 1_000_000;
pub(crate) const MINUTE: Micros = 60 * SECOND;
pub(crate) const HOUR: Micros = 60 * MINUTE;

/// One source, views of both kinds on two entities, request views on top, services with every policy.
pub(crate) const DEFINITIONS: &str = r#"
entities:
  user: {keys: {user: string}, owner: a@example.com, description: A user}
  card: {keys: {user: string, card: int64}, owner: a@example.com, description: A card of a user}
sources:
  pays:
    description: Payments
    owner: a@example.com
    stream: push
    event_time: at
    columns:
      at: timestamp!
      user: string!
      card: int64!
      amount: float64
      place: string
      phone: {type: string, pii: true}
feature_views:
  last_pay:
    description: The newest payment
    owner: a@example.com
    entity: user
    source: pays
    tier: nearline
    ttl: {soft: 10m, hard: 1h}
    features:
      amount: {default: -1.0}
      place:
  contact:
    description: How to reach the user
    owner: a@example.com
    entity: user
    source: pays
    tier: nearline
    ttl: {hard: 1h}
    features:
      phone:
  pay_counts:
    description: Payments lately
    owner: a@example.com
    entity: user
    source: pays
    tier: realtime
    ttl: {soft: 30s, hard: 5m}
    aggregate:
      pays: {fn: count, windows: [1h], default: 0}
      spent: {fn: sum, column: amount, windows: [1h], default: 0.0}
      large: {fn: count, where: amount > 100, windows: [1h], default: 7}
  pay_totals:
    description: All payments, without a soft TTL
    owner: a@example.com
    entity: user
    source: pays
    tier: realtime
    ttl: 5m
    aggregate: {all_pays: {fn: count, windows: [lifetime]}}
  card_last:
    description: The newest payment of a card
    owner: a@example.com
    entity: card
    source: pays
    tier: nearline
    ttl: {soft: 10m, hard: 1h}
    features:
      amount: {default: -2.0}
request_views:
  ratio:
    description: The payment asked about, set against the last
    owner: a@example.com
    fields: {limit: float64!, factor: float64}
    inputs: {last: last_pay:amount, n: pay_counts:pays_1h}
    features:
      share: {sql: last / limit, default: -9.0}
      scaled: share * coalesce(factor, 1.0) + n
      asked: {sql: "CASE WHEN limit > 0 THEN now END"}
  verdict:
    description: What follows from the ratio
    owner: a@example.com
    inputs: {scaled: ratio:scaled}
    features:
      is_high: scaled > 3
  clock:
    description: Of the request alone
    owner: a@example.com
    fields: {a: int64, x: int64}
    features:
      doubled: x * 2
      sum: x + a
feature_services:
  everything:
    description: All that is not personal
    owner: a@example.com
    features: [last_pay, pay_counts, card_last, ratio, verdict]
  plain: {description: Defaults, owner: a@example.com, features: [last_pay, pay_counts]}
  strict:
    description: Fails closed
    owner: a@example.com
    features: [last_pay, pay_counts]
    on_stale: fail
    on_missing: fail
    on_expired: fail
    on_unavailable: fail
  careful: {description: No stale values, owner: a@example.com, features: [last_pay], on_stale: default}
  remembering:
    description: Serves what it knew
    owner: a@example.com
    features: [last_pay, pay_counts]
    on_unavailable: last_known
  personal:
    description: For support
    owner: a@example.com
    features: [contact, last_pay:amount]
    readers: [role:support]
"#;

/// Frontiers and clock as a test sets them.
#[derive(Debug, Default)]
pub(crate) struct Moments {
    pub(crate) now: AtomicI64,
    pub(crate) frontiers: Mutex<BTreeMap<String, ViewFrontier>>,
}

impl Frontiers for Moments {
    fn of(&self, view_id: &str) -> ViewFrontier {
        let nothing = ViewFrontier { frontier: Micros::MIN, cut: -1 };
        self.frontiers.lock().unwrap().get(view_id).copied().unwrap_or(nothing)
    }

    fn now(&self) -> Micros {
        self.now.load(Ordering::SeqCst)
    }
}

/// How the store behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It says that it is unavailable.
    Unavailable,
    /// It says that what it holds is damaged.
    Corrupt,
    /// It never answers.
    Silent,
    /// It answers, but not at the first poll.
    Late,
    /// It answers what it held when it was asked, once the test opens the gate.
    Gated,
    /// It panics.
    Panics,
}

/// The in-memory store, with faults in its reads of the views named.
#[derive(Debug, Default)]
pub(crate) struct FaultyStore {
    pub(crate) inner: MemoryStore,
    pub(crate) fault: Mutex<(Fault, Option<String>)>,
    pub(crate) gate: Gate,
    /// Reads, and most reads of one key at a time.
    pub(crate) calls: AtomicUsize,
    pub(crate) most_at_once: AtomicUsize,
    under_way: Mutex<BTreeMap<(String, EntityKey), usize>>,
}

/// Holds calls back; the test lets them go.
#[derive(Debug)]
pub(crate) struct Gate(tokio::sync::Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(tokio::sync::Semaphore::new(0))
    }
}

impl Gate {
    pub(crate) fn let_go(&self, calls: usize) {
        self.0.add_permits(calls);
    }
}

/// One read under way.
struct UnderWay<'a>(&'a FaultyStore, Vec<(String, EntityKey)>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = self.0.under_way.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.1.iter().for_each(|key| *under_way.get_mut(key).unwrap() -= 1);
    }
}

impl FaultyStore {
    fn begin(&self, view: &ViewHandle, keys: &[EntityKey]) -> UnderWay<'_> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let keys: Vec<_> = keys.iter().map(|key| (view.id.to_string(), key.clone())).collect();
        let mut under_way = self.under_way.lock().unwrap();
        for key in &keys {
            let now = under_way.entry(key.clone()).or_default();
            *now += 1;
            self.most_at_once.fetch_max(*now, Ordering::SeqCst);
        }
        UnderWay(self, keys)
    }
}

impl OnlineStore for FaultyStore {
    fn get_many<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<EntityState>>>, StoreError>> {
        let (fault, only) = self.fault.lock().unwrap().clone();
        let fault = if only.is_some_and(|only| only != *view.id) { Fault::None } else { fault };
        let failed = |kind| StoreError { kind, action: "read", store: "faulty", detail: "a test".into() };
        match fault {
            Fault::None => {
                drop(self.begin(view, keys));
                self.inner.get_many(view, keys)
            }
            Fault::Panics => Box::pin(async { panic!("a test") }),
            Fault::Gated => {
                let (under_way, held) = (self.begin(view, keys), self.inner.get_many(view, keys));
                Box::pin(async move {
                    let _under_way = under_way;
                    self.gate.0.acquire().await.unwrap().forget();
                    held.await
                })
            }
            Fault::Unavailable => Box::pin(async move { Err(failed(StoreErrorKind::Unavailable)) }),
            Fault::Corrupt => Box::pin(async move { Err(failed(StoreErrorKind::Corrupt)) }),
            Fault::Silent => Box::pin(std::future::pending()),
            Fault::Late => Box::pin(async move {
                tokio::task::yield_now().await;
                self.inner.get_many(view, keys).await
            }),
        }
    }

    fn write<'a>(
        &'a self,
        writes: Vec<Write>,
        lane: Lane,
        now: Micros,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.inner.write(writes, lane, now)
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.checkpoint()
    }

    fn lanes(&self) -> BoxFuture<'_, Result<BTreeMap<Arc<str>, i64>, StoreError>> {
        self.inner.lanes()
    }

    fn drop_lanes<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.drop_lanes(prefix)
    }

    fn view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
    ) -> BoxFuture<'a, Result<Option<ViewStatus>, StoreError>> {
        self.inner.view_status(view)
    }

    fn set_view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
        status: ViewStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.set_view_status(view, status)
    }

    fn active_generation<'a>(&'a self, view_id: &'a str) -> BoxFuture<'a, Result<u32, StoreError>> {
        self.inner.active_generation(view_id)
    }

    fn activate_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.activate_generation(view_id, generation)
    }

    fn drop_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.drop_generation(view_id, generation)
    }

    fn sample_keys<'a>(
        &'a self,
        view: &'a ViewHandle,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EntityKey>, StoreError>> {
        self.inner.sample_keys(view, limit)
    }

    fn statistics(&self) -> StoreStatistics {
        self.inner.statistics()
    }
}

pub(crate) struct World {
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) views: BTreeMap<String, ViewHandle>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) moments: Arc<Moments>,
    pub(crate) server: Arc<FeatureServer>,
    /// The clock of the guard, microseconds.
    pub(crate) ticks: Arc<AtomicU64>,
    served: ServedStore,
    runtime: tokio::runtime::Runtime,
    written: i64,
}

pub(crate) fn load(yaml: &str) -> Arc<Definitions> {
    let types = |definitions: &mut Definitions| {
        assert_eq!(resolve_types(definitions), Ok(()));
        Vec::new()
    };
    let files = [("features.yaml".to_owned(), yaml.to_owned())];
    Arc::new(load_definitions(&files, &types).unwrap_or_else(|errors| panic!("{errors:#?}")).definitions)
}

pub(crate) fn handles(definitions: &Definitions) -> BTreeMap<String, ViewHandle> {
    let handle = |name: &String| {
        let view = &definitions.feature_views[name];
        let mut columns = definitions.sources[&view.source].schema();
        columns.extend(view.derived.iter().map(|d| (d.name.clone(), d.value_type.clone())));
        let plan = ViewPlan::compile(view, &|name| {
            columns.iter().find(|(column, _)| column == name).map(|(_, value_type)| value_type.clone())
        });
        ViewHandle { id: view.id().into(), generation: 0, plan: Arc::new(plan.unwrap()), is_shared: false }
    };
    definitions.feature_views.keys().map(|name| (name.clone(), handle(name))).collect()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(ServingSettings {
            rows_max: 5,
            features_max: 40,
            store_timeout_ms: 20,
            ..Default::default()
        })
    }

    pub(crate) fn with(settings: ServingSettings) -> Self {
        Self::made(settings, |store, _, _| ServedStore::Local(store))
    }

    /// With a guard before the store, as if that were elsewhere.
    pub(crate) fn guarded(settings: ServingSettings) -> Self {
        Self::made(settings, |store, settings, ticks| {
            let ticks = move || ticks.load(Ordering::SeqCst);
            ServedStore::Guarded(Arc::new(GuardedStore::with_ticks(store, settings, ticks)))
        })
    }

    fn made(
        settings: ServingSettings,
        serve: impl FnOnce(Arc<dyn OnlineStore>, &ServingSettings, Arc<AtomicU64>) -> ServedStore,
    ) -> Self {
        let definitions = load(DEFINITIONS);
        let views = handles(&definitions);
        let store = Arc::new(FaultyStore::default());
        let ticks = Arc::new(AtomicU64::new(0));
        let served = serve(Arc::clone(&store) as Arc<dyn OnlineStore>, &settings, Arc::clone(&ticks));
        let moments = Arc::new(Moments::default());
        let server = FeatureServer::new(
            Arc::clone(&definitions),
            "hash-1".into(),
            views.clone(),
            served.clone(),
            Arc::clone(&moments) as Arc<dyn Frontiers>,
            settings,
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let server = Arc::new(server.unwrap());
        Self { definitions, views, store, moments, server, ticks, served, runtime, written: 0 }
    }

    /// Applies rows `at user card amount place phone` (times as seconds, `-` for null) to every view, known when they
    /// happened, and sets now and all frontiers to `now`.
    pub(crate) fn apply(&mut self, rows: &str, now: Micros) {
        let source = &self.definitions.sources["pays"];
        let parse = |field: &str, value_type: &ValueType| match (field, value_type) {
            ("-", _) => Value::Null,
            (text, ValueType::Timestamp) => Value::Timestamp(text.parse::<i64>().unwrap() * SECOND),
            (text, ValueType::Int64) => Value::Int64(text.parse().unwrap()),
            (text, ValueType::Float64) => Value::Float64(text.parse().unwrap()),
            (text, _) => Value::string(text),
        };
        let lines: Vec<Vec<&str>> = rows
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| line.split(' ').collect())
            .collect();
        let columns = source.columns.iter().enumerate().map(|(at, column)| {
            let values: Vec<Value> = lines.iter().map(|line| parse(line[at], &column.value_type)).collect();
            (column.name.clone(), array_from_values(&column.value_type, &values), true)
        });
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let mut writes = Vec::new();
        for (name, handle) in &self.views {
            let view = &self.definitions.feature_views[name];
            let entity = &self.definitions.entities[&view.entity];
            let projection = ViewProjection::plan(source, entity, view, &handle.plan).unwrap();
            let projected = projection.project(&batch);
            let mut deltas: BTreeMap<EntityKey, EntityState> = BTreeMap::new();
            for (row, key) in projection.keys(&projected).into_iter().enumerate() {
                let at = lines[projected.rows[row] as usize][0].parse::<i64>().unwrap() * SECOND;
                let stamp = Stamp { event_time: at, known_at: at, seq: self.written + row as i64 };
                let event = projection.event(&projected, row, stamp);
                let state = deltas.entry(key.unwrap()).or_insert_with(|| handle.plan.empty());
                handle.plan.insert(state, event, now);
            }
            writes.push(Write { view: handle.clone(), deltas: deltas.into_iter().collect() });
        }
        self.written += lines.len() as i64;
        let lane = Lane { name: "log".into(), position: self.written };
        assert!(self.runtime.block_on(self.served.store().write(writes, lane, now)).unwrap());
        self.set_frontiers(now);
        self.moments.now.store(now, Ordering::SeqCst);
    }

    pub(crate) fn set_frontiers(&self, frontier: Micros) {
        let mut frontiers = self.moments.frontiers.lock().unwrap();
        for handle in self.views.values() {
            frontiers.insert(handle.id.to_string(), ViewFrontier { frontier, cut: self.written });
        }
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        *self.store.fault.lock().unwrap() = (fault, None);
    }

    pub(crate) fn ask(&self, request: &FeatureRequest) -> Result<FeatureAnswer, ServingError> {
        self.runtime.block_on(self.server.features(request))
    }

    /// The answer as text: a head line, then one line per row and column.
    pub(crate) fn show(&self, request: &FeatureRequest) -> String {
        match self.ask(request) {
            Ok(answer) => show(&answer),
            Err(error) => show_error(&error),
        }
    }

    /// Asks without waiting.
    pub(crate) fn ask_later(
        &self,
        request: FeatureRequest,
    ) -> tokio::task::JoinHandle<Result<FeatureAnswer, ServingError>> {
        let server = Arc::clone(&self.server);
        self.runtime.spawn(async move { server.features(&request).await })
    }

    /// Lets everything that can go on go on, until it waits.
    pub(crate) fn settle(&self) {
        self.runtime.block_on(async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        });
    }

    pub(crate) fn tick(&self, millis: u64) {
        self.ticks.fetch_add(millis * 1_000, Ordering::SeqCst);
    }

    pub(crate) fn calls(&self) -> usize {
        self.store.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

pub(crate) fn show_error(error: &ServingError) -> String {
    let hint = error.hint.as_ref().map_or(String::new(), |hint| format!(" [{hint}]"));
    format!("{}: {}{hint}", error.code, error.message)
}

pub(crate) fn show(answer: &FeatureAnswer) -> String {
    let cuts: Vec<String> = answer.positions().map(|(view, cut)| format!("{view}<{cut}")).collect();
    let level = format!("{:?}", answer.level).to_lowercase();
    let mut out = format!("{level} {} {}\n", answer.head.definition_hash, cuts.join(" "));
    for row in 0..answer.row_count {
        for column in answer.columns() {
            let value = match &column.values[row] {
                Value::Null => "null".to_owned(),
                Value::String(text) => format!("'{text}'"),
                value => format!("{value:?}"),
            };
            let status = format!("{:?}", column.statuses[row]).to_lowercase();
            let age =
                column.ages[row].map_or("no age".to_owned(), |age| format!("age {}", format_duration(age)));
            let time = column.event_times[row].map_or(String::new(), |at| format!(" of {}s", at / SECOND));
            let origin = format!("{:?}", column.origins[row]).to_lowercase();
            out.push_str(&format!("{row} {}: {value} {status} {age}{time} {origin}\n", column.head.name));
        }
    }
    out
}

/// A request for a service (or, with a `:` or a `,`, for features by name) and users.
pub(crate) fn request(selection: &str, users: &[&str]) -> FeatureRequest {
    let selection = match selection.strip_prefix("names ") {
        Some(names) => {
            Selection::Features(names.split(' ').filter(|n| !n.is_empty()).map(str::to_owned).collect())
        }
        None => Selection::Service(selection.to_owned()),
    };
    let users: Vec<Value> = users.iter().map(|user| Value::string(*user)).collect();
    FeatureRequest {
        selection,
        entities: [("user".to_owned(), users)].into(),
        request: BTreeMap::new(),
        at: None,
        max_age: None,
        roles: Vec::new(),
        options: CallOptions::default(),
    }
}
