//! The lake of one project: where its files are, and the tables that it holds open.

use crate::error::{LakeError, Result};
use deltalake_core::DeltaTable;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The history of one project: where relative source paths start, and where its Delta tables are.
#[derive(Clone, Debug)]
pub struct Lake {
    inner: Arc<Inner>,
    /// See [`Self::with_event_cache`].
    event_cache_bytes: u64,
}

struct Inner {
    project: PathBuf,
    tables: PathBuf,
    /// Tables that were appended to: the next append reads only the commits since.
    open: Mutex<HashMap<PathBuf, DeltaTable>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("project", &self.project).field("tables", &self.tables).finish()
    }
}

impl Lake {
    /// A lake whose relative source paths start at `project` and whose own tables are below `tables`.
    ///
    /// # Errors
    /// `file_unwritable` when the directory for tables can't be made.
    pub fn open(project: &Path, tables: &Path) -> Result<Self> {
        std::fs::create_dir_all(tables).map_err(|e| LakeError::unwritable(tables, &e))?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(|e| LakeError::unreadable(path, &e));
        let inner = Inner { project: absolute(project)?, tables: absolute(tables)?, open: Mutex::default() };
        Ok(Self { inner: Arc::new(inner), event_cache_bytes: 0 })
    }

    /// The same with an event cache of at most so many bytes for training sets, in the folder `_events` beside the tables: what a
    /// training set has read of a source, the next one does not read again. 0: none is made or used.
    pub fn with_event_cache(self, bytes: u64) -> Self {
        Self { event_cache_bytes: bytes, ..self }
    }

    pub(crate) fn event_cache_bytes(&self) -> u64 {
        self.event_cache_bytes
    }

    pub(crate) fn project(&self) -> &Path {
        &self.inner.project
    }

    pub(crate) fn tables(&self) -> &Path {
        &self.inner.tables
    }

    pub(crate) fn open_tables(&self) -> &Mutex<HashMap<PathBuf, DeltaTable>> {
        &self.inner.open
    }
}
