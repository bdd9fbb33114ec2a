//! The conformance suite: what every online store must do.
//!
//! A store's tests call [`check_store`], and [`check_durable_store`] if it outlives its process. Both panic at the first
//! thing that is not as the contract of [`OnlineStore`] says; the message carries the seed.

mod world;

use crate::{Lane, OnlineStore, States, StoreErrorKind, ViewHandle, ViewKeys, ViewStatus, Write};
use futures::executor::block_on;
use springhouse_kernel::READ_BACK;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
pub use world::{Batch, Random, World};

/// Batches in a random run.
const BATCHES: usize = 40;
/// Threads that write, and that read, in the concurrent check.
const THREADS: usize = 3;

/// Checks a store's behaviour within one process. `make` gives an empty store each time.
pub async fn check_store(make: impl AsyncFn() -> Arc<dyn OnlineStore>, seed: u64) {
    an_empty_store_knows_nothing(&*make().await).await;
    keys_are_answered_in_their_order(&*make().await).await;
    views_read_together_are_as_read_alone(&*make().await, seed).await;
    a_lane_lets_each_position_through_once(&*make().await).await;
    a_write_without_rows_moves_its_lane(&*make().await).await;
    lanes_are_dropped_by_prefix(&*make().await).await;
    a_state_once_read_does_not_change(&*make().await).await;
    a_generation_has_one_meaning(&*make().await).await;
    generations_are_apart(&*make().await).await;
    a_dropped_generation_is_empty_and_can_be_filled_again(&*make().await).await;
    statuses_belong_to_a_generation(&*make().await).await;
    samples_are_distinct_keys_of_the_view(&*make().await).await;
    random_writes_equal_their_events(&*make().await, seed).await;
    a_reader_never_goes_back(make().await, seed).await;
}

/// Checks that a store survives its process. `make_place` gives a new empty place each time, `open` opens a store there.
/// Dropping a store without a checkpoint stands for a kill.
pub async fn check_durable_store<P>(
    make_place: impl Fn() -> P,
    open: impl AsyncFn(&P) -> Arc<dyn OnlineStore>,
    seed: u64,
) {
    what_is_checkpointed_survives(&make_place(), &open).await;
    what_a_kill_loses_is_lost_with_its_lane(&make_place(), &open).await;
    a_status_is_durable_with_all_written_before(&make_place(), &open).await;
    an_activation_is_durable_with_all_written_before(&make_place(), &open).await;
    a_drop_is_durable(&make_place(), &open).await;
    a_generation_keeps_its_meaning(&make_place(), &open).await;
    random_kills_leave_what_the_lanes_say(&make_place(), &open, seed).await;
}

async fn an_empty_store_knows_nothing(store: &dyn OnlineStore) {
    let world = World::new(1);
    for view in world.views() {
        assert_eq!(get(store, view, &world, &[0, 1]).await, [false, false]);
        assert_eq!(store.view_status(view).await.expect("status"), None);
        assert_eq!(store.active_generation(&view.id).await.expect("active"), 0);
        assert_eq!(store.sample_keys(view, 10).await.expect("sample"), []);
        assert!(store.get_many(view, &[]).await.expect("no keys").is_empty());
    }
    assert!(store.lanes().await.expect("lanes").is_empty());
    store.checkpoint().await.expect("a checkpoint of nothing");
    store.drop_generation("no such view@1", 7).await.expect("a drop of nothing");
}

async fn keys_are_answered_in_their_order(store: &dyn OnlineStore) {
    let mut world = World::new(2);
    let batch = world.batch_of("log", 0, &[(0, 1), (0, 3)]);
    write(store, &batch).await;
    assert_eq!(
        get(store, &world.views()[0], &world, &[3, 0, 1, 2, 3]).await,
        [true, false, true, false, true]
    );
    // The other views have nothing of it.
    assert_eq!(get(store, &world.views()[1], &world, &[3, 1]).await, [false, false]);
    world.assert_holds(store, std::slice::from_ref(&batch), "one write").await;
}

async fn views_read_together_are_as_read_alone(store: &dyn OnlineStore, seed: u64) {
    let mut world = World::new(seed);
    let mut last = world.batch_of("log", 0, &[(0, 0), (1, 0)]);
    write(store, &last).await;
    for position in 1..10 {
        last = world.random_batch("log", position);
        write(store, &last).await;
    }
    // What a state says counts, not how it is laid out: a checkpoint between two reads may have compacted it.
    let said = |view: &ViewHandle, states: States| -> Vec<_> {
        states.iter().map(|state| state.as_ref().map(|state| view.plan.read(state, last.now))).collect()
    };
    let keys: Vec<_> = (0..world.entity_count()).map(|entity| world.entity(entity).clone()).collect();
    let (own, other) = (&world.views()[1], &world.views()[0]);
    let stranger = ViewHandle { plan: Arc::clone(&other.plan), ..own.clone() };
    let mut reads = vec![ViewKeys { view: &stranger, keys: &keys[..1] }];
    for (number, view) in world.views().iter().enumerate() {
        reads.push(ViewKeys { view, keys: &keys[number..] });
        reads.push(ViewKeys { view, keys: &[] });
    }
    let together = store.get_views(&reads).await;
    assert_eq!(together.len(), reads.len());
    for (read, answer) in reads.iter().zip(together) {
        let alone = store.get_many(read.view, read.keys).await;
        match (answer, alone) {
            (Ok(together), Ok(alone)) => {
                let (together, alone) = (said(read.view, together), said(read.view, alone));
                assert_eq!(together, alone, "seed {seed}, {}", read.view.id);
            }
            (Err(together), Err(alone)) => assert_eq!(together.kind, alone.kind, "seed {seed}"),
            (together, alone) => panic!("seed {seed}: {together:?} together, {alone:?} alone"),
        }
    }
    assert!(store.get_views(&[]).await.is_empty());
}

async fn a_lane_lets_each_position_through_once(store: &dyn OnlineStore) {
    let mut world = World::new(3);
    let first = world.batch_of("log", 10, &[(0, 0), (1, 0)]);
    write(store, &first).await;
    for position in [10, 9, -1, i64::MIN] {
        let again = world.batch_of("log", position, &[(0, 0), (0, 5)]);
        assert!(
            !store.write(again.writes(), again.lane.clone(), again.now).await.expect("skipped"),
            "{position}"
        );
    }
    world.assert_holds(store, std::slice::from_ref(&first), "positions at or below the lane's").await;
    let other_lane = world.batch_of("log2", 10, &[(0, 0)]);
    let next = world.batch_of("log", 11, &[(0, 5)]);
    let below_zero = world.batch_of("table", -5, &[(0, 2)]);
    for batch in [&other_lane, &next, &below_zero] {
        write(store, batch).await;
    }
    let lanes = store.lanes().await.expect("lanes");
    let lanes: Vec<_> = lanes.iter().map(|(name, position)| (&**name, *position)).collect();
    assert_eq!(lanes, [("log", 11), ("log2", 10), ("table", -5)]);
    world.assert_holds(store, &[first, other_lane, next, below_zero], "three lanes").await;
}

async fn a_write_without_rows_moves_its_lane(store: &dyn OnlineStore) {
    let lane = Lane { name: "log".into(), position: 4 };
    assert!(store.write(Vec::new(), lane.clone(), 0).await.expect("an empty write"));
    assert_eq!(store.lanes().await.expect("lanes").get("log"), Some(&4));
    assert!(!store.write(Vec::new(), lane, 0).await.expect("the same again"));
}

async fn lanes_are_dropped_by_prefix(store: &dyn OnlineStore) {
    for name in ["materialize/a@1/7/0", "materialize/a@1/7/1", "materialize/a@10/7/0", "log"] {
        let lane = Lane { name: name.into(), position: 1 };
        assert!(store.write(Vec::new(), lane, 0).await.expect("write"));
    }
    store.checkpoint().await.expect("checkpoint");
    store.drop_lanes("materialize/a@1/").await.expect("drop lanes");
    let left = |lanes: std::collections::BTreeMap<Arc<str>, i64>| lanes.into_keys().collect::<Vec<_>>();
    let expected: [Arc<str>; 2] = ["log".into(), "materialize/a@10/7/0".into()];
    assert_eq!(left(store.lanes().await.expect("lanes")), expected);
    store.checkpoint().await.expect("checkpoint");
    assert_eq!(left(store.lanes().await.expect("lanes")), expected);
    // A dropped lane starts afresh.
    let lane = Lane { name: "materialize/a@1/7/0".into(), position: 0 };
    assert!(store.write(Vec::new(), lane, 0).await.expect("write"));
}

async fn a_state_once_read_does_not_change(store: &dyn OnlineStore) {
    let mut world = World::new(4);
    let view = world.views()[1].clone();
    write(store, &world.batch_of("log", 0, &[(1, 0)])).await;
    let key = [world.entity(0).clone()];
    let before = store.get_many(&view, &key).await.expect("get").remove(0).expect("written");
    let copy = (*before).clone();
    let later = world.batch_of("log", 1, &[(1, 0), (1, 0)]);
    write(store, &later).await;
    store.checkpoint().await.expect("checkpoint");
    assert_eq!(*before, copy);
    let after = store.get_many(&view, &key).await.expect("get").remove(0).expect("written");
    let at = later.now + 1;
    assert_ne!(
        view.plan.read(&after, at),
        view.plan.read(&copy, at),
        "the write is there for who reads again"
    );
}

async fn a_generation_has_one_meaning(store: &dyn OnlineStore) {
    let mut world = World::new(9);
    let batch = world.batch_of("log", 0, &[(1, 0), (1, 1)]);
    write(store, &batch).await;
    assert_other_plan_is_refused(store, &world).await;
    store.checkpoint().await.expect("checkpoint");
    assert_other_plan_is_refused(store, &world).await;
    world.assert_holds(store, &[batch], "after writes that were refused").await;
}

/// Asks for view 1 with the plan of view 0.
async fn assert_other_plan_is_refused(store: &dyn OnlineStore, world: &World) {
    let (own, other) = (&world.views()[1], &world.views()[0]);
    let stranger = ViewHandle { plan: Arc::clone(&other.plan), ..own.clone() };
    let keys = [world.entity(0).clone()];
    let read = store.get_many(&stranger, &keys).await.expect_err("another plan");
    assert_eq!(read.kind, StoreErrorKind::Corrupt, "{read}");
    let deltas = || vec![(keys[0].clone(), other.plan.empty())];
    // Behind a write that is in order: the whole must be refused.
    let fine = Write { view: other.clone(), deltas: deltas() };
    let lane = Lane { name: "stranger".into(), position: 0 };
    let wrong = Write { view: stranger, deltas: deltas() };
    let write = store.write(vec![fine, wrong], lane, world.now()).await.expect_err("another plan");
    assert_eq!(write.kind, StoreErrorKind::Corrupt, "{write}");
    assert_eq!(store.lanes().await.expect("lanes").get("stranger"), None);
}

async fn generations_are_apart(store: &dyn OnlineStore) {
    let mut world = World::new(5);
    let old = world.batch_of("log", 0, &[(1, 0), (1, 1)]);
    let new = world.batch_of("rebuild", 0, &[(2, 1), (2, 2)]);
    assert_eq!(world.views()[1].id, world.views()[2].id, "one view, two generations");
    write(store, &old).await;
    write(store, &new).await;
    world.assert_holds(store, &[old.clone(), new.clone()], "both generations").await;
    store.activate_generation(&world.views()[2].id, 1).await.expect("activate");
    assert_eq!(store.active_generation(&world.views()[2].id).await.expect("active"), 1);
    assert_eq!(store.active_generation(&world.views()[0].id).await.expect("active"), 0);
    store.activate_generation(&world.views()[2].id, 0).await.expect("back again");
    assert_eq!(store.active_generation(&world.views()[2].id).await.expect("active"), 0);
    store.drop_generation(&world.views()[1].id, 0).await.expect("drop");
    world.assert_holds(store, &[new], "after the drop of the other generation").await;
}

async fn a_dropped_generation_is_empty_and_can_be_filled_again(store: &dyn OnlineStore) {
    let mut world = World::new(6);
    let view = world.views()[1].clone();
    for round in 0..3 {
        let batch = world.batch_of("log", 2 * round, &[(1, 0), (1, 1), (0, 0)]);
        write(store, &batch).await;
        if round == 1 {
            store.checkpoint().await.expect("checkpoint");
        }
        store.drop_generation(&view.id, 0).await.expect("drop");
        assert_eq!(get(store, &view, &world, &[0, 1, 2]).await, [false; 3], "round {round}");
        assert_eq!(store.sample_keys(&view, 10).await.expect("sample"), []);
        assert_eq!(get(store, &world.views()[0], &world, &[0]).await, [true], "other views stay");
        assert_eq!(store.lanes().await.expect("lanes").get("log"), Some(&(2 * round)), "lanes stay");
        let again = world.batch_of("log", 2 * round + 1, &[(1, 2)]);
        write(store, &again).await;
        world
            .assert_holds_in(store, &view, std::slice::from_ref(&again), "only what came after the drop")
            .await;
    }
}

async fn statuses_belong_to_a_generation(store: &dyn OnlineStore) {
    let world = World::new(7);
    let views = world.views();
    let note = |text: &str| ViewStatus { note: text.to_owned() };
    let long = note(&"a long note ".repeat(1000));
    store.set_view_status(&views[1], note("{\"cursor\": 7}")).await.expect("set");
    store.set_view_status(&views[2], long.clone()).await.expect("set");
    assert_eq!(store.view_status(&views[1]).await.expect("get"), Some(note("{\"cursor\": 7}")));
    assert_eq!(store.view_status(&views[2]).await.expect("get"), Some(long));
    assert_eq!(store.view_status(&views[0]).await.expect("get"), None);
    store.set_view_status(&views[1], note("")).await.expect("set again");
    store.drop_generation(&views[2].id, views[2].generation).await.expect("drop");
    assert_eq!(store.view_status(&views[1]).await.expect("get"), Some(note("")));
    assert_eq!(store.view_status(&views[2]).await.expect("get"), None);
}

async fn samples_are_distinct_keys_of_the_view(store: &dyn OnlineStore) {
    let mut world = World::new(8);
    write(store, &world.batch_of("log", 0, &[(0, 0), (0, 1), (0, 2), (1, 5)])).await;
    store.checkpoint().await.expect("checkpoint");
    write(store, &world.batch_of("log", 1, &[(0, 2), (0, 3)])).await;
    let written: Vec<_> = (0..4).map(|i| world.entity(i).clone()).collect();
    for limit in [0, 1, 3, 4, 100, usize::MAX] {
        let mut keys = store.sample_keys(&world.views()[0], limit).await.expect("sample");
        assert_eq!(keys.len(), limit.min(4), "limit {limit}");
        assert!(keys.iter().all(|key| written.contains(key)));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), limit.min(4), "no key twice");
    }
}

/// The naive twin: every event kept, every state folded anew.
async fn random_writes_equal_their_events(store: &dyn OnlineStore, seed: u64) {
    let mut world = World::new(seed);
    let mut applied: Vec<Batch> = Vec::new();
    for round in 0..BATCHES {
        let batch = world.random_batch(&format!("lane-{}", round % 3), round as i64);
        write(store, &batch).await;
        if world.random().below(4) == 0 {
            let again = world.random().below(applied.len() as u64 + 1) as usize;
            let again = applied.get(again).unwrap_or(&batch);
            let done = store.write(again.writes(), again.lane.clone(), batch.now).await.expect("skipped");
            assert!(!done, "a redelivery counts once. seed={seed}");
        }
        if world.random().below(5) == 0 {
            store.checkpoint().await.expect("checkpoint");
        }
        applied.push(batch);
        if world.random().below(4) == 0 {
            world.assert_holds(store, &applied, &format!("round {round}")).await;
        }
    }
    world.assert_holds(store, &applied, "the last round").await;
}

/// Several writers, several readers, checkpoints all the while: a count that a reader has seen is never seen smaller
/// again, and in the end every event is there once.
async fn a_reader_never_goes_back(store: Arc<dyn OnlineStore>, seed: u64) {
    let mut world = World::new(seed);
    let view = world.views()[1].clone();
    let batches: Vec<Vec<Batch>> = (0..THREADS)
        .map(|thread| {
            let lane = format!("writer-{thread}");
            (0..BATCHES as i64).map(|position| world.random_batch(&lane, position)).collect()
        })
        .collect();
    let keys: Vec<_> = (0..world.entity_count()).map(|i| world.entity(i).clone()).collect();
    let at = world.now() + READ_BACK;
    let is_done = AtomicBool::new(false);
    let count = |state: &Option<Arc<_>>| {
        state.as_ref().map_or(0, |state| World::lifetime_count(&view.plan.read(state, at)))
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = batches
            .iter()
            .map(|batches| {
                let store = &store;
                scope.spawn(move || {
                    for batch in batches {
                        block_on(write(&**store, batch));
                        if batch.lane.position % 7 == 3 {
                            block_on(store.checkpoint()).expect("checkpoint");
                        }
                    }
                })
            })
            .collect();
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut seen = vec![0; keys.len()];
                while !is_done.load(Ordering::Relaxed) {
                    let states = block_on(store.get_many(&view, &keys)).expect("get");
                    for (seen, state) in seen.iter_mut().zip(&states) {
                        let now = count(state);
                        assert!(*seen <= now, "went back from {seen} to {now}. seed={seed}");
                        *seen = now;
                    }
                }
            });
        }
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_done.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    world.assert_holds(&*store, &batches.concat(), "after concurrent writes").await;
}

async fn what_is_checkpointed_survives<P>(place: &P, open: &impl AsyncFn(&P) -> Arc<dyn OnlineStore>) {
    let mut world = World::new(11);
    let mut applied = Vec::new();
    for position in 0..5 {
        let store = open(place).await;
        world.assert_holds(&*store, &applied, "after opening again").await;
        // Two writes to the same entities: the second meets states that are only in the file, and reads nothing first.
        for position in [2 * position, 2 * position + 1] {
            let batch = world.random_batch("log", position);
            write(&*store, &batch).await;
            applied.push(batch);
        }
        store.checkpoint().await.expect("checkpoint");
        store.checkpoint().await.expect("checkpoint of nothing new");
        assert_eq!(store.statistics().dirty_entities, 0);
    }
    let store = open(place).await;
    world.assert_holds(&*store, &applied, "after the last opening").await;
    assert_eq!(store.lanes().await.expect("lanes").get("log"), Some(&9));
}

async fn what_a_kill_loses_is_lost_with_its_lane<P>(
    place: &P,
    open: &impl AsyncFn(&P) -> Arc<dyn OnlineStore>,
) {
    let mut world = World::new(12);
    let batches = [world.random_batch("log", 1), world.random_batch("log", 2)];
    let store = open(place).await;
    write(&*store, &batches[0]).await;
    store.checkpoint().await.expect("checkpoint");
    write(&*store, &batches[1]).await;
    drop(store);
    let store = open(place).await;
    // A store may make more durable than it was asked to.
    let reached = store.lanes().await.expect("lanes")["log"];
    assert!(reached == 1 || reached == 2, "{reached}");
    world.assert_holds(&*store, &batches[..reached as usize], "after the kill").await;
    for batch in &batches[reached as usize..] {
        write(&*store, batch).await;
    }
    world.assert_holds(&*store, &batches, "done again").await;
}

async fn a_status_is_durable_with_all_written_before<P>(
    place: &P,
    open: &impl AsyncFn(&P) -> Arc<dyn OnlineStore>,
) {
    let mut world = World::new(13);
    let batch = world.random_batch("log", 1);
    let status = ViewStatus { note: "seen up to 1".to_owned() };
    let store = open(place).await;
    write(&*store, &batch).await;
    store.set_view_status(&world.views()[0], status.clone()).await.expect("set");
    drop(store);
    let store = open(place).await;
    assert_eq!(store.view_status(&world.views()[0]).await.expect("get"), Some(status));
    assert_eq!(store.lanes().await.expect("lanes").get("log"), Some(&1));
    world.assert_holds(&*store, &[batch], "after the kill").await;
}

async fn an_activation_is_durable_with_all_written_before<P>(
    place: &P,
    open: &impl AsyncFn(&P) -> Arc<dyn OnlineStore>,
) {
    let mut world = World::new(14);
    let batch = world.random_batch("log", 1);
    let id = Arc::clone(&world.views()[2].id);
    let store = open(place).await;
    write(&*store, &batch).await;
    store.activate_generation(&id, 1).await.expect("activate");
    drop(store);
    let store = open(place).await;
    assert_eq!(store.active_generation(&id).await.expect("active"), 1);
    world.assert_holds(&*store, &[batch], "after the kill").await;
}

async fn a_drop_is_durable<P>(place: &P, open: &impl AsyncFn(&P) -> Arc<dyn OnlineStore>) {
    let mut world = World::new(15);
    let view = world.views()[1].clone();
    let stored = world.batch_of("log", 1, &[(1, 0), (1, 1)]);
    let in_memory = world.batch_of("log", 2, &[(1, 1), (1, 2)]);
    let store = open(place).await;
    write(&*store, &stored).await;
    store.set_view_status(&view, ViewStatus::default()).await.expect("set");
    write(&*store, &in_memory).await;
    store.drop_generation(&view.id, view.generation).await.expect("drop");
    drop(store);
    let store = open(place).await;
    assert_eq!(get(&*store, &view, &world, &[0, 1, 2]).await, [false; 3]);
    assert_eq!(store.view_status(&view).await.expect("get"), None);
    // Its number is not taken for the dropped one's.
    let again = world.batch_of("log", 3, &[(1, 0)]);
    write(&*store, &again).await;
    store.checkpoint().await.expect("checkpoint");
    drop(store);
    let store = open(place).await;
    world.assert_holds_in(&*store, &view, &[again], "filled again").await;
}

async fn a_generation_keeps_its_meaning<P>(place: &P, open: &impl AsyncFn(&P) -> Arc<dyn OnlineStore>) {
    let mut world = World::new(16);
    let batch = world.batch_of("log", 0, &[(1, 0)]);
    let store = open(place).await;
    write(&*store, &batch).await;
    store.checkpoint().await.expect("checkpoint");
    drop(store);
    // Whoever comes first, the stranger or the owner.
    let store = open(place).await;
    assert_other_plan_is_refused(&*store, &world).await;
    world.assert_holds(&*store, std::slice::from_ref(&batch), "opened again").await;
    assert_other_plan_is_refused(&*store, &world).await;
}

async fn random_kills_leave_what_the_lanes_say<P>(
    place: &P,
    open: &impl AsyncFn(&P) -> Arc<dyn OnlineStore>,
    seed: u64,
) {
    let mut world = World::new(seed);
    let mut batches: Vec<Batch> = Vec::new();
    let mut durable = 0;
    for round in 0..BATCHES {
        let store = open(place).await;
        let reached = store.lanes().await.expect("lanes").get("log").map_or(0, |p| *p as usize);
        assert!(durable <= reached && reached <= batches.len(), "{durable} <= {reached}. seed={seed}");
        world.assert_holds(&*store, &batches[..reached], &format!("opening {round}")).await;
        for batch in &batches[reached..] {
            write(&*store, batch).await;
        }
        for _ in 0..world.random().below(4) {
            let batch = world.random_batch("log", batches.len() as i64 + 1);
            write(&*store, &batch).await;
            batches.push(batch);
            if world.random().below(3) == 0 {
                store.checkpoint().await.expect("checkpoint");
                durable = batches.len();
            }
            // Reads complete what a write began; the checkpoint after it must not count anything twice.
            if world.random().below(2) == 0 {
                world.assert_holds(&*store, &batches, &format!("round {round}")).await;
            }
        }
    }
}

async fn write(store: &dyn OnlineStore, batch: &Batch) {
    let written = store.write(batch.writes(), batch.lane.clone(), batch.now).await.expect("write");
    assert!(written, "a new position is written: {:?}", batch.lane);
    let lanes = store.lanes().await.expect("lanes");
    assert_eq!(lanes.get(&batch.lane.name), Some(&batch.lane.position));
}

/// Which of the numbered entities are there.
async fn get(store: &dyn OnlineStore, view: &ViewHandle, world: &World, entities: &[usize]) -> Vec<bool> {
    let keys: Vec<_> = entities.iter().map(|i| world.entity(*i).clone()).collect();
    let states = store.get_many(view, &keys).await.expect("get");
    states.iter().map(Option::is_some).collect()
}
