//! The reference store passes the suite that all others must pass.

use futures::executor::block_on;
use springhouse_online::{MemoryStore, OnlineStore, suite};
use std::sync::Arc;

#[test]
fn the_memory_store_keeps_the_contract() {
    for seed in 1..=5 {
        let make = async || Arc::new(MemoryStore::new()) as Arc<dyn OnlineStore>;
        block_on(suite::check_store(make, seed));
    }
}
