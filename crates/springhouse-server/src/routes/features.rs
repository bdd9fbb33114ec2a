//! `POST /v1/features`: the hot route. Typed parsing, one serving call, one buffer of JSON or Arrow.

use super::{Answer, json_bytes};
use crate::app::App;
use crate::body;
use crate::problem::from_serving;
use crate::trace::Notes;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use springhouse_api::{ARROW_STREAM, ApiError, arrow_answer, parse_features, write_features};
use springhouse_serving::{FeatureAnswer, FeatureRequest, Stages};
use std::sync::Arc;

pub(super) async fn features(app: Arc<App>, request: Request) -> Answer {
    body::expect_json(request.headers())?;
    let arrow = wants_arrow(request.headers());
    let notes = request.extensions().get::<Notes>().cloned();
    let bytes = body::read(request, app.settings.body_bytes_max, &app.settings).await?;
    let serving = app.node.serving();
    let parsed = parse_features(&bytes, |selection| serving.signature(selection).map_err(from_serving))?;
    drop(bytes);
    let answer = answer(&app, parsed.request, notes).await?;
    if arrow {
        let stream = arrow_answer(&answer, &parsed.options).map_err(|error| {
            tracing::error!(%error, "an answer could not be written");
            ApiError::internal()
        })?;
        let mut response = Response::new(Body::from(stream));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(ARROW_STREAM));
        return Ok(response);
    }
    let mut out = Vec::new();
    write_features(&mut out, &answer, &parsed.options);
    Ok(json_bytes(StatusCode::OK, out))
}

/// JSON, unless the caller names the Arrow stream among what it accepts.
fn wants_arrow(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|media| media.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(ARROW_STREAM))
}

/// Answers a request that was read, whatever contract it came by.
pub(super) async fn answer(
    app: &App,
    mut request: FeatureRequest,
    notes: Option<Notes>,
) -> Result<FeatureAnswer, ApiError> {
    if !app.settings.roles.is_empty() {
        request.roles.clone_from(&app.settings.roles);
    }
    let mut stages = if notes.is_some() { Stages::begin() } else { Stages::unmeasured() };
    let answer = app.node.serving().features_in_stages(&request, &mut stages).await;
    if let Some(notes) = notes {
        notes.features(stages, &request, answer.as_ref().ok());
    }
    let answer = answer.map_err(from_serving)?;
    app.metrics.answer(&answer);
    Ok(answer)
}
