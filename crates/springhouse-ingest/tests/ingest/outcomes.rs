//! What a push gets back, and what it changes.

use crate::support::{Project, START, click, definitions, describe, feeds, handle, json};
use insta::assert_snapshot;
use springhouse_core::time::{DAY, HOUR, MINUTE, SECOND};
use springhouse_core::{Value, event_id};
use springhouse_ingest::{PushRequest, ViewFeed};
use std::sync::Arc;

#[tokio::test]
async fn an_accepted_row_is_served_when_the_push_returns() {
    let project = Project::new();
    let ingest = project.open().await;
    let rows = format!("[{},{}]", click(Some(1), "a", START, 1.5), click(Some(2), "b", START - HOUR, 2.0));
    let outcome = ingest.push(json("clicks", &rows)).await.unwrap();
    assert_eq!((outcome.accepted, outcome.end_offset, outcome.known_at), (2, 2, START));
    assert_eq!(project.clicks(&ingest, "a").await, (1, 1.5));
    assert_eq!(project.clicks(&ingest, "b").await, (1, 2.0));
    let positions = ingest.positions();
    assert_eq!((positions.log_end, positions.applied_end, positions.flushed_end), (2, 2, 0));
}

#[tokio::test]
async fn a_redelivered_row_counts_once_within_and_across_batches() {
    let project = Project::new();
    let ingest = project.open().await;
    let one = click(Some(1), "a", START, 1.0);
    let first = ingest.push(json("clicks", &format!("[{one},{one},{}]", click(None, "a", START, 5.0)))).await;
    assert_snapshot!(describe(&first), @r"
    accepted=2 duplicates=1 refused=0
    row 1: duplicate
    ");
    let second = ingest.push(json("clicks", &format!("[{one}]"))).await;
    assert_snapshot!(describe(&second), @r"
    accepted=0 duplicates=1 refused=0
    row 0: duplicate
    ");
    assert_eq!(second.unwrap().end_offset, 2);
    assert_eq!(project.clicks(&ingest, "a").await, (2, 6.0));
}

#[tokio::test]
async fn a_refused_id_is_not_remembered() {
    let project = Project::new();
    let ingest = project.open().await;
    let early = ingest.push(json("clicks", &format!("[{}]", click(Some(1), "a", START + MINUTE, 1.0)))).await;
    assert_eq!(early.unwrap().refused, 1);
    project.clock.advance(MINUTE);
    let again = ingest.push(json("clicks", &format!("[{}]", click(Some(1), "a", START + MINUTE, 1.0)))).await;
    assert_eq!(again.unwrap().accepted, 1);
}

#[tokio::test]
async fn a_batch_key_gets_the_first_outcome_again_after_a_restart_too() {
    let project = Project::new();
    let keyed = |rows: &str| PushRequest { idempotency_key: Some("k".into()), ..json("views", rows) };
    let rows =
        format!(r#"[{{"at": {START}, "user": "a"}}, {{"at": {START}}}, {{"at": {START}, "user": "b"}}]"#);
    let ingest = project.open().await;
    let first = ingest.push(keyed(&rows)).await.unwrap();
    assert_eq!((first.accepted, first.refused), (2, 1));
    project.clock.advance(SECOND);
    assert_eq!(ingest.push(keyed(&rows)).await.unwrap(), first);
    drop(ingest);
    let ingest = project.open().await;
    assert_eq!(ingest.push(keyed(&rows)).await.unwrap(), first);
    // The key is the source's own.
    let other = PushRequest { idempotency_key: Some("k".into()), ..json("clicks", "[]") };
    assert_eq!(ingest.push(other).await.unwrap().accepted, 0);
    ingest.shutdown().await.unwrap();
    let ingest = project.open().await;
    assert_eq!(ingest.push(keyed(&rows)).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_of_one_key_at_once_count_once() {
    let project = Project::new();
    let ingest = Arc::new(project.open().await);
    let rows = format!("[{}]", click(None, "a", START, 1.0));
    let pushes: Vec<_> = (0..32)
        .map(|_| {
            let (ingest, rows) = (ingest.clone(), rows.clone());
            let request = PushRequest { idempotency_key: Some("same".into()), ..json("clicks", &rows) };
            tokio::spawn(async move { ingest.push(request).await.unwrap() })
        })
        .collect();
    let mut outcomes = Vec::new();
    for push in pushes {
        outcomes.push(push.await.unwrap());
    }
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
    assert_eq!(project.clicks(&ingest, "a").await, (1, 1.0));
}

#[tokio::test]
async fn row_keys_identify_rows_of_a_source_without_an_id() {
    let project = Project::new();
    let ingest = project.open().await;
    let rows = format!(
        r#"[{{"at": {START}, "user": "a"}}, {{"at": {START}, "user": "a"}}, {{"at": {START}, "user": "a"}}]"#
    );
    let keys = |keys: &[Option<&str>]| PushRequest {
        row_keys: Some(keys.iter().map(|key| key.map(str::to_owned)).collect()),
        ..json("views", &rows)
    };
    assert_snapshot!(describe(&ingest.push(keys(&[Some("x"), None, Some("x")])).await), @r"
    accepted=2 duplicates=1 refused=0
    row 2: duplicate
    ");
    assert_snapshot!(describe(&ingest.push(keys(&[Some("y"), Some("x"), None])).await), @r"
    accepted=2 duplicates=1 refused=0
    row 1: duplicate
    ");
    assert_snapshot!(describe(&ingest.push(keys(&[None])).await), @"invalid_request: 1 row keys for 3 rows");
    let with_id = PushRequest { row_keys: Some(vec![]), ..json("clicks", "[]") };
    assert_snapshot!(describe(&ingest.push(with_id).await), @r"
    invalid_request: rows of `clicks` are identified by their event id
      hint: push without row keys
    ");
}

#[tokio::test]
async fn an_event_time_after_the_append_is_clamped_within_the_skew() {
    let project = Project::new();
    let ingest = project.open().await;
    let rows: Vec<String> = [0, 1, 5 * SECOND, 5 * SECOND + 1]
        .into_iter()
        .enumerate()
        .map(|(id, ahead)| click(Some(id as i64), "a", START + ahead, 1.0))
        .collect();
    let outcome = ingest.push(json("clicks", &format!("[{}]", rows.join(",")))).await;
    assert_snapshot!(describe(&outcome), @r"
    accepted=3 duplicates=0 refused=1
    row 3: event_time_in_future: column `at` is 2024-01-01T00:00:05.000001Z, which is more than 5s after the append at 2024-01-01T00:00:00Z
    ");
    // All three are visible right after the append.
    assert_eq!(project.clicks(&ingest, "a").await, (3, 3.0));
}

#[tokio::test]
async fn an_event_far_before_its_append_is_refused_unless_it_is_backfill() {
    let project = Project::new();
    let ingest = project.open().await;
    // Milliseconds, taken for microseconds.
    let row = click(Some(1), "a", START / 1_000, 1.0);
    let outcome =
        ingest.push(json("clicks", &format!("[{row},{}]", click(Some(2), "a", START - DAY, 1.0)))).await;
    assert_snapshot!(describe(&outcome), @r"
    accepted=1 duplicates=0 refused=1
    row 0: event_time_too_old: column `at` is 1970-01-20T17:21:07.200Z, which is more than 14610d before the append at 2024-01-01T00:00:00Z; numbers are microseconds since 1970. What is that old comes as backfill, or with a greater `max_event_age`
    ");
    assert_eq!(project.clicks(&ingest, "a").await, (1, 1.0));
    let mut backfill = json("clicks", &format!("[{row}]"));
    backfill.backfill = true;
    assert_eq!(ingest.push(backfill).await.unwrap().accepted, 1);
    assert_eq!(project.clicks(&ingest, "a").await, (2, 2.0));
}

#[tokio::test]
async fn known_at_never_falls_when_the_clock_steps_back() {
    let project = Project::new();
    let ingest = project.open().await;
    let push = |id: i64| json("clicks", &format!("[{}]", click(Some(id), "a", START - HOUR, 1.0)));
    assert_eq!(ingest.push(push(1)).await.unwrap().known_at, START);
    project.clock.set(START - DAY);
    assert_eq!(ingest.push(push(2)).await.unwrap().known_at, START);
    assert_eq!(ingest.read_now(), START + 1);
    assert_eq!(project.clicks(&ingest, "a").await, (2, 2.0));
    drop(ingest);
    let ingest = project.open().await;
    assert_eq!(ingest.push(push(3)).await.unwrap().known_at, START);
    assert_eq!(ingest.read_now(), START + 1);
}

#[tokio::test]
async fn a_backfilled_row_was_known_by_the_rule_of_the_table() {
    let project = Project::new();
    let ingest = project.open().await;
    let row = |user: &str, at, page: &str| format!(r#"{{"at": {at}, "user": "{user}", "page": "{page}"}}"#);
    // Pushed as it happens: known now. Backfilled: known ten minutes after it happened, but not after now.
    ingest.push(json("views", &format!("[{}]", row("a", START - MINUTE, "live")))).await.unwrap();
    let rows = [row("a", START - MINUTE, "backfilled"), row("b", START - HOUR, "old")].join(",");
    let backfill = PushRequest { backfill: true, ..json("views", &format!("[{rows}]")) };
    ingest.push(backfill).await.unwrap();
    assert_eq!(project.read(&ingest, "user_pages", "a").await["page"], Value::string("backfilled"));
    let handle = handle(&project.definitions, "user_pages", 0);
    let key = springhouse_core::EntityKey::encode(
        &project.definitions.entities["user"].keys,
        &[Value::string("b")],
    );
    let states = project.store.get_many(&handle, &[key.unwrap()]).await.unwrap();
    let state = states[0].as_ref().unwrap();
    let at = |moment| handle.plan.read(state, moment).values[0].clone();
    assert_eq!(at(START - HOUR + 10 * MINUTE), Value::string("old"));
    assert_eq!(at(START - HOUR + 10 * MINUTE - 1), Value::Null);
}

#[tokio::test]
async fn ids_that_history_holds_are_duplicates() {
    let project = Project::new();
    let ingest = project.open().await;
    ingest.remember_ids("clicks", &[event_id::of_integer(7), event_id::of_integer(8)]).unwrap();
    let rows = [7, 8, 9].map(|id| click(Some(id), "a", START, 1.0)).join(",");
    let outcome = ingest.push(json("clicks", &format!("[{rows}]"))).await.unwrap();
    assert_eq!((outcome.accepted, outcome.duplicates), (1, 2));
    drop(ingest);
    let ingest = project.open().await;
    let outcome = ingest.push(json("clicks", &format!("[{rows}]"))).await.unwrap();
    assert_eq!((outcome.accepted, outcome.duplicates), (0, 3));
}

#[tokio::test]
async fn a_view_that_joins_later_gets_the_rows_from_its_start_on_once() {
    let project = Project::new();
    let ingest = project.open().await;
    for id in 0..10 {
        ingest.push(json("clicks", &format!("[{}]", click(Some(id), "a", START, 1.0)))).await.unwrap();
    }
    let mut views = feeds(&project.definitions);
    let second = handle(&project.definitions, "user_clicks", 1);
    views.get_mut("clicks").unwrap().push(ViewFeed { handle: second.clone(), start: 6 });
    ingest.reload(project.definitions.clone(), views.clone()).await.unwrap();
    ingest.push(json("clicks", &format!("[{}]", click(Some(10), "a", START, 1.0)))).await.unwrap();
    let count = async |project: &Project| {
        let keys = &project.definitions.entities["user"].keys;
        let key = springhouse_core::EntityKey::encode(keys, &[Value::string("a")]).unwrap();
        let states = project.store.get_many(&second, &[key]).await.unwrap();
        second.plan.read(states[0].as_ref().unwrap(), START + 1).values[0].clone()
    };
    assert_eq!(count(&project).await, Value::Int64(5));
    assert_eq!(project.clicks(&ingest, "a").await, (11, 11.0));
    // Attaching it again, and restarting with it, changes nothing.
    ingest.reload(project.definitions.clone(), views.clone()).await.unwrap();
    drop(ingest);
    let ingest = springhouse_ingest::Ingest::open(
        &project.log(),
        project.settings.clone(),
        project.definitions.clone(),
        views,
        project.store.clone(),
        project.lake(),
        project.clock.clone(),
    )
    .await
    .unwrap();
    assert_eq!(count(&project).await, Value::Int64(5));
    assert_eq!(project.clicks(&ingest, "a").await, (11, 11.0));
}

#[tokio::test]
async fn a_source_is_pushed_to_with_its_new_columns_after_a_reload() {
    let mut project = Project::new();
    let ingest = project.open().await;
    ingest.push(json("clicks", &format!("[{}]", click(Some(1), "a", START, 1.0)))).await.unwrap();
    let wider = crate::support::DEFINITIONS.replace("id: int64, amount", "id: int64, shop: string, amount");
    project.definitions = definitions(&wider);
    ingest.reload(project.definitions.clone(), feeds(&project.definitions)).await.unwrap();
    let row = format!(r#"[{{"at": {START}, "user": "a", "id": 2, "shop": "x", "amount": 2.0}}]"#);
    assert_eq!(ingest.push(json("clicks", &row)).await.unwrap().accepted, 1);
    drop(ingest);
    // Both kinds of row are replayed and flushed.
    project.store = Arc::new(springhouse_online::MemoryStore::new());
    let ingest = project.open().await;
    assert_eq!(project.clicks(&ingest, "a").await, (2, 3.0));
    assert_eq!(ingest.flush().await.unwrap(), 2);
}

#[tokio::test]
async fn dead_letters_are_kept_with_the_row_as_it_came() {
    let project = Project::new();
    let ingest = project.open().await;
    let rows = format!(r#"[{{"at": {START}, "user" : 5}}, {{"at": {START}, "user": "a"}}, 7]"#);
    let outcome = ingest.push(json("clicks", &rows)).await.unwrap();
    assert_eq!((outcome.accepted, outcome.refused, outcome.end_offset), (1, 2, 3));
    let show = |letters: &[springhouse_ingest::DeadLetter]| {
        letters
            .iter()
            .map(|l| format!("{} {} {}: {} <- {}\n", l.offset, l.refused_at - START, l.code, l.reason, l.row))
            .collect::<String>()
    };
    let before = ingest.dead_letters("clicks", 10).await.unwrap();
    assert_snapshot!(show(&before), @r#"
    1 0 wrong_type: column `user` should be string, got 5 <- {"at": 1704067200000000, "user" : 5}
    2 0 malformed_row: a row should be an object, got 7 <- 7
    "#);
    assert_eq!(ingest.flush().await.unwrap(), 3);
    drop(ingest);
    let ingest = project.open().await;
    ingest.flush().await.unwrap();
    assert_eq!(ingest.dead_letters("clicks", 10).await.unwrap(), before);
    assert_eq!(ingest.dead_letters("clicks", 1).await.unwrap(), before[1..]);
    assert_eq!(ingest.dead_letters("views", 10).await.unwrap(), []);
}
