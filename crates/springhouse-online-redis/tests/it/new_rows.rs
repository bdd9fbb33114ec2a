//! Rows that are not there yet go in transactions: who they are from, and what becomes of them when something comes between.

use crate::faults::{open, write};
use crate::servers::{Holder, Server, eventually_async, info};
use redis::Commands;
use springhouse_online::suite::{Batch, World};
use springhouse_online::{OnlineStore, StoreError, StoreErrorKind};
use springhouse_online_redis::{RedisSettings, RedisStore};
use std::sync::Arc;
use tokio::task::JoinHandle;

fn settings(port: u16) -> RedisSettings {
    RedisSettings { urls: vec![format!("redis://127.0.0.1:{port}")], ..RedisSettings::default() }
}

fn everyone(world: &World) -> Vec<(usize, usize)> {
    (0..world.entity_count()).flat_map(|entity| [(0, entity), (1, entity)]).collect()
}

/// How often the server carried out a command.
fn calls(server: &Server, command: &str) -> u64 {
    let info = info(server, "commandstats");
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().expect("a number").parse().expect("a number"))
}

#[tokio::test]
async fn they_go_in_transactions_and_rows_that_are_there_do_not() {
    let server = Server::start(&[]);
    let store = open(&settings(server.port)).await;
    let mut world = World::new(21);
    let rows = everyone(&world);
    let first = world.batch_of("part/1", 1, &rows);
    assert!(write(&store, &first).await.expect("write"));
    assert_eq!(calls(&server, "exec"), 1);
    // Done already: what the transaction would write is not even sent.
    assert!(!write(&store, &first).await.expect("write"));
    assert_eq!((calls(&server, "exec"), calls(&server, "msetnx")), (1, 1));
    // The rows are there: nothing of them is written but by merging.
    let second = world.batch_of("part/2", 1, &rows);
    assert!(write(&store, &second).await.expect("write"));
    assert_eq!(calls(&server, "exec"), 2);
    let third = world.batch_of("part/3", 1, &rows);
    assert!(write(&store, &third).await.expect("write"));
    assert_eq!(calls(&server, "exec"), 2, "a build that has rows is known");
    world.assert_holds(&store, &[first, second, third], "after all").await;
    let marks: Vec<String> = server.connect().keys("*}n/*").expect("keys");
    assert!(marks.is_empty(), "{marks:?}");
}

#[tokio::test]
async fn a_user_without_transactions_writes_by_script() {
    let server = Server::start(&[]);
    let mut line = server.connect();
    let rules =
        ["on", "nopass", "~{springhouse:*", "+@read", "+@write", "+@scripting", "+@connection", "+info"];
    redis::cmd("ACL").arg("SETUSER").arg("store").arg(&rules).exec(&mut line).expect("acl");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "any").expect("written");
    let settings = RedisSettings {
        username: "store".to_owned(),
        password_file: file.path().to_str().expect("a name").to_owned(),
        ..settings(server.port)
    };
    let store = open(&settings).await;
    let mut world = World::new(22);
    let batches: Vec<Batch> =
        (0..4).map(|part| world.batch_of(&format!("part/{part}"), 1, &[(0, part), (1, part)])).collect();
    for batch in &batches {
        assert!(write(&store, batch).await.expect("write"));
    }
    assert_eq!((calls(&server, "exec"), calls(&server, "msetnx")), (0, 4));
    world.assert_holds(&store, &batches, "by script").await;
}

/// A batch of rows for everyone on its way to the server, whose transaction is held back.
struct HeldWrite {
    holder: Holder,
    store: Arc<RedisStore>,
    world: World,
    batch: Batch,
    writing: JoinHandle<Result<bool, StoreError>>,
}

impl HeldWrite {
    async fn before(server: &Server, seed: u64) -> Self {
        let holder = Holder::before(server, b"*1\r\n$5\r\nMULTI\r\n");
        let store = Arc::new(open(&settings(holder.port)).await);
        let mut world = World::new(seed);
        let rows = everyone(&world);
        let batch = world.batch_of("part/1", 1, &rows);
        let (to, sent) = (Arc::clone(&store), batch.clone());
        let writing = tokio::spawn(async move { write(&to, &sent).await });
        eventually_async("the transaction is held", async || holder.is_holding()).await;
        Self { holder, store, world, batch, writing }
    }
}

/// The worst moment: a writer was told to go on, and another takes the store before its rows arrive.
#[tokio::test]
async fn a_writer_that_is_replaced_in_the_middle_writes_nothing() {
    for empties in [false, true] {
        let server = Server::start(&[]);
        let HeldWrite { holder, world, batch, writing, .. } = HeldWrite::before(&server, 23).await;
        if empties {
            server.connect().flushall::<()>().expect("flush");
        }
        let second = open(&settings(server.port)).await;
        holder.let_go();
        let error = writing.await.expect("it ends").expect_err("it is not the writer any more");
        let expected = if empties { StoreErrorKind::Lost } else { StoreErrorKind::Locked };
        assert_eq!(error.kind, expected, "{error}");
        let rows: Vec<Vec<u8>> = server.connect().keys("*}r/*").expect("keys");
        assert!(rows.is_empty(), "{} rows", rows.len());
        assert!(write(&second, &batch).await.expect("write"));
        world.assert_holds(&second, &[batch], "by the second").await;
    }
}

/// The answer to a transaction is lost: what it did counts, and doing it again does nothing.
#[tokio::test]
async fn a_transaction_whose_answer_is_lost_counts_once() {
    let server = Server::start(&[]);
    let HeldWrite { holder, store, world, batch, writing } = HeldWrite::before(&server, 24).await;
    // Nobody waits for it any more; it arrives all the same.
    writing.abort();
    assert!(writing.await.is_err_and(|error| error.is_cancelled()));
    holder.let_go();
    write(&store, &batch).await.expect("write");
    world.assert_holds(store.as_ref(), &[batch], "once").await;
}

/// Memory runs out before the transaction, in it, or after it: all of a write is there, or nothing of it.
#[tokio::test]
async fn a_server_that_gets_full_takes_all_or_nothing() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let mut line = server.connect();
    let (mut taken, mut refused) = (0, 0);
    for round in 0..60u64 {
        let settings = RedisSettings { key_prefix: format!("round{round}"), ..settings(server.port) };
        let store = open(&settings).await;
        let mut world = World::new(25 + round);
        let rows = everyone(&world);
        // The first opens the connection, so that later ones need no memory but for rows.
        let first = world.batch_of("part/0", 1, &rows[..2]);
        write(&store, &first).await.expect("write");
        let info = info(&server, "memory");
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("a number");
        let limit = used.trim().parse::<u64>().expect("a number") + round * 500;
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(limit).exec(&mut line).expect("config");
        let batch = world.batch_of("part/1", 1, &rows[2..]);
        match write(&store, &batch).await {
            Ok(_) => taken += 1,
            Err(error) => {
                assert!(error.detail.contains("memory"), "round {round}: {error}");
                refused += 1;
            }
        }
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").exec(&mut line).expect("config");
        write(&store, &batch).await.expect("there is room");
        world.assert_holds(&store, &[first, batch], &format!("round {round}")).await;
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

/// They go on connections of their own; a checkpoint waits for the replicas to have them too.
#[tokio::test]
async fn a_checkpoint_waits_for_replicas_to_have_them() {
    let server = Server::start(&[]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    let is_linked = async || info(&replica, "replication").contains("master_link_status:up");
    eventually_async("the replica follows", is_linked).await;
    let settings = RedisSettings { wait_replicas: 1, write_timeout_ms: 2_000, ..settings(server.port) };
    let store = open(&settings).await;
    let mut world = World::new(26);
    let batches: Vec<Batch> =
        (0..2).map(|part| world.batch_of(&format!("part/{part}"), 1, &[(0, part), (1, part)])).collect();
    write(&store, &batches[0]).await.expect("write");
    store.checkpoint().await.expect("the replica has it");
    replica.signal("-STOP");
    write(&store, &batches[1]).await.expect("write");
    let error = store.checkpoint().await.expect_err("the replica does not have it");
    replica.signal("-CONT");
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
    eventually_async("the replica has it", async || store.checkpoint().await.is_ok()).await;
    assert_eq!(calls(&server, "exec"), 2);
}
