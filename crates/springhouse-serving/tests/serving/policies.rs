//! What a service says about values that are not fresh, and about who may ask.

use crate::world::{Fault, HOUR, MINUTE, SECOND, World, request};
use insta::assert_snapshot;
use springhouse_core::{Value, ValueStatus};
use springhouse_serving::DegradationLevel;

fn world() -> World {
    let mut world = World::new();
    world.apply(crate::ROWS, 300 * SECOND);
    world
}

#[test]
fn fail_closed_refuses_each_kind_of_value_with_its_code() {
    let world = world();
    let mut asked = request("strict", &["ann"]);
    assert_eq!(world.ask(&asked).unwrap().level, DegradationLevel::Healthy);
    let mut lines = String::new();
    asked.at = Some(220 * SECOND + 10 * MINUTE + 1);
    lines.push_str(&format!("{}\n", world.show(&asked)));
    asked.at = Some(220 * SECOND + HOUR + 1);
    lines.push_str(&format!("{}\n", world.show(&asked)));
    lines.push_str(&format!("{}\n", world.show(&request("strict", &["ann", "nobody"]))));
    // A null is honest, whoever asks.
    lines.push_str(&world.show(&request("strict", &["bob"])));
    for fault in [Fault::Unavailable, Fault::Silent, Fault::Corrupt] {
        world.set_fault(fault);
        lines.push_str(&format!("{}\n", world.show(&request("strict", &["ann"]))));
    }
    assert_snapshot!(lines, @r"
    stale_refused: `last_pay:amount` of row 0 is stale, its age is 10m1us [the service's policy is `on_stale: fail`]
    expired_refused: `last_pay:amount` of row 0 is expired, its age is 1h1us [the service's policy is `on_expired: fail`]
    missing_refused: `last_pay:amount` of row 1 is missing [the service's policy is `on_missing: fail`]
    healthy hash-1 last_pay@1<4 pay_counts@1<4
    0 amount: Float64(-1.0) null age 1m40s of 200s default
    0 place: 'kiosk' fresh age 1m40s of 200s store
    0 pays_1h: Int64(1) fresh age 0s store
    0 spent_1h: Float64(0.0) null age 0s default
    0 large_1h: Int64(0) fresh age 0s store
    store_unavailable: view `last_pay` can't be read: read failed in the faulty store: a test [try again; the service's policy is to fail rather than to serve defaults]
    store_unavailable: view `last_pay` can't be read: no answer within 20 ms [try again; the service's policy is to fail rather than to serve defaults]
    store_corrupt: view `last_pay`: read failed in the faulty store: a test [run `springhouse rebuild`]
    ");
}

#[test]
fn stale_values_can_be_replaced_by_defaults() {
    let world = world();
    let mut asked = request("careful", &["ann", "bob"]);
    asked.at = Some(220 * SECOND + 10 * MINUTE + 1);
    assert_snapshot!(world.show(&asked), @r"
    stale hash-1 last_pay@1<4
    0 amount: Float64(-1.0) stale age 10m1us of 220s default
    0 place: null stale age 10m1us of 220s default
    1 amount: Float64(-1.0) null age 10m20s1us of 200s default
    1 place: null stale age 10m20s1us of 200s default
    ");
}

#[test]
fn a_callers_own_limit_makes_values_stale() {
    let world = world();
    let mut asked = request("plain", &["ann"]);
    asked.at = Some(310 * SECOND);
    asked.max_age = Some(90 * SECOND);
    assert_eq!(world.ask(&asked).unwrap().level, DegradationLevel::Healthy);
    asked.max_age = Some(90 * SECOND - 1);
    let answer = world.ask(&asked).unwrap();
    assert_eq!(answer.level, DegradationLevel::Stale);
    let stale = answer.columns().filter(|c| c.statuses[0] == ValueStatus::Stale);
    assert_eq!(stale.map(|c| &*c.head.name).collect::<Vec<_>>(), ["amount", "place"]);
    asked.max_age = Some(0);
    let answer = world.ask(&asked).unwrap();
    assert!(answer.columns().all(|c| c.statuses[0] == ValueStatus::Stale));
    // A service that does not serve stale values gives the default for these too.
    let mut asked = request("careful", &["ann"]);
    asked.max_age = Some(SECOND);
    assert_eq!(world.ask(&asked).unwrap().column(0).values[..], [Value::Float64(-1.0)]);
}

#[test]
fn a_store_that_does_not_answer_costs_defaults_and_says_so() {
    let world = world();
    world.set_fault(Fault::Unavailable);
    let refused = world.show(&request("plain", &["ann", "bob"]));
    assert_snapshot!(refused, @r"
    critical hash-1 
    0 amount: Float64(-1.0) unavailable no age default
    0 place: null unavailable no age default
    0 pays_1h: Int64(0) unavailable no age default
    0 spent_1h: Float64(0.0) unavailable no age default
    0 large_1h: Int64(7) unavailable no age default
    1 amount: Float64(-1.0) unavailable no age default
    1 place: null unavailable no age default
    1 pays_1h: Int64(0) unavailable no age default
    1 spent_1h: Float64(0.0) unavailable no age default
    1 large_1h: Int64(7) unavailable no age default
    ");
    world.set_fault(Fault::Silent);
    assert_eq!(world.show(&request("plain", &["ann", "bob"])), refused);
    // One view of two: the other's values are as good as ever.
    *world.store.fault.lock().unwrap() = (Fault::Silent, Some("last_pay@1".into()));
    assert_snapshot!(world.show(&request("plain", &["ann"])), @r"
    degraded hash-1 pay_counts@1<4
    0 amount: Float64(-1.0) unavailable no age default
    0 place: null unavailable no age default
    0 pays_1h: Int64(3) fresh age 0s store
    0 spent_1h: Float64(153.5) fresh age 0s store
    0 large_1h: Int64(1) fresh age 0s store
    ");
}

#[test]
fn a_store_that_answers_late_but_in_time_is_waited_for() {
    let world = world();
    let at_once = world.show(&request("plain", &["ann"]));
    world.set_fault(Fault::Late);
    assert_eq!(world.show(&request("plain", &["ann"])), at_once);
}

#[test]
fn damaged_rows_are_never_papered_over() {
    let world = world();
    world.set_fault(Fault::Corrupt);
    assert_snapshot!(world.show(&request("plain", &["ann"])), @"store_corrupt: view `last_pay`: read failed in the faulty store: a test [run `springhouse rebuild`]");
}

#[test]
fn the_last_known_value_is_served_with_its_true_age() {
    let world = world();
    assert_eq!(
        world.ask(&request("remembering", &["ann", "nobody"])).unwrap().level,
        DegradationLevel::Healthy
    );
    world.set_fault(Fault::Unavailable);
    world.set_frontiers(340 * SECOND);
    let mut asked = request("remembering", &["ann", "nobody", "bob"]);
    asked.at = Some(340 * SECOND);
    assert_snapshot!(world.show(&asked), @r"
    critical hash-1 
    0 amount: Float64(3.0) unavailable age 2m of 220s lastknown
    0 place: 'bar' unavailable age 2m of 220s lastknown
    0 pays_1h: Int64(3) unavailable age 40s lastknown
    0 spent_1h: Float64(153.5) unavailable age 40s lastknown
    0 large_1h: Int64(1) unavailable age 40s lastknown
    1 amount: Float64(-1.0) unavailable no age default
    1 place: null unavailable no age default
    1 pays_1h: Int64(0) unavailable age 40s lastknown
    1 spent_1h: Float64(0.0) unavailable age 40s default
    1 large_1h: Int64(0) unavailable age 40s lastknown
    2 amount: Float64(-1.0) unavailable no age default
    2 place: null unavailable no age default
    2 pays_1h: Int64(0) unavailable no age default
    2 spent_1h: Float64(0.0) unavailable no age default
    2 large_1h: Int64(7) unavailable no age default
    ");
    // It is not served past its hard TTL.
    asked.at = Some(300 * SECOND + 2 * HOUR);
    let answer = world.ask(&asked).unwrap();
    assert_eq!(answer.column(0).values[0], Value::Float64(-1.0));
    assert_eq!(answer.column(0).statuses[0], ValueStatus::Unavailable);
    // A service without this policy remembers nothing.
    let plain = world.ask(&request("plain", &["ann"])).unwrap();
    assert_eq!(plain.column(0).values[0], Value::Float64(-1.0));
}

#[test]
fn a_service_with_readers_is_for_them() {
    let world = world();
    let mut asked = request("personal", &["ann"]);
    assert_snapshot!(world.show(&asked), @"denied: this service is for its readers: role:support [ask with one of these roles]");
    asked.roles = vec!["sales".into()];
    assert!(world.show(&asked).starts_with("denied"));
    for role in ["support", "role:support"] {
        asked.roles = vec!["sales".into(), role.into()];
        assert!(world.ask(&asked).is_ok(), "{role}");
    }
}

#[test]
fn personal_data_by_name_is_for_the_readers_of_its_services() {
    let world = world();
    let mut asked = request("names contact last_pay:amount", &["ann"]);
    assert_snapshot!(world.show(&asked), @"denied: `contact:phone` is personal data and not for everyone [ask with a role that is among the readers of a service that shows it]");
    asked.roles = vec!["role:support".into()];
    assert_snapshot!(world.show(&asked), @r"
    healthy hash-1 contact@1<4 last_pay@1<4
    0 phone: null null age 1m20s of 220s default
    0 amount: Float64(3.0) fresh age 1m20s of 220s store
    ");
}
