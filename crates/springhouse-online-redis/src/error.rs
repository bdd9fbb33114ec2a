//! From what went wrong to what the caller can do about it.

use redis::{ErrorKind, RedisError, ServerErrorKind};
use springhouse_online::{StoreError, StoreErrorKind};

const STORE: &str = "redis";

pub(crate) fn failed(kind: StoreErrorKind, action: &'static str, detail: impl Into<String>) -> StoreError {
    StoreError { kind, action, store: STORE, detail: detail.into() }
}

pub(crate) fn invalid(action: &'static str, detail: impl Into<String>) -> StoreError {
    failed(StoreErrorKind::Invalid, action, detail)
}

pub(crate) fn corrupt(action: &'static str, detail: impl Into<String>) -> StoreError {
    failed(StoreErrorKind::Corrupt, action, detail)
}

pub(crate) fn unavailable(action: &'static str, detail: impl Into<String>) -> StoreError {
    failed(StoreErrorKind::Unavailable, action, detail)
}

pub(crate) fn lost(action: &'static str, detail: impl Into<String>) -> StoreError {
    failed(StoreErrorKind::Lost, action, detail)
}

pub(crate) fn timed_out(action: &'static str, after: std::time::Duration) -> StoreError {
    unavailable(action, format!("no answer within {} ms", after.as_millis()))
}

/// A key of ours with another program's content.
pub(crate) fn foreign(action: &'static str) -> StoreError {
    corrupt(
        action,
        "another program has written the store's meta key; give the project a `key_prefix` of its own",
    )
}

/// What came back is not what the command answers.
pub(crate) fn unexpected(action: &'static str, what: &str) -> StoreError {
    corrupt(
        action,
        format!("the server's answer has another shape than {what}; is it a Redis or Valkey server?"),
    )
}

/// What the server or the connection says, as a store error.
pub(crate) fn from_redis(action: &'static str, error: &RedisError) -> StoreError {
    match error.kind() {
        ErrorKind::AuthenticationFailed => unavailable(
            action,
            format!(
                "the server refuses the user or the password ({error}); check `username`, `password_env` or `password_file`"
            ),
        ),
        ErrorKind::InvalidClientConfig | ErrorKind::EmptySentinelList => invalid(action, error.to_string()),
        ErrorKind::MasterNameNotFoundBySentinel => unavailable(
            action,
            format!(
                "no Sentinel knows a primary of that name, or none answers ({error}); check `sentinel_primary` and `urls`"
            ),
        ),
        ErrorKind::Server(ServerErrorKind::NoPerm) => invalid(
            action,
            format!(
                "the user may not do that ({error}); it needs the commands named in the documentation on the keys of `key_prefix`"
            ),
        ),
        ErrorKind::UnexpectedReturnType => {
            corrupt(action, format!("the server's answer can't be read: {error}"))
        }
        // A connection that ends in the middle of an answer gives this too, so it says nothing about what is stored.
        ErrorKind::Parse => unavailable(
            action,
            format!(
                "the server's answer ends early or can't be read ({error}); is it a Redis or Valkey server?"
            ),
        ),
        _ if error.code() == Some("OOM") => unavailable(
            action,
            "the server's memory is full (`maxmemory`); nothing is lost, give it more and writing goes on",
        ),
        _ if matches!(error.code(), Some("WRONGPASS" | "NOAUTH")) => unavailable(
            action,
            format!(
                "the server refuses the user or the password ({error}); check `username`, `password_env` or `password_file`"
            ),
        ),
        _ if error.code() == Some("WRONGTYPE") => corrupt(
            action,
            format!(
                "a key holds something else than this program writes ({error}); give the project a `key_prefix` of its own"
            ),
        ),
        _ => unavailable(action, error.to_string()),
    }
}

/// True when the connection can't be used any more, or leads to a server that is no primary now.
pub(crate) fn ends_connection(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) | ErrorKind::Parse
        )
}
