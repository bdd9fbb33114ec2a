//! Wrong requests: a stable code, what is wrong, and what to do.

use crate::world::{SECOND, World, request};
use insta::assert_snapshot;
use springhouse_core::Value;
use springhouse_serving::{FeatureRequest, Selection};

type Change = fn(&mut FeatureRequest);

#[test]
fn a_wrong_request_says_what_is_wrong_and_what_to_do() {
    let mut world = World::new();
    world.apply(crate::ROWS, 300 * SECOND);
    let limit: Change = |r| {
        r.request.insert("limit".into(), vec![Value::Float64(1.0)]);
    };
    let cases: Vec<(&str, Change)> = vec![
        ("plane", |_| {}),
        ("names ", |_| {}),
        ("names last_pya:amount", |_| {}),
        ("names last_pay:amuont", |_| {}),
        ("names zzz", |_| {}),
        ("names ratio:shares", limit),
        ("names last_pay:", |_| {}),
        ("plain", |r| r.entities.clear()),
        ("plain", |r| {
            let users = r.entities.remove("user").unwrap();
            r.entities.insert("usr".into(), users);
        }),
        ("plain", |r| {
            r.entities.insert("card".into(), vec![Value::Int64(1)]);
        }),
        ("plain", |r| {
            r.entities.insert("user".into(), vec![Value::Int64(1)]);
        }),
        ("plain", |r| {
            r.entities.insert("user".into(), vec![Value::string("ann"), Value::Null]);
        }),
        ("plain", |r| {
            r.entities.insert("user".into(), vec![Value::string("x".repeat(500))]);
        }),
        ("plain", |r| {
            r.entities.insert("user".into(), vec![Value::string("ann"); 6]);
        }),
        ("names card_last", |_| {}),
        ("names card_last", |r| {
            r.entities.insert("card".into(), vec![Value::Int64(1), Value::Int64(2)]);
        }),
        ("names card_last", |r| {
            r.entities.insert("card".into(), vec![Value::string("1")]);
        }),
        ("names ratio", |_| {}),
        ("names ratio", |r| {
            r.request.insert("limit".into(), vec![Value::Null]);
        }),
        ("names ratio", |r| {
            r.request.insert("limit".into(), vec![Value::Int64(1)]);
        }),
        ("names ratio", |r| {
            r.request.insert("limit".into(), vec![Value::Float64(1.0); 3]);
        }),
        ("names ratio", |r| {
            r.request.insert("limt".into(), vec![Value::Float64(1.0)]);
            r.request.insert("limit".into(), vec![Value::Float64(1.0)]);
        }),
        ("plain", limit),
        ("names clock", |r| {
            r.entities.clear();
            r.request.insert("x".into(), vec![Value::Int64(1), Value::Int64(2)]);
            r.request.insert("a".into(), vec![Value::Int64(1); 3]);
        }),
        ("names clock", |_| {}),
        ("everything", |r| {
            let names = (0..41).map(|n| format!("last_pay:f{n}")).collect();
            r.selection = Selection::Features(names);
        }),
        ("personal", |_| {}),
    ];
    let mut lines = String::new();
    for (selection, change) in cases {
        let mut asked = request(selection, &["ann"]);
        change(&mut asked);
        lines.push_str(&format!("{selection} -> {}\n", world.show(&asked)));
    }
    assert_snapshot!(lines, @r"
    plane -> unknown_service: there is no feature service `plane` [did you mean `plain`?]
    names  -> unknown_feature: the request names no feature [name a service, or features as `view:feature`]
    names last_pya:amount -> unknown_feature: there is no view `last_pya` [did you mean `last_pay`?]
    names last_pay:amuont -> unknown_feature: view `last_pay` has no feature `amuont` [did you mean `amount`?]
    names zzz -> unknown_feature: there is no view `zzz` [known here: `card_last`, `contact`, `last_pay`, `pay_counts`, `pay_totals`, `clock`, `ratio`, `verdict`]
    names ratio:shares -> unknown_feature: view `ratio` has no feature `shares` [did you mean `share`?]
    names last_pay: -> unknown_feature: view `last_pay` has no feature `` [known here: `amount`, `place`]
    plain -> missing_entity_key: the key `user` of entity `user` is missing [send `user` for every row]
    plain -> missing_entity_key: the key `user` of entity `user` is missing [the request has `usr`; the key is called `user`]
    plain -> unknown_entity_key: no feature of the request has a key `card` [known here: `user`]
    plain -> wrong_type: the entity key `user` is string; in row 0 it is an int64
    plain -> invalid_entity_key: row 1: key `user` is null; every key of an entity needs a value
    plain -> invalid_entity_key: row 0: the key takes 502 bytes; at most 440 are allowed
    plain -> too_many_rows: the request has 6 rows; at most 5 are answered [ask in several requests, or raise `serving.rows_max`]
    names card_last -> missing_entity_key: the key `card` of entity `card` is missing [send `card` for every row]
    names card_last -> row_count_mismatch: `card` has 2 rows, `user` has 1 [every column has one value per row]
    names card_last -> wrong_type: the entity key `card` is int64; in row 0 it is a string
    names ratio -> missing_request_field: the request field `limit` (float64) is required [send it for every row, or one value for all]
    names ratio -> missing_request_field: the request field `limit` (float64) is required [send it for every row, or one value for all]
    names ratio -> wrong_type: the request field `limit` is float64; in row 0 it is an int64
    names ratio -> row_count_mismatch: `user` has 1 rows, `limit` has 3 [every column has one value per row]
    names ratio -> unknown_request_field: no feature of the request uses a field `limt` [did you mean `limit`?]
    plain -> unknown_request_field: no feature of the request uses a field `limit` [the request takes no fields]
    names clock -> row_count_mismatch: `a` has 3 rows, `x` has 2 [every column has one value per row]
    names clock -> unknown_entity_key: no feature of the request has a key `user` [the request takes no entity keys]
    everything -> too_many_features: the request asks for 41 features; at most 40 are answered [ask in several requests, or raise `serving.features_max`]
    personal -> denied: this service is for its readers: role:support [ask with one of these roles]
    ");
}
