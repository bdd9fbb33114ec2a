//! The guarded store: a store around a store. Requests read through [`GuardedStore::read`], with the cache and all; everything
//! else goes straight through, and writes take what they change out of the cache and out of the reads under way.

use super::Tick;
use super::breaker::BreakerRules;
use super::budget::Budget;
use super::cache::{HotCache, Look, Slot, Wanted};
use super::flights::{Flight, Flights, NoAnswer, Seat};
use super::limit::LimitRules;
use super::node::{Permit, StoreNode};
use crate::admission::Shares;
use crate::answer::Origin;
use crate::request::{Priority, ServingSettings, ViewFrontier};
use crate::stages::{Stage, Stages};
use crate::statistics::{Count, GuardStatistics};
use futures::FutureExt;
use futures::future::join_all;
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::EntityState;
use springhouse_online::{
    BoxFuture, Condition, Holding, Lane, OnlineStore, Positions, SharedNotes, States, StoreError,
    StoreErrorKind, StoreStatistics, ViewHandle, ViewKeys, ViewStatus, Write,
};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// Most nodes of a store that are told apart; further ones share a breaker and a limit with an earlier one.
const NODES_MAX: usize = 1_024;
/// A second call waits at least this long after the first has failed, and at most twice that.
const RETRY_DELAY: Duration = Duration::from_millis(1);

/// A store with a guard before it.
#[derive(Debug)]
pub struct GuardedStore {
    shared: Arc<Shared>,
}

/// One view's part of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) view: &'a ViewHandle,
    pub(crate) keys: &'a [EntityKey],
    /// How far the view has come, at least; read before the call.
    pub(crate) frontier: ViewFrontier,
    /// How far the frontier of a cached state may be behind.
    pub(crate) age_max: Option<Micros>,
}

/// What holds for the whole request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) at: Micros,
    pub(crate) max_age: Option<Micros>,
    pub(crate) wait: Duration,
    pub(crate) priority: Priority,
    pub(crate) use_cache: bool,
}

/// What was found of one entity.
#[derive(Clone, Debug)]
pub(crate) struct RowRead {
    pub(crate) state: Option<Arc<EntityState>>,
    pub(crate) frontier: ViewFrontier,
    pub(crate) origin: Origin,
}

/// What was found of one view: per key, and why some are not there.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) rows: Vec<Option<RowRead>>,
    pub(crate) failure: Option<NoAnswer>,
}

impl Reading {
    fn fail(&mut self, failure: NoAnswer) {
        self.failure = self.failure.take().max(Some(failure));
    }
}

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn OnlineStore>,
    cache: HotCache,
    flights: Flights,
    spaces: RwLock<Spaces>,
    nodes: RwLock<Vec<Arc<StoreNode>>>,
    budget: Budget,
    breaker: BreakerRules,
    limit: LimitRules,
    shares: Shares,
    coalesce: bool,
    shared_rows_max: usize,
    hedge_after: Option<Duration>,
    call_timeout: Duration,
    counts: [Count; GuardStatistics::COUNTS],
    ticks: Ticks,
}

/// The guard's clock.
struct Ticks(Box<dyn Fn() -> Tick + Send + Sync>);

impl fmt::Debug for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", (self.0)())
    }
}

/// Numbers for views: each build and meaning of a view has its own, so that nothing is read with another's.
#[derive(Debug, Default)]
struct Spaces {
    numbers: HashMap<(Arc<str>, u32, u64), u32, ahash::RandomState>,
    next: u32,
}

impl Shared {
    fn now(&self) -> Tick {
        (self.ticks.0)()
    }

    fn count(&self, which: usize) {
        self.counts[which].add(1);
    }

    fn space(&self, view: &ViewHandle) -> u32 {
        let name = (Arc::clone(&view.id), view.generation, view.plan.fingerprint());
        let known = self.spaces.read().unwrap_or_else(PoisonError::into_inner).numbers.get(&name).copied();
        known.unwrap_or_else(|| {
            let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
            let next = spaces.next;
            let number = *spaces.numbers.entry(name).or_insert(next);
            spaces.next += u32::from(number == next);
            number
        })
    }

    /// Gives a dropped generation's number away: should it be built again, nothing of the old is found.
    fn forget_generation(&self, view_id: &str, generation: u32) {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        spaces.numbers.retain(|(id, build, _), _| **id != *view_id || *build != generation);
    }

    fn node(&self, number: usize) -> Arc<StoreNode> {
        let number = number % NODES_MAX;
        let known = self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(number).cloned();
        known.unwrap_or_else(|| {
            let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
            while nodes.len() <= number {
                nodes.push(Arc::new(StoreNode::new(self.breaker, self.limit)));
            }
            Arc::clone(&nodes[number])
        })
    }

    /// Takes slots out of the reads under way and out of the cache, in this order under one lock: a read that is done after
    /// this is not kept, one that was done before is forgotten.
    fn forget(&self, slots: &[Slot]) {
        for slot in slots {
            let mut flights = self.flights.lock(slot);
            flights.remove(slot);
            self.cache.forget(slot);
        }
    }

    async fn call(&self, reads: &[ViewKeys<'_>], is_probe: bool) -> Result<Parts, Broken> {
        self.budget.earn();
        if is_probe {
            return self.ask(reads).await;
        }
        match self.hedged(reads).await {
            Err(broken) if broken.may_try_again && self.budget.spend() => {
                self.count(GuardStatistics::RETRIES);
                // Calls that failed together must not come back together.
                let spread = RETRY_DELAY.mul_f64((self.now() % 1_000) as f64 / 1_000.0);
                tokio::time::sleep(RETRY_DELAY + spread).await;
                self.ask(reads).await
            }
            answer => answer,
        }
    }

    async fn hedged(&self, reads: &[ViewKeys<'_>]) -> Result<Parts, Broken> {
        let Some(after) = self.hedge_after else { return self.ask(reads).await };
        let mut first = Box::pin(self.ask(reads));
        if let Ok(answer) = tokio::time::timeout(after, &mut first).await {
            return answer;
        }
        if !self.budget.spend() {
            return first.await;
        }
        self.count(GuardStatistics::HEDGES);
        let second = Box::pin(self.ask(reads));
        futures::future::select_ok([first, second]).await.map(|(parts, _)| parts)
    }

    /// One call of the store. What is wrong with the call, or with one row, says nothing against the node.
    async fn ask(&self, reads: &[ViewKeys<'_>]) -> Result<Parts, Broken> {
        let answers = self.inner.get_views(reads).await;
        let (mut is_broken, mut may_try_again) = (false, false);
        let mut part = |(read, answer): (&ViewKeys<'_>, Result<States, StoreError>)| match answer {
            Ok(states) if states.len() == read.keys.len() => Ok(states),
            Ok(_) => Err(NoAnswer::Corrupt("the store gave another number of states".into())),
            Err(error) => {
                is_broken |= !matches!(error.kind, StoreErrorKind::Invalid | StoreErrorKind::Corrupt);
                may_try_again |= error.kind == StoreErrorKind::Unavailable;
                Err(NoAnswer::from(&error))
            }
        };
        let parts: Parts = reads.iter().zip(answers).map(&mut part).collect();
        if is_broken { Err(Broken { parts, may_try_again }) } else { Ok(parts) }
    }
}

/// A call that the node failed to answer, for some views at least.
struct Broken {
    parts: Parts,
    may_try_again: bool,
}

/// What a flight found, view by view.
type Parts = Vec<Result<States, NoAnswer>>;

/// One view's part of a flight.
struct Part {
    /// Which of the request's calls it is for.
    call: usize,
    view: ViewHandle,
    frontier: ViewFrontier,
    slots: Vec<Slot>,
}

/// A flight that this request leads: its seats, and what it must do in the end, whatever happens.
struct Leading {
    shared: Arc<Shared>,
    flight: Arc<Flight>,
    parts: Vec<Part>,
    permit: Permit,
    /// Nobody else can take a seat, and what is read is not kept.
    is_alone: bool,
    is_done: bool,
}

impl Leading {
    /// Keeps what was read, frees the seats, tells everyone who waits.
    fn finish(&mut self, found: Parts) {
        if std::mem::replace(&mut self.is_done, true) {
            return;
        }
        let shared = if self.is_alone { &[][..] } else { &self.parts };
        for (number, (part, found)) in shared.iter().zip(&found).enumerate() {
            for (place, slot) in part.slots.iter().enumerate() {
                let mut table = self.shared.flights.lock(slot);
                let is_ours = |seat: &Seat| {
                    Arc::ptr_eq(&seat.flight, &self.flight) && (seat.part, seat.place) == (number, place)
                };
                if !table.get(slot).is_some_and(is_ours) {
                    continue;
                }
                if let Ok(states) = found {
                    self.shared.cache.keep(slot, &states[place], part.frontier, self.permit.began());
                }
                table.remove(slot);
            }
        }
        // Only a finished flight has a value, and it finishes once.
        let _ = self.flight.done.set(found);
    }

    async fn fly(mut self) {
        let shared = Arc::clone(&self.shared);
        let keys: Vec<Vec<EntityKey>> =
            self.parts.iter().map(|part| part.slots.iter().map(|slot| slot.key.clone()).collect()).collect();
        let views: Vec<ViewHandle> = self.parts.iter().map(|part| part.view.clone()).collect();
        let reads: Vec<ViewKeys<'_>> =
            views.iter().zip(&keys).map(|(view, keys)| ViewKeys { view, keys }).collect();
        shared.count(GuardStatistics::CALLS);
        let limit = shared.call_timeout;
        let answer = tokio::time::timeout(limit, shared.call(&reads, self.permit.is_probe)).await;
        let (answered, found) = match answer {
            Ok(Ok(found)) => (true, found),
            Ok(Err(broken)) => (false, broken.parts),
            Err(_) => (false, self.parts.iter().map(|_| Err(NoAnswer::Timeout(limit))).collect()),
        };
        if found.iter().any(Result::is_err) {
            shared.count(GuardStatistics::CALLS_FAILED);
        }
        self.permit.end(shared.now(), answered);
        self.finish(found);
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        if !self.is_done {
            // The call panicked, or the runtime ends. Whoever waits must not wait for ever.
            self.permit.end(self.shared.now(), false);
            let broken_off = |_: &Part| Err(NoAnswer::Failed("the read was broken off".into()));
            let found = self.parts.iter().map(broken_off).collect();
            self.finish(found);
        }
    }
}

/// A flight that its leader drives while it waits: no task, no waking of another thread. When the leader goes away, the flight
/// goes on in a task of its own; when it panics, only the flight is lost.
struct Driven(Option<BoxFuture<'static, ()>>);

impl Driven {
    fn new(leading: Leading) -> Self {
        Self(Some(Box::pin(AssertUnwindSafe(leading.fly()).catch_unwind().map(drop))))
    }

    fn spawn(mut self) {
        if let Some(flight) = self.0.take() {
            tokio::spawn(flight);
        }
    }
}

impl Future for Driven {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(flight) = &mut self.0 else { return Poll::Ready(()) };
        let polled = flight.as_mut().poll(context);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        // Outside of a runtime, which then is ending, nobody waits for it.
        if let (Some(flight), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(flight);
        }
    }
}

/// The flights that a request leads, by node: one call of the store for all views that it reads there.
struct Trip<'a> {
    shared: &'a Arc<Shared>,
    priority: Priority,
    now: Tick,
    is_alone: bool,
    leading: Vec<(usize, Result<Leading, NoAnswer>)>,
}

impl<'a> Trip<'a> {
    fn new(shared: &'a Arc<Shared>, priority: Priority, now: Tick, is_alone: bool) -> Self {
        Self { shared, priority, now, is_alone, leading: Vec::new() }
    }

    /// A seat in the flight under way, or in one that is led by this request.
    fn seat(
        &mut self,
        number: usize,
        call: &Call<'_>,
        slot: &Slot,
        wanted: Option<&Wanted>,
    ) -> Result<Found, NoAnswer> {
        let shared = self.shared;
        if self.is_alone {
            return self.take(number, call, slot).map(Found::Seat);
        }
        let mut table = shared.flights.lock(slot);
        if let Some(wanted) = wanted {
            if shared.coalesce
                && let Some(seat) = table.get(slot)
            {
                shared.count(GuardStatistics::COALESCED);
                return Ok(Found::Seat(seat.clone()));
            }
            // A flight may have landed since the first look; it keeps its result under this lock.
            if !call.view.is_shared
                && let Look::Good(entry) = shared.cache.look(slot, wanted, self.now)
            {
                let origin = Origin::HotCache;
                return Ok(Found::Row(RowRead { state: entry.state, frontier: entry.frontier, origin }));
            }
        }
        let seat = self.take(number, call, slot)?;
        table.insert(slot.clone(), seat.clone());
        Ok(Found::Seat(seat))
    }

    /// A seat in a flight that is led by this request.
    fn take(&mut self, number: usize, call: &Call<'_>, slot: &Slot) -> Result<Seat, NoAnswer> {
        let leading = self.lead(self.shared.inner.node_of(call.view, &slot.key))?;
        if leading.parts.last().is_none_or(|part| part.call != number) {
            let (view, frontier) = (call.view.clone(), call.frontier);
            leading.parts.push(Part { call: number, view, frontier, slots: Vec::new() });
        }
        let part = leading.parts.len() - 1;
        let slots = &mut leading.parts[part].slots;
        let seat =
            Seat { flight: Arc::clone(&leading.flight), part, place: slots.len(), frontier: call.frontier };
        slots.push(slot.clone());
        Ok(seat)
    }

    fn lead(&mut self, number: usize) -> Result<&mut Leading, NoAnswer> {
        let place = self.leading.iter().position(|(node, _)| *node == number).unwrap_or_else(|| {
            let node = self.shared.node(number);
            let permit = node.admit(self.priority, self.shared.shares, self.now);
            let leading = permit.map(|permit| Leading {
                shared: Arc::clone(self.shared),
                flight: Arc::default(),
                parts: Vec::new(),
                permit,
                is_alone: self.is_alone,
                is_done: false,
            });
            if leading.is_err() {
                self.shared.count(GuardStatistics::CALLS_REFUSED);
            }
            self.leading.push((number, leading));
            self.leading.len() - 1
        });
        self.leading[place].1.as_mut().map_err(|failure| failure.clone())
    }

    /// The flights, ready to go.
    fn depart(self) -> Vec<Driven> {
        self.leading.into_iter().filter_map(|(_, leading)| leading.ok().map(Driven::new)).collect()
    }
}

enum Found {
    Row(RowRead),
    Seat(Seat),
}

impl GuardedStore {
    /// Puts a guard before a store.
    pub fn new(inner: Arc<dyn OnlineStore>, settings: &ServingSettings) -> Self {
        let started = Instant::now();
        let ticks = move || Tick::try_from(started.elapsed().as_micros()).unwrap_or(Tick::MAX);
        Self::with_ticks(inner, settings, ticks)
    }

    /// The same with a clock of the caller's for lifetimes, breakers and limits: microseconds that never go back. The seam for
    /// tests; how long a call may take is measured by the runtime all the same.
    pub fn with_ticks(
        inner: Arc<dyn OnlineStore>,
        settings: &ServingSettings,
        ticks: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared {
            inner,
            cache: HotCache::new(settings),
            flights: Flights::new(),
            spaces: RwLock::default(),
            nodes: RwLock::default(),
            budget: Budget::new(settings.retry_budget_percent),
            breaker: BreakerRules::new(settings),
            limit: LimitRules::new(settings),
            shares: Shares::new(settings),
            coalesce: settings.coalesce,
            shared_rows_max: settings.shared_rows_max,
            hedge_after: (settings.hedge_after_ms > 0)
                .then(|| Duration::from_millis(settings.hedge_after_ms)),
            call_timeout: Duration::from_millis(settings.store_timeout_ms),
            counts: Default::default(),
            ticks: Ticks(Box::new(ticks)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Its counters.
    pub fn guard_statistics(&self) -> GuardStatistics {
        let shared = &*self.shared;
        let now = shared.now();
        let (cache_entries, cache_bytes) = shared.cache.size();
        let nodes = shared.nodes.read().unwrap_or_else(PoisonError::into_inner);
        GuardStatistics {
            counts: std::array::from_fn(|which| shared.counts[which].get()),
            cache_entries,
            cache_bytes,
            reads_under_way: shared.flights.len(),
            nodes: nodes.iter().map(|node| node.statistics(now)).collect(),
        }
    }

    /// Reads for a request: what the cache has, the rest from the store, together with whoever reads the same. Waits no longer
    /// than `ask.wait`.
    pub(crate) async fn read(&self, calls: &[Call<'_>], ask: Ask, stages: &mut Stages) -> Vec<Reading> {
        let shared = &self.shared;
        let deadline = Instant::now() + ask.wait;
        let now = shared.now();
        let mut readings = Vec::with_capacity(calls.len());
        let mut seats: Vec<(usize, usize, Seat)> = Vec::new();
        let mut again: Vec<(usize, Slot, Wanted)> = Vec::new();
        let is_alone = calls.iter().map(|call| call.keys.len()).sum::<usize>() > shared.shared_rows_max;
        let mut trip = Trip::new(shared, ask.priority, now, is_alone);
        for (number, call) in calls.iter().enumerate() {
            let mut reading = Reading { rows: vec![None; call.keys.len()], failure: None };
            let wanted = Wanted {
                at: ask.at,
                frontier: call.frontier,
                age_max: call.age_max,
                read_age_max: ask.max_age,
            };
            let space = shared.space(call.view);
            for (row, key) in call.keys.iter().enumerate() {
                let slot = Slot { space, key: key.clone() };
                if ask.use_cache {
                    match shared.cache.look(&slot, &wanted, now) {
                        Look::Miss => shared.count(GuardStatistics::MISSES),
                        // Workers write without this process's knowledge: what was read is only for the case that it can't be read.
                        Look::Good(entry) if call.view.is_shared => {
                            let (state, frontier) = (entry.state, entry.frontier);
                            reading.rows[row] = Some(RowRead { state, frontier, origin: Origin::StaleCache });
                        }
                        Look::Good(entry) => {
                            shared.count(match entry.state {
                                Some(_) => GuardStatistics::HITS,
                                None => GuardStatistics::NEGATIVE_HITS,
                            });
                            let (state, frontier) = (entry.state, entry.frontier);
                            reading.rows[row] = Some(RowRead { state, frontier, origin: Origin::HotCache });
                            continue;
                        }
                        Look::Stale(entry) => {
                            shared.count(GuardStatistics::STALE_HITS);
                            let (state, frontier) = (entry.state, entry.frontier);
                            reading.rows[row] = Some(RowRead { state, frontier, origin: Origin::StaleCache });
                            // Where a call is made anyway, an old value is only for the case that it fails.
                            if !is_alone && !call.view.is_shared {
                                again.push((number, slot, wanted));
                                continue;
                            }
                        }
                    }
                }
                match trip.seat(number, call, &slot, ask.use_cache.then_some(&wanted)) {
                    Ok(Found::Row(found)) => reading.rows[row] = Some(found),
                    Ok(Found::Seat(seat)) => seats.push((number, row, seat)),
                    Err(failure) if reading.rows[row].is_none() => reading.fail(failure),
                    Err(_) => {}
                }
            }
            readings.push(reading);
        }
        let own = trip.depart();
        if !again.is_empty() {
            // Nobody waits for these: they go last, and not at all when there is too much to do.
            let mut trip = Trip::new(shared, Priority::Background, now, false);
            for (number, slot, wanted) in &again {
                let _ = trip.seat(*number, &calls[*number], slot, Some(wanted));
            }
            trip.depart().into_iter().for_each(Driven::spawn);
        }
        stages.end(Stage::Cache);
        stages.store_calls = u32::try_from(own.len()).unwrap_or(u32::MAX);
        if !own.is_empty() {
            let _ = tokio::time::timeout_at(deadline, join_all(own)).await;
        }
        for (number, row, seat) in seats {
            let flight = &seat.flight;
            if !flight.done.initialized() {
                let _ = tokio::time::timeout_at(deadline, flight.done.wait()).await;
            }
            match flight.done.get().map(|parts| &parts[seat.part]) {
                Some(Ok(states)) => {
                    let (state, frontier) = (states[seat.place].clone(), seat.frontier);
                    readings[number].rows[row] = Some(RowRead { state, frontier, origin: Origin::Store });
                }
                _ if readings[number].rows[row].is_some() => {}
                Some(Err(failure)) => readings[number].fail(failure.clone()),
                None => readings[number].fail(NoAnswer::Timeout(ask.wait)),
            }
        }
        readings
    }

    fn slots(&self, writes: &[Write]) -> Vec<Slot> {
        let of = |write: &Write| -> Vec<Slot> {
            let space = self.shared.space(&write.view);
            write.deltas.iter().map(|(key, _)| Slot { space, key: key.clone() }).collect()
        };
        writes.iter().flat_map(of).collect()
    }
}

/// Forgets slots when dropped: a write that was broken off may have been done all the same.
struct Forgetting<'a>(&'a Shared, Vec<Slot>);

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        self.0.forget(&self.1);
    }
}

#[deny(clippy::missing_trait_methods)]
impl OnlineStore for GuardedStore {
    /// The store itself, not the cache: for whoever compares and explains.
    fn get_many<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<States, StoreError>> {
        self.shared.inner.get_many(view, keys)
    }

    fn get_views<'a>(&'a self, reads: &'a [ViewKeys<'a>]) -> BoxFuture<'a, Vec<Result<States, StoreError>>> {
        self.shared.inner.get_views(reads)
    }

    fn write<'a>(
        &'a self,
        writes: Vec<Write>,
        lane: Lane,
        now: Micros,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let forgetting = Forgetting(&self.shared, self.slots(&writes));
        Box::pin(async move {
            let written = self.shared.inner.write(writes, lane, now).await;
            drop(forgetting);
            written
        })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.shared.inner.checkpoint()
    }

    fn lanes(&self) -> BoxFuture<'_, Result<BTreeMap<Arc<str>, i64>, StoreError>> {
        self.shared.inner.lanes()
    }

    fn drop_lanes<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.shared.inner.drop_lanes(prefix)
    }

    fn view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
    ) -> BoxFuture<'a, Result<Option<ViewStatus>, StoreError>> {
        self.shared.inner.view_status(view)
    }

    fn set_view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
        status: ViewStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.shared.inner.set_view_status(view, status)
    }

    fn active_generation<'a>(&'a self, view_id: &'a str) -> BoxFuture<'a, Result<u32, StoreError>> {
        self.shared.inner.active_generation(view_id)
    }

    fn activate_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.shared.inner.activate_generation(view_id, generation)
    }

    fn drop_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let dropped = self.shared.inner.drop_generation(view_id, generation).await;
            self.shared.forget_generation(view_id, generation);
            dropped
        })
    }

    fn sample_keys<'a>(
        &'a self,
        view: &'a ViewHandle,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EntityKey>, StoreError>> {
        self.shared.inner.sample_keys(view, limit)
    }

    fn statistics(&self) -> StoreStatistics {
        self.shared.inner.statistics()
    }

    fn write_rows_max(&self) -> usize {
        self.shared.inner.write_rows_max()
    }

    fn is_local(&self) -> bool {
        self.shared.inner.is_local()
    }

    fn condition(&self) -> BoxFuture<'_, Result<Condition, StoreError>> {
        self.shared.inner.condition()
    }

    fn take_again(&self) -> BoxFuture<'_, Result<Holding, StoreError>> {
        self.shared.inner.take_again()
    }

    fn begin_filling(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.shared.inner.begin_filling()
    }

    fn end_filling(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.shared.inner.end_filling()
    }

    fn begin_build<'a>(
        &'a self,
        view: &'a ViewHandle,
        start: &'a Positions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.shared.inner.begin_build(view, start)
    }

    fn shared_notes(&self) -> BoxFuture<'_, Result<SharedNotes, StoreError>> {
        self.shared.inner.shared_notes()
    }

    fn node_of(&self, view: &ViewHandle, key: &EntityKey) -> usize {
        self.shared.inner.node_of(view, key)
    }
}
