//! Jobs on the server: start, follow with a bar, report. `materialize`, `rebuild` and `verify` share it.

use crate::client::Refused;
use crate::output;
use crate::session::Session;
use anyhow::Context;
use springhouse_api::{JobBody, JobRequestBody, JobState};
use springhouse_node::WAITING_FOR_STORE;
use std::time::{Duration, Instant};

/// A running job is asked how far it is after a fiftieth of the time that it has taken so far, within these bounds.
const POLL_SHORTEST: Duration = Duration::from_millis(1);
const POLL_LONGEST: Duration = Duration::from_millis(50);

/// Starts the job `kind` (a path segment) and follows it to its end.
pub(crate) async fn follow(
    session: &Session,
    kind: &str,
    request: &JobRequestBody,
) -> anyhow::Result<JobBody> {
    let started = session.client.post(&format!("/v1/admin/{kind}"), &serde_json::to_value(request)?).await?;
    let mut job: JobBody = serde_json::from_value(started).context("the answer is no job")?;
    let bar = output::bar();
    let begun = Instant::now();
    let mut is_waiting = false;
    while job.state == JobState::Running {
        tokio::time::sleep((begun.elapsed() / 50).clamp(POLL_SHORTEST, POLL_LONGEST)).await;
        let body = session.client.get(&format!("/v1/admin/jobs/{}", job.id)).await?;
        job = serde_json::from_value(body).context("the answer is no job")?;
        if let Some(progress) = &job.progress {
            let was_waiting = std::mem::replace(&mut is_waiting, progress.stage == WAITING_FOR_STORE);
            if is_waiting && !was_waiting {
                let seconds = progress.total - progress.done;
                bar.note(&format!(
                    "{WAITING_FOR_STORE}, which does not answer or is being brought back: {seconds} s at most"
                ));
            }
            bar.set(&progress.stage, progress.done, progress.total);
        }
    }
    bar.finish();
    match job.error {
        None => Ok(job),
        Some(error) => {
            Err(Refused { code: error.code.to_string(), message: error.message, hint: error.hint }.into())
        }
    }
}

/// Prints what a job did to each view.
pub(crate) fn print_views(job: &JobBody) {
    for view in job.views.iter().flatten() {
        let rate = if view.seconds > 0.0 { view.rows as f64 / view.seconds } else { 0.0 };
        output::data(&format!(
            "{:<32} {:>10} rows  {:>9} entities  {:>7.2} s  {:>10.0} rows/s{}",
            view.view,
            view.rows,
            view.entities,
            view.seconds,
            rate,
            if view.rebuilt { format!("  (generation {})", view.generation) } else { String::new() }
        ));
    }
}
