//! The store as it is served: itself where it is in this process, with a guard before it where it is not.

use crate::guard::GuardedStore;
use crate::request::ServingSettings;
use springhouse_online::OnlineStore;
use std::sync::Arc;

/// The store as it is served.
#[derive(Clone, Debug)]
pub enum ServedStore {
    /// In this process: nothing stands between it and the request.
    Local(Arc<dyn OnlineStore>),
    /// Elsewhere.
    Guarded(Arc<GuardedStore>),
}

impl ServedStore {
    /// Puts a guard before a store that is not in this process.
    pub fn new(store: Arc<dyn OnlineStore>, settings: &ServingSettings) -> Self {
        if store.is_local() {
            Self::Local(store)
        } else {
            Self::Guarded(Arc::new(GuardedStore::new(store, settings)))
        }
    }

    /// The store for everything but requests. Whoever writes must write through this, so that the guard hears of it.
    pub fn store(&self) -> Arc<dyn OnlineStore> {
        match self {
            Self::Local(store) => Arc::clone(store),
            Self::Guarded(store) => Arc::clone(store) as Arc<dyn OnlineStore>,
        }
    }
}
