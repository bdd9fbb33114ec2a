use crate::support::{NOON, Server};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::ipc::writer::StreamWriter;
use insta::assert_snapshot;
use std::sync::Arc;

const COUNT: &str = r#"{"features":["activity:events_lifetime"],"entities":{"user":[1]},"metadata":false}"#;

async fn count(server: &Server) -> i64 {
    let reply = server.features(COUNT).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["features"]["events_lifetime"]["values"][0].as_i64().unwrap()
}

#[tokio::test]
async fn good_rows_are_taken_and_bad_ones_named_and_kept() {
    let server = Server::start().await;
    let rows = r#"{"rows":[
        {"at":"2013-01-01T11:00:00Z","user":1},
        {"at":"2013-01-01T11:00:00Z","user":"one"},
        {"at":"2013-01-01T11:00:00Z"},
        {"at":"2013-01-01T11:00:00Z","user":1,"colour":"red"},
        {"at":"2013-01-01T13:00:00Z","user":1}
    ]}"#;
    let reply = server.post("/v1/push/events", rows).await;
    assert_snapshot!(reply.line(), @r#"200 {"accepted":1,"duplicates":0,"refused":4,"exceptions":[{"row":1,"outcome":"refused","code":"wrong_type","reason":"column `user` should be int64, got \"one\""},{"row":2,"outcome":"refused","code":"missing_column","reason":"column `user` is required; the row has no value for it"},{"row":3,"outcome":"refused","code":"unknown_column","reason":"source `events` has no column `colour`; its columns are at, user, amount, number, single, raw, seen, born, price, tags, embedding, document, flag, kind"},{"row":4,"outcome":"refused","code":"event_time_in_future","reason":"column `at` is 2013-01-01T13:00:00Z, which is more than 5s after the append at 2013-01-01T12:00:00Z"}],"end_offset":5,"known_at":"2013-01-01T12:00:00.000000Z"}"#);
    server.clock.set(NOON + 1);
    assert_eq!(count(&server).await, 1);
    let letters = server.get("/v1/dead-letters/events?limit=3").await.json();
    assert_eq!(letters["dead_letters"].as_array().unwrap().len(), 3);
    let all = server.get("/v1/dead-letters/events").await.json();
    assert_eq!(all["dead_letters"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_batch_with_the_same_key_counts_once() {
    let server = Server::start().await;
    let row = r#"[{"at":"2013-01-01T11:00:00Z","user":1}]"#;
    let keyed = [("content-type", "application/json"), ("idempotency-key", "k1")];
    let first = server.send("POST", "/v1/push/events", &keyed, row).await;
    let second = server.send("POST", "/v1/push/events", &keyed, row).await;
    assert_eq!(first.text, second.text, "the second push gets the first outcome");
    let body = r#"{"rows":[{"at":"2013-01-01T11:00:00Z","user":1}],"idempotency_key":"k1"}"#;
    assert_eq!(server.post("/v1/push/events", body).await.text, first.text);
    server.push("events", r#"{"rows":[{"at":"2013-01-01T11:00:00Z","user":1}],"row_keys":["r1"]}"#).await;
    let again = server
        .push("events", r#"{"rows":[{"at":"2013-01-01T11:00:00Z","user":1}],"row_keys":["r1"]}"#)
        .await
        .json();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&0.into(), &1.into()));
    server.clock.set(NOON + 1);
    assert_eq!(count(&server).await, 2);
}

#[tokio::test]
async fn arrow_streams_are_rows_too() {
    let server = Server::start().await;
    let at: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![NOON - 1, NOON - 2]).with_timezone("UTC"));
    let batch = RecordBatch::try_from_iter([
        ("at", at),
        ("user", Arc::new(Int64Array::from(vec![1, i64::MAX])) as ArrayRef),
        ("amount", Arc::new(Float64Array::from(vec![0.1 + 0.2, -0.0])) as ArrayRef),
    ])
    .unwrap();
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let arrow = [("content-type", "application/vnd.apache.arrow.stream")];
    let reply = server.send("POST", "/v1/push/events", &arrow, bytes).await;
    assert_eq!(reply.json()["accepted"], 2, "{}", reply.text);
    server.clock.set(NOON + 1);
    let ask =
        r#"{"features":["profile:amount"],"entities":{"user":[1,9223372036854775807]},"metadata":false}"#;
    let reply = server.features(ask).await;
    assert!(reply.text.contains(r#""values":[0.30000000000000004,-0.0]"#), "{}", reply.text);
}

/// What a push answered is in every later read, and no read goes back, while others push and read too.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pushes_and_reads_at_once() {
    const PUSHERS: i64 = 4;
    const PUSHES: i64 = 25;
    const ROWS: i64 = 3;
    let server = Arc::new(Server::start().await);
    // The clock stands one hour ahead of the events, so that each is visible as soon as it is applied.
    server.clock.set(NOON + 3_600_000_000);
    let pushers = (0..PUSHERS).map(|_| {
        let server = server.clone();
        tokio::spawn(async move {
            let row = r#"{"at":"2013-01-01T11:00:00Z","user":1}"#;
            let batch = format!("[{row},{row},{row}]");
            let mut seen = 0;
            for pushed in 1..=PUSHES {
                server.push("events", &batch).await;
                let now = count(&server).await;
                assert!(now >= pushed * ROWS && now >= seen, "{now} after {pushed} pushes, {seen} before");
                seen = now;
            }
        })
    });
    for pusher in pushers.collect::<Vec<_>>() {
        pusher.await.unwrap();
    }
    assert_eq!(count(&server).await, PUSHERS * PUSHES * ROWS);
    let metrics = server.get("/metrics").await.text;
    let rows = PUSHERS * PUSHES * ROWS;
    assert!(
        metrics.contains(&format!("springhouse_ingest_rows_total{{outcome=\"accepted\"}} {rows}")),
        "{metrics}"
    );
}
