//! Folded buckets on their way into the store, in a task of their own: while one is written the next are folded.

use crate::error::{LakeError, Result};
use springhouse_core::crash_point::crash_point;
use springhouse_core::{EntityKey, Micros};
use springhouse_kernel::EntityState;
use springhouse_online::{Lane, OnlineStore, ViewHandle, Write};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{JoinError, JoinHandle, JoinSet};

/// Folded buckets that wait to be written: the store has something to do while the history of the next view is read.
const WAITING_MAX: usize = 4;
/// Parts of a bucket that are on their way to the store at once.
const PARTS_UNDER_WAY: usize = 8;
/// Rows written between two checkpoints of the store: what a killed job does again at most.
const CHECKPOINT_ROWS: u64 = 2_000_000;

/// Where the buckets of a job go.
pub(crate) struct Target {
    pub(crate) store: Arc<dyn OnlineStore>,
    pub(crate) view: ViewHandle,
    pub(crate) until: Micros,
    /// As the job's note has it.
    pub(crate) part_entities: Option<usize>,
    /// What the lanes of the job's buckets begin with.
    pub(crate) lanes_of_job: String,
    /// The lanes that the store had when the job was taken up.
    pub(crate) lanes: BTreeMap<Arc<str>, i64>,
}

/// One bucket, folded.
pub(crate) struct Bucket {
    pub(crate) number: usize,
    /// The rows that went into it.
    pub(crate) rows: u64,
    /// In the order of their keys.
    pub(crate) deltas: Vec<(EntityKey, EntityState)>,
}

/// The task; ends with its owner.
pub(crate) struct Loading {
    buckets: Option<Sender<Bucket>>,
    task: JoinHandle<Result<()>>,
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Loading {
    pub(crate) fn begin(target: Target) -> Self {
        let (buckets, folded) = channel(WAITING_MAX);
        Self { buckets: Some(buckets), task: tokio::spawn(target.load(folded)) }
    }

    /// Hands a bucket over; waits while others are in front of it.
    pub(crate) async fn add(&mut self, bucket: Bucket) -> Result<()> {
        let taken = match &self.buckets {
            Some(buckets) => buckets.send(bucket).await.is_ok(),
            None => false,
        };
        // It stops taking when it has failed.
        if taken { Ok(()) } else { self.end().await }
    }

    /// Waits until everything is written.
    pub(crate) async fn end(&mut self) -> Result<()> {
        self.buckets = None;
        joined((&mut self.task).await)
    }
}

impl Target {
    /// The lane of a bucket; its position is 1 once all of the bucket is written.
    pub(crate) fn lane(&self, bucket: usize) -> Arc<str> {
        format!("{}{bucket}", self.lanes_of_job).into()
    }

    pub(crate) fn is_done(&self, bucket: usize) -> bool {
        self.lanes.contains_key(&self.lane(bucket))
    }

    async fn load(self, mut folded: Receiver<Bucket>) -> Result<()> {
        let mut since_checkpoint = 0;
        while let Some(bucket) = folded.recv().await {
            since_checkpoint += bucket.rows;
            self.write(bucket).await?;
            crash_point("materialize_bucket_written");
            if since_checkpoint >= CHECKPOINT_ROWS {
                self.store.checkpoint().await?;
                since_checkpoint = 0;
            }
        }
        Ok(())
    }

    /// Writes the states of a bucket that are not written yet, and then its lane.
    async fn write(&self, bucket: Bucket) -> Result<()> {
        let write = |deltas| vec![Write { view: self.view.clone(), deltas }];
        let lane = Lane { name: self.lane(bucket.number), position: 1 };
        let size = self.part_entities.unwrap_or(usize::MAX);
        if bucket.deltas.len() <= size {
            self.store.write(write(bucket.deltas), lane, self.until).await?;
            return Ok(());
        }
        // The order of keys is that of the run before, so the parts are the same.
        let mut deltas = bucket.deltas.into_iter();
        let mut parts = Vec::new();
        for number in 0.. {
            let part: Vec<_> = deltas.by_ref().take(size).collect();
            if part.is_empty() {
                break;
            }
            let lane = Lane { name: format!("{}/{number}", lane.name).into(), position: 1 };
            if !self.lanes.contains_key(&lane.name) {
                parts.push((lane, part));
            }
        }
        // Each in a task of its own: making a part ready takes as long as the store takes to write it.
        let mut under_way = JoinSet::new();
        for (lane, part) in parts {
            if under_way.len() == PARTS_UNDER_WAY
                && let Some(written) = under_way.join_next().await
            {
                joined(written)?;
            }
            let (store, until, write) = (Arc::clone(&self.store), self.until, write(part));
            under_way.spawn(async move { Ok(store.write(write, lane, until).await.map(drop)?) });
        }
        while let Some(written) = under_way.join_next().await {
            joined(written)?;
        }
        self.store.write(Vec::new(), lane, self.until).await?;
        Ok(())
    }
}

/// What a task ended with; a panic goes on in who waits for it.
fn joined(ended: Result<Result<()>, JoinError>) -> Result<()> {
    match ended {
        Ok(written) => written,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(LakeError::new("cancelled", "the job was given up")),
        },
    }
}
