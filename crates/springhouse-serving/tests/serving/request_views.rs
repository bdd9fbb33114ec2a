//! What is computed for a request, over filled values and request fields.

use crate::world::{Fault, SECOND, World, request};
use insta::assert_snapshot;
use springhouse_core::Value;

fn world() -> World {
    let mut world = World::new();
    world.apply(crate::ROWS, 300 * SECOND);
    world
}

#[test]
fn features_are_computed_over_filled_values_each_building_on_the_last() {
    let mut asked = request("names verdict ratio", &["ann", "bob", "nobody"]);
    asked.request.insert("limit".into(), [2.0, 4.0, 0.0].map(Value::Float64).into());
    asked.request.insert("factor".into(), vec![Value::Float64(2.0)]);
    assert_snapshot!(world().show(&asked), @r"
    healthy hash-1 last_pay@1<4 pay_counts@1<4
    0 is_high: Bool(true) fresh age 1m20s computed
    0 share: Float64(1.5) fresh age 1m20s computed
    0 scaled: Float64(6.0) fresh age 1m20s computed
    0 asked: Timestamp(300000000) fresh age 1m20s computed
    1 is_high: Bool(false) fresh age 1m40s computed
    1 share: Float64(-0.25) fresh age 1m40s computed
    1 scaled: Float64(0.5) fresh age 1m40s computed
    1 asked: Timestamp(300000000) fresh age 1m40s computed
    2 is_high: Bool(false) fresh age 0s computed
    2 share: Float64(-inf) fresh age 0s computed
    2 scaled: Float64(-inf) fresh age 0s computed
    2 asked: null null age 0s default
    ");
}

#[test]
fn an_optional_field_that_is_not_sent_is_null() {
    let mut asked = request("names ratio:scaled", &["ann"]);
    asked.request.insert("limit".into(), vec![Value::Float64(3.0)]);
    let answer = world().ask(&asked).unwrap();
    assert_eq!(answer.column(0).values[..], [Value::Float64(1.0 + 3.0)]);
}

#[test]
fn what_is_computed_from_defaults_is_computed_all_the_same() {
    let world = world();
    world.set_fault(Fault::Unavailable);
    let mut asked = request("names ratio:share", &["ann"]);
    asked.request.insert("limit".into(), vec![Value::Float64(2.0)]);
    assert_snapshot!(world.show(&asked), @r"
    critical hash-1 
    0 share: Float64(-0.5) fresh no age computed
    ");
}

#[test]
fn a_request_of_fields_alone_needs_no_entity() {
    let world = world();
    let mut asked = request("names clock:doubled clock:sum", &[]);
    asked.entities.clear();
    asked.request.insert("x".into(), vec![Value::Int64(4), Value::Int64(i64::MAX), Value::Null]);
    assert_snapshot!(world.show(&asked), @r"
    healthy hash-1 
    0 doubled: Int64(8) fresh no age computed
    0 sum: null null no age default
    1 doubled: null null no age default
    1 sum: null null no age default
    2 doubled: null null no age default
    2 sum: null null no age default
    ");
    asked.request.clear();
    assert_eq!(world.ask(&asked).unwrap().row_count, 1);
    // One value goes with any number of rows, whichever comes first.
    asked.request.insert("a".into(), vec![Value::Int64(10)]);
    asked.request.insert("x".into(), vec![Value::Int64(1), Value::Int64(2)]);
    let answer = world.ask(&asked).unwrap();
    assert_eq!(answer.column(0).values[..], [Value::Int64(2), Value::Int64(4)]);
    assert_eq!(answer.column(1).values[..], [Value::Int64(11), Value::Int64(12)]);
}

/// Features that others need are computed beside those asked for, wherever these stand.
#[test]
fn a_feature_does_not_depend_on_what_is_asked_for_beside_it() {
    let world = world();
    let ask = |names: &[&str]| {
        let mut asked = request(&format!("names {}", names.join(" ")), &["ann", "bob", "nobody"]);
        if names.iter().any(|name| name.starts_with("ratio") || name.starts_with("verdict")) {
            asked.request.insert("limit".into(), [2.0, 4.0, 0.0].map(Value::Float64).into());
        }
        world.ask(&asked).unwrap()
    };
    let mut names =
        ["ratio:share", "last_pay:place", "verdict:is_high", "pay_counts:spent_1h", "last_pay:amount"];
    for turn in 0..names.len() * 2 {
        names.rotate_left(1);
        if turn == names.len() {
            names.reverse();
        }
        let together = ask(&names);
        for (column, name) in together.columns().zip(names) {
            let alone = ask(&[name]);
            let alone = alone.column(0);
            assert_eq!(column.head.name, name.split_once(':').unwrap().1, "{names:?}");
            assert_eq!(column.values, alone.values, "{name} of {names:?}");
            assert_eq!(column.statuses, alone.statuses, "{name} of {names:?}");
            assert_eq!(column.origins, alone.origins, "{name} of {names:?}");
            assert_eq!(column.ages, alone.ages, "{name} of {names:?}");
            assert_eq!(column.event_times, alone.event_times, "{name} of {names:?}");
        }
    }
}
