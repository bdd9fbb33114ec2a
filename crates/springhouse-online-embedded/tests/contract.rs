//! The embedded store passes the suite that all stores must pass, with room to spare and with almost none.

use futures::executor::block_on;
use springhouse_online::{OnlineStore, suite};
use springhouse_online_embedded::{EmbeddedSettings, EmbeddedStore};
use std::sync::Arc;
use tempfile::TempDir;

fn check(settings: &EmbeddedSettings, seed: u64) {
    let folders = std::cell::RefCell::new(Vec::new());
    let make = async || {
        let folder = tempfile::tempdir().expect("a folder");
        let store = EmbeddedStore::open(folder.path(), settings).expect("open");
        folders.borrow_mut().push(folder);
        Arc::new(store) as Arc<dyn OnlineStore>
    };
    block_on(suite::check_store(make, seed));
    let open = async |folder: &TempDir| {
        let store = EmbeddedStore::open(folder.path(), settings).expect("open");
        Arc::new(store) as Arc<dyn OnlineStore>
    };
    block_on(suite::check_durable_store(|| tempfile::tempdir().expect("a folder"), open, seed));
}

#[test]
fn the_embedded_store_keeps_the_contract() {
    for seed in 1..=3 {
        check(&EmbeddedSettings::default(), seed);
    }
}

#[test]
fn it_keeps_the_contract_when_hardly_anything_stays_in_memory() {
    let settings = EmbeddedSettings { memory_bytes_max: 1, ..EmbeddedSettings::default() };
    for seed in 11..=13 {
        check(&settings, seed);
    }
}

#[test]
fn it_keeps_the_contract_when_every_write_forces_a_checkpoint() {
    let settings =
        EmbeddedSettings { memory_bytes_max: 8_000, dirty_bytes_max: 1, ..EmbeddedSettings::default() };
    check(&settings, 21);
}

#[test]
fn it_keeps_the_contract_on_a_fresh_seed() {
    let given = std::env::var("SPRINGHOUSE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| u64::from(std::process::id()));
    let settings = EmbeddedSettings {
        memory_bytes_max: seed % 60_000,
        dirty_bytes_max: 1_000 + seed % 50_000,
        ..EmbeddedSettings::default()
    };
    println!("seed={seed} settings={settings:?}");
    check(&settings, seed);
}
