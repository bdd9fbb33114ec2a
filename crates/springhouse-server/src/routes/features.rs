//! `POST /v1/features`: the hot route. Typed parsing, one serving call, one buffer.

use super::{Answer, json_bytes};
use crate::app::App;
use crate::body;
use crate::problem::from_serving;
use axum::extract::Request;
use axum::http::StatusCode;
use springhouse_api::{ApiError, parse_features, write_features};
use springhouse_serving::{FeatureAnswer, FeatureRequest};
use std::sync::Arc;

pub(super) async fn features(app: Arc<App>, request: Request) -> Answer {
    body::expect_json(request.headers())?;
    let bytes = body::read(request, app.settings.body_bytes_max, &app.settings).await?;
    let serving = app.node.serving();
    let parsed = parse_features(&bytes, |selection| serving.signature(selection).map_err(from_serving))?;
    drop(bytes);
    let answer = answer(&app, parsed.request).await?;
    let mut out = Vec::new();
    write_features(&mut out, &answer, &parsed.options);
    Ok(json_bytes(StatusCode::OK, out))
}

/// Answers a request that was read, whatever contract it came by.
pub(super) async fn answer(app: &App, mut request: FeatureRequest) -> Result<FeatureAnswer, ApiError> {
    if !app.settings.roles.is_empty() {
        request.roles.clone_from(&app.settings.roles);
    }
    let answer = app.node.serving().features(&request).await.map_err(from_serving)?;
    app.metrics.answer(&answer);
    Ok(answer)
}
