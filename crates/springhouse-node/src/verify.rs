//! Online against offline, bit for bit.

use crate::{Node, NodeError};
use serde::Serialize;
use springhouse_core::{EntityKey, Micros, Value, ValueStatus, ValueType};
use springhouse_kernel::{EntityAnswer, READ_BACK};
use springhouse_lake::Cut;
use springhouse_online::ViewHandle;
use std::time::Duration;

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyOutcome {
    /// Values compared.
    pub values: u64,
    /// Entities compared, over all views.
    pub entities: u64,
    /// Every difference, up to [`DIFFERENCES_MAX`].
    pub differences: Vec<Difference>,
    /// Differences in all.
    pub difference_count: u64,
    /// Views left out because their history was never loaded.
    pub not_materialized: Vec<String>,
}

/// One value that is not the same online and offline.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// `name@version`.
    pub view: String,
    /// The feature.
    pub feature: String,
    /// The entity's key values.
    pub key: String,
    /// The moment compared.
    pub at: Micros,
    /// Value and status online.
    pub online: String,
    /// Value and status recomputed from history.
    pub offline: String,
}

/// Differences listed in full; the others are only counted.
pub const DIFFERENCES_MAX: usize = 1_000;

/// How often a read is tried again because events were applied during it.
const READ_ATTEMPTS_MAX: usize = 50;

/// How long to wait for events that are on their way.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// How long, beyond a few flushes, workers may take to bring to the lake what is in the rows, and how often that is looked at.
const LAKE_PATIENCE: Duration = Duration::from_secs(30);
const LAKE_RETRY_DELAY: Duration = Duration::from_millis(200);

/// A moment that lies no further back can be read from rows, with some time for reading them.
const COMPARABLE: Micros = READ_BACK * 3 / 4;

/// The online answers of a few entities at one moment, with the cut that they have seen.
struct OnlineRead {
    at: Micros,
    cut: i64,
    answers: Vec<EntityAnswer>,
}

pub(crate) async fn verify(
    node: &Node,
    views: &[String],
    entities_per_view: usize,
) -> Result<VerifyOutcome, NodeError> {
    let applied = node.applied();
    let mut outcome = VerifyOutcome::default();
    for name in views {
        let view = &applied.definitions.feature_views[name];
        let handle = &applied.views[name];
        let is_stream = applied.definitions.sources[&view.source].is_stream();
        let frontier = node.frontier(&handle.id);
        if frontier.frontier == Micros::MIN {
            outcome.not_materialized.push(handle.id.to_string());
            continue;
        }
        let keys = node.store().sample_keys(handle, entities_per_view).await?;
        if keys.is_empty() {
            continue;
        }
        let mut cut = Cut::default();
        let read = match handle.is_shared {
            true => read_shared(node, handle, &view.source, &keys).await?,
            false => read_online(node, handle, &keys, is_stream).await?,
        };
        if handle.is_shared {
            wait_for_lake(node, &view.source).await?;
        } else if is_stream {
            node.ingest().flush().await?;
            cut.stream_end = Some(read.cut);
        }
        cut.table_cursor = node.store().view_status(handle).await?.map(|status| status.note);
        let at = vec![read.at; keys.len()];
        let offline = node.lake().recompute(&applied.definitions, view, &keys, &at, &cut).await?;
        let types: Vec<ValueType> =
            applied.definitions.entities[&view.entity].keys.iter().map(|key| key.1.clone()).collect();
        for ((key, online), offline) in keys.iter().zip(&read.answers).zip(&offline) {
            outcome.entities += 1;
            compare(&mut outcome, handle, &types, key, read.at, online, offline);
        }
    }
    Ok(outcome)
}

/// Reads all keys at one moment before which everything has been applied, with no event applied between the first key and
/// the last.
async fn read_online(
    node: &Node,
    handle: &ViewHandle,
    keys: &[EntityKey],
    is_stream: bool,
) -> Result<OnlineRead, NodeError> {
    for _ in 0..READ_ATTEMPTS_MAX {
        let Some(at) = moment(node, is_stream) else {
            tokio::time::sleep(RETRY_DELAY).await;
            continue;
        };
        let before = node.ingest().positions().applied_end;
        let states = node.store().get_many(handle, keys).await?;
        if node.ingest().positions().applied_end != before {
            continue;
        }
        let answers = states.iter().map(|state| match state {
            Some(state) => handle.plan.read(state, at),
            None => handle.plan.read_empty(),
        });
        return Ok(OnlineRead { at, cut: before, answers: answers.collect() });
    }
    Err(busy())
}

fn busy() -> NodeError {
    NodeError::new(
        "verify_busy",
        "events kept arriving during every read, or are applied too late, so no moment could be compared",
        "run `springhouse verify` with fewer entities, or when fewer events arrive",
    )
}

/// Reads rows that workers write, as of a moment before which everything is in them; when nobody works, as of now.
async fn read_shared(
    node: &Node,
    handle: &ViewHandle,
    source: &str,
    keys: &[EntityKey],
) -> Result<OnlineRead, NodeError> {
    let still = Duration::from_millis(node.options().kafka.commit_interval_ms) * 3 + RETRY_DELAY;
    for _ in 0..READ_ATTEMPTS_MAX {
        node.workers().look(node.store().as_ref()).await?;
        let frontier = node.frontier(&handle.id).frontier;
        let positions = node.workers().positions(source);
        let states = node.store().get_many(handle, keys).await?;
        let now = node.ingest().read_now();
        let at = if frontier > now - COMPARABLE {
            frontier - 1
        } else {
            tokio::time::sleep(still).await;
            node.workers().look(node.store().as_ref()).await?;
            if node.workers().positions(source) != positions {
                continue;
            }
            now
        };
        let answers = states.iter().map(|state| match state {
            Some(state) => handle.plan.read(state, at),
            None => handle.plan.read_empty(),
        });
        return Ok(OnlineRead { at, cut: -1, answers: answers.collect() });
    }
    Err(busy())
}

/// Returns when the lake has what workers have written to the rows by now.
async fn wait_for_lake(node: &Node, source: &str) -> Result<(), NodeError> {
    node.workers().look(node.store().as_ref()).await?;
    let written = node.workers().positions(source);
    let definitions = node.definitions();
    let source = &definitions.sources[source];
    let flush_interval = Duration::from_millis(node.options().push.flush_interval_ms);
    let until = tokio::time::Instant::now() + flush_interval * 3 + LAKE_PATIENCE;
    loop {
        let in_lake = node.lake().topic_positions(source).await?.next;
        let is_there =
            |(partition, position): (&i32, &i64)| in_lake.get(partition).is_some_and(|next| next >= position);
        if written.iter().all(is_there) {
            return Ok(());
        }
        if tokio::time::Instant::now() > until {
            return Err(NodeError::new(
                "verify_busy",
                format!("workers have not brought what they read of `{}` to the lake", source.name),
                "look at `springhouse status`, and start `springhouse ingest` when no worker runs",
            ));
        }
        tokio::time::sleep(LAKE_RETRY_DELAY).await;
    }
}

/// The newest moment that the applied events can answer for; none while they are further behind than a state reads back.
fn moment(node: &Node, is_stream: bool) -> Option<Micros> {
    let now = node.ingest().read_now();
    if !is_stream {
        return Some(now);
    }
    // What is visible at the frontier itself may still be on its way.
    let at = node.ingest().positions().applied_frontier - 1;
    (at >= now - COMPARABLE).then_some(at)
}

fn compare(
    outcome: &mut VerifyOutcome,
    handle: &ViewHandle,
    types: &[ValueType],
    key: &EntityKey,
    at: Micros,
    online: &EntityAnswer,
    offline: &EntityAnswer,
) {
    for (index, (feature, _)) in handle.plan.features().iter().enumerate() {
        outcome.values += 1;
        let (left, right) = (side(online, index), side(offline, index));
        if left == right && online.event_time == offline.event_time {
            continue;
        }
        outcome.difference_count += 1;
        if outcome.differences.len() < DIFFERENCES_MAX {
            outcome.differences.push(Difference {
                view: handle.id.to_string(),
                feature: feature.clone(),
                key: format!("{:?}", key.decode(types).unwrap_or_default()),
                at,
                online: format!("{left:?} event_time={:?}", online.event_time),
                offline: format!("{right:?} event_time={:?}", offline.event_time),
            });
        }
    }
}

fn side(answer: &EntityAnswer, index: usize) -> (&Value, ValueStatus) {
    (&answer.values[index], answer.statuses[index])
}
