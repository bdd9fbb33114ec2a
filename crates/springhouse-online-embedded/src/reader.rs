//! The store as other processes see it: its last checkpoint.

use crate::disk::Disk;
use crate::error::invalid;
use crate::settings::EmbeddedSettings;
use crate::store::decode;
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::EntityState;
use springhouse_online::{
    BoxFuture, Lane, OnlineStore, StoreError, StoreStatistics, ViewHandle, ViewStatus, Write,
};
use std::collections::BTreeMap;
use std::future::ready;
use std::path::Path;
use std::sync::Arc;

/// The embedded store, open for reading beside the process that writes it.
///
/// Every call reads the newest checkpoint; nothing is kept in memory. Calls that would write fail as `Invalid`.
#[derive(Debug)]
pub struct EmbeddedReader {
    disk: Disk,
}

impl EmbeddedReader {
    pub(crate) fn open(folder: &Path, settings: &EmbeddedSettings) -> Result<Self, StoreError> {
        Ok(Self { disk: Disk::open_read_only(folder, settings)? })
    }

    fn get_now(
        &self,
        view: &ViewHandle,
        keys: &[EntityKey],
    ) -> Result<Vec<Option<Arc<EntityState>>>, StoreError> {
        let txn = self.disk.read("read")?;
        let Some(slot) = self.disk.slot(&txn, &view.id, view.generation)? else {
            return Ok(vec![None; keys.len()]);
        };
        let mut buffer = Vec::new();
        let mut get = |key| {
            let stored = self.disk.row(&txn, slot, key, &mut buffer, "read")?;
            stored.map(|bytes| decode(view, bytes).map(Arc::new)).transpose()
        };
        keys.iter().map(&mut get).collect()
    }

    fn sample_now(&self, view: &ViewHandle, limit: usize) -> Result<Vec<EntityKey>, StoreError> {
        let txn = self.disk.read("sample keys")?;
        match self.disk.slot(&txn, &view.id, view.generation)? {
            Some(slot) => self.disk.keys(&txn, slot, limit),
            None => Ok(Vec::new()),
        }
    }
}

fn refuse<'a, T: Send + 'a>(action: &'static str) -> BoxFuture<'a, Result<T, StoreError>> {
    Box::pin(ready(Err(invalid(action, "the store is open for reading only"))))
}

impl OnlineStore for EmbeddedReader {
    fn get_many<'a>(
        &'a self,
        view: &'a ViewHandle,
        keys: &'a [EntityKey],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<EntityState>>>, StoreError>> {
        Box::pin(ready(self.get_now(view, keys)))
    }

    fn write<'a>(
        &'a self,
        _writes: Vec<Write>,
        _lane: Lane,
        _now: Micros,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        refuse("write")
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        refuse("checkpoint")
    }

    fn lanes(&self) -> BoxFuture<'_, Result<BTreeMap<Arc<str>, i64>, StoreError>> {
        let action = "read lanes";
        Box::pin(ready(self.disk.read(action).and_then(|txn| self.disk.lanes(&txn, action))))
    }

    fn drop_lanes<'a>(&'a self, _prefix: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        refuse("drop lanes")
    }

    fn view_status<'a>(
        &'a self,
        view: &'a ViewHandle,
    ) -> BoxFuture<'a, Result<Option<ViewStatus>, StoreError>> {
        let status = |txn: crate::disk::Reader<'_>| self.disk.status(&txn, &view.id, view.generation);
        Box::pin(ready(self.disk.read("read a status").and_then(status)))
    }

    fn set_view_status<'a>(
        &'a self,
        _view: &'a ViewHandle,
        _status: ViewStatus,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        refuse("set a status")
    }

    fn active_generation<'a>(&'a self, view_id: &'a str) -> BoxFuture<'a, Result<u32, StoreError>> {
        let active = |txn: crate::disk::Reader<'_>| Ok(self.disk.active(&txn, view_id)?.unwrap_or(0));
        Box::pin(ready(self.disk.read("read the active generation").and_then(active)))
    }

    fn activate_generation<'a>(
        &'a self,
        _view_id: &'a str,
        _generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        refuse("activate a generation")
    }

    fn drop_generation<'a>(
        &'a self,
        _view_id: &'a str,
        _generation: u32,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        refuse("drop a generation")
    }

    fn sample_keys<'a>(
        &'a self,
        view: &'a ViewHandle,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<EntityKey>, StoreError>> {
        Box::pin(ready(self.sample_now(view, limit)))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn statistics(&self) -> StoreStatistics {
        StoreStatistics::default()
    }
}
