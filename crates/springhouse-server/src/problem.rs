//! Errors on their way out: the one place where an [`ApiError`] becomes a response.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use springhouse_api::{ApiError, http_status};
use springhouse_ingest::PushError;
use springhouse_node::NodeError;
use springhouse_serving::ServingError;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Renders an error.
pub(crate) fn respond(error: &ApiError, trace_id: &str, retry_after_s: u64) -> Response {
    let body = serde_json::to_vec(&error.body(Some(trace_id.to_owned())))
        .expect("a struct of strings always becomes JSON");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    if error.status() == 429 || error.code == "shutting_down" {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
    }
    response
}

/// What a part says, as far as the outside may hear it. What it may not hear goes to the log, once, here.
pub(crate) fn from_part(code: &'static str, message: &str, hint: Option<&str>) -> ApiError {
    if http_status(code) == 500 {
        tracing::error!(code, message, "a request failed");
    }
    ApiError::from_part(code, message, hint)
}

pub(crate) fn from_serving(error: ServingError) -> ApiError {
    from_part(error.code, &error.message, error.hint.as_deref())
}

pub(crate) fn from_push(error: PushError) -> ApiError {
    if error.code == "store_lost" {
        return ApiError::new(
            "store_lost",
            "the online store lost rows and is being brought back; these are in the log and will be applied",
        )
        .hint("push again a little later, with the same ids");
    }
    // `log_failed` is a known code of status 503, but its text is about the disk.
    if error.code == "log_failed" {
        tracing::error!(code = error.code, message = error.message, "a push failed");
        return ApiError::new(
            "log_failed",
            "the log could not be written; nothing of the batch is acknowledged",
        )
        .hint("the server's log has the reason; push again when it is repaired");
    }
    from_part(error.code, &error.message, error.hint.as_deref())
}

pub(crate) fn from_node(error: NodeError) -> ApiError {
    if error.code == "store_lost" {
        tracing::error!(code = error.code, message = error.message, "the online store lost rows");
        return ApiError::new("store_lost", "the online store lost rows and is being brought back");
    }
    if error.code == "store_unavailable" {
        tracing::error!(code = error.code, message = error.message, "the online store does not answer");
        return ApiError::new("store_unavailable", "the online store does not answer");
    }
    from_part(error.code, &error.message, error.hint.as_deref())
}
