//! Looks after a store that is elsewhere: notices that it has lost something, and brings it back.
//!
//! A store at an earlier moment (a failover or a restart lost its last writes) says with its lanes how far it is, and the
//! log brings the rest. One that was emptied, or lost more than the log still has, is filled from history; until that is
//! done it answers no read, so that requests get their fallbacks and not the answers of entities that look new.

use crate::node::{Feeds, feeds, lacks_log};
use crate::{Node, NodeError};
use springhouse_ingest::{Feeding, StartAt};
use springhouse_lake::Silent;
use springhouse_online::{Condition, Holding};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// Wait after a failed attempt to bring the store back; doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Runs until the node is gone. With `filling`, the jobs' lock, the store is to be filled first.
pub(crate) async fn keep(node: Weak<Node>, interval: Duration, mut filling: Option<OwnedMutexGuard<()>>) {
    let mut wait = RETRY_FIRST;
    loop {
        let Some(node) = node.upgrade() else { return };
        // When that fails, the look that follows finds a store that is not whole, and begins anew.
        let done = match filling.take() {
            Some(_jobs) => fill(&node).await,
            None => look(&node).await,
        };
        match done {
            Ok(()) => {
                wait = RETRY_FIRST;
                drop(node);
                tokio::time::sleep(interval).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the online store is not whole yet; trying again");
                drop(node);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_LONGEST);
            }
        }
    }
}

/// Asks the store how it is; brings it back when it has lost something.
async fn look(node: &Arc<Node>) -> Result<(), NodeError> {
    let condition = match node.store().condition().await {
        Ok(condition) => condition,
        // Whoever reads or writes sees that too; there is nothing to repair.
        Err(error) => {
            tracing::debug!(%error, "the online store does not answer");
            return Ok(());
        }
    };
    if condition == Condition::Whole {
        node.set_store_condition(condition);
        return Ok(());
    }
    node.set_store_condition(condition.clone());
    let _job = node.jobs().lock().await;
    tracing::warn!(?condition, "bringing the online store back");
    node.ingest().hold().await?;
    match node.store().take_again().await? {
        Holding::Earlier => from_log(node).await,
        Holding::Nothing => refill(node).await,
    }
}

/// The store is at an earlier moment: the log brings what it lacks.
async fn from_log(node: &Arc<Node>) -> Result<(), NodeError> {
    let applied = node.load_head().await?;
    let known = feeds(&applied, &node.store().lanes().await?);
    match node.ingest().restart(&applied.definitions, known.into()).await {
        Ok(()) => {}
        Err(error) if lacks_log(error.code) => return refill(node).await,
        Err(error) => return Err(error.into()),
    }
    node.switch_to(applied).await?;
    node.store().end_filling().await?;
    node.set_store_condition(Condition::Whole);
    tracing::info!("the online store has from the log what it had lost");
    Ok(())
}

/// Empties the store, begins again at the log's end, and fills it.
async fn refill(node: &Arc<Node>) -> Result<(), NodeError> {
    node.set_store_condition(Condition::Filling);
    node.store().begin_filling().await?;
    let applied = node.load_head().await?;
    let feeding = Feeding { views: Feeds::new(), start: StartAt::End };
    node.ingest().restart(&applied.definitions, feeding).await?;
    node.switch_to(applied).await?;
    fill(node).await
}

/// Loads all views from history, and opens the store for readers. The caller holds the jobs' lock.
async fn fill(node: &Arc<Node>) -> Result<(), NodeError> {
    let applied = node.applied();
    let until = node.ingest().read_now();
    for view in applied.definitions.feature_views.values() {
        let handle = &applied.views[&view.name];
        let end = node.stream_start(&handle.id);
        let outcome = node.load(&applied, handle, until, end, 1, &Silent).await?;
        tracing::info!(view = %handle.id, rows = outcome.rows, entities = outcome.entities, "filled from history");
    }
    node.store().end_filling().await?;
    node.place().remember()?;
    node.set_store_condition(Condition::Whole);
    tracing::info!("the online store is filled");
    Ok(())
}
