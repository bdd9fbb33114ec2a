//! The Redis store passes the suite that all stores must pass: on one server, in parts as small as can be, on a Cluster.

use crate::servers::{Cluster, Server};
use futures::executor::block_on;
use springhouse_online::{OnlineStore, suite};
use springhouse_online_redis::{RedisMode, RedisSettings, RedisStore, RowLayout};
use std::cell::Cell;
use std::sync::Arc;

/// Wherever rows are.
fn check(settings: &RedisSettings, seed: u64) {
    for row_layout in [RowLayout::View, RowLayout::Entity] {
        check_layout(&RedisSettings { row_layout, ..settings.clone() }, seed);
    }
}

/// Every store has a prefix of its own.
fn check_layout(settings: &RedisSettings, seed: u64) {
    let number = Cell::new(0);
    let fresh = || {
        number.set(number.get() + 1);
        RedisSettings {
            key_prefix: format!("t{seed}.{:?}.{}", settings.row_layout, number.get()),
            ..settings.clone()
        }
    };
    let open = async |settings: &RedisSettings| {
        let store = RedisStore::open(settings.clone(), false).await.expect("open");
        Arc::new(store) as Arc<dyn OnlineStore>
    };
    block_on(suite::check_store(async || open(&fresh()).await, seed));
    block_on(suite::check_durable_store(fresh, open, seed));
}

fn seed() -> u64 {
    let given = std::env::var("SPRINGHOUSE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed={seed}");
    seed
}

#[test]
fn one_server_keeps_the_contract() {
    let server = Server::start(&[]);
    let settings = RedisSettings { urls: vec![server.url()], ..RedisSettings::default() };
    for seed in [1, 2, seed()] {
        check(&settings, seed);
    }
}

#[test]
fn it_keeps_the_contract_in_parts_of_two_rows() {
    let server = Server::start(&[]);
    let settings = RedisSettings {
        urls: vec![server.url()],
        script_rows_max: 2,
        connections: 3,
        ..RedisSettings::default()
    };
    check(&settings, seed());
}

#[test]
fn a_cluster_keeps_the_contract() {
    let cluster = Cluster::start();
    let settings = RedisSettings {
        urls: cluster.urls(),
        mode: RedisMode::Cluster,
        shards: 7,
        script_rows_max: 3,
        wait_replicas: 1,
        ..RedisSettings::default()
    };
    check(&settings, seed());
}
