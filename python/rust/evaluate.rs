//! Features of given rows, for `springhouse.testing`: the bodies are those of the HTTP contract.

use crate::error::{error, from_mistakes, from_node};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use springhouse_api::{ApiError, parse_features, parse_timestamp, write_features};
use springhouse_core::Micros;
use springhouse_ingest::{GivenSource, PushRows};
use springhouse_node::{evaluate as evaluate_rows, load_files};
use springhouse_serving::ServingError;
use std::sync::Arc;

/// The answer to the features request `request` (a body of `POST /v1/features`) at `at`, from JSON rows by source.
#[pyfunction]
pub(crate) fn evaluate<'py>(
    py: Python<'py>,
    files: Vec<(String, String)>,
    rows: Vec<(String, String, Vec<Option<String>>)>,
    at: &str,
    request: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let at = moment(at)?;
    let answer = py.detach(|| {
        let definitions = load_files(&files).map_err(|mistakes| from_mistakes(&mistakes))?.definitions;
        let services = definitions.feature_services.values();
        // A test of one's own features is not for anyone else's eyes.
        let roles: Vec<String> = services.flat_map(|service| service.readers.iter().cloned()).collect();
        let given = |(source, json, known_at): (String, String, Vec<Option<String>>)| {
            let known_at = known_at.iter().map(|text| text.as_deref().map(moment).transpose());
            let rows = PushRows::Json(json.into());
            Ok(GivenSource { source, rows, known_at: known_at.collect::<PyResult<_>>()? })
        };
        let rows = rows.into_iter().map(given).collect::<PyResult<Vec<_>>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| error("internal", format!("the runtime can't start: {e}"), None))?;
        runtime.block_on(async {
            let server = evaluate_rows(Arc::new(definitions), &rows, at).await.map_err(from_node)?;
            let signature = |selection: &_| server.signature(selection).map_err(to_api);
            let mut parsed = parse_features(request.as_bytes(), signature).map_err(from_api)?;
            parsed.request.roles = roles;
            let answer = server.features(&parsed.request).await.map_err(|e| from_api(to_api(e)))?;
            let mut out = Vec::new();
            write_features(&mut out, &answer, &parsed.options);
            Ok::<_, PyErr>(out)
        })
    })?;
    Ok(PyBytes::new(py, &answer))
}

/// References (`view:feature`, as JSON) to the features of these names; a name that several views have gives them all.
#[pyfunction]
pub(crate) fn feature_references(files: Vec<(String, String)>, names: Vec<String>) -> PyResult<String> {
    let definitions = load_files(&files).map_err(|mistakes| from_mistakes(&mistakes))?.definitions;
    let mut found = Vec::new();
    for name in names {
        let before = found.len();
        for view in definitions.feature_views.values() {
            let has = view.features().iter().any(|(feature, _)| *feature == name);
            found.extend(has.then(|| format!("{}:{name}", view.name)));
        }
        for view in definitions.request_views.values() {
            let has = view.features.iter().any(|feature| feature.name == name);
            found.extend(has.then(|| format!("{}:{name}", view.name)));
        }
        if found.len() == before {
            return Err(error("unknown_feature", format!("no view has a feature `{name}`"), None));
        }
    }
    Ok(serde_json::json!(found).to_string())
}

fn moment(text: &str) -> PyResult<Micros> {
    parse_timestamp(text).ok_or_else(|| {
        error("invalid_argument", format!("`{text}` is no RFC 3339 timestamp with an offset"), None)
    })
}

fn to_api(failed: ServingError) -> ApiError {
    ApiError::from_part(failed.code, &failed.message, failed.hint.as_deref())
}

fn from_api(failed: ApiError) -> PyErr {
    error(failed.code, &failed.message, failed.hint.as_deref())
}
