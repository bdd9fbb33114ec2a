//! The chain on object storage.

use crate::{RegistryError, RegistryErrorKind, Snapshot, SnapshotMeta};
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use springhouse_core::Definitions;
use std::sync::Arc;

/// The applied definitions of one project. Cheap to clone; any number may be open at once, in any process.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Registry {
    /// The registry below `prefix` (may be empty) of `store`; asks nothing of the store yet.
    pub fn open(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { store, prefix: Path::from(prefix) }
    }

    /// The registry in a local folder, which is made by the first `put`.
    ///
    /// # Errors
    /// `Unavailable` when the path can't be made absolute.
    pub fn local(folder: &std::path::Path) -> Result<Self, RegistryError> {
        let absolute = std::path::absolute(folder).map_err(|error| {
            let error = object_store::Error::Generic { store: "LocalFileSystem", source: error.into() };
            RegistryError::unavailable("find its folder", error)
        })?;
        let prefix = Path::from_absolute_path(&absolute)
            .map_err(|error| RegistryError::unavailable("find its folder", error.into()))?;
        Ok(Self { store: Arc::new(LocalFileSystem::new()), prefix })
    }

    /// The newest snapshot; none when nothing was ever applied.
    ///
    /// # Errors
    /// `Unavailable`; `Damaged` when the newest file is not what was written.
    pub async fn head(&self) -> Result<Option<Snapshot>, RegistryError> {
        match self.numbers().await?.last() {
            None => Ok(None),
            Some(number) => self.get(*number).await.map(Some),
        }
    }

    /// Snapshot `number`.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, `Unavailable`.
    pub async fn get(&self, number: u64) -> Result<Snapshot, RegistryError> {
        let path = self.path(number);
        match self.store.get(&path).await {
            Ok(found) => {
                let bytes =
                    found.bytes().await.map_err(|e| RegistryError::unavailable("read a snapshot", e))?;
                Snapshot::from_bytes(path.as_ref(), number, &bytes)
            }
            Err(object_store::Error::NotFound { .. }) => Err(self.absent(number).await?),
            Err(error) => Err(RegistryError::unavailable("read a snapshot", error)),
        }
    }

    /// Every snapshot, oldest first, the links of the chain checked.
    ///
    /// # Errors
    /// `Damaged` when one is missing, changed, or does not follow from the one before; `Unavailable`.
    pub async fn list(&self) -> Result<Vec<Snapshot>, RegistryError> {
        let newest = self.numbers().await?.last().copied().unwrap_or(0);
        let mut chain: Vec<Snapshot> = Vec::new();
        for number in 1..=newest {
            let snapshot = self.get(number).await?;
            let parent = chain.last().map(|s| s.checksum.as_str());
            if snapshot.parent.as_deref() != parent {
                return Err(RegistryError::damaged(
                    self.path(number).as_ref(),
                    format!("it does not follow from snapshot {}", number - 1),
                ));
            }
            chain.push(snapshot);
        }
        Ok(chain)
    }

    /// Puts `next` after snapshot `parent` (none: as the first). Nobody else's snapshot is ever replaced.
    ///
    /// # Errors
    /// `Conflict` when `parent` is not the head (any more): read the head and plan again. `Damaged`, `Unavailable`.
    pub async fn put(
        &self,
        next: &Definitions,
        parent: Option<u64>,
        meta: SnapshotMeta,
    ) -> Result<Snapshot, RegistryError> {
        let head = self.head().await?;
        if head.as_ref().map(|h| h.number) != parent {
            return Err(conflict(head.as_ref(), parent));
        }
        let number = parent.unwrap_or(0) + 1;
        let snapshot = Snapshot::new(number, head.map(|h| h.checksum), next.clone(), meta);
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&self.path(number), snapshot.to_bytes().into(), options).await {
            Ok(_) => Ok(snapshot),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Err(conflict(self.head().await?.as_ref(), parent))
            }
            Err(error) => Err(RegistryError::unavailable("write a snapshot", error)),
        }
    }

    fn path(&self, number: u64) -> Path {
        self.prefix.clone().join(format!("{number:08}.json"))
    }

    /// The numbers there are, ascending. Other files are none of our business.
    async fn numbers(&self) -> Result<Vec<u64>, RegistryError> {
        let files: Vec<_> = self
            .store
            .list(Some(&self.prefix))
            .try_collect()
            .await
            .map_err(|e| RegistryError::unavailable("list its snapshots", e))?;
        let number = |name: &str| name.strip_suffix(".json")?.parse::<u64>().ok();
        let mut numbers: Vec<u64> =
            files.iter().filter_map(|file| number(file.location.filename()?)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Why snapshot `number` is not there: never applied, or lost from the middle of the chain.
    async fn absent(&self, number: u64) -> Result<RegistryError, RegistryError> {
        let newest = self.numbers().await?.last().copied().unwrap_or(0);
        if (1..newest).contains(&number) {
            return Ok(RegistryError::damaged(
                self.path(number).as_ref(),
                format!("it is missing, though snapshot {newest} is there"),
            ));
        }
        let message = match newest {
            0 => format!("there is no snapshot {number}: nothing has been applied yet"),
            _ => format!("there is no snapshot {number}: the newest is {newest}"),
        };
        Ok(RegistryError::new(
            RegistryErrorKind::NotFound,
            message,
            "see `springhouse registry history` for the numbers there are",
        ))
    }
}

fn conflict(head: Option<&Snapshot>, parent: Option<u64>) -> RegistryError {
    let message = match (head, parent) {
        (Some(head), parent) => format!(
            "snapshot {} was applied in between{}; this change was planned against {}",
            head.number,
            if head.meta.applied_by.is_empty() {
                String::new()
            } else {
                format!(" by {}", head.meta.applied_by)
            },
            parent.map_or("an empty registry".to_owned(), |p| format!("snapshot {p}")),
        ),
        (None, Some(parent)) => {
            format!("this change was planned against snapshot {parent}, but the registry is empty")
        }
        (None, None) => "another snapshot is being applied at this moment".to_owned(),
    };
    RegistryError::new(
        RegistryErrorKind::Conflict,
        message,
        "run `springhouse plan` again and look at what changed",
    )
}
