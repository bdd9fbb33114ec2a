//! What goes wrong on real servers, and what the callers are told.

use crate::servers::{Cluster, Cutter, Server, eventually, eventually_async, flush};
use redis::Commands;
use springhouse_online::suite::{Batch, Random, World};
use springhouse_online::{Condition, Holding, OnlineStore, StoreError, StoreErrorKind, ViewHandle};
use springhouse_online_redis::{RedisMode, RedisSettings, RedisStore, RowLayout};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

fn settings(server: &Server, row_layout: RowLayout) -> RedisSettings {
    RedisSettings { urls: vec![server.url()], row_layout, ..RedisSettings::default() }
}

/// Tests that hold wherever rows are.
macro_rules! with_either_layout {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            use springhouse_online_redis::RowLayout;

            #[tokio::test]
            async fn rows_are_keys() {
                super::$name(RowLayout::View).await;
            }

            #[tokio::test]
            async fn rows_are_fields() {
                super::$name(RowLayout::Entity).await;
            }
        })*
    };
}

with_either_layout! {
    an_emptied_store_is_noticed_and_never_read_until_it_is_filled,
    a_store_emptied_between_two_processes_opens_closed,
    a_restart_that_loses_confirmed_writes_is_noticed_and_done_again_from_the_lane,
    the_newest_writer_wins,
    a_server_that_hangs_costs_a_timeout_and_no_row,
    an_answer_cut_off_in_the_middle_is_asked_for_again,
    accidents_at_random_moments_lose_and_double_nothing,
    new_rows_written_side_by_side_through_accidents_count_once,
    a_full_server_says_so_and_goes_on_when_it_has_room,
    a_sentinel_failover_that_loses_confirmed_writes_is_noticed,
    a_cluster_survives_the_loss_of_a_primary,
    a_cluster_node_that_lost_confirmed_writes_is_noticed_by_the_next_process_too,
    a_cluster_whose_lanes_went_back_is_not_brought_up_from_them,
    replicas_are_read_for_requests_and_never_for_writes,
}

pub(crate) async fn open(settings: &RedisSettings) -> RedisStore {
    RedisStore::open(settings.clone(), false).await.expect("open")
}

pub(crate) async fn write(store: &RedisStore, batch: &Batch) -> Result<bool, StoreError> {
    store.write(batch.writes(), batch.lane.clone(), batch.now).await
}

/// Writes the batch, however often that takes; nothing but that the store does not answer may stand in the way.
async fn write_patiently(store: &RedisStore, batch: &Batch) {
    let begun = Instant::now();
    loop {
        match write(store, batch).await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it never recovers");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A store that was taken back to its second batch is closed until the others have been written again.
async fn do_again_after_two(store: &RedisStore, world: &World, batches: &[Batch], when: &str) {
    assert_eq!(store.take_again().await.expect("take"), Holding::Earlier);
    assert_eq!(read_error(store, world).await, StoreErrorKind::Unavailable);
    assert_eq!(store.lanes().await.expect("lanes").get("log"), Some(&2));
    for batch in &batches[2..] {
        assert!(write(store, batch).await.expect("write"));
    }
    store.end_filling().await.expect("end");
    world.assert_holds(store, batches, when).await;
}

/// A store that holds nothing to go on with is emptied and filled.
async fn fill_again(store: &RedisStore, world: &mut World, everyone: &[(usize, usize)], when: &str) {
    assert_eq!(store.take_again().await.expect("take"), Holding::Nothing, "{when}");
    store.begin_filling().await.expect("begin");
    let batch = world.batch_of("log", 1, everyone);
    write(store, &batch).await.expect("write");
    store.end_filling().await.expect("end");
    world.assert_holds(store, &[batch], when).await;
}

async fn read_error(store: &RedisStore, world: &World) -> StoreErrorKind {
    let keys = [world.entity(0).clone()];
    store.get_many(&world.views()[0], &keys).await.expect_err("no answer").kind
}

async fn an_emptied_store_is_noticed_and_never_read_until_it_is_filled(row_layout: RowLayout) {
    let server = Server::start(&[]);
    let store = open(&settings(&server, row_layout)).await;
    assert!(store.was_new());
    let mut world = World::new(1);
    let batch = world.batch_of("log", 1, &[(0, 0), (1, 1)]);
    write(&store, &batch).await.expect("write");
    assert_eq!(store.condition().await.expect("it answers"), Condition::Whole);

    flush(&server);
    assert_eq!(read_error(&store, &world).await, StoreErrorKind::Lost);
    let next = world.batch_of("log", 2, &[(0, 0)]);
    assert_eq!(write(&store, &next).await.expect_err("lost").kind, StoreErrorKind::Lost);
    assert_eq!(store.lanes().await.expect_err("lost").kind, StoreErrorKind::Lost);
    assert!(matches!(store.condition().await.expect("it answers"), Condition::Lost(_)));

    // Taken again, it is closed for readers at once; also for those of another process.
    assert_eq!(store.take_again().await.expect("take"), Holding::Nothing);
    assert_eq!(read_error(&store, &world).await, StoreErrorKind::Unavailable);
    store.begin_filling().await.expect("begin");
    assert!(store.lanes().await.expect("lanes").is_empty());
    write(&store, &batch).await.expect("write");
    assert_eq!(read_error(&store, &world).await, StoreErrorKind::Unavailable);
    store.end_filling().await.expect("end");
    assert_eq!(store.condition().await.expect("it answers"), Condition::Whole);
    world.assert_holds(&store, &[batch], "filled again").await;
}

async fn a_store_emptied_between_two_processes_opens_closed(row_layout: RowLayout) {
    let server = Server::start(&[]);
    drop(open(&settings(&server, row_layout)).await);
    flush(&server);
    let store = RedisStore::open(settings(&server, row_layout), true).await.expect("open");
    assert_eq!(store.condition().await.expect("it answers"), Condition::Filling);
    assert_eq!(read_error(&store, &World::new(1)).await, StoreErrorKind::Unavailable);
    // And stays so for the next process when this one dies half way.
    drop(store);
    let store = RedisStore::open(settings(&server, row_layout), true).await.expect("open");
    assert_eq!(store.condition().await.expect("it answers"), Condition::Filling);
}

async fn a_restart_that_loses_confirmed_writes_is_noticed_and_done_again_from_the_lane(
    row_layout: RowLayout,
) {
    let mut server = Server::start(&["--save", "3600 1"]);
    let settings = settings(&server, row_layout);
    let store = open(&settings).await;
    let mut world = World::new(2);
    let batches: Vec<Batch> = (1..=4).map(|n| world.random_batch("log", n)).collect();
    for batch in &batches[..2] {
        write(&store, batch).await.expect("write");
    }
    redis::cmd("SAVE").exec(&mut server.connect()).expect("save");
    for batch in &batches[2..] {
        write(&store, batch).await.expect("write");
    }
    server.kill();
    server.run();
    eventually_async("the loss is noticed", async || {
        matches!(store.condition().await, Ok(Condition::Lost(_)))
    })
    .await;
    assert_eq!(read_error(&store, &world).await, StoreErrorKind::Lost);
    do_again_after_two(&store, &world, &batches, "done again").await;
}

async fn the_newest_writer_wins(row_layout: RowLayout) {
    let server = Server::start(&[]);
    let first = open(&settings(&server, row_layout)).await;
    let mut world = World::new(3);
    let batches: Vec<Batch> = (1..=3).map(|n| world.random_batch("log", n)).collect();
    write(&first, &batches[0]).await.expect("write");
    let second = open(&settings(&server, row_layout)).await;
    write(&second, &batches[1]).await.expect("write");
    let zombie = world.batch_of("log", 9, &[(0, 0)]);
    assert_eq!(write(&first, &zombie).await.expect_err("fenced").kind, StoreErrorKind::Locked);
    assert_eq!(
        first.set_view_status(&world.views()[0], Default::default()).await.expect_err("fenced").kind,
        StoreErrorKind::Locked
    );
    assert_eq!(
        first.drop_generation(&world.views()[0].id, 0).await.expect_err("fenced").kind,
        StoreErrorKind::Locked
    );
    write(&second, &batches[2]).await.expect("write");
    // It still reads.
    world.assert_holds(&first, &batches, "both writers' rows").await;
}

async fn a_server_that_hangs_costs_a_timeout_and_no_row(row_layout: RowLayout) {
    let server = Server::start(&[]);
    let settings = RedisSettings {
        read_timeout_ms: 200,
        write_timeout_ms: 300,
        connect_timeout_ms: 200,
        ..settings(&server, row_layout)
    };
    let store = open(&settings).await;
    let mut world = World::new(4);
    let batches: Vec<Batch> = (1..=6).map(|n| world.random_batch("log", n)).collect();
    write(&store, &batches[0]).await.expect("write");
    for batch in &batches[1..] {
        server.signal("-STOP");
        let begun = Instant::now();
        assert_eq!(read_error(&store, &world).await, StoreErrorKind::Unavailable);
        let error = write(&store, batch).await.expect_err("it hangs");
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        server.signal("-CONT");
        // What was sent to the sleeping server may be carried out now, or not: the same write again is right in both cases.
        write_patiently(&store, batch).await;
    }
    world.assert_holds(&store, &batches, "after five hangs").await;
}

/// Callers that go away in the middle, connections that break, parts of two rows: after every accident the same write again.
async fn an_answer_cut_off_in_the_middle_is_asked_for_again(row_layout: RowLayout) {
    let server = Server::start(&[]);
    let cutter = Cutter::before(&server);
    let url = format!("redis://127.0.0.1:{}", cutter.port);
    let settings = RedisSettings { urls: vec![url], connections: 1, row_layout, ..RedisSettings::default() };
    let store = open(&settings).await;
    let mut world = World::new(3);
    let mut batches = Vec::new();
    for (position, bytes) in (1..).zip([1, 2, 4, 5, 9, 12]) {
        let batch = world.batch_of("log", position, &[(0, 0), (1, 1)]);
        cutter.cut_after(bytes);
        write_patiently(&store, &batch).await;
        batches.push(batch);
        cutter.cut_after(bytes);
        assert_eq!(read_error(&store, &world).await, StoreErrorKind::Unavailable, "{bytes} bytes");
        world.assert_holds(&store, &batches, "after the cut").await;
    }
}

/// Goes on with something that many times, and drops it. False when it was finished before.
async fn given_up_after<T>(write: impl Future<Output = T>, mut polls: u64) -> bool {
    let mut write = std::pin::pin!(write);
    std::future::poll_fn(|context| match write.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending if polls == 0 => Poll::Ready(true),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}

async fn accidents_at_random_moments_lose_and_double_nothing(row_layout: RowLayout) {
    let seed = u64::from(std::process::id());
    println!("seed={seed}");
    let server = Server::start(&[]);
    let settings = RedisSettings { script_rows_max: 2, ..settings(&server, row_layout) };
    let mut store = open(&settings).await;
    let mut random = Random::new(seed);
    let mut world = World::new(seed);
    let mut written: Vec<Batch> = Vec::new();
    let mut accidents = 0;
    for position in 1..=120 {
        let batch = world.random_batch("log", position);
        for _ in 0..3 {
            let wait = Duration::from_micros(random.below(4_000));
            match random.below(6) {
                0 => {
                    let write = write(&store, &batch);
                    accidents += usize::from(tokio::time::timeout(wait, write).await.is_err());
                }
                // A write is faster than a timer's step; this way it is given up at any of its stages.
                1 => accidents += usize::from(given_up_after(write(&store, &batch), random.below(6)).await),
                2 => {
                    let mut line = server.connect();
                    let killed = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut line);
                    killed.expect("killed");
                }
                3 => store = open(&settings).await,
                _ => {}
            }
        }
        write_patiently(&store, &batch).await;
        written.push(batch);
    }
    assert!(accidents > 0, "no write was given up; seed={seed}");
    world.assert_holds(&store, &written, &format!("after {accidents} accidents, seed={seed}")).await;
    let mut line = server.connect();
    let left: Vec<String> = line.keys("*i/*").expect("keys");
    for name in left {
        let ttl: i64 = line.ttl(&name).expect("ttl");
        assert!(ttl > 0, "{name} is left for ever; seed={seed}");
    }
}

async fn new_rows_written_side_by_side_through_accidents_count_once(row_layout: RowLayout) {
    let seed = u64::from(std::process::id());
    println!("seed={seed}");
    let server = Server::start(&[]);
    let mut random = Random::new(seed);
    let mut accidents = 0;
    for round in 0..30 {
        let settings = RedisSettings { key_prefix: format!("round{round}"), ..settings(&server, row_layout) };
        let store = open(&settings).await;
        let mut world = World::new(seed + round);
        let entities: Vec<usize> = (0..world.entity_count()).collect();
        let batches: Vec<Batch> = entities
            .chunks(2)
            .enumerate()
            .map(|(part, entities)| {
                let entities: Vec<(usize, usize)> = entities.iter().map(|entity| (0, *entity)).collect();
                world.batch_of(&format!("part/{part}"), 1, &entities)
            })
            .collect();
        let polls: Vec<u64> = batches.iter().map(|_| random.below(8)).collect();
        let parts = batches.iter().zip(&polls).map(async |(batch, polls)| {
            let given_up = given_up_after(write(&store, batch), *polls).await;
            write_patiently(&store, batch).await;
            usize::from(given_up)
        });
        let cut = async {
            tokio::time::sleep(Duration::from_micros(random.below(2_000))).await;
            let mut line = server.connect();
            redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut line).expect("killed");
        };
        let (given_up, ()) = tokio::join!(futures::future::join_all(parts), cut);
        accidents += given_up.iter().sum::<usize>();
        // The connection for reads was cut too.
        let keys = [world.entity(0).clone()];
        let is_read = async || store.get_many(&world.views()[0], &keys).await.is_ok();
        eventually_async("it reads", is_read).await;
        world.assert_holds(&store, &batches, &format!("round {round}, seed={seed}")).await;
    }
    assert!(accidents > 0, "no write was given up; seed={seed}");
}

async fn a_full_server_says_so_and_goes_on_when_it_has_room(row_layout: RowLayout) {
    let server = Server::start(&["--maxmemory", "0", "--maxmemory-policy", "noeviction"]);
    let store = open(&settings(&server, row_layout)).await;
    let mut world = World::new(5);
    let batches: Vec<Batch> = (1..=2).map(|n| world.batch_of("log", n, &[(0, 0), (1, 1)])).collect();
    write(&store, &batches[0]).await.expect("write");
    let mut line = server.connect();
    let limit = |line: &mut redis::Connection, bytes: &str| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec(line).expect("config");
    };
    limit(&mut line, "1");
    let error = write(&store, &batches[1]).await.expect_err("full");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.detail.contains("memory"), "{error}");
    world.assert_holds(&store, &batches[..1], "reads go on").await;
    limit(&mut line, "0");
    write(&store, &batches[1]).await.expect("there is room");
    world.assert_holds(&store, &batches, "with room").await;
}

#[tokio::test]
async fn a_damaged_row_is_refused() {
    let server = Server::start(&[]);
    let store = open(&settings(&server, RowLayout::View)).await;
    let mut world = World::new(6);
    write(&store, &world.batch_of("log", 1, &[(0, 0)])).await.expect("write");
    let mut line = server.connect();
    let rows: Vec<Vec<u8>> = line.keys("*}r/*").expect("keys");
    let value: Vec<u8> = line.get(&rows[0]).expect("get");
    for byte in [0, value.len() / 2, value.len() - 1] {
        let mut damaged = value.clone();
        damaged[byte] ^= 0x10;
        line.set::<_, _, ()>(&rows[0], damaged).expect("set");
        assert_eq!(read_error(&store, &world).await, StoreErrorKind::Corrupt, "byte {byte}");
    }
    line.del::<_, ()>(&rows[0]).expect("delete");
    line.lpush::<_, _, ()>(&rows[0], "a list").expect("push");
    // A list where a row should be: to `MGET` it is nothing at all, so a write has to refuse it.
    line.set::<_, _, ()>("{springhouse:0}m", "nonsense").expect("set");
    assert_eq!(read_error(&store, &world).await, StoreErrorKind::Corrupt);
}

#[tokio::test]
async fn rows_of_latest_values_expire_and_others_stay() {
    let server = Server::start(&[]);
    let settings = RedisSettings { expiry_grace_s: 1_000, ..settings(&server, RowLayout::View) };
    let store = open(&settings).await;
    let mut world = World::new(7);
    let everyone: Vec<(usize, usize)> = (0..world.entity_count()).flat_map(|e| [(0, e), (1, e)]).collect();
    write(&store, &world.batch_of("log", 1, &everyone)).await.expect("write");
    let mut line = server.connect();
    let mut times = |view: &ViewHandle| -> Vec<i64> {
        let names: Vec<Vec<u8>> = line.keys(format!("*}}r/{}/*", view.id)).expect("keys");
        assert_eq!(names.len(), everyone.len() / 2);
        names.iter().map(|name| line.ttl(name).expect("ttl")).collect()
    };
    let lifetime = world.views()[0].plan.row_lifetime().expect("latest values") / 1_000_000;
    let latest = times(&world.views()[0]);
    assert!(latest.iter().all(|ttl| (lifetime + 990..=lifetime + 1_100).contains(ttl)), "{latest:?}");
    assert!(latest.iter().min() != latest.iter().max(), "they must not all go at once");
    assert!(times(&world.views()[1]).iter().all(|ttl| *ttl == -1));
}

#[tokio::test]
async fn a_damaged_field_is_refused() {
    let server = Server::start(&[]);
    let store = open(&settings(&server, RowLayout::Entity)).await;
    let mut world = World::new(6);
    write(&store, &world.batch_of("log", 1, &[(0, 0), (1, 0)])).await.expect("write");
    let mut line = server.connect();
    let hashes: Vec<Vec<u8>> = line.keys("*}e/*").expect("keys");
    assert_eq!(hashes.len(), 1, "both rows of the entity are in one hash");
    let field = format!("r/{}/0", world.views()[0].id);
    let value: Vec<u8> = line.hget(&hashes[0], &field).expect("get");
    for byte in [0, value.len() / 2, value.len() - 1] {
        let mut damaged = value.clone();
        damaged[byte] ^= 0x10;
        line.hset::<_, _, _, ()>(&hashes[0], &field, damaged).expect("set");
        assert_eq!(read_error(&store, &world).await, StoreErrorKind::Corrupt, "byte {byte}");
    }
    line.del::<_, ()>(&hashes[0]).expect("delete");
    line.set::<_, _, ()>(&hashes[0], "a text").expect("set");
    assert!(store.get_many(&world.views()[0], &[world.entity(0).clone()]).await.is_err(), "not a hash");
}

#[tokio::test]
async fn a_hash_expires_with_the_last_of_its_rows() {
    let server = Server::start(&[]);
    let settings = RedisSettings { expiry_grace_s: 1_000, ..settings(&server, RowLayout::Entity) };
    let store = open(&settings).await;
    let mut world = World::new(7);
    let (latest, stays) = (world.views()[0].clone(), world.views()[1].clone());
    assert!(latest.plan.row_lifetime().is_some() && stays.plan.row_lifetime().is_none());
    let mut line = server.connect();
    let mut times = || -> Vec<i64> {
        let names: Vec<Vec<u8>> = line.keys("*}e/*").expect("keys");
        names.iter().map(|name| line.ttl(name).expect("ttl")).collect()
    };
    let rows = |view: usize| (0..world.entity_count()).map(|e| (view, e)).collect::<Vec<(usize, usize)>>();
    let (first, second) = (rows(0), rows(1));
    // Twice: as new rows, and as rows that are merged.
    for position in [1, 2] {
        write(&store, &world.batch_of("log", position, &first)).await.expect("write");
        let lifetime = latest.plan.row_lifetime().expect("latest values") / 1_000_000;
        let ends = times();
        assert_eq!(ends.len(), first.len());
        assert!(ends.iter().all(|ttl| (lifetime + 990..=lifetime + 1_100).contains(ttl)), "{ends:?}");
    }
    for position in [3, 4] {
        write(&store, &world.batch_of("log", position, &second)).await.expect("write");
        assert_eq!(times(), vec![-1; first.len()], "a row that stays keeps the others");
    }
    write(&store, &world.batch_of("log", 5, &first)).await.expect("write");
    assert_eq!(times(), vec![-1; first.len()]);
}

#[tokio::test]
async fn rows_are_where_they_were_when_the_store_was_made() {
    let server = Server::start(&[]);
    let mut world = World::new(8);
    let batch = world.batch_of("log", 1, &[(0, 0), (1, 1)]);
    let more = world.batch_of("log", 2, &[(0, 1), (1, 0)]);
    for (made, opened) in [(RowLayout::View, RowLayout::Entity), (RowLayout::Entity, RowLayout::View)] {
        let as_made = RedisSettings { key_prefix: format!("{made:?}"), ..settings(&server, made) };
        let store = open(&as_made).await;
        write(&store, &batch).await.expect("write");
        drop(store);
        let store = open(&RedisSettings { row_layout: opened, ..as_made }).await;
        write(&store, &more).await.expect("write");
        world.assert_holds(&store, &[batch.clone(), more.clone()], "with another setting").await;
        let hashes: Vec<Vec<u8>> = server.connect().keys(format!("{{{made:?}:*}}e/*")).expect("keys");
        assert_eq!(hashes.is_empty(), made == RowLayout::View);
    }
}

#[tokio::test]
async fn users_and_passwords() {
    let server = Server::start(&["--requirepass", "s3cret pass"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "wrong\n").expect("written");
    let with_file =
        RedisSettings { password_file: file.display().to_string(), ..settings(&server, RowLayout::View) };
    for settings in [settings(&server, RowLayout::View), with_file.clone()] {
        let error = RedisStore::open(settings, false).await.expect_err("refused");
        assert!(error.detail.contains("password"), "{error}");
        assert!(!error.detail.contains("s3cret"), "{error}");
    }
    std::fs::write(&file, "s3cret pass\n").expect("written");
    open(&with_file).await;

    let mut line = redis::Client::open(format!("redis://:s3cret%20pass@127.0.0.1:{}", server.port))
        .expect("a URL")
        .get_connection()
        .expect("a connection");
    let acl = |line: &mut redis::Connection, rules: &[&str]| {
        redis::cmd("ACL").arg("SETUSER").arg("store").arg(rules).exec(line).expect("acl");
    };
    // As the documentation says.
    acl(
        &mut line,
        &[
            "on",
            ">other",
            "~{mine:*",
            "+@read",
            "+@write",
            "+@scripting",
            "+@transaction",
            "+@connection",
            "+info",
            "+wait",
        ],
    );
    std::fs::write(&file, "other").expect("written");
    let user = RedisSettings { username: "store".to_owned(), key_prefix: "mine".to_owned(), ..with_file };
    let store = open(&user).await;
    let mut world = World::new(8);
    let batch = world.random_batch("log", 1);
    write(&store, &batch).await.expect("write");
    world.assert_holds(&store, &[batch], "as a user of its own").await;
    let foreign = RedisSettings { key_prefix: "theirs".to_owned(), ..user };
    let error = RedisStore::open(foreign, false).await.expect_err("not its keys");
    assert_eq!(error.kind, StoreErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn nobody_there() {
    let settings = RedisSettings {
        urls: vec!["redis://127.0.0.1:1".to_owned()],
        connect_timeout_ms: 300,
        ..RedisSettings::default()
    };
    let error = RedisStore::open(settings.clone(), false).await.expect_err("nobody listens");
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
    let wrong = RedisSettings { urls: vec!["http://127.0.0.1:1".to_owned()], ..settings };
    let error = RedisStore::open(wrong, false).await.expect_err("no such scheme");
    assert_eq!(error.kind, StoreErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn more_calls_than_allowed_are_refused_and_counted() {
    let server = Server::start(&[]);
    let settings = RedisSettings { in_flight_max: 2, ..settings(&server, RowLayout::View) };
    let store = Arc::new(open(&settings).await);
    let world = World::new(9);
    server.signal("-STOP");
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let (store, view, key) = (store.clone(), world.views()[0].clone(), world.entity(0).clone());
            tokio::spawn(async move { store.get_many(&view, &[key]).await.map(drop) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(store.statistics().calls_in_flight, 2);
    server.signal("-CONT");
    let mut answered = 0;
    for call in calls {
        answered += usize::from(call.await.expect("no panic").is_ok());
    }
    assert_eq!(answered, 2);
    assert_eq!(store.statistics().calls_refused, 3);
    assert_eq!(store.statistics().calls_in_flight, 0);
}

async fn a_sentinel_failover_that_loses_confirmed_writes_is_noticed(row_layout: RowLayout) {
    let mut primary = Server::start(&[]);
    let port = primary.port.to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]);
    eventually("the replica is in step", || {
        let info: String = redis::cmd("INFO").arg("replication").query(&mut replica.connect()).expect("info");
        info.contains("master_link_status:up")
    });
    let sentinel = Server::start_sentinel(&format!(
        "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    ));
    let settings = RedisSettings {
        urls: vec![sentinel.url()],
        mode: RedisMode::Sentinel,
        sentinel_primary: "main".to_owned(),
        row_layout,
        ..RedisSettings::default()
    };
    eventually("Sentinel knows the replica", || {
        let info: String = redis::cmd("INFO").arg("sentinel").query(&mut sentinel.connect()).expect("info");
        info.contains("slaves=1")
    });
    let store = open(&settings).await;
    let mut world = World::new(10);
    let batches: Vec<Batch> = (1..=4).map(|n| world.batch_of("log", n, &[(0, 0), (1, 1), (2, 2)])).collect();
    for batch in &batches[..2] {
        write(&store, batch).await.expect("write");
    }
    redis::cmd("WAIT").arg(1).arg(5_000).exec(&mut primary.connect()).expect("wait");
    // The replica is cut off while two more writes are confirmed, and is all that is left then.
    let mut line = primary.connect();
    redis::cmd("ACL").arg("SETUSER").arg("default").arg("-psync").arg("-sync").exec(&mut line).expect("acl");
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("replica").exec(&mut line).expect("killed");
    for batch in &batches[2..] {
        write(&store, batch).await.expect("write");
    }
    primary.kill();
    eventually_async("the new primary is found, and what it lacks is noticed", async || {
        matches!(store.condition().await, Ok(Condition::Lost(_)))
    })
    .await;
    do_again_after_two(&store, &world, &batches, "after the failover").await;
}

async fn a_cluster_survives_the_loss_of_a_primary(row_layout: RowLayout) {
    let mut cluster = Cluster::start();
    let settings = RedisSettings {
        urls: cluster.urls(),
        mode: RedisMode::Cluster,
        shards: 16,
        wait_replicas: 1,
        row_layout,
        ..RedisSettings::default()
    };
    let store = open(&settings).await;
    let mut world = World::new(11);
    let nodes: std::collections::BTreeSet<usize> =
        (0..world.entity_count()).map(|e| store.node_of(&world.views()[0], world.entity(e))).collect();
    assert_eq!(nodes.len(), 3, "entities are on all nodes");
    let mut batches: Vec<Batch> = (1..=10).map(|n| world.random_batch("log", n)).collect();
    for batch in &batches {
        write(&store, batch).await.expect("write");
    }
    store.checkpoint().await.expect("the replicas have it");
    let victim = cluster.primary_of(0, 9_000).expect("a primary");
    cluster.nodes[victim].kill();
    let asked = (victim + 1) % 3;
    eventually("a replica takes over", || {
        cluster.primary_of(asked, 9_000).is_some_and(|node| node != victim)
    });
    for position in 11..=20 {
        let batch = world.random_batch("log", position);
        write_patiently(&store, &batch).await;
        batches.push(batch);
    }
    world.assert_holds(&store, &batches, "after the failover").await;
}

async fn a_cluster_node_that_lost_confirmed_writes_is_noticed_by_the_next_process_too(row_layout: RowLayout) {
    let cluster = Cluster::start();
    let settings = RedisSettings {
        urls: cluster.urls(),
        mode: RedisMode::Cluster,
        shards: 16,
        row_layout,
        ..RedisSettings::default()
    };
    let store = open(&settings).await;
    let mut world = World::new(12);
    let everyone: Vec<(usize, usize)> = (0..world.entity_count()).map(|e| (0, e)).collect();
    write(&store, &world.batch_of("log", 1, &everyone)).await.expect("write");
    let victim = has_shard_0(&cluster, false);
    flush(&cluster.nodes[victim]);
    assert!(matches!(store.condition().await.expect("it answers"), Condition::Lost(_)));
    drop(store);
    let store = open(&settings).await;
    assert!(matches!(store.condition().await.expect("it answers"), Condition::Lost(_)));
    fill_again(&store, &mut world, &everyone, "filled again").await;
}

async fn a_cluster_whose_lanes_went_back_is_not_brought_up_from_them(row_layout: RowLayout) {
    let cluster = Cluster::start();
    let settings = RedisSettings {
        urls: cluster.urls(),
        mode: RedisMode::Cluster,
        shards: 16,
        row_layout,
        ..RedisSettings::default()
    };
    // Noticed by the process that wrote what is lost, and by the next one.
    for is_next_process in [false, true] {
        let mut store = open(&settings).await;
        let mut world = World::new(13);
        let everyone: Vec<(usize, usize)> = (0..world.entity_count()).map(|e| (0, e)).collect();
        write(&store, &world.batch_of("log", 1, &everyone)).await.expect("write");
        let with_lanes = &cluster.nodes[has_shard_0(&cluster, true)];
        let saved = dump(with_lanes);
        write(&store, &world.batch_of("log", 2, &everyone)).await.expect("write");
        flush(with_lanes);
        restore(with_lanes, &saved);
        if is_next_process {
            drop(store);
            store = open(&settings).await;
        }
        assert!(matches!(store.condition().await.expect("it answers"), Condition::Lost(_)));
        fill_again(&store, &mut world, &everyone, &format!("next process: {is_next_process}")).await;
        drop(store);
        for node in &cluster.nodes[..3] {
            flush(node);
        }
    }
}

async fn replicas_are_read_for_requests_and_never_for_writes(row_layout: RowLayout) {
    let cluster = Cluster::start();
    let settings = RedisSettings {
        urls: cluster.urls(),
        mode: RedisMode::Cluster,
        shards: 16,
        replica_reads: true,
        wait_replicas: 1,
        row_layout,
        ..RedisSettings::default()
    };
    let store = open(&settings).await;
    let mut world = World::new(14);
    let reads_of_replicas = || -> usize {
        let said = cluster.nodes[3..].iter().map(|node| {
            let text: String =
                redis::cmd("INFO").arg("commandstats").query(&mut node.connect()).expect("statistics");
            let read = match row_layout {
                RowLayout::View => "cmdstat_mget:calls=",
                RowLayout::Entity => "cmdstat_hmget:calls=",
            };
            let calls = text.split(read).nth(1).and_then(|rest| rest.split(',').next());
            calls.map_or(0, |calls| calls.parse::<usize>().expect("a number"))
        });
        said.sum()
    };
    // Rows are merged: what is there is read first, and a replica may not have it yet.
    let everyone: Vec<(usize, usize)> = (0..world.entity_count()).map(|e| (0, e)).collect();
    let batches: Vec<Batch> = (1..=30).map(|n| world.batch_of("log", n, &everyone)).collect();
    for batch in &batches {
        assert!(write(&store, batch).await.expect("write"));
    }
    assert_eq!(store.condition().await.expect("it answers"), Condition::Whole);
    assert_eq!(reads_of_replicas(), 0, "a write read from a replica");
    store.checkpoint().await.expect("the replicas have it");
    for _ in 0..5 {
        world.assert_holds(&store, &batches, "read from replicas too").await;
    }
    assert!(reads_of_replicas() > 0, "no request read from a replica");
    // What a primary lost is noticed all the same.
    flush(&cluster.nodes[has_shard_0(&cluster, true)]);
    assert!(matches!(store.condition().await.expect("it answers"), Condition::Lost(_)));
}

/// A primary that has shard 0, or one that has not.
fn has_shard_0(cluster: &Cluster, has: bool) -> usize {
    let holds = |node: &usize| {
        let metas: Vec<String> = cluster.nodes[*node].connect().keys("*:0}m").expect("keys");
        metas.is_empty() != has
    };
    (0..3).find(holds).expect("a node")
}

/// Every key of a server as `DUMP` gives it.
fn dump(server: &Server) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut line = server.connect();
    let keys: Vec<Vec<u8>> = line.keys("*").expect("keys");
    let dumped = |key: Vec<u8>| {
        let value = redis::cmd("DUMP").arg(&key).query(&mut line).expect("dump");
        (key, value)
    };
    keys.into_iter().map(dumped).collect()
}

fn restore(server: &Server, saved: &[(Vec<u8>, Vec<u8>)]) {
    let mut line = server.connect();
    for (key, value) in saved {
        redis::cmd("RESTORE").arg(key).arg(0).arg(value).exec(&mut line).expect("restore");
    }
}
