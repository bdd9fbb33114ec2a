//! The guard before a store that is elsewhere: what it saves, what it must not change, and what it does when the store fails.

use crate::world::{Fault, SECOND, World, request, show};
use insta::assert_snapshot;
use proptest::prelude::*;
use springhouse_core::{Value, ValueStatus};
use springhouse_serving::{
    BreakerState, CallOptions, DegradationLevel, FeatureAnswer, GuardStatistics, Origin, Priority,
    ServingSettings,
};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn settings() -> ServingSettings {
    ServingSettings {
        store_timeout_ms: 500,
        request_timeout_ms: 500,
        hot_cache_soft_ms: 1_000,
        hot_cache_hard_ms: 5_000,
        hot_cache_jitter_percent: 0,
        negative_cache_ms: 30_000,
        breaker_calls_min: 4,
        breaker_probes: 2,
        breaker_open_ms: 1_000,
        retry_budget_percent: 0,
        ..Default::default()
    }
}

fn world(settings: ServingSettings) -> World {
    let mut world = World::guarded(settings);
    world.apply(crate::ROWS, 300 * SECOND);
    world
}

fn guard(world: &World) -> GuardStatistics {
    world.server.statistics().guard.unwrap()
}

fn amount(answer: &FeatureAnswer) -> (&Value, ValueStatus, Origin) {
    let column = answer.named("amount").unwrap();
    (&column.values[0], column.statuses[0], column.origins[0])
}

#[test]
fn a_second_request_is_answered_from_the_cache_with_the_age_of_the_first_read() {
    let world = world(settings());
    assert_eq!(amount(&world.ask(&request("plain", &["ann"])).unwrap()).2, Origin::Store);
    assert_eq!(world.calls(), 2);
    world.set_frontiers(310 * SECOND);
    world.moments.now.store(310 * SECOND, Ordering::SeqCst);
    assert_snapshot!(world.show(&request("plain", &["ann", "nobody"])), @r"
    healthy hash-1 last_pay@1<4 pay_counts@1<4
    0 amount: Float64(3.0) fresh age 1m30s of 220s hotcache
    0 place: 'bar' fresh age 1m30s of 220s hotcache
    0 pays_1h: Int64(3) fresh age 10s hotcache
    0 spent_1h: Float64(153.5) fresh age 10s hotcache
    0 large_1h: Int64(1) fresh age 10s hotcache
    1 amount: Float64(-1.0) missing no age default
    1 place: null missing no age default
    1 pays_1h: Int64(0) fresh age 0s store
    1 spent_1h: Float64(0.0) null age 0s default
    1 large_1h: Int64(0) fresh age 0s store
    ");
    // One call more for each view: `nobody`. Then nothing more is asked, its absence is remembered too.
    assert_eq!(world.calls(), 4);
    world.show(&request("plain", &["ann", "nobody"]));
    assert_eq!(world.calls(), 4);
    assert!(guard(&world).count("cache_negative_hit") > 0);
}

#[test]
fn a_window_read_before_its_view_had_come_anywhere_is_read_again_once_it_has() {
    let mut world = World::guarded(settings());
    let asked = request("names pay_totals:all_pays_lifetime", &["nobody"]);
    let status = |world: &World| world.ask(&asked).unwrap().column(0).statuses[0];
    world.set_frontiers(i64::MIN);
    assert_eq!((status(&world), status(&world)), (ValueStatus::Expired, ValueStatus::Expired));
    assert_eq!(world.calls(), 1, "while nothing has changed, it is remembered");
    world.apply(crate::ROWS, 300 * SECOND);
    let answer = world.ask(&asked).unwrap();
    assert_eq!(
        (&answer.column(0).values[0], answer.column(0).statuses[0]),
        (&Value::Int64(0), ValueStatus::Fresh)
    );
    // Nor is one served that has grown too old meanwhile.
    world.set_frontiers(900 * SECOND);
    world.moments.now.store(900 * SECOND, Ordering::SeqCst);
    assert_eq!((status(&world), world.calls()), (ValueStatus::Fresh, 3));
}

#[test]
fn who_wants_the_store_itself_gets_it_and_who_wants_younger_values_too() {
    let world = world(settings());
    let mut asked = request("plain", &["ann"]);
    world.ask(&asked).unwrap();
    asked.options.use_cache = false;
    assert_eq!(amount(&world.ask(&asked).unwrap()).2, Origin::Store);
    assert_eq!(world.calls(), 4);
    asked.options.use_cache = true;
    asked.max_age = Some(SECOND / 2);
    world.set_frontiers(301 * SECOND);
    world.moments.now.store(301 * SECOND, Ordering::SeqCst);
    world.tick(600);
    world.ask(&asked).unwrap();
    assert_eq!(world.calls(), 6);
}

#[test]
fn a_write_is_seen_by_whoever_asks_after_it() {
    let mut world = world(settings());
    assert_eq!(amount(&world.ask(&request("plain", &["ann"])).unwrap()).0, &Value::Float64(3.0));
    assert_eq!(amount(&world.ask(&request("plain", &["zoe"])).unwrap()).1, ValueStatus::Missing);
    world.apply("310 ann 1 7 bar -\n 310 zoe 1 8 bar -", 320 * SECOND);
    let answer = world.ask(&request("plain", &["ann"])).unwrap();
    assert_eq!(amount(&answer), (&Value::Float64(7.0), ValueStatus::Fresh, Origin::Store));
    assert_eq!(answer.cuts[0], Some(6));
    assert_eq!(amount(&world.ask(&request("plain", &["zoe"])).unwrap()).0, &Value::Float64(8.0));
}

#[test]
fn a_read_begun_before_a_write_is_neither_kept_nor_shared_after_it() {
    let mut world = world(settings());
    world.set_fault(Fault::Gated);
    let before = world.ask_later(request("names last_pay:amount", &["ann"]));
    world.settle();
    world.set_fault(Fault::None);
    world.apply("310 ann 1 7 bar -", 320 * SECOND);
    // The first read is still under way, and a second one is made.
    let answer = world.ask(&request("names last_pay:amount", &["ann"])).unwrap();
    assert_eq!(amount(&answer).0, &Value::Float64(7.0));
    world.store.gate.let_go(1);
    let old = world.block_on(before).unwrap().unwrap();
    assert_eq!(amount(&old).0, &Value::Float64(3.0));
    let answer = world.ask(&request("names last_pay:amount", &["ann"])).unwrap();
    assert_eq!(amount(&answer), (&Value::Float64(7.0), ValueStatus::Fresh, Origin::HotCache));
}

#[test]
fn what_is_due_is_served_while_it_is_read_again_once() {
    let world = world(settings());
    let asked = request("names last_pay:amount", &["ann"]);
    world.ask(&asked).unwrap();
    world.tick(1_000);
    world.set_fault(Fault::Gated);
    for _ in 0..5 {
        assert_eq!(amount(&world.ask(&asked).unwrap()).2, Origin::StaleCache);
        world.settle();
    }
    assert_eq!(world.calls(), 2);
    world.store.gate.let_go(1);
    world.settle();
    assert_eq!(amount(&world.ask(&asked).unwrap()).2, Origin::HotCache);
    // Past its hard end nothing is served from it.
    world.set_fault(Fault::Unavailable);
    world.tick(4_999);
    assert_eq!(amount(&world.ask(&asked).unwrap()).2, Origin::StaleCache);
    world.tick(1);
    assert_eq!(amount(&world.ask(&asked).unwrap()).1, ValueStatus::Unavailable);
}

#[test]
fn many_requests_for_one_key_are_one_call() {
    let world = world(settings());
    world.set_fault(Fault::Gated);
    let asked: Vec<_> =
        (0..100).map(|_| world.ask_later(request("names last_pay:amount", &["ann", "ann"]))).collect();
    world.settle();
    assert_eq!(guard(&world).reads_under_way, 1);
    world.store.gate.let_go(1);
    for answer in asked {
        let answer = world.block_on(answer).unwrap().unwrap();
        assert_eq!(answer.column(0).values[..], [Value::Float64(3.0), Value::Float64(3.0)]);
    }
    assert_eq!((world.calls(), world.store.most_at_once.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(guard(&world).count("coalesced"), 199);
}

#[test]
fn a_large_request_uses_the_cache_and_leaves_nothing_in_it() {
    let world = world(ServingSettings { shared_rows_max: 3, ..settings() });
    // Two entities, two views.
    let large = world.ask(&request("plain", &["ann", "bob"])).unwrap();
    assert_eq!(amount(&large).2, Origin::Store);
    assert_eq!((guard(&world).cache_entries, guard(&world).reads_under_way), (0, 0));
    world.ask(&request("plain", &["ann"])).unwrap();
    let entries = guard(&world).cache_entries;
    assert!(entries > 0);
    let large = world.ask(&request("plain", &["ann", "bob"])).unwrap();
    let column = large.named("place").unwrap();
    assert_eq!(column.origins[..], [Origin::HotCache, Origin::Store]);
    // What is due is read again with the rest, not served.
    world.tick(1_500);
    let large = world.ask(&request("plain", &["ann", "bob"])).unwrap();
    assert_eq!(amount(&large).2, Origin::Store);
    assert_eq!(guard(&world).cache_entries, entries);
    world.set_fault(Fault::Unavailable);
    let large = world.ask(&request("plain", &["ann", "bob"])).unwrap();
    let column = large.named("place").unwrap();
    assert_eq!(column.statuses[..], [ValueStatus::Fresh, ValueStatus::Unavailable]);
    assert_eq!(column.origins[0], Origin::StaleCache);
}

#[test]
fn all_views_of_a_request_are_one_call_of_which_a_part_may_fail() {
    let world = world(ServingSettings { hot_cache_bytes_max: 0, negative_cache_ms: 0, ..settings() });
    world.ask(&request("plain", &["ann", "nobody"])).unwrap();
    assert_eq!(guard(&world).count("call"), 1);
    *world.store.fault.lock().unwrap() = (Fault::Unavailable, Some("pay_counts@1".to_owned()));
    let answer = world.ask(&request("plain", &["ann"])).unwrap();
    assert_eq!(amount(&answer), (&Value::Float64(3.0), ValueStatus::Fresh, Origin::Store));
    let counts = answer.named("pays_1h").unwrap();
    assert_eq!((counts.statuses[0], counts.origins[0]), (ValueStatus::Unavailable, Origin::Default));
    let after = guard(&world);
    assert_eq!((after.count("call"), after.count("call_failed"), after.reads_under_way), (2, 1, 0));
}

#[test]
fn the_others_get_their_answer_when_the_leader_is_gone() {
    let world = world(settings());
    world.set_fault(Fault::Gated);
    let asked = || world.ask_later(request("names last_pay:amount", &["ann"]));
    let leader = asked();
    world.settle();
    let follower = asked();
    world.settle();
    leader.abort();
    world.settle();
    world.store.gate.let_go(1);
    assert_eq!(amount(&world.block_on(follower).unwrap().unwrap()).0, &Value::Float64(3.0));
    assert_eq!(world.calls(), 1);
}

#[test]
fn a_read_that_panics_leaves_nobody_waiting_and_nothing_behind() {
    let world = world(ServingSettings { breaker: false, ..settings() });
    world.set_fault(Fault::Panics);
    let asked: Vec<_> =
        (0..10).map(|_| world.ask_later(request("names last_pay:amount", &["ann"]))).collect();
    for answer in asked {
        assert_eq!(amount(&world.block_on(answer).unwrap().unwrap()).1, ValueStatus::Unavailable);
    }
    assert_eq!(guard(&world).reads_under_way, 0);
    world.set_fault(Fault::None);
    assert_eq!(
        amount(&world.ask(&request("names last_pay:amount", &["ann"])).unwrap()).1,
        ValueStatus::Fresh
    );
}

#[test]
fn a_silent_store_costs_each_caller_its_own_time_until_the_breaker_opens() {
    let world = world(settings());
    world.set_fault(Fault::Silent);
    let mut asked = request("plain", &["ann"]);
    asked.options.timeout = Some(Duration::from_millis(5));
    let answer = world.ask(&asked).unwrap();
    assert_eq!((answer.level, amount(&answer).1), (DegradationLevel::Critical, ValueStatus::Unavailable));
    asked.options.timeout = Some(Duration::ZERO);
    assert_eq!(world.ask(&asked).unwrap_err().code, "deadline_exceeded");
}

#[test]
fn a_failing_node_is_not_asked_for_a_while_and_comes_back_by_itself() {
    let world = world(ServingSettings { hot_cache_bytes_max: 0, ..settings() });
    let asked = request("names last_pay:amount", &["ann"]);
    world.ask(&asked).unwrap();
    world.set_fault(Fault::Unavailable);
    for _ in 0..20 {
        // Fallback is allowed: never an error.
        assert_eq!(amount(&world.ask(&asked).unwrap()).1, ValueStatus::Unavailable);
    }
    let statistics = guard(&world);
    assert_eq!(statistics.nodes[0].breaker, BreakerState::Open);
    assert_eq!(statistics.broken_nodes(), [0]);
    assert!(statistics.count("call") < 6 && statistics.count("call_refused") > 14, "{statistics:?}");
    world.set_fault(Fault::None);
    assert_eq!(amount(&world.ask(&asked).unwrap()).1, ValueStatus::Unavailable);
    world.tick(1_000);
    for _ in 0..3 {
        assert_eq!(amount(&world.ask(&asked).unwrap()).1, ValueStatus::Fresh);
    }
    assert_eq!(guard(&world).nodes[0].breaker, BreakerState::Closed);
    assert_eq!(world.server.statistics().fallbacks.defaults, 21);
}

#[test]
fn the_last_known_value_outlives_the_cache_and_a_reload_of_definitions() {
    let world = world(settings());
    world.ask(&request("remembering", &["ann"])).unwrap();
    world.server.reload(world.definitions.clone(), "hash-2".into(), world.views.clone()).unwrap();
    world.set_fault(Fault::Unavailable);
    world.tick(60_000);
    assert_snapshot!(world.show(&request("remembering", &["ann", "bob"])), @r"
    critical hash-2 
    0 amount: Float64(3.0) unavailable age 1m20s of 220s lastknown
    0 place: 'bar' unavailable age 1m20s of 220s lastknown
    0 pays_1h: Int64(3) unavailable age 0s lastknown
    0 spent_1h: Float64(153.5) unavailable age 0s lastknown
    0 large_1h: Int64(1) unavailable age 0s lastknown
    1 amount: Float64(-1.0) unavailable no age default
    1 place: null unavailable no age default
    1 pays_1h: Int64(0) unavailable no age default
    1 spent_1h: Float64(0.0) unavailable no age default
    1 large_1h: Int64(7) unavailable no age default
    ");
    assert_eq!(world.server.statistics().fallbacks.last_known, 2);
}

#[test]
fn failing_closed_and_damaged_rows_stay_errors() {
    let world = world(ServingSettings { breaker: false, ..settings() });
    world.set_fault(Fault::Unavailable);
    assert_eq!(world.ask(&request("strict", &["ann"])).unwrap_err().code, "store_unavailable");
    world.set_fault(Fault::Corrupt);
    assert_eq!(world.ask(&request("plain", &["bob"])).unwrap_err().code, "store_corrupt");
    // Errors are not remembered.
    world.set_fault(Fault::None);
    assert!(world.ask(&request("strict", &["ann"])).is_ok());
}

#[test]
fn too_many_calls_are_shed_the_least_important_first_and_at_once() {
    let world = world(ServingSettings {
        store_calls_adaptive: false,
        store_calls_max: 4,
        background_share_percent: 25,
        normal_share_percent: 75,
        ..settings()
    });
    world.set_fault(Fault::Gated);
    let ask = |user: usize, priority| {
        let mut asked = request("names last_pay:amount", &[&format!("user {user}")]);
        asked.options = CallOptions { priority, ..CallOptions::default() };
        world.ask_later(asked)
    };
    let mut asked = Vec::new();
    for (number, priority) in Priority::ALL.iter().flat_map(|priority| [priority; 4]).enumerate() {
        asked.push(ask(number, *priority));
        world.settle();
    }
    let is_shed = |asked: &tokio::task::JoinHandle<_>| asked.is_finished();
    let shed: Vec<bool> = asked.iter().map(is_shed).collect();
    assert_eq!(shed, [false, true, true, true, false, false, true, true, false, true, true, true]);
    assert_eq!(world.server.statistics().shed, [3, 2, 3]);
    let refused = world.block_on(asked.remove(1)).unwrap().unwrap_err();
    assert_snapshot!(crate::world::show_error(&refused), @"shed: the store has all the calls that it can take; this one has priority `background` [nothing was begun: try again later, and not all at once]");
    // When nothing comes back any more it is the node that is silent: then there are defaults, not refusals.
    world.tick(100);
    let answer = world.block_on(ask(99, Priority::Background)).unwrap().unwrap();
    assert_eq!(amount(&answer).1, ValueStatus::Unavailable);
    world.store.gate.let_go(4);
    world.settle();
    assert_eq!(guard(&world).nodes[0].under_way, 0);
    world.set_fault(Fault::None);
    assert!(world.ask(&request("plain", &["ann"])).is_ok());
}

#[test]
fn second_calls_stay_within_their_budget() {
    let world = world(ServingSettings {
        retry_budget_percent: 20,
        breaker: false,
        hot_cache_bytes_max: 0,
        ..settings()
    });
    let asked = request("names last_pay:amount", &["ann"]);
    world.set_fault(Fault::Unavailable);
    for _ in 0..100 {
        world.ask(&asked).unwrap();
    }
    assert_eq!(guard(&world).count("retry"), 20);
}

#[test]
fn a_hedge_is_a_second_call_for_an_answer_that_is_late() {
    let world = world(ServingSettings {
        retry_budget_percent: 100,
        hedge_after_ms: 5,
        hot_cache_bytes_max: 0,
        ..settings()
    });
    world.set_fault(Fault::Gated);
    let asked = world.ask_later(request("names last_pay:amount", &["ann"]));
    world.block_on(async {
        while world.calls() < 2 {
            tokio::task::yield_now().await;
        }
    });
    world.store.gate.let_go(1);
    assert_eq!(amount(&world.block_on(asked).unwrap().unwrap()).1, ValueStatus::Fresh);
    assert_eq!((guard(&world).count("hedge"), guard(&world).count("call")), (1, 1));
}

#[test]
fn everything_can_be_switched_off() {
    let off = ServingSettings {
        hot_cache_bytes_max: 0,
        negative_cache_ms: 0,
        coalesce: false,
        breaker: false,
        store_calls_adaptive: false,
        retry_budget_percent: 0,
        requests_max: 0,
        last_known_bytes_max: 0,
        ..settings()
    };
    let world = world(off);
    for n in 1..=5 {
        assert_eq!(amount(&world.ask(&request("plain", &["ann"])).unwrap()).2, Origin::Store);
        assert_eq!(world.calls(), 2 * n);
    }
}

/// Ten times as many callers as the store's calls allow, again and again, on a store that answers when it is let.
#[test]
fn under_overload_the_store_stays_busy_what_is_kept_is_bounded_and_the_important_come_through() {
    let world = world(ServingSettings {
        store_calls_adaptive: false,
        store_calls_max: 10,
        background_share_percent: 50,
        normal_share_percent: 90,
        hot_cache_bytes_max: 0,
        ..settings()
    });
    world.set_fault(Fault::Gated);
    let (mut answered, mut shed, mut critical_shed, mut offered) = (0, 0, 0, 0);
    let mut under_way = Vec::new();
    for round in 0..50 {
        for caller in 0..100 {
            let priority = if caller == 50 { Priority::Critical } else { Priority::ALL[caller % 2] };
            let mut asked = request("names last_pay:amount", &[&format!("user {round} {caller}")]);
            asked.options = CallOptions { priority, ..CallOptions::default() };
            under_way.push((priority, world.ask_later(asked)));
            offered += 1;
        }
        world.settle();
        // The store is as busy as it can be, and no more is kept than it is busy with.
        let statistics = world.server.statistics();
        assert_eq!(statistics.guard.unwrap().nodes[0].under_way, 10);
        assert_eq!(statistics.requests_under_way, 10);
        world.store.gate.let_go(10);
        world.settle();
        for (priority, asked) in under_way.drain(..) {
            match world.block_on(asked).unwrap() {
                Ok(_) => answered += 1,
                Err(error) => {
                    assert_eq!(error.code, "shed");
                    shed += 1;
                    critical_shed += usize::from(priority == Priority::Critical);
                }
            }
        }
    }
    // Goodput is the store's own: every round it could answer ten.
    assert_eq!((answered, shed, critical_shed, offered), (500, 4_500, 0, 5_000));
    assert_eq!(guard(&world).reads_under_way, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u8),
    Write(u8, u8),
    Tick(u16),
    Break(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u8).prop_map(Step::Ask),
        2 => (0..4u8, 0..100u8).prop_map(|(user, amount)| Step::Write(user, amount)),
        1 => (0..6_000u16).prop_map(Step::Tick),
        1 => any::<bool>().prop_map(Step::Break),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// The naive twin reads the store itself each time. Where the guarded one has an answer, it is the same: value, status and
    /// event time; its age is never less.
    #[test]
    fn with_caches_an_answer_is_what_it_is_without(
        steps in prop::collection::vec(step(), 1..60),
        alone in any::<bool>(),
    ) {
        let shared_rows_max = if alone { 0 } else { 128 };
        let mut guarded = world(ServingSettings { breaker: false, shared_rows_max, ..settings() });
        let mut naive = World::new();
        naive.apply(crate::ROWS, 300 * SECOND);
        let users = ["ann", "bob", "zoe", "eve"];
        let mut now = 300;
        for step in steps {
            match step {
                Step::Write(user, amount) => {
                    now += 1;
                    let row = format!("{now} {} 1 {amount} shop -", users[user as usize]);
                    guarded.apply(&row, (now + 1) * SECOND);
                    naive.apply(&row, (now + 1) * SECOND);
                    now += 1;
                }
                Step::Tick(millis) => guarded.tick(u64::from(millis)),
                Step::Break(broken) => {
                    guarded.set_fault(if broken { Fault::Unavailable } else { Fault::None });
                }
                Step::Ask(user) => {
                    let asked = request("plain", &[users[user as usize]]);
                    let (found, expected) = (guarded.ask(&asked).unwrap(), naive.ask(&asked).unwrap());
                    for (found, expected) in found.columns().zip(expected.columns()) {
                        if found.statuses[0] == ValueStatus::Unavailable {
                            continue;
                        }
                        prop_assert!(found.ages[0] >= expected.ages[0]);
                        prop_assert_eq!(&found.event_times, &expected.event_times);
                        // A window is as old as its read: it may be stale where the other is fresh, and says so.
                        if found.statuses == expected.statuses {
                            prop_assert_eq!(&found.values, &expected.values);
                        } else {
                            prop_assert!(matches!(found.statuses[0], ValueStatus::Stale | ValueStatus::Expired));
                        }
                    }
                    guarded.settle();
                }
            }
        }
    }
}

#[test]
fn a_guard_that_has_nothing_to_do_changes_no_answer() {
    let guarded = world(settings());
    let mut plain = World::new();
    plain.apply(crate::ROWS, 300 * SECOND);
    let asked = request("plain", &["ann", "bob", "nobody", "ann"]);
    assert_eq!(show(&guarded.ask(&asked).unwrap()), show(&plain.ask(&asked).unwrap()));
}
