//! One connection, from its first byte to its last.

use crate::app::App;
use crate::in_place::InPlace;
use crate::outbox::Outbox;
use crate::settings::{HEADER_BUFFER_BYTES, ServerSettings};
use axum::Router;
use axum::extract::Request;
use axum::http::Version;
use axum::response::Response;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use springhouse_api::grpc;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Streams of one HTTP/2 connection at once.
const HTTP2_STREAMS_MAX: u32 = 256;
/// Resets that a peer may have us work through before the connection is closed (rapid reset).
const HTTP2_RESETS_MAX: usize = 64;
/// An HTTP/2 peer that does not answer a ping for this long is gone.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);

/// hyper with our limits. (`axum::serve` has no header timeout: a trickled header would hold a connection for ever.)
fn builder(settings: &ServerSettings, calls: Calls) -> Builder<Calls> {
    let header_timeout = Duration::from_millis(settings.header_timeout_ms);
    let mut builder = Builder::new(calls);
    // Without `pipeline_flush`, which copies every body behind its head: the outbox gathers small answers, and large ones go
    // out from where they are.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BUFFER_BYTES.max(64 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_local_error_reset_streams(HTTP2_RESETS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BUFFER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(HTTP2_PING_INTERVAL);
    builder
}

/// The calls of an HTTP/2 connection, run by the connection's own task. Small ones are answered without waiting for
/// anything, and then it costs more to wake another thread for each than to answer it.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Calls {
    fn execute(&self, call: F) {
        self.0.lock().push(Box::pin(call));
    }
}

/// Those that were begun.
#[derive(Default)]
struct Begun(FuturesUnordered<BoxFuture<'static, ()>>);

impl Begun {
    /// Never ready: goes on with the calls that can go on, and with new ones.
    fn poll(&mut self, new: &Calls, context: &mut Context<'_>) -> Poll<Infallible> {
        loop {
            self.0.extend(std::mem::take(&mut *new.0.lock()));
            match self.0.poll_next_unpin(context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Answers one request; what may take long has a task of its own, beside the connection's.
async fn answer(app: Arc<App>, router: Router, request: Request<Incoming>, peer: SocketAddr) -> Response {
    // A connection of HTTP/1 has one request at a time.
    if request.version() != Version::HTTP_2 || request.uri().path() == grpc::GET_FEATURES {
        return app.answer(router, request, peer).await;
    }
    let answered = tokio::spawn(async move { app.answer(router, request, peer).await });
    // Panics are caught within; it only stops with the runtime, when nobody reads the answer.
    answered.await.unwrap_or_default()
}

/// Serves until the peer leaves, or until `stop` says so and what is in flight is answered.
pub(crate) async fn serve_connection(
    app: Arc<App>,
    router: Router,
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    // Answers are single writes; waiting to fill a packet only adds latency.
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(AtomicBool::new(false));
    let header_timeout = Duration::from_millis(app.settings.header_timeout_ms);
    let (calls, mut begun) = (Calls::default(), Begun::default());
    let builder = builder(&app.settings, calls.clone());
    let in_place = Arc::new(InPlace::default());
    let service = {
        let (asked, in_place) = (asked.clone(), in_place.clone());
        service_fn(move |request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            if request.version() == Version::HTTP_2 {
                in_place.begin();
            }
            let (app, router) = (app.clone(), router.clone());
            async move { Ok::<_, Infallible>(answer(app, router, request, peer).await) }
        })
    };
    let outbox = Outbox::new(stream);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(outbox.clone()), service));
    // hyper's header timeout starts only when it knows the protocol; a peer that sends nothing, or half of an HTTP/2
    // preface, must not stay for ever either.
    let mut first_request = pin!(tokio::time::sleep(header_timeout));
    let mut first_request_due = true;
    let mut stopping = false;
    let served = async {
        loop {
            tokio::select! {
                // In this order: the connection brings calls, which are begun at once; what is written by then is sent.
                biased;
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(error = %error, "a connection ended early");
                    }
                    return;
                }
                never = poll_fn(|context| begun.poll(&calls, context)) => match never {},
                never = poll_fn(|context| outbox.send(context)) => match never {},
                () = first_request.as_mut(), if first_request_due => {
                    if !asked.load(Ordering::Relaxed) {
                        return;
                    }
                    first_request_due = false;
                }
                changed = stop.changed(), if !stopping => {
                    stopping = true;
                    if changed.is_err() || *stop.borrow() {
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    };
    in_place.run(served).await
}
