//! `POST /v1/features`: the hot route. Typed parsing, one serving call, one buffer.

use super::{Answer, json_bytes};
use crate::app::App;
use crate::body;
use crate::problem::from_serving;
use axum::extract::Request;
use axum::http::StatusCode;
use springhouse_api::{parse_features, write_features};
use std::sync::Arc;

pub(super) async fn features(app: Arc<App>, request: Request) -> Answer {
    body::expect_json(request.headers())?;
    let bytes = body::read(request, app.settings.body_bytes_max, &app.settings).await?;
    let serving = app.node.serving();
    let mut parsed = parse_features(&bytes, |selection| serving.signature(selection).map_err(from_serving))?;
    drop(bytes);
    if !app.settings.roles.is_empty() {
        parsed.request.roles.clone_from(&app.settings.roles);
    }
    let answer = serving.features(&parsed.request).await.map_err(from_serving)?;
    app.metrics.answer(&answer);
    let mut out = Vec::new();
    write_features(&mut out, &answer, &parsed.options);
    Ok(json_bytes(StatusCode::OK, out))
}
