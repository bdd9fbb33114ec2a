//! `POST /v1/push/{source}`.

use super::{Answer, json, last_segment};
use crate::app::App;
use crate::body;
use crate::problem::from_push;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use springhouse_api::{
    ARROW_STREAM, ApiError, PushBody, PushExceptionBody, RowOutcomeKind, arrow_batches, batch_key,
    format_timestamp, parse_push, parse_query,
};
use springhouse_ingest::{PushOutcome, PushRequest, PushRows, RowOutcome};
use std::future::Future;
use std::sync::Arc;

/// What is wanted with rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    Push,
    /// Only what would become of them.
    Check,
}

/// The body's forms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Arrow,
}

pub(super) async fn push(app: Arc<App>, request: Request) -> Answer {
    let outcome = measured(&app, read(&app, request)).await?;
    json(StatusCode::OK, &push_body(outcome))
}

/// Pushes the rows, once they are read, and counts what became of them.
pub(super) async fn measured(
    app: &App,
    rows: impl Future<Output = Result<(PushRequest, Intent), ApiError>>,
) -> Result<PushOutcome, ApiError> {
    let result = match rows.await {
        Ok((push, Intent::Push)) => take(app, push).await,
        Ok((push, Intent::Check)) => return app.node.ingest().check(push).await.map_err(from_push),
        Err(error) => Err(error),
    };
    match &result {
        Ok(outcome) => app.metrics.pushed(outcome.accepted, outcome.duplicates, outcome.refused),
        Err(error) => app.metrics.push_refused(error.code),
    }
    result
}

async fn read(app: &App, request: Request) -> Result<(PushRequest, Intent), ApiError> {
    let source = last_segment(&request)?;
    let form = form(request.headers())?;
    let (backfill, intent) = options(request.uri().query())?;
    let key = header_key(request.headers())?;
    let bytes = body::read(request, app.settings.push_body_bytes_max, &app.settings).await?;
    let mut push = match form {
        Form::Json => json_push(source, &bytes, key.as_deref())?,
        Form::Arrow => PushRequest {
            source,
            rows: PushRows::Arrow(arrow_batches(&bytes)?),
            idempotency_key: batch_key(key.as_deref(), None)?,
            row_keys: None,
            backfill: false,
        },
    };
    push.backfill |= backfill;
    Ok((push, intent))
}

async fn take(app: &App, push: PushRequest) -> Result<PushOutcome, ApiError> {
    // In a task of its own: a caller who hangs up must not stop a push halfway.
    let node = app.node.clone();
    let pushed = tokio::spawn(async move { node.ingest().push(push).await });
    match pushed.await {
        Ok(outcome) => outcome.map_err(from_push),
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ApiError::new("shutting_down", "the server is stopping")),
        },
    }
}

pub(super) fn json_push(source: String, bytes: &Bytes, key: Option<&str>) -> Result<PushRequest, ApiError> {
    let envelope = parse_push(bytes, key)?;
    Ok(PushRequest {
        source,
        rows: PushRows::Json(bytes.slice(envelope.rows)),
        idempotency_key: envelope.idempotency_key,
        row_keys: envelope.row_keys,
        backfill: envelope.backfill,
    })
}

fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    match body::media_type(headers).as_deref() {
        None | Some("application/json") => Ok(Form::Json),
        Some(ARROW_STREAM) => Ok(Form::Arrow),
        Some(_) => Err(ApiError::new(
            "unsupported_content_type",
            format!("this path takes `application/json` and `{ARROW_STREAM}`"),
        )
        .hint("set the header `content-type`")),
    }
}

fn header_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    headers
        .get("idempotency-key")
        .map(|value| {
            value.to_str().map(str::to_owned).map_err(|_| {
                ApiError::new("invalid_idempotency_key", "the idempotency key is not plain ASCII text")
            })
        })
        .transpose()
}

fn options(query: Option<&str>) -> Result<(bool, Intent), ApiError> {
    let (mut backfill, mut intent) = (false, Intent::Push);
    for pair in parse_query(query.unwrap_or_default())? {
        let value = match pair.value.as_str() {
            "true" => true,
            "false" => false,
            _ => {
                let message = format!("`{}` is `true` or `false`", pair.name);
                return Err(ApiError::new("invalid_query", message));
            }
        };
        match pair.name.as_str() {
            "backfill" => backfill = value,
            "dry_run" if value => intent = Intent::Check,
            "dry_run" => {}
            _ => {
                let message = "the query parameters here are `backfill` and `dry_run`";
                return Err(ApiError::new("invalid_query", message));
            }
        }
    }
    Ok((backfill, intent))
}

fn push_body(outcome: PushOutcome) -> PushBody {
    let exception = |(row, outcome)| match outcome {
        RowOutcome::Accepted => None,
        RowOutcome::Duplicate => {
            Some(PushExceptionBody { row, outcome: RowOutcomeKind::Duplicate, code: None, reason: None })
        }
        RowOutcome::Refused { code, reason } => Some(PushExceptionBody {
            row,
            outcome: RowOutcomeKind::Refused,
            code: Some(code.to_owned()),
            reason: Some(reason),
        }),
    };
    PushBody {
        accepted: outcome.accepted,
        duplicates: outcome.duplicates,
        refused: outcome.refused,
        exceptions: outcome.exceptions.into_iter().filter_map(exception).collect(),
        end_offset: outcome.end_offset,
        known_at: format_timestamp(outcome.known_at),
    }
}
