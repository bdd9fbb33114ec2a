//! Errors as gRPC has them: a status by kind, our own code beside it.

use springhouse_api::grpc::CODE;
use springhouse_api::{ApiError, http_status};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// An error as a gRPC status: the message with its hint, the code in the metadata [`CODE`], and `retry_after_ms` as pushback
/// for clients that repeat calls, where repeating may help.
pub(crate) fn status(error: &ApiError, retry_after_ms: u64) -> Status {
    let message = match &error.hint {
        Some(hint) => format!("{} ({hint})", error.message),
        None => error.message.clone().into_owned(),
    };
    let mut metadata = MetadataMap::new();
    metadata.insert(CODE, MetadataValue::from_static(error.code));
    if error.status() == 429
        && let Ok(value) = retry_after_ms.to_string().parse()
    {
        metadata.insert("grpc-retry-pushback-ms", value);
    }
    Status::with_metadata(grpc_code(error.code), message, metadata)
}

fn grpc_code(code: &str) -> Code {
    match (code, http_status(code)) {
        ("unknown_route" | "method_not_allowed" | "unsupported_content_encoding", _) => Code::Unimplemented,
        // A policy of the service, not a fault of the server: calling again at once does not help.
        ("stale_refused" | "expired_refused" | "missing_refused", _) => Code::FailedPrecondition,
        (_, 403) => Code::PermissionDenied,
        (_, 404) => Code::NotFound,
        (_, 408 | 504) => Code::DeadlineExceeded,
        (_, 409) => Code::FailedPrecondition,
        (_, 429) => Code::ResourceExhausted,
        (_, 503) => Code::Unavailable,
        (_, 400..500) => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_a_status_by_kind_and_its_own_code() {
        let said = status(&ApiError::new("shed", "too much").hint("later"), 1500);
        assert_eq!((said.code(), said.message()), (Code::ResourceExhausted, "too much (later)"));
        assert_eq!(said.metadata().get(CODE).unwrap(), "shed");
        assert_eq!(said.metadata().get("grpc-retry-pushback-ms").unwrap(), "1500");
        let codes = [
            ("wrong_type", Code::InvalidArgument),
            ("too_large", Code::InvalidArgument),
            ("unknown_service", Code::NotFound),
            ("unknown_route", Code::Unimplemented),
            ("denied", Code::PermissionDenied),
            ("deadline_exceeded", Code::DeadlineExceeded),
            ("missing_refused", Code::FailedPrecondition),
            ("store_unavailable", Code::Unavailable),
            ("store_corrupt", Code::Internal),
        ];
        for (code, expected) in codes {
            let said = status(&ApiError::new(code, "x"), 1);
            assert_eq!(said.code(), expected, "{code}");
            assert!(said.metadata().get("grpc-retry-pushback-ms").is_none());
        }
    }
}
