//! What all requests share, and the way of one request: name it, route it, catch what goes wrong, measure it.

use crate::grpc_status;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::problem;
use crate::routes;
use crate::served_log::ServedLog;
use crate::settings::ServerSettings;
use crate::trace::{FinishedRequest, Notes, RequestTracer, TraceIds};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use axum::{BoxError, Router};
use futures::FutureExt;
use springhouse_api::{ApiError, ROUTES, RouteName, http_status};
use springhouse_node::Node;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Instant;
use tower::Service;

/// The header that names the trace of an answer.
const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) node: Arc<Node>,
    pub(crate) settings: ServerSettings,
    pub(crate) metrics: Metrics,
    pub(crate) jobs: Arc<Jobs>,
    /// Held while a training set is being made.
    pub(crate) training: tokio::sync::Mutex<()>,
    /// The OpenAPI document, made when it is first asked for.
    pub(crate) document: LazyLock<Vec<u8>>,
    /// Set when the server was told to stop.
    draining: AtomicBool,
    traces: TraceIds,
    tracer: Option<Arc<dyn RequestTracer>>,
    /// Set where answers are logged.
    pub(crate) served_log: OnceLock<ServedLog>,
}

/// Left on a response by the route that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routed {
    Http(RouteName),
    Grpc(GrpcMethod),
}

/// What gRPC offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcMethod {
    GetFeatures,
    Push,
    Health,
    Reflection,
}

impl Routed {
    /// How many there are.
    pub(crate) const COUNT: usize = ROUTES.len() + 4;

    /// Below [`Self::COUNT`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Http(route) => route as usize,
            Self::Grpc(method) => ROUTES.len() + method as usize,
        }
    }

    /// Its name in metrics and logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Http(route) => route.label(),
            Self::Grpc(GrpcMethod::GetFeatures) => "grpc_get_features",
            Self::Grpc(GrpcMethod::Push) => "grpc_push",
            Self::Grpc(GrpcMethod::Health) => "grpc_health",
            Self::Grpc(GrpcMethod::Reflection) => "grpc_reflection",
        }
    }
}

/// True for requests of gRPC clients: `application/grpc`, with or without the name of an encoding.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// Left on an empty response by whoever refused a request; becomes the body where the trace id is known.
#[derive(Clone)]
pub(crate) struct Refused(pub(crate) ApiError);

impl App {
    pub(crate) fn new(
        node: Arc<Node>,
        settings: ServerSettings,
        tracer: Option<Arc<dyn RequestTracer>>,
    ) -> Self {
        Self {
            node,
            settings,
            metrics: Metrics::new(),
            jobs: Arc::default(),
            training: tokio::sync::Mutex::default(),
            document: LazyLock::new(|| {
                serde_json::to_vec(&springhouse_api::openapi()).expect("a JSON tree always becomes text")
            }),
            draining: AtomicBool::new(false),
            traces: TraceIds::new(),
            tracer,
            served_log: OnceLock::new(),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Answers one request, whatever happens.
    pub(crate) async fn answer<B>(
        self: &Arc<Self>,
        mut router: Router,
        request: Request<B>,
        peer: SocketAddr,
    ) -> Response
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let started = Instant::now();
        let context = self.traces.of(request.headers());
        let trace_id = context.id.as_str();
        let tracer = self.tracer.as_ref().filter(|tracer| tracer.wants(&context));
        let served_log = self.served_log.get().filter(|_| context.is_in(self.settings.served_log_ratio));
        let notes = (tracer.is_some() || served_log.is_some()).then(|| Notes::new(served_log.is_some()));
        let grpc = is_grpc(request.headers());
        let too_large = headers_bytes(request.headers()) > self.settings.header_bytes_max;
        let mut request = request;
        if let Some(notes) = &notes {
            request.extensions_mut().insert(notes.clone());
        }
        let mut route = None;
        let answered = if too_large {
            let message = format!("the headers are larger than {} bytes", self.settings.header_bytes_max);
            Ok(Err(ApiError::new("headers_too_large", message)))
        } else if let Some(hot) = routes::hot(&request) {
            route = Some(hot);
            caught(routes::answer_hot(self, hot, request.map(Body::new))).await
        } else {
            request.extensions_mut().insert(Peer(peer));
            caught(router.call(request)).await.map(|Ok(mut response)| {
                route = response.extensions().get().copied();
                response.extensions_mut().remove().map_or(Ok(response), |Refused(error)| Err(error))
            })
        };
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => self.refuse(&error, trace_id, grpc),
            Err(panic) => {
                self.metrics.panics.inc();
                tracing::error!(trace_id, panic, "a request's handler panicked");
                self.refuse(&ApiError::internal(), trace_id, grpc)
            }
        };
        let status = meant_status(&response);
        if status >= 500 {
            let route = route.map_or("unknown", Routed::label);
            tracing::warn!(trace_id, route, status, "a request failed");
        }
        if let Ok(mut value) = HeaderValue::from_str(trace_id) {
            // HTTP/2 must not remember it for later answers: each has its own.
            value.set_sensitive(true);
            response.headers_mut().insert(TRACE_ID, value);
        }
        let took = started.elapsed();
        self.metrics.request(route, status, took);
        let noted = notes.map(|notes| notes.taken()).unwrap_or_default();
        if let (Some(log), Some(served)) = (served_log, noted.served) {
            log.offer(trace_id, served);
        }
        if let Some(tracer) = tracer {
            let (stages, rows) = (noted.stages, noted.rows);
            let route = route.map_or("unknown", Routed::label);
            tracer.finished(&FinishedRequest {
                context: &context,
                route,
                began: started,
                took,
                status,
                stages,
                rows,
            });
        }
        response
    }

    fn refuse(&self, error: &ApiError, trace_id: &str, grpc: bool) -> Response {
        if grpc {
            let retry_after_ms = self.settings.retry_after_s.saturating_mul(1000);
            return grpc_status::status(error, retry_after_ms).into_http();
        }
        problem::respond(error, trace_id, self.settings.retry_after_s)
    }
}

/// The router over `app`.
pub(crate) fn router(app: &Arc<App>) -> Router {
    routes::router(app.clone())
}

/// The HTTP status that an answer means: gRPC sends 200 with everything and says what it means in a status of its own.
fn meant_status(response: &Response) -> u16 {
    let Some(status) = response.extensions().get::<tonic::Status>() else {
        return response.status().as_u16();
    };
    match status.metadata().get(springhouse_api::grpc::CODE) {
        Some(code) => http_status(code.to_str().unwrap_or_default()),
        // Of a standard service.
        None if status.code() == tonic::Code::Ok => 200,
        None => 400,
    }
}

fn headers_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// The answer, or what a panic on the way to it said. What handlers share is either immutable or guarded by locks that
/// the panic leaves in order, so going on is safe.
async fn caught<T>(answer: impl Future<Output = T>) -> Result<T, String> {
    let answered = AssertUnwindSafe(answer).catch_unwind().await;
    answered.map_err(|panic| panic_text(panic.as_ref()).to_owned())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;

    #[tokio::test]
    async fn a_panic_in_a_handler_is_caught_and_the_next_request_answered() {
        async fn broken() -> Response {
            panic!("the handler's own words")
        }
        let mut router = Router::new().route("/broken", get(broken)).route("/fine", get(|| async { "fine" }));
        let request = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
        let said = caught(router.call(request("/broken"))).await.unwrap_err();
        assert_eq!(said, "the handler's own words");
        let Ok(fine) = caught(router.call(request("/fine"))).await.unwrap();
        assert_eq!(fine.status(), 200);
    }
}
