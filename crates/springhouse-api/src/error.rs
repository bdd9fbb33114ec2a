//! Errors as callers see them: one shape, stable codes, one function from code to HTTP status.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// A stable error code with its HTTP status and meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// What clients branch on; never changes its meaning.
    pub code: &'static str,
    /// The HTTP status it is sent with.
    pub status: u16,
    /// When it comes, for the document.
    pub meaning: &'static str,
}

const fn code(code: &'static str, status: u16, meaning: &'static str) -> ErrorCode {
    ErrorCode { code, status, meaning }
}

/// The code of everything that is the server's own fault. Its message never carries paths or values.
pub const INTERNAL: &str = "internal";

/// Every code that a client can meet. A code that is not here is answered as [`INTERNAL`].
pub const ERROR_CODES: &[ErrorCode] = &[
    // The request as such.
    code("malformed_json", 400, "the body is not JSON; the message has line and column"),
    code("invalid_request", 400, "the body is JSON of another shape: unknown, missing or repeated field"),
    code("invalid_query", 400, "a query parameter is missing, unknown or has a wrong value"),
    code("malformed_body", 400, "the pushed body can't be read as rows"),
    code("unknown_route", 404, "there is no such path"),
    code("method_not_allowed", 405, "the path exists, but not with this method"),
    code("too_large", 413, "the body is larger than the server takes"),
    code("unsupported_content_type", 415, "the body's content type is not taken by this path"),
    code("unsupported_content_encoding", 415, "compressed bodies are not taken"),
    code("headers_too_large", 431, "the request's headers are larger than the server takes"),
    code("body_timeout", 408, "the body did not arrive in time"),
    code(
        "forbidden_origin",
        403,
        "admin paths are for this machine (or `server.admin_remote`), and not for web pages",
    ),
    // Reading features.
    code("unknown_service", 404, "no feature service of this name"),
    code("unknown_feature", 404, "no view or feature of this name"),
    code("unknown_view", 404, "no feature view of this name"),
    code("missing_entity_key", 400, "an entity key of the request's features is not given"),
    code("unknown_entity_key", 400, "an entity key is given that none of the features has"),
    code("invalid_entity_key", 400, "an entity key is null or too long"),
    code("wrong_type", 400, "a key or request field has a value of another type than declared"),
    code("missing_request_field", 400, "a required request field is not given"),
    code("unknown_request_field", 400, "a request field is given that none of the features uses"),
    code("row_count_mismatch", 400, "the columns of the request differ in length"),
    code("too_many_rows", 413, "more entity rows than `serving.rows_max`"),
    code("too_many_features", 413, "more features than `serving.features_max`"),
    code("denied", 403, "the caller may not read this service or view"),
    code("stale_refused", 503, "a value is stale and the service's policy is to fail"),
    code("expired_refused", 503, "a value is expired and the service's policy is to fail"),
    code("missing_refused", 503, "a value is missing and the service's policy is to fail"),
    code(
        "store_unavailable",
        503,
        "the online store did not answer in time and the service's policy is to fail",
    ),
    code(
        "shed",
        429,
        "more requests than can be answered in time; this one was not begun: try after `Retry-After`",
    ),
    code("deadline_exceeded", 504, "the caller's `timeout_ms` was over before the request could be begun"),
    code("store_corrupt", 500, "stored bytes fail their checksum; run `springhouse rebuild`"),
    // Pushing.
    code("unknown_source", 404, "no source of this name"),
    code("not_a_stream", 400, "the source is a table; only push streams take rows"),
    code("invalid_idempotency_key", 400, "the key is empty, too long, or differs between header and body"),
    code("overloaded", 429, "too much is waiting for the log; try again after `Retry-After`"),
    code("schema_mismatch", 400, "the Arrow stream's columns are not the source's"),
    code("store_failed", 500, "the online store refused a write; the server's log has the reason"),
    code(
        "store_lost",
        503,
        "the online store lost rows and is being brought back; what was pushed is in the log and will be applied: push again \
         after `Retry-After`, with the same ids",
    ),
    code("lake_failed", 500, "the history could not be read or written; the server's log has the reason"),
    code("log_corrupt", 500, "stored rows of the push log fail their checksum"),
    code("log_failed", 503, "the log could not be written; nothing of the batch is acknowledged"),
    code("shutting_down", 503, "the server is stopping; try another or again"),
    // Jobs.
    code("unknown_job", 404, "no job of this id; the newest jobs are kept"),
    code("job_running", 409, "a job is running; one runs at a time"),
    code("nothing_applied", 409, "no definitions are applied yet; run `springhouse apply`"),
    // Definitions.
    code("definitions_wrong", 400, "the definition files have mistakes; the message has each with its line"),
    code("breaking_changes", 409, "the definitions break callers or what is stored; nothing was applied"),
    code("registry_conflict", 409, "somebody else applied definitions in the meantime; plan again"),
    // Training sets.
    code("labels_empty", 400, "there is no label row"),
    code("labels_missing_at_column", 400, "the labels' column with the moment asked for can't be told"),
    code("labels_missing_key", 400, "the labels lack a column with an entity key"),
    code("labels_missing_field", 400, "the labels lack a column with a required request field"),
    code("labels_wrong_type", 400, "a label column has another type than declared"),
    code("labels_column_taken", 400, "a label column has the name of a feature"),
    code("labels_bad_time", 400, "a label's moment is null or out of range"),
    code("labels_unreadable", 400, "the label rows can't be read"),
    code("naive_timestamp", 400, "the labels' moments carry no time zone and none is given"),
    code("ambiguous_local_time", 400, "a local time exists twice or never in its zone"),
    code("unknown_time_zone", 400, "there is no time zone of this name"),
    code("source_not_found", 409, "the history of a source is not where the definition says"),
    code("source_changed", 409, "a file of a source was changed while it was read; run it again"),
    // The server.
    code("not_ready", 503, "the server is starting, stopping, or too far behind"),
    code(INTERNAL, 500, "the server's own fault; its log has the reason under the trace id"),
];

/// The HTTP status of a code. The one place where codes become statuses.
pub fn http_status(code: &str) -> u16 {
    ERROR_CODES.iter().find(|known| known.code == code).map_or(500, |known| known.status)
}

/// An error on its way to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// One of [`ERROR_CODES`].
    pub code: &'static str,
    /// For people.
    pub message: Cow<'static, str>,
    /// What to do.
    pub hint: Option<Cow<'static, str>>,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        debug_assert!(ERROR_CODES.iter().any(|known| known.code == code), "`{code}` is not in ERROR_CODES");
        Self { code, message: message.into(), hint: None }
    }

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a part of Springhouse says, as far as the outside may hear it: known codes with their message, everything
    /// else as [`INTERNAL`] without a word of the original (it may hold paths or values).
    pub fn from_part(code: &str, message: &str, hint: Option<&str>) -> Self {
        match ERROR_CODES.iter().find(|known| known.code == code && known.status != 500) {
            Some(known) => Self {
                code: known.code,
                message: message.to_owned().into(),
                hint: hint.map(|hint| hint.to_owned().into()),
            },
            None => Self::internal_as(code),
        }
    }

    /// The server's own fault.
    pub fn internal() -> Self {
        Self::internal_as(INTERNAL)
    }

    // A known code of status 500 keeps its name (monitors branch on it) but says nothing of its own.
    fn internal_as(code: &str) -> Self {
        let known = ERROR_CODES.iter().find(|known| known.code == code);
        match known {
            Some(known) if known.code != INTERNAL => Self::new(known.code, known.meaning),
            _ => Self::new(INTERNAL, "the server could not answer because of a fault of its own")
                .hint("the server's log has the reason under this trace id"),
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        http_status(self.code)
    }

    /// The body that goes out.
    pub fn body(&self, trace_id: Option<String>) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                code: self.code.to_owned(),
                message: self.message.clone().into_owned(),
                hint: self.hint.as_ref().map(|hint| hint.clone().into_owned()),
                trace_id,
            },
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    /// Stable; branch on this.
    pub code: String,
    /// For people; may change.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The id of this request in the server's log; also in the `x-trace-id` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_is_listed_once_and_has_an_error_status() {
        let names: BTreeSet<_> = ERROR_CODES.iter().map(|c| c.code).collect();
        assert_eq!(names.len(), ERROR_CODES.len());
        assert!(ERROR_CODES.iter().all(|c| (400..600).contains(&c.status)));
        assert_eq!(http_status("no such code"), 500);
    }

    #[test]
    fn an_unknown_fault_says_nothing_of_its_own() {
        let error = ApiError::from_part("disk_on_fire", "/secret/path holds 4111", Some("look into /secret"));
        assert_eq!(error.code, INTERNAL);
        assert!(!format!("{error:?}").contains("secret"));
        let corrupt = ApiError::from_part("store_corrupt", "/secret/data.mdb", None);
        assert_eq!((corrupt.code, corrupt.status()), ("store_corrupt", 500));
        assert!(!format!("{corrupt:?}").contains("secret"));
        let known = ApiError::from_part("unknown_service", "no service `x`", Some("there is `y`"));
        assert_eq!((known.status(), &*known.message), (404, "no service `x`"));
    }
}
