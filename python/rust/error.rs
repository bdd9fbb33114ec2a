//! Errors on their way to Python: one exception with (code, message, hint, mistakes); `springhouse.errors` makes of it
//! the class that a user catches.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use springhouse_lake::LakeError;
use springhouse_node::{Mistakes, NodeError, ProjectError};
use springhouse_server::ServerError;
use std::fmt::Display;

create_exception!(
    _native,
    NativeError,
    PyException,
    "Arguments: code, message, hint or None, mistakes as JSON or None."
);

pub(crate) fn error(code: &str, message: impl Display, hint: Option<&str>) -> PyErr {
    NativeError::new_err((code.to_owned(), message.to_string(), hint.map(str::to_owned), None::<String>))
}

pub(crate) fn from_node(failed: NodeError) -> PyErr {
    error(failed.code, &failed.message, failed.hint.as_deref())
}

pub(crate) fn from_lake(failed: LakeError) -> PyErr {
    error(failed.code, &failed.message, failed.hint.as_deref())
}

pub(crate) fn from_server(failed: ServerError) -> PyErr {
    match failed {
        ServerError::Node(failed) => from_node(failed),
        other => error("server_failed", other, Some("check the section `server` of springhouse.yaml")),
    }
}

pub(crate) fn from_mistakes(mistakes: &Mistakes) -> PyErr {
    let json = serde_json::to_string(&mistakes.0).unwrap_or_default();
    NativeError::new_err(("definitions_wrong", mistakes.to_string(), None::<String>, Some(json)))
}

pub(crate) fn from_project(failed: ProjectError) -> PyErr {
    match failed {
        ProjectError::Mistakes(mistakes) => from_mistakes(&mistakes),
        ProjectError::Node(failed) => from_node(failed),
    }
}
