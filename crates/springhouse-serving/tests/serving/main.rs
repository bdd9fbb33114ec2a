//! What requests get: values, statuses, ages, policies, defaults, refusals, and what is computed.
#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod errors;
mod guarded;
mod policies;
mod request_views;
mod world;

use insta::assert_snapshot;
use springhouse_core::{EntityKey, Value, ValueType};
use std::sync::Arc;
use world::{HOUR, MINUTE, SECOND, World, handles, load, request};

/// Two users; `ann` paid three times, `bob` once without an amount.
const ROWS: &str = "
    100 ann 1 20.5 shop -
    160 ann 2 130 - 0151
    200 bob 1 - kiosk -
    220 ann 1 3 bar -
";

fn world() -> World {
    let mut world = World::new();
    world.apply(ROWS, 300 * SECOND);
    world
}

#[test]
fn a_fresh_answer_has_values_ages_event_times_and_origins() {
    assert_snapshot!(world().show(&request("plain", &["ann", "bob", "nobody"])), @r"
    healthy hash-1 last_pay@1<4 pay_counts@1<4
    0 amount: Float64(3.0) fresh age 1m20s of 220s store
    0 place: 'bar' fresh age 1m20s of 220s store
    0 pays_1h: Int64(3) fresh age 0s store
    0 spent_1h: Float64(153.5) fresh age 0s store
    0 large_1h: Int64(1) fresh age 0s store
    1 amount: Float64(-1.0) null age 1m40s of 200s default
    1 place: 'kiosk' fresh age 1m40s of 200s store
    1 pays_1h: Int64(1) fresh age 0s store
    1 spent_1h: Float64(0.0) null age 0s default
    1 large_1h: Int64(0) fresh age 0s store
    2 amount: Float64(-1.0) missing no age default
    2 place: null missing no age default
    2 pays_1h: Int64(0) fresh age 0s store
    2 spent_1h: Float64(0.0) null age 0s default
    2 large_1h: Int64(0) fresh age 0s store
    ");
}

#[test]
fn an_entity_of_several_keys_and_one_of_fewer_share_a_request() {
    let mut request = request("names card_last pay_counts:pays_1h last_pay:amount", &["ann", "ann", "bob"]);
    request.entities.insert("card".into(), vec![Value::Int64(1), Value::Int64(2), Value::Int64(9)]);
    assert_snapshot!(world().show(&request), @r"
    healthy hash-1 card_last@1<4 pay_counts@1<4 last_pay@1<4
    0 card_last:amount: Float64(3.0) fresh age 1m20s of 220s store
    0 pays_1h: Int64(3) fresh age 0s store
    0 last_pay:amount: Float64(3.0) fresh age 1m20s of 220s store
    1 card_last:amount: Float64(130.0) fresh age 2m20s of 160s store
    1 pays_1h: Int64(3) fresh age 0s store
    1 last_pay:amount: Float64(3.0) fresh age 1m20s of 220s store
    2 card_last:amount: Float64(-2.0) missing no age default
    2 pays_1h: Int64(1) fresh age 0s store
    2 last_pay:amount: Float64(-1.0) null age 1m40s of 200s default
    ");
}

#[test]
fn a_window_empties_as_time_passes_and_expires_when_the_stream_stalls() {
    let world = world();
    let mut request = request("names pay_counts", &["ann"]);
    // Everything applied, nothing new: a quiet entity is not stale.
    world.set_frontiers(2 * HOUR);
    request.at = Some(2 * HOUR);
    assert_snapshot!(world.show(&request), @r"
    healthy hash-1 pay_counts@1<4
    0 pays_1h: Int64(0) fresh age 0s store
    0 spent_1h: Float64(0.0) null age 0s default
    0 large_1h: Int64(0) fresh age 0s store
    ");
    // The frontier stands still: after 30 s stale, after 5 min expired, for every entity.
    request.at = Some(300 * SECOND + 31 * SECOND);
    world.set_frontiers(300 * SECOND);
    assert_snapshot!(world.show(&request), @r"
    stale hash-1 pay_counts@1<4
    0 pays_1h: Int64(3) stale age 31s store
    0 spent_1h: Float64(153.5) stale age 31s store
    0 large_1h: Int64(1) stale age 31s store
    ");
    request.at = Some(300 * SECOND + 5 * MINUTE + 1);
    request.entities.insert("user".into(), vec![Value::string("nobody")]);
    assert_snapshot!(world.show(&request), @r"
    critical hash-1 pay_counts@1<4
    0 pays_1h: Int64(0) expired age 5m1us default
    0 spent_1h: Float64(0.0) expired age 5m1us default
    0 large_1h: Int64(7) expired age 5m1us default
    ");
}

#[test]
fn the_ttls_bound_the_age_of_a_latest_value_to_the_microsecond() {
    let world = world();
    let mut request = request("names last_pay:amount", &["ann"]);
    let mut lines = String::new();
    for age in [10 * MINUTE, 10 * MINUTE + 1, HOUR, HOUR + 1] {
        request.at = Some(220 * SECOND + age);
        lines.push_str(&world.show(&request));
    }
    assert_snapshot!(lines, @r"
    healthy hash-1 last_pay@1<4
    0 amount: Float64(3.0) fresh age 10m of 220s store
    stale hash-1 last_pay@1<4
    0 amount: Float64(3.0) stale age 10m1us of 220s store
    stale hash-1 last_pay@1<4
    0 amount: Float64(3.0) stale age 1h of 220s store
    critical hash-1 last_pay@1<4
    0 amount: Float64(-1.0) expired age 1h1us of 220s default
    ");
}

#[test]
fn nothing_ever_loaded_is_expired_and_not_a_count_of_zero() {
    let world = World::new();
    assert_snapshot!(world.show(&request("plain", &["ann"])), @r"
    degraded hash-1 last_pay@1<-1 pay_counts@1<-1
    0 amount: Float64(-1.0) missing no age default
    0 place: null missing no age default
    0 pays_1h: Int64(0) expired no age default
    0 spent_1h: Float64(0.0) expired no age default
    0 large_1h: Int64(7) expired no age default
    ");
}

#[test]
fn a_frontier_ahead_of_the_moment_is_no_negative_age() {
    let world = world();
    world.set_frontiers(400 * SECOND);
    let answer = world.ask(&request("names pay_counts", &["ann"])).unwrap();
    assert_eq!(answer.column(0).ages[..], [Some(0)]);
}

#[test]
fn two_features_of_one_name_carry_their_view() {
    let world = world();
    let mut request = request("names last_pay card_last:amount last_pay:amount", &["ann"]);
    request.entities.insert("card".into(), vec![Value::Int64(1)]);
    let answer = world.ask(&request).unwrap();
    let names: Vec<_> = answer.columns().map(|column| &*column.head.name).collect();
    assert_eq!(names, ["last_pay:amount", "place", "card_last:amount"]);
    let views: Vec<_> = answer.columns().map(|column| &*answer.head.views[column.head.view].name).collect();
    assert_eq!(views, ["last_pay", "last_pay", "card_last"]);
}

#[test]
fn a_rows_answer_does_not_depend_on_the_rows_beside_it() {
    let world = world();
    let ask = |users: &[&str], cards: &[i64], limits: &[f64]| {
        let mut asked = request("everything", users);
        asked.entities.insert("card".into(), cards.iter().map(|card| Value::Int64(*card)).collect());
        asked.request.insert("limit".into(), limits.iter().map(|limit| Value::Float64(*limit)).collect());
        world.ask(&asked).unwrap()
    };
    let (users, cards, limits) = (["ann", "nobody", "bob", "ann"], [2, 1, 1, 1], [0.0, 2.0, -1.0, 7.5]);
    let together = ask(&users, &cards, &limits);
    for row in 0..users.len() {
        let alone = ask(&users[row..=row], &cards[row..=row], &limits[row..=row]);
        for (all, one) in together.columns().zip(alone.columns()) {
            assert_eq!(all.values[row], one.values[0], "{}", all.head.name);
            assert_eq!(all.statuses[row], one.statuses[0], "{}", all.head.name);
            assert_eq!(all.ages[row], one.ages[0], "{}", all.head.name);
            assert_eq!(all.origins[row], one.origins[0], "{}", all.head.name);
        }
    }
}

#[test]
fn a_signature_says_what_a_request_needs() {
    let world = world();
    let signature = world.server.signature(&request("everything", &[]).selection).unwrap();
    assert_eq!(signature.keys, [("user".into(), ValueType::String), ("card".into(), ValueType::Int64)]);
    assert_eq!(
        signature.fields,
        [("limit".into(), ValueType::Float64, true), ("factor".into(), ValueType::Float64, false)]
    );
    let features: Vec<String> = signature.features.iter().map(|(name, t)| format!("{name} {t}")).collect();
    assert_snapshot!(features.join(", "), @"last_pay:amount float64, place string, pays_1h int64, spent_1h float64, large_1h int64, card_last:amount float64, share float64, scaled float64, asked timestamp, is_high bool");
    // Planned once: the same object again.
    let again = world.server.signature(&request("everything", &[]).selection).unwrap();
    assert!(Arc::ptr_eq(&signature, &again));
}

#[test]
fn a_reload_swaps_definitions_and_forgets_old_plans() {
    let world = world();
    let changed = load(&world::DEFINITIONS.replace("amount: {default: -1.0}", "amount: {default: -5.0}"));
    world.server.reload(Arc::clone(&changed), "hash-2".into(), handles(&changed)).unwrap();
    let answer = world.ask(&request("names last_pay:amount", &["nobody"])).unwrap();
    assert_eq!(&*answer.head.definition_hash, "hash-2");
    assert_eq!(answer.column(0).values[..], [Value::Float64(-5.0)]);
    // What does not fit is refused, and the old stays.
    let other = load(&world::DEFINITIONS.replace("place:\n  contact", "place:\n      card:\n  contact"));
    let error = world.server.reload(other, "hash-3".into(), handles(&changed)).unwrap_err();
    assert_snapshot!(world::show_error(&error), @"invalid_definitions: the plan of view `last_pay` has other features than its definition [run `springhouse validate` and apply again]");
    assert_eq!(&*world.ask(&request("plain", &["ann"])).unwrap().head.definition_hash, "hash-2");
}

#[test]
fn a_view_that_is_not_loaded_is_said_so_when_it_is_asked_for() {
    let world = world();
    let mut views = world.views.clone();
    views.remove("card_last");
    world.server.reload(Arc::clone(&world.definitions), "h".into(), views).unwrap();
    assert!(world.ask(&request("plain", &["ann"])).is_ok());
    assert_snapshot!(world.show(&request("names card_last", &["ann"])), @"unknown_feature: view `card_last` is defined but not loaded [apply the definitions, then `springhouse materialize`]");
}

#[test]
fn an_explanation_shows_what_is_behind_an_answer() {
    let world = world();
    let key = |user: &str| {
        EntityKey::encode(&[("user".into(), ValueType::String)], &[Value::string(user)]).unwrap()
    };
    let (answer, explanation, frontier) =
        world.block_on(world.server.explain("pay_counts", &key("ann"), None)).unwrap();
    assert_eq!(answer.values[0], Value::Int64(3));
    assert_eq!(explanation.features.len(), 3);
    assert!(explanation.features.iter().all(|(_, lines)| !lines.is_empty()), "{explanation:?}");
    assert_eq!(frontier.frontier, 300 * SECOND);
    let (answer, _, _) = world.block_on(world.server.explain("pay_counts", &key("nobody"), None)).unwrap();
    assert_eq!(answer.values[0], Value::Int64(0));
    let error = world.block_on(world.server.explain("pay_count", &key("ann"), None)).unwrap_err();
    assert_snapshot!(world::show_error(&error), @"unknown_view: there is no feature view `pay_count` [did you mean `pay_counts`?]");
}
