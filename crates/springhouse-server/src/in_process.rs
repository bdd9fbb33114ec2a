//! The same contract without a socket, for a caller in the same process: a language binding, a test.

use crate::app::{App, router};
use crate::serve::ServerError;
use crate::settings::ServerSettings;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use springhouse_node::Node;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// A node behind the HTTP contract, called directly.
///
/// Every path, limit and error is the one that a client of `springhouse serve` meets, because it is the same router.
#[derive(Clone, Debug)]
pub struct InProcess {
    app: Arc<App>,
    router: Router,
}

impl InProcess {
    /// Puts the contract before an open node.
    ///
    /// # Errors
    /// [`ServerError::Settings`].
    pub fn new(node: Arc<Node>, settings: ServerSettings) -> Result<Self, ServerError> {
        let complaints = settings.validate();
        if !complaints.is_empty() {
            return Err(ServerError::Settings(complaints));
        }
        let app = Arc::new(App::new(node, settings, None));
        Ok(Self { router: router(&app), app })
    }

    /// The node behind it.
    pub fn node(&self) -> &Arc<Node> {
        &self.app.node
    }

    /// Answers one request, whatever happens. The caller counts as this machine.
    pub async fn call(&self, request: Request<Bytes>) -> Response<Bytes> {
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let answer = self.app.answer(self.router.clone(), request.map(Body::from), peer).await;
        let (parts, body) = answer.into_parts();
        // Our own bodies are in memory or read from our own files; one that breaks off is as good as empty, and its
        // length tells.
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Response::from_parts(parts, body)
    }

    /// Flushes, checkpoints, closes the node. Safe to call twice.
    ///
    /// # Errors
    /// What the node says; what is acknowledged is in its log all the same.
    pub async fn close(&self) -> Result<(), ServerError> {
        self.app.drain();
        self.app.node.shutdown().await.map_err(ServerError::Node)
    }
}
