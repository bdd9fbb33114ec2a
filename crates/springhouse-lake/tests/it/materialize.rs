//! Materialisation: what is online afterwards is what the naive way says, however often and however badly it was run.

use crate::support::*;
use crate::training::{stream_append, table_seq};
use springhouse_core::time::{DAY, HOUR};
use springhouse_core::{EntityKey, Micros, Value};
use springhouse_kernel::EntityState;
use springhouse_lake::{Availability, Cut, MaterializeOutcome, MaterializeRequest};
use springhouse_online::{
    BoxFuture, Lane, MemoryStore, OnlineStore, StoreError, StoreErrorKind, StoreStatistics, ViewHandle,
    ViewStatus, Write,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

const YAML: &str = "
entities: {user: {keys: {user: string}}}
sources:
  parts:
    table: data/parts/*.parquet
    event_time: at
    known_at: known
    columns: {id: int64, user: string, shop: int64, at: timestamp!, amount: float64, items: int64, kind: string}
  pushed:
    stream: push
    history: data/history/*.parquet
    event_time: at
    known_at: known
    event_id: id
    columns: {id: int64, user: string, shop: int64, at: timestamp, amount: float64, items: int64, kind: string}
feature_views:
  latest:
    entity: user
    source: parts
    ttl: 1d
    features: {amount: amount, items: items}
  windows:
    entity: user
    source: parts
    ttl: 1d
    aggregate:
      w: {fn: [count, sum], column: amount, windows: [1h, 1d]}
      k: {fn: count, where: items > 2, windows: [6h]}
      l: {fn: sum, column: items, windows: [lifetime]}
      e: {fn: sum, column: amount, windows: [90m], hop: exact}
  stream_latest:
    entity: user
    source: pushed
    ttl: 9d
    features: {s_amount: amount}
  stream_windows:
    entity: user
    source: pushed
    ttl: 1d
    aggregate:
      s: {fn: [count, sum], column: amount, windows: [1h, 2d]}
";

const USERS: [&str; 8] =
    ["u2", "u3", "u4", "u5", "", "a name that is longer than fifteen bytes", "nobody", "u1"];

fn handle(project: &Project, view: &str) -> ViewHandle {
    let view = &project.definitions.feature_views[view];
    ViewHandle {
        id: view.id().into(),
        generation: 0,
        plan: Arc::new(plan(&project.definitions, view)),
        is_shared: false,
    }
}

fn request<'a>(
    project: &'a Project,
    view: &str,
    until: Micros,
    stream_end: Option<i64>,
) -> MaterializeRequest<'a> {
    MaterializeRequest {
        definitions: &project.definitions,
        view: handle(project, view),
        until,
        stream_end,
        stream_positions: None,
        previous: None,
        // Little, so that there are several buckets and something is spilled.
        memory_budget: 60_000,
    }
}

async fn run(
    project: &Project,
    store: &Arc<dyn OnlineStore>,
    view: &str,
    until: Micros,
    stream_end: Option<i64>,
) -> MaterializeOutcome {
    project.lake.materialize(&request(project, view, until, stream_end), store, &Silent).await.unwrap()
}

/// Compares what is online with the naive way over the events that should be loaded.
async fn compare(
    project: &Project,
    store: &dyn OnlineStore,
    view: &str,
    events: &[NaiveEvent],
    until: Micros,
) -> usize {
    let definitions = &project.definitions;
    let handle = handle(project, view);
    let keys: Vec<EntityKey> = USERS.iter().map(|user| user_key(definitions, user)).collect();
    let states: Vec<Option<Arc<EntityState>>> = store.get_many(&handle, &keys).await.unwrap();
    let mut not_null = 0;
    for (user, state) in USERS.iter().zip(states) {
        for at in [until, until + 1, until + HOUR, until + DAY + 1] {
            let view = &definitions.feature_views[view];
            let key = [Value::string(*user)];
            let expected = naive_answer(definitions, view, events, &key, at, Availability::Known);
            let got = match &state {
                Some(state) => handle.plan.read(state, at),
                None => handle.plan.read_empty(),
            };
            assert_eq!(got, expected, "{} of {user:?} at {at} (until {until})", view.name);
            not_null += got.values.iter().filter(|v| !v.is_null()).count();
        }
    }
    not_null
}

fn visible(events: &[NaiveEvent], until: Micros) -> Vec<NaiveEvent> {
    events.iter().filter(|e| e.stamp.visible_at() <= until).cloned().collect()
}

fn add_part(project: &Project, name: &str, part: &[TestEvent], events: &mut Vec<NaiveEvent>) {
    write_parquet(&project.path(name), &event_batch(part), 13);
    for (row, event) in part.iter().enumerate() {
        events.push(naive(event, event.known_at, table_seq(name, row), false));
    }
}

#[tokio::test]
async fn each_run_loads_what_became_visible_since() {
    let mut random = Random::new("each_run_loads_what_became_visible_since");
    for view in ["latest", "windows"] {
        let project = Project::new(YAML);
        let store: Arc<dyn OnlineStore> = Arc::new(MemoryStore::new());
        let mut events = Vec::new();
        let mut until = ORIGIN + DAY;
        let mut loaded = 0;
        for step in 0..6 {
            // Files with rows of any age, some not visible yet; sometimes none.
            if step != 3 {
                let count = 30 + random.below(80) as usize;
                add_part(
                    &project,
                    &format!("data/parts/{step}.parquet"),
                    &random_events(&mut random, count),
                    &mut events,
                );
            }
            let outcome = run(&project, &store, view, until, None).await;
            assert!(!outcome.must_rebuild);
            loaded += outcome.rows;
            compare(&project, store.as_ref(), view, &visible(&events, until), until).await;
            let again = run(&project, &store, view, until, None).await;
            assert_eq!((again.rows, again.entities), (0, 0), "a second run found something new");
            until += random.below(2 * DAY as u64) as i64;
            // On the very moment at which an event becomes visible.
            if let Some(event) = events.iter().find(|e| e.stamp.visible_at() > until) {
                until = event.stamp.visible_at();
            }
        }
        assert!(compare(&project, store.as_ref(), view, &visible(&events, until), until).await < usize::MAX);
        assert!(loaded > 100);
        assert!(store.lanes().await.unwrap().is_empty(), "lanes of finished jobs are dropped");
    }
}

#[tokio::test]
async fn a_stream_is_loaded_by_offset_after_its_history() {
    let mut random = Random::new("a_stream_is_loaded_by_offset_after_its_history");
    for view in ["stream_latest", "stream_windows"] {
        let project = Project::new(YAML);
        let store: Arc<dyn OnlineStore> = Arc::new(MemoryStore::new());
        let all = random_events(&mut random, 200);
        let (old, new) = all.split_at(100);
        let mut events = Vec::new();
        add_part(&project, "data/history/a.parquet", old, &mut events);
        events.iter_mut().zip(old).for_each(|(naive, event)| naive.id = Some(event.id));
        // Some events of the history come again by push.
        let mut live = new.to_vec();
        live.extend(old.iter().take(10).cloned());
        live.sort_by_key(|e| e.known_at);
        project.lake.append_stream(project.source("pushed"), stream_append(&live[..60], 0)).await.unwrap();
        let until = ORIGIN + 5 * DAY + 12 * HOUR;
        let mut ids = Vec::new();
        for (offset, end) in [(60, 20), (60, 60), (110, 110)] {
            project
                .lake
                .append_stream(project.source("pushed"), stream_append(&live[..offset], 0))
                .await
                .unwrap();
            ids.extend(run(&project, &store, view, until, Some(end)).await.event_ids);
            let mut seen = events.clone();
            let live = live[..end as usize].iter().enumerate();
            seen.extend(live.map(|(offset, event)| naive(event, event.known_at, offset as i64, true)));
            assert!(compare(&project, store.as_ref(), view, &seen, until).await > 0);
        }
        // What no window reaches need not be remembered; nor what belongs to nobody.
        for event in all.iter().filter(|e| view == "stream_latest" && e.user.is_some()) {
            assert!(ids.contains(&springhouse_core::event_id::of_integer(event.id)));
        }
    }
}

#[tokio::test]
async fn a_file_that_changed_or_went_away_asks_for_a_rebuild() {
    let mut random = Random::new("a_file_that_changed_or_went_away_asks_for_a_rebuild");
    let project = Project::new(YAML);
    let mut events = Vec::new();
    for name in ["data/parts/a.parquet", "data/parts/b.parquet"] {
        add_part(&project, name, &random_events(&mut random, 20), &mut events);
    }
    let store: Arc<dyn OnlineStore> = Arc::new(MemoryStore::new());
    let until = ORIGIN + 9 * DAY;
    assert!(!run(&project, &store, "latest", until, None).await.must_rebuild);
    write_parquet(&project.path("data/parts/b.parquet"), &event_batch(&random_events(&mut random, 21)), 100);
    let outcome = run(&project, &store, "latest", until, None).await;
    assert!(outcome.must_rebuild && outcome.rows == 0);
    std::fs::remove_file(project.path("data/parts/b.parquet")).unwrap();
    assert!(run(&project, &store, "latest", until, None).await.must_rebuild);
}

#[tokio::test]
async fn a_cursor_cuts_a_recomputation_to_what_was_loaded() {
    let mut random = Random::new("a_cursor_cuts_a_recomputation_to_what_was_loaded");
    let project = Project::new(YAML);
    let mut events = Vec::new();
    add_part(&project, "data/parts/a.parquet", &random_events(&mut random, 100), &mut events);
    let store: Arc<dyn OnlineStore> = Arc::new(MemoryStore::new());
    let until = ORIGIN + 2 * DAY;
    let cursor = run(&project, &store, "windows", until, None).await.cursor;
    let seen = visible(&events, until);
    add_part(&project, "data/parts/0.parquet", &random_events(&mut random, 100), &mut events);
    let definitions = &project.definitions;
    let view = &definitions.feature_views["windows"];
    let keys: Vec<EntityKey> = USERS.iter().map(|user| user_key(definitions, user)).collect();
    let at = vec![until + HOUR; keys.len()];
    let cut = Cut { stream_end: None, table_cursor: Some(cursor) };
    let answers = project.lake.recompute(definitions, view, &keys, &at, &cut).await.unwrap();
    for (user, answer) in USERS.iter().zip(answers) {
        let key = [Value::string(*user)];
        assert_eq!(answer, naive_answer(definitions, view, &seen, &key, until + HOUR, Availability::Known));
    }
}

/// A store that fails the n-th changing call: before it is done, or after (the caller can't know).
#[derive(Debug)]
struct Failing {
    inner: MemoryStore,
    left: AtomicI64,
    after: bool,
    write_rows_max: AtomicUsize,
}

fn injected() -> StoreError {
    StoreError {
        kind: StoreErrorKind::Unavailable,
        action: "write",
        store: "failing",
        detail: "injected".into(),
    }
}

impl Failing {
    async fn guard<T>(&self, call: BoxFuture<'_, Result<T, StoreError>>) -> Result<T, StoreError> {
        let fails = self.left.fetch_sub(1, Ordering::SeqCst) == 0;
        if fails && !self.after {
            return Err(injected());
        }
        let done = call.await;
        if fails { Err(injected()) } else { done }
    }
}

impl OnlineStore for Failing {
    fn get_many<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<EntityState>>>, StoreError>> {
        self.inner.get_many(view, keys)
    }

    fn write<'a>(
        &'a self,
        writes: Vec<Write>,
        lane: Lane,
        now: Micros,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.guard(self.inner.write(writes, lane, now)))
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.guard(self.inner.checkpoint()))
    }

    fn lanes(&self) -> BoxFuture<'_, Result<BTreeMap<Arc<str>, i64>, StoreError>> {
        self.inner.lanes()
    }

    fn drop_lanes<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.guard(self.inner.drop_lanes(prefix)))
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
        Box::pin(self.guard(self.inner.set_view_status(view, status)))
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

    fn write_rows_max(&self) -> usize {
        self.write_rows_max.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_run_that_failed_anywhere_goes_on_where_it_was() {
    let mut random = Random::new("a_run_that_failed_anywhere_goes_on_where_it_was");
    for view in ["latest", "stream_windows"] {
        let project = Project::new(YAML);
        let mut events = Vec::new();
        let name = if view == "latest" { "data/parts/a.parquet" } else { "data/history/a.parquet" };
        let rows = random_events(&mut random, 300);
        add_part(&project, name, &rows, &mut events);
        if view != "latest" {
            events.iter_mut().zip(&rows).for_each(|(naive, event)| naive.id = Some(event.id));
        }
        let until = ORIGIN + 4 * DAY;
        let mut failures = 0;
        // What the store likes may have changed in between; the job goes on with the parts that it began with.
        let sizes = [(usize::MAX, usize::MAX), (2, 2), (2, 3), (usize::MAX, 1), (1, usize::MAX)];
        for (after, (size, size_later)) in [false, true].into_iter().flat_map(|a| sizes.map(|s| (a, s))) {
            for fail_at in 0.. {
                let (left, write_rows_max) = (AtomicI64::new(fail_at), AtomicUsize::new(size));
                let failing = Arc::new(Failing { inner: MemoryStore::new(), left, after, write_rows_max });
                let store: Arc<dyn OnlineStore> = Arc::clone(&failing) as Arc<dyn OnlineStore>;
                let first = request(&project, view, until, Some(0));
                let outcome = project.lake.materialize(&first, &store, &Silent).await;
                if outcome.is_ok() {
                    assert!(failing.left.load(Ordering::SeqCst) >= 0, "an injected failure was swallowed");
                    break;
                }
                assert_eq!(outcome.unwrap_err().code, "store_unavailable");
                failures += 1;
                failing.write_rows_max.store(size_later, Ordering::SeqCst);
                // The second run is asked for later, with more to load.
                let later = until + DAY;
                let outcome = run(&project, &store, view, later, Some(0)).await;
                assert!(!outcome.must_rebuild);
                compare(&project, store.as_ref(), view, &visible(&events, later), later).await;
                assert_eq!(run(&project, &store, view, later, Some(0)).await.rows, 0);
            }
        }
        assert!(failures > 8, "only {failures} failures were injected into {view}");
    }
}
