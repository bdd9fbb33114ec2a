//! `/health`, `/ready`, `/metrics`.

use super::{Answer, json};
use crate::app::App;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use springhouse_api::{ApiError, HealthBody, ReadyBody, ReadyCheck};
use springhouse_core::time::format_duration;
use springhouse_node::{Condition, NodeError, NodeStatus};
use springhouse_serving::ServingStatistics;
use std::sync::Arc;

pub(super) async fn health(_: Arc<App>, _: Request) -> Answer {
    let body = HealthBody { status: "alive".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    json(StatusCode::OK, &body)
}

pub(super) async fn ready(app: Arc<App>, _: Request) -> Answer {
    let body = readiness(&app).await;
    json(if body.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

/// Whether requests should be sent here, and what is not as it should be.
pub(super) async fn readiness(app: &App) -> ReadyBody {
    let status = app.node.status().await;
    let definitions = app.node.definitions();
    let mut checks = vec![
        check("accepting", true, app.is_draining().then(|| "the server is stopping".to_owned())),
        check(
            "definitions",
            true,
            definitions.feature_views.is_empty().then(|| "no feature view is applied".to_owned()),
        ),
    ];
    checks.extend(state_checks(&status, app.settings.frontier_lag_max_ms));
    checks.extend(guard_check(&app.node.serving().statistics()));
    ReadyBody {
        ready: checks.iter().all(|check| check.ok || !check.required),
        degraded: checks.iter().any(|check| !check.ok),
        checks,
    }
}

fn check(name: impl Into<String>, required: bool, why: Option<String>) -> ReadyCheck {
    ReadyCheck { name: name.into(), ok: why.is_none(), required, why }
}

/// A store of which nodes are not asked makes answers degraded; there are answers all the same.
fn guard_check(statistics: &ServingStatistics) -> Option<ReadyCheck> {
    let guard = statistics.guard.as_ref()?;
    let broken = guard.broken_nodes();
    let why = (!broken.is_empty()).then(|| {
        format!(
            "{} of {} nodes of the store failed and are not asked for a while; values of theirs are cached, last known or \
             defaults",
            broken.len(),
            guard.nodes.len()
        )
    });
    Some(check("store nodes", false, why))
}

/// Store, log and frontier decide; a view that is behind its target makes the server degraded, not useless.
fn state_checks(status: &Result<NodeStatus, NodeError>, frontier_lag_max_ms: u64) -> Vec<ReadyCheck> {
    let status = match status {
        Ok(status) => status,
        // The text may hold paths; the code does not.
        Err(error) => return vec![check("store", true, Some(format!("no answer: {}", error.code)))],
    };
    let positions = &status.positions;
    let backlog = positions.log_end - positions.applied_end;
    let lag = (status.now - positions.applied_frontier).max(0);
    let lag_max = i64::try_from(frontier_lag_max_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
    let behind = (backlog > 0 && lag > lag_max).then(|| {
        format!("{backlog} pushed rows wait to be applied, the oldest for {}", format_duration(lag))
    });
    // Without its log a node takes no pushes, but it still answers: a model is not taken down for that. The reasons are
    // for the server's log, they hold paths.
    let log =
        positions.log_error.as_ref().map(|_| "the log takes no more rows; pushes are refused".to_owned());
    let flush = positions.flush_error.as_ref().map(|_| "the last flush to the lake failed".to_owned());
    // A store elsewhere fails for all servers at once: taking them all out of service for that would take the model down.
    // There are cached, last known and default values meanwhile.
    let is_own = !status.store_is_elsewhere;
    let store = match &status.store_condition {
        Condition::Whole => None,
        Condition::Filling => Some("it is being filled from history".to_owned()),
        Condition::Lost(why) => Some(format!("{why}; it will be filled again")),
    };
    let mut checks = vec![
        check("store", is_own, store),
        check("log", false, log),
        check("flush", false, flush),
        check("frontier", is_own, behind),
    ];
    for view in &status.views {
        let why = match view.age {
            None => Some("its history was never loaded; run `springhouse materialize`".to_owned()),
            Some(age) if age > view.slo_p99 => Some(format!(
                "{} behind, its p99 target is {}",
                format_duration(age),
                format_duration(view.slo_p99)
            )),
            Some(_) => None,
        };
        checks.push(check(format!("view {}", view.view), false, why));
    }
    for topic in &status.topics {
        let why = match (&topic.error, topic.lost) {
            // The reason may hold addresses: it is in the server's log.
            (Some(_), _) => Some(format!("it is not read; {} messages wait", topic.lag())),
            (None, 0) => None,
            (None, lost) => Some(format!("{lost} messages were deleted from it before they were read")),
        };
        checks.push(check(format!("topic {}", topic.topic), false, why));
    }
    checks
}

pub(super) async fn metrics(app: Arc<App>, _: Request) -> Answer {
    // Without the node's state the counters are still worth having.
    let status = app.node.status().await.ok();
    let text = app
        .metrics
        .scrape(status.as_ref(), &app.node.serving().statistics())
        .map_err(|_| ApiError::internal())?;
    let mut response = Response::new(Body::from(text));
    let open_metrics = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, open_metrics);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use springhouse_serving::{BreakerState, GuardStatistics, NodeStatistics};

    #[test]
    fn nodes_that_are_not_asked_are_told_but_do_not_make_the_server_unready() {
        let node = |breaker| NodeStatistics { breaker, opened: 1, limit: 1, under_way: 0 };
        let nodes = vec![node(BreakerState::Closed), node(BreakerState::Open)];
        let guard = GuardStatistics { nodes, ..Default::default() };
        let statistics = ServingStatistics { guard: Some(guard), ..Default::default() };
        let said = guard_check(&statistics).unwrap();
        assert!(!said.ok && !said.required);
        assert!(said.why.unwrap().starts_with("1 of 2 nodes"));
        assert!(guard_check(&ServingStatistics::default()).is_none());
    }
}
