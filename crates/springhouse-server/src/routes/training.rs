//! `POST /v1/admin/training-sets/{service}`: labels in, the training set out, both as Arrow streams.

use super::{Answer, last_segment};
use crate::app::App;
use crate::body;
use crate::peer::check_admin;
use crate::problem::{from_node, from_part};
use arrow::array::RecordBatchReader;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use springhouse_api::{ARROW_STREAM, ApiError, MANIFEST_KEY, parse_query};
use springhouse_lake::{Availability, LakeError, Progress, read_training_set, write_labels};
use springhouse_node::TrainingOrder;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

/// Nobody sees how far it is: the answer is the training set itself.
struct Unseen;

impl Progress for Unseen {
    fn report(&self, _stage: &'static str, _done: u64, _total: u64) {}
}

pub(super) async fn training_set(app: Arc<App>, request: Request) -> Answer {
    check_admin(&request, app.settings.admin_remote)?;
    if body::media_type(request.headers()).as_deref() != Some(ARROW_STREAM) {
        return Err(ApiError::new("unsupported_content_type", format!("this path takes `{ARROW_STREAM}`"))
            .hint("send the labels as an Arrow IPC stream"));
    }
    let folder = tempfile::tempdir().map_err(|error| {
        tracing::error!(error = %error, "a folder for a training set can't be made");
        ApiError::new("lake_failed", "the training set has no place to be made in")
    })?;
    let order = order(&request, last_segment(&request)?, folder.path())?;
    // One at a time: each may take the whole memory budget.
    let Ok(_turn) = app.training.try_lock() else {
        return Err(ApiError::new("job_running", "another training set is being made")
            .hint("try again when it is done"));
    };
    let bytes = body::read(request, app.settings.push_body_bytes_max, &app.settings).await?;
    let (labels, out) = (order.labels.clone(), order.out.clone());
    blocking(move || store_labels(&labels, bytes)).await?;
    let made = app.node.training_set(order, &Unseen).await.map_err(from_node)?;
    let answer = blocking(move || encode(&out, &made.manifest.to_string())).await?;
    let mut response = Response::new(Body::from(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(ARROW_STREAM));
    Ok(response)
}

fn order(request: &Request, service: String, folder: &Path) -> Result<TrainingOrder, ApiError> {
    let mut order = TrainingOrder {
        service,
        labels: folder.join("labels.parquet"),
        labels_name: Some("table".to_owned()),
        out: folder.join("training.parquet"),
        at_column: None,
        time_zone: None,
        availability: Availability::Known,
        memory_budget: None,
    };
    for pair in parse_query(request.uri().query().unwrap_or_default())? {
        match (pair.name.as_str(), pair.value.as_str()) {
            ("at_column", _) => order.at_column = Some(pair.value),
            ("time_zone", _) => order.time_zone = Some(pair.value),
            ("availability", "known") => order.availability = Availability::Known,
            ("availability", "event") => order.availability = Availability::Event,
            ("availability", _) => {
                return Err(ApiError::new("invalid_query", "`availability` is `known` or `event`"));
            }
            (name, _) => {
                return Err(ApiError::new(
                    "invalid_query",
                    format!("there is no query parameter `{name}` here"),
                )
                .hint("there are `at_column`, `time_zone` and `availability`"));
            }
        }
    }
    Ok(order)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ApiError::new("shutting_down", "the server is stopping")),
        },
    }
}

fn store_labels(path: &Path, bytes: Bytes) -> Result<(), ApiError> {
    let malformed = |error: arrow::error::ArrowError| {
        ApiError::new("malformed_body", format!("the body is no Arrow IPC stream: {error}"))
            .hint("write it with a stream writer (not a file writer) and finish it")
    };
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(malformed)?;
    let rows: &mut dyn RecordBatchReader = &mut reader;
    write_labels(path, rows).map_err(from_lake)?;
    Ok(())
}

/// The training set as a stream whose schema carries the manifest.
fn encode(path: &Path, manifest: &str) -> Result<Vec<u8>, ApiError> {
    let (schema, batches) = read_training_set(path).map_err(from_lake)?;
    let mut metadata = schema.metadata().clone();
    metadata.insert(MANIFEST_KEY.to_owned(), manifest.to_owned());
    let schema = schema.as_ref().clone().with_metadata(metadata);
    let mut bytes = Vec::new();
    let failed = |error: arrow::error::ArrowError| {
        tracing::error!(error = %error, "a training set can't be written as a stream");
        ApiError::internal()
    };
    let mut writer = StreamWriter::try_new(&mut bytes, &schema).map_err(failed)?;
    for batch in &batches {
        writer.write(batch).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    drop(writer);
    Ok(bytes)
}

fn from_lake(error: LakeError) -> ApiError {
    from_part(error.code, &error.message, error.hint.as_deref())
}
