//! Jobs of the running server: one at a time, the newest remembered.

use prometheus_client::metrics::gauge::Gauge;
use springhouse_api::{
    ApiError, DifferenceBody, ErrorDetail, JobBody, JobKind, JobProgress, JobState, VerifiedBody,
    ViewOutcome, format_timestamp,
};
use springhouse_core::Micros;
use springhouse_lake::Progress;
use springhouse_node::{JobOutcome, Node, NodeError, VerifyOutcome};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Jobs remembered; the oldest is forgotten first.
const JOBS_MAX: usize = 100;

/// What a caller wants done.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) kind: JobKind,
    pub(crate) views: Option<Vec<String>>,
    pub(crate) until: Option<Micros>,
    pub(crate) entities_per_view: usize,
}

/// The jobs of this process.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    started: u64,
    jobs: VecDeque<JobBody>,
}

/// What a job that ended well found.
enum Found {
    Views(Vec<JobOutcome>),
    Verified(VerifyOutcome),
}

impl Jobs {
    // A panic while the lock is held leaves plain data behind: nothing half done that matters.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: &str) -> Option<JobBody> {
        self.ledger().jobs.iter().find(|job| job.id == id).cloned()
    }

    /// Starts a job in the background.
    pub(crate) fn start(
        self: &Arc<Self>,
        node: Arc<Node>,
        order: Order,
        running: Gauge,
    ) -> Result<JobBody, ApiError> {
        let job = self.admit(order.kind, node.ingest().read_now())?;
        let (jobs, id) = (self.clone(), job.id.clone());
        running.inc();
        tokio::spawn(async move {
            let (worker, work_id) = (jobs.clone(), id.clone());
            let work_node = node.clone();
            // A task inside the task, so that a panic ends the job and not its bookkeeping.
            let work = tokio::spawn(async move {
                run(&work_node, &order, &Reporter { jobs: worker, id: work_id }).await
            });
            let result = match work.await {
                Ok(result) => result,
                Err(error) => {
                    tracing::error!(job = id, error = %error, "a job broke off");
                    Err(NodeError {
                        code: "job_broke_off",
                        message: "the job broke off".to_owned(),
                        hint: None,
                    })
                }
            };
            running.dec();
            jobs.finish(&id, node.ingest().read_now(), result);
        });
        Ok(job)
    }

    fn admit(&self, kind: JobKind, now: Micros) -> Result<JobBody, ApiError> {
        let mut ledger = self.ledger();
        if let Some(other) = ledger.jobs.iter().find(|job| job.state == JobState::Running) {
            return Err(ApiError::new("job_running", format!("job {} is running", other.id))
                .hint(format!("follow it at /v1/admin/jobs/{}", other.id)));
        }
        ledger.started += 1;
        let job = JobBody {
            id: ledger.started.to_string(),
            kind,
            state: JobState::Running,
            started_at: format_timestamp(now),
            finished_at: None,
            progress: None,
            views: None,
            verified: None,
            error: None,
        };
        ledger.jobs.push_back(job.clone());
        if ledger.jobs.len() > JOBS_MAX {
            ledger.jobs.pop_front();
        }
        Ok(job)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut JobBody)) {
        if let Some(job) = self.ledger().jobs.iter_mut().find(|job| job.id == id) {
            change(job);
        }
    }

    fn finish(&self, id: &str, now: Micros, result: Result<Found, NodeError>) {
        if let Err(error) = &result {
            tracing::error!(job = id, code = error.code, message = error.message, "a job failed");
        }
        self.change(id, |job| {
            job.finished_at = Some(format_timestamp(now));
            job.state = if result.is_ok() { JobState::Done } else { JobState::Failed };
            match result {
                Ok(Found::Views(views)) => job.views = Some(views.into_iter().map(view_outcome).collect()),
                Ok(Found::Verified(outcome)) => job.verified = Some(verified(outcome)),
                Err(error) => {
                    job.error = Some(ErrorDetail {
                        code: error.code.to_owned(),
                        message: error.message,
                        hint: error.hint,
                        trace_id: None,
                    });
                }
            }
        });
    }
}

async fn run(node: &Node, order: &Order, progress: &Reporter) -> Result<Found, NodeError> {
    let views = order.views.as_deref();
    match order.kind {
        JobKind::Materialize => Ok(Found::Views(node.materialize(views, order.until, progress).await?)),
        JobKind::Rebuild => Ok(Found::Views(node.rebuild(views, progress).await?)),
        JobKind::Verify => Ok(Found::Verified(node.verify(views, order.entities_per_view).await?)),
    }
}

struct Reporter {
    jobs: Arc<Jobs>,
    id: String,
}

impl Progress for Reporter {
    fn report(&self, stage: &'static str, done: u64, total: u64) {
        self.jobs.change(&self.id, |job| {
            job.progress = Some(JobProgress { stage: stage.to_owned(), done, total });
        });
    }
}

fn view_outcome(outcome: JobOutcome) -> ViewOutcome {
    ViewOutcome {
        view: outcome.view,
        rows: outcome.rows,
        entities: outcome.entities,
        seconds: outcome.seconds,
        generation: outcome.generation,
        rebuilt: outcome.rebuilt,
    }
}

fn verified(outcome: VerifyOutcome) -> VerifiedBody {
    VerifiedBody {
        values: outcome.values,
        entities: outcome.entities,
        difference_count: outcome.difference_count,
        differences: outcome
            .differences
            .into_iter()
            .map(|difference| DifferenceBody {
                view: difference.view,
                feature: difference.feature,
                key: difference.key,
                at: format_timestamp(difference.at),
                online: difference.online,
                offline: difference.offline,
            })
            .collect(),
        not_materialized: outcome.not_materialized,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_job_runs_at_a_time_and_the_newest_are_remembered() {
        let jobs = Jobs::default();
        let first = jobs.admit(JobKind::Rebuild, 0).unwrap();
        assert_eq!(jobs.admit(JobKind::Verify, 0).unwrap_err().code, "job_running");
        let failed =
            NodeError { code: "lake_failed", message: "no such file /data/x".to_owned(), hint: None };
        jobs.finish(&first.id, 1, Err(failed));
        let seen = jobs.get(&first.id).unwrap();
        assert_eq!((seen.state, seen.error.unwrap().code.as_str()), (JobState::Failed, "lake_failed"));
        for _ in 0..JOBS_MAX {
            let job = jobs.admit(JobKind::Materialize, 2).unwrap();
            jobs.finish(&job.id, 3, Ok(Found::Views(Vec::new())));
        }
        assert!(jobs.get(&first.id).is_none());
        assert_eq!(jobs.ledger().jobs.len(), JOBS_MAX);
    }
}
