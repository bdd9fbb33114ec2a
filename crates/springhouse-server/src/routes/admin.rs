//! What an operator may do to a running server.

use super::{Answer, json, last_segment};
use crate::app::App;
use crate::body;
use crate::jobs::Order;
use crate::peer::check_admin;
use crate::problem::{from_node, from_part, from_push};
use axum::extract::Request;
use axum::http::StatusCode;
use springhouse_api::{AdminBody, ApiError, JobKind, JobRequestBody, from_object, parse_timestamp};
use std::sync::Arc;

pub(super) async fn flush(app: Arc<App>, request: Request) -> Answer {
    check_admin(&request, app.settings.admin_remote)?;
    let end = app.node.ingest().flush().await.map_err(from_push)?;
    json(StatusCode::OK, &AdminBody { flushed_end: Some(end), ..AdminBody::default() })
}

pub(super) async fn checkpoint(app: Arc<App>, request: Request) -> Answer {
    check_admin(&request, app.settings.admin_remote)?;
    let done = app.node.store().checkpoint().await;
    done.map_err(|error| from_part("checkpoint_failed", &error.to_string(), None))?;
    json(StatusCode::OK, &AdminBody { checkpointed: Some(true), ..AdminBody::default() })
}

pub(super) async fn reload(app: Arc<App>, request: Request) -> Answer {
    check_admin(&request, app.settings.admin_remote)?;
    let snapshot = app.node.reload().await.map_err(from_node)?;
    json(StatusCode::OK, &AdminBody { snapshot: Some(snapshot), ..AdminBody::default() })
}

pub(super) async fn materialize(app: Arc<App>, request: Request) -> Answer {
    start(app, request, JobKind::Materialize).await
}

pub(super) async fn rebuild(app: Arc<App>, request: Request) -> Answer {
    start(app, request, JobKind::Rebuild).await
}

pub(super) async fn verify(app: Arc<App>, request: Request) -> Answer {
    start(app, request, JobKind::Verify).await
}

pub(super) async fn job(app: Arc<App>, request: Request) -> Answer {
    check_admin(&request, app.settings.admin_remote)?;
    let id = last_segment(&request)?;
    let job = app.jobs.get(&id).ok_or_else(|| ApiError::new("unknown_job", "there is no job of this id"))?;
    json(StatusCode::OK, &job)
}

async fn start(app: Arc<App>, request: Request, kind: JobKind) -> Answer {
    check_admin(&request, app.settings.admin_remote)?;
    body::expect_json(request.headers())?;
    let bytes = body::read(request, app.settings.body_bytes_max, &app.settings).await?;
    let order = order(kind, &bytes)?;
    let definitions = app.node.definitions();
    for view in order.views.iter().flatten() {
        if !definitions.feature_views.contains_key(view) {
            let known: Vec<_> = definitions.feature_views.keys().map(String::as_str).collect();
            return Err(ApiError::new("unknown_view", format!("there is no feature view `{view}`"))
                .hint(format!("the views are: {}", known.join(", "))));
        }
    }
    if app.is_draining() {
        return Err(ApiError::new("shutting_down", "the server is stopping"));
    }
    let job = app.jobs.start(app.node.clone(), order, app.metrics.jobs_running.clone())?;
    json(StatusCode::ACCEPTED, &job)
}

/// Entities of each view that `verify` compares unless told.
const ENTITIES_PER_VIEW: usize = 100;

fn order(kind: JobKind, bytes: &[u8]) -> Result<Order, ApiError> {
    let body: JobRequestBody =
        if bytes.trim_ascii().is_empty() { JobRequestBody::default() } else { from_object(bytes)? };
    let only_for = |field: &str, kind: &str| {
        Err(ApiError::new("invalid_request", format!("`{field}` is only for `{kind}`")))
    };
    if body.until.is_some() && kind != JobKind::Materialize {
        return only_for("until", "materialize");
    }
    if body.entities_per_view.is_some() && kind != JobKind::Verify {
        return only_for("entities_per_view", "verify");
    }
    let until = match &body.until {
        None => None,
        Some(text) => Some(parse_timestamp(text).ok_or_else(|| {
            ApiError::new("invalid_request", "`until` is no RFC 3339 timestamp with an offset")
        })?),
    };
    let entities_per_view = body.entities_per_view.unwrap_or(ENTITIES_PER_VIEW);
    Ok(Order { kind, views: body.views, until, entities_per_view })
}
