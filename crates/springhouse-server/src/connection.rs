//! One connection, from its first byte to its last.

use crate::app::App;
use crate::settings::{HEADER_BUFFER_BYTES, ServerSettings};
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
pub(crate) fn builder(settings: &ServerSettings) -> Builder<TokioExecutor> {
    let header_timeout = Duration::from_millis(settings.header_timeout_ms);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BUFFER_BYTES.max(64 << 10))
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_local_error_reset_streams(HTTP2_RESETS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BUFFER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(HTTP2_PING_INTERVAL);
    builder
}

/// Serves until the peer leaves, or until `stop` says so and what is in flight is answered.
pub(crate) async fn serve_connection(
    app: Arc<App>,
    router: Router,
    builder: Arc<Builder<TokioExecutor>>,
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    // Answers are single writes; waiting to fill a packet only adds latency.
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(AtomicBool::new(false));
    let header_timeout = Duration::from_millis(app.settings.header_timeout_ms);
    let service = {
        let asked = asked.clone();
        service_fn(move |request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let (app, router) = (app.clone(), router.clone());
            async move { Ok::<_, Infallible>(app.answer(router, request, peer).await) }
        })
    };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // hyper's header timeout starts only when it knows the protocol; a peer that sends nothing, or half of an HTTP/2
    // preface, must not stay for ever either.
    let mut first_request = pin!(tokio::time::sleep(header_timeout));
    let mut first_request_due = true;
    let mut stopping = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(error = %error, "a connection ended early");
                }
                return;
            }
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
}
