//! Reading a body: the right content type, not too long, in time.

use crate::settings::ServerSettings;
use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use springhouse_api::ApiError;
use std::time::Duration;

/// The media type of the body, without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Refuses everything but JSON; a missing content type is taken for JSON.
pub(crate) fn expect_json(headers: &HeaderMap) -> Result<(), ApiError> {
    // The usual spelling, without a copy.
    if headers.get(header::CONTENT_TYPE).is_none_or(|value| value == "application/json") {
        return Ok(());
    }
    match media_type(headers) {
        Some(media) if media == "application/json" => Ok(()),
        _ => Err(ApiError::new("unsupported_content_type", "this path takes `application/json`")
            .hint("set the header `content-type: application/json`")),
    }
}

/// Reads the whole body.
pub(crate) async fn read(
    request: Request,
    limit: usize,
    settings: &ServerSettings,
) -> Result<Bytes, ApiError> {
    let headers = request.headers();
    if headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        return Err(ApiError::new("unsupported_content_encoding", "compressed bodies are not taken")
            .hint("send the body as it is"));
    }
    let too_large = || {
        ApiError::new("too_large", format!("the body is larger than {limit} bytes"))
            .hint("send fewer rows at once, or raise the server's limit")
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let collected = collect(request.into_body(), limit);
    let timeout = Duration::from_millis(settings.body_timeout_ms);
    match tokio::time::timeout(timeout, collected).await {
        Err(_) => Err(ApiError::new("body_timeout", "the body did not arrive in time")),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::new("malformed_body", "the body broke off")),
        Ok(Ok(bytes)) => Ok(bytes),
    }
}

/// Most bodies come in one piece, which is taken as it is.
async fn collect(body: Body, limit: usize) -> Result<Bytes, BoxError> {
    let mut body = Limited::new(body, limit);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
