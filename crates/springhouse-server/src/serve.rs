//! From an open node to a served address, and back: accept, stop accepting, drain, close the node.

use crate::app::{App, router};
use crate::connection::serve_connection;
use crate::served_log;
use crate::settings::ServerSettings;
use crate::trace::RequestTracer;
use springhouse_node::{Node, NodeError};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Why the server did not start, or did not end in good order.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The settings contradict themselves; every complaint.
    #[error("the server's settings are wrong: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// The address can't be bound: in use, or not of this machine.
    #[error("can't listen at {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The node could not be closed; what is acknowledged is in its log all the same.
    #[error("the node did not close in good order")]
    Node(#[source] NodeError),
}

/// After an error such as "too many open files", accepting waits this long instead of spinning.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Serves `node` until `shutdown` completes, then drains and closes the node. `on_ready` gets the address bound (with the
/// port chosen, if the settings left it open). `tracer`, if any, is told of requests.
///
/// # Errors
/// [`ServerError`].
pub async fn serve(
    node: Arc<Node>,
    settings: ServerSettings,
    tracer: Option<Arc<dyn RequestTracer>>,
    on_ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let complaints = settings.validate();
    if !complaints.is_empty() {
        return Err(ServerError::Settings(complaints));
    }
    let bind_error = |source| ServerError::Bind { address: settings.bind, source };
    let listener = TcpListener::bind(settings.bind).await.map_err(bind_error)?;
    let address = listener.local_addr().map_err(bind_error)?;
    let app = Arc::new(App::new(node.clone(), settings, tracer));
    let served_log = served_log::begin(&app);
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    on_ready(address);
    tracing::info!(%address, "serving");
    accept(&app, &listener, &mut connections, &stopped, shutdown).await;
    drop(listener);
    // Receivers are the connections; without one there is nobody to tell.
    let _ = stop.send(true);
    drain(&app, &mut connections).await;
    if let Some(served_log) = served_log {
        served_log.end().await;
    }
    tracing::info!("closing the node");
    node.shutdown().await.map_err(ServerError::Node)
}

async fn accept(
    app: &Arc<App>,
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
    stopped: &watch::Receiver<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let router = router(app);
    let slots = Arc::new(Semaphore::new(app.settings.connections_max));
    let drain_delay = Duration::from_millis(app.settings.drain_delay_ms);
    let mut told_to_stop = pin!(async {
        shutdown.await;
        app.drain();
        tracing::info!("stopping: readiness is off");
        tokio::time::sleep(drain_delay).await;
    });
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = told_to_stop.as_mut() => return,
            // Tasks that ended are let go as we go.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (slot, accepted) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let (app, router) = (app.clone(), router.clone());
                    let stopped = stopped.clone();
                    connections.spawn(async move {
                        let _slot = slot;
                        let _open = Open::new(&app);
                        serve_connection(app.clone(), router, stream, peer, stopped).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(error = %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }
}

/// Counts an open connection as long as it lives.
struct Open(Arc<App>);

impl Open {
    fn new(app: &Arc<App>) -> Self {
        app.metrics.connections.inc();
        Self(app.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

/// Waits for the connections to finish, up to the deadline; then they are cut.
async fn drain(app: &App, connections: &mut JoinSet<()>) {
    let deadline = Duration::from_millis(app.settings.drain_timeout_ms);
    let finished = tokio::time::timeout(deadline, async { while connections.join_next().await.is_some() {} });
    if finished.await.is_err() {
        tracing::warn!(connections = connections.len(), "cutting connections that did not finish in time");
        connections.shutdown().await;
    }
}

/// Completes when the process is told to stop: SIGTERM, or SIGINT (Ctrl-C).
///
/// # Errors
/// When the handlers can't be installed.
pub fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
