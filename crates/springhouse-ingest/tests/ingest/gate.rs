//! A store whose writes wait until they are let through.

use springhouse_core::{EntityKey, Micros};
use springhouse_online::{
    BoxFuture, Lane, MemoryStore, OnlineStore, States, StoreError, StoreStatistics, ViewHandle, ViewStatus,
    Write,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

#[derive(Debug)]
pub(crate) struct Gate {
    inner: MemoryStore,
    /// One for each write that may still go through.
    pub(crate) writes: Semaphore,
}

impl Gate {
    pub(crate) fn open() -> Self {
        Self { inner: MemoryStore::new(), writes: Semaphore::new(Semaphore::MAX_PERMITS) }
    }

    pub(crate) fn close(&self) {
        self.writes.forget_permits(usize::MAX);
    }
}

impl OnlineStore for Gate {
    fn get_many<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<States, StoreError>> {
        self.inner.get_many(view, keys)
    }

    fn write<'a>(
        &'a self,
        writes: Vec<Write>,
        lane: Lane,
        now: Micros,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.writes.acquire().await.expect("never closed").forget();
            self.inner.write(writes, lane, now).await
        })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.checkpoint()
    }

    fn lanes(&self) -> BoxFuture<'_, Result<BTreeMap<Arc<str>, i64>, StoreError>> {
        self.inner.lanes()
    }

    fn drop_lanes<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.drop_lanes(prefix)
    }

    fn view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
    ) -> BoxFuture<'a, Result<Option<ViewStatus>, StoreError>> {
        self.inner.view_status(view)
    }

    fn set_view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
        status: ViewStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.set_view_status(view, status)
    }

    fn active_generation<'a>(&'a self, view_id: &'a str) -> BoxFuture<'a, Result<u32, StoreError>> {
        self.inner.active_generation(view_id)
    }

    fn activate_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.activate_generation(view_id, generation)
    }

    fn drop_generation<'a>(
        &'a self,
        view_id: &'a str,
        generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.drop_generation(view_id, generation)
    }

    fn sample_keys<'a>(
        &'a self,
        view: &'a ViewHandle,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EntityKey>, StoreError>> {
        self.inner.sample_keys(view, limit)
    }

    fn statistics(&self) -> StoreStatistics {
        self.inner.statistics()
    }
}
