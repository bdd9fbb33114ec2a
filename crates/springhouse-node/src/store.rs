//! Opening the online store that the project's settings name.

use crate::{NodeError, NodeOptions};
use springhouse_online::{Condition, OnlineStore};
use springhouse_online_embedded::{EmbeddedStore, WriterLock};
use springhouse_online_redis::RedisStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The note, beside the lock, of which store this project has filled.
const NOTE_FILE: &str = "redis-store";
/// What an operator writes into the note so that the project takes over a store that another one has filled.
const TAKE_OVER: &str = "take-over";

/// An open store.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn OnlineStore>,
    pub(crate) place: StorePlace,
    /// True when it has lost what the project had put there, and must be filled from history.
    pub(crate) must_fill: bool,
}

/// What this process holds of the store besides its handle.
#[derive(Debug)]
pub(crate) enum StorePlace {
    /// In the project's folder.
    Embedded(Arc<EmbeddedStore>),
    /// On servers; the lock keeps a second process from opening the project's log.
    Redis { store: Arc<RedisStore>, lock: WriterLock, note: PathBuf },
}

impl StorePlace {
    /// Tells other processes where this one can be asked.
    pub(crate) fn announce(&self, address: &str) -> Result<(), NodeError> {
        match self {
            Self::Embedded(store) => store.announce(address)?,
            Self::Redis { lock, .. } => lock.note(Some(address))?,
        }
        Ok(())
    }

    /// Notes that the project has filled this store, by the name that the store has now.
    pub(crate) fn remember(&self) -> Result<(), NodeError> {
        let Self::Redis { store, note, .. } = self else { return Ok(()) };
        let new = note.with_extension("new");
        let written = std::fs::write(&new, store.identity()).and_then(|()| std::fs::rename(&new, note));
        written.map_err(|error| {
            NodeError::new(
                "store_failed",
                format!("{} can't be written: {error}", note.display()),
                "check that the folder may be written",
            )
        })
    }
}

/// Opens it.
pub(crate) async fn open(options: &NodeOptions) -> Result<Opened, NodeError> {
    let folder = &options.paths.online;
    let Some(settings) = &options.redis else {
        let store = Arc::new(EmbeddedStore::open(folder, &options.online)?);
        let place = StorePlace::Embedded(store.clone());
        return Ok(Opened { store, place, must_fill: false });
    };
    std::fs::create_dir_all(folder).map_err(|error| unreadable(folder, &error))?;
    let lock = WriterLock::take(folder)?;
    let note = folder.join(NOTE_FILE);
    let filled = match std::fs::read_to_string(&note) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(&note, &error)),
    };
    let store = Arc::new(RedisStore::open(settings.clone(), filled.is_some()).await?);
    let identity = store.identity();
    let condition = store.condition().await?;
    let must_fill = match (&filled, condition) {
        (_, Condition::Lost(_) | Condition::Filling) => true,
        (Some(filled), _) if *filled == identity => false,
        // Emptied while nobody looked, and made anew by somebody; or the operator says so.
        (Some(filled), _) if filled == TAKE_OVER || store.was_new() => true,
        (None, _) if store.was_new() || store.lanes().await?.is_empty() => false,
        _ => return Err(of_another_project(settings.key_prefix.as_str(), &note)),
    };
    let place = StorePlace::Redis { store: store.clone(), lock, note };
    Ok(Opened { store, place, must_fill })
}

fn unreadable(path: &Path, error: &std::io::Error) -> NodeError {
    let message = format!("{} can't be read: {error}", path.display());
    NodeError::new("store_failed", message, "check that it may be read and written")
}

fn of_another_project(prefix: &str, note: &Path) -> NodeError {
    NodeError::new(
        "store_not_ours",
        format!(
            "the Redis store under the prefix `{prefix}` was filled by another project, or by this one on another machine"
        ),
        format!(
            "give this project a `key_prefix` of its own; or, when the other one is gone for good, write `{TAKE_OVER}` into {} : the store is then emptied and filled from this project's history",
            note.display()
        ),
    )
}
