//! The gRPC contract on the same socket: each method's body is read, bounded and timed as every other body, and its errors
//! are the same. Health and reflection are the standard services.

use super::push::Intent;
use super::{features, health, push};
use crate::app::{App, GrpcMethod, Routed, is_grpc};
use crate::body;
use crate::problem::from_serving;
use crate::trace::Notes;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any_service, post};
use futures::stream::{self, Stream};
use hyper::body::Frame;
use springhouse_api::grpc::v1;
use springhouse_api::{ApiError, arrow_batches, batch_key, grpc};
use springhouse_ingest::{PushOutcome, PushRequest, PushRows, RowOutcome};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Status;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::{Service, ServiceExt};

pub(super) fn router(app: &Arc<App>) -> Router {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(grpc::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("the descriptor sets are part of the program");
    // What `grpcurl` of some distributions still asks.
    let v1alpha = reflection().build_v1alpha().expect("the descriptor sets are part of the program");
    let health = HealthServer::new(NodeHealth(app.clone()));
    Router::new()
        .route(grpc::GET_FEATURES, post(method(app.clone(), GrpcMethod::GetFeatures, get_features)))
        .route(grpc::PUSH, post(method(app.clone(), GrpcMethod::Push, push_rows)))
        .route_service("/grpc.health.v1.Health/{method}", any_service(named(GrpcMethod::Health, health)))
        .route_service(
            "/grpc.reflection.v1.ServerReflection/{method}",
            any_service(named(GrpcMethod::Reflection, v1)),
        )
        .route_service(
            "/grpc.reflection.v1alpha.ServerReflection/{method}",
            any_service(named(GrpcMethod::Reflection, v1alpha)),
        )
}

type Replying = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A method of our own: a message in, a framed message out, or an error.
fn method<H, F>(app: Arc<App>, name: GrpcMethod, handler: H) -> impl Fn(Request) -> Replying + Clone + Send
where
    H: Fn(Arc<App>, Request) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Vec<u8>, ApiError>> + Send,
{
    move |request| {
        let (app, handler) = (app.clone(), handler.clone());
        Box::pin(async move {
            let answer = match expect_grpc(request.headers()) {
                Ok(()) => handler(app, request).await,
                Err(error) => Err(error),
            };
            let mut response = answer.map_or_else(super::refused, reply);
            response.extensions_mut().insert(Routed::Grpc(name));
            response
        })
    }
}

fn expect_grpc(headers: &HeaderMap) -> Result<(), ApiError> {
    if is_grpc(headers) {
        return Ok(());
    }
    Err(ApiError::new("unsupported_content_type", "this path takes `application/grpc`")
        .hint("call it with a gRPC client, or use the HTTP paths of /openapi.json"))
}

/// `GetFeatures` where the router is not asked.
pub(super) async fn features(app: Arc<App>, request: Request) -> super::Answer {
    expect_grpc(request.headers())?;
    Ok(reply(get_features(app, request).await?))
}

/// A standard service under our name in metrics.
fn named<S>(
    name: GrpcMethod,
    service: S,
) -> impl Service<
    Request,
    Response = Response,
    Error = Infallible,
    Future = impl Future<Output = Result<Response, Infallible>> + Send,
> + Clone
+ Send
+ Sync
+ 'static
where
    S: Service<Request, Response = axum::http::Response<tonic::body::Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    service.map_response(move |response: axum::http::Response<tonic::body::Body>| {
        let mut response = response.map(Body::new).into_response();
        response.extensions_mut().insert(Routed::Grpc(name));
        response
    })
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A message, then the word that all went well.
enum Reply {
    Message(Bytes),
    Status,
    Ended,
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(match std::mem::replace(&mut *self, Self::Ended) {
            Self::Message(message) => {
                *self = Self::Status;
                Some(Ok(Frame::data(message)))
            }
            Self::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Self::Ended => None,
        })
    }
}

fn reply(framed: Vec<u8>) -> Response {
    let mut response = Response::new(Body::new(Reply::Message(framed.into())));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

async fn get_features(app: Arc<App>, request: Request) -> Result<Vec<u8>, ApiError> {
    let deadline = deadline(request.headers())?;
    let notes = request.extensions().get::<Notes>().cloned();
    let bytes = body::read(request, app.settings.body_bytes_max, &app.settings).await?;
    let message = grpc::unframe(&bytes)?;
    let serving = app.node.serving();
    let asked = grpc::features_request(message, deadline, |selection| {
        serving.signature(selection).map_err(from_serving)
    })?;
    let rows = asked.request.entities.values().next().map_or(1, Vec::len);
    let answering = async move {
        let answer = features::answer(&app, asked.request, notes).await?;
        Ok(grpc::framed_answer(&answer, asked.detail))
    };
    if rows <= SMALL_ROWS {
        return answering.await;
    }
    // Calls on one connection share its task; one that takes long goes beside it, where another core may answer it.
    match tokio::spawn(answering).await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(ApiError::internal()),
    }
}

/// A call for no more rows is answered by its connection's task.
const SMALL_ROWS: usize = 4;

fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(grpc::timeout);
    let wrong = || ApiError::new("invalid_request", "`grpc-timeout` is not up to eight digits and a unit");
    timeout.map(Some).ok_or_else(wrong)
}

async fn push_rows(app: Arc<App>, request: Request) -> Result<Vec<u8>, ApiError> {
    let rows = async {
        let bytes = body::read(request, app.settings.push_body_bytes_max, &app.settings).await?;
        push_request(grpc::unframe(&bytes)?)
    };
    Ok(grpc::frame(&push_response(push::measured(&app, rows).await?)))
}

fn push_request(message: v1::PushRequest) -> Result<(PushRequest, Intent), ApiError> {
    let key = (!message.idempotency_key.is_empty()).then_some(message.idempotency_key.as_str());
    let mut push = match message.rows {
        Some(v1::push_request::Rows::Json(json)) => push::json_push(message.source, &json.into(), key)?,
        Some(v1::push_request::Rows::Arrow(stream)) => PushRequest {
            source: message.source,
            rows: PushRows::Arrow(arrow_batches(&stream)?),
            idempotency_key: batch_key(key, None)?,
            row_keys: None,
            backfill: false,
        },
        None => return Err(ApiError::new("invalid_request", "neither `json` nor `arrow` is given")),
    };
    push.backfill |= message.backfill;
    Ok((push, if message.dry_run { Intent::Check } else { Intent::Push }))
}

fn push_response(outcome: PushOutcome) -> v1::PushResponse {
    let exception = |(row, outcome): (usize, RowOutcome)| {
        let row = row as u64;
        match outcome {
            RowOutcome::Accepted => None,
            RowOutcome::Duplicate => Some(v1::RowException { row, duplicate: true, ..Default::default() }),
            RowOutcome::Refused { code, reason } => {
                Some(v1::RowException { row, duplicate: false, code: code.to_owned(), reason })
            }
        }
    };
    v1::PushResponse {
        accepted: outcome.accepted as u64,
        duplicates: outcome.duplicates as u64,
        refused: outcome.refused as u64,
        exceptions: outcome.exceptions.into_iter().filter_map(exception).collect(),
        end_offset: outcome.end_offset,
        known_at_us: outcome.known_at,
    }
}

/// How often a watched health is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The service that `grpc.health.v1.Health` may be asked about, beside `""` for the whole server.
const SERVICE: &str = "springhouse.v1.FeatureStore";

/// `/ready` as gRPC has it.
struct NodeHealth(Arc<App>);

async fn serving_status(app: &Arc<App>) -> ServingStatus {
    if health::readiness(app).await.ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn health_answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

#[tonic::async_trait]
impl Health for NodeHealth {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        if !["", SERVICE].contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("the server has no such service"));
        }
        Ok(tonic::Response::new(health_answer(serving_status(&self.0).await)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let known = ["", SERVICE].contains(&request.get_ref().service.as_str());
        let changes = stream::unfold((self.0.clone(), None), move |(app, told)| async move {
            loop {
                let status = if known { serving_status(&app).await } else { ServingStatus::Unknown };
                if told != Some(status) {
                    return Some((Ok(watched(status, known)), (app, Some(status))));
                }
                // What watches must not keep a stopping server from stopping.
                if app.is_draining() {
                    return None;
                }
                tokio::time::sleep(WATCH_INTERVAL).await;
            }
        });
        Ok(tonic::Response::new(Box::pin(changes)))
    }
}

/// The protocol has a word of its own for watching a service that is not there.
fn watched(status: ServingStatus, known: bool) -> HealthCheckResponse {
    const SERVICE_UNKNOWN: i32 = 3;
    if known { health_answer(status) } else { HealthCheckResponse { status: SERVICE_UNKNOWN } }
}
