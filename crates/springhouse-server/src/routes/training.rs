//! `POST /v1/admin/training-sets/{service}`: labels in, the training set out, both as Arrow streams.

use super::{Answer, last_segment};
use crate::app::App;
use crate::body;
use crate::peer::check_admin;
use crate::problem::{from_node, from_part};
use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use springhouse_api::{ARROW_STREAM, ApiError, MANIFEST_KEY, parse_query};
use springhouse_lake::{
    Availability, CollectedBatches, LabelRows, LakeError, Progress, Sample, SampleSize, TrainingOutput,
};
use springhouse_node::TrainingOrder;
use std::io::Cursor;
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
    let asked = Asked::parse(&request, &last_segment(&request)?)?;
    // One at a time: each may take the whole memory budget.
    let Ok(_turn) = app.training.try_lock() else {
        return Err(ApiError::new("job_running", "another training set is being made")
            .hint("try again when it is done"));
    };
    let bytes = body::read(request, app.settings.push_body_bytes_max, &app.settings).await?;
    let labels = blocking(move || label_rows(bytes)).await?;
    let collected = CollectedBatches::default();
    let out = TrainingOutput::Batches(&collected);
    let made = app.node.training_set(asked.order(labels), out, &Unseen).await.map_err(from_node)?;
    let answer = blocking(move || encode(&collected.into_batches(), &made.manifest.to_string())).await?;
    let mut response = Response::new(Body::from(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(ARROW_STREAM));
    Ok(response)
}

/// What the path and the query ask for.
#[derive(Default)]
struct Asked {
    services: Vec<String>,
    features: Vec<String>,
    at_column: Option<String>,
    time_zone: Option<String>,
    sample: Option<SampleSize>,
    seed: u64,
    availability: Availability,
}

impl Asked {
    fn parse(request: &Request, services: &str) -> Result<Self, ApiError> {
        let list =
            |text: &str| -> Vec<String> { text.split(',').map(|item| item.trim().to_owned()).collect() };
        let mut asked = Self { services: list(services), ..Self::default() };
        let invalid = |message: String| ApiError::new("invalid_query", message);
        for pair in parse_query(request.uri().query().unwrap_or_default())? {
            match (pair.name.as_str(), pair.value.as_str()) {
                ("at_column", _) => asked.at_column = Some(pair.value),
                ("time_zone", _) => asked.time_zone = Some(pair.value),
                ("availability", "known") => asked.availability = Availability::Known,
                ("availability", "event") => asked.availability = Availability::Event,
                ("availability", _) => {
                    return Err(invalid("`availability` is `known` or `event`".to_owned()));
                }
                ("features", features) => asked.features = list(features),
                ("sample", size) => {
                    let size = size.parse().map_err(|why: String| invalid(format!("`sample`: {why}")))?;
                    asked.sample = Some(size);
                }
                ("seed", seed) => {
                    asked.seed = seed.parse().map_err(|_| invalid("`seed` is a whole number".to_owned()))?;
                }
                (name, _) => {
                    return Err(invalid(format!("there is no query parameter `{name}` here")).hint(
                        "there are `features`, `at_column`, `time_zone`, `availability`, `sample` and `seed`",
                    ));
                }
            }
        }
        Ok(asked)
    }

    fn order(self, labels: LabelRows) -> TrainingOrder {
        TrainingOrder {
            services: self.services,
            features: self.features,
            at_column: self.at_column,
            time_zone: self.time_zone,
            sample: self.sample.map(|size| Sample { size, seed: self.seed }),
            availability: self.availability,
            ..TrainingOrder::new("", labels)
        }
    }
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

fn label_rows(bytes: Bytes) -> Result<LabelRows, ApiError> {
    let malformed = |error: arrow::error::ArrowError| {
        ApiError::new("malformed_body", format!("the body is no Arrow IPC stream: {error}"))
            .hint("write it with a stream writer (not a file writer) and finish it")
    };
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(malformed)?;
    let rows: &mut dyn RecordBatchReader = &mut reader;
    LabelRows::read(rows).map_err(from_lake)
}

/// The training set as a stream whose schema carries the manifest.
fn encode(batches: &[RecordBatch], manifest: &str) -> Result<Vec<u8>, ApiError> {
    let first = batches.first().ok_or_else(ApiError::internal)?;
    let schema = first.schema();
    let mut metadata = schema.metadata().clone();
    metadata.insert(MANIFEST_KEY.to_owned(), manifest.to_owned());
    let schema = schema.as_ref().clone().with_metadata(metadata);
    let mut bytes = Vec::new();
    let failed = |error: arrow::error::ArrowError| {
        tracing::error!(error = %error, "a training set can't be written as a stream");
        ApiError::internal()
    };
    let mut writer = StreamWriter::try_new(&mut bytes, &schema).map_err(failed)?;
    for batch in batches {
        writer.write(batch).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    drop(writer);
    Ok(bytes)
}

fn from_lake(error: LakeError) -> ApiError {
    from_part(error.code, &error.message, error.hint.as_deref())
}
