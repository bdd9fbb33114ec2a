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
use std::sync::Arc;

/// The body's forms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Arrow,
}

pub(super) async fn push(app: Arc<App>, request: Request) -> Answer {
    let result = take(&app, request).await;
    if let Err(error) = &result {
        app.metrics.push_refused(error.code);
    }
    let outcome = result?;
    app.metrics.pushed(outcome.accepted, outcome.duplicates, outcome.refused);
    json(StatusCode::OK, &push_body(outcome))
}

async fn take(app: &Arc<App>, request: Request) -> Result<PushOutcome, ApiError> {
    let source = last_segment(&request)?;
    let form = form(request.headers())?;
    let backfill = backfill(request.uri().query())?;
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

fn json_push(source: String, bytes: &Bytes, key: Option<&str>) -> Result<PushRequest, ApiError> {
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

fn backfill(query: Option<&str>) -> Result<bool, ApiError> {
    let mut backfill = false;
    for pair in parse_query(query.unwrap_or_default())? {
        backfill = match (pair.name.as_str(), pair.value.as_str()) {
            ("backfill", "true") => true,
            ("backfill", "false") => false,
            ("backfill", _) => {
                return Err(ApiError::new("invalid_query", "`backfill` is `true` or `false`"));
            }
            _ => {
                return Err(ApiError::new("invalid_query", "the only query parameter here is `backfill`"));
            }
        };
    }
    Ok(backfill)
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
